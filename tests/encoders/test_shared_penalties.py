"""alpha_per_voxel as labels: voxels of a label share a penalty, in every linear encoder."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import brainenc
from brainenc import BandedRidgeEncoder, KernelRidgeEncoder, RidgeEncoder

LABELS = np.array(["V1", "V2", "V1", "none", "V2", "V1"])


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 20))
    noise = [{"V1": 0.3, "V2": 9.0, "none": 30.0}[label] for label in LABELS]
    betas = (X @ rng.standard_normal((20, 6)))[:, None]
    return X, betas + rng.standard_normal((90, 2, 6)) * noise


@pytest.mark.parametrize(
    "encoder",
    [
        RidgeEncoder(None),
        RidgeEncoder(None, form="kernel"),
        BandedRidgeEncoder(None, bands={"a": 7, "b": 13}, n_iter=3),
        KernelRidgeEncoder(None),
    ],
    ids=["primal", "kernel", "banded", "kernel ridge"],
)
def test_each_label_has_the_penalty_of_a_fit_to_its_voxels(encoder, problem):
    X, betas = problem
    shared = clone(encoder).set_params(alpha_per_voxel=pd.Series(LABELS)).fit(X, betas)
    for label in np.unique(LABELS):
        voxels = label == LABELS
        alone = clone(encoder).set_params(alpha_per_voxel=False).fit(X, betas[:, :, voxels])
        np.testing.assert_allclose(shared.alphas_[voxels], alone.alphas_)
        # Single precision of responses with an s.d. of up to 30.
        np.testing.assert_allclose(shared.predict(X)[:, voxels], alone.predict(X), atol=1e-4)


def test_voxels_without_data_for_some_images_share_with_those_that_lack_the_same(problem):
    X, betas = problem
    gaps = betas.copy()
    gaps[:20, :, 0] = np.nan  # the only voxel of its pattern
    fitted = RidgeEncoder(None, alpha_per_voxel=LABELS).fit(X, gaps)
    whole = RidgeEncoder(None, alpha_per_voxel=LABELS).fit(X, betas)
    assert fitted.alphas_[2] == fitted.alphas_[5]
    np.testing.assert_allclose(fitted.predict(X)[:, 1], whole.predict(X)[:, 1], atol=1e-5)


def test_labels_are_saved(problem, tmp_path):
    X, betas = problem
    fitted = RidgeEncoder(None, alpha_per_voxel=LABELS).fit(X, betas)
    loaded = brainenc.load(fitted.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(loaded.alpha_per_voxel, LABELS)


def test_labels_of_other_voxels_are_refused(problem):
    X, betas = problem
    with pytest.raises(ValueError, match="one for each of 6 voxels"):
        RidgeEncoder(None, alpha_per_voxel=LABELS[:4]).fit(X, betas)
    with pytest.raises(ValueError, match="must be 'auto', True, False or a label per voxel"):
        RidgeEncoder(None, alpha_per_voxel="roi").fit(X, betas)


@pytest.mark.parametrize("n_labels", [4, 9])
def test_labels_of_other_voxels_are_refused_with_gaps_too(problem, n_labels):
    X, betas = problem
    gaps = betas.copy()
    gaps[:20, :, 0] = np.nan
    labels = np.resize(LABELS, n_labels)
    for encoder in (RidgeEncoder(None), KernelRidgeEncoder(None)):
        with pytest.raises(ValueError, match="one for each of 6 voxels"):
            encoder.set_params(alpha_per_voxel=labels).fit(X, gaps)
