"""Features that learn: what is shared, what is fitted anew, against scikit-learn's own fits."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

import brainenc
from brainenc.features.learned import learns, share
from brainenc.model_selection import image_folds

FEW = {"n_bootstraps": 10, "n_permutations": 9, "n_draws": 0, "check": False, "verbose": False}
FITS = []  # numbers of rows given to fits of Spy


class Spy(TransformerMixin, BaseEstimator):
    """Passes rows on and notes how many it was fitted to; flattens images."""

    def fit(self, X, y=None):
        FITS.append(len(X))
        return self

    def transform(self, X):
        return np.asarray(X, dtype=np.float32).reshape(len(X), -1)


class Declared(TransformerMixin, BaseEstimator):
    """Says that it needs no fit; true of the first kind alone."""

    def __init__(self, subtract_mean=False):
        self.subtract_mean = subtract_mean

    def fit(self, X, y=None):
        FITS.append(len(X))
        return self

    def transform(self, X):
        rows = np.asarray(X, dtype=np.float32).reshape(len(X), -1) / 255
        return rows - rows.mean(axis=0) if self.subtract_mean else rows

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class Learning(brainenc.PixelFeatures):
    """An extractor with a fit of its own, which subtracts the mean of the images."""

    def fit(self, X, y=None):
        FITS.append(len(X))
        self.mean_ = np.asarray(X, dtype=np.float32).mean() / 255
        return super().fit(X)

    def _extract(self, batch):
        return (super()._extract(batch) - self.mean_) ** 2


def pixels(size=8):
    return brainenc.PixelFeatures(size=size, verbose=False)


def gabor():
    return brainenc.GaborPyramid(2, 2, pool=2, size=32, verbose=False)


def components(n=10):
    return [Spy(), StandardScaler(), PCA(n, whiten=True, random_state=0)]


#: Features that learn, by kind.
LEARNED = {
    "pipeline": lambda: make_pipeline(pixels(), *components()),
    "union": lambda: make_union(
        make_pipeline(pixels(), *components()), make_pipeline(gabor(), *components(5)), pixels(2)
    ),
    "union, then PCA": lambda: make_pipeline(make_union(pixels(), gabor()), *components()),
    "nested": lambda: make_pipeline(make_pipeline(pixels(), StandardScaler()), *components()),
    "of images": lambda: make_pipeline(Spy(), PCA(10, random_state=0)),
    "of images beside pixels": lambda: make_union(make_pipeline(*components()), pixels(4)),
    "extractor with a fit": lambda: Learning(size=8, verbose=False),
    "mean of the rows at hand": lambda: make_pipeline(
        pixels(),
        Spy(),
        FunctionTransformer(lambda rows: rows - rows.mean(axis=0)),
        PCA(9, random_state=0),
    ),
}


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(60, 20, random_state=0)


def r_by_scikit_learn(data, encoder, cv=3):
    """Mean voxelwise r, centred within folds, of fits that see their training images alone."""
    X, betas = np.asarray(data.images), np.asarray(data.betas)
    averages, predicted = np.nanmean(betas, axis=1), np.empty((len(X), betas.shape[2]))
    for train, test in image_folds(cv, len(X)):
        found = clone(encoder).fit(X[train], betas[train]).predict(X[test])
        predicted[test] = found - found.mean(axis=0)
        averages[test] -= averages[test].mean(axis=0)
    return np.mean([np.corrcoef(p, a)[0, 1] for p, a in zip(predicted.T, averages.T, strict=True)])


def r_of(data, encoder, **options):
    result = brainenc.benchmark(data, {"it": encoder}, cv=3, **(FEW | options))
    return result.encoders.set_index("encoder")["r"]


def as_members(features):
    a, b = brainenc.RidgeEncoder(features), brainenc.RidgeEncoder(pixels())
    return {"learning": a, "pixels": b, "mean": brainenc.MeanEncoder()}


ENCODERS = {
    "ridge": brainenc.RidgeEncoder,
    "banded": lambda f: brainenc.BandedRidgeEncoder({"it": f, "pixels": pixels()}, n_iter=3),
    "stacked": lambda f: brainenc.StackedEncoder(as_members(f)),
    "calibrated": lambda f: brainenc.CalibratedEncoder(brainenc.RidgeEncoder(f), cv=2),
    "stack with features": lambda f: brainenc.StackedEncoder([brainenc.RidgeEncoder()], features=f),
    "calibrated stack": lambda f: brainenc.CalibratedEncoder(
        brainenc.StackedEncoder(as_members(f)), cv=2
    ),
}


@pytest.mark.parametrize("kind", LEARNED)
def test_a_benchmark_scores_as_scikit_learn_does(data, kind):
    encoder = brainenc.RidgeEncoder(LEARNED[kind]())
    right = r_by_scikit_learn(data, encoder)
    FITS.clear()
    assert r_of(data, encoder, references=False)["it"] == pytest.approx(right, abs=1e-6)
    assert set(FITS) == {40}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipeline", "of images"])
@pytest.mark.parametrize("name", ENCODERS)
def test_so_do_encoders_made_of_others(data, name, kind):
    encoder = ENCODERS[name](LEARNED[kind]())
    right = r_by_scikit_learn(data, encoder)
    FITS.clear()
    found = r_of(data, encoder, n_draws=4)
    assert found["it"] == pytest.approx(right, abs=1e-5)
    assert max(FITS) == 40
    # Inner folds hold their images out from the features too.
    assert (min(FITS) < 40) == (name not in ("ridge", "banded"))


@pytest.mark.parametrize("kind", LEARNED)
def test_features_given_to_the_benchmark_are_learned_per_fold(data, kind):
    right = r_by_scikit_learn(data, brainenc.RidgeEncoder(LEARNED[kind]()))
    regression = make_pipeline(LEARNED[kind](), Averaging())
    right_regression = r_by_scikit_learn(data, regression)
    FITS.clear()
    for features in (LEARNED[kind](), {"it": LEARNED[kind]()}):
        found = r_of(data, brainenc.RidgeEncoder(), features=features)
        assert found["it"] == pytest.approx(right, abs=1e-6)
    plain = r_of(data, Averaging(), features=LEARNED[kind](), references=False)
    assert plain["it"] == pytest.approx(right_regression, abs=1e-6)
    assert set(FITS) == {40}


class Averaging(LinearRegression):
    """scikit-learn's regression on averages: an encoder that has no features of its own."""

    takes_repeats = True

    def fit(self, X, y):
        return super().fit(np.asarray(X, dtype=float), np.nanmean(y, axis=1))


