"""Encoders compared on the same images, folds and metrics.

The folder is not called ``benchmark`` because `brainenc.benchmark` is the function: importing a
submodule of that name would hide it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
