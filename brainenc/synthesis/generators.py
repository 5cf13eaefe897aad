"""Generators of images with gradients: the protocol, and images in the span of a user's own."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from brainenc.data.images import as_images
from brainenc.synthesis.tensors import ClampInside
from brainenc.validation import check_whole


@runtime_checkable
class Generator(Protocol):
    """What `synthesize` climbs: images as a differentiable function of latent numbers.

    A generator is any object with these methods; it need not inherit.
    """

    def start(self, n: int, seed: int) -> Tensor:
        """Latents of `n` images, (n, ...)."""

    def decode(self, z: Tensor) -> Tensor:
        """Images (n, 3, H, W), RGB from 0 to 1, through which gradients pass to `z`."""

    def step(self, z: Tensor, gradient: Tensor, i: int) -> Tensor:
        """Latents after step `i`, from 0, along the gradient of the objective (ascent)."""


class PCAImages:
    """Images in the span of the user's own: their mean, and their principal directions.

    Latents are in s.d. of the user's images along each direction. They stay within a ball whose
    radius is that of the user's images, and the contrast of an image at most at that of the most
    contrasted of these: else gradients would raise contrast without end.

    Parameters
    ----------
    images : images, as for `brainenc.images.as_images`
        A few hundred.
    n_components : int
        Directions; at most one less than there are images.
    radius : float
        Largest length of a latent, relative to the usual length of those of the user's images,
        √n_components.
    max_contrast : float, optional
        Largest r.m.s. deviation from the mean image, 0 … 1; by default the 95th percentile of the
        user's images.
    rate : float
        Length of the first step relative to the radius; it falls with the number of steps.

    Attributes
    ----------
    mean : tensor, shape (3, H, W)
    directions : tensor, shape (n_components, 3, H, W)
        Scaled by their s.d.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    >>> generator = PCAImages(images, n_components=10)
    >>> generator.decode(generator.start(2, seed=0)).shape
    torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        images: Any,
        n_components: int = 200,
        *,
        radius: float = 3.0,
        max_contrast: float | None = None,
        rate: float = 0.1,
    ):
        pixels = np.asarray(as_images(images), dtype=np.float32) / 255
        if pixels.ndim == 3:
            pixels = np.repeat(pixels[..., None], 3, axis=-1)
        check_whole(
            "n_components", n_components, most=len(pixels) - 1, of="one less than there are images"
        )
        for name, value in (("radius", radius), ("rate", rate)):
            if not value > 0:
                raise ValueError(f"{name}={value} must be above 0")
        flat = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        mean = flat.mean(axis=0)
        flat = flat - mean
        values, vectors = np.linalg.eigh(flat @ flat.T / len(flat))
        values, vectors = values[::-1][:n_components], vectors[:, ::-1][:, :n_components]
        # Scaled directions are Xᵀu / √n: their squared lengths are the eigenvalues.
        directions = (flat.T @ vectors).T / np.sqrt(len(flat))
        contrast = np.sqrt(np.square(flat).mean(axis=1))
        shape = (3, *pixels.shape[1:3])
        self.mean = torch.from_numpy(mean.reshape(shape).astype(np.float32))
        self.directions = torch.from_numpy(directions.reshape(-1, *shape).astype(np.float32))
        self.n_components, self.rate = n_components, rate
        self.radius = radius * float(np.sqrt(n_components))
        self.max_contrast = (
            float(np.percentile(contrast, 95)) if max_contrast is None else max_contrast
        )
        if not self.max_contrast > 0:
            raise ValueError(f"max_contrast={max_contrast} must be above 0")

    def start(self, n: int, seed: int) -> Tensor:
        """Latents (n, n_components) as of random images of the user's covariance, half as far."""
        z = np.random.default_rng(seed).standard_normal((n, self.n_components)) / 2
        return self._within(torch.from_numpy(z.astype(np.float32)))

    def decode(self, z: Tensor) -> Tensor:
        """Images (n, 3, H, W) of latents (n, n_components)."""
        deviation = torch.tensordot(z, self.directions, dims=1)
        contrast = deviation.square().mean((1, 2, 3), keepdim=True).sqrt()
        deviation = deviation * (self.max_contrast / (contrast + 1e-9)).clamp(max=1)
        found: Tensor = ClampInside.apply(self.mean + deviation)
        return found

    def step(self, z: Tensor, gradient: Tensor, i: int) -> Tensor:
        """A step of fixed length along the gradient, back onto the ball."""
        length = gradient.norm(dim=1, keepdim=True)
        size = self.rate * self.radius / np.sqrt(1 + i / 10)
        return self._within(z + size * gradient / length.clamp(min=1e-20))

    def _within(self, z: Tensor) -> Tensor:
        return z * (self.radius / z.norm(dim=1, keepdim=True).clamp(min=1e-20)).clamp(max=1)
