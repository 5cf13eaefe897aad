"""Fully connected layers in place of BrainVAE's convolutions and attention, for ablations."""

from torch import Tensor, nn
from torch.nn import functional as F

from brainenc.nets._conv import stretch


class MLPEncoder(nn.Module):
    """Responses of any number of voxels to one row of features per token.

    Pooled voxels → `width` → residual blocks → `n_tokens` × `token_width` → `length` per token.
    Tokens share the last layer: separate layers would be larger than the rest of the net.

    Parameters
    ----------
    pooled_length, n_tokens, length, token_width, width, n_blocks : int
    dropout : float
    """

    def __init__(
        self,
        pooled_length: int,
        n_tokens: int,
        length: int,
        token_width: int,
        width: int,
        n_blocks: int,
        dropout: float,
    ):
        super().__init__()
        self.pool = nn.AdaptiveMaxPool1d(pooled_length)
        self.linear_in = nn.Linear(pooled_length, width)
        self.blocks = nn.Sequential(*(MLPBlock(width, dropout) for _ in range(n_blocks)))
        self.linear_tokens = nn.Linear(width, n_tokens * token_width)
        self.unflatten = nn.Unflatten(1, (n_tokens, token_width))
        self.linear_out = nn.Linear(token_width, length)

    def forward(self, betas: Tensor) -> Tensor:
        """(batch, n_voxels) to (batch, n_tokens, length)."""
        x = self.blocks(self.linear_in(self.pool(betas[:, None])[:, 0]))
        return self.linear_out(F.gelu(self.unflatten(self.linear_tokens(x))))


class MLPDecoder(nn.Module):
    """One row of features per token to responses of any number of voxels; mirrors `MLPEncoder`."""

    def __init__(
        self,
        pooled_length: int,
        n_tokens: int,
        length: int,
        token_width: int,
        width: int,
        n_blocks: int,
        dropout: float,
    ):
        super().__init__()
        self.linear_in = nn.Linear(length, token_width)
        self.linear_tokens = nn.Linear(n_tokens * token_width, width)
        self.blocks = nn.Sequential(*(MLPBlock(width, dropout) for _ in range(n_blocks)))
        self.linear_out = nn.Linear(width, pooled_length)

    def forward(self, x: Tensor, n_voxels: int) -> Tensor:
        """(batch, n_tokens, length) to (batch, n_voxels)."""
        x = self.blocks(self.linear_tokens(F.gelu(self.linear_in(x)).flatten(1)))
        return stretch(self.linear_out(x)[:, None, None], n_voxels)[:, 0, 0]


class MLPBlock(nn.Module):
    """Norm, linear, GELU, dropout, linear, added to the input."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to the same."""
        return x + self.layers(x)
