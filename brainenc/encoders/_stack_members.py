"""Members of a stack: their names, and their features in one array."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainenc.encoders.base import BaseEncoder


def named_encoders(encoders: Any) -> dict[str, BaseEncoder]:
    """Encoders by name.

    Parameters
    ----------
    encoders : list of encoders, list of (name, encoder), or dict

    Raises
    ------
    TypeError : not a list or dict, or something in it is no encoder.
    ValueError : none at all, or the same name twice.
    """
    if isinstance(encoders, Mapping):
        pairs = list(encoders.items())
    elif isinstance(encoders, (list, tuple)):
        named = all(isinstance(item, tuple) and len(item) == 2 for item in encoders)
        pairs = list(encoders) if named else list(zip(_names_of(encoders), encoders, strict=True))
    else:
        raise TypeError(
            "encoders must be a list of encoders, a list of (name, encoder) or a dict, got "
            f"{type(encoders).__name__}"
        )
    if not pairs:
        raise ValueError("encoders is empty: a stack needs one encoder at least")
    for name, member in pairs:
        if not isinstance(member, BaseEncoder):
            raise TypeError(
                f"encoder {name!r} is {member!r}: members must be encoders, RidgeEncoder() say"
            )
    if twice := [str(name) for name, count in Counter(n for n, _ in pairs).items() if count > 1]:
        raise ValueError(f"encoders has the names {twice} more than once")
    return {str(name): member for name, member in pairs}


def _names_of(encoders: Sequence[Any]) -> list[str]:
    names = [type(member).__name__.removesuffix("Encoder").lower() for member in encoders]
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}-{seen[name]}" if names.count(name) > 1 else name)
    return numbered


def joined_features(arrays: Mapping[str, Any]) -> tuple[Any, dict[str, list[int]] | None]:
    """One array of all features, each once, and where in it those of each member are.

    Parameters
    ----------
    arrays : dict of name to array, shape (n_images, ...)
        Members with the same object share it.

    Returns
    -------
    features : array
        The one array there is, or all flattened and side by side.
    inputs : dict of name to (first column, *shape of an image's features), or None for one array
    """
    parts: list[Any] = []
    for array in arrays.values():
        looks = 0 not in np.shape(array)[1:]  # the mean does not
        if looks and not any(array is part for part in parts):
            parts.append(array)
    if not parts:
        return np.zeros((len(next(iter(arrays.values()))), 1), dtype=np.float32), None
    if len(parts) == 1:
        return parts[0], None
    flat = [part.reshape(len(part), -1) for part in parts]
    starts = np.cumsum([0, *(part.shape[1] for part in flat)])
    inputs = {}
    for name, array in arrays.items():
        place = next((i for i, part in enumerate(parts) if part is array), 0)
        inputs[name] = [int(starts[place]), *parts[place].shape[1:]]
    return np.concatenate(flat, axis=1), inputs


def view(features: np.ndarray, start: int, *shape: int) -> np.ndarray:
    """Features (n_images, *shape) that begin at a column of a joined array."""
    stop = start + int(np.prod(shape))
    if features.ndim != 2 or stop > features.shape[1]:
        raise ValueError(
            f"inputs names columns {start} to {stop}, which features {features.shape} do not have"
        )
    return features[:, start:stop].reshape(len(features), *shape)
