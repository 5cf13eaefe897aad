"""LAION-fMRI: files as the authors' package lays them out, and its splits."""

import io
import json
import pickle

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import laion_fmri_split, load_laion_fmri

SHAPE = (4, 3, 2)
AFFINE = np.diag([1.75, 1.75, 1.75, 1.0])
#: In the order of the metadata, which is not that of the names.
PICTURES = [
    "unique_sub-03_4rep_LAION_cluster_9_i0.jpg",
    "shared_12rep_LAION_cluster_1003_i0.jpg",
    "shared_4rep_OOD_cropped_1.png",
    "shared_12rep_LAION_cluster_1011_i2.jpg",
]
#: Rows of PICTURES shown in each session.
SHOWN = {1: [1, 3, 1, 0], 4: [3, 2, 1, 1, 0]}


def grey(row):
    return 20 + 50 * row


def encoded(row):
    """Bytes of an image file; the third has transparent pixels in its upper half."""
    name, content = PICTURES[row], io.BytesIO()
    picture = np.full((6, 6, 3), grey(row), np.uint8)
    if name.endswith(".png"):
        alpha = np.repeat([[0], [255]], 3, axis=0) * np.ones((1, 6))
        picture = np.dstack([picture, alpha.astype(np.uint8)])
    Image.fromarray(picture).save(content, format="PNG")
    return np.frombuffer(content.getvalue(), np.uint8)


def fitted():
    r2 = np.zeros(SHAPE, np.float32)
    r2[1:, :, 1] = 12.5
    r2[0, 0, 0] = 3
    r2[0, 1, 0] = np.nan
    return r2


def volumes(session):
    x, y, z, trial = np.meshgrid(*map(np.arange, (*SHAPE, len(SHOWN[session]))), indexing="ij")
    return (100 * session + trial + x / 10 + y / 100 + z / 1000).astype(np.float32)


def write_volume(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)


