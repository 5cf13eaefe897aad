"""SklearnEncoder: regressors and pipelines of scikit-learn with the encoders' contract."""

import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import BaggingRegressor, RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    BayesianRidge,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeCV,
)
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils.estimator_checks import estimator_checks_generator

import brainenc
from brainenc.encoders import as_encoder
from brainenc.encoders.sklearn_encoder import divided

FEW = {
    **{"n_bootstraps": 20, "n_permutations": 20, "n_draws": 10, "cv": 3},
    **{"check": False, "controls": False, "verbose": False},
}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 8))
    return X, X[:, None, :5] + rng.standard_normal((90, 3, 5))


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(80, 20, random_state=0)


def checks():
    for estimator, check in estimator_checks_generator(brainenc.SklearnEncoder(Ridge())):
        name = getattr(check, "func", check).__name__
        marks = []
        if name == "check_regressor_multioutput":
            reason = "predictions are float32, as betas are on disk"
            marks = [pytest.mark.xfail(reason=reason, strict=True)]
        yield pytest.param(estimator, check, id=name, marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn feeds degenerate data on purpose
        check(estimator)


REGRESSORS = {
    "ridge": Ridge(2.0),
    "pipeline": make_pipeline(StandardScaler(), PCA(5, random_state=0), RidgeCV([1.0, 10.0])),
    "target": TransformedTargetRegressor(Lasso(0.01), transformer=StandardScaler()),
    "partial least squares": PLSRegression(2),
    "kernel": KernelRidge(alpha=2.0, kernel="rbf"),
    "one target at a time": SVR(),
    "neighbours": KNeighborsRegressor(algorithm="brute"),
    "nested": make_pipeline(StandardScaler(), make_pipeline(PCA(3), BayesianRidge())),
    "bagging": BaggingRegressor(Ridge(), 4, random_state=0),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_predictions_are_those_of_the_regressor_on_averages(name, problem, tmp_path):
    X, betas = problem
    regressor = REGRESSORS[name]
    encoder = brainenc.SklearnEncoder(regressor)
    held_out = encoder.fit_held_out(X, betas)
    averages = betas.mean(axis=1)
    single = name in ("one target at a time", "nested", "bagging")
    expected = MultiOutputRegressor(clone(regressor)) if single else clone(regressor)
    found = encoder.predict(X)
    np.testing.assert_allclose(found, expected.fit(X, averages).predict(X), atol=1e-5)
    # Held-out predictions are of fits that lack the image.
    rows = KFold(5, shuffle=True, random_state=0).split(X)
    for train, test in rows:
        fold = clone(expected).fit(X[train], averages[train])
        np.testing.assert_allclose(held_out[test], fold.predict(X[test]), atol=1e-5)
    residuals = betas - held_out[:, None]
    np.testing.assert_allclose(encoder.noise_.variance, (residuals**2).mean((0, 1)), rtol=1e-4)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(X), found)
    np.testing.assert_array_equal(
        loaded.sample(X, n=2, random_state=0), encoder.sample(X, n=2, random_state=0)
    )


def test_voxels_are_fitted_to_the_images_that_they_have(problem):
    X, betas = problem
    betas = betas.copy()
    betas[:, :, 4] = np.nan
    betas[:20, :, 1:3] = np.nan
    betas[:, 1, 0] = np.nan
    encoder = brainenc.SklearnEncoder(Ridge()).fit(X, betas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # means of images without data
        averages = np.nanmean(betas, axis=1)
    found = encoder.predict(X)
    assert np.isnan(found[:, 4]).all()
    assert encoder.group_[4] == -1
    for voxel in range(4):
        rows = np.isfinite(averages[:, voxel])
        expected = Ridge().fit(X[rows], averages[rows, voxel]).predict(X)
        np.testing.assert_allclose(found[:, voxel], expected, atol=1e-5)
    with pytest.raises(AttributeError, match="2 fitted regressors"):
        _ = encoder.regressor_
    betas[3:, :, 0] = np.nan
    with pytest.warns(UserWarning, match="1 voxels have data for fewer than 5 images"):
        few = brainenc.SklearnEncoder(Ridge()).fit(X, betas)
    assert np.isnan(few.predict(X)[:, 0]).all()


def test_parameters_and_clones(problem):
    X, betas = problem
    encoder = brainenc.SklearnEncoder(Ridge()).set_params(regressor__alpha=7.0, cv=3)
    assert clone(encoder).get_params()["regressor__alpha"] == 7.0
    search = GridSearchCV(encoder, {"regressor__alpha": [0.1, 1e4]}, cv=3).fit(X, betas)
    assert search.best_params_ == {"regressor__alpha": 0.1}
    assert not hasattr(encoder.regressor, "coef_")  # the user's own is not fitted


@pytest.mark.parametrize(
    ("regressor", "message"),
    [
        (RandomForestRegressor(3), r"estimators_\.0\.tree_ .*Ways on: .*RidgeCV.*joblib"),
        (GridSearchCV(Ridge(), {"alpha": [1.0]}), r"scorer_ .*best_estimator_"),
        (
            TransformedTargetRegressor(Ridge(), func=np.arcsinh, inverse_func=np.sinh),
            r"regressor\.func .*Ways on",
        ),
        (make_pipeline(StandardScaler(), KNeighborsRegressor(algorithm="kd_tree")), r"1\._tree"),
    ],
)
def test_what_cannot_be_saved_is_named(regressor, message, problem, tmp_path):
    encoder = brainenc.SklearnEncoder(regressor).fit(*problem)
    with pytest.raises(TypeError, match=message):
        encoder.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [None, Ridge, "ridge", StandardScaler()])
def test_no_regressor_is_refused(wrong, problem):
    with pytest.raises(TypeError, match="must be an estimator with fit and predict"):
        brainenc.SklearnEncoder(wrong).fit(*problem)


def test_an_encoder_needs_no_wrapper(problem):
    with pytest.raises(TypeError, match="holds an encoder of brainenc"):
        brainenc.SklearnEncoder(brainenc.RidgeEncoder()).fit(*problem)


class Short(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Predicts too few numbers."""

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.zeros(3)


def test_predictions_of_another_shape_are_refused(problem):
    with pytest.raises(ValueError, match=r"Short\.predict returned an array of shape \(3,\)"):
        brainenc.SklearnEncoder(Short()).fit(*problem)


def test_the_conversion():
    ridge = brainenc.RidgeEncoder()
    kept = [
        ridge,
        make_pipeline(StandardScaler(), ridge),
        GridSearchCV(ridge, {"cv": [3]}),
        StandardScaler(),
        Ridge,
        "ridge",
    ]
    for estimator in kept:
        assert as_encoder(estimator) is estimator
    for estimator in [Ridge(), make_pipeline(PCA(), Ridge()), DummyRegressor()]:
        assert as_encoder(estimator).regressor is estimator
    own = Short()
    assert as_encoder(own).regressor is own
    for own in (DrawsItself(), TakesRepeats(), make_pipeline(StandardScaler(), TakesRepeats())):
        assert as_encoder(own) is own


class LeastSquares:
    """A regressor of a class of one's own, which knows nothing of scikit-learn."""

    def fit(self, X, y):
        self.weights_ = np.linalg.lstsq(X, y, rcond=None)[0]
        return self

    def predict(self, X):
        return X @ self.weights_


class NamedParameters(LeastSquares, BaseEstimator):
    """The same with the parameters of scikit-learn, but not declared to be a regressor."""


class Declared(RegressorMixin, NamedParameters):
    """The same, a regressor."""


class TakesRepeats(Declared):
    """A regressor of betas with repeats."""

    takes_repeats = True


class DrawsItself(NamedParameters):
    """An encoder that does not derive from `BaseEncoder`."""

    def sample(self, X, n=5, random_state=None):
        return np.repeat(self.predict(X)[None], n, axis=0)


@pytest.mark.parametrize("own", [LeastSquares(), NamedParameters()])
def test_what_does_not_say_that_it_is_a_regressor_is_refused_unless_it_is_wrapped(
    own, data, problem
):
    kind = type(own).__name__
    message = rf"'mine' is a {kind} .*wrap it: brainenc\.SklearnEncoder\({kind}\(…\), features=…\)"
    with pytest.raises(TypeError, match=message):
        brainenc.benchmark(data, {"mine": own}, **FEW)
    with pytest.raises(TypeError, match=message):
        brainenc.StackedEncoder({"mine": own}).fit(*problem)
    with pytest.raises(TypeError, match=f"the encoder is a {kind} "):
        brainenc.CalibratedEncoder(own).fit(*problem)


def test_a_classifier_is_refused(data):
    with pytest.raises(TypeError, match="'mine' is a LogisticRegression, a classifier: "):
        brainenc.benchmark(data, {"mine": LogisticRegression()}, **FEW)


@pytest.mark.parametrize(
    "own",
    [
        Declared(),
        make_pipeline(StandardScaler(), Declared()),
        brainenc.SklearnEncoder(NamedParameters()),
        brainenc.SklearnEncoder(LeastSquares()),
    ],
)
def test_own_regressors_get_features_and_averages(own, data, tmp_path):
    features = np.random.default_rng(0).standard_normal((len(data.images), 4))
    result = brainenc.benchmark(data, {"mine": own}, features={"mine": features}, **FEW)
    assert result.encoders.set_index("encoder").loc["mine", "error"] == ""
    train = result.folds["fold"] != 0
    X = features[train]
    if isinstance(own, Pipeline):
        X, features = ((part - X.mean(axis=0)) / X.std(axis=0) for part in (X, features))
    weights = np.linalg.lstsq(X, np.nanmean(data.betas[train], axis=1), rcond=None)[0]
    expected = features[~train] @ weights
    np.testing.assert_allclose(result.predictions("mine")[~train], expected, atol=1e-4)


def test_a_regressor_without_parameters_is_copied_and_not_saved(problem, tmp_path):
    regressor = LeastSquares()
    encoder = brainenc.SklearnEncoder(regressor).fit(*problem)
    assert not hasattr(regressor, "weights_")
    with pytest.raises(TypeError, match="LeastSquares"):
        encoder.save(tmp_path / "model")


def test_a_pipeline_that_begins_with_extractors_takes_images(data, tmp_path):
    pixels = brainenc.PixelFeatures(size=4)
    pipeline = make_pipeline(pixels, StandardScaler(), PCA(5), Ridge())
    extractor, rest = divided(pipeline)
    assert isinstance(extractor, brainenc.PixelFeatures)
    assert [name for name, _ in rest.steps] == ["standardscaler", "pca", "ridge"]
    encoder = brainenc.SklearnEncoder(pipeline).fit(data.images, data.betas)
    features = pixels.fit_transform(data.images)
    expected = clone(rest).fit(features, np.nanmean(data.betas, axis=1)).predict(features)
    np.testing.assert_allclose(encoder.predict(data.images), expected, atol=1e-4)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(data.images), encoder.predict(data.images))


class Rows(PCA):
    """PCA that notes how many images it is fitted to."""

    seen: list[int] = []  # noqa: RUF012

    def _fit(self, X):
        Rows.seen.append(len(X))
        return super()._fit(X)


def test_benchmark_takes_regressors_and_fits_what_learns_in_every_fold(data):
    Rows.seen.clear()
    pixels = brainenc.PixelFeatures(size=4)
    encoders = {
        "pipeline": make_pipeline(pixels, Rows(5), Ridge()),
        "learned": brainenc.SklearnEncoder(Ridge(), features=make_pipeline(pixels, Rows(5))),
    }
    result = brainenc.benchmark(data, encoders, **FEW)
    table = result.encoders.set_index("encoder")
    assert (table["error"] == "").all()
    assert table["r"].drop("mean").notna().all()
    assert {"pipeline", "learned"} <= set(result.draws["encoder"])
    assert max(Rows.seen) <= 54  # two thirds of 80 images
    given = brainenc.benchmark(
        data, {"lasso": Lasso(0.01)}, features=pixels.fit_transform(data.images), **FEW
    )
    assert given.encoders.set_index("encoder").loc["lasso", "error"] == ""


def test_stacks_and_calibration_take_regressors(problem):
    X, betas = problem
    stack = brainenc.StackedEncoder({"a": Ridge(), "b": DummyRegressor()}).fit(X, betas)
    own = [brainenc.SklearnEncoder(Ridge()), brainenc.SklearnEncoder(DummyRegressor())]
    expected = brainenc.StackedEncoder(own).fit(X, betas).predict(X)
    np.testing.assert_array_equal(stack.predict(X), expected)
    stack.set_params(a__regressor__alpha=3.0, b__cv=4)
    assert stack.get_params()["a__regressor__alpha"] == 3.0
    assert stack.get_params()["b__cv"] == 4
    calibrated = brainenc.CalibratedEncoder(LinearRegression(), cv=3).fit(X, betas)
    low, high = calibrated.predict_interval(X)
    assert (low < high).all()


def test_cross_validation_of_pipelines(problem):
    X, betas = problem
    encoder = brainenc.SklearnEncoder(make_pipeline(PCA(4), Ridge()))
    folds = ShuffleSplit(2, test_size=0.3, random_state=0)
    assert np.isfinite(cross_val_score(encoder, X, betas, cv=folds)).all()
