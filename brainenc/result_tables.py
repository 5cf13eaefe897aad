"""The tables of a benchmark, and the values of their columns.

The benchmark writes them and the report reads them; both import this module.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

TABLES = ("encoders", "rois", "pairs", "maps", "voxels", "folds")

#: Tables of draws, absent in runs without draws or of earlier versions.
DRAW_TABLES = (
    "draws",
    "draw_pairs",
    "calibration",
    "k_fairness",
    "noise_correlations",
    "shown_draws",
)

#: The table of stimuli of the data, absent if they have none.
STIMULI = ("stimuli",)

#: Columns of names, in which "1" and "NA" are text.
NAMES = (
    *("encoder", "encoder_a", "encoder_b", "reference_of", "atlas", "roi", "metric"),
    *("name", "subject"),
)

#: Other columns of text.
TEXTS = ("error", "control", "draws_from", "reference_kind", "quantity", "average", "average_kind")

#: Values of ``reference_kind``: residuals around an encoder's predictions, and the true
#: distribution. Encoders have "".
INDEPENDENT, RESAMPLED, TRUTH = "independent", "resampled", "truth"

#: Values of ``control``, the kind of a null control. Encoders have "".
PERMUTED, UNTRAINED = "permuted", "untrained"

#: Values of ``average_kind``, in the order in which they are shown.
ONE_DRAW, MEAN_OF_DRAWS, PREDICTION = AVERAGE_KINDS = ("one draw", "mean of draws", "prediction")


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=["encoder"])


@dataclass(frozen=True, repr=False)
class ResultTables:
    """Tables of one run; `brainenc.benchmarking.BenchmarkResult` documents them."""

    encoders: pd.DataFrame
    rois: pd.DataFrame
    pairs: pd.DataFrame
    maps: pd.DataFrame
    voxels: pd.DataFrame
    draws: pd.DataFrame = field(default_factory=_empty)
    draw_pairs: pd.DataFrame = field(default_factory=_empty)
    calibration: pd.DataFrame = field(default_factory=_empty)
    k_fairness: pd.DataFrame = field(default_factory=_empty)
    noise_correlations: pd.DataFrame = field(default_factory=_empty)
    shown_draws: pd.DataFrame = field(default_factory=_empty)
    stimuli: pd.DataFrame = field(default_factory=pd.DataFrame)
    folds: pd.DataFrame = field(default_factory=_empty)
    manifest: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
