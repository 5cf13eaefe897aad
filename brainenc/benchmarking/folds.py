"""Folds of a benchmark over the images that have trials, whole groups together if asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.encoding_data import EncodingData
from brainenc.data.similarity import SimilarImages
from brainenc.data.synthetic import check_measured
from brainenc.documentation import see
from brainenc.model_selection import Folds, check_groups, image_folds

#: Folds of ``cv="similar"``.
N_FOLDS = 5

#: Share of images in one group of near copies above which folds of whole groups make no sense.
MAX_SHARE = 0.5

#: Share of test images with a near copy in training below which nothing is said: they change no
#: score by much, and a few in ten thousand pictures are alike by chance.
MIN_SHARE = 0.01


def make_folds(
    data: EncodingData,
    cv: Any,
    groups: Any,
    random_state: int,
    similar: Callable[[], SimilarImages],
) -> Folds:
    """Folds over the images that have trials.

    Parameters
    ----------
    data : EncodingData
    cv : int, "similar", splitter or iterable of (train, test)
    groups : array, shape (n_images,), "similar", column of the trial table, or None
    random_state : int
    similar : callable
        Gives the near copies among the images of `data`; called only if folds depend on them.

    Raises
    ------
    ValueError : as for `brainenc.benchmark`; a test fold with a synthetic trial.
    """
    if isinstance(cv, str):
        if cv != "similar":
            raise ValueError(
                f"cv={cv!r} must be a number of folds, 'similar', a splitter or a list of "
                "(train, test)"
            )
        if groups is not None:
            raise ValueError("cv='similar' makes its own groups; give groups= with cv=5 instead")
        cv, groups = N_FOLDS, "similar"
    of_image = None if groups is None else _groups(data, groups, similar)
    shown = np.unique(data.trials["image"])
    folds = [
        (np.intersect1d(train, shown), np.intersect1d(test, shown))
        for train, test in image_folds(
            cv, data.n_images, groups=of_image, random_state=random_state
        )
    ]
    for i, (train, test) in enumerate(folds):
        check_measured(data.trials, test, f"test fold {i}")
        if len(test) < 2 or len(train) < 2:
            raise ValueError(
                f"fold {i} has {len(train)} train and {len(test)} test images with trials, and "
                "scores take at least 2 of each; use fewer folds"
            )
    return folds


def _groups(data: EncodingData, groups: Any, similar: Callable[[], SimilarImages]) -> np.ndarray:
    if not isinstance(groups, str):
        return check_groups(groups, data.n_images)
    if groups == "similar":
        found = similar().groups
        largest = int(np.bincount(found).max())
        if largest > MAX_SHARE * data.n_images:
            raise ValueError(
                f"{largest} of {data.n_images} images are connected by near copies, frames of one "
                "film for example, so that folds of whole groups would be a single one; give "
                "groups= or cv= from what you know of the images (data.similar_images().pairs "
                "lists the near copies)" + see("guide/benchmark")
            )
        return found
    return _of_trials(data, groups)


def _of_trials(data: EncodingData, column: str) -> np.ndarray:
    """Value of a column of the trial table for each image; images without trials on their own."""
    if column not in data.trials:
        raise ValueError(
            f"groups={column!r} is no column of the trial table, which has "
            f"{list(data.trials.columns)}; give one value per image, or 'similar'"
            + see("guide/benchmark")
        )
    values = data.trials.groupby("image")[column]
    several = values.nunique(dropna=False) > 1
    if several.any():
        raise ValueError(
            f"groups={column!r}: {int(several.sum())} images have trials with several values of "
            f"it, such as image {several.idxmax()}; give one value per image"
        )
    of_image = pd.Series("no trials", index=range(data.n_images), dtype=object)
    first = values.first()
    of_image[first.index] = first.astype(str).where(first.notna(), None)
    return check_groups(of_image.to_numpy(), data.n_images)


def near_copies(
    similar: SimilarImages, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[str]:
    """Warn of test images that are near copies of training images of their fold.

    Parameters
    ----------
    similar : SimilarImages
    folds : sequence of (train, test)

    Returns
    -------
    list of str, at most one
    """
    near = [similar.near(test, train) for train, test in folds]
    n, n_near = sum(map(len, near)), int(sum(map(np.sum, near)))
    identical = similar.pairs["kind"] == "identical"
    n_same = len(np.unique(similar.pairs.loc[identical, ["image_a", "image_b"]]))
    if not n_near or (n_near < MIN_SHARE * n and not n_same):
        return []
    way_out = "Keep near copies in one fold: cv='similar', or groups="
    same = ""
    if n_same:
        same = f" {n_same} images are identical to another one:"
        same += " if rows are trials, group them with EncodingData.from_trials."
    return [
        f"{n_near} of {n} test images have a near copy among the training images of their fold"
        f"{_example(similar, folds)}, so that their scores show memory of pictures and not "
        f"prediction of new ones.{same} {way_out} (data.similar_images() lists the pairs)."
    ]


def _example(similar: SimilarImages, folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """The most similar pair on both sides of a fold."""
    a, b = (similar.pairs[side].to_numpy(int) for side in ("image_a", "image_b"))
    apart = np.zeros(len(a), dtype=bool)
    for train, test in folds:
        apart |= np.isin(a, train) & np.isin(b, test) | np.isin(a, test) & np.isin(b, train)
    if not apart.any():
        return ""
    pair = similar.pairs.iloc[int(apart.argmax())]
    return f" (images {pair['image_a']} and {pair['image_b']}: {pair['kind']})"
