"""Tables of the encoders scored so far, written while others are still fitted."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from brainenc.benchmarking.result import BenchmarkResult, is_finished_run


class Interim:
    """Writes the tables of a run that is not finished into its folder.

    Tables of a finished run are not replaced by unfinished ones. Writing takes at most about a
    tenth of the time of the run; the first tables are written at once.

    Parameters
    ----------
    out : path or None
        Folder of the run; None for no tables.
    """

    def __init__(self, out: str | os.PathLike | None):
        self.out = None if out is None else Path(out)
        self._next = 0.0

    def write(self, make: Callable[[], BenchmarkResult]) -> None:
        """Write the tables that `make` gives; an error is ignored, since they are made again."""
        start = time.monotonic()
        if self.out is None or start < self._next:
            return
        try:
            if not is_finished_run(self.out):
                make().save(self.out)
        except Exception:
            pass
        self._next = time.monotonic() + 10 * (time.monotonic() - start)
