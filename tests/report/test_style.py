import io
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from brainenc.report import ceiling_scatter, figure_to_svg, roi_bars
from brainenc.report.style import PALETTE, short, styled


@pytest.fixture(scope="module")
def maps(make_result):
    return make_result(["a", "b"]).maps


def test_ids_of_two_figures_do_not_clash_and_references_hit(maps):
    pages = [figure_to_svg(ceiling_scatter(maps), name) for name in ("one", "two")]
    ids = [set(re.findall(r'\bid="([^"]+)"', page)) for page in pages]
    assert not ids[0] & ids[1]
    for page, own in zip(pages, ids, strict=True):
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
        assert used
        assert {a or b for a, b in used} <= own


def test_svg_is_the_same_every_time_and_undated(maps):
    first, second = (figure_to_svg(ceiling_scatter(maps), "one") for _ in range(2))
    assert first == second
    assert "<metadata" not in first
    assert first.startswith("<svg")


def test_svg_does_not_depend_on_the_users_style(maps, monkeypatch):
    plain = figure_to_svg(ceiling_scatter(maps), "one")
    monkeypatch.setitem(matplotlib.rcParams, "savefig.facecolor", "black")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "path")
    assert figure_to_svg(ceiling_scatter(maps), "one") == plain


def test_one_draw_puts_things_where_two_draws_of_matplotlib_put_them(make_result, monkeypatch):
    result = make_result(["a", "b", "c"], ["V1", "V2 with a long name"])
    draws, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *args: draws.append(1) or draw(*args))
    for make in (
        lambda: ceiling_scatter(result.maps, atlas="visual"),  # of compressed layout
        lambda: roi_bars(result.rois),
    ):
        with styled():
            figure = make()
            state = figure.get_layout_engine(), figure.canvas, figure.dpi
            found = figure_to_svg(figure, "one")
            assert len(draws) == 1
            assert state == (figure.get_layout_engine(), figure.canvas, figure.dpi)
            buffer = io.StringIO()
            make().savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.05)
        draws.clear()
        expected = buffer.getvalue()
        # Sizes, places and text; ids begin otherwise, and a number ends in another digit at most.
        for pattern in (r'viewBox="([^"]+)"', r' [xy]="([^"]+)"', r'transform="([^"]+)"'):
            parts = [re.findall(pattern, svg) for svg in (found, expected)]
            parts = [re.findall(r"-?[0-9.]+", " ".join(each)) for each in parts]
            np.testing.assert_allclose(*np.array(parts, dtype=float), atol=1e-4)
        assert re.findall(r"([^<>]+)</text>", found) == re.findall(r"([^<>]+)</text>", expected)


def test_ids_in_labels_are_left_alone():
    row = {"encoder": 'id="x" url(#y)', "roi": "V1", "n_voxels": 3, "noise_ceiling": 0.5}
    figure = roi_bars(pd.DataFrame([row | {"r": 0.2, "r_low": 0.1, "r_high": 0.3}]))
    assert 'id="x" url(#y)' in figure_to_svg(figure, "one")


def test_short_names_keep_both_ends():
    assert short("ridge") == "ridge"
    assert short("ridge on " + "gabor " * 10 + "end", 20) == "ridge on g…gabor end"
    assert len(short("x" * 100, 20)) == 20
    assert short("a\nb\x00c") == "a b c"


def test_short_name_with_an_underscore_reaches_the_legend():
    row = {"encoder": "_best", "roi": "V1", "n_voxels": 3, "noise_ceiling": np.nan}
    figure = roi_bars(pd.DataFrame([row | {"r": 0.2, "r_low": 0.1, "r_high": 0.3}]))
    assert [text.get_text().strip("\u200b") for text in figure.legends[0].texts] == ["_best"]


# Viénot, Brettel & Mollon (1999), Color Research & Application 24: linear RGB as it looks to
# people without red or green cones.
BLIND = {
    "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "normal": np.eye(3),
}


@pytest.mark.parametrize("vision", BLIND)
def test_colours_can_be_told_apart(vision):
    rgb = np.array([to_rgb(color) for color in PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(BLIND[vision]), 0, 1)
    xyz = seen @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856))
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(10, 1)]
    # 2.3 is just noticeable side by side; a bar and its legend are centimetres apart.
    assert distance.min() > 10
