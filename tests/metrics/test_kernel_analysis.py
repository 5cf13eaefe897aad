"""kernel_analysis: the closed form against refits, planted categories and chance, refusals."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from brainenc.metrics import kernel_analysis
from brainenc.metrics.kernel_analysis import _WIDTHS, _errors


def test_errors_are_those_of_refits_without_each_image():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((14, 3)), rng.standard_normal((14, 2))
    penalties = np.array([3.0, 0.1, 0.01])
    found = _errors(X, Y, penalties)
    distances = np.linalg.norm(X[:, None] - X, axis=-1)[np.triu_indices(14, 1)]
    for w, width in enumerate(np.quantile(distances, _WIDTHS)):
        for k, penalty in enumerate(penalties):
            errors = []
            for i in range(14):
                rest = np.arange(14) != i
                model = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / (2 * width**2))
                errors.append(Y[i] - model.fit(X[rest], Y[rest]).predict(X[i : i + 1])[0])
            assert found[w, k] == pytest.approx(np.square(errors).mean(), rel=1e-6)


def test_planted_categories_are_read_and_noise_is_at_chance():
    rng = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], 30)
    centres = 3 * rng.standard_normal((3, 10))
    X = np.repeat(centres, 30, axis=0) + rng.standard_normal((90, 10))
    good = kernel_analysis(X, labels)
    assert good.curve["precision"].max() > 0.9
    assert good.curve["complexity"].is_monotonic_increasing
    null = kernel_analysis(X, rng.permutation(labels))
    assert null.curve["precision"].max() < 0.05
    # A curved border: a ring around a disc has no linear map, and the kernel finds it.
    angle, radius = rng.uniform(0, 2 * np.pi, 90), np.repeat([1.0, 4.0], 45)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    assert kernel_analysis(ring, radius > 2).curve["precision"].max() > 0.9


def test_fewer_units_and_more_noise_lower_the_precision():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 40)
    X = 5 + 0.7 * labels[:, None] + rng.standard_normal((80, 30))
    whole = kernel_analysis(X, labels)
    few = kernel_analysis(X, labels, n_units=3)
    noisy = kernel_analysis(X, labels, noise=1.0)
    assert whole.auc > few.auc
    assert whole.auc > noisy.auc
    assert (few.n_units, whole.n_units) == (3, 30)
    assert np.isnan(whole.auc_sd)
    assert few.auc_sd > 0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"labels": ["a"] * 6}, "one category"),
        ({"labels": ["a", "b"]}, "2 categories for 6 images"),
        ({"n_units": 5}, "n_units=5"),
        ({"noise": -1}, "noise=-1"),
        ({"n_draws": 0}, "n_draws=0"),
    ],
)
def test_wrong_arguments_are_refused(how, message):
    X = np.random.default_rng(0).standard_normal((6, 4))
    with pytest.raises(ValueError, match=message):
        kernel_analysis(X, **{"labels": list("ababab"), **how})


def test_images_without_a_label_are_left_out():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 6))
    labels = [None] * 3 + ["a"] * 20 + [np.nan, None] + ["b"] * 15
    X[:3] = np.nan  # nor is data of theirs needed
    found = kernel_analysis(X, labels)
    known = np.array([isinstance(label, str) for label in labels])
    expected = kernel_analysis(X[known], np.array(labels, dtype=object)[known])
    np.testing.assert_array_equal(found.curve, expected.curve)
    assert found.n_images == 35
    with pytest.raises(ValueError, match="no category"):
        kernel_analysis(X, [None] * 40)
