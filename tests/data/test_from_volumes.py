"""Volumes and surfaces of every format give the betas that a loop over trials gives."""

import dataclasses
import tracemalloc

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from own_data import AFFINE, N_IMAGES, NAMES, SHAPE, assert_is_own, make_own_data

from brainenc.data import from_volumes as module
from brainenc.data.encoding_data import EncodingData
from brainenc.data.trial_sources import layout_of, layouts_of

from_volumes = EncodingData.from_volumes


@pytest.fixture
def own():
    return make_own_data()


def runs_of(own):
    """The trials in three runs of different length."""
    return np.split(own.betas, [5, 14], axis=3)


# ------------------------------------------------------------------ formats


def as_array(own, folder):
    return own.betas


def as_trials_first(own, folder):
    return np.moveaxis(own.betas, -1, 0)


def as_npy(own, folder):
    np.save(folder / "betas.npy", own.betas)
    return folder / "betas.npy"


def as_nifti(own, folder):
    return own.nifti(own.betas, folder / "betas.nii.gz")


def as_image(own, folder):
    return nib.Nifti1Image(own.betas, AFFINE)


def as_runs(own, folder):
    return [
        own.nifti(run, folder / f"run{i}.nii{'.gz' * (i % 2)}")
        for i, run in enumerate(runs_of(own))
    ]


def as_one_file_per_trial(own, folder):
    n = own.betas.shape[3]
    return [own.nifti(own.betas[..., t], folder / f"beta_{t:04d}.nii") for t in range(n)]


def as_pattern(own, folder):
    as_one_file_per_trial(own, folder)
    return str(folder / "beta_*.nii")


def as_hdf5(own, folder):
    with h5py.File(folder / "betas.h5", "w") as file:
        file.create_dataset("betas", data=own.betas, chunks=(2, 2, 2, 10), compression="gzip")
        file["other"] = np.arange(3)
    return folder / "betas.h5"


def as_hdf5_of_matlab(own, folder):
    with h5py.File(folder / "out.mat", "w") as file:
        file["a/betas"] = own.betas.T
        file["a/more"] = own.betas.T
    return (folder / "out.mat", "a/betas")


def as_text_with_dataset(own, folder):
    path, name = as_hdf5_of_matlab(own, folder)
    return f"{path}:{name}"


def as_voxels_by_trials(own, folder):
    return own.betas[own.mask]


def as_trials_by_voxels(own, folder):
    return own.betas[own.mask].T


FORMATS = [
    as_array, as_trials_first, as_npy, as_nifti, as_image, as_runs, as_one_file_per_trial,
    as_pattern, as_hdf5, as_hdf5_of_matlab, as_text_with_dataset, as_voxels_by_trials,
    as_trials_by_voxels,
]  # fmt: skip


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("block", [2**27, 900], ids=["at once", "in blocks"])
def test_every_format_gives_the_same_betas(own, tmp_path, write, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr("brainenc.data.trial_sources._AT_ONCE", block)
    mask = own.nifti(own.mask, tmp_path / "mask.nii.gz")
    data = from_volumes(write(own, tmp_path), mask, own.ids, own.pictures, units="a.u.")
    assert_is_own(data, own)
    assert data.units == "a.u."
    np.testing.assert_allclose(data.volume.affine, AFFINE)
    assert data.volume.shape == SHAPE


def test_a_data_set_that_is_open_is_read_from_disk(own, tmp_path):
    with h5py.File(as_hdf5(own, tmp_path)) as file:
        assert_is_own(from_volumes(file["betas"], own.mask, own.ids, own.pictures), own)


def test_integers_and_scaled_files_are_read_as_nibabel_does(own, tmp_path):
    image = nib.Nifti1Image(own.betas, AFFINE)
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "scaled.nii.gz")
    own.betas = np.asarray(nib.load(tmp_path / "scaled.nii.gz").dataobj, dtype=np.float32)
    assert_is_own(from_volumes(tmp_path / "scaled.nii.gz", own.mask, own.ids, own.pictures), own)


