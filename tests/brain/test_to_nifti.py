import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainenc.brain import to_nifti

AFFINE = np.array([[-1.8, 0, 0, 90], [0, 1.8, 0, -120], [0, 0, 1.8, -70], [0, 0, 0, 1]])


@pytest.fixture
def voxels():
    return pd.DataFrame(
        {"roi": list("aabb"), "i": [0, 2, 1, 4], "j": [3, 0, 1, 1], "k": [1, 1, 0, 2]}
    )


def test_each_value_is_at_its_position_and_nan_elsewhere(voxels):
    values = np.array([1.5, -2, np.nan, 4])
    image = to_nifti(values, voxels, affine=AFFINE, shape=(6, 5, 4))
    volume = image.get_fdata()
    assert volume.shape == (6, 5, 4)
    expected = np.full((6, 5, 4), np.nan)
    for value, i, j, k in zip(values, voxels.i, voxels.j, voxels.k, strict=True):
        expected[i, j, k] = value
    np.testing.assert_array_equal(volume, expected)
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)  # kept as float32 on disk
    assert to_nifti(values, voxels).shape == (5, 4, 3)


def test_a_written_volume_reads_back_the_same(voxels, tmp_path):
    values = np.arange(8.0).reshape(2, 4)
    for name in ("maps.nii", "new/maps.nii.gz"):
        image = to_nifti(values, voxels, affine=AFFINE, path=tmp_path / name)
        read = nib.load(tmp_path / name)
        assert read.shape == (5, 4, 3, 2)
        np.testing.assert_array_equal(read.get_fdata(), image.get_fdata())
        np.testing.assert_array_equal(read.get_fdata()[4, 1, 2], [3, 7])
        np.testing.assert_allclose(read.affine, AFFINE, rtol=1e-6)
        np.testing.assert_array_equal(np.isnan(read.get_fdata()).sum(), 2 * (60 - 4))
    first = (tmp_path / "new/maps.nii.gz").read_bytes()
    to_nifti(values, voxels, affine=AFFINE, path=tmp_path / "new/maps.nii.gz")
    assert (tmp_path / "new/maps.nii.gz").read_bytes() == first
    assert [p.name for p in tmp_path.glob("new/.*")] == []


def test_a_mask_gives_shape_and_affine(voxels, tmp_path):
    inside = np.zeros((7, 7, 7), dtype=np.uint8)
    inside[:5, :4, :3] = 1
    mask = nib.Nifti1Image(inside, AFFINE)
    nib.save(mask, tmp_path / "mask.nii.gz")
    for given in (mask, tmp_path / "mask.nii.gz"):
        image = to_nifti(np.ones(4), voxels, mask=given)
        assert image.shape == (7, 7, 7)
        np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    inside[4, 1, 2] = 0
    with pytest.raises(ValueError, match="1 of 4 voxels lie where mask is 0"):
        to_nifti(np.ones(4), voxels, mask=nib.Nifti1Image(inside, AFFINE))
    with pytest.raises(ValueError, match="not both"):
        to_nifti(np.ones(4), voxels, mask=mask, shape=(7, 7, 7))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda v: v.drop(columns=["j", "k"]), {}, "no column j, k"),
        (lambda v: v.assign(i=[0, 2, 1, 1.5]), {}, "whole numbers"),
        (lambda v: v.assign(i=1, j=[1, 2, 1, 0], k=0), {}, "1 voxels have the i, j, k"),
        (lambda v: v.assign(k=-1), {}, "do not fit"),
        (lambda v: v, {"shape": (5, 4, 2)}, "do not fit a volume"),
        (lambda v: v[:3], {}, r"values \(4,\) .* 3 rows"),
        (lambda v: v, {"path": "map.img"}, r"\.nii"),
    ],
)
def test_what_does_not_fit_is_named(voxels, change, options, message):
    with pytest.raises(ValueError, match=message):
        to_nifti(np.ones(4), change(voxels), **options)


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_a_mask_without_a_usable_grid_is_named(voxels, tmp_path, name):
    flat = AFFINE.copy()
    flat[2, :3] = 0  # k moves nowhere
    image = nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), None)
    image.header.set_sform(flat, code=1)
    nib.save(image, tmp_path / name)
    with pytest.raises(ValueError, match=rf"mask .*{name} is no grid .*invertible"):
        to_nifti(np.zeros(len(voxels)), voxels, mask=tmp_path / name)
    with pytest.raises(ValueError, match="affine must be invertible"):
        to_nifti(np.zeros(len(voxels)), voxels, affine=flat, shape=(6, 5, 4))
    nib.save(nib.Nifti1Image(np.ones((2, 5, 4), np.uint8), AFFINE), tmp_path / name)
    with pytest.raises(ValueError, match=rf"mask .*{name} is no grid .*do not fit"):
        to_nifti(np.zeros(len(voxels)), voxels, mask=tmp_path / name)
