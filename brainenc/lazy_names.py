"""Names of a package that load on first use."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lazy_loader


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
        with _collections_paused():
            return load(name)

    return load_without_collections, directory, names


@contextmanager
def _collections_paused() -> Iterator[None]:
    """Python's garbage collector waits.

    What modules define stays until the process ends. While torch and SciPy are imported, searching
    it for garbage again and again takes a sixth of the time. Afterwards it counts as old, and is
    searched as seldom as other old objects.
    """
    if not gc.isenabled():
        yield  # by the user, by another thread that imports, or by an import around this one
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # else the user has frozen objects, which stay frozen
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.enable()
