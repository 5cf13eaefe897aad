"""Decoders: responses in, embeddings of the image out."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
