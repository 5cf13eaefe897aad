"""The contract that every encoder keeps."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.validation import check_is_fitted

from brainenc.data.images import as_images, looks_like_images
from brainenc.encoders import blocks_of_draws
from brainenc.metrics import correlation
from brainenc.noise.calibration import check_coverage
from brainenc.noise.estimates import fit_residual_noise, fit_shared_signal, fit_trial_noise
from brainenc.noise.gaussian import ResidualNoise
from brainenc.noise.shape import ResidualShape, fit_residual_shape
from brainenc.repeats import average_repeats, has_repeats
from brainenc.validation import check_betas, check_feature_shape, check_features


class BaseEncoder(MultiOutputMixin, RegressorMixin, BaseEstimator, ABC):
    """Base class of encoders: images (or features) in, voxel responses out.

    A new encoder stores its constructor arguments, among them `features`, and provides

    - ``_fit(features, betas)``, which sets the fitted attributes (ending in ``_``) and returns
      predictions of the images it did *not* learn from, (n_images, n_voxels), NaN for the rest:
      the noise model behind `sample` is estimated from them;
    - ``_predict(features)``, which returns (n_images, n_voxels).

    Both get features as a float array, (n_images, n_features) or (n_images, n_tokens, width), and
    betas as (n_images, n_repeats, n_voxels) with NaN for missing repeats. An encoder that draws
    from a distribution of its own also overrides ``_sample(features, n, rng)`` and `sample_kind`.

    Attributes
    ----------
    noise_ : ResidualNoise
        Residuals of held-out single trials, which `sample` draws from.
    residual_shape_ : ResidualShape or None
        Skew and tails of residuals, and how their variance depends on the prediction, where
        draws of "residual" kind have them; None if held-out trials are as well described by normal
        ones of one size.
    trial_noise_, model_error_ : ResidualNoise or None
        The two parts of residuals: what repeats of an image differ in, and the error of the
        expected response, which they share. None if no image had two trials.
    sample_kind_ : str
        Where draws come from: "residual" is the prediction plus draws of `noise_`.
    features_ : FeatureExtractor
        The fitted feature extractor; absent when features were passed in.
    n_voxels_ : int
    """

    features: Any = None
    sample_kind: str = "residual"
    #: Dataclasses among the fitted attributes, which `brainenc.load` has to know.
    saved_parts: tuple[type, ...] = (ResidualNoise, ResidualShape)

    # ---------------------------------------------------------------- what an encoder provides

    @abstractmethod
    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Fit; return held-out predictions (n_images, n_voxels), NaN where an image was learnt."""

    @abstractmethod
    def _predict(self, features: np.ndarray) -> np.ndarray:
        """Expected responses (n_images, n_voxels)."""

    def _sample(self, features: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Single-trial draws (n, n_images, n_voxels)."""
        draws = self.noise_.sample((n, len(features)), rng)
        return self._around(self._predict(features), draws, np.sqrt(self.noise_.variance)[None])

    def _around(self, expected: np.ndarray, draws: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Draws around expected responses (n_images, n_voxels) from normal deviations of given s.d.

        The shape of residuals is given to them, in their place.
        """
        if self.residual_shape_ is not None:
            draws = self.residual_shape_.shape(draws, sd, expected)
        draws += expected
        return draws

    def _normal_spread(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What `fit_residual_shape` calls `spread`; None for draws that are not of this kind."""
        if self.sample_kind != "residual":
            return None
        sd = np.sqrt(self.noise_.variance)[None]
        return lambda images: sd

    def _sample_part(
        self, features: np.ndarray, n: int, rng: np.random.Generator, noise: str
    ) -> np.ndarray:
        """Draws (n, n_images, n_voxels) with a part of the noise: "latent", "trial", "signal"."""
        part = {"trial": self.trial_noise_, "signal": self.model_error_}.get(noise, self.noise_)
        if part is None:
            raise ValueError(
                f"noise={noise!r} needs repeats to tell trial noise from the error of predictions, "
                f"and {type(self).__name__} was fitted to betas without: fit it to betas "
                '(n_images, n_repeats, n_voxels), or take noise="full"'
            )
        if noise == "latent":
            part = part.shared()
        return self._predict(features) + part.sample((n, len(features)), rng)

    def _noise_kinds(self) -> tuple[str | None, ...]:
        """What `noise` of `sample` may be; "auto" is the first."""
        if self.sample_kind_ == "residual":
            return "full", "latent", "trial", "signal", None
        return "full", None

    def _spread(self, features: np.ndarray) -> np.ndarray:
        """s.d. of single trials around the prediction, (n_images, n_voxels)."""
        if self.sample_kind_ == "residual":
            sd = np.sqrt(self.noise_.variance)
            return self._shaped_spread(features, np.broadcast_to(sd, (len(features), len(sd))))
        blocks = self._draw_blocks(features, 100, 0, self._noise_kinds()[0])
        return np.concatenate([block.std(axis=0, ddof=3) for _, block in blocks])

    def _log_density(self, features: np.ndarray, betas: np.ndarray, voxels: Any) -> np.ndarray:
        """Log density (n_images, n_repeats) of single trials of some voxels given their images.

        `betas` are of these voxels. NaN everywhere if draws have no density in closed form.
        """
        if self.sample_kind_ != "residual":
            return np.full(betas.shape[:2], np.nan)
        noise, expected = self.noise_.of_voxels(voxels), self._predict(features)[:, voxels]
        sd = np.sqrt(noise.variance)[None]
        normal, log_derivative = self._normal_residuals(betas, expected, sd, voxels)
        return noise.logpdf(normal) + log_derivative

    def _normal_residuals(
        self, betas: np.ndarray, expected: np.ndarray, sd: np.ndarray, voxels: Any
    ) -> tuple[np.ndarray, Any]:
        """Normal deviations that `_around` makes trials of, and the log of how dense these get.

        Shapes (n_images, n_repeats, n_voxels), and (n_images, n_repeats) or 0.
        """
        residuals = betas - expected[:, None]
        if self.residual_shape_ is None:
            return residuals, 0.0
        shape = self.residual_shape_.select(voxels)
        with np.errstate(divide="ignore", invalid="ignore"):
            normal, log_derivatives = shape.normal(residuals, sd, expected)
        return normal, np.nansum(log_derivatives, axis=-1)

    def _shaped_spread(self, features: np.ndarray, sd: np.ndarray) -> np.ndarray:
        shape = self.residual_shape_
        return sd if shape is None else sd * shape.relative_sd(self._predict(features))

    def _hand_over(self, held_out: np.ndarray) -> None:
        """Called by `fit` with its held-out predictions, which are not kept."""

    # ---------------------------------------------------------------- what a user calls

    def fit(self, X: Any, y: Any) -> "BaseEncoder":
        """Fit to images and the betas they evoked.

        Parameters
        ----------
        X : images (n_images, H, W[, 3]) uint8, paths or PIL images; or features, float
            (n_images, n_features) or (n_images, n_tokens, width). One row per unique image.
        y : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
            Betas; NaN where a repeat is missing. A voxel without any data is predicted as NaN.

        Returns
        -------
        self

        Raises
        ------
        ValueError : rows that do not match, fewer than two images, non-finite features, infinite
            betas, or nothing but NaN.
        TypeError : images or betas of a wrong dtype.
        """
        features, betas = self._start_anew(X, y)
        held_out = self._fit(features, betas)
        self._hand_over(held_out)
        self.noise_: ResidualNoise = fit_residual_noise(betas, held_out)
        self.residual_shape_: ResidualShape | None = None
        spread = self._normal_spread()
        if spread is not None:
            self.residual_shape_ = fit_residual_shape(betas, held_out, spread)
        self.trial_noise_: ResidualNoise | None = None
        self.model_error_: ResidualNoise | None = None
        if has_repeats(betas):
            self.trial_noise_ = fit_trial_noise(betas)
            self.model_error_ = fit_shared_signal(betas, held_out, self.trial_noise_)
        self.sample_kind_ = self.sample_kind
        return self

    def _start_anew(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Features and betas, checked. If they pass, what an earlier fit has left is forgotten.

        With other images some of it may not be fitted again, and would be taken for fitted.
        """
        former = dict(vars(self))
        for name in former:
            if name.endswith("_"):
                delattr(self, name)
        try:
            features = self._features_of(X, reset=True)
            betas = check_betas(y, n_images=len(features))
            if len(features) < 2:
                raise ValueError(
                    f"there is 1 image (n_samples=1), and {type(self).__name__} takes at least 2 "
                    "to fit"
                )
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(former)
            raise
        self.n_voxels_ = betas.shape[2]
        self.betas_ndim_ = np.asarray(y).ndim
        return features, betas

    def fit_held_out(self, X: Any, y: Any) -> np.ndarray:
        """Fit, and return what fits that had not seen an image predict of it.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        array, shape (n_images, n_voxels)
            In the units of the betas. NaN where an image was learnt by every fit, as most are by
            encoders that hold out some images once, and where a voxel has no data.
        """
        found: list[np.ndarray] = []
        self._hand_over = found.append  # type: ignore[assignment,method-assign]
        try:
            self.fit(X, y)
        finally:
            del self._hand_over
        return found[-1]

    def predict(self, X: Any) -> np.ndarray:
        """Expected responses.

        Parameters
        ----------
        X : images or features, as for `fit`

        Returns
        -------
        array, shape (n_images, n_voxels), float32
            In the units of the betas given to `fit`; (n_images,) if those were one-dimensional.
        """
        check_is_fitted(self)
        prediction = self._predict(self._features_of(X)).astype(np.float32, copy=False)
        return prediction[:, 0] if self.betas_ndim_ == 1 else prediction

    def sample(
        self,
        X: Any,
        n: int = 5,
        random_state: Any = None,
        *,
        noise: str | None = "auto",
        out: str | os.PathLike | None = None,
    ) -> np.ndarray:
        """Single-trial draws.

        Parameters
        ----------
        X : images or features, as for `fit`
        n : int
            Draws per image.
        random_state : int, Generator or None
            The same seed gives the same draws of the same images, in memory or in a file.
        noise : "auto", "full", "latent", "trial", "signal" or None
            What draws deviate from the prediction by. "full", which is "auto", is the distribution
            of single trials: their noise and the encoder's error. "latent" is the part of that
            which voxels share. "trial" is the noise of trials alone, as repeats of one image
            differ. "signal" is the uncertainty about the expected response alone. None repeats the
            prediction. Encoders with a distribution of their own (`sample_kind_` is not
            "residual") have "full" and None unless their own documentation says more.
        out : path, optional
            A ``.npy`` file to write draws to, block by block of images, for draws larger than
            memory. It appears under this name when it is complete.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32
            In the units of the betas; (n, n_images) if those were one-dimensional.
            ``.mean(0)`` averages the draws. With `out`, a read-only memory map of the file.

        Raises
        ------
        ValueError : n < 1, an unknown noise, or "trial" or "signal" of an encoder that was fitted
            without repeats.
        """
        check_is_fitted(self)
        if n < 1:
            raise ValueError(f"n={n}: at least one draw is needed")
        kinds = self._noise_kinds()
        if noise not in ("auto", *kinds):
            raise ValueError(
                f"noise={noise!r} must be one of {['auto', *kinds]} with {self._described()}"
            )
        features = self._features_of(X)
        blocks = self._draw_blocks(
            features, n, random_state, kinds[0] if noise == "auto" else noise
        )
        shape: tuple[int, ...] = (n, len(features), self.n_voxels_)
        if self.betas_ndim_ == 1:
            blocks, shape = ((images, draws[..., 0]) for images, draws in blocks), shape[:2]
        return (
            blocks_of_draws.collect(blocks, shape)
            if out is None
            else blocks_of_draws.write(blocks, shape, out)
        )

    def _described(self) -> str:
        return type(self).__name__

    def _draw_blocks(
        self, features: np.ndarray, n: int, random_state: Any, noise: str | None
    ) -> blocks_of_draws.Blocks:
        def draw(images: slice, rng: np.random.Generator) -> np.ndarray:
            block = features[images]
            if noise is None:
                return np.broadcast_to(self._predict(block), (n, len(block), self.n_voxels_))
            if noise == self._noise_kinds()[0]:
                return self._sample(block, n, rng)
            return self._sample_part(block, n, rng, noise)

        return blocks_of_draws.draw_blocks(draw, (n, len(features), self.n_voxels_), random_state)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Interval around the prediction that holds a single trial with a given probability.

        The s.d. of the encoder's draws times quantiles: those of the normal distribution unless
        `residual_shape_` has the voxel's own. `brainenc.calibrate` gives intervals with a
        guarantee, from held-out images.

        Parameters
        ----------
        X : images or features, as for `fit`
        coverage : float
            Between 0 and 1.

        Returns
        -------
        lower, upper : arrays, shape (n_images, n_voxels), float32
            (n_images,) if the betas given to `fit` were one-dimensional.

        Raises
        ------
        ValueError : coverage not between 0 and 1.
        """
        check_is_fitted(self)
        half = norm.ppf((1 + check_coverage(coverage)) / 2)
        features = self._features_of(X)
        prediction, sd = self._predict(features), self._spread(features)
        ends = np.full((self.n_voxels_, 2), (-half, half)).T
        shape = getattr(self, "residual_shape_", None)
        if shape is not None:
            ends = shape.quantile(ends)
        bounds = np.stack([prediction + sd * end for end in ends]).astype(np.float32)
        lower, upper = bounds[..., 0] if self.betas_ndim_ == 1 else bounds
        return lower, upper

    def log_density(self, X: Any, y: Any, *, voxels: Any = None) -> np.ndarray:
        """Log density of single trials, all voxels of a trial together, given its image.

        Parameters
        ----------
        X, y : as for `fit`
        voxels : array of int or bool, optional
            Those whose joint density is asked for; all by default.

        Returns
        -------
        array, shape (n_images, n_repeats), float64
            Natural logarithm; of densities in the units of the betas. NaN for a trial that lacks
            one of the voxels, and everywhere if the distribution that `sample` draws from has no
            density in closed form, as with a sampler, or with voxels that vary not at all.
        """
        check_is_fitted(self)
        features = self._features_of(X)
        betas = check_betas(y, n_images=len(features))
        chosen = np.arange(self.n_voxels_) if voxels is None else np.asarray(voxels)
        return self._log_density(features, betas[..., chosen], chosen)

    def score(self, X: Any, y: Any) -> float:
        """Mean over voxels of Pearson's r across images, against repeat-averaged betas.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        float
            NaN, with a warning, if r is undefined for every voxel (constant predictions, say).
            Voxels whose r is undefined are left out.
        """
        prediction = self.predict(X)
        targets = average_repeats(check_betas(y, n_images=len(prediction)))
        r = correlation(prediction.reshape(targets.shape), targets)
        if np.isnan(r).all():
            warnings.warn(
                "r is undefined for every voxel: predictions or betas are constant",
                UndefinedMetricWarning,
                stacklevel=2,
            )
            return float("nan")
        return float(np.nanmean(r))

    def adapt(self, X: Any, y: Any) -> "BaseEncoder":
        """New encoder for another subject, leaving this one as it is.

        Encoders whose weights carry over start from them; here the new encoder has the same
        parameters and is fitted anew.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject; the number of voxels may differ

        Returns
        -------
        BaseEncoder
        """
        return clone(self).fit(X, y)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the fitted encoder to a folder; `brainenc.load` reads it. See there."""
        from brainenc.encoders.persistence import save

        check_is_fitted(self)
        return save(self, folder)

    def precompute(
        self, images: Any, transform: Callable[[Any], np.ndarray]
    ) -> tuple["BaseEncoder", Any]:
        """The same encoder for features computed beforehand, and those features.

        The benchmark uses it to compute features once for all folds and encoders.

        Parameters
        ----------
        images : images, as for `fit`
        transform : callable
            Takes an extractor and gives the features of `images`, (n_images, ...).

        Returns
        -------
        encoder : BaseEncoder, unfitted, with features=None
        X : array, or `images` if the encoder computes no features from them
        """
        extractor = self._extractor(images)
        if extractor is None:
            return clone(self), images
        return clone(self).set_params(features=None), transform(extractor)

    def with_voxels(self, voxels: pd.DataFrame) -> "BaseEncoder":
        """The same encoder, told about the voxels it will be fitted to.

        The benchmark calls it before it fits. Encoders that are built from ROIs override it; to
        others the table means nothing, and they return themselves.

        Parameters
        ----------
        voxels : DataFrame, one row per voxel
            As `EncodingData.voxels`: one column of labels per atlas.

        Returns
        -------
        BaseEncoder, unfitted
        """
        return self

    # ---------------------------------------------------------------- features

    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        """Features of X, checked; with `reset` the extractor is made and shapes are recorded."""
        extractor = self._extractor(X) if reset else getattr(self, "features_", None)
        if extractor is not None:
            self.features_ = extractor.fit(X) if reset else extractor
            features = self.features_.transform(X)
            check_feature_shape(self, features, reset=reset)
            return features
        if looks_like_images(X):
            raise TypeError(
                f"{type(self).__name__} has features={self.features!r} and takes features, but got "
                "images; pass features=brainenc.GaborPyramid(), say, to the encoder"
            )
        if reset and hasattr(self, "features_"):
            del self.features_
        return check_features(self, X, reset=reset)

    def _extractor(self, X: Any) -> Any:
        if self.features is None:
            return None
        if not isinstance(self.features, str):
            as_images(X)  # the clearer error, before a transformer is set to work
            return clone(self.features)
        if self.features != "auto":
            raise ValueError(
                f"features={self.features!r}: give 'auto', None or a transformer such as "
                "brainenc.GaborPyramid()"
            )
        if not looks_like_images(X):
            return None
        from brainenc.features import OpenCLIPFeatures

        return OpenCLIPFeatures()
