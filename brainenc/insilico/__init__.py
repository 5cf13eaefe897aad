"""Experiments on a fitted encoder: stimuli, and what the encoder predicts of them."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
