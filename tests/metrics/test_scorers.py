"""Scorers for scikit-learn's cross-validation and searches."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate

import brainenc
from brainenc.metrics import roi_scorer

LABELS = ["V1", "V1", "V2", "", "V2"]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 6))
    betas = X[:, None, :5] + rng.standard_normal((90, 3, 5))
    betas[::4, 2] = np.nan
    betas[::9, :, 1] = np.nan
    return X, betas


def averages(betas):
    present = np.isfinite(betas)
    n = present.sum(axis=1)
    return np.where(n > 0, np.where(present, betas, 0).sum(axis=1) / np.maximum(n, 1), np.nan)


@pytest.mark.parametrize("metric", ["r", "r2", "mse"])
def test_scores_are_those_of_the_voxels_of_the_roi(metric, problem):
    X, betas = problem
    encoder = brainenc.RidgeEncoder().fit(X[:60], betas[:60])
    predictions, targets = encoder.predict(X[60:]), averages(betas[60:])

    def score(voxel):
        present = np.isfinite(targets[:, voxel])
        ours, theirs = predictions[present, voxel].astype(float), targets[present, voxel]
        if metric == "r":
            return np.corrcoef(ours, theirs)[0, 1]
        return r2_score(theirs, ours) if metric == "r2" else -np.mean((ours - theirs) ** 2)

    of_voxels = [score(voxel) for voxel in range(5)]
    cases = [
        (roi_scorer(LABELS, "V1", metric=metric), [0, 1]),
        (roi_scorer(metric=metric), range(5)),
        (roi_scorer([True, False, False, True, False], metric=metric), [0, 3]),
        (roi_scorer([4, 2], metric=metric), [2, 4]),
    ]
    for scorer, voxels in cases:
        expected = np.mean([of_voxels[v] for v in voxels])
        assert scorer(encoder, X[60:], betas[60:]) == pytest.approx(expected, rel=1e-4)
        assert pickle.loads(pickle.dumps(scorer))(encoder, X[60:], betas[60:]) == scorer(
            encoder, X[60:], betas[60:]
        )


def test_scikit_learn_takes_them_with_repeats(problem):
    X, betas = problem
    encoder = brainenc.RidgeEncoder()
    found = cross_val_score(encoder, X, betas, cv=3, scoring=roi_scorer(metric="r2"))
    expected = []
    for train, test in KFold(3).split(X):
        predictions = encoder.fit(X[train], betas[train]).predict(X[test])
        expected.append(brainenc.metrics.r_squared(predictions, averages(betas[test])).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    both = cross_validate(encoder, X, betas, cv=3, scoring=roi_scorer(LABELS))
    assert {"test_V1", "test_V2"} <= set(both)
    search = GridSearchCV(
        encoder, {"alphas": [[1.0], [1e5]]}, cv=3, scoring=roi_scorer(LABELS), refit="V2"
    )
    assert search.fit(X, betas).best_params_ == {"alphas": [1.0]}


def test_plain_regressors_are_scored_too(problem):
    X, betas = problem
    targets = np.nan_to_num(averages(betas))
    scores = cross_val_score(Ridge(), X, targets, cv=3, scoring=roi_scorer(metric="r2"))
    np.testing.assert_allclose(scores, cross_val_score(Ridge(), X, targets, cv=3, scoring="r2"))


def test_a_score_that_is_undefined_is_nan(problem):
    X, betas = problem
    encoder = brainenc.MeanEncoder().fit(X, betas)
    assert np.isnan(roi_scorer()(encoder, X, betas))


@pytest.mark.parametrize(
    ("arguments", "metric", "message"),
    [
        ((), "rmse", "metric='rmse' must be one of"),
        ((LABELS, "V9"), "r", r"roi='V9' is not among the labels \['V1', 'V2'\]"),
        ((None, "V1"), "r", "needs the ROI of every voxel"),
        (([0, 1], "V1"), "r", "needs labels"),
    ],
)
def test_bad_arguments(arguments, metric, message):
    with pytest.raises(ValueError, match=message):
        roi_scorer(*arguments, metric=metric)


def test_labels_of_other_voxels_are_refused(problem):
    X, betas = problem
    encoder = brainenc.RidgeEncoder().fit(X, betas)
    with pytest.raises(ValueError, match="rois"):
        roi_scorer(["V1"] * 4, "V1")(encoder, X, betas)
