"""Progress bars of the whole package."""

from collections.abc import Iterable
from typing import Any

#: Seconds before a bar is shown: short tasks have none.
DELAY = 1


def progress(
    iterable: Iterable | None = None,
    *,
    desc: str,
    total: int | None = None,
    unit: str = "it",
    verbose: bool = True,
) -> Any:
    """Progress bar on stderr around `iterable`, or one to `.update()` by hand.

    Nothing is shown if not `verbose`.
    """
    from tqdm.auto import tqdm

    return tqdm(
        iterable,
        desc=desc,
        total=total,
        unit=unit,
        disable=not verbose,
        leave=False,
        smoothing=0.1,
        delay=DELAY,
    )
