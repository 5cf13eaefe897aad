"""Warnings about data and scores for the reader of a result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import blocks, release, row_blocks
from brainenc.benchmarking.pairs import Pair
from brainenc.benchmarking.scoring import EncoderScores
from brainenc.data.ceiling import TAKEN_FOR_SINGLE_TRIALS
from brainenc.data.encoding_data import EncodingData
from brainenc.identity import unidentified
from brainenc.metrics import NoiseCeiling
from brainenc.model_selection import bootstrap_interval


def find_warnings(
    data: EncodingData,
    ceiling: NoiseCeiling,
    scores: Mapping[str, EncoderScores],
    pairs: Mapping[str, Sequence[Pair]],
    failed: Mapping[str, str],
) -> list[str]:
    """Sentences about failed encoders, gaps in the data, and implausibly high scores.

    Parameters
    ----------
    data : EncodingData
    ceiling : NoiseCeiling, in space "r"
    scores : dict of encoder name to EncoderScores
    pairs : dict of encoder name to its pairs
    failed : dict of encoder name to error
        Encoders that were not fitted.

    Returns
    -------
    list of str
    """
    found = [f"{name} failed: {error}" for name, error in failed.items()]
    for name, group in pairs.items():
        infos = [pair.info() for pair in group]
        found += [f"{name} failed: {info['error']}" for info in infos if info["error"]][:1]
        messages = {message for info in infos for message in info.get("warnings", [])}
        found += [f"{name}: {message}" for message in sorted(messages)]
    found += _gaps(data, ceiling)
    return found + _too_good(ceiling, scores) + _alike(scores)


def _gaps(data: EncodingData, ceiling: NoiseCeiling) -> list[str]:
    found = []
    without_data = data.n_voxels - int(_has_data(data).sum())
    if without_data:
        found.append(
            f"{without_data} of {data.n_voxels} voxels have no data; their scores are NaN."
        )
    without_ceiling = int((~np.isfinite(ceiling.values)).sum())
    if without_ceiling:
        reason = (
            ": there are no repeats, and the voxel table has no ncsnr"
            if ceiling.estimator.startswith("none")
            else ""
        )
        found.append(f"{without_ceiling} of {data.n_voxels} voxels have no noise ceiling{reason}.")
    if ceiling.estimator == "ncsnr" and data.n_averaged is None:
        found.append(f"{TAKEN_FOR_SINGLE_TRIALS[0].upper()}{TAKEN_FOR_SINGLE_TRIALS[1:]}.")
    without_trials = data.n_images - data.trials["image"].nunique()
    if without_trials:
        found.append(
            f"{without_trials} of {data.n_images} images have no trials; they are left out."
        )
    n = data.n_images * data.n_repeats
    n_missing = n - len(data.trials)
    if n_missing:
        found.append(f"{n_missing} of {n} repeats are missing ({100 * n_missing / n:.1f} %).")
    return found


def _has_data(data: EncodingData) -> np.ndarray:
    found = np.zeros(data.n_voxels, dtype=bool)
    for block in row_blocks(data.betas):  # they may be larger than memory
        found |= np.isfinite(block).any(axis=(0, 1))
    return found


def _too_good(ceiling: NoiseCeiling, scores: Mapping[str, EncoderScores]) -> list[str]:
    found = []
    highest = ceiling.values if ceiling.interval is None else ceiling.interval[1]
    for name, of_encoder in scores.items():
        low = _lower_limit(of_encoder.voxel_samples["r"])
        above = int((low > highest).sum())
        # A perfect encoder exceeds the ceiling in about 2.5 % of voxels by chance.
        if above > 0.05 * len(highest):
            found.append(
                f"{name}: r is credibly above the noise ceiling in {above} of {len(highest)} "
                "voxels; check that no test image, or near copy of one, was trained on."
            )
    return found


def _lower_limit(samples: np.ndarray) -> np.ndarray:
    """Lower limit of each voxel's interval, in blocks; samples (n_bootstraps, n_voxels)."""
    n_voxels = samples.shape[1]
    some = blocks(n_voxels, 2**22 // len(samples))
    low = [bootstrap_interval(samples[:, voxels])[0] for voxels in some]
    release(samples)
    return np.concatenate(low)


def _alike(scores: Mapping[str, EncoderScores]) -> list[str]:
    """Encoders whose r and squared error are bitwise equal in every voxel."""
    groups: dict[tuple[bytes, ...], list[str]] = {}
    for name, of_encoder in scores.items():
        key = tuple(of_encoder.voxels[metric].tobytes() for metric in ("r", "mse"))
        groups.setdefault(key, []).append(name)
    return [
        f"{', '.join(names[:-1])} and {names[-1]} made the same predictions: below their smallest "
        "number of images, encoders with networks are ridge alone (see their documentation); a "
        "calibrated encoder always predicts what the encoder does."
        for names in groups.values()
        if len(names) > 1
    ]


def not_identified(described: Mapping[str, Any]) -> list[str]:
    """Sentences about encoders that hold something whose content cannot be read.

    Parameters
    ----------
    described : dict of encoder name to its description
    """
    return [
        f"{name} holds a {', a '.join(dict.fromkeys(kinds))}, whose content cannot be read: its "
        "features are not shared with other encoders, and a run that is continued may fit it "
        "again."
        for name, kinds in ((name, unidentified(value)) for name, value in described.items())
        if kinds
    ]


def draw_warnings(draws: pd.DataFrame, errors: Mapping[str, str]) -> list[str]:
    """Sentences about encoders whose draws could not be scored, or are not calibrated.

    Parameters
    ----------
    draws : DataFrame
        As `BenchmarkResult.draws`.
    errors : dict of encoder name to error
    """
    found = [f"{name}: its draws are not scored: {error}" for name, error in errors.items()]
    if draws.empty:  # no encoder could draw
        return found
    whole = draws[(draws["atlas"] == "all") & ~draws["reference"].astype(bool)]
    for name, coverage in zip(whole["encoder"], whole["coverage_90"].astype(float), strict=True):
        # Within .85 – .95 the s.d. of Gaussian draws is wrong by at most a fifth.
        if not 0.85 <= coverage <= 0.95:
            how = "too little" if coverage < 0.9 else "too much"
            found.append(
                f"{name}: 90 % intervals of its draws hold {100 * coverage:.0f} % of held-out "
                f"trials: the draws vary {how}."
            )
    return found
