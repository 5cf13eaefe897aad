"""Draws of a run: of every encoder, of the reference rows of ridge, and of the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from brainenc.benchmarking import draw_tables
from brainenc.benchmarking.cautions import draw_warnings
from brainenc.benchmarking.draw_blocks import score_draws
from brainenc.benchmarking.draw_plan import DrawPlan
from brainenc.benchmarking.draw_scores import (
    DrawScores,
    Measured,
    measured_correlations,
    score_encoder_draws,
)
from brainenc.benchmarking.draw_sources import (
    LABELS,
    TRUTH_NAME,
    TrueDistribution,
    truth_source,
)
from brainenc.benchmarking.draw_tables import Reference
from brainenc.benchmarking.pairs import Pair
from brainenc.benchmarking.result import BenchmarkResult
from brainenc.benchmarking.scoring import EncoderScores
from brainenc.benchmarking.split import Split
from brainenc.benchmarking.targets import Targets
from brainenc.data.encoding_data import EncodingData
from brainenc.result_tables import TRUTH


@dataclass(frozen=True)
class Drawn:
    """Scores of all draws of a run.

    Attributes
    ----------
    scores : dict of name to DrawScores
        Encoders in order, each followed by its reference rows; the truth last.
    references : dict of name to Reference
        Of the reference rows.
    errors : dict of name to error
        Of those whose draws could not be scored.
    measured : Measured
    targets : Targets
    plan : DrawPlan
    """

    scores: dict[str, DrawScores]
    references: dict[str, Reference]
    errors: dict[str, str]
    measured: Measured
    targets: Targets
    plan: DrawPlan

    def beside(
        self,
        result: BenchmarkResult,
        groups: Mapping[tuple[str, str], np.ndarray],
        scores: Mapping[str, EncoderScores],
    ) -> BenchmarkResult:
        """Copy of the result with tables of draws, and their columns in encoder and ROI tables."""
        draws = draw_tables.draw_table(self.scores, groups, self.references)
        n_complete = len(self.plan.complete)
        return replace(
            result,
            encoders=draw_tables.beside(result.encoders, draws, by_roi=False),
            rois=draw_tables.beside(result.rois, draws, by_roi=True),
            draws=draws,
            draw_pairs=draw_tables.draw_pair_table(self.scores, groups, n_complete),
            calibration=draw_tables.calibration_table(self.scores, groups),
            k_fairness=draw_tables.k_fairness_table(self.scores, scores, self.targets),
            noise_correlations=draw_tables.noise_correlation_table(
                self.scores, self.measured, self.plan
            ),
            shown_draws=draw_tables.shown_draw_table(self.scores, self.targets, self.plan),
            warnings=result.warnings + draw_warnings(draws, self.errors),
        )


def score_all_draws(
    data: EncodingData,
    pairs: Mapping[str, Sequence[Pair]],
    split: Split,
    targets: Targets,
    plan: DrawPlan,
    folder: Path,
) -> Drawn:
    """Scores of the kept draws of all pairs, and of draws of the true distribution.

    Parameters
    ----------
    data : EncodingData
    pairs : dict of encoder name to its pairs, all finished
    split : Split
    targets : Targets
    plan : DrawPlan
    folder : path
        Folder for samples of voxels, from which the tables are made.

    Returns
    -------
    Drawn
    """
    measured = measured_correlations(targets, plan, data.truth)
    scores: dict[str, DrawScores] = {}
    references: dict[str, Reference] = {}
    errors: dict[str, str] = {}
    for encoder, group in pairs.items():
        for kind, label in {"": "", **(LABELS if group[0].references else {})}.items():
            name = encoder
            if kind:
                name = f"{encoder} + {label}"
                references[name] = Reference(kind, encoder)
            infos = [pair.info() for pair in group]
            failed = [info["draw_errors"][label] for info in infos if label in info["draw_errors"]]
            if failed:
                errors[name] = failed[0]
                continue
            kept = [pair.draws(label) for pair in group]
            draws_from = infos[0]["draws"][label]["kind"]
            scores[name] = score_encoder_draws(draws_from, kept, targets, plan, measured, folder)
    # The truth is of single trials: beside averages its draws would vary too much.
    if isinstance(data.truth, TrueDistribution) and data.n_averaged is None:
        kept = [
            score_draws(
                truth_source(data.truth, test),
                data.betas[test],
                split.scale[k],
                plan,
                k,
                folder / f"truth{k}",
            )
            for k, (_, test) in enumerate(split.folds)
        ]
        references[TRUTH_NAME] = Reference(TRUTH, "")
        scores[TRUTH_NAME] = score_encoder_draws(TRUTH_NAME, kept, targets, plan, measured, folder)
    return Drawn(scores, references, errors, measured, targets, plan)
