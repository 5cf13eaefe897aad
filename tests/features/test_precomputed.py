import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import brainenc
from brainenc import PrecomputedFeatures
from brainenc.features import image_hashes


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(1).standard_normal((40, 5)).astype(np.float32)


def looked_up(images, values, **settings):
    return PrecomputedFeatures(images, values, "captions", verbose=False, **settings)


@pytest.mark.parametrize("tokens", [False, True])
def test_rows_follow_the_images_in_any_order(images, values, tokens):
    rows = np.random.default_rng(2).permutation(40)
    table = values.reshape(40, 5, 1) if tokens else values
    found = looked_up(images, table, batch_size=7).transform(images[rows])
    np.testing.assert_array_equal(found, table[rows])


def test_images_may_be_files_tables_and_hashes(images, values, tmp_path):
    from PIL import Image

    paths = []
    for i, image in enumerate(images[:4]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    frame = pd.DataFrame(values[:4])
    hashes = image_hashes(images[:4])
    for given in (paths, hashes, hashes.tolist(), pd.Series(hashes), images[:4]):
        found = looked_up(given, frame).transform(images[[3, 1]])
        np.testing.assert_array_equal(found, values[[3, 1]])
    # Pictures whose files have names of 32 characters are pictures.
    odd = tmp_path / ("a" * 28 + ".png")
    Image.fromarray(images[0]).save(odd)
    np.testing.assert_array_equal(looked_up([odd], values[:1]).transform(images[:1]), values[:1])


def test_an_unknown_image_is_named(images, values):
    features = looked_up(images[:10], values[:10])
    with pytest.raises(ValueError, match=r"'captions' has no row for 2 of these 4 images.*16, 16"):
        features.transform(images[8:12])
    grey = images[:3, ..., 0]  # other pixels
    with pytest.raises(ValueError, match="no row for 3 of these 3"):
        features.transform(grey)


def test_a_picture_twice_has_one_row_or_is_refused(images, values):
    twice = np.concatenate([images[:3], images[:1]])
    same = np.concatenate([values[:3], values[:1]])
    np.testing.assert_array_equal(looked_up(twice, same).transform(images[:1]), values[:1])
    with pytest.raises(ValueError, match="images 0 and 3 of 'captions' are the same picture"):
        looked_up(twice, values[:4]).transform(images[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:39], r"\(39, 5\) must have one row for each of the 40 images"),
        (lambda v: v[:, 0], r"\(40,\) must be \(n_images, n_features\)"),
        (lambda v: np.where(np.arange(40)[:, None] == 7, np.nan, v), "NaN or infinite.* row 7"),
        (lambda v: pd.DataFrame(v, index=np.arange(40)[::-1]), "index that is not in increasing"),
    ],
)
def test_wrong_tables(images, values, change, message):
    with pytest.raises(ValueError, match=message):
        looked_up(images, change(values)).transform(images[:1])


def test_key_is_that_of_the_content(images, values):
    rows = np.random.default_rng(3).permutation(40)
    one = looked_up(images, values)
    assert one.key() == looked_up(images[rows], values[rows]).key()
    assert one.key() == looked_up(image_hashes(images), values.copy(), batch_size=3).key()
    assert one.key() != looked_up(images, values[rows]).key()
    json.dumps(one.key())


@pytest.mark.parametrize("as_hashes", [False, True])
def test_an_encoder_with_them_is_saved(images, values, as_hashes, tmp_path):
    betas = values[:, :3] + 0.1 * np.random.default_rng(4).standard_normal((40, 3))
    features = looked_up(image_hashes(images) if as_hashes else images, values)
    encoder = brainenc.RidgeEncoder(features).fit(images, betas)
    encoder.save(tmp_path / "model")
    loaded = brainenc.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(images[:5]), encoder.predict(images[:5]))


def test_a_band_beside_pixels_explains_what_it_drives(images, values):
    """Voxels that follow the table are predicted by its band and not by pixels."""
    rng = np.random.default_rng(5)
    betas = values[:, :2] + 0.3 * rng.standard_normal((40, 2))
    bands = {
        "pixels": brainenc.PixelFeatures(size=2, verbose=False),
        "captions": looked_up(images, values),
    }
    encoder = brainenc.BandedRidgeEncoder(bands)
    encoder.fit(images[:30], betas[:30])
    r = np.diag(np.corrcoef(encoder.predict(images[30:]).T, betas[30:].T)[:2, 2:])
    assert (r > 0.7).all()  # the ceiling is .96; ten images


def test_a_changed_table_is_noticed(images, values):
    features = looked_up(images, values)
    features.transform(images[:2])
    features.set_params(values=values + 1)
    np.testing.assert_array_equal(features.transform(images[:2]), values[:2] + 1)
    assert clone(features).fit(images).get_feature_names_out().shape == (5,)


@pytest.mark.slow
def test_captions_explain_what_gabor_does_not_where_content_drives():
    """Unique R² of the caption band, and none of captions of other images."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    data = brainenc.datasets.simulate_subject(240, 60, 3, random_state=1)
    words = TfidfVectorizer().fit_transform(data.truth.captions()).toarray()
    other = np.random.default_rng(0).permutation(240)
    high = data.voxels["roi"].isin(["FFA", "PPA", "EBA"]).to_numpy()
    unique = {}
    for name, rows in [("own", np.arange(240)), ("of other images", other)]:
        partition = brainenc.variance_partitioning(
            data,
            features={
                "gabor": brainenc.GaborPyramid(n_scales=3, verbose=False),
                "captions": looked_up(data.images, words[rows]),
            },
            cv=3,
            n_iter=5,
            n_bootstraps=20,
            verbose=False,
        )
        unique[name] = partition.voxels["unique_captions"].to_numpy()
    assert unique["own"][high].mean() > 0.05
    assert abs(unique["own"][~high].mean()) < 0.03
    assert np.abs(unique["of other images"]).mean() < 0.03
