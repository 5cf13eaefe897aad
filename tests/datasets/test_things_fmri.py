"""THINGS-fMRI: tables as published, with responses in the HDF5 layout that pandas writes."""

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import load_things_fmri, published_test_mask, things_fmri

N_VOXELS = 6
#: concept, picture and type of every trial of two sessions.
TRIALS = [
    ("dog", "dog_12s.jpg", "train", 1, 1),
    ("mango", "mango_12s.jpg", "train", 1, 1),
    ("dog", "dog_05n.jpg", "test", 1, 1),
    ("nan", "nan_01b.jpg", "test", 1, 2),
    ("nan", "nan_01b.jpg", "test", 2, 1),
    ("mango", "mango_02s.jpg", "train", 2, 1),
    ("dog", "dog_05n.jpg", "test", 2, 2),
]
PICTURES = sorted({(concept, name) for concept, name, *_ in TRIALS})


def responses():
    voxel, trial = np.mgrid[:N_VOXELS, : len(TRIALS)]
    return 10.0 * (trial + 1) + voxel


def voxel_table():
    return pd.DataFrame(
        {
            "voxel_id": range(N_VOXELS),
            "subject_id": 1,
            "voxel_x": [1, 1, 1, 2, 2, 3],
            "voxel_y": [4, 4, 5, 4, 4, 4],
            "voxel_z": [2, 3, 3, 2, 3, 3],
            "nc_singletrial": [0.0, 1.1, 2.2, 0.0, 3.0, 4.5],
            "nc_testset": [0.0, 11.8, 20.7, 0.0, 25.0, 30.0],
            "splithalf_corrected": [0.0, 0.1, 0.2, 0.0, 0.3, 0.4],
            "prf-size": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            "V1": [1, 0, 0, 0, 0, 0],
            "LO1 (prf)": [0, 1, 1, 0, 0, 0],
            "lFFA": [0, 0, 0, 1, 1, 0],
            "IT": [0, 0, 1, 1, 0, 0],
            "glasser-V1": [1, 0, 0, 0, 0, 0],
            "glasser-FFC": [0, 0, 0, 1, 1, 0],
        }
    )


def write_responses(path, values, *, ids=None):
    """What `DataFrame.to_hdf` writes of a frame with voxel_id and a column per trial.

    Labels of columns that are of mixed kinds are pickled; the loader must leave them alone.
    """
    pickled = np.frombuffer(b"\x80\x05cposix\nsystem\n.", dtype=np.uint8)
    with h5py.File(path, "w") as file:
        group = file.create_group("ResponseData")
        group.attrs["pandas_type"] = np.bytes_(b"frame")
        group.attrs["nblocks"] = 2
        for name in ("axis0", "block0_items"):
            kind = h5py.vlen_dtype(np.uint8)
            group.create_dataset(name, shape=(1,), dtype=kind)[0] = pickled
        group["axis1"] = np.arange(len(values))
        group["block0_values"] = values
        group["block1_items"] = np.array([b"voxel_id"])
        group["block1_values"] = (np.arange(len(values)) if ids is None else ids)[:, None]


def stimulus_table():
    columns = ["concept", "stimulus", "trial_type", "session", "run"]
    table = pd.DataFrame(TRIALS, columns=columns).assign(subject_id=1, trial_id=range(len(TRIALS)))
    return table[["trial_type", "session", "run", "subject_id", "trial_id", "stimulus", "concept"]]


@pytest.fixture
def root(tmp_path):
    tables = tmp_path / "betas_csv"
    tables.mkdir()
    stimulus_table().to_csv(tables / "sub-01_StimulusMetadata.csv", index=False)
    voxel_table().to_csv(tables / "sub-01_VoxelMetadata.csv", index=False)
    write_responses(tables / "sub-01_ResponseData.h5", responses())
    for i, (concept, name) in enumerate(PICTURES):
        (tmp_path / "images" / concept).mkdir(parents=True, exist_ok=True)
        picture = np.full((6, 6, 3), 20 * (i + 1), np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / concept / name, format="PNG")
    return tmp_path


