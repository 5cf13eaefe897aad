"""Fitted encoders as JSON and arrays, exactly, or not at all.

Every value becomes plain JSON, or a dict with one key that says what it stands for. A value that
would come back as another one (an object of a library, a function, an array with a mask) is
refused: a saved model must predict what the fitted one does.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.base import BaseEstimator

from brainenc.arrays import by_columns, is_mapped
from brainenc.encoders.known_classes import is_of_scikit_learn, is_regressor, known_class
from brainenc.features.base import FeatureExtractor
from brainenc.features.saved import probe
from brainenc.features.store import FeatureStore

#: Types of numbers that safetensors holds.
_DTYPES = frozenset(
    np.dtype(code)
    for code in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
)

_OF_EXTRACTORS = (
    "Two ways on: compute the features yourself and fit the encoder to them (features=None), or "
    "write a class derived from brainenc.features.FeatureExtractor whose parameters are plain "
    "values, and name it in brainenc.load(folder, classes=[...])"
)
_OF_REGRESSORS = (
    "Ways on: a regressor whose fitted attributes are arrays, numbers and text, such as RidgeCV, "
    "PLSRegression or KernelRidge (of a search, its best_estimator_); or joblib.dump(encoder, "
    "file), a pickle, which runs code when it is read and wants the same versions"
)
_OF_OTHERS = (
    "If the fitted encoder does not use it (a splitter, a generator of random numbers), replace it "
    "first, as in encoder.set_params(cv=5)"
)


#: Memory maps larger than this in bytes are written to files of their own, block by block, and
#: mapped again by `load`. What is in memory is, too, if it is twice as large.
LARGE = 2**29


def has_own_file(array: np.ndarray) -> bool:
    """Whether an array is too large for a copy in memory; see `LARGE`."""
    return array.ndim > 0 and array.nbytes > (1 if is_mapped(array) else 2) * LARGE


class Packer:
    """Values as JSON; arrays are put aside under a key.

    Attributes
    ----------
    arrays : dict of str to array
    classes : set of type
        Classes that `load` has to be given.
    extractors : list of FeatureExtractor
        The fitted ones.

    Raises
    ------
    TypeError : a value that would not come back as it is; names its place and a way on.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.classes: set[type] = set()
        self.extractors: list[FeatureExtractor] = []
        self._hint = _OF_OTHERS

    def pack(self, value: Any, key: str) -> Any:
        """JSON form of a value; `key` is its place."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.str_):
            return str(value)
        if isinstance(value, np.generic):
            return {"$scalar": self._array(np.array(value), key)}
        if isinstance(value, np.ndarray):
            return self._pack_array(value, key)
        if isinstance(value, PurePath):
            return {"$path": str(value)}
        if isinstance(value, FeatureStore):  # as a path the same store
            return {"$path": str(value.folder)}
        if type(value) in (list, tuple):
            items = [self.pack(item, f"{key}.{i}") for i, item in enumerate(value)]
            return {"$tuple": items} if isinstance(value, tuple) else items
        if type(value) is dict:
            return {"$dict": self._pack_pairs(value, key)}
        if isinstance(value, pd.DataFrame):
            return self._pack_table(value, key)
        if isinstance(value, type):
            raise self._refusal(value, key)
        if isinstance(value, BaseEstimator) or is_of_scikit_learn(type(value)):
            return self._pack_estimator(value, key)
        if hasattr(value, "state_dict") and hasattr(value, "sizes"):  # a torch net of ours
            return self._pack_net(value, key)
        if dataclasses.is_dataclass(value):
            return self._pack_dataclass(value, key)
        raise self._refusal(value, key)

    def _refusal(self, value: Any, key: str, why: str = "") -> TypeError:
        text = " ".join(repr(value).split())
        text = text if len(text) < 80 else f"of type {type(value).__name__}"
        why = why or f"a {type(value).__name__} would not come back as it is"
        return TypeError(f"{key.strip('.')} ({text}) cannot be saved: {why}. {self._hint}")

    # ---------------------------------------------------------------- one method per kind

    def _array(self, value: np.ndarray, key: str) -> str:
        if value.dtype.newbyteorder("=") not in _DTYPES:
            raise self._refusal(value, key, f"arrays of {value.dtype} have no exact form")
        native = value.dtype.newbyteorder("=")
        if native == value.dtype and has_own_file(value):
            self.arrays[key] = np.asarray(value)  # may be a part of a larger map: no copy
            return key
        self.arrays[key] = np.ascontiguousarray(value, native).reshape(value.shape)
        return key

    def _pack_array(self, value: np.ndarray, key: str) -> Any:
        if type(value) not in (np.ndarray, np.memmap):
            raise self._refusal(value, key, f"a {type(value).__name__} would become a plain array")
        if value.dtype.kind in "OU":
            plain = (str, float, int, bool, type(None))
            if not all(type(item) in plain or isinstance(item, np.str_) for item in value.flat):
                raise self._refusal(value, key, "it holds objects that are no text and no number")
            return {"$strings": value.tolist(), "dtype": value.dtype.str}
        # Products of matrices sum in another order if rows and columns are stored the other way.
        as_columns = value.flags.f_contiguous and not value.flags.c_contiguous
        if value.ndim > 1 and (as_columns or (has_own_file(value) and by_columns(value))):
            return {"$array": self._array(value.T, key), "order": "F"}
        return {"$array": self._array(value, key)}

    def _pack_pairs(self, value: Mapping, key: str) -> list:
        pairs = [(k.item() if isinstance(k, np.generic) else k, item) for k, item in value.items()]
        if wrong := [k for k, _ in pairs if not isinstance(k, (str, int, float, type(None)))]:
            raise TypeError(f"{key.strip('.')} has the key {wrong[0]!r}, which cannot be saved")
        return [[k, self.pack(item, f"{key}.{k}")] for k, item in pairs]

    def _pack_table(self, value: pd.DataFrame, key: str) -> Any:
        n = len(value)
        if not (isinstance(value.index, pd.RangeIndex) and value.index.equals(pd.RangeIndex(n))):
            raise self._refusal(value, key, "its index would be lost: use reset_index()")
        columns = []
        for i, name in enumerate(value.columns):
            dtype = value.dtypes.iloc[i]
            text = pd.api.types.is_string_dtype(dtype) or dtype.kind == "O"
            if not (text or isinstance(dtype, np.dtype)) or type(name) not in (str, int):
                raise self._refusal(value, key, f"its column {name!r} of {dtype} would change")
            column = value.iloc[:, i].to_numpy(object) if text else value.iloc[:, i].to_numpy()
            columns.append([name, self.pack(column, f"{key}.{name}")])
        return {"$table": columns}

    def _pack_net(self, value: Any, key: str) -> Any:
        import torch

        weights = {}
        for name, tensor in value.state_dict().items():
            if not isinstance(tensor, torch.Tensor) or tensor.dtype == torch.bfloat16:
                raise self._refusal(value, key, f"its weight {name} has no exact form in NumPy")
            weights[name] = tensor.detach().cpu().numpy()
        self._note(type(value), key)
        return {
            "$net": type(value).__name__,
            "sizes": self.pack(dict(value.sizes), f"{key}.sizes"),
            "weights": self.pack(weights, f"{key}.weights"),
        }

    def _pack_dataclass(self, value: Any, key: str) -> Any:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        more = set(getattr(value, "__dict__", {})) - set(fields)
        cached = functools.cached_property
        if lost := [n for n in more if not isinstance(getattr(type(value), n, None), cached)]:
            raise self._refusal(value, key, f"its attribute {lost[0]} is no field")
        self._note(type(value), key)
        packed = {name: self.pack(item, f"{key}.{name}") for name, item in fields.items()}
        return {"$class": type(value).__name__, "fields": packed}

    def _pack_estimator(self, estimator: Any, key: str) -> Any:
        kind = type(estimator)
        self._note(kind, key)
        if is_of_scikit_learn(kind) and not isinstance(estimator, BaseEstimator):
            attributes = {n: self.pack(v, f"{key}.{n}") for n, v in vars(estimator).items()}
            return {"$class": kind.__name__, "attributes": attributes}
        outside = self._hint
        if is_regressor(kind):
            self._hint = _OF_REGRESSORS
        elif self._hint is not _OF_REGRESSORS and (
            isinstance(estimator, FeatureExtractor) or is_of_scikit_learn(kind)
        ):
            self._hint = _OF_EXTRACTORS
        given = estimator.get_params(deep=False)
        parameters = {n: self.pack(v, f"{key}.{n}") for n, v in given.items()}
        if isinstance(estimator, FeatureExtractor) and hasattr(estimator, "image_shape_"):
            self.extractors.append(estimator)
        state = {n: self.pack(v, f"{key}.{n}") for n, v in _state(estimator, given, key).items()}
        self._hint = outside
        packed = {"$class": kind.__name__, "parameters": parameters, "state": state}
        if is_of_scikit_learn(kind):
            packed["version"] = sklearn.__version__
        return packed

    def _note(self, kind: type, key: str) -> None:
        """Note a class; refuse one of the user's that `load` would take for another."""
        known = known_class(kind.__name__)
        if known is kind:
            return
        if known is not None:
            raise TypeError(
                f"{key.strip('.') or 'the encoder'} is of a class {kind.__module__}."
                f"{kind.__name__}, and brainenc.load would take the name for "
                f"{known.__module__}.{kind.__name__}: give your class another name"
            )
        if twins := [c for c in self.classes if c.__name__ == kind.__name__ and c is not kind]:
            raise TypeError(
                f"the encoder uses two classes named {kind.__name__}, of {kind.__module__} and "
                f"{twins[0].__module__}: give one of them another name"
            )
        self.classes.add(kind)


def _state(estimator: BaseEstimator, parameters: Mapping, key: str) -> dict[str, Any]:
    """Attributes beside the parameters.

    Of brainenc's classes these are the fitted ones, which end in ``_``; of others all that a pickle
    would have. A fitted extractor has the identity of its weights and features of a test picture.
    """
    kind = type(estimator)
    found = dict(estimator.__getstate__())
    found = {n: v for n, v in found.items() if n not in parameters and n != "_sklearn_version"}
    if known_class(kind.__name__) is kind and not is_of_scikit_learn(kind):
        found = {n: v for n, v in found.items() if not n.startswith("_")}
        if other := [n for n in found if not n.endswith("_")]:
            raise TypeError(
                f"{key.strip('.') or kind.__name__} has the attribute {other[0]}, which is neither "
                "a parameter nor a fitted attribute (these end in _) and would be lost: delete it"
            )
    if isinstance(estimator, FeatureExtractor) and "image_shape_" in found:
        # A loaded extractor keeps those that it was saved with.
        if "weights_" not in found and (weights := estimator.weights()) is not None:
            found["weights_"] = weights
        if "probe_" not in found:
            found["probe_"] = probe(estimator)
    return found
