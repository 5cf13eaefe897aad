"""The tables of a group of subjects.

The benchmark makes them and the report reads them; both import this module.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

GROUP_TABLES = ("pairs", "subject_pairs", "encoders", "rois", "subjects", "maps")

#: Columns of text, in which "1" and "NA" are text.
GROUP_NAMES = (
    *("subject", "encoder", "encoder_a", "encoder_b", "metric", "atlas", "roi"),
    *("prevalence", "hemisphere", "control", "error"),
)


@dataclass(frozen=True, repr=False)
class GroupTables:
    """Tables of a group; `brainenc.benchmarking.GroupResult` documents them."""

    pairs: pd.DataFrame
    subject_pairs: pd.DataFrame
    encoders: pd.DataFrame
    rois: pd.DataFrame
    subjects: pd.DataFrame
    maps: pd.DataFrame
    manifest: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
