import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.selectivity import top_images


class Given:
    """An encoder whose predictions are its inputs."""

    n_voxels_ = 4

    def predict(self, X):
        return np.asarray(X)


@pytest.fixture(scope="module")
def predictions():
    found = np.random.default_rng(0).standard_normal((50, 4))
    found[:, 2] = 1.5  # constant
    found[7, 3] = np.nan
    return found


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_top_images_are_those_of_a_sort(predictions, batch_size):
    found = top_images(Given(), predictions, 5, batch_size=batch_size)
    for voxel in (0, 1):
        rows = found[found["voxel"] == voxel]
        expected = np.argsort(-predictions[:, voxel])[:5]
        assert rows["image"].tolist() == expected.tolist()
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(rows["response"], predictions[expected, voxel], rtol=1e-6)
    assert set(found["voxel"]) == {0, 1}  # not of the constant and the undefined one


@pytest.mark.parametrize("batch_size", [3, 100])
def test_equal_predictions_are_in_the_order_of_images(batch_size):
    values = np.tile([[1.0], [0.0], [1.0]], (4, 1))
    found = top_images(Given(), values, 6, batch_size=batch_size)
    assert found["image"].tolist() == [0, 2, 3, 5, 6, 8]


def test_some_voxels(predictions):
    everything = top_images(Given(), predictions, 3)
    one = top_images(Given(), predictions, 3, voxels=[1])
    pd.testing.assert_frame_equal(one, everything[everything["voxel"] == 1].reset_index(drop=True))


@pytest.mark.parametrize("batch_size", [9, 64])
def test_rois_are_means_of_scaled_voxels(predictions, batch_size):
    scaled = predictions * [1, 1000, 1, 1]  # units do not count
    rois = ["a", "a", "a", "b"]
    found = top_images(Given(), scaled, 4, rois=rois, batch_size=batch_size)
    z = predictions[:, :2] / predictions[:, :2].std(axis=0, ddof=1)
    expected = np.argsort(-z.sum(axis=1))[:4]
    rows = found[found["roi"] == "a"]
    assert rows["image"].tolist() == expected.tolist()
    np.testing.assert_allclose(rows["response"], z.sum(axis=1)[expected] / 3, rtol=1e-5)
    assert set(found["roi"]) == {"a"}  # b has an undefined voxel alone
    some = top_images(Given(), scaled, 4, rois=rois, voxels=[0])
    assert some["image"].tolist() == np.argsort(-predictions[:, 0])[:4].tolist()


def test_means_of_rois_are_over_voxels_with_predictions(predictions):
    without = predictions.copy()
    without[:, 1] = np.nan  # a voxel without data
    found = top_images(Given(), without, 4, rois=["a", "a", "a", "b"])
    z = predictions[:, 0] / predictions[:, 0].std(ddof=1)
    assert found["roi"].unique().tolist() == ["a"]  # b has no voxel with predictions
    # Voxel 1 has none, and voxel 2 is constant.
    np.testing.assert_allclose(found["response"], np.sort(z)[::-1][:4] / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 51}, "n=51 must be a whole number of at least 1 and at most 50, the number of"),
        ({"n": 0}, "n=0 must be"),
        ({"n": 1.5}, "n=1.5 must be a whole number"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number"),
        ({"rois": ["a"] * 3}, "rois has 3 labels, but the encoder has 4 voxels"),
        ({"rois": [None] * 4}, "rois has no label"),
        ({"voxels": [9]}, "voxels"),
    ],
)
def test_wrong_arguments(predictions, settings, message):
    with pytest.raises((ValueError, IndexError), match=message):
        top_images(Given(), predictions, **{"n": 5, **settings})


def test_images_are_read_in_batches():
    data = brainenc.datasets.simulate_subject(60, 12, 2, random_state=0)
    gabor = brainenc.GaborPyramid(n_scales=2, verbose=False)
    encoder = brainenc.RidgeEncoder(gabor).fit(data.images[:40], data.betas[:40])
    found = top_images(encoder, data.images[40:], 3, batch_size=8)
    whole = encoder.predict(data.images[40:])
    first = found[found["rank"] == 1].set_index("voxel")["image"]
    assert first.tolist() == whole.argmax(axis=0)[first.index].tolist()
