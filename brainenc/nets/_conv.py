"""Convolutions and attention along the voxel axis, of BrainVAE.

The names of submodules are those of the official code, so that its weights load as they are.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ConvEncoder(nn.Module):
    """Responses of any number of voxels to one row of features per token.

    Parameters
    ----------
    pooled_length : int
        Length after the first convolution.
    n_out : int
        Channels at the end: tokens.
    n_channels : int
        Of the first convolution.
    levels : sequence of int
        Channels of each level.
    n_blocks : int
        Residual blocks per level.
    n_halvings : int
        The first so many levels end with the length halved.
    dropout : float
    """

    def __init__(
        self,
        pooled_length: int,
        n_out: int,
        n_channels: int,
        levels: Sequence[int],
        n_blocks: int,
        n_halvings: int,
        dropout: float,
    ):
        super().__init__()
        self.conv_in = nn.Conv1d(1, n_channels, 7, padding=3)
        self.pool = nn.AdaptiveMaxPool1d(pooled_length)
        self.down = nn.ModuleList(
            DownLevel(n_in, n, n_blocks, halve=i < n_halvings, dropout=dropout)
            for i, (n_in, n) in enumerate(zip([n_channels, *levels[:-1]], levels, strict=True))
        )
        self.mid = Middle(levels[-1], dropout)
        self.norm_out = group_norm(levels[-1])
        self.conv_out = nn.Conv1d(levels[-1], n_out, 7, padding=3)

    def forward(self, betas: Tensor) -> Tensor:
        """(batch, n_voxels) to (batch, n_out, pooled_length / 2**n_halvings)."""
        x = self.pool(self.conv_in(betas[:, None]))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class ConvDecoder(nn.Module):
    """One row of features per token to responses of any number of voxels; mirrors `ConvEncoder`.

    Parameters
    ----------
    n_in : int
        Channels at the start: tokens.
    levels : sequence of int
        Channels of each level, in the encoder's order: the last comes first.
    n_blocks : int
        Residual blocks per level.
    n_doublings : int
        The first so many levels passed end with the length doubled.
    dropout : float
    """

    def __init__(
        self, n_in: int, levels: Sequence[int], n_blocks: int, n_doublings: int, dropout: float
    ):
        super().__init__()
        self.conv_in = nn.Conv1d(n_in, levels[-1], 7, padding=3)
        self.mid = Middle(levels[-1], dropout)
        self.up = nn.ModuleList(
            UpLevel(n_in, n, n_blocks, double=i >= len(levels) - n_doublings, dropout=dropout)
            for i, (n_in, n) in enumerate(zip([*levels[1:], levels[-1]], levels, strict=True))
        )
        self.norm_out = group_norm(levels[0])
        self.conv_out = nn.Conv1d(levels[0], 1, 7, padding=3)

    def forward(self, x: Tensor, n_voxels: int) -> Tensor:
        """(batch, n_in, length) to (batch, n_voxels)."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        x = stretch(x, n_voxels)
        return self.conv_out(F.silu(self.norm_out(x)))[:, 0]


class DownLevel(nn.Module):
    """Residual blocks, then the length halved or not."""

    def __init__(self, n_in: int, n_out: int, n_blocks: int, *, halve: bool, dropout: float):
        super().__init__()
        self.block = residual_blocks(n_in, n_out, n_blocks, dropout)
        self.downsample = Downsample(n_out) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, length) to (batch, n_out, length or half of it)."""
        for block in self.block:
            x = block(x)
        return self.downsample(x)


class UpLevel(nn.Module):
    """Residual blocks, then the length doubled or not."""

    def __init__(self, n_in: int, n_out: int, n_blocks: int, *, double: bool, dropout: float):
        super().__init__()
        self.block = residual_blocks(n_in, n_out, n_blocks, dropout)
        self.upsample = Upsample(n_out) if double else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, length) to (batch, n_out, length or twice it)."""
        for block in self.block:
            x = block(x)
        return self.upsample(x)


class Middle(nn.Module):
    """A residual block, attention, a residual block."""

    def __init__(self, n_channels: int, dropout: float):
        super().__init__()
        self.block_1 = ResidualBlock(n_channels, n_channels, dropout)
        self.attn_1 = AttentionBlock(n_channels)
        self.block_2 = ResidualBlock(n_channels, n_channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, length) to the same."""
        return self.block_2(self.attn_1(self.block_1(x)))


class ResidualBlock(nn.Module):
    """Twice norm, SiLU, convolution, added to the input."""

    def __init__(self, n_in: int, n_out: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(n_in)
        self.conv1 = nn.Conv1d(n_in, n_out, 3, padding=1)
        self.norm2 = group_norm(n_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(n_out, n_out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if n_in == n_out else nn.Conv1d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, length) to (batch, n_out, length)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class AttentionBlock(nn.Module):
    """Single-head self-attention among positions, added to the input."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.norm = group_norm(n_channels)
        self.q = nn.Conv1d(n_channels, n_channels, 1)
        self.k = nn.Conv1d(n_channels, n_channels, 1)
        self.v = nn.Conv1d(n_channels, n_channels, 1)
        self.proj_out = nn.Conv1d(n_channels, n_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, length) to the same."""
        h = self.norm(x)
        # One head is an axis of its own, so that the fused kernels take it.
        q, k, v = (conv(h).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj_out(attended.transpose(1, 2))


class Downsample(nn.Module):
    """Half the length."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.conv = nn.Conv1d(n_channels, n_channels, 7, stride=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, length) to (batch, n_channels, length / 2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the length."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.trans_conv = nn.ConvTranspose1d(
            n_channels, n_channels, 7, stride=2, padding=3, output_padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, length) to (batch, n_channels, 2 · length)."""
        return self.trans_conv(x)


def residual_blocks(n_in: int, n_out: int, n_blocks: int, dropout: float) -> nn.ModuleList:
    """A chain of residual blocks, the first of which changes the number of channels."""
    return nn.ModuleList(
        ResidualBlock(n_out if i else n_in, n_out, dropout) for i in range(n_blocks)
    )


def group_norm(n_channels: int) -> nn.GroupNorm:
    """Norm over 32 groups of channels; single channels where there are fewer."""
    return nn.GroupNorm(min(32, n_channels), n_channels, eps=1e-6)


def stretch(x: Tensor, length: int) -> Tensor:
    """Linear interpolation along the last axis of (batch, channels, any), ends kept."""
    return F.interpolate(x, size=length, mode="linear", align_corners=True)
