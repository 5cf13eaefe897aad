"""LatentEncoder where data are missing in every way they can be."""

import numpy as np
import pytest

import brainenc
from brainenc.encoders import CalibratedEncoder, LatentEncoder
from brainenc.encoders.ensemble import run_net, voxel_moments
from brainenc.encoders.latent import maps
from brainenc.encoders.latent.latents import noise_of_all_voxels
from brainenc.noise.estimates import fit_trial_noise
from brainenc.repeats import average_repeats
from brainenc.training import TrainingRun


@pytest.fixture(scope="module")
def problem():
    """160 images × 3 trials; features, one of them constant, tell 10 voxels half of what they do.

    Voxel 3 has no data, voxel 4 never varies, voxel 6 has one trial of each image, voxel 7 lacks a
    third of the images, image 5 has no data, and every tenth trial is missing.
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((160, 8)).astype(np.float32)
    X[:, 2] = 1
    signal = X @ rng.standard_normal((8, 10)) / np.sqrt(7)
    betas = signal[:, None] + rng.standard_normal((160, 3, 10))
    betas[rng.random((160, 3)) < 0.1] = np.nan
    betas[..., 4] = 2
    betas[..., 3] = betas[5] = betas[:, 1:, 6] = betas[:53, :, 7] = np.nan
    return X, betas.astype(np.float32)


@pytest.mark.parametrize("calibrated", [False, True])
def test_only_what_is_unknown_is_nan(problem, calibrated):
    X, betas = problem
    encoder = LatentEncoder(None, n_members=0)
    if calibrated:
        with pytest.warns(UserWarning, match="fitted as ridge"):  # a fold has 80 images
            encoder = CalibratedEncoder(encoder, cv=2).fit(X, betas)
    else:
        encoder.fit(X, betas)
    unknown = np.arange(10) == 3
    np.testing.assert_array_equal(np.isnan(encoder.predict(X)), np.tile(unknown, (160, 1)))
    # Of a voxel that never varies there is nothing to calibrate.
    unknown |= calibrated & (np.arange(10) == 4)
    draws = encoder.sample(X, 20, 0)
    for values in (draws, *encoder.predict_interval(X)):
        np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(unknown, values.shape))
    if not calibrated:
        np.testing.assert_allclose(draws[..., 4], 2, rtol=1e-6)
    others = [0, 1, 2, 5, 6, 7, 8, 9]
    known = np.isfinite(encoder.log_density(X, betas, voxels=others))
    np.testing.assert_array_equal(known, np.isfinite(betas[..., others]).all(axis=2))
    # Variances: of 1 in all voxels, and the error of the prediction. 160 images × 20 draws.
    variance = np.square(draws - encoder.predict(X))[..., others].mean(axis=(0, 1))
    np.testing.assert_allclose(variance, 1.1, rtol=0.35)


def before_latents(responses, betas):
    """An encoder that knows the moments of voxels, and the noise of trials."""
    encoder = LatentEncoder(None)
    encoder.mean_, encoder.scale_ = voxel_moments(responses)
    return encoder, noise_of_all_voxels(fit_trial_noise(betas), betas, encoder.scale_)


def test_an_image_without_data_teaches_nothing(problem):
    _, betas = problem
    responses = average_repeats(betas)
    encoder, noise = before_latents(responses, betas)
    latents = encoder._find_latents(responses, np.zeros_like(responses), noise)
    np.testing.assert_array_equal(np.isnan(latents).any(axis=1), np.arange(160) == 5)


def test_one_trial_per_image_is_enough(problem, tmp_path):
    X, betas = problem
    encoder = LatentEncoder(None, n_members=0).fit(X, betas[:, 0])
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    for ours, theirs in (
        (encoder.predict_interval(X), loaded.predict_interval(X)),
        (encoder.sample(X, 2, 0), loaded.sample(X, 2, 0)),
        (encoder.log_density(X, betas, voxels=[0]), loaded.log_density(X, betas, voxels=[0])),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="noise='trial' needs repeats"):
        encoder.sample(X, noise="trial")
    # The variance is that of single trials: 1, and the error of the prediction.
    variance = encoder.noise_.variance[[0, 1, 2, 5, 8, 9]]
    np.testing.assert_allclose(variance, 1.1, rtol=0.35)


def test_what_an_image_lacks_is_taken_as_ridge_predicts_it():
    betas = np.random.default_rng(0).standard_normal((160, 3, 10)).astype(np.float32)
    whole = average_repeats(betas)
    holed = whole.copy()
    holed[:53, 7] = holed[20:30, 1] = np.nan
    encoder, noise = before_latents(whole, betas)
    # A ridge that is right tells as much as the data would.
    np.testing.assert_array_equal(
        encoder._find_latents(holed, whole, noise), encoder._find_latents(whole, whole, noise)
    )


def test_each_image_is_mapped_by_the_net_that_left_it_out():
    rng = np.random.default_rng(4)
    tokens = rng.standard_normal((60, 2, 4)).astype(np.float32)
    latents = rng.standard_normal((60, 3)).astype(np.float32)
    run = TrainingRun(
        batch_size=16, learning_rate=1e-2, weight_decay=0.0, device="cpu", precision="32"
    )
    folds = maps.mapper_folds(60, 3, 0)
    sizes = {"hidden": 8, "dropout": 0.3}
    found = maps.fit_mappers(tokens, latents, folds, run, sizes=sizes, n_epochs=1)
    for net, (_, test) in zip(found.nets, folds, strict=True):
        # Batches of other sizes round differently.
        np.testing.assert_allclose(
            found.held_out[test], run_net(net, tokens[test], "cpu"), atol=1e-5
        )
