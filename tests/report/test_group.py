"""The report of a group, and its figures."""

import numpy as np
import pandas as pd
import pytest

from brainenc.group_tables import GroupTables
from brainenc.report import NothingToDraw, group_forest, render_group, subject_lines

NAMES = ("best", "next <b>", "mean")
SUBJECTS = ("s1", "s2", "s3 & co")


def make_group(test="t", p=0.01, p_min=0.0, **changes):
    rng = np.random.default_rng(0)
    level = {"best": 0.4, "next <b>": 0.3, "mean": np.nan}
    subjects = [
        {"subject": subject, "encoder": name, "noise_ceiling": 0.7, "n_voxels": 9, "error": ""}
        | dict(zip(("r", "r_low", "r_high"), level[name] + np.array([0, -0.1, 0.1]), strict=True))
        for subject in SUBJECTS
        for name in NAMES
    ]

    def scores(name):
        return {"r": level[name], "r_low": level[name] - 0.1, "r_high": level[name] + 0.1} | {
            f"{metric}{end}": 0.5 for metric in ("r_normalized", "r2", "mse_z")
            for end in ("", "_low", "_high")
        } | {"noise_ceiling": 0.7, "n_subjects": 3, "n_voxels": 27}  # fmt: skip

    encoders = [{"encoder": name, **scores(name)} for name in NAMES]
    rois = [
        {"encoder": name, "atlas": "visual", "roi": roi, **scores(name)}
        for name in NAMES for roi in ("V1", "V2")
    ]  # fmt: skip
    places = [("all", "all"), ("visual", "V1"), ("visual", "V2")]
    pairs = [
        {"encoder_a": "next <b>", "encoder_b": "best", "metric": metric, "atlas": atlas, "roi": roi}
        | {"difference": -0.1, "low": -0.15, "high": -0.05, "p": p, "n_voxels": 27}
        | {"n_subjects": 3, "statistic": -4.5, "p_min": p_min, "q": 0.04 if roi == "V1" else 0.2}
        | {"n_same_sign": 3, "n_credible": 2, "prevalence": "2 of 3"}
        for metric in ("r", "mse_z")
        for atlas, roi in places
    ]
    own = [
        {"subject": subject, **row, "difference": rng.normal(-0.1, 0.02)}
        for row in pairs for subject in SUBJECTS
    ]  # fmt: skip
    tables = {
        "pairs": pd.DataFrame(pairs),
        "subject_pairs": pd.DataFrame(own),
        "encoders": pd.DataFrame(encoders),
        "rois": pd.DataFrame(rois),
        "subjects": pd.DataFrame(subjects),
        "maps": pd.DataFrame(columns=["encoder", "hemisphere", "vertex", "r", "n_subjects"]),
        "manifest": {"subjects": {name: {} for name in SUBJECTS}, "test": test},
    }
    return GroupTables(**(tables | changes))


def test_the_page_says_what_was_found():
    page = render_group(make_group(warnings=["cv <differs>."]))
    assert "<strong>best</strong> predicts best over 3 subjects" in page
    assert "Its lead over <strong>next &lt;b&gt;</strong> is 0.100 [0.050,\u00a00.150]" in page
    assert "a difference to expect in other subjects" in page
    assert "credible on its own in 2 of 3 subjects" in page
    assert "cannot give a p below" not in page
    assert "cv &lt;differs&gt;." in page
    assert "s3 &amp; co" in page
    assert page.count("4.50") >= 2  # the statistic turns with the pair
    assert "−4.50" not in page
    for loaded in ("http://", "https://"):
        assert loaded not in page.replace("http://www.w3.org", "")


def test_a_p_that_cannot_be_small_is_said():
    page = render_group(make_group(test="signflip", p=0.25, p_min=0.25))
    assert "which may be chance" in page
    assert "With 3 subjects this test cannot give a p below 0.25." in page


def test_groups_without_rois_or_pairs_have_a_page():
    whole = make_group()
    rois = whole.rois.iloc[:0]
    pairs = whole.pairs.assign(difference=np.nan, p=np.nan)
    page = render_group(make_group(rois=rois, pairs=pairs))
    assert "No two encoders have a defined difference" in page
    assert "ROI by ROI" not in page


def test_figures_show_every_subject():
    tables = make_group()
    figure = subject_lines(tables.subjects, tables.encoders)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(lines) == 3  # one line per subject, over the two encoders that have an r
    overall = tables.pairs[tables.pairs["roi"] == "all"]
    own = tables.subject_pairs[tables.subject_pairs["roi"] == "all"]
    figure = group_forest(overall, own)
    for axes, metric in zip(figure.axes, ("r", "mse_z"), strict=True):
        dots = axes.lines[1].get_xdata()
        np.testing.assert_allclose(dots, own[own["metric"] == metric]["difference"])
        assert metric == "r" or "left of 0" in axes.get_xlabel()


def test_nothing_to_draw_is_said():
    tables = make_group()
    with pytest.raises(NothingToDraw, match="no two encoders"):
        group_forest(tables.pairs.assign(difference=np.nan), tables.subject_pairs)
    with pytest.raises(NothingToDraw, match="undefined for every encoder"):
        subject_lines(tables.subjects, tables.encoders.assign(r=np.nan))
