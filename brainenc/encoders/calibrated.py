"""CalibratedEncoder: draws and intervals of any encoder, calibrated on held-out images.

Long because one class documents draws, densities and intervals of encoders of every kind.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.conversion import check_row_order, text_labels
from brainenc.documentation import see
from brainenc.encoders.base import BaseEncoder, HeldOut
from brainenc.encoders.composed import (
    NOT_PREFIT,
    cross_fits,
    extraction,
    fitted_on_arrays,
    for_arrays,
    inputs_of,
    prepare,
    prepare_own,
    with_extractor,
    with_features,
)
from brainenc.encoders.function_draws import Functions, Streams
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.encoders.sklearn_encoder import as_encoder
from brainenc.features.learned import learns
from brainenc.model_selection import image_folds
from brainenc.noise.calibration import (
    check_coverage,
    check_groups,
    conformal_quantile,
    variance_scale,
)
from brainenc.noise.gaussian import ResidualNoise
from brainenc.noise.shape import ResidualShape
from brainenc.process_state import own_settings
from brainenc.validation import check_feature_shape, check_features

#: Images whose scores are kept for intervals: their number adds an error of at most .007 (one
#: standard error, at a coverage of .9) to the coverage.
MAX_SCORED = 2000


class CalibratedEncoder(BaseEncoder):
    """An encoder whose draws and intervals are calibrated on single trials of held-out images.

    Predictions are those of the encoder. The deviations of its draws are multiplied by a factor per
    voxel or ROI that gives them the variance of held-out trials. Intervals are conformal. `fit`
    uses its images for fitting and for calibration; `brainenc.calibrate` calibrates a fitted
    encoder on separate images.

    Parameters
    ----------
    encoder : BaseEncoder, optional
        It is cloned. None is ridge.
    features : "auto", None or transformer
        "auto" uses the `features` of the encoder. None (arrays are features) or a transformer
        overrides them. Features that learn from images (a pipeline with PCA) are learned anew for
        each fold.
    groups : array-like of labels, shape (n_voxels,), or str, optional
        Voxels with the same label (a ROI) are calibrated together, which needs fewer images;
        without groups each voxel is calibrated alone. A str is the name of an atlas in the voxel
        table that `with_voxels` gets (the benchmark calls it).
    cv : int, splitter, iterable of (train, test), or "prefit"
        Folds over images. A copy of the encoder is fitted on each fold and calibrated on its test
        images; a last copy is fitted to all images. A single (train, test) needs two fits.
        "prefit": the encoder is already fitted and is used as it is, calibrated on the images given
        to `fit`, **none of which it may have been fitted to**.
    random_state : int
        Seed of the shuffled folds. The encoder has its own.

    Attributes
    ----------
    encoder_ : BaseEncoder
        Fitted to all images; with "prefit", `encoder` itself.
    given_ : BaseEncoder, unfitted, or None
        The given encoder, if it computes its own features of images.
    prefit_ : bool
        Whether the encoder was already fitted.
    scale_ : array, shape (n_voxels,)
        Factor on the s.d. of draws; 1 where the encoder was calibrated already. NaN for voxels
        without data or without variance.
    scores_ : array, shape (n_images, n_repeats, n_voxels), float32
        Distance of held-out trials from the prediction, as of a normal variable: 1.64 at both ends
        of the encoder's own 90 % interval. At most 2000 images.
    group_ : array of int, shape (n_voxels,)
        Voxels with the same number are calibrated together.
    noise_ : ResidualNoise
        Noise of the encoder, scaled to the calibrated variance. For an encoder that does not draw
        residuals (a sampler, a mixture): residuals of the held-out trials.
    sample_kind_ : str
        "calibrated" followed by that of the encoder.

    Notes
    -----
    Intervals are intervals of the encoder at another nominal coverage: the one whose intervals
    contained the requested share of held-out trials. They keep the encoder's skew
    (`residual_shape_`), so that as many trials lie above as below.

    The factor is the s.d. of held-out trials divided by that of "full" draws; "latent" draws, a
    part of these, get the same factor. It does not separate trial noise from prediction error.
    "trial" and "signal" are therefore estimated again, from repeats and held-out predictions of the
    calibration images, and need repeats.

    With folds, each trial is compared with the s.d. predicted by the fit of *its* fold, and the
    factor is applied to the s.d. of the fit to all images. This assumes that the factor does not
    depend on the number of images; the predicted s.d. may.

    References
    ----------
    Vovk (2015), Annals of Mathematics and Artificial Intelligence 74 (cross-conformal prediction).
    Romano, Patterson & Candès (2019), NeurIPS 32 (conformalised quantiles).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> encoder = brainenc.CalibratedEncoder(brainenc.RidgeEncoder(), cv=3).fit(features, betas)
    >>> lower, upper = encoder.predict_interval(features[:4], coverage=0.9)
    >>> lower.shape, bool((lower < upper).all())
    ((4, 5), True)
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
        """Sample kind of the encoder, after "calibrated"."""
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
        encoder = as_encoder(self.encoder)
        if not isinstance(encoder, BaseEncoder):
            raise TypeError(f"encoder={encoder!r} must be an encoder, such as RidgeEncoder()")
        return encoder

    def adapt(self, X: Any, y: Any) -> "CalibratedEncoder":
        """Fit to a new subject, the encoder by its own `adapt`; this encoder is unchanged.

        Only the calibration is fitted anew: without `groups` given as labels, with 5 folds if
        "prefit".
        """
        found: CalibratedEncoder = super().adapt(X, y)
        return found

    def adapt_held_out(self, X: Any, y: Any) -> tuple["CalibratedEncoder", np.ndarray]:
        """As `BaseEncoder.adapt_held_out`."""
        new, held_out = super().adapt_held_out(X, y)
        if self.prefit_:  # a clone of it is to be fitted, not taken as it is
            new.set_params(cv=5, encoder=clone(new.encoder_))
        return new, held_out

    def _adapting(self) -> tuple[Any, dict[str, Any]]:
        groups = self.groups if isinstance(self.groups, str) else None
        new = clone(self).set_params(groups=groups)
        if self.prefit_:
            new.set_params(cv="prefit", encoder=self.encoder_)
        return new, {"source": self}

    # ---------------------------------------------------------------- features and voxels

    def with_voxels(self, voxels: pd.DataFrame) -> BaseEncoder:
        """Copy that has the voxel table; the labels of an atlas replace its name in `groups`."""
        if self._prefit:
            return self
        given, groups = self._given(), self.groups
        told = given.with_voxels(voxels)
        if isinstance(groups, str):
            if groups not in voxels:
                raise ValueError(
                    f"groups={groups!r} is not among the columns {list(voxels.columns)}"
                )
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
        prepared, X = prepare_own(self._with_own(), images, transform)
        return clone(self).set_params(encoder=prepared, features="auto"), X

    def learned_features(self) -> Any:
        """As `BaseEncoder.learned_features`: those of the encoder."""
        return self._given().learned_features() if self._own_features else None

    @property
    def _own_features(self) -> bool:
        """Whether the encoder makes its features; those it learns, from each fold's images."""
        if isinstance(self.features, str):
            return self.features == "auto"
        return self.features is not None and learns(self.features)

    def _with_own(self) -> BaseEncoder:
        """The given encoder, with `features` in place of its own if it is to learn these."""
        given = self._given()
        return given if isinstance(self.features, str) else with_features(given, self.features)

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
                self.given_ = None  # it takes arrays, whatever its own `features`
                return super()._features_of(X, reset=True)
            return check_features(self, X, reset=False)
        if features.size == 0:  # MeanEncoder uses no features
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
            self.given_, self.features_ = clone(self._with_own()), {}
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
        ValueError : as `BaseEncoder.fit`; or betas or groups do not match the encoder's voxels.
        sklearn.exceptions.NotFittedError : "prefit", and the encoder is not fitted.
        """
        super().fit(X, y)
        return self

    def _fit(self, features: np.ndarray, betas: np.ndarray, *, source: Any = None) -> HeldOut:
        n_images, _, n_voxels = betas.shape
        self.group_ = check_groups(self.groups, n_voxels)
        held_out = np.full((n_images, n_voxels), np.nan, dtype=np.float32)
        standardized = np.full(betas.shape, np.nan, dtype=np.float32)
        for images, fitted in self._fits(features, betas, source):
            seen = self._seen(features[images], fitted)
            held_out[images] = fitted._predict(seen)
            sd = fitted._spread(seen, held_out[images])
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
        """Noise of the encoder at the calibrated variance; None if draws have another source."""
        noise = self.encoder_.noise_
        made_of_noise = "latent" in self.encoder_._parts[1:]  # a part of the full draws
        if not made_of_noise or not np.isfinite(noise.variance).any():
            return None
        return noise.times(self.scale_.astype(np.float32))

    def _fits(
        self, features: np.ndarray, betas: np.ndarray, source: Any = None
    ) -> Iterator[tuple[Any, BaseEncoder]]:
        """Calibration images, each part with an encoder fitted without it."""
        if source is not None:
            given = self.encoder_
            start = fitted_on_arrays(source.encoder_) if source.prefit_ else source.encoder_
            cv = 5 if source.prefit_ else self.cv
            folds = image_folds(cv, len(betas), random_state=self.random_state)
            yield from cross_fits(start, features, betas, folds, start)
            self.encoder_ = start.adapt(features, betas)
            if source.prefit_:
                self.encoder_ = with_extractor(self.encoder_, given)
            return
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

    def _seen(self, features: np.ndarray, encoder: BaseEncoder | None = None) -> np.ndarray:
        """Features for the encoder's own methods: what it has learned from them, if it learns."""
        return features if self.prefit_ else inputs_of(encoder or self.encoder_, features)

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self.encoder_._predict(self._seen(features))

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.encoder_._parts

    def _draw(
        self, features: np.ndarray, n: int, rng: np.random.Generator, part: str
    ) -> np.ndarray:
        if part in ("trial", "signal"):
            return super()._draw(features, n, rng, part)
        seen = self._seen(features)
        draws, prediction = self.encoder_._draw(seen, n, rng, part), self.encoder_._predict(seen)
        draws -= prediction
        draws *= self.scale_.astype(np.float32)
        draws += prediction
        return draws

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        # Of the encoder's fit, as it is: calibration is of single trials.
        return self.encoder_._drawn_functions(self._seen(features), n, streams)

    def _spread(self, features: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return self.scale_ * self.encoder_._spread(self._seen(features), expected)

    def _log_density(self, features: np.ndarray, betas: np.ndarray, voxels: Any) -> np.ndarray:
        # Voxels without data, of the encoder or of the calibration, are left out.
        known = np.isfinite(self.scale_[voxels])
        voxels, betas = np.arange(self.n_voxels_)[voxels][known], betas[..., known]
        seen = self._seen(features)
        scale, prediction = self.scale_[voxels], self.encoder_._predict(seen)[:, None, voxels]
        unscaled = prediction + (betas - prediction) / scale
        return self.encoder_._log_density(seen, unscaled, voxels) - np.log(scale).sum()

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Interval around the prediction that contains a trial of a new image.

        After calibration on separate images (``cv="prefit"``, `brainenc.calibrate`), the interval
        of each voxel (on average over the voxels of a group) contains at least the share `coverage`
        of single trials and at most 2 / (n_images + 1) more, for any distribution of trials. This
        holds on average over calibration sets, for new images exchangeable with the calibration
        images. With folds there is no such guarantee: distances come from fits to fewer images, so
        that coverage is close to nominal, rather above than below.

        Parameters
        ----------
        X : images or features
        coverage : float
            Between 0 and 1.

        Returns
        -------
        lower, upper : arrays, shape (n_images, n_voxels), float32
            Infinite for a voxel with too few calibration images; NaN for a voxel without data or
            without variance.

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
                + see("guide/encoders")
            )
        features = self._features_of(X)
        with own_settings():
            expected = self._predict(features)
            sd = self.encoder_._spread(self._seen(features), expected)
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
        It is not changed.
    images : images or features, as for `BaseEncoder.fit`
        Must not be among the images the encoder was fitted to: its errors on those are too small.
    betas : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        NaN where a repeat is missing.
    groups : array-like of labels, shape (n_voxels,), optional
        Voxels with the same label (a ROI) are calibrated together, which needs fewer images;
        without groups each voxel is calibrated alone.

    Returns
    -------
    CalibratedEncoder
        With ``cv="prefit"``.

    Raises
    ------
    ValueError : shapes that do not match.
    sklearn.exceptions.NotFittedError : the encoder is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> encoder = brainenc.RidgeEncoder().fit(features[:80], betas[:80])
    >>> calibrated = brainenc.calibrate(encoder, features[80:], betas[80:])
    >>> calibrated.scale_.shape  # factors on the s.d. of draws, about 1 here
    (5,)
    >>> bool((abs(calibrated.scale_ - 1) < 0.5).all())
    True
    """
    check_row_order(voxels=(), groups=groups)
    labels = None if groups is None else text_labels(groups, "groups").astype(str)
    return CalibratedEncoder(encoder, groups=labels, cv="prefit").fit(images, betas)
