"""Estimators as plain values, for manifests and cache keys."""

from typing import Any

from sklearn.base import BaseEstimator

from brainenc.identity import identity


def describe(estimator: BaseEstimator) -> dict[str, Any]:
    """Class and parameters of an estimator as plain values, for manifests and cache keys.

    Equal descriptions are of estimators that compute the same: arrays, tensors, tables, functions
    and other objects enter by content (`brainenc.identity.identity`), feature extractors by their
    key, which tells one set of weights from another.
    """
    if callable(getattr(estimator, "key", None)):
        return {"class": type(estimator).__name__, **identity(estimator)}
    return identity(estimator)
