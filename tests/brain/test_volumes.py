import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainenc.brain.volumes import Volume
from brainenc.data.encoding_data import EncodingData

AFFINE = np.array([[-1.8, 0, 0, 90], [0, 1.8, 0, -120], [0, 0, 1.8, -70], [0, 0, 0, 1]])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 4), dtype=np.uint8)
    voxels = pd.DataFrame(
        {"roi": list("aabb"), "i": [0, 2, 1, 4], "j": [3, 0, 1, 1], "k": [1, 1, 0, 2]}
    )
    betas = rng.standard_normal((6, 2, 4))
    return EncodingData(images, betas, voxels, volume=Volume((6, 5, 4), AFFINE))


def test_a_map_is_written_where_its_voxels_are(data, tmp_path):
    data.to_nifti([1, 2, 3, 4], tmp_path / "map.nii.gz")
    image = nib.load(tmp_path / "map.nii.gz")
    assert image.shape == (6, 5, 4)
    assert image.header.get_xyzt_units()[0] == "mm"
    # No time stamp (RFC 1952: bytes 4 to 8), so that equal maps are equal files.
    assert (tmp_path / "map.nii.gz").read_bytes()[4:8] == bytes(4)
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)  # kept as float32 on disk
    # By the affine, not by our own positions: where in millimetres is the value 4?
    found = np.argwhere(image.get_fdata() == 4)[0]
    np.testing.assert_allclose(image.affine @ [*found, 1], AFFINE @ [4, 1, 2, 1], rtol=1e-6)


def test_selected_voxels_keep_their_places(data):
    part = data.select(voxels=[3, 1]).train_test(0.5)[0].average_repeats()
    volume = part.to_nifti([40, 20]).get_fdata()
    assert volume[4, 1, 2] == 40
    assert volume[2, 0, 1] == 20
    assert np.isfinite(volume).sum() == 2


def test_trials_keep_the_volume(data):
    volume = Volume((6, 5, 4), AFFINE)
    betas = np.random.default_rng(0).standard_normal((8, 4))
    grouped = EncodingData.from_trials(
        data.images, betas, [0, 1, 2, 0, 1, 2, 3, 4], voxels=data.voxels, volume=volume
    )
    assert grouped.volume is volume


def test_without_a_volume_the_error_says_how_to_give_one(data):
    with pytest.raises(ValueError, match=r"volume=Volume\(shape, affine\)"):
        EncodingData(data.images, data.betas, data.voxels).to_nifti(np.ones(4))
    surface = pd.DataFrame({"vertex": range(4), "hemisphere": "lh"})
    with pytest.raises(ValueError, match="are on the surface: use to_surface"):
        EncodingData(data.images, data.betas, surface).to_nifti(np.ones(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((6, 5), AFFINE), "three numbers"),
        (((6, 5, 0), AFFINE), "three numbers"),
        (((6, 5, 4), AFFINE[:3]), r"affine \(3, 4\) must be \(4, 4\)"),
        (((6, 5, 4), np.full((4, 4), np.nan)), "finite"),
        (((6, 5, 4), np.diag([2.0, 2, 0, 1])), "invertible"),
        (((6, 5, 4), AFFINE.T), "end in"),
    ],
)
def test_grids_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Volume(*arguments)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"k": [1, 1, 0, 4]}, "do not fit a volume"),
        ({"i": 1, "j": 1, "k": 1}, "3 voxels have the i, j, k of another"),
    ],
)
def test_voxels_outside_the_volume_are_refused(data, columns, message):
    voxels = data.voxels.assign(**columns)
    with pytest.raises(ValueError, match=message):
        EncodingData(data.images, data.betas, voxels, volume=data.volume)


def test_csv_has_values_beside_the_voxel_table(data, tmp_path):
    data.to_csv({"r": [0.1, np.nan, 0.3, 0.4], "r2": np.ones(4)}, tmp_path / "maps.csv")
    table = pd.read_csv(tmp_path / "maps.csv", index_col="voxel")
    pd.testing.assert_frame_equal(table[["roi", "i", "j", "k"]], data.voxels, check_names=False)
    np.testing.assert_array_equal(table["r"], [0.1, np.nan, 0.3, 0.4])
    data.to_csv(np.arange(4), tmp_path / "maps.csv")
    assert pd.read_csv(tmp_path / "maps.csv")["value"].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="voxels has 4, r has 3"):
        data.to_csv({"r": [1, 2, 3]}, tmp_path / "maps.csv")
    with pytest.raises(ValueError, match=r"columns \['roi'\] already"):
        data.to_csv({"roi": np.ones(4)}, tmp_path / "maps.csv")
    with pytest.raises(ValueError, match=r"value \(4, 2\) must be \(n_voxels,\)"):
        data.to_csv(np.ones((4, 2)), tmp_path / "maps.csv")