def test_maps_are_written_back_into_the_volume(own, tmp_path):
    data = from_volumes(as_nifti(own, tmp_path), own.mask, own.ids, own.pictures)
    values = np.arange(data.n_voxels, dtype=np.float32)
    image = data.to_nifti(values)
    expected = np.full(SHAPE, np.nan, dtype=np.float32)
    expected[own.mask] = values
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), expected)
    np.testing.assert_allclose(image.affine, AFFINE)


def test_arrays_without_affine_have_no_grid_unless_it_is_given(own):
    assert from_volumes(own.betas, own.mask, own.ids, own.pictures).volume is None
    data = from_volumes(own.betas, own.mask, own.ids, own.pictures, affine=AFFINE, space="MNI152")
    np.testing.assert_array_equal(data.volume.affine, AFFINE)
    assert data.volume.space == "MNI152"


def test_it_takes_the_memory_of_the_voxels_inside_only():
    rng = np.random.default_rng(0)
    shape, n_trials = (40, 40, 40), 120
    betas = rng.standard_normal((*shape, n_trials)).astype(np.float32)  # 31 MB
    mask = np.zeros(shape, dtype=bool)
    mask[10:14, 10:14, :] = True
    pictures = np.zeros((30, 8, 8, 3), dtype=np.uint8)
    tracemalloc.start()
    data = from_volumes(betas, mask, np.arange(n_trials) % 30, pictures)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The betas inside, their copy by image, and small tables; in double precision all volumes
    # would be 61 MB.
    assert peak < 4 * data.betas.nbytes + 2**21
    np.testing.assert_array_equal(data.betas[3, 1], betas[mask][:, 33])


# ------------------------------------------------------------------ orders of axes


def test_orders_of_axes_that_shapes_leave_open_are_asked_for():
    assert layouts_of((100, 5, 6, 7), (5, 6, 7), 40) == ["txyz"]
    assert layouts_of((100, 7, 6, 5), (5, 6, 7), 40) == ["tzyx"]
    assert layouts_of((5, 6, 7, 5), (5, 6, 7), 40) == ["xyzt"]
    with pytest.raises(ValueError, match=r"fits several orders.*'txyz', 'tzyx'"):
        layout_of((100, 5, 6, 5), (5, 6, 5), 40, "betas")
    assert layout_of((100, 5, 6, 5), (5, 6, 5), 40, "betas", axes="tzyx") == "tzyx"
    with pytest.raises(ValueError, match=r"fits several orders.*'vt', 'tv'"):
        layout_of((40, 40), (5, 6, 7), 40, "betas")
    assert layout_of((40, 90), (5, 6, 7), 40, "betas", n_trials=90) == "vt"
    with pytest.raises(ValueError, match=r"\(100, 5, 6, 7\), which is not 'xyzt'"):
        layout_of((100, 5, 6, 7), (5, 6, 7), 40, "betas", axes="xyzt")


def test_reversed_axes_of_a_symmetric_volume_are_read_as_they_are_said_to_be():
    rng = np.random.default_rng(1)
    betas = rng.standard_normal((4, 3, 4, 6)).astype(np.float32)
    mask = rng.random((4, 3, 4)) < 0.6
    pictures = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    data = from_volumes(betas.T, mask, [0, 1, 0, 1, 0, 1], pictures, axes="tzyx")
    np.testing.assert_array_equal(data.betas[1, 2], betas[mask][:, 5])


# ------------------------------------------------------------------ runs, sessions, pictures


def test_runs_are_numbered_and_sessions_given_per_run_or_trial(own, tmp_path):
    runs = as_runs(own, tmp_path)
    of_runs = [own.ids[:5], own.ids[5:14], own.ids[14:]]
    data = from_volumes(runs, own.mask, of_runs, own.pictures, session=[1, 1, 2])
    trials = data.trials.sort_values("trial", ignore_index=True)
    assert trials["run"].tolist() == [1] * 5 + [2] * 9 + [3] * 10
    assert trials["session"].tolist() == [1] * 14 + [2] * 10
    session = np.arange(24) // 12
    alone = from_volumes(own.betas, own.mask, own.ids, own.pictures, session=session)
    np.testing.assert_array_equal(alone.trials["session"], session[alone.trials["trial"]])
    assert "run" not in alone.trials
    with pytest.raises(ValueError, match="run has 2 values, but there are 24 trials in 3 runs"):
        from_volumes(runs, own.mask, own.ids, own.pictures, run=[1, 2])


