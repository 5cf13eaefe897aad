"""Priors on ridge weights, learned from other subjects: numbers, safety, refusals, saving."""

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc.datasets import simulate_subjects
from brainenc.model_selection import image_folds
from brainenc.solvers.evidence import log_evidence, prior_ridge_evidence
from brainenc.solvers.priors import (
    PriorBands,
    prior_candidates,
    prior_factor,
    prior_ridge_cv,
)

SIZES = {"n_images": 400, "n_voxels": 100, "shared_images": 0, "random_state": 7}


def encoder_of(data, **parameters):
    return brainenc.RidgeEncoder(**parameters).fit(data.truth.tokens, data.betas)


def true_r(encoder, data, n_test=150):
    """Mean r with the true responses to the last images, which nobody was fitted to."""
    prediction = encoder.predict(data.truth.tokens[-n_test:])
    pairs = zip(prediction.T, data.truth.signal[-n_test:].T, strict=True)
    return np.mean([stats.pearsonr(*pair)[0] for pair in pairs])


@pytest.fixture(scope="module")
def subjects():
    return simulate_subjects(4, **SIZES)


@pytest.fixture(scope="module")
def prior(subjects):
    return brainenc.WeightPrior.from_encoders([encoder_of(d) for d in subjects[:2]])


# ------------------------------------------------------------------ numbers


def test_one_prior_is_ridge_with_that_covariance():
    """Against the textbook formula: w = ΣXᵀ (XΣXᵀ + αI)⁻¹ y, of centred data."""
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((30, 50)), rng.standard_normal((50, 8))
    Y = rng.standard_normal((30, 4))
    bands = PriorBands.of(X, [prior_factor(W)])
    Xc, Yc = X - X.mean(0), Y - Y.mean(0)
    sigma = W @ W.T
    sigma *= np.trace(Xc @ Xc.T) / np.trace(Xc @ sigma @ Xc.T)
    candidate = np.array([[0.7, 0.3]])
    sigma = 0.7 * sigma + 0.3 * np.eye(50)
    alphas, folds = np.array([40.0]), image_folds(5, 30, random_state=0)
    fit = prior_ridge_cv(bands, X, Y, alphas, folds, candidate)
    w = sigma @ Xc.T @ np.linalg.solve(Xc @ sigma @ Xc.T + 40 * np.eye(30), Yc)
    np.testing.assert_allclose(fit.weights, w, atol=1e-10)
    np.testing.assert_allclose(fit.intercept, Y.mean(0) - X.mean(0) @ w, atol=1e-10)


def test_evidence_is_the_marginal_likelihood():
    """Of Gaussian responses, by SciPy: around any mean, with the likeliest noise."""
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((12, 5)), rng.standard_normal(12)
    contrasts = np.linalg.svd(np.eye(12) - 1 / 12)[0][:, :11]  # of which no mean is a part
    K, z = contrasts.T @ X @ X.T @ contrasts, contrasts.T @ y
    alphas = np.array([0.1, 3.0, 500.0])

    def likelihood(log_variance, alpha):
        covariance = np.exp(log_variance) * (np.eye(11) + K / alpha)
        return stats.multivariate_normal.logpdf(z, np.zeros(11), covariance)

    wanted = []
    for alpha in alphas:
        best = optimize.minimize_scalar(lambda s, a=alpha: -likelihood(s, a), (-3, 3))
        wanted.append(-best.fun)
    values, axes = np.linalg.eigh(K)
    squares = torch.as_tensor(np.square(axes.T @ z))[:, None]
    found = log_evidence(torch.as_tensor(values), squares, torch.as_tensor(alphas))[:, 0].numpy()
    np.testing.assert_allclose(found - found[0], np.array(wanted) - wanted[0], atol=1e-6)


