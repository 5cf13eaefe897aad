"""SynBrain's nets and losses in NumPy, in double precision: slow, and nothing shared with torch.

Weights are looked up by the names of the official state dicts.
"""

import numpy as np
from scipy.special import erf, expit


def randomised(net, seed, scale=0.2):
    """The net with every parameter drawn anew: nothing stays at its initial 0 or 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def as_arrays(net):
    return {key: value.double().numpy() for key, value in net.state_dict().items()}


def part(weights, prefix):
    return {k[len(prefix) + 1 :]: v for k, v in weights.items() if k.startswith(prefix + ".")}


def silu(x):
    return x * expit(x)


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear(x, w):
    return x @ w["weight"].T + w["bias"]


def conv(x, w, stride=1):
    """Of (channels, length), zero-padded so that stride 1 keeps the length."""
    kernel = w["weight"]
    size = kernel.shape[2]
    padded = np.pad(x, ((0, 0), (size // 2, size // 2)))
    columns = range(0, x.shape[1], stride)
    out = [np.tensordot(kernel, padded[:, i : i + size], ((1, 2), (0, 1))) for i in columns]
    return np.stack(out, axis=1) + w["bias"][:, None]


def doubling_conv(x, w):
    """Every input position adds the kernel around twice its position."""
    kernel = w["weight"]
    _, n_out, size = kernel.shape
    out = np.zeros((n_out, 2 * x.shape[1] + 2 * size))
    for i in range(x.shape[1]):
        out[:, 2 * i : 2 * i + size] += np.tensordot(x[:, i], kernel, ((0,), (0,)))
    return out[:, size // 2 : size // 2 + 2 * x.shape[1]] + w["bias"][:, None]


def group_norm(x, w, eps=1e-6):
    groups = x.reshape(min(32, len(x)), -1)
    groups = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + eps)
    return groups.reshape(x.shape) * w["weight"][:, None] + w["bias"][:, None]


def layer_norm(x, eps, w=None):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x if w is None else x * w["weight"] + w["bias"]


def residual_block(x, w):
    h = conv(silu(group_norm(x, part(w, "norm1"))), part(w, "conv1"))
    h = conv(silu(group_norm(h, part(w, "norm2"))), part(w, "conv2"))
    return h + (conv(x, part(w, "nin_shortcut")) if "nin_shortcut.weight" in w else x)


def attention_block(x, w):
    h = group_norm(x, part(w, "norm"))
    q, k, v = (conv(h, part(w, name)) for name in "qkv")
    shares = softmax(q.T @ k / np.sqrt(len(x)))
    return x + conv(v @ shares.T, part(w, "proj_out"))


def middle(x, w):
    x = residual_block(x, part(w, "block_1"))
    return residual_block(attention_block(x, part(w, "attn_1")), part(w, "block_2"))


def blocks(x, w):
    i = 0
    while f"block.{i}.norm1.weight" in w:
        x = residual_block(x, part(w, f"block.{i}"))
        i += 1
    return x


def max_pool(x, length):
    """Bins whose ends are rounded outwards."""
    n = x.shape[1]
    bins = [(i * n // length, -(-(i + 1) * n // length)) for i in range(length)]
    return np.stack([x[:, start:stop].max(1) for start, stop in bins], axis=1)


def stretch(x, length):
    old, new = np.linspace(0, 1, x.shape[1]), np.linspace(0, 1, length)
    return np.stack([np.interp(new, old, row) for row in x])


def vae_encoder(betas, w, pooled_length, n_levels):
    x = max_pool(conv(betas[None], part(w, "conv_in")), pooled_length)
    for i in range(n_levels):
        x = blocks(x, part(w, f"down.{i}"))
        if f"down.{i}.downsample.conv.weight" in w:
            x = conv(x, part(w, f"down.{i}.downsample.conv"), stride=2)
    x = middle(x, part(w, "mid"))
    return conv(silu(group_norm(x, part(w, "norm_out"))), part(w, "conv_out"))


def vae_decoder(x, w, n_voxels, n_levels):
    x = middle(conv(x, part(w, "conv_in")), part(w, "mid"))
    for i in reversed(range(n_levels)):
        x = blocks(x, part(w, f"up.{i}"))
        if f"up.{i}.upsample.trans_conv.weight" in w:
            x = doubling_conv(x, part(w, f"up.{i}.upsample.trans_conv"))
    x = stretch(x, n_voxels)
    return conv(silu(group_norm(x, part(w, "norm_out"))), part(w, "conv_out"))[0]


def projector(x, w):
    for i in (0, 3, 6):
        x = linear(gelu(layer_norm(x, 1e-5, part(w, str(i)))), part(w, str(i + 2)))
    return x


def modulated(x, shift, scale):
    return layer_norm(x, 1e-6) * (1 + scale) + shift


def self_attention(x, w, n_heads):
    q, k, v = np.split(linear(x, part(w, "qkv")), 3, axis=-1)
    width = x.shape[1] // n_heads
    heads = [slice(i * width, (i + 1) * width) for i in range(n_heads)]
    out = [softmax(q[:, h] @ k[:, h].T / np.sqrt(width)) @ v[:, h] for h in heads]
    return linear(np.concatenate(out, axis=1), part(w, "proj"))


def s2n(tokens, w, depth, n_heads):
    """Latent of the tokens of one image, (n_tokens, width)."""
    n_features = w["t_embedder.mlp.0.weight"].shape[1]
    angles = 0.0 * 10_000 ** -(np.arange(n_features // 2) / (n_features // 2))
    time = np.concatenate([np.cos(angles), np.sin(angles)])
    time = silu(linear(time, part(w, "t_embedder.mlp.0")))
    condition = silu(linear(time, part(w, "t_embedder.mlp.2")))
    x = tokens + w["pos_embed"][0]
    for i in range(depth):
        b = part(w, f"blocks.{i}")
        m = np.split(linear(condition, part(b, "adaLN_modulation.1")), 6)
        x = x + m[2] * self_attention(modulated(x, m[0], m[1]), part(b, "attn"), n_heads)
        hidden = gelu_tanh(linear(modulated(x, m[3], m[4]), part(b, "mlp.fc1")))
        x = x + m[5] * linear(hidden, part(b, "mlp.fc2"))
    shift, scale = np.split(linear(condition, part(w, "final_layer.adaLN_modulation.1")), 2)
    return linear(modulated(x, shift, scale), part(w, "final_layer.linear"))


def soft_clip(predictions, targets, temperature):
    """Pair by pair, with sums written out."""
    p = [x.ravel() / np.linalg.norm(x) for x in np.asarray(predictions, dtype=float)]
    t = [x.ravel() / np.linalg.norm(x) for x in np.asarray(targets, dtype=float)]
    n, total = len(p), 0.0
    for i in range(n):
        labels = np.array([np.exp(t[i] @ t[j] / temperature) for j in range(n)])
        labels /= labels.sum()
        rows = np.array([p[i] @ t[j] / temperature for j in range(n)])
        columns = np.array([p[j] @ t[i] / temperature for j in range(n)])
        for logits in (rows, columns):
            log_shares = logits - np.log(np.exp(logits).sum())
            total -= (labels * log_shares).sum()
    return total / (2 * n)
