"""Scorers for scikit-learn's cross-validation and searches."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import brainenc
from brainenc.metrics import BetasWithRepeats, roi_scorer

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


def test_scorers_of_scikit_learn_get_averages_and_encoders_get_repeats(problem):
    X, betas = problem
    betas = np.delete(betas, 1, axis=2)  # the voxel that lacks images
    y = BetasWithRepeats(betas)
    encoder = Seen()
    Seen.shapes.clear()
    found = cross_validate(
        encoder, X, y, cv=3, scoring={"r2": "r2", "mse": "neg_mean_squared_error"}
    )
    assert Seen.shapes == [(60, 3, 4)] * 3
    for k, (train, test) in enumerate(KFold(3).split(X)):
        predictions = brainenc.RidgeEncoder().fit(X[train], betas[train]).predict(X[test])
        targets = averages(betas[test])
        errors = np.square(targets - predictions).sum(axis=0)
        r2 = 1 - errors / np.square(targets - targets.mean(axis=0)).sum(axis=0)
        assert found["test_r2"][k] == pytest.approx(r2.mean(), rel=1e-5)
        assert found["test_mse"][k] == pytest.approx(-errors.mean() / len(test), rel=1e-5)
    ours = cross_val_score(encoder, X, y, cv=3, scoring=roi_scorer(metric="r2"))
    np.testing.assert_allclose(ours, found["test_r2"], rtol=1e-5)
    np.testing.assert_array_equal(
        cross_val_score(encoder, X, y, cv=3), cross_val_score(encoder, X, betas, cv=3)
    )
    search = GridSearchCV(encoder, {"alphas": [[1.0], [1e5]]}, cv=3, scoring="r2")
    assert search.fit(X, y).best_params_ == {"alphas": [1.0]}
    pipeline = make_pipeline(StandardScaler(), brainenc.RidgeEncoder())
    assert cross_val_score(pipeline, X, y, cv=3, scoring="r2").mean() > 0.2


class Seen(brainenc.RidgeEncoder):
    """Ridge that notes the shapes of betas that it is fitted to."""

    shapes: list[tuple[int, ...]] = []  # noqa: RUF012

    def _fit(self, features, betas):
        Seen.shapes.append(betas.shape)
        return super()._fit(features, betas)


def test_betas_with_repeats_are_indexed_by_images(problem):
    _, betas = problem
    y = BetasWithRepeats(betas)
    assert (len(y), y.shape, y.ndim, y.dtype) == (90, (90, 5), 2, np.float64)
    np.testing.assert_array_equal(np.asarray(y), averages(betas))
    mask = np.arange(90) % 2 == 0
    for index in (mask, np.array([3, 1]), [3, 1], slice(2, 9), (np.array([3, 1]), ...)):
        rows = index[0] if isinstance(index, tuple) else index
        np.testing.assert_array_equal(y[index].betas, betas[rows])
        assert y[index].shape == (len(betas[rows]), 5)
    np.testing.assert_array_equal(y[4].betas, betas[[4]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(y)).betas, betas)
    with pytest.raises(IndexError, match="by images alone"):
        y[:, 2]
    assert BetasWithRepeats(y).betas is y.betas
    assert np.asarray(BetasWithRepeats(betas[:, 0])).shape == (90, 5)
