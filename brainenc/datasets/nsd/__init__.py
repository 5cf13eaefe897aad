"""The Natural Scenes Dataset: its files, their conversion, the converted data."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