@pytest.mark.parametrize("per_voxel", [False, True])
def test_the_average_by_evidence_is_that_of_all_fits(per_voxel):
    """Each fit by the textbook formula, with the probability that its likelihood has."""
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((30, 50)), rng.standard_normal((50, 8))
    Y = 0.3 * X @ W @ rng.standard_normal((8, 4)) + 3 * rng.standard_normal((30, 4))
    bands, folds = PriorBands.of(X, [prior_factor(W)]), image_folds(5, 30, random_state=0)
    candidates, alphas = prior_candidates(1, [0]), np.array([20.0, 200.0])
    how = {"pooling": 60, "per_voxel": per_voxel}
    fit = prior_ridge_evidence(bands, X, Y, alphas, folds, candidates, **how)
    prior = W @ W.T
    Xc = X - X.mean(0)
    prior *= np.trace(Xc @ Xc.T) / np.trace(Xc @ prior @ Xc.T)
    contrasts = np.linalg.svd(np.eye(30) - 1 / 30)[0][:, :29]
    fits, logs = [], []
    for share, isotropic in candidates:
        for alpha in alphas:
            sigma = share * prior + isotropic * np.eye(50)
            inverse = np.linalg.inv(Xc @ sigma @ Xc.T + alpha * np.eye(30))
            fits.append(sigma @ Xc.T @ inverse @ (Y - Y.mean(0)))
            total = contrasts.T @ X @ sigma @ X.T @ contrasts + alpha * np.eye(29)
            z = contrasts.T @ Y
            fitting = (z * np.linalg.solve(total, z)).sum(0)
            logs.append(-np.linalg.slogdet(total)[1] / 2 - 29 / 2 * np.log(fitting))
    logs = np.array(logs)
    average = logs.mean(1, keepdims=True)
    logs = logs + 2 * average if per_voxel else 61 * np.tile(average, 4)
    shares = special.softmax(logs, axis=0)
    wanted = np.einsum("kv,kpv->pv", shares, fits)
    np.testing.assert_allclose(fit.weights, wanted, atol=1e-8)
    np.testing.assert_allclose(fit.intercept, Y.mean(0) - X.mean(0) @ wanted, atol=1e-8)
    of_candidates = shares.reshape(3, 2, 4).sum(1)
    np.testing.assert_allclose(fit.band_weights, of_candidates, atol=1e-8)
    # Held-out predictions are those of fits without the fold, at the likeliest penalties.
    held_out = np.zeros_like(Y)
    for i, (candidate, own) in enumerate(zip(candidates, shares.reshape(3, 2, 4), strict=True)):
        for voxel, at in enumerate(own.argmax(0)):
            sigma = candidate[0] * prior + candidate[1] * np.eye(50)
            for train, test in folds:
                A, y = X[train] - X[train].mean(0), Y[train, voxel]
                inverse = np.linalg.inv(A @ sigma @ A.T + alphas[at] * np.eye(len(train)))
                w = sigma @ A.T @ inverse @ (y - y.mean())
                predicted = (X[test] - X[train].mean(0)) @ w + y.mean()
                held_out[test, voxel] += of_candidates[i, voxel] * predicted
    np.testing.assert_allclose(fit.held_out, held_out, atol=1e-8)


@pytest.mark.parametrize("selection", ["evidence", "cross-validation"])
def test_both_selections_take_missing_images_and_voxels_without_data(selection, subjects, prior):
    data = subjects[3]
    X, betas = data.truth.tokens[:60], data.betas[:60].copy()
    betas[:, :, 5] = np.nan
    betas[10:20, :, 7] = np.nan
    encoder = brainenc.RidgeEncoder(prior=prior, selection=selection).fit(X, betas)
    assert np.isnan(encoder.predict(X)[:, 5]).all()
    rest = np.r_[:10, 20:60]
    alone = clone(encoder).fit(X[rest], betas[rest][:, :, 7:8])
    # Voxels that lack the same images are averaged over; features are scaled by all images.
    r = np.corrcoef(encoder.predict(X)[:, 7], alone.predict(X)[:, 0])[0, 1]
    assert r > 0.99


