"""Contrast maps of categories: of halves of trials and images, their agreement and its ceiling."""

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainenc.analysis.categories import label_columns
from brainenc.repeats import average_repeats


def category_columns(
    categories: Any, n_images: int, min_images: int
) -> tuple[list[str], NDArray[np.bool_], NDArray[np.int64]]:
    """Names of categories, columns of them, and the images that have a label.

    Parameters
    ----------
    categories : array, shape (n_images,), or of 0 and 1, (n_images, n_categories)
        An image without a label, or with NaN in a column, is left out.
    n_images : int
    min_images : int
        Categories with fewer images, or fewer others, are left out.

    Returns
    -------
    names : list of str
    columns : array of bool, shape (n_labelled, n_categories)
    images : array, shape (n_labelled,)

    Raises
    ------
    ValueError : another number of images, or numbers other than 0 and 1.
    """
    names, table = label_columns(categories)
    if names is None:
        names = [str(i) for i in range(table.shape[1])]
    if len(table) != n_images:
        raise ValueError(f"categories have {len(table)} rows, but there are {n_images} images")
    known = ~np.isnan(table).any(axis=1)
    columns = table[known] == 1
    least = max(min_images, 1)
    n_of = columns.sum(axis=0)
    kept = np.flatnonzero((n_of >= least) & (len(columns) - n_of >= least))
    return [names[i] for i in kept], columns[:, kept], np.flatnonzero(known)


