"""Ridge solvers as pure functions: primal form, kernel form and bands."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
