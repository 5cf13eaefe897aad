"""Banded ridge with a prior, chosen by evidence: numbers, safety, cost, refusals."""

import numpy as np
import pytest
from scipy import stats

import brainenc
from brainenc.datasets import simulate_subjects
from brainenc.model_selection import image_folds
from brainenc.solvers import feature_bands
from brainenc.solvers.banded_evidence import banded_ridge_evidence, candidates_with_priors

#: Features of the first half of the tokens, and of the second.
BANDS = {"first": 512, "second": 512}
SIZES = {"n_images": 400, "n_voxels": 60, "shared_images": 0, "random_state": 7}


def features_of(data):
    return data.truth.tokens.reshape(data.n_images, -1)


def prior_of(sources):
    encoders = [brainenc.RidgeEncoder().fit(features_of(d), d.betas) for d in sources]
    return brainenc.WeightPrior.from_encoders(encoders)


def true_r(encoder, data, n_test=150):
    """Mean r with the true responses to the last images, which nobody was fitted to."""
    pairs = zip(
        encoder.predict(features_of(data)[-n_test:]).T, data.truth.signal[-n_test:].T, strict=True
    )
    return np.mean([stats.pearsonr(*pair)[0] for pair in pairs])


@pytest.fixture(scope="module")
def subjects():
    return simulate_subjects(3, **SIZES)


@pytest.fixture(scope="module")
def prior(subjects):
    return prior_of(subjects[:2])


