"""Ridge solvers as pure functions: primal form, and kernel and banded forms with himalaya."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
