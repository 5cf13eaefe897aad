"""Sizes of SynBrain's networks: published, small, or those given."""

import numpy as np
import pandas as pd
import pytest
from emulated_gpu import emulated_gpu

from brainenc.encoders import SynBrainEncoder
from brainenc.encoders.synbrain import stages
from brainenc.encoders.synbrain.sizes import (
    MANY_TRIALS,
    PUBLISHED_STEPS,
    PUBLISHED_TRAINING,
    chosen_sizes,
    n_heads,
    published_sizes,
    small_sizes,
)
from brainenc.nets import S2N, BrainVAE

SHAPE = (4, 8)


@pytest.mark.parametrize(
    ("device", "n_trials", "is_published"),
    [
        ("auto", MANY_TRIALS, True),
        ("cuda", MANY_TRIALS, True),
        ("cuda", MANY_TRIALS - 1, False),
        ("cpu", 27_000, False),  # with a GPU that is not to be used
    ],
)
def test_auto_is_published_on_a_gpu_with_many_trials(device, n_trials, is_published):
    with emulated_gpu():
        found = chosen_sizes("auto", SHAPE, n_trials, 15_724, device)
    expected = published_sizes(8) if is_published else small_sizes(SHAPE, n_trials, 15_724)
    assert found == expected
    assert (found.training == PUBLISHED_TRAINING) == is_published


