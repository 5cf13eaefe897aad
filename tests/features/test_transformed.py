import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc import GlimpseFeatures, PixelFeatures, TransformedFeatures
from brainenc.features import FeatureExtractor, foveal_blur, gaussian_blur
from brainenc.features.untrained import find_networks, untrained


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 42, 42, 3), dtype=np.uint8)


def pixels(**settings):
    return PixelFeatures(verbose=False, **settings)


def transformed(transform, **settings):
    return TransformedFeatures(pixels(), transform, verbose=False, **settings)


# ------------------------------------------------------------------ blur


def test_uniform_blur_is_in_degrees(images):
    found = gaussian_blur(0.4, image_deg=8.4)(images[0])  # 42 pixels over 8.4 degrees: 2 pixels
    for colour in range(3):
        expected = gaussian_filter(images[0, ..., colour].astype(float), 2.0, mode="mirror")
        assert np.abs(found[..., colour] - expected).max() <= 0.51  # rounded
    np.testing.assert_array_equal(gaussian_blur(0)(images[0]), images[0])
    doubled = np.kron(images[0, ..., 0], np.ones((2, 2), np.uint8))
    small, large = gaussian_blur(0.6)(images[0, ..., 0]), gaussian_blur(0.6)(doubled)
    means = large.reshape(42, 2, 42, 2).mean(axis=(1, 3))
    # Pixels have a width of their own, which the larger image has half of.
    assert np.corrcoef(small.ravel(), means.ravel())[0, 1] > 0.99


def blurred_pixel_by_pixel(image, sigma_deg, e2, fixation, image_deg):
    """Every pixel the mean of the mirrored image under its own Gaussian."""
    height, width = image.shape
    scale = width / image_deg
    reach = 30
    padded = np.pad(image.astype(float), reach, mode="reflect")
    offset = np.arange(-reach, reach + 1)
    out = np.empty(image.shape)
    for row in range(height):
        for column in range(width):
            x = (column + 0.5 - width / 2) / scale - fixation[0]
            y = (height / 2 - row - 0.5) / scale - fixation[1]
            sd = sigma_deg * scale * (1 + np.hypot(x, y) / e2)
            kernel = np.exp(-(offset**2) / (2 * sd**2))
            kernel /= kernel.sum()
            window = padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
            out[row, column] = kernel @ window @ kernel
    return out


@pytest.mark.parametrize("fixation", [(0.0, 0.0), (-2.0, 1.0)])
def test_foveal_blur_is_that_of_each_pixels_own_gaussian(images, fixation):
    smooth = gaussian_filter(images[0, ..., 0].astype(float), 1)
    image = np.clip((smooth - 128) * 4 + 128, 0, 255).astype(np.uint8)
    expected = blurred_pixel_by_pixel(image, 0.12, 1.5, fixation, 8.4)
    found = foveal_blur(0.12, 1.5, fixation=fixation)(image)
    # Interpolated between blurs whose s.d. differ by a quarter.
    assert np.abs(found - expected).max() < 0.04 * image.std()
    # A blur of the other direction is far off.
    other = foveal_blur(0.12, 1.5, fixation=(fixation[0] + 1, fixation[1]))(image)
    assert np.abs(other - expected).max() > 0.1 * image.std()


def test_ubp_blends_half_at_the_centre():
    image = np.zeros((225, 225), np.uint8)
    image[112, 112] = 255
    found = foveal_blur("ubp")(image)
    assert found[112, 112] == pytest.approx(128, abs=1)  # a point loses half, and 1/400 is left
    edge = np.zeros((224, 224, 3), np.uint8)
    edge[:, :4] = 255
    blurred = gaussian_filter(edge[..., 0].astype(float), 8.0, mode="mirror")
    d = np.hypot(*np.meshgrid(np.arange(224) - 111.5, np.arange(224) - 111.5))
    alpha = 1 - 0.5 * np.exp(-3 * d / d.max())
    expected = alpha * blurred + (1 - alpha) * edge[..., 0]
    assert np.abs(foveal_blur("ubp")(edge)[..., 1] - expected).max() <= 0.51


@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian_blur(-1),
        lambda: gaussian_blur(float("nan")),
        lambda: gaussian_blur("much"),
        lambda: gaussian_blur(1, image_deg=0),
        lambda: foveal_blur(0),
        lambda: foveal_blur(0.1, 0),
        lambda: foveal_blur("geisler"),
        lambda: foveal_blur("ubp", 3.0),
        lambda: foveal_blur(0.1, fixation=(0, float("inf"))),
    ],
)
def test_wrong_blurs(make):
    with pytest.raises(ValueError, match="must be"):
        make()


# ------------------------------------------------------------------ TransformedFeatures