@pytest.mark.slow
def test_the_reference_ridge_learns_the_same_features(data):
    for name in ("calibrated", "stacked", "banded"):
        FITS.clear()
        found = r_of(data, ENCODERS[name](LEARNED["pipeline"]()))
        assert "ridge" in found.index
        assert np.isfinite(found["ridge"])
        assert max(FITS) == 40
    right = r_by_scikit_learn(data, brainenc.RidgeEncoder(LEARNED["pipeline"]()))
    found = r_of(data, ENCODERS["calibrated"](LEARNED["pipeline"]()))
    assert found["ridge"] == pytest.approx(right, abs=1e-6)


def test_extractors_before_what_learns_run_once(data):
    class Counting(brainenc.PixelFeatures):
        n_images = 0

        def _extract(self, batch):
            Counting.n_images += len(batch)
            return super()._extract(batch)

    once = Counting(size=8, verbose=False)
    encoders = {
        "ten": brainenc.RidgeEncoder(make_pipeline(once, StandardScaler(), PCA(10))),
        "five": brainenc.RidgeEncoder(make_pipeline(once, PCA(5))),
        "all": brainenc.RidgeEncoder(once),
    }
    brainenc.benchmark(data, encoders, cv=3, **FEW)
    assert Counting.n_images == 60


def test_what_learns_nothing():
    fitted = PCA(2).fit(np.random.default_rng(0).standard_normal((9, 3)))
    nothing = [
        pixels(),
        gabor(),
        Declared(),
        FrozenEstimator(fitted),
        make_pipeline(pixels(), Normalizer()),
    ]
    assert not any(map(learns, nothing))
    learning = [
        Spy(),
        PCA(2),
        fitted,
        Learning(),
        make_pipeline(pixels(), Spy()),
        make_union(pixels(), PCA(2)),
    ]
    assert all(map(learns, learning))


@pytest.mark.parametrize(
    ("transformer", "alone"),
    [
        (Declared(), True),
        (Declared(subtract_mean=True), False),
        (make_pipeline(pixels(), Normalizer()), True),
        (make_pipeline(pixels(), FunctionTransformer(np.log1p)), True),
    ],
)
def test_declared_transformers_are_shared_if_rows_do_not_depend_on_others(data, transformer, alone):
    right = r_by_scikit_learn(data, brainenc.RidgeEncoder(transformer))
    FITS.clear()
    found = r_of(data, brainenc.RidgeEncoder(transformer), references=False)["it"]
    assert found == pytest.approx(right, abs=1e-6)
    assert max(FITS, default=0) <= (1 if alone else 40)
    rest, _ = share(transformer, data.images, lambda t: t.fit(data.images).transform(data.images))
    assert (rest is None) == alone


def test_a_stored_feature_is_kept_by_what_was_learnt(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    images[10:] //= 4
    first, second = (
        Learning(store=tmp_path, verbose=False).fit(part) for part in (images[:10], images[10:])
    )
    alone = Learning(verbose=False).fit(images[10:])
    first.transform(images)
    np.testing.assert_array_equal(second.transform(images), alone.transform(images))
    assert len(list(tmp_path.iterdir())) == 2
    Learning(store=tmp_path, verbose=False).fit(images[:10]).transform(images)
    assert len(list(tmp_path.iterdir())) == 2  # the same again is found


def test_saved_encoders_that_learn_features_come_back(data, tmp_path):
    images, betas = data.images, data.betas
    encoder = ENCODERS["calibrated stack"](make_pipeline(pixels(), StandardScaler()))
    encoder.fit(images, betas)
    from sklearn.pipeline import Pipeline

    loaded = brainenc.load(encoder.save(tmp_path / "model"), classes=[Pipeline, StandardScaler])
    np.testing.assert_allclose(loaded.predict(images), encoder.predict(images), atol=1e-6)


def test_a_union_keeps_its_weights_and_what_it_drops(data):
    union = FeatureUnion(
        [("a", make_pipeline(pixels(), *components(3))), ("b", "drop"), ("c", pixels(2))],
        transformer_weights={"a": 0.1},
    )
    right = r_by_scikit_learn(data, brainenc.RidgeEncoder(union, standardize=False))
    found = r_of(data, brainenc.RidgeEncoder(union, standardize=False), references=False)
    assert found["it"] == pytest.approx(right, abs=1e-6)
