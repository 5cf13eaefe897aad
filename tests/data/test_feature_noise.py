"""Features that contain betas, against features of the images alone."""

import numpy as np
import pytest

import brainenc
from brainenc.data.cheap_features import cheap_features
from brainenc.data.feature_noise import check_features


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(240, 60, image_size=48)


def check(data, features, **arguments):
    return check_features(features, data.betas, trials=data.trials, **arguments)


def components(values, n):
    vectors, sizes, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    return vectors[:, :n] * sizes[:n]


HONEST = {
    "cheap": lambda data: cheap_features(data.images),
    "tokens": lambda data: data.truth.tokens,
    # The signal itself is a function of the image, and correlates with averages up to the ceiling.
    "signal": lambda data: data.truth.signal,
    "constant": lambda data: np.ones((data.n_images, 3)),
    "one image": lambda data: np.eye(data.n_images, dtype=np.float32),
}


@pytest.mark.parametrize("name", HONEST)
def test_functions_of_images_raise_no_alarm(data, name):
    assert not check(data, HONEST[name](data)).suspicious


LEAKS = {
    "first trial": lambda data: data.betas[:, 0],
    "a voxel of it beside others": lambda data: np.column_stack(
        [cheap_features(data.images), data.betas[:, 0, 5]]
    ),
    "its components": lambda data: components(data.betas[:, 0], 15),
    "whitened": lambda data: np.linalg.svd(data.betas[:, 0], full_matrices=False)[0],
    "mixed into others": lambda data: (
        data.truth.tokens.reshape(data.n_images, -1)[:, :60] / 2 + data.betas[:, 0]
    ),
    "two trials": lambda data: np.nan_to_num(np.nanmean(data.betas[:, :2], axis=1)),
    "averages": lambda data: np.nanmean(data.betas, axis=1),
}


@pytest.mark.parametrize("name", LEAKS)
def test_betas_in_features_are_found(data, name):
    found = check(data, LEAKS[name](data), name="the features of x")
    assert found.suspicious
    assert "the features of x seem to contain the betas they are to predict" in found.message


def test_the_column_is_named(data):
    features = np.column_stack([cheap_features(data.images), data.betas[:, 0, 5]])
    found = check(data, features)
    assert found.column == features.shape[1] - 1
    deviation = data.betas[:, 0] - np.nanmean(data.betas[:, 1:], axis=1)
    r = [np.corrcoef(features[:, -1], noise)[0, 1] for noise in deviation.T]
    # Of normal scores of these deviations, session by session, r is nearly the same.
    assert found.column_r == pytest.approx(np.max(r), abs=0.08)


def test_trials_without_repeats_are_found_by_the_ceiling_or_as_copies(data):
    single = data.betas[:, :1]
    assert check_features(single[:, 0], single).suspicious
    ncsnr = data.truth.ncsnr
    noisy = single[:, 0] + 0.4 * single.std(axis=0) * np.random.default_rng(0).standard_normal(
        (data.n_images, data.n_voxels)
    )
    assert not check_features(noisy, single).suspicious  # r of .93 may be signal
    assert check_features(noisy, single, ncsnr=ncsnr).suspicious  # but not of these voxels
    assert not check_features(data.truth.signal, single, ncsnr=ncsnr).suspicious


def test_noise_that_depends_on_the_image_raises_no_alarm():
    """Spike counts: skewed, and more variable where the response is larger."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        features = rng.standard_normal((200, 30))
        rate = np.exp(features @ rng.standard_normal((30, 20)) / 8)
        counts = rng.poisson(rate[:, None], (200, 4, 20)).astype(np.float32)
        assert not check_features(features, counts).suspicious


def test_gains_of_sessions_raise_no_alarm():
    """A few images with extreme features evoke most of what a gain changes."""
    data = brainenc.datasets.simulate_subject(400, 60, image_size=48, session_drift=0.8)
    extreme = np.sinh(2 * cheap_features(data.images)[:, ::8] * 5)
    assert not check(data, extreme).suspicious
    assert not check(data, np.exp(data.truth.signal / data.truth.signal.std(axis=0))).suspicious


@pytest.mark.parametrize(
    ("size", "n_sessions", "seed"),
    [((400, 40, 4), 4, 10_022), ((600, 100, 4), 2, 10_026), ((600, 60, 4), 10, 10_052)],
)
def test_large_gains_with_the_features_of_the_check_raise_no_alarm(size, n_sessions, seed):
    """Betas that are only centred within sessions: |r| up to .44, five alarms of 150 subjects."""
    options = {"image_size": 48, "n_sessions": n_sessions, "session_drift": 0.5}
    data = brainenc.datasets.simulate_subject(*size, **options, random_state=seed)
    assert not check(data, cheap_features(data.images)).suspicious


def test_noise_shared_by_neighbouring_rows_raises_no_alarm():
    """Frames of ten films in a row: noise and features change from film to film."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        film = np.repeat(np.arange(10), 30)
        features = rng.standard_normal((10, 40))[film] + 0.1 * rng.standard_normal((300, 40))
        noise = rng.standard_normal((10, 5, 20))[film]
        betas = features[:, None, :20] + noise + rng.standard_normal((300, 5, 20))
        assert not check_features(features, betas).suspicious


def test_features_are_checked_with_the_data(data):
    with pytest.warns(UserWarning, match="seem to contain the betas"):
        found = data.check(features=np.nan_to_num(data.betas[:, 0]))
    assert found.verdict == "aligned"
    assert found.features.suspicious
    assert len(found.warnings) == 1


def test_rows_have_to_match(data):
    with pytest.raises(ValueError, match="239"):
        check_features(np.ones((239, 2)), data.betas)
    found = check_features(np.ones((10, 2)), data.betas[:10])
    assert "too few images: 10" in found.message
