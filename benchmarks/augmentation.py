"""What synthetic trials are worth to a decoder, on a simulated subject.

150 real trials, four added rows for each, all conditions of `brainenc.augmentation_study`, and
ridge adapted from another simulated subject. Run as

    python benchmarks/augmentation.py --out docs/results

Other encoders, each fitted to the real trials and adapted from the other subject, and MindEye:

    python benchmarks/augmentation.py --encoders latent synbrain mind_simulator --decoder mind_eye
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import pandas as pd
from sklearn.base import clone

import brainenc
from brainenc.benchmarking.manifest import versions

ENCODERS = {
    "latent": brainenc.LatentEncoder,
    "synbrain": brainenc.SynBrainEncoder,
    "mind_simulator": brainenc.MindSimulatorEncoder,
}
#: By default ridge in closed form.
DECODERS = {
    "ridge": lambda: None,
    "ridge_decoder": brainenc.RidgeDecoder,
    "mind_eye": brainenc.MindEyeDecoder,
    "mind_reader": brainenc.MindReaderDecoder,
}


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    size = {"n_images": arguments.images, "n_voxels": arguments.voxels}
    data, other = (
        brainenc.datasets.simulate_subject(**size, random_state=subject) for subject in (0, 1)
    )
    encoders = {name: ENCODERS[name]() for name in arguments.encoders}
    tokens, betas = other.truth.tokens, other.zscore_by_session().betas
    adapted = {
        name: clone(encoder).fit(tokens, betas)
        for name, encoder in {"ridge": brainenc.RidgeEncoder(), **encoders}.items()
    }
    result = brainenc.augmentation_study(
        data.zscore_by_session(),
        encoders,
        targets=data.truth.tokens,
        decoder=DECODERS[arguments.decoder](),
        adapted=adapted,
        n_real=arguments.real,
        n_test=arguments.test,
        ratios=(arguments.ratio,),
        replicates=arguments.replicates,
        verbose=True,
    )
    table = in_points(result.table())
    print(table.to_string(index=False), result.report(), sep="\n\n")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(arguments.out / "augmentation_gains.csv", index=False, na_rep="–")
        report = arguments.out / "augmentation_report.txt"
        report.write_text(as_list(result.report()), encoding="utf-8")
        manifest = {
            "command": shlex.join(["python", "benchmarks/augmentation.py", *sys.argv[1:]]),
            "versions": versions(),
            "settings": result.settings,
            "seconds": round(time.monotonic() - started),
        }
        path = arguments.out / "augmentation_manifest.json"
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--voxels", type=int, default=800)
    parser.add_argument("--real", type=int, default=150)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--ratio", type=int, default=4)
    parser.add_argument("--encoders", nargs="*", choices=list(ENCODERS), default=[])
    parser.add_argument("--decoder", choices=list(DECODERS), default="ridge")
    parser.add_argument("--replicates", type=int, default=10)
    parser.add_argument("--out", type=Path, help="folder for CSV table, report and manifest")
    return parser.parse_args()


def in_points(table: pd.DataFrame) -> pd.DataFrame:
    """Gains in points, with intervals, as columns of text."""
    found = table[["condition", "similarity"]].copy()
    for direction in ("image_retrieval", "brain_retrieval"):
        name = direction.replace("_", " ")
        gain, low, high = (
            (100 * table[f"{direction}_{part}"]).round(1) for part in ("gain", "low", "high")
        )
        found[f"{name} %"] = (100 * table[direction]).round(1)
        found[f"{name} gain"] = [
            f"{g:+.1f} ({a:+.1f} to {b:+.1f})" for g, a, b in zip(gain, low, high, strict=True)
        ]
    found["relative MSE"] = table["relative_mse"].round(3)
    found["gain claimed"] = table["gain"].map({True: "yes", False: "no"})
    return found


def as_list(report: str) -> str:
    """Lines as paragraphs of reStructuredText, without marks of a list."""
    return "\n\n".join(line.removeprefix("- ") for line in report.splitlines()) + "\n"


if __name__ == "__main__":
    main()
