"""Stimuli: orientation, contrast, places and sizes of what is drawn, measured on the pixels."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from brainenc.insilico import bars, gratings, objects_on_backgrounds, with_blur, with_contrast


def direction(image):
    """Orientation of stripes, degrees counterclockwise, by the largest Fourier component."""
    grey = image[..., 0].astype(float)
    n = len(grey)
    power = np.abs(np.fft.fft2(grey - grey.mean()))
    row, column = np.unravel_index(power[: n // 2 + 1].argmax(), (n // 2 + 1, n))
    x, y_up = (column + n // 2) % n - n // 2, -row
    return (np.rad2deg(np.arctan2(y_up, x)) + 90) % 180, np.hypot(x, y_up)


@pytest.mark.parametrize("orientation", [0, 45, 90, 135])
def test_stripes_have_the_orientation_and_the_cycles(orientation):
    diagonal = np.sqrt(2) if orientation % 90 else 1
    found = gratings([orientation], cycles=[6 * diagonal], phases=3)
    for image in found.images:
        angle, cycles = direction(image)
        assert angle == pytest.approx(orientation)
        assert cycles == pytest.approx(6 * diagonal)


def test_a_diagonal_of_45_degrees_goes_up_to_the_right():
    image = gratings([45], cycles=[4], phases=1).images[0, ..., 0].astype(int)
    # Down by one row and left by one column is along the stripe.
    np.testing.assert_allclose(image[1:, :-1], image[:-1, 1:], atol=1)


def test_contrast_is_michelson_and_the_mean_is_grey():
    found = gratings([0], contrasts=[0.1, 0.5], cycles=[2], phases=16)
    for contrast, some in zip([0.1, 0.5], (found.images[:16], found.images[16:]), strict=True):
        low, high = some.min() / 255, some.max() / 255
        assert (high - low) / (high + low) == pytest.approx(contrast, abs=0.01)
        assert some.mean() == pytest.approx(127.5, abs=0.6)
    assert found.parameters["contrast"].tolist() == [0.1, 0.5]


def test_an_aperture_is_round_and_where_it_is_asked_for():
    image = gratings([0], sizes=[0.3], x=0.2, y=0.1, phases=8).images.astype(float).std(axis=0)
    rows, columns = np.nonzero(image[..., 0] > 10)
    assert (columns.mean() + 0.5) / 64 - 0.5 == pytest.approx(0.2, abs=0.02)
    assert 0.5 - (rows.mean() + 0.5) / 64 == pytest.approx(0.1, abs=0.02)
    assert np.ptp(columns) / 64 == pytest.approx(0.3, abs=0.06)


def test_phases_of_a_condition_average_to_grey():
    found = gratings([0, 30], phases=8)
    for images in found.conditions().values():
        np.testing.assert_allclose(images.astype(float).mean(axis=0), 127.5, atol=1)


def test_bars_lie_where_they_are_asked_for():
    found = bars([0, 90], positions=[-0.3, 0.2], width=0.1)
    for (_, row), image in zip(found.table.iterrows(), found.images, strict=True):
        away = np.abs(image[..., 0].astype(float) - 127.5) > 30
        rows, columns = np.nonzero(away)
        up, right = 0.5 - (rows.mean() + 0.5) / 64, (columns.mean() + 0.5) / 64 - 0.5
        assert (up if row["orientation"] == 0 else right) == pytest.approx(
            row["position"], abs=0.02
        )
    # A checkerboard and its negative.
    np.testing.assert_allclose(found.images[:2].astype(int).sum(axis=0), 255, atol=1)


def disc(color):
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((0, 0, 39, 39), fill=(*color, 255))
    return picture


def test_objects_have_the_size_place_and_background():
    grounds = np.random.default_rng(0).integers(0, 40, (5, 64, 64, 3), dtype=np.uint8)
    objects = {"red": [disc((255, 0, 0))] * 3, "white": [disc((255, 255, 255))] * 3}
    found = objects_on_backgrounds(
        objects, grounds, sizes=[0.25, 0.5], positions=[(0, 0), (0.2, -0.2)]
    )
    assert len(found) == 2 * 2 * 2 * 3
    for (_, row), image in zip(found.table.iterrows(), found.images, strict=True):
        rows, columns = np.nonzero(image[..., 0] > 150)
        assert np.ptp(columns) / 64 == pytest.approx(row["size"], abs=0.05)
        assert (columns.mean() + 0.5) / 64 - 0.5 == pytest.approx(row["x"], abs=0.02)
        assert 0.5 - (rows.mean() + 0.5) / 64 == pytest.approx(row["y"], abs=0.02)
    # The k-th objects of both conditions have one background: they differ within the disc only.
    red, white = (found.images[found.table["object"] == name] for name in objects)
    rows = found.table[found.table["object"] == "red"]
    y, x = np.mgrid[:64, :64] + 0.5
    for (_, row), one, other in zip(rows.iterrows(), red, white, strict=True):
        centre = (0.5 + row["x"]) * 64, (0.5 - row["y"]) * 64
        outside = np.hypot(x - centre[0], y - centre[1]) > 32 * row["size"] + 2
        # The filter that makes objects smaller rings by a grey level or two.
        np.testing.assert_allclose(one[outside].astype(int), other[outside].astype(int), atol=3)
        assert one[outside].max() < 45


def test_contrast_and_blur_of_pictures():
    rng = np.random.default_rng(0)
    pictures = rng.integers(60, 200, (2, 48, 48, 3), dtype=np.uint8)
    found = with_contrast(pictures, [0, 0.5, 1])
    np.testing.assert_array_equal(found.images[4:], pictures)
    sd = [found.images[i].astype(float).std() for i in (0, 2, 4)]
    assert sd[0] == pytest.approx(0, abs=1e-9)
    assert sd[1] / sd[2] == pytest.approx(0.5, abs=0.01)
    # White noise blurred by s pixels has the variance 1 / (4 π s²).
    blurred = with_blur(pictures, [0, 2 / 48])
    np.testing.assert_array_equal(blurred.images[:2], pictures)
    ratio = blurred.images[2:].astype(float)[:, 8:-8, 8:-8].std() / pictures.astype(float).std()
    assert ratio == pytest.approx(1 / np.sqrt(4 * np.pi * 4), rel=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gratings([0, 0]), "value twice"),
        (lambda: gratings([]), "one or more values"),
        (lambda: gratings(45), "orientation: give one or more values"),
        (lambda: gratings([0, np.nan]), "orientation has the value nan"),
        (lambda: gratings([0], sizes=[0.3], x=5), "outside of the image"),
        (lambda: gratings([0], sizes=[np.inf]), "size has the value inf"),
        (lambda: gratings([0], phases=1.5), "phases=1.5 must be a whole number"),
        (lambda: gratings([0], image_size=True), "image_size=True must be"),
        (lambda: bars(positions=[np.nan, 0]), "position has the value nan"),
        (lambda: bars([0], positions=[0.6]), "orientation 0 at 0.6 is outside"),
        (lambda: with_blur(np.zeros((1, 8, 8, 3), np.uint8), [np.inf]), "blur has the value inf"),
        (
            lambda: objects_on_backgrounds({"a": [disc((1, 2, 3))]}, positions=[(0.7, 0)]),
            "positions has .* outside of the image",
        ),
        (lambda: objects_on_backgrounds({"a": [disc((1, 2, 3))]}, positions=[0, 0]), "pairs"),
        (
            lambda: objects_on_backgrounds({1: [disc((1, 2, 3))], "1": [disc((9, 2, 3))]}),
            "objects has the name '1' twice",
        ),
        (lambda: gratings([0], contrasts=[1.2]), "contrast=1.2"),
        (lambda: gratings([0], cycles=[40]), "at most 32"),
        (lambda: gratings([0], sizes=[0]), "size=0"),
        (lambda: bars(width=0), "width=0"),
        (lambda: bars(positions=[2]), "in the image"),
        (lambda: objects_on_backgrounds({}), "no picture"),
        (lambda: objects_on_backgrounds({"a": [np.zeros((4, 4, 3), np.uint8)]}), "RGBA"),
        (lambda: objects_on_backgrounds({"a": [disc((1, 2, 3))]}, sizes=[2]), "sizes"),
        (lambda: with_blur(np.zeros((1, 8, 8, 3), np.uint8), [-1]), "0 or more"),
    ],
)
def test_values_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_values_may_be_arrays():
    objects = {"a": [disc((200, 2, 3))]}
    places = [(0.1, 0.0), (-0.2, 0.3)]
    ours = objects_on_backgrounds(objects, sizes=np.array([0.2, 0.4]), positions=np.array(places))
    theirs = objects_on_backgrounds(objects, sizes=[0.2, 0.4], positions=places)
    np.testing.assert_array_equal(ours.images, theirs.images)
    assert ours.table.equals(theirs.table)
    assert gratings(np.array([0.0, 45.0])).table.equals(gratings([0.0, 45.0]).table)
    # A bar across a corner: a diagonal one reaches further than an upright one.
    assert bars([45], positions=[0.6]).images.std() > 0
