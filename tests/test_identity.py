"""Values are told apart by their content, in every process alike, wherever results are kept."""

import functools
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc.encoders.describe import describe
from brainenc.features import FeatureExtractor
from brainenc.identity import fitted_identity, identity, unidentified

FEW = {"n_bootstraps": 10, "n_permutations": 9, "n_draws": 0, "check": False, "verbose": False}
SHIFT = 1.0


class Short:
    """Prints as the same text whatever it holds."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return "Short()"


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Gain(torch.nn.Module):
    """A setting that the printed module does not show."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return self.gain * x


def times(gain):
    return lambda x: gain * x


def with_default(gain):
    def function(x, gain=gain):
        return gain * x

    return function


def shifted(x):
    return x + SHIFT


def long(value):
    array = np.zeros(5000)
    array[2500] = value
    return array


def columns(value):
    return pd.DataFrame({"a": long(value), "b": ["x"] * 5000})


def fitted_pca(value):
    return FrozenEstimator(PCA(1).fit(np.array([[0, 0], [1, value], [2, 0.5]])))


def class_with(value):
    return type("Made", (Short,), {"value_of_class": value})


#: Functions of a number; values made with 1.0 and with 2.0 differ, those with 1.0 twice do not.
MAKERS = {
    "array": long,
    "masked": lambda v: np.ma.masked_equal(np.arange(5000) % 7, int(v)),
    "array of objects": lambda v: np.array([None, Short(v)], dtype=object),
    "text": lambda v: np.array(["x"] * 5000 + [str(v)]),
    "extended precision": lambda v: np.longdouble(1) + np.longdouble(v) * 1e-18,
    "dtype": lambda v: np.zeros(100, np.float32 if v == 1 else np.float64),
    "shape": lambda v: np.zeros((10, 20) if v == 1 else (20, 10)),
    "tensor": lambda v: torch.tensor(long(v)),
    "bf16": lambda v: torch.full((100,), v, dtype=torch.bfloat16),
    "parameter": lambda v: torch.nn.Parameter(torch.full((2,), v)),
    "sparse tensor": lambda v: torch.tensor(long(v)).to_sparse(),
    "network": lambda v: torch.nn.Sequential(Gain(v)),
    "table": columns,
    "names of columns": lambda v: columns(1).rename(columns={"a": str(v)}),
    "index": lambda v: columns(1).set_index(long(v)),
    "Series": lambda v: columns(v)["a"],
    "categories": lambda v: pd.Series(pd.Categorical(["x"] * 3000, ["x", str(v)])),
    "lambda": times,
    "default": with_default,
    "partial": lambda v: functools.partial(np.add, v),
    "method": lambda v: Short(v).__repr__,
    "object": Short,
    "slots": Slotted,
    "nested object": lambda v: Short([{"deep": Short(v)}]),
    "namespace": lambda v: SimpleNamespace(value=v),
    "estimator": lambda v: make_pipeline(PCA(2, tol=v)),
    "object in an estimator": lambda v: PCA(2, tol=Short(v)),
    "fitted and frozen": fitted_pca,
    "extractor": lambda v: brainenc.PixelFeatures(size=int(v)),
    "ridge": lambda v: brainenc.RidgeEncoder(alphas=long(v) + 1),
    "splitter": lambda v: brainenc.RidgeEncoder(cv=KFold(3, shuffle=True, random_state=int(v))),
    "generator": lambda v: np.random.default_rng(int(v)),
    "class": class_with,
    "set": lambda v: {"one", "two", str(v)},
    "keys of a dict": lambda v: {v: 1, "x": 2},
    "bytes": lambda v: bytes([int(v)] * 5000),
    "code": lambda v: (lambda x: x + 1) if v == 1 else (lambda x: x + 2),
    "set in code": lambda v: (lambda x: x in {"a", "b"}) if v == 1 else (lambda x: x in {"a", "c"}),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_values_that_differ_are_told_apart_and_equal_ones_are_not(kind):
    make = MAKERS[kind]
    one, same, other = (identity(make(v)) for v in (1.0, 1.0, 2.0))
    assert one == same
    assert one != other
    assert not unidentified(one)
    json.dumps(one)


@pytest.mark.slow
def test_identities_are_the_same_in_another_process():
    names = ", ".join(map(repr, MAKERS))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_identity as t; "
        "from brainenc.storage import fingerprint; "
        f"print(*(fingerprint(t.identity(t.MAKERS[name](2.0))) for name in [{names}]))"
    )
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, os.path.dirname(__file__)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_a_global_variable_that_a_function_reads_counts(monkeypatch):
    before = identity(shifted)
    assert identity(shifted) == before
    monkeypatch.setitem(shifted.__globals__, "SHIFT", 2.0)
    assert identity(shifted) != before


def test_what_holds_itself_ends():
    ring = Short(None)
    ring.value = [ring]
    other = Short(None)
    other.value = [other]
    assert identity(ring) == identity(other)


