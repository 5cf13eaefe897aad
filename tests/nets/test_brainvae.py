import numpy as np
import pytest
import synbrain_oracles as oracles
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from brainenc.nets import BrainVAE, _conv, sample_latent

# Channels above 32 share groups, below they do not; the number of channels changes on the way.
SIZES = {
    "n_tokens": 3,
    "token_width": 10,
    "pooled_length": 16,
    "n_channels": 16,
    "channel_multipliers": (1, 4),
    "n_blocks": 1,
    "projector_width": 7,
    "mlp_widths": (9, 11),
    "mlp_token_width": 4,
}


def small(seed=0, **changes):
    return oracles.randomised(BrainVAE(**{**SIZES, **changes}), seed)


def betas(n_voxels, n=2, seed=1):
    return torch.randn(n, n_voxels, generator=torch.Generator().manual_seed(seed))


def millions(net):
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


def test_published_sizes_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        vae = BrainVAE()
    assert round(millions(vae), 2) == 78.31
    assert round(millions(vae.encoder), 2) == 12.35
    assert round(millions(vae.decoder), 2) == 17.93
    for projector in (vae.pre_projector_mean, vae.pre_projector_logvar, vae.post_projector):
        assert round(millions(projector), 2) == 16.01


def test_mlp_ablation_has_about_as_many_parameters():
    with torch.device("meta"):
        conv, mlp = BrainVAE(), BrainVAE(architecture="mlp")
    # So that the ablation compares structures and not sizes: within 1 %.
    assert millions(mlp.encoder) == pytest.approx(millions(conv.encoder), rel=0.01)
    assert millions(mlp.decoder) == pytest.approx(millions(conv.decoder), rel=0.01)


# More voxels than the pool has bins, as many, and fewer; bins that overlap and that do not.
@pytest.mark.parametrize("n_voxels", [41, 16, 7])
@pytest.mark.parametrize("n_halvings", [0, 1, 2])
def test_encode_and_decode_are_those_of_the_numpy_net(n_voxels, n_halvings):
    vae = small(n_halvings=n_halvings)
    weights = oracles.as_arrays(vae)
    with torch.no_grad():
        mean, log_variance = vae.encode(betas(n_voxels))
        response = vae.decode(mean, n_voxels + 3)
    for i, trial in enumerate(betas(n_voxels).double().numpy()):
        features = oracles.vae_encoder(trial, oracles.part(weights, "encoder"), 16, n_levels=2)
        z = oracles.projector(features, oracles.part(weights, "pre_projector_mean"))
        expected_log = oracles.projector(features, oracles.part(weights, "pre_projector_logvar"))
        decoded = oracles.vae_decoder(
            oracles.projector(z, oracles.part(weights, "post_projector")),
            oracles.part(weights, "decoder"),
            n_voxels + 3,
            n_levels=2,
        )
        # float32 against float64: 1e-7 per operation; norms of short rows make it more.
        np.testing.assert_allclose(mean[i], z, atol=2e-5)
        np.testing.assert_allclose(log_variance[i], expected_log, atol=2e-5)
        np.testing.assert_allclose(response[i], decoded, atol=2e-5)


def mlp_block(x, w):
    h = oracles.linear(oracles.layer_norm(x, 1e-5, oracles.part(w, "0")), oracles.part(w, "1"))
    return x + oracles.linear(oracles.gelu(h), oracles.part(w, "4"))