class Responses:
    """Averages of images (n_images, n_voxels), of which maps of categories are made.

    Parameters
    ----------
    averages : array, shape (n_images, n_voxels)
        NaN where a voxel has no data.
    """

    def __init__(self, averages: np.ndarray):
        present = np.isfinite(averages)
        self.values = np.where(present, averages, 0.0)
        self.present = None if present.all() else present.astype(self.values.dtype)
        self._add_up()

    def _add_up(self) -> None:
        """Sums and numbers over all images."""
        self.total = self.values.sum(axis=0, dtype=np.float64)
        self.n: Any = len(self.values)
        if self.present is not None:
            self.n = self.present.sum(axis=0, dtype=np.float64)

    def of_images(self, images: Any) -> "Responses":
        """Those of some images."""
        found = copy(self)
        found.values = self.values[images]
        found.present = None if self.present is None else self.present[images]
        found._add_up()
        return found

    def activations(self, categories: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Mean response to each category, (n_categories, n_voxels); NaN without an image."""
        return _mean(*self._sums(categories))

    def contrasts(self, categories: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Mean response to each category minus that to all other images."""
        total, n = self._sums(categories)
        return _mean(total, n) - _mean(self.total - total, self.n - n)

    def _sums(self, categories: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Sums over the images of each category, and their numbers."""
        weights = categories.T.astype(self.values.dtype)
        n = weights.sum(axis=1)[:, None] if self.present is None else weights @ self.present
        return (weights @ self.values).astype(np.float64), n.astype(np.float64)


def _mean(total: NDArray[Any], n: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)


def trial_halves(betas: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Averages of two random halves of each image's trials, of as many trials each.

    Of an odd number one is left out; an image with one trial is NaN in both.
    """
    there = np.isfinite(betas).any(axis=2)
    half = (there.sum(axis=1) // 2)[:, None]
    keys = np.where(there, rng.random(there.shape), np.inf)
    place = keys.argsort(axis=1).argsort(axis=1)
    first, second = place < half, (place >= half) & (place < 2 * half)

    def averaged(part: np.ndarray) -> np.ndarray:
        return average_repeats(np.where(part[..., None], betas, np.nan).astype(betas.dtype))

    return averaged(first), averaged(second)


def noise_ratio(betas: np.ndarray) -> float:
    """Noise variance of a half of `trial_halves` over that of all trials, of the same images."""
    n = np.isfinite(betas).any(axis=2).sum(axis=1)
    n = n[n >= 2]
    return float((1 / (n // 2)).mean() / (1 / n).mean()) if n.size else float("nan")


def map_noise(n_trials: NDArray[Any], categories: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Noise variance of contrast maps of averages, in units of that of one trial.

    Parameters
    ----------
    n_trials : array, shape (n_images,)
        Trials in each average; images with 0 are in no map.
    categories : array of bool, shape (n_images, n_categories)

    Returns
    -------
    array, shape (n_categories,); NaN for a category, or rest, without an image
    """
    given = n_trials > 0
    of_image = 1 / n_trials[given]
    total = np.zeros(categories.shape[1])
    for part in (categories[given], ~categories[given]):
        n = part.sum(axis=0, dtype=np.float64)
        total += np.divide(of_image @ part, n**2, out=np.full(len(n), np.nan), where=n > 0)
    return total


def whole_reliability(
    halves: list[tuple[NDArray[Any], NDArray[Any]]],
    whole: NDArray[Any],
    betas: np.ndarray,
    categories: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Reliability over voxels of contrast maps of all images, from halves of trials.

    If every image has repeats it follows from the r of the halves. Otherwise the halves are of
    other images than the whole, so that their signal differs too: the noise variance of the whole
    is then that of the halves, times the ratio of what the numbers of trials make of it, and its
    share of the variance of the whole over voxels is noise.

    Parameters
    ----------
    halves : list of pairs of arrays, shape (n_categories, n_voxels)
        Maps of both halves of trials, of each split.
    whole : array, shape (n_categories, n_voxels)
    betas : array, shape (n_images, n_repeats, n_voxels)
    categories : array of bool, shape (n_images, n_categories)

    Returns
    -------
    array, shape (n_categories,); NaN where it is not positive
    """
    n = np.isfinite(betas).any(axis=2).sum(axis=1)
    if (n[n > 0] >= 2).all():
        r = np.mean([np.diag(agreement(a, b)) for a, b in halves], axis=0)
        return np.array([reliability(one, noise_ratio(betas)) for one in r])
    noise = np.mean([(a - b).var(axis=1) / 2 for a, b in halves], axis=0)
    noise *= map_noise(n, categories) / map_noise(n // 2, categories)
    spread = whole.var(axis=1)
    share = np.divide(noise, spread, out=np.full(len(noise), np.nan), where=spread > 0)
    return np.where(share < 1, 1 - share, np.nan)


def image_halves(categories: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Random half of the images, with half of each category where images have one, as a mask."""
    group = np.where(categories.any(axis=1), categories.argmax(axis=1), -1)
    order = np.lexsort((rng.random(len(group)), group))
    first = np.zeros(len(group), dtype=bool)
    first[order[::2]] = True
    return first


def reliability(r: float, ratio: float) -> float:
    """Reliability of a whole from the r of its halves, whose noise variance is `ratio` times its.

    Spearman–Brown for ratio 2; NaN if r is not positive.
    """
    if not r > 0:
        return float("nan")
    return float(1 / (1 + (1 - r) / (r * ratio)))


def agreement(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Pearson's r of every row of `a` with every row of `b`; NaN for a constant row."""
    return standardized(a) @ standardized(b).T


def standardized(maps: NDArray[Any]) -> NDArray[np.float64]:
    """Rows with mean 0 and length 1; NaN for constant ones."""
    deviations = maps - maps.mean(axis=1, keepdims=True)
    length = np.linalg.norm(deviations, axis=1, keepdims=True)
    size = np.linalg.norm(maps, axis=1, keepdims=True)
    return np.where(length > 1e-10 * size, deviations, np.nan) / np.where(length, length, 1)


def within_groups(maps: NDArray[Any], groups: NDArray[Any]) -> NDArray[np.float64]:
    """Maps minus their mean over the voxels of each group, (n_categories, n_voxels)."""
    _, of = np.unique(groups, return_inverse=True)
    member = np.equal.outer(of, np.arange(of.max() + 1)).astype(np.float64)
    return maps - (maps @ member / member.sum(axis=0)) @ member.T


def dice(a: NDArray[Any], b: NDArray[Any], n_top: int) -> NDArray[np.float64]:
    """Overlap of the `n_top` largest voxels, row by row; NaN where a map is NaN."""
    found = np.full(len(a), np.nan)
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        if np.isfinite(one).all() and np.isfinite(other).all():
            tops = [np.argsort(-row, kind="stable")[:n_top] for row in (one, other)]
            found[i] = np.isin(tops[0], tops[1]).mean()
    return found


def permutations_within(groups: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[Any]:
    """Orders of voxels, shuffled within each group, (n, n_voxels)."""
    home = np.argsort(groups, kind="stable")
    orders = np.empty((n, len(groups)), dtype=np.int64)
    for i in range(n):
        orders[i, home] = np.lexsort((rng.random(len(groups)), groups))
    return orders