def test_pictures_of_a_folder_are_matched_by_name(own, tmp_path):
    folder = own.write_pictures(tmp_path / "stimuli")
    for ids in (
        own.ids,
        [f"{name}.png" for name in own.ids],
        [f"stimuli/{name}.png" for name in own.ids],
        [str(folder / f"{name}.png") for name in own.ids],
        own.shown,
    ):
        assert_is_own(from_volumes(own.betas, own.mask, ids, folder), own)
    resized = from_volumes(own.betas, own.mask, own.ids, folder, image_size=6)
    assert resized.images.shape == (N_IMAGES, 6, 6, 3)


def test_pictures_in_subfolders_are_found(own, tmp_path):
    own.write_pictures(tmp_path / "stimuli" / "first")
    assert_is_own(from_volumes(own.betas, own.mask, own.ids, tmp_path / "stimuli"), own)
    ids = [f"first/{name}.png" for name in own.ids]
    assert_is_own(from_volumes(own.betas, own.mask, ids, tmp_path / "stimuli"), own)


def test_a_table_of_stimuli_travels_with_the_data(own, tmp_path):
    folder = own.write_pictures(tmp_path / "stimuli")
    table = pd.DataFrame({"stim_file": own.names, "category": list("abcdabcd"), "id": range(8)})
    shuffled = table.sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "stimuli.tsv", sep="\t", index=False)
    for given in (tmp_path / "stimuli.tsv", shuffled.reset_index(drop=True)):
        data = from_volumes(own.betas, own.mask, own.ids, folder, stimuli=given)
        assert data.stimuli["category"].tolist() == list("abcdabcd")
        assert data.stimuli["name"].tolist() == [f"{name}.png" for name in own.names]
    part = data.select(images=[6, 1]).average_repeats()
    assert part.stimuli["category"].tolist() == ["c", "b"]


def test_images_are_the_files_that_the_table_names(own, tmp_path):
    own.write_pictures(tmp_path / "files")
    files = [f"files/{name}.png" for name in own.names]
    table = pd.DataFrame({"stim_file": files, "category": list("abcdabcd")})
    table.to_csv(tmp_path / "stimuli.csv", index=False)
    data = from_volumes(own.betas, own.mask, own.ids, None, stimuli=tmp_path / "stimuli.csv")
    assert_is_own(data, own)
    assert data.stimuli["category"].tolist() == list("abcdabcd")


def test_an_array_of_images_is_named_by_the_table(own):
    pictures = np.stack(list(own.pictures.values()))
    table = pd.DataFrame({"name": own.names})
    data = from_volumes(own.betas, own.mask, own.ids, pictures, stimuli=table)
    assert_is_own(data, own)


# ------------------------------------------------------------------ atlases


def test_atlases_become_columns_of_labels(own, tmp_path):
    atlas = own.nifti(own.codes, tmp_path / "sub-01_atlas-visual_dseg.nii.gz")
    args = (own.betas, own.nifti(own.mask, tmp_path / "mask.nii.gz"), own.ids, own.pictures)
    expected = own.labels()
    (tmp_path / "lut.ctab").write_text(
        "0 Unknown 0 0 0 0\n1  V1 1 2 3 0\n2 V2 1 2 3 0\n12 hV4 0 0 0 0"
    )
    for atlases, labels in (
        ({"visual": atlas}, {"visual": NAMES}),
        ({"visual": own.codes}, NAMES),
        ({"visual": own.codes.astype(float)}, {"visual": tmp_path / "lut.ctab"}),
        ([atlas], tmp_path / "lut.ctab"),
        (atlas, pd.DataFrame({"index": list(NAMES), "name": list(NAMES.values())})),
        ({"visual": np.array(expected)}, None),
    ):
        data = from_volumes(*args, atlases=atlases, labels=labels)
        assert data.atlases == ["visual"]
        assert data.voxels["visual"].fillna("").tolist() == expected
    data.save(tmp_path / "own.brain")
    again = EncodingData.load(tmp_path / "own.brain")
    assert {roi: v.tolist() for roi, v in again.rois("visual").items()} == {
        name: [i for i, label in enumerate(expected) if label == name]
        for name in dict.fromkeys(expected)
        if name
    }


