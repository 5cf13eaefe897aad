"""Draws, intervals and densities of single trials from a fitted encoder."""

import os
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtri
from sklearn.utils.validation import check_is_fitted

from brainenc.documentation import see
from brainenc.encoders import blocks_of_draws
from brainenc.encoders.function_draws import (
    Functions,
    Streams,
    function_blocks,
    functions_of_members,
)
from brainenc.noise.calibration import check_coverage
from brainenc.noise.trials import PARTS, TrialDistribution, TrialsLater
from brainenc.process_state import own_settings
from brainenc.validation import check_betas, check_index


def part_of(attribute: str, name: str) -> Any:
    """Read-only attribute of an encoder: a part of the fitted object in another attribute."""
    return property(lambda self: getattr(getattr(self, attribute), name), doc=f"Of `{attribute}`.")


def _rows(place: Any) -> Any:
    """Images of a place, which may have voxels too."""
    return place[0] if isinstance(place, tuple) else place


class Draws(ABC):
    """Draws, intervals and densities of single trials: a part of `BaseEncoder`.

    Draws are the prediction plus draws of the residuals of held-out trials (`trials_`). An encoder
    with its own distribution sets `sample_kind` to another name than "residual", overrides
    ``_draw(features, n, rng, part)`` and, if there are other parts than "full", lists the values of
    `noise` in `_parts`. An encoder whose noise differs between images overrides
    ``_noise_scale(features)``, and its `_fit` returns a `HeldOut`.
    """

    sample_kind: str = "residual"

    trials_later_: TrialsLater
    sample_kind_: str
    n_voxels_: int
    betas_ndim_: int

    @cached_property
    def trials_(self) -> TrialDistribution:
        """Distribution of single trials, fitted when it is first needed."""
        if (later := vars(self).get("trials_later_")) is None:
            raise AttributeError(f"this {type(self).__name__} is not fitted: it has no trials_")
        with own_settings():
            return later.fit()

    def fit_noise(self) -> Any:
        """Fit the distribution of single trials now, and not when it is first needed.

        Fitting an encoder leaves it to the first draw, interval, density, save or pickle, so that
        searches over parameters do not pay for it. The numbers are the same either way.

        Returns
        -------
        self

        Examples
        --------
        >>> import numpy as np
        >>> import brainenc
        >>> features, betas = np.zeros((30, 1)), np.random.default_rng(0).normal(size=(30, 2, 4))
        >>> brainenc.MeanEncoder().fit(features, betas).fit_noise().noise_.variance.shape
        (4,)
        """
        check_is_fitted(self)
        _ = self.trials_
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What pickles, copies and saved models have: the distribution itself, fitted."""
        if "trials_later_" in vars(self):
            self.fit_noise()
        state = dict(super().__getstate__())  # type: ignore[call-overload]
        state.pop("trials_later_", None)
        return state

    noise_ = part_of("trials_", "noise")
    residual_shape_ = part_of("trials_", "shape")
    trial_noise_ = part_of("trials_", "trial")
    model_error_ = part_of("trials_", "error")

    @abstractmethod
    def _predict(self, features: np.ndarray) -> np.ndarray:
        """Expected responses (n_images, n_voxels)."""

    @abstractmethod
    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        """Features of X; see `brainenc.encoders.inputs.Inputs`."""

    # ---------------------------------------------------------------- what an encoder may provide

    def _noise_scale(self, features: np.ndarray) -> np.ndarray | None:
        """Strength of the noise of each image (n_images, n_factors + 1); None: all equal."""
        return None

    @property
    def _draws_itself(self) -> bool:
        """Whether draws come from the encoder's own distribution instead of `trials_`."""
        return self.sample_kind_ != "residual"

    @property
    def _parts(self) -> tuple[str, ...]:
        """Values of `noise` in `sample`, besides None; the first is "auto"."""
        return ("full",) if self._draws_itself else PARTS

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        """Values at the images of n functions drawn from the uncertainty of the fit.

        Returns a function of voxels (a slice) to draws (n, n_images, n_voxels of the slice). Draw k
        is the same function whatever images and voxels are asked for: it depends on `streams` only.
        """
        raise ValueError(
            f'noise="weights" is not available for this {type(self).__name__}: it has no '
            "distribution of its weights and no members to draw from. Give it refits to parts of "
            "the images first, brainenc.encoders.add_refits(encoder, images, betas), which fits it "
            "20 times" + see("draws")
        )

    def _draw(
        self, features: np.ndarray, n: int, rng: np.random.Generator, part: str
    ) -> np.ndarray:
        """Draws (n, n_images, n_voxels) that deviate from the prediction by a part of the noise."""
        expected, scale = self._predict(features), self._noise_scale(features)
        return self.trials_.sample(expected, n, rng, part=part, scale=scale)

    def _spread(self, features: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """s.d. of single trials around the expected responses, (n_images, n_voxels)."""
        if not self._draws_itself:
            return self.trials_.sd(expected, self._noise_scale(features))
        blocks = self._draw_blocks(features, 100, 0, self._parts[0])
        # Dividing squared deviations by n - 3 makes 1 / s.d. about unbiased.
        return np.concatenate([block.std(axis=0, ddof=3) for _, block in blocks])

    def _log_density(self, features: np.ndarray, betas: np.ndarray, voxels: Any) -> np.ndarray:
        """Log density (n_images, n_repeats) of single trials of some voxels given their images."""
        if self._draws_itself:
            return np.full(betas.shape[:2], np.nan)
        expected, scale = self._predict(features)[:, voxels], self._noise_scale(features)
        return self.trials_.logpdf(betas, expected, voxels, scale)

    # ---------------------------------------------------------------- public methods

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
            The same seed gives the same draws for the same images, in memory or in a file.
        noise : "auto", "full", "latent", "trial", "signal", "weights" or None
            Deviation of draws from the prediction. "full", which is "auto", is the distribution of
            single trials: trial noise plus the encoder's error. "latent" is the part of "full" that
            voxels share. "trial" is trial noise alone, which differs between repeats of an image.
            "signal" is the error of the expected response, drawn for every image anew: use it for
            single images. "weights" draws the encoder: each draw is one function of the image, so
            images of a draw vary together, as means over images and contrasts of them need, and
            voxels whose residuals are correlated err together, as means over areas need
            (:doc:`/draws`). None repeats the prediction.
            Encoders with their own distribution (`sample_kind_` is not "residual") have "full" and
            None unless their documentation lists more.
        out : path, optional
            A ``.npy`` file to write draws to in blocks of images, for draws larger than memory. The
            file gets this name when it is complete.

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32
            In the units of the betas; (n, n_images) if those were one-dimensional.
            ``.mean(0)`` averages the draws. With `out`, a read-only memory map of the file.

        Raises
        ------
        ValueError : n < 1, an unknown noise, "trial" or "signal" with an encoder fitted without
            repeats, or "weights" with one that has no distribution of its weights, no members and
            no refits (`brainenc.encoders.add_refits`).
        """
        return self._sample(X, n, random_state, noise, out)

    def _sample(
        self,
        X: Any,
        n: int,
        random_state: Any,
        noise: str | None,
        out: str | os.PathLike | None,
        **how: Any,
    ) -> np.ndarray:
        """As `sample`; `how` is for `_draw`."""
        check_is_fitted(self)
        if n < 1:
            raise ValueError(f"n={n}: at least one draw is needed")
        if noise not in ("auto", None, "weights", *self._parts):
            raise ValueError(
                f"noise={noise!r} must be one of {['auto', *self._parts, 'weights', None]} of this "
                f"{type(self).__name__}"
            )
        features = self._features_of(X)
        part = self._parts[0] if noise == "auto" else noise
        shape: tuple[int, ...] = (n, len(features), self.n_voxels_)
        if part == "weights":
            blocks = self._function_blocks(features, n, random_state)
        else:
            blocks = self._draw_blocks(features, n, random_state, part, **how)
        if self.betas_ndim_ == 1:
            blocks, shape = ((_rows(place), draws[..., 0]) for place, draws in blocks), shape[:2]
        with own_settings():
            if out is None:
                return blocks_of_draws.collect(blocks, shape)
            return blocks_of_draws.write(blocks, shape, out)

    def _draw_blocks(
        self, features: np.ndarray, n: int, random_state: Any, part: str | None, **how: Any
    ) -> blocks_of_draws.Blocks:
        def draw(images: slice, rng: np.random.Generator) -> np.ndarray:
            block = features[images]
            if part is None:
                return np.broadcast_to(self._predict(block), (n, len(block), self.n_voxels_))
            return self._draw(block, n, rng, part, **how)

        return blocks_of_draws.draw_blocks(draw, (n, len(features), self.n_voxels_), random_state)

    def _function_blocks(
        self, features: np.ndarray, n: int, random_state: Any
    ) -> blocks_of_draws.Blocks:
        streams = Streams.of(random_state, self.n_voxels_)

        def functions(images: slice) -> Functions:
            return self._drawn_functions(features[images], n, streams)

        return function_blocks(functions, (n, len(features), self.n_voxels_))

    def _drawn_functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        """Functions of the encoder's distribution, or of its refits if it has any."""
        streams = streams.correlated(self.trials_)
        if not (refits := getattr(self, "refits_", None)):
            return self._functions(features, n, streams)
        predictions = [refit._predict(features) for refit in refits]
        return functions_of_members(self, predictions, features, n, streams, refits=True)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Interval around the prediction that contains a single trial with a given probability.

        The ends are the s.d. of the encoder's draws times normal quantiles, or the voxel's own
        quantiles from `residual_shape_`. `brainenc.calibrate` gives intervals with a coverage
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
        half = ndtri((1 + check_coverage(coverage)) / 2)
        return self._interval(X, np.full((self.n_voxels_, 2), (-half, half)).T)

    def _interval(self, X: Any, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Interval whose `ends` (2, n_voxels) are in units of the s.d. of normal residuals."""
        features = self._features_of(X)
        with own_settings():
            expected = self._predict(features)
            bounds = self.trials_.interval(expected, self._spread(features, expected), ends)
        lower, upper = bounds[..., 0] if self.betas_ndim_ == 1 else bounds
        return lower, upper

    def log_density(self, X: Any, y: Any, *, voxels: Any = None) -> np.ndarray:
        """Log density of single trials, all voxels of a trial together, given its image.

        Parameters
        ----------
        X, y : as for `fit`
        voxels : mask of bool, shape (n_voxels,), or positions, each once, optional
            Voxels of the joint density; all by default.

        Returns
        -------
        array, shape (n_images, n_repeats), float64
            Natural log of the density, in the units of the betas. NaN if a voxel of the trial is
            missing, or if the density has no closed form (samplers, constant voxels).

        Raises
        ------
        ValueError : another number of images or voxels than X and the fit have.
        """
        check_is_fitted(self)
        features = self._features_of(X)
        betas = check_betas(y, n_images=len(features), n_voxels=self.n_voxels_)
        every = np.arange(self.n_voxels_)
        chosen = every if voxels is None else check_index(voxels, self.n_voxels_, "voxels")
        with own_settings():
            return self._log_density(features, betas[..., chosen], chosen)
