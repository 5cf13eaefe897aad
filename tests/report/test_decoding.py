"""The page of a decoding benchmark: its numbers, pictures, and names that hold code."""

import re

import numpy as np
import pandas as pd
import pytest
from html_page import Page

import brainenc
from brainenc.report import NothingToDraw, text
from brainenc.report.decoding import confusions, findings, render_decoding
from brainenc.report.decoding_figures import pool_size_lines, retrieval_bars, roi_retrieval

NASTY = "<script>window.hit=1</script>\"'{{ 7*7 }}"


@pytest.fixture(scope="module")
def result():
    """Images, ROIs, a decoder and categories all have a name that is code."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((60, 5))
    betas = (targets @ rng.standard_normal((5, 12)))[:, None] + 2 * rng.standard_normal((60, 2, 12))
    data = brainenc.EncodingData(
        rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        betas.astype(np.float32),
        voxels=pd.DataFrame({"roi": [NASTY] * 6 + ["V2"] * 6}),
        stimuli=pd.DataFrame(
            {"name": [f"{NASTY} {i}" for i in range(60)], "category": [NASTY, "b", "c"] * 20}
        ),
        name=NASTY,
    )
    with pytest.warns(RuntimeWarning, match="failed"):
        return brainenc.decoding_benchmark(
            data,
            {NASTY: brainenc.RidgeEncoder(), "fails": brainenc.RidgeDecoder(train_on="no")},
            targets=targets,
            cv=2,
            n_bootstraps=20,
            n_permutations=5,
            check=False,
            verbose=False,
        )


def test_names_are_text_in_the_page(result):
    page = render_decoding(result)
    assert "<script" not in page
    assert "49" not in re.findall(r"window.hit=1&lt;/script&gt;[^{]{0,12}(\d+)", page)
    assert "{{ 7*7 }}" in page
    parsed = Page(page)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    sources = [value for tag, name, value in parsed.attributes if (tag, name) == ("img", "src")]
    assert len(sources) > 8
    assert all(value.startswith("data:image/png;base64,") for value in sources)


def test_numbers_of_the_page_are_those_of_the_tables(result):
    page = render_decoding(result)
    for value in result.decoders["image_retrieval"].dropna():
        assert text.percent(value) in page
    for value in result.permuted["observed"]:
        assert text.percent(value) in page
    assert "fails failed: ValueError" in page
    best = str(findings(result)[0])
    some = result.decoders[result.decoders["responses"] == "average"]
    score = some["image_retrieval"] + some["brain_retrieval"]
    row = some.loc[score.idxmax()]
    assert text.percent(row["brain_retrieval"]) in best


def test_confusions_show_the_wrong_images_nearest_first(result):
    tables = confusions(result)
    assert {table["direction"] for table in tables} == {"image_retrieval", "brain_retrieval"}
    png = result.pictures.set_index("image")["png"]
    for table in tables:
        of_decoder = result.choices[
            (result.choices["decoder"] == table["decoder"])
            & (result.choices["direction"] == table["direction"])
            & result.choices["shown"]
        ]
        for row in table["rows"]:
            some = of_decoder[of_decoder["name"] == row["name"]].sort_values("place")
            assert [wrong["name"] for wrong in row["wrong"]] == some["wrong_name"].tolist()
            assert row["png"] == png[some["image"].iloc[0]]
            assert [w["png"] for w in row["wrong"]] == png[some["wrong_image"]].tolist()


def test_figures_have_the_values_of_the_tables(result):
    names = result.decoders["decoder"].unique()
    colors = dict.fromkeys(names, "#000000")
    figure = retrieval_bars(result.decoders, colors=colors, responses="average")
    drawn = np.array([bar.get_width() for bar in figure.axes[0].patches])
    table = result.decoders.drop_duplicates("decoder")  # average responses come first
    np.testing.assert_allclose(drawn, 100 * table["image_retrieval"])
    figure = pool_size_lines(
        result.pool_sizes, decoders=["ridge decoder"], colors=colors, responses="average"
    )
    some = result.pool_sizes[
        (result.pool_sizes["decoder"] == "ridge decoder")
        & (result.pool_sizes["responses"] == "average")
    ]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), 100 * some["brain_retrieval"])
    figure = roi_retrieval(result.rois)
    np.testing.assert_allclose(
        figure.axes[0].lines[0].get_ydata(), 100 * result.rois["image_retrieval"]
    )


def test_nothing_to_draw(result):
    with pytest.raises(NothingToDraw, match="no ROIs"):
        roi_retrieval(result.rois.iloc[:0])
    nothing = result.decoders.assign(image_retrieval=np.nan)
    with pytest.raises(NothingToDraw, match="No decoder"):
        retrieval_bars(nothing, colors={}, responses="average")