def test_mlp_encode_and_decode_are_those_of_the_numpy_net():
    vae = small(architecture="mlp")
    weights = oracles.as_arrays(vae)
    e, d = oracles.part(weights, "encoder"), oracles.part(weights, "decoder")
    with torch.no_grad():
        mean, _ = vae.encode(betas(41))
        response = vae.decode(mean, 23)
    for i, trial in enumerate(betas(41).double().numpy()):
        x = oracles.linear(oracles.max_pool(trial[None], 16)[0], oracles.part(e, "linear_in"))
        x = mlp_block(x, oracles.part(e, "blocks.0.layers"))
        x = oracles.linear(x, oracles.part(e, "linear_tokens")).reshape(3, 4)
        x = oracles.linear(oracles.gelu(x), oracles.part(e, "linear_out"))
        z = oracles.projector(x, oracles.part(weights, "pre_projector_mean"))
        x = oracles.projector(z, oracles.part(weights, "post_projector"))
        x = oracles.gelu(oracles.linear(x, oracles.part(d, "linear_in"))).ravel()
        x = oracles.linear(x, oracles.part(d, "linear_tokens"))
        x = oracles.linear(mlp_block(x, oracles.part(d, "blocks.0.layers")), part_out(d))
        # As above.
        np.testing.assert_allclose(mean[i], z, atol=2e-5)
        np.testing.assert_allclose(response[i], oracles.stretch(x[None], 23)[0], atol=2e-5)


def part_out(weights):
    return oracles.part(weights, "linear_out")


@pytest.mark.parametrize("architecture", ["conv-attention", "mlp"])
def test_training_reaches_every_parameter(architecture):
    # Channels normalised one by one would not see the biases before.
    vae = small(architecture=architecture, n_channels=64, channel_multipliers=(1, 2)).double()
    out = vae(betas(30).double(), generator=torch.Generator().manual_seed(0))
    (out.reconstruction.square().sum() + out.log_variance.square().sum()).backward()
    for name, parameter in vae.named_parameters():
        # A softmax does not see what is added to all keys, nor the projectors' first norm what is
        # added to a whole token.
        if name.endswith(("attn_1.k.bias", "encoder.conv_out.bias")):
            continue
        # Double precision leaves 1e-16 of what is nothing.
        assert parameter.grad.abs().max() > 1e-9, name


def outputs_and_gradients(vae, trials):
    vae.zero_grad()
    mean, log_variance = vae.encode(trials)
    response = vae.decode(mean, 30)
    (response.square().sum() + log_variance.square().sum()).backward()
    gradients = [parameter.grad for parameter in vae.parameters()]
    outputs = torch.cat([each.detach().flatten() for each in (mean, log_variance, response)])
    return outputs, torch.cat([each.flatten() for each in gradients])


def test_bf16_on_a_cpu_is_channels_last_in_every_layer_and_float32_in_none():
    vae, inputs = small(), []
    for module in (*vae.encoder.modules(), *vae.decoder.modules()):
        if isinstance(module, (_conv.Conv, _conv.ConvTranspose, torch.nn.GroupNorm)):
            module.register_forward_pre_hook(lambda layer, x: inputs.append(x[0]))

    def layouts():
        # One channel is laid out both ways at once.
        shared = [x for x in inputs if x.shape[1] > 1]
        inputs.clear()
        last = [x.is_contiguous(memory_format=torch.channels_last) for x in shared]
        return len(shared), sum(last), sum(x.is_contiguous() for x in shared)

    outputs_and_gradients(vae, betas(20))
    n, n_last, n_first = layouts()
    assert (n_last, n_first) == (0, n)
    with torch.autocast("cpu", torch.bfloat16):
        outputs_and_gradients(vae, betas(20))
    n, n_last, n_first = layouts()
    assert (n_last, n_first) == (n, 0)


def test_the_layout_changes_no_number(monkeypatch):
    vae, trials = small(n_channels=64, channel_multipliers=(1, 2)).double(), betas(20).double()
    plain = outputs_and_gradients(vae, trials)
    monkeypatch.setattr(
        _conv, "laid_out", lambda x: x.contiguous(memory_format=torch.channels_last)
    )
    # Other kernels sum in another order: 1e-16 per operation in double precision.
    for found, expected in zip(outputs_and_gradients(vae, trials), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * expected.abs().max())