def test_a_table_of_bids_beside_the_atlas_names_its_labels(own, tmp_path):
    atlas = own.nifti(own.codes, tmp_path / "visual_dseg.nii.gz")
    table = pd.DataFrame({"index": [0, *NAMES], "name": ["Background", *NAMES.values()]})
    table.to_csv(tmp_path / "visual_dseg.tsv", sep="\t", index=False)
    mask = own.nifti(own.mask, tmp_path / "mask.nii")
    data = from_volumes(own.betas, mask, own.ids, own.pictures, atlases=atlas)
    assert data.voxels["visual_dseg"].fillna("").tolist() == own.labels()


def test_codes_without_a_table_stay_as_labels_with_one_warning(own):
    atlases = {"a": own.codes, "b": own.codes * 2}
    with pytest.warns(UserWarning, match=r"the atlases \['a', 'b'\] have no label table") as said:
        data = from_volumes(own.betas, own.mask, own.ids, own.pictures, atlases=atlases)
    assert len(said) == 1
    codes = own.codes[own.mask]
    assert set(data.rois("a")) == {"1", "2", "12"}
    np.testing.assert_array_equal(data.rois("a")["12"], np.flatnonzero(codes == 12))
    np.testing.assert_array_equal(data.rois("b")["24"], np.flatnonzero(codes == 12))


# ------------------------------------------------------------------ bad input


def check_refused(match, own, **changes):
    given = {"betas": own.betas, "mask": own.mask, "image_ids": own.ids, "images": own.pictures}
    given |= changes
    with pytest.raises(ValueError, match=match) as caught:
        from_volumes(**given)
    assert "\n" not in str(caught.value)


def test_another_shape_or_affine_is_named_with_both_values(own, tmp_path):
    mask = own.nifti(own.mask, tmp_path / "mask.nii.gz")
    runs = as_runs(own, tmp_path)
    moved = AFFINE.copy()
    moved[0, 3] += 2
    own.nifti(runs_of(own)[1], tmp_path / "run1.nii.gz", moved)
    check_refused(
        r"run1.nii.gz has the affine .*42\.0.*mask has .*40\.0", own, betas=runs, mask=mask
    )
    own.nifti(runs_of(own)[1][:4], tmp_path / "run1.nii.gz")
    found = r"run1.nii.gz has the shape \(4, 4, 6\), but the mask has \(5, 4, 6\)"
    check_refused(found, own, betas=runs, mask=mask)
    check_refused(r"betas has the shape \(5, 4, 5, 24\), but the mask has \(5, 4, 6\)", own,
                  betas=own.betas[:, :, :5])  # fmt: skip
    atlas = own.nifti(own.codes, tmp_path / "atlas.nii.gz", moved)
    check_refused("atlas.nii.gz has the affine", own, mask=mask, atlases={"a": atlas})
    check_refused(r"atlas 'a' has the shape \(4, 4, 6\)", own, atlases={"a": own.codes[:4]})
    check_refused("affine= has the affine", own, mask=mask, affine=moved)


def test_rounding_of_an_affine_in_a_header_is_no_difference(own, tmp_path):
    mask = own.nifti(own.mask, tmp_path / "mask.nii.gz")
    betas = nib.Nifti1Image(own.betas, AFFINE + 1e-5 * np.eye(4)[[0, 1, 2, 3]] * [1, 1, 1, 0])
    assert_is_own(from_volumes(betas, mask, own.ids, own.pictures), own)


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (lambda own: np.zeros(SHAPE), "is empty: no value is above 0"),
        (lambda own: own.codes, r"holds the labels \[1, 2, 12\], as an atlas does"),
        (lambda own: np.full(SHAPE, 0.3), "values such as 0.3 between whole numbers"),
        (lambda own: own.mask[0], r"of shape \(4, 6\) must be \(X, Y, Z\)"),
        (lambda own: None, "mask is missing"),
    ],
)
def test_masks_that_are_none_are_refused(own, mask, match):
    check_refused(match, own, mask=mask(own))


