"""Figures of the report's section on draws, with their descriptions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from brainenc.report import correlation_figures, differences, draw_figures
from brainenc.report.parts import picture
from brainenc.result_tables import INDEPENDENT, RESAMPLED, TRUTH, ResultTables

#: Largest numbers of encoders in figures, best first: small panels, matrices, rows of fans.
MAX_PANELS, MAX_MATRICES, MAX_FANS = 12, 6, 3

#: Voxels of the fan.
N_FAN_VOXELS = 3


def references_of(whole: pd.DataFrame, *kinds: str) -> list[str]:
    """Names of the reference rows of some kinds, if the table has a column of kinds."""
    if "reference_kind" not in whole:
        return []
    return list(whole.loc[whole["reference_kind"].isin(kinds), "encoder"])


@dataclass(frozen=True, eq=False)
class Shown:
    """Data of the figures.

    Attributes
    ----------
    result : ResultTables
    whole : DataFrame
        Rows of ``result.draws`` over all voxels.
    pairs : DataFrame
        Rows of ``result.draw_pairs`` to show, better encoders first.
    order : list of str
        Encoders, best first.
    references : list of str
        Reference rows.
    colors : dict of encoder to colour
    """

    result: ResultTables
    whole: pd.DataFrame
    pairs: pd.DataFrame
    order: list[str]
    references: list[str]
    colors: dict[str, str]

    @cached_property
    def truths(self) -> list[str]:
        """The reference row of the true distribution, if there is one."""
        return references_of(self.whole, TRUTH)

    @property
    def n_panels(self) -> int:
        """Number of encoders with a small panel, besides the truth."""
        return MAX_PANELS - len(self.truths)

    @property
    def n_fans(self) -> int:
        """Number of encoders with a row of fans, besides the truth."""
        return min(len(self.order), MAX_FANS - len(self.truths))

    def score(self, column: str) -> dict[str, float]:
        """A score over all voxels, by encoder."""
        return dict(zip(self.whole["encoder"], self.whole[column], strict=True))

    @cached_property
    def of_voxel(self) -> pd.DataFrame:
        """Columns of the maps that do not depend on the encoder."""
        return self.result.maps.drop_duplicates("voxel").set_index("voxel")

    @property
    def atlas(self) -> Any:
        """The first atlas, None without one."""
        return next(iter(self.result.rois.get("atlas", [])), None)

    @cached_property
    def rois(self) -> dict[int, str]:
        """ROI of each voxel in the first atlas, "" outside every ROI."""
        if self.atlas not in self.of_voxel:
            return {}
        labels = self.of_voxel[self.atlas]
        names = labels.where(labels.notna(), "").map(str)
        return dict(zip(self.of_voxel.index.astype(int), names, strict=True))

    @property
    def roi_pairs(self) -> pd.DataFrame:
        """Pairs by ROI of the first atlas; only pairs of encoders, if there are several."""
        by_roi = self.pairs[self.pairs["atlas"] == self.atlas]
        return by_roi[by_roi["encoder_b"].isin(self.order)] if len(self.order) > 1 else by_roi

    @cached_property
    def brief_names(self) -> dict[str, str]:
        """Shorter names of the reference rows that have an encoder's predictions, by name.

        They fit into figures, and avoid a plus after the minus sign of a difference.
        """
        around = references_of(self.whole, INDEPENDENT, RESAMPLED)
        rows = self.whole[self.whole["encoder"].isin(around)].to_dict("records")
        return {row["encoder"]: f"{row['reference_of']} ({row['reference_kind']})" for row in rows}

    def named(self, table: pd.DataFrame, names: list[str]) -> list[str]:
        """Those of the names that a table has: a step of the run that failed left out others."""
        known = set(table["encoder"]) if "encoder" in table else set()
        return [name for name in names if name in known]

    def brief(self, table: pd.DataFrame, column: str) -> pd.DataFrame:
        """Table with shorter names in a column."""
        return table.assign(**{column: table[column].replace(self.brief_names)})


def _calibration(draw: Callable[..., Figure], shown: Shown) -> Figure:
    table = shown.result.calibration
    names = shown.named(table, [*shown.order[: shown.n_panels], *shown.truths])
    return draw(table, encoders=names, colors=shown.colors)


def _ranks(shown: Shown) -> Figure:
    references = [shown.brief_names.get(name, name) for name in shown.references]
    table = shown.brief(shown.result.calibration, "encoder")
    return draw_figures.rank_histograms(
        table,
        encoders=shown.named(table, [*shown.order[: MAX_PANELS - len(references)], *references]),
        colors=shown.colors,
    )


def _fan(shown: Shown) -> Figure:
    table = shown.result.shown_draws
    return draw_figures.draw_fan(
        table,
        voxels=_fan_voxels(shown),
        encoders=shown.named(table, [*shown.order[: shown.n_fans], *shown.truths]),
        colors=shown.colors,
    )


def _fan_voxels(shown: Shown) -> dict[int, str] | None:
    """Voxels of highest noise ceiling, ordered by ROI, with their titles."""
    if shown.result.shown_draws.empty or "noise_ceiling" not in shown.of_voxel:
        return None
    voxels = pd.unique(shown.result.shown_draws["voxel"])
    ceilings = shown.of_voxel["noise_ceiling"].reindex(voxels)
    best = ceilings.sort_values(ascending=False, kind="stable").index[:N_FAN_VOXELS]
    rois = shown.rois
    place = {roi: i for i, roi in enumerate(dict.fromkeys(rois.values()))}
    ordered = sorted(map(int, best), key=lambda voxel: place.get(rois.get(voxel, ""), 0))
    return {v: f"{rois[v]}, voxel {v}" if rois.get(v) else f"voxel {v}" for v in ordered}


def _variances(shown: Shown) -> Figure:
    return draw_figures.variance_scatter(
        shown.result.maps,
        slopes=shown.score("variance_slope"),
        encoders=shown.named(shown.result.maps, shown.order[: shown.n_panels]),
        colors=shown.colors,
    )


def _matrices(shown: Shown) -> Figure:
    return correlation_figures.noise_correlation_matrices(
        shown.result.noise_correlations,
        rois=shown.rois,
        agreement=shown.score("noise_correlation_r"),
        encoders=shown.named(shown.result.noise_correlations, shown.order[:MAX_MATRICES]),
    )


def _forest(shown: Shown) -> Figure:
    pairs = shown.pairs
    overall = pairs[(pairs["atlas"] == "all") & pairs["metric"].isin(["crps_z", "energy"])]
    return differences.difference_forest(shown.brief(overall, "encoder_b"), colors=shown.colors)


def _roi_differences(shown: Shown) -> Figure:
    return differences.roi_difference_map(
        shown.brief(shown.roi_pairs, "encoder_b"), metric="crps_z"
    )


#: Name of each figure, its description, and the function that draws it.
PICTURES: tuple[tuple[str, str, Callable[[Shown], Figure]], ...] = (
    (
        "curves",
        "Share of trials inside central intervals of draws, per encoder",
        partial(_calibration, draw_figures.calibration_curves),
    ),
    (
        "pit",
        "Histograms of where trials fall among draws, per encoder",
        partial(_calibration, draw_figures.pit_histograms),
    ),
    (
        "ranks",
        "Histograms of the rank of trials among draws, as whole patterns, per encoder",
        _ranks,
    ),
    ("fan", "Intervals of draws and single trials of a few voxels, image by image", _fan),
    (
        "variances",
        "Scatter of the variance of draws against that of trials, per encoder",
        _variances,
    ),
    (
        "matrices",
        "Matrices of noise correlations between voxels: repeats, and draws per encoder",
        _matrices,
    ),
    ("draw-forest", "Differences in scores of draws over all voxels with intervals", _forest),
    ("draw-differences", "Differences in CRPS per ROI", _roi_differences),
)


def draw_pictures(shown: Shown) -> dict[str, Any]:
    """Figures for the template, by name, and their numbers of encoders."""
    return {
        name.replace("-", "_"): picture(partial(draw, shown), name, alt)
        for name, alt, draw in PICTURES
    } | {
        "n_panels": shown.n_panels,
        "n_fans": shown.n_fans,
        "n_matrices": MAX_MATRICES,
        "has_rois": len(shown.roi_pairs) > 0,
    }
