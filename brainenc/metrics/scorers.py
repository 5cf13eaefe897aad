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
    missing values, which scikit-learn's own scorers (``scoring="r2"``) refuse. For these there is
    `BetasWithRepeats`.

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


class BetasWithRepeats:
    """Betas with repeats that other libraries see as averages over repeats.

    scikit-learn's own scorers (``scoring="r2"``, ``"neg_mean_squared_error"`` and others) refuse
    arrays of three axes. They take this object as the array of averages. Encoders and the scorers
    of `roi_scorer` take it as the betas with their repeats. Its rows are images, so
    that splitters of scikit-learn divide it by image.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
        NaN where a repeat is missing. scikit-learn's scorers refuse images that lack all repeats
        in a voxel; `roi_scorer` leaves them out.

    Attributes
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    shape : (n_images, n_voxels), of the averages
    ndim, dtype : of the averages

    Raises
    ------
    ValueError : `betas` has another number of axes, infinite values, or nothing but NaN.
    TypeError : not numeric.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :4] + rng.standard_normal((120, 2, 4))  # 2 repeats, 4 voxels
    >>> y = brainenc.metrics.BetasWithRepeats(betas)
    >>> scores = cross_val_score(brainenc.RidgeEncoder(), features, y, cv=3, scoring="r2")
    >>> bool(scores.mean() > 0.5)
    True
    """

    def __init__(self, betas: Any):
        self.betas = check_betas(betas)
        n_images, _, n_voxels = self.betas.shape
        self.shape, self.ndim, self.dtype = (n_images, n_voxels), 2, self.betas.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, images: Any) -> "BetasWithRepeats":
        """Betas of some images, as a mask, positions or a slice; scikit-learn adds an Ellipsis."""
        if isinstance(images, tuple):
            if len(images) != 2 or images[1] is not Ellipsis:
                raise IndexError(
                    f"BetasWithRepeats {self.shape} is indexed by images alone; its attribute "
                    "`betas` is the array with all axes"
                )
            images = images[0]
        found = object.__new__(BetasWithRepeats)
        betas = self.betas[np.atleast_1d(images) if np.isscalar(images) else images]
        found.betas, found.shape = betas, (len(betas), self.shape[1])
        found.ndim, found.dtype = self.ndim, self.dtype
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Averages over the repeats that are there, (n_images, n_voxels)."""
        return average_repeats(self.betas).astype(dtype or self.dtype, copy=False)

    def __betas__(self) -> np.ndarray:
        """Betas with their repeats, for `brainenc.conversion.plain_array`."""
        return self.betas

    def __repr__(self) -> str:
        return f"BetasWithRepeats{self.betas.shape}"


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
