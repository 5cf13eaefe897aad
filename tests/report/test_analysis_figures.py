"""Figures of analyses: what is drawn is in the table; names that hold code; own axes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.report import NothingToDraw, figure_to_svg
from brainenc.report.analysis_figures import (
    category_bars,
    consistency_bars,
    masking_lines,
    perturbation_bars,
)

NASTY = "$x_1$ <b>"


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((120, 5))
    signal = targets @ rng.standard_normal((5, 12))
    betas = signal[:, None] + 2 * rng.standard_normal((120, 2, 12))
    labels = np.where(targets[:, 0] > 0, NASTY, "place")
    train, test = (betas[:80], targets[:80]), (betas[80:], targets[80:])
    decoder = brainenc.RidgeDecoder().fit(*train)
    categories = (labels[:80], labels[80:])
    return {
        "perturbed": brainenc.perturb(
            decoder, test[0], [0, 1], prototypes={NASTY: np.eye(5)[0]}, n_random=5
        ).table,
        "masked": brainenc.masking_curve(
            decoder, train=train, test=test, shares=(0, 0.5, 1), n_masks=2, categories=categories
        ),
        "consistent": brainenc.consistency(
            betas, labels, others={NASTY: signal}, n_splits=2, n_permutations=9
        ),
        "categories": brainenc.analysis.category_information(
            decoder,
            train=train,
            test=test,
            categories=categories,
            n_bootstraps=9,
            n_permutations=9,
        ),
    }


def test_bars_are_the_changes_of_the_table(tables):
    figure = perturbation_bars(
        {"a": tables["perturbed"], "b": tables["perturbed"]}, level="quantile 0.95"
    )
    row = tables["perturbed"].query("level == 'quantile 0.95' and measure != 'embedding'")
    assert len(figure.axes) == 2
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_allclose(heights, row["change"])


def test_lines_are_the_means_over_masks(tables):
    table = tables["masked"]
    (axes,) = masking_lines({"random": table}, score="category_auc").axes
    mean = table[table["refit"]].groupby("share")["category_auc"].mean()
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["random, fitted anew"], mean)
    np.testing.assert_allclose(drawn["chance"], 0.5)


def test_each_comparison_has_a_panel_with_its_ceiling(tables):
    table = tables["consistent"]
    figure = consistency_bars(table)
    assert len(figure.axes) == 3
    own = table[table["comparison"] == NASTY]
    heights = [bar.get_height() for bar in figure.axes[2].patches]
    np.testing.assert_allclose(heights, own["r"])
    levels = [y[0][1] for y in figure.axes[2].collections[0].get_segments()]
    np.testing.assert_allclose(levels, own["ceiling"])


def test_points_are_the_areas(tables):
    table = tables["categories"]
    (axes,) = category_bars(table).axes
    points = np.concatenate(
        [np.asarray(bar.lines[0].get_ydata(), float) for bar in axes.containers]
    )
    np.testing.assert_allclose(points, table["auc"].to_numpy(float))


def test_names_are_no_formulas(tables):
    svg = figure_to_svg(consistency_bars(tables["consistent"]), "maps")
    assert "$x_1$" in svg


def test_drawn_on_given_axes(tables):
    figure, axes = plt.subplots(1, 3)
    assert consistency_bars(tables["consistent"], ax=axes) is figure
    plt.close(figure)


def test_nothing_to_draw(tables):
    with pytest.raises(NothingToDraw, match=r"quantile 0\.5"):
        perturbation_bars({"a": tables["perturbed"]}, level="quantile 0.5")
    with pytest.raises(NothingToDraw, match="category_auc"):
        masking_lines({"a": tables["masked"].assign(category_auc=np.nan)}, score="category_auc")
    with pytest.raises(NothingToDraw, match="lacks a comparison"):
        consistency_bars(tables["consistent"], comparisons=["none"])
    with pytest.raises(NothingToDraw, match="area"):
        category_bars(pd.DataFrame({"auc": [np.nan]}))
