"""Classes that a saved model may name without being given to `load`."""

from importlib import import_module
from typing import Any

from brainenc import encoders, features

#: Transformers and splitters of scikit-learn that hold plain values and arrays only, by module.
_OF_SCIKIT_LEARN = {
    "sklearn.pipeline": ("Pipeline", "FeatureUnion"),
    "sklearn.preprocessing": (
        *("MaxAbsScaler", "MinMaxScaler", "Normalizer", "PowerTransformer", "QuantileTransformer"),
        *("RobustScaler", "StandardScaler"),
    ),
    "sklearn.decomposition": ("PCA", "FastICA", "FactorAnalysis", "IncrementalPCA", "TruncatedSVD"),
    "sklearn.feature_selection": ("VarianceThreshold",),
    "sklearn.random_projection": ("GaussianRandomProjection",),
    "sklearn.model_selection": (
        *("KFold", "GroupKFold", "GroupShuffleSplit", "LeaveOneGroupOut", "LeaveOneOut"),
        *("LeavePGroupsOut", "LeavePOut", "PredefinedSplit", "ShuffleSplit", "StratifiedKFold"),
        *("TimeSeriesSplit",),
    ),
}
_MODULES = {name: module for module, names in _OF_SCIKIT_LEARN.items() for name in names}


def own_class(name: str) -> Any:
    """What brainenc calls by this public name among encoders and extractors; None if nothing."""
    for module in (encoders, features):
        if name in module.__all__:
            return getattr(module, name)
    return None


def scikit_learn_class(name: str) -> type | None:
    """Class of scikit-learn in the list above, or None."""
    return getattr(import_module(_MODULES[name]), name) if name in _MODULES else None


def is_of_scikit_learn(found: type) -> bool:
    """Whether this very class is in the list above."""
    in_the_list = found.__module__.startswith("sklearn.") and found.__name__ in _MODULES
    return in_the_list and scikit_learn_class(found.__name__) is found


def is_encoder(found: type) -> bool:
    """Whether a class is one of encoders."""
    # By name: the base class saves through this file, and files import one another in no circle.
    return issubclass(found, own_class("BaseEncoder"))


def is_extractor(found: type) -> bool:
    """Whether a class is one of feature extractors."""
    return issubclass(found, own_class("FeatureExtractor"))


def known_class(name: str) -> Any:
    """The class that `load` takes for a name without `classes`; None if there is none."""
    found = own_class(name)
    return scikit_learn_class(name) if found is None else found
