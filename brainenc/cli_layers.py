"""The command ``layers``: which layer of a network predicts which area."""

from pathlib import Path
from typing import Annotated

import typer

from brainenc.cli_options import Bootstraps, Quiet


def layers(
    data: Annotated[Path, typer.Argument(help="A .brain folder or .npz file.")],
    model: Annotated[
        str, typer.Option(help="A network: timm:NAME, or timm:NAME:FILE with weights from a file.")
    ],
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Dotted name of a layer; repeat it. By default all parts."),
    ] = None,
    pool: Annotated[str, typer.Option(help="avg or flatten.")] = "avg",
    untrained: Annotated[bool, typer.Option(help="The network with random weights only.")] = False,
    order: Annotated[str, typer.Option(help="ROIs from low to high, such as V1,V2,V4.")] = "",
    score: Annotated[str, typer.Option(help="r (ridge) or pls.")] = "r",
    cv: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    n_columns: Annotated[int, typer.Option(help="Columns that wide layers are reduced to.")] = 5000,
    n_images: Annotated[int | None, typer.Option(help="Map so many random images.")] = None,
    n_voxels: Annotated[int | None, typer.Option(help="Map so many random voxels.")] = None,
    n_bootstraps: Bootstraps = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    random_state: Annotated[int, typer.Option(help="Seed of folds, controls, resamples.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Map voxels and areas to the layers of a network, with random weights as a control."""
    import brainenc
    from brainenc.benchmarking.layer_result import check_layers_folder
    from brainenc.data.npz import load_data

    kind, _, name = model.partition(":")
    if kind != "timm" or not name:
        raise ValueError(f"--model {model!r} must be timm:NAME, such as timm:resnet18")
    name, _, file = name.partition(":")
    subject = load_data(data)
    out = out or Path(f"{subject.name}-layers")
    check_layers_folder(out)
    extractors = brainenc.network_layers(
        name,
        subject.images,
        layer or None,
        pool=pool,
        pretrained=file or not untrained,
        device=device,
        verbose=not quiet,
    )
    found = brainenc.layer_map(
        subject,
        extractors,
        order=[part.strip() for part in order.split(",") if part.strip()] or None,
        score=score,
        cv=cv,
        n_columns=n_columns,
        n_images=n_images,
        n_voxels=n_voxels,
        n_bootstraps=n_bootstraps,
        random_state=random_state,
        device=device,
        verbose=not quiet,
    )
    found.save(out)
    page = found.to_html(out / "layers.html")
    typer.echo(found.rois.drop(columns=["atlas"]).round(3).to_string(index=False))
    for kind, scores in found.hierarchy.items():
        typer.echo(f"hierarchy, {kind}: rho {scores['rho']:.3f}, p {scores['p']:.3g}")
    for warning in found.warnings:
        typer.echo(warning)
    typer.echo(page)