def test_a_mask_of_nsd_or_of_255_is_a_mask(own):
    for mask in (np.where(own.mask, 1, -1), own.mask * 255, np.where(own.mask, 1, np.nan)):
        assert_is_own(from_volumes(own.betas, mask, own.ids, own.pictures), own)


def test_trials_without_a_picture_are_said_or_left_out(own):
    ids = [None, *own.ids[1:]]
    check_refused("1 of 24 trials have no picture, the first of them trial 0", own, image_ids=ids)
    unknown = [*own.ids[:-1], "fixation"]
    check_refused("1 of 24 trials have a picture that is not among the images, 'fixation' in trial "
                  "23", own, image_ids=unknown)  # fmt: skip
    for given, gone in ((ids, 0), (unknown, 23), ([*own.ids[:-1], "n/a"], 23)):
        with pytest.warns(UserWarning, match="1 of 24 trials have no picture and are left out"):
            data = from_volumes(own.betas, own.mask, given, own.pictures, without_image="leave out")
        kept = np.delete(np.arange(24), gone)
        rest = dataclasses.replace(own, betas=own.betas[..., kept], shown=own.shown[kept])
        np.testing.assert_array_equal(data.betas, rest.expected())
        assert sorted(data.trials["trial"]) == kept.tolist()  # volumes are still named by position
    check_refused(r"betas has 24 trials, but image_ids has 23", own, image_ids=own.ids[1:])
    with pytest.raises(ValueError, match="without_image='skip' must be"):
        from_volumes(own.betas, own.mask, own.ids, own.pictures, without_image="skip")


def test_runs_of_another_length_are_named(own, tmp_path):
    runs = as_runs(own, tmp_path)
    of_runs = [own.ids[:5], own.ids[5:13], own.ids[13:]]
    match = "run1.nii.gz has 9 volumes, but image_ids has 8 for run 2"
    check_refused(match, own, betas=runs, image_ids=of_runs)
    check_refused(r"24 trials \(5 \+ 9 \+ 10\), but image_ids has 23", own, betas=runs,
                  image_ids=own.ids[1:])  # fmt: skip


def test_pictures_without_a_trial_are_said(own):
    pictures = {**own.pictures, "spare": own.pictures["picture_0"]}
    with pytest.warns(UserWarning, match="1 of 9 pictures were shown in no trial.*'spare'"):
        assert_is_own(from_volumes(own.betas, own.mask, own.ids, pictures), own)


def test_duplicated_names_are_refused(own, tmp_path):
    for folder in ("a", "b"):
        own.write_pictures(tmp_path / folder)
    check_refused("picture_0.*rows.*give names that differ", own, images=tmp_path)
    table = pd.DataFrame({"name": [*own.names, own.names[3]]})
    check_refused("names the image 'picture_3' in several rows", own, stimuli=table)
    check_refused("stimuli has no row for 1 of 8 images, 'picture_7'", own,
                  stimuli=pd.DataFrame({"name": own.names[:7]}))  # fmt: skip
    check_refused("gives the name 'V1' to the codes", own, atlases={"a": own.codes},
                  labels={1: "V1", 2: "V1", 12: "hV4"})  # fmt: skip


def test_infinite_values_are_named_by_trial(own, tmp_path):
    own.betas[own.mask, 7] = np.inf
    n = int(own.mask.sum())
    check_refused(f"betas.nii.gz has infinite values in {n} voxels of trial 7", own,
                  betas=as_nifti(own, tmp_path))  # fmt: skip


def test_trials_and_voxels_without_data_are_said(own):
    own.betas[..., 3] = np.nan
    i, j, k = np.argwhere(own.mask)[2]
    own.betas[i, j, k] = np.nan
    with pytest.warns(UserWarning, match="have only NaN") as said:
        data = from_volumes(own.betas, own.mask, own.ids, own.pictures)
    texts = [str(one.message) for one in said]
    assert (
        "1 trials have only NaN inside the mask and are left out, the first of them volume 3"
        in (texts[0])
    )
    assert f"1 of {own.mask.sum()} voxels of the mask have only NaN" in texts[1]
    assert len(data.trials) == 23
    assert data.n_voxels == own.mask.sum()