def test_features_are_those_of_the_changed_images(images):
    blur = gaussian_blur(0.5)
    expected = pixels().transform(np.stack([blur(image) for image in images]))
    found = transformed(blur, batch_size=4).transform(images)
    np.testing.assert_array_equal(found, expected)


def test_a_function_in_place_leaves_images_alone(images):
    def black(image):
        image[:] = 0
        return image

    before = images.copy()
    assert not transformed(black).transform(images).any()
    np.testing.assert_array_equal(images, before)


def test_the_key_is_the_function_and_its_effect(images, tmp_path):
    def own(image):
        return gaussian_blur(0.5)(image)

    assert transformed(gaussian_blur(0.5)).key() == transformed(gaussian_blur(0.5)).key()
    assert transformed(own).key() != transformed(gaussian_blur(0.6)).key() != pixels().key()
    assert transformed(own).key() != TransformedFeatures(pixels(size=4), own).key()
    json.dumps(transformed(own).key())
    rng = np.random.default_rng(0)
    noisy = transformed(lambda image: (image + rng.integers(0, 9)).astype(np.uint8))
    for store in (tmp_path, None):
        with pytest.raises(ValueError, match="image_transform gives another result each time"):
            noisy.set_params(store=store).transform(images)


def narrow_blur(sigma):
    return lambda image: gaussian_blur(sigma)(image)


@pytest.mark.parametrize(
    "transforms",
    [
        (gaussian_blur(0), gaussian_blur(0.0029)),
        (foveal_blur(1e-4), foveal_blur(0.0029)),
        (narrow_blur(0), narrow_blur(0.0029)),
    ],
)
def test_a_store_keeps_transforms_apart_that_differ_for_large_images_only(transforms, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (1, 1600, 1600), dtype=np.uint8)
    sharp, blurred = (transformed(t, store=tmp_path).transform(large) for t in transforms)
    expected = pixels().transform(np.stack([transforms[1](large[0])]))
    np.testing.assert_array_equal(blurred, expected)
    assert not np.array_equal(sharp, blurred)


def test_a_random_transform_is_refused_inside_another_and_after_a_change(images):
    rng = np.random.default_rng(0)

    def noisy(image):
        return (image + rng.integers(0, 9)).astype(np.uint8)

    inside = TransformedFeatures(transformed(noisy), gaussian_blur(0.5), verbose=False)
    changed = transformed(gaussian_blur(0.5))
    changed.transform(images)
    for extractor in (inside, changed.set_params(image_transform=noisy)):
        with pytest.raises(ValueError, match=r"remove the random steps\. See"):
            extractor.transform(images)


def test_the_store_of_the_extractor_is_used(images, tmp_path):
    inner = pixels(store=tmp_path)
    wrapped = TransformedFeatures(inner, gaussian_blur(0.5), verbose=False)
    wrapped.transform(images)
    assert len(list(tmp_path.rglob("*.npy"))) == len(images)
    np.testing.assert_array_equal(inner.transform(images), pixels().transform(images))
    np.testing.assert_array_equal(
        wrapped.transform(images), transformed(gaussian_blur(0.5)).transform(images)
    )


class Learns(FeatureExtractor):
    def __init__(self, batch_size=8, store=None, verbose=False):
        self.batch_size, self.store, self.verbose = batch_size, store, verbose

    def fit(self, X, y=None):
        self.mean_ = np.mean(X)
        return self

    def _extract(self, batch):
        return batch.reshape(len(batch), -1) - self.mean_


@pytest.mark.parametrize(
    ("extractor", "change", "error", "message"),
    [
        (Learns(), gaussian_blur(1), TypeError, "Learns learns from images"),
        (PCA(2), gaussian_blur(1), TypeError, "extractor is a PCA"),
        (make_pipeline(pixels(), PCA(2)), gaussian_blur(1), TypeError, "extractor is a Pipeline"),
        (pixels(), 3, TypeError, "image_transform=3 must be a function"),
        (pixels(), lambda i: i / 255, ValueError, "must give uint8"),
        (pixels(), lambda i: i.ravel(), ValueError, r"of shape \(5292,\)"),
        (pixels(), lambda i: i[: 1 + i[0, 0, 0] % 40], ValueError, "images of one size"),
    ],
)
def test_wrong_parts(images, extractor, change, error, message):
    with pytest.raises(error, match=message):
        TransformedFeatures(extractor, change, verbose=False).transform(images)


