"""The command ``curve``: encoders over the number of images of a new subject."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from brainenc import terminal
from brainenc.cli_options import Bootstraps, Quiet

#: What may stand before the name of an encoder.
STARTS = ("prior", "adapt", "pretrain", "group-mean")


def make_curve(make_encoders: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """The command; `make_encoders` makes encoders of short names and features."""

    def curve(
        data: Annotated[
            list[Path],
            typer.Argument(
                help="The new subject, a .brain folder; several: each is the new one in turn.",
                metavar="DATA...",
            ),
        ],
        sources: Annotated[
            list[Path] | None, typer.Option(help="Data of another subject; may be repeated.")
        ] = None,
        encoders: Annotated[
            str,
            typer.Option(
                help="Short names, with commas; prior:, adapt: and pretrain:NAME use the sources."
            ),
        ] = "ridge",
        features: Annotated[str, typer.Option(help="As for `brainenc benchmark`.")] = "gabor",
        sizes: Annotated[str, typer.Option(help="Numbers of images, such as 25,50,100.")] = "",
        unit: Annotated[str, typer.Option(help="images or sessions.")] = "images",
        test: Annotated[
            float | None, typer.Option(help="Share of images to test; by default shared ones.")
        ] = None,
        n_draws: Annotated[int, typer.Option(help="Orders of the images.")] = 5,
        n_bootstraps: Bootstraps = 1000,
        out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
        store: Annotated[Path | None, typer.Option(help="Folder to keep features in.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
        n_jobs: Annotated[int, typer.Option(help="Fits at once.")] = 1,
        scheduler: Annotated[
            str | None, typer.Option(help="Dask scheduler (tcp://…) whose workers fit instead.")
        ] = None,
        random_state: Annotated[int, typer.Option(help="Seed of orders and resamples.")] = 0,
        quiet: Quiet = False,
    ) -> None:
        """Score encoders with few images of a new subject, with and without other subjects."""
        import brainenc
        from brainenc.data.npz import load_data

        targets = [load_data(path) for path in data]
        others = [load_data(path) for path in sources or []]
        out = out or Path(f"{targets[0].name}-curve")
        methods: dict[str, Any] = {}
        for name in (part.strip() for part in encoders.split(",")):
            start, _, encoder = name.rpartition(":")
            if start and start not in STARTS:
                raise ValueError(f"{name!r}: before the encoder stands {' or '.join(STARTS)}")
            for label, made in make_encoders(encoder, features, store=store, device=device).items():
                if start:
                    methods[f"{label}, {start}"] = brainenc.Transfer(made, start)
                else:
                    methods[label] = made
        with terminal.resumable("the fits that are finished"):
            found = brainenc.learning_curve(
                targets if len(targets) > 1 else targets[0],
                methods,
                sizes=_numbers(sizes),
                sources=others,
                unit=unit,
                test=test,
                n_draws=n_draws,
                n_bootstraps=n_bootstraps,
                out=out,
                n_jobs=n_jobs,
                scheduler=scheduler,
                random_state=random_state,
                verbose=not quiet,
            )
        typer.echo(found.table().to_string())
        for warning in found.warnings:
            typer.echo(warning)
        typer.echo(out / "curve.html")

    return curve


def _numbers(text: str) -> list[int] | None:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise ValueError(f"sizes={text!r} has {wrong[0]!r}, which is no number")
    return [int(part) for part in parts] or None
