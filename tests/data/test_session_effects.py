"""Offsets of sessions, alone and confounded with the images."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.data.session_effects import centred_trials, session_codes, without_session_means


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(240, 60, image_size=48)


def with_offsets(data, session_of_image, sd, seed=0):
    """All trials of an image in one session, and an offset of every session and voxel."""
    n = session_of_image.max() + 1
    offset = np.random.default_rng(seed).standard_normal((n, data.n_voxels)).astype(np.float32)
    betas = (
        data.betas + (sd * np.nanstd(data.betas, axis=(0, 1)) * offset)[session_of_image][:, None]
    )
    trials = data.trials.assign(session=session_of_image[data.trials["image"]])
    return dataclasses.replace(data, betas=betas, trials=trials, truth=None)


def by_brightness(data):
    brightness = data.images.reshape(data.n_images, -1).mean(axis=1)
    return np.argsort(np.argsort(brightness)) * 4 // data.n_images


def test_offsets_that_images_predict_are_warned_of(data):
    confounded = with_offsets(data, by_brightness(data), 1)
    with pytest.warns(UserWarning, match=r"offsets of sessions: .*data.zscore_by_session\(\)"):
        found = confounded.check()
    assert found.verdict == "aligned"
    assert found.session.images_p == 0.001
    # Four offsets of the size of a trial: ω² of 1 / (1 + 1) but for sampling four of them.
    assert 0.25 < found.session.betas < 0.75
    assert found.session.r_within < found.session.r - 0.1
    assert found.session.ceiling_within == pytest.approx(data.check().session.ceiling, abs=0.1)


def test_the_cure_silences_it(data):
    cured = with_offsets(data, by_brightness(data), 1).zscore_by_session()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cured.check()
    assert not found.session.offsets
    assert found.session.images_p == 0.001  # the images still differ


def test_images_at_random_in_sessions_inflate_the_ceiling_alone(data):
    at_random = np.random.default_rng(0).integers(0, 4, data.n_images)
    with pytest.warns(UserWarning, match="noise ceiling of the same voxels is"):
        found = with_offsets(data, at_random, 1).check()
    assert found.session.images_p > 0.002
    assert found.session.ceiling > found.session.ceiling_within + 0.1


def test_offsets_without_confound_are_not_warned_of(data):
    """Repeats of an image lie in different sessions: neither r nor the ceiling gains by offsets."""
    rng = np.random.default_rng(0)
    offset = rng.standard_normal((4, data.n_voxels)).astype(np.float32)
    betas = data.betas.copy()
    index = data.trials["image"].to_numpy(), data.trials["repeat"].to_numpy()
    betas[index] += 0.5 * np.nanstd(betas, axis=(0, 1)) * offset[data.trials["session"] - 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dataclasses.replace(data, betas=betas, truth=None).check()
    assert found.session.offsets
    assert not found.session.confounded


def test_without_sessions_nothing_is_said(data):
    plain = dataclasses.replace(data, trials=data.trials[["image", "repeat"]])
    assert plain.check().session is None


def test_session_means_are_removed_from_trials_and_predictions():
    """Oracle: a loop over trials."""
    rng = np.random.default_rng(0)
    trials = rng.standard_normal((12, 3, 4))
    trials[rng.random((12, 3)) < 0.2] = np.nan
    trials[:, :, 3][rng.random((12, 3)) < 0.3] = np.nan  # a voxel that lacks trials of its own
    predictions = rng.standard_normal((12, 4))
    codes = rng.integers(0, 3, (12, 3))
    averages, plain = without_session_means(trials, predictions, codes)
    for v in range(4):
        table = pd.DataFrame(
            [
                (i, codes[i, k], trials[i, k, v], predictions[i, v])
                for i in range(12)
                for k in range(3)
                if np.isfinite(trials[i, k, v])
            ],
            columns=["image", "session", "y", "p"],
        )
        values = table[["y", "p"]]
        values = values - values.groupby(table["session"]).transform("mean")
        expected = values.groupby(table["image"]).mean().reindex(range(12))
        np.testing.assert_allclose(averages[:, v], expected["y"])
        np.testing.assert_allclose(plain[:, v], expected["p"])


def test_an_offset_of_sessions_changes_nothing_within_them():
    rng = np.random.default_rng(0)
    trials, codes = rng.standard_normal((20, 2, 3)), rng.integers(0, 2, (20, 2))
    moved = trials + rng.standard_normal((2, 3))[codes]
    for one, other in zip(
        without_session_means(trials, trials[:, 0], codes),
        without_session_means(moved, trials[:, 0], codes),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)
    np.testing.assert_allclose(centred_trials(trials, codes), centred_trials(moved, codes))


def test_a_session_of_one_image_has_no_mean_to_compare_with():
    trials = np.arange(6.0).reshape(3, 2, 1)
    codes = np.array([[0, 0], [1, 1], [1, 1]])
    averages, plain = without_session_means(trials, trials[:, 0], codes)
    np.testing.assert_array_equal(averages[:, 0], [np.nan, -1, 1])
    np.testing.assert_array_equal(plain[:, 0], [np.nan, -1, 1])


def test_trials_without_session_are_left_out():
    table = pd.DataFrame({"image": [0, 1, 1], "repeat": [0, 0, 1], "session": ["a", None, "b"]})
    np.testing.assert_array_equal(session_codes(table, (2, 2)), [[0, -1], [-1, 1]])
