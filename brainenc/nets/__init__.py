"""Torch modules and losses of the deep encoders: layers and forward passes, without fitting."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