def test_auto_is_small_without_a_gpu_whatever_the_data(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = chosen_sizes("auto", SHAPE, 27_000, 15_724, "auto")
    assert found == small_sizes(SHAPE, 27_000, 15_724)


def test_published_needs_no_gpu_and_no_trials():
    found = chosen_sizes("published", (256, 1664), 10, 20, "cpu")
    assert found == published_sizes(1664)
    assert found.training == {
        "vae_epochs": 15,
        "mapper_steps": 50_000,
        "batch_size": 24,
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
    }
    # Nothing of the autoencoder is replaced, and 13 are the heads that S2N has by default too.
    assert found.vae == {}
    assert found.mapper == {"n_heads": 13}


def test_a_fit_gets_the_sizes_of_its_data_and_device(monkeypatch):
    """10 000 trials on a GPU; the stages are not run."""
    seen = {}

    def fit_vae(vae, betas, tokens, run, **options):
        seen.update(vae=vae.sizes, learning_rate=run.learning_rate, **options)
        return pd.DataFrame()

    monkeypatch.setattr(stages, "fit_vae", fit_vae)
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((MANY_TRIALS // 2, *SHAPE), dtype=np.float32)
    betas = rng.standard_normal((MANY_TRIALS // 2, 2, 20), dtype=np.float32)
    with emulated_gpu():
        SynBrainEncoder(s2n=False, **PUBLISHED_STEPS).fit(tokens, betas)
        assert (seen["vae"]["pooled_length"], seen["n_epochs"]) == (8192, 15)
        assert seen["learning_rate"] == 1e-4
        SynBrainEncoder(s2n=False, **PUBLISHED_STEPS).fit(
            tokens, np.where(tokens[:, :1, :1] > 1, np.nan, betas)
        )
        assert (seen["vae"]["pooled_length"], seen["learning_rate"]) == (16, 2e-3)
    SynBrainEncoder(s2n=False, device="cpu", **PUBLISHED_STEPS).fit(tokens, betas)
    assert (seen["vae"]["pooled_length"], seen["learning_rate"]) == (16, 2e-3)
    # 700 steps of the 24 trials of a batch: 10 000 are 416 batches.
    assert seen["n_epochs"] == 2


# ------------------------------------------------------------------ a dict


def test_a_dict_replaces_arguments_in_the_small_sizes():
    small = small_sizes(SHAPE, 100, 200)
    found = chosen_sizes({"vae": {"n_channels": 4}}, SHAPE, 100, 200, "cpu")
    assert found.vae == small.vae | {"n_channels": 4}
    assert (found.mapper, found.training) == (small.mapper, small.training)
    found = chosen_sizes({"mapper": {"depth": 1, "mlp_ratio": 2.0}}, SHAPE, 100, 200, "cpu")
    assert found.mapper == small.mapper | {"depth": 1, "mlp_ratio": 2.0}
    assert found.vae == small.vae
    with emulated_gpu():
        found = chosen_sizes({"vae": {"n_blocks": 2}}, SHAPE, MANY_TRIALS, 200, "cuda")
    assert found.vae == small.vae | {"n_blocks": 2}  # of the small ones there too


def test_the_dict_is_left_as_it_was():
    sizes = {"vae": {"n_channels": 4}}
    chosen_sizes(sizes, SHAPE, 100, 200, "cpu").vae["n_channels"] = 5
    assert sizes == {"vae": {"n_channels": 4}}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vea": {}}, r"sizes has \['vea'\]: give .*'vae': arguments of BrainVAE"),
        ({"n_channels": 4, "vae": {}}, r"sizes has \['n_channels'\]"),
        ({"vae": 5}, r"sizes\['vae'\]=5 must be a dict of arguments"),
        ({"vae": {"depth": 2}}, r"sizes\['vae'\] has \['depth'\]; there are .*'n_blocks'"),
        ({"mapper": {"width": 6}}, r"sizes\['mapper'\] has \['width'\]; there are \['depth', "),
        ("small", "sizes='small' must be 'auto', 'published' or a dict"),
        ("paper", "sizes='paper' must be"),
        (None, "sizes=None must be"),
        (["auto"], r"sizes=\['auto'\] must be"),
    ],
)
def test_other_sizes_are_named(sizes, message):
    data = np.ones((3, *SHAPE), np.float32), np.ones((3, 2, 5), np.float32)
    with pytest.raises(ValueError, match=message):
        SynBrainEncoder(sizes=sizes).fit(*data)


# ------------------------------------------------------------------ small sizes


@pytest.mark.parametrize(
    ("n_voxels", "expected"),
    [(1, 16), (16, 16), (31, 16), (32, 32), (400, 256), (512, 512), (15_724, 512)],
)
def test_voxels_are_pooled_to_a_power_of_two_that_is_no_more_than_they_are(n_voxels, expected):
    assert small_sizes(SHAPE, 100, n_voxels).vae["pooled_length"] == expected


@pytest.mark.parametrize(("n_trials", "epochs"), [(1, 700), (24, 700), (100, 175), (16_800, 1)])
def test_the_autoencoder_is_trained_for_700_steps(n_trials, epochs):
    assert small_sizes(SHAPE, n_trials, 100).training["vae_epochs"] == epochs


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        (SHAPE, 3000),
        # Multiplications of two blocks: 2 · n · w · (12 w + 2 n), here 2 295 808.
        ((16, 76), round(3000 * 2e6 / 2_295_808)),
        ((256, 1664), 300),  # a tenth at least
    ],
)
def test_the_mapper_is_trained_for_fewer_steps_where_a_step_is_dear(shape, steps):
    assert small_sizes(shape, 100, 100).training["mapper_steps"] == steps


@pytest.mark.parametrize(("width", "heads"), [(1664, 13), (768, 12), (64, 8), (26, 13), (2, 2)])
def test_the_published_heads_where_they_divide_the_width(width, heads):
    assert n_heads(width, 13) == heads
    assert published_sizes(width).mapper == {"n_heads": heads}


@pytest.mark.parametrize("n_voxels", [1, 9, 700])
def test_networks_of_small_sizes_can_be_made(n_voxels):
    sizes = small_sizes((8, 6), 50, n_voxels)
    vae, mapper = stages.make_nets((8, 6), sizes, "conv-attention", True, 0)
    assert isinstance(vae, BrainVAE)
    assert isinstance(mapper, S2N)
    assert sizes.vae.items() <= vae.sizes.items()
    assert sizes.mapper.items() <= mapper.sizes.items()
