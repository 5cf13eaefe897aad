"""One self-contained HTML report of a benchmark, and the figures in it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
