"""MindSimulator's autoencoder of responses; its latent has the shape of image tokens."""

from typing import Any

from torch import Tensor, nn

from brainenc.nets._mlp import MLPBlock


class FMRIAutoencoder(nn.Module):
    """Autoencoder of responses, with a latent that can be aligned with the image's tokens.

    The encoder maps voxels to `hidden` and then to the latent, which passes a second bottleneck;
    the decoder has one bottleneck.

    Parameters
    ----------
    n_voxels : int
    n_tokens, token_width : int
        Shape of the latent.
    hidden : int
        Width of the bottlenecks.
    n_blocks : int
        Number of residual blocks of the encoder, and of the decoder.
    dropout : float
        Dropout in these blocks.

    Attributes
    ----------
    sizes : dict
        The parameters: ``FMRIAutoencoder(**net.sizes)`` is a net of the same shape.

    Raises
    ------
    ValueError : a size that is not positive.

    Notes
    -----
    The defaults are the published sizes: 211.6 M parameters at 15 724 voxels, of which 208 M are in
    the layers to and from the latent.

    References
    ----------
    MindSimulator (ICLR 2025), arXiv 2503.02351.
    """

    def __init__(
        self,
        n_voxels: int,
        n_tokens: int = 257,
        token_width: int = 768,
        *,
        hidden: int = 256,
        n_blocks: int = 2,
        dropout: float = 0.15,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_voxels": n_voxels,
            "n_tokens": n_tokens,
            "token_width": token_width,
            "hidden": hidden,
            "n_blocks": n_blocks,
            "dropout": dropout,
        }
        for name in ("n_voxels", "n_tokens", "token_width", "hidden"):
            if self.sizes[name] < 1:
                raise ValueError(f"{name}={self.sizes[name]!r} must be at least 1")
        latent = n_tokens * token_width
        self.encoder = nn.Sequential(
            nn.Linear(n_voxels, hidden),
            *(MLPBlock(hidden, dropout) for _ in range(n_blocks)),
            nn.Linear(hidden, latent),
            *_layer(latent, hidden),
            *_layer(hidden, hidden),
            *_layer(hidden, latent),
            nn.Unflatten(1, (n_tokens, token_width)),
        )
        self.decoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(latent, hidden),
            *(MLPBlock(hidden, dropout) for _ in range(n_blocks)),
            nn.Linear(hidden, n_voxels),
        )

    def encode(self, betas: Tensor) -> Tensor:
        """Latents (batch, n_tokens, token_width) of z-scored responses (batch, n_voxels)."""
        return self.encoder(betas)

    def decode(self, z: Tensor) -> Tensor:
        """Responses (batch, n_voxels) of latents (batch, n_tokens, token_width)."""
        return self.decoder(z)

    def forward(self, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction (batch, n_voxels) and latent (batch, n_tokens, token_width)."""
        z = self.encode(betas)
        return self.decode(z), z


def _layer(width: int, out: int) -> tuple[nn.Module, ...]:
    return nn.LayerNorm(width), nn.GELU(), nn.Linear(width, out)
