"""What linear encoders share: scaling, penalties, folds and missing images."""

import numpy as np
import pytest

from brainenc.solvers import voxels as linear


def test_voxels_are_grouped_by_the_images_they_lack():
    Y = np.ones((6, 5))
    Y[2, [1, 3]] = np.nan
    Y[:, 4] = np.nan
    groups = {tuple(rows): tuple(voxels) for rows, voxels in linear.missing_patterns(Y)}
    assert groups == {(0, 1, 2, 3, 4, 5): (0, 2), (0, 1, 3, 4, 5): (1, 3)}


def test_feature_scaling_leaves_constant_features_alone():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3)).astype(np.float32) * [1, 5, 0] + np.float32(1e4) / 3
    X = X.astype(np.float32)
    mean, scale = linear.feature_scaling(X)
    # The third feature is one number whose float32 mean need not be exactly itself.
    assert scale[2] == 1
    np.testing.assert_allclose(mean, X.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale[:2], X.astype(np.float64).std(0)[:2], rtol=1e-3)


@pytest.mark.parametrize("alphas", [[], [0.0, 1.0], [-1.0], [np.inf], "best"])
def test_alphas_that_make_no_sense_are_refused(alphas):
    with pytest.raises(ValueError, match="alphas="):
        linear.choose_alphas(alphas, (10, 5))


def test_given_folds_are_cut_down_to_the_images_a_voxel_has():
    folds = [(np.array([0, 1, 2]), np.array([3, 4])), (np.array([3, 4]), np.array([0, 1, 2]))]
    rows = np.array([0, 2, 4])
    cut = linear.folds_of_rows(folds, rows, 5, random_state=0)
    assert [(list(rows[a]), list(rows[b])) for a, b in cut] == [([0, 2], [4]), ([4], [0, 2])]
    # An int makes balanced folds of the rows themselves.
    assert len(linear.folds_of_rows(3, rows, 5, random_state=0)) == 3
