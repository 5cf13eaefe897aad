"""The protocol of Brain-Score: random splits, medians over voxels, r² by split-half reliability."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit

from brainenc.benchmarking.fixed_test import DEFAULT_CV
from brainenc.benchmarking.result import BenchmarkResult
from brainenc.benchmarking.tables import ALL
from brainenc.data.encoding_data import EncodingData
from brainenc.metrics import noise_ceiling_split_half

#: Names that ``brainenc.benchmark(protocol=…)`` takes.
BRAIN_SCORE = "brain-score"

#: Number of random splits, and share of the images that each tests.
N_SPLITS, TEST_SHARE = 10, 0.1

#: Columns of the protocol. Those of the default scores have none of these names.
COLUMNS = ("brain_score", "brain_score_sd", "brain_score_median_r", "brain_score_reliability")


def check_protocol(protocol: str | None, cv: Any, test: Any) -> bool:
    """Whether the protocol of Brain-Score is asked for.

    Raises
    ------
    ValueError : an unknown name; or folds, or a test set, beside the protocol, which has its own.
    """
    if protocol is None:
        return False
    if protocol != BRAIN_SCORE:
        raise ValueError(f"protocol={protocol!r} is unknown: give {BRAIN_SCORE!r}, or None")
    if test is not None or not (isinstance(cv, int) and cv == DEFAULT_CV):
        given = "test" if test is not None else f"cv={cv!r}"
        raise ValueError(
            f"protocol={protocol!r} has {N_SPLITS} random splits of its own, each with "
            f"{TEST_SHARE:.0%} of the images for testing: leave out {given}; groups= keeps images "
            "on one side of each split"
        )
    return True


def random_splits(groups: Any, random_state: int) -> Any:
    """Splitter of the protocol; with groups, of whole groups."""
    kind = ShuffleSplit if groups is None else GroupShuffleSplit
    return kind(N_SPLITS, test_size=TEST_SHARE, random_state=random_state)


def with_brain_score(
    result: BenchmarkResult,
    data: EncodingData,
    groups: Mapping[tuple[str, str], np.ndarray],
    random_state: int,
) -> BenchmarkResult:
    """The result with `COLUMNS` in its tables of encoders and ROIs.

    Parameters
    ----------
    result : BenchmarkResult
        Of the splits of `random_splits`.
    data : EncodingData
    groups : dict of (atlas, roi) to positions of voxels
    random_state : int
        Seed of the split halves.
    """
    reliability = noise_ceiling_split_half(data.betas, random_state=random_state).values
    r_of = {
        str(name): table.pivot(index="fold", columns="voxel", values="r").to_numpy(float)
        for name, table in result.voxels.groupby("encoder", sort=False)
    }
    everything = {(ALL, ALL): np.arange(data.n_voxels), **groups}
    found = {
        (name, *place): median_scores(r[:, voxels], reliability[voxels])
        for name, r in r_of.items()
        for place, voxels in everything.items()
    }
    keys = [(name, ALL, ALL) for name in result.encoders["encoder"]]
    of_rois = list(result.rois[["encoder", "atlas", "roi"]].itertuples(index=False, name=None))
    warnings = list(result.warnings)
    if not np.isfinite(reliability).any():
        warnings.append(
            "brain_score is undefined: its ceiling is the reliability of split halves, and no "
            "voxel has two images with repeats."
        )
    return replace(
        result,
        encoders=result.encoders.assign(**_columns(found, keys, result.encoders)),
        rois=result.rois.assign(**_columns(found, of_rois, result.rois)),
        warnings=warnings,
    )


def median_scores(r: np.ndarray, reliability: np.ndarray) -> dict[str, float]:
    """Scores of some voxels.

    Parameters
    ----------
    r : array, shape (n_splits, n_voxels)
        Pearson's r across the test images of each split; NaN where it is undefined.
    reliability : array, shape (n_voxels,)
        Of averages over all trials, by split halves with the Spearman–Brown correction: the share
        of signal in their variance, and so the r² of a perfect model.

    Returns
    -------
    dict with `COLUMNS`
        ``brain_score``: the square of the median r divided by the median reliability, with the sign
        of the median r. ``brain_score_median_r``: median over voxels of the mean of r over splits.
        ``brain_score_sd``: s.d. of the scores of single splits. NaN if no voxel has a value, or
        the median reliability is 0.

    Examples
    --------
    >>> r = np.array([[0.5, 0.2, 0.3], [0.7, 0.4, 0.1]])  # means .6, .3, .2
    >>> found = median_scores(r, np.array([0.9, 0.3, 0.1]))
    >>> round(found["brain_score_median_r"], 3), round(found["brain_score"], 3)  # .3² / .3
    (0.3, 0.3)
    """
    ceiling = _median(reliability)
    ceiling = ceiling if ceiling > 0 else np.nan
    n_defined = np.isfinite(r).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean_r = np.nansum(r, axis=0) / n_defined
    median = _median(mean_r)
    of_splits = np.array([_median(of_split) for of_split in r])
    of_splits = (np.sign(of_splits) * np.square(of_splits) / ceiling)[np.isfinite(of_splits)]
    return {
        "brain_score": float(np.sign(median) * median**2 / ceiling),
        "brain_score_sd": float(of_splits.std(ddof=1)) if len(of_splits) > 1 else np.nan,
        "brain_score_median_r": median,
        "brain_score_reliability": float(ceiling),
    }


def _median(values: np.ndarray) -> float:
    """Median of what is finite; NaN if nothing is."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan


def _columns(
    found: Mapping[Any, dict[str, float]], keys: Any, table: pd.DataFrame
) -> dict[str, pd.Series]:
    undefined = dict.fromkeys(COLUMNS, np.nan)
    return {
        column: pd.Series([found.get(key, undefined)[column] for key in keys], table.index, float)
        for column in COLUMNS
    }
