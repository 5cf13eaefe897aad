"""Scores and tables of a run, encoder by encoder as their fits end."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.benchmarking import scoring, tables
from brainenc.benchmarking.cautions import find_warnings
from brainenc.benchmarking.draw_plan import DrawPlan
from brainenc.benchmarking.draw_run import Drawn, score_all_draws
from brainenc.benchmarking.held_out import fold_table
from brainenc.benchmarking.leaks import WithinSession, within_session
from brainenc.benchmarking.pairs import Pair
from brainenc.benchmarking.result import BenchmarkResult
from brainenc.benchmarking.split import Split
from brainenc.benchmarking.steps import Steps
from brainenc.benchmarking.targets import Targets
from brainenc.data.encoding_data import EncodingData


class RunScores:
    """Scores and tables of a run, encoder by encoder; an error affects its own part alone.

    Parameters
    ----------
    data, pairs, failed, split, plan, manifest
        Of the run; `pairs` changes as it goes on.
    make_targets : callable () -> Targets
    folder : path
        Folder for samples of voxels.
    """

    def __init__(
        self,
        data: EncodingData,
        pairs: Mapping[str, list[Pair]],
        failed: Mapping[str, str],
        split: Split,
        plan: DrawPlan | None,
        make_targets: Callable[[], Targets],
        manifest: dict[str, Any],
        folder: Path,
    ):
        self.data, self.pairs, self.failed = data, pairs, failed
        self.split, self.plan, self.manifest, self.folder = split, plan, manifest, folder
        self._make_targets = make_targets
        self.groups = tables.voxel_groups(data)
        self.steps = Steps()
        self.scores: dict[str, scoring.EncoderScores] = {}
        self._sampled: dict[tuple[str, ...], np.ndarray] = {}

    @cached_property
    def targets(self) -> Targets:
        """Targets of the scores, made when they are first needed."""
        return self._make_targets()

    def score(self, name: str) -> None:
        """Score the predictions of an encoder, if all of its folds have them."""
        if all(pair.finished() for pair in self.pairs[name]):
            found = self.steps.score(name, partial(self._score, name))
            if found is not None:
                self.scores[name] = found

    def _score(self, name: str) -> scoring.EncoderScores:
        settings = self.manifest["settings"]
        return scoring.score_encoder(
            [pair.predictions() for pair in self.pairs[name]],
            self.targets,
            n_permutations=settings["n_permutations"],
            random_state=settings["random_state"],
            folder=self.folder,
        )

    def unfinished(self) -> BenchmarkResult:
        """Tables of the encoders scored so far, without draws."""
        todo = [name for name in self.pairs if name not in self.scores]
        result = self._tables(self.scores, [name for name in self.pairs if name in self.scores])
        result.manifest["unfinished"] = todo
        result.warnings.append(
            f"The run is not finished: there are no draws, and {', '.join(todo) or 'no encoder'} "
            "is still to be fitted or scored. The same call goes on."
        )
        return result

    def result(self) -> BenchmarkResult:
        """All tables."""
        scores = {name: self.scores[name] for name in self.pairs if name in self.scores}
        drawn = None
        if self.plan is not None:
            drawn = self.steps.attempt("scores of draws", partial(self._drawn, self.plan), None)
        result = self._tables(scores, self.pairs, None if drawn is None else drawn.scores)
        result = replace(result, pair_samples=self._samples_of(result.pairs))
        result.warnings.extend(self.steps.attempt("warnings", partial(self._warnings, scores), []))
        within = self.steps.attempt("scores within sessions", partial(self._within, scores), None)
        if within is not None:
            beside = partial(within.beside, result, scores, self.groups)
            result = self.steps.attempt("columns of scores within sessions", beside, result)
        if drawn is not None:
            result = drawn.beside(result, self.groups, scores, self.steps)
        if self.steps.tracebacks:
            result.manifest["tracebacks"] = self.steps.tracebacks
        return replace(result, warnings=self.steps.warnings() + result.warnings)

    def _drawn(self, plan: DrawPlan) -> Drawn | None:
        finished = {
            name: group
            for name, group in self.pairs.items()
            if group[0].plan is not None and all(pair.finished() for pair in group)
        }
        return score_all_draws(self.data, finished, self.split, self.targets, plan, self.folder)

    def _within(self, scores: Mapping[str, scoring.EncoderScores]) -> WithinSession | None:
        predictions = {name: [pair.predictions() for pair in self.pairs[name]] for name in scores}
        return within_session(self.data, predictions, self.targets, self.folder)

    def _warnings(self, scores: Mapping[str, scoring.EncoderScores]) -> list[str]:
        return find_warnings(self.data, self.targets.ceiling, scores, self.pairs, self.failed)

    def _tables(
        self,
        scores: Mapping[str, scoring.EncoderScores],
        names: Iterable[str],
        of_draws: Any = None,
    ) -> BenchmarkResult:
        """Tables of predictions; the encoder table has all `names`."""
        found = self.steps.attempt("noise ceiling", lambda: self.targets.ceiling, None)
        ceiling = np.full(self.data.n_voxels, np.nan) if found is None else found.values
        if found is not None:
            n_trials = np.atleast_1d(found.n_trials)
            extremes = [float(f(n_trials)) for f in (np.nanmin, np.nanmedian, np.nanmax)]
            self.manifest["noise_ceiling"] = {
                "estimator": found.estimator,
                "n_trials": float(np.nanmean(n_trials)),
                "n_trials_min_median_max": extremes,  # voxels may lack different trials
            }
        pairs = {name: self.pairs[name] for name in names}
        table, groups, errors = self.steps.table, self.groups, self.steps.encoders
        empty = pd.DataFrame(columns=["encoder"])
        return BenchmarkResult(
            encoders=table(
                "encoders.csv",
                lambda some: tables.encoder_table(some, ceiling, pairs, self.failed, errors),
                scores,
                empty,
            ),
            rois=table(
                "rois.csv", lambda some: tables.roi_table(some, ceiling, groups), scores, empty
            ),
            pairs=table(
                "pairs.csv",
                lambda some: tables.pair_table(some, groups, self._sampled),
                scores,
                pd.DataFrame(columns=tables.PAIR_COLUMNS),
            ),
            maps=table(
                "maps.csv",
                lambda some: tables.map_table(some, ceiling, self.data.voxels, of_draws),
                scores,
                empty,
            ),
            voxels=table("voxels.csv", tables.voxel_table, scores, empty),
            stimuli=self.data.stimuli,
            folds=fold_table(self.data, self.split.folds),
            manifest=dict(self.manifest),
        )

    def _samples_of(self, pairs: pd.DataFrame) -> np.ndarray | None:
        """Bootstrap samples of the differences, one row per row of the table."""
        keys = pairs[tables.PAIR_COLUMNS[:5]].itertuples(index=False, name=None)
        found = [self._sampled.get(key) for key in keys]
        if any(samples is None for samples in found) or not found:
            return None
        return np.stack([np.asarray(samples, np.float32) for samples in found])
