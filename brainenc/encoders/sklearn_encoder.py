"""SklearnEncoder: any regressor or pipeline of scikit-learn's kind as an encoder."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags

from brainenc.documentation import see
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.function_draws import (
    Functions,
    Streams,
    functions_of_members,
    some_images,
    variance_of_members,
)
from brainenc.features.base import FeatureExtractor
from brainenc.features.learned import first
from brainenc.late_imports import if_imported
from brainenc.repeats import average_repeats
from brainenc.solvers.voxels import flatten_tokens, folds_of_rows, missing_patterns


class SklearnEncoder(BaseEncoder):
    """A regressor or pipeline of scikit-learn's kind as an encoder.

    The regressor is fitted to features (tokens flattened) and to averages over repeats, as ridge
    is. Voxels that lack the same images are fitted together to the images they have; voxels without
    data are predicted as NaN. Held-out predictions, from which the distribution of single trials is
    estimated, come from refits on folds: a fit is ``cv`` + 1 fits of the regressor.

    Parameters
    ----------
    regressor : object with fit and predict
        A copy is fitted. Its class may be your own, without base classes of scikit-learn. One that
        takes a single target is fitted voxel by voxel. The first steps of a pipeline may be feature
        extractors, which take images: they are then the `features` of the encoder. All other steps,
        a PCA for example, are fitted to training images alone, in every fold.
    features : "auto", None or transformer
        As for `RidgeEncoder`; "auto" are the extractors that the pipeline begins with, if it does.
    cv : int, splitter or iterable of (train, test)
        Folds over images for held-out predictions; an int means shuffled folds.
    random_state : int
        Seed of the shuffled folds. Regressors have seeds of their own.

    Attributes
    ----------
    regressors_ : list of estimators
        One for each set of voxels that lack the same images; a single one if no image is missing.
    regressor_ : estimator
        The single one.
    group_ : array of int, shape (n_voxels,)
        Regressor of each voxel; -1 for a voxel that was not fitted.

    Notes
    -----
    `save` writes the parameters and fitted attributes of regressors that hold numbers, arrays and
    text: linear models, partial least squares, kernel ridge, support vectors, neighbours with
    ``algorithm="brute"``, in pipelines and `TransformedTargetRegressor` too. It refuses others
    (trees, neural networks), naming the attribute.

    ``sample(noise="weights")`` draws from the members of a `BaggingRegressor`; other regressors
    need `brainenc.encoders.add_refits`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> encoder = brainenc.SklearnEncoder(make_pipeline(PCA(6), LinearRegression()))
    >>> encoder.fit(features[:100], betas[:100]).predict(features[100:]).shape
    (20, 5)
    >>> encoder.sample(features[100:], n=3).shape
    (3, 20, 5)
    """

    def __init__(
        self,
        regressor: Any,
        *,
        features: Any = "auto",
        cv: Any = 5,
        random_state: int | None = 0,
    ):
        self.regressor = regressor
        self.features = features
        self.cv = cv
        self.random_state = random_state

    @property
    def regressor_(self) -> Any:
        """The fitted regressor, if all voxels have one."""
        if len(self.regressors_) != 1:
            raise AttributeError(
                f"there are {len(self.regressors_)} fitted regressors, one for each set of voxels "
                "that lack the same images: see regressors_ and group_"
            )
        return self.regressors_[0]

    @property
    def _given_features(self) -> Any:
        if isinstance(self.features, str) and self.features == "auto":
            extractor, _ = divided(self.regressor)
            return self.features if extractor is None else extractor
        return self.features

    def _check_parameters(self) -> None:
        regressor = self.regressor
        if isinstance(regressor, type) or not _fits_and_predicts(regressor):
            raise TypeError(
                f"regressor={regressor!r} must be an estimator with fit and predict, such as "
                "sklearn.linear_model.Ridge()" + see("howto_pipeline")
            )
        if isinstance(innermost(regressor), BaseEncoder):
            raise TypeError(
                f"regressor={regressor!r} holds an encoder of brainenc, which needs no "
                "SklearnEncoder: use it as it is"
            )

    # ---------------------------------------------------------------- fitting

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        X, Y = flatten_tokens(features), average_repeats(betas)
        self.regressors_: list[Any] = []
        self.group_ = np.full(Y.shape[1], -1, dtype=np.int32)
        held_out = np.full(Y.shape, np.nan, dtype=np.result_type(X, Y, np.float32))
        smallest = min(self.cv if isinstance(self.cv, int) else 2, len(Y))
        n_left_out = 0
        for rows, voxels in missing_patterns(Y):
            if len(rows) < smallest:
                n_left_out += len(voxels)
                continue
            own, targets = X[rows], Y[np.ix_(rows, voxels)]
            for train, test in folds_of_rows(self.cv, rows, len(X), random_state=self.random_state):
                fitted = self._fitted(own[train], targets[train])
                held_out[np.ix_(rows[test], voxels)] = predicted(fitted, own[test], len(voxels))
            self.group_[voxels] = len(self.regressors_)
            self.regressors_.append(self._fitted(own, targets))
        if n_left_out:
            warnings.warn(
                f"{n_left_out} voxels have data for fewer than {smallest} images: not fitted, and "
                "predicted as NaN",
                stacklevel=4,
            )
        if len(members := self._of_members(X[some_images(len(X))])) > 1:
            self.member_variance_ = variance_of_members(members)
        return held_out

    def _fitted(self, X: np.ndarray, Y: np.ndarray) -> Any:
        """A fitted copy of the regressor."""
        # Not safe: an object without `get_params` is copied as it is.
        regressor = clone(divided(self.regressor)[1], safe=False)
        single, multiple = _targets_of(regressor)
        if Y.shape[1] == 1 and single:
            return regressor.fit(X, Y[:, 0])
        if multiple:
            return regressor.fit(X, Y)
        from sklearn.multioutput import MultiOutputRegressor

        return MultiOutputRegressor(regressor).fit(X, Y)

    # ---------------------------------------------------------------- predicting and drawing

    def _predict(self, features: np.ndarray) -> np.ndarray:
        X = flatten_tokens(features)
        parts = [
            predicted(regressor, X, int((self.group_ == g).sum()))
            for g, regressor in enumerate(self.regressors_)
        ]
        if len(parts) == 1 and (self.group_ == 0).all():
            return parts[0]
        return self._joined(parts, len(X))

    def _joined(self, parts: list[np.ndarray], n_images: int) -> np.ndarray:
        found = np.full((n_images, self.n_voxels_), np.nan, dtype=np.float32)
        for g, part in enumerate(parts):
            found[:, self.group_ == g] = part
        return found

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        """Draws vary as members of a bagging ensemble do; refused for others."""
        members = self._of_members(flatten_tokens(features))
        if len(members) < 2:
            return super()._functions(features, n, streams)
        return functions_of_members(self, members, features, n, streams)

    def _of_members(self, X: np.ndarray) -> list[np.ndarray]:
        """Predictions (n_images, n_voxels) of the members of bagging ensembles; none of others."""
        groups = [_member_predictions(regressor, X) for regressor in self.regressors_]
        if min(map(len, groups), default=0) == 0:
            return []
        return [self._joined(list(parts), len(X)) for parts in zip(*groups, strict=True)]


def as_encoder(estimator: Any, name: str | None = None) -> Any:
    """The encoder for an estimator that a user gives: the one place of this conversion.

    Parameters
    ----------
    estimator : object
        Regressors, of scikit-learn, other libraries and the user's own classes, become encoders.
        Encoders, and pipelines and searches that end in one, are returned as they are; so are
        objects that say that they take betas with repeats, by a method ``sample`` or by the
        attribute ``takes_repeats = True``, and what has no predict.
    name : str, optional
        Name of the estimator among several, for errors.

    Returns
    -------
    estimator; for regressors a `SklearnEncoder` of it

    Raises
    ------
    TypeError : the estimator has fit and predict, and says that it is a classifier or the like, or
        does not say what it is: whether it takes images or features, and betas with or without
        repeats, is then unknown.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from brainenc.encoders import as_encoder
    >>> as_encoder(Ridge())
    SklearnEncoder(regressor=Ridge())
    """
    if isinstance(estimator, type) or not _fits_and_predicts(estimator):
        return estimator
    inner = innermost(estimator)
    takes_repeats = hasattr(inner, "sample") or getattr(inner, "takes_repeats", False)
    if isinstance(inner, BaseEncoder) or takes_repeats:
        return estimator
    if _kind(estimator) == "regressor":
        return SklearnEncoder(estimator)
    which = "the encoder" if name is None else f"encoder {name!r}"
    kind = type(estimator).__name__
    if (says := _kind(estimator)) is not None:
        raise TypeError(f"{which} is a {kind}, a {says}: responses of voxels need a regressor")
    raise TypeError(
        f"{which} is a {kind} with fit and predict, and does not say that it is a regressor. If it "
        "takes features and one average per image and voxel, wrap it: "
        f"brainenc.SklearnEncoder({kind}(…), features=…). If it takes betas with their repeats, "
        "make it a subclass of brainenc.BaseEncoder" + see("howto_pipeline")
    )


def _fits_and_predicts(estimator: Any) -> bool:
    return hasattr(estimator, "fit") and hasattr(estimator, "predict")


def innermost(estimator: Any) -> Any:
    """The last step of a pipeline, the estimator of a search, and so on."""
    while not isinstance(estimator, BaseEncoder):
        inner = [getattr(estimator, name, None) for name in ("estimator", "regressor")]
        if _is_pipeline(estimator) and estimator.steps:
            inner = [estimator.steps[-1][1]]
        inner = [part for part in inner if isinstance(part, BaseEstimator)]
        if not inner:
            break
        estimator = inner[0]
    return estimator


def divided(regressor: Any) -> tuple[Any, Any]:
    """Extractors that a pipeline begins with (None if it does not), and the regressor after them.

    Parameters
    ----------
    regressor : estimator

    Returns
    -------
    extractor : transformer of images, or None
    rest : estimator; the last step alone if nothing else is left
    """
    if not _is_pipeline(regressor):
        return None, regressor
    steps = regressor.steps
    n = 0
    while n < len(steps) - 1 and _takes_images(steps[n][1]):
        n += 1
    if n == 0:
        return None, regressor
    from sklearn.pipeline import Pipeline

    rest = steps[n][1] if n == len(steps) - 1 else Pipeline(steps[n:])
    return first(steps, n), rest


def _is_pipeline(estimator: Any) -> bool:
    return isinstance(estimator, if_imported("sklearn.pipeline", "Pipeline"))


def _takes_images(transformer: Any) -> bool:
    if _is_pipeline(transformer):
        return bool(transformer.steps) and _takes_images(transformer.steps[0][1])
    if isinstance(transformer, if_imported("sklearn.pipeline", "FeatureUnion")):
        return any(_takes_images(part) for _, part in transformer.transformer_list)
    return isinstance(transformer, FeatureExtractor)


def _kind(estimator: Any) -> str | None:
    """What an estimator says that it is, such as "regressor"; None if it does not."""
    try:
        return get_tags(estimator).estimator_type
    except Exception:  # tags of another version of scikit-learn, or none
        return getattr(estimator, "_estimator_type", None)


def _targets_of(regressor: Any) -> tuple[bool, bool]:
    """Whether it takes one target (n_images,), and whether several (n_images, n_voxels)."""
    try:
        tags = get_tags(regressor).target_tags
    except Exception:  # tags of another version of scikit-learn: it says itself what it cannot
        return True, True
    return bool(tags.single_output), bool(tags.multi_output)


def predicted(regressor: Any, X: np.ndarray, n_voxels: int) -> np.ndarray:
    """Predictions (n_images, n_voxels) of a fitted regressor, checked.

    Raises
    ------
    ValueError : they have another shape.
    """
    found = np.asarray(regressor.predict(X))
    if found.size != len(X) * n_voxels:
        raise ValueError(
            f"{type(regressor).__name__}.predict returned an array of shape {found.shape} for "
            f"{len(X)} images and {n_voxels} voxels: it must be (n_images, n_voxels)"
        )
    return found.reshape(len(X), n_voxels)


def _member_predictions(regressor: Any, X: np.ndarray) -> list[np.ndarray]:
    """Predictions (n_images, n_voxels) of the members of a bagging ensemble; none of others."""
    if _is_pipeline(regressor):
        X = regressor[:-1].transform(X) if len(regressor.steps) > 1 else X
        return _member_predictions(regressor.steps[-1][1], X)
    if isinstance(regressor, if_imported("sklearn.multioutput", "MultiOutputRegressor")):
        # An ensemble for each voxel.
        of_voxels = [_member_predictions(own, X) for own in regressor.estimators_]
        return [np.concatenate(parts, axis=1) for parts in zip(*of_voxels, strict=True)]
    if not isinstance(regressor, if_imported("sklearn.ensemble", "BaggingRegressor")):
        return []
    pairs = zip(regressor.estimators_, regressor.estimators_features_, strict=True)
    found = [np.asarray(member.predict(np.asarray(X)[:, columns])) for member, columns in pairs]
    return [prediction.reshape(len(prediction), -1) for prediction in found]
