"""Encoders compared on the same images, folds and metrics.

The folder is not called ``benchmark`` because `brainenc.benchmark` is the function: importing a
submodule of that name would hide it.
"""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
