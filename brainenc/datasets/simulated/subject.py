"""A simulated subject with known truth, similar to those of the Natural Scenes Dataset."""

from collections.abc import Sequence
from math import isqrt

import numpy as np
import pandas as pd
from scipy import sparse

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets.simulated import cortex
from brainenc.datasets.simulated.captions import COLOURS
from brainenc.datasets.simulated.energy import GRID, gabor_energy
from brainenc.datasets.simulated.noise import add_noise, draw_noise_covariance
from brainenc.datasets.simulated.scenes import make_scenes
from brainenc.datasets.simulated.tokens import add_token_noise, network_output
from brainenc.datasets.simulated.truth import SessionDrift, SimulatedTruth

#: Quantiles over the voxels of NSD subject 1 (nsdgeneral; betas / 2000): probability → value.
VOXEL_MEAN = {0.01: -0.29, 0.1: -0.04, 0.25: 0.04, 0.5: 0.14, 0.75: 0.28, 0.9: 0.49, 0.99: 1.21}
VOXEL_SD = {0.01: 0.095, 0.1: 0.12, 0.25: 0.15, 0.5: 0.18, 0.75: 0.25, 0.9: 0.38, 0.99: 0.91}
NCSNR_EARLY = {0.05: 0.15, 0.25: 0.31, 0.5: 0.48, 0.75: 0.63, 0.95: 0.85}
NCSNR_HIGH = {0.05: 0.22, 0.25: 0.30, 0.5: 0.40, 0.75: 0.53, 0.95: 0.78}

_RUNS_PER_SESSION = 12


def simulate_subject(
    n_images: int = 600,
    n_voxels: int = 800,
    n_repeats: int = 3,
    *,
    image_size: int = 64,
    n_sessions: int = 4,
    session_drift: float = 0.15,
    missing: float = 0.02,
    n_tokens: int = 16,
    token_width: int = 64,
    concepts: float = 0.0,
    noise_voxels: float = 0.0,
    random_state: int | None = 0,
    verbose: bool = False,
    name: str = "simulated",
) -> EncodingData:
    """Images, betas and truth of a simulated subject.

    Procedural colour scenes evoke responses in early areas (V1v … hV4: contrast-normalised Gabor
    energy under a pRF, compressed) and in high-level areas (FFA, PPA, EBA: object categories).
    Voxel means, s.d. and ncsnr follow the quantiles of NSD subject 1 (betas / 2000), trial noise is
    Gaussian and correlated between voxels, and repeats are spread over sessions at random.

    Parameters
    ----------
    n_images, n_voxels, n_repeats : int
        At least 2 images, 10 voxels (one per ROI) and 1 repeat.
    image_size : int
        Height and width in pixels, a multiple of 16, at least 48.
    n_sessions : int
        Scanning sessions that the trials are divided into equally, each of 12 runs.
    session_drift : float, >= 0
        In each session every voxel's response around its mean is multiplied by a log-normal
        gain of s.d. `session_drift` (of the logarithm), and shifted by a normal offset of
        s.d. `session_drift` × the voxel's noise s.d., correlated between voxels as the noise is.
    missing : float in [0, 1]
        Share of the second and later repeats that are missing (NaN in all voxels). The first
        presentation of an image is always there.
    n_tokens, token_width : int
        Shape of ``truth.tokens``; n_tokens is one of 1, 4, 16, 64, 256.
    concepts : float in [0, 1]
        Share of the high-level voxels that respond to one of 20 concepts, a category in a colour
        ("red vehicle"), in place of what their area prefers: no ROI label gives them away.
    noise_voxels : float in [0, 1]
        Share of all voxels, anywhere, that respond to nothing: their ncsnr is 0.
    random_state : int, optional
        Seed. Images and tokens do not depend on the numbers of voxels and repeats, and with
        more images the first ones stay the same. None: different every time.
    verbose : bool
        Show progress bars.
    name : str
        Name of the data.

    Returns
    -------
    EncodingData
        Betas (n_images, n_repeats, n_voxels) float32. Voxel table: ``roi``, ``hemisphere``, and
        ``i``, ``j``, ``k`` on a folded sheet. Trial table: ``image``, ``repeat``, ``session``,
        ``run``, counted from 0 but for session and run, which count from 1. ``.truth`` is a
        `SimulatedTruth`.

    Raises
    ------
    ValueError : a number is out of the ranges above, or there are more sessions than trials.

    References
    ----------
    Allen et al. (2022), Nature Neuroscience 25 (the data set imitated); Kay et al. (2013),
    Journal of Neurophysiology 110 (compressive spatial summation).

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(40, 20, random_state=0, verbose=False)
    >>> data.images.shape, data.betas.shape, data.truth.tokens.shape
    ((40, 64, 64, 3), (40, 3, 20), (40, 16, 64))
    >>> sorted(data.rois())[:3]
    ['EBA', 'FFA', 'PPA']
    """
    check_arguments(
        n_images, n_voxels, n_repeats, image_size, n_sessions, session_drift, missing, token_width
    )
    check_shares(concepts=concepts, noise_voxels=noise_voxels)
    n_side = token_side(n_tokens)
    scene_seed, token_seed, *seeds, kind_seed = np.random.SeedSequence(random_state).spawn(7)
    return make_subject(
        scene_seed.spawn(n_images),
        token_seed.spawn(n_images),
        seeds,
        n_voxels=n_voxels,
        n_repeats=n_repeats,
        image_size=image_size,
        n_sessions=n_sessions,
        session_drift=session_drift,
        missing=missing,
        n_side=n_side,
        token_width=token_width,
        verbose=verbose,
        name=name,
        concepts=concepts,
        noise_voxels=noise_voxels,
        kind_seed=kind_seed,
    )


