import numpy as np
import pytest
from PIL import Image

from brainenc.features import PixelFeatures


def images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_small_figure_is_its_pixels():
    figures = images((3, 10, 10))
    features = PixelFeatures(verbose=False).fit_transform(figures)
    assert features.shape == (3, 100)
    np.testing.assert_array_equal(features * 255, figures.reshape(3, 100))


def test_whole_blocks_are_averaged():
    photographs = images((2, 12, 18, 3))
    features = PixelFeatures((4, 6), verbose=False).transform(photographs)
    expected = photographs.reshape(2, 4, 3, 6, 3, 3).mean((2, 4)) / 255
    np.testing.assert_allclose(features, expected.reshape(2, -1), atol=1e-6)  # float32 rounding


@pytest.mark.parametrize("size", [(5, 7), (9, 13), 1])
def test_sizes_that_do_not_divide_share_border_pixels_by_area(size):
    grey = images((1, 13, 17))
    height, width = (size, size) if isinstance(size, int) else size
    features = PixelFeatures(size, verbose=False).transform(grey).reshape(height, width)
    pixels = grey[0].astype(float)

    # Exact areas by integrating a 2-D step function: cumulative sums, interpolated linearly.
    def stretches(values, n):
        cumulative = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0)])
        edges = np.linspace(0, len(values), n + 1)
        at = [np.interp(edges, np.arange(len(cumulative)), column) for column in cumulative.T]
        return np.diff(np.stack(at, 1), axis=0) * n / len(values)

    exact = stretches(stretches(pixels, height).T, width).T
    np.testing.assert_allclose(features * 255, exact, atol=1e-3)  # 255 * float32 rounding, summed


def test_grey_is_pils_grey():
    photographs = images((2, 6, 5, 3))
    features = PixelFeatures(color=False, verbose=False).transform(photographs)
    pil = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in photographs])
    # PIL rounds to whole grey levels.
    assert np.abs(features.reshape(2, 6, 5) * 255 - pil).max() <= 0.51


def test_grey_images_have_no_colour_to_keep():
    figures = images((2, 4, 4))
    a, b = (PixelFeatures(color=c, verbose=False).transform(figures) for c in (True, False))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [11, 0, (4, 11)])
def test_a_size_that_does_not_shrink_is_refused(size):
    with pytest.raises(ValueError, match=r"size=.*\(10, 10\)"):
        PixelFeatures(size, verbose=False).transform(images((1, 10, 10)))
