"""Own volumes or surfaces with pictures: checked, described, and read some trials at a time.

`make_plan` opens and checks everything but the betas themselves; `load` reads them into memory, and
`brainenc.datasets.streaming` writes them to a folder.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import blocks
from brainenc.brain.volumes import Volume
from brainenc.conversion import column
from brainenc.data.atlases import atlas_table
from brainenc.data.image_ids import image_positions
from brainenc.data.images import take_images
from brainenc.data.open_betas import Grid, open_betas
from brainenc.data.stimuli import NAME, positions_known
from brainenc.data.trial_sources import Runs, TrialSource
from brainenc.data.volume_images import Names, open_pictures
from brainenc.documentation import see
from brainenc.storage import fingerprint

#: Bytes of betas that are read at a time.
BLOCK = 2**27

#: Text that stands for no picture, as in tables of BIDS.
_NO_PICTURE = ("", "n/a", "nan", "None")


@dataclass(frozen=True, eq=False)
class VolumesPlan:
    """What to read, checked.

    Attributes
    ----------
    source : Runs
    voxels : pandas.DataFrame
    trials : pandas.DataFrame
        ``image``, ``repeat``, ``trial`` (position among the volumes), and other columns; in order
        of presentation.
    images, stimuli
        Those that were shown.
    volume : Volume or None
    name, unit_name : str
    mask_key : str
        Hash of the mask.
    """

    source: Runs
    voxels: pd.DataFrame
    trials: pd.DataFrame
    images: Any
    stimuli: pd.DataFrame
    volume: Volume | None
    name: str
    unit_name: str
    mask_key: str

    @property
    def part_name(self) -> str:
        """What is read at a time."""
        return "block"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, repeats and voxels."""
        return len(self.images), int(self.trials["repeat"].max()) + 1, len(self.voxels)

    @property
    def _slices(self) -> list[slice]:
        return list(blocks(self.source.n_trials, max(1, BLOCK // (4 * len(self.voxels)))))

    @property
    def parts(self) -> list[int]:
        """Numbers of the blocks, from 1."""
        return list(range(1, len(self._slices) + 1))

    def fingerprint(self) -> str:
        """Of files, mask and trials, by which a stopped conversion goes on or starts over."""
        paths = [Path(path) for path in self.source.files]
        stats = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        places = self.trials[["image", "repeat", "trial"]].to_numpy(dtype=np.int64)
        in_memory = [_content(one) for one in self.source.sources if not one.files]
        return fingerprint(stats, in_memory, self.shape, self.mask_key, BLOCK, places)

    def read(self, part: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """One block.

        Returns
        -------
        trials : pandas.DataFrame
            Its ``trial`` counts within the block.
        betas : array, shape (n_trials, n_voxels), float32
        has_data : array of bool
            Of the voxels, then of the trials of the block.
        """
        rows = self._slices[part - 1]
        betas = self.source.read(rows)
        first, last = np.searchsorted(self.trials["trial"], [rows.start, rows.stop])
        trials = self.trials.iloc[first:last]
        trials = trials.assign(trial=trials["trial"] - rows.start)
        known = ~np.isnan(betas)
        return trials, betas, np.concatenate([known.any(axis=0), known.any(axis=1)])

    def tables(self, has_data: Sequence[np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tables of voxels and trials, given what `read` found; trials without data are left out.

        Warns
        -----
        UserWarning : trials or voxels without data.
        """
        n_voxels = len(self.voxels)
        voxel = np.any([found[:n_voxels] for found in has_data], axis=0)
        trial = np.concatenate([found[n_voxels:] for found in has_data])
        present = trial[self.trials["trial"]]
        if not present.any():
            raise ValueError("betas hold nothing but NaN inside the mask: there is nothing to fit")
        if n_missing := int((~present).sum()):
            warnings.warn(
                f"{n_missing} trials have only NaN inside the mask and are left out, the first of "
                f"them volume {self.trials['trial'].to_numpy()[np.argmin(present)]} (from 0)",
                stacklevel=2,
            )
        if n_empty := int((~voxel).sum()):
            warnings.warn(
                f"{n_empty} of {n_voxels} voxels of the mask have only NaN; they stay, as NaN",
                stacklevel=2,
            )
        trials = self.trials[present].sort_values(["image", "repeat"], ignore_index=True)
        return self.voxels, trials


def make_plan(
    betas: Any,
    mask: Any,
    image_ids: Any,
    images: Any,
    *,
    atlases: Any = None,
    labels: Any = None,
    session: Any = None,
    run: Any = None,
    stimuli: Any = None,
    units: str = "",
    name: str | None = None,
    image_size: Any = None,
    axes: str | None = None,
    affine: Any = None,
    space: str = "native",
    without_image: str = "refuse",
) -> VolumesPlan:
    """Check arguments and files; see `brainenc.EncodingData.from_volumes`."""
    ids, of_runs = _ids(image_ids)
    grid, source = open_betas(betas, mask, axes=axes, affine=affine, space=space, n_trials=len(ids))
    _check_runs(of_runs, source)
    pictures = open_pictures(images, stimuli, image_size=image_size)
    given: Any = {"atlases": atlases, "labels": labels, "session": session, "run": run}
    given |= {"units": units, "name": name, "without_image": without_image}
    return plan_trials(grid, source, ids, pictures, **given)


def plan_trials(
    grid: Grid,
    source: Runs,
    image_ids: Any,
    pictures: tuple[Any, Names, pd.DataFrame],
    *,
    atlases: Any = None,
    labels: Any = None,
    session: Any = None,
    run: Any = None,
    units: str = "",
    name: str | None = None,
    without_image: str = "refuse",
    others: pd.DataFrame | None = None,
    of_voxels: pd.DataFrame | None = None,
    presented: np.ndarray | None = None,
) -> VolumesPlan:
    """Plan of trials that are open already.

    Parameters
    ----------
    grid, source
        As `open_betas` gives them.
    image_ids : array, shape (n_trials,)
    pictures : tuple
        As `open_pictures` gives them.
    atlases, labels, session, run, units, name, without_image
        As of `brainenc.EncodingData.from_volumes`.
    others : pandas.DataFrame, n_trials rows, optional
        Further columns of the trial table.
    of_voxels : pandas.DataFrame, n_voxels rows, optional
        Further columns of the voxel table.
    presented : array, shape (n_trials,), optional
        What increases from trial to trial in the order of presentation, if volumes are in another
        order; repeats are counted in this order.
    """
    if without_image not in ("refuse", "leave out"):
        raise ValueError(f"without_image={without_image!r} must be 'refuse' or 'leave out'")
    ids = _ids(image_ids)[0]
    _check_count(ids, source)
    columns: dict[str, Any] = {
        "session": _of_trials(session, source, "session"),
        "run": _of_trials(run, source, "run"),
    }
    if run is None and 1 < len(source.lengths) < source.n_trials:
        columns["run"] = np.repeat(np.arange(1, len(source.lengths) + 1), source.lengths)
    images, names, table = pictures
    row, kept = _pictures(ids, len(images), names, without_image)
    shown, image = np.unique(row[kept], return_inverse=True)
    _say_unshown(shown, len(images), table)
    trials = pd.DataFrame({"image": image, "trial": np.flatnonzero(kept)})
    order = np.arange(len(ids)) if presented is None else np.asarray(presented)
    in_order = trials.iloc[np.argsort(order[kept], kind="stable")]
    trials.insert(1, "repeat", in_order.groupby("image").cumcount())
    if others is not None:
        columns |= {str(key): others[key].to_numpy() for key in others if key not in columns}
    for key, values in columns.items():
        if values is not None and key not in trials:
            trials[key] = values[kept]
    voxels = pd.concat([grid.table(), atlas_table(grid, atlases, labels), of_voxels], axis=1)
    return VolumesPlan(
        source=source,
        voxels=voxels,
        trials=trials,
        images=take_images(images, shown),
        stimuli=table.iloc[shown].reset_index(drop=True),
        volume=grid.volume,
        name=name or _default_name(source),
        unit_name=units,
        mask_key=fingerprint(grid.table().to_csv()),
    )


def load(plan: VolumesPlan) -> dict[str, Any]:
    """Read all betas; the parts of `brainenc.EncodingData` by name.

    Images that only trials without data showed are left out.
    """
    grouped = np.full(plan.shape, np.nan, dtype=np.float32)
    has_data = []
    for part in plan.parts:
        trials, betas, found = plan.read(part)
        grouped[trials["image"], trials["repeat"]] = betas[trials["trial"]]
        has_data.append(found)
    voxels, trials = plan.tables(has_data)
    images, stimuli = plan.images, plan.stimuli
    kept, image = np.unique(trials["image"], return_inverse=True)
    if len(kept) < len(images):
        grouped, images = grouped[kept], take_images(images, kept)
        stimuli, trials = stimuli.iloc[kept], trials.assign(image=image)
    return {
        "images": images,
        "betas": grouped,
        "voxels": voxels,
        "trials": trials,
        "name": plan.name,
        "volume": plan.volume,
        "units": plan.unit_name,
        "stimuli": stimuli,
    }


def _content(source: TrialSource) -> str:
    """Hash of trials that are in no file."""
    return fingerprint([fingerprint(source.read(rows)) for rows in blocks(source.n_trials, 64)])


# ------------------------------------------------------------------ trials


def _ids(image_ids: Any) -> tuple[np.ndarray, list[int] | None]:
    """Id of each trial, and their number in each run if they are given by run."""
    listed = isinstance(image_ids, (list, tuple)) and len(image_ids) > 0
    if listed and all(np.ndim(one) == 1 for one in image_ids):
        runs = [column(one, "image_ids", "n_trials") for one in image_ids]
        return np.concatenate([_objects(one) for one in runs]), [len(one) for one in runs]
    return _objects(column(image_ids, "image_ids", "n_trials")), None


def _objects(values: np.ndarray) -> np.ndarray:
    found = np.empty(len(values), dtype=object)
    found[:] = values.tolist()
    return found


def _check_runs(of_runs: list[int] | None, source: Runs) -> None:
    """Check that ids which are given by run fit each run."""
    if of_runs is not None and len(of_runs) == len(source.lengths):
        for i, (given, there) in enumerate(zip(of_runs, source.lengths, strict=True)):
            if given != there:
                raise ValueError(
                    f"{source.sources[i].name} has {there} volumes, but image_ids has {given} for "
                    f"run {i + 1}: one id per volume is needed" + see("howto_own_data")
                )


def _check_count(ids: np.ndarray, source: Runs) -> None:
    if len(ids) != source.n_trials:
        runs = f" ({' + '.join(map(str, source.lengths))})" if len(source.lengths) > 1 else ""
        raise ValueError(
            f"betas has {source.n_trials} trials{runs}, but image_ids has {len(ids)}: one id per "
            "trial is needed, in the order of the volumes" + see("howto_own_data")
        )


def _of_trials(values: Any, source: Runs, name: str) -> np.ndarray | None:
    """A value per trial, given so or one for each run."""
    if values is None:
        return None
    if np.ndim(values) == 0:
        return np.repeat(values, source.n_trials)
    found = column(values, name, "n_trials")
    if len(found) == source.n_trials:
        return found
    if len(found) == len(source.lengths):
        return np.repeat(found, source.lengths)
    raise ValueError(
        f"{name} has {len(found)} values, but there are {source.n_trials} trials in "
        f"{len(source.lengths)} runs: one value for each trial or for each run is needed"
        + see("howto_own_data")
    )


def _pictures(
    ids: np.ndarray, n_images: int, names: Names, without_image: str
) -> tuple[np.ndarray, np.ndarray]:
    """Row of the image of each trial, and which trials have one."""
    none = np.array([_is_missing(one) for one in ids])
    row = np.full(len(ids), -1)
    if without_image == "leave out":
        if names is not None:
            row[~none] = positions_known(ids[~none], names)
        else:
            row[~none] = image_positions(_plain(ids[~none]), n_images)
        kept = row >= 0
        if not kept.any():
            image_positions(_plain(ids[~none]), n_images, names)  # says what is wrong with all
            raise ValueError("image_ids has no picture for any trial" + see("howto_own_data"))
        if n_left := int((~kept).sum()):
            warnings.warn(
                f"{n_left} of {len(ids)} trials have no picture and are left out", stacklevel=4
            )
        return row, kept
    if none.any():
        raise ValueError(
            f"{int(none.sum())} of {len(ids)} trials have no picture, the first of them trial "
            f"{int(np.argmax(none))} (from 0): without_image='leave out' leaves such trials out"
            + see("howto_own_data")
        )
    try:
        row = image_positions(_plain(ids), n_images, names)
    except ValueError as error:
        if names is None:
            raise
        found = positions_known(ids, names) >= 0
        if not found.any() or found.all():
            raise
        raise ValueError(
            f"{int((~found).sum())} of {len(ids)} trials have a picture that is not among the "
            f"images, {ids[int(np.argmin(found))]!r} in trial {int(np.argmin(found))} (from 0) for "
            f"example: add it, or without_image='leave out' ({error})" + see("howto_own_data")
        ) from None
    return row, np.ones(len(ids), dtype=bool)


def _is_missing(value: Any) -> bool:
    return value is None or value != value or value in _NO_PICTURE


def _plain(ids: np.ndarray) -> np.ndarray:
    return np.array(ids.tolist()) if len(ids) else ids


def _say_unshown(shown: np.ndarray, n_images: int, stimuli: pd.DataFrame) -> None:
    if n_unshown := n_images - len(shown):
        first = int(np.setdiff1d(np.arange(n_images), shown)[0])
        called = repr(stimuli[NAME].iloc[first]) if NAME in stimuli else f"row {first}"
        warnings.warn(
            f"{n_unshown} of {n_images} pictures were shown in no trial and are left out, {called} "
            "for example",
            stacklevel=4,
        )


def _default_name(source: Runs) -> str:
    if not source.files:
        return "data"
    name = Path(source.files[0]).name
    return name.split(".")[0] or "data"
