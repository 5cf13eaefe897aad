"""Report and figures of words."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from brainenc.report import NothingToDraw, styled, word_bars, word_map, word_pictures
from brainenc.report.style import FAINT, PALETTE
from brainenc.report.text import percent
from brainenc.selectivity import Description


@pytest.fixture
def found():
    words = ["dog", "dog", "dog", "bus", "bus", "<b>cat"]
    n = len(words)
    voxels = pd.DataFrame(
        {
            "voxel": np.arange(n),
            "roi": ["A", "A", "B", "B", "B", ""],
            **dict(zip("ijk", np.indices((2, 3, 1)).reshape(3, -1), strict=True)),
            "word": words,
            "purity": 0.9,
            "lift": 3.0,
            "z": 4.0,
            "r_word": [0.1, 0.5, 0.2, 0.3, 0.4, 0.2],
            "p": 0.001,
            "q": [0.01, 0.01, 0.01, 0.01, 0.4, 0.01],
            "named": [True, True, True, True, False, True],
        }
    )
    top = pd.DataFrame(
        {
            "voxel": np.repeat(np.arange(n), 3),
            "rank": np.tile([1, 2, 3], n),
            "image": np.tile([4, 2, 0], n) + np.repeat(np.arange(n) % 2, 3),
            "response": 1.0,
        }
    )
    manifest = {
        "settings": {"n_top": 3, "alpha": 0.05},
        "n_tested_images": 6,
        "median_purity": 0.9,
        "null_median_purity": 0.7,
        "null_share_above_half": 0.52,
    }
    table = voxels[["voxel", "word"]].assign(rank=1)
    return Description(voxels, table, top, manifest, ["A warning."])


IMAGES = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((1, 300, 200, 3), 40, np.uint8)


def test_unnamed_voxels_are_grey_and_words_have_colours(found):
    with styled():
        figure = word_map(found.voxels)
    (axes,) = [axes for axes in figure.axes if axes.images]
    drawn = axes.images[0].get_array()[..., :3]  # j by i
    assert tuple(drawn[0, 0]) == to_rgb(PALETTE[0])  # dog, the commonest word
    assert tuple(drawn[1, 1]) == to_rgb(FAINT)  # voxel 4 at i, j = 1, 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["dog (3)", "<b>cat (1)", "bus (1)", "not named (1)"]


def test_voxels_behind_one_another_are_drawn_in_slices(found):
    voxels = pd.concat([found.voxels, found.voxels.assign(k=3)], ignore_index=True)
    with styled():
        figure = word_map(voxels)
    assert [axes.get_title("left") for axes in figure.axes] == ["k = 0", "k = 3"]


def test_bars_are_shares_of_voxels(found):
    with styled():
        figure = word_bars(found.voxels)
    widths = {
        (bar.get_y() + bar.get_height() / 2, tuple(bar.get_facecolor()[:3])): bar.get_width()
        for bar in figure.axes[0].patches
    }
    assert widths[(0.0, to_rgb(PALETTE[0]))] == 1  # A: both dogs
    assert widths[(1.0, to_rgb(FAINT))] == pytest.approx(1 / 3)


def test_pictures_are_those_of_the_voxel_that_fits_best(found):
    with styled():
        figure = word_pictures(found.voxels, found.top, IMAGES, n_words=1)
    assert figure.axes[0].get_title("left") == "dog: voxel 1, A, r 0.50"
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [int(picture[0, 0, 0]) for picture in shown] == [200, 120, 40]  # images 5, 3, 1
    assert max(shown[0].shape) == 128  # made smaller
    with pytest.raises(ValueError, match="images has 3 pictures, but image 5 is a top image"):
        word_pictures(found.voxels, found.top, IMAGES[:3])


@pytest.mark.parametrize("draw", [word_map, word_bars])
def test_nothing_to_draw(found, draw):
    with pytest.raises(NothingToDraw, match="No voxel is named"):
        draw(found.voxels.assign(named=False))
    with pytest.raises(NothingToDraw, match=r"no positions|no column"):
        draw(found.voxels.drop(columns=["i", "roi"]))


def test_the_page(found, tmp_path):
    text = found.to_html(tmp_path / "words.html", IMAGES).read_text(encoding="utf-8")
    assert "5 of 6 voxels are named" in text
    assert "A warning." in text
    assert f"{percent(0.52)} % of the voxels have a word" in text
    assert "<b>cat" not in text
    assert text.count("<svg") == 3
    empty = Description(
        found.voxels.assign(named=False), found.words, found.top,
        found.manifest | {"null_share_above_half": None, "null_median_purity": None},
    )  # fmt: skip
    page = empty.to_html(tmp_path / "empty.html").read_text(encoding="utf-8")
    assert "0 of 6 voxels are named" in page
    assert "<svg" not in page
    assert "permuted images, " not in page
