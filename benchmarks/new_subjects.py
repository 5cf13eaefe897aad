"""A new subject with few images: what other subjects are worth, on simulated subjects.

Held-out subjects in turn, at several degrees of alikeness, with controls of the prior. Writes
docs/results/new_subjects*.csv and .json; about 8 minutes on two cores without ``--networks``.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from comparison import SESSIONS, SETS
from scipy import stats
from sklearn.base import clone

import brainenc
from brainenc.datasets import simulate_subjects
from brainenc.encoders.weight_prior import LinearMap, prior_of_maps

RESULTS = Path(__file__).parents[1] / "docs" / "results"
EARLY = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")
SIZES = (25, 50, 100, 200, 300, 400)
#: Of the in-context encoder, which is pretrained anew for each new subject and alikeness.
IN_CONTEXT = {"n_coordinates": 48, "n_steps": 250, "device": "cpu"}


def subjects_of(n: int, n_voxels: int, alikeness: float, random_state: int = 11) -> list:
    """Subjects with 1000 images, of which 200 shared ones are the test set."""
    return simulate_subjects(
        n, 1000, n_voxels, shared_images=200, alikeness=alikeness, random_state=random_state
    )


def curves(n_subjects: int, n_voxels: int, alikeness: float, n_draws: int, networks: bool):
    """Learning curves of each subject from all others."""
    subjects = subjects_of(n_subjects, n_voxels, alikeness)
    features = {d.name: d.truth.tokens for d in subjects}
    ridge = brainenc.RidgeEncoder()
    methods = {
        "ridge": ridge,
        "ridge, prior": brainenc.Transfer(ridge, "prior"),
        "ridge, adapted from one": brainenc.Transfer(ridge, "adapt"),
        "group mean": brainenc.Transfer(ridge, "group-mean"),
    }
    if networks:
        latent = brainenc.LatentEncoder()
        methods |= {
            "latent": latent,
            "latent, adapted": brainenc.Transfer(latent, "adapt"),
            "Mind Reader": brainenc.MindReaderEncoder(),
            "Mind Reader, adapted": brainenc.Transfer(brainenc.MindReaderEncoder(), "adapt"),
        }
    return brainenc.learning_curve(
        subjects,
        methods,
        sizes=SIZES if not networks else (50, 100, 200),
        features=features,
        n_draws=n_draws,
        verbose=True,
    )


def v4(folder: Path, n_draws: int, features: dict | None = None) -> None:
    """Curve of a V4 session from two others: other neurons, other images, one network's features.

    `folder` holds the sessions of Cowley et al. (2023); see benchmarks/comparison.py.
    """
    sessions = [SESSIONS[f"v4-{name}"](folder).data for name in ("190923", "210225")]
    new = SETS["v4"](folder).data
    if features is None:
        lite = brainenc.EfficientNetLiteFeatures(verbose=False)
        features = {d.name: lite.transform(d.images) for d in (new, *sessions)}
    # Averages over the 7 × 7 tokens, of 192 features each.
    pooled = {name: np.asarray(X).mean(axis=1) for name, X in features.items()}
    ridge = brainenc.RidgeEncoder(None)
    kernel, latent = brainenc.KernelRidgeEncoder(None), brainenc.LatentEncoder(None, n_members=0)
    methods = {
        "ridge": ridge,
        "ridge, prior": brainenc.Transfer(ridge, "prior"),
        "ridge, adapted from one": brainenc.Transfer(ridge, "adapt"),
        "kernel ridge": kernel,
        "kernel ridge, adapted": brainenc.Transfer(kernel, "adapt"),
        "latent": latent,
        "latent, prior": brainenc.Transfer(latent, "prior"),
        "latent, adapted": brainenc.Transfer(latent, "adapt"),
        "group mean": brainenc.Transfer(ridge, "group-mean"),
    }
    begun = time.perf_counter()
    curve = brainenc.learning_curve(
        new, methods, sizes=(25, 50, 100, 200, 400), sources=sessions, features=pooled,
        n_draws=n_draws, verbose=True,
    )  # fmt: skip
    print(curve.table().to_string())
    for table in ("summary", "pairs", "worth"):
        rounded = getattr(curve, table).round(4)
        rounded.to_csv(RESULTS / f"new_subjects_v4_{table}.csv", index=False)
    manifest = {
        key: curve.manifest[key]
        for key in ("targets", "sources", "sizes", "n_draws", "encoders", "versions", "hardware")
    }
    content = {"features": "EfficientNet-Lite0, tokens averaged", "manifest": manifest}
    content["seconds"] = time.perf_counter() - begun
    content["sources"] = [d.name for d in sessions]
    manifest.pop("sources")
    (RESULTS / "new_subjects_v4.json").write_text(json.dumps(content, indent=1))


def controls(n_voxels: int, n_draws: int) -> pd.DataFrame:
    """Priors that should not help, and those of one kind of area."""
    *others, new = subjects_of(4, n_voxels, 1.0)
    own = [d.select(images=np.arange(200, 1000)) for d in others]
    tokens = [d.truth.tokens for d in own]
    rng = np.random.default_rng(0)
    n_features = tokens[0][0].size
    order = rng.permutation(n_features)
    prior = brainenc.WeightPrior.fit(own, tokens)
    shape = prior.feature_shape

    def of(weights, scale=None):
        scale = prior.feature_scale if scale is None else scale
        n = weights.shape[1]
        made = LinearMap(weights, np.zeros(n), prior.feature_mean, scale)
        none = np.zeros((0, 0), np.float32)
        return prior_of_maps([made], ["control"], [none], (None, shape), 1, None, None)

    X = np.concatenate([t.reshape(len(t), -1) for t in tokens])
    Z = (X - X.mean(0)) / X.std(0)
    _, sd, axes = np.linalg.svd(Z - Z.mean(0), full_matrices=False)
    pcs = (axes[:64] * sd[:64, None]).T / prior.feature_scale[:, None]
    is_early = {d.name: np.isin(d.voxels["roi"], EARLY) for d in own}
    parts = {
        kind: brainenc.WeightPrior.fit(
            [d.select(voxels=np.flatnonzero(is_early[d.name] == flag)) for d in own], tokens
        )
        for kind, flag in (("early areas", True), ("high-level areas", False))
    }
    F = prior.factors[0] * prior.feature_scale[:, None]
    by_roi = brainenc.WeightPrior.fit(own, tokens, atlas="roi")
    four = brainenc.WeightPrior.fit(own, tokens, n_components=4)
    tried = {
        "scratch": None,
        "other subjects": prior,
        "other subjects, by ROI": by_roi,
        "other subjects, 4 kinds": four,
        "permuted features": of(F[order] / prior.feature_scale[:, None]),
        "64 image PCs": of(pcs),
        "early areas only": parts["early areas"],
        "high-level areas only": parts["high-level areas"],
    }
    early = np.isin(new.voxels["roi"], EARLY)
    rows = []
    X, test = new.truth.tokens, np.arange(200)
    for size in (25, 100, 400):
        for draw in range(n_draws):
            some = 200 + np.random.default_rng(draw).permutation(800)[:size]
            for name, one in tried.items():
                fit = brainenc.RidgeEncoder(prior=one).with_voxels(new.voxels)
                fit.fit(X[some], new.betas[some])
                target = np.nanmean(new.betas[test], axis=1)
                pairs = zip(fit.predict(X[test]).T, target.T, strict=True)
                r = np.array([stats.pearsonr(*pair)[0] for pair in pairs])
                share = np.nan if one is None else float(np.nanmean(fit.prior_shares_[-1]))
                rows.append(
                    {
                        "prior": name,
                        "size": size,
                        "draw": draw,
                        "r": r.mean(),
                        "r_early": r[early].mean(),
                        "r_high": r[~early].mean(),
                        "isotropic_share": share,
                    }
                )
    return pd.DataFrame(rows)


def in_context(n_subjects: int, n_voxels: int, alikeness: float, n_draws: int):
    """Learning curves of in-context weights beside prior ridge, and what its contexts are worth.

    Twice as many subjects as are new: each new one has all others as sources.
    """
    subjects = simulate_subjects(
        2 * n_subjects, 600, n_voxels, shared_images=150, alikeness=alikeness, random_state=11
    )
    own = [d.select(images=np.arange(150, 600)) for d in subjects]
    news, more = subjects[:n_subjects], own[n_subjects:]
    encoder = brainenc.InContextEncoder(**IN_CONTEXT)
    curve = brainenc.learning_curve(
        news,
        {"in context": brainenc.Transfer(encoder, "pretrain")},
        sources=more,
        sizes=(25, 50, 100),
        features={d.name: d.truth.tokens for d in (*news, *more)},
        n_draws=n_draws,
        reference="ridge, prior",
        verbose=True,
    )
    new = news[0]
    encoder.pretrain([(d.truth.tokens, d.betas) for d in own[1:]])
    gain = dict(zip(encoder.pretrained.sizes.tolist(), encoder.pretrained.gain, strict=True))
    rows = []
    X, target = new.truth.tokens, np.nanmean(new.betas[:150], axis=1)
    for size in (25, 100):
        some = 150 + np.random.default_rng(0).permutation(450)[:size]
        order = np.random.default_rng(1).permutation(size)
        for name, betas in {
            "as they are": new.betas[some],
            "shuffled": new.betas[some][order],
        }.items():
            fit = brainenc.InContextEncoder(**IN_CONTEXT, pretrained=encoder.pretrained)
            fit.fit(X[some], betas)
            alone = fit.pretrained.weights(fit.pretrained.inputs(X[some]), z_scored(betas), "cpu")
            of_net = fit.pretrained.inputs(X[:150]) @ alone[:-1]
            rows.append(
                {
                    "responses": name,
                    "size": size,
                    "r": mean_r(fit.predict(X[:150]), target),
                    "r_of_net": mean_r(of_net, target),
                    "sd_of_net": of_net.std(axis=0).mean(),
                    "share_of_net": fit.net_share_.mean(),
                }
            )
    return curve, pd.DataFrame(rows), {str(n): round(float(g), 4) for n, g in gain.items()}


def z_scored(betas: np.ndarray) -> np.ndarray:
    averages = np.nanmean(betas, axis=1)
    return (averages - averages.mean(axis=0)) / averages.std(axis=0)


def mean_r(predictions: np.ndarray, targets: np.ndarray) -> float:
    pairs = zip(predictions.T, targets.T, strict=True)
    return float(np.nanmean([stats.pearsonr(*pair)[0] for pair in pairs]))


def write_in_context(given: argparse.Namespace) -> None:
    """Tables of `in_context` at each alikeness: docs/results/new_subjects_in_context*."""
    tables: dict[str, list[pd.DataFrame]] = {"summary": [], "pairs": [], "controls": []}
    seconds, gains = {}, {}
    for alikeness in given.alikeness:
        begun = time.perf_counter()
        curve, controls, gain = in_context(given.subjects, given.voxels, alikeness, given.draws)
        seconds[f"alikeness {alikeness:g}"] = time.perf_counter() - begun
        gains[f"alikeness {alikeness:g}"] = gain
        found = {"summary": curve.summary, "pairs": curve.pairs, "controls": controls}
        for name, table in found.items():
            tables[name].append(table.assign(alikeness=alikeness))
            both = pd.concat(tables[name]).round(4)
            both.to_csv(RESULTS / f"new_subjects_in_context_{name}.csv", index=False)
            print(both.to_string(), flush=True)
        manifest = {name: curve.manifest[name] for name in ("sizes", "versions", "hardware")}
        content = vars(given) | {"gain": gains, "seconds": seconds, "manifest": manifest}
        content |= {"encoder": IN_CONTEXT}
        (RESULTS / "new_subjects_in_context.json").write_text(json.dumps(content, indent=1))


def write_gains(given: argparse.Namespace) -> None:
    """Gain in the subject held out of the net's training, with and without it in the prior.

    Of the sources of the first new subject of `in_context`, at each alikeness; half a minute each.
    """
    rows = []
    for alikeness in given.alikeness:
        _, *sources = simulate_subjects(
            2 * given.subjects, 600, given.voxels, shared_images=150, alikeness=alikeness,
            random_state=11,
        )  # fmt: skip
        own = [d.select(images=np.arange(150, 600)) for d in sources]
        tokens = [d.truth.tokens for d in own]
        without = brainenc.WeightPrior.fit(own[:-1], tokens[:-1])
        for name, prior in {"all sources": None, "without it": without}.items():
            encoder = brainenc.InContextEncoder(**IN_CONTEXT, prior=prior)
            net = encoder.pretrain(
                [(X, d.betas) for X, d in zip(tokens, own, strict=True)]
            ).pretrained
            gains = dict(zip(net.sizes.tolist(), net.gain.tolist(), strict=True))
            rows.append({"alikeness": alikeness, "prior": name} | gains)
        table = pd.DataFrame(rows).round(4)
        print(table.to_string(), flush=True)
        table.to_csv(RESULTS / "new_subjects_in_context_gain.csv", index=False)


def write_selection(given: argparse.Namespace) -> None:
    """Priors by evidence and by cross-validation: three new subjects, three sources each."""
    ridge = brainenc.RidgeEncoder()
    methods = {"from scratch": ridge}
    for selection in ("cross-validation", "evidence"):
        chosen = clone(ridge).set_params(selection=selection)
        methods[selection] = brainenc.Transfer(chosen, "prior")
    rows = []
    for alikeness in given.alikeness:
        subjects = subjects_of(6, 100, alikeness)
        sources = [  # without shared images, which are the test set
            data.select(images=np.flatnonzero(~data.stimuli["shared"].astype(bool))[:500])
            for data in subjects[3:]
        ]
        features = {data.name: data.truth.tokens for data in (*subjects[:3], *sources)}
        for new in subjects[:3]:
            curve = brainenc.learning_curve(
                new, methods, sources=sources, features=features, sizes=(25, 50, 100, 200, 400),
                n_draws=given.draws, verbose=True,
            )  # fmt: skip
            rows.append(curve.summary.assign(alikeness=alikeness, subject=new.name))
    table = pd.concat(rows)
    means = table.groupby(["alikeness", "encoder", "size"], sort=False)["r"].mean().unstack()
    means = means.loc[(slice(None), list(methods)), :].sort_index(level=0, ascending=False)
    means.round(3).reset_index().to_csv(RESULTS / "new_subjects_selection.csv", index=False)
    print(means.round(3).to_string())


def nsd_size() -> dict:
    """Seconds of a prior ridge fit of 250 images × 15 724 voxels × 1664 features."""
    rng = np.random.default_rng(0)
    p, v = 1664, 15_724
    spectrum = np.arange(1, p + 1, dtype=np.float32) ** -0.5
    mix = rng.standard_normal((p, p), dtype=np.float32) * spectrum[:, None]
    W = rng.standard_normal((p, 40), dtype=np.float32) @ rng.standard_normal(
        (40, v), dtype=np.float32
    )

    def made(n):
        X = rng.standard_normal((n, p), dtype=np.float32) @ mix
        Y = X @ W / 1000 + 3 * rng.standard_normal((n, v), dtype=np.float32)
        return X, Y[:, None]

    source = brainenc.RidgeEncoder().fit(*made(1000))
    begun = time.perf_counter()
    prior = brainenc.WeightPrior.from_encoders([source])
    between = time.perf_counter()
    X, Y = made(250)
    start = time.perf_counter()
    brainenc.RidgeEncoder(prior=prior).fit(X, Y)
    end = time.perf_counter()
    brainenc.RidgeEncoder().fit(X, Y)
    scratch = time.perf_counter() - end
    return {"prior": between - begun, "prior_ridge": end - start, "ridge": scratch}


def write_time(given: argparse.Namespace) -> None:
    """Seconds of a curve of six sizes × three encoders × five draws at 800 voxels.

    Writes docs/results/new_subjects_time.csv and .json: seconds of the fits of each encoder at each
    size, and of the whole curve, with scores and intervals.
    """
    new, *sources = subjects_of(3, 800, 1.0)
    own = [d.select(images=np.arange(200, 1000)) for d in sources]
    ridge = brainenc.RidgeEncoder()
    methods = {
        "ridge": ridge,
        "ridge, prior": brainenc.Transfer(ridge, "prior"),
        "ridge, adapted from one": brainenc.Transfer(ridge, "adapt"),
    }
    n_draws = 5
    begun = time.perf_counter()
    curve = brainenc.learning_curve(
        new,
        methods,
        sources=own,
        sizes=SIZES,
        features={d.name: d.truth.tokens for d in (new, *own)},
        n_draws=n_draws,
        references=False,
        verbose=True,
    )
    seconds = time.perf_counter() - begun
    fits = curve.scores.query("roi == 'all'")
    assert len(fits) == len(methods) * len(SIZES) * n_draws
    assert not fits["error"].any(), fits["error"].unique()
    table = fits.pivot_table(index="encoder", columns="size", values="seconds", sort=False)
    table.round(3).reset_index().to_csv(RESULTS / "new_subjects_time.csv", index=False)
    content = {"seconds": seconds, "seconds_of_fits": float(fits["seconds"].sum())}
    content |= {"n_voxels": 800, "n_draws": n_draws, "n_sources": len(own)}
    content["manifest"] = {name: curve.manifest[name] for name in ("sizes", "versions", "hardware")}
    (RESULTS / "new_subjects_time.json").write_text(json.dumps(content, indent=1))
    print(table.round(3).to_string())
    print(f"{seconds:.0f} s, of which {content['seconds_of_fits']:.0f} s are fits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--voxels", type=int, default=150)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--alikeness", type=float, nargs="*", default=[1.0, 0.5, 0.0])
    parser.add_argument("--networks", action="store_true")
    parser.add_argument("--in-context", action="store_true", help="only InContextEncoder")
    parser.add_argument("--gains", action="store_true", help="only gains of the in-context net")
    parser.add_argument("--selection", action="store_true", help="only evidence and its rival")
    parser.add_argument("--time", action="store_true", help="only seconds of a curve, 800 voxels")
    parser.add_argument("--v4", type=Path, help="folder of the V4 sessions: their curve alone")
    given = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if given.in_context:
        return write_in_context(given)
    if given.selection:
        return write_selection(given)
    if given.gains:
        return write_gains(given)
    if given.time:
        return write_time(given)
    if given.v4 is not None:
        v4(given.v4, given.draws)
        return
    name = "new_subjects_networks" if given.networks else "new_subjects"
    tables: dict[str, list[pd.DataFrame]] = {"summary": [], "pairs": [], "worth": []}
    seconds = {}
    for alikeness in given.alikeness:
        begun = time.perf_counter()
        curve = curves(given.subjects, given.voxels, alikeness, given.draws, given.networks)
        seconds[f"curve at alikeness {alikeness:g}"] = time.perf_counter() - begun
        for table, parts in tables.items():
            parts.append(getattr(curve, table).assign(alikeness=alikeness))
        print(f"alikeness {alikeness:g}\n{curve.table().to_string()}")
        for table, parts in tables.items():
            pd.concat(parts).round(4).to_csv(RESULTS / f"{name}_{table}.csv", index=False)
        manifest = {
            key: curve.manifest[key] for key in ("sizes", "n_draws", "versions", "hardware")
        }
        content = {k: v for k, v in vars(given).items() if k != "v4"} | {
            "seconds": seconds,
            "manifest": manifest,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1))
    if not given.networks:
        table = controls(given.voxels, given.draws)
        means = table.groupby(["prior", "size"], sort=False).mean().drop(columns="draw")
        means.round(4).reset_index().to_csv(RESULTS / f"{name}_controls.csv", index=False)
        print(means.round(3).to_string())
        content["nsd_size"] = nsd_size()
        print(content["nsd_size"])
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
