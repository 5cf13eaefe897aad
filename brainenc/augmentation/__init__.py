"""Synthetic responses as training data of decoders, and a study of what they are worth."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
