"""Names of a package that load on first use."""

from collections.abc import Callable
from typing import Any

import lazy_loader

from brainenc.garbage import collections_paused
from brainenc.late_imports import scipy_stats_if_used


def attach(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose stub lists its names.

    Parameters
    ----------
    package, file : str
        ``__name__`` and ``__file__`` of the package; the stub is the ``.pyi`` beside the file.

    Returns
    -------
    tuple of three
        A name loads the module that defines it when it is first asked for.
    """
    load, directory, names = lazy_loader.attach_stub(package, file)

    def load_without_collections(name: str) -> Any:
        # Collections are a sixth of the time of importing torch and SciPy.
        with collections_paused(), scipy_stats_if_used():
            return load(name)

    return load_without_collections, directory, names
