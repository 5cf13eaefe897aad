"""Own data from outputs of GLMsingle, and its conversion to a folder."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.brain.surfaces import HEMISPHERES
from brainenc.data import from_volumes
from brainenc.data.encoding_data import EncodingData
from brainenc.data.open_betas import Grid, open_betas, volume_grid
from brainenc.data.trial_sources import Runs, SurfaceTrials, opened
from brainenc.data.volume_images import open_pictures
from brainenc.data.voxel_grids import VolumeGrid, as_hemispheres
from brainenc.datasets.glmsingle_files import Output, open_output
from brainenc.datasets.streaming import check_new, convert
from brainenc.datasets.trial_tables import check_conditions, read_trials
from brainenc.documentation import see

#: Units of GLMsingle's betas, unless its option ``wantpercentbold`` is 0.
UNITS = "percent signal change"


def load_glmsingle(
    path: Any,
    trials: Any,
    stimuli: Any,
    mask: Any,
    *,
    atlases: Any = None,
    labels: Any = None,
    images: Any = None,
    kind: str | None = None,
    image_column: str | None = None,
    units: str | None = None,
    name: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    affine: Any = None,
    space: str = "native",
    without_image: str = "refuse",
) -> EncodingData:
    """Betas that GLMsingle estimated, with their pictures, atlases and grid.

    Files of the Python version (``.npy``, ``.hdf5``) and of the MATLAB version (``.mat``) are read
    a part at a time. The pickled ``.npy`` files are read without running what they contain.

    Parameters
    ----------
    path : folder, file, dict, or a list of these, one per session
        A folder of outputs, a file such as ``TYPED_FITHRF_GLMDENOISE_RR.npy``, or its dict. Of
        surfaces ``{"lh": …, "rh": …}``, and `mask` a dict or None.
    trials : pandas.DataFrame, path, list of tables (one per run), array of pictures, or None
        One row per trial in order of presentation, with a column that names the picture (``image``,
        ``stim_file`` …) and perhaps ``session`` and ``run``; ``events.tsv`` of BIDS, too. None:
        the conditions of ``DESIGNINFO`` are the rows of the images.
    stimuli : folder, dict, list or array of images; or a table, pandas.DataFrame or .tsv
        A table travels with the data; the images are then the files that it names, or `images`.
    mask : path, image or array (X, Y, Z)
        Above 0 is inside. If GLMsingle was given (voxels, time), the mask that took them of the
        volume: ``volume[mask]`` in Python, ``volume(mask)`` in MATLAB.
    atlases, labels, image_size, affine, space, without_image
        As of `EncodingData.from_volumes`.
    images : folder, dict, list or array, optional
        Images, where `stimuli` is a table about them.
    kind : {"B", "C", "D"}, optional
        Model type to take of a folder; the last of them by default.
    image_column : str, optional
        Column of `trials` with the picture.
    units : str, optional
        "percent signal change" by default, as GLMsingle writes them.
    name : str, optional

    Returns
    -------
    EncodingData
        The voxel table also has GLMsingle's own maps: ``glmsingle_noise_ceiling``,
        ``glmsingle_R2`` and others, each with the number of the session behind if there are
        several. `EncodingData.noise_ceiling` does not use them. Infinite betas, where the mean
        signal is 0, are NaN.

    Raises
    ------
    FileNotFoundError : no such file or folder.
    ValueError : type A, which has no betas of trials; shapes that do not fit the mask; another
        number of trials than betas; a file with Python objects other than arrays.

    Warns
    -----
    UserWarning : trials whose pictures do not fit the conditions of ``DESIGNINFO``; and as
        `EncodingData.from_volumes`.

    Examples
    --------
    >>> import numpy as np
    >>> output = {"betasmd": np.random.default_rng(0).standard_normal((3, 3, 3, 6))}
    >>> images = {name: np.zeros((16, 16, 3), np.uint8) for name in ("cat", "dog")}
    >>> trials = {"image": ["cat", "dog", "dog", "cat", "dog", "cat"], "run": [1, 1, 1, 2, 2, 2]}
    >>> data = load_glmsingle(output, trials, images, np.ones((3, 3, 3), dtype=bool))
    >>> data.betas.shape, data.trials["run"].tolist()
    ((2, 3, 27), [1, 2, 2, 1, 1, 2])

    References
    ----------
    Prince et al. (2022), eLife 11, e77599; https://github.com/cvnlab/GLMsingle.
    """
    given: Any = {"atlases": atlases, "labels": labels, "images": images, "kind": kind}
    given |= {"image_column": image_column, "units": units, "name": name, "affine": affine}
    given |= {"image_size": image_size, "space": space, "without_image": without_image}
    return EncodingData(**from_volumes.load(glmsingle_plan(path, trials, stimuli, mask, **given)))


def convert_glmsingle(
    path: Any,
    out: str | os.PathLike,
    trials: Any,
    stimuli: Any,
    mask: Any,
    *,
    copy_images: bool = False,
    verbose: bool = True,
    **options: Any,
) -> Path:
    """Write outputs of GLMsingle as a ``.brain`` folder, some trials in memory at a time.

    After an interruption, the same call continues where it was.

    Parameters
    ----------
    path, trials, stimuli, mask
        As for `load_glmsingle`.
    out, copy_images, verbose
        As for `convert_volumes`.
    **options
        The other arguments of `load_glmsingle`.

    Returns
    -------
    pathlib.Path : `out`

    Raises
    ------
    FileExistsError, OSError : as for `convert_volumes`.
    FileNotFoundError, ValueError : as for `load_glmsingle`.
    """
    out = Path(out)
    check_new(out)
    plan = glmsingle_plan(path, trials, stimuli, mask, **options)
    return write_plan(plan, out, copy_images=copy_images, verbose=verbose)


def write_plan(
    plan: from_volumes.VolumesPlan, out: Path, *, copy_images: bool, verbose: bool
) -> Path:
    """Write a plan as a folder, and print what it is."""
    n_images, n_repeats, n_voxels = plan.shape
    described = (
        f"{plan.name}: {len(plan.trials)} trials of {n_images} images, up to {n_repeats} repeats, "
        f"{n_voxels} voxels"
    )
    if verbose:
        print(described, flush=True)
    lines, _ = convert(plan, out, copy_images=copy_images, verbose=verbose)
    if verbose and lines:
        print(*lines, sep="\n", flush=True)
    return out


def glmsingle_plan(
    path: Any,
    trials: Any,
    stimuli: Any,
    mask: Any,
    *,
    atlases: Any = None,
    labels: Any = None,
    images: Any = None,
    kind: str | None = None,
    image_column: str | None = None,
    units: str | None = None,
    name: str | None = None,
    image_size: Any = None,
    affine: Any = None,
    space: str = "native",
    without_image: str = "refuse",
) -> from_volumes.VolumesPlan:
    """Check arguments and files; see `load_glmsingle`."""
    paths = list(path) if isinstance(path, (list, tuple)) else [path]
    if not paths:
        raise ValueError("path is an empty list of sessions")
    first = as_hemispheres(paths[0], "path") if _has_hemispheres(paths[0]) else None
    grid: Grid
    if first is None:
        outputs = [open_output(one, kind) for one in paths]
        grid, source, columns = _volumes(outputs, mask, affine, space)
        designs = [_design(output) for output in outputs]
    else:
        grid, source, designs = _surfaces(paths, kind, mask)
        columns = {}
    conditions = _conditions(designs, source.lengths)
    if trials is None:
        if conditions is None:
            raise ValueError(
                "trials is missing, and there is no DESIGNINFO beside the betas that has the order "
                "of the conditions: give a table with the picture of each trial"
                + see("howto_own_data")
            )
        table = pd.DataFrame({"picture": conditions})
    else:
        table = read_trials(trials, source.n_trials, image_column)
        if conditions is not None:
            check_conditions(table["picture"], conditions, "DESIGNINFO")
    table = _sessions_and_runs(table, designs, source.lengths)
    is_table = isinstance(stimuli, pd.DataFrame) or (
        isinstance(stimuli, (str, os.PathLike)) and str(stimuli).endswith((".tsv", ".csv"))
    )
    about = stimuli if is_table else None
    pictures = open_pictures(images if is_table else stimuli, about, image_size=image_size)
    if trials is None and isinstance(pictures[1], Mapping):  # ids are keys, and no rows
        table["picture"] = _keys(table["picture"].to_numpy(), list(pictures[1]))
    if units is None:
        plain = any(not design.get("wantpercentbold", 1) for design in designs)
        units = "" if plain else UNITS
    return from_volumes.plan_trials(
        grid,
        source,
        table["picture"].to_numpy(),
        pictures,
        atlases=atlases,
        labels=labels,
        session=table.get("session"),
        run=table.get("run"),
        units=units,
        name=name,
        without_image=without_image,
        others=table.drop(columns=["picture", "session", "run"], errors="ignore"),
        of_voxels=pd.DataFrame(columns, index=range(grid.n_voxels)),
    )


def _has_hemispheres(path: Any) -> bool:
    return isinstance(path, Mapping) and {str(key).lower() for key in path} <= {*HEMISPHERES}


def _volumes(
    outputs: list[Output], mask: Any, affine: Any, space: str
) -> tuple[VolumeGrid, Runs, dict[str, np.ndarray]]:
    """Grid, trials, and GLMsingle's maps as columns of the voxel table."""
    grid = volume_grid([], mask, affine, space)
    sources, columns = [], {}
    for i, output in enumerate(outputs):
        sources.append(output.source(grid.inside))
        behind = f"_{i + 1}" if len(outputs) > 1 else ""
        for name, values in output.columns(grid.inside).items():
            columns[name + behind] = values
    return grid, Runs(sources), columns


