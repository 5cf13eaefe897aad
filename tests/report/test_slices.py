"""Slices of a subject's own volume."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.report import NothingToDraw

#: i runs from right to left, so that the array has to be turned for the picture.
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
SHAPE = (6, 5, 4)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    voxels = pd.DataFrame(np.argwhere(np.ones(SHAPE)), columns=["i", "j", "k"])
    images = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    betas = rng.standard_normal((4, 2, len(voxels)))
    betas[0, 1] = np.nan
    return brainenc.EncodingData(images, betas, voxels, volume=brainenc.Volume(SHAPE, AFFINE))


def shown(axes, which=-1):
    """Pixels of an image as (x, y), from left and below."""
    return np.ma.filled(axes.images[which].get_array().T, np.nan)


def test_each_value_is_in_its_slice_with_the_left_on_the_left(data):
    values = np.arange(len(data.voxels), dtype=float)
    values[7] = np.nan
    figure = brainenc.plot_slices(values, data)
    volume = values.reshape(SHAPE)[::-1]  # from left to right
    for k in range(4):
        np.testing.assert_array_equal(shown(figure.axes[k]), volume[:, :, k])
        assert figure.axes[k].get_title() == f"z = {5 + 3 * k} mm"
    figure = brainenc.plot_slices(values, data, axis="x", n_slices=2)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["x = 0 mm", "x = 10 mm"]
    np.testing.assert_array_equal(shown(figure.axes[0]), volume[0])


def test_the_mean_of_the_betas_lies_behind(data):
    figure = brainenc.plot_slices(np.ones(len(data.voxels)), data, background="mean betas")
    mean = np.nanmean(data.betas, axis=(0, 1)).reshape(SHAPE)[::-1]
    np.testing.assert_allclose(shown(figure.axes[1], 0), mean[:, :, 1], rtol=1e-6)


def test_anatomy_of_another_grid_lies_behind_where_it_is(data, tmp_path):
    """An anatomy of 1 mm whose content is its own millimetres."""
    affine = np.array([[1.0, 0, 0, -15], [0, 1, 0, -30], [0, 0, 1, -5], [0, 0, 0, 1]])
    place = np.indices((40, 40, 40)).reshape(3, -1)
    x = (affine[:3, :3] @ place + affine[:3, 3:])[0].reshape(40, 40, 40).astype(np.float32)
    nib.Nifti1Image(x, affine).to_filename(tmp_path / "t1.nii.gz")
    figure = brainenc.plot_slices(
        np.ones(len(data.voxels)), data, background=tmp_path / "t1.nii.gz"
    )
    expected = np.repeat(np.arange(0, 12, 2.0)[:, None], 5, axis=1)  # x of i = 5, 4, …
    np.testing.assert_allclose(shown(figure.axes[0], 0), expected, atol=1e-4)
    far = nib.Nifti1Image(x, affine + np.array([[0, 0, 0, 500]] * 3 + [[0] * 4]))
    with pytest.raises(ValueError, match="do not overlap"):
        brainenc.plot_slices(np.ones(len(data.voxels)), data, background=far)


def test_what_cannot_be_drawn_is_said(data):
    values = np.ones(len(data.voxels))
    with pytest.raises(NothingToDraw, match="No voxel has a value"):
        brainenc.plot_slices(values * np.nan, data)
    with pytest.raises(ValueError, match="axis='w'"):
        brainenc.plot_slices(values, data, axis="w")
    with pytest.raises(ValueError, match="n_slices=0"):
        brainenc.plot_slices(values, data, n_slices=0)
    nowhere = brainenc.EncodingData(data.images, data.betas)
    with pytest.raises(ValueError, match="has no volume"):
        brainenc.plot_slices(values, nowhere)
