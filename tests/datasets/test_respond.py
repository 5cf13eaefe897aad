"""truth.respond: the simulated subject's answer to new images, and scenes of given objects."""

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.datasets import draw_scenes, simulate_subject, simulate_subjects
from brainenc.datasets.simulated.cortex import early


@pytest.fixture(scope="module")
def data():
    return simulate_subject(n_images=80, n_voxels=60, n_repeats=2, random_state=4)


def test_the_images_simulated_have_the_response_that_made_the_betas(data):
    found = data.truth.respond(data.images, data.truth.objects)
    # The same sums in another order: float32 round-off of responses with s.d. of .1 to 1.
    np.testing.assert_allclose(found, data.truth.signal, atol=2e-5)


def test_unseen_images_have_the_response_of_a_subject_who_sees_them():
    """Means and s.d. of voxels are over the images simulated: all but a line is the same."""
    many = simulate_subject(n_images=120, n_voxels=30, n_repeats=1, random_state=4)
    few = simulate_subject(n_images=60, n_voxels=30, n_repeats=1, random_state=4)
    objects = many.truth.objects.query("image >= 60").assign(image=lambda t: t["image"] - 60)
    found = few.truth.respond(many.images[60:], objects)
    expected = many.truth.signal[60:]
    high = ~early(many.voxels["roi"])
    r = [np.corrcoef(found[:, v], expected[:, v])[0, 1] for v in range(30)]
    assert np.min(np.array(r)[~high]) > 1 - 1e-6
    # Low-level part and content have their own scales.
    assert np.min(np.array(r)[high]) > 0.99


def test_selected_voxels_and_images_respond_alike(data):
    some = data.truth.select(images=np.arange(20), voxels=[3, 55, 20])
    whole = data.truth.respond(data.images[:10])
    np.testing.assert_allclose(some.respond(data.images[:10]), whole[:, [3, 55, 20]], rtol=1e-6)


def test_without_objects_high_level_voxels_have_no_response(data):
    high = ~early(data.voxels["roi"])
    found = data.truth.respond(data.images[:3])
    assert np.isnan(found[:, high]).all()
    assert np.isfinite(found[:, ~high]).all()
    nothing = data.truth.respond(data.images[:3], pd.DataFrame({"image": [], "category": []}))
    assert np.isfinite(nothing).all()


def test_grey_images_are_those_with_equal_channels(data):
    grey = data.images[:4, :, :, 0]
    of_rgb = data.truth.respond(np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(data.truth.respond(grey), of_rgb)


def test_areas_prefer_drawn_objects_of_their_category(data):
    categories = np.repeat(["face", "body", "place", "food"], 6)
    objects = pd.DataFrame({"image": np.arange(24), "category": categories, "size": 5.0})
    images = draw_scenes(objects)
    found = pd.DataFrame(data.truth.respond(images, objects)).groupby(categories).mean()
    roi = data.voxels["roi"].to_numpy()
    of_area = {name: found.loc[:, roi == name].mean(axis=1).idxmax() for name in ("FFA", "PPA")}
    assert of_area == {"FFA": "face", "PPA": "place"}


def test_drawn_scenes_depend_on_their_own_row_and_seed():
    objects = pd.DataFrame({"image": [0, 0, 1], "category": ["face", "food", "body"]})
    both = draw_scenes(objects, n_images=3, seeds=[7, 8, 9])
    alone = draw_scenes(objects[2:].assign(image=0), seeds=[8])
    np.testing.assert_array_equal(both[1], alone[0])
    grey = draw_scenes(objects, n_images=3, background="grey")
    assert (grey[2] == 127).all()
    assert (grey[0] != 127).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "cat"}, "'cat', which is none of"),
        ({"image": 5}, "goes to 5, but there are 3 images"),
        ({"image": -1}, "whole numbers from 0"),
        ({"contrast": 1.5}, "'contrast'.*from 0 to 1"),
        ({"size": np.nan}, "'size'.*numbers"),
    ],
)
def test_tables_of_objects_are_checked(data, change, message):
    objects = pd.DataFrame({"image": [0], "category": ["face"]}).assign(**change)
    with pytest.raises(ValueError, match=message):
        data.truth.respond(data.images[:3], objects)


def test_what_cannot_be_answered_is_refused(data):
    with pytest.raises(ValueError, match="multiple of 16"):
        data.truth.respond(np.zeros((2, 40, 40, 3), np.uint8))
    with pytest.raises(TypeError, match="uint8"):
        data.truth.respond(np.zeros((2, 48, 48, 3)))
    with pytest.raises(ValueError, match="no column 'category'"):
        data.truth.respond(data.images[:1], pd.DataFrame({"image": [0]}))
    own = simulate_subjects(1, 20, 10, shared_images=0, alikeness=0.5)[0]
    with pytest.raises(ValueError, match=r"alikeness=0\.5"):
        own.truth.respond(own.images)
    assert brainenc.datasets.draw_scenes is draw_scenes