def test_bf16_gives_nearly_the_same_responses_and_gradients():
    torch.manual_seed(0)
    vae, trials = BrainVAE(**SIZES), betas(30, n=8)
    exact, exact_gradient = outputs_and_gradients(vae, trials)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, gradient = outputs_and_gradients(vae, trials)
    # Rounding by 2^-9 in each of fifty layers is 3 % of the outputs, more in products of as many
    # derivatives; whatever is taken from the wrong place is off by 100 %.
    assert (rounded - exact).norm() < 0.08 * exact.norm()
    assert torch.cosine_similarity(gradient, exact_gradient, dim=0) > 0.97


def test_sampled_latents_have_the_mean_and_the_variance_of_the_posterior():
    mean, log_variance = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    z = sample_latent(mean.expand(n, 2), log_variance.expand(n, 2), generator=generator)
    sd = (log_variance / 2).exp()
    # Standard errors are sd/sqrt(n) and variance·sqrt(2/n); allow four.
    assert ((z.mean(0) - mean).abs() < 4 * sd / n**0.5).all()
    assert ((z.var(0) - sd**2).abs() < 4 * sd**2 * (2 / n) ** 0.5).all()


def test_forward_decodes_the_draw_or_the_mean():
    vae = small()
    with torch.no_grad():
        drawn = vae(betas(20), generator=torch.Generator().manual_seed(0))
        again = vae(betas(20), generator=torch.Generator().manual_seed(0))
        plain = vae(betas(20), sample=False)
        assert torch.equal(plain.z, plain.mean)
        assert torch.equal(plain.reconstruction, vae.decode(plain.mean, 20))
        assert torch.equal(drawn.reconstruction, vae.decode(drawn.z, 20))
    assert torch.equal(drawn.z, again.z)
    noise = (drawn.z - drawn.mean) / (drawn.log_variance / 2).exp()
    # 60 standard normal numbers: a mean square of 1 ± four standard errors.
    assert abs(noise.square().mean().item() - 1) < 4 * (2 / 60) ** 0.5


def test_dropout_acts_in_training_only():
    vae = small(dropout=0.5)
    with torch.no_grad():
        assert torch.equal(vae.encode(betas(20))[0], vae.encode(betas(20))[0])
        vae.train()
        assert not torch.equal(vae.encode(betas(20))[0], vae.encode(betas(20))[0])


def test_sizes_make_another_of_the_same_shape():
    vae = small()
    again = BrainVAE(**vae.sizes).eval()
    again.load_state_dict(vae.state_dict())
    with torch.no_grad():
        assert torch.equal(again.encode(betas(9))[1], vae.encode(betas(9))[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "conv"}, "architecture='conv' must be one of"),
        ({"n_halvings": 3}, "n_halvings=3 must be 0 … 2"),
        ({"pooled_length": 17}, r"pooled_length=17 must be divisible by 2\*\*1"),
        ({"n_channels": 40}, "gives 40 channels"),
        ({"channel_multipliers": (1, 3)}, "gives 48 channels"),
        ({"n_tokens": 0}, "n_tokens=0 must be at least 1"),
        ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        ({"mlp_widths": (3,)}, "mlp_widths=.* must be two"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BrainVAE(**{**SIZES, **changes})


def test_inputs_of_another_shape_are_refused():
    vae = small()
    with pytest.raises(ValueError, match=r"betas \(2, 1, 20\) must have shape \(batch, n_voxels\)"):
        vae.encode(betas(20)[:, None])
    with pytest.raises(ValueError, match=r"z \(2, 30\) must have shape \(batch, \*\(3, 10\)\)"):
        vae.decode(torch.zeros(2, 30), 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_keeps_no_map_of_all_pairs_of_positions(dtype):
    block = _conv.AttentionBlock(64).to(dtype)
    x = _conv.laid_out(torch.randn(2, 64, 1, 128, dtype=dtype))
    # Of all kernels only the one that keeps the map may not be taken; if no other can, it raises.
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        assert block(x).shape == x.shape
