"""Functions as machine code, by Numba, which takes a second to import."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable) -> Callable:
    """`function` as machine code that threads can run at once, cached on disk if possible.

    Sums are taken in another order than written where that is faster.
    """
    options: Any = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package nor the user's cache is writable
        return numba.njit(**options)(function)
