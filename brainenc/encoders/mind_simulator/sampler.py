"""Draws of responses: the prior turns noise into a latent, the autoencoder decodes it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainenc.arrays import blocks
from brainenc.devices import resolve_device
from brainenc.encoders.mind_simulator import stages
from brainenc.encoders.mind_simulator.scale import LatentScale
from brainenc.nets import DiffusionPrior, FMRIAutoencoder
from brainenc.nets.diffusion import (
    add_noise,
    cosine_schedule,
    denoise,
    sampling_steps,
)


@dataclass(frozen=True)
class Sampler:
    """Draws decoded latents with the trained nets.

    Attributes
    ----------
    net, prior, scale
        See `fit_prior`.
    n_sampling_steps, eta, guidance, noise_correlation, device
        As for `brainenc.MindSimulatorEncoder`.
    """

    net: FMRIAutoencoder
    prior: DiffusionPrior
    scale: LatentScale
    n_sampling_steps: int | None = None
    eta: float = 0.0
    guidance: float = 1.0
    noise_correlation: float = 0.0
    device: Any = "auto"

    def draw(
        self,
        tokens: Any,
        expected: np.ndarray | None,
        n: int,
        rng: Callable[[], np.random.Generator],
        *,
        shared: bool = False,
        start: np.ndarray | None = None,
        share: float = 1.0,
    ) -> np.ndarray:
        """Responses (n, n_images, n_voxels) in z units.

        Parameters
        ----------
        tokens : array, shape (n_images, n_tokens, width)
        expected : array, shape (n_images, n_latents, latent_width), or None
            Standardised latents predicted by the linear path.
        n : int
        rng : function () -> Generator
            It is called for every block of images.
        shared : bool
            Whether all images get the same noise.
        start : array, shape (n_images, n_latents, latent_width), optional
            Latents of the autoencoder that chains start from, after noise as at `share` of the
            steps.
        share : float
            Share of the steps that are run.
        """
        device = resolve_device(self.device)
        tensor = partial(torch.tensor, device=device)
        for part in (self.net, self.prior):
            part.to(device).eval()
        size = n * max(self.scale.mean.size, math.prod(tokens.shape[1:]))
        try:
            with torch.no_grad():
                parts = []
                for rows in blocks(len(tokens), stages.BLOCK_VALUES // size):
                    block = tensor(tokens[rows], dtype=torch.float32)
                    n_noises = 1 if shared else len(block)
                    parts.append(
                        self._draw_block(
                            block,
                            None if expected is None else tensor(expected[rows]),
                            None if start is None else tensor(start[rows]),
                            n,
                            self._normals(n, n_noises, rng(), device),
                            share,
                        )
                    )
        finally:
            for part in (self.net, self.prior):
                part.to("cpu")
        return np.concatenate(parts, axis=1)

    def _draw_block(
        self,
        tokens: Tensor,
        expected: Tensor | None,
        start: Tensor | None,
        n: int,
        normal: Callable[[], Tensor],
        share: float,
    ) -> np.ndarray:
        n_steps = self.prior.sizes["n_steps"]
        kept = cosine_schedule(n_steps)
        steps = sampling_steps(n_steps, self.n_sampling_steps, share)
        x = normal().expand(n, len(tokens), *self.scale.mean.shape)
        if start is not None:
            z = self.scale.standardise(start)
            z = z if expected is None else z - expected
            x = add_noise(z, x, float(kept[steps[0]]))
        # DDIM for a subset of the steps, DDPM for all.
        eta = 1.0 if self.n_sampling_steps is None else self.eta
        x = denoise(self._expected_x0(tokens, kept), x, kept, steps, normal, eta)
        decoded = self.net.decode(self.scale.restore(x, expected).flatten(0, 1))
        return decoded.unflatten(0, (n, len(tokens))).cpu().numpy()

    def _expected_x0(self, tokens: Tensor, kept: np.ndarray) -> Callable[[Tensor, int], Tensor]:
        guidance = self.guidance
        if self.prior.is_silent:  # training did not improve it: only the Gaussian part is left
            return lambda x, step: self.scale.denoised(x, float(kept[step]))

        def predict(x: Tensor, step: int) -> Tensor:
            noisy = x.flatten(0, 1)
            condition = tokens.expand(len(x), *tokens.shape).flatten(0, 1)
            steps = torch.full((len(noisy),), step, device=x.device)
            x0 = self.prior(noisy, steps, condition)
            if guidance != 1:
                nowhere = torch.zeros(len(noisy), dtype=torch.bool, device=x.device)
                without = self.prior(noisy, steps, condition, nowhere)
                x0 = without + guidance * (x0 - without)
            return self.scale.denoised(x, float(kept[step])) + x0.view_as(x)

        return predict

    def _normals(
        self, n: int, n_images: int, rng: np.random.Generator, device: torch.device
    ) -> Callable[[], Tensor]:
        """Standard normal values (n, n_images, …), correlated between the n draws."""
        shape = (n_images, *self.scale.mean.shape)
        correlation = np.float32(self.noise_correlation)

        def normal() -> Tensor:
            own = rng.standard_normal((n, *shape), dtype=np.float32)
            if correlation:
                common = rng.standard_normal(shape, dtype=np.float32)
                own = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
            return torch.from_numpy(own).to(device)

        return normal
