"""Weights of voxels inferred from a context of images and responses, without training on them."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
