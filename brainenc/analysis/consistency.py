"""consistency: contrast maps of halves of trials and images, and of other responses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainenc.analysis.contrasts import (
    Responses,
    agreement,
    category_columns,
    dice,
    image_halves,
    permutations_within,
    standardized,
    trial_halves,
    whole_reliability,
    within_groups,
)
from brainenc.conversion import text_labels
from brainenc.model_selection import fixed_seed, permutation_p
from brainenc.repeats import average_repeats
from brainenc.validation import check_betas

TRIALS, IMAGES = "halves of trials", "halves of images"


def consistency(
    betas: Any,
    categories: Any,
    *,
    others: Mapping[str, Any] | None = None,
    rois: Any = None,
    top: float = 0.1,
    min_images: int = 10,
    n_splits: int = 20,
    n_permutations: int = 500,
    random_state: Any = 0,
) -> pd.DataFrame:
    """Agreement of the contrast maps of categories, with its ceiling and its nulls.

    A contrast map is the mean response to the images of a category minus that to all others, per
    voxel in s.d. of single trials (as ``localize(...).effect``). Raw activation maps are no
    evidence: those of any two categories are alike, since they are mostly the mean of each voxel.
    Their r is a column beside.

    Parameters
    ----------
    betas : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        Measured; NaN where a repeat is missing.
    categories : array, shape (n_images,), or of 0 and 1, (n_images, n_categories)
        Label of each image. An image without one (None, NaN) is in no map.
    others : dict of name to array, optional
        Other responses to the same images in the same voxels and units, such as the predictions or
        draws (n_images, n_draws, n_voxels) of an encoder that was fitted to other images. Not parts
        of `betas`: their noise would count as agreement.
    rois : array of labels, shape (n_voxels,), optional
        `p_within_rois` is then of "no more than the means of ROIs".
    top : float in (0, 1)
        Share of voxels, those with the largest contrast, whose overlap is `dice`.
    min_images : int
        Smallest category, and smallest rest.
    n_splits : int
        Random halves, over which scores are averaged.
    n_permutations : int
    random_state : int, Generator or None

    Returns
    -------
    DataFrame, one row per category and comparison
        ``comparison``: "halves of trials" (of the same images; none without repeats), "halves of
        images", or a name of `others`, against all of `betas`. ``r`` over voxels and ``dice``.
        ``ceiling``: the r that a map without error of its own would have, from the halves of
        trials (corrected to all trials, and to the images that have no repeat); if the other
        responses have repeats, times the root of their own reliability. ``r_normalized``: r over
        it. Both are NaN for halves. Nulls: ``other_categories`` and ``other_categories_max``, r
        with contrast maps of other categories (below 0 on average, as each is against the rest);
        ``labels_permuted``, 95 % quantile of r with labels permuted over images, and ``p``;
        ``p_within_rois``, p of r of what is left of the maps without the means of ROIs (of the
        map, without `rois`), by the same permutations; ``voxels_permuted``, 95 % quantile of r
        with the voxels of one side permuted within ROIs: what their means alone give;
        ``dice_chance``.
        ``activation``, ``activation_other``: r of raw activation maps with that of the same
        category, and of the others. ``n_images``, ``n_voxels``.

    Raises
    ------
    ValueError : shapes that do not match, fewer than two categories with enough images.

    Notes
    -----
    Any contrast of the same images agrees between their trials, and between responses and good
    predictions, whatever the categories. Where both sides are of the same images the labels of both
    are therefore permuted with one order, and p is of "no more than any division of these images".
    Of halves of images, which are different ones, labels of one side are permuted.

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(n_images=200, n_voxels=60, random_state=0)
    >>> table = consistency(data.betas, data.truth.category, others={"truth": data.truth.signal})
    >>> rows = table[table["category"] == "face"].set_index("comparison")
    >>> bool(rows["r"]["truth"] > rows["r"]["halves of trials"] > 0.5)
    True
    >>> bool(rows["activation_other"]["truth"] > 0.9)  # raw maps: any category is like any other
    True
    """
    array = check_betas(betas)
    names, table, images = category_columns(categories, len(array), min_images)
    if len(names) < 2:
        raise ValueError(
            f"categories has {len(names)} with at least {min_images} images, and as many others: "
            "give two or more, or a smaller min_images"
        )
    if not 0 < top < 1:
        raise ValueError(f"top={top} must be a share of voxels between 0 and 1")
    if n_splits < 1 or n_permutations < 1:
        raise ValueError(f"n_splits={n_splits} and n_permutations={n_permutations} must be >= 1")
    given = {name: own[images] for name, own in _check_others(others, array).items()}
    array = array[images]
    seed = fixed_seed(random_state)
    setting = _Setting.of(array, table, given, rois, top, n_permutations, seed)
    rng = np.random.default_rng(seed)
    kept = array[:, :, setting.voxels]
    found: dict[str, tuple[_Pairs, Any]] = {}
    reliable = np.full(len(names), np.nan)
    if (np.isfinite(array).any(axis=2).sum(axis=1) >= 2).any():
        halves = setting.halves_of_trials(kept, n_splits, rng)
        found[TRIALS] = halves, None
        reliable = halves.reliability(kept)
    whole = average_repeats(kept)
    found[IMAGES] = setting.halves_of_images(whole, n_splits, rng), None
    for name, other in given.items():
        own = other[:, :, setting.voxels]
        theirs: Any = 1.0
        if own.shape[1] > 1:
            halves = setting.halves_of_trials(own, n_splits, rng)
            theirs = halves.reliability(own)
        pair = _Pair(whole, average_repeats(own), table, table, same_images=True)
        found[name] = _Pairs(setting, [pair]), np.sqrt(reliable * theirs)
    n_images = table.sum(axis=0)
    rows = []
    for comparison, (pairs, ceiling) in found.items():
        scores = pairs.scores()
        limit = np.full(len(names), np.nan) if ceiling is None else ceiling
        scores |= {"ceiling": limit, "r_normalized": scores["r"] / limit}
        for i, name in enumerate(names):
            row: dict[str, Any] = {"category": name, "comparison": comparison}
            row |= {column: float(values[i]) for column, values in scores.items()}
            rows.append({**row, "n_images": int(n_images[i]), "n_voxels": len(setting.voxels)})
    return pd.DataFrame(rows)[list(_COLUMNS)]


_COLUMNS = (
    *("category", "comparison", "r", "ceiling", "r_normalized"),
    *("other_categories", "other_categories_max", "labels_permuted", "p"),
    *("voxels_permuted", "p_within_rois", "dice", "dice_chance"),
    *("activation", "activation_other", "n_images", "n_voxels"),
)


class _Pair:
    """Responses that are compared, and the categories of their images."""

    def __init__(
        self,
        a: np.ndarray,
        b: np.ndarray,
        of_a: NDArray[np.bool_],
        of_b: NDArray[np.bool_],
        *,
        same_images: bool,
    ):
        self.a, self.b = Responses(a), Responses(b)
        self.of_a, self.of_b, self.same_images = of_a, of_b, same_images

    def contrasts(self, sd: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.a.contrasts(self.of_a) / sd, self.b.contrasts(self.of_b) / sd

    def permuted(
        self, sd: NDArray[Any], rng: np.random.Generator
    ) -> tuple[NDArray[Any] | None, NDArray[Any]]:
        """Contrasts with labels permuted; None for the first side if its labels stay."""
        order = rng.permutation(len(self.of_b))
        b = self.b.contrasts(self.of_b[order]) / sd
        return (self.a.contrasts(self.of_a[order]) / sd if self.same_images else None), b

    def activations(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.a.activations(self.of_a), self.b.activations(self.of_b)


@dataclass(frozen=True)
class _Setting:
    """What all comparisons share."""

    categories: NDArray[np.bool_]
    sd: NDArray[Any]
    voxels: NDArray[Any]
    n_top: int
    rois: NDArray[Any]
    orders: NDArray[Any]
    seed: int

    @classmethod
    def of(
        cls,
        betas: np.ndarray,
        categories: NDArray[np.bool_],
        others: Mapping[str, np.ndarray],
        rois: Any,
        top: float,
        n_permutations: int,
        seed: int,
    ) -> "_Setting":
        present = np.isfinite(betas).any(axis=(0, 1))
        sd = np.full(betas.shape[2], np.nan)
        sd[present] = np.nanstd(betas[:, :, present], axis=(0, 1), dtype=np.float64)
        usable = sd > 0
        for part in (betas, *others.values()):
            maps = Responses(average_repeats(part)).contrasts(categories)
            usable &= np.isfinite(maps).all(axis=0)
        voxels = np.flatnonzero(usable)
        if len(voxels) < 3:
            raise ValueError(f"{len(voxels)} voxels have data that vary: r takes three")
        labels = np.zeros(betas.shape[2], dtype=int)
        if rois is not None:
            given = text_labels(rois, "rois")
            if len(given) != betas.shape[2]:
                raise ValueError(f"rois has {len(given)} labels for {betas.shape[2]} voxels")
            labels = np.unique([str(own) for own in given], return_inverse=True)[1]
        rng = np.random.default_rng([seed, 1])
        orders = permutations_within(labels[voxels], n_permutations, rng)
        n_top = max(1, round(top * len(voxels)))
        return cls(categories, sd[voxels], voxels, n_top, labels[voxels], orders, seed)

    def halves_of_trials(
        self, betas: np.ndarray, n_splits: int, rng: np.random.Generator
    ) -> "_Pairs":
        """Of the images that have repeats."""
        some = np.isfinite(betas).any(axis=2).sum(axis=1) >= 2
        of, pairs = self.categories[some], []
        for _ in range(n_splits):
            a, b = trial_halves(betas, rng)
            pairs.append(_Pair(a[some], b[some], of, of, same_images=True))
        return _Pairs(self, pairs)

    def halves_of_images(
        self, averages: np.ndarray, n_splits: int, rng: np.random.Generator
    ) -> "_Pairs":
        pairs, of = [], self.categories
        for _ in range(n_splits):
            half = image_halves(of, rng)
            parts = averages[half], averages[~half], of[half], of[~half]
            pairs.append(_Pair(*parts, same_images=False))
        return _Pairs(self, pairs)


@dataclass(frozen=True)
class _Pairs:
    """Responses that are compared, of each split."""

    setting: _Setting
    pairs: list[_Pair]

    def contrasts(self) -> NDArray[Any]:
        """Mean over splits of r between all categories of one and of the other."""
        sd = self.setting.sd
        return np.mean([agreement(*pair.contrasts(sd)) for pair in self.pairs], axis=0)

    def reliability(self, betas: np.ndarray) -> NDArray[np.float64]:
        """Of the maps of all of `betas`, if the pairs are halves of its trials."""
        setting = self.setting
        whole = Responses(average_repeats(betas)).contrasts(setting.categories) / setting.sd
        maps = [pair.contrasts(setting.sd) for pair in self.pairs]
        return whole_reliability(maps, whole, betas, setting.categories)

    def scores(self) -> dict[str, NDArray[Any]]:
        """Means over splits, (n_categories,) each; labels are permuted in the first split."""
        n_top, n_voxels = self.setting.n_top, len(self.setting.voxels)
        contrast = self.contrasts()
        raw = np.mean([agreement(*pair.activations()) for pair in self.pairs], axis=0)
        n = len(contrast)
        apart = ~np.eye(n, dtype=bool)
        other = np.where(apart, (contrast + contrast.T) / 2, np.nan)
        other_raw = np.where(apart, (raw + raw.T) / 2, np.nan)
        maps = [pair.contrasts(self.setting.sd) for pair in self.pairs]
        by_voxel = self._voxels_permuted(maps)
        r = np.diag(contrast)
        # r of the first split, and of its maps without the means of ROIs.
        first = np.stack([_r(a, b) for a, b in (maps[0], self._within(*maps[0]))])
        by_label = self._labels_permuted(maps[0][0])
        # An undefined r of permuted labels counts as one at least as large.
        p, p_within = permutation_p(first, (~(by_label < first)).sum(axis=0), len(by_label))
        return {
            "r": r,
            "other_categories": np.nanmean(other, axis=1),
            "other_categories_max": np.nanmax(other, axis=1),
            "labels_permuted": np.quantile(by_label[:, 0], 0.95, axis=0),
            "p": p,
            "voxels_permuted": np.quantile(by_voxel, 0.95, axis=0),
            "p_within_rois": p_within,
            "dice": np.mean([dice(a, b, n_top) for a, b in maps], axis=0),
            "dice_chance": np.full(n, n_top / n_voxels),
            "activation": np.diag(raw),
            "activation_other": np.nanmean(other_raw, axis=1),
        }

    def _voxels_permuted(self, maps: list[tuple[NDArray[Any], NDArray[Any]]]) -> NDArray[Any]:
        """Mean r over splits with voxels of one permuted, (n_permutations, n_categories)."""
        found = np.zeros((len(self.setting.orders), len(maps[0][0])))
        for a, b in maps:
            one, two = standardized(a), standardized(b)
            for i, order in enumerate(self.setting.orders):
                found[i] += (one * two[:, order]).sum(axis=1) / len(maps)
        return found

    def _labels_permuted(self, first: NDArray[Any]) -> NDArray[Any]:
        """The r of the first split with labels permuted, (n_permutations, 2, n_categories).

        Of whole maps, and of maps without the means of ROIs.
        """
        rng = np.random.default_rng([self.setting.seed, 2])
        found = []
        for _ in range(len(self.setting.orders)):
            one, two = self.pairs[0].permuted(self.setting.sd, rng)
            a, b = first if one is None else one, two
            found.append([_r(a, b), _r(*self._within(a, b))])
        return np.array(found)

    def _within(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return within_groups(a, self.setting.rois), within_groups(b, self.setting.rois)


def _r(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Row by row."""
    return (standardized(a) * standardized(b)).sum(axis=1)


def _check_others(others: Any, betas: np.ndarray) -> dict[str, np.ndarray]:
    if others is None:
        return {}
    if not isinstance(others, Mapping):
        raise TypeError(f"others must be a dict of name to responses, got {type(others)}")
    if taken := {TRIALS, IMAGES} & others.keys():
        raise ValueError(f"others has {sorted(taken)}, names of comparisons that are always made")
    found = {}
    for name, given in others.items():
        array = check_betas(given, name=f"others[{name!r}]")
        if (len(array), array.shape[2]) != (len(betas), betas.shape[2]):
            raise ValueError(
                f"others[{name!r}] {array.shape} must have the images and voxels of betas "
                f"{betas.shape}; of draws that come first, pass np.moveaxis(draws, 0, 1)"
            )
        found[name] = array
    return found