def test_folds_of_its_own_are_what_penalties_are_chosen_by(subjects, prior):
    data = subjects[3]
    X, betas = data.truth.tokens[:60], data.betas[:60]
    folds = [(np.arange(20, 60), np.arange(20)), (np.arange(20), np.arange(20, 60))]

    def fit(**how):
        return brainenc.RidgeEncoder(prior=prior, **how).fit(X, betas).predict(X)

    np.testing.assert_array_equal(fit(cv=folds), fit(cv=folds, selection="cross-validation"))
    np.testing.assert_array_equal(fit(), fit(selection="evidence"))
    with pytest.raises(ValueError, match="selection='both'"):
        fit(selection="both")


def test_without_components_it_is_plain_ridge():
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((60, 90)), rng.standard_normal((60, 5))
    X = (X - X.mean(0)) / X.std(0)
    alphas, folds = 90 * np.logspace(-2, 2, 5), image_folds(5, 60, random_state=0)
    bands = PriorBands.of(X, [prior_factor(rng.standard_normal((90, 3)))])
    fit = prior_ridge_cv(bands, X, Y, alphas, folds, prior_candidates(1, []), per_voxel=False)
    plain = brainenc.RidgeEncoder(alphas=alphas, alpha_per_voxel=False).fit(X, Y)
    np.testing.assert_allclose(fit.weights, plain.linear_map().weights * X.std(0)[:, None], 1e-6)
    np.testing.assert_allclose(fit.alphas, plain.alphas_)


def test_the_factor_is_that_of_the_weights_in_noise_units(subjects, prior):
    found, expected = prior.factors[0].astype(float), 0
    for data in subjects[:2]:
        fit = encoder_of(data, form="primal")
        weights = fit.coef_ / fit.feature_scale_[:, None]
        size = np.sqrt(fit.posterior_.variance + np.square(fit.coef_).sum(0))
        expected = expected + (weights / size) @ (weights / size).T / 200
    # Directions below 1e-8 of the largest are left out, and float32 has 7 digits.
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-4 * np.abs(expected).max())


def test_fitting_subjects_is_fitting_their_encoders(subjects, prior):
    tokens = [d.truth.tokens for d in subjects[:2]]
    other = brainenc.WeightPrior.fit(subjects[:2], tokens)
    np.testing.assert_array_equal(other.factors[0], prior.factors[0])
    assert other.sources == ["simulated 1, alikeness 1", "simulated 2, alikeness 1"]


# ------------------------------------------------------------------ what it is for


@pytest.mark.parametrize("n", [25, 50, 100, 200])
def test_a_prior_of_alike_subjects_is_worth_images(subjects, prior, n):
    gains = []
    for data in subjects[2:]:
        X, y = data.truth.tokens[:n], data.betas[:n]
        fitted = brainenc.RidgeEncoder(prior=prior).fit(X, y)
        gains.append(true_r(fitted, data) - true_r(brainenc.RidgeEncoder().fit(X, y), data))
        np.testing.assert_allclose(fitted.prior_shares_.sum(0), 1, rtol=1e-5)
    assert min(gains) > 0.03  # .08 … .2


@pytest.mark.parametrize("n_components", [1, 4])
def test_a_prior_of_subjects_that_are_not_alike_does_no_harm(n_components):
    *sources, new = simulate_subjects(3, **SIZES, alikeness=0.0)
    prior = brainenc.WeightPrior.from_encoders(
        [encoder_of(d) for d in sources], n_components=n_components
    )
    losses = []
    for n in (25, 50, 100, 200):
        X, y = new.truth.tokens[:n], new.betas[:n]
        losses.append(
            true_r(brainenc.RidgeEncoder().fit(X, y), new)
            - true_r(brainenc.RidgeEncoder(prior=prior).fit(X, y), new)
        )
    # .005 is promised on the average of draws and subjects; one draw of one subject has an s.d.
    # of about .004, and the mean of four half of that.
    assert np.mean(losses) < 0.009


