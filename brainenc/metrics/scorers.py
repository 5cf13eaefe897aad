"""Scorers for scikit-learn's cross-validation and searches, which take betas with repeats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import check_one_order, plain_array, text_labels
from brainenc.metrics.voxelwise import correlation, mean_squared_error, r_squared
from brainenc.repeats import average_repeats
from brainenc.validation import check_betas, check_index

#: Scores by name: larger is better, as scikit-learn asks for.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "r": correlation,
    "r2": r_squared,
    "mse": lambda predictions, targets: -mean_squared_error(predictions, targets),
}


def roi_scorer(rois: Any = None, roi: str | None = None, *, metric: str = "r") -> Any:
    """Scorer of predictions of an ROI, for ``scoring=`` of scikit-learn.

    Scores are against averages over the repeats that are there, and betas may have repeats and
    missing values, which scikit-learn's own scorers (``scoring="r2"``) refuse.

    Parameters
    ----------
    rois : labels, shape (n_voxels,); mask of bool; or positions; optional
        Labels are a column of the voxel table, such as ``data.voxels["roi"]``. All voxels by
        default.
    roi : str, optional
        The label that is scored. Without it, labels give a scorer for each ROI.
    metric : "r", "r2" or "mse"
        Mean over voxels of Pearson's r or R² across images; "mse" is minus the squared error.

    Returns
    -------
    RoiScorer; with labels and no `roi`, a dict of ROI to RoiScorer, for ``cross_validate`` and for
    ``GridSearchCV(…, refit="V1")``

    Raises
    ------
    ValueError : an unknown metric or ROI.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :4] + rng.standard_normal((120, 2, 4))  # 2 repeats, 4 voxels
    >>> v1 = brainenc.metrics.roi_scorer(["V1", "V1", "V2", "V2"], "V1", metric="r2")
    >>> scores = cross_val_score(brainenc.RidgeEncoder(), features, betas, cv=3, scoring=v1)
    >>> bool(scores.mean() > 0.5)
    True
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} must be one of {list(METRICS)}")
    if rois is None:
        if roi is not None:
            raise ValueError(
                f"roi={roi!r} needs the ROI of every voxel: roi_scorer(data.voxels['roi'], {roi!r})"
            )
        return RoiScorer(None, metric)
    values = plain_array(rois, "rois")
    if values.dtype.kind in "OUS" and not all(isinstance(v, (bool, np.bool_)) for v in values.flat):
        labels = pd.Series(text_labels(rois, "rois"))
        known = sorted({str(label) for label in labels.dropna()} - {""})
        if roi is None:
            return {name: RoiScorer((labels == name).to_numpy(), metric) for name in known}
        if roi not in known:
            raise ValueError(f"roi={roi!r} is not among the labels {known}")
        return RoiScorer((labels == roi).to_numpy(), metric)
    if roi is not None:
        raise ValueError(
            f"roi={roi!r} needs labels, and rois is an array of {values.dtype}: give one of the two"
        )
    return RoiScorer(values, metric)


class RoiScorer:
    """Scorer of some voxels; made by `roi_scorer`.

    Parameters
    ----------
    voxels : mask or positions, or None for all
    metric : str
    """

    def __init__(self, voxels: np.ndarray | None, metric: str):
        self.voxels, self.metric = voxels, metric

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Score of a fitted estimator; NaN if it is undefined for every voxel.

        Parameters
        ----------
        estimator : fitted, with predict
        X : images or features
        y : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        """
        predictions = np.asarray(estimator.predict(X))
        check_one_order(X=X, y=y)
        predictions = predictions.reshape(len(predictions), -1)
        betas = check_betas(y, n_images=len(predictions), n_voxels=predictions.shape[1])
        chosen: Any = slice(None)
        if self.voxels is not None:
            chosen = check_index(self.voxels, betas.shape[2], "rois")
        scores = METRICS[self.metric](predictions[:, chosen], average_repeats(betas[..., chosen]))
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

    def __repr__(self) -> str:
        return f"RoiScorer({'all voxels' if self.voxels is None else 'an ROI'}, {self.metric!r})"
