"""KernelRidgeEncoder against kernel ridge and Gaussian processes of scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.preprocessing import KernelCenterer, StandardScaler

import brainenc
from brainenc import BandedRidgeEncoder, KernelRidgeEncoder
from brainenc.encoders.memory import fit_memory
from brainenc.model_selection import image_folds

KINDS = [("gaussian", [0.7, 1.4]), ("polynomial", [1, 3]), ("linear", "auto")]


def make_problem(n_images=150, n_features=5, seed=0):
    """Voxel 0 is linear in the features, voxel 1 a product of two, voxel 2 a wave, voxel 3 both."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_images, n_features)).astype(np.float32) * [1, 2, 3, 1, 1] + 5
    Z = (X - 5) / [1, 2, 3, 1, 1]
    signal = [Z[:, 0], Z[:, 1] * Z[:, 2], np.sin(2 * Z[:, 3]), Z[:, 0] + np.sin(Z[:, 1])]
    noise = 0.3 * rng.standard_normal((n_images, 4))
    return X.astype(np.float32), (np.transpose(signal) + noise).astype(np.float32)


def kernel_by_hand(kind, candidate, X, new):
    """Kernel by scikit-learn's functions, of features that its scaler scales."""
    scaler = StandardScaler().fit(X.astype(np.float64))
    X, new = scaler.transform(X), scaler.transform(new)
    if kind == "gaussian":
        distances = np.square(X[:, None] - X).sum(-1)
        typical = distances.sum() / (len(X) * (len(X) - 1))
        return rbf_kernel(new, X, gamma=1 / (candidate**2 * typical))
    degree = candidate if kind == "polynomial" else 1
    constant = 1 if kind == "polynomial" else 0
    return polynomial_kernel(new, X, degree=degree, gamma=1 / X.shape[1], coef0=constant)


def by_hand(kind, candidate, alpha, X, y, new):
    """Centred kernel ridge of scikit-learn; the kernel is divided by the trace of the fitted."""
    K, centerer = kernel_by_hand(kind, candidate, X, X), KernelCenterer()
    centred = centerer.fit_transform(K)
    scale = np.trace(centred) / len(K)
    ridge = KernelRidge(alpha=alpha, kernel="precomputed").fit(centred / scale, y - y.mean())
    cross = centerer.transform(kernel_by_hand(kind, candidate, X, new))
    return ridge.predict(cross / scale) + y.mean()


@pytest.mark.parametrize(("kind", "candidates"), KINDS)
def test_predictions_are_those_of_scikit_learn_with_the_best_on_held_out_images(kind, candidates):
    X, Y = make_problem()
    new = make_problem(seed=1)[0]
    alphas = np.array([0.1, 3.0, 100.0])
    encoder = KernelRidgeEncoder(None, kernel=kind, candidates=candidates, alphas=alphas)
    held_out = encoder.fit_held_out(X, Y)
    tried = candidates if kind != "linear" else [1]
    assert encoder.search_ == "exact"
    for voxel in range(4):
        y = Y[:, voxel].astype(np.float64)
        errors = {}
        for candidate in tried:
            # The scale of features and kernel is that of all training images.
            K = kernel_by_hand(kind, candidate, X, X)
            K = K / np.trace(KernelCenterer().fit_transform(K)) * len(K)
            for alpha in alphas:
                predicted = np.empty(len(y))
                for train, test in image_folds(5, len(X), random_state=0):
                    centerer = KernelCenterer()
                    centred = centerer.fit_transform(K[np.ix_(train, train)])
                    ridge = KernelRidge(alpha=alpha, kernel="precomputed")
                    ridge.fit(centred, y[train] - y[train].mean())
                    cross = centerer.transform(K[np.ix_(test, train)])
                    predicted[test] = ridge.predict(cross) + y[train].mean()
                errors[candidate, alpha] = np.square(predicted - y).mean(), predicted
        (candidate, alpha), (_, predicted) = min(errors.items(), key=lambda item: item[1][0])
        assert (encoder.chosen_[voxel], encoder.alphas_[voxel]) == (candidate, np.float32(alpha))
        np.testing.assert_allclose(held_out[:, voxel], predicted, atol=1e-4)
        # Products of features are in single precision: 1e-6 of responses of size 1 or so.
        expected = by_hand(kind, candidate, alpha, X, y, new)
        np.testing.assert_allclose(encoder.predict(new)[:, voxel], expected, atol=1e-4)


