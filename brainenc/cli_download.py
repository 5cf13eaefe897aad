"""Command that lists and fetches files of public data: `brainenc download nsd`."""

from pathlib import Path
from typing import Annotated

import typer

from brainenc.cli_output import show_files


def nsd(
    root: Annotated[
        Path,
        typer.Argument(help="The folder to fetch into; existing files count.", metavar="ROOT"),
    ],
    subject: Annotated[int, typer.Option(help="1 … 8.")] = 1,
    experiment: Annotated[str, typer.Option(help="nsd, nsdsynthetic or nsdimagery.")] = "nsd",
    space: Annotated[str, typer.Option(help="func1pt8mm or fsaverage.")] = "func1pt8mm",
    betas: Annotated[str, typer.Option(help="Beta version.")] = "betas_fithrf_GLMdenoise_RR",
    file_format: Annotated[str, typer.Option(help="hdf5 or nifti.")] = "hdf5",
    mask: Annotated[str, typer.Option(help="As for `brainenc convert nsd`.")] = "nsdgeneral",
    sessions: Annotated[str, typer.Option(help="For example 1-37 or 1,2,5; all if empty.")] = "",
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch them with your own AWS credentials.")
    ] = False,
    client: Annotated[str, typer.Option(help="boto3, aws (the command) or auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """List the files of NSD that a conversion needs, with sizes; fetch those that are missing."""
    from brainenc import datasets

    files = datasets.nsd_files(
        subject,
        experiment=experiment,
        space=space,
        betas=betas,
        file_format=file_format,
        mask=mask,
        sessions=numbers(sessions),
    )
    show_files(files, root)
    if fetch:
        datasets.download_nsd(root, files, client=client, verbose=not quiet)


def numbers(text: str) -> list[int] | None:
    """Whole numbers of "1-3,7"; None of nothing."""
    found: list[int] = []
    for part in filter(None, map(str.strip, text.split(","))):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()):
            raise ValueError(f"{text!r} must be numbers or ranges such as 1-3,7")
        several = range(int(first), int(last) + 1)
        if not several:  # 3-1: nothing must not come to mean all
            raise ValueError(f"{part} in {text!r} ends before it begins")
        found += several
    return found or None
