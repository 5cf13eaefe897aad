"""The command ``decode``: decoders, and encoders as decoders, on held-out images."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from brainenc import terminal
from brainenc.cli_options import Bootstraps, Check, Quiet, ZScore


def make_decode(make_encoders: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """The command; `make_encoders` makes encoders of short names and features."""

    def decode(
        data: Annotated[
            Path, typer.Argument(help="A .brain folder or an .npz file.", metavar="DATA")
        ],
        encoders: Annotated[
            str,
            typer.Option(
                help="Encoders to use as decoders, short names with commas, beside ridge, which is "
                "always there."
            ),
        ] = "",
        targets: Annotated[
            str, typer.Option(help="What decoders predict: features, as for `benchmark`.")
        ] = "gabor",
        cv: Annotated[str, typer.Option(help="Folds over images; similar: of near copies.")] = "5",
        clusters: Annotated[
            int | None, typer.Option(help="Hold out so many clusters of targets instead.")
        ] = None,
        groups: Annotated[str | None, typer.Option(help="Trial column to keep together.")] = None,
        test: Annotated[
            Path | None,
            typer.Option(help="Fixed test set: text file of image names, or .npy."),
        ] = None,
        category: Annotated[
            str | None, typer.Option(help="Column of the table of stimuli with labels.")
        ] = None,
        pool_size: Annotated[
            int | None, typer.Option(help="Images in a pool.", show_default="300 or fewer")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
        n_bootstraps: Bootstraps = 1000,
        n_permutations: Annotated[int, typer.Option(help="Permutations of training images.")] = 200,
        zscore: ZScore = False,
        random_state: Annotated[int, typer.Option(help="Seed of folds and resamples.")] = 0,
        check: Check = True,
        store: Annotated[Path | None, typer.Option(help="Folder to keep features in.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
        quiet: Quiet = False,
    ) -> None:
        """Score decoders on held-out images beside nulls, and write a report."""
        import brainenc
        from brainenc.benchmarking.fixed_test import read_test_set
        from brainenc.data.npz import load_data
        from brainenc.features import make_features

        loaded = load_data(data)
        loaded = loaded.zscore_by_session() if zscore else loaded
        out = out or Path(f"{loaded.name}-decoding")
        extractor = make_features(targets.strip(), store=store)
        made: dict[str, Any] = {}
        for name in filter(None, map(str.strip, encoders.split(","))):
            for encoder in make_encoders(name, targets, store=store, device=device).values():
                if "features" not in encoder.get_params(deep=False):
                    raise ValueError(f"{name!r} sees no features, so that it can choose no image")
                # All choose by the same features, which are computed once.
                label = f"{name} encoder" if name == "ridge" else name
                made[f"{label} as decoder"] = encoder.set_params(features=None)
        split: Any = int(cv) if cv.isdecimal() else cv
        if clusters is not None:
            if cv != "5" or test is not None:
                raise ValueError("--clusters makes the folds: give one of it, --cv and --test")
            split = brainenc.cluster_folds(
                extractor.fit_transform(loaded.images), clusters, random_state=random_state
            )
        with terminal.resumable("the fits that are finished"):
            result = brainenc.decoding_benchmark(
                loaded,
                made,
                targets=extractor,
                cv=split,
                groups=groups,
                test=None if test is None else read_test_set(test, loaded),
                category=category,
                pool_size=pool_size,
                n_bootstraps=n_bootstraps,
                n_permutations=n_permutations,
                out=out,
                random_state=random_state,
                check=check,
                verbose=not quiet,
            )
        typer.echo(repr(result))
        for warning in result.warnings:
            typer.echo(warning)
        typer.echo(out / "decoding.html")

    return decode