def test_the_posterior_is_that_of_a_gaussian_process():
    X, Y = make_problem()
    Y[:30, 2] = np.nan
    scaler = StandardScaler().fit(X)
    new = np.concatenate([make_problem(6, seed=1)[0], X[:2]])
    new[3] += 4  # far from all that was learnt
    encoder = KernelRidgeEncoder(None).fit(X, Y)
    n = 4000
    draws = encoder.sample(new, n=n, noise="weights", random_state=0).astype(float)
    found = encoder._posterior_at(new)
    for voxel in (1, 2):
        rows = np.isfinite(Y[:, voxel])
        variance = float(encoder.posterior_.variance[voxel])
        width, alpha = float(encoder.chosen_[voxel]), float(encoder.alphas_[voxel])
        Z = scaler.transform(X).astype(float)
        distances = np.square(Z[:, None] - Z).sum(-1)
        typical = distances.sum() / (len(X) * (len(X) - 1))
        K = np.exp(-distances / (width**2 * typical))
        scale = 1 - K.mean()
        kernel = ConstantKernel(variance / alpha / scale) * RBF(width * np.sqrt(typical / 2))
        # A flat prior of the intercept is a constant of large variance.
        process = GaussianProcessRegressor(
            kernel + ConstantKernel(1e5 * variance), alpha=variance, optimizer=None
        )
        process.fit(Z[rows], Y[rows, voxel])
        mean, covariance = process.predict(scaler.transform(new).astype(float), return_cov=True)
        sd = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(encoder.predict(new)[:, voxel], mean, atol=2e-3)
        ours = found.covariance(voxel)
        # Variances are exact, at images far from all others too.
        np.testing.assert_allclose(np.sqrt(np.diag(ours)), sd, rtol=5e-3)
        # Covariances have random features across: an s.d. of sqrt(2 / 2048) = .03 of correlation.
        assert (np.abs(ours - covariance) / np.outer(sd, sd)).max() < 4 * np.sqrt(2 / 2048)
        # σ² has the largest marginal likelihood: yᵀ(K + αI)⁻¹y α / (n − 1), centred.
        centred = KernelCenterer().fit_transform(K[np.ix_(rows, rows)] / scale)
        y = Y[rows, voxel] - Y[rows, voxel].mean()
        left = alpha * np.linalg.solve(centred + alpha * np.eye(len(y)), y)
        assert variance == pytest.approx(y @ left / (len(y) - 1), rel=1e-3)
        # Standard errors of means and covariances of n normal draws; five of them.
        assert (np.abs(draws[..., voxel].mean(axis=0) - mean) < 5 * sd / np.sqrt(n) + 2e-3).all()
        error = np.abs(np.cov(draws[..., voxel].T) - ours) / np.outer(sd, sd)
        assert error.max() < 5 * np.sqrt(2 / n)


@pytest.mark.parametrize("kind", ["gaussian", "polynomial"])
def test_short_vectors_have_the_kernel_for_products(kind):
    X = make_problem(60)[0]
    encoder = KernelRidgeEncoder(None, kernel=kind, candidates=[2]).fit(X, X[:, :2])
    short = encoder.family_.sketch(0, encoder.X_fit_).astype(float)
    K = encoder.family_.kernel(0, encoder.X_fit_, encoder.X_fit_)
    assert short.shape == (60, 2048)
    size = np.sqrt(np.outer(np.diag(K), np.diag(K)))
    # Unbiased: the mean over 1800 pairs, which share directions, and the s.d. of single pairs.
    # Squares of products of signs have heavier tails than waves.
    relative = (short @ short.T - K) / size
    assert abs(relative.mean()) < 0.02
    assert relative.std() < {"gaussian": 1, "polynomial": 2}[kind] * np.sqrt(2 / 2048)


