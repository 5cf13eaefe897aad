import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainenc.brain.surfaces import FSAVERAGE, to_hemispheres, to_surface


@pytest.fixture
def voxels():
    return pd.DataFrame(
        {"vertex": [3, 0, 3, 7, 5], "hemisphere": ["lh", "rh", "rh", "lh", "lh"], "roi": "V1"}
    )


def test_each_value_is_at_its_vertex_and_nan_elsewhere(voxels):
    values = np.array([1, 2, 3, np.nan, 5])
    maps = to_hemispheres(values, voxels, n_vertices=8)
    nan = np.nan
    np.testing.assert_array_equal(maps["lh"], [nan, nan, nan, 1, nan, 5, nan, nan])
    np.testing.assert_array_equal(maps["rh"], [2, nan, nan, 3, nan, nan, nan, nan])


@pytest.mark.parametrize("names", [["L", "R"], ["left", "right"], ["LH", "RH"]])
def test_hemispheres_by_their_other_names(voxels, names):
    other = voxels.replace({"hemisphere": {"lh": names[0], "rh": names[1]}})
    for values in (np.arange(5.0), np.arange(10.0).reshape(2, 5)):
        ours, theirs = (to_hemispheres(values, v, n_vertices=8) for v in (other, voxels))
        for hemisphere in ("lh", "rh"):
            np.testing.assert_array_equal(ours[hemisphere], theirs[hemisphere])


def test_written_gifti_files_read_back_the_same(voxels, tmp_path):
    values = np.arange(10.0).reshape(2, 5)
    to_surface(values, voxels, path=tmp_path / "new" / "r.func.gii")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "lh.r.func.gii",
        "rh.r.func.gii",
    ]
    for hemisphere, structure in {"lh": "CortexLeft", "rh": "CortexRight"}.items():
        image = nib.load(tmp_path / "new" / f"{hemisphere}.r.func.gii")
        assert image.meta["AnatomicalStructurePrimary"] == structure
        maps = np.stack([array.data for array in image.darrays])
        assert maps.shape == (2, FSAVERAGE)
        assert maps.dtype == np.float32
        here = voxels[voxels["hemisphere"] == hemisphere]
        np.testing.assert_array_equal(maps[:, here["vertex"]], values[:, here.index])
        assert np.isfinite(maps).sum() == 2 * len(here)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda v: v.drop(columns="vertex"), {}, r"no column \['vertex'\]"),
        (lambda v: v.assign(vertex=v["vertex"] + 0.5), {}, "whole numbers"),
        (lambda v: v.assign(vertex=[3, 0, np.nan, 7, 5]), {}, "whole numbers"),
        (lambda v: v.assign(vertex=v["vertex"] - 1), {}, "from -1 to 6"),
        (lambda v: v, {"n_vertices": 7}, "is n_vertices=7 that of the mesh"),
        (lambda v: v.assign(vertex=3), {}, "3 voxels have the vertex of another"),
        (lambda v: v.assign(hemisphere="both"), {}, r"is \['both'\]"),
        (lambda v: v[:4], {}, r"values \(5,\) .* 4 rows"),
        (lambda v: v, {"path": "r.nii"}, r"\.gii"),
    ],
)
def test_what_does_not_fit_is_named(voxels, change, options, message):
    with pytest.raises(ValueError, match=message):
        to_surface(np.ones(5), change(voxels), **options)
