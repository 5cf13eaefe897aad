"""Steps of SynBrain's default: voxels in order and scaled, averaged targets, read-out, stopping."""

import numpy as np
import pytest
import torch
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.encoders.synbrain import stages
from brainenc.encoders.synbrain.sizes import PUBLISHED_STEPS
from brainenc.encoders.synbrain.voxels import (
    POOLING,
    PUBLISHED_ERROR,
    ReadOut,
    VoxelSpace,
    check_order,
    response_order,
)


@pytest.fixture(scope="module")
def problem():
    """130 images × 4 tokens; 20 voxels of which neighbours on a ring respond alike, 2 repeats."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((130, 4, 4)).astype(np.float32)
    angle = 2 * np.pi * np.arange(20) / 20
    tuning = np.stack([np.cos(angle), np.sin(angle)])
    signal = tokens.reshape(130, 16)[:, :2] @ tuning * np.linspace(1, 9, 20) + 5
    betas = signal[:, None] + 0.3 * rng.standard_normal((130, 2, 20))
    return tokens, betas.astype(np.float32)


def test_neighbours_in_the_order_respond_alike(problem):
    _, betas = problem
    shuffled = np.random.default_rng(1).permutation(20)
    averages = betas.mean(axis=1)[:, shuffled]
    order = response_order(averages)
    assert sorted(order) == list(range(20))
    corr = np.corrcoef(averages.T)
    neighbours = corr[order[:-1], order[1:]].mean()
    # Of neighbours on the ring r is .95; of neighbours in an order without meaning it is about 0.
    assert neighbours > 0.85
    assert abs(corr[np.arange(19), np.arange(1, 20)].mean()) < 0.4
    np.testing.assert_array_equal(response_order(5 - 3 * averages), order)


def test_voxels_are_scaled_to_the_variance_of_the_papers_data(problem):
    _, betas = problem
    betas = betas.copy()
    betas[7, 1] = np.nan
    undefined = np.zeros(20, dtype=bool)
    space = VoxelSpace.fit(betas, undefined, standardize=True, order="response")
    seen = space.to_nets(betas)
    flat = seen.reshape(-1, 20)
    variance = np.nanvar(flat, axis=0)
    np.testing.assert_allclose(variance, PUBLISHED_ERROR / 20, rtol=0.01)
    np.testing.assert_allclose(space.from_nets(seen), betas, atol=1e-4)
    np.testing.assert_allclose(
        seen[3, 0, 4],
        (betas[3, 0, space.order[4]] - space.mean[space.order[4]]) / space.scale[space.order[4]],
        rtol=1e-6,
    )
    assert VoxelSpace.fit(betas, undefined, standardize=False, order="given") is None
    given = VoxelSpace.fit(betas, undefined, standardize=False, order=np.arange(20)[::-1])
    np.testing.assert_array_equal(given.to_nets(betas), betas[..., ::-1])


@pytest.mark.parametrize(
    "order", ["auto", [0, 1], [0, 0, 1], [1, 2, 3], [0.0, 1.0, 2.0], np.ones(3, bool)]
)
def test_an_order_that_is_none_is_named(order):
    with pytest.raises(ValueError, match="voxel_order"):
        check_order(order, 3)


def test_the_read_out_is_a_shrunk_regression():
    rng = np.random.default_rng(0)
    p = rng.standard_normal((4000, 2))
    y = np.stack([2 * p[:, 0] + 3, -p[:, 1]], axis=1) + 0.1 * rng.standard_normal((4000, 2))
    found = ReadOut.fit(p, y, np.array([0.0, 0.0]))
    # 4000 images against POOLING of the average voxel: the first slope is nearly that of its own.
    slope = np.polyfit(p[:, 0], y[:, 0], 1)[0]
    unit = y.var(axis=0)
    pooled = ((p * (y - y.mean(0))).mean(0) / unit).mean(), (p.var(axis=0) / unit).mean()
    own = (p[:, 0] * (y[:, 0] - y[:, 0].mean())).mean() / unit[0], p[:, 0].var() / unit[0]
    expected = (4000 * own[0] + POOLING * pooled[0]) / (4000 * own[1] + POOLING * pooled[1])
    assert found.scale[0] == pytest.approx(expected, rel=0.01)
    assert found.scale[0] == pytest.approx(slope, rel=0.05)
    assert found.scale[1] == 0  # a negative relation is that of noise
    assert found.offset[0] == pytest.approx(3 * 4000 / (4000 + POOLING), rel=0.02)


def test_held_out_images_are_learnt_by_no_stage(problem, monkeypatch):
    tokens, betas = problem
    seen = {}
    for name in ("fit_vae", "fit_mapper"):
        stage = getattr(stages, name)

        def kept(*given, stage=stage, name=name, **options):
            seen[name] = options["held"]
            return stage(*given, **options)

        monkeypatch.setattr(stages, name, kept)
    weights = []
    for change in (0, 50):
        encoder = tiny_encoder("synbrain", blend=None, read_out=False).fit(tokens, betas)
        held = ~seen["fit_vae"].learnt
        assert held.sum() == round(0.15 * 130)
        assert seen["fit_mapper"] is seen["fit_vae"]
        held_out = encoder.fit_held_out(tokens, betas)
        np.testing.assert_array_equal(np.isfinite(held_out).all(axis=1), held)
        weights.append([v.clone() for v in encoder.vae_.state_dict().values()])
        betas = betas.copy()
        # The same for all voxels and images: that the best weights are others is left out.
        betas[held] += change
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_averaged_targets_are_means_of_posterior_means(problem):
    tokens, betas = problem
    betas = betas[:10].copy()
    betas[3, 1] = np.nan
    encoder = tiny_encoder("synbrain", **PUBLISHED_STEPS).fit(tokens[:10], betas)
    with torch.no_grad():
        flat = [
            encoder.vae_.encode(torch.from_numpy(b[np.isfinite(b[:, 0])]))[0].mean(0) for b in betas
        ]
        by_batch = stages.mean_of_posterior(encoder.vae_, torch.from_numpy(betas))
    np.testing.assert_allclose(by_batch, torch.stack(flat), atol=1e-5)
    image = np.array([0, 0, 2, 5, 5, 5])
    values = np.arange(6, dtype=np.float16)[:, None]
    images, means = stages.averages_by_image(image, values)
    assert images.tolist() == [0, 2, 5]
    assert means[:, 0].tolist() == [0.5, 2, 4]


def test_fine_tuning_trains_mapper_and_decoder_by_voxels(problem):
    tokens, betas = problem
    plain = tiny_encoder("synbrain", fine_tuning_steps=0, blend=None, read_out=False)
    tuned = tiny_encoder("synbrain", fine_tuning_steps=60, learning_rate=3e-3, blend=None)
    plain.set_params(learning_rate=3e-3).fit(tokens, betas)
    tuned.set_params(read_out=False).fit(tokens, betas)
    for part in ("encoder", "pre_projector_mean"):
        for a, b in zip(
            getattr(plain.vae_, part).parameters(),
            getattr(tuned.vae_, part).parameters(),
            strict=True,
        ):
            assert torch.equal(a, b)
    error = [np.mean((e.predict(tokens) - betas.mean(1)) ** 2) for e in (plain, tuned)]
    assert error[1] < error[0]
    history = tuned.history_[tuned.history_["stage"] == "voxels"]
    assert history["held_out_mse"].min() < history["held_out_mse"].iloc[0]


def test_predictions_are_in_the_order_and_units_of_the_betas(problem):
    """An order given, and undone: nets see the same, so that they predict the same."""
    tokens, betas = problem
    order = np.random.default_rng(0).permutation(20)
    given = {"blend": None, "read_out": False}
    ours = tiny_encoder("synbrain", voxel_order=order, **given).fit(tokens, betas)
    theirs = tiny_encoder("synbrain", voxel_order="given", **given).fit(tokens, betas[..., order])
    np.testing.assert_allclose(
        ours.predict(tokens)[:, order], theirs.predict(tokens), rtol=1e-4, atol=1e-4
    )


def test_official_checkpoints_hold_no_step_of_the_default(problem, tmp_path):
    encoder = tiny_encoder("synbrain").fit(*problem)
    with pytest.raises(ValueError, match=r"standardize and voxel_order.*read_out.*blend"):
        encoder.to_official(vae=tmp_path / "vae.pth", s2n=tmp_path / "s2n.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_read_out_needs_held_out_images(problem):
    with pytest.raises(ValueError, match="read_out=True fits scale and offset on held-out images"):
        tiny_encoder("synbrain", read_out=True, validation=0.0).fit(*problem)
    with pytest.raises(TypeError, match="standardize='yes' must be"):
        tiny_encoder("synbrain", standardize="yes").fit(*problem)


def test_a_model_with_all_steps_comes_back(problem, tmp_path):
    tokens, betas = problem
    encoder = tiny_encoder("synbrain", voxel_order=np.arange(20)[::-1]).fit(tokens, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(tokens), encoder.predict(tokens))
    np.testing.assert_array_equal(loaded.net_share_, encoder.net_share_)
