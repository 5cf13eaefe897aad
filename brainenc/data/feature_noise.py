"""Whether features contain betas: they correlate with noise, which no function of an image can.

The deviation of a trial from the other trials of its image is noise. Features computed from images
do not correlate with it; features that contain betas of single trials do.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from brainenc import metrics
from brainenc.data.counts import counts_of_voxels
from brainenc.data.held_out_ridge import held_out_score, ridge_folds, ridge_smoothers
from brainenc.data.session_effects import session_codes, trials_of_equal_gain
from brainenc.repeats import average_repeats
from brainenc.validation import check_betas, check_same_length

#: Largest numbers of images and of repeats that are looked at.
N_IMAGES, N_REPEATS = 1000, 6

#: Smallest number of images with trials.
MIN_IMAGES = 40

#: Products of a feature and a beta at most: a second or two.
BUDGET = 2e10

#: Values of features and of betas at most, of random images, features and voxels.
MAX_FEATURES, MAX_BETAS = 2**25, 2**24

#: Probability that a column of features correlates with noise by chance, over all columns.
ALPHA = 1e-3

#: Smallest |r| of a column and of held-out predictions with noise, and s.d. of chance above it.
MIN_COLUMN_R, MIN_RIDGE_R, RIDGE_SD = 0.2, 0.05, 6.0

#: A column with this r with averages contains them, even where no noise ceiling is known.
COPY_R = 0.95

#: Numbers of rotations of the images that give the chance level where noise is autocorrelated, and
#: how far above their largest |r| a column has to be.
N_ROTATIONS, N_RIDGE_ROTATIONS, ROTATED = 6, 60, 1.2

#: Columns with the largest |r| that are looked at again.
N_CANDIDATES = 200

#: Deviations of one repeat: positions of its images, and values (n_images, n_voxels).
Noise = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class FeatureCheck:
    """Whether features seem to be made from the betas they are to predict.

    Attributes
    ----------
    column_r : float
        Largest absolute r of a column of features with the deviations of single trials from the
        other trials of their image (as normal scores, over images); NaN without repeats.
    column_r_chance : float
        Absolute r that the largest exceeds with probability `ALPHA` by chance.
    column : int
        The column, counted over the flattened features; −1 without repeats.
    ridge_r : float
        Held-out r of ridge from all features to these deviations, mean over voxels, of the repeat
        where it is largest; NaN without repeats.
    ridge_r_chance : float
        Mean and 6 s.d. of the same r with rotated images.
    average_r : float
        Largest excess of a column's r with averages over the noise ceiling and its error, as r.
    message : str
        Summary in a sentence.
    suspicious : bool
        Whether one of these is beyond chance.
    """

    column_r: float
    column_r_chance: float
    column: int
    ridge_r: float
    ridge_r_chance: float
    average_r: float
    message: str
    suspicious: bool


def check_features(
    features: np.ndarray,
    betas: np.ndarray,
    *,
    trials: pd.DataFrame | None = None,
    ncsnr: ArrayLike | None = None,
    n_averaged: ArrayLike = 1,
    name: str = "features",
    random_state: int | None = 0,
) -> FeatureCheck:
    """Test whether features correlate with the noise of the betas.

    Parameters
    ----------
    features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
    betas : array, shape (n_images, n_repeats, n_voxels) or (n_images, n_voxels)
        NaN where a repeat is missing. Both may be memory-mapped; some rows are read.
    trials : DataFrame, optional
        Trial table; with ``session``, betas are z-scored within sessions, whose gains may differ.
    ncsnr : array, shape (n_voxels,), optional
        Signal s.d. / noise s.d., for the noise ceiling without repeats.
    n_averaged : number, or array of shape (n_images,), (n_images, 1) or (n_images, n_voxels)
        Trials averaged in each row of `betas`, as in `check_alignment`.
    name : str
        Name of the features in the message.
    random_state : int

    Returns
    -------
    FeatureCheck

    Raises
    ------
    ValueError : features and betas have other numbers of rows.

    Notes
    -----
    Of many images, features and voxels a random part is looked at, so that it takes seconds.
    Averages of all trials as features do not correlate with deviations from them; there a column is
    suspicious whose r with the averages exceeds the noise ceiling, or .95.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> signal = rng.standard_normal((100, 5))
    >>> betas = signal[:, None] + rng.standard_normal((100, 3, 5))
    >>> check_features(signal, betas).suspicious
    False
    >>> check_features(betas[:, 0], betas).suspicious  # the betas of a trial
    True
    """
    betas = check_betas(betas, values=False)
    check_same_length(features=features, betas=betas)
    rng = np.random.default_rng(random_state)
    n_features = int(np.prod(np.shape(features)[1:]))
    n_images = min(N_IMAGES, max(400, MAX_FEATURES // max(1, n_features)))
    rows = np.sort(rng.permutation(len(betas))[:n_images])
    kept = np.sort(rng.permutation(n_features)[: MAX_FEATURES // len(rows)])
    columns = np.stack(
        [np.asarray(features[row]).ravel()[kept].astype(np.float32) for row in rows.tolist()]
    )
    n_used = int(BUDGET / (columns.size * min(betas.shape[1], N_REPEATS)))
    n_used = max(20, min(n_used, MAX_BETAS // (len(rows) * betas.shape[1])))
    voxels = np.sort(rng.permutation(betas.shape[2])[:n_used])
    read = np.stack([betas[row][:, voxels] for row in rows.tolist()])
    shown = np.isfinite(read).any(axis=(1, 2)) & np.isfinite(columns).all(axis=1)
    columns, read, rows = columns[shown], read[shown], rows[shown]
    if len(rows) < MIN_IMAGES:
        nan = float("nan")
        return FeatureCheck(nan, nan, -1, nan, nan, nan, f"too few images: {len(rows)}", False)
    noise = _noise(read, rows, trials, len(betas), rng)
    column, r, chance = _columns(columns, noise)
    ridge_r, ridge_chance = _ridge(columns, noise, rng)
    of_column = False
    counts = counts_of_voxels(n_averaged, voxels, betas.shape[2])
    ceiling = _ceiling(read, voxels, ncsnr, counts)
    average_r = _averages(_unit_columns(columns), average_repeats(read), ceiling)
    if r > max(chance, MIN_COLUMN_R):  # rarely, so that this costs time
        least = max(chance, MIN_COLUMN_R, ROTATED * _rotated(columns, noise))
        column, r, of_column = _robust(columns, noise, least)
    column = int(kept[column]) if column >= 0 else column
    of_ridge = ridge_r > max(ridge_chance, MIN_RIDGE_R)
    reasons = []
    if of_column:
        reasons.append(
            f"column {column} has |r| = {r:.2f} with the deviations of trials from the other "
            f"trials of their image (chance: {chance:.2f})"
        )
    if of_ridge:
        reasons.append(
            f"held-out ridge predicts these deviations with r = {ridge_r:.2f} "
            f"(chance: {ridge_chance:.2f})"
        )
    if average_r > 0:
        reasons.append(f"a column has r = {average_r:.2f} with averages, above the noise ceiling")
    if reasons:
        message = (
            f"{name} seem to contain the betas they are to predict: {'; '.join(reasons)}. No "
            "function of the images correlates with the noise of trials; scores are too high"
        )
    else:
        message = f"{name} do not correlate with the noise of the betas (r = {r:.2f})"
    found = r, chance, column, ridge_r, ridge_chance, average_r
    return FeatureCheck(*found, message=message, suspicious=bool(reasons))


def _noise(
    read: np.ndarray,
    rows: np.ndarray,
    trials: pd.DataFrame | None,
    n_rows: int,
    rng: np.random.Generator,
) -> list[Noise]:
    """Deviations of each repeat from the other trials of the image, as normal scores.

    Normal scores, since of a skewed feature and an outlying trial any r could come by chance.

    Columns have norm 1; 0 stands where a voxel has no second trial.
    """
    betas = read.astype(np.float64)
    if trials is not None and "session" in trials:
        betas = trials_of_equal_gain(betas, session_codes(trials, (n_rows, read.shape[1]))[rows])
    present = np.isfinite(betas)
    n = present.sum(axis=1)
    total = np.where(present, betas, 0).sum(axis=1)
    repeats = np.arange(betas.shape[1])
    if len(repeats) > N_REPEATS:
        repeats = np.concatenate([repeats[:2], rng.permutation(repeats[2:])[: N_REPEATS - 2]])
    found = []
    for repeat in repeats:
        with np.errstate(invalid="ignore", divide="ignore"):
            others = (total - betas[:, repeat]) / (n - 1)
        deviation = np.where(n > 1, betas[:, repeat] - others, np.nan)
        images = np.flatnonzero(np.isfinite(deviation).any(axis=1))
        if len(images) >= max(MIN_IMAGES, len(betas) / 4):
            found.append((images, _unit_columns(_normal_scores(deviation[images]))))
    return found


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Ranks per column as quantiles of a normal distribution; 0 for NaN."""
    from scipy.stats import norm, rankdata

    ranks = rankdata(values, axis=0, nan_policy="omit")
    n = np.isfinite(values).sum(axis=0)
    return np.nan_to_num(norm.ppf((ranks - 0.5) / np.maximum(n, 1)))


