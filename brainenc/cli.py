"""The command line: the same functions as from Python, with paths for arguments."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from brainenc import (
    cli_convert,
    cli_curve,
    cli_decode,
    cli_describe,
    cli_download,
    cli_experiment,
    cli_layers,
    cli_partition,
    cli_scores,
    terminal,
)
from brainenc.cli_options import Bootstraps, Check, Draws, Permutations, Quiet, ZScore, numbers
from brainenc.cli_output import ceiling_columns, ceiling_line, show_benchmark

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[Path, typer.Argument(help="A .brain folder or an .npz file.", metavar="DATA")]
Model = Annotated[Path, typer.Argument(help="A folder that `brainenc fit` wrote.", metavar="MODEL")]
Images = Annotated[str, typer.Argument(help="A folder, a glob or an .npy file.", metavar="IMAGES")]
Features = Annotated[
    str,
    typer.Option(
        help="pixels, gabor, efficientnet-lite0, efficientnet-lite0:LAYER, openclip or "
        "openclip:MODEL:PRETRAINED; several with commas."
    ),
]
Store = Annotated[Path | None, typer.Option(help="Folder to keep computed features in.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
OtherDevice = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda, …; by default as when it was fitted.")
]
Background = Annotated[
    str | None, typer.Option(help="Colour behind transparent pixels, such as white or #808080.")
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for tables and report.")] = Path(
        "brainenc-demo"
    ),
    n_images: Annotated[int, typer.Option(help="Images of the simulated subject.")] = 600,
    n_voxels: Annotated[int, typer.Option(help="Its voxels.")] = 800,
    quiet: Quiet = False,
) -> None:
    """Compare the encoders on a simulated subject: no download, no GPU."""
    import brainenc
    from brainenc.demo import compare, decode, reductions

    data = brainenc.datasets.simulate_subject(n_images, n_voxels, verbose=not quiet)
    typer.echo(repr(data))
    typer.echo(reductions())
    with terminal.resumable("the fits that are finished"):
        result = compare(data, out, verbose=not quiet)
        decoded = decode(data, out / "decoding", verbose=not quiet)
    typer.echo(f"Decoding, which image was seen: {decoded!r}")
    typer.echo(f"{out / 'decoding' / 'decoding.html'}\n")
    show_benchmark(result, out, debug=_state["debug"])


@app.command()
def benchmark(
    data: Data,
    encoders: Annotated[
        str, typer.Option(help="Short names, with commas; `brainenc info` lists them.")
    ] = "mean,ridge",
    features: Features = "gabor",
    cv: Annotated[str, typer.Option(help="Folds over images; similar: of near copies.")] = "5",
    groups: Annotated[str | None, typer.Option(help="Trial column to keep together.")] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Fixed test set: text file of image names, or .npy mask or positions."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="brain-score: 10 random 90/10 splits, median r² / split-half ceiling."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and report.")] = None,
    n_bootstraps: Bootstraps = 1000,
    n_permutations: Permutations = 1000,
    n_draws: Draws = None,
    controls: Annotated[bool, typer.Option(help="Null controls: permuted, untrained.")] = True,
    n_jobs: Annotated[int, typer.Option(help="Fits at once.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler (tcp://…) whose workers fit instead.")
    ] = None,
    zscore: ZScore = False,
    random_state: Annotated[int, typer.Option(help="Seed of folds and resamples.")] = 0,
    check: Check = True,
    check_memory: Annotated[bool, typer.Option(help="Estimate memory and disk first.")] = True,
    store: Store = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Score encoders voxel by voxel and per ROI on held-out images, and write a report."""
    import brainenc
    from brainenc.benchmarking.fixed_test import read_test_set
    from brainenc.data.npz import load_data

    loaded = load_data(data)
    loaded = loaded.zscore_by_session() if zscore else loaded
    out = out or Path(f"{loaded.name}-benchmark")
    with terminal.resumable("the fits that are finished"):
        result = brainenc.benchmark(
            loaded,
            _make_encoders(encoders, features, store=store, device=device),
            cv=int(cv) if cv.isdecimal() else cv,
            groups=groups,
            test=None if test is None else read_test_set(test, loaded),
            out=out,
            n_bootstraps=n_bootstraps,
            n_permutations=n_permutations,
            n_draws=n_draws,
            controls=controls,
            n_jobs=n_jobs,
            scheduler=scheduler,
            random_state=random_state,
            check=check,
            check_memory=check_memory,
            verbose=not quiet,
            protocol=protocol,
        )
    show_benchmark(result, out, debug=_state["debug"])


