"""Python's garbage collector, where its searches take time and find nothing.

A full collection looks at every object of the process: with torch and SciPy imported, a tenth of a
second each time. Whoever has frozen objects or switched the collector off keeps that setting.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collections_paused() -> Iterator[None]:
    """No collection in this block, in which objects are made that stay, such as those of imports.

    Afterwards they count as old, and are searched as seldom as other old objects.
    """
    if not gc.isenabled():
        yield  # by the user, by another thread that imports, or by a block around this one
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.enable()


@contextmanager
def old_objects_set_aside() -> Iterator[None]:
    """Collections in this block search only what was made in it, such as figures."""
    if gc.get_freeze_count() > 0:
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def collected_at_end() -> Iterator[None]:
    """No collection in this block, and then one of what was made in it, such as a figure.

    Searches while a figure is made, drawn and written find only objects that are still in use.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect(0)  # the youngest generation: all that was made meanwhile
