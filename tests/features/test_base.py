import pickle

import numpy as np
import pytest
from joblib import Parallel, delayed
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from brainenc.data.images import ImageFiles
from brainenc.features import (
    EfficientNetLiteFeatures,
    FeatureExtractor,
    GaborPyramid,
    OpenCLIPFeatures,
    PixelFeatures,
)


class MeanAndMax(FeatureExtractor):
    """Two features of an image, or NaN for images that hold the value 13."""

    def __init__(self, *, batch_size=4, store=None, verbose=False):
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose
        self.seen = []

    def _extract(self, batch):
        self.seen.append(len(batch))
        flat = batch.reshape(len(batch), -1).astype(float)
        bad = (flat == 13).any(1)
        return np.where(bad[:, None], np.nan, np.stack([flat.mean(1), flat.max(1)], 1))


def random_images(n=10, size=12, seed=0):
    return np.random.default_rng(seed).integers(14, 256, (n, size, size, 3), dtype=np.uint8)


def test_batches_cover_all_images_in_order():
    images = random_images(10)
    extractor = MeanAndMax(batch_size=4)
    features = extractor.transform(images)
    assert extractor.seen == [4, 4, 2]
    assert features.dtype == np.float32
    expected = np.stack([images.mean((1, 2, 3)), images.max((1, 2, 3))], 1)
    np.testing.assert_allclose(features, expected, rtol=1e-6)  # float32 against float64


def test_every_kind_of_images_gives_the_same_features(tmp_path):
    images = random_images(5)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    pil = [Image.fromarray(image) for image in images]
    for path, image in zip(paths, pil, strict=True):
        image.save(path)
    expected = PixelFeatures(verbose=False).fit_transform(images)
    for same in (list(images), pil, paths, ImageFiles(paths)):
        np.testing.assert_array_equal(PixelFeatures(verbose=False).fit_transform(same), expected)


def test_non_finite_features_name_the_first_image():
    images = random_images(10)
    images[6:8, 0, 0, 0] = 13
    with pytest.raises(ValueError, match=r"MeanAndMax .* for 2 images, .* images\[6\]"):
        MeanAndMax().transform(images)


def test_non_finite_features_are_not_stored(tmp_path):
    images = random_images(3)
    images[1, 0, 0, 0] = 13
    with pytest.raises(ValueError, match=r"images\[1\]"):
        MeanAndMax(store=tmp_path).transform(images)
    assert not list(tmp_path.rglob("*.npy"))


def test_out_is_filled_or_written(tmp_path):
    images = random_images(10)
    expected = MeanAndMax().transform(images)
    memmap = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (10, 2))
    assert MeanAndMax().transform(images, out=memmap) is memmap
    np.testing.assert_array_equal(memmap, expected)
    written = MeanAndMax().transform(images, out=tmp_path / "b.npy")
    assert isinstance(written, np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), expected)
    with pytest.raises(ValueError, match=r"out has shape \(10, 3\).*\(10, 2\)"):
        MeanAndMax().transform(images, out=np.empty((10, 3), np.float32))


def test_an_interrupted_file_is_not_left(tmp_path):
    images = random_images(10)
    images[9, 0, 0, 0] = 13
    with pytest.raises(ValueError, match="NaN"):
        MeanAndMax().transform(images, out=tmp_path / "b.npy")
    assert list(tmp_path.iterdir()) == []


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size=0"):
        MeanAndMax(batch_size=0).transform(random_images(2))


def test_a_progress_bar_only_when_asked(capsys, monkeypatch):
    monkeypatch.setattr("brainenc.progress.DELAY", 0)
    MeanAndMax(verbose=False).transform(random_images(4))
    assert capsys.readouterr().err == ""
    MeanAndMax(verbose=True).transform(random_images(4))
    assert "MeanAndMax" in capsys.readouterr().err


def test_key_is_about_numbers_and_not_about_how():
    one = GaborPyramid(batch_size=1, device="cpu", verbose=False, store="a").key()
    assert one == GaborPyramid(batch_size=9, device="auto", verbose=True).key()
    assert one != GaborPyramid(n_scales=3).key()
    assert one != PixelFeatures().key()


EXTRACTORS = [
    PixelFeatures((3, 4), color=False),
    GaborPyramid(2, nonlinearity="log", store="folder"),
    OpenCLIPFeatures("ViT-B-16", "openai", layer="tokens"),
    EfficientNetLiteFeatures("block3", "avg", crop="center"),
]


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: type(e).__name__)
def test_parameters_survive_clone_pickle_and_set_params(extractor):
    for copy in (clone(extractor), pickle.loads(pickle.dumps(extractor))):
        assert copy.get_params() == extractor.get_params()
        assert repr(copy) == repr(extractor)
    assert clone(extractor).set_params(batch_size=3).batch_size == 3
    check_is_fitted(extractor)  # stateless: ready without fit


def test_workers_give_what_this_process_gives(tmp_path):
    images = random_images(6, size=32)
    extractor = PixelFeatures(7, verbose=False, store=tmp_path)
    there = Parallel(n_jobs=2)(delayed(extractor.transform)(images[i : i + 3]) for i in (0, 3))
    here = PixelFeatures(7, verbose=False).transform(images)
    np.testing.assert_allclose(np.concatenate(there), here, rtol=1e-6)  # other sums, same numbers
    assert len(list(tmp_path.rglob("*.npy"))) == 6


def test_grid_search_over_an_extractor_finds_the_one_that_made_the_responses():
    images = random_images(60, size=16)
    blocks = images.reshape(60, 4, 4, 4, 4, 3).mean((2, 4, 5))  # grey means of a 4 x 4 grid
    betas = blocks.reshape(60, 16) @ np.random.default_rng(1).standard_normal((16, 3))
    pipeline = make_pipeline(PixelFeatures(verbose=False, color=False), Ridge(1e-3))
    search = GridSearchCV(pipeline, {"pixelfeatures__size": [2, 4, None]}, cv=3)
    # Grey with other weights than the equal ones that made the betas, so the fit is not perfect.
    search.fit(np.repeat(images.mean(3, keepdims=True).astype(np.uint8), 3, axis=3), betas)
    assert search.best_params_ == {"pixelfeatures__size": 4}


def test_cross_validation_reads_image_files(tmp_path):
    images = random_images(12, size=8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    betas = images.reshape(12, -1)[:, :2].astype(float)
    pipeline = make_pipeline(PixelFeatures(verbose=False), Ridge())
    files = ImageFiles.from_folder(tmp_path)
    np.testing.assert_allclose(
        cross_val_score(pipeline, files, betas, cv=3),
        cross_val_score(pipeline, images, betas, cv=3),
    )
