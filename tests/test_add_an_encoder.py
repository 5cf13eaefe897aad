"""The encoder that the documentation shows as an example keeps the contract of all encoders."""

import warnings

import numpy as np
import pytest
import test_all_encoders as contract
from similar_images import SimilarImagesEncoder
from sklearn.utils.estimator_checks import estimator_checks_generator

# The contract's tests, run here on the encoder of this file.
from test_all_encoders import (  # noqa: F401
    problem,
    test_a_voxel_without_data_is_nan_and_harms_no_other,
    test_adapt_makes_a_new_encoder_and_leaves_the_old,
    test_bad_input_is_named,
    test_draws_scatter_around_the_prediction_as_held_out_trials_do,
    test_fit_and_sample_repeat_for_a_seed,
    test_predictions_come_in_the_units_of_the_betas,
    test_residual_variance_is_that_of_new_trials,
    test_scikit_learn_tools_take_three_axes_of_betas,
    test_token_features,
    test_unfitted_and_bad_counts,
)

import brainenc


@pytest.fixture
def encoder():
    return SimilarImagesEncoder()


def checks():
    for estimator, check in estimator_checks_generator(SimilarImagesEncoder()):
        function = getattr(check, "func", check).__name__
        reason = contract.EXPECTED_FAILURES.get(function)
        marks = pytest.mark.xfail(reason=reason, strict=True) if reason else ()
        yield pytest.param(estimator, check, id=function, marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn feeds degenerate data on purpose
        check(estimator)


def test_it_averages_what_a_slow_loop_averages(encoder, problem):  # noqa: F811
    X, betas, _ = problem
    holed = betas.copy()
    holed[:30, :, 2] = np.nan
    prediction = encoder.fit(X, holed).predict(X[:4])
    unit = 0.3 * np.sqrt(np.mean([np.sum((a - b) ** 2) for a in X for b in X]))
    for i in range(4):
        weight = np.array([np.exp(-np.sum((X[i] - x) ** 2) / unit**2 / 2) for x in X])
        average = np.nanmean(betas, axis=1)
        expected = np.average(average, axis=0, weights=weight)
        expected[2] = np.average(average[30:, 2], weights=weight[30:])
        np.testing.assert_allclose(prediction[i], expected, rtol=1e-4)  # float32


def test_an_image_unlike_all_others_gets_the_response_to_the_nearest(encoder, problem):  # noqa: F811
    X, betas, _ = problem
    far = 100 * X[:1]  # Gaussian weights of all training images underflow here
    nearest = np.linalg.norm(X - far, axis=1).argmin()
    expected = np.nanmean(betas[nearest], axis=0)
    np.testing.assert_allclose(encoder.fit(X, betas).predict(far)[0], expected, rtol=1e-5)


def test_it_is_loaded_when_its_class_is_named(encoder, problem, tmp_path):  # noqa: F811
    X, betas, _ = problem
    folder = encoder.fit(X, betas).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"classes=\[SimilarImagesEncoder\]"):
        brainenc.load(folder)
    loaded = brainenc.load(folder, classes=[SimilarImagesEncoder])
    np.testing.assert_array_equal(loaded.predict(X), encoder.predict(X))


def test_the_benchmark_takes_it_and_it_beats_the_mean():
    # Responses that depend on brightness alone, with noise of a third of the signal.
    rng = np.random.default_rng(0)
    brightness = rng.uniform(0, 200, 80)
    images = (brightness[:, None, None] + rng.uniform(0, 50, (80, 6, 6))).astype(np.uint8)
    betas = brightness[:, None, None] / 50 + 0.3 * rng.standard_normal((80, 2, 5))
    result = brainenc.benchmark(
        brainenc.EncodingData(images, betas),
        {"similar": SimilarImagesEncoder(brainenc.PixelFeatures())},
        n_bootstraps=20,
        n_permutations=20,
        verbose=False,
    )
    scores = result.encoders.set_index("encoder")
    # Ceiling of r about .98; an encoder blind to the image would be at 0 ± .1.
    assert scores.loc["similar", "r"] > 0.9
    assert scores.loc["similar", "mse_z"] < 0.2 * scores.loc["mean", "mse_z"]
