"""Encoders used as decoders, against brute-force Gaussians."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import brainenc
from brainenc.decoders.likelihood import pairwise_log_density
from brainenc.encoders import MeanEncoder
from brainenc.metrics import retrieval
from brainenc.model_selection import image_folds
from brainenc.noise.gaussian import ResidualNoise
from brainenc.repeats import average_repeats


def simulated(n=260, n_voxels=24, n_features=5, *, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, n_features)) + 1
    signal = features @ np.random.default_rng(9).standard_normal((n_features, n_voxels)) + 3
    shared = rng.standard_normal((n, 3, 1)) * np.linspace(1, 2, n_voxels)
    return signal[:, None] + shared + 2 * rng.standard_normal((n, 3, n_voxels)), features


@pytest.fixture(scope="module")
def problem():
    betas, features = simulated()
    encoder = brainenc.RidgeEncoder().fit(features[:200], betas[:200])
    return encoder, betas, features


def prefit(problem, method="ratio"):
    encoder, betas, features = problem
    decoder = brainenc.EncoderDecoder(encoder, method=method, prefit=True)
    return decoder.fit(betas[:200], features[:200])


def covariance(encoder, n_trials):
    return encoder.model_error_.covariance() + encoder.trial_noise_.covariance() / n_trials


@pytest.mark.parametrize("n_factors", [0, 3, 40])
def test_densities_of_all_pairs_are_those_of_scipy(n_factors):
    rng = np.random.default_rng(0)
    noise = ResidualNoise(rng.standard_normal((n_factors, 9)), rng.uniform(0.5, 2, 9))
    responses, expected = rng.standard_normal((4, 9)) + 50, rng.standard_normal((6, 9)) + 50
    found = pairwise_log_density(responses, expected, noise)
    for j, mean in enumerate(expected):
        wanted = multivariate_normal(mean, noise.covariance()).logpdf(responses)
        np.testing.assert_allclose(found[:, j], wanted, rtol=1e-9)


def test_likelihood_is_that_of_the_trials_that_are_there(problem):
    encoder, betas, features = problem
    decoder, tested = prefit(problem, "likelihood"), betas[200:].copy()
    tested[0, 1] = np.nan  # two trials
    tested[1, :, 5] = np.nan  # a voxel
    found = decoder.similarity(tested, features[200:])
    expected, averages = encoder.predict(features[200:]), average_repeats(tested)
    for row, n, voxels in ((0, 2, np.arange(24)), (1, 3, np.delete(np.arange(24), 5))):
        part = covariance(encoder, n)[np.ix_(voxels, voxels)]
        for column in (0, 7):
            wanted = multivariate_normal(expected[column, voxels], part).logpdf(
                averages[row, voxels]
            )
            assert found[row, column] == pytest.approx(wanted, rel=1e-5)


def test_the_ratio_subtracts_the_density_of_a_response_to_any_image(problem):
    encoder, betas, features = problem
    likelihood, ratio = (
        prefit(problem, method).similarity(betas[200:], features[200:])
        for method in ("likelihood", "ratio")
    )
    of_training = encoder.predict(features[:200])
    spread = np.cov(of_training.T, bias=True) + covariance(encoder, 3)
    anyone = multivariate_normal(of_training.mean(axis=0), spread).logpdf(
        average_repeats(betas[200:])
    )
    np.testing.assert_allclose(likelihood - ratio, np.repeat(anyone[:, None], 60, 1), rtol=1e-4)


def test_the_posterior_mean_is_that_of_the_joint_gaussian(problem):
    """Conditioning the joint normal of features and responses, with the weights of the encoder."""
    encoder, betas, features = problem
    found = prefit(problem).predict(betas[200:])
    centre = features[:200].mean(axis=0)
    C = np.cov(features[:200].T, bias=True)
    weights = encoder.predict(np.eye(5)) - encoder.predict(np.zeros((1, 5)))
    S = weights.T @ C @ weights + covariance(encoder, 3)
    residuals = average_repeats(betas[200:]) - encoder.predict(centre[None])
    wanted = centre + residuals @ np.linalg.solve(S, weights.T @ C)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    # Many images: factors outnumber voxels. Few: the other way of inverting.
    few = brainenc.EncoderDecoder(encoder, prefit=True).fit(betas[:12], features[:12])
    C = np.cov(features[:12].T, bias=True)
    S = weights.T @ C @ weights + covariance(encoder, 3)
    centre = features[:12].mean(axis=0)
    residuals = average_repeats(betas[200:]) - encoder.predict(centre[None])
    wanted = centre + residuals @ np.linalg.solve(S, weights.T @ C)
    np.testing.assert_allclose(few.predict(betas[200:]), wanted, atol=1e-3)


def test_it_identifies_better_than_correlation_and_by_average_better_than_by_trial(problem):
    _, betas, features = problem
    ids = np.arange(60)

    def scores(similarity):
        found = retrieval(similarity, query_ids=ids, candidate_ids=ids, pool_size=60, n_pools=1)
        return np.array([found.image_retrieval, found.brain_retrieval])

    by = {
        method: scores(prefit(problem, method).similarity(betas[200:], features[200:]))
        for method in ("likelihood", "ratio", "correlation")
    }
    assert (by["ratio"] > by["correlation"]).all()
    assert by["ratio"][0] == by["likelihood"][0]  # the same order of images for a response
    assert by["ratio"][1] >= by["likelihood"][1]
    trial = scores(prefit(problem).similarity(betas[200:, 0], features[200:]))
    assert (trial < by["ratio"]).all()


def test_an_encoder_is_fitted_as_it_is_alone(problem):
    _, betas, features = problem
    decoder = brainenc.EncoderDecoder(brainenc.RidgeEncoder()).fit(betas[:200], features[:200])
    found = decoder.similarity(betas[200:], features[200:])
    np.testing.assert_array_equal(found, prefit(problem).similarity(betas[200:], features[200:]))


def test_without_repeats_the_noise_is_that_of_single_trials(problem):
    _, betas, features = problem
    decoder = brainenc.EncoderDecoder(brainenc.RidgeEncoder(), method="likelihood")
    decoder.fit(betas[:200, 0], features[:200])
    encoder = decoder.encoder_
    found = decoder.similarity(betas[200:, 0], features[200:])
    wanted = multivariate_normal(
        encoder.predict(features[200:201])[0], encoder.noise_.covariance()
    ).logpdf(betas[200:, 0])
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-5)


class Sampler(brainenc.RidgeEncoder):
    """Ridge that draws its own trials: independent noise of s.d. 2 and the shared part."""

    sample_kind = "own"

    def _draw(self, features, n, rng, part):
        expected = self._predict(features)
        shared = rng.standard_normal((n, len(expected), 1)) * np.linspace(1, 2, 24)
        return expected + shared + 2 * rng.standard_normal((n, *expected.shape))


def test_a_sampler_is_used_by_its_draws(problem):
    _, betas, features = problem
    decoder = brainenc.EncoderDecoder(Sampler(), noise="draws", n_draws=40)
    decoder.fit(betas[:200], features[:200])
    drawn = decoder.noise_.trial
    wanted = 4 + np.linspace(1, 2, 24) ** 2
    np.testing.assert_allclose(drawn.variance, wanted, rtol=0.12)
    ids = np.arange(60)
    ours, theirs = (
        retrieval(
            one.similarity(betas[200:], features[200:]),
            query_ids=ids,
            candidate_ids=ids,
            pool_size=60,
            n_pools=1,
        )
        for one in (decoder, prefit(problem))
    )
    assert abs(ours.image_retrieval - theirs.image_retrieval) < 0.1


def test_an_encoder_that_predicts_the_same_for_all_images_is_at_chance_and_never_right():
    betas, features = simulated()
    for method in ("ratio", "correlation"):
        decoder = brainenc.EncoderDecoder(MeanEncoder(), method=method)
        decoder.fit(betas[:200], features[:200])
        ids = np.arange(60)
        found = retrieval(
            decoder.similarity(betas[200:], features[200:]),
            query_ids=ids,
            candidate_ids=ids,
            pool_size=60,
            n_pools=1,
        )
        if method == "ratio":
            assert found.image_retrieval == pytest.approx(1 / 60)
        else:
            assert np.isnan(found.image_retrieval)


def test_a_sampler_has_the_noise_of_held_out_repeats_and_of_its_draws_without_any(problem):
    _, betas, features = problem
    with_repeats = brainenc.EncoderDecoder(Sampler()).fit(betas[:200], features[:200])
    encoder = with_repeats.encoder_
    np.testing.assert_array_equal(with_repeats.noise_.trial.variance, encoder.trial_noise_.variance)
    single = brainenc.EncoderDecoder(Sampler()).fit(betas[:200, 0], features[:200])
    np.testing.assert_allclose(
        single.noise_.trial.variance, 4 + np.linspace(1, 2, 24) ** 2, rtol=0.15
    )


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({}, TypeError, "encoder=None must be an encoder"),
        ({"encoder": MeanEncoder(), "noise": "none"}, ValueError, "noise='none' must be"),
        ({"encoder": MeanEncoder(), "method": "cosine"}, ValueError, "method='cosine' must be"),
    ],
)
def test_parameters_that_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        brainenc.EncoderDecoder(**parameters).fit(*simulated())


def test_a_fitted_encoder_of_other_voxels(problem):
    encoder, betas, features = problem
    with pytest.raises(ValueError, match="20 voxels, but the encoder was fitted to 24"):
        brainenc.EncoderDecoder(encoder, prefit=True).fit(betas[..., :20], features)


def test_held_out_posterior_means_are_of_fits_without_the_image(problem_of_encoders):
    betas, features = problem_of_encoders
    decoder = brainenc.EncoderDecoder(brainenc.RidgeEncoder())
    found = decoder.fit_held_out(betas, features)
    assert found.shape == features.shape
    assert np.isfinite(found).all()
    seen = decoder.predict(betas)
    train, test = image_folds(5, len(betas))[2]
    alone = brainenc.EncoderDecoder(brainenc.RidgeEncoder()).fit(betas[train], features[train])
    np.testing.assert_array_equal(found[test], alone.predict(betas[test]))
    # Posterior means of images that the encoder and the prior have learnt are nearer.
    assert np.square(found - features).mean() > np.square(seen - features).mean()


def test_held_out_posterior_means_of_images_and_of_a_fitted_encoder(problem_of_encoders):
    betas, features = problem_of_encoders
    pictures = np.random.default_rng(1).integers(0, 256, (len(betas), 8, 8, 3), dtype=np.uint8)
    encoder = brainenc.RidgeEncoder(brainenc.PixelFeatures(4, verbose=False))
    found = brainenc.EncoderDecoder(encoder).fit_held_out(betas, pictures)
    assert np.isfinite(found).all()
    assert len(found) == len(betas)
    fitted = brainenc.RidgeEncoder().fit(features, betas)
    prefit = brainenc.EncoderDecoder(fitted, prefit=True)
    assert np.isnan(prefit.fit_held_out(betas, features)).all()


@pytest.fixture(scope="module")
def problem_of_encoders():
    """Betas (images, repeats, voxels) and features (images, features)."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((120, 6)).astype(np.float32)
    signal = features @ rng.standard_normal((6, 20))
    return (signal[:, None] + 3 * rng.standard_normal((120, 2, 20))).astype(np.float32), features
