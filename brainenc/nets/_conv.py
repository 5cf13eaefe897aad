"""Layers of BrainVAE: convolutions and attention along the voxel axis.

Between the first and the last convolution, rows of voxels are images of height 1, of shape
(batch, channels, 1, length): kernels for images also take them channels-last; see `laid_out`.

Submodules have the names of the official code, so that its weights load unchanged.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvEncoder(nn.Module):
    """Responses of any number of voxels to one row of features per token.

    Parameters
    ----------
    pooled_length : int
        Length after the first convolution.
    n_out : int
        Output channels: tokens.
    n_channels : int
        Channels of the first convolution.
    levels : sequence of int
        Channels of each level.
    n_blocks : int
        Residual blocks per level.
    n_halvings : int
        Number of levels, from the first, that end by halving the length.
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
        self.conv_in = Conv(1, n_channels, 7, padding=3)
        self.pool = nn.AdaptiveMaxPool2d((1, pooled_length))
        self.down = nn.ModuleList(
            DownLevel(n_in, n, n_blocks, halve=i < n_halvings, dropout=dropout)
            for i, (n_in, n) in enumerate(zip([n_channels, *levels[:-1]], levels, strict=True))
        )
        self.mid = Middle(levels[-1], dropout)
        self.norm_out = group_norm(levels[-1])
        self.conv_out = Conv(levels[-1], n_out, 7, padding=3)

    def forward(self, betas: Tensor) -> Tensor:
        """(batch, n_voxels) to (batch, n_out, pooled_length / 2**n_halvings)."""
        x = self.pool(laid_out(self.conv_in(betas[:, None, None])))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))[:, :, 0]


class ConvDecoder(nn.Module):
    """One row of features per token to responses of any number of voxels; mirrors `ConvEncoder`.

    Parameters
    ----------
    n_in : int
        Input channels: tokens.
    levels : sequence of int
        Channels of each level, in the encoder's order: the decoder starts with the last.
    n_blocks : int
        Residual blocks per level.
    n_doublings : int
        Number of levels, from the decoder's first, that end by doubling the length.
    dropout : float
    """

    def __init__(
        self, n_in: int, levels: Sequence[int], n_blocks: int, n_doublings: int, dropout: float
    ):
        super().__init__()
        self.conv_in = Conv(n_in, levels[-1], 7, padding=3)
        self.mid = Middle(levels[-1], dropout)
        self.up = nn.ModuleList(
            UpLevel(n_in, n, n_blocks, double=i >= len(levels) - n_doublings, dropout=dropout)
            for i, (n_in, n) in enumerate(zip([*levels[1:], levels[-1]], levels, strict=True))
        )
        self.norm_out = group_norm(levels[0])
        self.conv_out = Conv(levels[0], 1, 7, padding=3)

    def forward(self, x: Tensor, n_voxels: int) -> Tensor:
        """(batch, n_in, length) to (batch, n_voxels)."""
        x = self.mid(self.conv_in(laid_out(x[:, :, None])))
        for level in reversed(self.up):
            x = level(x)
        x = stretch(x, n_voxels)
        return self.conv_out(F.silu(self.norm_out(x)))[:, 0, 0]


class DownLevel(nn.Module):
    """Residual blocks, then optional halving of the length."""

    def __init__(self, n_in: int, n_out: int, n_blocks: int, *, halve: bool, dropout: float):
        super().__init__()
        self.block = residual_blocks(n_in, n_out, n_blocks, dropout)
        self.downsample = Downsample(n_out) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, 1, length) to (batch, n_out, 1, length or half of it)."""
        for block in self.block:
            x = block(x)
        return self.downsample(x)


class UpLevel(nn.Module):
    """Residual blocks, then optional doubling of the length."""

    def __init__(self, n_in: int, n_out: int, n_blocks: int, *, double: bool, dropout: float):
        super().__init__()
        self.block = residual_blocks(n_in, n_out, n_blocks, dropout)
        self.upsample = Upsample(n_out) if double else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, 1, length) to (batch, n_out, 1, length or twice it)."""
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
        """(batch, n_channels, 1, length) to the same."""
        return self.block_2(self.attn_1(self.block_1(x)))


class ResidualBlock(nn.Module):
    """Twice norm, SiLU, convolution, added to the input."""

    def __init__(self, n_in: int, n_out: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(n_in)
        self.conv1 = Conv(n_in, n_out, 3, padding=1)
        self.norm2 = group_norm(n_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = Conv(n_out, n_out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if n_in == n_out else Conv(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, 1, length) to (batch, n_out, 1, length)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class AttentionBlock(nn.Module):
    """Single-head self-attention among positions, added to the input."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.norm = group_norm(n_channels)
        self.q = Conv(n_channels, n_channels, 1)
        self.k = Conv(n_channels, n_channels, 1)
        self.v = Conv(n_channels, n_channels, 1)
        self.proj_out = Conv(n_channels, n_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, 1, length) to the same."""
        h = self.norm(x)
        # The height of 1 becomes the axis of the single head. Kernels that store no map of length ×
        # length need the channels of a position contiguous in memory.
        q, k, v = (conv(h).permute(0, 2, 3, 1).contiguous() for conv in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(laid_out(attended.permute(0, 3, 1, 2)))


class Downsample(nn.Module):
    """Half the length."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.conv = Conv(n_channels, n_channels, 7, stride=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, 1, length) to (batch, n_channels, 1, length / 2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the length."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.trans_conv = ConvTranspose(
            n_channels, n_channels, 7, stride=2, padding=3, output_padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_channels, 1, length) to (batch, n_channels, 1, 2 · length)."""
        return self.trans_conv(x)


class Conv(nn.Conv1d):
    """Convolution along rows of voxels that are images of height 1."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, 1, length) to (batch, n_out, 1, length / stride)."""
        stride, padding = (1, *self.stride), (0, *self.padding)
        return F.conv2d(x, self.weight[:, :, None], self.bias, stride, padding)


class ConvTranspose(nn.ConvTranspose1d):
    """Transposed convolution along rows of voxels that are images of height 1."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, n_in, 1, length) to (batch, n_out, 1, stride · length)."""
        stride, padding, extra = (1, *self.stride), (0, *self.padding), (0, *self.output_padding)
        return F.conv_transpose2d(x, self.weight[:, :, None], self.bias, stride, padding, extra)


def laid_out(x: Tensor) -> Tensor:
    """(batch, channels, 1, length) in the fastest memory layout for the next layers.

    This is channels-last in bf16 on a CPU: other layouts are repacked before and after each
    convolution, which takes longer than the convolution. Layers keep the layout of their input.
    """
    fast = x.device.type == "cpu" and x.dtype == torch.bfloat16
    return x.contiguous(memory_format=torch.channels_last if fast else torch.contiguous_format)


def residual_blocks(n_in: int, n_out: int, n_blocks: int, dropout: float) -> nn.ModuleList:
    """A chain of residual blocks, the first of which changes the number of channels."""
    return nn.ModuleList(
        ResidualBlock(n_out if i else n_in, n_out, dropout) for i in range(n_blocks)
    )


def group_norm(n_channels: int) -> nn.GroupNorm:
    """Norm over 32 groups of channels; over single channels if there are fewer."""
    return nn.GroupNorm(min(32, n_channels), n_channels, eps=1e-6)


def stretch(x: Tensor, length: int) -> Tensor:
    """Linear interpolation along the last axis of (batch, channels, 1, any), end points kept."""
    return F.interpolate(x, size=(1, length), mode="bilinear", align_corners=True)
