"""Command that lists and fetches files of public data: `brainenc download nsd`."""

from pathlib import Path
from typing import Annotated

import typer

from brainenc.cli_options import Quiet, numbers
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
    quiet: Quiet = False,
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
