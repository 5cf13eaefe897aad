"""What voxels respond to: pictures, words and prompts."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
