"""CalibratedEncoder: any encoder, its draws and intervals calibrated on images it did not learn."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.base import BaseEncoder, HeldOut
from brainenc.encoders.composed import NOT_PREFIT, cross_fits, extraction, for_arrays, prepare
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.model_selection import image_folds
from brainenc.noise.calibration import (
    check_coverage,
    check_groups,
    conformal_quantile,
    variance_scale,
)
from brainenc.noise.gaussian import ResidualNoise
from brainenc.noise.shape import ResidualShape
from brainenc.validation import check_feature_shape, check_features

#: Images whose scores are kept for intervals: with so many, their coverage is off by .007 at most
#: (one standard error, at a coverage of .9) for want of more.
MAX_SCORED = 2000


class CalibratedEncoder(BaseEncoder):
    """An encoder whose draws and intervals fit the single trials of images it did not learn.

    It predicts what the encoder predicts. Draws deviate from the prediction as the encoder's do,
    times a factor per voxel or ROI that makes their variance that of held-out trials. Intervals
    are conformal. The images of `fit` serve for both, fitting and calibration; to calibrate an
    encoder that is fitted already, on images of their own, see `brainenc.calibrate`.

    Parameters
    ----------
    encoder : BaseEncoder, optional
        It is cloned. None is ridge.
    features : "auto", None or transformer
        "auto": those of the encoder. None, or a transformer: the encoder takes the arrays given,
        or those of the transformer, whatever its own say.
    groups : array-like of labels, shape (n_voxels,), or str, optional
        Voxels with one label (a ROI) are calibrated together, which few images suffice for; every
        voxel by itself without. A name is that of an atlas, for an encoder that is told the voxel
        table by `with_voxels`, as a benchmark tells it.
    cv : int, splitter, iterable of (train, test), or "prefit"
        Folds over images. A copy of the encoder is fitted on each, and judged by the images left
        out; then the encoder is fitted to all images, which makes one fit more than folds. A
        single (train, test) is cheap. "prefit": the encoder is fitted, is neither cloned nor
        fitted again, and is judged by the images given to `fit`, **none of which it may have been
        fitted to**.
    random_state : int
        Of shuffled folds. The encoder has its own.

    Attributes
    ----------
    encoder_ : BaseEncoder
        Fitted to all images; with "prefit", `encoder` itself.
    given_ : BaseEncoder, unfitted, or None
        The encoder as given, where it makes features of images of its own.
    prefit_ : bool
        Whether the encoder was fitted before.
    scale_ : array, shape (n_voxels,)
        Factor on the s.d. of draws; 1 where the encoder's were right. NaN without data, and for
        a voxel that does not vary.
    scores_ : array, shape (n_images, n_repeats, n_voxels), float32
        How far held-out trials are from the prediction: 1.64, say, at both ends of the encoder's
        own 90 % interval, as for a normal variable. Of 2000 images if there are more.
    group_ : array of int, shape (n_voxels,)
        Voxels with the same number are calibrated together.
    noise_ : ResidualNoise
        The encoder's, with the variance of its calibrated draws. Of an encoder that draws from
        something else (a sampler, a mixture): residuals of the held-out trials.
    sample_kind_ : str
        "calibrated", and that of the encoder.

    Notes
    -----
    Intervals are the encoder's own, of another coverage than they claim: of that which has held
    the share of held-out trials asked for. Where the encoder says that residuals are skewed
    (`residual_shape_`), trials so lie above and below in equal shares.

    Draws. The factor is of the deviations of "full" draws, the s.d. of held-out trials in units of
    the encoder's; "latent", which is a part of these, is scaled alike. It does not say whether the
    noise of trials or the error of predictions was off, so it is of no use for either alone:
    "trial" and "signal" are estimated anew, from the repeats of the calibration images and from
    their held-out predictions, and need repeats among these.

    With folds, trials are compared with the s.d. that *their* fit predicts, and the factor is
    applied to the s.d. of the fit to all images. So what a fit gains by having more images is no
    error of calibration; that the factor itself is the same for both is assumed.

    References
    ----------
    Vovk (2015), Annals of Mathematics and Artificial Intelligence 74 (cross-conformal prediction).
    Romano, Patterson & Candès (2019), NeurIPS 32 (conformalised quantiles).
    """

    encoder_: BaseEncoder
    given_: BaseEncoder | None
    features_: Any

    def __init__(
        self,
        encoder: Any = None,
        *,
        features: Any = "auto",
        groups: Any = None,
        cv: Any = 5,
        random_state: int | None = 0,
    ):
        self.encoder = encoder
        self.features = features
        self.groups = groups
        self.cv = cv
        self.random_state = random_state

    @property
    def sample_kind(self) -> str:  # type: ignore[override]
        """That of the encoder, after "calibrated"."""
        return f"calibrated {self._given().sample_kind}"

    @property
    def _prefit(self) -> bool:
        return isinstance(self.cv, str) and self.cv == "prefit"

    @property
    def _shape(self) -> ResidualShape | None:
        return self.encoder_.residual_shape_

    def _given(self) -> BaseEncoder:
        if self.encoder is None:
            return RidgeEncoder()
        if not isinstance(self.encoder, BaseEncoder):
            raise TypeError(f"encoder={self.encoder!r} must be an encoder, RidgeEncoder() say")
        return self.encoder

    # ---------------------------------------------------------------- features and voxels

    def with_voxels(self, voxels: pd.DataFrame) -> BaseEncoder:
        """The same encoder, told about the voxels, with labels where `groups` names an atlas."""
        if self._prefit:
            return self
        given, groups = self._given(), self.groups
        told = given.with_voxels(voxels)
        if isinstance(groups, str):
            if groups not in voxels:
                raise ValueError(f"groups={groups!r} is no column of {list(voxels.columns)}")
            groups = voxels[groups].astype(str).to_numpy()
        if told is given and groups is self.groups:
            return self
        return clone(self).set_params(encoder=told, groups=groups)

    def precompute(
        self, images: Any, transform: Callable[[Any], np.ndarray]
    ) -> tuple[BaseEncoder, Any]:
        """As `BaseEncoder.precompute`."""
        if self._prefit:
            return clone(self), images
        if not self._own_features:
            return super().precompute(images, transform)
        prepared, X = self._given().precompute(images, transform)
        return clone(self).set_params(encoder=prepared), X

    @property
    def _own_features(self) -> bool:
        return isinstance(self.features, str) and self.features == "auto"

    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        if reset:
            self._start()
        if self.prefit_:
            return self.encoder_._features_of(X)
        if self.given_ is None:
            return super()._features_of(X, reset=reset)
        prepared, features = prepare(self.given_, X, extraction(X, self.features_))
        if reset:
            self.encoder_ = prepared
        if features is X:
            if reset:
                self.given_ = None  # it takes arrays, whatever features of images it would want
                return super()._features_of(X, reset=True)
            return check_features(self, X, reset=False)
        if features.size == 0:  # the mean looks at none
            features = np.zeros((len(features), 1), dtype=np.float32)
        check_feature_shape(self, features, reset=reset)
        return features

    def _start(self) -> None:
        """Keep what the parameters say: they, and the user's own encoder, may change after it."""
        given = self._given()
        self.prefit_, self.given_ = self._prefit, None
        if self.prefit_:
            check_is_fitted(given, msg=NOT_PREFIT)
            self.encoder_ = given
        elif self._own_features:
            self.given_, self.features_ = clone(given), {}
        else:
            self.encoder_ = for_arrays(given)

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any) -> "CalibratedEncoder":
        """Fit the encoder and calibrate it. See `BaseEncoder.fit`.

        Parameters
        ----------
        X, y : as for `BaseEncoder.fit`
            With ``cv="prefit"``, of images that the encoder was not fitted to.

        Returns
        -------
        self

        Raises
        ------
        ValueError : besides those of `BaseEncoder.fit`, betas or groups of other voxels than the
            encoder's.
        sklearn.exceptions.NotFittedError : "prefit", and the encoder is not fitted.
        """
        super().fit(X, y)
        return self

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> HeldOut:
        n_images, _, n_voxels = betas.shape
        self.group_ = check_groups(self.groups, n_voxels)
        held_out = np.full((n_images, n_voxels), np.nan, dtype=np.float32)
        standardized = np.full(betas.shape, np.nan, dtype=np.float32)
        for images, fitted in self._fits(features, betas):
            held_out[images] = fitted._predict(features[images])
            sd = fitted._spread(features[images], held_out[images])
            residuals = betas[images] - held_out[images][:, None]
            standardized[images] = residuals / np.where(sd > 0, sd, np.nan)[:, None]
        self.scale_ = variance_scale(standardized, self.group_)
        judged = [i for i in range(n_images) if np.isfinite(standardized[i]).any()] or [0]
        kept = np.linspace(0, len(judged), min(len(judged), MAX_SCORED), endpoint=False)
        scores = standardized[np.array(judged, dtype=int)[kept.astype(int)]]
        if self._shape is not None:
            scores = self._shape.unit_normal(scores)[0]
        self.scores_ = np.abs(scores)
        return HeldOut(held_out, noise=self._calibrated_noise())

    def _calibrated_noise(self) -> ResidualNoise | None:
        """The encoder's noise, with the variance of calibrated draws; None if draws have other."""
        noise = self.encoder_.noise_
        made_of_noise = "latent" in self.encoder_._parts[1:]  # as a part of the full draws
        if not made_of_noise or not np.isfinite(noise.variance).any():
            return None
        return noise.times(self.scale_.astype(np.float32))

    def _fits(self, features: np.ndarray, betas: np.ndarray) -> Iterator[tuple[Any, BaseEncoder]]:
        """Images to calibrate on, each with an encoder that has not learnt them."""
        if self._prefit:
            if betas.shape[2] != self.encoder_.n_voxels_:
                raise ValueError(
                    f"betas {betas.shape} have {betas.shape[2]} voxels, but the encoder was fitted "
                    f"to {self.encoder_.n_voxels_}"
                )
            yield slice(None), self.encoder_
            return
        if isinstance(self.cv, str):
            raise ValueError(f"cv={self.cv!r} must be 'prefit', an int or a splitter")
        folds = image_folds(self.cv, len(betas), random_state=self.random_state)
        yield from cross_fits(self.encoder_, features, betas, folds)
        self.encoder_.fit(features, betas)

    # ---------------------------------------------------------------- predicting and drawing

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self.encoder_._predict(features)

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.encoder_._parts

    def _draw(
        self, features: np.ndarray, n: int, rng: np.random.Generator, part: str
    ) -> np.ndarray:
        if part in ("trial", "signal"):
            return super()._draw(features, n, rng, part)
        draws, prediction = self.encoder_._draw(features, n, rng, part), self._predict(features)
        draws -= prediction
        draws *= self.scale_.astype(np.float32)
        draws += prediction
        return draws

    def _spread(self, features: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return self.scale_ * self.encoder_._spread(features, expected)

    def _log_density(self, features: np.ndarray, betas: np.ndarray, voxels: Any) -> np.ndarray:
        # Voxels without data, of the encoder or of the calibration, are left out.
        known = np.isfinite(self.scale_[voxels])
        voxels, betas = np.arange(self.n_voxels_)[voxels][known], betas[..., known]
        scale, prediction = self.scale_[voxels], self._predict(features)[:, None, voxels]
        unscaled = prediction + (betas - prediction) / scale
        return self.encoder_._log_density(features, unscaled, voxels) - np.log(scale).sum()

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Interval around the prediction that holds a trial of a new image.

        Of an encoder calibrated on images of their own (``cv="prefit"``, `brainenc.calibrate`), the
        interval of each voxel (of the voxels of each group on average) holds at least the share
        `coverage` of single trials, whatever their distribution, and not more than
        2 / (n_images + 1) beyond: over calibration sets, not for every one of them, and with new
        images that are exchangeable with those of the calibration. With folds there is no such
        guarantee: the distances are those of fits to fewer images, so that coverage comes out near
        the same, and above it rather than below.

        Parameters
        ----------
        X : images or features
        coverage : float
            Between 0 and 1.

        Returns
        -------
        lower, upper : arrays, shape (n_images, n_voxels), float32
            Infinite for a voxel with too few calibration images; NaN for one without data, or that
            does not vary.

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
            there = np.isfinite(self.scores_).any(axis=(1, 2)).sum()
            raise ValueError(
                f"coverage={coverage} takes at least {needed} calibration images, and there are "
                f"{there}: calibrate on more images or ask for less coverage"
            )
        features = self._features_of(X)
        expected = self._predict(features)
        sd = self.encoder_._spread(features, expected)
        bounds = self.encoder_.trials_.interval(expected, sd, np.stack([-bound, bound]))
        lower, upper = bounds[..., 0] if self.betas_ndim_ == 1 else bounds
        return lower, upper


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
        With ``cv="prefit"``.

    Raises
    ------
    ValueError : shapes that do not match.
    sklearn.exceptions.NotFittedError : the encoder is not fitted.
    """
    labels = None if groups is None else np.asarray(groups).astype(str)
    return CalibratedEncoder(encoder, groups=labels, cv="prefit").fit(images, betas)
