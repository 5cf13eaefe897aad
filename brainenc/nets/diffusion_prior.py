"""MindSimulator's prior: a transformer that denoises latents of responses, given image tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DiffusionPrior(nn.Module):
    """Expected latent without noise, given the noisy latent, its step, and the image's tokens.

    A transformer with full attention reads one sequence (condition tokens, one token for the step,
    noisy latent tokens). The last layer starts at zero: an untrained prior predicts the mean
    latent, if latents are centred.

    Parameters
    ----------
    n_tokens, token_width : int
        Shape of the image tokens.
    n_latents, latent_width : int
        Shape of the latent, in tokens.
    n_steps : int
        Steps of the diffusion; a table embeds the step.
    width, depth, n_heads, head_width : int
        Sizes of the transformer; `n_heads` · `head_width` need not be `width`.
    mlp_ratio : float
        Hidden width of the blocks' MLPs / `width`.
    dropout : float

    Attributes
    ----------
    sizes : dict
        The parameters: ``DiffusionPrior(**prior.sizes)`` is a prior of the same shape.

    Raises
    ------
    ValueError : a size that is not positive.

    Notes
    -----
    The defaults of the transformer are the published sizes.

    References
    ----------
    MindSimulator (ICLR 2025), arXiv 2503.02351; Ramesh et al. (2022), arXiv 2204.06125.
    """

    def __init__(
        self,
        n_tokens: int = 257,
        token_width: int = 768,
        n_latents: int = 257,
        latent_width: int = 768,
        *,
        n_steps: int = 100,
        width: int = 768,
        depth: int = 6,
        n_heads: int = 14,
        head_width: int = 48,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_tokens": n_tokens,
            "token_width": token_width,
            "n_latents": n_latents,
            "latent_width": latent_width,
            "n_steps": n_steps,
            "width": width,
            "depth": depth,
            "n_heads": n_heads,
            "head_width": head_width,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
        }
        for name, size in self.sizes.items():
            if name != "dropout" and size <= 0:
                raise ValueError(f"{name}={size!r} must be positive")
        self.tokens_in = nn.Linear(token_width, width)
        self.latents_in = nn.Linear(latent_width, width)
        self.no_condition = nn.Parameter(0.02 * torch.randn(n_tokens, width))
        self.step = nn.Embedding(n_steps + 1, width)
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens + 1 + n_latents, width))
        self.blocks = nn.ModuleList(
            _Block(width, n_heads, head_width, round(width * mlp_ratio), dropout)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.latents_out = nn.Linear(width, latent_width)
        nn.init.normal_(self.step.weight, std=0.02)
        nn.init.zeros_(self.latents_out.weight)
        nn.init.zeros_(self.latents_out.bias)

    @property
    def is_silent(self) -> bool:
        """Whether the output is 0 for any input, as before training."""
        return not any(weight.any() for weight in self.latents_out.parameters())

    def forward(
        self, noisy: Tensor, step: Tensor, tokens: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Latents without noise.

        Parameters
        ----------
        noisy : tensor, shape (batch, n_latents, latent_width)
        step : tensor of int, shape (batch,)
            0 … n_steps.
        tokens : tensor, shape (batch, n_tokens, token_width)
        keep : tensor of bool, shape (batch,), optional
            Images that use the condition; others use learnt tokens instead. None: all images.

        Returns
        -------
        tensor, shape of `noisy`
        """
        condition = self.tokens_in(tokens)
        if keep is not None:
            condition = torch.where(keep[:, None, None], condition, self.no_condition)
        parts = [condition, self.step(step)[:, None], self.latents_in(noisy)]
        x = torch.cat(parts, dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.latents_out(self.norm(x[:, -noisy.shape[1] :]))


class _Block(nn.Module):
    """Full attention, then an MLP; each after a norm, and added to its input."""

    def __init__(self, width: int, n_heads: int, head_width: int, hidden: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * n_heads * head_width)
        self.attended = nn.Linear(n_heads * head_width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_tokens, width) to the same."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_heads, -1))
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.dropout(self.attended(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(x))
