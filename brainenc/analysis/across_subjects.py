"""consistency_across_subjects: contrasts of categories by ROI or vertex, between subjects."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainenc.analysis.contrasts import (
    Responses,
    agreement,
    category_columns,
    image_halves,
    reliability,
)
from brainenc.conversion import text_labels
from brainenc.model_selection import fixed_seed, permutation_p
from brainenc.repeats import average_repeats
from brainenc.validation import check_betas


def consistency_across_subjects(
    subjects: Mapping[str, Any],
    *,
    image_ids: Mapping[str, Any] | None = None,
    min_images: int = 10,
    n_splits: int = 20,
    n_permutations: int = 500,
    random_state: Any = 0,
) -> pd.DataFrame:
    """Agreement between subjects of the contrasts of categories.

    Voxels of two subjects do not correspond, so contrast maps (see `consistency`) are averaged by
    ROI, and r is over the ROIs that both subjects have. Vertices of a common surface do, and r is
    over vertices.

    Parameters
    ----------
    subjects : dict of name to (betas, categories, rois)
        Betas (n_images, n_voxels) or (n_images, n_repeats, n_voxels); a label for each image, or
        columns of 0 and 1; a label for each voxel, such as ``data.voxels["roi"]``, voxels without
        one being left out, or None in all subjects: the columns of betas are then the same vertices
        of a common surface. Subjects may have seen different images.
    image_ids : dict of name to array, shape (n_images,), optional
        Of the images of each subject, such as ``data.image_ids``: those with the same id are the
        same image. Needed for p if subjects share some images, or have them in another order.
        Without it, two subjects with the same labels row by row are taken to have seen the same
        images in the same order, and others to share none.
    min_images : int
        Smallest category, and smallest rest, in every subject.
    n_splits : int
        Halves of images for the ceiling.
    n_permutations : int
    random_state : int, Generator or None

    Returns
    -------
    DataFrame, one row per pair of subjects and category
        ``subject``, ``other_subject``, ``category``, ``r``; ``ceiling``: the root of the product of
        the reliabilities of both, each from halves of its images, corrected to all
        (Spearman–Brown); ``r_normalized``, r over it. Nulls: ``other_categories``, mean r with
        other categories of the other subject, ``other_categories_max``; ``labels_permuted``,
        95 % quantile of r with labels permuted over images, and ``p``. ``n_units``: ROIs or
        vertices. ``n_shared``: images of both, whose labels are permuted with one order for both,
        since any contrast of the same images agrees; otherwise labels of one subject are permuted.

    Raises
    ------
    ValueError : fewer than two subjects, two common categories or three common ROIs; ROIs of some
        subjects only; ids that occur twice, or whose label is another one in another subject.

    Notes
    -----
    With few ROIs r is coarse: with the labels permuted it is often .6. The p is of a pair of
    subjects, and not of a population of them.

    Examples
    --------
    >>> import brainenc
    >>> pair = brainenc.datasets.simulate_subjects(2, n_images=120, n_voxels=60, random_state=0)
    >>> subjects = {
    ...     name: (data.betas, data.truth.category, data.voxels["roi"])
    ...     for name, data in zip("ab", pair)
    ... }
    >>> table = consistency_across_subjects(subjects, min_images=5).set_index("category")
    >>> bool(table["r"]["face"] > table["other_categories"]["face"])
    True
    """
    if not isinstance(subjects, Mapping) or len(subjects) < 2:
        raise ValueError(
            "subjects must be a dict of two or more: name to (betas, categories, rois)"
        )
    if n_splits < 1 or n_permutations < 1:
        raise ValueError(f"n_splits={n_splits} and n_permutations={n_permutations} must be >= 1")
    if image_ids is not None and (
        not isinstance(image_ids, Mapping) or image_ids.keys() != subjects.keys()
    ):
        raise ValueError("image_ids must be a dict with the ids of the images of every subject")
    rng = np.random.default_rng(fixed_seed(random_state))
    known = {
        name: _Subject(name, given, min_images, None if image_ids is None else image_ids[name])
        for name, given in subjects.items()
    }
    by_roi = {name: own.rois is not None for name, own in known.items()}
    if len(set(by_roi.values())) > 1:
        raise ValueError(
            f"subjects has rois for some only, {by_roi}: give them for all or for none"
        )
    first = next(iter(known.values()))
    names = [n for n in first.names if all(n in own.names for own in known.values())]
    if len(names) < 2:
        raise ValueError(
            f"subjects have {len(names)} common categories of at least {min_images} images, and as "
            "many others: give two or more, or a smaller min_images"
        )
    units = _units(known)
    profiles, reliable = {}, {}
    for name, own in known.items():
        own.restrict(names, units)
        profiles[name] = own.profiles()
        halves = []
        for _ in range(n_splits):
            half = image_halves(own.columns, rng)
            halves.append(np.diag(agreement(own.profiles(half), own.profiles(~half))))
        reliable[name] = np.array([reliability(r, 2.0) for r in np.mean(halves, axis=0)])
    rows = []
    for a, b in combinations(known, 2):
        r = agreement(profiles[a], profiles[b])
        shared = _shared(known[a], known[b])
        permuted = np.stack(
            [
                np.diag(agreement(*_permuted(known[a], known[b], shared, profiles[a], rng)))
                for _ in range(n_permutations)
            ]
        )
        own_r, ceiling = np.diag(r), np.sqrt(reliable[a] * reliable[b])
        # An undefined r of permuted labels counts as one at least as large.
        p = permutation_p(own_r, (~(permuted < own_r)).sum(axis=0), n_permutations)
        for i, category in enumerate(names):
            other = np.delete((r[i] + r[:, i]) / 2, i)
            rows.append(
                {
                    "subject": a,
                    "other_subject": b,
                    "category": category,
                    "r": own_r[i],
                    "ceiling": ceiling[i],
                    "r_normalized": own_r[i] / ceiling[i],
                    "other_categories": other.mean(),
                    "other_categories_max": other.max(),
                    "labels_permuted": np.quantile(permuted[:, i], 0.95),
                    "p": p[i],
                    "n_units": len(units),
                    "n_shared": len(shared[0]),
                }
            )
    return pd.DataFrame(rows)


class _Subject:
    """Checked data of a subject, and responses by unit: the mean of an ROI, or a vertex."""

    responses: Responses
    columns: NDArray[np.bool_]

    def __init__(self, name: str, given: Any, min_images: int, ids: Any):
        self.name = name
        if not isinstance(given, tuple | list) or len(given) != 3:
            raise ValueError(
                f"subjects[{name!r}] must be (betas, categories, rois), where rois may be None"
            )
        betas, categories, rois = given
        betas = check_betas(betas, name=f"betas of subjects[{name!r}]")
        names, self.table, images = category_columns(categories, len(betas), min_images)
        self.names = {category: i for i, category in enumerate(names)}
        self.rows = images
        self.ids: NDArray[Any] | None = None
        if ids is not None:
            self.ids = _checked_ids(ids, len(betas), f"image_ids[{name!r}]")[images]
        averages = average_repeats(betas[images])
        self.present = np.isfinite(averages).any(axis=0)
        sd = np.full(betas.shape[2], np.nan)
        sd[self.present] = np.nanstd(betas[images][:, :, self.present], axis=(0, 1))
        self.present &= sd > 0
        self.scaled = averages / np.where(self.present, sd, np.nan)
        self.rois: NDArray[Any] | None = None
        if rois is not None:
            self.rois = text_labels(rois, f"rois of subjects[{name!r}]")
            if len(self.rois) != betas.shape[2]:
                raise ValueError(
                    f"rois of subjects[{name!r}] has {len(self.rois)} labels for {betas.shape[2]} "
                    "voxels"
                )

    def labels(self) -> set[str]:
        """ROIs that have a voxel with data."""
        return set() if self.rois is None else {str(x) for x in self.rois[self.present] if x}

    def restrict(self, names: list[str], units: Any) -> None:
        """Keep categories, and responses by unit."""
        self.columns = self.table[:, [self.names[name] for name in names]]
        if self.rois is None:
            self.responses = Responses(self.scaled[:, units])
            return
        # Voxels that lack data of some image would change the mean of the ROI from image to image.
        whole = np.isfinite(self.scaled)
        means = []
        for unit in units:
            voxels = np.flatnonzero((self.rois == unit) & self.present)
            values = np.where(whole[:, voxels], self.scaled[:, voxels], 0.0)
            centre = np.nanmean(self.scaled[:, voxels], axis=0)
            filled = np.where(whole[:, voxels], values, centre)
            filled[~whole[:, voxels].any(axis=1)] = np.nan
            means.append(filled.mean(axis=1))
        self.responses = Responses(np.stack(means, axis=1))

    def profiles(self, images: Any = slice(None)) -> NDArray[Any]:
        """Contrast of each category by unit, (n_categories, n_units)."""
        return self.responses.of_images(images).contrasts(self.columns[images])

    def profiles_of_permuted(self, order: NDArray[Any]) -> NDArray[Any]:
        """The same with the labels of the images in another order."""
        return self.responses.contrasts(self.columns[order])


def _checked_ids(given: Any, n_images: int, name: str) -> NDArray[Any]:
    labels = text_labels(given, name)
    if len(labels) != n_images:
        raise ValueError(f"{name} has {len(labels)} ids for {n_images} images")
    if any(label is None for label in labels):
        raise ValueError(f"{name} lacks ids: give every image one")
    ids = labels.astype(str)
    values, n = np.unique(ids, return_counts=True)
    if (n > 1).any():
        raise ValueError(
            f"{name} has {str(values[n > 1][0])!r} twice: give every image one row, with its "
            "repeats"
        )
    return ids


def _shared(a: _Subject, b: _Subject) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of a and of b of the images that both saw."""
    if a.ids is not None and b.ids is not None:
        _, of_a, of_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
        differ = (a.columns[of_a] != b.columns[of_b]).any(axis=1)
        if differ.any():
            first = str(a.ids[of_a][differ][0])
            raise ValueError(
                f"categories of {differ.sum()} images, such as {first!r}, are not the same in "
                f"subjects[{a.name!r}] and subjects[{b.name!r}]: the labels of an "
                "image must agree"
            )
        return of_a, of_b
    if np.array_equal(a.rows, b.rows) and np.array_equal(a.columns, b.columns):
        every = np.arange(len(a.rows))
        return every, every
    return np.arange(0), np.arange(0)