def test_fitted_attributes_count_where_they_are_asked_for():
    pca = PCA(1)
    plain, fitted = identity(pca), PCA(1).fit(np.eye(3))
    assert identity(fitted) == plain  # `clone` drops them
    assert fitted_identity(fitted) != fitted_identity(pca)
    assert fitted_identity(fitted) == fitted_identity(PCA(1).fit(np.eye(3)))


@pytest.mark.parametrize("value", [threading.Lock(), Short(threading.Lock()), iter([1])])
def test_what_cannot_be_read_is_like_nothing_else(value):
    assert identity(value) != identity(value)
    assert unidentified(identity(value))


class Projection(TransformerMixin, BaseEstimator):
    """Own features with something of any kind in a parameter, which `number` reads."""

    def __init__(self, weights=None, number=float):
        self.weights = weights
        self.number = number

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        rows = np.asarray(X, dtype=np.float32).reshape(len(X), -1) / 255
        pixel = int(self.number(self.weights))
        return rows[:, pixel : pixel + 8]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


#: A parameter that holds the first pixel, and a function that reads it there.
HOLDERS = {
    "tensor": (lambda p: torch.tensor(long(p)), lambda t: t.max()),
    "table": (columns, lambda table: table["a"].max()),
    "function": (lambda p: lambda: p, lambda function: function()),
    "object": (Short, lambda short: short.value),
    "network": (Gain, lambda module: module.gain),
}


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(60, 12, random_state=0)


@pytest.mark.parametrize("kind", HOLDERS)
def test_the_benchmark_never_takes_one_extractor_for_another(data, tmp_path, kind):
    make, read = HOLDERS[kind]
    encoders = {str(p): brainenc.RidgeEncoder(Projection(make(p), read)) for p in (100, 1500)}

    def r(encoders, **where):
        result = brainenc.benchmark(data, encoders, cv=3, references=False, **FEW, **where)
        return result.encoders.set_index("encoder")["r"]

    alone = {name: r({name: encoder})[name] for name, encoder in encoders.items()}
    assert alone["100"] != pytest.approx(alone["1500"], abs=1e-3)
    assert dict(r(encoders)) == alone
    # A run that is continued, of the same name and folder.
    for name, encoder in encoders.items():
        assert r({"it": encoder}, out=tmp_path / "run")["it"] == alone[name]
    # And of an estimator that makes its features itself.
    for name, encoder in encoders.items():
        pipeline = make_pipeline(encoder.features, brainenc.RidgeEncoder(None))
        found = r({"it": pipeline}, out=tmp_path / "run")["it"]
        assert found == pytest.approx(alone[name], abs=1e-6)


@pytest.mark.parametrize("kind", HOLDERS)
def test_members_of_a_stack_have_each_their_own_features(data, kind):
    make, read = HOLDERS[kind]
    members = [brainenc.RidgeEncoder(Projection(make(p), read)) for p in (100, 1500)]
    stack = brainenc.StackedEncoder(members).fit(data.images, data.betas)
    by_hand = [member.fit(data.images, data.betas).predict(data.images) for member in members]
    weighted = np.einsum("mv,miv->iv", stack.weights_, by_hand)
    np.testing.assert_allclose(stack.predict(data.images), weighted, atol=1e-4)


class Stored(FeatureExtractor):
    """The mean of an image times a number held by an object of any kind."""

    def __init__(self, holder=None, *, batch_size=8, store=None, verbose=False):
        self.holder = holder
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def _extract(self, batch):
        return batch.reshape(len(batch), -1).mean(axis=1, keepdims=True) * self.holder.value


def test_a_store_keeps_extractors_apart(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    one, two = (Stored(Short(v), store=tmp_path).fit_transform(images) for v in (1.0, 2.0))
    np.testing.assert_array_equal(two, 2 * one)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=r"holds a _thread\.lock.*store=None"):
        Stored(Short(threading.Lock()), store=tmp_path).transform(images)


def test_what_cannot_be_identified_is_not_shared_nor_resumed_and_said(data, tmp_path):
    class Held:
        def __init__(self):
            self.lock = threading.Lock()

        def __deepcopy__(self, memo):
            return self

    features = Projection(Held(), lambda held: 100)
    encoder = make_pipeline(features, brainenc.RidgeEncoder(None))
    results = [
        brainenc.benchmark(data, {"it": encoder}, cv=3, out=tmp_path / "run", **FEW)
        for _ in range(2)
    ]
    assert any("it holds a _thread.lock" in warning for warning in results[0].warnings)
    assert len(list((tmp_path / "run" / "pairs").glob("it-*"))) == 2
    pd.testing.assert_frame_equal(results[0].maps, results[1].maps)


def test_examples_of_a_training_differ_in_any_of_them():
    from brainenc.training import Examples

    x = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
    other = x.copy()
    other[501, 3] += 1e-3
    assert Examples(x=x).description() == Examples(x=x.copy()).description()
    assert Examples(x=x).description() != Examples(x=other).description()


def test_descriptions_can_be_read():
    found = describe(brainenc.RidgeEncoder(brainenc.PixelFeatures(size=8), alphas=[1.0, 2.0]))
    assert found["class"] == "RidgeEncoder"
    assert found["parameters"]["alphas"] == [1.0, 2.0]
    assert found["parameters"]["features"]["size"] == 8
