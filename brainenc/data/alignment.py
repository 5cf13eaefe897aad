"""Check that images and betas belong together: ridge on cheap features, permuted images."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from brainenc import metrics
from brainenc.arrays import row_blocks
from brainenc.data.cheap_features import cheap_features
from brainenc.data.counts import counts_of_voxels
from brainenc.data.feature_noise import FeatureCheck
from brainenc.data.held_out_ridge import (
    VOXELS,
    held_out_correlations,
    held_out_score,
    ridge_folds,
    ridge_smoothers,
)
from brainenc.data.images import as_images, take_images
from brainenc.data.misaligned_parts import MisalignedPart, misaligned_rows, misaligned_trials
from brainenc.data.session_effects import SessionEffect, session_effect
from brainenc.data.trials import trials_of_images, trials_present
from brainenc.repeats import average_repeats, count_repeats
from brainenc.validation import check_betas

#: Smallest number of images with trials for a verdict.
MIN_IMAGES = 20

#: Number of voxels of which the most reliable `VOXELS` are predicted.
CANDIDATES = 20_000

#: Number of random voxels if none is known to be reliable; r is the mean over the best `VOXELS`.
UNKNOWN_VOXELS = 400

#: Smallest share of reliable variance in visual cortex that cheap features explain.
PLANTED_SHARE = 0.1

#: Number of data sets with a planted relation; their lowest score is the expected minimum.
N_PLANTED = 40

#: Shifts that are tried: image i with the betas of row i + shift.
SHIFTS = (-2, -1, 1, 2)

#: A shift fits better if its r is larger by this number of s.d. of the permuted scores.
SHIFT_SD = 4.0


@dataclass(frozen=True, eq=False)
class AlignmentCheck:
    """Whether images and betas seem to belong together.

    Attributes
    ----------
    verdict : str
        "aligned": better than permuted images. "misaligned": no better, although the betas are
        reliable enough for the test. "shifted": betas of a neighbouring row fit better. "partly
        misaligned": some rows, sessions, runs or repeats do not fit their images (`parts`).
        "unknown": no evidence, because of too few images, unreliable voxels or no relation to
        pixels.
    r : float
        Held-out Pearson r, mean over the most reliable voxels. If none is known to be reliable,
        over the best `VOXELS` of `UNKNOWN_VOXELS` voxels, also in `null` and `shifted`.
    p : float
        One-sided p of `r` among permuted images.
    null : array, shape (n_permutations,)
        The same r with images permuted; its mean is a little below 0.
    expected : float
        Smallest r when a tenth of the reliable variance is planted in permuted betas; NaN if no
        voxel is known to be reliable.
    shifted : dict of int to float
        r when image i is paired with the betas of row i + shift, for shifts of −2 to 2.
    message : str
        Summary in a sentence.
    parts : tuple of str
        Parts that do not fit their images: "rows 300–599", "session 7", "repeat 2".
    session : SessionEffect or None
        Differences between sessions; None without two sessions or too few images.
    features : FeatureCheck or None
        Whether features given to `EncodingData.check` contain betas.
    """

    verdict: str
    r: float
    p: float
    null: np.ndarray
    expected: float
    shifted: dict[int, float]
    message: str
    parts: tuple[str, ...] = ()
    session: SessionEffect | None = None
    features: FeatureCheck | None = None

    def __repr__(self) -> str:
        return f"AlignmentCheck({self.verdict}: {self.message})"

    @property
    def suspicious(self) -> bool:
        """Whether there is evidence that images and betas do not belong together."""
        return self.verdict in ("misaligned", "shifted", "partly misaligned")

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is suspicious: alignment, offsets of sessions, features."""
        found = [self.message] if self.suspicious else []
        if self.session is not None and self.session.confounded:
            found.append(self.session.message)
        if self.features is not None and self.features.suspicious:
            found.append(self.features.message)
        return found