def test_an_image_of_which_no_trial_has_data_is_left_out(own):
    own.betas[..., own.shown == 2] = np.nan
    with pytest.warns(UserWarning, match="3 trials have only NaN"):
        data = from_volumes(own.betas, own.mask, own.ids, own.pictures)
    np.testing.assert_array_equal(data.betas, np.delete(own.expected(), 2, axis=0))
    assert "picture_2" not in data.stimuli["name"].tolist()
    assert data.trials["image"].max() == 6


def test_damaged_and_missing_files_are_named(own, tmp_path):
    path = as_nifti(own, tmp_path)
    path.write_bytes(path.read_bytes()[:-300])
    check_refused("betas.nii.gz", own, betas=path)
    with pytest.raises(FileNotFoundError, match="absent"):
        from_volumes(tmp_path / "absent.nii", own.mask, own.ids, own.pictures)
    with pytest.raises(FileNotFoundError, match="matches no file"):
        from_volumes(str(tmp_path / "x*.nii"), own.mask, own.ids, own.pictures)
    with pytest.raises(ValueError, match="has no data set 'beta' of numbers; it has"):
        from_volumes((as_hdf5(own, tmp_path), "beta"), own.mask, own.ids, own.pictures)
    path, _ = as_hdf5_of_matlab(own, tmp_path)
    check_refused("name the one with the betas", own, betas=path)


# ------------------------------------------------------------------ surfaces

N_VERTICES = {"lh": 30, "rh": 26}


@pytest.fixture
def surfaces():
    rng = np.random.default_rng(3)
    return {side: rng.standard_normal((n, 24)).astype(np.float32) for side, n in N_VERTICES.items()}


