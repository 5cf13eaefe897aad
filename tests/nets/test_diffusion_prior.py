"""MindSimulator's prior: what depends on what."""

import pytest
import torch

from brainenc.nets import DiffusionPrior


@pytest.fixture
def prior():
    torch.manual_seed(0)
    net = DiffusionPrior(6, 5, 3, 4, n_steps=10, width=16, depth=2, n_heads=3, head_width=4)
    torch.nn.init.normal_(net.latents_out.weight)
    return net.eval()


def call(prior, noisy, step, tokens, keep=None):
    return prior(noisy, torch.full((len(noisy),), step), tokens, keep)


def test_every_latent_depends_on_every_token_latent_and_on_the_step(prior):
    noisy, tokens = torch.randn(2, 3, 4), torch.randn(2, 6, 5)
    noisy.requires_grad_(), tokens.requires_grad_()
    out = call(prior, noisy, 7, tokens)
    assert out.shape == (2, 3, 4)
    for position in range(3):
        of_noisy, of_tokens = torch.autograd.grad(
            out[0, position].sum(), (noisy, tokens), retain_graph=True
        )
        assert (of_noisy[0].abs().sum(1) > 0).all()  # not causal
        assert (of_tokens[0].abs().sum(1) > 0).all()
        assert (of_tokens[1] == 0).all()  # nor of other images
    assert not torch.allclose(out, call(prior, noisy, 2, tokens))


def test_a_dropped_condition_has_no_say(prior):
    noisy, tokens = torch.randn(2, 3, 4), torch.randn(2, 6, 5)
    keep = torch.tensor([True, False])
    one = call(prior, noisy, 7, tokens, keep)
    other = call(prior, noisy, 7, tokens + 1, keep)
    assert not torch.allclose(one[0], other[0])
    torch.testing.assert_close(one[1], other[1])
    torch.testing.assert_close(one[0], call(prior, noisy, 7, tokens)[0])


def test_an_untrained_prior_predicts_zero():
    net = DiffusionPrior(6, 5, 3, 4, width=8, depth=1, n_heads=2, head_width=4)
    assert (call(net, torch.randn(2, 3, 4), 7, torch.randn(2, 6, 5)) == 0).all()
    assert net.is_silent
    net.latents_out.bias.data[2] = 1e-20
    assert not net.is_silent


def test_the_published_transformer_is_the_default():
    with torch.device("meta"):
        net = DiffusionPrior()
    counts = {name: p.numel() for name, p in net.named_parameters()}
    # 14 heads of 48, three of each for query, key and value.
    assert counts["blocks.0.qkv.weight"] == 768 * 3 * 14 * 48
    assert counts["position"] == (257 + 1 + 257) * 768
    assert len(net.blocks) == 6
    with pytest.raises(ValueError, match="depth=0"):
        DiffusionPrior(depth=0)