@pytest.mark.parametrize("per_voxel", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
def test_the_likeliest_candidate_and_penalty_by_the_textbook(narrow, per_voxel):
    """Of all likelihoods by `slogdet` and `solve`, and held-out predictions by refits."""
    rng = np.random.default_rng(0)
    sizes = [4, 3] if narrow else [30, 20]
    X = rng.standard_normal((24, sum(sizes)))
    parts = np.split(X, [sizes[0]], axis=1)
    W = (
        rng.standard_normal((sum(sizes), 5))
        * np.r_[np.full(sizes[0], 1), np.full(sizes[1], 0.2)][:, None]
    )
    Y = X @ W + 4 * rng.standard_normal((24, 5)) + 7
    folds = image_folds(4, 24, random_state=0)
    candidates, alphas = np.array([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]]), np.array([1.0, 30.0, 500])
    bands = feature_bands(X, sizes) if narrow else [part @ part.T for part in parts]
    fit = banded_ridge_evidence(
        bands, Y, alphas, folds, candidates, pooling=12, per_voxel=per_voxel
    )
    contrasts = np.linalg.svd(np.eye(24) - 1 / 24)[0][:, :23]
    z, logs = contrasts.T @ Y, []
    Ks = [sum(w * part @ part.T for w, part in zip(c, parts, strict=True)) for c in candidates]
    for K in Ks:
        for alpha in alphas:
            total = contrasts.T @ K @ contrasts + alpha * np.eye(23)
            fitting = (z * np.linalg.solve(total, z)).sum(0)
            # Of responses with the covariance σ²(I + K/α).
            logs.append(
                -(np.linalg.slogdet(total)[1] - 23 * np.log(alpha)) / 2
                - 23 / 2 * np.log(alpha * fitting)
            )
    logs = np.array(logs)
    average = logs.mean(1, keepdims=True)
    logs = logs + 12 / 24 * average if per_voxel else np.tile(average, 5)
    best = logs.argmax(0)
    np.testing.assert_array_equal(fit.alphas, alphas[best % 3])
    np.testing.assert_array_equal(fit.band_weights, candidates[best // 3].T)
    assert len(set(best)) > 1 or not per_voxel
    for voxel, i in enumerate(best):
        K, alpha = Ks[i // 3], alphas[i % 3]
        centred = contrasts @ contrasts.T
        dual = centred @ np.linalg.solve(
            centred @ K @ centred + alpha * np.eye(24), centred @ Y[:, voxel]
        )
        np.testing.assert_allclose(fit.weights[:, voxel], dual, atol=1e-9)
        np.testing.assert_allclose(
            fit.intercept[voxel], Y[:, voxel].mean() - K.mean(0) @ dual, atol=1e-8
        )
        for train, test in folds:
            C = np.eye(len(train)) - 1 / len(train)
            own = K[np.ix_(train, train)]
            d = C @ np.linalg.solve(C @ own @ C + alpha * np.eye(len(train)), C @ Y[train, voxel])
            level = Y[train, voxel].mean() - own.mean(0) @ d
            expected = K[np.ix_(test, train)] @ d + level
            np.testing.assert_allclose(fit.held_out[test, voxel], expected, atol=1e-8)


def test_candidates_are_those_from_scratch_and_mixtures():
    found = candidates_with_priors(20, 2, 3, 0)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found[:20, 2:] == 0).all()
    np.testing.assert_array_equal(found[0], [0.5, 0.5, 0, 0, 0])
    mixed = found[20:]
    assert ((mixed[:, 2:] > 0).sum(1) == 1).all()
    shares = {(int(row[2:].argmax()), round(1 - row[2:].max(), 6)) for row in mixed}
    assert shares == {(c, s) for c in range(3) for s in (0.1, 0.5)}
    # Components that are more than candidates are all tried.
    assert (candidates_with_priors(2, 2, 5, 0)[2:, 2:] > 0).any(0).all()


@pytest.mark.parametrize("bands", [None, BANDS])
def test_a_prior_is_worth_images_and_never_harms_with_more(bands, subjects, prior):
    data = subjects[2]
    X, gains = features_of(data), []
    for n in (25, 100, 250):
        how = {"bands": bands}
        scratch = brainenc.BandedRidgeEncoder(**how).fit(X[:n], data.betas[:n])
        fitted = brainenc.BandedRidgeEncoder(prior=prior, **how).fit(X[:n], data.betas[:n])
        gains.append(true_r(fitted, data) - true_r(scratch, data))
    assert min(gains) > 0.03


@pytest.mark.parametrize("bands", [None, BANDS])
def test_a_prior_of_subjects_that_are_not_alike_does_no_harm(bands):
    *sources, new = simulate_subjects(3, **SIZES, alikeness=0.0)
    prior, X, losses = prior_of(sources), features_of(new), []
    for n in (25, 50, 100, 250):
        how = {"bands": bands}
        scratch = brainenc.BandedRidgeEncoder(**how).fit(X[:n], new.betas[:n])
        fitted = brainenc.BandedRidgeEncoder(prior=prior, **how).fit(X[:n], new.betas[:n])
        losses.append(true_r(scratch, new) - true_r(fitted, new))
    assert np.mean(losses) < 0.005


def test_a_band_that_matters_is_found_beside_the_prior(subjects, prior):
    """The prior is of the features of both bands; the second ones are noise for the new subject."""
    data, rng = subjects[2], np.random.default_rng(0)
    X = features_of(data).copy()
    X[:, 512:] = rng.permutation(X[:, 512:])
    scratch = brainenc.BandedRidgeEncoder(bands=BANDS).fit(X[:250], data.betas[:250])
    fitted = brainenc.BandedRidgeEncoder(bands=BANDS, prior=prior).fit(X[:250], data.betas[:250])

    def held_out_r(encoder):
        pairs = zip(encoder.predict(X[250:]).T, data.truth.signal[250:].T, strict=True)
        return np.mean([stats.pearsonr(*pair)[0] for pair in pairs])

    assert held_out_r(fitted) > held_out_r(scratch) - 0.005


def test_one_voxel_of_missing_images_and_one_without_data(subjects, prior):
    data = subjects[2]
    X, betas = features_of(data)[:60], data.betas[:60].copy()
    betas[:, :, 5] = np.nan
    betas[10:20, :, 7] = np.nan
    betas[:, :, 9] = 3.0  # constant
    encoder = brainenc.BandedRidgeEncoder(prior=prior, bands=BANDS).fit(X, betas)
    predicted = encoder.predict(X)
    assert np.isnan(predicted[:, 5]).all()
    assert np.isfinite(np.delete(predicted, 5, axis=1)).all()
    np.testing.assert_allclose(predicted[:, 9], 3, atol=1e-4)
    parts = encoder.predict(X, split=True)
    np.testing.assert_allclose(parts.sum(0), predicted, atol=1e-5)
    known = np.delete(np.arange(60), 5)
    np.testing.assert_allclose(encoder.band_weights_[:, known].sum(0), 1, rtol=1e-5)
    draws = encoder.sample(X[:3], n=400, random_state=0, noise="weights")[:, :, known]
    # The mean of 400 draws is the prediction, within 5 s.e.; a constant voxel has no spread.
    error = np.abs(draws.mean(0) - predicted[:3, known])
    assert (error <= 5 * draws.std(0) / 20 + 1e-4).all()


def test_what_is_chosen_by_cross_validation(subjects, prior):
    data = subjects[2]
    X, betas = features_of(data)[:60], data.betas[:60]
    folds = [(np.arange(20, 60), np.arange(20)), (np.arange(20), np.arange(20, 60))]

    def fit(**how):
        encoder = brainenc.BandedRidgeEncoder(bands=BANDS, prior=prior, n_iter=4, **how)
        return encoder.fit(X, betas).predict(X)

    by_folds = "cross-validation"
    np.testing.assert_array_equal(fit(), fit(selection="evidence"))
    np.testing.assert_array_equal(fit(cv=folds), fit(cv=folds, selection=by_folds))
    chosen = {"candidates": "chosen"}
    np.testing.assert_array_equal(fit(**chosen), fit(**chosen, selection=by_folds))
    labels = {"alpha_per_voxel": data.voxels["roi"].to_numpy()}
    np.testing.assert_array_equal(fit(**labels), fit(**labels, selection=by_folds))
    assert not np.array_equal(fit(), fit(selection=by_folds))
    with pytest.raises(ValueError, match='candidates="chosen"'):
        fit(**chosen, selection="evidence")
    with pytest.raises(ValueError, match="selection='both'"):
        fit(selection="both")
    with pytest.raises(ValueError, match=r"shape \(1, 2\) must have the shape \(n_candidates, 3\)"):
        fit(candidates=[[0.5, 0.5]])
    given = [[0.2, 0.3, 0.5]]
    encoder = brainenc.BandedRidgeEncoder(bands=BANDS, prior=prior, candidates=given)
    weights = encoder.fit(X, betas).band_weights_
    np.testing.assert_allclose(weights, np.tile(np.array(given).T, 60), rtol=1e-6)


def test_evidence_takes_fewer_solutions_than_cross_validation(subjects, prior, monkeypatch):
    """Counted, since times are of a machine: residuals of one penalty for all voxels."""
    from brainenc.solvers.smoother import Smoother

    counted, count = Smoother.held_out, []

    def held_out(self, Y, residuals, at):
        count.append(residuals.shape[1])
        return counted(self, Y, residuals, at)

    monkeypatch.setattr(Smoother, "held_out", held_out)
    data, totals = subjects[2], {}
    X, betas = features_of(data)[:150], data.betas[:150]
    for selection in ("evidence", "cross-validation"):
        count.clear()
        brainenc.BandedRidgeEncoder(bands=BANDS, prior=prior, selection=selection).fit(X, betas)
        totals[selection] = sum(count)
    assert totals["evidence"] < totals["cross-validation"] / 5
