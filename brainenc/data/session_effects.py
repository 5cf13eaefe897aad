"""Differences between sessions that look like responses to images.

Betas of a session often have an offset. If the images of the sessions differ too, an encoder can
predict the offset from the images, and if the repeats of an image share a session, the noise
ceiling contains the offset.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainenc import metrics

#: Picture components that are compared between sessions, and permutations of the images.
N_COMPONENTS, N_PERMUTATIONS = 10, 999

#: Largest p of the differences between sessions in images and in betas.
MAX_P = 0.002

#: Smallest share of the variance of trials between sessions, and smallest excess of the ceiling.
MIN_SHARE, MIN_EXCESS = 0.01, 0.03

#: Smallest number of images with trials.
MIN_IMAGES = 20

#: Smallest number of trials of a session whose gain can be estimated.
MIN_FOR_GAIN = 10


@dataclass(frozen=True)
class SessionEffect:
    """How images and betas differ between sessions.

    Attributes
    ----------
    n_sessions : int
    betas : float
        Share of the variance of trials between sessions, mean over voxels, beyond what chance
        gives (ω²).
    betas_p : float
        Its p among permuted trials.
    images : float
        Share of the variance of a picture component between sessions; the largest of the first
        `N_COMPONENTS` components of pixels and contrast energy.
    images_p : float
        Its p among permuted images.
    r, r_within : float
        Mean held-out r of cheap features, of averages as they are and within sessions.
    ceiling, ceiling_within : float
        Mean noise ceiling of r of the same voxels, likewise; NaN without repeats.
    message : str
        Summary in a sentence.
    """

    n_sessions: int
    betas: float
    betas_p: float
    images: float
    images_p: float
    r: float
    r_within: float
    ceiling: float
    ceiling_within: float
    message: str = ""

    @property
    def offsets(self) -> bool:
        """Whether betas differ between sessions beyond chance."""
        return self.betas_p <= MAX_P and self.betas >= MIN_SHARE

    @property
    def confounded(self) -> bool:
        """Whether offsets may pass for responses: in scores, or in the noise ceiling."""
        inflated = self.ceiling - self.ceiling_within > MIN_EXCESS
        return self.offsets and (self.images_p <= MAX_P or inflated)


def session_effect(
    trials: np.ndarray,
    table: pd.DataFrame,
    features: np.ndarray,
    predictions: np.ndarray,
    *,
    name: str = "data",
    random_state: int | None = 0,
) -> SessionEffect | None:
    """Compare images and betas between sessions.

    Parameters
    ----------
    trials : array, shape (n_images, n_repeats, n_voxels)
    table : DataFrame
        Trial table of these images, with ``session``.
    features : array, shape (n_images, n_features)
        Centred features of the images.
    predictions : array, shape (n_images, n_voxels)
        Held-out predictions.
    name : str
    random_state : int

    Returns
    -------
    SessionEffect, or None with fewer than two sessions or `MIN_IMAGES` images.
    """
    if "session" not in table:
        return None
    codes = session_codes(table, trials.shape[:2])
    image, repeat = np.nonzero(codes >= 0)
    session = codes[image, repeat]
    n_sessions = len(np.unique(session))
    if n_sessions < 2 or len(np.unique(image)) < MIN_IMAGES:
        return None
    rng = np.random.default_rng(random_state)
    patterns = trials[image, repeat]
    mean = np.nanmean(patterns, axis=0, keepdims=True)
    patterns = np.nan_to_num(patterns - mean).astype(np.float64)
    betas, betas_p = _between(patterns, session, rng)
    images, images_p = _pictures(features, image, session, rng)
    averages, plain = without_session_means(trials, predictions, np.where(codes >= 0, 0, -1))
    within = without_session_means(trials, predictions, codes)
    effect = SessionEffect(
        n_sessions,
        betas,
        betas_p,
        images,
        images_p,
        float(np.nanmean(metrics.correlation(plain, averages))),
        float(np.nanmean(metrics.correlation(within[1], within[0]))),
        _ceiling(trials),
        _ceiling(centred_trials(trials, codes)),
    )
    return SessionEffect(**{**vars(effect), "message": _describe(effect, name)})


def session_codes(table: pd.DataFrame, shape: tuple[int, ...]) -> np.ndarray:
    """Number of the session of each image and repeat, −1 without trial or session.

    Parameters
    ----------
    table : DataFrame
        Trial table with ``session``.
    shape : (n_images, n_repeats)
    """
    codes = np.full(shape[:2], -1)
    codes[table["image"], table["repeat"]] = pd.factorize(table["session"])[0]
    return codes


def centred_trials(trials: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Trials minus the mean of their session; NaN where a session has one image or none.

    Parameters
    ----------
    trials : array, shape (n_images, n_repeats, n_voxels), NaN where a trial is missing
    codes : array of int, shape (n_images, n_repeats)
        Session, −1 for trials to leave out.
    """
    centred = np.full(trials.shape, np.nan, np.float64)
    for session in np.unique(codes[codes >= 0]):
        where = np.nonzero(codes == session)
        centred[where] = trials[where] - _mean_of_several(trials[where], where[0])
    return centred


