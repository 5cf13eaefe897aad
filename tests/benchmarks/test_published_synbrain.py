"""The plainly written published step computes what brainenc's nets and training compute."""

import copy
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from brainenc.encoders.synbrain import stages
from brainenc.encoders.synbrain.sizes import small_sizes
from brainenc.nets import S2N, BrainVAE, synbrain_vae_loss
from brainenc.training import TrainingRun

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import published_synbrain as published

N_TOKENS, WIDTH, N_VOXELS, BATCH = 8, 32, 120, 4
SIZES = small_sizes((N_TOKENS, WIDTH), BATCH, N_VOXELS).vae | {"projector_width": 32}


@pytest.fixture(scope="module")
def problem():
    """Tokens and single trials, one per image, that hold a linear function of them."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((BATCH, N_TOKENS, WIDTH)).astype(np.float32)
    weights = rng.standard_normal((N_TOKENS * WIDTH, N_VOXELS)) / 16
    betas = tokens.reshape(BATCH, -1) @ weights + 0.3 * rng.standard_normal((BATCH, N_VOXELS))
    return tokens, betas[:, None].astype(np.float32)


@pytest.fixture(scope="module")
def nets():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        vae, mapper = BrainVAE(N_TOKENS, WIDTH, **SIZES), S2N(N_TOKENS, WIDTH, depth=2, n_heads=4)
        for parameter in mapper.parameters():  # not the 0 of adaLN-Zero
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    return vae.eval(), mapper.eval()


def test_nets_compute_the_same(problem, nets):
    vae, mapper = nets
    plain_vae, plain_mapper = published.VAE(vae.sizes), published.Mapper(mapper.sizes)
    plain_vae.load_state_dict(vae.state_dict())
    plain_mapper.load_state_dict(mapper.state_dict())
    tokens, betas = map(torch.from_numpy, problem)
    with torch.no_grad():
        for ours, theirs in [
            (mapper(tokens), plain_mapper(tokens)),
            *zip(vae.encode(betas[:, 0]), plain_vae.encode(betas[:, 0]), strict=True),
            (vae.decode(tokens, N_VOXELS), plain_vae.decode(tokens, N_VOXELS)),
        ]:
            # The same operations in another order: float32 rounding.
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_mapper_trains_along_the_same_curve(problem, nets):
    vae, mapper = nets
    tokens, betas = problem
    plain = published.Mapper(mapper.sizes)
    plain.load_state_dict(mapper.state_dict())
    plain_vae = published.VAE(vae.sizes)
    plain_vae.load_state_dict(vae.state_dict())
    step = published.MapperStep(plain, plain_vae)
    # One batch holds all trials: the curve does not depend on their order.
    curve = [step(torch.from_numpy(betas[:, 0]), torch.from_numpy(tokens)) for _ in range(20)]
    run = TrainingRun(
        batch_size=BATCH, learning_rate=1e-4, weight_decay=0.05, device="cpu", precision="32"
    )
    trained = copy.deepcopy(mapper)
    # A row per epoch, and an epoch is one step here.
    history = stages.fit_mapper(trained, vae, betas, tokens, run, n_steps=20, ema_decay=0.9999)
    # Targets in half precision and float32 rounding, over 20 steps of Adam.
    np.testing.assert_allclose(history["loss"], curve, rtol=2e-3)
    assert curve[-1] < 0.9 * curve[0]


def test_the_autoencoder_has_the_same_gradient(problem, nets):
    vae = copy.deepcopy(nets[0]).train()
    plain = published.VAE(vae.sizes)
    plain.load_state_dict(vae.state_dict())
    tokens, betas = torch.from_numpy(problem[0]), torch.from_numpy(problem[1][:, 0])
    noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    mean, log_variance = vae.encode(betas)
    z = mean + noise * (0.5 * log_variance).exp()
    decoded = vae.decode(z, N_VOXELS)
    synbrain_vae_loss(decoded, betas, z, tokens, mean, log_variance).total.backward()
    published.vae_loss(plain, betas, tokens, noise).backward()
    pairs = list(zip(vae.parameters(), plain.parameters(), strict=True))
    # Where a bias is normalised away its gradient is rounding: compared on the common scale.
    scale = float(max(theirs.grad.abs().max() for _, theirs in pairs))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6 * scale, rtol=1e-3)
