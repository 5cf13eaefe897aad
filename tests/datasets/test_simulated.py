import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scoringrules
from scipy import stats
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from brainenc.datasets import simulate_subject
from brainenc.datasets.simulated import cortex
from brainenc.datasets.simulated.energy import gabor_energy
from brainenc.datasets.simulated.scenes import FIELD


@pytest.fixture(scope="module")
def data():
    return simulate_subject(random_state=0)


@pytest.fixture(scope="module")
def driftless():
    """No drift and nothing missing: exactly the distribution the truth describes."""
    return simulate_subject(500, 200, 4, session_drift=0, missing=0, random_state=1)


def voxelwise_r(a, b):
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def ncsnr_by_anova(betas):
    """Signal and noise s.d. from within- and between-image mean squares, no missing repeats."""
    n_repeats = betas.shape[1]
    within = betas.var(axis=1, ddof=1, dtype=np.float64).mean(axis=0)
    between = betas.mean(axis=1, dtype=np.float64).var(axis=0, ddof=1)
    return np.sqrt(np.maximum(between - within / n_repeats, 0) / within)


# ------------------------------------------------------------------ magnitudes


def test_true_signal_over_true_noise_is_the_ncsnr_drawn(data):
    # Exact but for float32 rounding of a signal of s.d. about 0.05 around a mean of up to 1.3.
    ratio = data.truth.signal.std(axis=0, dtype=np.float64) / data.truth.noise_sd
    np.testing.assert_allclose(ratio, data.truth.ncsnr, rtol=1e-5)


def test_ncsnr_estimated_from_repeats_agrees_with_truth(driftless):
    estimate, truth = ncsnr_by_anova(driftless.betas), driftless.truth.ncsnr
    # Relative s.e. of the two mean squares is √(2 / 499) and √(2 / 1500); by error propagation
    # the s.e. of ncsnr² is (ncsnr² + 1/4) √(2/499 + 2/1500).
    standard_error = (truth**2 + 0.25) * np.sqrt(2 / 499 + 2 / 1500)
    z = (estimate**2 - truth**2) / standard_error
    assert np.abs(z).max() < 4.5
    # Given the signal, which is fixed, and not normal, the spread is somewhat below that.
    assert 0.5 < z.std() < 1.2
    assert abs(z.mean()) < 0.35  # noise is correlated between voxels, so not 1/√200


@pytest.mark.parametrize(
    ("rois", "p", "expected"),
    [
        (("V", "h"), (5, 25, 50, 75, 95), (0.15, 0.31, 0.48, 0.63, 0.85)),
        (("F", "P", "E"), (5, 25, 50, 75, 95), (0.22, 0.30, 0.40, 0.53, 0.78)),
    ],
)
def test_ncsnr_has_the_quantiles_of_nsd(data, rois, p, expected):
    ncsnr = data.truth.ncsnr[data.voxels["roi"].str.startswith(rois)]
    # Stratified draws miss a quantile by at most 1 in 336 of the distribution, here 0.011 / 1 %.
    np.testing.assert_allclose(np.percentile(ncsnr, p), expected, atol=0.012)


def test_voxel_means_and_sd_have_the_quantiles_of_nsd(data):
    p = (1, 10, 25, 50, 75, 90, 99)
    mean, sd = (
        data.truth.signal.mean(axis=0),
        np.hypot(data.truth.signal.std(0), data.truth.noise_sd),
    )
    # One stratum of 800 is 0.01 at the steep upper end, 0.004 elsewhere.
    expected = (-0.29, -0.04, 0.04, 0.14, 0.28, 0.49, 1.21)
    np.testing.assert_allclose(np.percentile(mean, p), expected, atol=0.015)
    expected = (0.095, 0.12, 0.15, 0.18, 0.25, 0.38, 0.91)
    np.testing.assert_allclose(np.percentile(sd, p), expected, atol=0.015)
    # And the betas have what the truth says: s.e. of a mean is sd / √1776.
    measured = np.nanmean(data.betas, axis=(0, 1), dtype=np.float64)
    offset = 0.15 * data.truth.noise_sd / np.sqrt(4)  # s.d. of the average drift of four sessions
    assert np.abs((measured - mean) / np.hypot(sd / np.sqrt(1776), offset)).max() < 5