def trials_of_equal_gain(trials: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Trials with mean 0 and s.d. 1 in every session; NaN where a session has few trials.

    Where the gain of a voxel differs between sessions, differences between trials of an image are
    not only noise: they contain its signal.

    Parameters
    ----------
    trials : array, shape (n_images, n_repeats, n_voxels), NaN where a trial is missing
    codes : array of int, shape (n_images, n_repeats)
        Session, −1 for trials to leave out.
    """
    equal = centred_trials(trials, codes)
    for session in np.unique(codes[codes >= 0]):
        where = np.nonzero(codes == session)
        values = equal[where]
        n = np.isfinite(values).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = np.sqrt(np.nansum(values**2, axis=0) / (n - 1))
            equal[where] = values / np.where((n >= MIN_FOR_GAIN) & (gain > 0), gain, np.nan)
    return equal


def without_session_means(
    trials: np.ndarray, predictions: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Averages and predictions without what differs between the means of sessions.

    From every trial the mean of its session is subtracted, and from its prediction the mean of the
    predictions of all trials of the session; both are then averaged over the trials of the image.

    Parameters
    ----------
    trials : array, shape (n_images, n_repeats, n_voxels), NaN where a trial is missing
    predictions : array, shape (n_images, n_voxels)
    codes : array of int, shape (n_images, n_repeats)
        Session of each trial, −1 for trials to leave out.

    Returns
    -------
    averages, predictions : array of float64, shape (n_images, n_voxels)
        NaN where no trial is left: a session with trials of one image has no means to compare.
    """
    sums = np.zeros((2, *predictions.shape))
    n = np.zeros(predictions.shape)
    for session in np.unique(codes[codes >= 0]):
        image, repeat = np.nonzero(codes == session)
        measured = trials[image, repeat].astype(np.float64)
        predicted = np.where(np.isnan(measured), np.nan, predictions[image])
        for total, values in zip(sums, (measured, predicted), strict=True):
            np.add.at(total, image, np.nan_to_num(values - _mean_of_several(values, image)))
        several = np.isfinite(_mean_of_several(measured, image))
        np.add.at(n, image, np.isfinite(measured) & several)
    with np.errstate(invalid="ignore"):
        averages, plain = np.where(n > 0, sums / n, np.nan)
    return averages, plain


def _mean_of_several(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mean over trials (n_voxels,); NaN where they are of fewer than two images."""
    present = np.isfinite(values)
    n = present.sum(axis=0)
    first = np.where(present, image[:, None], np.iinfo(np.int64).max).min(axis=0)
    last = np.where(present, image[:, None], -1).max(axis=0)
    total = np.where(present, values, 0).sum(axis=0, dtype=np.float64)
    return np.where(last > first, total / np.maximum(n, 1), np.nan)


def _between(
    values: np.ndarray, session: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of variance between sessions (ω², mean over columns), and p among permuted trials."""
    total = np.square(values).sum(axis=0)
    varying = total > 0
    if not varying.any():
        return 0.0, 1.0
    values, total = values[:, varying] / np.sqrt(total[varying]), 1.0
    n_sessions = session.max() + 1
    found = [_between_sum(values, order, n_sessions).mean() for order in _orders(session, rng, 499)]
    degrees = len(np.unique(session)) - 1
    within = (total - found[0]) / max(1, len(values) - degrees - 1)
    share = (found[0] - degrees * within) / (total + within)
    return float(share), float(np.mean(np.array(found) >= found[0]))


def _orders(session: np.ndarray, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [session, *(rng.permutation(session) for _ in range(n))]


def _between_sum(values: np.ndarray, session: np.ndarray, n_sessions: int) -> np.ndarray:
    """Sum of squares between sessions per column; values have mean 0."""
    indicator = (session == np.arange(n_sessions)[:, None]).astype(values.dtype)
    n = np.maximum(indicator.sum(axis=1, keepdims=True), 1)
    return (np.square(indicator @ values) / n).sum(axis=0)


def _pictures(
    features: np.ndarray, image: np.ndarray, session: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Largest share of a picture component's variance between sessions, and its p."""
    vectors, sizes, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    components = vectors[:, :N_COMPONENTS][:, sizes[:N_COMPONENTS] > 1e-6 * sizes[0]]
    # Trials of each session and image, so that a permutation moves an image with all its trials.
    counts = np.zeros((session.max() + 1, len(features)))
    np.add.at(counts, (session, image), 1)
    n = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weight = counts.sum(axis=0) / counts.sum()

    def share(order: np.ndarray) -> float:
        values = components[order]
        values = values - weight @ values
        between = (np.square(counts @ values) / n).sum(axis=0)
        total = len(image) * (weight @ np.square(values))
        return float((between / np.maximum(total, 1e-12)).max())

    found = share(np.arange(len(features)))
    null = np.array([share(rng.permutation(len(features))) for _ in range(N_PERMUTATIONS)])
    return found, float((1 + (null >= found).sum()) / (1 + len(null)))


def _ceiling(trials: np.ndarray) -> float:
    if (np.isfinite(trials).sum(axis=1).max(axis=1) > 1).sum() < MIN_IMAGES:
        return np.nan
    ceiling = metrics.noise_ceiling_from_repeats(trials).to("r").values
    return float(np.nanmean(ceiling)) if np.isfinite(ceiling).any() else np.nan


def _describe(effect: SessionEffect, name: str) -> str:
    found = (
        f"between the {effect.n_sessions} sessions of {name!r} lie {100 * effect.betas:.1f} % of "
        f"the variance of trials (p = {effect.betas_p:.2g}) and {100 * effect.images:.0f} % of "
        f"that of a property of the images (p = {effect.images_p:.2g})"
    )
    scores = (
        f"Ridge on pixels and contrast energy has r = {effect.r:.3f}, within sessions "
        f"{effect.r_within:.3f}"
    )
    if np.isfinite(effect.ceiling):
        scores += (
            f"; the noise ceiling of the same voxels is {effect.ceiling:.3f}, within sessions "
            f"{effect.ceiling_within:.3f}"
        )
    if not effect.confounded:
        return f"{found}. {scores}"
    way = "data.zscore_by_session() removes the offsets of sessions"
    return (
        f"responses to images cannot be distinguished from offsets of sessions: {found}. {scores}. "
        f"{way}"
    )
