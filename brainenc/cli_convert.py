"""Commands that convert own data: `brainenc convert volumes` and `brainenc convert glmsingle`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from brainenc import terminal

Out = Annotated[Path, typer.Option(help="The .brain folder to write.")]
Mask = Annotated[
    str, typer.Option(help="NIfTI or .npy; above 0 is inside. Of CIFTI also cortex or subcortex.")
]
Trials = Annotated[
    list[Path],
    typer.Option(
        help="Table (.tsv, .csv) with the picture, session and run of each trial; once per run, or "
        "once for all."
    ),
]
ImagesOfTrials = Annotated[
    Path | None, typer.Option("--images", help="Folder of the pictures, or an .npy file.")
]
Stimuli = Annotated[
    Path | None, typer.Option(help="Table (.tsv, .csv) about the pictures, one row each.")
]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of the trials with the picture; image, stim_file, …")
]
Atlas = Annotated[
    list[str], typer.Option(help="NAME=FILE or FILE of an atlas on the mask's grid; several times.")
]
Labels = Annotated[
    list[str], typer.Option(help="NAME=FILE of an atlas's labels (.ctab, .txt, .tsv).")
]
Units = Annotated[str, typer.Option(help="Units of the betas, such as 'percent signal change'.")]
Name = Annotated[str | None, typer.Option(help="Name of the data; that of the file by default.")]
ImageSize = Annotated[int | None, typer.Option(help="Resize image files to this square.")]
Space = Annotated[str, typer.Option(help="native or MNI152.")]
LeaveOut = Annotated[
    bool, typer.Option("--leave-out", help="Leave trials without a picture out; else refuse.")
]
CopyImages = Annotated[
    bool, typer.Option("--copy-images", help="Copy images of an HDF5 file; else refer to it.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]

_FINISHED = "the blocks of trials that are finished"


def volumes(
    betas: Annotated[
        list[str],
        typer.Argument(
            help="Files with trials, one per run: NIfTI, .npy, HDF5 (FILE or FILE:DATASET), CIFTI.",
            metavar="BETAS",
        ),
    ],
    mask: Mask,
    trials: Trials,
    out: Out,
    images: ImagesOfTrials = None,
    stimuli: Stimuli = None,
    image_column: ImageColumn = None,
    atlas: Atlas = [],  # noqa: B006 - typer reads it
    labels: Labels = [],  # noqa: B006
    units: Units = "",
    name: Name = None,
    image_size: ImageSize = None,
    space: Space = "native",
    leave_out: LeaveOut = False,
    copy_images: CopyImages = False,
    quiet: Quiet = False,
) -> None:
    """Convert volumes of trials, some in memory at a time; a stopped run goes on where it was."""
    from brainenc import datasets
    from brainenc.datasets.trial_tables import read_trials

    table = read_trials(trials if len(trials) > 1 else trials[0], None, image_column)
    with terminal.resumable(_FINISHED):
        path = datasets.convert_volumes(
            betas if len(betas) > 1 else betas[0],
            out,
            mask,
            table["picture"].to_numpy(),
            images,
            session=table.get("session"),
            run=table.get("run"),
            units=units,
            **_shared(
                stimuli, atlas, labels, name, image_size, space, leave_out, copy_images, quiet
            ),
        )
    typer.echo(path)


def glmsingle(
    outputs: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of outputs, or a file such as TYPED_FITHRF_GLMDENOISE_RR.npy; one per "
            "session.",
            metavar="OUTPUT",
        ),
    ],
    mask: Mask,
    trials: Trials,
    out: Out,
    images: ImagesOfTrials = None,
    stimuli: Stimuli = None,
    image_column: ImageColumn = None,
    kind: Annotated[
        str | None, typer.Option(help="Model type B, C or D; the last of them by default.")
    ] = None,
    atlas: Atlas = [],  # noqa: B006
    labels: Labels = [],  # noqa: B006
    name: Name = None,
    image_size: ImageSize = None,
    space: Space = "native",
    leave_out: LeaveOut = False,
    copy_images: CopyImages = False,
    quiet: Quiet = False,
) -> None:
    """Convert outputs of GLMsingle, some trials in memory at a time; a stopped run goes on."""
    from brainenc import datasets

    of_pictures = _shared(
        stimuli, atlas, labels, name, image_size, space, leave_out, copy_images, quiet
    )
    about = of_pictures.pop("stimuli")
    with terminal.resumable(_FINISHED):
        path = datasets.convert_glmsingle(
            outputs if len(outputs) > 1 else outputs[0],
            out,
            trials if len(trials) > 1 else trials[0],
            images if about is None else about,
            images=None if about is None else images,
            mask=mask,
            kind=kind,
            image_column=image_column,
            **of_pictures,
        )
    typer.echo(path)


def _shared(
    stimuli: Path | None,
    atlas: list[str],
    labels: list[str],
    name: str | None,
    image_size: int | None,
    space: str,
    leave_out: bool,
    copy_images: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Arguments that both commands pass on."""
    from brainenc.data.atlases import atlas_name

    pairs = [_named(text, "atlas") for text in atlas]
    atlases = {key or atlas_name(file): file for key, file in pairs}
    if len(atlases) < len(pairs):
        raise ValueError(f"--atlas {' '.join(atlas)} has a name twice: give NAME=FILE")
    tables = dict(_named(text, "labels") for text in labels)
    if None in tables and len(atlases) != 1:
        raise ValueError("--labels needs NAME=FILE, as there is not one atlas")
    return {
        "stimuli": stimuli,
        "atlases": atlases or None,
        "labels": tables.get(None) or tables or None,
        "name": name,
        "image_size": image_size,
        "space": space,
        "without_image": "leave out" if leave_out else "refuse",
        "copy_images": copy_images,
        "verbose": not quiet,
    }


def _named(text: str, option: str) -> tuple[str | None, str]:
    """NAME=FILE as both; a FILE alone without a name."""
    name, equals, file = text.partition("=")
    if not equals or Path(text).exists():
        return None, text
    if not name or not file:
        raise ValueError(f"--{option} {text} must be NAME=FILE")
    return name, file
