"""EncoderDecoder: an encoder as a decoder, without weights of its own."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.conversion import plain_array
from brainenc.data.images import as_images, looks_like_images, take_images
from brainenc.decoders.base import Decoder
from brainenc.decoders.likelihood import (
    ImagePrior,
    ResponseNoise,
    groups,
    pairwise_log_density,
)
from brainenc.decoders.responses import VoxelScaling, check_responses
from brainenc.encoders.base import BaseEncoder
from brainenc.metrics.similarity import cosine_similarity
from brainenc.model_selection import image_folds
from brainenc.noise.estimates import fit_residual_noise
from brainenc.noise.gaussian import ResidualNoise
from brainenc.process_state import own_settings
from brainenc.repeats import average_repeats, count_repeats

#: Kinds of similarity.
METHODS = ("ratio", "likelihood", "correlation")
#: Training images whose draws show the noise of a sampler.
_DRAWN_IMAGES = 200
#: Folds of `EncoderDecoder.fit_held_out`.
_HELD_OUT_FOLDS = 5


class EncoderDecoder(Decoder):
    """An encoder used as a decoder: which image explains a response best.

    The encoder predicts the responses to the candidate images, and its own noise model says how
    likely the measured response is for each (Kay et al. 2008). There are no new weights.

    Parameters
    ----------
    encoder : BaseEncoder
        `fit` fits a copy of it.
    method : "ratio", "likelihood" or "correlation"
        Similarity of a response y and an image x. "likelihood": log p(y | x), Gaussian around the
        prediction, with the encoder's error plus trial noise over the number of trials averaged.
        "ratio": log p(y | x) − log p(y), where p(y) is that of a response to any image. Both order
        the images alike for a response; with the ratio, a response that is likely for every image
        (one near the mean) is not chosen for each.
        "correlation": Pearson's r of measured and predicted patterns, across voxels in units of the
        s.d. of their trials.
    prefit : bool
        The encoder is fitted already, and is used as it is. `fit` then only takes the images whose
        features are the prior of `predict`.
    noise : "auto", "held-out" or "draws"
        "held-out": the encoder's error and trial noise as held-out trials show them (`model_error_`
        and `trial_noise_`); without repeats, an average counts as a single trial. "draws": trial
        noise is that of the encoder's draws, which of some encoders has their error in it. "auto"
        is "draws" for a sampler without held-out repeats, and "held-out" for all others.
    n_draws : int
        Draws per image that the noise is estimated from.

    Attributes
    ----------
    encoder_ : BaseEncoder
    noise_ : ResponseNoise
        Error of the expected response, and trial noise.
    prior_ : ImagePrior
        Features and predictions of the training images.

    References
    ----------
    Kay et al. (2008), Nature 452; Naselaris et al. (2009), Neuron 63.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((200, 6))
    >>> signal = features @ rng.standard_normal((6, 30))
    >>> betas = signal[:, None] + 3 * rng.standard_normal((200, 3, 30))  # 3 repeats, 30 voxels
    >>> decoder = brainenc.EncoderDecoder(brainenc.RidgeEncoder())
    >>> decoder = decoder.fit(betas[:150], features[:150])
    >>> similarity = decoder.similarity(betas[150:], features[150:])
    >>> bool((similarity.argmax(axis=1) == np.arange(50)).mean() > 0.5)
    True
    >>> decoder.predict(betas[150:]).shape  # posterior mean of the features
    (50, 6)
    """

    saved_parts = (*Decoder.saved_parts, ResponseNoise, ImagePrior, ResidualNoise)

    def __init__(
        self,
        encoder: Any = None,
        *,
        method: str = "ratio",
        prefit: bool = False,
        noise: str = "auto",
        n_draws: int = 20,
    ):
        self.encoder = encoder
        self.method = method
        self.prefit = prefit
        self.noise = noise
        self.n_draws = n_draws

    def _check_parameters(self) -> None:
        if not isinstance(self.encoder, BaseEncoder):
            raise TypeError(
                f"encoder={self.encoder!r} must be an encoder, such as brainenc.RidgeEncoder()"
            )
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} must be one of {list(METHODS)}")
        if self.noise not in ("auto", "held-out", "draws"):
            raise ValueError(f"noise={self.noise!r} must be 'auto', 'held-out' or 'draws'")
        if self.prefit:
            check_is_fitted(self.encoder)

    def _fit_checked(self, betas: np.ndarray, y: Any) -> np.ndarray:
        of_arrays = not looks_like_images(y)
        if of_arrays:
            targets = self._targets_of(y, len(betas), reset=True)
        X = _columns(y)
        if self.prefit:
            if self.encoder.n_voxels_ != betas.shape[2]:
                raise ValueError(
                    f"betas {betas.shape} have {betas.shape[2]} voxels, but the encoder was fitted "
                    f"to {self.encoder.n_voxels_}"
                )
            self.encoder_ = self.encoder
        else:
            self.encoder_ = clone(self.encoder).fit(X, betas)
        if not of_arrays:
            targets = self._targets_of(y, len(betas), reset=True)
        trial_sd = np.nanstd(betas, axis=(0, 1))
        self.scaling_ = VoxelScaling(VoxelScaling.of(betas).mean, np.where(trial_sd, trial_sd, 1))
        expected = np.asarray(self.encoder_.predict(X)).reshape(len(betas), -1)
        self.prior_ = ImagePrior(targets, expected)
        self.noise_ = self._noise(X)
        return np.full(targets.shape, np.nan)

    def fit_held_out(self, X: Any, y: Any) -> np.ndarray:
        """Fit, and return held-out posterior means of the training images' features.

        Five folds of images are left out in turn: encoder, noise and prior are those of the others,
        which takes five more fits.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        array, shape of the features
            NaN with ``prefit=True``, as the encoder may have been fitted to any of the images, and
            with fewer images than folds.
        """
        self.fit(X, y)
        betas = check_responses(self, X, reset=False)
        found = np.full((len(betas), *self.target_shape_), np.nan, np.float32)
        if self.prefit or len(betas) < _HELD_OUT_FOLDS:
            return found
        images = as_images(y) if looks_like_images(y) else None
        columns = None if images is not None else _columns(y)
        for train, test in image_folds(_HELD_OUT_FOLDS, len(betas)):
            given = (
                take_images(images, train)
                if columns is None
                else getattr(columns, "iloc", columns)[train]
            )
            found[test] = clone(self).fit(betas[train], given).predict(betas[test])
        return found

    def _noise(self, X: Any) -> ResponseNoise:
        encoder = self.encoder_
        error, trial = (
            None if part is None or np.isnan(part.private_sd).all() else part
            for part in (encoder.model_error_, encoder.trial_noise_)
        )
        by_draws = encoder.sample_kind_ != "residual" and (error is None or trial is None)
        if self.noise == "draws" or (self.noise == "auto" and by_draws):
            some = X[:_DRAWN_IMAGES] if hasattr(X, "shape") else list(X)[:_DRAWN_IMAGES]
            draws = encoder.sample(some, n=max(self.n_draws, 2), random_state=0)
            draws = np.moveaxis(draws.reshape(*draws.shape[:2], -1), 0, 1)
            return ResponseNoise(error, fit_residual_noise(draws, draws.mean(axis=1)))
        if error is None or trial is None:
            return ResponseNoise(encoder.noise_, None)
        return ResponseNoise(error, trial)

    def _targets_of(self, y: Any, n_images: int | None = None, *, reset: bool = False) -> Any:
        if looks_like_images(y):
            return self._recorded(self.encoder_._features_of(y), n_images, reset=reset)
        return super()._targets_of(y, n_images, reset=reset)

    def predict(self, X: Any, *, average: str = "betas") -> np.ndarray:
        """Posterior mean of the encoder's features, given responses.

        The prior of features is Gaussian, with the mean and covariance of the training images. For
        an encoder that is linear in its features this is the posterior mean in closed form, and the
        limit of a linear decoder trained on endless draws of it. For others it is the best linear
        estimate from what the encoder predicts.

        Parameters
        ----------
        X : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
            Betas; each row of two-dimensional ones is a single trial.
        average : "betas"

        Returns
        -------
        array, shape of the features, float32; NaN for an image without data
        """
        check_is_fitted(self)
        if average != "betas":
            raise ValueError(f"average={average!r}: EncoderDecoder averages betas, 'betas'")
        betas = check_responses(self, X, reset=False)
        found = np.full((len(betas), self.prior_.features.shape[1]), np.nan, np.float32)
        with own_settings():
            averages = average_repeats(betas)
            for rows, voxels, n in groups(count_repeats(betas), self._usable()):
                noise = self.noise_.of_average(n, voxels)
                found[rows] = self.prior_.posterior_mean(
                    averages[np.ix_(rows, voxels)], voxels, noise
                )
        return found.reshape(len(betas), *self.target_shape_)

    def similarity(self, X: Any, candidates: Any, *, center: bool = True) -> np.ndarray:
        """Similarity of measured responses and the encoder's predictions, by `method`.

        Parameters
        ----------
        X : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
            Betas; each row of two-dimensional ones is a single trial.
        candidates : images or features, as the encoder takes them
        center : bool
            Of "correlation": subtract the training mean of each voxel first.

        Returns
        -------
        array, shape (n_responses, n_candidates)
            Natural logs, or r. NaN for a response without data. Log likelihoods of responses with
            different missing voxels are of different data: compare them by the ratio.
        """
        check_is_fitted(self)
        betas = check_responses(self, X, reset=False)
        expected = np.asarray(self.encoder_.predict(_columns(candidates)))
        expected = expected.reshape(len(expected), -1)
        averages = average_repeats(betas)
        usable = self._usable() & np.isfinite(expected).all(axis=0)
        found = np.full((len(betas), len(expected)), np.nan)
        with own_settings():
            for rows, voxels, n in groups(count_repeats(betas), usable):
                responses, of_images = averages[np.ix_(rows, voxels)], expected[:, voxels]
                if self.method == "correlation":
                    mean = self.scaling_.mean[voxels] if center else 0.0
                    sd = self.scaling_.sd[voxels]
                    patterns = (_patterns(part, mean, sd) for part in (responses, of_images))
                    found[rows] = cosine_similarity(*patterns)
                    continue
                noise = self.noise_.of_average(n, voxels)
                found[rows] = pairwise_log_density(responses, of_images, noise)
                if self.method == "ratio":
                    anyone = self.prior_.log_density(responses, voxels, noise)
                    found[rows] -= anyone[:, None]
        return found

    def similarities(self, X: Any, candidates: Any) -> dict[str, np.ndarray]:
        """`similarity` under its `method`; "correlation" is centred and uncentred.

        Parameters
        ----------
        X, candidates : as for `similarity`

        Returns
        -------
        dict of label to array, shape (n_responses, n_candidates)
        """
        if self.method == "correlation":
            return super().similarities(X, candidates)
        return {self.method: self.similarity(X, candidates)}

    def _usable(self) -> np.ndarray:
        return self.noise_.known() & np.isfinite(self.prior_.expected).all(axis=0)

    def adapt(self, X: Any, y: Any) -> "EncoderDecoder":
        """Adapt the encoder to another subject and use it; this decoder is unchanged.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject; the number of voxels may differ

        Returns
        -------
        EncoderDecoder
        """
        check_is_fitted(self)
        encoder = self.encoder_.adapt(_columns(y), X)
        parameters = {**self.get_params(deep=False), "encoder": encoder, "prefit": True}
        return type(self)(**parameters).fit(X, y)


def _columns(y: Any) -> Any:
    """Features with two axes; images as they are."""
    if looks_like_images(y) or y is None:
        return y
    array = y if hasattr(y, "columns") else plain_array(y, "features")
    return array[:, None] if np.ndim(array) == 1 else array


def _patterns(values: np.ndarray, mean: Any, sd: np.ndarray) -> np.ndarray:
    """Patterns centred across voxels; NaN where the deviation from the mean is round-off."""
    patterns = (values - mean) / sd
    patterns -= patterns.mean(axis=1, keepdims=True)
    size = np.linalg.norm(values / sd, axis=1)
    patterns[np.linalg.norm(patterns, axis=1) <= 1e-6 * size] = np.nan
    return patterns
