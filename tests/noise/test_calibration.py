"""Conformal quantiles and variance factors, against exact results and simulations."""

import numpy as np
import pytest

from brainenc.noise.calibration import (
    check_coverage,
    check_groups,
    conformal_quantile,
    variance_scale,
)


def test_with_single_trials_it_is_the_split_conformal_quantile():
    scores = np.random.default_rng(0).random((37, 1, 4))
    for coverage in (0.5, 0.8, 0.9, 0.95):
        k = int(np.ceil(coverage * 38))  # the k-th smallest of n, k = ceil((n + 1) · coverage)
        expected = np.sort(scores[:, 0], axis=0)[k - 1]
        np.testing.assert_array_equal(conformal_quantile(scores, coverage, np.arange(4)), expected)


def test_too_few_images_give_an_infinite_bound_and_no_data_nan():
    scores = np.random.default_rng(0).random((8, 2, 3))
    scores[:, :, 1] = np.nan
    scores[3:, :, 2] = np.nan
    bound = conformal_quantile(scores, 0.8, np.arange(3))
    assert np.isfinite(bound[0])
    assert np.isnan(bound[1])
    assert np.isinf(bound[2])
    assert np.isinf(conformal_quantile(scores, 0.9, np.arange(3))[0])  # 9 images are needed


def trials_of_images(rng, n_images, n_repeats):
    """Scores that trials of an image share in part: trials are not exchangeable, images are."""
    of_image = rng.standard_exponential((n_images, 1))
    return of_image * np.abs(rng.standard_normal((n_images, n_repeats)))


@pytest.mark.parametrize("uneven", [False, True])
def test_coverage_is_nominal_for_trials_of_new_images(uneven):
    rng = np.random.default_rng(1)
    n_images, n_simulations, coverage = 19, 4000, 0.9
    scores = np.stack([trials_of_images(rng, n_images, 4) for _ in range(n_simulations)], axis=-1)
    if uneven:  # an image shown once is as much evidence as one shown four times
        scores[:10, 1:] = np.nan
    bound = conformal_quantile(scores, coverage, np.arange(n_simulations))
    new = trials_of_images(rng, n_simulations, 4)
    inside = (new <= bound[:, None]).mean(axis=1)
    # The guarantee: .9 to .9 + 2/20. Trials of one image stand together, so the s.e. is that of
    # simulations: at most sqrt(.09 / 4000) = .005; allow three. Pooling all trials as though
    # independent, quantile at ceil((76 + 1) · .9), covers .88.
    se = inside.std() / np.sqrt(n_simulations)
    assert coverage - 3 * se < inside.mean() < coverage + 2 / (n_images + 1) + 3 * se


def test_groups_pool_voxels_and_leave_others_alone():
    rng = np.random.default_rng(2)
    scores = rng.random((50, 2, 6))
    group = np.array([0, 1, 0, 1, 2, 0])
    bound = conformal_quantile(scores, 0.8, group)
    for number in range(3):
        voxels = group == number
        assert len(set(bound[voxels])) == 1
        pooled = scores[:, :, voxels].reshape(50, 1, -1)
        # By hand: weights of 1/51 per image; 2 × n_voxels entries each.
        order = np.sort(pooled.ravel())
        expected = order[int(np.ceil(0.8 * 51 * 2 * voxels.sum() - 1e-6)) - 1]
        assert bound[voxels][0] == expected


def test_uneven_repeats_share_the_weight_of_their_image():
    rng = np.random.default_rng(4)
    scores = rng.random((30, 4, 1)) + np.arange(30)[:, None, None] / 30
    scores[:15, 1:] = np.nan  # low scores with all the weight of their image
    n_images, found = 30, conformal_quantile(scores, 0.6, np.array([0]))[0]
    # Slow and obvious: the smallest score that has enough weight at or below it.
    images = [trials[np.isfinite(trials)] for trials in scores[:, :, 0]]
    for bound in sorted(np.concatenate(images)):
        reached = sum(np.mean(trials <= bound) for trials in images) / (n_images + 1)
        if reached >= 0.6:
            break
    assert found == bound


def test_variance_scale_is_the_root_mean_square():
    rng = np.random.default_rng(3)
    standardized = 1.7 * rng.standard_normal((40, 3, 4))
    standardized[rng.random((40, 3)) < 0.2] = np.nan
    standardized[:, :, 3] = np.nan
    alone = variance_scale(standardized, np.arange(4))
    of_voxels = np.nanmean(standardized[..., :3] ** 2, axis=(0, 1))
    np.testing.assert_allclose(alone[:3], np.sqrt(of_voxels))
    assert np.isnan(alone[3])
    together = variance_scale(standardized, np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(together[:3], np.sqrt(np.nanmean(standardized**2)))


@pytest.mark.parametrize("coverage", [0, 1, 90, np.nan])
def test_coverage_is_a_probability(coverage):
    with pytest.raises(ValueError, match=r"coverage=.* must lie between 0 and 1"):
        check_coverage(coverage)


def test_groups_have_one_label_per_voxel():
    np.testing.assert_array_equal(check_groups(["V1", "V2", "V1"], 3), [0, 1, 0])
    np.testing.assert_array_equal(check_groups(None, 3), [0, 1, 2])
    with pytest.raises(ValueError, match=r"groups \(2,\) must have one label .* 3 voxels"):
        check_groups(["V1", "V2"], 3)
