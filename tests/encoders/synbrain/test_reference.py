"""Our nets against what the official code gave for the same weights and inputs."""

import argparse
import json

import numpy as np
import pytest
import torch

from brainenc.encoders.synbrain import read_s2n, read_vae, write_s2n, write_vae
from brainenc.nets import synbrain_vae_loss


@pytest.fixture(scope="module")
def expected(synbrain_reference):
    with np.load(synbrain_reference / "expected.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def vae(synbrain_reference):
    return read_vae(synbrain_reference / "vae_last.pth")[0].eval()


@pytest.fixture(scope="module")
def s2n(synbrain_reference):
    return read_s2n(synbrain_reference / "s2n_last.pt")[0].eval()


def official(path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def assert_same(ours, theirs):
    """To 1e-5: what "faithful" means here."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_autoencoder(vae, expected):
    out = vae(expected["fmri"], sample=False)
    assert_same(out.mean, expected["posterior_mean"])
    assert_same(out.log_variance, expected["posterior_logvar"])
    assert_same(out.reconstruction, expected["reconstruction"])


@torch.no_grad()
def test_losses(vae, expected):
    betas = expected["fmri"]
    out = vae(betas, sample=False)
    loss = synbrain_vae_loss(
        out.reconstruction, betas, out.z, expected["clip_tokens"], out.mean, out.log_variance
    )
    pairs = {
        "recon_loss": loss.reconstruction,
        "kl_loss": loss.kl,
        "soft_clip_loss": loss.soft_clip,
        "total_loss": loss.total,
    }
    for name, ours in pairs.items():
        # Relative: neighbouring float32 numbers around the total are 1.2e-4 apart.
        torch.testing.assert_close(ours, expected[name], atol=0, rtol=1e-6, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("folded", [False, True])
def test_mapper_and_synthesis(vae, s2n, expected, folded):
    mapper = s2n.fold_time() if folded else s2n
    z = mapper(expected["clip_tokens"])
    assert_same(z, expected["s2n_latent"])
    assert_same(vae.decode(z, 500), expected["synthesis"])
    assert_same(vae.decode(z, 250), expected["synthesis_half_length"])


@torch.no_grad()
def test_the_moving_average_is_not_the_model(synbrain_reference, expected):
    model, _ = read_s2n(synbrain_reference / "s2n_last.pt", weights="model")
    difference = model(expected["clip_tokens"]) - expected["s2n_latent"]
    assert difference.abs().max() > 1e-3


def test_sizes_are_those_of_the_configuration(synbrain_reference):
    config = json.loads((synbrain_reference / "config.json").read_text())
    theirs = config["vae"]
    _, sizes = read_vae(synbrain_reference / "vae_last.pth")
    assert sizes["n_tokens"] == theirs["z_channels"]
    assert sizes["token_width"] == theirs["embed_dim"]
    assert sizes["pooled_length"] == theirs["ada_length"]
    assert sizes["n_halvings"] == theirs["num_down_blocks"] == theirs["num_up_blocks"]
    assert sizes["n_channels"] == theirs["ch"]
    assert list(sizes["channel_multipliers"]) == theirs["ch_mult"]
    assert sizes["n_blocks"] == theirs["num_res_blocks"]
    assert sizes["projector_width"] == theirs["linear_dim"]

    theirs = config["s2n"]
    _, sizes = read_s2n(synbrain_reference / "s2n_last.pt")
    assert sizes["n_tokens"] == theirs["num_tokens"]
    assert sizes["width"] == theirs["width"]
    assert sizes["depth"] == theirs["depth"]
    assert sizes["n_heads"] == theirs["num_heads"]
    assert sizes["mlp_ratio"] == theirs["mlp_ratio"]


def test_our_positions_are_theirs(s2n):
    # The weights of the file were loaded over ours, which a new mapper has.
    fresh = type(s2n)(**s2n.sizes)
    assert torch.equal(fresh.pos_embed, s2n.pos_embed)


def test_the_autoencoder_written_again_is_the_official_file(synbrain_reference, vae, tmp_path):
    theirs = official(synbrain_reference / "vae_last.pth")
    ours = official(write_vae(tmp_path / "last.pth", vae, epoch=theirs["epoch"]))
    assert list(ours) == list(theirs)
    assert ours["epoch"] == theirs["epoch"]
    assert_identical(ours["model"], theirs["model"])


def test_the_mapper_written_again_is_the_official_file(synbrain_reference, s2n, tmp_path):
    path = synbrain_reference / "s2n_last.pt"
    theirs = official(path)
    last, _ = read_s2n(path, weights="model")
    written = write_s2n(
        tmp_path / "last.pt", last, s2n, steps=theirs["steps"], args=vars(theirs["args"])
    )
    ours = official(written)
    assert list(ours) == list(theirs)
    assert ours["steps"] == theirs["steps"]
    assert ours["args"] == theirs["args"]
    assert_identical(ours["model"], theirs["model"])
    assert_identical(ours["ema"], theirs["ema"])


def assert_identical(ours, theirs):
    assert list(ours) == list(theirs)
    assert all(ours[key].dtype == theirs[key].dtype for key in theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
