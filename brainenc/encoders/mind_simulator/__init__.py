"""MindSimulator: a diffusion model draws latents for an image; a decoder maps them to voxels."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