def check_alignment(
    images: Any,
    betas: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    ncsnr: ArrayLike | None = None,
    n_averaged: ArrayLike = 1,
    trials: pd.DataFrame | None = None,
    name: str = "data",
    n_images: int = 600,
    n_permutations: int = 200,
    random_state: int | None = 0,
) -> AlignmentCheck:
    """Test whether paired images predict the betas better than permuted images.

    Ridge on pixels and contrast energy predicts held-out averages of the most reliable voxels. A
    low score may also come from weak features or data; the verdict is "misaligned" only if a weak
    relation, planted in the same betas, would have been detected.

    Parts are checked by the scores of `brainenc.data.matching`: rows in blocks and one by one
    against predictions from their images; sessions, runs, repeats and blocks of trials against the
    other trials of the same images, and against predictions.

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
    trials : DataFrame, optional
        Trial table (``image``, ``repeat``, and any of ``session``, ``run``, ``trial``), for checks
        of sessions, runs and blocks of trials. By default repeats alone are compared.
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
    known = len(voxels) > 0 and reliability > 0
    if not known:  # the order of the betas can still be tested
        voxels = np.sort(rng.permutation(betas.shape[2])[:UNKNOWN_VOXELS])
    features = cheap_features(take_images(images, drawn))
    if not features.shape[1]:
        return _unknown("all images look the same to pixels and contrast energy")
    folds = ridge_folds(len(drawn), rng)
    smoothers = ridge_smoothers(features, folds)
    read = _read(betas, drawn, voxels)
    targets = _standardised(average_repeats(read))
    if not targets.any():
        return _unknown(f"{UNRELIABLE}, and betas with signal in them")
    near = {
        shift: _averages(betas, (drawn + shift) % len(betas), voxels)
        for shift in SHIFTS
        if abs(shift) < len(betas) / 2
    }
    shifted = {shift: held_out_score(smoothers, moved) for shift, moved in near.items()}

    def permuted() -> np.ndarray:
        return targets[rng.permutation(len(drawn))]

    null = np.array([held_out_score(smoothers, permuted()) for _ in range(n_permutations)])
    planted = [
        held_out_score(smoothers, _plant(permuted(), features, reliability, rng))
        for _ in range(N_PLANTED if known else 0)
    ]
    r = held_out_score(smoothers, targets)
    found = _judge(name, r, null, min(planted, default=np.nan), shifted, (len(voxels), len(drawn)))
    predictions = max(smoothers, key=lambda smoother: held_out_score([smoother], targets)) @ targets
    if not known:
        best = np.argsort(-held_out_correlations(predictions, targets), kind="stable")[:VOXELS]
        predictions, targets, read = predictions[:, best], targets[:, best], read[:, :, best]
        near = {shift: moved[:, best] for shift, moved in near.items()}
    table = _trials_drawn(trials, read, drawn, len(betas))
    session = session_effect(
        read, table, features, predictions, name=name, random_state=random_state
    )
    found = replace(found, session=session)
    if found.suspicious:  # all of it
        return found
    # Offsets of sessions that images predict would look like rows of other images.
    related = found.verdict == "aligned" and not (session and session.confounded)
    parts = misaligned_rows(predictions, targets, near, folds, drawn) if related else []
    parts += misaligned_trials(read, table, predictions if related else None, folds)
    return _partly(found, parts, name) if parts else found


def _trials_drawn(
    trials: pd.DataFrame | None, read: np.ndarray, drawn: np.ndarray, n_rows: int
) -> pd.DataFrame:
    """Trial table of the images drawn, of trials with data."""
    present = trials_present(read)
    if trials is None:
        return present
    return trials_of_images(trials, drawn, n_rows).merge(present, on=["image", "repeat"])


def _partly(found: AlignmentCheck, parts: Sequence[MisalignedPart], name: str) -> AlignmentCheck:
    listed = "; ".join(part.found for part in parts[:10])
    more = f"; and {len(parts) - 10} more" if len(parts) > 10 else ""
    message = (
        f"part of the images and betas of {name!r} do not seem to belong together: {listed}{more}. "
        "A score of 0 is that of betas of other images. Check the order and the image ids there"
    )
    return replace(
        found,
        verdict="partly misaligned",
        message=message,
        parts=tuple(part.name for part in parts),
    )


#: Why a low score says nothing.
UNRELIABLE = (
    f"no voxel is known to be reliable, which takes {MIN_IMAGES} images with repeats, or ncsnr in "
    "the voxel table, and betas with signal in them"
)


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
    best = max(shifted, key=shifted.__getitem__, default=0)
    better = best and shifted[best] > max(r, null.mean()) + SHIFT_SD * spread
    which = f"the {n_voxels} most reliable voxels"
    if np.isnan(expected):
        which = f"the best of {n_voxels} voxels"
    found = (
        f"ridge on pixels and contrast energy predicts {which} with "
        f"r = {r:.3f} over {n_images} held-out images (permuted: {null.mean():.3f} ± {spread:.3f}, "
        f"p = {p:.2g})"
    )
    apart = f"images and betas of {name!r} do not seem to belong together: {found}"
    if better:
        verdict = "shifted"
        way = ("next" if best > 0 else "previous") + " row" + " but one" * (abs(best) == 2)
        message = (
            f"{apart}; with the betas of the {way} r = {shifted[best]:.3f}. Is an order or an "
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
        message += f"; {UNRELIABLE}" if np.isnan(expected) else ""
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
        counts = counts_of_voxels(n_averaged, candidates, betas.shape[2])
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
    return _standardised(average_repeats(_read(betas, rows, voxels)))


def _standardised(averages: np.ndarray) -> np.ndarray:
    """Averages with mean 0 and s.d. 1 over images; 0 without data or variance."""
    averages = averages.astype(np.float32)
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
