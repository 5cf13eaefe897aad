"""The one training loop of the package, for every encoder that is a torch network."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
