"""Check that images and betas belong together: ridge on cheap features, permuted images."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from brainenc import metrics
from brainenc.arrays import row_blocks
from brainenc.data.images import LUMA, area_weights, as_images, image_batches, take_images
from brainenc.repeats import average_repeats, count_repeats
from brainenc.validation import check_betas

#: Smallest number of images with trials for a verdict.
MIN_IMAGES = 20

#: Numbers of candidate voxels, and of the most reliable of them, which are predicted.
CANDIDATES, VOXELS = 20_000, 100

#: Smallest share of reliable variance in visual cortex that cheap features explain.
PLANTED_SHARE = 0.1

#: Number of data sets with a planted relation; their lowest score is the expected minimum.
N_PLANTED = 40

#: Ridge penalties, in units of the mean squared norm of an image's features.
ALPHAS = (0.3, 3.0, 30.0)

#: A shift fits better if its r is larger by this number of s.d. of the permuted scores.
SHIFT_SD = 4.0


@dataclass(frozen=True, eq=False)
class AlignmentCheck:
    """Whether images and betas seem to belong together.

    Attributes
    ----------
    verdict : str
        "aligned": better than permuted images. "misaligned": no better, although the betas are
        reliable enough for the test. "shifted": betas of a neighbouring row fit better. "unknown":
        no evidence, because of too few images, unreliable voxels or no relation to pixels.
    r : float
        Held-out Pearson r, mean over the most reliable voxels.
    p : float
        One-sided p of `r` among permuted images.
    null : array, shape (n_permutations,)
        The same r with images permuted; its mean is a little below 0.
    expected : float
        Smallest r when a tenth of the reliable variance is planted in permuted betas.
    shifted : dict of int to float
        r when image i is paired with the betas of row i − 1 and of row i + 1.
    message : str
        Summary in a sentence.
    """

    verdict: str
    r: float
    p: float
    null: np.ndarray
    expected: float
    shifted: dict[int, float]
    message: str

    def __repr__(self) -> str:
        return f"AlignmentCheck({self.verdict}: {self.message})"

    @property
    def suspicious(self) -> bool:
        """Whether there is evidence that images and betas do not belong together."""
        return self.verdict in ("misaligned", "shifted")


def check_alignment(
    images: Any,
    betas: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    ncsnr: ArrayLike | None = None,
    n_averaged: ArrayLike = 1,
    name: str = "data",
    n_images: int = 600,
    n_permutations: int = 200,
    random_state: int | None = 0,
) -> AlignmentCheck:
    """Test whether paired images predict the betas better than permuted images.

    Ridge on pixels and contrast energy predicts held-out averages of the most reliable voxels. A
    low score may also come from weak features or data; the verdict is "misaligned" only if a weak
    relation, planted in the same betas, would have been detected.

    Parameters
    ----------
    images : array or lazy sequence, shape (n_rows, H, W[, 3]), uint8
    betas : array, shape (n_rows, n_repeats, n_voxels) or (n_rows, n_voxels)
        NaN where a repeat is missing. May be memory-mapped; only some rows are read.
    rows : array of int, optional
        Rows with at least one trial, from which images are drawn; by default those with a beta
        that is not NaN, which takes a pass through all betas.
    ncsnr : array, shape (n_voxels,), optional
        Signal s.d. / noise s.d. of a single trial; used only if fewer than `MIN_IMAGES` of the
        images drawn have repeats.
    n_averaged : int, or array of shape (n_rows,), (n_rows, 1) or (n_rows, n_voxels)
        Trials averaged in each row of `betas`, in any order of rows, for the noise ceiling from
        `ncsnr`; see `brainenc.repeats.trials_of_averages`.
    name : str
        Name of the data in the message.
    n_images : int
        Images drawn at random, so that large data take seconds.
    n_permutations : int
        Permutations of the images.
    random_state : int

    Returns
    -------
    AlignmentCheck

    Raises
    ------
    ValueError : `n_images` or `n_permutations` below 1, or the shapes of images, betas and ncsnr do
        not match.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> brightness = rng.integers(0, 256, (60, 1, 1), dtype=np.uint8)
    >>> images = np.broadcast_to(brightness, (60, 16, 16))
    >>> betas = brightness / 100 + rng.standard_normal((60, 3, 5))
    >>> check_alignment(images, betas).verdict
    'aligned'
    """
    if n_images < 1 or n_permutations < 1:
        raise ValueError(f"n_images={n_images} and n_permutations={n_permutations} must be >= 1")
    images = as_images(images)
    betas = check_betas(betas, n_images=len(images), values=False)
    if ncsnr is not None and np.shape(ncsnr) != betas.shape[2:]:
        raise ValueError(
            f"ncsnr {np.shape(ncsnr)} must have one value for each of the {betas.shape[2]} voxels "
            f"of betas {betas.shape}"
        )
    rng = np.random.default_rng(random_state)
    shown = _rows_with_trials(betas) if rows is None else np.unique(rows)
    if len(shown) < MIN_IMAGES or n_images < MIN_IMAGES:
        n_seen = min(len(shown), n_images)
        return _unknown(f"too few images to tell: {n_seen}, where {MIN_IMAGES} are needed")
    drawn = np.sort(rng.permutation(shown)[:n_images])
    voxels, reliability = _reliable_voxels(betas, drawn, rng, ncsnr, n_averaged)
    if not len(voxels) or not reliability > 0:
        return _unknown(
            f"no voxel is known to be reliable, which takes {MIN_IMAGES} images with repeats, or "
            "ncsnr in the voxel table, and betas with signal in them"
        )
    features = cheap_features(take_images(images, drawn))
    smoothers = _smoothers(features, rng)
    if not smoothers:
        return _unknown("all images look the same to pixels and contrast energy")
    targets = _averages(betas, drawn, voxels)
    shifted = {
        shift: _score(smoothers, _averages(betas, (drawn + shift) % len(betas), voxels))
        for shift in (-1, 1)
    }

    def permuted() -> np.ndarray:
        return targets[rng.permutation(len(drawn))]

    null = np.array([_score(smoothers, permuted()) for _ in range(n_permutations)])
    planted = [
        _score(smoothers, _plant(permuted(), features, reliability, rng)) for _ in range(N_PLANTED)
    ]
    r = _score(smoothers, targets)
    return _judge(name, r, null, min(planted), shifted, (len(voxels), len(drawn)))


def _rows_with_trials(betas: np.ndarray) -> np.ndarray:
    present = [~np.isnan(np.fmax.reduce(block, axis=(1, 2))) for block in row_blocks(betas)]
    return np.flatnonzero(np.concatenate(present))


def _unknown(reason: str) -> AlignmentCheck:
    nan = float("nan")
    return AlignmentCheck("unknown", nan, nan, np.empty(0), nan, {}, f"no evidence: {reason}")


def _judge(
    name: str,
    r: float,
    null: np.ndarray,
    expected: float,
    shifted: dict[int, float],
    size: tuple[int, int],
) -> AlignmentCheck:
    n_voxels, n_images = size
    p = (1 + int((null >= r).sum())) / (1 + len(null))
    spread = null.std()
    best = max(shifted, key=shifted.__getitem__)
    better = shifted[best] > max(r, null.mean()) + SHIFT_SD * spread
    found = (
        f"ridge on pixels and contrast energy predicts the {n_voxels} most reliable voxels with "
        f"r = {r:.3f} over {n_images} held-out images (permuted: {null.mean():.3f} ± {spread:.3f}, "
        f"p = {p:.2g})"
    )
    apart = f"images and betas of {name!r} do not seem to belong together: {found}"
    if better:
        verdict = "shifted"
        way = "next" if best == 1 else "previous"
        message = (
            f"{apart}; with the betas of the {way} row r = {shifted[best]:.3f}. Is an order or an "
            "id off by one (counted from 1, say)?"
        )
    elif p <= 0.05:
        verdict, message = "aligned", found
    elif r < expected and expected > np.quantile(null, 0.95):
        verdict = "misaligned"
        message = (
            f"{apart}, but at least {expected:.3f} was to be expected if these explained a tenth "
            "of what is reliable. Check the order of the images, or switch this check off if "
            "these voxels have nothing to do with pixels"
        )
    else:
        verdict, message = "unknown", f"no evidence either way: {found}"
    return AlignmentCheck(verdict, r, p, null, expected, shifted, message)


# ------------------------------------------------------------------ voxels


def _reliable_voxels(
    betas: np.ndarray,
    rows: np.ndarray,
    rng: np.random.Generator,
    ncsnr: ArrayLike | None = None,
    n_averaged: ArrayLike = 1,
) -> tuple[np.ndarray, float]:
    """The most reliable voxels, and the reliable share of variance of their averages.

    Voxels are chosen on every other image and measured on the rest, since selection biases the
    reliability of the best. Without repeats `ncsnr` is used for both.
    """
    candidates = np.sort(rng.permutation(betas.shape[2])[:CANDIDATES])
    n_chosen = min(VOXELS, -(-len(candidates) // 2))
    trials = _read(betas, rows, candidates)
    if (count_repeats(trials).max(axis=1) > 1).sum() >= MIN_IMAGES:
        half = rng.permutation(len(rows)) % 2 == 0
        ncsnr = metrics.ncsnr_from_repeats(trials[half])
        ceiling = metrics.noise_ceiling_from_repeats(trials[~half]).values
    elif ncsnr is not None:
        ncsnr = np.asarray(ncsnr)[candidates]
        counts = np.asarray(n_averaged)
        if counts.shape[1:] == (betas.shape[2],):
            counts = counts[:, candidates]
        elif counts.ndim == 1:
            counts = counts[:, None]  # images, even if there are as many as candidates
        ceiling = metrics.noise_ceiling_from_ncsnr(ncsnr, counts).values
    else:
        return np.empty(0, int), 0.0
    known = np.flatnonzero(np.isfinite(ncsnr) & np.isfinite(ceiling))
    best = known[np.argsort(-ncsnr[known], kind="stable")[:n_chosen]]
    return candidates[best], float(ceiling[best].mean()) if len(best) else 0.0


def _read(betas: np.ndarray, rows: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Betas of some images and voxels, image by image: they may be larger than memory."""
    return np.stack([betas[row][:, voxels] for row in rows.tolist()])


