"""Where draws come from: an encoder, residuals around its predictions, a simulation's truth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from brainenc.arrays import blocks, release
from brainenc.noise.gaussian import ResidualNoise
from brainenc.result_tables import INDEPENDENT, RESAMPLED

#: Numbers drawn at once: 16 MiB of float32, and a few arrays of that size beside it.
_BLOCK_VALUES = 2**22

#: Labels of the reference rows of an encoder: endings of their names, and of files.
LABELS = {INDEPENDENT: "independent Gaussian residuals", RESAMPLED: "resampled residuals"}
#: Name of the reference row of the true distribution.
TRUTH_NAME = "true distribution"


@dataclass(frozen=True)
class DrawSource:
    """Something that draws for the test images of a fold.

    Attributes
    ----------
    label : str
        "" for the encoder itself, else the ending of the reference row's name.
    kind : str
        Where draws come from, in a word or two.
    sample : callable (images: slice, n, seed) -> array (n, n_images, n_voxels)
    log_density : callable (images: slice, betas, voxels) -> array (n_images, n_repeats), or None
        Log density of single trials (n_images, n_repeats, n_voxels), of some voxels together.
    """

    label: str
    kind: str
    sample: Callable[[slice, int, int], np.ndarray]
    log_density: Callable[[slice, np.ndarray, np.ndarray], np.ndarray] | None = None


def encoder_source(encoder: Any, X: Any, predictions: np.ndarray) -> DrawSource:
    """Draws of a fitted encoder; drawing fails if it has no method `sample`."""

    def sample(images: slice, n: int, seed: int) -> np.ndarray:
        return encoder.sample(X[images], n=n, random_state=seed)

    def log_density(images: slice, betas: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        return encoder.log_density(X[images], betas, voxels=voxels)

    kind = str(getattr(encoder, "sample_kind_", "its own"))
    return DrawSource("", kind, sample, log_density if hasattr(encoder, "log_density") else None)


def reference_sources(
    encoder: Any, predictions: np.ndarray, betas: np.ndarray, held_out: np.ndarray
) -> list[DrawSource]:
    """Other residuals around the same predictions.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
    predictions : array, shape (n_test, n_voxels)
    betas : array, shape (n_train, n_repeats, n_voxels)
    held_out : array, shape (n_train, n_voxels)
        What fits without them predicted of the training images.
    """
    sd = np.sqrt(encoder.noise_.variance)
    independent = ResidualNoise(np.zeros((0, len(sd)), np.float32), sd)
    density = _density_around(predictions, independent)
    residuals = TrialResiduals(betas, held_out)
    alone, whole = LABELS[INDEPENDENT], LABELS[RESAMPLED]
    return [
        DrawSource(alone, alone, _around(predictions, independent), density),
        DrawSource(whole, whole, _around(predictions, residuals)),
    ]


def _around(predictions: np.ndarray, noise: Any) -> Callable[[slice, int, int], np.ndarray]:
    def sample(images: slice, n: int, seed: int) -> np.ndarray:
        expected = predictions[images]
        draws = noise.sample((n, len(expected)), seed)
        draws += expected
        return draws

    return sample


def _density_around(
    predictions: np.ndarray, noise: ResidualNoise
) -> Callable[[slice, np.ndarray, np.ndarray], np.ndarray]:
    def log_density(images: slice, betas: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        residuals = betas[..., voxels] - predictions[images][:, None, voxels]
        return noise.of_voxels(voxels).logpdf(residuals)

    return log_density


class TrialResiduals:
    """Residuals of whole trials, drawn with replacement: all that voxels share, as it was.

    Trials that lack a voxel, or whose image has no held-out prediction, are not drawn.
    """

    def __init__(self, betas: np.ndarray, held_out: np.ndarray):
        self.betas, self.held_out = betas, held_out
        self.voxels = np.zeros(betas.shape[2], dtype=bool)
        for present in self._present():
            self.voxels |= present.any(axis=(0, 1))
        whole = [present[..., self.voxels].all(axis=2) for present in self._present()]
        self.trials = np.argwhere(np.concatenate(whole))

    def _present(self) -> Iterator[np.ndarray]:
        """Whether a trial has a residual, (n, n_repeats, n_voxels), image after image."""
        for images in blocks(len(self.betas), _BLOCK_VALUES // self.betas[0].size):
            yield np.isfinite(self.betas[images]) & np.isfinite(self.held_out[images])[:, None]
            release(self.betas)

    def sample(self, shape: tuple[int, ...], random_state: Any) -> np.ndarray:
        """Residuals, shape (*shape, n_voxels), float32; NaN for voxels without data."""
        if len(self.trials) < 2 or not self.voxels.any():
            raise ValueError("fewer than two held-out trials are complete: no residuals to draw")
        rng = np.random.default_rng(random_state)
        image, repeat = self.trials[rng.integers(len(self.trials), size=shape)].T
        draws = (self.betas[image, repeat] - self.held_out[image]).astype(np.float32, copy=False)
        release(self.betas)
        draws[..., ~self.voxels] = np.nan
        return np.swapaxes(draws, 0, 1)


@runtime_checkable
class TrueDistribution(Protocol):
    """A `truth` of data that knows how its trials are distributed, as `SimulatedTruth` does."""

    def select(self, images: np.ndarray) -> "TrueDistribution":
        """That of some of the images."""

    def sample(self, n: int, random_state: int) -> np.ndarray:
        """Single trials, shape (n, n_images, n_voxels)."""

    def log_density(self, betas: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        """Log density (n_images, n_repeats) of trials (n_images, n_repeats, n_voxels)."""

    def noise_covariance(self, voxels: np.ndarray) -> np.ndarray:
        """Covariance of single-trial noise, shape (n_selected, n_selected)."""


def truth_source(truth: TrueDistribution, test: np.ndarray) -> DrawSource:
    """Draws of the true distribution for the test images of a fold."""

    def sample(images: slice, n: int, seed: int) -> np.ndarray:
        return truth.select(images=test[images]).sample(n, random_state=seed)

    def log_density(images: slice, betas: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        return truth.select(images=test[images]).log_density(betas, voxels)

    return DrawSource(TRUTH_NAME, TRUTH_NAME, sample, log_density)