def test_components_of_rois_and_kinds(subjects):
    *_, data = subjects
    tokens = [d.truth.tokens for d in subjects[:2]]
    by_roi = brainenc.WeightPrior.fit(subjects[:2], tokens, atlas="roi")
    assert by_roi.names == ["all", *subjects[0].rois()]
    encoder = brainenc.RidgeEncoder(prior=by_roi).with_voxels(data.voxels)
    encoder.fit(data.truth.tokens[:60], data.betas[:60])
    others = np.array(by_roi.names[1:])[:, None] != data.voxels["roi"].to_numpy()
    assert (encoder.prior_shares_[1:-1][others] == 0).all()
    assert encoder.prior_shares_[1:-1][~others].mean() > 0.05
    kinds = brainenc.WeightPrior.fit(subjects[:2], tokens, n_components=3)
    assert kinds.names == ["all", "kind 1", "kind 2", "kind 3"]
    of_kinds = brainenc.RidgeEncoder(prior=kinds).fit(data.truth.tokens[:60], data.betas[:60])
    plain = brainenc.RidgeEncoder().fit(data.truth.tokens[:60], data.betas[:60])
    assert true_r(of_kinds, data) > true_r(plain, data) + 0.03


# ------------------------------------------------------------------ the encoder's contract


def test_saved_copied_and_drawn_from(subjects, prior, tmp_path):
    data = subjects[2]
    X, y = data.truth.tokens, data.betas.copy()
    y[:5, :, :3] = np.nan  # voxels with data for other images
    y[:, :, 4] = np.nan  # and without any
    fitted = brainenc.RidgeEncoder(prior=prior).fit(X[:90], y[:90])
    loaded = brainenc.load(fitted.save(tmp_path / "encoder"))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    assert np.isnan(fitted.predict(X)[:, 4]).all()
    draws = fitted.sample(X[90:95], n=200, random_state=0, noise="weights")
    again = loaded.sample(X[90:95], n=200, random_state=0, noise="weights")
    np.testing.assert_array_equal(draws, again)
    # The mean of 200 draws is the prediction, within 5 s.e.
    known = np.arange(100) != 4
    z = (draws.mean(0) - fitted.predict(X[90:95])) / (draws.std(0) / np.sqrt(200))
    assert np.abs(z[:, known]).max() < 5
    other = brainenc.load(prior.save(tmp_path / "prior"))
    np.testing.assert_array_equal(other.factors[0], prior.factors[0])
    assert clone(fitted).prior is prior
    refitted = clone(fitted).set_params(prior=other).fit(X[:90], y[:90])
    np.testing.assert_array_equal(refitted.predict(X), fitted.predict(X))
    assert not hasattr(refitted.set_params(prior=None).fit(X[:90], y[:90]), "prior_shares_")


def test_adapting_starts_from_this_subject(subjects):
    first, second = subjects[0], subjects[3]
    encoder = encoder_of(first)
    before = encoder.predict(first.truth.tokens)
    X, y = second.truth.tokens[:60], second.betas[:60, :, :50]
    adapted = encoder.adapt(X, y)
    np.testing.assert_array_equal(encoder.predict(first.truth.tokens), before)
    second = second.select(voxels=np.arange(50))
    assert true_r(adapted, second) > true_r(brainenc.RidgeEncoder().fit(X, y), second) + 0.03
    assert adapted.adapt(X, y).n_voxels_ == 50  # from one with a prior again


def test_learned_features_stay_when_adapting(subjects, tmp_path):
    first, second = subjects[0], subjects[3]
    extractor = make_pipeline(brainenc.PixelFeatures(verbose=False), PCA(20, random_state=0))
    encoder = brainenc.RidgeEncoder(extractor).fit(first.images[:80], first.betas[:80])
    adapted = encoder.adapt(second.images[:40], second.betas[:40])
    np.testing.assert_array_equal(
        adapted.features_.transform(second.images[:3]),
        encoder.features_.transform(second.images[:3]),
    )
    loaded = brainenc.load(adapted.save(tmp_path / "adapted"))
    # scikit-learn's PCA sums in another order after loading: round-off of single precision.
    np.testing.assert_allclose(
        loaded.predict(second.images[:3]), adapted.predict(second.images[:3]), atol=1e-5
    )


# ------------------------------------------------------------------ refusals


