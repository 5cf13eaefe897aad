"""Arguments of an experiment: conditions, contrasts, parameters and areas, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from brainenc.conversion import check_row_order, plain_array, text_keys, text_labels
from brainenc.data.images import as_images, looks_like_images
from brainenc.data.voxels import as_voxels, atlas_columns, roi_positions
from brainenc.insilico.effects import check_circular
from brainenc.insilico.stimuli import Stimuli
from brainenc.validation import check_index

#: Parameters that are circular, with their period.
CIRCULAR = {"orientation": 180.0}

#: Place of a row: atlas, ROI and its voxels.
Place = tuple[str, str, np.ndarray]


def checked_conditions(conditions: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """Images (or features) of each condition, and the parameters of the conditions.

    Raises
    ------
    TypeError : neither a dict nor Stimuli.
    ValueError : fewer than two conditions, one without images, two of one name.
    """
    if isinstance(conditions, Stimuli):
        return conditions.conditions(), conditions.parameters
    if not isinstance(conditions, Mapping):
        raise TypeError(
            "conditions must be a dict of name to images, or what a function of brainenc.insilico "
            f"makes, such as gratings(), got {type(conditions).__name__}"
        )
    named: dict[str, Any] = {}
    for text, images in text_keys(conditions, "conditions").items():
        if looks_like_images(images):
            images = as_images(images)
        else:
            images = plain_array(images, f"conditions[{text!r}]")
        if not len(images):
            raise ValueError(f"conditions[{text!r}] has no images")
        named[text] = images
    if len(named) < 2:
        raise ValueError(
            f"conditions {list(named)} must be at least two: an experiment compares conditions"
        )
    return named, pd.DataFrame(index=pd.Index(list(named), name="condition"))


def checked_parameters(parameters: Any, own: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Parameters of each condition, one row per condition in their order.

    Raises
    ------
    TypeError, ValueError : no table or dict, or it lacks a condition.
    """
    if parameters is None:
        return own
    if isinstance(parameters, Mapping):
        try:
            parameters = pd.DataFrame({k: pd.Series(dict(v)) for k, v in parameters.items()})
        except (TypeError, ValueError):
            raise TypeError(
                "parameters must be a dict such as {'size': {'small': 1, 'large': 2}}: of each "
                "parameter the value of every condition"
            ) from None
    if not isinstance(parameters, pd.DataFrame):
        raise TypeError(
            "parameters must be a dict of parameter to values by condition, or a DataFrame with a "
            f"row per condition, got {type(parameters).__name__}"
        )
    table = parameters.copy()
    table.index = [f"{x:g}" if isinstance(x, float) else str(x) for x in table.index]
    if missing := [name for name in names if name not in table.index]:
        raise ValueError(f"parameters has no row for the condition {missing[0]!r}")
    if unknown := [name for name in table.index if name not in names]:
        raise ValueError(f"parameters has the condition {unknown[0]!r}, which conditions lacks")
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(
            f"parameters has two rows for the condition {twice!r}: give one row per condition"
        )
    table = table.loc[list(names)]
    text_keys(dict.fromkeys(table.columns), "parameters")
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"parameters has two columns {twice!r}: give each parameter once")
    # Stimuli have missing values of their own: a size of None is the whole image.
    for column in table:
        empty = table[column].isna().to_numpy()
        if column in own:
            empty = empty & own[column].loc[list(names)].notna().to_numpy()
        if empty.any():
            raise ValueError(
                f"parameters has no value of {column!r} for the condition "
                f"{table.index[empty][0]!r}: give every condition a value"
            )
    return table


