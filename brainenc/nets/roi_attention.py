"""Attention over the tokens of an image with a query per ROI, and the read-out of voxels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainenc.nets.s2n import sine_positions


class ROIAttention(nn.Module):
    """Maps tokens to z-scored voxels: a query per ROI attends over tokens, voxels read it out.

    One decoder layer as in DETR, with the norm first: queries attend over the tokens (keys have
    sine positions added, values do not), then an MLP, residual, and a last norm. The self-attention
    between queries of such a layer is left out: in a first layer its values are all zero targets,
    so it adds the same vector to every query.

    Parameters
    ----------
    n_tokens, width : int
        Shape of the tokens of an image. n_tokens = g² is a g × g grid; g² + 1 is a class token,
        which has no position, and the grid; any other number is a sequence.
    rois : sequence of int, shape (n_voxels,)
        Query of each voxel, 0 to n_rois − 1.
    hidden : int, optional
        Inner width, to which tokens are projected; a multiple of 4 and of `n_heads`. None is
        `width`, without a projection.
    n_heads, feed_forward : int
        Attention heads; width of the MLP.
    dropout : float

    Attributes
    ----------
    sizes : dict
        The parameters: ``ROIAttention(**net.sizes)`` is a net of the same shape.

    References
    ----------
    Adeli et al. (2025), Transformer brain encoders; Carion et al. (2020), DETR, arXiv 2005.12872.
    """

    def __init__(
        self,
        n_tokens: int,
        width: int,
        rois: Sequence[int],
        *,
        hidden: int | None = None,
        n_heads: int = 16,
        feed_forward: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        inner = hidden or width
        if inner % 4 or inner % n_heads:
            name = "hidden" if hidden else "width"
            raise ValueError(
                f"{name}={inner} must be a multiple of 4, for positions, and of n_heads={n_heads}"
            )
        rois = [int(roi) for roi in rois]
        self.sizes: dict[str, Any] = {
            "n_tokens": n_tokens,
            "width": width,
            "rois": rois,
            "hidden": hidden,
            "n_heads": n_heads,
            "feed_forward": feed_forward,
            "dropout": dropout,
        }
        self.project = nn.Linear(width, inner) if hidden else nn.Identity()
        self.register_buffer("positions", token_positions(n_tokens, inner), persistent=False)
        self.queries = nn.Parameter(torch.randn(max(rois) + 1, inner))
        self.attend = nn.MultiheadAttention(inner, n_heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(inner),
            nn.Linear(inner, feed_forward),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feed_forward, inner),
            nn.Dropout(dropout),
        )
        self.norm = nn.LayerNorm(inner)
        self.read_out = ROIReadOut(inner, rois)

    def forward(self, tokens: Tensor) -> Tensor:
        """Responses (batch, n_voxels) for tokens (batch, n_tokens, width)."""
        return self.read_out(self.found(tokens))

    def found(self, tokens: Tensor) -> Tensor:
        """Output of each query, (batch, n_rois, hidden)."""
        x = self.dropout(self._attended(tokens)[0])
        return self.norm(x + self.mlp(x))

    def attention(self, tokens: Tensor) -> Tensor:
        """Attention of each query, (batch, n_rois, n_tokens): mean over heads, sums to 1."""
        return self._attended(tokens, need_weights=True)[1]

    def _attended(self, tokens: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor]:
        values = self.project(tokens)
        queries = self.queries.expand(len(tokens), -1, -1)
        return self.attend(queries, values + self.positions, values, need_weights=need_weights)


class ROIReadOut(nn.Module):
    """Linear from the output of each voxel's own query to the voxel.

    Equivalent to a linear layer from every query to all voxels, with zero weights outside the
    query's ROI, summed over queries.

    Parameters
    ----------
    width : int
    rois : sequence of int, shape (n_voxels,)

    Attributes
    ----------
    weight, bias : parameters, shape (n_voxels, width) and (n_voxels,)
        Zero at first: an untrained net predicts the mean response.
    """

    order: Tensor
    back: Tensor

    def __init__(self, width: int, rois: Sequence[int]):
        super().__init__()
        order = np.argsort(rois, kind="stable")  # voxels of an ROI are contiguous
        self.counts = np.bincount(rois).tolist()
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("back", torch.from_numpy(np.argsort(order)), persistent=False)
        self.weight = nn.Parameter(torch.zeros(len(rois), width))
        self.bias = nn.Parameter(torch.zeros(len(rois)))

    def forward(self, found: Tensor) -> Tensor:
        """Responses (batch, n_voxels) from outputs of queries (batch, n_rois, width)."""
        weights = self.weight[self.order].split(self.counts)
        parts = [found[:, k] @ weight.T for k, weight in enumerate(weights)]
        return torch.cat(parts, dim=1)[:, self.back] + self.bias


def grid_side(n_tokens: int) -> int | None:
    """Side g of the grid of n_tokens = g² tokens, or g² + 1 with a class token; else None."""
    for n in (n_tokens, n_tokens - 1):
        side = round(n**0.5)
        if side and side**2 == n:
            return side
    return None


def token_positions(n_tokens: int, width: int) -> Tensor:
    """Sines and cosines of each token's position, (n_tokens, width): half row, half column.

    A class token comes first and has zeros; without a square grid the position in the sequence is
    used.
    """
    side = grid_side(n_tokens)
    if side is None:
        return sine_positions(n_tokens, width)
    along = sine_positions(side, width // 2)
    rows, columns = along.repeat_interleave(side, 0), along.repeat(side, 1)
    grid = torch.cat([rows, columns], dim=1)
    return torch.cat([grid.new_zeros(n_tokens - side**2, width), grid])