# ------------------------------------------------------------------ noise


def test_noise_covariance_is_that_of_the_draws(driftless):
    truth = driftless.truth
    covariance = truth.noise_covariance()
    draws = truth.sample(20, random_state=3)
    assert draws.shape == (20, 500, 200)
    assert draws.dtype == np.float32
    noise = (draws - truth.signal).reshape(-1, 200).astype(np.float64)
    sd = np.sqrt(np.diag(covariance))
    true_r = covariance / np.outer(sd, sd)
    z = (noise.T @ noise / len(noise) / np.outer(sd, sd) - true_r) / np.sqrt((1 + true_r**2) / 1e4)
    # The 20 100 entries are standard normal for 10 000 draws; the largest of so many is about 4.2.
    assert np.abs(z).max() < 5.5
    assert 0.9 < z.std() < 1.1
    np.testing.assert_allclose(sd, truth.noise_sd, rtol=1e-6)


def test_betas_scatter_around_the_signal_as_the_covariance_says(driftless):
    noise = (driftless.betas - driftless.truth.signal[:, None]).reshape(-1, 200).astype(np.float64)
    covariance = driftless.truth.noise_covariance()
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), noise.T)
    z = (whitened @ whitened.T / 2000 - np.eye(200)) * np.sqrt(2000)
    off_diagonal = z[~np.eye(200, dtype=bool)]
    assert 0.95 < off_diagonal.std() < 1.05  # s.e. 0.005
    assert np.abs(off_diagonal).max() < 5.5


def test_noise_has_low_rank_neighbour_and_private_parts(data):
    covariance = data.truth.noise_covariance()
    sd = np.sqrt(np.diag(covariance))
    r = covariance / np.outer(sd, sd)
    place = data.voxels[["i", "j"]].to_numpy(float)
    distance = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    same_roi = data.voxels["roi"].to_numpy()[:, None] == data.voxels["roi"].to_numpy()
    near, far = r[distance == 1].mean(), r[distance > 8].mean()
    assert near > r[distance == 2].mean() + 0.05 > far + 0.1
    assert 0.03 < far < 0.2
    assert r[same_roi & (distance > 8)].mean() > r[~same_roi & (distance > 8)].mean() + 0.02
    private = data.truth.noise_private_variance / sd**2
    assert (private > 0.29).all()
    assert (private < 0.76).all()


def test_draws_are_repeatable_and_independent(driftless):
    truth = driftless.truth
    first = truth.sample(2, random_state=5)
    np.testing.assert_array_equal(first, truth.sample(2, random_state=5))
    noise = first - truth.signal
    # Correlation of 10⁵ correlated values; images alone give s.e. 1/√500 at worst.
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    with pytest.raises(ValueError, match="n=0"):
        truth.sample(0)


# ------------------------------------------------------------------ signal


@pytest.mark.parametrize(("roi", "category"), [("FFA", "face"), ("PPA", "place"), ("EBA", "body")])
def test_high_level_voxels_prefer_their_category(data, roi, category):
    signal = data.truth.signal[:, data.rois()[roi]]
    signal = (signal - signal.mean(axis=0)) / signal.std(axis=0)
    by_category = pd.DataFrame(signal).groupby(data.truth.category).mean()
    others = by_category.drop(index=category)
    assert (by_category.loc[category] > others.mean()).all()
    # Voxels differ in their preferences by a factor of about 1.5, so a few may have another one.
    assert (by_category.idxmax() == category).mean() > 0.95


def v1_responses(images, truth, voxels):
    tuning = np.ones((len(voxels), 28))
    return cortex.pooled_energy(gabor_energy(images), truth.prfs.iloc[voxels], tuning)


