"""The documented generator of diffusers, with tiny random networks: its algebra."""

import importlib.util
import warnings

import pytest
import torch
from conftest import REPOSITORY

from brainenc.synthesis import Generator, synthesize

N_STEPS = 4


@pytest.fixture(scope="module")
def parts():
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of its dependencies
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=6,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.decoder.conv_out.weight.data *= 0.1  # no pixel is saturated
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return unet.eval(), vae.eval(), scheduler, torch.randn((1, 3, 6))


def generator(parts, scale):
    spec = importlib.util.spec_from_file_location(
        "diffusers_generator", REPOSITORY / "docs" / "diffusers_generator.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LatentDiffusion(*parts, (4, 8, 8), n_steps=N_STEPS, scale=scale)


class Redness(torch.nn.Module):
    def forward(self, images):
        return (images[:, 0] - images[:, 1]).mean((1, 2))


def test_without_guidance_it_is_the_scheduler_s_own_sampling(parts):
    unet, vae, scheduler, context = parts
    made = synthesize(Redness(), generator(parts, 0.0), n=2, n_steps=N_STEPS, random_state=5)
    scheduler.set_timesteps(N_STEPS)
    z = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = unet(z, t, encoder_hidden_states=context.expand(2, -1, -1)).sample
            z = scheduler.step(noise, t, z).prev_sample
        pixels = (vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(made.latents, z, rtol=1e-4, atol=1e-4)
    expected = (255 * pixels).round().permute(0, 2, 3, 1).numpy()
    assert abs(made.images - expected).max() <= 1


def test_the_gradient_passes_the_network_and_guidance_follows_it(parts):
    own = generator(parts, 0.0)
    assert isinstance(own, Generator)
    unet, vae, scheduler, context = parts
    doubles = (unet.double(), vae.double(), scheduler, context.double())
    try:
        own = generator(doubles, 0.0)
        z = own.start(1, 0).double().requires_grad_(True)
        (gradient,) = torch.autograd.grad(Redness()(own.decode(z)).sum(), z)
        direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).double()
        with torch.no_grad():
            assert 0 < own.decode(z).min() <= own.decode(z).max() < 1
            ends = [Redness()(own.decode(z + s * 1e-5 * direction)) for s in (1, -1)]
        change = float(ends[0] - ends[1]) / 2e-5
        assert change == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-9)
    finally:
        unet.float(), vae.float()
    free = synthesize(Redness(), generator(parts, 0.0), n=2, n_steps=N_STEPS)
    guided = synthesize(Redness(), generator(parts, 3000.0), n=2, n_steps=N_STEPS)
    assert (guided.scores["objective"] > free.scores["objective"]).all()
