"""Training images: which are held out; what a fitted encoder keeps: marks, the mean response.

A mark is a short vector of random projections of an image's features. Images whose features are
equal have equal marks, so that a test image that the encoder was fitted to is found later, when
the training images are no longer there.
"""

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from brainenc.arrays import by_columns, row_blocks
from brainenc.repeats import average_repeats

#: Numbers in a mark, and features that it is made of, in as many runs of neighbours.
N_MARKS, N_FEATURES, N_RUNS = 8, 4096, 16

#: Distance of marks, in s.d. of the training images, that rounding on another device explains.
TOLERANCE = 1e-3

#: Smallest share of different training images: with fewer, features do not identify an image.
MIN_DIFFERENT = 0.5


def marks_of(features: np.ndarray) -> np.ndarray:
    """Random projections of the features of each image.

    Parameters
    ----------
    features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
        May be memory-mapped; at most 4096 features of an image are read.

    Returns
    -------
    array, shape (n_images, 8), float32; (n_images, 0) without features
    """
    width = int(np.prod(features.shape[1:]))
    if width == 0:
        return np.empty((len(features), 0), dtype=np.float32)
    size = min(width, N_FEATURES // N_RUNS)
    starts = np.linspace(0, width - size, N_RUNS).astype(int)
    chosen = np.unique((starts[:, None] + np.arange(size)).ravel())
    weights = np.random.default_rng(0).standard_normal((len(chosen), N_MARKS)) / np.sqrt(size)
    if by_columns(features):
        # By columns: rows would be gathered from all over a file.
        at: Any = (slice(None), *np.unravel_index(chosen, features.shape[1:]))
        return (features[at].astype(np.float64) @ weights).astype(np.float32)
    marks = [
        np.asarray(block.reshape(len(block), -1)[:, chosen], dtype=np.float64) @ weights
        for block in row_blocks(features)
    ]
    return np.concatenate(marks).astype(np.float32)


def mean_response(betas: np.ndarray) -> np.ndarray:
    """Mean over images of repeat-averaged betas, (n_voxels,), float32; NaN without data."""
    total, n = np.zeros((2, betas.shape[2]))
    for block in row_blocks(betas):
        averages = average_repeats(block)
        present = np.isfinite(averages)
        total += np.where(present, averages, 0).sum(axis=0, dtype=np.float64)
        n += present.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return (total / n).astype(np.float32)


def trained_on(encoder: Any, features: np.ndarray) -> np.ndarray | None:
    """Which images a fitted encoder, or one that it was made of, was fitted to.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
    features : array
        Features of the images, as the encoder takes them.

    Returns
    -------
    array of bool, shape (n_images,); None if it is unknown: for an encoder saved by an earlier
    version, one without features, or one whose training images have the same few features.
    """
    found = None
    for fitted in (encoder, getattr(encoder, "encoder_", None)):
        known = getattr(fitted, "training_marks_", None)
        if known is None or known.shape[1] == 0 or not _identify(known):
            continue
        scale = known.std(axis=0, dtype=np.float64)
        marks = marks_of(features)
        distance, _ = cKDTree(known / scale).query(marks / scale)
        seen = distance <= TOLERANCE * np.sqrt(N_MARKS)
        found = seen if found is None else found | seen
    return found


def check_not_trained_on(encoder: Any, X: Any, name: str, images: str) -> None:
    """Raise ValueError if a fitted encoder was fitted to some of these images.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
        Of one that does not take `X`, and of other classes, nothing is known.
    X : images or features, as for `fit`
    name : str
        Of the encoder, for the message.
    images : str
        What the images are, for the message: "test images of subject 1".
    """
    if not hasattr(encoder, "_features_of"):
        return
    try:
        features = encoder._features_of(X)
    except (TypeError, ValueError):  # it cannot predict them either: that error comes later
        return
    seen = trained_on(encoder, features)
    if seen is not None and seen.any():
        raise ValueError(
            f"encoder {name!r} was fitted to {int(seen.sum())} of the {len(seen)} {images} (rows "
            f"{np.flatnonzero(seen)[:5].tolist()}, … of these): fit it without them, "
            "data.select(images=...), or take other images"
        )


def _identify(marks: np.ndarray) -> bool:
    different = len(np.unique(marks, axis=0))
    return bool(different > max(1, MIN_DIFFERENT * len(marks)) and (marks.std(axis=0) > 0).all())


def learnt_images(averages: np.ndarray, share: float, random_state: int) -> np.ndarray:
    """Mask (n_images,) of the images to learn: a random `share` of those with data is held out."""
    learnt = np.ones(len(averages), dtype=bool)
    shown = np.flatnonzero(np.isfinite(averages).any(axis=1))
    n_held = round(share * len(shown))
    learnt[np.random.default_rng(random_state).permutation(shown)[:n_held]] = False
    return learnt