def test_v1_voxels_see_their_receptive_field_only(data):
    """Greying out all but the pRF leaves the response; greying out the pRF removes it."""
    images = data.images[:100]
    position = (np.arange(64) + 0.5) / 64 * FIELD - FIELD / 2
    for voxel in data.rois()["V1v"][::20]:
        x, y, size = data.truth.prfs.loc[voxel, ["x", "y", "size"]]
        distance = np.hypot(position - x, (-position - y)[:, None])
        # 2.5 s.d. of the pRF and 1.2°, about one s.d. of a filter of 4 cycles per image.
        field = (distance < 2.5 * size + 1.2)[..., None]
        full = v1_responses(images, data.truth, [voxel])[:, 0]
        inside_only = v1_responses(np.where(field, images, 128), data.truth, [voxel])[:, 0]
        outside_only = v1_responses(np.where(field, 128, images), data.truth, [voxel])[:, 0]
        assert np.corrcoef(full, inside_only)[0, 1] > 0.97
        assert outside_only.mean() < 0.3 * full.mean()


def test_pooled_energy_matches_a_sum_over_cells():
    rng = np.random.default_rng(0)
    energy = rng.random((3, 28, 16, 16))
    prfs = pd.DataFrame({"x": [1.0, -2.0], "y": [-0.5, 3.0], "size": [0.8, 2.0]})
    tuning = rng.random((2, 28))
    expected = np.zeros((3, 2))
    for voxel, (x, y, size) in enumerate(prfs.to_numpy()):
        total = 0.0
        for row in range(16):
            for column in range(16):
                cx, cy = (column + 0.5) * FIELD / 16 - 4.2, 4.2 - (row + 0.5) * FIELD / 16
                weight = np.exp(-((cx - x) ** 2 + (cy - y) ** 2) / (2 * size**2))
                expected[:, voxel] += weight * energy[:, :, row, column] @ tuning[voxel]
                total += weight
        expected[:, voxel] /= total
    np.testing.assert_allclose(cortex.pooled_energy(energy, prfs, tuning), expected, rtol=1e-10)


def test_prfs_lie_in_the_right_visual_field_and_grow(data):
    prfs, roi = data.truth.prfs, data.voxels["roi"]
    assert (prfs["y"][roi.isin(["V1v", "V2v", "V3v"])] >= 0).all()
    assert (prfs["y"][roi.isin(["V1d", "V2d", "V3d"])] <= 0).all()
    left = data.voxels["hemisphere"] == "lh"
    assert (prfs["x"][left] > -1e-9).all()
    assert (prfs["x"][~left] < 1e-9).all()
    assert (prfs[["x", "y"]].abs() < FIELD / 2).all(axis=None)
    size = prfs["size"].groupby(roi).mean()
    assert size["V1v"] < size["V2v"] < size["V3v"] < size["hV4"] < size["FFA"]
    eccentricity = np.hypot(prfs["x"], prfs["y"])
    assert np.corrcoef(eccentricity[roi == "V1v"], prfs["size"][roi == "V1v"])[0, 1] > 0.8


def test_tokens_predict_content_areas_well_but_not_all_of_it(data):
    tokens = StandardScaler().fit_transform(data.truth.tokens.reshape(600, -1))
    high = np.flatnonzero(data.voxels["roi"].isin(["FFA", "PPA", "EBA"]))[::4]
    signal = data.truth.signal[:, high]
    ridge = RidgeCV(alphas=np.logspace(2, 6, 9)).fit(tokens[:480], signal[:480])
    r = voxelwise_r(ridge.predict(tokens[480:]), signal[480:])
    # Chance is ± 0.09 per voxel. Noise-free targets a linear model could learn would give > 0.95.
    assert r.min() > 0.3
    assert 0.6 < r.mean() < 0.9


def test_tokens_are_one_network_for_all_subjects(data):
    """Ridge from one subject's tokens to content carries over to another subject's images."""
    other = simulate_subject(300, 10, random_state=7)
    scaler = StandardScaler().fit(data.truth.tokens.reshape(600, -1))
    faces = (data.truth.category == "face").astype(float)
    ridge = RidgeCV(alphas=np.logspace(2, 6, 9))
    ridge.fit(scaler.transform(data.truth.tokens.reshape(600, -1)), faces)
    predicted = ridge.predict(scaler.transform(other.truth.tokens.reshape(300, -1)))
    assert np.corrcoef(predicted, other.truth.category == "face")[0, 1] > 0.5  # chance 0 ± 0.06


