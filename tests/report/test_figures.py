"""What is drawn is what is in the tables."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from brainenc.report import (
    NothingToDraw,
    ceiling_scatter,
    difference_forest,
    encoder_colors,
    roi_bars,
    roi_difference_map,
    roi_distributions,
    styled,
)
from brainenc.report.style import STYLE

pytestmark = pytest.mark.usefixtures("in_report_style")

ATLAS = "visual"
NAMES, ROIS = ("mean", "ridge", "gabor"), ("V1", "V2", "V3", "FFA")


@pytest.fixture(scope="module")
def tables(make_result):
    return make_result(NAMES, ROIS, n_voxels=203)


def segments(axes):
    """Ends of all lines drawn by vlines and hlines, shape (n, 2, 2)."""
    return np.concatenate([np.asarray(lines.get_segments()) for lines in axes.collections])


def colored(axes, color):
    """Bars of a colour, left to right."""
    bars = [bar for bar in axes.patches if bar.get_facecolor() == to_rgba(color)]
    return sorted(bars, key=lambda bar: bar.get_x())


def tick_labels(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


# -------------------------------------------------------------------- bars


def test_bars_are_as_high_as_the_table_says_and_in_the_encoders_colour(tables):
    (axes,) = roi_bars(tables.rois).axes
    assert tick_labels(axes) == list(ROIS)
    for name, color in encoder_colors(NAMES).items():
        bars = colored(axes, color)
        expected = tables.rois.loc[tables.rois["encoder"] == name, "r"]
        assert [bar.get_height() for bar in bars] == list(expected)
        # each in the slot of its own ROI
        assert [round(bar.get_x() + bar.get_width() / 2) for bar in bars] == [0, 1, 2, 3]


def test_bars_do_not_overlap(tables):
    (axes,) = roi_bars(tables.rois).axes
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert all(end <= bar.get_x() for end, bar in zip(ends, bars[1:], strict=False))


def test_interval_lines_run_from_low_to_high_at_their_bar(tables):
    (axes,) = roi_bars(tables.rois).axes
    vertical = [ends for ends in segments(axes) if ends[0, 0] == ends[1, 0]]
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    vertical.sort(key=lambda ends: ends[0, 0])
    by_place = tables.rois.sort_values("roi", key=lambda rois: rois.map(ROIS.index), kind="stable")
    expected = by_place[["r_low", "r_high"]].to_numpy()
    np.testing.assert_array_equal([ends[:, 1] for ends in vertical], expected)
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    np.testing.assert_allclose([ends[0, 0] for ends in vertical], centres)


def test_ceiling_is_drawn_once_per_roi(tables):
    (axes,) = roi_bars(tables.rois).axes
    level = [ends for ends in segments(axes) if ends[0, 0] != ends[1, 0]]
    assert [ends[0, 1] for ends in level] == [0.6, 0.61, 0.62, 0.63]
    assert [ends[:, 0].mean() for ends in level] == [0, 1, 2, 3]


def test_an_interval_that_does_not_hold_its_value_is_drawn_as_it_is(tables):
    # Percentile intervals of biased statistics do this; errorbar() would refuse.
    rois = tables.rois.assign(r=0.5, r_low=0.1, r_high=0.2)
    (axes,) = roi_bars(rois).axes
    vertical = [ends for ends in segments(axes) if ends[0, 0] == ends[1, 0]]
    assert {tuple(ends[:, 1]) for ends in vertical} == {(0.1, 0.2)}


def test_encoders_without_a_value_leave_no_gap_and_keep_their_colours(tables):
    undefined = tables.rois["encoder"] == "mean"
    rois = tables.rois.assign(r=tables.rois["r"].mask(undefined))
    (axes,) = roi_bars(rois).axes
    assert len(axes.patches) == 2 * len(ROIS)
    colors = encoder_colors(NAMES)
    assert {bar.get_facecolor() for bar in axes.patches} == {
        to_rgba(colors["ridge"]),
        to_rgba(colors["gabor"]),
    }


def test_many_rois_take_several_rows_and_the_largest_are_kept_in_order(make_result):
    names = [f"area {i}" for i in range(60)]
    figure = roi_bars(make_result(NAMES, names).rois)  # ROI i has 40 + i voxels
    assert [label for axes in figure.axes for label in tick_labels(axes)] == names[20:]
    assert len(figure.axes) == 3
    assert sum(len(axes.patches) for axes in figure.axes) == 40 * 3


# -------------------------------------------------------------------- distributions and scatter


def test_boxes_are_quartiles_and_whiskers_percentiles(tables):
    (axes,) = roi_distributions(tables.maps, atlas=ATLAS).axes
    for name, color in encoder_colors(NAMES).items():
        for bar, roi in zip(colored(axes, color), ROIS, strict=True):
            chosen = (tables.maps["encoder"] == name) & (tables.maps[ATLAS] == roi)
            values = tables.maps.loc[chosen, "r"].to_numpy()
            low, q1, median, q3, high = np.percentile(values, [5, 25, 50, 75, 95])
            # float64 sums in another order
            np.testing.assert_allclose([bar.get_y(), bar.get_y() + bar.get_height()], [q1, q3])
            centre = bar.get_x() + bar.get_width() / 2
            at = [ends for ends in segments(axes) if abs(ends[:, 0].mean() - centre) < 1e-9]
            np.testing.assert_allclose(sorted(np.ravel(at)[1::2]), [low, median, median, high])


def test_without_an_atlas_all_voxels_are_one_group(tables):
    (axes,) = roi_distributions(tables.maps.assign(r=[*range(203)] * 3)).axes
    assert tick_labels(axes) == ["all voxels"]
    assert len(axes.patches) == 3
    assert axes.patches[0].get_y() == np.percentile(range(203), 25)


def test_scatter_shows_the_voxels_that_have_both(tables):
    maps = tables.maps.copy()
    maps.loc[[0, 5], "r"] = np.nan
    maps.loc[[7, 300], "noise_ceiling"] = np.nan
    figure = ceiling_scatter(maps)
    for axes, name in zip(figure.axes, NAMES, strict=True):
        assert axes.get_title(loc="left") == name
        (points,) = axes.collections
        expected = maps.loc[maps["encoder"] == name, ["noise_ceiling", "r"]].dropna().to_numpy()
        drawn = np.asarray(points.get_offsets())
        np.testing.assert_array_equal(np.sort(drawn, axis=0), np.sort(expected, axis=0))
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        assert (drawn > [x0, y0]).all()
        assert (drawn < [x1, y1]).all()


def test_titles_of_four_panels_in_a_row_have_their_names_in_full(make_result):
    names = [
        "calibrated ridge (tokens)",
        "MindSimulator (tokens)",
        "stacked (Gabor + tokens)",
        "mean",
    ]
    figure = ceiling_scatter(make_result(names).maps)
    assert [axes.get_title(loc="left") for axes in figure.axes] == names


def test_scatter_has_the_line_of_equality(tables):
    line = ceiling_scatter(tables.maps).axes[0].lines[0]
    assert line.get_xy1() == (0, 0)
    assert line.get_slope() == 1


def test_scatter_colours_each_voxel_by_its_roi(tables):
    maps = tables.maps.query("encoder == 'ridge'").copy()
    maps.loc[maps.index[:4], "visual"] = [None, "", np.nan, "V1"]
    figure = ceiling_scatter(maps, atlas=ATLAS)
    (points,) = figure.axes[0].collections
    legend = {
        handle.get_label(): to_rgba(handle.get_color(), 0.65)
        for handle in figure.legends[0].legend_handles
    }
    assert set(legend) == {*ROIS, "other voxels"}
    assert len(set(legend.values())) == len(legend)
    offsets = map(tuple, np.asarray(points.get_offsets()))
    color_at = dict(zip(offsets, map(tuple, points.get_facecolors()), strict=True))
    for voxel in maps.itertuples():
        roi = voxel.visual if isinstance(voxel.visual, str) and voxel.visual else "other voxels"
        assert color_at[voxel.noise_ceiling, voxel.r] == legend[roi]


@pytest.mark.parametrize(("n_voxels", "rasterized"), [(1000, False), (1001, True)])
def test_scatter_is_pixels_when_points_are_many(make_result, n_voxels, rasterized):
    figure = ceiling_scatter(make_result(NAMES, n_voxels=n_voxels).maps)  # 3000 or 3003 points
    assert all(bool(axes.collections[0].get_rasterized()) == rasterized for axes in figure.axes)


# -------------------------------------------------------------------- differences


def test_forest_shows_every_difference_with_its_interval(tables):
    pairs = tables.pairs.query("roi == 'all'")
    figure = difference_forest(pairs)
    for axes, metric in zip(figure.axes, ("r", "mse_z"), strict=True):
        rows = pairs[pairs["metric"] == metric]
        np.testing.assert_array_equal(segments(axes)[:, :, 0], rows[["low", "high"]])
        np.testing.assert_array_equal(segments(axes)[:, 0, 1], [0, 1, 2])
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [dot.get_xdata()[0] for dot in dots] == list(rows["difference"])
        leaves_zero_out = np.sign(rows["low"]) == np.sign(rows["high"])
        filled = [dot.get_markerfacecolor() != "white" for dot in dots]
        assert filled == list(leaves_zero_out)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["mean − ridge", "mean − gabor", "ridge − gabor"]


@pytest.mark.parametrize(
    ("metric", "side"),
    [("r", "right"), ("cka", "right"), ("mse_z", "left"), ("crps_z", "left"), ("energy", "left")],
)
def test_forest_says_on_which_side_the_first_is_better(tables, metric, side):
    pairs = tables.pairs.query("roi == 'all' and metric == 'r'").assign(metric=metric)
    (axes,) = difference_forest(pairs).axes
    assert axes.get_xlabel() == f"{side} of 0: the first is better"


def test_forest_keeps_the_row_of_a_pair_that_one_metric_lacks(tables):
    pairs = tables.pairs.query("roi == 'all'")
    lacking = (pairs["metric"] == "r") & (pairs["encoder_a"] == "mean")
    figure = difference_forest(pairs.assign(difference=pairs["difference"].mask(lacking)))
    r, mse = figure.axes
    assert [ends[0, 1] for ends in segments(r)] == [2]
    assert [ends[0, 1] for ends in segments(mse)] == [0, 1, 2]


def test_difference_map_holds_the_table(tables):
    pairs = tables.pairs.query("atlas == 'visual'")
    undefined = (pairs["encoder_b"] == "gabor") & (pairs["roi"] == "FFA")
    pairs = pairs.assign(difference=pairs["difference"].mask(undefined))
    axes = roi_difference_map(pairs, metric="r").axes[0]
    assert tick_labels(axes) == list(ROIS)
    wide = pairs[pairs["metric"] == "r"].pivot_table(
        index=["encoder_a", "encoder_b"], columns="roi", values="difference", sort=False
    )
    shown = axes.images[0].get_array().filled(np.nan)
    np.testing.assert_array_equal(shown, wide[list(ROIS)].to_numpy())
    texts = {text.get_position(): text for text in axes.texts}
    assert len(texts) == wide.count().sum()
    cell = pairs[(pairs["metric"] == "r") & (pairs["roi"] == "V2")].iloc[0]
    assert float(texts[1, 0].get_text().replace("−", "-")) == round(cell["difference"], 3)
    assert (texts[1, 0].get_weight() == "bold") == (cell["low"] > 0 or cell["high"] < 0)


# -------------------------------------------------------------------- all of them


def test_nothing_to_draw_is_said(make_result, tables):
    maps, rois = tables.maps.assign(r=np.nan), tables.rois.assign(r=np.nan)
    pairs = tables.pairs.assign(difference=np.nan)
    for draw, table in [
        (ceiling_scatter, maps),
        (ceiling_scatter, tables.maps.assign(noise_ceiling=np.nan)),
        (ceiling_scatter, pd.DataFrame(columns=["encoder"])),
        (roi_distributions, maps),
        (roi_distributions, pd.DataFrame(columns=["encoder"])),
        (roi_bars, rois),
        (difference_forest, pairs),
        (difference_forest, make_result(["ridge"]).pairs),
        (roi_difference_map, pairs),
    ]:
        with pytest.raises(NothingToDraw):
            draw(table)


def test_ten_encoders_have_ten_colours_and_keep_them():
    names = [f"encoder {i}" for i in range(10)]
    colors = encoder_colors(names)
    assert len(set(colors.values())) == 10
    assert encoder_colors(names * 2 + names[::-1]) == colors


def test_figures_take_the_settings_of_the_user_and_leave_them(tables, monkeypatch):
    with styled():
        (axes,) = roi_bars(tables.rois).axes
        assert axes.yaxis.label.get_color() == STYLE["axes.labelcolor"]
    with matplotlib.rc_context({"axes.labelcolor": "red", "font.size": 17, "figure.dpi": 50}):
        before = dict(matplotlib.rcParams)
        (axes,) = roi_bars(tables.rois).axes
        assert axes.yaxis.label.get_color() == "red"
        assert axes.get_xticklabels()[0].get_fontsize() == 17
        assert axes.figure.dpi == 50
        assert dict(matplotlib.rcParams) == before


# -------------------------------------------------------------------- choices of the caller


@pytest.mark.parametrize(
    ("draw", "table", "n_axes"),
    [
        (ceiling_scatter, "maps", 2),
        (roi_bars, "rois", 1),
        (roi_distributions, "maps", 1),
        (difference_forest, "pairs", 2),
        (roi_difference_map, "pairs", 1),
    ],
)
def test_axes_of_the_caller_are_drawn_on_and_no_others(tables, draw, table, n_axes):
    chosen = getattr(tables, table)
    if draw is roi_difference_map:
        chosen = chosen[chosen["atlas"] == ATLAS]
    given = Figure().subplots(1, 3)
    figure = draw(chosen, encoders=["gabor", "ridge"], ax=given[:n_axes])
    assert figure is given[0].figure
    assert not given[2].has_data()
    assert not figure.legends
    assert all(axes.has_data() for axes in given[:n_axes])
    if draw not in (roi_bars, roi_distributions):  # these spread their ROIs over what is given
        with pytest.raises(ValueError, match=f"ax has 3 Axes, and this figure has {n_axes} panel"):
            draw(chosen, encoders=["gabor", "ridge"], ax=given)
    with pytest.raises(TypeError, match="ax must be Axes of Matplotlib or a sequence of them"):
        draw(chosen, encoders=["gabor", "ridge"], ax="V1")


@pytest.mark.parametrize(("draw", "table"), [(roi_bars, "rois"), (roi_distributions, "maps")])
def test_rois_and_encoders_are_chosen_in_order(tables, draw, table):
    named = {"atlas": ATLAS} if table == "maps" else {}
    chosen = {"order": ["FFA", "V2"], "encoders": ["gabor", "ridge"]}
    reversed_encoders = {**chosen, "encoders": ["ridge", "gabor"]}
    (axes,) = draw(getattr(tables, table), **named, **reversed_encoders).axes
    colors = encoder_colors(NAMES)
    assert colored(axes, colors["ridge"])[0].get_x() < colored(axes, colors["gabor"])[0].get_x()
    (axes,) = draw(getattr(tables, table), **named, **chosen).axes
    assert tick_labels(axes) == ["FFA", "V2"]
    colors = encoder_colors(NAMES)  # as in the other figures
    first = [colored(axes, colors[name])[0].get_x() for name in ("gabor", "ridge")]
    assert first == sorted(first)
    assert not colored(axes, colors["mean"])
    if draw is roi_bars:
        by_name = tables.rois.set_index(["encoder", "roi"])["r"]
        heights = [bar.get_height() for bar in colored(axes, colors["gabor"])]
        assert heights == [by_name["gabor", "FFA"], by_name["gabor", "V2"]]
    with pytest.raises(ValueError, match=r"order has \['LO'\], and the table has \['V1', "):
        draw(getattr(tables, table), **named, order=["LO"])
    with pytest.raises(TypeError, match="encoders='ridge' is text"):
        draw(getattr(tables, table), **named, encoders="ridge")


def test_pairs_of_chosen_encoders_are_drawn(tables):
    figure = difference_forest(tables.pairs, encoders=["mean", "gabor"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mean − gabor"]
    pairs = tables.pairs[tables.pairs["atlas"] == ATLAS]
    axes = roi_difference_map(pairs, encoders=["mean", "gabor"], order=["V3", "V1"]).axes[0]
    assert tick_labels(axes) == ["V3", "V1"]
    of_pair = pairs[(pairs["encoder_b"] == "gabor") & (pairs["encoder_a"] == "mean")]
    expected = of_pair[of_pair["metric"] == "r"].set_index("roi")["difference"][["V3", "V1"]]
    np.testing.assert_array_equal(axes.images[0].get_array(), [expected])


def test_pyplot_is_not_loaded():
    code = """
import sys, pandas as pd
from brainenc.report import roi_bars, figure_to_svg
row = dict(encoder="e", roi="V1", n_voxels=3, noise_ceiling=.5, r=.2, r_low=.1, r_high=.3)
figure_to_svg(roi_bars(pd.DataFrame([row])), "bars")
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
