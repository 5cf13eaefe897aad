"""Near copies of pictures, found by content, and groups of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import blocks
from brainenc.data.images import as_images
from brainenc.data.picture_search import candidates, contour_directions
from brainenc.data.registration import register
from brainenc.data.small_pictures import (
    MIN_DETAIL,
    MIN_PIXELS,
    SmallPictures,
    detail,
    small_pictures,
)

#: Correlation above which a pair is near copies: the smallest, and the largest for pictures that
#: are alike by chance, such as digits. None of the 3 million pairs of 2400 photographs exceeds .85,
#: and copies that are cropped, turned by 5° or compressed are mostly above .95.
MIN_R, MAX_R = 0.85, 0.93

#: How much lower the smallest threshold is for an image and the next one, neighbouring frames of a
#: film: n such pairs instead of n² / 2 exceed .7 by chance less often than all pairs exceed .85.
NEXT_LOWER = 0.15

#: Random pairs whose correlations show how much pictures are alike by chance, and by how many times
#: the distance between the median and the 16 % quantile the threshold is above the median.
N_RANDOM, N_SPREADS = 400, 6

#: Largest difference in mean opponent colours, and its share of the pictures' own colour; pictures
#: of other colours are copies only above `MAX_R`.
COLOUR_STEP, COLOUR_SHARE = 0.02, 0.5

#: Numbers of different contours (directions and places) and of spatial frequencies below which
#: pictures are simple: gratings, bars, wedges, discs. Shifted, turned or mirrored ones are other
#: stimuli there, not copies. Two in a thousand photographs have fewer.
MIN_CONTOURS, MIN_FREQUENCIES = 66, 13

#: Shift (share of the width), log of relative size, angle (radians) and log of relative contrast
#: above which a pair is named after it.
NAMED = {"shifted": 0.015, "cropped": 0.04, "rotated": 0.03, "other contrast": 0.35}


@dataclass(frozen=True, eq=False)
class SimilarImages:
    """Near copies among images.

    Attributes
    ----------
    pairs : pandas.DataFrame, one row per pair, most similar first
        ``image_a`` < ``image_b`` (rows of the images); ``distance``, 1 − the correlation of the
        pictures' detail at the best shift, size and rotation, 0 for identical images; ``kind``:
        "identical", "altered" (compressed, resized, other grey levels, a neighbouring frame),
        "other contrast", "shifted", "rotated", "cropped", or "mirrored" (with or without another
        change). Of several identical images, pairs with other pictures have the first one.
    groups : array of int, shape (n_images,)
        Images that are connected by pairs have the same number; for scikit-learn's `GroupKFold`.

    Examples
    --------
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    >>> images[7] = images[3][:, ::-1]
    >>> brainenc.data.similar_images(images).pairs.kind.tolist()
    ['mirrored']
    """

    pairs: pd.DataFrame
    groups: np.ndarray

    def __repr__(self) -> str:
        n_images, n_groups = len(self.groups), len(np.unique(self.groups))
        kinds = self.pairs["kind"].value_counts()
        found = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        return f"SimilarImages({n_images} images, {n_groups} groups; pairs: {found or 'none'})"

    def near(self, images: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Which of some images have a near copy among others.

        Parameters
        ----------
        images, others : array of int
            Positions, such as those of the test and the training images of a fold.

        Returns
        -------
        array of bool, shape (len(images),)

        Examples
        --------
        >>> import brainenc
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
        >>> images[7] = images[3]
        >>> brainenc.data.similar_images(images).near(np.array([2, 3]), np.arange(4, 20))
        array([False,  True])
        """
        identical = self.pairs[self.pairs["kind"] == "identical"]
        picture = _components(len(self.groups), identical)
        n_pictures = picture.max() + 1
        among = np.zeros(n_pictures, dtype=bool)
        among[picture[others]] = True
        found = among.copy()
        a, b = (picture[self.pairs[side].to_numpy(int)] for side in ("image_a", "image_b"))
        found[a[among[b]]] = True
        found[b[among[a]]] = True
        return found[picture[images]]