def trial_table(session):
    n = len(SHOWN[session])
    return pd.DataFrame(
        {
            "session": f"ses-{session:02d}",
            "run": [1 + i // 2 for i in range(n)],
            "beta_index": range(n),
            "label": [PICTURES[row] for row in SHOWN[session]],
        }
    )


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "derivatives/glmsingle-tedana/sub-03"
    for session in SHOWN:
        stem = f"ses-{session:02d}/func/sub-03_ses-{session:02d}_task-images_"
        betas = "space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"
        write_volume(folder / f"{stem}{betas}", volumes(session))
        # Rows are not in the order of the volumes.
        table = trial_table(session)[::-1]
        table.to_csv(folder / f"{stem}desc-SingletrialBetas_trials.tsv", sep="\t", index=False)
    stem = "sub-03_task-images_space-T1w_"
    write_volume(folder / f"{stem}stat-rsquare_desc-R2mean_statmap.nii.gz", fitted())
    ceiling = np.arange(24, dtype=np.float32).reshape(SHAPE) + 0.5
    write_volume(folder / f"{stem}desc-Noiseceiling12rep_statmap.nii.gz", ceiling)
    for (kind, roi), x in {("face", "FFA1"): 1, ("retinotopy", "V1v"): 3}.items():
        mask = np.zeros(SHAPE, np.uint8)
        mask[x] = 1
        name = f"sub-03_space-T1w_res-1pt8_label-{roi}_mask.nii.gz"
        write_volume(tmp_path / "derivatives/rois/sub-03" / kind / name, mask)
    (tmp_path / "stimuli").mkdir()
    with h5py.File(tmp_path / "stimuli/task-images_stimuli.h5", "w") as file:
        images = file.create_dataset("images", (len(PICTURES),), h5py.vlen_dtype(np.uint8))
        for row in range(len(PICTURES)):
            images[row] = encoded(row)
    kinds = ["unique" if name.startswith("unique") else "shared" for name in PICTURES]
    table = pd.DataFrame({"image_name": PICTURES, "dataset": ["LAION"] * 2 + ["OOD", "LAION"]})
    table.assign(participant="", unique_or_shared=kinds, n_reps=4).to_csv(
        tmp_path / "stimuli/task-images_metadata.csv", index=False
    )
    return tmp_path


def test_every_trial_is_at_its_picture(root):
    data = load_laion_fmri(root, 3)
    inside = np.nan_to_num(fitted()) > 0
    assert data.betas.shape == (4, 4, int(inside.sum()))
    for row, name in enumerate(PICTURES):
        places = [(s, t) for s, rows in SHOWN.items() for t, r in enumerate(rows) if r == row]
        rows = data.trials[data.trials["stimulus"] == name]
        image = rows["image"].iloc[0]
        assert list(rows[["session", "trial"]].itertuples(index=False, name=None)) == places
        expected = [volumes(session)[..., trial][inside] for session, trial in places]
        np.testing.assert_array_equal(data.betas[image, : len(places)], expected)
        assert np.isnan(data.betas[image, len(places) :]).all()
        assert data.images[image][-1, 0, 0] == grey(row)
        assert set(rows["dataset"]) == {"OOD" if "OOD" in name else "LAION"}
    assert set(data.trials["run"]) == {1, 2, 3}
    assert set(data.trials["unique_or_shared"]) == {"unique", "shared"}


def test_transparent_pixels_have_the_grey_of_the_experiment(root):
    data = load_laion_fmri(root, 3)
    image = data.trials.loc[data.trials["stimulus"] == PICTURES[2], "image"].iloc[0]
    assert data.images[image][0, 0].tolist() == [128, 128, 128]
    # Readers of other processes open the file themselves.
    again = pickle.loads(pickle.dumps(data.images))
    np.testing.assert_array_equal(again, data.images)


def test_voxels_have_rois_and_the_ceilings_of_the_authors(root):
    data = load_laion_fmri(root, 3)
    where = np.argwhere(np.nan_to_num(fitted()) > 0)
    np.testing.assert_array_equal(data.voxels[["i", "j", "k"]], where)
    assert data.atlases == ["FFA1", "V1v"]
    np.testing.assert_array_equal(data.voxels["V1v"], where[:, 0] == 3)
    ceiling = np.arange(24).reshape(SHAPE)[tuple(where.T)] + 0.5
    np.testing.assert_array_equal(data.voxels["Noiseceiling12rep"], ceiling)
    assert "ncsnr" not in data.voxels
    some = load_laion_fmri(root, 3, rois="V1v")
    np.testing.assert_array_equal(some.betas, data.select(roi="V1v").betas)
    np.testing.assert_array_equal(data.volume.affine, AFFINE)


def test_sessions_can_be_chosen(root):
    data = load_laion_fmri(root, 3, sessions=4)
    assert set(data.trials["session"]) == {4}
    assert len(data.trials) == 5
    with pytest.raises(ValueError, match=r"sessions=2: \[2\] are not in .*, which has \[1, 4\]"):
        load_laion_fmri(root, 3, sessions=2)
    with pytest.raises(ValueError, match="each once"):
        load_laion_fmri(root, 3, sessions=[1, 1])


def write_split(path, train, test):
    variant = {"variant_id": 0, "train_ids": train, "test_ids": test}
    split = {"name": "tau", "pool": "p", "splitter": "s", "params": {}, "variants": [variant]}
    path.write_text(json.dumps(split | {"n_train": len(train), "n_test": len(test)}))
    return path


def test_a_split_gives_the_images_of_both_sides(root, tmp_path):
    data = load_laion_fmri(root, 3)
    path = write_split(tmp_path / "tau.json", [PICTURES[0], "other.jpg"], PICTURES[1:3])
    train, test = laion_fmri_split(path, data)
    assert set(data.select(images=train).trials["stimulus"]) == {PICTURES[0]}
    assert set(data.select(images=test).trials["stimulus"]) == set(PICTURES[1:3])
    assert (~train & ~test).sum() == 1  # PICTURES[3] is in neither


def test_splits_that_do_not_fit_are_refused(root, tmp_path):
    data = load_laion_fmri(root, 3)
    path = write_split(tmp_path / "a.json", [PICTURES[0]], ["other.jpg"])
    with pytest.raises(ValueError, match="none of the test images"):
        laion_fmri_split(path, data)
    path = write_split(tmp_path / "b.json", PICTURES, PICTURES[:1])
    with pytest.raises(ValueError, match="among the training and the test images"):
        laion_fmri_split(path, data)
    path.write_text('{"name": "tau"}')
    with pytest.raises(ValueError, match=r"b\.json cannot be read as a split of LAION-fMRI"):
        laion_fmri_split(path, data)


def test_a_saved_folder_is_the_same(root, tmp_path):
    data = load_laion_fmri(root, 3)
    loaded = EncodingData.load(data.save(tmp_path / "s3.brain"))
    np.testing.assert_array_equal(loaded.images, data.images)
    np.testing.assert_array_equal(loaded.betas, data.betas)
    assert loaded.trials.equals(data.trials)


def test_what_is_missing_is_listed(root):
    with pytest.raises(FileNotFoundError, match=r"glmsingle-tedana/sub-05\n.*s3://laion-fmri"):
        load_laion_fmri(root, 5)
    (root / "stimuli/task-images_stimuli.h5").unlink()
    next(root.glob("derivatives/**/*ses-04*_trials.tsv")).unlink()
    with pytest.raises(FileNotFoundError, match="2 files of LAION-fMRI sub-03") as error:
        load_laion_fmri(root, 3)
    assert "ses-04_task-images_desc-SingletrialBetas_trials.tsv" in str(error.value)


def test_files_that_do_not_belong_together_are_refused(root):
    path = next(root.glob("derivatives/**/*ses-04*_trials.tsv"))
    table = trial_table(4)
    table.iloc[:-1].to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"ses-04.* has 5 volumes, but 4 trials are listed"):
        load_laion_fmri(root, 3)
    table.iloc[1:].to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"beta_index in .* must be 0 … 3"):
        load_laion_fmri(root, 3)
    table.assign(label="nowhere.jpg").to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"1 images shown are not in .*nowhere\.jpg"):
        load_laion_fmri(root, 3)
    table.to_csv(path, sep="\t", index=False)
    mask = next(root.glob("derivatives/rois/sub-03/face/*"))
    write_volume(mask, np.ones((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"label-FFA1_mask\.nii\.gz is \(2, 2, 2\), but the map"):
        load_laion_fmri(root, 3)


def test_packed_images_that_are_none_are_refused(root):
    path = root / "stimuli/task-images_stimuli.h5"
    with h5py.File(path, "a") as file:
        file["images"][1] = np.arange(20, dtype=np.uint8)
    data = load_laion_fmri(root, 3)
    with pytest.raises(ValueError, match=r"task-images_stimuli\.h5 cannot be read as packed"):
        np.asarray(data.images)
    path.unlink()  # the other is still open
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((4, 6, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="has no data set images of one axis"):
        load_laion_fmri(root, 3)


@pytest.mark.parametrize("options", [{"subject": 2}, {"rois": "V2"}, {"image_size": -1}])
def test_arguments_that_are_refused(root, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}"):
        load_laion_fmri(root, **{"subject": 3, **options})
