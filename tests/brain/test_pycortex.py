"""Arrays for pycortex: by hand from what nibabel reads."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainenc.brain import Volume, to_nifti, to_pycortex


def test_a_volume_is_the_transpose_of_what_nibabel_reads(tmp_path):
    rng = np.random.default_rng(0)
    voxels = pd.DataFrame(rng.permutation(np.argwhere(np.ones((4, 3, 2))))[:9], columns=list("ijk"))
    values = rng.standard_normal((2, 9))
    volume = Volume((4, 3, 2), np.diag([2, 2, 2, 1]))
    array = to_pycortex(values, voxels, volume=volume, path=tmp_path / "r.npy")
    to_nifti(values, voxels, shape=(4, 3, 2), affine=volume.affine, path=tmp_path / "r.nii")
    np.testing.assert_array_equal(array, nib.load(tmp_path / "r.nii").get_fdata().T)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), array)


def test_hemispheres_follow_one_another_the_left_first():
    voxels = pd.DataFrame({"vertex": [3, 0], "hemisphere": ["R", "L"]})
    array = to_pycortex([1.0, 2.0], voxels, n_vertices=5)
    np.testing.assert_array_equal(array, [2, *[np.nan] * 7, 1, np.nan])


def test_what_is_missing_is_said(tmp_path):
    voxels = pd.DataFrame({"i": [0], "j": [0], "k": [0]})
    with pytest.raises(ValueError, match="volume is missing"):
        to_pycortex([1.0], voxels)
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        to_pycortex([1.0], voxels, volume=Volume((1, 1, 1), np.eye(4)), path=tmp_path / "r.hdf")
