"""Draws of a run: of every encoder, of the reference rows of ridge, and of the truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.benchmarking import draw_tables
from brainenc.benchmarking.cautions import draw_warnings
from brainenc.benchmarking.draw_blocks import score_draws
from brainenc.benchmarking.draw_kept import Arrays
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
from brainenc.benchmarking.steps import Steps
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
        steps: Steps,
    ) -> BenchmarkResult:
        """Copy of the result with tables of draws, and their columns in encoder and ROI tables.

        A table that cannot be made is empty.
        """
        found, n_complete = self.scores, len(self.plan.complete)

        def table(name: str, make: Callable[[Mapping[str, DrawScores]], pd.DataFrame]) -> Any:
            return steps.table(f"{name}.csv", make, found, pd.DataFrame(columns=["encoder"]))

        def beside(of_predictions: pd.DataFrame, by_roi: bool) -> pd.DataFrame:
            return steps.attempt(
                "draws beside predictions",
                lambda: draw_tables.beside(of_predictions, draws, by_roi=by_roi),
                of_predictions,
            )

        draws = table("draws", lambda some: draw_tables.draw_table(some, groups, self.references))
        return replace(
            result,
            encoders=beside(result.encoders, by_roi=False),
            rois=beside(result.rois, by_roi=True),
            draws=draws,
            draw_pairs=table(
                "draw_pairs", lambda some: draw_tables.draw_pair_table(some, groups, n_complete)
            ),
            calibration=table(
                "calibration", lambda some: draw_tables.calibration_table(some, groups)
            ),
            k_fairness=table(
                "k_fairness", lambda some: draw_tables.k_fairness_table(some, scores, self.targets)
            ),
            noise_correlations=table(
                "noise_correlations",
                lambda some: draw_tables.noise_correlation_table(some, self.measured, self.plan),
            ),
            shown_draws=table(
                "shown_draws",
                lambda some: draw_tables.shown_draw_table(some, self.targets, self.plan),
            ),
            warnings=result.warnings
            + steps.attempt("warnings of draws", lambda: draw_warnings(draws, self.errors), []),
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
            try:
                kept = [pair.draws(label) for pair in group]
                kind_of_draws = infos[0]["draws"][label]["kind"]
                scores[name] = score_encoder_draws(
                    kind_of_draws, kept, targets, plan, measured, folder
                )
            except Exception as error:
                errors[name] = f"{type(error).__name__}: {error}"
    # The truth is of single trials: beside averages its draws would vary too much.
    if isinstance(data.truth, TrueDistribution) and data.n_averaged is None:
        try:
            kept = _draws_of_truth(data.truth, data, split, plan, folder)
            references[TRUTH_NAME] = Reference(TRUTH, "")
            scores[TRUTH_NAME] = score_encoder_draws(
                TRUTH_NAME, kept, targets, plan, measured, folder
            )
        except Exception as error:
            errors[TRUTH_NAME] = f"{type(error).__name__}: {error}"
    return Drawn(scores, references, errors, measured, targets, plan)


def _draws_of_truth(
    truth: TrueDistribution, data: EncodingData, split: Split, plan: DrawPlan, folder: Path
) -> list[Arrays]:
    return [
        score_draws(
            truth_source(truth, test),
            data.betas[test],
            split.scale[k],
            plan,
            k,
            folder / f"truth{k}",
        )
        for k, (_, test) in enumerate(split.folds)
    ]
