"""Values per voxel, as users give them to the writers of maps."""

from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import check_row_order, numeric_array


def voxel_values(values: Any, voxels: pd.DataFrame) -> np.ndarray:
    """Values of one map or several, one value per voxel.

    Parameters
    ----------
    values : array-like, shape (n_voxels,) or (n_maps, n_voxels)
        A Series is taken in the order of its rows, whatever its index.
    voxels : pandas.DataFrame, n_voxels rows

    Returns
    -------
    array of float32 of that shape

    Raises
    ------
    ValueError : another number of values, or a Series with an index in another order.
    TypeError : not numbers; a DataFrame, which has a row per voxel instead of a row per map.

    Examples
    --------
    >>> voxels = pd.DataFrame({"i": [4, 5, 6]})
    >>> voxel_values(pd.Series([0.5, 1.0, 1.5], index=[10, 11, 12]), voxels).tolist()
    [0.5, 1.0, 1.5]
    """
    if isinstance(values, pd.DataFrame):
        raise TypeError(
            f"values {values.shape} is a DataFrame: pass values.to_numpy().T if its columns are "
            "maps, one row per map"
        )
    check_row_order(voxels=voxels, values=values)
    array = values
    if not (isinstance(values, np.ndarray) and values.dtype == bool):
        array = numeric_array(values, "values")
    array = np.asarray(array, dtype=np.float32)
    if array.ndim == 2 and array.shape == (len(voxels), 1) and len(voxels) > 1:
        array = array[:, 0]  # a column of MATLAB
    if array.ndim not in (1, 2) or array.shape[-1] != len(voxels):
        raise ValueError(
            f"values {array.shape} must be (n_voxels,) or (n_maps, n_voxels), and voxels has "
            f"{len(voxels)} rows"
        )
    return array
