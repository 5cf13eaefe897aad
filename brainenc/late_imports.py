"""Imports that most sessions are spared, because other packages import more than they use."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_STATS = "scipy.stats"


def if_imported(module: str, name: str) -> Any:
    """A class of a module that is imported; else ``()``, of which nothing is an instance.

    Nothing can be an instance of a class whose module nobody has imported, so that a question like
    "is it a ``Pipeline``?" needs no import.

    Examples
    --------
    >>> isinstance(3, if_imported("fractions", "Fraction"))
    False
    >>> isinstance(3, if_imported("a_module_that_nobody_imports", "Number"))
    False
    """
    return getattr(sys.modules.get(module), name, ())


@contextmanager
def scipy_stats_if_used() -> Iterator[None]:
    """In this block, ``import scipy.stats`` imports it only once a name of it is used.

    scikit-learn imports ``scipy.stats``, a sixth of the time of a first fit, wherever anything of
    scikit-learn is imported, for one function that few use. After the block nothing is left of
    this: who imports ``scipy.stats`` gets it, and ``scipy.stats`` written out imports it by itself.
    """
    if _STATS in sys.modules:
        yield
        return
    stand_in = sys.modules[_STATS] = _StandIn(_STATS)
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """In place of a module, which it imports when it is first asked for a name.

    Whoever keeps it, such as another thread that imports at that time, finds all names in it.
    """

    def __getattr__(self, name: str) -> Any:
        # Those who look through all modules ask each for its file and the like.
        if name.startswith("__") and name not in ("__path__", "__all__"):
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)

    def leave(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
