"""The part of the page about draws, and attention maps: numbers, sentences, what may be lacking."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from html_page import Page, shown

from brainenc.benchmarking import BenchmarkResult
from brainenc.benchmarking.result import DRAW_TABLES
from brainenc.report import render_report, text
from brainenc.report.draws import draw_panel, findings

TRUTH = "true distribution"


@pytest.fixture(scope="module")
def page(result, html):
    return Page(html)


# -------------------------------------------------------------------- tables of a real run


def test_scores_of_draws_are_those_of_the_table_references_included(result, page):
    whole = result.draws[result.draws["atlas"] == "all"]
    assert set(page.tables["draw-scores"]) >= set(whole["encoder"])
    assert whole["reference"].sum() == 3
    for row in whole.to_dict("records"):
        cells = page.tables["draw-scores"][row["encoder"]]
        for metric in ("crps_z", "energy", "variogram"):
            ends = row[f"{metric}_low"], row[f"{metric}_high"]
            assert cells[metric] == shown(row[metric], *ends)
        for metric in ("coverage_50", "coverage_90"):
            low, high = (100 * row[f"{metric}_{end}"] for end in ("low", "high"))
            assert cells[metric] == f"{100 * row[metric]:.1f}[{low:.1f},\u00a0{high:.1f}]"
        for metric in ("variance_slope", "variance_r"):
            low, high = (text.number(row[f"{metric}_{end}"], 2) for end in ("low", "high"))
            assert cells[metric] == f"{row[metric]:.2f}[{low},\u00a0{high}]"
        ends = row["noise_correlation_r_low"], row["noise_correlation_r_high"]
        assert cells["noise_correlation_r"] == shown(row["noise_correlation_r"], *ends)
        assert cells["noise_correlation_truth_r"] == shown(row["noise_correlation_truth_r"])
        if np.isnan(row["log_score"]):
            assert cells["log_score"] == "–"


def test_averages_of_draws_are_those_of_the_table(result, page):
    table = result.k_fairness.set_index(["encoder", "average"])
    kinds = list(dict.fromkeys(result.k_fairness["average"]))
    assert kinds == ["one draw", "mean of 200 draws", "prediction"]
    rows = page.tables["k-fairness"]
    assert "ridge + resampled residuals" not in rows
    for name in ("ridge", "banded", TRUTH):
        cells = list(rows[name].values())
        for i, kind in enumerate(kinds):
            if (name, kind) not in table.index:
                assert cells[3 * i : 3 * i + 3] == ["–"] * 3
                continue
            row = table.loc[name, kind]
            expected = [
                shown(row["r"], row["r_low"], row["r_high"]),
                shown(row["r_normalized"]),
                shown(row["mse_z"]),
            ]
            assert cells[3 * i : 3 * i + 3] == expected
    bounds = list(rows["ceiling, floor"].values())
    of_ridge = [table.loc["ridge", kind] for kind in kinds]
    assert bounds[::3] == [shown(row["noise_ceiling"]) for row in of_ridge]
    assert bounds[2::3] == [shown(row["mse_z_floor"]) for row in of_ridge]


def test_differences_of_draws_are_listed_better_encoder_first(result, page):
    whole = result.draws[result.draws["atlas"] == "all"].set_index("encoder")
    names = [row for row in page.tables["draw-pairs"] if "−" in row]
    encoders = list(result.encoders["encoder"])
    # 3 pairs of encoders, and each encoder with each of 3 reference rows
    assert len(names) == 3 + 3 * 3
    for name in names:
        a, b = name.split(" − ")
        assert a in encoders
        if b in encoders:
            assert whole.loc[a, "crps_z"] <= whole.loc[b, "crps_z"]
    pairs = result.draw_pairs.query("roi == 'all' and metric == 'energy'")
    pair = pairs[(pairs["encoder_a"] == "ridge") & (pairs["encoder_b"] == TRUTH)].iloc[0]
    # The last metric of a pair is the one that stays in the parsed row.
    assert page.tables["draw-pairs"][f"ridge − {TRUTH}"]["difference"] == shown(pair["difference"])


def test_the_finding_is_in_the_answer_and_in_its_part(result, page):
    whole = result.draws[result.draws["atlas"] == "all"].set_index("encoder")
    assert whole.loc["ridge", "coverage_90"] == pytest.approx(0.9, abs=0.02)
    best = result.encoders.sort_values("r", ascending=False)["encoder"].iloc[0]
    said = f"{100 * whole.loc[best, 'coverage_90']:.1f} % of held-out trials"
    assert page.says(f"Draws of {best} are calibrated: {said} lie inside their 90 % intervals.")
    assert page.says(f"itself gets {whole.loc[TRUTH, 'crps_z']:.3f}")


NEW_NAMES = {
    "ridge + independent Gaussian residuals": "ridge, noise by voxel",
    "ridge + resampled residuals": "ridge, bootstrapped",
    "true distribution": "oracle",
}
NEW_AVERAGES = {"one draw": "single", "mean of 200 draws": "of 200", "prediction": "expected"}


def renamed(result):
    """The result with other names of the reference rows and averages in every table."""
    tables = {name: getattr(result, name).replace(NEW_NAMES) for name in DRAW_TABLES}
    tables["k_fairness"] = tables["k_fairness"].replace({"average": NEW_AVERAGES})
    return replace(result, **tables)


def test_reference_rows_and_averages_are_found_by_kind_and_not_by_name(result, html, page):
    changed = render_report(renamed(result))
    other = Page(changed)
    of_truth = result.draws.set_index(["encoder", "roi"]).loc[(TRUTH, "all"), "crps_z"]
    assert other.says(f"the oracle itself gets {of_truth:.3f}")
    assert page.says("its difference from ridge + independent Gaussian residuals is")
    assert other.says("its difference from ridge, noise by voxel is")
    new = NEW_NAMES | NEW_AVERAGES
    for table in ("draw-scores", "k-fairness"):
        before = {new.get(row, row): cells for row, cells in page.tables[table].items()}
        after = other.tables[table]
        assert list(after) == list(before)
        assert [list(c.values()) for c in after.values()] == [
            list(c.values()) for c in before.values()
        ]
    # The truth has its panels, and differences from reference rows have short names.
    before, after = (
        " ".join(re.findall("<svg.*?</svg>", text, re.DOTALL)) for text in (html, changed)
    )
    for name in ("ridge (resampled)", "ridge (independent)", TRUTH):
        assert after.count(NEW_NAMES.get(name, name)) == before.count(name) > 0


def test_a_result_saved_before_kinds_had_columns_has_the_same_report(result, html, tmp_path):
    folder = result.save(tmp_path / "run")
    columns = {"draws": ["reference_kind", "reference_of"], "k_fairness": ["average_kind"]}
    for table, added in columns.items():
        former = pd.read_csv(folder / f"{table}.csv", dtype=str, keep_default_na=False)
        former.drop(columns=added).to_csv(folder / f"{table}.csv", index=False)
    content = json.loads((folder / "manifest.json").read_text())
    for new in ("files", "checksum"):
        content.pop(new)
    (folder / "manifest.json").write_text(json.dumps(content))
    loaded = BenchmarkResult.load(folder)
    for table in columns:
        pd.testing.assert_frame_equal(
            getattr(loaded, table), getattr(result, table), check_dtype=False
        )
    assert render_report(loaded) == html


# -------------------------------------------------------------------- sentences and bold


def draws_of(coverage, crps=None, reference=()):
    rows = [
        {"encoder": name, "atlas": "all", "roi": "all", "coverage_90": covered}
        | {"crps_z": (crps or {}).get(name, 0.5), "reference": name in reference}
        for name, covered in coverage.items()
    ]
    return pd.DataFrame(rows)


def pair(a, b, low, high, metric="crps_z"):
    row = {"encoder_a": a, "encoder_b": b, "metric": metric, "atlas": "all", "roi": "all"}
    return row | {"difference": (low + high) / 2, "low": low, "high": high, "p": 0.1, "n_voxels": 9}


def test_draws_are_said_to_be_too_narrow_or_too_wide():
    draws = draws_of({"a": 0.881, "b": 0.879, "c": 0.921, "d": 0.919})
    text = " ".join(findings(draws, list("abcd"), pd.DataFrame([pair("a", "b", -1, 1)])))
    assert "<strong>a</strong> and <strong>d</strong> are calibrated: 88.1 % and 91.9 %" in text
    assert "<strong>b</strong> are too narrow: only 87.9 %" in text
    assert "<strong>c</strong> are too wide: as many as 92.1 %" in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.02, -0.01, "a real lead"),
        (-0.02, 0.01, "may well be chance"),
        (0.01, 0.02, "b is ahead"),
    ],
)
def test_a_lead_in_crps_is_called_real_only_where_its_interval_says_so(low, high, said):
    draws = draws_of({"a": 0.9, "b": 0.9}, {"a": 0.5, "b": 0.51})
    sentence = findings(draws, ["a", "b"], pd.DataFrame([pair("a", "b", low, high)]))[-1]
    assert said in sentence


def test_bold_are_the_best_and_those_it_may_lead_by_chance(make_result):
    names = ["a", "b", "c"]
    draws = draws_of(
        {**dict.fromkeys(names, 0.9), "truth": 0.9},
        {"a": 0.52, "b": 0.50, "c": 0.51, "truth": 0.4},
        reference=["truth"],
    )
    pairs = [pair("a", "b", 0.01, 0.03), pair("b", "c", -0.02, 0.001), pair("a", "c", -1, 1)]
    result = make_result(names, draws=draws, draw_pairs=pd.DataFrame(pairs))
    best = {name for name, metric in Page(render_report(result)).best if metric == "crps_z"}
    # b is lowest; c may be as good; a is close to c, but not to b. The truth takes no part.
    assert best == {"b", "c"}


# -------------------------------------------------------------------- what may be lacking


def test_without_draws_there_is_no_such_part(make_result):
    page = Page(render_report(make_result()))
    assert "draws" not in page.ids
    assert not page.says("CRPS")
    assert "attention" not in page.ids


def test_a_run_of_an_earlier_version_still_gives_a_page(result, tmp_path):
    folder = result.save(tmp_path / "run")
    content = json.loads((folder / "manifest.json").read_text())
    for table in DRAW_TABLES:
        (folder / f"{table}.csv").unlink()
        del content["n_rows"][table]
    del content["files"], content["checksum"]
    (folder / "manifest.json").write_text(json.dumps(content))
    page = Page(render_report(BenchmarkResult.load(folder)))
    assert "draws" not in page.ids
    assert "voxel-scores" in page.ids


def test_tables_that_are_empty_leave_out_what_they_show(result):
    empty = {name: pd.DataFrame(columns=["encoder"]) for name in DRAW_TABLES if name != "draws"}
    page = Page(render_report(replace(result, **empty)))
    assert "draw-scores" in page.ids
    assert "k-fairness" not in page.ids
    assert page.says("No encoder has draws that could be scored.")


def test_only_reference_rows_are_no_draws_of_encoders(result):
    only = result.draws[result.draws["reference"].astype(bool)]
    assert draw_panel(replace(result, draws=only), {}) is None


def test_no_atlas_and_one_encoder(make_result):
    one = make_result(["only"], roi_names=(), draws=draws_of({"only": 0.7}))
    page = Page(render_report(one))
    assert page.says("Draws of only are too narrow: only 70.0 % of held-out trials")
    assert page.says("nothing to compare")


def test_of_many_encoders_the_best_are_shown_and_that_is_said(make_result):
    names = [f"encoder {i}" for i in range(14)]
    crps = {name: 0.5 + 0.01 * i for i, name in enumerate(names)}
    pairs = [
        pair(a, b, -0.02, -0.01, metric)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        for metric in ("crps_z", "energy")
    ]
    draws = draws_of(dict.fromkeys(names, 0.9), crps)
    result = make_result(names, draws=draws, draw_pairs=pd.DataFrame(pairs))
    page = Page(render_report(result))
    assert page.says("The figures show the 12 encoders of best CRPS.")
    assert page.says("pairs with encoder 0 only")
    rows = [row for row in page.tables["draw-pairs"] if "−" in row]
    assert rows == [f"encoder 0 − {name}" for name in names[1:]]


# -------------------------------------------------------------------- attention


def test_attention_is_drawn_where_it_is_given(make_result, tmp_path):
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    maps = np.full((2, 2, 4, 4), 1 / 16)
    path = make_result().to_html(tmp_path / "page.html", attention=(images, maps, ["V1", "FFA"]))
    page = Page(path.read_text())
    assert "attention" in page.ids
    assert "figure-attention" in page.ids
    pooled = (images, maps[:, :, :1, :1], ["V1", "FFA"])
    page = Page(render_report(make_result(), attention=pooled))
    assert page.says("Features of one token have no place in the image to attend to.")


def test_attention_of_other_shapes_is_refused(make_result):
    images, maps = np.zeros((2, 8, 8, 3), dtype=np.uint8), np.full((2, 2, 4, 4), 1 / 16)
    with pytest.raises(ValueError, match=r"attention has 2 parts, not 3: \(images, maps, rois\)"):
        render_report(make_result(), attention=(images, maps))
    with pytest.raises(ValueError, match="there are 2 images and 1 rois"):
        render_report(make_result(), attention=(images, maps, ["V1"]))
