"""Data of a learning curve: test images, nested subsets of the others."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from brainenc.arrays import release
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import image_batches
from brainenc.data.splits import held_out_images
from brainenc.data.synthetic import check_measured
from brainenc.repeats import average_repeats
from brainenc.storage import fingerprint

UNITS = ("images", "sessions")
#: Sizes by default, of which those are taken that there are images for.
SIZES = (25, 50, 100, 200, 400, 1000)
#: Share of the images that is the test set by default, if none are known to be shared.
TEST_SHARE = 0.25


class Subset(NamedTuple):
    """Training data of one point of a curve.

    Attributes
    ----------
    rows : array of int
        Images.
    shown : array of bool, shape (n_rows, n_repeats), or None
        Trials of these images, None for all.
    """

    rows: np.ndarray
    shown: np.ndarray | None


def subject_names(data: Any, what: str) -> dict[str, EncodingData]:
    """Subjects by name.

    Raises
    ------
    TypeError : something else than EncodingData.
    ValueError : two of one name.
    """
    items = data.items() if isinstance(data, Mapping) else [(d, d) for d in data]
    found: dict[str, EncodingData] = {}
    for key, item in items:
        if not isinstance(item, EncodingData):
            raise TypeError(
                f"{what} must be EncodingData, got {type(item).__name__}; open a folder with "
                "EncodingData.load(folder)"
            )
        name = str(key) if isinstance(data, Mapping) else item.name
        if name in found:
            raise ValueError(f"{what} has two subjects named {name!r}: give a dict of name to data")
        found[name] = item
    return found


def test_images(data: EncodingData, test: Any, random_state: int) -> np.ndarray:
    """Mask of the fixed test images; by default those that the stimulus table calls shared."""
    if test is None:
        stimuli = data.stimuli
        shared = stimuli["shared"].to_numpy() if "shared" in stimuli else np.zeros(0)
        if shared.dtype == bool and 1 < shared.sum() < data.n_images - 1:
            check_measured(data.trials, np.flatnonzero(shared), "the shared images")
            return shared
        test = TEST_SHARE
    found = np.asarray(held_out_images(test, data.n_images, random_state=random_state), dtype=bool)
    check_measured(data.trials, np.flatnonzero(found), "test")
    return found


def check_sizes(data: EncodingData, held_out: np.ndarray, sizes: Any, unit: str) -> list[int]:
    """Sizes in rising order.

    Raises
    ------
    ValueError : an unknown unit, sizes below 2 images or above what there is, no sessions.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} must be one of {', '.join(UNITS)}")
    if unit == "sessions":
        if "session" not in data.trials:
            raise ValueError(f"the trial table of {data.name} has no sessions: use unit='images'")
        most, least = int(data.trials["session"].nunique()), 1
    else:
        most, least = int((~held_out).sum()), 2
    if sizes is None:
        sizes = [n for n in SIZES if n <= most] if unit == "images" else range(1, most + 1)
    found = sorted({int(n) for n in sizes})
    if not found or found[0] < least:
        raise ValueError(f"sizes={list(sizes)} must be {unit}, at least {least} of them")
    if found[-1] > most:
        raise ValueError(
            f"sizes has {found[-1]} {unit}, and {data.name} has {most} beside the test images; "
            f"give sizes up to {most}"
        )
    return found


def subset(
    data: EncodingData, held_out: np.ndarray, size: int, unit: str, seed: Sequence[int]
) -> Subset:
    """The first images, or sessions, of an order that the seed makes: larger ones hold smaller."""
    rng = np.random.default_rng(seed)
    train = np.flatnonzero(~held_out)
    if unit == "images":
        return Subset(np.sort(rng.permutation(train)[:size]), None)
    trials = data.trials
    sessions = rng.permutation(trials["session"].unique())[:size]
    used = trials[trials["session"].isin(sessions) & ~held_out[trials["image"]]]
    rows = np.unique(used["image"])
    shown = np.zeros((len(rows), data.betas.shape[1]), dtype=bool)
    shown[np.searchsorted(rows, used["image"]), used["repeat"].to_numpy()] = True
    return Subset(rows, shown)


def subset_betas(betas: np.ndarray, part: Subset) -> np.ndarray:
    """Betas of a subset, (n_rows, n_repeats, n_voxels), float32, z-scored over its trials."""
    found = np.array(betas[part.rows], dtype=np.float32)
    release(betas)
    if part.shown is not None:
        found[~part.shown] = np.nan
        found = found[:, np.isfinite(found).any(axis=(0, 2))]
    return zscored(found)


def zscored(betas: np.ndarray) -> np.ndarray:
    """Betas z-scored per voxel over all their trials: no other trials of the subject enter."""
    with np.errstate(invalid="ignore"):
        present = np.isfinite(betas)
        n = np.maximum(present.sum(axis=(0, 1)), 1)
        mean = np.where(present, betas, 0).sum(axis=(0, 1), dtype=np.float64) / n
        centred = betas - mean.astype(betas.dtype)
        variance = np.where(present, np.square(centred), 0).sum(axis=(0, 1), dtype=np.float64) / n
    return (centred / np.where(variance > 0, np.sqrt(variance), 1)).astype(np.float32)


def image_hashes(data: EncodingData) -> np.ndarray:
    """A hash of the pixels of each image, (n_images,)."""
    found: list[str] = []
    for batch in image_batches(data.images, 256):
        found += [fingerprint(np.asarray(image)) for image in batch]
        release(batch)
    return np.array(found)


def shared_with(source: np.ndarray, target: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Mask of the images of a source that are test images of the target, by their hashes.

    Images that are all the same (an encoder fitted to features alone) tell nothing.
    """
    if len(np.unique(target)) < 2:
        return np.zeros(len(source), dtype=bool)
    return np.isin(source, target[held_out])


def test_targets(data: EncodingData, held_out: np.ndarray) -> np.ndarray:
    """Averages over repeats of the test images, (n_test, n_voxels)."""
    return average_repeats(np.asarray(data.betas[held_out]))