def gifti(values, path, side):
    meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side}"})
    arrays = [
        nib.gifti.GiftiDataArray(column, intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32")
        for column in values.T
    ]
    nib.save(nib.GiftiImage(meta=meta, darrays=arrays), path)
    return path


def as_func_gii(surfaces, folder):
    return {
        side: gifti(values, folder / f"{side}.func.gii", {"lh": "Left", "rh": "Right"}[side])
        for side, values in surfaces.items()
    }


def as_gifti_runs(surfaces, folder):
    parts = {"lh": [], "rh": []}
    for side, values in surfaces.items():
        for i, run in enumerate(np.split(values, [10], axis=1)):
            parts[side].append(gifti(run, folder / f"{side}.{i}.gii", "Left"))
    return parts


def as_mgh(surfaces, folder):
    for side, values in surfaces.items():
        nib.save(nib.MGHImage(values[:, None, None], np.eye(4)), folder / f"{side}.mgh")
    return {side: folder / f"{side}.mgh" for side in surfaces}


@pytest.mark.parametrize("write", [lambda s, _: s, as_func_gii, as_gifti_runs, as_mgh])
def test_hemispheres_give_vertices(own, surfaces, tmp_path, write):
    mask = {side: np.arange(n) % 3 > 0 for side, n in N_VERTICES.items()}
    data = from_volumes(write(surfaces, tmp_path), mask, own.ids, own.pictures)
    inside = np.concatenate([surfaces[side][mask[side]] for side in ("lh", "rh")])
    trial = int(data.trials.query("image == 5 and repeat == 1")["trial"].iloc[0])
    np.testing.assert_array_equal(data.betas[5, 1], inside[:, trial])
    assert own.ids[trial] == "picture_5"
    vertices = [np.flatnonzero(mask[side]) for side in ("lh", "rh")]
    np.testing.assert_array_equal(data.voxels["vertex"], np.concatenate(vertices))
    assert data.voxels["hemisphere"].tolist() == ["lh"] * 20 + ["rh"] * 17
    assert data.volume is None
    everything = from_volumes(surfaces, None, own.ids, own.pictures)
    assert everything.n_voxels == 56


def test_one_gifti_file_says_its_hemisphere(own, surfaces, tmp_path):
    path = as_func_gii(surfaces, tmp_path)["rh"]
    data = from_volumes(path, None, own.ids, own.pictures)
    assert set(data.voxels["hemisphere"]) == {"rh"}
    assert data.n_voxels == 26


def test_labels_inside_the_files_of_an_atlas_are_taken(own, surfaces, tmp_path):
    colours = np.array([[0, 0, 0, 0, 0], [220, 20, 20, 0, 1], [20, 20, 220, 0, 2]])
    codes = {side: np.arange(n) % 3 for side, n in N_VERTICES.items()}
    annot, label = {}, {}
    for side in surfaces:
        annot[side] = tmp_path / f"{side}.visual.annot"
        names = ["unknown", "V1", "V2"] if side == "lh" else ["unknown", "V2", "V1"]
        nib.freesurfer.write_annot(annot[side], codes[side], colours, names, fill_ctab=True)
        table = nib.gifti.GiftiLabelTable()
        for i, name in enumerate(names):
            one = nib.gifti.GiftiLabel(key=i)
            one.label = name
            table.labels.append(one)
        array = nib.gifti.GiftiDataArray(
            codes[side].astype(np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32"
        )
        label[side] = tmp_path / f"{side}.label.gii"
        nib.save(nib.GiftiImage(labeltable=table, darrays=[array]), label[side])
    atlases = {"a": annot, "b": label}
    data = from_volumes(surfaces, None, own.ids, own.pictures, atlases=atlases)
    left = [["", "V1", "V2"][code] for code in codes["lh"]]
    right = [["", "V2", "V1"][code] for code in codes["rh"]]
    for atlas in ("a", "b"):
        assert data.voxels[atlas].fillna("").tolist() == left + right


def test_hemispheres_that_do_not_match_are_refused(own, surfaces, tmp_path):
    short = {**surfaces, "rh": surfaces["rh"][:, :20]}
    check_refused(r"\{'lh': 24, 'rh': 20\} trials", own, betas=short, mask=None)
    check_refused(r"mask of lh has the shape \(29,\), but the betas have 30 vertices", own,
                  betas=surfaces, mask={"lh": np.ones(29), "rh": np.ones(26)})  # fmt: skip
    check_refused("mask is empty", own, betas=surfaces,
                  mask={"lh": np.zeros(30), "rh": np.zeros(26)})  # fmt: skip
    check_refused("hemispheres are 'lh' and 'rh'", own, betas={"left": 1, "top": 2}, mask=None)
    files = list(as_func_gii(surfaces, tmp_path).values())
    check_refused(r"of \['rh'\] and .*lh.func.gii of \['lh'\]", own, betas=files, mask=None)
    check_refused("atlas 'a' of lh has .29,. vertices", own, betas=surfaces, mask=None,
                  atlases={"a": {"lh": np.ones(29), "rh": np.ones(26)}})  # fmt: skip


@pytest.fixture
def cifti(surfaces, tmp_path):
    """A dense file with vertices of both hemispheres, without some, and voxels of the thalamus."""
    axes = nib.cifti2
    left = np.setdiff1d(np.arange(30), [4, 5])
    brain = axes.BrainModelAxis.from_surface(left, 30, name="CortexLeft")
    brain += axes.BrainModelAxis.from_surface(np.arange(26), 26, name="CortexRight")
    volume = np.zeros(SHAPE, dtype=bool)
    volume[1, 2, 3:5] = True
    brain += axes.BrainModelAxis.from_mask(volume, affine=AFFINE, name="ThalamusLeft")
    deep = np.random.default_rng(4).standard_normal((2, 24)).astype(np.float32)
    values = np.concatenate([surfaces["lh"][left], surfaces["rh"], deep]).T
    series = axes.SeriesAxis(0, 1, 24)
    path = tmp_path / "betas.dtseries.nii"
    nib.save(nib.Cifti2Image(values, (series, brain)), path)
    return path, values, brain, left


def test_grayordinates_of_the_cortex_or_below(own, cifti, tmp_path):
    path, values, brain, left = cifti
    data = from_volumes(path, "cortex", own.ids, own.pictures)
    trial = int(data.trials.query("image == 1 and repeat == 2")["trial"].iloc[0])
    np.testing.assert_array_equal(data.betas[1, 2], values[trial, :54])
    np.testing.assert_array_equal(data.voxels["vertex"], [*left, *range(26)])
    assert data.voxels["hemisphere"].tolist() == ["lh"] * 28 + ["rh"] * 26
    deep = from_volumes(path, "subcortex", own.ids, own.pictures)
    np.testing.assert_array_equal(deep.betas[1, 2], values[trial, 54:])
    np.testing.assert_array_equal(deep.voxels[["i", "j", "k"]], [[1, 2, 3], [1, 2, 4]])
    np.testing.assert_array_equal(deep.volume.affine, AFFINE)
    check_refused("54 vertices of the cortex and 2 voxels of other structures", own, betas=path,
                  mask=None)  # fmt: skip

    label = nib.cifti2.LabelAxis(["visual"], {0: ("???", (0,) * 4), 3: ("V1", (1, 0, 0, 1))})
    codes = np.where(np.arange(56) % 2, 3, 0)[None]
    nib.save(nib.Cifti2Image(codes.astype(np.float32), (label, brain)), tmp_path / "a.dlabel.nii")
    atlases = {"visual": tmp_path / "a.dlabel.nii"}
    data = from_volumes(path, "cortex", own.ids, own.pictures, atlases=atlases)
    np.testing.assert_array_equal(data.rois()["V1"], np.arange(1, 54, 2))


# ------------------------------------------------------------------ names of digits, and damage


def rename_pictures(own, names):
    own.pictures = dict(zip(names, own.pictures.values(), strict=True))
    own.names = names
    return own


def test_numbers_that_are_names_or_rows_are_asked_for(own, tmp_path):
    """Files 1.png … 8.png: 3 may be the fourth file or the third."""
    rename_pictures(own, [str(i + 1) for i in range(N_IMAGES)])
    folder = own.write_pictures(tmp_path / "stimuli")
    few = own.shown[own.shown < 7] + 1  # all are names and rows
    check_refused(r"1 may be row 1 of images, which is '2.png', or the name of '1.png'", own,
                  betas=own.betas[..., own.shown < 7], image_ids=few, images=folder)  # fmt: skip
    # With an 8, which is no row, they are names.
    assert_is_own(from_volumes(own.betas, own.mask, own.shown + 1, folder), own)
    assert_is_own(from_volumes(own.betas, own.mask, own.ids, folder), own)


def test_numbers_are_rows_where_both_say_the_same(own, tmp_path):
    rename_pictures(own, [f"{i:04d}" for i in range(N_IMAGES)])
    folder = own.write_pictures(tmp_path / "stimuli")
    assert_is_own(from_volumes(own.betas, own.mask, own.shown, folder), own)


def test_names_with_zeros_in_front_stay_names_in_tables(own, tmp_path):
    rename_pictures(own, [f"{i + 1:04d}" for i in range(N_IMAGES)])
    folder = own.write_pictures(tmp_path / "stimuli")
    table = pd.DataFrame({"name": own.names, "category": list("abcdabcd")})[::-1]
    table.to_csv(tmp_path / "stimuli.csv", index=False)
    data = from_volumes(own.betas, own.mask, own.ids, folder, stimuli=tmp_path / "stimuli.csv")
    assert data.stimuli["category"].tolist() == list("abcdabcd")
    assert data.stimuli["name"].tolist() == own.names


def test_a_changed_byte_in_a_compressed_file_is_found(own, tmp_path):
    path = as_nifti(own, tmp_path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum: the values themselves are whole
    path.write_bytes(bytes(content))
    check_refused("betas.nii.gz.*CRC", own, betas=path)


def test_from_trials_takes_a_folder_too(own, tmp_path):
    folder = own.write_pictures(tmp_path / "stimuli")
    data = EncodingData.from_trials(folder, own.betas[own.mask].T, own.ids)
    np.testing.assert_array_equal(data.betas, own.expected())
    assert data.stimuli["name"].tolist() == [f"{name}.png" for name in own.names]
