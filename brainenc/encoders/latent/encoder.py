"""LatentEncoder: a latent shared by voxels, predicted from image tokens, blended with ridge.

Long because one class documents ridge, two kinds of maps and the noise, of one subject or adapted.
"""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from brainenc.arrays import blocks
from brainenc.encoders.banded import BandedRidgeEncoder
from brainenc.encoders.base import HeldOut
from brainenc.encoders.ensemble import run_net, voxel_moments
from brainenc.encoders.inputs import adapting
from brainenc.encoders.latent.inputs import (
    SpaceTokens,
    choose_shares,
    coarse_features,
    fit_tokens,
    weights_of,
)
from brainenc.encoders.latent.kernel import MAX_LANDMARKS, KernelFeatures
from brainenc.encoders.latent.latents import find_latents, noise_of_all_voxels
from brainenc.encoders.latent.maps import convex_weights, fit_mappers, gain, mapper_folds
from brainenc.encoders.latent.variances import (
    VarianceCalibration,
    log_variances,
    noise_coordinates,
)
from brainenc.encoders.prior_fit import fit_with_prior
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.encoders.spaces import FeatureSpaces
from brainenc.encoders.tokens import TokenAdapter
from brainenc.encoders.trained import MIN_IMAGES, TrainedEncoder
from brainenc.encoders.trunk import check_same_features
from brainenc.encoders.weight_prior import LinearMap, WeightPrior, check_prior, prior_of_maps
from brainenc.nets import LatentMapper
from brainenc.noise.estimates import fit_residual_noise, fit_trial_noise
from brainenc.noise.gaussian import ResidualNoise
from brainenc.repeats import average_repeats, has_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.voxels import flatten_tokens
from brainenc.training import TrainingRun

#: Images predicted at a time.
BLOCK = 1024
#: What `adapt` keeps of the fitted subject.
_OF_MAPS = (
    *("span_", "gaussian_", "shares_", "kernel_", "members_", "history_", "gain_", "latent_mix_"),
)