def _surfaces(paths: list[Any], kind: str | None, mask: Any) -> tuple[Grid, Runs, list[dict]]:
    runs, designs = [], []
    for one in paths:
        parts = as_hemispheres(dict(one), "path")
        outputs = {side: open_output(part, kind) for side, part in (parts or {}).items()}
        designs.append(_design(next(iter(outputs.values()))))
        run = {}
        for side, output in outputs.items():
            with opened(output.betas) as values:
                flat = np.asarray(values, dtype=np.float32)
            flat = flat.T if output.matlab else flat
            run[side] = np.where(np.isinf(flat), np.nan, flat).reshape(-1, flat.shape[-1])
        runs.append(run)
    grid, source = open_betas(runs, mask)
    assert isinstance(source.sources[0], SurfaceTrials)
    return grid, source, designs


def _keys(conditions: np.ndarray, keys: list[Any]) -> list[Any]:
    """Key of the image of each condition."""
    if conditions.max() >= len(keys):
        raise ValueError(
            f"DESIGNINFO has {conditions.max() + 1} conditions, but there are {len(keys)} images: "
            "give trials, a table with the picture of each trial" + see("howto_own_data")
        )
    return [keys[condition] for condition in conditions.tolist()]


def _design(output: Output) -> dict[str, Any]:
    """What DESIGNINFO says; betas can do without a file that cannot be read."""
    try:
        return output.design()
    except ValueError as error:
        warnings.warn(f"the design is not used: {error}", stacklevel=4)
        return {}