@app.command()
def fit(
    encoder: Annotated[
        str, typer.Argument(help="Short name; `brainenc info` lists them.", metavar="ENCODER")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the fitted encoder.")],
    features: Features = "gabor",
    check: Check = True,
    store: Store = None,
    device: Device = "auto",
) -> None:
    """Fit an encoder to all images and save it."""
    from brainenc.data.npz import load_data
    from brainenc.encoders.saving import check_model_folder
    from brainenc.process_state import interruption_ends_fit

    check_model_folder(out)
    loaded = load_data(data)
    made = _make_encoders(encoder, features, store=store, device=device)
    if len(made) != 1:
        raise ValueError(f"fit takes one encoder and one set of features, not {list(made)}")
    if check:
        loaded.check()
    with interruption_ends_fit():
        fitted = next(iter(made.values())).fit(loaded.images, loaded.betas)
    typer.echo(fitted.save(out, voxels=loaded.voxels))


@app.command()
def predict(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="The .npy file to write.")],
    device: OtherDevice = None,
    background: Background = None,
) -> None:
    """Expected responses: (n_images, n_voxels). Image files of the rows go to OUT.rows.csv."""
    import brainenc
    from brainenc.data.images import open_images
    from brainenc.prediction_files import save_predictions
    from brainenc.storage import check_file_path

    check_file_path(out)
    opened = open_images(images, background=background)
    predictions = brainenc.load(model, device=device).predict(opened)
    typer.echo(save_predictions(out, predictions, opened))


@app.command()
def sample(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="The .npy file to write.")],
    n: Annotated[int, typer.Option("-n", help="Draws per image.")] = 5,
    random_state: Annotated[int | None, typer.Option(help="Seed.")] = None,
    device: OtherDevice = None,
    background: Background = None,
) -> None:
    """Single-trial draws: (n, n_images, n_voxels). Image files of the rows go to OUT.rows.csv."""
    import brainenc
    from brainenc.data.images import open_images
    from brainenc.prediction_files import save_rows
    from brainenc.storage import check_file_path

    check_file_path(out)
    encoder = brainenc.load(model, device=device)
    opened = open_images(images, background=background)
    draws = encoder.sample(opened, n=n, random_state=random_state, out=out)
    typer.echo(save_rows(out, draws, opened))


@app.command("check")
def check_data(
    data: Data,
    n_images: Annotated[int, typer.Option(help="Images drawn at random to look at.")] = 600,
    random_state: Annotated[int, typer.Option(help="Seed.")] = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Compare checksums of files.")] = False,
) -> None:
    """Test whether images and betas belong together; exit status 1 if something is suspicious."""
    from brainenc.data.npz import load_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its text is printed below
        loaded = load_data(data, verify=verify or None)
        found = loaded.check(n_images=n_images, random_state=random_state)
    typer.echo(f"{found.verdict}: {found.message}")
    if found.session is not None:
        typer.echo(f"sessions: {found.session.message}")
    if found.warnings:
        raise typer.Exit(1)


@app.command("noise-ceiling")
def noise_ceiling(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="CSV file, one row per voxel.")] = None,
) -> None:
    """Noise ceiling of r and R² against repeat averages, by ROI."""
    from brainenc.csv_files import write_csv
    from brainenc.data.npz import load_data
    from brainenc.storage import check_file_path

    if out is not None:
        check_file_path(out)
    loaded = load_data(data)
    ceiling = loaded.noise_ceiling(n_bootstraps=0 if out is None else 1000)
    by_roi = ceiling.table(loaded.rois()).dropna(axis=1, how="all").round(3)
    typer.echo(by_roi.to_string(index=False))
    typer.echo(ceiling_line(ceiling))
    if out is not None:
        table = loaded.voxels.assign(**ceiling_columns(ceiling))
        write_csv(out, table, index=True, index_label="voxel")
        typer.echo(out)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="A folder that `brainenc benchmark` wrote.", metavar="FOLDER")
    ],
    out: Annotated[Path | None, typer.Option(help="The HTML file.")] = None,
    surface: Annotated[
        str, typer.Option(help="Maps on the cortex: static, interactive or none.")
    ] = "static",
) -> None:
    """Write the HTML report of a finished benchmark anew."""
    from brainenc.benchmarking import BenchmarkResult
    from brainenc.storage import check_file_path

    out = check_file_path(out or folder / "report.html")
    typer.echo(BenchmarkResult.load(folder).to_html(out, surface=surface))


app.command("evaluate")(cli_scores.make_evaluate(lambda: _state["debug"]))
app.command("group")(cli_scores.group)
app.command("layers")(cli_layers.layers)
app.command("partition")(cli_partition.partition)
app.command("describe")(cli_describe.describe)
app.command("experiment")(cli_experiment.experiment)
app.command("curve")(
    cli_curve.make_curve(lambda names, features, **how: _make_encoders(names, features, **how))
)
app.command("decode")(
    cli_decode.make_decode(lambda names, features, **how: _make_encoders(names, features, **how))
)


