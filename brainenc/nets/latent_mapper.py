"""The net of `LatentEncoder`: tokens to the latent of a response."""

from typing import Any

import torch
from torch import Tensor, nn


class LatentMapper(nn.Module):
    """Image tokens to the expected latent of a response.

    One transformer block, then attention pooling: every query gathers the tokens it looks for
    wherever they are in the image, so a face counts as a face at any position. The output layer
    starts at zero: an untrained mapper predicts the mean response.

    Parameters
    ----------
    n_tokens, width : int
        Shape of the tokens of an image.
    n_latents : int
    hidden : int
        Width inside; a multiple of `n_heads`.
    n_queries : int
        Pooling queries; 1 where there is a single token.
    n_heads : int
    dropout : float

    Attributes
    ----------
    sizes : dict
        The parameters: ``LatentMapper(**net.sizes)`` is a net of the same shape.
    """

    def __init__(
        self,
        n_tokens: int,
        width: int,
        n_latents: int,
        *,
        hidden: int = 96,
        n_queries: int = 8,
        n_heads: int = 4,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_tokens": n_tokens,
            "width": width,
            "n_latents": n_latents,
            "hidden": hidden,
            "n_queries": n_queries,
            "n_heads": n_heads,
            "dropout": dropout,
        }
        n_queries = n_queries if n_tokens > 1 else 1
        self.project = nn.Linear(width, hidden)
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens, hidden))
        self.block = nn.TransformerEncoderLayer(
            hidden, n_heads, 2 * hidden, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(hidden)
        self.query = nn.Parameter(torch.randn(n_queries, hidden) / hidden**0.5)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.mean = nn.Linear(n_queries * hidden, n_latents)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Expected latents (batch, n_latents) of tokens (batch, n_tokens, width)."""
        x = self.norm(self.block(self.project(tokens) + self.position))
        # Softmax over tokens; queries start small, so that pooling starts as an average.
        attention = (4 * self.query @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5).softmax(-1)
        return self.mean(self.dropout((attention @ self.value(x)).flatten(1)))