def _permuted(
    a: _Subject,
    b: _Subject,
    shared: tuple[NDArray[Any], NDArray[Any]],
    profiles: NDArray[Any],
    rng: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Profiles of both: shared images have one order for both, other images of b one for b."""
    of_a, of_b = shared
    order = np.arange(len(b.rows))
    other = np.setdiff1d(order, of_b)
    order[other] = rng.permutation(other)
    if not of_a.size:
        return profiles, b.profiles_of_permuted(order)
    drawn = rng.permutation(len(of_a))
    order[of_b] = of_b[drawn]
    of_first = np.arange(len(a.rows))
    of_first[of_a] = of_a[drawn]
    return a.profiles_of_permuted(of_first), b.profiles_of_permuted(order)


def _units(subjects: Mapping[str, _Subject]) -> Any:
    """Common ROIs; or vertices with data in all subjects."""
    every = list(subjects.values())
    if every[0].rois is not None:
        units: Any = sorted(set.intersection(*(own.labels() for own in every)))
        what = "ROIs"
    else:
        numbers = {name: len(own.present) for name, own in subjects.items()}
        if len(set(numbers.values())) > 1:
            raise ValueError(
                f"subjects have {numbers} voxels and no rois: without rois the columns of betas "
                "must be the vertices of a common surface"
            )
        units = np.flatnonzero(np.logical_and.reduce([own.present for own in every]))
        what = "vertices"
    if len(units) < 3:
        raise ValueError(f"subjects have {len(units)} common {what}: r takes three or more")
    return units
