"""SynBrain: an autoencoder of single trials, and a mapper from tokens to its latent."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