def test_the_linear_kernel_is_banded_ridge_with_one_band():
    X, Y = make_problem(n_features=5)
    Y[:40, 1] = np.nan
    linear = KernelRidgeEncoder(None, kernel="linear").fit(X, Y)
    banded = BandedRidgeEncoder(None).fit(X, Y)
    np.testing.assert_array_equal(linear.alphas_, banded.alphas_)
    np.testing.assert_allclose(linear.predict(X), banded.predict(X), atol=1e-4)
    for voxel in (0, 1):
        np.testing.assert_allclose(
            linear._posterior_at(X[:5]).covariance(voxel),
            banded.posterior_.at(banded._scaled(X[:5]), banded.X_fit_).covariance(voxel),
            rtol=1e-2,
            atol=1e-6,
        )


def test_one_candidate_for_all_voxels_is_the_best_on_average():
    X, Y = make_problem()
    Y[:, 0] = 20 * Y[:, 1]  # the voxel whose error counts most
    both = KernelRidgeEncoder(None, alpha_per_voxel=False).fit(X, Y)
    alone = KernelRidgeEncoder(None, alpha_per_voxel=True).fit(X, Y)
    assert len(set(both.chosen_)) == len(set(both.alphas_)) == 1
    assert both.chosen_[2] == alone.chosen_[0] != alone.chosen_[2]


def test_guided_search_finds_what_the_exact_one_does():
    X, Y = make_problem(300)
    exact = KernelRidgeEncoder(None, search="exact").fit(X, Y)
    guided = KernelRidgeEncoder(None, search="guided").fit(X, Y)
    assert guided.search_ == "guided"
    np.testing.assert_allclose(guided.predict(X), exact.predict(X), atol=1e-3)


@pytest.mark.parametrize("kind", ["gaussian", "polynomial", "linear"])
def test_features_that_say_nothing_predict_the_mean(kind):
    Y = make_problem()[1]
    encoder = KernelRidgeEncoder(None, kernel=kind).fit(np.ones((150, 3)), Y)
    np.testing.assert_allclose(encoder.predict(np.ones((2, 3))), [Y.mean(0)] * 2, atol=1e-5)
    assert np.isfinite(encoder.sample(np.ones((2, 3)), 3, 0, noise="weights")).all()


def test_a_kernel_that_overflows_is_an_error_that_says_so():
    X, Y = make_problem()
    X[3] = 1e6  # z-scored, 12 or so: its product with itself to the power of 400
    encoder = KernelRidgeEncoder(None, kernel="polynomial", candidates=[400])
    with pytest.raises(ValueError, match=r"candidate 400 is not finite.*smaller degree"):
        encoder.fit(X, Y)


def test_tokens_repeats_and_files(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((120, 4, 3)).astype(np.float32)
    betas = tokens[:, :2, 0][:, None] ** 2 + 0.5 * rng.standard_normal((120, 3, 2))
    betas[::4, 2] = np.nan
    encoder = KernelRidgeEncoder().fit(tokens, betas)
    flat = KernelRidgeEncoder().fit(tokens.reshape(120, 12), np.nanmean(betas, axis=1))
    np.testing.assert_allclose(encoder.predict(tokens), flat.predict(tokens.reshape(120, 12)))
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.chosen_, encoder.chosen_)
    for noise in ("full", "trial", "signal", "weights"):
        np.testing.assert_array_equal(
            loaded.sample(tokens, 2, 0, noise=noise), encoder.sample(tokens, 2, 0, noise=noise)
        )
    need = fit_memory(encoder, (9000, 4096), (9000, 3, 15_000)).n_bytes
    assert need > fit_memory(brainenc.RidgeEncoder(), (9000, 4096), (9000, 3, 15_000)).n_bytes / 2