def test_every_trial_is_at_its_picture(root):
    data = load_things_fmri(root)
    assert data.betas.shape == (5, 2, N_VOXELS)
    for i, (concept, name) in enumerate(PICTURES):
        trials = [t for t, row in enumerate(TRIALS) if row[:2] == (concept, name)]
        expected = responses()[:, trials].T
        np.testing.assert_array_equal(data.betas[i, : len(trials)], expected)
        assert np.isnan(data.betas[i, len(trials) :]).all()
        assert data.images[i][0, 0, 0] == 20 * (i + 1)
        rows = data.trials[data.trials["image"] == i]
        assert rows["trial"].tolist() == trials
        assert rows["session"].tolist() == [TRIALS[t][3] for t in trials]
        assert rows["run"].tolist() == [TRIALS[t][4] for t in trials]
        assert set(rows["concept"]) == {concept}
        assert set(rows["stimulus"]) == {name}


def test_rows_that_are_far_apart_are_read_one_by_one(root, monkeypatch):
    expected = load_things_fmri(root).betas
    monkeypatch.setattr(things_fmri, "_BYTES_AT_ONCE", 1)
    np.testing.assert_array_equal(load_things_fmri(root).betas, expected)
    some = load_things_fmri(root, rois="V1,lFFA")
    np.testing.assert_array_equal(some.betas, expected[:, :, [0, 3, 4]])


def test_the_split_is_that_of_the_authors(root):
    data = load_things_fmri(root)
    train, test = data.train_test(published_test_mask(data))
    for split, part in {"train": train, "test": test}.items():
        alone = load_things_fmri(root, split=split)
        np.testing.assert_array_equal(alone.images, part.images)
        n_repeats = alone.n_repeats  # no places for repeats of the other part
        assert n_repeats == {"train": 1, "test": 2}[split]
        np.testing.assert_array_equal(alone.betas, part.betas[:, :n_repeats])
    assert set(test.trials["stimulus"]) == {"dog_05n.jpg", "nan_01b.jpg"}


def test_voxels_have_atlases_rois_and_the_measures_of_the_authors(root):
    data = load_things_fmri(root)
    assert data.atlases == ["prf", "glasser", "lFFA", "IT"]
    assert data.voxels["prf"].tolist() == ["V1", "LO1 (prf)", "LO1 (prf)", "", "", ""]
    assert data.voxels["glasser"].tolist() == ["V1", "", "", "FFC", "FFC", ""]
    assert data.voxels["IT"].tolist() == [False, False, True, True, False, False]
    assert data.voxels["nc_testset"].tolist() == [0.0, 11.8, 20.7, 0.0, 25.0, 30.0]
    assert "ncsnr" not in data.voxels
    np.testing.assert_array_equal(
        data.voxels[["i", "j", "k"]], voxel_table()[["voxel_x", "voxel_y", "voxel_z"]]
    )
    some = load_things_fmri(root, rois=["IT", "glasser-V1"])
    np.testing.assert_array_equal(some.betas, data.betas[:, :, [0, 2, 3]])


def test_areas_that_overlap_stay_apart(root):
    table = voxel_table()
    table["V1"] = [1, 1, 0, 0, 0, 0]
    table.to_csv(root / "betas_csv/sub-01_VoxelMetadata.csv", index=False)
    data = load_things_fmri(root)
    assert data.atlases == ["glasser", "V1", "LO1 (prf)", "lFFA", "IT"]
    assert data.voxels["V1"].tolist() == [True, True, False, False, False, False]


def test_the_brain_mask_gives_the_grid(root):
    assert load_things_fmri(root).volume is None
    folder, affine = root / "brainmasks", np.diag([2.0, 2, 2, 1])
    folder.mkdir()
    path = folder / "sub-01_space-T1w_brainmask.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((5, 6, 7), np.uint8), affine), path)
    data = load_things_fmri(root)
    assert data.volume.shape == (5, 6, 7)
    assert data.to_nifti(data.betas[0, 0]).shape == (5, 6, 7)
    nib.save(nib.Nifti1Image(np.ones((3, 6, 7), np.uint8), affine), path)
    with pytest.raises(ValueError, match=r"brainmask\.nii\.gz is \(3, 6, 7\), which has no room"):
        load_things_fmri(root)


