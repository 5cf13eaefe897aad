import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr

from brainenc.metrics import pattern_correlation, pattern_cosine, pattern_mse

SCORES = {
    "r": (pattern_correlation, lambda p, t: pearsonr(p, t).statistic),
    "mse": (pattern_mse, lambda p, t: np.mean((p - t) ** 2)),
    "cosine": (pattern_cosine, lambda p, t: 1 - cosine(p, t)),
}


def patterns(seed=0):
    rng = np.random.default_rng(seed)
    targets = 1 + rng.standard_normal((9, 40))
    return targets + rng.standard_normal(targets.shape), targets


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_image_is_scored_over_the_voxels_it_has(name, dtype, monkeypatch):
    score, reference = SCORES[name]
    predictions, targets = (array.astype(dtype) for array in patterns())
    targets[np.random.default_rng(1).random(targets.shape) < 0.2] = np.nan
    wanted = [
        reference(p[np.isfinite(t)].astype(float), t[np.isfinite(t)].astype(float))
        for p, t in zip(predictions, targets, strict=True)
    ]
    # The cosine is taken in the precision of the input; the other two in float64.
    tolerance = 1e-6 if dtype is np.float32 else 1e-10
    np.testing.assert_allclose(score(predictions, targets), wanted, rtol=tolerance)


def test_many_voxels_are_read_a_few_images_at_a_time():
    # 2**15 voxels make blocks of two images, so the last of seven is a block of its own.
    rng = np.random.default_rng(2)
    predictions, targets = rng.standard_normal((2, 7, 2**15), dtype=np.float32)
    wanted = [pearsonr(p, t).statistic for p, t in zip(predictions, targets, strict=True)]
    # scipy computes in float32 here; r is about .006, of terms of order 1.
    np.testing.assert_allclose(pattern_correlation(predictions, targets), wanted, atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_undefined_is_nan_for_that_image_only(name):
    predictions, targets = patterns()
    predictions[2, 5] = np.nan
    targets[4] = np.nan
    undefined = [2, 4]
    if name != "mse":
        predictions[6] = 0
        undefined.append(6)
    found = SCORES[name][0](predictions, targets)
    assert np.flatnonzero(np.isnan(found)).tolist() == undefined


def test_constant_train_mean_scores_high_on_uncentred_betas():
    # Voxel means of variance 4 and responses of variance 1 around them: the map of means alone
    # correlates sqrt(4 / 5) = .89 with every image. s.e. over 20000 voxels and 50 images < .002.
    rng = np.random.default_rng(3)
    means = 2 * rng.standard_normal(20_000)
    targets = means + rng.standard_normal((50, 20_000))
    constant = np.broadcast_to(means, targets.shape)
    assert abs(pattern_correlation(constant, targets).mean() - np.sqrt(0.8)) < 0.008


def test_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"predictions \(2, 3\) and targets \(2, 4\)"):
        pattern_cosine(np.ones((2, 3)), np.ones((2, 4)))
