"""Tables that were saved before kinds of rows had columns: the names of rows told them."""

import pandas as pd

from brainenc.result_tables import (
    INDEPENDENT,
    MEAN_OF_DRAWS,
    ONE_DRAW,
    PREDICTION,
    RESAMPLED,
    TRUTH,
)

#: Names that reference rows had then; they may have changed since.
_ENDINGS = {
    " + independent Gaussian residuals": INDEPENDENT,
    " + resampled residuals": RESAMPLED,
}
_TRUTH_NAME = "true distribution"


def with_kinds(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables by name, with the columns of kinds where an earlier version did not write them."""
    found = dict(tables)
    draws, averages = found.get("draws"), found.get("k_fairness")
    if draws is not None and "reference" in draws and "reference_kind" not in draws:
        kinds = [
            _kind(str(name)) if reference else ("", "")
            for name, reference in zip(draws["encoder"], draws["reference"], strict=True)
        ]
        place = list(draws).index("reference") + 1
        found["draws"] = draws = draws.copy()
        draws.insert(place, "reference_kind", [kind for kind, _ in kinds])
        draws.insert(place + 1, "reference_of", [encoder for _, encoder in kinds])
    if averages is not None and "n_averaged" in averages and "average_kind" not in averages:
        n = averages["n_averaged"]
        kind = n.map(lambda n: ONE_DRAW if n == 1 else MEAN_OF_DRAWS).where(n.notna(), PREDICTION)
        found["k_fairness"] = averages = averages.copy()
        averages.insert(list(averages).index("average") + 1, "average_kind", kind)
    return found


def _kind(name: str) -> tuple[str, str]:
    """Kind of a reference row of that name, and the encoder whose predictions it has."""
    if name == _TRUTH_NAME:
        return TRUTH, ""
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind, name.removesuffix(ending)
    return "", ""
