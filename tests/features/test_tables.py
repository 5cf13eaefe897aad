"""Names of features, and features as tables, in scikit-learn's way."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion, make_pipeline

import brainenc
from brainenc.features import FeatureExtractor


class Tokens(FeatureExtractor):
    def __init__(self, batch_size=8, store=None, verbose=False):
        self.batch_size, self.store, self.verbose = batch_size, store, verbose

    def _extract(self, batch):
        return batch.reshape(len(batch), 4, -1)[..., :5].astype(float)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize(
    "extractor", [brainenc.PixelFeatures(size=4), brainenc.GaborPyramid(verbose=False)]
)
def test_tables_hold_the_features(extractor, images):
    extractor = sklearn.base.clone(extractor)
    expected = extractor.fit_transform(images)
    names = extractor.get_feature_names_out()
    assert len(names) == expected.shape[1]
    assert names[1] == f"{type(extractor).__name__.lower()}1"
    table = extractor.set_output(transform="pandas").transform(images)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(names)
    np.testing.assert_array_equal(table.to_numpy(), expected)
    union = FeatureUnion([("a", extractor), ("b", brainenc.PixelFeatures(size=2))])
    union.set_output(transform="pandas").fit(images)
    assert union.transform(images).columns[0] == f"a__{names[0]}"
    encoder = brainenc.RidgeEncoder(extractor).fit(images, np.random.rand(20, 3))  # noqa: NPY002
    assert encoder.predict(images).shape == (20, 3)


def test_names_need_the_size_of_images(images):
    with pytest.raises(NotFittedError):
        brainenc.PixelFeatures(size=4).get_feature_names_out()


def test_tokens_have_no_table(images):
    extractor = Tokens().fit(images)
    with pytest.raises(ValueError, match=r"gives tokens, \(4, 5\) for each image"):
        extractor.get_feature_names_out()
    with pytest.raises(ValueError, match=r"gives tokens, \(20, 4, 5\).*set_output"):
        extractor.set_output(transform="pandas").transform(images)


def test_encoders_work_with_tables_as_the_users_default(images):
    betas = np.random.default_rng(1).standard_normal((20, 2, 3))
    pixels = brainenc.PixelFeatures(size=4)
    encoders = [
        brainenc.RidgeEncoder(pixels),
        brainenc.RidgeEncoder(Tokens()),
        brainenc.RidgeEncoder(make_pipeline(pixels, PCA(3, random_state=0))),
        brainenc.BandedRidgeEncoder({"a": pixels, "b": make_pipeline(pixels, PCA(2))}, n_iter=2),
    ]
    for encoder in encoders:
        expected = encoder.fit(images, betas).predict(images)
        with sklearn.config_context(transform_output="pandas"):
            found = sklearn.base.clone(encoder).fit(images, betas).predict(images)
        np.testing.assert_allclose(found, expected, atol=1e-6)