def test_a_table_that_pandas_wrote_is_read(root):
    pytest.importorskip("tables", reason="PyTables is not installed")
    frame = pd.DataFrame(responses())
    frame.insert(0, "voxel_id", range(N_VOXELS))
    path = root / "betas_csv/sub-01_ResponseData.h5"
    expected = load_things_fmri(root).betas
    path.unlink()
    frame.to_hdf(path, key="ResponseData")
    np.testing.assert_array_equal(load_things_fmri(root).betas, expected)


def test_a_saved_folder_is_the_same(root, tmp_path):
    data = load_things_fmri(root)
    loaded = EncodingData.load(data.save(tmp_path / "s1.brain"))
    np.testing.assert_array_equal(loaded.betas, data.betas)
    assert loaded.trials["concept"].tolist() == data.trials["concept"].tolist()
    assert loaded.atlases == data.atlases


def test_what_is_missing_is_listed(root):
    (root / "betas_csv/sub-01_ResponseData.h5").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 files.*\n.*sub-01_ResponseData\.h5\n.*20492835"
    ):
        load_things_fmri(root)
    with pytest.raises(FileNotFoundError, match="3 files of THINGS-fMRI"):
        load_things_fmri(root, 3)


def test_a_picture_that_is_missing_is_named(root):
    (root / "images/dog/dog_12s.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 pictures shown are missing, .*dog/dog_12s\.jpg"):
        load_things_fmri(root)
    load_things_fmri(root, split="test")


def test_tables_that_do_not_belong_together_are_refused(root):
    path = root / "betas_csv/sub-01_ResponseData.h5"
    write_responses(path, responses()[:, 1:])
    with pytest.raises(ValueError, match=r"shape \(6, 6\), but .* 6 voxels and 7 trials"):
        load_things_fmri(root)
    write_responses(path, responses(), ids=np.arange(N_VOXELS)[::-1])
    with pytest.raises(ValueError, match="does not list its voxels in the order"):
        load_things_fmri(root)
    with h5py.File(path, "w") as file:
        file["betas"] = responses()
    with pytest.raises(ValueError, match=r"has 0 blocks of responses, not one: \['betas'\]"):
        load_things_fmri(root)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"ResponseData\.h5 cannot be read as responses"):
        load_things_fmri(root)


def test_tables_of_another_layout_are_refused(root):
    path = root / "betas_csv/sub-01_StimulusMetadata.csv"
    stimulus_table().drop(columns="concept").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"StimulusMetadata\.csv has no column \['concept'\]"):
        load_things_fmri(root)
    stimulus_table().to_csv(path, index=False)
    path = root / "betas_csv/sub-01_VoxelMetadata.csv"
    voxel_table().assign(V1=[0, 1, 2, 0, 0, 0]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"columns \['V1'\] of the voxel table have other values"):
        load_things_fmri(root)
    voxel_table()[::-1].to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"voxel_id in .* does not run from 0 to 5"):
        load_things_fmri(root)


def test_betas_larger_than_memory_are_refused_with_the_way_out(root, monkeypatch):
    from brainenc.datasets import published_files
    from brainenc.memory import Limit

    monkeypatch.setattr(published_files, "free_memory", lambda: Limit(200, "free memory"))
    with pytest.raises(ValueError, match=r"betas \(5, 2, 6\) take .* choose rois=.* or split="):
        load_things_fmri(root)
    load_things_fmri(root, rois="V1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": 0}, "subject=0 must be one of 1 … 3"),
        ({"split": "val"}, "split='val' must be 'all', 'train' or 'test'"),
        ({"rois": "V2"}, r"no ROI \['V2'\] here; there are \['V1', 'LO1 \(prf\)'"),
        ({"rois": []}, "rois is empty"),
    ],
)
def test_arguments_that_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        load_things_fmri(root, **options)
