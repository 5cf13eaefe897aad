"""Responses through a latent in closed form, mapped from image tokens."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
