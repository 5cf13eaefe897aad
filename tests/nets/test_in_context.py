import numpy as np
import pytest
import synbrain_oracles as oracles
import torch

from brainenc.nets import InContextNet

SMALL = {"width": 8, "depth": 3, "n_heads": 2, "hidden": 12}


def norm(x, weights):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights["weight"] + weights["bias"]


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def residual(x, part):
    hidden = oracles.linear(leaky(norm(x, part("block.0"))), part("block.3"))
    hidden = oracles.linear(leaky(norm(hidden, part("block.4"))), part("block.7"))
    return hidden + oracles.linear(x, part("bypass"))


def by_hand(net, images, responses, start=None):
    """The published forward pass in NumPy, in double precision, one voxel and head at a time."""
    weights, n_heads = oracles.as_arrays(net), net.sizes["n_heads"]
    found = []
    for v, (X, y) in enumerate(
        zip(images.double().numpy(), responses.double().numpy(), strict=True)
    ):
        tokens = np.concatenate([X, y[:, None]], axis=1)
        x = residual(tokens, lambda name: oracles.part(weights, f"early_layers.0.{name}"))
        registers = weights["cls_token"][0].copy()
        if start is not None:
            given = np.append(start[v].double().numpy(), np.log(len(y)))
            registers[0] += oracles.linear(given, oracles.part(weights, "start"))
        x = np.concatenate([registers, x])
        for i in range(net.sizes["depth"]):
            part = lambda name, i=i: oracles.part(weights, f"transformer.{i}.{name}")  # noqa: E731
            normed, attn = norm(x, part("layer_norm_1")), part("attn")
            q_in, k_in, v_in = np.split(attn["in_proj_weight"], 3)
            q_bias, k_bias, v_bias = np.split(attn["in_proj_bias"], 3)
            # The input of the queries is scaled, not what the projection makes of it.
            q = (np.log(len(x)) * normed) @ q_in.T + q_bias
            k, value = normed @ k_in.T + k_bias, normed @ v_in.T + v_bias
            heads = [
                oracles.softmax(q[:, some] @ k[:, some].T / np.sqrt(len(some))) @ value[:, some]
                for some in np.split(np.arange(q.shape[1]), n_heads)
            ]
            x = x + oracles.linear(np.concatenate(heads, axis=1), part("attn.out_proj"))
            both = oracles.linear(norm(x, part("layer_norm_2")), part("ffn.linear1"))
            gate, inner = np.split(both, 2, axis=1)
            x = x + oracles.linear(gate / (1 + np.exp(-gate)) * inner, part("ffn.linear2"))
        own = residual(x[0], lambda name: oracles.part(weights, f"weight_pred.0.{name}"))
        found.append(own if start is None else start[v].double().numpy() + own)
    return np.stack(found)


def problem(n_features, n_voxels=3, n=9):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n_voxels, n, n_features))
    images /= np.linalg.norm(images, axis=2, keepdims=True)
    return torch.tensor(images).float(), torch.tensor(rng.standard_normal((n_voxels, n))).float()


def made(n_features, **sizes):
    net = InContextNet(n_features, **{**SMALL, **sizes})
    return oracles.randomised(net, seed=1, scale=0.4)


@pytest.mark.parametrize("sizes", [{}, {"n_registers": 1, "depth": 1}, {"n_heads": 4}])
def test_it_is_the_published_forward_pass(sizes):
    net = made(6, **sizes)
    images, responses = problem(6)
    with torch.no_grad():
        found = net.eval()(images, responses).numpy()
    np.testing.assert_allclose(found, by_hand(net, images, responses), rtol=1e-5, atol=1e-5)


def test_a_correction_is_added_to_what_it_corrects():
    net = made(6, corrects=True)
    images, responses = problem(6)
    start = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = net.eval()(images, responses, start).numpy()
    expected = by_hand(net, images, responses, start)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="start"):
        net(images, responses)


def test_an_untrained_correction_is_none():
    net = InContextNet(6, **SMALL, corrects=True).eval()
    images, responses = problem(6)
    start = torch.randn(3, 7)
    torch.testing.assert_close(net(images, responses, start), start, rtol=0, atol=0)


def test_the_order_of_images_does_not_matter_and_each_voxel_is_alone():
    net = made(6).eval()
    images, responses = problem(6)
    order = torch.tensor([4, 2, 0, 1, 3, 8, 6, 7, 5])
    with torch.no_grad():
        whole = net(images, responses)
        torch.testing.assert_close(
            net(images[:, order], responses[:, order]), whole, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(net(images[1:2], responses[1:2])[0], whole[1])
        other = responses.clone()
        other[0, 0] += 1
        assert (net(images, other)[0] - whole[0]).abs().max() > 1e-3


#: Counted in the released presets: 97.1, 156 and 277 million.
PRESETS = {512: (560, 97_074_852), 768: (800, 156_000_196), 1152: (1200, 277_044_132)}


@pytest.mark.parametrize("n_features", PRESETS)
def test_published_sizes_have_the_published_number_of_parameters(n_features):
    """The presets of the released code agree with 97.1, 156 and 277 million.

    A published description says 97.2, 112 and 130 million: only its first figure is near.
    """
    E = n_features
    D, expected = PRESETS[E]
    residual = lambda a, b: 2 * a + (a + 1) * 2 * D + 4 * D + (2 * D + 1) * b + (a + 1) * b  # noqa: E731
    layer = 4 * D + 4 * D * (D + 1) + 2 * 2048 * (D + 1) + (2048 + 1) * D
    by_formula = residual(E + 1, D) + 4 * D + 20 * layer + residual(D, E + 1)
    with torch.device("meta"):
        net = InContextNet(E, width=D)
    assert sum(p.numel() for p in net.parameters()) == by_formula == expected
