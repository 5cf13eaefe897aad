"""The command ``partition``: how much each feature space explains, alone and together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainenc import terminal
from brainenc.cli_options import Bootstraps, Quiet, ZScore

if TYPE_CHECKING:
    import numpy as np


def partition(
    data: Annotated[Path, typer.Argument(help="A .brain folder or .npz file.", metavar="DATA")],
    bands: Annotated[
        list[str],
        typer.Option(
            help="Two or more, with commas or repeated: features as for `brainenc benchmark` or "
            "NAME=FEATURES, or NAME=FILE.npy. With --features: NAME=COLUMNS (a number)."
        ),
    ],
    features: Annotated[
        Path | None, typer.Option(help="An .npy file (n_images, n_features) that --bands divide.")
    ] = None,
    cv: Annotated[str, typer.Option(help="Folds over images; similar: of near copies.")] = "5",
    groups: Annotated[str | None, typer.Option(help="Trial column to keep together.")] = None,
    n_iter: Annotated[int, typer.Option(help="Random band weights to try.")] = 20,
    n_bootstraps: Bootstraps = 1000,
    n_permutations: Annotated[int, typer.Option(help="Permutations for the null; slow.")] = 1,
    zscore: ZScore = False,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder to keep features in.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    random_state: Annotated[int, typer.Option(help="Seed of folds and resamples.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Divide the explained variance among feature spaces: unique to each, and shared."""
    import brainenc
    from brainenc.benchmarking.partition_result import PAGE
    from brainenc.data.npz import load_data
    from brainenc.reading import read_array

    named = named_bands(bands)
    given: dict[str, Any]
    if features is None:
        given = {"features": {name: band_features(text, store) for name, text in named.items()}}
    else:
        given = {"bands": sizes_of(named), "features": read_array(features)}
    subject = load_data(data)
    subject = subject.zscore_by_session() if zscore else subject
    out = out or Path(f"{subject.name}-partition")
    with terminal.resumable("the fits that are finished"):
        found = brainenc.variance_partitioning(
            subject,
            **given,
            cv=int(cv) if cv.isdecimal() else cv,
            groups=groups,
            n_iter=n_iter,
            n_bootstraps=n_bootstraps,
            n_permutations=n_permutations,
            out=out,
            random_state=random_state,
            device=device,
            verbose=not quiet,
        )
    typer.echo(found.table().to_string())
    for warning in found.warnings:
        typer.echo(warning)
    typer.echo(out / PAGE)


def named_bands(given: list[str]) -> dict[str, str]:
    """Bands by name, from texts with commas, each NAME=BAND or a band that is its own name.

    Raises
    ------
    ValueError : fewer than two, an empty name or band, or one name twice.
    """
    found: dict[str, str] = {}
    for text in (part.strip() for each in given for part in each.split(",")):
        name, equals, band = text.partition("=")
        name, band = name.strip(), band.strip() if equals else name.strip()
        if not name or not band:
            raise ValueError(f"--bands {text!r}: give FEATURES or NAME=FEATURES, such as gabor")
        if name in found:
            raise ValueError(f"--bands has {name!r} twice: give other names, NAME=FEATURES")
        found[name] = band
    if len(found) < 2:
        raise ValueError(f"--bands {next(iter(found))} must be two or more, such as gabor,pixels")
    return found


def band_features(text: str, store: Path | None) -> "np.ndarray | Any":
    """Features of a band: of an ``.npy`` file, or an extractor by its short name."""
    from brainenc.features import make_features
    from brainenc.reading import read_array

    return read_array(text) if text.endswith(".npy") else make_features(text, store=store)


def sizes_of(named: dict[str, str]) -> dict[str, int]:
    """Number of columns of each band.

    Raises
    ------
    ValueError : no whole number.
    """
    for name, text in named.items():
        if not text.isdecimal():
            raise ValueError(
                f"--bands {name}={text}: with --features give the number of columns of each band, "
                "in their order, such as one=40,two=24"
            )
    return {name: int(text) for name, text in named.items()}
