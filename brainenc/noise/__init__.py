"""Noise of single trials around an expected response: models, estimates, draws."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