def similar_images(images: Any) -> SimilarImages:
    """Pairs of near copies, and groups of images that they connect.

    Each image is read once and made small, 32 × 32. Candidates are nearest neighbours by the
    directions of contours, mirrored and magnified ones included. They are near copies if luminance
    without its coarse part, over the local contrast, correlates at the best shift (up to 20 % of
    the width), size (up to a quarter), rotation (up to 7°) and mirroring; gratings, bars and other
    simple pictures are compared in place. The threshold is .85 (.7 for an image and the next),
    up to .93 where random pairs of these images correlate (digits, letters), and .93 for copies in
    other colours. Time grows with the square of the number of images; memory is 25 kB per image.

    Parameters
    ----------
    images : array, sequence of paths or PIL images, or lazy sequence, (n_images, H, W[, 3]), uint8
        Images on disk are read in batches.

    Returns
    -------
    SimilarImages

    Raises
    ------
    TypeError, ValueError : as for the images of `EncodingData`.

    Notes
    -----
    Share of copies found, of 200 among 1000 scenes of the simulated subject, and of 200 among 2400
    photographs of 112 × 112 (``benchmarks/similar_pictures.py``; crops are of random places):

    =====================================  =========  ===========
    change                                 simulated  photographs
    =====================================  =========  ===========
    JPEG of quality 30                     100 %      99 %
    half the resolution                    100 %      100 %
    crop of 90 % of the width              99 %       100 %
    crop of 80 % of the width              96 %       97 %
    mirrored                               100 %      100 %
    mirrored crop of 90 %                  99 %       100 %
    brightness +10 %, −10 %                100 %      100 %
    shift by 5 % of the width              100 %      99 %
    rotation by 5°                         100 %      97 %
    jitter of 2 grey levels                100 %      100 %
    crop of 50 % of the width              0 %        0 %
    =====================================  =========  ===========

    No pair of 2400 independent photographs, of 100 handwritten digits or of 20 binary figures is
    found; of the simulated subject's 2000 scenes two pairs of alike corridors are. 10 000 images
    take 12 s of one core at 64 × 64 pixels and 23 s at 425 × 425.

    Not found: crops of less than 70 %, other views of the same object, the same object on another
    background, turns of more than 7°, negatives; shifted, turned, cropped or mirrored gratings,
    bars and discs, which are other stimuli; and, unless they are identical, pictures below 8 × 8
    pixels or without detail in luminance. Found as well: pictures that differ in contrast alone,
    rings of another size, and photographs that share their background.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    >>> images[7] = images[3] // 2 + 50
    >>> found = similar_images(images)
    >>> found
    SimilarImages(20 images, 19 groups; pairs: 1 other contrast)
    >>> bool(found.groups[7] == found.groups[3])
    True
    """
    images = as_images(images)
    pictures = small_pictures(images)
    same = _identical(pictures)
    near = pd.DataFrame(columns=same.columns)
    if min(images.shape[1:3]) >= MIN_PIXELS:
        near = _near_copies(pictures)
    pairs = pd.concat([table for table in (same, near) if len(table)] or [same])
    pairs = pairs.sort_values(["distance", "image_a", "image_b"], ignore_index=True)
    return SimilarImages(pairs, _components(len(images), pairs))


def similar_groups(images: Any) -> np.ndarray:
    """Number of the group of near copies that each image belongs to.

    As ``groups`` of scikit-learn's `GroupKFold` or of `brainenc.benchmark` they keep near copies in
    one fold. What is found is described at `brainenc.data.similar_images`.

    Parameters
    ----------
    images : array, sequence of paths or PIL images, or lazy sequence, (n_images, H, W[, 3]), uint8

    Returns
    -------
    array of int, shape (n_images,)
        Counted from 0 in the order of first appearance.

    Raises
    ------
    TypeError, ValueError : as for the images of `EncodingData`.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    >>> images[3] = images[1][:, ::-1]  # mirrored
    >>> similar_groups(images)
    array([0, 1, 2, 1])
    """
    return similar_images(images).groups


def _identical(pictures: SmallPictures) -> pd.DataFrame:
    """Each further image of a picture with its first one."""
    first = pictures.first[pictures.picture]
    again = np.flatnonzero(first != np.arange(len(first)))
    return _table(first[again], again, np.zeros(len(again)), np.full(len(again), "identical"))


