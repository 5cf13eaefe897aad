"""The part of the page about draws: what stands in its tables, figures and sentences."""

from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from brainenc.report import text
from brainenc.report.draw_pictures import Shown, draw_pictures, references_of
from brainenc.report.parts import Column, table_of, with_all_columns
from brainenc.result_tables import AVERAGE_KINDS, INDEPENDENT, TRUTH, ResultTables

#: Pairs beyond which only those with the best encoder are shown.
MAX_PAIRS = 15

#: Coverages that a sentence lists; of more it gives the range.
MAX_SHARES = 3

#: Coverage of 90 % intervals within which draws are called calibrated.
CALIBRATED = (0.88, 0.92)

PAIR_COLUMNS = ("encoder_a", "encoder_b", "metric", "atlas", "roi", "difference", "low", "high")

COLUMNS = (
    Column("crps_z", "CRPS, z units", "lower"),
    Column("coverage_50", "in 50 % interval, %", "", text.percent),
    Column("coverage_90", "in 90 % interval, %", "", text.percent),
    Column("energy", "energy score", "lower"),
    Column("variogram", "variogram score", "lower"),
    Column("log_score", "log score, nats", "lower", partial(text.number, digits=1)),
    Column("variance_slope", "slope of variances", "", partial(text.number, digits=2)),
    Column("variance_r", "r of variances", "", partial(text.number, digits=2)),
    Column("noise_correlation_r", "shared noise: r with repeats", ""),
    Column("noise_correlation_truth_r", "shared noise: r with truth", ""),
)


def draw_panel(result: ResultTables, colors: dict[str, str]) -> dict[str, Any] | None:
    """What the template shows of draws; None where none were scored.

    Parameters
    ----------
    result : ResultTables
        Names as text.
    colors : dict of encoder to colour
    """
    if result.draws.empty:
        return None
    draws = with_all_columns(result.draws, COLUMNS)
    whole = draws[(draws["atlas"] == "all") & draws["crps_z"].notna()]
    reference = whole["reference"].astype(bool)
    order = list(whole[~reference].sort_values("crps_z", kind="stable")["encoder"])
    if not order:
        return None
    references = list(whole.loc[reference, "encoder"])
    pairs = _pairs(result.draw_pairs, order, references)
    overall = pairs[pairs["atlas"] == "all"]
    leaders = {
        column.metric: _leaders(whole[~reference], overall, column.metric)
        for column in COLUMNS
        if column.better
    }
    shown = _few(overall[overall["metric"].isin(["crps_z", "energy"])], order[0])
    few = _few(pairs, order[0])
    return {
        "headline": headline(draws, next(iter(text.ranking(result.encoders)), "")),
        "findings": findings(draws, order, overall),
        "table": _score_table(whole[~reference], leaders),
        "references": _score_table(whole[reference], {}),
        "k_fairness": _k_fairness_table(result.k_fairness, order + references_of(whole, TRUTH)),
        "pair_rows": list(shown.itertuples()),
        "only_best": order[0] if len(_encoder_pairs(overall)) > len(_encoder_pairs(shown)) else "",
        "has_truth": bool(whole["noise_correlation_truth_r"].notna().any()),
        "n_encoders": len(order),
        **draw_pictures(Shown(result, whole, few, order, references, colors)),
    }


# -------------------------------------------------------------------- tables


def _pairs(pairs: pd.DataFrame, order: list[str], references: list[str]) -> pd.DataFrame:
    """Pairs with an encoder in them, turned so that it comes first, the better one if both are."""
    if pairs.empty:
        return pd.DataFrame(columns=PAIR_COLUMNS)
    turned = text.oriented(pairs, [*order, *references])
    return turned[turned["encoder_a"].isin(order)]


def _leaders(encoders: pd.DataFrame, overall: pd.DataFrame, metric: str) -> set[str]:
    """The encoder with the lowest score, and those whose difference from it may be chance."""
    scores = encoders.set_index("encoder")[metric].dropna()
    if len(scores) < 2:
        return set()
    best = str(scores.idxmin())
    chance = (overall["metric"] == metric) & overall["low"].le(0) & overall["high"].ge(0)
    near = overall[chance & (overall["encoder_a"].eq(best) | overall["encoder_b"].eq(best))]
    return {best, *near["encoder_a"], *near["encoder_b"]} & set(scores.index)


def _score_table(rows: pd.DataFrame, leaders: dict[str, set[str]]) -> dict[str, Any]:
    table = table_of(rows, COLUMNS)
    for encoder, cells in table["rows"]:
        for cell in cells:
            cell["best"] = encoder in leaders.get(cell["metric"], ())
    return table


def _k_fairness_table(k_fairness: pd.DataFrame, names: list[str]) -> dict[str, Any] | None:
    """One row per encoder, a group of columns per average; what bounds them comes first."""
    table = k_fairness[k_fairness["encoder"].isin(names)]
    if table.empty:
        return None
    by_kind = {
        str(of_kind["average"].iloc[0]): of_kind.set_index("encoder")
        for kind in AVERAGE_KINDS
        if len(of_kind := table[table["average_kind"] == kind])
    }
    bounds = [
        (of_kind["noise_ceiling"].max(), of_kind["mse_z_floor"].max())
        for of_kind in by_kind.values()
    ]
    rows = [
        (name, [_k_cells(of_kind, name) for of_kind in by_kind.values()])
        for name in names
        if name in set(table["encoder"])
    ]
    return {"averages": list(by_kind), "bounds": bounds, "rows": rows}


