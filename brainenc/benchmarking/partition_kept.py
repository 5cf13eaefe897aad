"""Predictions of the fits of a variance partition, kept so that a stopped run goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.reading import read_array
from brainenc.storage import atomic_path, fingerprint


@dataclass(frozen=True)
class Kept:
    """Where predictions are kept.

    Attributes
    ----------
    folder : path
        Its folder ``fits`` holds them.
    key : str
        Fingerprint of all that the fits depend on, but for folds and permutations.
    """

    folder: Path
    key: str

    def file(
        self,
        model: Sequence[Any],
        train: np.ndarray,
        test: np.ndarray,
        orders: Sequence[np.ndarray],
    ) -> Path:
        """File of the predictions of a model in a fold."""
        members = [
            [band, orders[permutation - 1] if permutation else "as it is"]
            for band, permutation in model
        ]
        parts = [part for member in members for part in member]
        name = fingerprint(self.key, len(members), *parts, train, test)
        return self.folder.resolve() / "fits" / f"{name}.npy"


def kept_prediction(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Predictions that an earlier run kept; None if there are none of this shape."""
    if not file.exists():
        return None
    found = read_array(file)
    return found if found.shape == shape else None


def keep_prediction(file: Path, prediction: np.ndarray) -> None:
    """Write predictions, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, prediction)
