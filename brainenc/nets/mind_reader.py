"""Mind Reader's nets: from an image embedding to voxels, and from voxels to an embedding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainenc.nets.losses import masked_squared_error


class MindReaderNet(nn.Module):
    """Maps an embedding, as a signal of one channel, to z-scored responses of voxels.

    Convolution to `n_channels` → residual blocks → transposed convolution to twice the length,
    ReLU → convolution to one channel → linear to `hidden`, ReLU → linear to voxels.

    Parameters
    ----------
    width : int
        Length of the embedding.
    n_voxels : int
    n_channels, n_blocks, hidden : int
    kernels : sequence of odd int
        Kernel sizes of the successive convolutions of a residual block.
    dropout : float
        Dropout before the last layer.

    Attributes
    ----------
    sizes : dict
        The parameters: ``MindReaderNet(**net.sizes)`` is a net of the same shape.

    References
    ----------
    Lin, Sprague & Singh (2022), Mind Reader, NeurIPS 35. Choices made here, where the paper gives
    no detail: a residual block has a ReLU after each convolution except the last, and one after the
    sum; convolutions outside the blocks have kernels of 3; there is no normalisation.
    """

    def __init__(
        self,
        width: int,
        n_voxels: int,
        *,
        n_channels: int = 64,
        n_blocks: int = 4,
        kernels: Sequence[int] = (3, 3, 1),
        hidden: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "width": width,
            "n_voxels": n_voxels,
            "n_channels": n_channels,
            "n_blocks": n_blocks,
            "kernels": tuple(kernels),
            "hidden": hidden,
            "dropout": dropout,
        }
        self.conv_in = nn.Conv1d(1, n_channels, 3, padding=1)
        self.blocks = nn.Sequential(*(_Residual(n_channels, kernels) for _ in range(n_blocks)))
        self.upsample = nn.ConvTranspose1d(n_channels, n_channels, 4, stride=2, padding=1)
        self.conv_out = nn.Conv1d(n_channels, 1, 3, padding=1)
        self.linear = nn.Linear(2 * width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.read_out = nn.Linear(hidden, n_voxels)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Responses (batch, n_voxels) for embeddings (batch, width)."""
        x = self.blocks(self.conv_in(embeddings[:, None]))
        x = self.conv_out(F.relu(self.upsample(x)))[:, 0]
        return self.read_out(self.dropout(F.relu(self.linear(x))))


class _Residual(nn.Module):
    def __init__(self, n_channels: int, kernels: Sequence[int]):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n_channels, n_channels, size, padding=size // 2) for size in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, convolution in enumerate(self.convolutions):
            y = convolution(F.relu(y) if i else y)
        return F.relu(x + y)


def mind_reader_loss(
    predictions: Tensor, targets: Tensor, *, mse_weight: float = 0.4, cosine_weight: float = 0.6
) -> Tensor:
    """Weighted sum of the squared error and of the cosine distance across voxels of each image.

    Parameters
    ----------
    predictions, targets : tensor, shape (batch, n_voxels)
        z-scored; NaN targets are left out, and an image without targets has no cosine distance.
    mse_weight, cosine_weight : float
        Weights of the two terms, by default as published.

    Returns
    -------
    scalar tensor : weighted sum of the mean over images of 1 − cosine and the mean squared error
    """
    present = ~targets.isnan()
    similarity = F.cosine_similarity(predictions * present, targets.nan_to_num(), dim=1)
    measured = present.any(dim=1)
    distance = ((1 - similarity) * measured).sum() / measured.sum().clamp(min=1)
    return mse_weight * masked_squared_error(predictions, targets) + cosine_weight * distance


class MindReaderMapper(nn.Module):
    """Mind Reader's decoding net: responses, as a signal of one channel, to an embedding.

    Padding with zeros → convolution of stride 2, ReLU → residual blocks → to `n_outputs` channels
    → linear over positions to `hidden`, ReLU → linear to one value per channel.

    Parameters
    ----------
    n_voxels, n_outputs : int
    n_channels, n_blocks, hidden : int
    kernels : sequence of odd int
        Kernel sizes of the successive convolutions of a residual block.
    padding : int
        Zeros on each side; with 10, NSD's subject 1 has 15 744 inputs.
    dropout : float
        Dropout before the last layer.

    Attributes
    ----------
    sizes : dict
        The parameters: ``MindReaderMapper(**net.sizes)`` is a net of the same shape.

    References
    ----------
    Lin, Sprague & Singh (2022), Mind Reader, NeurIPS 35.
    """

    def __init__(
        self,
        n_voxels: int,
        n_outputs: int,
        *,
        n_channels: int = 64,
        n_blocks: int = 4,
        kernels: Sequence[int] = (3, 3, 1),
        hidden: int = 128,
        padding: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_voxels": n_voxels,
            "n_outputs": n_outputs,
            "n_channels": n_channels,
            "n_blocks": n_blocks,
            "kernels": tuple(kernels),
            "hidden": hidden,
            "padding": padding,
            "dropout": dropout,
        }
        n_positions = max(1, (n_voxels + 2 * padding) // 2)
        # A single voxel without padding would be shorter than the kernel less its own padding.
        self.pad = nn.ConstantPad1d((padding, padding + (n_voxels + 2 * padding < 2)), 0.0)
        self.conv_in = nn.Conv1d(1, n_channels, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(_Residual(n_channels, kernels) for _ in range(n_blocks)))
        self.channels = nn.Conv1d(n_channels, n_outputs, 1)
        self.positions = nn.Linear(n_positions, hidden)
        self.dropout = nn.Dropout(dropout)
        self.read_out = nn.Linear(hidden, 1)

    def forward(self, responses: Tensor) -> Tensor:
        """Embeddings (batch, n_outputs) of responses (batch, n_voxels)."""
        x = self.blocks(F.relu(self.conv_in(self.pad(responses[:, None]))))
        return self.read_out(self.dropout(F.relu(self._mixed(x))))[..., 0]

    def _mixed(self, x: Tensor) -> Tensor:
        """``positions(channels(x))``, the linear map of positions first: many times faster."""
        weight = self.positions.weight
        y = F.conv1d(F.linear(x, weight), self.channels.weight)
        offset = F.conv1d(torch.zeros_like(x[:1, :, :1]), self.channels.weight, self.channels.bias)
        return y + offset * weight.sum(dim=1) + self.positions.bias
