"""Pools of images that retrieval chooses from: random ones, and hard ones of similar images."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainenc.conversion import column
from brainenc.metrics.sums import check_matrix

#: Kinds of pools.
KINDS = ("random", "same category", "nearest")


class Pool(NamedTuple):
    """Images of a pool, and those of them that are looked for; positions among all images."""

    images: NDArray[np.int64]
    queries: NDArray[np.int64]


def make_pools(
    kind: str,
    n_images: int,
    pool_size: int,
    n_pools: int,
    rng: np.random.Generator,
    *,
    categories: Any = None,
    targets: Any = None,
) -> Iterator[Pool]:
    """Pools of different images.

    Parameters
    ----------
    kind : "random", "same category" or "nearest"
        Drawn from all images; drawn from the images of one category, `n_pools` for each category
        that has `pool_size` images; or each image with the `pool_size` − 1 images whose targets
        are most similar to its own, where only this image is looked for.
    n_images, pool_size, n_pools : int
    rng : Generator
    categories : array, shape (n_images,), optional
    targets : array, shape (n_images, n_features), optional
        Compared by the cosine of deviations from their mean.

    Yields
    ------
    Pool

    Raises
    ------
    ValueError : an unknown kind, missing categories or targets, or no category of `pool_size`
        images.
    """
    if kind == "random":
        for _ in range(n_pools):
            images = np.sort(rng.choice(n_images, pool_size, replace=False))
            yield Pool(images, images)
    elif kind == "same category":
        for members in _large_categories(categories, n_images, pool_size):
            for _ in range(n_pools):
                images = np.sort(rng.choice(members, pool_size, replace=False))
                yield Pool(images, images)
    elif kind == "nearest":
        if targets is None:
            raise ValueError('pools="nearest" needs targets, one row per candidate')
        for image, images in enumerate(_nearest(check_matrix(targets, "targets"), pool_size)):
            yield Pool(images, np.array([image]))
    else:
        raise ValueError(f"pools={kind!r} must be one of {list(KINDS)}")


def _large_categories(categories: Any, n_images: int, pool_size: int) -> list[np.ndarray]:
    if categories is None:
        raise ValueError('pools="same category" needs categories, one label per candidate')
    labels = column(categories, "categories", "n_images").astype(str)
    if len(labels) != n_images:
        raise ValueError(f"categories {labels.shape} must have one label for each of {n_images}")
    names, sizes = np.unique(labels, return_counts=True)
    if sizes.max() < pool_size:
        raise ValueError(
            f"pool_size={pool_size}: the largest category, {str(names[sizes.argmax()])!r}, has "
            f"{sizes.max()} images; lower pool_size"
        )
    return [np.flatnonzero(labels == name) for name in names[sizes >= pool_size]]


def _nearest(targets: np.ndarray, pool_size: int) -> NDArray[np.int64]:
    """Each image and the `pool_size` − 1 most similar ones, in increasing order."""
    deviations = targets.astype(np.float64) - targets.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(deviations, axis=1, keepdims=True)
    units = np.divide(deviations, length, out=np.zeros_like(deviations), where=length > 0)
    found = np.empty((len(units), pool_size), dtype=np.int64)
    for image, unit in enumerate(units):
        similarity = units @ unit
        similarity[image] = np.inf
        found[image] = np.sort(np.argsort(-similarity, kind="stable")[:pool_size])
    return found
