"""Commands that score fitted encoders and groups of subjects."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from brainenc.cli_options import Bootstraps, Check, Draws, Permutations, Quiet, ZScore
from brainenc.cli_output import show_benchmark, show_group


def make_evaluate(debug: Callable[[], bool]) -> Callable[..., None]:
    """The command ``evaluate``; `debug` says whether tracebacks are shown."""

    def evaluate(
        data: Annotated[
            Path, typer.Argument(help="Test data: a .brain folder or .npz file.", metavar="DATA")
        ],
        models: Annotated[
            list[str],
            typer.Argument(help="Folders of saved encoders, or NAME=FOLDER.", metavar="MODEL..."),
        ],
        train: Annotated[
            Path | None, typer.Option(help="Data they were fitted to, for leaks and units of z.")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
        n_bootstraps: Bootstraps = 1000,
        n_permutations: Permutations = 1000,
        n_draws: Draws = None,
        zscore: ZScore = False,
        random_state: Annotated[int, typer.Option(help="Seed of resamples.")] = 0,
        device: Annotated[
            str | None, typer.Option(help="auto, cpu, cuda, …; by default as when fitted.")
        ] = None,
        check: Check = True,
        quiet: Quiet = False,
    ) -> None:
        """Score fitted encoders on test data, without fitting, and write a report."""
        import brainenc
        from brainenc.data.npz import load_data

        encoders = named_folders(models, {folder: Path(folder).name for folder in models})
        loaded, trained = load_data(data), None if train is None else load_data(train)
        if zscore:
            loaded = loaded.zscore_by_session()
            trained = None if trained is None else trained.zscore_by_session()
        out = out or Path(f"{loaded.name}-evaluation")
        result = brainenc.evaluate(
            loaded,
            encoders,
            train=trained,
            out=out,
            n_bootstraps=n_bootstraps,
            n_permutations=n_permutations,
            n_draws=n_draws,
            random_state=random_state,
            device=device,
            check=check,
            verbose=not quiet,
        )
        show_benchmark(result, out, debug=debug())

    return evaluate


def group(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders that `brainenc benchmark` wrote, one per subject, or NAME=FOLDER.",
            metavar="RUN...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables and report.")],
    test: Annotated[str, typer.Option(help="t, signflip or hierarchical.")] = "t",
    random_state: Annotated[int, typer.Option(help="Seed of resamples.")] = 0,
) -> None:
    """Compare encoders over subjects, from the finished run of each, and write a report."""
    import brainenc
    from brainenc.benchmarking.group_result import check_group_folder
    from brainenc.benchmarking.group_tests import check_test

    check_test(test)
    check_group_folder(out)
    names = {}
    for run in runs:
        if not _is_named(run):
            manifest = brainenc.BenchmarkResult.load(run).manifest
            names[run] = str(manifest.get("data", {}).get("name", Path(run).name))
    found = brainenc.group(named_folders(runs, names), test=test, random_state=random_state)
    show_group(found, found.save(out))


def named_folders(given: list[str], names: dict[str, str]) -> dict[str, str]:
    """Folders by name, each given as NAME=FOLDER or as a folder with a name of its own.

    Parameters
    ----------
    given : list of str
    names : dict of folder to name
        For those without.

    Raises
    ------
    ValueError : two have one name, or a name is empty.
    """
    found: dict[str, str] = {}
    for text in given:
        name, folder = text.split("=", 1) if _is_named(text) else (names[text], text)
        if not name.strip():
            raise ValueError(f"{text!r} has an empty name: give NAME=FOLDER")
        if name in found:
            raise ValueError(
                f"{found[name]} and {folder} both have the name {name!r}: give names, such as "
                f"other={folder}"
            )
        found[name] = folder
    return found


def _is_named(text: str) -> bool:
    """Whether a text is NAME=FOLDER: a folder whose own name has "=" is a folder."""
    return "=" in text and not Path(text).exists()
