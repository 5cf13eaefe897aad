"""Draws of held-out images, scored block by block and never held all at once.

What is kept of them, as arrays of one fold (`score_draws`), is small and still allows bootstrap
over images. Beside an encoder's own draws there are reference rows, made of the same fits: ridge
with independent Gaussian residuals, ridge with residuals of whole held-out trials drawn anew, and
the true distribution where data has one. (Ridge's own draws have a low-rank noise covariance.)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.benchmarking.kept import VERSION, Arrays, Kept
from brainenc.benchmarking.scoring import trial_sd
from brainenc.data import EncodingData
from brainenc.metrics import (
    log_score,
    ncsnr_from_repeats,
    random_pairs,
    variogram_score,
)
from brainenc.metrics._sums import blocks
from brainenc.metrics.probabilistic import crps_of_sorted, energy_and_ranks, sort_draws
from brainenc.metrics.spread import ranks_among_sorted
from brainenc.model_selection import Folds
from brainenc.noise import ResidualNoise
from brainenc.storage import release, row_blocks

#: Numbers drawn at once: 16 MiB of float32, and a few arrays of that size beside it.
_BLOCK_VALUES = 2**22
#: Voxels whose correlations are kept; pairs of them in the variogram score.
N_SUBSET, N_PAIRS = 200, 500
#: Quantiles of the draws that are kept of the few voxels shown.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: Endings of the names of reference rows.
INDEPENDENT, RESAMPLED = "independent Gaussian residuals", "resampled residuals"
TRUTH = "true distribution"


@dataclass(frozen=True)
class DrawPlan:
    """What to draw, and of which voxels to keep what cannot be kept of all.

    Attributes
    ----------
    n_draws : int
        Per image.
    random_state : int
    complete : array of int
        Voxels that no trial lacks, constant in no training set: those of the energy score.
    subset : array of int
        At most 200 of these, in the order of their ROIs and from each in proportion to its size:
        those of log and variogram score and of the noise correlations.
    shown : array of int
        The voxel of highest ncsnr in each ROI, of which quantiles are kept.
    """

    n_draws: int
    random_state: int
    complete: np.ndarray
    subset: np.ndarray
    shown: np.ndarray

    def key(self) -> list[Any]:
        """All of it as plain values, for fingerprints."""
        voxels = (self.complete, self.subset, self.shown)
        return [VERSION, self.n_draws, self.random_state, *(array.tolist() for array in voxels)]


def make_plan(data: EncodingData, folds: Folds, n_draws: int, random_state: int) -> DrawPlan:
    """Plan of the draws for one data set.

    Raises
    ------
    ValueError : 1 draw, fewer than none, or more than ranks are counted for.
    """
    if not 2 <= n_draws < np.iinfo(np.int16).max:
        raise ValueError(
            f"n_draws={n_draws} must be 0 (none), or from 2 to 32 766; 200 tell 90 % intervals well"
        )
    in_z = np.all([np.isfinite(trial_sd(data.betas, train)) for train, _ in folds], axis=0)
    complete = np.flatnonzero(in_z & _is_complete(data.betas))
    labels = _first_labels(data)[complete]
    shuffled = np.random.default_rng(random_state).permutation(len(complete))
    by_roi = shuffled[np.argsort(labels[shuffled], kind="stable")]
    spaced = np.linspace(0, len(complete), min(N_SUBSET, len(complete)), endpoint=False)
    ncsnr = np.nan_to_num(ncsnr_from_repeats(data.betas))[complete]
    release(data.betas)
    best = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shown = [complete[voxels[ncsnr[voxels].argmax()]] for voxels in best]
    return DrawPlan(
        n_draws,
        random_state,
        complete,
        complete[by_roi[spaced.astype(int)]],
        np.array(shown, dtype=np.int64),
    )


def _first_labels(data: EncodingData) -> np.ndarray:
    """ROI of every voxel in the first atlas, "" where it has none."""
    if not data.atlases:
        return np.full(data.n_voxels, "")
    roi = data.voxels[data.atlases[0]].astype(object)
    return roi.where(roi.notna(), "").to_numpy(dtype=str)


def _is_complete(betas: np.ndarray) -> np.ndarray:
    """Whether a voxel has a value in every trial of any voxel, shape (n_voxels,)."""
    complete = np.ones(betas.shape[2], dtype=bool)
    for block in row_blocks(betas):
        present = np.isfinite(block)
        complete &= present[present.any(axis=2)].all(axis=0)
    return complete


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
    return [
        DrawSource(INDEPENDENT, INDEPENDENT, _around(predictions, independent), density),
        DrawSource(RESAMPLED, RESAMPLED, _around(predictions, residuals)),
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


def truth_source(truth: Any, test: np.ndarray) -> DrawSource:
    """Draws of a simulated subject's true distribution for the test images of a fold."""

    def sample(images: slice, n: int, seed: int) -> np.ndarray:
        return truth.select(images=test[images]).sample(n, random_state=seed)

    def log_density(images: slice, betas: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        factors = truth.noise_factors[:, voxels].toarray()
        noise = ResidualNoise(factors, np.sqrt(truth.noise_private_variance[voxels]))
        expected = truth.signal[test[images]][:, None, voxels]
        gain = truth.drift.gain[:, None, None, voxels]  # one for each session
        offset = truth.drift.offset[:, None, None, voxels]
        in_session = noise.logpdf((betas[..., voxels] - offset) / gain - expected)
        in_session -= np.log(gain).sum(axis=-1)
        # The session of a trial is not known: a mixture of them. Missing trials stay NaN.
        with np.errstate(invalid="ignore"):
            return np.logaddexp.reduce(in_session + np.log(truth.drift.share)[:, None, None])

    return DrawSource(TRUTH, TRUTH, sample, log_density)


def score_draws(
    source: DrawSource,
    betas: np.ndarray,
    scale: np.ndarray,
    plan: DrawPlan,
    fold: int,
    folder: Path | None = None,
) -> Arrays:
    """Draw for the test images of one fold, and keep what scores are made of.

    Parameters
    ----------
    source : DrawSource
    betas : array, shape (n_test, n_repeats, n_voxels)
        Single trials.
    scale : array, shape (n_voxels,)
        s.d. of the training trials; the unit of energy and variogram score.
    plan : DrawPlan
    fold : int
        Part of the seed.
    folder : path, optional
        Made, for the arrays; the large ones are then memory-mapped. See `read_kept`.

    Returns
    -------
    dict of arrays: ``crps``, ``one_draw``, ``mean_draw`` (n_test, n_voxels); ``ranks``
    (n_test, n_repeats, n_voxels); ``pattern_ranks`` (n_test, n_repeats); ``energy``,
    ``variogram``, ``log_score`` (n_test,);
    ``draw_variance`` (n_voxels,) and ``cross_products`` (n_subset, n_subset), sums over the
    images; ``quantiles`` (n_test, n_shown, n_quantiles).

    Raises
    ------
    ValueError : draws of a wrong shape.
    """
    n_test, _, n_voxels = betas.shape
    sums: dict[str, Any] = {"draw_variance": 0.0, "cross_products": 0.0}
    with Kept(n_test, folder) as kept:
        for images in blocks(n_test, _BLOCK_VALUES // (plan.n_draws * n_voxels)):
            seed = np.random.SeedSequence([plan.random_state, fold, images.start])
            drawn = source.sample(images, plan.n_draws, int(seed.generate_state(1)[0]))
            draws = np.array(drawn, dtype=np.float32)  # a copy, to be overwritten
            wanted = (plan.n_draws, images.stop - images.start, n_voxels)
            if draws.shape != wanted:
                raise ValueError(f"sample gave shape {draws.shape}, not {wanted}")
            trials = betas[images]
            found = _scores_of_block(draws, trials, scale, plan, sums)
            found["log_score"] = _log_score(source, images, trials, plan.subset)
            kept.add(found)
            release(betas)
        return kept.joined(**sums)


def _scores_of_block(
    draws: np.ndarray, betas: np.ndarray, scale: np.ndarray, plan: DrawPlan, sums: dict[str, Any]
) -> Arrays:
    """Scores of some images; `sums` grow, and draws are overwritten."""
    unit, subset = scale[plan.subset], plan.subset
    pairs = random_pairs(np.arange(len(subset)), N_PAIRS, random_state=plan.random_state)
    found = {
        "one_draw": draws[0].copy(),
        "mean_draw": draws.mean(axis=0),
        "variogram": variogram_score(draws[..., subset] / unit, betas[..., subset] / unit, pairs),
    }
    # The rest is of differences: around the mean of the draws, their squares keep their digits.
    mean = found["mean_draw"]
    draws -= mean
    trials = betas - mean[:, None]
    ordered = sort_draws(draws)
    squares = np.einsum("ivn,ivn->v", ordered, ordered)
    sums["draw_variance"] += squares.astype(np.float64) / (len(draws) - 1)
    of_subset = draws[..., subset].reshape(-1, len(subset))
    sums["cross_products"] += (of_subset.T @ of_subset).astype(np.float64)
    positions = np.quantile(np.arange(len(draws)), QUANTILES, method="nearest")
    found["quantiles"] = ordered[:, plan.shown][..., positions] + mean[:, plan.shown, None]
    found["crps"] = crps_of_sorted(ordered, trials).astype(np.float32)
    found["ranks"] = ranks_among_sorted(ordered, trials)
    draws /= scale
    trials /= scale
    whole = slice(None) if len(plan.complete) == draws.shape[2] else plan.complete
    patterns = energy_and_ranks(draws[..., whole], trials[..., whole])
    found["energy"], found["pattern_ranks"] = patterns
    return found


def _log_score(
    source: DrawSource, images: slice, betas: np.ndarray, voxels: np.ndarray
) -> np.ndarray:
    if source.log_density is None or len(voxels) == 0:
        return np.full(len(betas), np.nan)
    return log_score(source.log_density(images, betas, voxels))
