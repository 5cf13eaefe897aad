"""The encoders that the documentation shows as examples keep the contract of all encoders."""

import warnings

import numpy as np
import pytest
import test_all_encoders as contract
from perceptron_encoder import Perceptron, PerceptronEncoder
from similar_images import SimilarImagesEncoder
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

# The contract's tests, run here on the encoders of this file.
from test_all_encoders import (  # noqa: F401
    learnt,
    problem,
    test_a_voxel_without_data_is_nan_and_harms_no_other,
    test_adapt_makes_a_new_encoder_and_leaves_the_old,
    test_bad_input_is_named,
    test_data_that_do_not_fit_leave_an_earlier_fit_alone,
    test_draws_scatter_around_the_prediction_as_held_out_trials_do,
    test_fit_and_sample_repeat_for_a_seed,
    test_predictions_come_in_the_units_of_the_betas,
    test_residual_variance_is_that_of_new_trials,
    test_scikit_learn_tools_take_three_axes_of_betas,
    test_score_is_the_mean_voxelwise_r_against_averages,
    test_unfitted_and_bad_counts,
)

import brainenc

EXAMPLES = {
    "similar": SimilarImagesEncoder(),
    "perceptron": PerceptronEncoder(device="cpu"),
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The contract's tests find out by the registry what an encoder is."""
    with pytest.MonkeyPatch.context() as patch:
        for name, example in EXAMPLES.items():
            patch.setitem(contract.ENCODERS, name, type(example).__name__)
        patch.setitem(contract.NETWORKS, "perceptron", lambda encoder: encoder.members_)
        yield


@pytest.fixture(params=list(EXAMPLES))
def encoder(request):
    return clone(EXAMPLES[request.param])


@pytest.fixture(scope="module", params=list(EXAMPLES))
def fitted(request, learnt):  # noqa: F811
    return clone(EXAMPLES[request.param]).fit(*learnt)


def checks():
    # Most checks have few images, for which the second example is ridge.
    for example in (SimilarImagesEncoder(), PerceptronEncoder(n_members=1, n_epochs=1)):
        for estimator, check in estimator_checks_generator(example):
            function = getattr(check, "func", check).__name__
            reason = contract.EXPECTED_FAILURES.get(function)
            marks = pytest.mark.xfail(reason=reason, strict=True) if reason else ()
            name = f"{type(example).__name__}-{function}"
            yield pytest.param(estimator, check, id=name, marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn feeds degenerate data on purpose
        check(estimator)


def test_tokens_are_laid_out_one_after_the_other(fitted, learnt):  # noqa: F811
    X, betas = learnt
    tokens = X.reshape(len(X), 3, 4)
    encoder = clone(fitted).fit(tokens, betas)
    np.testing.assert_allclose(encoder.predict(tokens), fitted.predict(X), rtol=1e-5)
    with pytest.raises(ValueError, match=r"12 features, but .* is expecting 3"):
        encoder.predict(X)


# -------------------------------------------------------------------- the first example


@pytest.fixture
def similar():
    return SimilarImagesEncoder()


def test_it_averages_what_a_slow_loop_averages(similar, problem):  # noqa: F811
    X, betas, _ = problem
    holed = betas.copy()
    holed[:30, :, 2] = np.nan
    prediction = similar.fit(X, holed).predict(X[:4])
    unit = 0.3 * np.sqrt(np.mean([np.sum((a - b) ** 2) for a in X for b in X]))
    for i in range(4):
        weight = np.array([np.exp(-np.sum((X[i] - x) ** 2) / unit**2 / 2) for x in X])
        average = np.nanmean(betas, axis=1)
        expected = np.average(average, axis=0, weights=weight)
        expected[2] = np.average(average[30:, 2], weights=weight[30:])
        np.testing.assert_allclose(prediction[i], expected, rtol=1e-4)  # float32


def test_an_image_unlike_all_others_gets_the_response_to_the_nearest(similar, problem):  # noqa: F811
    X, betas, _ = problem
    far = 100 * X[1:2]  # Gaussian weights of all training images underflow here
    nearest = np.linalg.norm(X - far, axis=1).argmin()
    expected = np.nanmean(betas[nearest], axis=0)
    np.testing.assert_allclose(similar.fit(X, betas).predict(far)[0], expected, rtol=1e-5)


def test_it_is_loaded_when_its_class_is_named(similar, problem, tmp_path):  # noqa: F811
    X, betas, _ = problem
    folder = similar.fit(X, betas).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"classes=\[SimilarImagesEncoder\]"):
        brainenc.load(folder)
    loaded = brainenc.load(folder, classes=[SimilarImagesEncoder])
    np.testing.assert_array_equal(loaded.predict(X), similar.predict(X))


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


# -------------------------------------------------------------------- the second example


@pytest.fixture(scope="module")
def curved():
    """Features of 320 images, betas, and their noiseless part, which no linear map gives."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((320, 2, 2)).astype(np.float32)
    signal = np.abs(X.reshape(320, 4) @ rng.standard_normal((4, 10))) + 4
    betas = signal[:, None] + 0.5 * rng.standard_normal((320, 2, 10))
    betas[rng.random((320, 2)) < 0.1] = np.nan
    return X, betas.astype(np.float32), signal


@pytest.fixture(scope="module")
def perceptron(curved):
    X, betas, _ = curved
    return PerceptronEncoder(n_epochs=60, device="cpu").fit(X[:200], betas[:200])


def squared_error(encoder, curved, voxels=slice(None)):
    """Mean squared error of the expected responses to the 120 images that were not learnt."""
    X, _, signal = curved
    return np.mean((encoder.predict(X[200:]) - signal[200:])[:, voxels] ** 2)


def test_a_network_learns_what_ridge_cannot(perceptron, curved):
    X, betas, signal = curved
    assert [type(net) for net in perceptron.members_] == [Perceptron] * 3
    assert perceptron.linear_ is None
    ridge = brainenc.RidgeEncoder().fit(X[:200], betas[:200])
    # |x| is even: a linear map predicts no better than the mean response.
    variance = np.mean((signal[200:] - np.nanmean(betas[:200], axis=(0, 1))) ** 2)
    assert squared_error(ridge, curved) > 0.9 * variance
    assert squared_error(perceptron, curved) < 0.3 * variance
    assert perceptron.predict(X).dtype == np.float32
    assert perceptron.predict(X).shape == (320, 10)


def test_sizes_of_the_network_are_parameters(curved):
    X, betas, _ = curved
    encoder = PerceptronEncoder(sizes={"hidden": 8}, n_members=1, n_epochs=1)
    encoder = clone(encoder).fit(X, betas)
    assert encoder.members_[0].sizes == dict(n_features=4, n_voxels=10, hidden=8, dropout=0.2)


def test_a_network_is_loaded_when_its_encoder_is_named(perceptron, curved, tmp_path):
    X = curved[0]
    folder = perceptron.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"classes=\[PerceptronEncoder\]"):
        brainenc.load(folder)
    loaded = brainenc.load(folder, classes=[PerceptronEncoder])
    # Weights at other places in memory: products may be summed in another order.
    np.testing.assert_allclose(loaded.predict(X), perceptron.predict(X), rtol=1e-5)
    assert loaded.get_params() == perceptron.get_params()


def test_a_voxel_that_lacks_data_does_not_spoil_the_network(perceptron, curved):
    X, betas, _ = curved
    holed = betas[:200].copy()
    holed[:, :, 3] = np.nan
    holed[:50, :, 2] = np.nan
    encoder = clone(perceptron).fit(X[:200], holed)
    prediction = encoder.predict(X[200:])
    assert np.isnan(prediction[:, 3]).all()
    assert np.isnan(encoder.sample(X[200:], 2, 0)[..., 3]).all()
    others = np.arange(10) != 3
    # Another training, about as good; a loss of NaN would end it, one of zeros would be learnt.
    whole = squared_error(perceptron, curved, others)
    assert squared_error(encoder, curved, others) < 1.2 * whole


def test_a_network_for_few_images_is_ridge_with_a_warning(curved):
    X, betas, _ = curved
    with pytest.warns(UserWarning, match="99 images, fewer than min_images=100: Perceptron"):
        encoder = PerceptronEncoder().fit(X[:99], betas[:99])
    assert encoder.members_ == []
    ridge = brainenc.RidgeEncoder().fit(X[:99], betas[:99])
    np.testing.assert_array_equal(encoder.predict(X), ridge.predict(X))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"outlier": 0}, r"outlier=0 must be more than 0"),
        ({"sizes": "published"}, r"sizes='published' must be one of \['auto'\]"),
        ({"n_members": 0}, "n_members=0 must be at least 1"),
    ],
)
def test_parameters_of_a_network_are_checked_before_it_is_trained(curved, parameters, message):
    X, betas, _ = curved
    with pytest.raises(ValueError, match=message):
        PerceptronEncoder(**parameters).fit(X, betas)
