"""A generator for `brainenc.synthesis.synthesize`: Stable Diffusion, guided by an encoder."""

import torch

from brainenc.synthesis.tensors import ClampInside


class LatentDiffusion:
    """DDIM sampling of a latent diffusion model with the gradient of an objective (BrainDiVE).

    `unet`, `vae` and `scheduler` (a DDIMScheduler with prediction_type="epsilon") are parts of a
    pipeline of diffusers, `context` is the embedding of its prompt, (1, n_tokens, width), and
    `latent_shape` that of the latents, (4, 64, 64) for 512 × 512 pixels. Give `n_steps` to
    `synthesize`, too. `scale` is the strength of the guidance, 0 for none.
    """

    def __init__(self, unet, vae, scheduler, context, latent_shape, n_steps=50, scale=130.0):
        self.unet, self.vae, self.scheduler = unet, vae, scheduler
        self.context, self.latent_shape = context, tuple(latent_shape)
        self.n_steps, self.scale = n_steps, scale

    def start(self, n, seed):
        self.scheduler.set_timesteps(self.n_steps)
        self.i = 0
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((n, *self.latent_shape), generator=generator)
        return noise.to(self.context.device) * self.scheduler.init_noise_sigma

    def decode(self, z):
        latent = z
        if self.i < self.n_steps:  # what the noisy latent will become
            t = self.scheduler.timesteps[self.i]
            noise = self.unet(
                z, t, encoder_hidden_states=self.context.expand(len(z), -1, -1)
            ).sample
            signal = self.scheduler.alphas_cumprod[t]
            spread = (1 - signal).sqrt()
            clean = (z - spread * noise) / signal.sqrt()
            latent = spread * clean + (1 - spread) * z
            self.noise, self.spread = noise.detach(), spread
        pixels = self.vae.decode(latent / self.vae.config.scaling_factor).sample
        return ClampInside.apply(pixels / 2 + 0.5)

    def step(self, z, gradient, i):
        guided = self.noise - self.spread * self.scale * gradient
        self.i = i + 1
        return self.scheduler.step(guided, self.scheduler.timesteps[i], z).prev_sample
