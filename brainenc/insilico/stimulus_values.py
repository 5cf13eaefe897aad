"""Values of the parameters of stimuli, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def value_text(value: Any) -> str:
    """A value as it is in the name of a condition."""
    if isinstance(value, tuple):
        return f"({value[0]:g}, {value[1]:g})"
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def checked_values(values: dict[str, Any]) -> dict[str, list[Any]]:
    """Values of each parameter as a list, of finite numbers but for names, places and None."""
    found: dict[str, list[Any]] = {}
    for name, given in values.items():
        if isinstance(given, str) or np.ndim(given) == 0 or not len(given):
            raise ValueError(f"{name}: give one or more values, got {given!r}")
        found[name] = some = list(given)
        for value in () if name in ("object", "place") else some:
            if value is None and name == "size":
                continue
            if not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise ValueError(f"{name} has the value {value!r}, which must be a finite number")
        texts = [value_text(value) for value in some]
        if len(set(texts)) < len(texts):
            raise ValueError(f"{name} has a value twice: {texts}")
    for contrast in found.get("contrast", ()):
        if not 0 <= contrast <= 1:
            raise ValueError(f"contrast={contrast} must be between 0 and 1")
    for size in found.get("size", ()):
        if size is not None and not size > 0:
            raise ValueError(f"size={size} must be above 0, or None")
    return found


def check_inside(name: str, places: Sequence[tuple[float, ...]]) -> None:
    """Raise ValueError for a place (x, y) outside of the image; `name` is that of the argument."""
    for place in places:
        if not all(abs(value) <= 0.5 for value in place):  # NaN too
            raise ValueError(f"{name} has {place}, outside of the image, -0.5 to 0.5")