def test_n_tokens_and_width():
    small = simulate_subject(5, 10, n_tokens=1, token_width=7)
    assert small.truth.tokens.shape == (5, 1, 7)
    assert simulate_subject(5, 10, n_tokens=64).truth.tokens.shape == (5, 64, 64)


# ------------------------------------------------------------------ trials and sessions


def test_trials_and_missing_repeats(data):
    present = np.isfinite(data.betas)
    assert (present.all(axis=2) == present.any(axis=2)).all()  # a trial is missing as a whole
    assert present[:, 0].all()
    assert (~present[:, :, 0]).sum() == round(0.02 * 1200)
    listed = np.zeros((600, 3), bool)
    listed[data.trials["image"], data.trials["repeat"]] = True
    np.testing.assert_array_equal(listed, present[:, :, 0])


def test_sessions_are_balanced_and_in_order():
    data = simulate_subject(200, 10, 3, missing=0, n_sessions=5)
    trials = data.trials
    assert (trials.groupby("session").size() == 120).all()
    assert (trials.groupby(["session", "run"]).size() == 10).all()
    assert set(trials["run"]) == set(range(1, 13))
    time = trials["session"] * 12 + trials["run"]
    later = time.groupby(trials["image"]).diff().dropna()
    assert (later >= 0).all()  # repeats are counted in the order shown
    # Two random repeats share one of five sessions with p = 119/599, so of 200 images
    # 1 − .8 · .6 = 52 % see two or more of their three repeats within one; s.d. 3.5 %.
    together = trials.groupby("image")["session"].nunique() < 3
    assert 0.38 < together.mean() < 0.66


def test_zscoring_by_session_removes_drift():
    data = simulate_subject(400, 100, 3, session_drift=0.6, n_sessions=6, random_state=2)
    truth = data.truth.signal
    before = voxelwise_r(np.nanmean(data.betas, axis=1), truth).mean()
    after = voxelwise_r(np.nanmean(data.zscore_by_session().betas, axis=1), truth).mean()
    still = simulate_subject(400, 100, 3, session_drift=0, n_sessions=6, random_state=2)
    without = voxelwise_r(np.nanmean(still.betas, axis=1), truth).mean()
    np.testing.assert_array_equal(still.truth.signal, truth)
    assert before < without - 0.03
    # Each session's mean and s.d. come from 200 trials, which costs about 1/200 of the variance.
    assert after == pytest.approx(without, abs=0.01)


def test_drift_is_a_gain_around_the_mean_and_an_offset_per_session():
    options = {"n_images": 60, "n_voxels": 40, "n_sessions": 3, "missing": 0, "random_state": 4}
    still = simulate_subject(session_drift=0, **options)
    drifted = simulate_subject(session_drift=0.3, **options)
    mean = still.truth.signal.mean(axis=0)
    gains = []
    for _, rows in still.trials.groupby("session"):
        where = rows["image"], rows["repeat"]
        x, y = still.betas[where] - mean, drifted.betas[where] - mean
        gain = np.array([np.polyfit(x[:, v], y[:, v], 1) for v in range(40)])
        # A straight line leaves nothing but rounding.
        np.testing.assert_allclose(gain[:, 0] * x + gain[:, 1], y, atol=1e-4)
        gains.append(np.log(gain[:, 0]))
    # s.e. of a s.d. from 120 values: 0.3 / √240 = 0.02.
    assert np.std(gains) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("zscored", [False, True])
def test_draws_of_the_truth_drift_as_the_betas_do(zscored):
    # Three sessions with very different gains: the moments over trials of one image's draws are
    # those of the mixture of sessions.
    data = simulate_subject(200, 30, 3, session_drift=0.8, n_sessions=3, random_state=5)
    if zscored:
        data = data.zscore_by_session()
    truth, drift = data.truth, data.truth.drift
    in_session = drift.gain[:, None] * truth.signal + drift.offset[:, None]
    mean = np.einsum("s,siv->iv", drift.share, in_session)
    variance = np.einsum("s,siv->iv", drift.share, (in_session - mean) ** 2)
    variance += drift.share @ (drift.gain**2) * truth.noise_sd**2
    # 600 trials whose voxels vary together: an s.e. of some 4 %.
    z = (data.betas - mean[:, None]) / np.sqrt(variance)[:, None]
    assert np.nanmean(z**2) == pytest.approx(1, abs=0.15)
    some = np.arange(0, 200, 10)
    draws = truth.select(images=some).sample(6000, random_state=0).astype(np.float64)
    # 600 means and variances: the largest of so many is some 4 s.e. away, 5 for heavy tails.
    standard_error = np.sqrt(variance[some] / 6000)
    assert np.abs((draws.mean(axis=0) - mean[some]) / standard_error).max() < 5
    np.testing.assert_allclose(draws.var(axis=0), variance[some], rtol=0.2)


