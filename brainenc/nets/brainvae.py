"""BrainVAE, SynBrain's autoencoder of responses whose latent has the shape of CLIP tokens.

Submodules have the names of the official code, so that its weights load unchanged.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brainenc.nets._conv import ConvDecoder, ConvEncoder
from brainenc.nets._mlp import MLPDecoder, MLPEncoder

ARCHITECTURES = ("conv-attention", "mlp")


class BrainVAEOutput(NamedTuple):
    """Result of `BrainVAE.forward`."""

    reconstruction: Tensor
    z: Tensor
    mean: Tensor
    log_variance: Tensor


class BrainVAE(nn.Module):
    """Variational autoencoder of responses, for any number of voxels.

    Parameters
    ----------
    n_tokens, token_width : int
        Shape of the latent: that of the CLIP tokens it is aligned with.
    architecture : {"conv-attention", "mlp"}
        "conv-attention" is the published one. "mlp" has fully connected layers in place of the
        convolutions and the attention, between the same pooling, projectors and interpolation.
    pooled_length : int
        Length to which voxels are max-pooled (or repeated, if there are fewer).
    n_halvings : int
        Number of levels that halve the length; projectors get ``pooled_length / 2**n_halvings``.
    n_channels : int
        Channels of the first convolution.
    channel_multipliers : sequence of int
        Channels of each level / `n_channels`.
    n_blocks : int
        Residual blocks per level of the encoder; the decoder has one more.
    projector_width : int
    dropout : float
        Dropout in the residual blocks.
    mlp_widths : (int, int)
        Widths of the encoder's and the decoder's fully connected layers, "mlp" only.
    mlp_token_width : int
        Features per token at the fully connected end, "mlp" only.

    Attributes
    ----------
    sizes : dict
        The parameters: ``BrainVAE(**vae.sizes)`` is an autoencoder of the same shape.

    Raises
    ------
    ValueError : unknown architecture, or sizes that violate a divisibility rule.

    Notes
    -----
    The defaults are the published sizes, 78.31 M parameters: encoder 12.35 M, decoder 17.93 M,
    three projectors of 16.01 M. With "mlp" encoder and decoder have 12.27 M and 18.04 M.

    References
    ----------
    SynBrain (NeurIPS 2025), arXiv 2508.10298.
    """

    def __init__(
        self,
        n_tokens: int = 256,
        token_width: int = 1664,
        *,
        architecture: str = "conv-attention",
        pooled_length: int = 8192,
        n_halvings: int = 1,
        n_channels: int = 128,
        channel_multipliers: tuple[int, ...] = (2, 4, 4),
        n_blocks: int = 2,
        projector_width: int = 2048,
        dropout: float = 0.0,
        mlp_widths: tuple[int, int] = (640, 896),
        mlp_token_width: int = 32,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_tokens": n_tokens,
            "token_width": token_width,
            "architecture": architecture,
            "pooled_length": pooled_length,
            "n_halvings": n_halvings,
            "n_channels": n_channels,
            "channel_multipliers": tuple(channel_multipliers),
            "n_blocks": n_blocks,
            "projector_width": projector_width,
            "dropout": dropout,
            "mlp_widths": tuple(mlp_widths),
            "mlp_token_width": mlp_token_width,
        }
        _check_sizes(**self.sizes)
        length = pooled_length // 2**n_halvings
        self.encoder: ConvEncoder | MLPEncoder
        self.decoder: ConvDecoder | MLPDecoder
        if architecture == "mlp":
            shape = (pooled_length, n_tokens, length, mlp_token_width)
            self.encoder = MLPEncoder(*shape, mlp_widths[0], n_blocks, dropout)
            self.decoder = MLPDecoder(*shape, mlp_widths[1], n_blocks, dropout)
        else:
            levels = [n_channels * multiplier for multiplier in channel_multipliers]
            self.encoder = ConvEncoder(
                pooled_length, n_tokens, n_channels, levels, n_blocks, n_halvings, dropout
            )
            self.decoder = ConvDecoder(n_tokens, levels, n_blocks + 1, n_halvings, dropout)
        self.pre_projector_mean = projector(length, projector_width, token_width)
        self.pre_projector_logvar = projector(length, projector_width, token_width)
        self.post_projector = projector(token_width, projector_width, length)

    def encode(self, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior.

        Parameters
        ----------
        betas : tensor, shape (batch, n_voxels)
            Any number of voxels; a NaN makes its row NaN.

        Returns
        -------
        mean, log_variance : tensor, shape (batch, n_tokens, token_width)
        """
        if betas.ndim != 2:
            raise ValueError(f"betas {tuple(betas.shape)} must have shape (batch, n_voxels)")
        features = self.encoder(betas)
        return self.pre_projector_mean(features), self.pre_projector_logvar(features)

    def decode(self, z: Tensor, n_voxels: int) -> Tensor:
        """Responses of latents.

        Parameters
        ----------
        z : tensor, shape (batch, n_tokens, token_width)
        n_voxels : int
            Length of the response; any.

        Returns
        -------
        tensor, shape (batch, n_voxels)
        """
        expected = (self.sizes["n_tokens"], self.sizes["token_width"])
        if z.shape[1:] != expected:
            raise ValueError(f"z {tuple(z.shape)} must have shape (batch, *{expected})")
        return self.decoder(self.post_projector(z), n_voxels)

    def forward(
        self, betas: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> BrainVAEOutput:
        """Encode, draw a latent, decode to the same number of voxels.

        Parameters
        ----------
        betas : tensor, shape (batch, n_voxels)
        sample : bool
            Draw the latent from the posterior; False uses the posterior mean.
        generator : torch.Generator, optional
            Generator of the draw; the global one by default.

        Returns
        -------
        BrainVAEOutput : (reconstruction, z, mean, log_variance)
        """
        mean, log_variance = self.encode(betas)
        z = sample_latent(mean, log_variance, generator=generator) if sample else mean
        return BrainVAEOutput(self.decode(z, betas.shape[1]), z, mean, log_variance)


def sample_latent(
    mean: Tensor, log_variance: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """A draw of N(mean, exp(log_variance)), differentiable in both.

    Parameters
    ----------
    mean, log_variance : tensor of one shape
    generator : torch.Generator, optional
        It must be on the device of `mean`.

    References
    ----------
    Kingma & Welling (2014), ICLR.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + (0.5 * log_variance).exp() * noise


def projector(n_in: int, width: int, n_out: int) -> nn.Sequential:
    """Three times norm, GELU, linear, on the last axis."""
    sizes = (n_in, width, width, n_out)
    layers = [(nn.LayerNorm(a), nn.GELU(), nn.Linear(a, b)) for a, b in pairwise(sizes)]
    return nn.Sequential(*(layer for triple in layers for layer in triple))


def _check_sizes(
    *,
    architecture: str,
    pooled_length: int,
    n_halvings: int,
    n_channels: int,
    channel_multipliers: tuple[int, ...],
    dropout: float,
    mlp_widths: tuple[int, int],
    **sizes: int,
) -> None:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture={architecture!r} must be one of {ARCHITECTURES}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must be in [0, 1)")
    if len(mlp_widths) != 2:
        raise ValueError(f"mlp_widths={mlp_widths} must be two widths, of encoder and decoder")
    sizes |= {"pooled_length": pooled_length, "n_channels": n_channels}
    for name, size in [*sizes.items(), *(("mlp_widths", width) for width in mlp_widths)]:
        if size < 1:
            raise ValueError(f"{name}={size!r} must be at least 1")
    if not 0 <= n_halvings <= len(channel_multipliers):
        raise ValueError(
            f"n_halvings={n_halvings} must be 0 … {len(channel_multipliers)}, "
            "the number of channel_multipliers"
        )
    if pooled_length % 2**n_halvings:
        raise ValueError(f"pooled_length={pooled_length} must be divisible by 2**{n_halvings}")
    for n in (n_channels * multiplier for multiplier in (1, *channel_multipliers)):
        if n < 1 or (n > 32 and n % 32):
            raise ValueError(
                f"n_channels={n_channels} × channel_multipliers={channel_multipliers} gives {n} "
                "channels; 1 … 32 or a multiple of 32 can be normalised in groups"
            )
