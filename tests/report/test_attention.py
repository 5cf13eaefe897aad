"""Maps lie over the images they belong to, on one scale."""

import numpy as np
import pytest

from brainenc.report import NothingToDraw
from brainenc.report.attention import attention_figure

pytestmark = pytest.mark.usefixtures("in_report_style")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)


@pytest.fixture
def maps():
    maps = np.full((2, 3, 4, 4), 1 / 16)
    maps[1, 2] = 0
    maps[1, 2, 0, 3] = 1
    return maps


def overlays(figure):
    """Attention drawn in each panel that has any, as (array, opacity, extent)."""
    return [
        (axes.images[1].get_array(), axes.images[1].get_alpha(), axes.images[1].get_extent())
        for axes in figure.axes
        if len(axes.images) == 2
    ]


def test_each_map_is_over_its_image_and_in_its_column(images, maps):
    figure = attention_figure(images, maps, ["V1", "V2", "FFA"])
    drawn = overlays(figure)
    assert len(drawn) == 6
    for (array, _, extent), expected in zip(drawn, maps.reshape(6, 4, 4), strict=True):
        np.testing.assert_allclose(array, expected * 16)
        assert tuple(extent) == (-0.5, 15.5, 11.5, -0.5)  # the whole image, upright
    assert [axes.get_title(loc="left") for axes in figure.axes[:4]] == ["image", "V1", "V2", "FFA"]
    # Even attention is not drawn; all attention in one place is.
    assert (drawn[0][1] == 0).all()
    assert drawn[5][1][0, 3] == drawn[5][1].max() > 0.5


def test_chosen_rois_and_those_that_fit(images, maps):
    figure = attention_figure(images, maps, ["V1", "V2", "FFA"], shown=["FFA", "V1"])
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["image", "FFA", "V1"]
    names = [f"roi {k}" for k in range(40)]
    many = np.repeat(maps[:, :1], 40, axis=1)
    many[:, 30] = maps[:, 2]
    titles = [axes.get_title(loc="left") for axes in attention_figure(images, many, names).axes]
    assert "roi 30" in titles
    assert len([title for title in titles if title.startswith("roi")]) == 11


def test_what_cannot_be_drawn_says_why(images, maps):
    with pytest.raises(ValueError, match=r"maps \(2, 3, 4, 4\) must be .* 2 images and 2 rois"):
        attention_figure(images, maps, ["V1", "V2"])
    with pytest.raises(ValueError, match="shown names"):
        attention_figure(images, maps, ["V1", "V2", "FFA"], shown=["V9"])
    with pytest.raises(NothingToDraw, match="one token"):
        attention_figure(images, maps[:, :, :1, :1], ["V1", "V2", "FFA"])
    with pytest.raises(NothingToDraw, match="finite"):
        attention_figure(images, maps * np.nan, ["V1", "V2", "FFA"])