class LatentEncoder(FeatureSpaces, TrainedEncoder):
    """Responses through a latent that voxels share, blended with ridge.

    This model comes from brainenc, not from a paper. It is designed for accurate prediction of
    voxels and for draws that match held-out trials.

    - The latent is a set of principal components of the responses, in coordinates in which trial
      noise (estimated from repeats) has the same variance in all directions.
    - Two kinds of maps predict the latent from an image: regression with a Gaussian kernel, and
      small transformers on the tokens (`brainenc.nets.LatentMapper`).
    - A linear read-out maps the latent to the voxels. Ridge on the same features predicts them
      directly.
    - The maps are weighted per latent, and latent and ridge per voxel, by the weights that minimise
      squared error on held-out images.
    - A single trial is the expected response, plus fluctuations of latent factors that voxels
      share, plus a private part of each voxel. The variance of each voxel comes from held-out
      trials. The variance of each factor for a given image is predicted from its tokens, shrunk so
      that it fits held-out trials.

    SynBrain (`brainenc.SynBrainEncoder`) has the same idea: a distribution of responses given the
    image, through a latent. Unlike SynBrain, this model has no autoencoder, and its latent is not
    aligned with the tokens.

    Parameters
    ----------
    features : dict of name to transformer, "auto", None or transformer
        Tokens (n_images, n_tokens, width) or pooled features (n_images, n_features); "auto" takes
        float arrays as they are and computes OpenCLIP features of images. A dict makes a feature
        space per entry: ridge is then banded ridge (`BandedRidgeEncoder`), and the other maps see
        all of them.
    bands : dict of name to int or shape, optional
        Number of features of each space, or (n_tokens, width), in the order of the columns; for
        features that are passed in side by side, (n_images, n_features). By default all features
        are one space.
    n_latents : int
        Number of principal components of the responses in the latent.
    hidden, dropout : int, float
        Width (a multiple of 4) and dropout of the transformers.
    n_members : int
        Number of transformers that are averaged, 0 or at least 2; each is stopped early on a
        different part of the images. 0 uses the kernel alone, which fits in seconds.
    least_gain : float
        The other transformers are trained if the first one lowers the squared error of z-scored
        responses to its held-out images by more than this, beside ridge and the kernel; otherwise
        there are none. 0 trains them in any case.
    n_epochs : int
        Largest number of epochs.
    min_images : int
        With fewer images only ridge is fitted, with a warning.
    prior : WeightPrior, optional
        What the weights of other subjects' voxels are like: ridge is fitted with it, as
        `RidgeEncoder` is (banded ridge as `BandedRidgeEncoder`), on all features as they are. The
        other maps are fitted as without it.
    batch_size, learning_rate, weight_decay : optional
        64, 2e-3, .05 when None.
    device, precision, checkpoint_dir, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.

    Attributes
    ----------
    history_ : DataFrame
        One row per evaluation of every `member`; empty if no transformer was trained.
    linear_ : RidgeRegression, or BandedRidgeEncoder of several feature spaces
        From features (after `span_`, if there is one) to voxels; with a prior from all features,
        without one from averages over neighbouring tokens where there are very many of these.
    band_shapes_ : dict of name to list of int
        Shape of an image's features in each space.
    span_ : KernelFeatures or None
        Reduced features for ridge, if there are more than 2048 features and 2048 images, and no
        prior.
    mix_ : array, shape (2, n_voxels)
        Weights of ridge and of the latent; the mean has the rest, 1 minus their sum. This and the
        following attributes exist from `min_images` images on.
    read_out_ : array, shape (n_latents, n_voxels)
        Linear map from the latent to voxels.
    gaussian_, kernel_ : KernelFeatures, RidgeRegression
        From features to the latent, with a Gaussian kernel.
    shares_ : array, shape (n_spaces,)
        Share of each space in the squared distances of the kernel, chosen on held-out images.
    members_ : list of brainenc.nets.LatentMapper
        From tokens to the latent. Empty if the first was not worth its time (`gain_`).
    gain_ : float
        What the first transformer lowered the squared error by; NaN if none was trained, or if
        `least_gain` is 0.
    latent_mix_ : array, shape (1 or 2, n_latents)
        Weights of the two kinds of maps.
    variance_, calibration_ : RidgeRegression, VarianceCalibration
        From features to the log-variance of each factor of `noise_` and of the private part, and
        the shrinkage of these predictions.

    Notes
    -----
    Ctrl-C ends the training with a warning; the encoder keeps the transformers trained so far.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(120, 30, random_state=0, verbose=False)
    >>> encoder = brainenc.LatentEncoder(n_members=0).fit(data.truth.tokens, data.betas)
    >>> encoder.sample(data.truth.tokens[:5], n=3).shape
    (3, 5, 30)
    """

    sample_kind = "latent"
    _keeps_shapes = True
    at_least: ClassVar = {
        **{"n_latents": 1, "hidden": 4, "n_members": 0, "n_epochs": 1},
        "least_gain": 0.0,
    }
    below_one: ClassVar = ("dropout",)
    saved_parts = (
        *TrainedEncoder.saved_parts,
        BandedRidgeEncoder,
        WeightPrior,
        TokenAdapter,
        SpaceTokens,
        KernelFeatures,
        VarianceCalibration,
        LatentMapper,
    )

    adapter_: TokenAdapter | SpaceTokens
    span_: KernelFeatures | None
    linear_: RidgeRegression | BandedRidgeEncoder
    read_out_: np.ndarray

    def __init__(
        self,
        features: Any = "auto",
        *,
        bands: dict[str, Any] | None = None,
        n_latents: int = 128,
        hidden: int = 96,
        dropout: float = 0.3,
        n_members: int = 5,
        n_epochs: int = 12,
        least_gain: float = 0.0005,
        min_images: int = MIN_IMAGES,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int | None = 0,
        verbose: bool = False,
        prior: WeightPrior | None = None,
    ):
        super().__init__(
            features,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            device=device,
            precision=precision,
            checkpoint_dir=checkpoint_dir,
            random_state=random_state,
            verbose=verbose,
        )
        self.bands = bands
        self.n_latents = n_latents
        self.hidden = hidden
        self.dropout = dropout
        self.n_members = n_members
        self.n_epochs = n_epochs
        self.least_gain = least_gain
        self.min_images = min_images
        self.prior = prior

    def _defaults(self, features: np.ndarray, betas: np.ndarray) -> dict[str, Any]:
        return {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.05}

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_prior(self.prior)
        if self.n_members == 1:
            raise ValueError(
                "n_members=1: each transformer is stopped on images that the others learn; give 2 "
                "or more, or 0 for the kernel alone"
            )
        if self.hidden % 4:
            raise ValueError(f"hidden={self.hidden!r} must be a multiple of 4")

    def adapt(self, X: Any, y: Any) -> "LatentEncoder":
        """Fit to a new subject with this one's maps to the latent; this encoder is unchanged.

        The maps from images to the latent stay, and ridge has this subject's weights as its prior,
        in place of `prior`; the read-out of the latent, the weights of both and the noise are
        fitted to the new subject. An encoder fitted to fewer than `min_images` images has no
        latent: ridge has its weights as the prior, and all else is fitted to the new subject.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            The number of voxels may differ; features must have the same shape.

        Returns
        -------
        LatentEncoder
        """
        found: LatentEncoder = super().adapt(X, y)
        return found

    def _adapting(self) -> tuple[Any, dict[str, Any]]:
        return adapting(self).set_params(checkpoint_dir=None, prior=None), {"source": self}

    # ---------------------------------------------------------------- fitting

    def _train(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        *,
        source: Any = None,
    ) -> HeldOut:
        self.band_shapes_ = self._band_shapes_of(features)
        coarse, averages = self._coarse(features), average_repeats(betas)
        responses = averages.astype(np.float32, copy=False)
        self.mean_, self.scale_ = voxel_moments(responses)
        prior = self.prior
        if source is not None:
            check_same_features(self, source)
            self.ridge_sees_all_, self.span_ = source._ridge_sees_all, source.span_
            prior = source._weight_prior()
        elif prior is not None:
            prior.check(features, getattr(self, "features_", None))
            self.ridge_sees_all_, self.span_ = True, None
        else:
            self.ridge_sees_all_ = False
            self._fit_span(coarse, run)
        seen = self._seen(features, coarse)
        linear = self._fit_linear(seen, averages, prior, run)
        if source is not None and source._has_latent:
            return self._train_from(source, (features, coarse, seen), betas, linear, run)
        self.members_: list[LatentMapper] = []
        self.history_ = pd.DataFrame()
        if self._becomes_ridge(len(features)):
            return HeldOut(linear)
        measured = fit_trial_noise(betas) if has_repeats(betas) else None
        noise = noise_of_all_voxels(measured, betas, self.scale_)
        latents = self._find_latents(responses, linear, noise)
        held_out = self._fit_maps(features, coarse, latents, (responses, linear), run)
        decoded = held_out @ self.read_out_ + self.mean_
        self.mix_ = convex_weights([linear, decoded], responses, self.mean_)
        del averages, responses, decoded
        blended = self._blended(linear, held_out)
        return self._fit_noise_scale(seen, betas, blended, measured, run)

    def _train_from(
        self,
        source: "LatentEncoder",
        inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
        betas: np.ndarray,
        linear: np.ndarray,
        run: TrainingRun,
    ) -> HeldOut:
        """Fit all but ridge, and the maps to the latent, which are those of another subject.

        `inputs` are features as they are, those of the kernel, and those of ridge; `linear` are
        held-out predictions of ridge.
        """
        features, coarse, seen = inputs
        for name in _OF_MAPS:
            setattr(self, name, getattr(source, name))
        if self.members_:
            self.adapter_ = source.adapter_
        averages = average_repeats(betas)
        responses = averages.astype(np.float32, copy=False)
        # Latents of these images come from maps that did not see this subject.
        latents = source._mapped(features, coarse)
        read_out, decoded = RidgeRegression.fit(
            latents,
            averages,
            form="primal",
            standardize=False,  # latents that are predicted well vary more, and count more
            device=run.device,
            random_state=run.random_state,
        )
        weights = read_out.coef / read_out.feature_scale[:, None]
        self.read_out_ = np.nan_to_num(weights).astype(np.float32)
        self.latent_centre_ = read_out.feature_mean.astype(np.float32)
        self.mix_ = convex_weights([linear, decoded], responses, self.mean_)
        measured = fit_trial_noise(betas) if has_repeats(betas) else None
        # Blended as in `_blended`, of held-out predictions.
        blended = self.mix_[0] * (linear - self.mean_) + self.mix_[1] * (decoded - self.mean_)
        return self._fit_noise_scale(seen, betas, blended + self.mean_, measured, run)

    def _weight_prior(self) -> WeightPrior:
        """Prior of the weights of ridge, from those of this subject."""
        fit = self.linear_
        if isinstance(fit, BandedRidgeEncoder):
            own = fit.linear_map(self.scale_)
        else:
            weights = fit.weights() / fit.feature_scale[:, None]
            own = LinearMap(weights, self.scale_, fit.feature_mean, fit.feature_scale)
        none = np.zeros((0, 0), np.float32)
        name = f"{self.n_voxels_} voxels"
        return prior_of_maps([own], [name], [none], (None, [len(own.mean)]), 1, None, None)

    def _mapped(self, features: np.ndarray, coarse: np.ndarray) -> np.ndarray:
        """Latents (n_images, n_latents) that the maps predict."""
        parts = [self.kernel_.predict(self.gaussian_.transform(coarse))]
        if self.members_:
            tokens = self.adapter_.tokens(features)
            mapped = reduce(np.add, (run_net(net, tokens, self.device) for net in self.members_))
            parts.append(mapped / len(self.members_))
        return self._latent(parts)

    def _fit_span(self, coarse: np.ndarray, run: TrainingRun) -> None:
        """Fit `span_` if needed."""
        self.span_ = None
        if (
            len(self.band_shapes_) == 1
            and min(len(coarse), math.prod(coarse.shape[1:])) > MAX_LANDMARKS
        ):
            # Eigenvectors of 6656 features take minutes, of 2048 features seconds.
            self.span_ = KernelFeatures.fit(coarse, "linear", run.random_state)

    def _fit_linear(
        self, seen: np.ndarray, averages: np.ndarray, prior: WeightPrior | None, run: TrainingRun
    ) -> np.ndarray:
        """Fit ridge, banded for several spaces; return held-out predictions."""
        if len(self.band_shapes_) > 1:
            self.linear_ = banded = self._banded(run, _flat(prior))
            return banded.fit_weights(seen, averages)
        standardize = self.span_ is None
        if prior is None:
            self.linear_, held_out = _ridge(seen, averages, run, standardize)
            return held_out
        own: dict[str, Any] = {"device": run.device, "random_state": run.random_state}
        ridge = RidgeEncoder(None, standardize=standardize, prior=_flat(prior), **own)
        found = fit_with_prior(ridge, flatten_tokens(seen), averages)
        self.linear_ = found.regression
        return found.held_out

    def _banded(self, run: TrainingRun, prior: WeightPrior | None = None) -> BandedRidgeEncoder:
        """Banded ridge on the features of several spaces, not fitted."""
        return BandedRidgeEncoder(
            None,
            bands=self._ridge_sizes,
            device=run.device,
            random_state=run.random_state,
            prior=prior,
        )

    def _coarse(self, features: np.ndarray) -> np.ndarray:
        """Features for ridge and the kernel, spaces side by side."""
        coarse, self.coarse_sizes_ = coarse_features(features, self.band_shapes_)
        return coarse

    @property
    def _ridge_sees_all(self) -> bool:
        """Whether ridge is of all features as they are; not in what earlier versions saved."""
        return getattr(self, "ridge_sees_all_", False)

    @property
    def _ridge_sizes(self) -> dict[str, int]:
        """Number of features of each space that ridge sees."""
        if not self._ridge_sees_all:
            return self.coarse_sizes_
        return {name: math.prod(shape) for name, shape in self.band_shapes_.items()}

    def _seen(self, features: np.ndarray, coarse: np.ndarray) -> np.ndarray:
        """Features for ridge."""
        if self._ridge_sees_all:
            return features
        return coarse if self.span_ is None else self.span_.transform(coarse)

    def _find_latents(
        self, responses: np.ndarray, linear: np.ndarray, noise: ResidualNoise
    ) -> np.ndarray:
        """Latents of the averages, (n_images, n_latents); NaN for an image without data."""
        # The prediction of ridge replaces missing values.
        filled = np.where(np.isfinite(responses), responses, linear) - self.mean_
        latents, self.read_out_ = find_latents(np.nan_to_num(filled), noise, self.n_latents)
        latents[np.isnan(responses).all(axis=1)] = np.nan
        return latents

    def _fit_maps(
        self,
        features: np.ndarray,
        coarse: np.ndarray,
        latents: np.ndarray,
        voxels: tuple[np.ndarray, np.ndarray],
        run: TrainingRun,
    ) -> np.ndarray:
        """Fit the maps from images to latents; return held-out predictions of latents.

        `voxels` are responses, and held-out predictions of ridge.
        """
        sizes = list(self.coarse_sizes_.values())
        self.shares_ = choose_shares(
            coarse, sizes, latents, random_state=run.random_state, device=run.device
        )
        self.gaussian_ = KernelFeatures.fit(
            coarse, "gaussian", run.random_state, weights_of(self.shares_, sizes)
        )
        self.kernel_, by_kernel = _ridge(self.gaussian_.transform(coarse), latents, run, False)
        parts = [by_kernel]
        folds = mapper_folds(len(features), self.n_members, run.random_state)
        self.gain_ = float("nan")
        if folds:
            self.adapter_ = fit_tokens(features, self.band_shapes_)
            found = fit_mappers(
                self.adapter_.tokens(features),
                latents,
                folds,
                run,
                sizes={"hidden": self.hidden, "dropout": self.dropout},
                n_epochs=self.n_epochs,
                goes_on=self._first_member(*voxels, by_kernel) if self.least_gain > 0 else None,
            )
            self.members_, self.history_ = found.nets, found.history
            if self.members_:
                parts.append(found.held_out)
        mean = np.zeros(latents.shape[1], dtype=np.float32)
        self.latent_mix_ = convex_weights(parts, latents, mean)
        return self._latent(parts)

    def _first_member(
        self, responses: np.ndarray, linear: np.ndarray, by_kernel: np.ndarray
    ) -> Callable[[np.ndarray, np.ndarray], bool]:
        """Whether the first transformer is worth its time, by its held-out images."""

        def goes_on(rows: np.ndarray, mapped: np.ndarray) -> bool:
            parts = [linear[rows] - self.mean_, by_kernel[rows] @ self.read_out_]
            more, targets = mapped @ self.read_out_, responses[rows] - self.mean_
            self.gain_ = gain(parts, more, targets, self.scale_)
            return self.gain_ > self.least_gain

        return goes_on

    def _fit_noise_scale(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        held_out: np.ndarray,
        measured: ResidualNoise | None,
        run: TrainingRun,
    ) -> HeldOut:
        """Fit the prediction of trial noise from the image, per factor of the noise."""
        noise = fit_residual_noise(betas, held_out)
        coordinates = noise_coordinates(betas, held_out, noise)
        self.variance_, expected = _ridge(
            features, log_variances(coordinates, betas.shape[2]), run, self.span_ is None
        )
        self.calibration_ = VarianceCalibration.fit(coordinates, expected)
        return HeldOut(held_out, self.calibration_.scale(expected), noise, measured)

    # ---------------------------------------------------------------- predicting and drawing

    @property
    def _has_latent(self) -> bool:
        """Whether there were enough images for the latent."""
        return hasattr(self, "read_out_")

    def _predict(self, features: np.ndarray) -> np.ndarray:
        coarse = coarse_features(features, self.band_shapes_)[0]
        seen = self._seen(features, coarse)
        if isinstance(self.linear_, BandedRidgeEncoder):
            linear = self.linear_._predict(seen)
        else:
            linear = self.linear_.predict(seen)
        if not self._has_latent:
            return linear
        centre = getattr(self, "latent_centre_", np.float32(0))  # set by `adapt`
        return self._blended(linear, self._mapped(features, coarse) - centre)

    def _latent(self, parts: list[np.ndarray]) -> np.ndarray:
        """Weighted latents (n_images, n_latents) of the maps."""
        return np.einsum("knl,kl->nl", np.stack(parts), self.latent_mix_)

    def _blended(self, linear: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Weighted predictions of ridge and of the latent. Overwrites `linear`."""
        for rows in blocks(len(linear), BLOCK):
            linear[rows] -= self.mean_
            linear[rows] *= self.mix_[0]
            linear[rows] += self.mix_[1] * (latents[rows] @ self.read_out_) + self.mean_
        return linear

    @property
    def _draws_itself(self) -> bool:
        return False  # draws are residuals, scaled per image

    def _noise_scale(self, features: np.ndarray) -> np.ndarray:
        if not self._has_latent:
            return np.ones((len(features), len(self.noise_.factors) + 1), dtype=np.float32)
        seen = self._seen(features, coarse_features(features, self.band_shapes_)[0])
        return self.calibration_.scale(self.variance_.predict(seen))


def _flat(prior: WeightPrior | None) -> WeightPrior | None:
    """The prior for features that are flattened, and checked already."""
    if prior is None:
        return None
    return replace(prior, feature_shape=[math.prod(prior.feature_shape)], extractor=None)


def _ridge(
    features: np.ndarray, targets: np.ndarray, run: TrainingRun, standardize: bool
) -> tuple[RidgeRegression, np.ndarray]:
    return RidgeRegression.fit(
        features,
        targets,
        standardize=standardize,
        device=run.device,
        random_state=run.random_state,
    )
