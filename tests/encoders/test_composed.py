"""What encoders made of others ask of them: arrays, one fit of each extractor, fits on folds."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin

import brainenc
from brainenc.data.images import looks_like_images
from brainenc.encoders import CalibratedEncoder
from brainenc.encoders.composed import cross_fits, extraction, for_arrays, inputs_of, prepare


class Centred(TransformerMixin, BaseEstimator):
    """Pixels less their mean over the images it was fitted to."""

    n_fits = 0

    def __init__(self, gain=1.0):
        self.gain = gain

    def fit(self, X, y=None):
        Centred.n_fits += 1
        self.mean_ = np.asarray(X, dtype=np.float32).mean(axis=0)
        return self

    def transform(self, X):
        return self.gain * (np.asarray(X, dtype=np.float32) - self.mean_).reshape(len(X), -1)


class Remembering(brainenc.RidgeEncoder):
    """Ridge that keeps what it was fitted to, and where it wrote checkpoints."""

    def __init__(self, features="auto", *, checkpoint_dir=None):
        super().__init__(features)
        self.checkpoint_dir = checkpoint_dir

    def _fit(self, features, betas):
        self.seen_ = features[:, 0]
        return super()._fit(features, betas)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)


def test_folds_see_their_images_alone_and_leave_the_members_checkpoints(tmp_path):
    rng = np.random.default_rng(0)
    X, betas = rng.standard_normal((30, 3)), rng.standard_normal((30, 2, 4))
    member = Remembering(None, checkpoint_dir=tmp_path)
    folds = [(np.arange(10, 30), np.arange(10)), (np.arange(20), np.arange(20, 30))]
    for (train, test), (left_out, fitted) in zip(
        folds, cross_fits(member, X, betas, folds), strict=True
    ):
        np.testing.assert_array_equal(left_out, test)
        np.testing.assert_array_equal(fitted.seen_, X[train, 0])
        assert fitted.checkpoint_dir is None
    assert member.checkpoint_dir == tmp_path
    assert not hasattr(member, "seen_")


def test_an_extractor_is_fitted_once_and_computes_once(images):
    extractors = {}
    Centred.n_fits = 0
    transform = extraction(images, extractors)
    first = transform(Centred())
    assert transform(Centred()) is first
    np.testing.assert_array_equal(transform(Centred(2.0)), 2 * first)
    assert Centred.n_fits == 2
    # New images: by what was learnt from the first ones.
    new = extraction(images[:5], extractors)(Centred())
    np.testing.assert_array_equal(new, first[:5])
    assert Centred.n_fits == 2


def test_members_take_the_features_they_would_have_computed(images):
    pixels = brainenc.PixelFeatures(verbose=False)
    given = brainenc.RidgeEncoder(pixels)
    prepared, features = prepare(given, images, extraction(images, {}))
    assert prepared.features is None
    assert given.features is not None
    np.testing.assert_array_equal(features, pixels.fit_transform(images))
    assert for_arrays(given).features is None
    assert isinstance(for_arrays(brainenc.MeanEncoder()), brainenc.MeanEncoder)
    with pytest.raises(TypeError, match="takes features, but got images"):
        prepare(brainenc.RidgeEncoder(None), images, extraction(images, {}))


def test_what_a_member_learns_it_learns_from_the_images_of_its_fit(images):
    prepared, rows = prepare(brainenc.RidgeEncoder(Centred()), images, extraction(images, {}))
    assert rows.shape == (40, 16)
    assert not looks_like_images(rows)
    fitted = prepared.fit(rows[:30], rows[:30, :2])
    np.testing.assert_array_equal(
        inputs_of(fitted, rows[30:]), Centred().fit(images[:30]).transform(images[30:])
    )
    assert for_arrays(prepared).features is not None  # arrays are what it takes already


@pytest.mark.parametrize("features", [None, "own", "given"])
def test_new_images_are_seen_by_what_was_learnt_from_the_old(images, features):
    rng = np.random.default_rng(1)
    betas = images.reshape(40, -1)[:, None, :3] / 50 + 0.1 * rng.standard_normal((40, 2, 3))
    own = brainenc.RidgeEncoder(Centred())
    pixels = Centred().fit_transform(images)
    flat = CalibratedEncoder(brainenc.RidgeEncoder(None), cv=3).fit(pixels, betas)
    if features is None:  # arrays, whatever the encoder's own features
        calibrated, X = CalibratedEncoder(own, features=None, cv=3), pixels
    elif features == "own":
        calibrated, X = CalibratedEncoder(own, cv=3), images
    else:
        calibrated, X = CalibratedEncoder(features=Centred(), cv=3), images
    calibrated.fit(X, betas)
    np.testing.assert_array_equal(calibrated.predict(X[:5]), flat.predict(pixels[:5]))
    # Folds subtract another mean, which ridge is blind to, up to rounding; an array's is given.
    np.testing.assert_allclose(calibrated.scale_, flat.scale_, rtol=1e-3)
    assert (calibrated.scale_ == flat.scale_).all() == (features is None)
