"""The command ``experiment``: what a fitted encoder predicts for conditions of images."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brainenc.cli_options import Quiet

if TYPE_CHECKING:
    import pandas as pd


def experiment(
    model: Annotated[
        Path, typer.Argument(help="A folder that `brainenc fit` wrote.", metavar="MODEL")
    ],
    condition: Annotated[
        list[str],
        typer.Option(
            help="NAME=FOLDER: images of a condition (a folder, a glob or an .npy file); repeat it."
        ),
    ],
    contrast: Annotated[
        list[str] | None,
        typer.Option(
            help="A-B: difference of two conditions, or of means, such as A+B-C; repeat it. By "
            "default each condition minus the mean of the others."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data the model was fitted to, for areas and maps; by default the model's areas."
        ),
    ] = None,
    rois: Annotated[str, typer.Option(help="Areas to test, such as V1v,FFA; by default all.")] = "",
    n_draws: Annotated[
        int,
        typer.Option("--n-draws", "--draws", help="Draws of the encoder's functions; 0: none."),
    ] = 200,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    background: Annotated[
        str | None, typer.Option(help="Colour behind transparent pixels, such as white or #808080.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, …; by default as when fitted.")
    ] = None,
    random_state: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Mean response to conditions of images, and contrasts, with the encoder's uncertainty."""
    import brainenc
    from brainenc.data.images import open_images
    from brainenc.data.npz import load_data
    from brainenc.insilico.result import check_experiment_folder

    folders = named_conditions(condition)
    contrasts = [weights_of(text, list(folders)) for text in contrast or []]
    if len(dict(contrasts)) < len(contrasts):
        raise ValueError(f"--contrast {', '.join(contrast or [])}: one is given twice")
    out = check_experiment_folder(out or Path(f"{model.resolve().name}-experiment"))
    encoder = brainenc.load(model, device=device)
    subject = None if data is None else load_data(data)
    table = getattr(encoder, "voxels_", None) if subject is None else subject.voxels
    found = brainenc.experiment(
        encoder,
        {name: open_images(folder, background=background) for name, folder in folders.items()},
        rois=chosen_rois(table, rois),
        contrasts=dict(contrasts) or None,
        n_draws=n_draws,
        confidence=confidence,
        random_state=random_state,
        verbose=not quiet,
    )
    found.save(out)
    page = found.to_html(out / "experiment.html", table if subject is None else subject)
    typer.echo(found.table().to_string())
    columns = ["contrast", "atlas", "roi", "effect", "low", "high", "p", "q"]
    shown = found.contrasts[columns].dropna(axis=1, how="all")
    typer.echo(shown.to_string(index=False, float_format="{:.3g}".format))
    for warning in found.warnings:
        typer.echo(warning)
    typer.echo(page)


def named_conditions(given: Sequence[str]) -> dict[str, str]:
    """Images of each condition by its name, from texts NAME=FOLDER.

    Raises
    ------
    ValueError : a text without a name or images, fewer than two, or one name twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, _, images = text.partition("=")
        name = name.strip()
        if not name or not images:
            raise ValueError(
                f"--condition {text!r} must be NAME=FOLDER, such as faces=images/faces"
            )
        if name in found:
            raise ValueError(
                f"--condition {name} is given twice, {found[name]} and {images}: give each "
                "condition a name of its own, and put its images into one folder"
            )
        found[name] = images
    if len(found) < 2:
        raise ValueError(
            f"--condition is given once, {given[0]}: an experiment compares two or more conditions"
        )
    return found


def weights_of(text: str, names: Sequence[str]) -> tuple[str, dict[str, float]]:
    """Name and weights of a contrast "A-B", in which A and B are conditions or A+B several.

    Names may have "-" and "+" in them as long as the contrast has one meaning.

    Raises
    ------
    ValueError : no such conditions, one on both sides, or more than one meaning.

    Examples
    --------
    >>> weights_of("faces+bodies-houses", ["faces", "bodies", "houses"])
    ('faces+bodies > houses', {'faces': 0.5, 'bodies': 0.5, 'houses': -1.0})
    """
    pieces = text.split("-")
    readings = [
        (left, right, plus, minus)
        for left, right in (
            ("-".join(pieces[:i]).strip(), "-".join(pieces[i:]).strip())
            for i in range(1, len(pieces))
        )
        for plus in _sides(left, names)
        for minus in _sides(right, names)
    ]
    if not readings:
        raise ValueError(
            f"--contrast {text!r} must be A-B with names of conditions, or of several, A+B-C; "
            f"conditions are {', '.join(names)}"
        )
    if len(readings) > 1:
        raise ValueError(
            f"--contrast {text!r} can be read in {len(readings)} ways: give conditions names "
            "without - and +"
        )
    left, right, plus, minus = readings[0]
    if both := [name for name in plus if name in minus]:
        raise ValueError(f"--contrast {text!r} has {both[0]} on both sides")
    weights = {name: 1 / len(plus) for name in plus} | {name: -1 / len(minus) for name in minus}
    return f"{left} > {right}", weights


def _sides(text: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """All ways to read a text as one condition, or as several with "+" between them."""
    found: list[tuple[str, ...]] = [(text,)] if text in names else []
    parts = text.split("+")
    for i, first in enumerate(accumulate(parts[:-1], lambda a, b: f"{a}+{b}"), start=1):
        if first.strip() in names:
            rest = _sides("+".join(parts[i:]).strip(), names)
            found += [(first.strip(), *others) for others in rest if first.strip() not in others]
    return found


def chosen_rois(voxels: "pd.DataFrame | None", text: str) -> "pd.DataFrame | None":
    """A voxel table in which only the chosen ROIs have labels; as it is without a choice.

    Parameters
    ----------
    voxels : DataFrame or None
    text : str
        Names of ROIs, with commas; "" for all.

    Raises
    ------
    ValueError : there is no table, or no such ROI in it.
    """
    import pandas as pd

    from brainenc.data.voxels import atlas_columns, atlas_labels

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        return voxels
    if voxels is None:
        raise ValueError(
            f"--rois {text}: the model was saved without a voxel table; give the data with --data"
        )
    labels = {atlas: atlas_labels(voxels, atlas) for atlas in atlas_columns(voxels)}
    known = dict.fromkeys(str(label) for each in labels.values() for label in each if label)
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"--rois has {missing[0]!r}; areas are {', '.join(known) or 'none'}")
    kept = {
        atlas: [label if label in names else "" for label in each]
        for atlas, each in labels.items()
        if set(each) & set(names)
    }
    return pd.DataFrame(kept)