def _conditions(designs: list[dict], lengths: list[int]) -> np.ndarray | None:
    """Condition of each trial, from 0, if it is known and fits the betas."""
    found = [design.get("stimorder") for design in designs]
    if any(values is None for values in found):
        return None
    for values, length in zip(found, lengths, strict=True):
        if len(values) != length:  # type: ignore[arg-type]
            warnings.warn(
                f"DESIGNINFO has {len(values)} trials, but the betas beside it {length}: "  # type: ignore[arg-type]
                "it is not used",
                stacklevel=4,
            )
            return None
    # Conditions of several fits may be numbered differently.
    return found[0] if len(found) == 1 else None


def _sessions_and_runs(
    table: pd.DataFrame, designs: list[dict], lengths: list[int]
) -> pd.DataFrame:
    """Sessions of several outputs, and runs of DESIGNINFO, where the table does not have them."""
    if "session" not in table and len(lengths) > 1:
        table = table.assign(session=np.repeat(np.arange(1, len(lengths) + 1), lengths))
    of_runs = [design.get("numtrialrun") for design in designs]
    fit = all(
        runs is not None and int(np.sum(runs)) == length
        for runs, length in zip(of_runs, lengths, strict=True)
    )
    if "run" not in table and fit:
        numbers = [np.repeat(np.arange(1, len(runs) + 1), runs) for runs in of_runs]  # type: ignore[arg-type]
        table = table.assign(run=np.concatenate(numbers))
    return table