def test_the_band_that_drives_a_voxel_has_its_weight(images):
    """Fine detail drives one voxel and coarse brightness the other; blur keeps the second alone."""
    rng = np.random.default_rng(1)
    many = rng.integers(0, 256, (300, 8, 8), dtype=np.uint8)
    sharp, blurred = (
        pixels().transform(many),
        transformed(gaussian_blur(1.5)).transform(many),  # 1.4 pixels
    )
    coarse = blurred @ rng.standard_normal(64)
    fine = (sharp - blurred) @ rng.standard_normal(64)
    betas = np.column_stack([coarse / coarse.std(), fine / fine.std()])
    betas = betas + 0.3 * rng.standard_normal(betas.shape)
    r = {}
    for name, extractor in [("sharp", pixels()), ("blur", transformed(gaussian_blur(1.5)))]:
        encoder = brainenc.RidgeEncoder(extractor).fit(many[:200], betas[:200])
        predicted = encoder.predict(many[200:])
        r[name] = np.diag(np.corrcoef(predicted.T, betas[200:].T)[:2, 2:])
    assert r["blur"][0] > 0.8  # coarse survives the blur
    assert r["blur"][1] < r["sharp"][1] - 0.2


@pytest.mark.parametrize(
    "wrapped",
    [
        transformed(gaussian_blur(0.5)),
        transformed(foveal_blur(0.1, fixation=(1, 0))),
        transformed(foveal_blur("ubp")),
        GlimpseFeatures(pixels(size=3), [[0, 0], [1.0, -2.0]], verbose=False),
    ],
)
def test_encoders_with_them_are_saved(wrapped, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 42, 42, 3), dtype=np.uint8)
    encoder = brainenc.RidgeEncoder(wrapped).fit(images, images[:, 0, :4, 0].astype(float))
    encoder.save(tmp_path / "model")
    loaded = brainenc.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(images[:3]), encoder.predict(images[:3]))


def test_a_function_of_ones_own_cannot_be_saved_and_says_so(images, tmp_path):
    encoder = brainenc.RidgeEncoder(transformed(lambda image: 255 - image))
    encoder.fit(images, images[:, 0, :4, 0].astype(float))
    with pytest.raises(TypeError, match=r"image_transform .*cannot be saved"):
        encoder.save(tmp_path / "model")


def test_the_network_inside_is_found_and_untrained(images):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())

    def prepare(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    net = brainenc.TorchFeatures(module, "1", preprocess=prepare, pool="avg", verbose=False)
    wrapped = TransformedFeatures(net, gaussian_blur(0.5), verbose=False)
    assert list(find_networks([wrapped, transformed(gaussian_blur(1))])) == [wrapped]
    other, name = untrained(wrapped, 0)
    assert name == "Sequential"
    assert np.abs(other.transform(images) - wrapped.transform(images)).max() > 1e-3
    assert wrapped.weights() == net.weights()


# ------------------------------------------------------------------ glimpses


def test_windows_lie_where_fixations_are():
    image = np.zeros((1, 84, 84), np.uint8)
    image[0, 20:24, 60:64] = 200  # centre 62, 22: 2 degrees right and up of 42, 42
    glimpses = GlimpseFeatures(pixels(), [[2.0, 2.0], [-2.0, 2.0]], 0.4)  # 4 pixels
    seen, elsewhere = glimpses.windows(image)[0]
    assert (seen == 200).all()
    assert not elsewhere.any()


def test_outside_of_the_image_is_grey(images):
    window = GlimpseFeatures(pixels(), [[4.2, 0]], 2.0).windows(images)[0, 0]  # 10 pixels
    assert window.shape == (10, 10, 3)
    assert (window[:, 5:] == 128).all()
    np.testing.assert_array_equal(window[:, :5], images[0, 16:26, 37:])


def test_tokens_of_glimpses_follow_one_another(images):
    where = [[0, 0], [1.0, 1.0], [-1.0, 0.5]]
    glimpses = GlimpseFeatures(pixels(size=2), where, 2.0, verbose=False, batch_size=2)
    found = glimpses.transform(images)
    assert found.shape == (6, 3, 12)
    alone = GlimpseFeatures(pixels(size=2), where[2:], 2.0, verbose=False).transform(images)
    np.testing.assert_array_equal(found[:, 2:], alone)
    centre = GlimpseFeatures(pixels(size=2), size_deg=8.4, verbose=False).transform(images)
    np.testing.assert_array_equal(centre[:, 0], pixels(size=2).transform(images))
    assert GlimpseFeatures(pixels(), "centre").key() == GlimpseFeatures(pixels(), [[0, 0]]).key()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fixations": "gaze"}, 'must be "centre"'),
        ({"fixations": [0.0, 1.0]}, r"fixations \(2,\) must be \(n_glimpses, 2\)"),
        ({"fixations": np.zeros((6, 3, 2))}, "the same for every image"),
        ({"fixations": [[0, 5.0]]}, r"\[0.0, 5.0\], outside of images"),
        ({"fixations": [[0, np.nan]]}, "NaN"),
        ({"size_deg": 0.01}, "0.05 pixels"),
        ({"size_deg": -1}, "size_deg=-1 must be"),
    ],
)
def test_wrong_glimpses(images, settings, message):
    with pytest.raises(ValueError, match=message):
        GlimpseFeatures(pixels(), verbose=False, **settings).transform(images)
