"""Classes that a saved model may name without being given to `load`."""

from importlib import import_module
from typing import Any

from sklearn.base import RegressorMixin

from brainenc.late_imports import if_imported

#: Packages whose public classes a saved model may name. Decoders are above this file and are found
#: by name, when a model has one.
_OWN = ("brainenc.encoders", "brainenc.features", "brainenc.decoders")

#: Transformers, splitters and regressors of scikit-learn that hold plain values and arrays only, or
#: others of these, by module.
_OF_SCIKIT_LEARN = {
    "sklearn.pipeline": ("Pipeline", "FeatureUnion"),
    "sklearn.frozen": ("FrozenEstimator",),
    "sklearn.preprocessing": (
        *("MaxAbsScaler", "MinMaxScaler", "Normalizer", "PowerTransformer", "QuantileTransformer"),
        *("RobustScaler", "StandardScaler"),
    ),
    "sklearn.decomposition": ("PCA", "FastICA", "FactorAnalysis", "IncrementalPCA", "TruncatedSVD"),
    "sklearn.random_projection": ("GaussianRandomProjection",),
    "sklearn.compose": ("TransformedTargetRegressor",),
    "sklearn.ensemble": ("BaggingRegressor",),
    "sklearn.multioutput": ("MultiOutputRegressor",),
    "sklearn.linear_model": (
        *("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV"),
        *("MultiTaskLasso", "MultiTaskLassoCV", "MultiTaskElasticNet", "MultiTaskElasticNetCV"),
        *("Lars", "LassoLars", "OrthogonalMatchingPursuit", "BayesianRidge", "ARDRegression"),
        *("HuberRegressor", "TheilSenRegressor", "PoissonRegressor", "TweedieRegressor"),
    ),
    "sklearn.cross_decomposition": ("PLSRegression", "PLSCanonical", "CCA"),
    "sklearn.kernel_ridge": ("KernelRidge",),
    "sklearn.svm": ("SVR", "NuSVR", "LinearSVR"),
    "sklearn.neighbors": ("KNeighborsRegressor",),
    "sklearn.dummy": ("DummyRegressor",),
    "sklearn.kernel_approximation": ("Nystroem", "RBFSampler"),
    "sklearn.feature_selection": ("VarianceThreshold",),
    "sklearn.model_selection": (
        *("KFold", "GroupKFold", "GroupShuffleSplit", "LeaveOneGroupOut", "LeaveOneOut"),
        *("LeavePGroupsOut", "LeavePOut", "PredefinedSplit", "ShuffleSplit", "StratifiedKFold"),
        *("TimeSeriesSplit",),
    ),
}
_MODULES = {name: module for module, names in _OF_SCIKIT_LEARN.items() for name in names}


def own_class(name: str) -> Any:
    """What brainenc calls by this public name among encoders, extractors and decoders."""
    for module in map(import_module, _OWN):
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


def is_regressor(found: type) -> bool:
    """Whether a class is one of other libraries' regressors, or of searches over these."""
    names = ("GridSearchCV", "RandomizedSearchCV")
    searches = tuple(if_imported("sklearn.model_selection", name) for name in names)
    predicts = issubclass(found, (RegressorMixin, *searches))
    return predicts and not is_encoder(found)


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
