"""Any fitted encoder with its draws and intervals calibrated on held-out images."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from brainenc.calibration import (
    check_coverage,
    check_groups,
    conformal_quantile,
    variance_scale,
)
from brainenc.encoders import _sampling
from brainenc.encoders.base import BaseEncoder
from brainenc.validation import check_betas


class CalibratedEncoder(BaseEstimator):
    """An encoder whose draws and intervals fit held-out trials; `brainenc.calibrate` makes one.

    It predicts what the encoder predicts. Draws deviate from the prediction as the encoder's do,
    times a factor per voxel. Intervals are conformal.

    Parameters
    ----------
    encoder : BaseEncoder, fitted

    Attributes
    ----------
    scale_ : array, shape (n_voxels,)
        Factor on the s.d. of draws; 1 where the encoder's were right. NaN without data.
    scores_ : array, shape (n_images, n_repeats, n_voxels), float32
        Distance of calibration trials from the prediction, in units of the encoder's s.d.
    group_ : array of int, shape (n_voxels,)
        Voxels with the same number are calibrated together.
    sample_kind_ : str
        "calibrated", and that of the encoder.
    """

    def __init__(self, encoder: BaseEncoder):
        self.encoder = encoder

    def fit(self, X: Any, y: Any, *, groups: Any = None) -> "CalibratedEncoder":
        """Calibrate on images that the encoder was not fitted to. See `brainenc.calibrate`."""
        check_is_fitted(self.encoder)
        features = self.encoder._features_of(X)
        betas = check_betas(y, n_images=len(features))
        n_voxels = self.encoder.n_voxels_
        if betas.shape[2] != n_voxels:
            raise ValueError(
                f"betas {betas.shape} have {betas.shape[2]} voxels, but the encoder was fitted to "
                f"{n_voxels}"
            )
        self.group_ = check_groups(groups, n_voxels)
        prediction, sd = self.encoder._predict(features), self.encoder._spread(features)
        with np.errstate(invalid="ignore", divide="ignore"):
            standardized = (betas - prediction[:, None]) / np.where(sd > 0, sd, np.nan)[:, None]
        self.scale_ = variance_scale(standardized, self.group_)
        self.scores_ = np.abs(standardized).astype(np.float32)
        self.n_voxels_ = n_voxels
        self.sample_kind_ = f"calibrated {self.encoder.sample_kind_}"
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "scale_")

    def predict(self, X: Any) -> np.ndarray:
        """Expected responses, those of the encoder. See `BaseEncoder.predict`."""
        return self.encoder.predict(X)

    def sample(
        self,
        X: Any,
        n: int = 5,
        random_state: Any = None,
        *,
        out: str | os.PathLike | None = None,
    ) -> np.ndarray:
        """Single-trial draws with calibrated variance.

        Parameters
        ----------
        X, n, random_state, out : as for `BaseEncoder.sample`

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32
            A memory map of the file with `out`.
        """
        check_is_fitted(self)
        if n < 1:
            raise ValueError(f"n={n}: at least one draw is needed")
        features = self.encoder._features_of(X)
        kind = self.encoder._noise_kinds()[0]
        blocks = self._scaled(features, self.encoder._draw_blocks(features, n, random_state, kind))
        shape: tuple[int, ...] = (n, len(features), self.n_voxels_)
        if self.encoder.betas_ndim_ == 1:
            blocks, shape = ((images, draws[..., 0]) for images, draws in blocks), shape[:2]
        return (
            _sampling.collect(blocks, shape) if out is None else _sampling.write(blocks, shape, out)
        )

    def _scaled(self, features: np.ndarray, blocks: _sampling.Blocks) -> _sampling.Blocks:
        scale = self.scale_.astype(np.float32)
        for images, draws in blocks:
            prediction = self.encoder._predict(features[images]).astype(np.float32, copy=False)
            draws -= prediction
            draws *= scale
            draws += prediction
            yield images, draws

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Interval around the prediction that holds a trial of a new image.

        With new images that are exchangeable with those of the calibration, the interval of each
        voxel (of the voxels of each group on average) holds at least the share `coverage` of
        single trials, whatever their distribution, and not more than 2 / (n_images + 1) beyond:
        over calibration sets, not for every one of them.

        Parameters
        ----------
        X : images or features
        coverage : float
            Between 0 and 1.

        Returns
        -------
        lower, upper : arrays, shape (n_images, n_voxels), float32
            Infinite for a voxel with too few calibration images; NaN for one without data.

        Raises
        ------
        ValueError : coverage not between 0 and 1, or too few calibration images for any voxel.

        References
        ----------
        Lee, Barber & Willett (2023), arXiv 2306.06342.
        """
        check_is_fitted(self)
        bound = conformal_quantile(self.scores_, check_coverage(coverage), self.group_)
        if not np.isfinite(bound).any():
            needed = int(np.ceil(coverage / (1 - coverage) - 1e-6))
            raise ValueError(
                f"coverage={coverage} takes at least {needed} calibration images, and there are "
                f"{len(self.scores_)}: calibrate on more images or ask for less coverage"
            )
        features = self.encoder._features_of(X)
        prediction = self.encoder._predict(features)
        width = bound * self.encoder._spread(features)
        bounds = np.stack([prediction - width, prediction + width]).astype(np.float32)
        lower, upper = bounds[..., 0] if self.encoder.betas_ndim_ == 1 else bounds
        return lower, upper

    def score(self, X: Any, y: Any) -> float:
        """That of the encoder. See `BaseEncoder.score`."""
        return self.encoder.score(X, y)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write encoder and calibration to a folder; `brainenc.load` reads it."""
        from brainenc.encoders.persistence import save

        check_is_fitted(self)
        return save(self, folder)


def calibrate(
    encoder: BaseEncoder, images: Any, betas: Any, *, groups: Any = None
) -> CalibratedEncoder:
    """Calibrate the draws and intervals of a fitted encoder on held-out images.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
        Left as it is.
    images : images or features, as for `BaseEncoder.fit`
        None of those the encoder was fitted to: its errors on these are too small.
    betas : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        NaN where a repeat is missing.
    groups : array-like of labels, shape (n_voxels,), optional
        Voxels with one label (a ROI) are calibrated together, which few images suffice for; every
        voxel by itself without.

    Returns
    -------
    CalibratedEncoder

    Raises
    ------
    ValueError : shapes that do not match.
    sklearn.exceptions.NotFittedError : the encoder is not fitted.
    """
    return CalibratedEncoder(encoder).fit(images, betas, groups=groups)
