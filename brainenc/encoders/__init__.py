"""Encoding models: scikit-learn estimators from images to voxel responses."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