def _unit_columns(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and norm 1 in single precision; 0 if constant."""
    centred = values - values.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)
    floor = 1e-5 * np.linalg.norm(values, axis=0)
    return (centred / np.where(size > np.maximum(floor, 1e-30), size, np.inf)).astype(np.float32)


def _columns(columns: np.ndarray, noise: list[Noise]) -> tuple[int, float, float]:
    """The column with the largest |r| with noise, its |r|, and the |r| of chance."""
    if not noise:
        return -1, np.nan, np.nan
    largest = np.max([_largest(columns[images], values) for images, values in noise], axis=0)
    n_tests = columns.shape[1] * sum(values.shape[1] for _, values in noise)
    fewest = min(len(images) for images, _ in noise)
    from scipy.stats import norm

    chance = norm.isf(ALPHA / 2 / n_tests) / np.sqrt(fewest - 1)
    column = int(largest.argmax())
    return column, float(largest[column]), float(min(chance, 1))


def _largest(columns: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Largest |r| of each column with a voxel, in blocks of columns."""
    columns = _unit_columns(columns)
    found = np.zeros(columns.shape[1])
    step = max(1, 2**22 // max(1, noise.shape[1]))
    for start in range(0, columns.shape[1], step):
        some = slice(start, start + step)
        found[some] = np.abs(columns[:, some].T @ noise).max(axis=1)
    return found


def _robust(columns: np.ndarray, noise: list[Noise], least: float) -> tuple[int, float, bool]:
    """The column with the largest |r|, |r|, and whether a column has a larger one than `least`.

    Some images evoke more noise than others, and have extreme features as well: the sum of products
    is compared with the root of the sum of their squares, which holds for any noise that is
    symmetric (Efron, 1969, Journal of the American Statistical Association 64).
    """
    n_tests = columns.shape[1] * sum(values.shape[1] for _, values in noise)
    from scipy.stats import norm

    z = norm.isf(ALPHA / 2 / n_tests)
    largest = np.max([_largest(columns[images], values) for images, values in noise], axis=0)
    candidates = np.argsort(-largest)[:N_CANDIDATES]
    found = np.zeros(len(candidates))
    for images, values in noise:
        some = _unit_columns(columns[images][:, candidates])
        r = np.abs(some.T @ values)
        error = np.sqrt(np.square(some).T @ np.square(values))
        found = np.maximum(found, np.where((r > z * error) & (r > least), r, 0).max(axis=1))
    if not found.any():
        return int(candidates[0]), float(largest[candidates[0]]), False
    best = int(found.argmax())
    return int(candidates[best]), float(found[best]), True


def _rotated(columns: np.ndarray, noise: list[Noise]) -> float:
    """Largest |r| of all columns with rotated images: chance under autocorrelated noise."""
    found = []
    for images, values in noise:
        for step in np.linspace(0, len(images), N_ROTATIONS + 2)[1:-1].astype(int):
            found.append(_largest(columns[images], np.roll(values, step, axis=0)).max())
    return float(max(found))


def _ridge(
    columns: np.ndarray, noise: list[Noise], rng: np.random.Generator
) -> tuple[float, float]:
    """Held-out r of ridge from all columns to the noise, the largest of the repeats, and chance."""
    if not noise:
        return np.nan, np.nan
    most = max(len(images) for images, _ in noise)
    noise = [part for part in noise if len(part[0]) >= 0.9 * most]
    some = noise[0][0]
    for images, _ in noise[1:]:
        some = np.intersect1d(some, images)
    some = np.sort(rng.permutation(some)[:600])
    features = _unit_columns(columns[some])
    features /= max(float(np.sqrt(np.square(features).sum(axis=1).mean())), 1e-12)
    smoothers = ridge_smoothers(features, ridge_folds(len(some), rng))
    voxels = rng.permutation(noise[0][1].shape[1])[:100]
    targets = [values[np.searchsorted(images, some)][:, voxels] for images, values in noise]
    targets = [values - values.mean(axis=0) for values in targets]
    found = max(held_out_score(smoothers, values) for values in targets)
    steps = np.linspace(0, len(some), N_RIDGE_ROTATIONS + 2)[1:-1].astype(int)
    rotated = [
        held_out_score(smoothers, np.roll(targets[i % len(targets)], step, axis=0))
        for i, step in enumerate(steps)
    ]
    return found, float(np.mean(rotated) + RIDGE_SD * np.std(rotated))


def _ceiling(
    read: np.ndarray, voxels: np.ndarray, ncsnr: ArrayLike | None, counts: np.ndarray
) -> np.ndarray:
    """Noise ceiling of r per voxel; NaN if unknown."""
    if (np.isfinite(read).sum(axis=1).max(axis=1) > 1).sum() >= MIN_IMAGES:
        return metrics.noise_ceiling_from_repeats(read).to("r").values
    if ncsnr is not None:
        known = np.asarray(ncsnr)[voxels]
        return metrics.noise_ceiling_from_ncsnr(known, counts).to("r").values
    return np.full(len(voxels), np.nan)


def _averages(columns: np.ndarray, averages: np.ndarray, ceiling: np.ndarray) -> float:
    """Largest r of a column with averages among those above what the ceiling allows; 0 if none.

    The allowance is eight standard errors of r and of the ceiling, in Fisher's z.
    """
    from scipy.stats import rankdata  # SciPy takes a second, which opening data is spared

    complete = np.isfinite(averages).all(axis=0)
    if not complete.any():
        return 0.0
    above = 1 - 1e-6
    allowed = np.arctanh(np.clip(np.nan_to_num(ceiling, nan=0), 0.3, above)) + 8 / np.sqrt(
        max(1, len(columns) - 3)
    )
    limit = np.where(np.isfinite(ceiling), np.minimum(np.tanh(allowed), COPY_R + 0.04), COPY_R)
    y = _unit_columns(averages[:, complete])
    limit = limit[complete]
    best = 0.0
    step = max(1, 2**22 // y.shape[1])
    for start in range(0, columns.shape[1], step):
        some = columns[:, start : start + step]
        r = np.abs(some.T @ y)
        for column, voxel in np.argwhere(r > limit)[:20]:
            ranks = np.corrcoef(rankdata(some[:, column]), rankdata(y[:, voxel]))[0, 1]
            if abs(ranks) > limit[voxel] - 0.03:  # not by one outlier in both
                best = max(best, float(r[column, voxel]))
    return best