def test_priors_of_other_features_are_refused(subjects, prior):
    data = subjects[2]
    X, y = data.truth.tokens, data.betas
    encoder = brainenc.RidgeEncoder(prior=prior)
    with pytest.raises(ValueError, match=r"shape \[16, 64\] per image, and .* shape \[15, 64\]"):
        encoder.fit(X[:, :15], y)
    with pytest.raises(ValueError, match="another scale"):
        encoder.fit(1000 * X, y)
    with pytest.raises(ValueError, match="another scale"):
        encoder.fit(X + 100, y)
    with pytest.raises(TypeError, match="must be a WeightPrior"):
        brainenc.RidgeEncoder(prior=[prior]).fit(X, y)
    pixels, gabor = (
        brainenc.RidgeEncoder(f).fit(data.images[:40], y[:40])
        for f in (brainenc.PixelFeatures(verbose=False), brainenc.GaborPyramid(verbose=False))
    )
    with pytest.raises(ValueError, match="a prior is of one kind of features"):
        brainenc.WeightPrior.from_encoders([pixels, gabor])
    of_pixels = brainenc.WeightPrior.from_encoders([pixels])
    smaller = brainenc.PixelFeatures(size=7, verbose=False)
    with pytest.raises(ValueError, match="prior is of"):
        brainenc.RidgeEncoder(smaller, prior=of_pixels).fit(data.images[:40], y[:40])


def test_wrong_sources_are_refused(subjects):
    mean = brainenc.MeanEncoder().fit(subjects[0].truth.tokens, subjects[0].betas)
    with pytest.raises(TypeError, match="MeanEncoder, which has no weights"):
        brainenc.WeightPrior.from_encoders({"S1": mean})
    with pytest.raises(ValueError, match="encoders is empty"):
        brainenc.WeightPrior.from_encoders([])
    with pytest.raises(ValueError, match="features of 1"):
        brainenc.WeightPrior.fit(subjects[:2], [subjects[0].truth.tokens])
    with pytest.raises(ValueError, match=r"n_components=0"):
        brainenc.WeightPrior.fit(subjects[:1], [subjects[0].truth.tokens], n_components=0)
    learning = make_pipeline(brainenc.PixelFeatures(verbose=False), PCA(3))
    with pytest.raises(ValueError, match="learns from images"):
        brainenc.WeightPrior.fit(subjects[:1], learning)


def test_labels_without_overlap_are_refused(subjects):
    tokens = [d.truth.tokens for d in subjects[:1]]
    by_roi = brainenc.WeightPrior.fit(subjects[:1], tokens, atlas="roi")
    data = subjects[2]
    voxels = data.voxels.assign(roi="OFA")
    with pytest.raises(ValueError, match=r"V1v, .* labels of these voxels .*OFA"):
        brainenc.RidgeEncoder(prior=by_roi).with_voxels(voxels)
    with pytest.raises(ValueError, match="labels of 3 voxels, but betas has 100"):
        brainenc.RidgeEncoder(prior=by_roi, rois=["FFA"] * 3).fit(tokens[0], data.betas)


@pytest.mark.parametrize("n_images", [30, 120])
def test_constant_voxels_leave_the_evidence_of_others_as_it_is(n_images):
    """A voxel of zeros is likeliest without a penalty, which pooling would give to all voxels."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_images, 40))
    W = rng.standard_normal((40, 12))
    Y = (X @ W + 20 * rng.standard_normal((n_images, 12)))[:, None]
    source = brainenc.RidgeEncoder(None).fit(X, (X @ W)[:, None])
    prior = brainenc.WeightPrior.from_encoders([source])
    alone = brainenc.RidgeEncoder(None, prior=prior).fit(X, Y)
    beside = brainenc.RidgeEncoder(None, prior=prior).fit(
        X, np.concatenate([Y, np.zeros((n_images, 1, 30))], axis=2)
    )
    np.testing.assert_allclose(beside.alphas_[:12], alone.alphas_)
    np.testing.assert_allclose(beside.predict(X)[:, :12], alone.predict(X), atol=1e-4)
    np.testing.assert_allclose(beside.predict(X)[:, 12:], 0, atol=1e-6)
