import numpy as np
import pytest
import synbrain_oracles as oracles
import torch

from brainenc.nets import LatentMapper
from brainenc.nets.losses import masked_squared_error


def tokens_of(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def norm(x, weights):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights["weight"] + weights["bias"]


def by_hand(net, tokens, n_heads):
    """The mapper in NumPy, one image and one head at a time."""
    weights = oracles.as_arrays(net)
    part = lambda name: oracles.part(weights, name)  # noqa: E731
    latents = []
    for image in tokens.double().numpy():
        x = oracles.linear(image, part("project")) + weights["position"]
        y = norm(x, part("block.norm1"))
        qkv = y @ weights["block.self_attn.in_proj_weight"].T
        q, k, v = np.split(qkv + weights["block.self_attn.in_proj_bias"], 3, axis=1)
        heads = []
        for rows in np.split(np.arange(x.shape[1]), n_heads):
            scores = q[:, rows] @ k[:, rows].T / np.sqrt(len(rows))
            heads.append(oracles.softmax(scores) @ v[:, rows])
        heads = np.concatenate(heads, axis=1)
        x = x + oracles.linear(heads, part("block.self_attn.out_proj"))
        hidden = oracles.gelu(oracles.linear(norm(x, part("block.norm2")), part("block.linear1")))
        x = norm(x + oracles.linear(hidden, part("block.linear2")), part("norm"))
        scores = 4 * weights["query"] @ oracles.linear(x, part("key")).T / np.sqrt(x.shape[1])
        pooled = oracles.softmax(scores) @ oracles.linear(x, part("value"))
        latents.append(oracles.linear(pooled.ravel(), part("mean")))
    return np.stack(latents)


@pytest.mark.parametrize("n_tokens", [5, 1])
def test_the_mapper_is_attention_then_attention_pooling(n_tokens):
    net = LatentMapper(n_tokens, 6, 3, hidden=8, n_queries=2, n_heads=4)
    oracles.randomised(net, seed=1, scale=0.5)
    tokens = tokens_of(4, n_tokens, 6)
    with torch.no_grad():
        ours = net(tokens).numpy()
    assert net.query.shape[0] == (2 if n_tokens > 1 else 1)
    # float32 against double.
    np.testing.assert_allclose(ours, by_hand(net, tokens, 4), rtol=1e-4, atol=1e-5)


def test_a_new_mapper_predicts_the_mean():
    assert (LatentMapper(4, 6, 3, hidden=8)(tokens_of(5, 4, 6)) == 0).all()


def test_sizes_rebuild_the_net():
    net = LatentMapper(4, 6, 3, hidden=8, n_queries=3, n_heads=2, dropout=0.1).eval()
    oracles.randomised(net, seed=2)
    again = LatentMapper(**net.sizes).eval()
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(tokens_of(5, 4, 6)), net(tokens_of(5, 4, 6)))
    assert again.dropout.p == 0.1


def test_missing_targets_count_for_nothing():
    predictions, targets = tokens_of(6, 4, seed=1).requires_grad_(), tokens_of(6, 4, seed=2)
    targets[torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.4] = torch.nan
    loss = masked_squared_error(predictions, targets)
    expected = np.nanmean(np.square((predictions.detach() - targets).numpy()))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert ((predictions.grad == 0) == targets.isnan()).all()
    nothing = masked_squared_error(predictions, torch.full((6, 4), torch.nan))
    assert nothing.item() == 0
