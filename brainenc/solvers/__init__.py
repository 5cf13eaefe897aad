"""Ridge solvers as pure functions: primal form, and kernel and banded forms with himalaya."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
