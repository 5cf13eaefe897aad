"""GroupMean: each voxel as the mean voxel of its ROI in other subjects."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from brainenc.data.encoding_data import EncodingData
from brainenc.data.voxels import atlas_columns, atlas_labels
from brainenc.encoders.base import BaseEncoder
from brainenc.repeats import average_repeats

#: Column of the mean over all voxels, for voxels without a ROI that the sources have.
_ALL = "all"


class GroupMean(BaseEncoder):
    """Map of the group: the expected response of the mean voxel of the ROI, in other subjects.

    Of the new subject only the mean of each voxel is fitted.

    Parameters
    ----------
    encoders : list of fitted encoders
        Of the sources' mean responses, one column for each of `names`.
    names : list of str
        "all" and ROIs.
    labels : array of str, shape (n_voxels,), optional
        ROIs of the new subject's voxels, which `with_voxels` gives.
    features : as for `RidgeEncoder`
    """

    def __init__(
        self, encoders: Any = (), names: Any = (_ALL,), labels: Any = None, features: Any = None
    ):
        self.encoders = encoders
        self.names = names
        self.labels = labels
        self.features = features

    @classmethod
    def of(cls, encoder: Any, sources: Mapping[str, tuple[EncodingData, np.ndarray]]) -> Any:
        """Fit `encoder` to the mean responses of each source, (data, features) by name.

        A mean is over the voxels that have data of the image, NaN where none has.
        """
        data = [d for d, _ in sources.values()]
        labels = [_labels(d.voxels) for d in data]
        names = [_ALL, *sorted({str(label) for own in labels for label in own if label})]
        fitted = []
        for (d, X), own in zip(sources.values(), labels, strict=True):
            averages = average_repeats(np.asarray(d.betas))
            columns = [averages if name == _ALL else averages[:, own == name] for name in names]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
                means = np.stack([np.nanmean(c, axis=1) for c in columns], axis=1)
            fit = clone(encoder).fit(X, means)
            fitted.append(FrozenEstimator(fit))
        return cls(fitted, names)

    def with_voxels(self, voxels: pd.DataFrame) -> "GroupMean":
        """Copy with the labels of the first atlas of the voxel table."""
        return clone(self).set_params(labels=_labels(voxels))

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        averages = average_repeats(betas)
        labels: Sequence[Any] = [""] * betas.shape[2] if self.labels is None else self.labels
        places = {name: i for i, name in enumerate(self.names)}
        self.columns_ = np.array([places.get(label, 0) for label in labels])
        expected = self._of_group(features)
        self.mean_ = np.nanmean(averages, axis=0) - np.nanmean(expected, axis=0)
        return expected + self.mean_

    def _of_group(self, features: np.ndarray) -> np.ndarray:
        found = np.stack([e.estimator.predict(features) for e in self.encoders])
        return np.nanmean(found, axis=0)[:, self.columns_]

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self._of_group(features) + self.mean_


def _labels(voxels: pd.DataFrame) -> np.ndarray:
    """ROI labels of the first atlas; "" without one."""
    columns = atlas_columns(voxels)
    if not columns:
        return np.full(len(voxels), "", dtype=object)
    return np.array([label or "" for label in atlas_labels(voxels, columns[0])], dtype=object)