@app.command()
def info() -> None:
    """Versions, hardware, and the encoders and features there are."""
    from brainenc.benchmarking.manifest import hardware, versions
    from brainenc.encoders import ENCODERS
    from brainenc.features import FEATURES

    for name, value in {**versions(), **hardware()}.items():
        typer.echo(f"{name:16} {value}")
    typer.echo(f"{'encoders':16} {', '.join(ENCODERS)}")
    typer.echo(f"{'features':16} {', '.join(FEATURES)}")


convert = typer.Typer(no_args_is_help=True, help="Write own or public data as .brain folders.")
app.add_typer(convert, name="convert")
convert.command("volumes")(cli_convert.volumes)
convert.command("glmsingle")(cli_convert.glmsingle)


@convert.command("nsd")
def convert_nsd(
    root: Annotated[
        Path,
        typer.Argument(
            help="The folder that holds nsddata, nsddata_betas, nsddata_stimuli.", metavar="ROOT"
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .brain folder to write.")],
    subject: Annotated[int, typer.Option(help="1 … 8.")] = 1,
    units: Annotated[str, typer.Option(help="percent (signal change) or zscore.")] = "percent",
    space: Annotated[str, typer.Option(help="func1pt8mm or fsaverage.")] = "func1pt8mm",
    betas: Annotated[str, typer.Option(help="Beta version.")] = "betas_fithrf_GLMdenoise_RR",
    file_format: Annotated[str, typer.Option(help="hdf5, nifti or auto.")] = "auto",
    mask: Annotated[
        str, typer.Option(help="An atlas, ATLAS:LABEL,LABEL, a mask file, or all (fsaverage).")
    ] = "nsdgeneral",
    sessions: Annotated[str, typer.Option(help="For example 1-37 or 1,2,5; all if empty.")] = "",
    one_hour: Annotated[
        str | None, typer.Option(help="Train on one hour: images (250 × 3 trials) or session.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this square.")] = None,
    copy_images: Annotated[
        bool, typer.Option("--copy-images", help="Copy images; else refer to their HDF5 file.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Convert a subject of NSD, session by session; a stopped run goes on where it was."""
    from brainenc import datasets

    try:
        with terminal.resumable("the sessions that are finished"):
            path = datasets.convert_nsd(
                root,
                out,
                subject,
                units=units,
                space=space,
                betas=betas,
                file_format=file_format,
                mask=mask,
                sessions=numbers(sessions),
                one_hour=one_hour,
                image_size=image_size,
                copy_images=copy_images,
                verbose=not quiet,
            )
    except FileNotFoundError as error:  # a file per line
        typer.echo(f"brainenc: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(path)


download = typer.Typer(no_args_is_help=True, help="List or fetch the files of a public data set.")
app.add_typer(download, name="download")


download.command("nsd")(cli_download.nsd)


def _print_version(wanted: bool) -> None:
    if wanted:
        from brainenc import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the whole traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Encoding models of the human visual cortex: images in, voxel responses out."""
    _state["debug"] = debug


_state: dict[str, bool] = {"debug": False}


def main() -> None:
    """Run the command line; an error a user can mend is one line on stderr and exit status 2."""
    sys.exit(terminal.run(app, lambda: _state["debug"]))


def _make_encoders(names: str, features: str, *, store: Path | None, device: str) -> dict[str, Any]:
    """Encoders by name, on each set of features; those of several feature spaces on all of them."""
    from brainenc.devices import resolve_device
    from brainenc.encoders import make_encoder
    from brainenc.encoders.spaces import FeatureSpaces
    from brainenc.features import make_features

    for option, text in {"encoders": names, "features": features}.items():
        if not _listed(text):
            raise ValueError(f"{option}={text!r} names none; `brainenc info` lists them")
    resolve_device(device)  # an error now and not after the first fit
    extractors = {spec: make_features(spec, store=store) for spec in _listed(features)}
    made: dict[str, Any] = {}
    for name in _listed(names):
        if name == "mean":
            made[name] = make_encoder(name)
        elif isinstance(make_encoder(name), FeatureSpaces) and (
            name == "banded" or len(extractors) > 1
        ):
            made[name] = make_encoder(name, features=extractors, device=device)
        else:
            # Those made of other encoders leave the device to these.
            has_device = "device" in make_encoder(name).get_params(deep=False)
            options = {"device": device} if has_device else {}
            for spec, extractor in extractors.items():
                label = name if len(extractors) == 1 else f"{name} ({spec})"
                made[label] = make_encoder(name, features=extractor, **options)
    return made


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


if __name__ == "__main__":
    main()
