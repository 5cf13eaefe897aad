"""SynBrain: an autoencoder of single trials, and a mapper from tokens to its latent."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