def make_subject(
    scene_seeds: Sequence[np.random.SeedSequence],
    token_seeds: Sequence[np.random.SeedSequence],
    seeds: Sequence[np.random.SeedSequence],
    *,
    n_voxels: int,
    n_repeats: int,
    image_size: int,
    n_sessions: int,
    session_drift: float,
    missing: float,
    n_side: int,
    token_width: int,
    verbose: bool,
    name: str,
    alikeness: float = 1.0,
    law_seed: np.random.SeedSequence | None = None,
    concepts: float = 0.0,
    noise_voxels: float = 0.0,
    kind_seed: np.random.SeedSequence | None = None,
) -> EncodingData:
    """A subject who sees the scenes of given seeds; the other arguments as `simulate_subject` has.

    Parameters
    ----------
    scene_seeds, token_seeds : sequences of numpy.random.SeedSequence, length n_images
        Of the scenes and of the noise of their tokens.
    seeds : 4 of numpy.random.SeedSequence
        Of the voxels, noise, trials and drift.
    alikeness, law_seed
        Share of the signal variance by the law of all subjects, and the seed of the subject's own
        law, which makes the rest.
    concepts, noise_voxels, kind_seed
        Shares of voxels of these kinds, and the seed of the choice.
    """
    cortex_rng, noise_rng, trial_rng, drift_rng = map(np.random.default_rng, seeds)
    n_images = len(scene_seeds)

    images, objects = make_scenes(scene_seeds, image_size, verbose=verbose)
    energy = gabor_energy(images, verbose=verbose)
    tokens = network_output(energy, objects, n_side, token_width)

    voxels = cortex.place_voxels(n_voxels)
    prfs = cortex.place_prfs(voxels, cortex_rng)
    mean, signal_sd, noise_sd = _draw_magnitudes(voxels["roi"], cortex_rng)
    kind_rng = np.random.default_rng(kind_seed)
    silent = kind_rng.permutation(n_voxels)[: round(noise_voxels * n_voxels)]
    noise_sd[silent] = np.hypot(signal_sd[silent], noise_sd[silent])
    signal_sd[silent] = 0
    law = cortex.Law.draw(voxels["roi"], prfs, mean, signal_sd, cortex_rng)
    law.give_concepts(concepts, len(COLOURS), kind_rng)
    signal = cortex.expected_responses(energy, objects, law, prfs, verbose=verbose)
    if alikeness < 1:
        law_rng = np.random.default_rng(law_seed)
        own = cortex.responses_by_own_law(tokens, voxels["roi"], law_rng)
        signal = cortex.mix_laws(signal, own, alikeness)
    add_token_noise(tokens, token_seeds)
    signal *= signal_sd.astype(np.float32)
    signal += mean.astype(np.float32)
    factors, private_variance = draw_noise_covariance(voxels, noise_sd, noise_rng)

    trials = _draw_trials(n_images, n_repeats, n_sessions, missing, trial_rng)
    betas = np.repeat(signal[:, None], n_repeats, axis=1)
    flat = betas.reshape(-1, n_voxels)
    add_noise(flat, factors, private_variance, noise_rng, verbose=verbose)
    drift = _draw_drift(trials, mean, session_drift, factors, private_variance, drift_rng)
    _add_drift(betas, trials, drift)
    betas[trials.loc[~trials["present"], "image"], trials.loc[~trials["present"], "repeat"]] = (
        np.nan
    )
    trials = trials[trials["present"]].drop(columns="present")

    truth = SimulatedTruth(
        signal=signal,
        ncsnr=signal_sd / noise_sd,
        noise_factors=factors,
        noise_private_variance=private_variance,
        drift=drift,
        tokens=tokens,
        category=objects.groupby("image")["category"].first().to_numpy(dtype=str),
        objects=objects,
        prfs=prfs,
        alikeness=alikeness,
        law=law,
    )
    table = voxels[["roi", "hemisphere", "i", "j", "k"]]
    return EncodingData(images, betas, table, trials, name, truth)


def check_shares(**shares: float) -> None:
    """Raise ValueError unless arguments are between 0 and 1."""
    for argument, share in shares.items():
        if not 0 <= share <= 1:  # NaN too
            raise ValueError(f"{argument}={share} must be a share between 0 and 1")


