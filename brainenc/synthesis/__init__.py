"""Images that are made to drive voxels, by a fitted encoder."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
