"""top_images: the images with the largest predicted responses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import text_labels
from brainenc.localization import Moments, in_batches, two_dimensional
from brainenc.progress import progress
from brainenc.validation import check_index, check_whole


def top_images(
    encoder: Any,
    images: Any,
    n: int = 20,
    *,
    voxels: Any = None,
    rois: Any = None,
    batch_size: int = 256,
    verbose: bool = False,
) -> pd.DataFrame:
    """Images with the largest predicted responses of each voxel, or of each ROI.

    Any voxel has such images, one of pure noise too, and in half of these most of them show the
    same kind of thing: images come in clusters, and so do those on one side of a random direction.
    `describe` tests what the images share.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
    images : images or features, as for ``encoder.predict``
        One row per image, which the encoder was not fitted to; read in batches.
    n : int
        Images per voxel or ROI.
    voxels : mask of shape (n_voxels,) or positions, optional
        Voxels of interest; all by default.
    rois : array of str, shape (n_voxels,), optional
        Labels: the mean over the voxels of each label is taken, each voxel's predictions divided by
        their s.d. over the images. Voxels without a label, and those with undefined predictions
        (NaN: no data), are left out; constant predictions count as 0.
    batch_size : int
        Images predicted at a time.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    DataFrame, one row per (voxel, rank) or (roi, rank)
        ``voxel`` (position) or ``roi``; ``rank`` from 1; ``image``, its row; ``response``, the
        prediction in the units of the betas, or the mean in s.d. for ROIs. Equal predictions are in
        the order of images. Voxels with constant or undefined predictions have no rows.

    Raises
    ------
    ValueError : `n` is larger than the number of images, or labels do not match the voxels.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, :5] + rng.standard_normal((120, 5))
    >>> encoder = brainenc.RidgeEncoder().fit(features, betas)
    >>> images = rng.standard_normal((200, 8))  # features of other images
    >>> found = brainenc.top_images(encoder, images, 3, voxels=[0])
    >>> bool((images[found["image"], 0] > 1).all())  # voxel 0 responds to feature 0
    True
    """
    if rois is None:
        top = top_positions(encoder, images, n, batch_size=batch_size, verbose=verbose)
        n_voxels = top.images.shape[1]
        chosen = np.arange(n_voxels) if voxels is None else check_index(voxels, n_voxels, "voxels")
        return top.table("voxel", chosen.tolist(), chosen)
    labels, groups = _groups(encoder, rois, voxels)
    top = top_positions(encoder, images, n, batch_size=batch_size, verbose=verbose, groups=groups)
    return top.table("roi", labels, np.arange(len(labels)))


class TopImages:
    """The images with the largest of values that come in batches.

    Attributes
    ----------
    images : array of int, shape (n, n_units)
        Rows, the largest first.
    values : array, shape (n, n_units), float32
    """

    def __init__(self, n: int):
        self.n = n
        self.images = np.empty((0, 0), np.int64)
        self.values = np.empty((0, 0), np.float32)
        self._low: Any = np.inf
        self._high: Any = -np.inf

    @property
    def defined(self) -> np.ndarray:
        """Whether the values of each unit vary and are finite."""
        return np.isfinite(self._low) & np.isfinite(self._high) & (self._low < self._high)

    def add(self, first: int, values: np.ndarray) -> None:
        """Add values (n_images, n_units) of images from `first` on."""
        self._low = np.minimum(self._low, values.min(axis=0))  # NaN stays
        self._high = np.maximum(self._high, values.max(axis=0))
        rows = np.broadcast_to(first + np.arange(len(values))[:, None], values.shape)
        if len(self.images):
            values = np.concatenate([self.values, values])
            rows = np.concatenate([self.images, rows])
        # Stable, so that equal values are in the order of images in batches of any size.
        order = np.argsort(-values, axis=0, kind="stable")[: self.n]
        self.images = np.take_along_axis(rows, order, axis=0)
        self.values = np.take_along_axis(values, order, axis=0)

    def table(self, name: str, labels: Sequence[Any], columns: np.ndarray) -> pd.DataFrame:
        """One row per (unit, rank), of units with defined values."""
        kept = [(label, c) for label, c in zip(labels, columns, strict=True) if self.defined[c]]
        chosen = np.array([c for _, c in kept], dtype=int)
        return pd.DataFrame(
            {
                name: np.repeat([label for label, _ in kept], self.n),
                "rank": np.tile(np.arange(1, self.n + 1), len(kept)),
                "image": self.images[:, chosen].T.ravel(),
                "response": self.values[:, chosen].T.ravel(),
            }
        )


def top_positions(
    encoder: Any,
    images: Any,
    n: int,
    *,
    batch_size: int = 256,
    verbose: bool = False,
    groups: np.ndarray | None = None,
    keep: np.ndarray | None = None,
    name: str = "n",
) -> Any:
    """Top images of all voxels, or of groups of voxels.

    Parameters
    ----------
    encoder, images, n, batch_size, verbose : as for `top_images`
    groups : array, shape (n_voxels, n_groups), optional
        Weights with which voxels in units of their s.d. are averaged, which takes a pass of its
        own; each column is scaled to sum to 1 over the voxels with defined predictions.
    keep : positions of images, optional
        Whose predictions are returned too.
    name : str
        Of the argument `n`, for errors.

    Returns
    -------
    TopImages, or (TopImages, array of shape (n_keep, n_voxels)) with `keep`
    """
    n_images, batches = in_batches(images, batch_size)
    check_whole(name, n, most=n_images, of="the number of images")
    if groups is not None:
        scale = _spread(encoder, images, batch_size)
        varies = scale > 0
        # A mean over the voxels with predictions; NaN for a group without any.
        total = groups[np.isfinite(scale)].sum(axis=0)
        groups = groups / np.where(total > 0, total, np.nan)
    top = TopImages(n)
    kept: list[np.ndarray] = []
    chosen = np.zeros(n_images, bool)
    chosen[[] if keep is None else keep] = True
    with progress(desc="top images", total=n_images, unit="image", verbose=verbose) as bar:
        for rows, batch in batches:
            predicted = two_dimensional(encoder.predict(batch), 2)
            kept.append(predicted[chosen[rows]])
            if groups is not None:
                predicted = (predicted[:, varies] / scale[varies]) @ groups[varies]
            top.add(rows.start, predicted.astype(np.float32, copy=False))
            bar.update(len(predicted))
    return top if keep is None else (top, np.concatenate(kept))


def _spread(encoder: Any, images: Any, batch_size: int) -> np.ndarray:
    """s.d. of predictions over images; 0 where they are constant, NaN where undefined."""
    moments = Moments()
    for _, batch in in_batches(images, batch_size)[1]:
        moments.add(two_dimensional(encoder.predict(batch), 2))
    return np.sqrt(moments.variance)


def _groups(encoder: Any, rois: Any, voxels: Any) -> tuple[list[str], np.ndarray]:
    """Labels, and whether each voxel has them, (n_voxels, n_labels)."""
    found = text_labels(rois, "rois")
    n_voxels = getattr(encoder, "n_voxels_", len(found))
    if len(found) != n_voxels:
        raise ValueError(f"rois has {len(found)} labels, but the encoder has {n_voxels} voxels")
    if voxels is not None:
        left_out = np.ones(n_voxels, bool)
        left_out[check_index(voxels, n_voxels, "voxels")] = False
        found = found.copy()
        found[left_out] = None
    labels = list(dict.fromkeys(label for label in found if label))
    if not labels:
        raise ValueError("rois has no label")
    return labels, np.array([[label == other for other in labels] for label in found], float)
