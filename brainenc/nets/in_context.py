"""The in-context net: images and responses of a voxel as tokens, to the weights of the voxel.

Submodules have the names of BraInCoRL's released code, so that its weights load unchanged.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InContextNet(nn.Module):
    """Infers the weights of one voxel from images and responses, without training on the voxel.

    A token is an image's features and the response, through a residual block. In front of the
    tokens are learned registers; there are no positions. Layers are pre-norm; the input of the
    queries is multiplied by the logarithm of the number of tokens. Token 0 goes through a residual
    block to one weight per feature and the intercept.

    Parameters
    ----------
    n_features : int
        E, features of an image.
    width : int
        D, of a token; a multiple of `n_heads`.
    depth, n_heads, n_registers : int
    hidden : int
        Width within the SwiGLU of a layer; residual blocks have 2 D.
    dropout : float
    corrects : bool
        Read given weights too, add them and log(n_images) to token 0 through a linear layer, and
        return a correction of them, which is 0 before the training. Not of the published net.

    Attributes
    ----------
    sizes : dict
        The parameters: ``InContextNet(**net.sizes)`` is a net of the same shape.

    References
    ----------
    Yu et al. (2025), BraInCoRL, NeurIPS 38, and their released code: D is 560, 800 and 1200 for E
    of 512, 768 and 1152.

    Examples
    --------
    >>> import torch
    >>> net = InContextNet(6, width=8, depth=1, n_heads=2, hidden=16)
    >>> images, responses = torch.randn(3, 20, 6), torch.randn(3, 20)  # 3 voxels, 20 images
    >>> net(images, responses).shape
    torch.Size([3, 7])
    """

    def __init__(
        self,
        n_features: int,
        *,
        width: int = 560,
        depth: int = 20,
        n_heads: int = 10,
        hidden: int = 2048,
        n_registers: int = 4,
        dropout: float = 0.0,
        corrects: bool = False,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_features": n_features,
            "width": width,
            "depth": depth,
            "n_heads": n_heads,
            "hidden": hidden,
            "n_registers": n_registers,
            "dropout": dropout,
            "corrects": corrects,
        }
        self.early_layers = nn.Sequential(_Residual(n_features + 1, width, 2 * width, dropout))
        self.cls_token = nn.Parameter(torch.randn(1, n_registers, width) / math.sqrt(width + 1))
        self.input_dropout = nn.Dropout(dropout)
        self.transformer = nn.Sequential(
            *(_Layer(width, hidden, n_heads, dropout) for _ in range(depth))
        )
        last = _Residual(width, n_features + 1, 2 * width, dropout)
        self.weight_pred = nn.Sequential(last)
        self.start = nn.Linear(n_features + 2, width) if corrects else None
        if corrects:
            last.start_at_zero()

    def forward(self, images: Tensor, responses: Tensor, start: Tensor | None = None) -> Tensor:
        """Weights and intercept of each voxel.

        Parameters
        ----------
        images : tensor, shape (n_voxels, n_images, E)
        responses : tensor, shape (n_voxels, n_images)
        start : tensor, shape (n_voxels, E + 1), of a net that corrects

        Returns
        -------
        tensor, shape (n_voxels, E + 1)
        """
        x = self.early_layers(torch.cat([images, responses[..., None]], dim=-1))
        registers = self.cls_token.expand(len(x), -1, -1)
        if self.start is not None:
            if start is None:
                raise ValueError("a net that corrects needs start, the weights to correct")
            log_n = torch.full_like(start[:, :1], math.log(responses.shape[1]))
            own = self.start(torch.cat([start, log_n], dim=1))
            registers = torch.cat([registers[:, :1] + own[:, None], registers[:, 1:]], dim=1)
        x = self.transformer(self.input_dropout(torch.cat([registers, x], dim=1)))
        found = self.weight_pred(x[:, 0])
        return found if self.start is None else start + found


class _Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int, hidden: int, dropout: float):
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(n_in),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            nn.Linear(n_in, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_out),
        )
        self.bypass = nn.Linear(n_in, n_out) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + self.bypass(x)

    def start_at_zero(self) -> None:
        """Make the output 0 for all inputs; only where sizes differ, as the bypass is linear."""
        for module in (self.block[-1], self.bypass):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


class _Layer(nn.Module):
    def __init__(self, width: int, hidden: int, n_heads: int, dropout: float):
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.attn_dropout = nn.Dropout(dropout)
        self.layer_norm_2 = nn.LayerNorm(width)
        self.ffn = _SwiGLU(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.layer_norm_1(x)
        queries = math.log(normed.shape[1]) * normed
        found, _ = self.attn(queries, normed, normed, need_weights=False)
        x = x + self.attn_dropout(found)
        return x + self.ffn(self.layer_norm_2(x))


class _SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.linear1 = nn.Linear(width, 2 * hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.linear1(x).chunk(2, dim=-1)
        return self.linear2(F.silu(gate) * value)
