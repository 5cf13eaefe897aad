"""The page: its numbers, its warnings, and the runs that lack something."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from html_page import Page, shown

from brainenc.benchmarking import BenchmarkResult
from brainenc.report import render_report

# -------------------------------------------------------------------- a real run


@pytest.fixture(scope="module")
def page(result, html):
    return Page(html)


def test_tables_of_a_real_run_hold_its_scores(result, page):
    for encoder in result.encoders.to_dict("records"):
        name = encoder["encoder"]
        for table, metrics in {
            "voxel-scores": ["r", "r_normalized", "r2", "mse_z", "mse_z_trials"],
            "pattern-scores": ["pattern_r", "pattern_cosine", "identification", "cka"],
        }.items():
            cells = page.tables[table][name]
            for metric in metrics:
                ends = encoder[f"{metric}_low"], encoder[f"{metric}_high"]
                assert cells[metric] == shown(encoder[metric], *ends)
        for metric in ("n_voxels", "n_undefined", "n_significant"):
            assert page.tables["voxel-scores"][name][metric] == str(encoder[metric])


def test_the_best_of_each_column_is_bold(result, page):
    scores = result.encoders.set_index("encoder")
    scores = scores[scores["control"] == ""]
    higher = ["r", "r_normalized", "r2", "pattern_r", "pattern_cosine", "identification"]
    lower = ["mse_z", "mse_z_trials", "mse", "pattern_mse"]
    expected = {(scores[metric].idxmax(), metric) for metric in [*higher, "rdm_correlation", "cka"]}
    expected |= {(scores[metric].idxmin(), metric) for metric in lower}
    of_draws = {"crps_z", "energy", "variogram", "log_score"}  # see test_draws.py
    best = [(name, metric) for name, metric in page.best if metric not in of_draws]
    assert set(best) == expected
    assert len(best) == len(expected)


def test_a_saved_run_gives_the_same_page(result, page, tmp_path):
    reloaded = BenchmarkResult.load(result.save(tmp_path / "run"))
    assert Page(render_report(reloaded)).tables == page.tables


def test_the_same_result_gives_the_same_bytes(result, html):
    assert render_report(result) == html


def test_nothing_is_loaded_from_elsewhere(page):
    # xmlns names a vocabulary; nothing is fetched from it.
    values = [
        value
        for _, name, value in page.attributes
        if value and not name.startswith("xmlns") and not value.startswith("data:")
    ]
    assert not [value for value in values if re.search(r"//|^\s*https?:|@import", value)]
    assert not {tag for tag, _, _ in page.attributes} & {"script", "iframe", "object", "embed"}


def test_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))


def test_figures_and_scrolling_tables_have_names_for_screen_readers(page):
    roles = [value for _, name, value in page.attributes if name == "role"]
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    assert roles.count("img") == 13  # 8 of draws
    assert len(labels) >= len(roles)
    assert all(labels)


def test_manifest_of_a_real_run_is_in_the_page(result, page):
    assert page.says(result.manifest["data"]["hash"])
    assert page.says(result.manifest["split"]["hash"])
    assert page.says(f'"numpy": "{np.__version__}"')


# -------------------------------------------------------------------- what may be lacking


def test_no_atlas(make_result):
    page = Page(render_report(make_result(roi_names=())))
    assert page.says("All voxels")
    assert not page.says("ROI by ROI")
    assert page.attributes.count(("div", "role", "img")) == 4  # no differences per ROI


def test_one_encoder(make_result):
    page = Page(render_report(make_result(["only"])))
    assert page.says("only reaches a mean voxelwise r")
    assert page.says("nothing to compare")
    assert "pairs" not in page.tables


def test_ten_encoders(make_result):
    names = [f"encoder {i}" for i in range(10)]
    page = Page(render_report(make_result(names, [f"roi {i}" for i in range(11)])))
    assert set(names) <= set(page.tables["voxel-scores"])
    assert len([row for row in page.tables["pairs"] if "−" in row]) == 45
    assert re.search(r"pairs with encoder \d only", " ".join("".join(page.text).split()))


def test_r_undefined_everywhere(make_result):
    result = make_result(["mean"])
    undefined = dict.fromkeys(["r", "r_low", "r_high"], np.nan)
    parts = {table: getattr(result, table).assign(**undefined) for table in ("encoders", "rois")}
    page = Page(render_report(make_result(["mean"], maps=result.maps.assign(r=np.nan), **parts)))
    assert page.tables["voxel-scores"]["mean"]["r"] == "–"
    assert page.says("“–”: undefined.")
    assert page.says("mean predicts the same for every image")
    assert page.says("No voxel has both a defined r and a noise ceiling.")


def test_no_noise_ceiling(make_result):
    result = make_result()
    parts = {
        table: getattr(result, table).assign(noise_ceiling=np.nan, r_normalized=np.nan)
        for table in ("encoders", "rois", "maps")
    }
    page = Page(render_report(make_result(**parts)))
    assert page.tables["voxel-scores"]["ridge"]["noise_ceiling"] == "–"
    assert page.says("its noise ceiling is unknown")
    assert page.attributes.count(("div", "role", "img")) == 4  # all but the scatter


def test_a_failed_encoder_is_listed_with_its_error(make_result):
    result = make_result(["ridge"])
    failed = pd.DataFrame([{"encoder": "broken", "error": "ValueError: <no> features"}])
    encoders = pd.concat([failed, result.encoders], ignore_index=True)
    page = Page(render_report(make_result(["ridge"], encoders=encoders)))
    assert page.tables["failed"]["broken"] == {"column 0": "ValueError: <no> features"}
    assert "broken" not in page.tables["voxel-scores"]


def test_every_encoder_failed():
    nothing = pd.DataFrame(columns=["encoder"])
    columns = ["encoder_a", "encoder_b", "metric", "atlas", "roi", "difference", "low", "high", "p"]
    result = BenchmarkResult(
        encoders=pd.DataFrame([{"encoder": "ridge", "error": "ValueError: no"}]),
        rois=pd.DataFrame(columns=["encoder", "atlas", "roi"]),
        pairs=pd.DataFrame(columns=columns),
        maps=nothing,
        voxels=nothing,
    )
    page = Page(render_report(result))
    assert page.says("No encoder could be scored.")
    assert page.tables["failed"]["ridge"] == {"column 0": "ValueError: no"}


def test_names_that_look_like_markup_or_formulas(make_result):
    names = ["<b>x</b>", 'a" onload="x', "$\\frac$", "{{ 7*7 }}", "_hidden", "模型", "a\x01b"]
    html = render_report(make_result(names, ["<i>V1</i>", "a & b"]))
    page = Page(html)
    assert {"<b>x</b>", 'a" onload="x', "{{ 7*7 }}", "模型"} <= set(page.tables["voxel-scores"])
    assert "onload" not in {name for _, name, _ in page.attributes}
    assert "<b>" not in html
    assert "<i>" not in html


def test_names_that_csv_takes_for_numbers(make_result, tmp_path):
    result = make_result(["1", "2.50"], ["10", "11"])
    read = {
        table: pd.DataFrame(getattr(result, table)).replace({"1": 1, "10": 10, "11": 11})
        for table in ("encoders", "rois", "pairs", "maps")
    }
    page = Page(render_report(make_result(**read)))
    assert {"1", "2.50"} <= set(page.tables["voxel-scores"])
    assert page.tables[None]["10"]["column 0"] == "40"


def test_warnings_come_first_and_long_lists_fold(make_result):
    sentences = [f"Warning number {i:02}." for i in range(20)]
    html = render_report(make_result(warnings=sentences))
    assert all(html.count(sentence) == 1 for sentence in sentences)
    assert html.index(sentences[0]) < html.index('id="voxel-scores"')
    assert "12 more" in html
    assert 'class="warnings"' not in render_report(make_result())


def test_long_arrays_in_the_manifest_are_cut(make_result):
    ceiling = {"estimator": "repeats", "n_trials": np.linspace(1, 3, 16_000)}
    page = Page(
        render_report(make_result(manifest={"noise_ceiling": ceiling, "seed": np.int64(3)}))
    )
    assert page.says("… 3.0] (16000 values)")
    assert json.dumps("seed") in "".join(page.text)


def test_page_of_a_whole_cortex_stays_small(make_result):
    html = render_report(make_result(["a", "b", "c", "d"], ["V1", "V2"], n_voxels=16_000))
    assert len(html) < 2e6  # 64 000 points as vectors would be some 8 MB


def test_contents_lead_to_every_section_and_to_no_other(html):
    listed = re.findall(r'<li><a href="#([\w-]+)">([^<]+)</a></li>', html)
    sections = re.findall(r'<h2 id="([\w-]+)">([^<]+)</h2>', html)
    assert listed == sections


def test_the_table_of_rois_is_open(html):
    assert re.search(r"<details open><summary>r per ROI in numbers", html)


def test_a_null_control_is_never_the_best(make_result):
    result = make_result(names=("ridge", "banded", "permuted"))
    result.encoders["control"] = ["", "", "permuted"]
    result.encoders["rdm_correlation"] = [0.1, 0.2, 0.3]
    rows = re.findall(r'<tr[^>]*><th class="name".*?</tr>', render_report(result), re.DOTALL)
    best = [row for row in rows if re.search(r'"best[^>]*data-metric="rdm_correlation"', row)]
    assert len(best) == 1
    assert "banded" in best[0]


def test_what_networks_add_to_ridge(make_result, tmp_path):
    """Shares of every encoder in its ROIs; an encoder that lacks an ROI has a dash."""
    columns = ["encoder", "roi", "n_voxels", "net_share"]
    rows = [("A", "all", 40, 0.25), ("A", "V1", 12, 0.125), ("B", "all", 40, 0.0)]
    shares = pd.DataFrame(rows, columns=columns)
    page = make_result().to_html(tmp_path / "page.html", net_shares=shares).read_text()
    table = page[page.index('<table id="net-shares-table">') :].split("</table>")[0]
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    assert cells == [
        ["ROI", "voxels", "A", "B"],
        ["all", "40", "0.250", "0.000"],
        ["V1", "12", "0.125", "–"],
    ]
    assert "net-shares-table" not in make_result().to_html(tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="net_shares lacks \\['net_share'\\]"):
        make_result().to_html(tmp_path / "page.html", net_shares=shares[columns[:3]])
