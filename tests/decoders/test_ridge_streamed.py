"""RidgeDecoder with targets that stay in their file."""

import tracemalloc

import numpy as np
import pytest

import brainenc
from brainenc import arrays
from brainenc.solvers import streamed
from brainenc.solvers.streamed_targets import StreamedRegression

N_TRAIN, N_TEST, N_VOXELS = 120, 30, 40


@pytest.fixture
def small_memory(monkeypatch):
    """Targets are large from 1 KB on, and blocks have some dozen columns."""
    monkeypatch.setattr(arrays, "LARGE_FEATURES", 1024)
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 32 * 1024)


def subject(tmp_path, n_tokens=15, width=20, n_voxels=N_VOXELS, name="targets.npy"):
    """Betas, and tokens of the training images as a memory map in half precision."""
    rng = np.random.default_rng(0)
    n = N_TRAIN + N_TEST
    code = rng.standard_normal((n, 6))
    tokens = code @ rng.standard_normal((6, n_tokens * width)) + 3
    tokens += rng.uniform(0.1, 4, n_tokens * width) * rng.standard_normal(tokens.shape)
    tokens = tokens.reshape(n, n_tokens, width).astype(np.float16)
    betas = (code @ rng.standard_normal((6, n_voxels)))[:, None]
    betas = (betas + 2 * rng.standard_normal((n, 3, n_voxels))).astype(np.float32)
    betas[5, 1] = np.nan
    np.save(tmp_path / name, tokens[:N_TRAIN])
    return betas, tokens, np.load(tmp_path / name, mmap_mode="r")


@pytest.mark.parametrize("per_target", [True, False])
@pytest.mark.parametrize("n_voxels", [40, 200])
def test_it_predicts_what_it_predicts_from_targets_in_memory(
    tmp_path, small_memory, per_target, n_voxels
):
    betas, tokens, mapped = subject(tmp_path, n_voxels=n_voxels)
    options = {"train_on": "averages", "alpha_per_target": per_target}
    decoders = [
        brainenc.RidgeDecoder(**options).fit(betas[:N_TRAIN], targets)
        for targets in (mapped, tokens[:N_TRAIN].astype(np.float64))
    ]
    assert isinstance(decoders[0].regression_, StreamedRegression)
    assert not isinstance(decoders[1].regression_, StreamedRegression)
    assert len(np.unique(decoders[0].alphas_)) > 1 or not per_target
    np.testing.assert_allclose(decoders[0].alphas_, decoders[1].alphas_, rtol=1e-5)
    found, wanted = (decoder.predict(betas[N_TRAIN:]) for decoder in decoders)
    assert found.shape == (N_TEST, 15, 20)
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.std(wanted))
    candidates = tokens[N_TRAIN:].copy()
    candidates[4] = decoders[0].target_mean_
    betas[N_TRAIN + 3] = np.nan
    np.save(tmp_path / "candidates.npy", candidates)
    in_file = np.load(tmp_path / "candidates.npy", mmap_mode="r")
    for center in (True, False):
        predictions = wanted.reshape(N_TEST, -1)
        predictions[3] = np.nan
        cosines = brainenc.metrics.cosine_similarity(
            predictions,
            candidates.reshape(N_TEST, -1).astype(np.float32),
            mean=decoders[1].target_mean_.reshape(-1) if center else None,
        )
        for given in (candidates, in_file):
            found = decoders[0].similarity(betas[N_TRAIN:], given, center=center)
            np.testing.assert_allclose(found[:, 5:], cosines[:, 5:], atol=1e-3)
        assert np.isnan(found[3]).all()


def test_memory_does_not_grow_with_the_number_of_targets(tmp_path, small_memory):
    peaks = []
    for n_tokens in (20, 160):  # 0.1 and 0.8 MB in the file, as float32 0.2 and 1.5 MB
        betas, _, mapped = subject(tmp_path, n_tokens=n_tokens, name=f"{n_tokens}.npy")
        decoder = brainenc.RidgeDecoder(train_on="averages", device="cpu")
        decoder.fit(betas[:N_TRAIN], mapped)  # imports and caches
        tracemalloc.start()
        decoder.fit(betas[:N_TRAIN], mapped)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    targets_in_memory = 4 * N_TRAIN * 140 * 20
    assert peaks[1] - peaks[0] < 0.15 * targets_in_memory


def test_targets_that_change_or_do_not_fit(tmp_path, small_memory):
    betas, _, _ = subject(tmp_path)
    mapped = np.load(tmp_path / "targets.npy", mmap_mode="r+")
    decoder = brainenc.RidgeDecoder(train_on="averages").fit(betas[:N_TRAIN], mapped)
    with pytest.raises(ValueError, match="must have one row for each of the 100 images"):
        brainenc.RidgeDecoder(train_on="averages").fit(betas[:100], mapped)
    mapped += 1
    with pytest.raises(ValueError, match=r"targets .* have changed"):
        decoder.predict(betas[N_TRAIN:])
    mapped[:, 3, 4] = 7
    with pytest.raises(ValueError, match=r"constant over images in 1 dimensions .first: 64"):
        brainenc.RidgeDecoder(train_on="averages").fit(betas[:N_TRAIN], mapped)
    mapped[8, 2, 2] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity for 1 images .first in row 8"):
        brainenc.RidgeDecoder(train_on="averages").fit(betas[:N_TRAIN], mapped)


def test_held_out_predictions_of_all_images_are_refused(tmp_path, small_memory):
    betas, _, mapped = subject(tmp_path)
    with pytest.raises(ValueError, match="too large for held-out predictions"):
        brainenc.RidgeDecoder(train_on="averages").fit_held_out(betas[:N_TRAIN], mapped)


def test_it_is_saved_and_loaded(tmp_path, small_memory):
    betas, _, mapped = subject(tmp_path)
    decoder = brainenc.RidgeDecoder(train_on="averages").fit(betas[:N_TRAIN], mapped)
    loaded = brainenc.load(decoder.save(tmp_path / "decoder"))
    np.testing.assert_array_equal(loaded.predict(betas[N_TRAIN:]), decoder.predict(betas[N_TRAIN:]))
