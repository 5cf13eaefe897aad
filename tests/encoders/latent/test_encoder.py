"""LatentEncoder: never worse than ridge, better where it can be, with calibrated draws."""

import signal

import numpy as np
import pytest
import scipy
import torch
from scipy.optimize import minimize
from sklearn.exceptions import NotFittedError
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel

import brainenc
from brainenc.encoders import LatentEncoder, RidgeEncoder
from brainenc.encoders import tokens as token_features
from brainenc.encoders.latent import kernel, maps
from brainenc.encoders.latent import latents as find
from brainenc.encoders.latent.kernel import KernelFeatures
from brainenc.encoders.latent.variances import log_variances
from brainenc.metrics import correlation
from brainenc.nets import losses
from brainenc.noise.estimates import fit_trial_noise
from brainenc.noise.gaussian import ResidualNoise
from brainenc.repeats import average_repeats
from brainenc.training import TrainingError

#: Transformers are trained even if they are not worth their time, as in so few epochs.
FAST = {"n_latents": 6, "hidden": 16, "n_members": 2, "n_epochs": 3, "least_gain": 0}


def simulated(n_images=160, n_voxels=24, n_repeats=3, noise_sd=1.0, seed=0, nonlinear=True):
    """Tokens and betas; every voxel mixes five features, each looked for in all six tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n_images, 6, 10)).astype(np.float32)
    found = tokens @ rng.standard_normal((10, 5))
    features = found.max(axis=1) if nonlinear else found.mean(axis=1)
    features = (features - features.mean(0)) / features.std(0)
    signal_part = features @ rng.standard_normal((5, n_voxels)) / np.sqrt(5) + 2
    noise = noise_sd * rng.standard_normal((n_images, n_repeats, n_voxels))
    return tokens, (signal_part[:, None] + noise).astype(np.float32), signal_part


@pytest.fixture(scope="module")
def problem():
    tokens, betas, _ = simulated()
    betas[np.random.default_rng(1).random(betas.shape[:2]) < 0.1] = np.nan
    return tokens, betas


@pytest.fixture(scope="module")
def fitted(problem):
    return LatentEncoder(**FAST).fit(*problem)


# ------------------------------------------------------------------ prediction


@pytest.mark.slow
def test_it_beats_ridge_where_the_truth_is_nonlinear_in_the_tokens():
    tokens, betas, truth = simulated(700, 40)
    train, test = slice(500), slice(500, None)
    ours = LatentEncoder(n_members=3).fit(tokens[train], betas[train]).predict(tokens[test])
    ridge = RidgeEncoder().fit(tokens[train], betas[train]).predict(tokens[test])
    r = [correlation(part, truth[test]) for part in (ours, ridge)]
    # Against the noiseless truth, ridge can reach the linear part of a maximum of six. The
    # standard error of a difference of r at 200 images is below .05 for a voxel alone.
    assert r[0].mean() > r[1].mean() + 0.1
    assert (r[0] > r[1]).mean() > 0.95


@pytest.mark.slow
def test_it_is_not_worse_than_ridge_where_the_truth_is_linear():
    differences = []
    for seed in range(2):
        tokens, betas, truth = simulated(400, 30, noise_sd=2.0, seed=seed, nonlinear=False)
        train, test = slice(200), slice(200, None)
        both = LatentEncoder(n_members=2), RidgeEncoder()
        encoders = [e.fit(tokens[train], betas[train]) for e in both]
        r = [correlation(e.predict(tokens[test]), truth[test]).mean() for e in encoders]
        differences.append(r[0] - r[1])
    # The two weights of a voxel, pooled with the others', cost less than 2 degrees of 200.
    assert np.mean(differences) > -0.003


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.5, -0.4), (0.1, 0.1)])
def test_weights_are_least_squares_on_held_out_images(shares):
    rng = np.random.default_rng(0)
    mean = np.array([3.0])
    signal = rng.standard_normal((50, 1))
    parts = [mean + signal * share + rng.standard_normal((50, 1)) for share in shares]
    responses = mean + signal
    responses[rng.random((50, 1)) < 0.2] = np.nan
    parts[1][:5] = np.nan  # training was interrupted before these were held out
    known = np.isfinite(responses) & np.isfinite(parts[1])
    X = np.stack([part[known] - mean for part in parts], axis=1)
    y = responses[known] - mean
    # With one voxel, the average voxel is itself, so that pooling changes nothing.
    oracle = minimize(
        lambda w: np.square(y - X @ w).sum(),
        [0.3, 0.3],
        method="SLSQP",
        bounds=[(0, 1)] * 2,
        constraints={"type": "ineq", "fun": lambda w: 1 - w.sum()},
        options={"ftol": 1e-12},
    )
    weights = maps.convex_weights(parts, responses, mean)
    np.testing.assert_allclose(weights[:, 0], oracle.x, atol=1e-4)


def test_maps_that_tell_nothing_of_a_latent_give_way_to_its_mean():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((400, 3))
    good = latents + 0.5 * rng.standard_normal((400, 3))
    good[:, 1] = rng.standard_normal(400)
    weights = maps.convex_weights([good, rng.standard_normal((400, 3))], latents, np.zeros(3))
    # Least squares gives the good map 1 / 1.25 in the latents it tells, which are two of the
    # three that are pooled; the s.e. of a weight is .02. In the third it is worth nothing, and the
    # 100 images of the average latent beside its 400 leave it .18, with a s.e. of .05.
    np.testing.assert_allclose(weights[0, [0, 2]], 0.8, atol=0.06)
    assert weights[0, 1] == pytest.approx(0.18, abs=0.15)
    assert (weights[1] < 0.1).all()
    assert (weights.sum(axis=0) <= 1 + 1e-9).all()


def test_held_out_errors_are_no_larger_than_those_of_ridge(problem):
    tokens, betas = problem
    encoder = LatentEncoder(**FAST)
    held_out = {}
    for name, each in (("ours", encoder), ("ridge", RidgeEncoder())):
        held_out[name] = each.fit_held_out(tokens, betas)
    responses = (average_repeats(betas) - encoder.mean_) / encoder.scale_
    error = {
        name: np.nanmean(np.square((part - encoder.mean_) / encoder.scale_ - responses))
        for name, part in held_out.items()
    }
    # The average voxel could have chosen ridge, and a voxel's own weights fit it no worse.
    assert error["ours"] <= error["ridge"] * (1 + 1e-6)


def test_with_few_images_it_is_ridge(problem):
    tokens, betas = problem[0][:99], problem[1][:99]
    with pytest.warns(UserWarning, match="99 images, fewer than min_images=100: LatentEncoder is"):
        encoder = LatentEncoder().fit(tokens, betas)
    ridge = RidgeEncoder().fit(tokens, betas)
    np.testing.assert_array_equal(encoder.predict(problem[0]), ridge.predict(problem[0]))
    np.testing.assert_array_equal(encoder.noise_.private_sd, ridge.noise_.private_sd)
    assert encoder.members_ == []
    assert len(encoder.history_) == 0


@pytest.mark.parametrize("n_members", [0, 2])
def test_predictions_are_the_blend_of_ridge_kernel_and_mappers(problem, fitted, n_members):
    tokens, betas = problem
    encoder = fitted if n_members else LatentEncoder(**FAST | {"n_members": 0}).fit(*problem)
    ridge = RidgeEncoder().fit(*problem).predict(tokens)
    scaled = (tokens - tokens.mean((0, 1))) / tokens.std((0, 1))
    maps = [encoder.kernel_.predict(encoder.gaussian_.transform(tokens))]
    if n_members:
        with torch.no_grad():
            nets = [net.eval()(torch.from_numpy(scaled)).numpy() for net in encoder.members_]
        maps.append(np.mean(nets, axis=0))
    assert len(encoder.members_) == n_members
    latents = sum(w * each for w, each in zip(encoder.latent_mix_, maps, strict=True))
    mean, mix = encoder.mean_, encoder.mix_
    expected = mean + mix[0] * (ridge - mean) + mix[1] * (latents @ encoder.read_out_)
    np.testing.assert_allclose(encoder.predict(tokens), expected, rtol=1e-4, atol=1e-4)
    assert mix[1].mean() > 0
    averages = average_repeats(betas)
    np.testing.assert_allclose(mean, np.nanmean(averages, 0), rtol=1e-5)
    np.testing.assert_allclose(encoder.scale_, np.nanstd(averages, 0), rtol=1e-5)


# ------------------------------------------------------------------ the latent and the kernel


def noisy_signal(n_images=300, n_voxels=40, seed=0):
    """Signal of four dimensions, and noise of one that is stronger than all of them."""
    rng = np.random.default_rng(seed)
    signal_part = rng.standard_normal((n_images, 4)) @ rng.standard_normal((4, n_voxels))
    shared = 6 * rng.standard_normal((n_images, 3, 1)) * rng.standard_normal(n_voxels)
    private = rng.uniform(0.5, 2, n_voxels) * rng.standard_normal((n_images, 3, n_voxels))
    return signal_part, (signal_part[:, None] + shared + private).astype(np.float32)


def noise_of(betas, scale):
    return find.noise_of_all_voxels(fit_trial_noise(betas), betas, scale)


def test_latents_are_directions_of_most_signal_for_their_noise():
    """They are the generalised eigenvectors of averages and noise, by LAPACK."""
    _, betas = noisy_signal()
    averages = betas.mean(axis=1)
    centred = averages - averages.mean(axis=0)
    noise = noise_of(betas, averages.std(axis=0))
    latents, read_out = find.find_latents(centred.copy(), noise, 4)
    _, filters = scipy.linalg.eigh(centred.T @ centred / len(centred), noise.covariance())
    expected = centred @ filters[:, :-5:-1]
    # Components up to sign and scale; the floor under private noise (a tenth of the total s.d.)
    # is below every voxel's here. 4 power iterations, float32.
    for ours, theirs in zip(latents.T, expected.T, strict=True):
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 0.999
    assert np.square(latents).mean() == pytest.approx(1, rel=1e-5)
    # With as many latents as voxels nothing is lost on the way to the latent and back.
    latents, read_out = find.find_latents(centred.copy(), noise, 40)
    np.testing.assert_allclose(latents @ read_out, centred, atol=1e-3)


def test_latents_leave_out_the_noise_that_voxels_share():
    signal_part, betas = noisy_signal()
    centred = betas.mean(axis=1) - betas.mean(axis=(0, 1))
    noise = noise_of(betas, centred.std(axis=0))
    unaware = ResidualNoise(noise.factors[:0], centred.std(axis=0))
    r = {}
    for name, each in (("aware", noise), ("unaware", unaware)):
        latents, read_out = find.find_latents(centred.copy(), each, 4)
        r[name] = correlation(latents @ read_out, signal_part).mean()
    # The shared noise takes one of four components, and turns the others.
    assert r["aware"] > 0.97
    assert r["unaware"] < 0.9


def test_noise_of_voxels_without_repeats_is_the_typical_share_of_their_variance():
    _, betas = noisy_signal()
    betas[:, 1:, 0] = np.nan  # one trial of voxel 0 per image
    scale = np.nanstd(np.nanmean(betas, axis=1), axis=0)
    noise = noise_of(betas, scale)
    whole = brainenc.noise_model(betas).noise
    share = whole.variance[1:] / scale[1:] ** 2
    assert noise.variance[0] == pytest.approx(np.median(share) * scale[0] ** 2, rel=1e-3)
    # 600 degrees of freedom of its own against 10 of the typical voxel.
    shrunk = (600 * share + 10 * np.median(share)) / 610 * scale[1:] ** 2
    np.testing.assert_allclose(noise.variance[1:], shrunk, rtol=1e-3)
    none = find.noise_of_all_voxels(None, betas[:, :1], scale)
    assert len(none.factors) == 0
    np.testing.assert_array_equal(none.private_sd, scale)


def test_gaussian_features_are_those_of_the_kernel(monkeypatch):
    rng = np.random.default_rng(0)
    X, new = rng.standard_normal((60, 8)) * 3 + 1, rng.standard_normal((20, 8))
    z, z_new = ((each - X.mean(0)) / X.std(0) for each in (X, new))
    gamma = 1 / scipy.spatial.distance.pdist(z, "sqeuclidean").mean()
    features = KernelFeatures.fit(X, "gaussian", 0)
    found = features.transform(X)
    assert found.var(axis=0).mean() == pytest.approx(1, rel=1e-4)
    ours = features.transform(new) @ found.T
    exact = rbf_kernel(z_new, z, gamma=gamma)
    np.testing.assert_allclose(ours / ours[0, 0], exact / exact[0, 0], rtol=1e-3)
    # Fewer landmarks than images: as scikit-learn's Nyström features of the same images.
    monkeypatch.setattr(kernel, "MAX_LANDMARKS", 30)
    features = KernelFeatures.fit(X, "gaussian", 0)
    library = Nystroem(gamma=1 / features.width, n_components=30).fit(features.landmarks)
    ours = features.transform(new) @ features.transform(X).T
    theirs = library.transform(z_new) @ library.transform(z).T
    np.testing.assert_allclose(ours / ours[0, 0], theirs / theirs[0, 0], rtol=1e-3)
    linear = KernelFeatures.fit(X, "linear", 0)
    ours, exact = linear.transform(new) @ linear.transform(X).T, z_new @ z.T
    np.testing.assert_allclose(ours / ours[0, 0], exact / exact[0, 0], rtol=1e-3, atol=1e-4)


def test_wide_features_of_many_images_are_seen_through_some_of_these(problem, monkeypatch):
    tokens, betas = problem
    exact = RidgeEncoder(standardize=True).fit(tokens, betas).predict(tokens)
    # Where the choice is made; 60 features and 160 images are more.
    monkeypatch.setattr("brainenc.encoders.latent.encoder.MAX_LANDMARKS", 50)
    encoder = LatentEncoder(**FAST).fit(tokens, betas)
    monkeypatch.setattr(kernel, "MAX_LANDMARKS", 55)
    assert encoder.span_.turn.shape == (160, 60)
    # All images span all features, so it is the ridge there is without; float32.
    spanned = encoder.linear_.predict(encoder.span_.transform(tokens))
    assert correlation(spanned, exact).min() > 0.999
    fewer = LatentEncoder(**FAST).fit(tokens, betas)
    assert fewer.span_.landmarks.shape == (55, 60)
    assert np.isfinite(fewer.sample(tokens, 2, 0)).all()


# ------------------------------------------------------------------ features, missing data


def test_pooled_features_become_half_whitened_components():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 20)) @ rng.standard_normal((20, 20)) + 3
    features[:, 4] = 7.0  # constant
    tokens = token_features.TokenAdapter.fit(features).transform(features)
    assert tokens.shape == (300, 1, 19)
    z = (features - features.mean(0)) / np.where(np.arange(20) == 4, 1, features.std(0))
    eigenvalues, directions = np.linalg.eigh(z.T @ z / 300)
    expected = z @ directions[:, :0:-1] / eigenvalues[:0:-1] ** 0.25
    expected /= expected.std()
    # Components up to their signs; float32, and 7 power iterations.
    np.testing.assert_allclose(np.abs(tokens[:, 0]), np.abs(expected), rtol=1e-2, atol=2e-3)


# ------------------------------------------------------------------ tokens larger than memory


def test_tokens_standardised_batch_by_batch_give_the_same_encoder(problem, monkeypatch):
    tokens, betas = problem
    at_once = LatentEncoder(**FAST).fit(tokens, betas).predict(tokens)
    monkeypatch.setattr(token_features, "TOKENS_IN_MEMORY", 0)
    lazily = LatentEncoder(**FAST).fit(tokens, betas)
    assert isinstance(lazily.adapter_.tokens(tokens), token_features.StandardisedTokens)
    np.testing.assert_array_equal(lazily.predict(tokens), at_once)


def test_tokens_in_half_precision_stay_on_disk_and_tell_the_same(problem, tmp_path):
    tokens, betas = problem
    np.save(tmp_path / "tokens.npy", tokens.astype(np.float16))
    half = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    for encoder in (LatentEncoder(n_members=0), RidgeEncoder()):
        exact = encoder.fit(tokens, betas).predict(tokens)
        rounded = encoder.fit(half, betas).predict(half)
        assert rounded.dtype == np.float32
        # Rounding of a feature by 2^-11; sums computed in half precision would be off by 1e-2.
        np.testing.assert_allclose(rounded, exact, atol=3e-3)
    # Training amplifies the rounding.
    exact, rounded = (LatentEncoder(**FAST).fit(x, betas).predict(x) for x in (tokens, half))
    assert correlation(rounded, exact).min() > 0.999


def test_large_tokens_are_averaged_over_neighbours_for_the_linear_path(monkeypatch):
    tokens = np.random.default_rng(0).standard_normal((5, 16, 3)).astype(np.float32)
    assert token_features.linear_features(tokens) is tokens
    monkeypatch.setattr(token_features, "MAX_LINEAR", 12)
    # A grid of 4 × 4 becomes 2 × 2: the first square holds positions 0, 1, 4 and 5.
    pooled = token_features.linear_features(tokens)
    assert pooled.shape == (5, 12)
    for square, positions in enumerate([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13]]):
        by_hand = tokens[:, positions].mean(1)
        np.testing.assert_allclose(pooled[:, 3 * square : 3 * square + 3], by_hand, atol=1e-6)
    # Ten tokens are no grid: stretches of 3, 3, 2 and 2.
    pooled = token_features.linear_features(tokens[:, :10])
    np.testing.assert_allclose(pooled[:, :3], tokens[:, :3].mean(1), atol=1e-6)
    np.testing.assert_allclose(pooled[:, 9:], tokens[:, 8:10].mean(1), atol=1e-6)


def test_betas_of_one_repeat_are_left_as_they_are(problem):
    tokens, betas = problem
    single = np.nan_to_num(betas[:, :1], nan=2.0)
    before = single.copy()
    LatentEncoder(**FAST).fit(tokens, single)
    np.testing.assert_array_equal(single, before)


def test_pooled_features_have_mappers_too(problem):
    tokens, betas = problem
    encoder = LatentEncoder(**FAST).fit(tokens.reshape(len(tokens), -1), betas)
    assert len(encoder.members_) == 2
    assert np.isfinite(encoder.predict(tokens.reshape(len(tokens), -1))).all()


def test_missing_voxels_and_images(problem):
    tokens, betas = problem
    holed = betas.copy()
    holed[:, :, 3] = np.nan
    holed[:40, :, 5] = np.nan
    encoder = LatentEncoder(**FAST).fit(tokens, holed)
    others = ~np.isin(np.arange(24), (3, 5))
    draws = encoder.sample(tokens, 2, 0)
    assert np.isnan(draws[..., 3]).all()
    assert np.isfinite(np.delete(draws, 3, axis=2)).all()
    prediction = encoder.predict(tokens)
    # Where a voxel has no data, mappers learn nothing from it: 0 in its place would pull the
    # prediction of voxel 5 for these images towards its mean, and half its correlation is .4.
    assert np.corrcoef(prediction[:40, 5], np.nanmean(betas[:40, :, 5], 1))[0, 1] > 0.4
    # Two voxels are a twelfth of what latents are made of. Holes in them move the predictions of
    # the others less than if they had never been measured.
    whole = LatentEncoder(**FAST).fit(tokens, betas).predict(tokens)[:, others]
    without = LatentEncoder(**FAST).fit(tokens, betas[..., others]).predict(tokens)
    moved = np.abs(prediction[:, others] - whole).mean()
    assert moved < np.abs(without - whole).mean()


# ------------------------------------------------------------------ draws


def test_noise_says_what_draws_are_made_of(problem, fitted):
    tokens = problem[0][:30]
    prediction = fitted.predict(tokens)
    for draw in fitted.sample(tokens, 2, noise=None):
        np.testing.assert_array_equal(draw, prediction)
    full = fitted.sample(tokens, 3, 0)
    np.testing.assert_array_equal(full, fitted.sample(tokens, 3, 0, noise="full"))
    latent = fitted.sample(tokens, 3, 0, noise="latent")
    # The same latent fluctuations, without what voxels have alone.
    alone = full - latent
    assert alone.std() > 0.5
    shared = np.corrcoef(alone.reshape(-1, 24).T)[np.triu_indices(24, 1)]
    assert np.abs(shared).mean() < 3 / np.sqrt(90)  # 90 independent rows
    rank = np.linalg.matrix_rank((latent - prediction).reshape(-1, 24), tol=1e-3)
    assert rank == min(len(fitted.noise_.factors), 24)
    with pytest.raises(ValueError, match=r"noise='all' must be one of .*'latent'.*None"):
        fitted.sample(tokens, noise="all")


def test_draws_vary_as_held_out_trials_do(problem, fitted):
    tokens = problem[0]
    draws = fitted.sample(tokens, 400, 0)
    prediction = fitted.predict(tokens)
    variance = fitted.noise_.variance
    # 160 images × 400 draws: s.e. .6 % of a variance, if all images were alike.
    np.testing.assert_allclose(np.square(draws - prediction).mean((0, 1)), variance, rtol=0.04)
    assert (np.abs(draws.mean(0) - prediction) < 6 * np.sqrt(variance / 400)).all()


@pytest.mark.slow
def test_nine_in_ten_held_out_trials_lie_in_the_90_percent_interval():
    data = brainenc.datasets.simulate_subject(400, 150, random_state=1)
    tokens, betas = data.truth.tokens, data.betas
    encoder = LatentEncoder(n_members=3).fit(tokens[100:], betas[100:])
    draws = encoder.sample(tokens[:100], 200, 0)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    trials = betas[:100]
    inside = (trials >= low[:, None]) & (trials <= high[:, None])
    assert inside[np.isfinite(trials)].mean() == pytest.approx(0.9, abs=0.03)
    # Noise correlations: as near to the truth as those of ridge, which has the same noise model
    # around a worse prediction.
    pairs = np.triu_indices(150, 1)

    def correlations(covariance):
        sd = np.sqrt(np.diag(covariance))
        return (covariance / np.outer(sd, sd))[pairs]

    def agreement(draws):
        deviations = (draws - draws.mean(0)).reshape(-1, 150)
        truth = correlations(data.truth.noise_covariance())
        return np.corrcoef(correlations(np.cov(deviations.T)), truth)[0, 1]

    ridge = RidgeEncoder().fit(tokens[100:], betas[100:]).sample(tokens[:100], 200, 0)
    assert agreement(draws) > agreement(ridge) - 0.02
    assert agreement(draws) > 0.7


def heteroscedastic(gain, n_images=300, n_voxels=40, seed=0):
    """Shared and private noise whose log-variances are linear in the tokens, times `gain`."""
    rng = np.random.default_rng(seed)
    tokens, _, truth = simulated(n_images, n_voxels, seed=seed, nonlinear=False)
    said = gain * tokens.mean(1)[:, :2] * np.sqrt(6)
    factor = rng.standard_normal(n_voxels)
    shared = rng.standard_normal((n_images, 4, 1)) * factor * np.exp(said[:, None, :1] / 2)
    alone = rng.standard_normal((n_images, 4, n_voxels)) * np.exp(said[:, None, 1:] / 2)
    return tokens, (truth[:, None] + shared + alone).astype(np.float32), said


def test_the_variance_of_draws_follows_the_image():
    tokens, betas, said = heteroscedastic(gain=0.8)
    encoder = LatentEncoder(**FAST).fit(tokens[:240], betas[:240])
    scale = encoder._noise_scale(tokens[240:])
    strongest = np.square(encoder.noise_.factors).sum(1).argmax()
    new = said[240:]
    # One draw of a normal factor per trial says little of its variance; 40 private ones say much.
    assert np.corrcoef(np.log(scale[:, strongest]), new[:, 0])[0, 1] > 0.6
    assert np.corrcoef(np.log(scale[:, -1]), new[:, 1])[0, 1] > 0.9
    slope = np.polyfit(new[:, 1], 2 * np.log(scale[:, -1]), 1)[0]
    assert 0.6 < slope < 1.2  # ridge shrinks what it learns from 240 images
    # Draws have it, and their variance over all training images is still that of held-out trials.
    draws = encoder.sample(tokens[240:], 300, 0)
    spread = np.log(draws.var(0).mean(1))
    assert np.corrcoef(spread, np.log(np.exp(new).mean(1)))[0, 1] > 0.8
    mean_square = np.square(encoder._noise_scale(tokens[:240])).mean(0)
    assert mean_square[-1] == pytest.approx(1, abs=0.1)


def test_log_variances_are_unbiased_for_any_number_of_repeats():
    rng = np.random.default_rng(0)
    coordinates = np.exp(0.3) * rng.standard_normal((6000, 3, 2))
    coordinates[:2000, 1:] = np.nan
    coordinates[2000:4000, 2:] = np.nan
    coordinates[-1] = np.nan
    found = log_variances(coordinates)
    for rows in (slice(2000), slice(2000, 4000), slice(4000, 5999)):
        # The s.d. of the log of one squared normal number is 2.2: s.e. .05 for 2000; allow four.
        np.testing.assert_allclose(found[rows].mean(axis=0), 0.6, atol=0.2)
    assert np.isnan(found[-1]).all()


def test_the_variance_stays_put_where_images_do_not_move_it():
    tokens, betas, _ = heteroscedastic(gain=0.0)
    encoder = LatentEncoder(**FAST).fit(tokens, betas)
    assert np.log(encoder._noise_scale(tokens)).std(0).max() < 0.1


# ------------------------------------------------------------------ saved, repeated, adapted


def test_save_and_load_give_the_same_encoder(problem, fitted, tmp_path):
    tokens = problem[0]
    loaded = brainenc.load(fitted.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(tokens), fitted.predict(tokens))
    for noise in ("full", "latent"):
        np.testing.assert_array_equal(
            loaded.sample(tokens, 2, 0, noise=noise), fitted.sample(tokens, 2, 0, noise=noise)
        )
    assert loaded.history_.equals(fitted.history_)


def test_the_seed_decides(problem, fitted):
    tokens = problem[0]
    again = LatentEncoder(**FAST).fit(*problem)
    np.testing.assert_array_equal(again.predict(tokens), fitted.predict(tokens))
    others = [LatentEncoder(**FAST, random_state=s).fit(*problem) for s in (1, None)]
    for other in others:
        assert np.abs(other.predict(tokens) - fitted.predict(tokens)).max() > 1e-3
    assert others[1].random_state is None


def test_adapting_keeps_the_maps_and_leaves_this_one(problem, fitted, tmp_path):
    tokens, betas = problem
    before = fitted.predict(tokens)
    adapted = fitted.adapt(tokens[:120], betas[:120, :, :9])
    assert adapted.members_ is fitted.members_
    # Blend of ridge and of the old maps' latents through the new read-out, around the new mean.
    coarse = token_features.linear_features(tokens)
    latents = fitted._mapped(tokens, coarse) - adapted.latent_centre_
    parts = adapted.linear_.predict(coarse), latents @ adapted.read_out_ + adapted.mean_
    expected = adapted.mean_ + sum(
        share * (part - adapted.mean_) for share, part in zip(adapted.mix_, parts, strict=True)
    )
    np.testing.assert_allclose(adapted.predict(tokens), expected, atol=1e-4)
    np.testing.assert_array_equal(fitted.predict(tokens), before)


# ------------------------------------------------------------------ stopped, killed, failing


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: what a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", [2, 80])
def test_ctrl_c_leaves_a_usable_encoder(problem, monkeypatch, when, tmp_path, interruptible):
    tokens, betas = problem
    count, loss = 0, losses.masked_squared_error

    def interrupted(*arguments):
        nonlocal count
        count += 1
        if count == when:
            signal.raise_signal(signal.SIGINT)
        return loss(*arguments)

    parameters = FAST | {"n_members": 3}
    monkeypatch.setattr(maps, "masked_squared_error", interrupted)
    with pytest.warns(RuntimeWarning, match="training was interrupted in step"):
        encoder = LatentEncoder(**parameters).fit(tokens, betas)
    # Of the mappers there are those trained so far, the interrupted one with its best weights.
    assert len(encoder.members_) == (1 if when == 2 else 2)
    assert np.isfinite(encoder.predict(tokens)).all()
    assert np.isfinite(encoder.sample(tokens, 2, 0)).all()
    ridge = RidgeEncoder().fit(tokens, betas)
    assert encoder.score(tokens, betas) > ridge.score(tokens, betas) - 0.05
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(tokens), encoder.predict(tokens))


def test_a_diverging_training_says_where_and_leaves_no_encoder(problem, fitted, tmp_path):
    encoder = LatentEncoder(**FAST, learning_rate=1e38, checkpoint_dir=tmp_path)
    with pytest.raises(TrainingError, match=r"not finite in step \d+ of"):
        encoder.fit(*problem)
    with pytest.raises(NotFittedError):
        encoder.predict(problem[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_members": 1}, "n_members=1: .* 2 or more, or 0"),
        ({"n_members": -1}, "n_members=-1"),
        ({"n_latents": 0}, "n_latents=0"),
        ({"hidden": 18}, "hidden=18 must be a multiple of 4"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"n_epochs": 0}, "n_epochs=0"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"random_state": "seed"}, "random_state='seed'"),
    ],
)
def test_parameters_out_of_range_are_named_before_anything_is_computed(parameters, message):
    with pytest.raises(ValueError, match=message):
        LatentEncoder(**parameters).fit(None, None)


def test_resuming_needs_somewhere_to_resume_from(problem, tmp_path):
    with pytest.raises(ValueError, match="resume=True needs checkpoint_dir"):
        LatentEncoder(**FAST).fit(*problem, resume=True)
    with pytest.raises(ValueError, match="random_state that is not None"):
        LatentEncoder(**FAST, checkpoint_dir=tmp_path, random_state=None).fit(*problem, resume=True)
