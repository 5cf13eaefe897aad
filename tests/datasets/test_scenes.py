import numpy as np
import pytest

from brainenc.datasets.simulated.scenes import CATEGORIES, FIELD, draw_scene, make_scenes


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(np.random.SeedSequence(3).spawn(200))


def test_every_image_has_objects_and_categories_are_balanced(scenes):
    images, objects = scenes
    assert images.shape == (200, 64, 64, 3)
    assert images.dtype == np.uint8
    assert objects["image"].tolist() == sorted(objects["image"])
    assert set(objects["image"]) == set(range(200))
    main = objects.groupby("image")["category"].first().value_counts()
    # Binomial(200, 1/5): mean 40, s.d. 5.7; allow four.
    assert set(main.index) == set(CATEGORIES)
    assert main.between(17, 63).all()


def test_an_image_does_not_depend_on_how_many_others_there_are(scenes):
    fewer, objects = make_scenes(np.random.SeedSequence(3).spawn(20))
    np.testing.assert_array_equal(fewer, scenes[0][:20])
    np.testing.assert_array_equal(objects, scenes[1][scenes[1]["image"] < 20])


@pytest.mark.parametrize("category", [c for c in CATEGORIES if c != "place"])
@pytest.mark.parametrize(("x", "y"), [(-2.1, 2.1), (2.1, -1.0)])
def test_objects_are_where_the_table_says(category, x, y):
    """The same texture with and without the object differs around (x, y) only."""
    content = {"category": category, "x": x, "y": y, "size": 2.8, "contrast": 1.0}
    content |= {"hue": 0.6, "tilt": 0.2, "style": 0.3}
    with_object = draw_scene(np.random.default_rng(1), [content], 96).astype(float)
    without = draw_scene(np.random.default_rng(1), [], 96).astype(float)
    changed = np.abs(with_object - without).sum(axis=2) > 0
    rows, columns = np.nonzero(changed)
    centre = (columns + 0.5) / 96 * FIELD - FIELD / 2, FIELD / 2 - (rows + 0.5) / 96 * FIELD
    # Figures are not centred in their square to the pixel (a car sits low, say): a fifth of 2.8.
    assert abs(centre[0].mean() - x) < 0.6
    assert abs(centre[1].mean() - y) < 0.6
    assert np.ptp(centre[0]) < 2.8 * 1.3  # a square turned by up to 20°
    assert changed.mean() > 0.02


def test_contrast_scales_how_much_an_object_changes_the_image():
    content = {
        "category": "face",
        "x": 0.0,
        "y": 0.0,
        "size": 4.0,
        "hue": 0.6,
        "tilt": 0,
        "style": 0,
    }
    images = [
        draw_scene(np.random.default_rng(1), objects, 64).astype(float)
        for objects in ([], [{**content, "contrast": 0.4}], [{**content, "contrast": 0.8}])
    ]
    weak, strong = (np.abs(image - images[0]).mean() for image in images[1:])
    # Blending is linear, so twice the contrast is twice the change but for rounding to integers.
    assert strong / weak == pytest.approx(2, rel=0.05)


def test_place_fills_the_image():
    content = {"category": "place", "x": 0, "y": 0, "size": FIELD, "contrast": 0.9}
    content |= {"hue": 0.6, "tilt": 0.2}
    textures = draw_scene(np.random.default_rng(1), [], 64).astype(float)
    for style in (-0.8, 0.0, 0.8):  # corridor, street, landscape
        image = draw_scene(np.random.default_rng(1), [{**content, "style": style}], 64)
        assert (np.abs(image - textures).sum(axis=2) > 0).mean() > 0.97
