"""Fitted encoders for an evaluation: loaded, checked against the data, with features once."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from brainenc.benchmarking.inputs import Inputs, describe_features
from brainenc.conversion import check_row_order, plain_array
from brainenc.data.encoding_data import EncodingData
from brainenc.documentation import see
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.describe import describe
from brainenc.encoders.draws import Draws
from brainenc.encoders.loading import load
from brainenc.encoders.training_images import trained_on
from brainenc.identity import fitted_identity
from brainenc.storage import fingerprint

#: Columns that place a voxel.
_PLACES = (("i", "j", "k"), ("hemisphere", "vertex"), ("x", "y", "z"))


@dataclass(frozen=True)
class Fitted:
    """A fitted encoder with its input.

    Attributes
    ----------
    encoder : estimator, fitted
        As given, or with features that are computed once: `X` are then their rows.
    X : images, features, or rows of features
    key : str
        Fingerprint of the encoder with all it has learned, and of its input.
    description : dict
        The given encoder, with its features.
    folder : str or None
        That it was loaded from.
    mean : array, shape (n_voxels,), or None
        Mean response over its training images, if it keeps one.
    seen : array of bool, shape (n_images,), or None
        Whether it was fitted to an image; None if that is unknown.
    n_training_images : int or None
    """

    encoder: Any
    X: Any
    key: str
    description: dict[str, Any]
    folder: str | None
    mean: np.ndarray | None
    seen: np.ndarray | None
    n_training_images: int | None


def read_fitted(
    data: EncodingData,
    encoders: Mapping[str, Any],
    features: Any,
    device: str | None,
    verbose: bool,
) -> dict[str, Fitted]:
    """Fitted encoders by name, checked against the data.

    Parameters
    ----------
    data, encoders, features, device, verbose
        As for `brainenc.evaluate`.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError : as `brainenc.evaluate`.
    """
    if not isinstance(encoders, Mapping) or not encoders:
        raise TypeError(
            "encoders must be a dict of name to fitted encoder or to the folder of a saved one, "
            f"such as {{'ridge': encoder}}, got {encoders!r:.60}" + see("howto_fixed_test")
        )
    given = features if isinstance(features, Mapping) else dict.fromkeys(encoders, features)
    if unknown := [name for name in given if name not in encoders]:
        raise ValueError(f"features names {unknown}, but the encoders are {list(encoders)}")
    opened = {name: _open(str(name), encoder, device) for name, encoder in encoders.items()}
    for name, (encoder, _) in opened.items():
        _check_voxels(str(name), encoder, data)
    inputs = Inputs(data, verbose)
    return {
        str(name): _prepared(str(name), encoder, folder, given.get(name), data, inputs)
        for name, (encoder, folder) in opened.items()
    }


def _identity_of(encoder: Any) -> Any:
    """What distinguishes a fitted encoder: the same before and after its noise model is needed."""
    # A copy has the noise model, and not what it is to be fitted to.
    return fitted_identity(copy.copy(encoder) if isinstance(encoder, BaseEncoder) else encoder)


def _open(name: str, encoder: Any, device: str | None) -> tuple[Any, str | None]:
    if isinstance(encoder, (str, os.PathLike)):
        return load(encoder, device=device), os.fspath(encoder)
    if not isinstance(encoder, BaseEstimator) or isinstance(encoder, type):
        raise TypeError(
            f"encoder {name!r} must be a fitted encoder or the folder of a saved one, got "
            f"{encoder!r:.60}"
        )
    try:
        check_is_fitted(encoder)
    except NotFittedError:
        raise ValueError(
            f"encoder {name!r} is not fitted, and brainenc.evaluate fits nothing: fit it first, or "
            "compare encoders with brainenc.benchmark" + see("howto_fixed_test")
        ) from None
    return encoder, None


def _check_voxels(name: str, encoder: Any, data: EncodingData) -> None:
    """Raise ValueError unless the encoder was fitted to these voxels, as far as that is known."""
    last = encoder.steps[-1][1] if hasattr(encoder, "steps") else encoder
    n_voxels = getattr(last, "n_voxels_", None)
    table = getattr(last, "voxels_", None)
    if n_voxels is not None and n_voxels != data.n_voxels:
        names = "" if table is None else f" ({_roi_names(table)})"
        raise ValueError(
            f"encoder {name!r} was fitted to {n_voxels} voxels{names}, and the data "
            f"{data.name!r} have {data.n_voxels} ({_roi_names(data.voxels)}): take the voxels that "
            "it was fitted to, data.select(voxels=...) or data.select(roi=...)"
            + see("howto_fixed_test")
        )
    if isinstance(table, pd.DataFrame):
        _compare_tables(name, table, data.voxels)


def _roi_names(voxels: pd.DataFrame) -> str:
    columns = [str(column) for column in voxels]
    return f"voxel table with {', '.join(columns)}" if columns else "no voxel table"


def _compare_tables(name: str, theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    """Raise ValueError if voxels are at other places or, without places, in other ROIs."""
    for columns in _PLACES:
        if set(columns) <= set(theirs) & set(ours):
            differ = _differ(theirs[list(columns)], ours[list(columns)])
            what = ", ".join(columns)
            break
    else:
        shared = [
            column
            for column in theirs
            if column in ours and not pd.api.types.is_numeric_dtype(ours[column].dtype)
        ]
        differ, what = _differ(theirs[shared], ours[shared]), ", ".join(map(str, shared))
    if differ.any():
        first = int(differ.argmax())
        raise ValueError(
            f"encoder {name!r} was fitted to other voxels: {int(differ.sum())} of {len(ours)} have "
            f"another {what} in the voxel table of the data (first voxel {first}); put the voxels "
            "of the data into the order of encoder.voxels_, data.select(voxels=...)"
            + see("howto_fixed_test")
        )


def _differ(theirs: pd.DataFrame, ours: pd.DataFrame) -> np.ndarray:
    """Whether rows of two tables differ; missing labels are equal."""
    differ = np.zeros(len(ours), dtype=bool)
    for column in theirs:
        a, b = (
            table[column].astype(object).where(table[column].notna(), "")
            for table in (theirs, ours)
        )
        if pd.api.types.is_numeric_dtype(ours[column].dtype):
            differ |= ~np.isclose(
                pd.to_numeric(theirs[column], errors="coerce").to_numpy(float),
                ours[column].to_numpy(float),
                equal_nan=True,
            )
        else:
            differ |= a.map(str).to_numpy() != b.map(str).to_numpy()
    return differ


def _prepared(
    name: str, encoder: Any, folder: str | None, features: Any, data: EncodingData, inputs: Inputs
) -> Fitted:
    description = describe(encoder)
    X = data.images
    if features is not None:
        description["features"] = describe_features(features)
        X = _features(features, data, inputs)
    try:
        ready, rows, computed = _with_features_once(encoder, X)
    except (TypeError, ValueError) as error:
        if features is None and getattr(encoder, "features", "auto") is None:
            raise ValueError(
                f"encoder {name!r} was fitted to features, not to images: give those of the test "
                f"images, features={{{name!r}: array}}" + see("howto_fixed_test")
            ) from error
        raise type(error)(f"encoder {name!r}: {error}") from error
    seen = None if computed is None else trained_on(encoder, computed)
    marks = getattr(encoder, "training_marks_", None)
    return Fitted(
        encoder=ready,
        X=rows,
        key=fingerprint(_identity_of(encoder), inputs.key(X)),
        description=description,
        folder=folder,
        mean=getattr(encoder, "training_mean_", None),
        seen=seen,
        n_training_images=None if marks is None else len(marks),
    )


def _features(features: Any, data: EncodingData, inputs: Inputs) -> Any:
    if hasattr(features, "fit") and hasattr(features, "transform"):
        return inputs.transform(features)
    check_row_order(features=features, images=data.images)
    found = plain_array(features, "features")
    if len(found) != data.n_images:
        raise ValueError(
            f"features has {len(found)} rows, but there are {data.n_images} test images"
        )
    return found


def _with_features_once(encoder: Any, X: Any) -> tuple[Any, Any, np.ndarray | None]:
    """Encoder whose input are row numbers of features computed here; those, and the features.

    `predict` and `sample` would compute them twice. An encoder with methods of its own in their
    place gets the input itself.
    """
    if not isinstance(encoder, BaseEncoder):
        return encoder, X, None
    features = encoder._features_of(X)
    own = (type(encoder).predict, type(encoder).sample) != (BaseEncoder.predict, Draws.sample)
    if own:
        return encoder, X, features

    def rows_of_features(rows: np.ndarray, *, reset: bool = False) -> np.ndarray:
        return features[rows]

    ready = copy.copy(encoder)
    ready.__dict__["_features_of"] = rows_of_features  # in place of the method
    return ready, np.arange(len(features)), features
