"""Estimators as plain values, for manifests and cache keys."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator


def describe(estimator: BaseEstimator) -> dict[str, Any]:
    """Class and parameters of an estimator as plain values, for manifests and cache keys.

    Feature extractors are described by their key, which tells one set of weights from another.
    """
    if callable(getattr(estimator, "key", None)):
        return {"class": type(estimator).__name__, **estimator.key()}
    return {
        "class": type(estimator).__name__,
        "module": type(estimator).__module__,
        "parameters": {
            key: _describe_value(value) for key, value in estimator.get_params(deep=False).items()
        },
    }


def _describe_value(value: Any) -> Any:
    if callable(getattr(value, "key", None)):  # an extractor, whose key knows its weights
        return value.key()
    if isinstance(value, BaseEstimator):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): _describe_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe_value(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)
