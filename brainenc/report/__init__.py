"""The self-contained HTML report of a benchmark, and its figures."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
