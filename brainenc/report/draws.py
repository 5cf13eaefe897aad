"""The part of the page about draws: what stands in its tables, figures and sentences."""

from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from brainenc.report import correlation_figures, differences, draw_figures, text
from brainenc.report.parts import Column, picture, table_of, with_all_columns
from brainenc.result_tables import AVERAGE_KINDS, INDEPENDENT, RESAMPLED, TRUTH, ResultTables

#: Encoders that the figures have room for, best first: small panels, matrices, rows of fans.
MAX_PANELS, MAX_MATRICES, MAX_FANS = 12, 6, 3

#: Voxels of the fan, and pairs beyond which only those with the best encoder are shown.
N_FAN_VOXELS, MAX_PAIRS = 3, 15

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
        **_pictures(result, whole, pairs, order, references, colors),
    }


def references_of(whole: pd.DataFrame, kind: str) -> list[str]:
    """Names of the reference rows of one kind, if the table says of which kind rows are."""
    if "reference_kind" not in whole:
        return []
    return list(whole.loc[whole["reference_kind"] == kind, "encoder"])


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


# -------------------------------------------------------------------- figures


def _pictures(
    result: ResultTables,
    whole: pd.DataFrame,
    pairs: pd.DataFrame,
    order: list[str],
    references: list[str],
    colors: dict[str, str],
) -> dict[str, Any]:
    truth = references_of(whole, TRUTH)
    of_voxel = result.maps.drop_duplicates("voxel").set_index("voxel")
    rois = _rois(result, of_voxel)
    scores = whole.set_index("encoder")
    few = _few(pairs, order[0])
    overall = few[(few["atlas"] == "all") & few["metric"].isin(["crps_z", "energy"])]
    by_roi = few[(few["atlas"] == next(iter(result.rois.get("atlas", [])), None))]
    by_roi = by_roi[by_roi["encoder_b"].isin(order)] if len(order) > 1 else by_roi
    n_panels = MAX_PANELS - len(truth)
    brief = _brief_names(whole)
    panels = {"names": [*order[:n_panels], *truth], "colors": colors}
    drawn = {
        "curves": (
            partial(draw_figures.calibration_curves, result.calibration, **panels),
            "Share of trials inside central intervals of draws, per encoder",
        ),
        "pit": (
            partial(draw_figures.pit_histograms, result.calibration, **panels),
            "Histograms of where trials fall among draws, per encoder",
        ),
        "ranks": (
            partial(
                draw_figures.rank_histograms,
                result.calibration.assign(encoder=result.calibration["encoder"].replace(brief)),
                names=[
                    *order[: MAX_PANELS - len(references)],
                    *pd.Series(references).replace(brief),
                ],
                colors=colors,
            ),
            "Histograms of the rank of trials among draws, as whole patterns, per encoder",
        ),
        "fan": (
            partial(
                draw_figures.draw_fan,
                result.shown_draws,
                voxels=_fan_voxels(result.shown_draws, of_voxel, rois),
                names=[*order[: MAX_FANS - len(truth)], *truth],
                colors=colors,
            ),
            "Intervals of draws and single trials of a few voxels, image by image",
        ),
        "variances": (
            partial(
                draw_figures.variance_scatter,
                result.maps,
                slopes=scores["variance_slope"].to_dict(),
                names=order[:n_panels],
                colors=colors,
            ),
            "Scatter of the variance of draws against that of trials, per encoder",
        ),
        "matrices": (
            partial(
                correlation_figures.noise_correlation_matrices,
                result.noise_correlations,
                rois=rois,
                agreement=scores["noise_correlation_r"].to_dict(),
                names=order[:MAX_MATRICES],
            ),
            "Matrices of noise correlations between voxels: repeats, and draws per encoder",
        ),
        "draw-forest": (
            partial(differences.difference_forest, _brief(overall, brief), colors=colors),
            "Differences in scores of draws over all voxels with intervals",
        ),
        "draw-differences": (
            partial(differences.roi_difference_map, _brief(by_roi, brief), metric="crps_z"),
            "Differences in CRPS per ROI",
        ),
    }
    return {
        name.replace("-", "_"): picture(draw, name, alt) for name, (draw, alt) in drawn.items()
    } | {
        "n_panels": n_panels,
        "n_fans": min(len(order), MAX_FANS - len(truth)),
        "n_matrices": MAX_MATRICES,
        "has_rois": len(by_roi) > 0,
    }


def _rois(result: ResultTables, of_voxel: pd.DataFrame) -> dict[int, str]:
    """ROI of each voxel in the first atlas, "" where it has none."""
    atlas = next(iter(result.rois.get("atlas", [])), None)
    if atlas not in of_voxel:
        return {}
    labels = of_voxel[atlas]
    names = labels.where(labels.notna(), "").map(str)
    return dict(zip(of_voxel.index.astype(int), names, strict=True))


def _fan_voxels(
    shown: pd.DataFrame, of_voxel: pd.DataFrame, rois: dict[int, str]
) -> dict[int, str] | None:
    """Those of highest noise ceiling, in the order of their ROIs, with their titles."""
    if shown.empty or "noise_ceiling" not in of_voxel:
        return None
    ceilings = of_voxel["noise_ceiling"].reindex(pd.unique(shown["voxel"]))
    best = ceilings.sort_values(ascending=False, kind="stable").index[:N_FAN_VOXELS]
    place = {roi: i for i, roi in enumerate(dict.fromkeys(rois.values()))}
    ordered = sorted(map(int, best), key=lambda voxel: place.get(rois.get(voxel, ""), 0))
    return {v: f"{rois[v]}, voxel {v}" if rois.get(v) else f"voxel {v}" for v in ordered}


def _brief(pairs: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Pairs with shorter names of reference rows, which leave room for what is beside them."""
    return pairs.assign(encoder_b=pairs["encoder_b"].replace(names))


def _brief_names(whole: pd.DataFrame) -> dict[str, str]:
    """Shorter names of the reference rows that have an encoder's predictions, by name."""
    kinds = whole["reference_kind"] if "reference_kind" in whole else pd.Series("", whole.index)
    around = whole[kinds.isin([INDEPENDENT, RESAMPLED])].to_dict("records")
    return {row["encoder"]: f"{row['reference_of']} ({row['reference_kind']})" for row in around}
