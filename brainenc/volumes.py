"""The grid of the volume that voxels come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

#: Columns of the voxel table that say where in the volume a voxel is.
POSITION = ["i", "j", "k"]


@dataclass(frozen=True, eq=False)  # arrays have no one truth value: identity it is
class Volume:
    """Grid of a volume: what it takes, with ``i, j, k`` of each voxel, to write a NIfTI file.

    Parameters
    ----------
    shape : (int, int, int)
        Number of voxels along i, j and k.
    affine : array, shape (4, 4)
        From (i, j, k, 1) to millimetres, right-anterior-superior positive.
    space : str
        What the millimetres are of: "native", the subject's own, or "MNI152", in which a voxel
        can be shown on a template's surface.

    Raises
    ------
    ValueError : shapes that are not those above, or an affine that is not finite or not invertible.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    space: str = "native"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape={self.shape} must be three numbers of voxels, 1 or more")
        affine = np.array(self.affine, dtype=float)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"affine {affine.shape} must be (4, 4) and finite")
        if np.linalg.matrix_rank(affine) < 4 or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise ValueError(f"affine must be invertible and end in (0, 0, 0, 1), got\n{affine}")
        affine.flags.writeable = False
        self.__dict__.update(shape=shape, affine=affine, space=str(self.space))

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> "Volume | None":
        """What `to_json` gave; None of None."""
        return None if content is None else cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"shape": list(self.shape), "affine": self.affine.tolist(), "space": self.space}

    def check_positions(self, voxels: pd.DataFrame) -> None:
        """Make sure that every voxel has a place of its own in the volume.

        Raises
        ------
        ValueError : ``i, j, k`` missing, not whole, outside the volume, or the same twice.
        """
        if missing := [column for column in POSITION if column not in voxels]:
            raise ValueError(
                f"the voxel table has no column {missing}, so that the volume {self.shape} cannot "
                "be filled; give the voxels' positions or volume=None"
            )
        positions = voxels[POSITION].to_numpy(float)
        outside = ~((positions >= 0) & (positions < self.shape)).all(axis=1)
        outside |= (positions % 1 != 0).any(axis=1)
        if outside.any():
            raise ValueError(
                f"{outside.sum()} voxels lie outside the volume {self.shape}, the first at "
                f"{positions[outside][0].tolist()}: are i, j, k counted from 0 and in this order?"
            )
        if n_twice := int(voxels.duplicated(POSITION).sum()):
            raise ValueError(f"{n_twice} voxels have the i, j, k of another one")
