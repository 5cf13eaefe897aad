"""MindSimulator: a diffusion model draws latents for an image; a decoder maps them to voxels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