def adapted_twice():
    """Features, betas, and kernel ridge of three subjects, each adapted from the one before."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((3, 60, 5)).astype(np.float32)
    W = rng.standard_normal((5, 2)) @ rng.standard_normal((2, 20))
    Y = np.abs(X @ W) + 0.5 * rng.standard_normal((3, 60, 20))
    fits = [KernelRidgeEncoder(None, candidates=[0.7, 2.0]).fit(X[0], Y[0])]
    for i in (1, 2):
        fits.append(fits[-1].adapt(X[i], Y[i][:, :15]))
    return X, Y, fits


def test_the_prior_of_an_adapted_encoder_is_the_second_moment_of_functions():
    """Of functions in units of s.d. of signal and noise, so that kernels are those of a Gaussian
    process whose functions are like those of the subject before; also of one adapted itself."""
    X, _, fits = adapted_twice()
    new = np.random.default_rng(5).standard_normal((9, 5)).astype(np.float32)
    for before, after in pairwise(fits):
        signal = before.predict(X[fits.index(before)]).var(axis=0)
        size = np.sqrt(before.posterior_.variance + signal)
        functions = (before.predict(new) - before.intercept_) / size
        wanted = functions @ functions.T / functions.shape[1]
        found = after.prior_.functions(new)
        np.testing.assert_allclose(found @ found.T, wanted, atol=2e-4 * np.abs(wanted).max())
        assert np.nanmean(after.prior_shares_) > 0.4  # subjects of one law


def test_an_adapted_encoder_is_a_gaussian_process_with_the_mixed_kernel():
    X, Y, (_, _, last) = adapted_twice()
    new = np.random.default_rng(5).standard_normal((9, 5)).astype(np.float32)
    both = np.concatenate([X[2], new])
    scaled = (both - last.feature_mean_) / last.feature_scale_ / np.sqrt(5)
    squared = np.square(scaled[:, None] - scaled).sum(2).astype(float)
    typical = squared[:60, :60].sum() / (60 * 59)
    phi = last.prior_.functions(both).astype(float)
    linear = phi @ phi.T
    expected = last.predict(new)
    for voxel in range(15):

        def unit(K):
            own = K[:60, :60]
            return K / (np.trace(own) / 60 - own.mean())

        share = last.prior_shares_[voxel]
        gaussian = np.exp(-squared / (last.chosen_[voxel] ** 2 * typical))
        K = (1 - share) * unit(gaussian) + share * unit(linear)
        alpha = last.alphas_[voxel]
        H = np.eye(60) - 1 / 60
        dual = np.linalg.solve(H @ K[:60, :60] @ H + alpha * np.eye(60), H @ Y[2][:, voxel])
        offset = Y[2][:, voxel].mean() - K[:60, :60].mean(0) @ dual
        np.testing.assert_allclose(expected[:, voxel], K[60:, :60] @ dual + offset, atol=3e-3)
        centred = K[60:, :60] - K[60:, :60].mean(1, keepdims=True) - K[:60, :60].mean(0)
        centred += K[:60, :60].mean()
        around = K[60:, 60:] - K[60:, :60].mean(1) - K[60:, :60].mean(1)[:, None]
        around += K[:60, :60].mean()
        inverse = np.linalg.inv(H @ K[:60, :60] @ H + alpha * np.eye(60))
        variance = np.diag(around - centred @ inverse @ centred.T) / alpha + 1 / 60
        found = np.diag(last._posterior_at(new).covariance(voxel))
        np.testing.assert_allclose(
            found, variance * last.posterior_.variance[voxel], rtol=0.02, atol=1e-4
        )
