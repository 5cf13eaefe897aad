"""Warnings about leaks: features that contain betas, and scores that sessions explain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc import metrics
from brainenc.benchmarking.by_voxel import ByVoxel, of_voxels
from brainenc.benchmarking.inputs import Entry
from brainenc.benchmarking.intervals import mean_of_samples, mean_over_voxels
from brainenc.benchmarking.result import BenchmarkResult
from brainenc.benchmarking.scoring import EncoderScores
from brainenc.benchmarking.targets import Targets, centre_within_folds
from brainenc.data.encoding_data import EncodingData
from brainenc.data.feature_noise import check_features
from brainenc.data.session_effects import centred_trials, session_codes, without_session_means
from brainenc.model_selection import bootstrap_interval

#: Name of the column, in the tables of encoders, ROIs and voxels.
WITHIN = "r_within_session"

#: Smallest difference of r, and of the noise ceiling, that is worth a warning.
MIN_DIFFERENCE = 0.01

#: Voxels whose ceiling within sessions is estimated.
CEILING_VOXELS = 500


def feature_warnings(
    data: EncodingData, entries: Mapping[str, Entry], random_state: int
) -> list[str]:
    """Sentences about features that contain betas; every set of features is checked once.

    Parameters
    ----------
    data : EncodingData
    entries : dict of encoder name to its input
    random_state : int
    """
    names: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if entry.X is not data.images:
            names.setdefault(entry.key, []).append(name)
    found = []
    for of_key in names.values():
        X = entries[of_key[0]].X
        if not _is_numeric(X):
            continue
        checked = check_features(
            X,
            data.betas,
            trials=data.trials,
            ncsnr=data.voxels.get("ncsnr"),
            n_averaged=1 if data.n_averaged is None else data.n_averaged,
            name=f"the features of {', '.join(of_key)}",
            random_state=random_state,
        )
        if checked.suspicious:
            found.append(checked.message)
    return found


def _is_numeric(X: Any) -> bool:
    dtype = getattr(X, "dtype", None)
    return isinstance(dtype, np.dtype) and dtype.kind in "fiu" and np.ndim(X) > 1


@dataclass(frozen=True)
class WithinSession:
    """Scores within sessions.

    Attributes
    ----------
    r : dict of encoder name to array, shape (n_voxels,)
    samples : dict of encoder name to array, shape (n_bootstraps, n_voxels)
        For the bootstrap samples of `Targets`; may be memory-mapped.
    ceiling, ceiling_within : float
        Noise ceiling of r of the averages and within sessions, mean over `CEILING_VOXELS` voxels.
    """

    r: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    ceiling: float
    ceiling_within: float

    def beside(
        self,
        result: BenchmarkResult,
        scores: Mapping[str, EncoderScores],
        groups: Mapping[tuple[str, str], np.ndarray],
    ) -> BenchmarkResult:
        """The result with a column `WITHIN` in its tables, and warnings."""
        everything = {("all", "all"): np.arange(_n_voxels(self.r)), **groups}
        means = {
            (name, *place): mean_over_voxels(r[voxels])
            for name, r in self.r.items()
            for place, voxels in everything.items()
        }
        of_encoder = [
            means.get((name, "all", "all"), np.nan) for name in result.encoders["encoder"]
        ]
        keys = result.rois[["encoder", "atlas", "roi"]].itertuples(index=False, name=None)
        of_roi = [means.get(key, np.nan) for key in keys]
        # In the order of the table, which lacks encoders whose maps could not be made.
        of_voxel = [self.r[name] for name in result.maps["encoder"].unique()]
        return replace(
            result,
            encoders=result.encoders.assign(**{WITHIN: of_encoder}),
            rois=result.rois.assign(**{WITHIN: pd.Series(of_roi, result.rois.index, float)}),
            maps=result.maps.assign(
                **{WITHIN: np.concatenate(of_voxel) if of_voxel else np.empty(0)}
            ),
            warnings=[*result.warnings, *self._warnings(scores)],
        )

    def _warnings(self, scores: Mapping[str, EncoderScores]) -> list[str]:
        found = []
        cure = "data.zscore_by_session() removes the offsets of sessions"
        for name, within in self.r.items():
            difference = mean_of_samples(scores[name].voxel_samples["r"]) - mean_of_samples(
                self.samples[name]
            )
            low = float(bootstrap_interval(difference)[0])
            r, r_within = (mean_over_voxels(x) for x in (scores[name].voxels["r"], within))
            if low > MIN_DIFFERENCE:
                found.append(
                    f"{name}: r is {r:.3f}, but {r_within:.3f} within sessions: part of it is "
                    f"differences between sessions, not between images; {cure}."
                )
        if self.ceiling - self.ceiling_within > max(MIN_DIFFERENCE, 0.03):
            found.append(
                f"The noise ceiling is {self.ceiling:.3f}, but {self.ceiling_within:.3f} within "
                f"sessions: repeats of an image share the offset of their session; {cure}."
            )
        return found


def _n_voxels(r: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(r.values()), ()))


def within_session(
    data: EncodingData,
    predictions: Mapping[str, Sequence[np.ndarray]],
    targets: Targets,
    folder: Path | None = None,
) -> WithinSession | None:
    """Score r within sessions, if the trial table has two of them.

    Trials and predictions are centred within their fold, as for r, and then within sessions over
    all folds (`brainenc.data.session_effects.without_session_means`).

    Parameters
    ----------
    data : EncodingData
    predictions : dict of encoder name to list of arrays, shape (n_test, n_voxels)
    targets : Targets
    folder : path, optional
        Folder for samples, which are then memory-mapped.
    """
    if "session" not in data.trials or data.trials["session"].nunique() < 2:
        return None
    codes = session_codes(data.trials, data.betas.shape[:2])[targets.rows]
    r, samples = {}, {}
    for name, of_folds in predictions.items():
        plain = ByVoxel(targets.n_voxels)
        with ByVoxel(targets.n_voxels, folder) as sampled:
            for voxels in targets.blocks():
                some, predicted = targets.of_voxels(voxels), of_voxels(of_folds, voxels)
                averages = some.averages
                paired = np.where(np.isnan(averages), np.nan, predicted)
                shift = averages - centre_within_folds(averages, some.folds)
                x, y = centre_within_folds(paired, some.folds), some.betas - shift[:, None]
                measured, centred = without_session_means(y, x, codes)
                plain.add({WITHIN: metrics.correlation(centred, measured)})
                of_samples = metrics.correlation(centred, measured, weights=some.weights)
                sampled.add({WITHIN: of_samples.astype(np.float32)})
            samples[name] = sampled.joined()[WITHIN]
        r[name] = plain.joined()[WITHIN]
    return WithinSession(r, samples, *_ceilings(targets, codes))


def _ceilings(targets: Targets, codes: np.ndarray) -> tuple[float, float]:
    """Ceilings of r of some voxels, of trials as they are and within sessions."""
    step = max(1, targets.n_voxels // CEILING_VOXELS)
    trials = targets.trials(np.arange(0, targets.n_voxels, step))
    if (np.isfinite(trials).sum(axis=1).max(axis=1) < 2).all():
        return np.nan, np.nan
    pair = [
        metrics.noise_ceiling_from_repeats(some).to("r").values
        for some in (trials, centred_trials(trials, codes))
    ]
    return mean_over_voxels(pair[0]), mean_over_voxels(pair[1])
