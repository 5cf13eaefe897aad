"""Encoding models of the human visual cortex: image in, voxel responses out, as a distribution.

The public names are listed in ``__init__.pyi`` and load on first use, so that
``import brainenc`` and ``brainenc --help`` stay fast and import no torch.
"""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)

__version__ = "0.1.0"
