"""What commands show at their end."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from brainenc import terminal

if TYPE_CHECKING:
    from brainenc.benchmarking import BenchmarkResult, GroupResult


def ceiling_line(ceiling: Any) -> str:
    """What the ceiling is from, and for averages of how many trials."""
    import numpy as np

    if np.isnan(ceiling.values).all():
        return (
            "No voxel has a noise ceiling: that takes images with repeats, or a column ncsnr in "
            "the voxel table."
        )
    extremes = np.nanmin(ceiling.n_trials), np.nanmax(ceiling.n_trials)  # voxels may differ
    n_trials = " to ".join(dict.fromkeys(f"{n:.3g}" for n in extremes))
    return f"From {ceiling.estimator}, for averages of {n_trials} trials (1 / the mean of 1/n)."


def ceiling_columns(ceiling: Any) -> dict[str, Any]:
    """Ceiling of R² and of r per voxel, with intervals if it has them, by name of column."""
    columns = {}
    for space in ("r2", "r"):
        converted = ceiling.to(space)
        columns[space] = converted.values
        if converted.interval is not None:
            columns[f"{space}_low"], columns[f"{space}_high"] = converted.interval
    return columns


def show_files(files: Any, root: Path) -> None:
    """Files of NSD, a line each, then what they take together and NSD's terms.

    Parameters
    ----------
    files : pandas.DataFrame
        Of `brainenc.datasets.nsd_files`.
    root : path
        The folder that some of them may be in.
    """
    from brainenc.memory import size

    there = [(root / path).exists() for path in files["path"]]
    for row, exists in zip(files.itertuples(), there, strict=True):
        # So few bytes are less than the 1 MiB that sizes are rounded to.
        kib = f"{max(1, round(row.n_bytes / 1024))} KiB"
        text = size(row.n_bytes) if row.n_bytes >= 2**20 else kib
        about = text if row.size == "computed" else f"~{text}"
        state = "there" if exists else "" if row.needed else "optional"
        typer.echo(f"{about:>10}  {state:8}  {row.path}")
    missing = files[[not exists for exists in there]]
    typer.echo(
        f"{len(files)} files of s3://natural-scenes-dataset, {size(files['n_bytes'].sum())}; "
        f"{len(missing)} of them, {size(missing['n_bytes'].sum())}, are not in {root}. ~ is an "
        "estimate. Before you fetch them, NSD asks for its Data Access Agreement: "
        "naturalscenesdataset.org"
    )


def show_benchmark(result: "BenchmarkResult", out: Path, *, debug: bool) -> None:
    """Report on disk, then table and warnings in the terminal, the path of the report last.

    What fails of these costs itself alone.

    Parameters
    ----------
    result : BenchmarkResult
    out : path
        Folder of the run.
    debug : bool
        Raise the error of a report that cannot be made.

    Raises
    ------
    typer.Exit : status 2 if tables or report are not written, 1 if an encoder failed.
    """
    from brainenc.benchmarking.result import NOT_SAVED

    failed = [warning for warning in result.warnings if warning.startswith(NOT_SAVED)]
    report = None
    try:
        report = result.to_html(out / "report.html").resolve()
    except Exception as error:
        if debug:
            raise
        failed.append(
            f"the report is not written ({type(error).__name__}: {terminal.one_line(error)}); "
            f"`brainenc report {out}` writes it, and needs no fits"
        )
    _print_table(result)
    typer.echo(f"tables: {', '.join(path.name for path in sorted(out.glob('*.csv')))} in {out}")
    for problem in failed:
        terminal.say_error(problem)
    if report is not None:
        typer.echo(report)
    if failed or (result.encoders["error"] != "").any():
        raise typer.Exit(2 if failed else 1)


def show_group(result: "GroupResult", out: Path) -> None:
    """Report on disk, then differences and warnings in the terminal, the path of the report last.

    Parameters
    ----------
    result : GroupResult
    out : path
        Folder of its tables.
    """
    report = result.to_html(out / "group.html").resolve()
    for line in repr(result).splitlines():
        typer.echo(terminal.printable(line))
    for warning in result.warnings:
        typer.echo(f"! {terminal.printable(warning)}")
    typer.echo(f"tables: {', '.join(path.name for path in sorted(out.glob('*.csv')))} in {out}")
    typer.echo(report)


def _print_table(result: "BenchmarkResult") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:  # a log file has room
        console = Console(width=120)
    data = terminal.printable(result.manifest["data"]["name"])
    title = Text(f"Scores on held-out images of {data}")
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("encoder", min_width=12)
    summary = result.summary()
    columns = ["noise_ceiling", "r_normalized", "mse_z"]
    titles = ["r [95 %]", "ceiling", "r/ceiling", "MSE (z)", "fit (s)"]
    if "brain_score" in summary:
        columns, titles = [*columns, "brain_score"], [*titles[:-1], "brain_score", titles[-1]]
    for column in titles:
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in summary.iterrows():
        interval = f" [{row['r_low']:.3f}, {row['r_high']:.3f}]" if row["r"] == row["r"] else ""
        cells = [_number(row["r"]) + interval]
        for column in columns:
            cells.append(_number(row[column]))
        cells.append(_number(row["fit_seconds"], digits=1))
        # As text: names are not rich's markup.
        table.add_row(Text(terminal.printable(name)), *map(Text, cells))
    console.print(table)
    for warning in result.warnings:
        console.print(Text(f"! {terminal.printable(warning)}"), style="yellow", highlight=False)


def _number(value: float, digits: int = 3) -> str:
    return "–" if value != value else f"{value:.{digits}f}"
