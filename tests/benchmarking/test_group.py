"""Groups of subjects: against SciPy on the subjects' results, and runs that do not match."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import brainenc
from brainenc.benchmarking import BenchmarkResult, GroupResult, group

FEW = {"n_bootstraps": 60, "n_permutations": 9, "n_draws": 0, "controls": False, "check": False}
FEW |= {"verbose": False}
KEY = ["encoder_a", "encoder_b", "metric", "atlas", "roi"]


def subject(i, n_images=80, n_voxels=20):
    return brainenc.datasets.simulate_subject(n_images, n_voxels, random_state=i, verbose=False)


def encoders():
    return {
        "Gabor": brainenc.RidgeEncoder(brainenc.GaborPyramid(verbose=False)),
        "pixels": brainenc.RidgeEncoder(brainenc.PixelFeatures(size=8, verbose=False)),
    }


@pytest.fixture(scope="module")
def found():
    """Four simulated subjects, by the lines of a user."""
    subjects = {f"subject {i}": subject(i) for i in range(4)}
    return brainenc.benchmark(subjects, encoders(), cv=3, **FEW)


def changed(result, tables=None, settings=None, **manifest):
    """A result with other tables, settings and parts of its manifest."""
    content = json.loads(json.dumps(result.manifest, default=str)) | manifest
    content["settings"] |= settings or {}
    return dataclasses.replace(result, manifest=content, warnings=[], **(tables or {}))


def test_four_subjects_take_five_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = FEW
    lines = """\
