"""The protocol of Brain-Score, against a loop over its definition and against known truth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from typer.testing import CliRunner

import brainenc
from brainenc.benchmarking.brain_score import COLUMNS, median_scores

FAST = {"n_bootstraps": 5, "n_permutations": 5, "n_draws": 0, "check": False, "verbose": False}
PLS = brainenc.PLSEncoder(None, n_components=3, standardize=False, cv=2)


def subject(n_images=120, n_voxels=12, noise=1.0, seed=0):
    """Signal of 8 features, half of its variance from the first four; 2 repeats; two ROIs."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_images, 8))
    W = rng.standard_normal((8, n_voxels))
    W[:4] /= np.sqrt(2) * np.linalg.norm(W[:4], axis=0)
    W[4:] /= np.sqrt(2) * np.linalg.norm(W[4:], axis=0)
    betas = (X @ W)[:, None] + noise * rng.standard_normal((n_images, 2, n_voxels))
    images = rng.integers(0, 256, (n_images, 8, 8), dtype=np.uint8)
    roi = np.where(np.arange(n_voxels) < n_voxels // 3, "V1", "FFA")
    return X, brainenc.EncodingData(images, betas, voxels=pd.DataFrame({"roi": roi}))


def split_half(betas):
    """Spearman–Brown of the correlation of random halves, mean over splits, (n_voxels,)."""
    rng, r = np.random.default_rng(9), []
    for _ in range(200):
        first = rng.integers(0, 2, (len(betas), 1, 1))
        halves = (np.take_along_axis(betas, i, axis=1)[:, 0].T for i in (first, 1 - first))
        r.append([stats.pearsonr(*pair)[0] for pair in zip(*halves, strict=True)])
    r = np.mean(r, axis=0)
    return 2 * r / (1 + r)


def test_it_is_the_loop_over_its_definition():
    X, data = subject()
    result = brainenc.benchmark(
        data, {"pls": PLS}, features=X, protocol="brain-score", random_state=3, **FAST
    )
    averages, r = data.betas.mean(axis=1), []
    for train, test in ShuffleSplit(10, test_size=0.1, random_state=3).split(X):
        train, test = np.sort(train), np.sort(test)
        fit = PLSRegression(3, scale=False).fit(X[train], averages[train])
        pairs = zip(fit.predict(X[test]).T, averages[test].T, strict=True)
        r.append([stats.pearsonr(*pair)[0] for pair in pairs])
    row = result.encoders.set_index("encoder").loc["pls"]
    median = np.median(np.mean(r, axis=0))
    assert row["brain_score_median_r"] == pytest.approx(median, abs=1e-6)
    # Correlations of halves differ by .02 between splits: their mean over 100 by .002.
    ceiling = row["brain_score_reliability"]
    assert ceiling == pytest.approx(np.median(split_half(data.betas)), abs=0.008)
    assert row["brain_score"] == pytest.approx(median**2 / ceiling, abs=1e-6)
    of_splits = np.median(r, axis=1) ** 2 / ceiling
    assert row["brain_score_sd"] == pytest.approx(of_splits.std(ddof=1), abs=1e-6)
    rois = result.rois.set_index(["encoder", "roi"])
    v1 = rois.loc[("pls", "V1")]
    expected = np.median(np.mean(r, axis=0)[:4]) ** 2 / v1["brain_score_reliability"]
    assert v1["brain_score"] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(result.encoders.set_index("encoder").loc["mean", "brain_score"])
    assert result.manifest["settings"]["protocol"] == "brain-score"


def test_a_share_of_the_signal_is_the_score_and_permuted_features_have_none():
    X, data = subject(1500, 60)
    order = np.random.default_rng(1).permutation(1500)
    ridge = brainenc.RidgeEncoder(None)
    result = brainenc.benchmark(
        data,
        {"all": ridge, "half": ridge, "none": ridge},
        features={"all": X, "half": X[:, :4], "none": X[order]},
        references=False,
        controls=False,
        protocol="brain-score",
        **FAST,
    )
    found = result.encoders.set_index("encoder")
    # Signal and noise of an average have variances 1 and .5: the best r² is 2/3, as is the
    # reliability. r of a voxel on 1500 images has an s.e. of about .02; .03 in the score.
    assert found.loc["all", "brain_score_reliability"] == pytest.approx(2 / 3, abs=0.03)
    assert found.loc["all", "brain_score"] == pytest.approx(1, abs=0.05)
    assert found.loc["half", "brain_score"] == pytest.approx(0.5, abs=0.05)
    assert abs(found.loc["none", "brain_score"]) < 0.005


@pytest.mark.parametrize(
    ("r", "reliability", "score"),
    [
        ([[0.6, 0.6, -1.0]], [0.5, 0.5, 0.5], 0.72),
        ([[-0.2, -0.2, -0.2]], [0.4, 0.4, 0.4], -0.1),
        ([[0.5, np.nan, np.nan]], [0.5, 0.5, 0.5], 0.5),
        ([[0.5, 0.5, 0.5]], [0.0, 0.0, 0.9], np.nan),
        ([[0.5, 0.5, 0.5]], [np.nan] * 3, np.nan),
        ([[np.nan] * 3], [0.5] * 3, np.nan),
    ],
)
def test_closed_forms(r, reliability, score):
    found = median_scores(np.array(r), np.array(reliability))
    assert set(found) == set(COLUMNS)
    assert found["brain_score"] == pytest.approx(score, nan_ok=True)
    assert np.isnan(found["brain_score_sd"])  # one split


def test_groups_stay_on_one_side_and_default_scores_keep_their_names():
    X, data = subject(60, 6)
    groups = np.arange(60) // 3
    result = brainenc.benchmark(
        data, {"pls": PLS}, features=X, groups=groups, protocol="brain-score", **FAST
    )
    expected = [
        np.sort(test)
        for _, test in GroupShuffleSplit(10, test_size=0.1, random_state=0).split(X, groups=groups)
    ]
    for fold, test in enumerate(expected):
        images = result.folds.loc[result.folds["fold"] == fold, "image"]
        np.testing.assert_array_equal(np.sort(images), test)
    plain = brainenc.benchmark(data, {"pls": PLS}, features=X, **FAST)
    assert set(result.encoders) == {*plain.encoders, *COLUMNS}
    assert not set(COLUMNS) & set(plain.encoders)
    assert "brain_score" in repr(result)
    assert "brain_score" not in repr(plain)


def test_what_it_cannot_be_combined_with_is_refused_and_no_repeats_are_said():
    X, data = subject(60, 6)
    for wrong in ({"cv": 3}, {"cv": "similar"}, {"test": np.arange(9)}):
        with pytest.raises(ValueError, match="random splits of its own"):
            brainenc.benchmark(
                data, {"pls": PLS}, features=X, protocol="brain-score", **wrong, **FAST
            )
    with pytest.raises(ValueError, match="protocol='brainscore' is unknown: give 'brain-score'"):
        brainenc.benchmark(data, {"pls": PLS}, features=X, protocol="brainscore", **FAST)
    single = brainenc.EncodingData(data.images, data.betas[:, 0])
    result = brainenc.benchmark(single, {"pls": PLS}, features=X, protocol="brain-score", **FAST)
    assert result.encoders["brain_score"].isna().all()
    assert np.isfinite(result.encoders.set_index("encoder").loc["pls", "brain_score_median_r"])
    assert any("brain_score is undefined" in warning for warning in result.warnings)


def test_it_is_kept_in_the_folder_and_on_the_command_line(tmp_path):
    from brainenc.cli import app

    _, data = subject(60, 6)
    path, out = tmp_path / "subject.npz", tmp_path / "run"
    np.savez(path, images=data.images, betas=data.betas)
    options = ["--n-bootstraps", "5", "--n-permutations", "5", "--n-draws", "0", "--no-check"]
    command = ["benchmark", str(path), "--features", "pixels", "--out", str(out), "--quiet"]
    done = CliRunner().invoke(app, [*command, *options, "--protocol", "brain-score"])
    assert done.exit_code == 0, done.output
    table = brainenc.BenchmarkResult.load(out).encoders
    assert set(COLUMNS) <= set(table)
    assert "brain_score" in done.output