def _k_cells(of_kind: pd.DataFrame, name: str) -> tuple[str, str, str, str]:
    """r, its interval, r / ceiling and squared error as text."""
    if name not in of_kind.index:
        return (text.UNDEFINED, "", text.UNDEFINED, text.UNDEFINED)
    row = of_kind.loc[name].to_dict()
    return (
        text.number(row["r"]),
        text.interval(row["r_low"], row["r_high"]),
        text.number(row["r_normalized"]),
        text.number(row["mse_z"]),
    )


def _few(pairs: pd.DataFrame, best: str) -> pd.DataFrame:
    """All pairs if they are few, else those with the best encoder."""
    return pairs if len(_encoder_pairs(pairs)) <= MAX_PAIRS else pairs[pairs["encoder_a"] == best]


def _encoder_pairs(pairs: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(pairs["encoder_a"], pairs["encoder_b"], strict=True))


# -------------------------------------------------------------------- findings


def headline(draws: pd.DataFrame, encoder: str) -> list[Markup]:
    """One sentence on whether draws of an encoder are calibrated; none if it has none."""
    whole = draws[(draws["atlas"] == "all") & (draws["encoder"] == encoder)]
    return _coverage_sentences(whole.set_index("encoder")["coverage_90"])


def findings(draws: pd.DataFrame, order: list[str], overall: pd.DataFrame) -> list[Markup]:
    """In sentences: whose draws are calibrated, and whose are best by CRPS.

    Parameters
    ----------
    draws : DataFrame
        ``BenchmarkResult.draws``.
    order : list of str
        Encoders, best CRPS first.
    overall : DataFrame
        ``BenchmarkResult.draw_pairs`` over all voxels, better encoders first.
    """
    whole = draws[draws["atlas"] == "all"].set_index("encoder", drop=False)
    found = _coverage_sentences(whole.loc[order, "coverage_90"])
    found.append(_roi_sentence(draws, order[0]))
    found.append(_crps_sentence(whole, order, overall))
    return [sentence for sentence in found if sentence]


def _coverage_sentences(covered: pd.Series) -> list[Markup]:
    low, high = CALIBRATED
    verdicts = [
        ("are calibrated", "", covered.between(low, high)),
        ("are too narrow", "only ", covered < low),
        ("are too wide", "as many as ", covered > high),
    ]
    return [
        _coverage_sentence(covered[chosen], verdict, how)
        for verdict, how, chosen in verdicts
        if chosen.any()
    ]


def _coverage_sentence(covered: pd.Series, verdict: str, how: str) -> Markup:
    names = [Markup("<strong>{}</strong>").format(name) for name in covered.index]
    first = Markup(", ").join(names[:-1])
    said = first + (Markup(" and ") if first else "") + names[-1]
    if len(covered) > MAX_SHARES:
        shares, tail = f"from {100 * covered.min():.1f} to {100 * covered.max():.1f} %", ""
    else:
        shares = text.joined([f"{100 * share:.1f} %" for share in covered])
        tail = ", in this order" if len(covered) > 1 else ""
    return Markup(
        "Draws of {} {}: {}{} of held-out trials lie inside their 90 % intervals{}."
    ).format(said, verdict, how, shares, tail)


def _roi_sentence(draws: pd.DataFrame, best: str) -> Markup:
    """Where the best encoder's coverage is furthest from 90 %."""
    rois = draws[(draws["atlas"] != "all") & (draws["encoder"] == best)]
    covered = rois.set_index("roi")["coverage_90"].dropna()
    if len(covered) < 2:
        return Markup("")
    return Markup(
        "ROI by ROI, those of <strong>{}</strong> hold from {} ({}) to {} ({}) of trials."
    ).format(
        best,
        f"{100 * covered.min():.1f} %",
        covered.idxmin(),
        f"{100 * covered.max():.1f} %",
        covered.idxmax(),
    )


def _crps_sentence(whole: pd.DataFrame, order: list[str], overall: pd.DataFrame) -> Markup:
    best = order[0]
    found = Markup("By CRPS, <strong>{}</strong> is best ({}").format(
        best, text.number(whole.loc[best, "crps_z"])
    )
    for truth in references_of(whole, TRUTH):
        found += Markup("; the {} itself gets {}").format(
            truth, text.number(whole.loc[truth, "crps_z"])
        )
    found += Markup(")")
    rivals = order[1:2] + references_of(whole, INDEPENDENT)
    said = [_lead(text.find_pair(overall, best, rival, "crps_z"), rival) for rival in rivals]
    said = [lead for lead in said if lead]
    return found + (Markup(": {}.").format(Markup("; ").join(said)) if said else Markup("."))


def _lead(pair: Any, rival: str) -> Markup:
    """Whether the difference is real; it may be on the side of a reference row."""
    if pair is None or not text.is_finite(pair.low):
        return Markup("")
    if pair.low <= 0 <= pair.high:
        verdict = "which may well be chance"
    else:
        verdict = "a real lead" if pair.high < 0 else f"so that {rival} is ahead"
    return Markup("its difference from <strong>{}</strong> is {} {}, {}").format(
        rival, text.number(pair.difference), text.interval(pair.low, pair.high), verdict
    )