def _averages(betas: np.ndarray, rows: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Averages with mean 0 and s.d. 1 over images; 0 without data or variance."""
    averages = average_repeats(_read(betas, rows, voxels)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice|Degrees of freedom")
        averages -= np.nanmean(averages, axis=0)
        sd = np.nanstd(averages, axis=0)
    averages /= np.where(sd > 0, sd, 1)
    return np.nan_to_num(averages, nan=0.0)


def _plant(
    permuted: np.ndarray, features: np.ndarray, reliability: float, rng: np.random.Generator
) -> np.ndarray:
    """Permuted betas in which features explain `PLANTED_SHARE` of the reliable variance.

    A few patterns are mixed, since voxels share their signals: a hundred independent signals would
    make the test too optimistic.
    """
    n_patterns = 5
    patterns = features @ rng.standard_normal((features.shape[1], n_patterns), dtype=np.float32)
    signal = patterns @ rng.standard_normal((n_patterns, permuted.shape[1]), dtype=np.float32)
    signal /= signal.std(axis=0)
    share = PLANTED_SHARE * reliability
    return np.sqrt(1 - share) * permuted + np.sqrt(share) * signal


# ------------------------------------------------------------------ features


def cheap_features(images: Any, *, batch_size: int = 64) -> np.ndarray:
    """Luminance, colour and contrast energy on coarse grids.

    Parameters
    ----------
    images : array or lazy sequence, shape (n_images, H, W[, 3]), uint8
    batch_size : int

    Returns
    -------
    array of float32, shape (n_images, n_features)
        Centred over the images. Each of the three kinds, unless constant, has the same total
        variance, and the mean squared norm of a row is 1; no columns if all are constant.
    """
    batches = [_feature_maps(batch) for batch in image_batches(images, batch_size)]
    kinds = [np.concatenate(kind) for kind in zip(*batches, strict=True)]
    kinds = [kind - kind.mean(axis=0) for kind in kinds]
    sizes = [np.sqrt(np.square(kind).sum(axis=1).mean()) for kind in kinds]
    varying = [kind / size for kind, size in zip(kinds, sizes, strict=True) if size > 1e-4]
    if not varying:
        return np.empty((len(images), 0), np.float32)
    return np.hstack(varying) / np.sqrt(np.float32(len(varying)))


def _feature_maps(batch: np.ndarray) -> list[np.ndarray]:
    """Luminance, two opponent colours, energy along x, y and the diagonals at two scales."""
    pixels = batch.astype(np.float32) / 255
    colours = []
    if pixels.ndim == 4:
        red, green, blue = np.moveaxis(pixels, -1, 0)
        colours = [red - green, blue - (red + green) / 2]
        pixels = pixels @ LUMA
    energy = []
    for size in (64, 32):
        shrunk = _shrink(pixels, size)
        y, x = np.gradient(shrunk, axis=(1, 2))
        # Square root of the sum: contrast instead of energy, which a few edges would dominate.
        energy += [np.sqrt(_shrink(part**2, 8)) for part in (x, y, x + y, x - y)]
    maps = [[_shrink(pixels, 16)], [_shrink(colour, 8) for colour in colours], energy]
    flat = [[part.reshape(len(batch), -1) for part in kind] for kind in maps]
    return [np.hstack(kind) if kind else np.zeros((len(batch), 1), np.float32) for kind in flat]


def _shrink(maps: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (area_weights(n, min(n, size)) for n in maps.shape[1:])
    return rows @ maps @ columns.T


# ------------------------------------------------------------------ ridge


def _smoothers(features: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Matrices from the responses of all images to held-out predictions, one per alpha.

    They do not depend on the responses, so that a permutation costs one matrix product.
    """
    # Imported here, since scikit-learn takes a second and opening data does not need it.
    from brainenc.model_selection import image_folds

    if not features.shape[1]:
        return []
    kernel = features @ features.T
    smoothers = [np.zeros_like(kernel) for _ in ALPHAS]
    for train, test in image_folds(5, len(kernel), random_state=rng):
        values, vectors = np.linalg.eigh(kernel[np.ix_(train, train)])
        projected = kernel[np.ix_(test, train)] @ vectors
        for smoother, alpha in zip(smoothers, ALPHAS, strict=True):
            weights = (projected / (np.maximum(values, 0) + alpha)) @ vectors.T
            weights -= weights.mean(axis=1, keepdims=True)  # responses around their train mean
            smoother[np.ix_(test, train)] = weights
    return smoothers


def _score(smoothers: Sequence[np.ndarray], responses: np.ndarray) -> float:
    """Mean over voxels of held-out r, at the best alpha: the same choice in every permutation."""
    best = -np.inf
    y = responses / np.maximum(np.linalg.norm(responses, axis=0), 1e-12)
    for smoother in smoothers:
        predictions = smoother @ y
        predictions -= predictions.mean(axis=0)
        norm = np.maximum(np.linalg.norm(predictions, axis=0), 1e-12)
        best = max(best, float((np.einsum("iv,iv->v", predictions, y) / norm).mean()))
    return best