def test_gain_and_offset_lead_from_betas_without_drift_to_those_of_the_data():
    options = {"n_images": 80, "n_voxels": 20, "n_sessions": 3, "random_state": 7}
    still = simulate_subject(session_drift=0, **options).betas
    drifted = simulate_subject(session_drift=0.5, **options)
    part = drifted.select(images=np.arange(10, 60), voxels=np.arange(5, 15)).zscore_by_session()
    for data, before in ((drifted, still), (part, still[10:60, :, 5:15])):
        drift = data.truth.drift
        assert drift.share.sum() == pytest.approx(1)
        for number, gain, offset in zip(drift.session, drift.gain, drift.offset, strict=True):
            rows = data.trials[data.trials["session"] == number]
            where = rows["image"], rows["repeat"]
            # Rounding of float32, of z-scores up to about 4 and means that cancel.
            np.testing.assert_allclose(data.betas[where], gain * before[where] + offset, atol=1e-4)


def test_the_true_distribution_scores_better_with_drift_than_without():
    data = simulate_subject(300, 60, 3, session_drift=0.4, random_state=6)
    truth = data.truth
    before = replace(
        truth,
        drift=replace(truth.drift, gain=0 * truth.drift.gain + 1, offset=0 * truth.drift.offset),
    )
    known = np.isfinite(data.betas)
    scores = [
        scoringrules.crps_ensemble(
            np.where(known, data.betas, 0)[:, 0], np.moveaxis(each.sample(100, 0), 0, -1)
        )[known[:, 0]].mean()
        for each in (truth, before)
    ]
    assert scores[0] < scores[1]


@pytest.mark.parametrize("zscored", [False, True])
def test_log_density_is_that_of_a_mixture_of_normal_distributions(zscored):
    data = simulate_subject(20, 10, 3, session_drift=0.5, missing=0.2, n_sessions=3, random_state=1)
    data = data.zscore_by_session() if zscored else data
    truth, drift, voxels = data.truth, data.truth.drift, np.array([7, 2, 4])
    covariance = truth.noise_covariance(voxels)
    found = truth.log_density(data.betas, voxels)
    image, repeat = 3, np.flatnonzero(np.isfinite(data.betas[3, :, 0]))[0]
    density = 0.0
    for gain, offset, share in zip(
        drift.gain[:, voxels], drift.offset[:, voxels], drift.share, strict=True
    ):
        mean = gain * truth.signal[image, voxels] + offset
        session = stats.multivariate_normal(mean, covariance * np.outer(gain, gain))
        density += share * session.pdf(data.betas[image, repeat, voxels])
    # Noise factors and drift are kept in float32.
    assert found[image, repeat] == pytest.approx(np.log(density), rel=1e-5)
    missing = np.isnan(data.betas[..., 0])
    assert missing.any()
    np.testing.assert_array_equal(np.isnan(found), missing)
    in_places = np.isin(np.arange(10), voxels)
    np.testing.assert_allclose(truth.log_density(data.betas, in_places), found, rtol=1e-5)
    alone = truth.select(images=[image]).log_density(data.betas[[image]], voxels)
    np.testing.assert_allclose(alone[0], found[image], rtol=1e-10)


def test_log_density_of_other_images_or_voxels_is_refused(data):
    truth = data.truth.select(images=np.arange(5))
    for betas in (data.betas[:4], data.betas[:5, :, :3], data.betas[:5, 0]):
        with pytest.raises(ValueError, match=r"betas \(.*\) must be .* the 5 images and"):
            truth.log_density(betas)


# ------------------------------------------------------------------ seeds, sizes, selection