def _near_copies(pictures: SmallPictures) -> pd.DataFrame:
    maps, contrast = detail(pictures.luminance)
    shown = np.flatnonzero(contrast >= MIN_DETAIL)  # of a blank picture there is nothing to compare
    maps, contrast, colour = maps[shown], contrast[shown], pictures.colour[shown]
    if len(shown) < 2:
        return _table(shown[:0], shown[:0], np.zeros(0), np.zeros(0, str))
    threshold = _threshold(maps, pictures.aspect)
    a, b, mirrored = candidates(pictures.luminance[shown])
    r, transform = _in_place(maps, a, b), np.zeros((len(a), 4))
    mirrored &= r <= MAX_R
    simple = _simple(maps, pictures.luminance[shown])
    moved = np.flatnonzero((r <= MAX_R) & ~simple[a] & ~simple[b])
    r[moved], transform[moved] = register(
        maps, a[moved], b[moved], mirrored[moved], pictures.aspect
    )
    lower = NEXT_LOWER * (MAX_R - threshold) / (MAX_R - MIN_R)
    needed = threshold - lower * (pictures.first[shown[b]] - pictures.first[shown[a]] == 1)
    same_colours = _same_colours(colour[a], colour[b]) & ~simple[a] & ~simple[b]
    found = r > np.where(same_colours, needed, MAX_R)
    a, b, mirrored, r, transform = (part[found] for part in (a, b, mirrored, r, transform))
    kind = _kinds(transform, np.log(contrast[b] / contrast[a]), mirrored)
    table = _table(pictures.first[shown[a]], pictures.first[shown[b]], 1 - r, kind)
    # Few pictures are compared both ways.
    return table.sort_values("distance", kind="stable").drop_duplicates(["image_a", "image_b"])


def _in_place(maps: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of pictures as they are."""
    flat = maps.reshape(len(maps), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    r = [np.einsum("ij,ij->i", flat[a[some]], flat[b[some]]) for some in blocks(len(a), 4096)]
    return np.concatenate(r).astype(np.float64)


def _simple(maps: np.ndarray, luminance: np.ndarray) -> np.ndarray:
    """Pictures of few contours or of few spatial frequencies, (n,) bool."""
    size = maps.shape[1]
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    from scipy import fft

    spectrum = np.abs(fft.rfft2(maps * np.outer(window, window))) ** 2
    contours = np.square(contour_directions(luminance))
    few = _effective_number(contours) < MIN_CONTOURS
    return few | (_effective_number(spectrum.reshape(len(maps), -1)) < MIN_FREQUENCIES)


def _effective_number(energy: np.ndarray) -> np.ndarray:
    """Participation ratio of the energies in each row: k if they are k equal ones."""
    return energy.sum(axis=1) ** 2 / np.square(energy).sum(axis=1)


def _table(a: np.ndarray, b: np.ndarray, distance: np.ndarray, kind: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_a": a.astype(np.int64),
            "image_b": b.astype(np.int64),
            "distance": distance.astype(np.float64),
            "kind": kind.astype(object),
        }
    )


def _threshold(maps: np.ndarray, aspect: float) -> float:
    """Correlation that independent pictures of this kind do not reach.

    From the lower half of random pairs, since the upper one may hold copies.
    """
    rng = np.random.default_rng(0)
    a = rng.integers(len(maps), size=N_RANDOM)
    b = (a + rng.integers(1, len(maps), size=N_RANDOM)) % len(maps)
    r, _ = register(maps, a, b, np.zeros(N_RANDOM, dtype=bool), aspect)
    low, median = np.quantile(r, [0.16, 0.5])
    return float(np.clip(median + N_SPREADS * (median - low), MIN_R, MAX_R))


def _same_colours(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    difference = np.linalg.norm(a[:, :2] - b[:, :2], axis=1)
    return difference <= COLOUR_STEP + COLOUR_SHARE * np.minimum(a[:, 2], b[:, 2])


def _kinds(transform: np.ndarray, log_contrast: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    shift = np.hypot(transform[:, 0], transform[:, 1])
    size, angle = np.abs(transform[:, 2:]).T
    parts = {"cropped": size, "rotated": angle, "shifted": shift}
    parts["other contrast"] = np.abs(log_contrast)
    named = [mirrored, *(part > NAMED[name] for name, part in parts.items())]
    return np.select(named, ["mirrored", *parts], "altered")


def _components(n: int, pairs: pd.DataFrame) -> np.ndarray:
    """Connected components, numbered by first appearance."""
    a, b = (pairs[side].to_numpy(int) for side in ("image_a", "image_b"))
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
