"""S2N, SynBrain's mapper from image tokens to the latent of BrainVAE.

A diffusion transformer whose time is always 0. Submodules have the names of the official code, so
that its weights load unchanged.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Width of the sinusoidal embedding of time that the time MLP reads.
N_TIME_FEATURES = 256


class S2N(nn.Module):
    """Mapper of image tokens to the mean of BrainVAE's posterior, in one pass.

    Parameters
    ----------
    n_tokens, width : int
        Shape of the tokens and of the latent. `width` is even, and divisible by `n_heads`.
    depth : int
        Transformer blocks.
    n_heads : int
    mlp_ratio : float
        Hidden width of the blocks' MLPs / `width`.
    n_time_features : int
        Width of the sinusoidal embedding of time; even.

    Attributes
    ----------
    sizes : dict
        The parameters: ``S2N(**s2n.sizes)`` is a mapper of the same shape.

    Raises
    ------
    ValueError : a size is not positive, or violates a divisibility rule.

    Notes
    -----
    The defaults are the published sizes: 410.86 M parameters, of which the 141.7 M that depend only
    on time become constants in `fold_time`. Positions (1-D sine and cosine) count among the
    parameters and are not trained.

    At the start each block is the identity and the output 0 (adaLN-Zero).

    References
    ----------
    SynBrain (NeurIPS 2025), arXiv 2508.10298; Peebles & Xie (2023), DiT, ICCV.
    """

    def __init__(
        self,
        n_tokens: int = 256,
        width: int = 1664,
        *,
        depth: int = 8,
        n_heads: int = 13,
        mlp_ratio: float = 4.0,
        n_time_features: int = N_TIME_FEATURES,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_tokens": n_tokens,
            "width": width,
            "depth": depth,
            "n_heads": n_heads,
            "mlp_ratio": mlp_ratio,
            "n_time_features": n_time_features,
        }
        _check_sizes(**self.sizes)
        self.pos_embed = nn.Parameter(sine_positions(n_tokens, width)[None], requires_grad=False)
        self.t_embedder: TimeEmbedding | Constant = TimeEmbedding(width, n_time_features)
        hidden = round(width * mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, n_heads, hidden) for _ in range(depth))
        self.final_layer = FinalLayer(width)
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        """Latents of images.

        Parameters
        ----------
        tokens : tensor, shape (batch, n_tokens, width)

        Returns
        -------
        tensor, shape (batch, n_tokens, width)
        """
        expected = (self.sizes["n_tokens"], self.sizes["width"])
        if tokens.shape[1:] != expected:
            raise ValueError(f"tokens {tuple(tokens.shape)} must have shape (batch, *{expected})")
        # In float32 under autocast too: rounding a third of all weights would take longer than
        # their product with the single row that all images share.
        with torch.autocast(tokens.device.type, enabled=False):
            *modulations, last = self._modulations()
        x = tokens + self.pos_embed
        for block, modulation in zip(self.blocks, modulations, strict=True):
            x = block(x, modulation)
        return self.final_layer(x, last)

    def _modulations(self) -> list[Tensor]:
        """Shifts, scales and gates of every layer, (1, any), which depend only on time."""
        condition = self.t_embedder()
        return [layer.adaLN_modulation(condition) for layer in [*self.blocks, self.final_layer]]

    @torch.no_grad()
    def fold_time(self) -> "S2N":
        """Mapper for inference, with everything that depends only on time as constants.

        It shares its other weights with this one, so it needs no memory; fold again after further
        training.

        Returns
        -------
        S2N : the same outputs; at the published sizes 269.1 M of 410.86 M parameters are left.
        """
        folded = copy.deepcopy(self, {id(weight): weight for weight in self.parameters()})
        layers = [*folded.blocks, folded.final_layer]
        for layer, modulation in zip(layers, self._modulations(), strict=True):
            layer.adaLN_modulation = Constant(modulation)
        folded.t_embedder = Constant(self.t_embedder())
        return folded.eval()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for parameter in self.t_embedder.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        for layer in [*self.blocks, self.final_layer]:
            nn.init.zeros_(layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)


class Block(nn.Module):
    """Self-attention and MLP, each shifted, scaled and gated."""

    def __init__(self, width: int, n_heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(width, n_heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = MLP(width, hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """(batch, n_tokens, width) and (1, 6 · width) to (batch, n_tokens, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, -1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Norm, shifted and scaled, and a linear read-out."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """(batch, n_tokens, width) and (1, 2 · width) to (batch, n_tokens, width)."""
        shift, scale = modulation.chunk(2, -1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class SelfAttention(nn.Module):
    """Multi-head self-attention among tokens."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_tokens, width) to the same."""
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with a tanh-approximated GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class TimeEmbedding(nn.Module):
    """Embedding of time 0, the only time there is."""

    def __init__(self, width: int, n_features: int):
        super().__init__()
        self.n_features = n_features
        self.mlp = nn.Sequential(nn.Linear(n_features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """Shape (1, width)."""
        # The sinusoidal embedding of 0: cosines (one) come first, sines (zero) after.
        cosines = next(self.parameters()).new_ones(1, self.n_features // 2)
        return self.mlp(torch.cat([cosines, torch.zeros_like(cosines)], dim=1))


class Constant(nn.Module):
    """Gives one value, whatever it is called with."""

    value: Tensor

    def __init__(self, value: Tensor):
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return self.value


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale by 1 + `scale`, then shift."""
    return x * (1 + scale) + shift


def sine_positions(n_positions: int, width: int) -> Tensor:
    """Fixed 1-D position embeddings: sines in the first half of the width, cosines in the second.

    Returns
    -------
    tensor of float32, shape (n_positions, width)

    References
    ----------
    Vaswani et al. (2017), NeurIPS.
    """
    # In double precision: at position 256 an angle in single precision is off by 1e-5.
    positions = torch.arange(n_positions, dtype=torch.float64)
    frequencies = 10_000 ** -torch.linspace(0, 1, width // 2 + 1, dtype=torch.float64)[:-1]
    angles = torch.outer(positions, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def _check_sizes(**sizes: float) -> None:
    for name, size in sizes.items():
        if size <= 0:
            raise ValueError(f"{name}={size!r} must be positive")
    for name in ("width", "n_time_features"):
        if sizes[name] % 2:
            raise ValueError(f"{name}={sizes[name]} must be even: half sines, half cosines")
    if sizes["width"] % sizes["n_heads"]:
        raise ValueError(f"width={sizes['width']} must be divisible by n_heads={sizes['n_heads']}")