def checked_contrasts(contrasts: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Weights (n_conditions,) of each contrast.

    By default the difference of two conditions, or each of several minus the mean of the others.

    Raises
    ------
    TypeError, ValueError : an unknown condition, or weights that do not sum to 0.
    """
    if contrasts is None:
        return _default_contrasts(names)
    if not isinstance(contrasts, Mapping):
        raise TypeError(
            "contrasts must be a dict of name to weights of conditions, such as "
            f"{{'a > b': {{'a': 1, 'b': -1}}}}, got {type(contrasts).__name__}"
        )
    found = {}
    for name, weights in text_keys(contrasts, "contrasts").items():
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"contrasts[{name!r}]={weights!r} must be a dict of condition to weight"
            )
        by_text = text_keys(weights, f"contrasts[{name!r}]")
        if unknown := [key for key in by_text if key not in names]:
            raise ValueError(
                f"contrasts[{name!r}] names {unknown[0]!r}; conditions are {list(names)}"
            )
        row = np.array([float(by_text.get(key, 0)) for key in names])
        if not np.isfinite(row).all() or not row.any() or abs(row.sum()) > 1e-6 * abs(row).sum():
            raise ValueError(
                f"contrasts[{name!r}] has weights {dict(by_text)}, which must sum to 0 and not all "
                "be 0: mean responses themselves are in the tables of conditions"
            )
        found[name] = row
    return found


def _default_contrasts(names: Sequence[str]) -> dict[str, np.ndarray]:
    n = len(names)
    if n == 2:
        return {f"{names[0]} > {names[1]}": np.array([1.0, -1.0])}
    others = np.full((n, n), -1 / (n - 1))
    np.fill_diagonal(others, 1)
    return {f"{name} > others": row for name, row in zip(names, others, strict=True)}


@dataclass(frozen=True)
class Axis:
    """Values of a parameter, and the weights by which conditions are averaged at each.

    Attributes
    ----------
    name : str
    values : list
        In increasing order if they are numbers.
    weights : array, shape (n_values, n_conditions)
        Rows sum to 1: the mean over the conditions that have the value.
    period : float or None
    """

    name: str
    values: list[Any]
    weights: np.ndarray
    period: float | None

    @property
    def numbers(self) -> np.ndarray | None:
        """Values as numbers; None if they are texts."""
        numeric = all(isinstance(x, int | float | np.number) for x in self.values)
        return np.array(self.values, dtype=float) if numeric else None


def axes_of(parameters: pd.DataFrame, circular: Mapping[str, float] | None) -> list[Axis]:
    """Parameters with two or more values.

    Raises
    ------
    ValueError : a circular parameter whose values are not evenly spaced over its period, or
        `circular` names none of the parameters.
    """
    periods = dict(CIRCULAR if circular is None else circular)
    if circular is not None and (unknown := [name for name in periods if name not in parameters]):
        raise ValueError(
            f"circular has {unknown[0]!r}; parameters of the conditions are {list(parameters)}"
        )
    found = []
    for name in parameters:
        column = parameters[name]
        values = list(pd.unique(column[column.notna()]))
        if column.isna().any():  # a size of None: the whole image
            column = column.fillna(np.inf)
            values.append(np.inf)
        if len(values) < 2:
            continue
        try:
            values = sorted(values)
        except TypeError:
            values = [str(value) for value in values]
            column = column.astype(str)
        weights = np.stack([(column == value).to_numpy(float) for value in values])
        weights /= weights.sum(axis=1, keepdims=True)
        axis = Axis(str(name), values, weights, periods.get(str(name)))
        if axis.period is not None:
            numbers = axis.numbers
            if numbers is None:
                raise ValueError(f"the circular parameter {name!r} has values that are no numbers")
            if len(values) == 2 and circular is None:  # two orientations: a plain comparison
                axis = Axis(axis.name, values, weights, None)
            else:
                check_circular(numbers, periods[axis.name], axis.name)
        found.append(axis)
    return found


def places_of(rois: Any, n_voxels: int) -> list[Place]:
    """Areas, the first of which is all voxels.

    Parameters
    ----------
    rois : None, voxel table, labels (n_voxels,), or dict of name to mask or positions
    n_voxels : int

    Raises
    ------
    ValueError : another number of voxels, or a dict with the name "all" or one name twice.
    """
    found: list[Place] = [("", "all", np.arange(n_voxels))]
    if rois is None:
        return found
    if isinstance(rois, Mapping):
        named = text_keys(rois, "rois")
        if "all" in named:
            raise ValueError(
                "rois has the key 'all', which is the name of all voxels together and always in "
                "the results: give these voxels another name"
            )
        return found + [
            ("", name, check_index(voxels, n_voxels, f"rois[{name!r}]"))
            for name, voxels in named.items()
        ]
    if not isinstance(rois, pd.DataFrame):
        check_row_order(voxels=(), rois=rois)
        labels = np.array(text_labels(plain_array(rois, "rois"), "rois"), dtype=object)
        rois = pd.DataFrame({"roi": labels})
    if len(rois) != n_voxels:
        raise ValueError(
            f"rois has {len(rois)} rows, but the encoder was fitted to {n_voxels} voxels: give the "
            "voxel table of its data"
        )
    table = as_voxels(rois, n_voxels)
    for atlas in atlas_columns(table):
        found += [(atlas, roi, voxels) for roi, voxels in roi_positions(table, atlas).items()]
    return found
