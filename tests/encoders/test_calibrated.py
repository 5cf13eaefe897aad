"""Calibrated encoders: variance and coverage on new images, whatever the encoder got wrong."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_validate

import brainenc
from brainenc.encoders import CalibratedEncoder
from brainenc.noise.calibration import conformal_quantile

N_VOXELS = 8


def make_images(n, rng):
    """Features and skewed single trials; every third repeat is missing."""
    X = rng.standard_normal((n, 4)).astype(np.float32)
    betas = (X @ np.ones((4, N_VOXELS)))[:, None] + rng.standard_exponential((n, 3, N_VOXELS)) - 1
    betas[rng.random((n, 3)) < 0.3] = np.nan
    return X, betas.astype(np.float32)


@pytest.fixture(scope="module")
def wrong():
    """Ridge whose noise is twice too large in half of the voxels and too small in the others."""
    encoder = brainenc.RidgeEncoder(None).fit(*make_images(200, np.random.default_rng(0)))
    factor = np.repeat([2.0, 0.5], N_VOXELS // 2).astype(np.float32)
    encoder.trials_ = replace(encoder.trials_, noise=encoder.noise_.times(factor))
    return encoder, factor


def coverage_of(interval, betas):
    lower, upper = interval
    inside = (betas >= lower[:, None]) & (betas <= upper[:, None])
    return np.where(np.isfinite(betas), inside, np.nan)


@pytest.mark.parametrize("grouped", [False, True])
def test_draws_and_intervals_are_mended(wrong, grouped):
    encoder, factor = wrong
    rng = np.random.default_rng(1)
    groups = factor.astype(str) if grouped else None
    calibrated = brainenc.calibrate(encoder, *make_images(500, rng), groups=groups)
    # 1000 trials of kurtosis 9 here, 420 in the fit: relative s.e. of the ratio of s.d.
    # .5 sqrt(8/1000 + 8/420) = .08; allow four. Unmended, or squared, it is off by a half or more.
    np.testing.assert_allclose(calibrated.scale_, 1 / factor, rtol=0.32)
    X, betas = make_images(3000, rng)
    for level in (0.5, 0.9):
        coverage = np.nanmean(coverage_of(calibrated.predict_interval(X, level), betas))
        assert coverage == pytest.approx(level, abs=0.02)
    assert np.nanmean(coverage_of(encoder.predict_interval(X), betas)) != pytest.approx(
        0.9, abs=0.05
    )
    np.testing.assert_array_equal(calibrated.predict(X), encoder.predict(X))
    draws = calibrated.sample(X[:50], 400, 0)
    spread = np.square(draws - encoder.predict(X[:50])).mean(axis=(0, 1))
    measured = np.nanmean(np.square(betas - encoder.predict(X)[:, None]), axis=(0, 1))
    np.testing.assert_allclose(spread, measured, rtol=0.4)  # s.e. .09 of a variance; allow four
    assert calibrated.sample_kind_ == "calibrated residual"


def test_guarantee_holds_for_few_images_and_skewed_trials(wrong):
    encoder, _ = wrong
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        calibrated = brainenc.calibrate(encoder, *make_images(19, rng))
        X, betas = make_images(40, rng)
        covered.append(np.nanmean(coverage_of(calibrated.predict_interval(X), betas)))
    # .9 to .9 + 2/20; calibration sets differ by about .03 (8 voxels of 19 images): s.e. .005.
    assert 0.9 - 0.015 < np.mean(covered) < 1.0
    assert np.mean(covered) < 0.99


def test_too_few_images_are_refused_and_voxels_without_data_are_nan(wrong):
    encoder, _ = wrong
    rng = np.random.default_rng(2)
    few = brainenc.calibrate(encoder, *make_images(5, rng))
    with pytest.raises(ValueError, match=r"coverage=0.9 takes at least 9 calibration images.* 5"):
        few.predict_interval(np.zeros((1, 4)))
    X, betas = make_images(50, rng)
    betas[:, :, 3] = np.nan
    calibrated = brainenc.calibrate(encoder, X, betas)
    lower, upper = calibrated.predict_interval(X)
    for values in (calibrated.sample(X, 2, 0)[0], lower, upper):
        np.testing.assert_array_equal(np.isnan(values).any(axis=0), np.arange(N_VOXELS) == 3)


def test_voxels_must_be_those_of_the_encoder(wrong):
    X, betas = make_images(20, np.random.default_rng(3))
    with pytest.raises(ValueError, match=r"have 5 voxels, but the encoder was fitted to 8"):
        brainenc.calibrate(wrong[0], X, betas[:, :, :5])
    with pytest.raises(NotFittedError):
        brainenc.calibrate(brainenc.RidgeEncoder(None), X, betas)


def test_save_and_load_keep_the_calibration(wrong, tmp_path):
    X, betas = make_images(60, np.random.default_rng(4))
    calibrated = brainenc.calibrate(wrong[0], X, betas)
    calibrated.save(tmp_path / "model")
    loaded = brainenc.load(tmp_path / "model")
    for ours, theirs in zip(
        calibrated.predict_interval(X), loaded.predict_interval(X), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        calibrated.sample(X, 2, 0), loaded.sample(X, 2, 0, out=tmp_path / "draws.npy")
    )
    assert loaded.score(X, betas) == calibrated.score(X, betas)


# -------------------------------------------------------------------- parts of draws


@pytest.fixture(scope="module")
def shared_noise():
    """300 images × 3 trials: noise with a common part, in a voxel-by-voxel known covariance."""
    rng = np.random.default_rng(5)
    sd = np.linspace(0.5, 2, N_VOXELS)
    covariance = np.outer(sd, sd) * (0.5 + 0.5 * np.eye(N_VOXELS))
    X = rng.standard_normal((300, 4)).astype(np.float32)
    noise = rng.multivariate_normal(np.zeros(N_VOXELS), covariance, (300, 3))
    return X, ((X @ np.ones((4, N_VOXELS)))[:, None] + noise).astype(np.float32), covariance


class Overconfident(brainenc.RidgeEncoder):
    """Ridge whose draws have half the s.d. they should."""

    def fit(self, X, y):
        super().fit(X, y)
        self.trials_ = replace(self.trials_, noise=self.noise_.times(0.5))
        return self


@pytest.mark.parametrize("prefit", [True, False])
def test_parts_of_draws(shared_noise, prefit):
    X, betas, covariance = shared_noise
    if prefit:
        encoder = Overconfident(None).fit(X[:150], betas[:150])
        calibrated = brainenc.calibrate(encoder, X[150:], betas[150:])
    else:
        calibrated = CalibratedEncoder(Overconfident(None)).fit(X, betas)
    new = np.random.default_rng(6).standard_normal((20, 4)).astype(np.float32)
    prediction = calibrated.predict(new)

    def spread(noise):
        deviations = calibrated.sample(new, 1000, 0, noise=noise) - prediction
        rows = deviations.reshape(-1, N_VOXELS)
        return rows.T @ rows / len(rows)

    # 150 images of three trials: the s.e. of a variance is about 2 / sqrt(450) = .07 and that of
    # the encoder's own estimate as much again; four of both. Halved draws are off by .75.
    for noise in ("full", "trial"):
        np.testing.assert_allclose(np.diag(spread(noise)), np.diag(covariance), rtol=0.4)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    shared = spread("latent")
    alone = 1 - np.diag(shared) / np.diag(spread("full"))
    assert alone.mean() == pytest.approx(1 - correlation, abs=0.15)
    # A linear encoder of linear responses hardly errs: 4 weights from 150 × 3 trials.
    assert (np.diag(spread("signal")) < 0.15 * np.diag(covariance)).all()
    repeated = calibrated.sample(new, 2, noise=None)
    np.testing.assert_array_equal(repeated, np.stack([prediction] * 2))
    np.testing.assert_array_equal(
        calibrated.sample(new, 2, 3), calibrated.sample(new, 2, 3, noise="full")
    )


def test_unknown_parts_and_parts_without_repeats_are_refused(shared_noise):
    X, betas, _ = shared_noise
    calibrated = CalibratedEncoder(cv=2).fit(X[:60], betas[:60, 0])
    with pytest.raises(ValueError, match=r"noise='all' must be one of \['auto', 'full', 'latent'"):
        calibrated.sample(X, noise="all")
    with pytest.raises(ValueError, match="noise='trial' needs repeats"):
        calibrated.sample(X, noise="trial")


# -------------------------------------------------------------------- folds


def test_folds_mend_draws_and_intervals_of_new_images():
    rng = np.random.default_rng(7)
    calibrated = CalibratedEncoder(Overconfident(None)).fit(*make_images(200, rng))
    whole = Overconfident(None).fit(*make_images(200, np.random.default_rng(7)))
    new, trials = make_images(3000, rng)
    np.testing.assert_array_equal(calibrated.predict(new), whole.predict(new))
    np.testing.assert_allclose(calibrated.scale_, 2, rtol=0.05)  # the same trials on both sides
    for level in (0.5, 0.9):
        # Over 8 skewed voxels of 200 images: s.e. below .01.
        covered = np.nanmean(coverage_of(calibrated.predict_interval(new, level), trials))
        assert covered == pytest.approx(level, abs=0.03)
    spread = np.square(calibrated.sample(new[:50], 400, 0) - whole.predict(new[:50]))
    np.testing.assert_allclose(
        spread.mean(axis=(0, 1)), calibrated.noise_.variance, rtol=0.05
    )  # 20 000 draws: s.e. .01


def test_each_image_is_judged_by_a_fit_that_had_not_seen_it():
    """One nearest neighbour is always right about what it learnt."""

    class Nearest(brainenc.RidgeEncoder):
        def _fit(self, features, betas):
            self.X_, self.Y_ = features, betas[:, 0]
            return self.Y_ + np.float32(0.1)

        def _predict(self, features):
            return self.Y_[[np.abs(self.X_ - x).sum(axis=1).argmin() for x in features]]

    rng = np.random.default_rng(8)
    X = rng.standard_normal((100, 2)).astype(np.float32)
    betas = rng.standard_normal((100, N_VOXELS)).astype(np.float32)
    # Differences of independent unit normals have s.d. √2, the encoder says .1.
    scale = CalibratedEncoder(Nearest(None)).fit(X, betas).scale_
    assert np.sqrt(np.square(scale).mean()) == pytest.approx(np.sqrt(2) / 0.1, rel=0.15)


def test_one_split_makes_do_with_one_fit_more(shared_noise):
    X, betas, _ = shared_noise
    split = [(np.arange(200), np.arange(200, 300))]
    calibrated = CalibratedEncoder(brainenc.RidgeEncoder(None), cv=split).fit(X, betas)
    part = brainenc.RidgeEncoder(None).fit(X[:200], betas[:200])
    by_hand = brainenc.calibrate(part, X[200:], betas[200:])
    np.testing.assert_allclose(calibrated.scale_, by_hand.scale_, rtol=1e-6)
    whole = brainenc.RidgeEncoder(None).fit(X, betas)
    np.testing.assert_array_equal(calibrated.predict(X), whole.predict(X))


def test_scikit_learn_splits_clones_and_tunes_it(shared_noise):
    X, betas, _ = shared_noise
    calibrated = CalibratedEncoder(brainenc.RidgeEncoder(None), cv=3)
    found = cross_validate(calibrated, X, betas, cv=3, error_score="raise")
    assert (found["test_score"] > 0.8).all()
    grid = {"encoder__alphas": [[1e6], [1.0]]}
    error = "neg_mean_squared_error"
    search = GridSearchCV(calibrated, grid, cv=3, scoring=error, error_score="raise")
    search.fit(X, betas[:, 0])
    assert search.best_params_ == {"encoder__alphas": [1.0]}
    fitted = brainenc.RidgeEncoder(None).fit(X, betas)
    with pytest.raises(NotFittedError, match="clone, and with it cross-validation"):
        clone(brainenc.calibrate(fitted, X, betas)).fit(X, betas)


def test_wrong_parameters_are_named(shared_noise):
    X, betas, _ = shared_noise
    with pytest.raises(TypeError, match="must be an encoder"):
        CalibratedEncoder("ridge").fit(X, betas)
    with pytest.raises(ValueError, match="cv='folds' must be 'prefit', an int or a splitter"):
        CalibratedEncoder(cv="folds").fit(X, betas)
    with pytest.raises(ValueError, match=r"groups='roi' names an atlas.*with_voxels"):
        CalibratedEncoder(groups="roi").fit(X, betas)
    with pytest.raises(ValueError, match=r"groups='roi' is not among the columns \['atlas'\]"):
        CalibratedEncoder(groups="roi").with_voxels(pd.DataFrame({"atlas": ["V1"] * N_VOXELS}))


# -------------------------------------------------------------------- inputs, and other encoders


def test_groups_by_the_name_of_an_atlas(shared_noise):
    X, betas, _ = shared_noise
    voxels = pd.DataFrame({"roi": ["V1"] * 3 + ["V2"] * (N_VOXELS - 3)})
    told = CalibratedEncoder(groups="roi", cv=2).with_voxels(voxels).fit(X, betas)
    np.testing.assert_array_equal(told.group_, [0] * 3 + [1] * (N_VOXELS - 3))
    assert len(np.unique(told.scale_)) == 2


@pytest.mark.parametrize(
    "encoder",
    [
        brainenc.MeanEncoder(),
        brainenc.RidgeEncoder(brainenc.PixelFeatures(verbose=False)),
        brainenc.StackedEncoder(
            [
                brainenc.MeanEncoder(),
                brainenc.RidgeEncoder(brainenc.PixelFeatures(verbose=False)),
                brainenc.RidgeEncoder(brainenc.GaborPyramid(verbose=False)),
            ]
        ),
    ],
    ids=["mean", "ridge", "stack"],
)
def test_images_are_what_the_encoder_wants(encoder, tmp_path):
    rng = np.random.default_rng(9)
    images = rng.integers(0, 256, (30, 16, 16), dtype=np.uint8)
    betas = images.reshape(30, -1)[:, None, :4] / 50 + rng.standard_normal((30, 2, 4))
    calibrated = CalibratedEncoder(encoder, cv=2).fit(images, betas)
    alone = clone(encoder).fit(images, betas)
    np.testing.assert_allclose(calibrated.predict(images), alone.predict(images), atol=1e-5)
    calibrated.save(tmp_path / "model")
    loaded = brainenc.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.sample(images, 2, 0), calibrated.sample(images, 2, 0))

    def transform(extractor):
        return clone(extractor).fit_transform(images)

    prepared, X = CalibratedEncoder(encoder, cv=2).precompute(images, transform)
    np.testing.assert_allclose(
        prepared.fit(X, betas).predict(X), calibrated.predict(images), atol=1e-5
    )


def test_a_row_of_a_benchmark():
    data = brainenc.datasets.simulate_subject(60, 12, random_state=0)
    encoders = {
        "ridge": brainenc.RidgeEncoder(),
        "ridge, calibrated": CalibratedEncoder(groups="roi"),
    }
    result = brainenc.benchmark(
        data, encoders, features=data.truth.tokens, cv=2, n_draws=50, n_permutations=1
    )
    draws = result.draws[result.draws["atlas"] == "all"].set_index("encoder")
    row = draws.loc["ridge, calibrated"]
    assert row["draws_from"] == "calibrated residual"
    assert np.isfinite(row["crps_z"])
    rows = result.encoders.set_index("encoder")
    assert rows.loc["ridge, calibrated", "r"] == pytest.approx(rows.loc["ridge", "r"], abs=1e-6)


# -------------------------------------------------------------------- residuals of some shape


def skewed_images(n, rng):
    X = rng.standard_normal((n, 4)).astype(np.float32)
    betas = (X @ np.ones((4, N_VOXELS)))[:, None] / 2 + rng.exponential(size=(n, 3, N_VOXELS)) - 1
    betas[rng.random((n, 3)) < 0.3] = np.nan
    return X, betas.astype(np.float32)


def misses(lower, upper, betas):
    """Shares of trials below and above, and the interval score (Gneiting & Raftery 2007)."""
    lower, upper, present = lower[:, None], upper[:, None], np.isfinite(betas)
    beyond = np.clip(lower - betas, 0, None) + np.clip(betas - upper, 0, None)
    score = np.nanmean(upper - lower + 2 / 0.1 * beyond)
    return (betas < lower)[present].mean(), (betas > upper)[present].mean(), score


@pytest.mark.parametrize("prefit", [True, False])
def test_intervals_have_the_skew_of_residuals(prefit):
    rng = np.random.default_rng(10)
    X, betas = skewed_images(300, rng)
    encoder = brainenc.RidgeEncoder(None).fit(X, betas)
    if prefit:
        X, betas = skewed_images(200, rng)
    calibrated = CalibratedEncoder(encoder, cv="prefit" if prefit else 5).fit(X, betas)
    assert calibrated.encoder_.residual_shape_ is not None
    new, trials = skewed_images(2000, rng)
    below, above, score = misses(*calibrated.predict_interval(new), trials)
    # Over 8 voxels of 200 images, 2.1 trials each: s.e. of coverage .005, of a tail less.
    assert below + above == pytest.approx(0.1, abs=0.02)
    assert below == pytest.approx(0.05, abs=0.02)
    # Symmetric around the prediction: all that is missed is above, though the coverage is right.
    expected = encoder.predict(X[:1])
    sd = (encoder.trials_.sd(expected) / encoder.residual_shape_.relative_sd(expected))[0]
    scores = np.abs(betas - encoder.predict(X)[:, None]) / sd
    width = conformal_quantile(scores, 0.9, np.arange(N_VOXELS)) * sd
    prediction = encoder.predict(new)
    symmetric = misses(prediction - width, prediction + width, trials)
    assert symmetric[0] < 0.01
    assert score < 0.95 * symmetric[2]


def test_a_voxel_with_few_judged_images_has_no_bound_and_leaves_the_others_theirs():
    rng = np.random.default_rng(13)
    encoder = brainenc.RidgeEncoder(None).fit(*skewed_images(300, rng))
    X, betas = skewed_images(60, rng)
    whole = brainenc.calibrate(encoder, X, betas).predict_interval(X)
    betas[8:, :, 2] = np.nan
    lower, upper = brainenc.calibrate(encoder, X, betas).predict_interval(X)
    assert encoder.residual_shape_ is not None
    assert (lower[:, 2] == -np.inf).all()
    assert (upper[:, 2] == np.inf).all()
    others = np.arange(N_VOXELS) != 2
    np.testing.assert_array_equal(lower[:, others], whole[0][:, others])
    np.testing.assert_array_equal(upper[:, others], whole[1][:, others])


# -------------------------------------------------------------------- data and predictions missing


def test_images_that_were_judged_make_the_intervals(shared_noise, monkeypatch):
    X, betas, _ = shared_noise
    monkeypatch.setattr("brainenc.encoders.calibrated.MAX_SCORED", 100)
    # Of 300 images, every third counted from 0 would be none of those left out.
    left_out = np.flatnonzero(np.arange(300) % 3 == 1)
    split = [(np.setdiff1d(np.arange(300), left_out), left_out)]
    calibrated = CalibratedEncoder(brainenc.RidgeEncoder(None), cv=split).fit(X, betas)
    assert np.isfinite(calibrated.scores_).sum() == 100 * 3 * N_VOXELS
    assert np.isfinite(calibrated.predict_interval(X)).all()


class Unsure(brainenc.RidgeEncoder):
    """Ridge that predicts nothing of some voxels and images."""

    def _predict(self, features):
        prediction = super()._predict(features)
        prediction[features[:, 0] > 1, 2] = np.nan
        prediction[:, 5] = np.nan
        return prediction


def test_what_the_encoder_does_not_predict_is_left_out(shared_noise):
    X, betas, _ = shared_noise
    calibrated = CalibratedEncoder(Unsure(None), cv=3).fit(X, betas)
    plain = CalibratedEncoder(brainenc.RidgeEncoder(None), cv=3).fit(X, betas)
    others = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(calibrated.scale_[others], plain.scale_[others])
    assert np.isnan(calibrated.scale_[5])
    predicted = X[:, 0] <= 1
    of_voxel = plain.scores_[predicted, :, 2].astype(float)
    # Scores know the skew of residuals, of which there is hardly any. With the missing images
    # counted as predicted exactly, the factor would be 8 % smaller.
    assert calibrated.scale_[2] == pytest.approx(np.sqrt(np.mean(of_voxel**2)), rel=0.01)
    for end in calibrated.predict_interval(X):
        np.testing.assert_array_equal(np.isfinite(end), np.isfinite(calibrated.predict(X)))


def test_nothing_to_judge_by_is_said(shared_noise):
    X, betas, _ = shared_noise
    calibrated = CalibratedEncoder(brainenc.MeanEncoder(), cv=2).fit(X, np.ones_like(betas))
    with pytest.raises(ValueError, match="at least 9 calibration images, and there are 0"):
        calibrated.predict_interval(X)


def test_a_voxel_without_calibration_data_is_left_out_of_the_density(shared_noise):
    X, betas, _ = shared_noise
    encoder = brainenc.RidgeEncoder(None).fit(X[:150], betas[:150])
    lacking = betas[150:].copy()
    lacking[..., 4] = np.nan
    calibrated = brainenc.calibrate(encoder, X[150:], lacking)
    others = np.arange(N_VOXELS) != 4
    found = calibrated.log_density(X, betas)
    np.testing.assert_array_equal(found, calibrated.log_density(X, betas, voxels=others))
    assert np.isfinite(found).all()


def test_noise_is_that_of_held_out_trials_whatever_a_sampler_draws(shared_noise):
    X, betas, covariance = shared_noise

    class Sampler(brainenc.RidgeEncoder):
        """Draws half as far from the prediction as they should."""

        sample_kind = "own"

        def _draw(self, features, n, rng, part):
            noise = rng.standard_normal((n, len(features), N_VOXELS))
            return self._predict(features) + np.sqrt(np.diag(covariance)) / 2 * noise

    calibrated = CalibratedEncoder(Sampler(None), cv=3).fit(X, betas)
    draws = calibrated.sample(X, 300, 0) - calibrated.predict(X)
    # The s.d. of draws is that of 100: its square is off by 14 %, image by image.
    np.testing.assert_allclose(draws.var(axis=(0, 1)), calibrated.noise_.variance, rtol=0.08)
    # 900 trials: s.e. of a variance 5 %.
    np.testing.assert_allclose(calibrated.noise_.variance, np.diag(covariance), rtol=0.2)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_factor_is_the_root_mean_square_of_residuals_in_units_of_the_encoder(wrong, grouped):
    encoder, factor = wrong
    X, betas = make_images(40, np.random.default_rng(12))
    groups = factor.astype(str) if grouped else None
    found = brainenc.calibrate(encoder, X, betas, groups=groups).scale_
    expected = encoder.predict(X)
    residuals = (betas - expected[:, None]) / encoder.trials_.sd(expected)[:, None]
    if grouped:  # four voxels each
        expected = np.repeat(
            [np.sqrt(np.nanmean(np.square(residuals[..., v : v + 4]))) for v in (0, 4)], 4
        )
    else:
        expected = np.sqrt(np.nanmean(np.square(residuals), axis=(0, 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
