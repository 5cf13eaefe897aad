"""TrialDistribution: the distribution of single trials around an expected response."""

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.arrays import release
from brainenc.documentation import see
from brainenc.noise.estimates import (
    TakenRows,
    residual_noise_later,
    shared_signal_later,
    trial_noise_later,
    trial_variance,
)
from brainenc.noise.gaussian import ResidualNoise, ScaledNoise
from brainenc.noise.shape import MIN_IMAGES, ResidualShape, shape_of_trials, some_images
from brainenc.repeats import effective_trials, has_repeats

#: Parts of the deviation of a draw from the expected response; see `TrialDistribution.sample`.
PARTS = ("full", "latent", "trial", "signal")


@dataclass(frozen=True)
class TrialDistribution:
    """Distribution of single trials around the expected response of an encoder.

    Residuals are Gaussian, with shared factors and a private part per voxel (`noise`). Their s.d.
    may differ between images (`scale`, an argument of the methods, as in `ScaledNoise`), and they
    may be skewed or heavy-tailed (`shape`). Repeats separate residuals into trial noise, which
    differs between repeats of an image, and the error of the expected response, which is the same
    in all of them.

    Attributes
    ----------
    noise : ResidualNoise
        Residuals of held-out single trials.
    shape : ResidualShape or None
        Skew, tails, and dependence of the variance on the expected response. None if normal
        residuals of constant variance describe held-out trials as well.
    trial, error : ResidualNoise or None
        Trial noise, and error of the expected response. None if no image had two trials.
    n_averaged : array, shape (n_voxels,), or None
        Effective number of trials of an image, `brainenc.repeats.effective_trials`. None if no
        image had two trials, or if an earlier version fitted the distribution.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> betas = rng.standard_normal((200, 3, 5))
    >>> trials = TrialDistribution.fit(betas, np.zeros((200, 5)))
    >>> trials.sample(np.zeros((10, 5)), n=4, random_state=0).shape
    (4, 10, 5)
    """

    noise: ResidualNoise
    shape: ResidualShape | None = None
    trial: ResidualNoise | None = None
    error: ResidualNoise | None = None
    n_averaged: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        betas: np.ndarray,
        held_out: np.ndarray,
        *,
        scale: np.ndarray | None = None,
        noise: ResidualNoise | None = None,
        trial: ResidualNoise | None = None,
        shaped: bool = True,
    ) -> "TrialDistribution":
        """Estimate the distribution from held-out predictions.

        Parameters
        ----------
        betas : array, shape (n_images, n_repeats, n_voxels); NaN where a repeat is missing
        held_out : array, shape (n_images, n_voxels)
            Held-out predictions; NaN where there is none.
        scale : array, shape (n_images, n_factors + 1), optional
            Strength of the noise of each image, as in `ScaledNoise`; constant by default.
        noise, trial : ResidualNoise, optional
            Given if already estimated.
        shaped : bool
            Whether to estimate skew and tails.

        Returns
        -------
        TrialDistribution
        """
        return cls.later(
            betas, held_out, scale=scale, noise=noise, trial=trial, shaped=shaped
        ).fit()

    @classmethod
    def later(
        cls,
        betas: np.ndarray,
        held_out: np.ndarray,
        *,
        scale: np.ndarray | None = None,
        noise: ResidualNoise | None = None,
        trial: ResidualNoise | None = None,
        shaped: bool = True,
    ) -> "TrialsLater":
        """Prepare `fit`, with the same arguments, so that it can follow when it is needed.

        Variances over all trials are computed now. Factors and quantiles, which take most of the
        time, need copies of at most 2000 and 1500 trials, which are kept until then: 210 MB for
        15 000 voxels.

        Returns
        -------
        TrialsLater
        """
        steps: dict[str, Callable[..., Any]] = {}
        rows, predictions = TakenRows(betas), TakenRows(held_out)
        repeats = has_repeats(betas)
        variance = np.array(np.nan)
        if noise is None or repeats:
            variance = trial_variance(betas, held_out)
        if noise is None:
            steps["noise"] = residual_noise_later(rows, predictions, variance)
        if repeats:
            if trial is None:
                steps["trial"] = trial_noise_later(rows)
            steps["error"] = shared_signal_later(rows, predictions, variance)
        if shaped:
            rng = np.random.default_rng(0)
            images = some_images(betas, held_out, rng)
            if len(images) >= MIN_IMAGES:
                trials, expected = rows.take(images), predictions.take(images)
                some = None if scale is None else scale[images]
                steps["shape"] = lambda noise: shape_of_trials(
                    trials(), expected(), cls(noise)._normal_sd(some), deepcopy(rng)
                )
        release(betas)  # pages that were looked at to choose trials
        return TrialsLater(noise, trial, steps, effective_trials(betas) if repeats else None)

    @classmethod
    def unknown(cls, n_voxels: int) -> "TrialDistribution":
        """Distribution without held-out trials: NaN everywhere."""
        nothing = np.zeros((0, n_voxels), dtype=np.float32)
        return cls(ResidualNoise(nothing, np.full(n_voxels, np.nan, dtype=np.float32)))

    def sample(
        self,
        expected: np.ndarray,
        n: int,
        random_state: Any = None,
        *,
        part: str = "full",
        scale: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw single trials around expected responses.

        Parameters
        ----------
        expected : array, shape (n_images, n_voxels)
        n : int
            Draws per image.
        random_state : int, Generator or None
        part : "full", "latent", "trial" or "signal"
            Deviation of the draws: residuals; their shared part; trial noise; error of the expected
            response.
        scale : array, shape (n_images, n_factors + 1), optional
            As for `fit`, for these images. It does not affect "trial" and "signal".

        Returns
        -------
        array, shape (n, n_images, n_voxels)

        Raises
        ------
        ValueError : "trial" or "signal" with a distribution fitted without repeats.
        """
        rng = np.random.default_rng(random_state)
        if part in ("trial", "signal"):
            return expected + self._of_repeats(part).sample((n, len(expected)), rng)
        private = part == "full"
        if scale is None:
            noise = self.noise if private else self.noise.shared()
            draws = noise.sample((n, len(expected)), rng)
        else:
            draws = ScaledNoise(self.noise, scale).sample(n, rng, private=private)
        if not private:
            return expected + draws
        if self.shape is not None:
            draws = self.shape.shape(draws, self._normal_sd(scale), expected)
        draws += expected
        return draws

    def of_averages(self) -> ResidualNoise:
        """Residuals of averages over the repeats of an image: trial noise left in them, and error.

        Those of single trials without repeats, and of one trial each if `n_averaged` is None.
        """
        if self.trial is None or self.error is None:
            return self.noise
        n = 1.0 if self.n_averaged is None else self.n_averaged
        trial = self.trial.times(1 / np.sqrt(n))
        return ResidualNoise(
            np.concatenate([trial.factors, self.error.factors]),
            np.sqrt(np.square(trial.private_sd) + np.square(self.error.private_sd)),
        )

    def sd(self, expected: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        """s.d. of single trials around expected responses, both of shape (n_images, n_voxels)."""
        sd = self._normal_sd(scale)
        if self.shape is None:
            return np.broadcast_to(sd, expected.shape)
        return sd * self.shape.relative_sd(expected)

    def interval(self, expected: np.ndarray, sd: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Ends of intervals around expected responses.

        Parameters
        ----------
        expected, sd : arrays, shape (n_images, n_voxels)
        ends : array, shape (n_ends, n_voxels)
            Ends of normal residuals, in units of the s.d.; `shape` maps them to its own quantiles.

        Returns
        -------
        array, shape (n_ends, n_images, n_voxels), float32
        """
        if self.shape is not None:
            ends = self.shape.quantile(ends)
        return np.stack([expected + sd * end for end in ends]).astype(np.float32)

    def logpdf(
        self,
        betas: np.ndarray,
        expected: np.ndarray,
        voxels: Any,
        scale: np.ndarray | None = None,
    ) -> np.ndarray:
        """Natural log of the joint density of the chosen voxels of single trials.

        Parameters
        ----------
        betas : array, shape (n_images, n_repeats, n_chosen)
            Betas of the chosen voxels.
        expected : array, shape (n_images, n_chosen)
        voxels : array of int
            Positions of the chosen voxels.
        scale : array, shape (n_images, n_factors + 1), optional

        Returns
        -------
        array, shape (n_images, n_repeats), float64
            NaN for a trial that lacks one of the voxels.
        """
        chosen = TrialDistribution(self.noise.of_voxels(voxels))
        residuals, log_derivative = betas - expected[:, None], 0.0
        if self.shape is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                residuals, log_slopes = self.shape.select(voxels).normal(
                    residuals, chosen._normal_sd(scale), expected
                )
            log_derivative = np.nansum(log_slopes, axis=-1)
        if scale is None:
            return chosen.noise.logpdf(residuals) + log_derivative
        return ScaledNoise(chosen.noise, scale).logpdf(residuals) + log_derivative

    def _normal_sd(self, scale: np.ndarray | None) -> np.ndarray:
        """s.d. of the normal residuals before `shape` applies, (1 or n_images, n_voxels)."""
        if scale is None:
            return np.sqrt(self.noise.variance)[None]
        return ScaledNoise(self.noise, scale).sd()

    def _of_repeats(self, part: str) -> ResidualNoise:
        found = self.trial if part == "trial" else self.error
        if found is None:
            raise ValueError(
                f"noise={part!r} needs repeats, which separate trial noise from the error of "
                "predictions, but the encoder was fitted to betas without repeats: fit it to betas "
                '(n_images, n_repeats, n_voxels), or use noise="full"' + see("draws")
            )
        return found


class TrialsLater:
    """A `TrialDistribution` that is fitted when it is first needed, once for all threads.

    Made by `TrialDistribution.later`; it cannot be pickled or copied before that fit.
    """

    def __init__(
        self,
        noise: ResidualNoise | None,
        trial: ResidualNoise | None,
        steps: dict[str, Callable[..., Any]],
        n_averaged: np.ndarray | None = None,
    ):
        self._noise, self._trial, self._steps = noise, trial, steps
        self._n_averaged = n_averaged
        self._lock = threading.Lock()
        self._fitted: TrialDistribution | None = None

    def fit(self) -> TrialDistribution:
        """The distribution; the trials that it is fitted to are dropped."""
        with self._lock:
            if self._fitted is None:
                steps = self._steps
                noise = steps["noise"]() if self._noise is None else self._noise
                shape = steps["shape"](noise) if "shape" in steps else None
                trial = steps["trial"]() if "trial" in steps else self._trial
                error = steps["error"](trial) if "error" in steps else None
                self._fitted = TrialDistribution(noise, shape, trial, error, self._n_averaged)
                self._steps = {}
            return self._fitted
