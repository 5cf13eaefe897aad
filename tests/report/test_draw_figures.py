"""What is drawn of draws is what is in the tables."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from brainenc.report import (
    NothingToDraw,
    calibration_curves,
    draw_fan,
    encoder_colors,
    noise_correlation_matrices,
    pit_histograms,
    rank_histograms,
    variance_scatter,
)

pytestmark = pytest.mark.usefixtures("in_report_style")

NAMES = ("mean", "ridge", "net")


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


# -------------------------------------------------------------------- calibration


@pytest.fixture(scope="module")
def calibration():
    rng = np.random.default_rng(0)
    rows = [
        {"encoder": name, "atlas": atlas, "roi": roi, "quantity": quantity, "position": position}
        for name in NAMES
        for atlas, roi in (("all", "all"), ("visual", "V1"), ("visual", "V2"))
        for quantity, positions in (
            ("pit", (np.arange(20) + 0.5) / 20),
            ("coverage", (0.1, 0.5, 0.9, 0.99)),
            ("rank", np.arange(10) / 9),
            *([("pattern_rank", np.arange(10) / 9)] if atlas == "all" else []),
        )
        for position in positions
    ]
    table = pd.DataFrame(rows)
    return table.assign(value=rng.uniform(0.2, 1, len(table)))


def curve(table, name, roi, quantity):
    rows = table[(table["encoder"] == name) & (table["roi"] == roi)]
    return rows.loc[rows["quantity"] == quantity, ["position", "value"]].to_numpy()


def test_curves_are_those_of_all_voxels_and_of_every_roi(calibration):
    figure = calibration_curves(calibration)
    assert titles(figure) == list(NAMES)
    colors = encoder_colors(NAMES)
    for axes, name in zip(figure.axes, NAMES, strict=True):
        _, v1, v2, whole = axes.lines  # the first is the diagonal
        for line, roi in ((v1, "V1"), (v2, "V2"), (whole, "all")):
            drawn = np.column_stack(line.get_data())
            np.testing.assert_array_equal(drawn, curve(calibration, name, roi, "coverage"))
        assert whole.get_color() == colors[name]
        covered = dict(curve(calibration, name, "all", "coverage"))
        said = [f"{100 * covered[level]:.1f} % in {100 * level:.0f} %" for level in (0.5, 0.9)]
        assert axes.texts[0].get_text() == "\n".join(said)


def test_encoders_are_chosen_in_order_and_those_without_values_left_out(calibration):
    undefined = calibration["encoder"] == "ridge"
    table = calibration.assign(value=calibration["value"].mask(undefined))
    figure = calibration_curves(table, encoders=["net", "ridge", "mean"])
    assert titles(figure) == ["net", "mean"]
    with pytest.raises(ValueError, match=r"encoders has \['nobody'\], and the table has"):
        calibration_curves(table, encoders=["net", "nobody"])
    assert titles(pit_histograms(table, encoders=["net", "ridge", "mean"])) == ["net", "mean"]


def test_many_encoders_take_several_rows_each_column_with_its_own_labels(calibration):
    one = calibration[calibration["encoder"] == "net"]
    many = pd.concat([one.assign(encoder=f"net {i}") for i in range(6)])
    figure = pit_histograms(many)
    assert [axes.get_subplotspec().rowspan.start for axes in figure.axes] == [0, 0, 0, 1, 1, 1]
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False] * 3 + [True] * 3
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, False, False] * 2
    figure = pit_histograms(many[many["encoder"] != "net 5"])  # one panel is not there
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False] * 2 + [True] * 3


def test_histograms_hold_the_densities_and_cut_bars_say_their_height(calibration):
    high = (calibration["encoder"] == "net") & (calibration["position"] == 0.025)
    table = calibration.assign(value=calibration["value"].mask(high, 7.25))
    figure = pit_histograms(table)
    for axes, name in zip(figure.axes, NAMES, strict=True):
        expected = curve(table, name, "all", "pit")
        centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
        np.testing.assert_allclose(centres, expected[:, 0])
        assert [bar.get_height() for bar in axes.patches] == list(expected[:, 1])
        assert [text.get_text() for text in axes.texts] == (["7.2"] if name == "net" else [])
        assert axes.get_ylim() == (0, 2.5)
    assert pit_histograms(calibration).axes[0].get_ylim() == (0, 1.5)


def test_ranks_of_patterns_are_bars_and_those_of_voxels_a_line(calibration):
    figure = rank_histograms(calibration, encoders=["net", "mean"])
    assert titles(figure) == ["net", "mean"]
    for axes, name in zip(figure.axes, ("net", "mean"), strict=True):
        *bars, line = axes.patches
        densities = curve(calibration, name, "all", "pattern_rank")[:, 1]
        assert [bar.get_height() for bar in bars] == list(densities)
        assert bars[0].get_facecolor()[:3] == to_rgba(encoder_colors(NAMES)[name])[:3]
        of_voxels = curve(calibration, name, "all", "rank")[:, 1]
        np.testing.assert_array_equal(line.get_data().values, of_voxels)
        np.testing.assert_allclose(line.get_data().edges, np.linspace(0, 1, 11))
    of_an_earlier_run = calibration[calibration["quantity"] == "pit"]
    with pytest.raises(NothingToDraw, match="were not kept"):
        rank_histograms(of_an_earlier_run)


# -------------------------------------------------------------------- draws and trials


@pytest.fixture(scope="module")
def shown():
    rng = np.random.default_rng(1)
    tables = []
    for name in NAMES:
        quantiles = np.sort(rng.normal(size=(24, 5)), axis=1)
        table = pd.DataFrame(quantiles, columns=["q05", "q25", "q50", "q75", "q95"])
        table["encoder"], table["mean"], table["one_draw"] = name, 50.0, 60.0
        table["image"], table["voxel"] = np.repeat(np.arange(8), 3), np.tile([4, 9, 2], 8)
        table[["trial_1", "trial_2"]] = rng.normal(size=(24, 2))
        tables.append(table)
    tables[1].loc[5, "trial_2"] = np.nan
    return pd.concat(tables, ignore_index=True)


def test_fan_has_every_trial_and_marks_those_outside(shown):
    voxels = {9: "V1, voxel 9", 2: "V2, voxel 2"}
    figure = draw_fan(shown, voxels=voxels, encoders=["ridge", "net"])
    panels = np.reshape(figure.axes, (2, 2))
    assert [axes.get_title(loc="left") for axes in panels[0]] == list(voxels.values())
    for i, name in enumerate(["ridge", "net"]):
        assert panels[i, 0].get_ylabel().startswith(name)
        for k, voxel in enumerate(voxels):
            rows = shown[(shown["encoder"] == name) & (shown["voxel"] == voxel)]
            rows = rows.sort_values("q50")
            median, inside, outside = panels[i, k].lines
            np.testing.assert_array_equal(median.get_ydata(), rows["q50"])
            expected = {True: [], False: []}
            for x, row in enumerate(rows.itertuples()):
                for trial in (row.trial_1, row.trial_2):
                    if np.isfinite(trial):
                        expected[row.q05 <= trial <= row.q95].append((x, trial))
            for line, chosen in ((inside, True), (outside, False)):
                points = np.column_stack(line.get_data())
                points = points[np.isfinite(points[:, 1])]
                assert sorted(map(tuple, points)) == sorted(expected[chosen])


def test_bands_of_the_fan_reach_from_quantile_to_quantile(shown):
    axes = draw_fan(shown, voxels={4: "voxel 4"}, encoders=["mean"]).axes[0]
    rows = shown[(shown["encoder"] == "mean") & (shown["voxel"] == 4)]
    for band, (low, high) in zip(axes.collections, (("q05", "q95"), ("q25", "q75")), strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        assert set(heights) == {*rows[low], *rows[high]}


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(2)
    n = 3 * 50
    table = pd.DataFrame({"encoder": np.repeat(NAMES, 50), "voxel": np.tile(np.arange(50), 3)})
    table["trial_variance"] = rng.uniform(0.1, 3, n)
    table["draw_variance"] = table["trial_variance"] * rng.uniform(0.8, 1.2, n)
    table.loc[[0, 60], "draw_variance"] = np.nan
    table.loc[61, "trial_variance"] = -0.1
    return table


def test_variances_of_draws_stand_over_those_of_trials(maps):
    figure = variance_scatter(maps, slopes={"ridge": 1.234, "net": np.nan})
    assert titles(figure) == list(NAMES)
    for axes, name, n in zip(figure.axes, NAMES, (49, 48, 50), strict=True):
        (points,) = axes.collections
        rows = maps[(maps["encoder"] == name) & (maps["trial_variance"] > 0)]
        expected = rows[["trial_variance", "draw_variance"]].dropna().to_numpy()
        assert len(expected) == n
        np.testing.assert_array_equal(np.asarray(points.get_offsets()), expected)
        assert tuple(points.get_facecolors()[0][:3]) == to_rgba(encoder_colors(NAMES)[name])[:3]
        assert [text.get_text() for text in axes.texts] == ["slope 1.23"] * (name == "ridge")
        low, high = axes.get_xlim()
        assert axes.get_ylim() == (low, high)
        assert low < expected.min() < expected.max() < high
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == ["0.1", "0.2", "0.5", "1", "2"]


# -------------------------------------------------------------------- noise correlations


@pytest.fixture(scope="module")
def correlations():
    rng = np.random.default_rng(3)
    a, b = np.triu_indices(5, k=1)
    voxels = np.array([7, 3, 8, 1, 5])
    rows = pd.DataFrame({"voxel_a": voxels[a], "voxel_b": voxels[b]})
    rows[["repeats", "truth"]] = rng.uniform(-1, 1, (10, 2))
    parts = [rows.assign(encoder=name, draws=rng.uniform(-1, 1, 10)) for name in NAMES]
    return pd.concat(parts, ignore_index=True)


def test_matrices_hold_the_correlations_in_the_order_of_rois(correlations):
    rois = {3: "V1", 1: "V1", 7: "FFA", 8: "FFA", 5: "FFA"}
    figure = noise_correlation_matrices(
        correlations, rois=rois, agreement={"net": 0.876, "mean": np.nan}, encoders=["net", "mean"]
    )
    panels = figure.axes[:-1]  # the last is the colour bar
    assert [axes.get_title(loc="left") for axes in panels] == [
        *("repeats", "truth"),
        *("draws: net", "draws: mean"),
    ]
    order = [3, 1, 7, 8, 5]
    net, mean = (correlations[correlations["encoder"] == name] for name in ("net", "mean"))
    for axes, rows, column in zip(
        panels, (net, net, net, mean), ("repeats", "truth", "draws", "draws"), strict=True
    ):
        shown = axes.images[0].get_array().filled(np.nan)
        assert np.isnan(np.diag(shown)).all()
        for row in rows.to_dict("records"):
            i, j = order.index(row["voxel_a"]), order.index(row["voxel_b"])
            assert shown[i, j] == shown[j, i] == row[column]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["V1", "FFA"]
        assert [line.get_ydata()[0] for line in axes.lines[::2]] == [1.5]
    said = [axes.get_xlabel() for axes in panels]
    assert said == ["", "", "r with repeats 0.88", ""]
    limits = {axes.images[0].get_clim() for axes in panels}
    assert len(limits) == 1
    assert limits.pop()[1] > 0.9


def test_an_unknown_truth_is_left_out(correlations):
    figure = noise_correlation_matrices(correlations.assign(truth=np.nan))
    assert titles(figure)[:-1] == ["repeats", *(f"draws: {name}" for name in NAMES)]


# -------------------------------------------------------------------- all of them


def test_nothing_to_draw_is_said(calibration, shown, maps, correlations):
    for draw, table in [
        (calibration_curves, calibration.assign(value=np.nan)),
        (pit_histograms, calibration.iloc[:0]),
        (rank_histograms, calibration.iloc[:0]),
        (draw_fan, shown.iloc[:0]),
        (draw_fan, shown.assign(q50=np.nan)),
        (variance_scatter, maps.drop(columns="draw_variance")),
        (variance_scatter, maps.assign(draw_variance=0.0)),
        (noise_correlation_matrices, correlations.assign(draws=np.nan)),
    ]:
        with pytest.raises(NothingToDraw):
            draw(table)
