"""The command ``describe``: words for voxels, from captions of images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brainenc.cli_options import Permutations, Quiet

if TYPE_CHECKING:
    import pandas as pd


def describe(
    model: Annotated[
        Path, typer.Argument(help="A folder that `brainenc fit` wrote.", metavar="MODEL")
    ],
    data: Annotated[
        Path,
        typer.Argument(help="Test data: a .brain folder or .npz file.", metavar="DATA"),
    ],
    captions: Annotated[
        Path,
        typer.Option(
            help="CSV file with a column caption, a row per image of DATA; or with a column image "
            "too, the image's position from 0, and several rows per image."
        ),
    ],
    train: Annotated[
        Path | None, typer.Option(help="Data the model was fitted to, for halves and the null.")
    ] = None,
    n_top: Annotated[int, typer.Option(help="Top images per voxel.")] = 30,
    min_images: Annotated[int, typer.Option(help="Leave out words of fewer images.")] = 5,
    n_permutations: Permutations = 1000,
    zscore: Annotated[bool, typer.Option(help="z-score voxels within sessions first.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, …; by default as when fitted.")
    ] = None,
    random_state: Annotated[int, typer.Option(help="Seed of permutations and halves.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Words that the top images of each voxel share, tested against measured betas."""
    import brainenc
    from brainenc.benchmarking.table_folders import check_table_folder
    from brainenc.data.npz import load_data
    from brainenc.data.stimuli import read_table

    subject = load_data(data)
    texts = captions_by_image(read_table(captions, "captions"), subject.n_images)
    out = out or Path(f"{subject.name}-words")
    check_table_folder(out, "selectivity.json", ("voxels", "words", "top"))
    subjects = [subject, *([] if train is None else [load_data(train)])]
    if zscore:
        subjects = [one.zscore_by_session() for one in subjects]
    found = brainenc.describe(
        brainenc.load(model, device=device),
        subject.images,
        texts,
        betas=subjects[0].betas,
        training=None if train is None else (subjects[1].images, subjects[1].betas),
        voxels=subject.voxels,
        n_top=n_top,
        min_images=min_images,
        n_permutations=n_permutations,
        random_state=random_state,
        verbose=not quiet,
    )
    found.save(out)
    page = found.to_html(out / "words.html", subject.images)
    typer.echo(repr(found))
    if "roi" in found.voxels:
        typer.echo(found.rois().round(3).to_string())
    for warning in found.warnings:
        typer.echo(warning)
    typer.echo(page)


def captions_by_image(table: "pd.DataFrame", n_images: int) -> list[list[str]]:
    """Captions of each image, from a table with a row per image or per caption.

    Raises
    ------
    ValueError : no column ``caption``, another number of rows than images, positions out of range,
        or an image without a caption.
    """
    if "caption" not in table:
        raise ValueError(f"captions has no column 'caption'; it has {list(table.columns)}")
    texts = table["caption"].fillna("").astype(str)
    if "image" not in table:
        if len(table) != n_images:
            raise ValueError(
                f"captions has {len(table)} rows, but there are {n_images} images: give a column "
                "image with their positions from 0"
            )
        images = list(range(n_images))
    else:
        images = table["image"].tolist()
        wrong = [i for i in images if not (isinstance(i, (int, float)) and i in range(n_images))]
        if wrong:
            raise ValueError(
                f"captions has image {wrong[0]}: positions are whole numbers from 0 to "
                f"{n_images - 1}"
            )
    found: list[list[str]] = [[] for _ in range(n_images)]
    for image, text in zip(images, texts, strict=True):
        if text.strip():
            found[int(image)].append(text)
    if missing := [i for i, of_image in enumerate(found) if not of_image]:
        raise ValueError(
            f"captions has none for {len(missing)} of {n_images} images, such as image {missing[0]}"
        )
    return found