def test_same_seed_same_subject(data):
    again = simulate_subject(random_state=0)
    np.testing.assert_array_equal(again.images, data.images)
    np.testing.assert_array_equal(again.betas, data.betas)
    np.testing.assert_array_equal(again.truth.tokens, data.truth.tokens)
    assert not np.array_equal(simulate_subject(5, 10, random_state=1).images, data.images[:5])


def test_images_and_tokens_do_not_depend_on_voxels_repeats_or_later_images(data):
    other = simulate_subject(40, 30, 2, random_state=0)
    np.testing.assert_array_equal(other.images, data.images[:40])
    # The network is a matrix product, whose blocks may be summed in another order.
    np.testing.assert_allclose(other.truth.tokens, data.truth.tokens[:40], atol=1e-4)


@pytest.mark.parametrize("n_voxels", [10, 50, 51, 333])
def test_every_roi_has_voxels(n_voxels):
    data = simulate_subject(4, n_voxels)
    assert data.n_voxels == n_voxels
    assert list(data.rois()) == [
        "V1v",
        "V1d",
        "V2v",
        "V2d",
        "V3v",
        "V3d",
        "hV4",
        "FFA",
        "PPA",
        "EBA",
    ]
    assert data.atlases == ["roi"]
    assert not data.voxels.duplicated(["i", "j", "k"]).any()
    assert np.isfinite(data.truth.signal).all()


def test_neighbours_on_the_sheet_see_neighbouring_places(data):
    v1 = data.voxels["roi"].eq("V1v") & data.voxels["hemisphere"].eq("lh")
    place, prf = data.voxels.loc[v1, ["i", "j"]].to_numpy(float), data.truth.prfs.loc[v1]
    distance = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    xy = prf[["x", "y"]].to_numpy()
    apart = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    assert apart[distance == 1].mean() < 0.6 * apart[distance > 2].mean()


def test_select_keeps_truth_and_data_together(data):
    images, voxels = np.array([7, 3, 500]), np.array([799, 0, 431, 100])
    part = data.select(images=images, voxels=voxels)
    truth = part.truth
    np.testing.assert_array_equal(truth.signal, data.truth.signal[np.ix_(images, voxels)])
    np.testing.assert_array_equal(truth.tokens, data.truth.tokens[images])
    np.testing.assert_array_equal(truth.ncsnr, data.truth.ncsnr[voxels])
    np.testing.assert_array_equal(truth.prfs, data.truth.prfs.iloc[voxels])
    np.testing.assert_allclose(
        truth.noise_covariance(), data.truth.noise_covariance()[np.ix_(voxels, voxels)], rtol=1e-12
    )
    np.testing.assert_allclose(truth.noise_covariance(), data.truth.noise_covariance(voxels))
    for new, old in enumerate(images):
        mine, theirs = (
            t.objects[t.objects["image"] == i].drop(columns="image").to_numpy()
            for t, i in ((truth, new), (data.truth, old))
        )
        np.testing.assert_array_equal(mine, theirs)
        assert truth.category[new] == mine[0, 0]
    mask = np.zeros(800, bool)
    mask[[0, 5]] = True
    np.testing.assert_array_equal(data.truth.select(voxels=mask).ncsnr, data.truth.ncsnr[[0, 5]])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_images", 1),
        ("n_voxels", 9),
        ("n_repeats", 0),
        ("image_size", 32),
        ("image_size", 70),
        ("n_sessions", 0),
        ("n_sessions", 31),
        ("session_drift", -0.1),
        ("session_drift", float("nan")),
        ("missing", 1.5),
        ("missing", float("nan")),
        ("n_tokens", 9),
        ("n_tokens", 0),
        ("token_width", 0),
    ],
)
def test_impossible_arguments_are_named(argument, value):
    options = {"n_images": 10, "n_voxels": 20, argument: value}
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        simulate_subject(**options)


def test_one_repeat_has_nothing_missing():
    data = simulate_subject(6, 10, 1, n_sessions=1)
    assert np.isfinite(data.betas).all()


def test_datasets_import_neither_torch_nor_features():
    code = (
        "import sys; from brainenc.datasets import simulate_subject; simulate_subject(2, 10);"
        "assert not {'torch', 'brainenc.features'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
