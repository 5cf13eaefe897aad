"""Training data beside test data: the same voxels, and no images in both."""

from typing import Any

import numpy as np

from brainenc.data.encoding_data import EncodingData
from brainenc.data.similarity import similar_images


class _Joined:
    """Two lazy sequences of images as one, read in blocks."""

    def __init__(self, first: Any, second: Any):
        self.first, self.second = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, (int, np.integer)):
            return self[np.array([rows])][0]
        chosen = np.arange(len(self))[rows]
        n = len(self.first)
        found = np.empty((len(chosen), *self.shape[1:]), dtype=self.dtype)
        for part, within in ((self.first, chosen < n), (self.second, chosen >= n)):
            offset = 0 if part is self.first else n
            if within.any():
                found[within] = np.asarray(part[chosen[within] - offset])
        return found


def check_training_data(train: Any, data: EncodingData) -> None:
    """Raise TypeError or ValueError unless training data have the voxels of the test data."""
    if not isinstance(train, EncodingData):
        raise TypeError(f"train must be an EncodingData, got {type(train).__name__}")
    if train.n_voxels != data.n_voxels:
        raise ValueError(
            f"train has {train.n_voxels} voxels, but the test data have {data.n_voxels}: give the "
            "data that the encoders were fitted to"
        )


def images_in_training(train: EncodingData, data: EncodingData) -> list[str]:
    """Warn of test images that are near copies of training images, or that this is unknown.

    Parameters
    ----------
    train, data : EncodingData

    Returns
    -------
    list of str, at most one
    """
    if tuple(train.images.shape[1:]) != tuple(data.images.shape[1:]):
        return [
            f"Near copies of training images are not looked for: test images are "
            f"{tuple(data.images.shape[1:])} and training images {tuple(train.images.shape[1:])}."
        ]
    n = train.n_images
    similar = similar_images(_Joined(train.images, data.images))
    near = similar.near(np.arange(n, n + data.n_images), np.arange(n))
    if not near.any():
        return []
    rows = np.flatnonzero(near)
    listed = ", ".join(map(str, rows[:5])) + (" …" if len(rows) > 5 else "")
    return [
        f"{len(rows)} of {data.n_images} test images have a near copy among the training images "
        f"(rows {listed}): scores show memory of these pictures. Leave them out, "
        "data.select(images=...)."
    ]
