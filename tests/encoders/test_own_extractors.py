"""Extractors of users: what they give is features of the images, or an error that names them."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.data.encoding_data import EncodingData
from brainenc.encoders import ENCODERS, BandedRidgeEncoder, RidgeEncoder, StackedEncoder
from brainenc.features import FeatureExtractor, PixelFeatures

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
BETAS = RNG.standard_normal((40, 2, 5))


def flat(images):
    return np.asarray(images).reshape(len(images), -1)


class Own(TransformerMixin, BaseEstimator):
    """A transformer with a function, which fits nothing."""

    def __init__(self, function=flat):
        self.function = function

    def fit(self, X, y=None):
        self.seen_ = len(X)
        return self

    def transform(self, X):
        return self.function(X)


class Forgetful(Own):
    """Its ``fit`` returns nothing."""

    def fit(self, X, y=None):
        self.seen_ = len(X)


# What each gives holds the same numbers: 108 pixels of an image.
KINDS = {
    "uint8": flat,
    "float32": lambda images: flat(images).astype(np.float32),
    "float64": lambda images: flat(images).astype(np.float64),
    "big-endian": lambda images: flat(images).astype(">f4"),
    "half": lambda images: flat(images).astype(np.float16),
    "list": lambda images: flat(images).tolist(),
    "table": lambda images: pd.DataFrame(flat(images).astype(float)),
    "sparse": lambda images: scipy.sparse.csr_matrix(flat(images).astype(float)),
    "torch": lambda images: torch.as_tensor(flat(images)).float().requires_grad_(),
    "torch uint8": lambda images: torch.as_tensor(flat(images)),
    "masked": lambda images: np.ma.masked_array(flat(images).astype(float)),
    "Fortran": lambda images: np.asfortranarray(flat(images).astype(float)),
}

#: Every place where an encoder takes what an extractor gives.
DOORS = {
    "ridge": lambda extractor: RidgeEncoder(extractor),
    "banded": lambda extractor: BandedRidgeEncoder({"own": extractor}, n_iter=2),
    "stacked": lambda extractor: StackedEncoder({"own": RidgeEncoder(extractor)}),
    "pipeline": lambda extractor: RidgeEncoder(make_pipeline(extractor, FunctionTransformer())),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_array_changes_nothing(kind, door):
    right = DOORS[door](Own(KINDS["float64"])).fit(IMAGES, BETAS).predict(IMAGES)
    got = DOORS[door](Own(KINDS[kind])).fit(IMAGES, BETAS).predict(IMAGES)
    np.testing.assert_allclose(got, right, atol=2e-3)  # float32 against float64


FAULTS = {
    "fewer rows": (lambda images: flat(images)[:-1], r"gave features of shape \(\d+, 108\) for"),
    "more rows": (lambda images: np.repeat(flat(images), 2, axis=0), r"for \d+ images"),
    "one row for all": (lambda images: flat(images).mean(0), r"gave features of shape \(108,\)"),
    "a number per image": (lambda images: flat(images).mean(1), r"single feature is \[:, None\]"),
    "maps": (lambda images: np.asarray(images, float), r"maps are flattened by"),
    "no features": (lambda images: flat(images)[:, :0].astype(float), r"shape \(\d+, 0\)"),
    "nan": (
        lambda images: np.where(np.arange(len(images))[:, None] == 3, np.nan, flat(images)),
        r"NaN or infinite features for 1 images, the first of them images\[3\]",
    ),
    "infinity": (
        lambda images: np.where(np.arange(len(images))[:, None] == 3, np.inf, flat(images)),
        r"NaN or infinite features",
    ),
    "masked": (
        lambda images: np.ma.masked_array(flat(images).astype(float), flat(images) > 250),
        r"NaN or infinite features",
    ),
    "nothing": (lambda images: None, "output of Own is missing"),
}


@pytest.mark.parametrize("door", ["ridge", "banded", "stacked"])
@pytest.mark.parametrize("fault", FAULTS)
def test_mistakes_are_named_when_fitting_and_predicting(fault, door):
    function, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        DOORS[door](Own(function)).fit(IMAGES, BETAS)
    extractor = Own(flat)
    encoder = DOORS[door](extractor).fit(IMAGES, BETAS)
    for fitted in _extractors(encoder):
        fitted.function = function
    with pytest.raises(ValueError, match=message):
        encoder.predict(IMAGES[:30])


def _extractors(encoder):
    if isinstance(encoder, StackedEncoder):
        # A member fits what may learn itself, to images as rows of numbers.
        within = [member.features_.transformer_ for member in encoder.encoders_.values()]
        return [part.transformer_ for part in within]
    features = encoder.features_
    return list(features.values()) if isinstance(features, dict) else [features]


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"nothing"}))
def test_mistakes_are_named_in_a_benchmark(fault):
    """An extractor that may learn is fitted in every fold: its mistake costs its own encoder."""
    data = EncodingData(images=IMAGES, betas=BETAS)
    encoders = {"own": RidgeEncoder(Own(FAULTS[fault][0]))}
    small = {"n_draws": 0, "n_bootstraps": 5, "n_permutations": 5, "check": False, "cv": 2}
    with pytest.warns(RuntimeWarning, match="own failed"):
        result = brainenc.benchmark(data, encoders, controls=False, verbose=False, **small)
    table = result.encoders.set_index("encoder")
    assert re.search(FAULTS[fault][1], table.loc["own", "error"])
    assert table.loc["mean", "error"] == ""


def test_an_extractor_whose_fit_returns_nothing_is_fitted_in_place():
    right = RidgeEncoder(Own()).fit(IMAGES, BETAS)
    got = RidgeEncoder(Forgetful()).fit(IMAGES, BETAS)
    assert got.features_.seen_ == 40
    np.testing.assert_array_equal(got.predict(IMAGES), right.predict(IMAGES))


def test_unsigned_numbers_do_not_wrap_around():
    # Centred uint8 would become 256 − x.
    got = RidgeEncoder(Own(flat)).fit(IMAGES, BETAS)
    by_hand = RidgeEncoder(None).fit(flat(IMAGES).astype(np.float32), BETAS)
    np.testing.assert_array_equal(got.predict(IMAGES), by_hand.predict(flat(IMAGES).astype("f4")))


def test_images_of_other_numbers_are_refused_when_predicting_too():
    encoder = RidgeEncoder(Own(flat)).fit(IMAGES, BETAS)
    with pytest.raises(TypeError, match="images must be uint8"):
        encoder.predict(IMAGES / 255)


class Extractor(FeatureExtractor):
    """A FeatureExtractor with a function of a batch."""

    def __init__(self, function=flat, *, batch_size=8, store=None, verbose=False):
        self.function = function
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def key(self):
        return {"function": self.function.__name__}

    def _extract(self, batch):
        return self.function(batch)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_mistakes_in_a_batch_are_named_and_not_stored(fault, stored, tmp_path):
    function, message = FAULTS[fault]
    extractor = Extractor(function, store=tmp_path if stored else None)
    with pytest.raises(ValueError, match=message.replace("Own", "Extractor")):
        extractor.transform(IMAGES)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_may_be_any_kind_of_array(kind):
    got = Extractor(KINDS[kind]).transform(IMAGES)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, flat(IMAGES))


def test_the_number_in_the_message_counts_all_images():
    def inverse_of_the_brightest(batch):
        with np.errstate(divide="ignore"):
            return 1 / flat(batch).max(1)[:, None].astype(float)

    images = IMAGES.copy()
    images[21:] = 0  # 21 to 23 are in the third batch of eight
    with pytest.raises(ValueError, match=r"for 3 images, the first of them images\[21\]"):
        Extractor(inverse_of_the_brightest).transform(images)


def test_features_that_float32_cannot_hold_are_named():
    with pytest.raises(ValueError, match="NaN or infinite features for 8 images"):
        Extractor(lambda batch: flat(batch) * 1e300 + 1e300).transform(IMAGES)


def test_batches_with_other_numbers_of_features_are_refused():
    def by_batch(batch):  # one feature for the last batch, which NumPy would copy to all
        return flat(batch)[:, : 1 if len(batch) < 8 else None].astype(float)

    with pytest.raises(ValueError, match=r"shape \(1,\) for images\[32\], but .*\(108,\)"):
        Extractor(by_batch).transform(IMAGES[:36])


# ------------------------------------------------------------------ images of another size


def other_images(n):
    return {
        "larger": np.zeros((n, 8, 8, 3), np.uint8),
        "grey": np.zeros((n, 6, 6), np.uint8),
        "wide": np.zeros((n, 3, 12, 3), np.uint8),
    }


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "mean"])
def test_every_encoder_says_that_images_have_another_size(name):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (112, 6, 6, 3), dtype=np.uint8)
    betas = rng.standard_normal((112, 2, 8))
    pixels = PixelFeatures(verbose=False)
    encoder = tiny_encoder(name, features=pixels, device="cpu")
    if hasattr(encoder, "with_voxels"):
        encoder = encoder.with_voxels(pd.DataFrame({"roi": ["a", "b"] * 4}))
    encoder.fit(images, betas)
    for which in ("larger", "grey"):
        with pytest.raises(ValueError, match=r"each image had .*were the images of another size"):
            encoder.predict(other_images(3)[which])


def test_bands_of_other_sizes_are_refused_even_if_they_add_up():
    def first(images):
        return flat(images)[:, : np.shape(images)[1]].astype(float)

    def second(images):
        return flat(images)[:, : np.shape(images)[2]].astype(float)

    encoder = BandedRidgeEncoder({"rows": Own(first), "columns": Own(second)}, n_iter=2)
    encoder.fit(RNG.integers(0, 256, (40, 4, 8, 3), dtype=np.uint8), BETAS)
    with pytest.raises(ValueError, match=r"features of band 'rows' \(3, 8\) do not fit.*\(4,\)"):
        encoder.predict(np.zeros((3, 8, 4, 3), np.uint8))


def test_tokens_of_another_shape_are_refused_even_if_as_many():
    def tokens(images):
        return np.asarray(images, float).mean(3)

    encoder = BandedRidgeEncoder({"tokens": Own(tokens)}, n_iter=2)
    encoder.fit(RNG.integers(0, 256, (40, 4, 8, 3), dtype=np.uint8), BETAS)
    with pytest.raises(ValueError, match=r"'tokens' \(3, 8, 4\) do not fit.*\(4, 8\)"):
        encoder.predict(np.zeros((3, 8, 4, 3), np.uint8))


def test_unions_and_pipelines_say_that_images_have_another_size():
    union = FeatureUnion([("a", PixelFeatures(2, verbose=False)), ("b", PixelFeatures())])
    encoder = RidgeEncoder(union.set_params(b__verbose=False)).fit(IMAGES, BETAS)
    for others in (other_images(3)["larger"], other_images(3)["grey"]):
        with pytest.raises(ValueError, match="were the images of another size"):
            encoder.predict(others)


def test_saved_bands_still_say_it(tmp_path):
    bands = {"a": PixelFeatures(2, verbose=False), "b": PixelFeatures(verbose=False)}
    encoder = BandedRidgeEncoder(bands, n_iter=2).fit(IMAGES, BETAS)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(IMAGES), encoder.predict(IMAGES))
    with pytest.raises(ValueError, match="band 'b'"):
        loaded.predict(other_images(3)["larger"])