def check_arguments(
    n_images: int,
    n_voxels: int,
    n_repeats: int,
    image_size: int,
    n_sessions: int,
    session_drift: float,
    missing: float,
    token_width: int,
) -> None:
    """Raise ValueError for numbers out of the ranges of `simulate_subject`."""
    for argument, value, least in [
        ("n_images", n_images, 2),
        ("n_voxels", n_voxels, len(cortex.AREAS)),
        ("n_repeats", n_repeats, 1),
        ("image_size", image_size, 3 * GRID),
        ("n_sessions", n_sessions, 1),
        ("session_drift", session_drift, 0),
        ("token_width", token_width, 1),
    ]:
        if not value >= least:  # NaN too
            raise ValueError(f"{argument}={value} is too small; give at least {least}")
    if image_size % GRID:
        raise ValueError(f"image_size={image_size} must be a multiple of {GRID}")
    if n_sessions > n_images * n_repeats:
        raise ValueError(
            f"n_sessions={n_sessions} is more than the {n_images} × {n_repeats} trials there are"
        )
    if not 0 <= missing <= 1:
        raise ValueError(f"missing={missing} must be a share between 0 and 1")


def token_side(n_tokens: int) -> int:
    """Tokens per side of the square grid; ValueError if there is none."""
    n_side = isqrt(max(n_tokens, 0))
    if n_side == 0 or n_side**2 != n_tokens or GRID % n_side:
        raise ValueError(f"n_tokens={n_tokens} must be one of 1, 4, 16, 64, 256: a square grid")
    return n_side


# ------------------------------------------------------------------ magnitudes


def _draw_magnitudes(
    roi: pd.Series, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxel means, signal s.d. and noise s.d.; the s.d. of a trial is √(signal² + noise²)."""
    mean = _draw_from_quantiles(VOXEL_MEAN, len(roi), rng)
    sd = _draw_from_quantiles(VOXEL_SD, len(roi), rng)
    ncsnr = np.empty(len(roi))
    early = cortex.early(roi)
    for where, quantiles in [(early, NCSNR_EARLY), (~early, NCSNR_HIGH)]:
        ncsnr[where] = _draw_from_quantiles(quantiles, int(where.sum()), rng)
    noise_sd = sd / np.sqrt(1 + ncsnr**2)
    return mean, ncsnr * noise_sd, noise_sd


def _draw_from_quantiles(
    quantiles: dict[float, float], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Stratified draws from a distribution with these quantiles, in random order.

    One value comes from each n-th of the distribution, so that the quantiles are right for few
    voxels too. The inverse distribution function is linear between the quantiles and extrapolated
    to probabilities 0 and 1.
    """
    p, value = np.array(list(quantiles.items())).T
    slope = np.diff(value) / np.diff(p)
    ends = value[0] - slope[0] * p[0], value[-1] + slope[-1] * (1 - p[-1])
    probability = (rng.permutation(n) + rng.random(n)) / n
    return np.interp(probability, [0, *p, 1], [ends[0], *value, ends[1]])


# ------------------------------------------------------------------ trials and sessions


def _draw_trials(
    n_images: int, n_repeats: int, n_sessions: int, missing: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Random order of presentation, cut into equal sessions; repeats counted in that order."""
    n_trials = n_images * n_repeats
    trials = pd.DataFrame({"image": rng.permutation(np.repeat(np.arange(n_images), n_repeats))})
    trials["repeat"] = trials.groupby("image").cumcount()
    position = np.arange(n_trials) * n_sessions * _RUNS_PER_SESSION // n_trials
    trials["session"] = 1 + position // _RUNS_PER_SESSION
    trials["run"] = 1 + position % _RUNS_PER_SESSION
    later = np.flatnonzero(trials["repeat"])
    trials["present"] = True
    lost = rng.choice(later, size=round(missing * len(later)), replace=False)
    trials.loc[lost, "present"] = False
    return trials.sort_values(["image", "repeat"], ignore_index=True)


def _draw_drift(
    trials: pd.DataFrame,
    mean: np.ndarray,
    size: float,
    factors: sparse.csr_array,
    private_variance: np.ndarray,
    rng: np.random.Generator,
) -> SessionDrift:
    """A gain around the voxel's mean and an offset for each session."""
    mean = mean.astype(np.float32)
    share = trials.loc[trials["present"], "session"].value_counts(normalize=True).sort_index()
    n_sessions = int(trials["session"].max())
    offset = np.zeros((n_sessions, len(mean)), np.float32)
    add_noise(offset, factors, private_variance, rng)
    gain = np.exp(size * rng.standard_normal(offset.shape, dtype=np.float32))
    offset = mean - gain * mean + size * offset
    there = share.index.to_numpy() - 1
    return SessionDrift(gain[there], offset[there], share.to_numpy(), share.index.to_numpy())


def _add_drift(betas: np.ndarray, trials: pd.DataFrame, drift: SessionDrift) -> None:
    """In place."""
    for number, gain, offset in zip(drift.session, drift.gain, drift.offset, strict=True):
        rows = trials[trials["session"] == number]
        where = rows["image"].to_numpy(), rows["repeat"].to_numpy()
        betas[where] = gain * betas[where] + offset