import brainenc
subjects = {f"subject {i}": brainenc.datasets.simulate_subject(60, 10, random_state=i) for i in range(4)}
found = brainenc.benchmark(subjects, {"Gabor": brainenc.RidgeEncoder(brainenc.GaborPyramid())}, **few)
print(brainenc.group(found.results, test="signflip").pairs)
found.to_html("group.html")"""  # noqa: E501
    assert len(lines.splitlines()) == 5
    exec(lines, {"few": few})
    assert "4 subjects" in (tmp_path / "group.html").read_text()


def test_differences_are_tested_as_scipy_does(found):
    for metric in ("r", "r2", "mse_z"):
        scores = found.subjects.pivot(index="subject", columns="encoder", values=metric)
        row = found.pairs.query(
            "metric == @metric and roi == 'all' and encoder_a == 'Gabor' and encoder_b == 'pixels'"
        ).iloc[0]
        expected = stats.ttest_rel(scores["Gabor"], scores["pixels"])
        # All voxels are defined for both, so that the difference is that of the means.
        assert row["statistic"] == pytest.approx(expected.statistic, rel=1e-6)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-6)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    own = found.subject_pairs.query("metric == 'r' and encoder_a == 'Gabor'")
    of_gabor = found.pairs.query("metric == 'r' and encoder_a == 'Gabor'").set_index("roi")
    for key, of_roi in own.groupby("roi"):
        row = of_gabor.loc[key]
        assert row["p"] == pytest.approx(stats.ttest_1samp(of_roi["difference"], 0).pvalue)
        credible = (of_roi["low"] > 0) if row["difference"] > 0 else (of_roi["high"] < 0)
        assert row["prevalence"] == f"{credible.sum()} of 4"
        assert row["n_voxels"] == of_roi["n_voxels"].sum()


def test_the_table_has_the_columns_of_a_run_and_more(found):
    of_run = list(found.results["subject 0"].pairs)
    assert list(found.pairs)[: len(of_run)] == of_run
    assert {"n_subjects", "statistic", "p_min", "q", "prevalence"} <= set(found.pairs)
    assert not found.pairs.duplicated(KEY).any()
    rois = found.pairs[(found.pairs["roi"] != "all") & found.pairs["p"].notna()]
    for _, family in rois.groupby(["encoder_a", "encoder_b", "metric", "atlas"]):
        expected = stats.false_discovery_control(family["p"])
        np.testing.assert_allclose(family["q"], expected)


def test_other_tests_take_the_same_differences(found):
    columns = [*KEY, "difference", "n_voxels", "n_subjects", "n_credible"]
    flips = group(found.results, test="signflip").pairs
    images = group(found.results, test="hierarchical").pairs
    for other in (flips, images):
        pd.testing.assert_frame_equal(other[columns], found.pairs[columns])
    defined = flips["p"].notna()
    assert (flips.loc[defined, "p_min"] == 0.125).all()
    assert (flips.loc[defined, "p"] >= 0.125).all()
    # At least as large as by t, up to the noise of the bootstrap.
    ratio = images.loc[defined, "p"] / found.pairs.loc[defined, "p"]
    assert (ratio > 0.9).all()


def test_a_subject_is_a_row(found):
    assert list(found.subjects["subject"].unique()) == [f"subject {i}" for i in range(4)]
    for name, result in found.results.items():
        row = found.subjects.set_index(["subject", "encoder"]).loc[(name, "Gabor")]
        own = result.encoders.set_index("encoder").loc["Gabor"]
        assert row["r"] == own["r"]
    means = found.subjects.groupby("encoder")["r"].mean()
    whole = found.encoders.set_index("encoder")
    np.testing.assert_allclose(whole["r"], means[whole.index])
    assert (whole["n_subjects"] == 4).all()


def test_order_of_encoders_does_not_matter(found):
    turned = {}
    for i, (name, result) in enumerate(found.results.items()):
        pairs = result.pairs
        if i == 2:
            new = pairs.rename(columns={"encoder_a": "encoder_b", "encoder_b": "encoder_a"})
            new = new[list(pairs)].assign(
                difference=-pairs["difference"], low=-pairs["high"], high=-pairs["low"]
            )
            samples = -result.pair_samples
            result = changed(result, {"pairs": new, "pair_samples": samples})
        turned[name] = result
    for test in ("t", "hierarchical"):
        pd.testing.assert_frame_equal(
            group(turned, test=test).pairs, group(found.results, test=test).pairs
        )


def test_rois_of_some_subjects_are_used_where_two_have_them(found):
    results = dict(found.results)
    for name in ("subject 0", "subject 1", "subject 2"):
        result = results[name]
        kept = {
            table: getattr(result, table)[getattr(result, table)["roi"] != "FFA"]
            for table in ("pairs", "rois")
        }
        if name != "subject 2":
            kept = {t: table[table["roi"] != "PPA"] for t, table in kept.items()}
        results[name] = changed(result, kept)
    other = group(results)
    rois = other.pairs.query("encoder_a == 'Gabor' and metric == 'r'").set_index("roi")
    assert "FFA" not in rois.index
    assert "FFA" not in set(other.rois["roi"])
    assert rois.loc["PPA", "n_subjects"] == 2
    own = found.subject_pairs.query(
        "encoder_a == 'Gabor' and metric == 'r' and roi == 'PPA'"
    ).set_index("subject")["difference"]
    expected = stats.ttest_1samp(own[["subject 2", "subject 3"]], 0)
    assert rois.loc["PPA", "p"] == pytest.approx(expected.pvalue)
    assert "ROIs of a single subject are left out: roi: FFA (subject 3)." in other.warnings
    assert any("not all 4 subjects have" in text and "PPA (2)" in text for text in other.warnings)


def test_other_encoders_and_settings_are_said(found):
    results = dict(found.results)
    lost = results["subject 3"]
    some = lost.pairs[(lost.pairs[["encoder_a", "encoder_b"]] != "pixels").all(axis=1)]
    tables = {"pairs": some, "encoders": lost.encoders[lost.encoders["encoder"] != "pixels"]}
    results["subject 3"] = changed(lost, tables, settings={"random_state": 1, "cv": 5})
    other = group(results)
    row = other.pairs.query("encoder_a == 'Gabor' and encoder_b == 'pixels' and roi == 'all'")
    assert (row["n_subjects"] == 3).all()
    assert any("pixels is scored in 3 of 4 subjects, not in subject 3" in t for t in other.warnings)
    assert "cv differs between the runs: 3 (subject 0, subject 1, subject 2), 5 (subject 3)." in (
        other.warnings
    )
    assert any(text.startswith("random_state differs") for text in other.warnings)
    assert found.warnings == []


def vertices(result, first):
    maps = result.maps.copy()
    maps["vertex"] = maps["voxel"] + first
    maps["hemisphere"] = np.where(maps["voxel"] < 10, "left", "right")
    return changed(result, {"maps": maps})


def test_maps_are_means_at_the_vertices_of_fsaverage(found, tmp_path):
    results = {name: vertices(result, 5 * i) for i, (name, result) in
               enumerate(found.results.items())}  # fmt: skip
    other = group(results)
    here = other.maps.query("encoder == 'Gabor' and hemisphere == 'lh'").set_index("vertex")
    own = {
        name: result.maps.query("encoder == 'Gabor' and hemisphere == 'left'").set_index("vertex")
        for name, result in results.items()
    }
    assert here.loc[7, "n_subjects"] == 2  # voxels 0 … 9 of subject i are vertices 5 i …
    expected = np.mean([own["subject 0"].loc[7, "r"], own["subject 1"].loc[7, "r"]])
    assert here.loc[7, "r"] == pytest.approx(expected)
    page = other.to_html(tmp_path / "group.html").read_text()
    assert "On the cortex" in page
    results["subject 3"] = found.results["subject 3"]
    assert "Maps of the cortex are without subject 3." in group(results).warnings


def test_a_group_is_saved_and_read(found, tmp_path):
    folder = found.save(tmp_path / "group")
    loaded = GroupResult.load(folder)
    for table in ("pairs", "subject_pairs", "encoders", "rois", "subjects", "maps"):
        pd.testing.assert_frame_equal(
            getattr(loaded, table), getattr(found, table), check_dtype=False
        )
    assert loaded.warnings == found.warnings
    assert loaded.to_html(tmp_path / "a.html").read_text() == (
        found.to_html(tmp_path / "b.html").read_text()
    )
    pairs = folder / "pairs.csv"
    pairs.write_text(pairs.read_text().replace("Gabor", "gabor"))
    with pytest.raises(ValueError, match=r"pairs\.csv is damaged or was changed"):
        GroupResult.load(folder)
    assert "gabor" in set(GroupResult.load(folder, verify=False).pairs["encoder_a"])
    with pytest.raises(FileNotFoundError, match="the folder of a group"):
        GroupResult.load(tmp_path)


def test_runs_of_subjects_are_below_the_folder_of_the_group(tmp_path):
    subjects = {"a/b": subject(0, 40, 10), "a b": subject(1, 40, 10)}
    pixels = {"pixels": encoders()["pixels"]}
    found = brainenc.benchmark(subjects, pixels, cv=2, out=tmp_path / "out", **FEW)
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert runs == ["a_b", "a_b_"]
    named = {"a/b": tmp_path / "out" / "a_b", "a b": tmp_path / "out" / "a_b_"}
    again = brainenc.group(named)
    pd.testing.assert_frame_equal(again.pairs, found.pairs)
    # The hierarchical test finds the samples in the folders.
    pd.testing.assert_frame_equal(
        brainenc.group(named, test="hierarchical").pairs,
        brainenc.group(found.results, test="hierarchical").pairs,
    )
    pd.testing.assert_frame_equal(GroupResult.load(tmp_path / "out").pairs, found.pairs)
    with pytest.raises(FileExistsError, match="holds a run of one subject"):
        found.save(named["a b"])


def test_values_per_subject():
    subjects = {"x": subject(0, 40, 10), "y": subject(1, 50, 10)}
    ridge = {"ridge": brainenc.RidgeEncoder(features=None)}
    tokens = {name: data.truth.tokens for name, data in subjects.items()}
    test = {"x": np.arange(10), "y": np.arange(20)}
    found = brainenc.benchmark(subjects, ridge, features=tokens, test=test, **FEW)
    n_tested = {name: run.folds["fold"].notna().sum() for name, run in found.results.items()}
    assert n_tested == {"x": 10, "y": 20}
    with pytest.raises(ValueError, match=r"test has values for \['x'\], but the subjects are"):
        brainenc.benchmark(subjects, ridge, features=tokens, test={"x": [0, 1]}, **FEW)
    with pytest.raises(ValueError, match=r"^subject 'y': features has 40 rows"):
        brainenc.benchmark(subjects, ridge, features=tokens["x"], **FEW)


def refusal(results, **given):
    with pytest.raises((ValueError, TypeError)) as error:
        group(results, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_runs_that_make_no_group_are_refused(found):
    one, two = found.results["subject 0"], found.results["subject 1"]
    assert "at least 2 subjects, got 1" in refusal({"a": one})
    assert "test='z' must be one of 't'" in refusal(found.results, test="z")
    assert "'a' and 'b' are runs of the same data" in refusal({"a": one, "b": one})
    assert "two runs are of data of the name 'simulated': give a dict" in refusal([one, two])
    assert "one name as text" in refusal({1: one, "1": two})
    assert "must be a dict of subject to BenchmarkResult" in refusal(one)
    assert "the result of subject 'b' must be a BenchmarkResult" in refusal({"a": one, "b": 3})
    unfinished = changed(two, unfinished=["Gabor"])
    assert "run of subject 'b' is not finished (Gabor to do)" in refusal(
        {"a": one, "b": unfinished}
    )
    kinds = {"encoders": {"Gabor": {"class": "LatentEncoder"}}}
    other = changed(two, settings=kinds)
    assert "encoder 'Gabor' is RidgeEncoder (a), LatentEncoder (b)" in refusal(
        {"a": one, "b": other}
    )
    renamed = two.pairs.replace({"Gabor": "G", "pixels": "P", "mean": "M"})
    apart = changed(two, {"pairs": renamed})
    assert "no two encoders are in the runs of two subjects" in refusal({"a": one, "b": apart})
    former = changed(two, {"pair_samples": None})
    assert "subject 'b' has no bootstrap samples of differences" in refusal(
        {"a": one, "b": former}, test="hierarchical"
    )


def test_data_that_make_no_group_are_refused():
    data = subject(0, 40, 10)
    for given, message in (
        ([data, subject(1, 40, 10)], "two subjects have the name 'simulated': give a dict"),
        ({"a": data}, "at least 2 subjects, got 1"),
        ({"a": data, "b": data.betas}, "data of subject 'b' must be an EncodingData"),
        ("run.brain", "data must be an EncodingData, got str"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            brainenc.benchmark(given, encoders(), **FEW)


def test_other_parameters_of_an_encoder_are_said(found):
    one, two = found.results["subject 0"], found.results["subject 1"]
    described = json.loads(json.dumps(two.manifest["settings"]["encoders"], default=str))
    described["Gabor"]["parameters"]["alphas"] = [1.0]
    other = changed(two, settings={"encoders": described})
    warnings = group({"a": one, "b": other}).warnings
    assert "Gabor has other parameters in the runs of: a; b." in warnings
    assert isinstance(other, BenchmarkResult)
