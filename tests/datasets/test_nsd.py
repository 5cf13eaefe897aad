"""NSD on a miniature tree whose betas spell the image, session and trial they belong to."""

import dataclasses
import shutil

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from nsd_tree import (
    AFFINE,
    ID_HIGH,
    ID_LOW,
    N_VERTICES,
    NEVER,
    ROI_NAMES,
    SHAPE,
    TIME,
    NSDTree,
    write_volume,
)
from PIL import Image

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import load_nsd, shared_test_mask
from brainenc.datasets.nsd.design import make_trials, read_design
from brainenc.datasets.nsd.plan import in_units


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return NSDTree(tmp_path_factory.mktemp("nsd")).write(nifti=True, surface=True)


def load(tree, **arguments):
    arguments = {"units": "percent", "sessions": tree.sessions, "verbose": False} | arguments
    return load_nsd(tree.root, tree.subject, **arguments)


@pytest.fixture(scope="module")
def data(tree):
    return load(tree)


def column(data, voxel):
    """Position of a voxel of the volume in the data."""
    (position,) = np.flatnonzero((data.voxels[["i", "j", "k"]].to_numpy() == voxel).all(axis=1))
    return position


def stored(data, voxel):
    return np.round(300 * data.betas[..., column(data, voxel)])


def test_a_voxel_that_spells_the_id_is_at_its_image(tree, data):
    assert data.betas.shape == (500, 3, int((tree.nsdgeneral == 1).sum()))
    assert data.betas.dtype == np.float32
    spelled = stored(data, ID_LOW) + 1000 * stored(data, ID_HIGH)  # counts from 1
    by_image = data.trials.groupby("image")["nsd_id"].unique().str[0]
    np.testing.assert_array_equal(spelled, np.repeat(by_image.to_numpy()[:, None] + 1, 3, axis=1))


def test_images_are_those_of_the_ids(tree, data):
    for image in [0, 7, 250, 499]:
        red, green, blue = data.images[image][0, 0].astype(int)
        spelled = stored(data, ID_LOW) + 1000 * stored(data, ID_HIGH)
        assert 65536 * red + 256 * green + blue == spelled[image, 0] - 1
    np.testing.assert_array_equal(np.asarray(data.images[3:5])[1], data.images[4])


def test_every_trial_is_at_its_image_repeat_and_session(tree, data):
    assert len(data.trials) == 1500
    assert (np.diff(3 * data.trials["image"] + data.trials["repeat"]) > 0).all()
    time = stored(data, TIME)
    ids = np.unique([tree.shown(s, t) for s in (1, 2) for t in range(750)])
    for session, trial in [(1, 0), (1, 1), (1, 333), (1, 749), (2, 0), (2, 101), (2, 749)]:
        image = np.searchsorted(ids, tree.shown(session, trial))
        repeat = tree.repeat(session, trial)
        assert time[image, repeat] == 1000 * session + trial
        row = data.trials.query(f"image == {image} and repeat == {repeat}").iloc[0]
        assert (row["session"], row["trial"]) == (session, trial)
        assert row["nsd_id"] == tree.shown(session, trial) - 1
        assert row["shared"] == (tree.shown(session, trial) in tree.shared)


@pytest.mark.parametrize("file_format", ["hdf5", "nifti"])
def test_every_voxel_is_where_the_table_says(tree, file_format):
    data = load(tree, file_format=file_format)
    first = data.trials.query("session == 1").iloc[5]
    values = 300 * data.betas[first["image"], first["repeat"]]
    raw = tree.betas(1)[first["trial"]].astype(float)
    raw[NEVER] = np.nan
    i, j, k = data.voxels[["i", "j", "k"]].to_numpy().T
    # float32 of integers below 2¹⁵ divided by 300 and multiplied again.
    np.testing.assert_allclose(values, raw[i, j, k], rtol=1e-6)
    assert (tree.nsdgeneral[i, j, k] == 1).all()
    np.testing.assert_allclose(data.volume.affine, AFFINE)  # float32 in the file
    assert data.volume.shape == SHAPE
    volume = data.to_nifti(data.betas[first["image"], first["repeat"]]).get_fdata()
    np.testing.assert_allclose(300 * volume[3, 2, 1], raw[3, 2, 1], rtol=1e-6)


def test_both_file_formats_give_the_same(tree, data):
    nifti = load(tree, file_format="nifti")
    np.testing.assert_array_equal(nifti.betas, data.betas)
    pd.testing.assert_frame_equal(nifti.trials, data.trials)


def test_percent_signal_change_is_a_three_hundredth_of_the_integers(tree, data):
    at = tree.betas(1)[0][ID_LOW]
    row = data.trials.query("session == 1 and trial == 0").iloc[0]
    value = data.betas[row["image"], row["repeat"], column(data, ID_LOW)]
    assert value == pytest.approx(at / 300, rel=1e-6)
    assert data.units == "percent signal change"


def test_zscores_are_those_of_the_data_zscored_by_session(tree, data):
    zscored = load(tree, units="zscore")
    # Two ways to z-score, from float32 percent and from the integers: round-off of float32.
    np.testing.assert_allclose(zscored.betas, data.zscore_by_session().betas, atol=2e-5)
    assert zscored.units == data.zscore_by_session().units == "z-scored within session"


def test_units_have_no_default(tree):
    with pytest.raises(TypeError, match="units"):
        load_nsd(tree.root, 1)
    with pytest.raises(ValueError, match="units='psc' must be one of 'percent', 'zscore'"):
        load(tree, units="psc")


def test_voxels_without_data_in_a_session_are_masked_and_counted(tree, data, capsys):
    edge = (data.voxels["i"] == 0).to_numpy()
    never = np.arange(data.n_voxels) == column(data, NEVER)
    session = np.zeros((500, 3), dtype=int)
    session[data.trials["image"], data.trials["repeat"]] = data.trials["session"]
    lacking = (edge & (session[..., None] == 2)) | never
    np.testing.assert_array_equal(np.isnan(data.betas), lacking)
    np.testing.assert_array_equal(data.voxels["n_sessions"], np.where(never, 0, 2 - edge))
    load(tree, verbose=True)
    said = capsys.readouterr().out
    assert f"of {data.n_voxels} voxels {edge.sum()} lack data in some of the 2 sessions" in said
    assert "and 1 in all" in said
    assert "percent signal change (stored integers / 300), not z-scored" in said


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_units_of_many_voxels_and_of_constant_ones(dtype):
    """More voxels than are worked on at a time; the oracle takes one after the other."""
    raw = np.random.default_rng(0).integers(-900, 900, (20, 2100)).astype(dtype)
    constant = [0, 1024, 2099]
    raw[:, constant] = [0, 7, -300]
    for units in ("percent", "zscore"):
        expected = np.full(raw.shape, np.nan)
        for v in set(range(2100)).difference(constant):
            expected[:, v] = scipy.stats.zscore(raw[:, v].astype(float))
            if units == "percent":
                expected[:, v] = raw[:, v] / 300
        betas, has_data = in_units(raw.copy(), units, 300)
        np.testing.assert_allclose(betas, expected, rtol=1e-6, atol=1e-7)  # float32
        assert np.flatnonzero(~has_data).tolist() == constant


def test_atlases_ncsnr_and_hemispheres_are_those_of_the_voxels(tree, data):
    assert data.atlases == ["prf-visualrois", "floc-faces"]
    i, j, k = data.voxels[["i", "j", "k"]].to_numpy().T
    for atlas, names in ROI_NAMES.items():
        expected = [names[v - 1] if v > 0 else "" for v in tree.rois[atlas][i, j, k]]
        assert data.voxels[atlas].tolist() == expected
    np.testing.assert_array_equal(data.voxels["ncsnr"], tree.ncsnr[i, j, k])
    labelled = sum((tree.rois[atlas][i, j, k] > 0).astype(int) for atlas in ROI_NAMES) > 0
    side = np.where(labelled, np.where(i >= 3, "lh", "rh"), "")
    assert data.voxels["hemisphere"].tolist() == side.tolist()


def test_hemispheres_of_voxels_that_no_atlas_labels(tree, tmp_path):
    """The files of nsdgeneral tell them; what both hemispheres claim belongs to neither."""
    root = shutil.copytree(tree.root, tmp_path / "nsd")
    folder = root / "nsddata/ppdata/subj01/func1pt8mm/roi"
    for path in folder.glob("?h.*.nii.gz"):
        path.unlink()
    assert "hemisphere" not in load_nsd(root, units="percent", sessions=1, verbose=False).voxels
    claimed = {side: np.full(SHAPE, -1) for side in ("lh", "rh")}
    claimed["lh"][ID_LOW] = claimed["lh"][TIME] = 1
    claimed["rh"][ID_HIGH] = claimed["rh"][TIME] = 1
    claimed["rh"][NEVER] = 0  # cortex that the ROI leaves out
    for side, values in claimed.items():
        write_volume(folder / f"{side}.nsdgeneral.nii.gz", values)
    data = load_nsd(root, units="percent", sessions=1, verbose=False)
    sides = data.voxels["hemisphere"]
    assert sides[column(data, ID_LOW)] == "lh"
    assert sides[column(data, ID_HIGH)] == "rh"
    assert (sides.drop([column(data, ID_LOW), column(data, ID_HIGH)]) == "").all()


def test_masks(tree, tmp_path):
    visual = tree.rois["prf-visualrois"]
    mask = np.zeros(SHAPE, dtype=bool)
    mask[ID_LOW] = mask[2, 4, 0] = True
    write_volume(tmp_path / "mask.nii.gz", mask)
    np.save(tmp_path / "mask.npy", mask)
    for given, inside in [
        ("prf-visualrois", visual > 0),
        ("prf-visualrois:V1v", visual == 1),
        ("prf-visualrois:hV4,V1d", np.isin(visual, [2, 7])),
        (tmp_path / "mask.nii.gz", mask),
        (str(tmp_path / "mask.npy"), mask),
        (mask, mask),
    ]:
        data = load(tree, mask=given, sessions=1)
        np.testing.assert_array_equal(data.voxels[["i", "j", "k"]], np.argwhere(inside))
    with pytest.raises(ValueError, match=r"prf-visualrois has no \['V9'\]"):
        load(tree, mask="prf-visualrois:V9")
    np.testing.assert_array_equal(
        load(tree, mask=np.where(mask, 1, -1), sessions=1).voxels[["i", "j", "k"]],
        data.voxels[["i", "j", "k"]],
    )
    with pytest.raises(ValueError, match=r"mask \(an array\) has values such as 0\.3.*threshold"):
        load(tree, mask=0.3 * mask, sessions=1)
    with pytest.raises(ValueError, match="mask is \\(5, 6, 7\\)"):
        load(tree, mask=mask.T, sessions=1)
    with pytest.raises(ValueError, match="most of a volume is no brain"):
        load(tree, mask="all")


def test_a_repeat_of_another_session_is_missing(tree):
    data = load(tree, sessions=2)
    time = stored(data, TIME)
    present = np.zeros(time.shape, dtype=bool)
    present[data.trials["image"], data.trials["repeat"]] = True
    np.testing.assert_array_equal(np.isfinite(time), present)
    assert len(data.trials) == 750
    assert time.shape[1] == 3
    for trial in (0, 400):
        row = data.trials.query(f"trial == {trial}").iloc[0]
        assert row["repeat"] == tree.repeat(2, trial)


def test_the_official_split(tree, data):
    train, test = data.train_test(shared_test_mask(data))
    assert test.n_images == 50  # one in ten of the images of the tree
    assert set(test.trials["nsd_id"] + 1) <= set(tree.shared)
    assert not set(train.trials["nsd_id"] + 1) & set(tree.shared)
    with pytest.raises(ValueError, match="no column"):
        shared_test_mask(EncodingData(np.zeros((2, 4, 4), np.uint8), np.ones((2, 1))))


def test_shared_images_must_be_shown_three_times():
    trials = pd.DataFrame({"image": [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]})
    trials["repeat"] = trials.groupby("image").cumcount()
    trials["session"] = [1, 2, 30, 1, 2, 31, 1, 2, 1, 2, 3]
    trials["shared"] = trials["image"] < 3
    betas = np.ones((4, 3, 1))
    betas[2, 2] = np.nan
    data = EncodingData(np.zeros((4, 4, 4), np.uint8), betas, trials=trials)
    assert shared_test_mask(data).tolist() == [True, True, False, False]
    # Subjects 4 and 8 have 30 sessions.
    assert shared_test_mask(data, all_subjects=True).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="read more sessions"):
        shared_test_mask(data.select(images=[2, 3]))


def test_one_hour_of_images(tree, data):
    hour = load(tree, one_hour="images")
    own = hour.trials[~hour.trials["shared"]]
    assert own["nsd_id"].nunique() == 250
    assert len(own) == 750
    assert hour.trials["shared"].sum() == data.trials["shared"].sum() == 150
    order = list(dict.fromkeys(tree.shown(s, t) for s in (1, 2) for t in range(750)))
    first = [number for number in order if number not in tree.shared][:250]
    assert set(own["nsd_id"] + 1) == set(first)
    with pytest.raises(ValueError, match="read more sessions"):
        load(tree, one_hour="images", sessions=2)


def test_one_hour_of_the_first_session(tree, data):
    zscored = load(tree, units="zscore")
    hour = load(tree, units="zscore", one_hour="session")
    own = hour.trials[~hour.trials["shared"]]
    assert set(own["session"]) == {1}
    n_own = sum(tree.shown(1, t) not in tree.shared for t in range(750))
    assert len(own) == n_own
    assert hour.trials["shared"].sum() == 150
    # z-scores are over all trials of a session, whichever are taken.
    position = np.searchsorted(data.trials["nsd_id"].unique(), hour.trials["nsd_id"].unique())
    kept = ~np.isnan(hour.betas[..., column(hour, ID_LOW)])
    np.testing.assert_array_equal(hour.betas[kept], zscored.betas[position][kept])
    # The first of those read, whichever that is.
    assert len(load(tree, sessions=2, one_hour="session").trials) == 750


# ------------------------------------------------------------------ fsaverage


def test_surface_betas_are_unscaled_and_on_their_hemisphere(tree):
    data = load(tree, space="fsaverage", mask="all")
    assert data.n_voxels == 2 * N_VERTICES
    assert data.voxels["hemisphere"].tolist() == ["lh"] * N_VERTICES + ["rh"] * N_VERTICES
    for session, trial in [(1, 0), (2, 700)]:
        row = data.trials.query(f"session == {session} and trial == {trial}").iloc[0]
        betas = data.betas[row["image"], row["repeat"]]
        for side in ("lh", "rh"):
            here = data.voxels["hemisphere"] == side
            vertex = data.voxels.loc[here, "vertex"]
            expected = tree.surface_betas(session, side)[trial, vertex]
            np.testing.assert_allclose(betas[here], expected, rtol=1e-6)
            np.testing.assert_array_equal(
                data.voxels.loc[here, "ncsnr"], tree.surface_ncsnr(side)[vertex]
            )
            labels = ["", *ROI_NAMES["prf-visualrois"]]
            expected = [labels[v] for v in tree.surface_roi(side)[vertex]]
            assert data.voxels.loc[here, "prf-visualrois"].tolist() == expected
    assert data.volume is None


def test_surface_masks(tree, tmp_path):
    data = load(tree, space="fsaverage", mask="prf-visualrois:V1d", sessions=1)
    for side, here in data.voxels.groupby("hemisphere"):
        assert here["vertex"].tolist() == np.flatnonzero(tree.surface_roi(side) == 2).tolist()
    mask = np.zeros(2 * N_VERTICES)
    mask[[3, N_VERTICES + 5]] = 1
    np.save(tmp_path / "mask.npy", mask)
    data = load(tree, space="fsaverage", mask=tmp_path / "mask.npy", sessions=1)
    assert data.voxels["vertex"].tolist() == [3, 5]
    zscored = load(tree, space="fsaverage", mask=mask, units="zscore")
    by_session = load(tree, space="fsaverage", mask=mask).zscore_by_session()
    # The float32 betas are about 100 ± 0.2 here, which leaves four digits.
    np.testing.assert_allclose(zscored.betas, by_session.betas, atol=1e-4)


# ------------------------------------------------------------------ files


def test_missing_files_are_all_listed_with_their_places(tree, tmp_path):
    root = tmp_path / "nsd"
    with pytest.raises(FileNotFoundError, match="7 files of NSD are missing") as error:
        load_nsd(root, 5, units="percent", sessions=[1, 2, 11, 40])
    betas = "nsddata_betas/ppdata/subj05/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[1:-1] == [
        str(root / "nsddata/experiments/nsd/nsd_expdesign.mat"),
        str(root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"),
        *(
            f"{root}/{betas}/betas_session{s}.hdf5 or {root}/{betas}/betas_session{s}.nii.gz"
            for s in ("01", "02", "11", "40")
        ),
        str(root / "nsddata/ppdata/subj05/func1pt8mm/roi/nsdgeneral.nii.gz"),
    ]
    assert "s3://natural-scenes-dataset" in lines[-1]
    assert "--sessions" in lines[-1]  # the way to go on with what is there
    with pytest.raises(FileNotFoundError, match="38 files"):  # 40 sessions, two of them there
        load_nsd(tree.root, 1, units="percent")
    with pytest.raises(FileNotFoundError, match=r"mask\.nii\.gz"):
        load(tree, mask=tmp_path / "mask.nii.gz")


def test_missing_atlases_and_ncsnr_are_named_and_left_out(tree, tmp_path, capsys):
    root = shutil.copytree(tree.root, tmp_path / "nsd")
    (root / "nsddata/freesurfer/subj01/label/floc-faces.mgz.ctab").unlink()
    ncsnr = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/ncsnr.nii.gz"
    (root / ncsnr).unlink()
    data = load_nsd(root, 1, units="percent", sessions=1)
    assert data.atlases == ["prf-visualrois"]
    assert "ncsnr" not in data.voxels
    said = capsys.readouterr().out
    assert "subj01/label/floc-faces.mgz.ctab is missing" in said
    assert f"{root / ncsnr} is missing" in said


def test_betas_on_another_scale_are_refused(tree, tmp_path):
    root = shutil.copytree(tree.root, tmp_path / "nsd")
    small = dataclasses.make_dataclass("Small", ["root", "subject", "sessions"])(root, 1, [1])
    folder = root / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    path = folder / "betas_session01.hdf5"
    betas = tree.betas(1).transpose(0, 3, 2, 1)
    for stored, message in [
        (betas / 300, "holds float64"),
        (betas.transpose(0, 3, 2, 1), "axes in another order"),
        (betas[:749], "has shape"),
    ]:
        with h5py.File(path, "w") as file:
            file["betas"] = stored
        with pytest.raises(ValueError, match=message):
            load(small)
    image = nib.load(folder / "betas_session01.nii.gz")
    image = nib.Nifti1Image(np.asarray(image.dataobj), AFFINE)
    image.header.set_slope_inter(1 / 300, 0)
    nib.save(image, folder / "betas_session01.nii.gz")
    with pytest.raises(ValueError, match="plain int16"):
        load(small, file_format="nifti")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("func1pt8mm/{}/betas_session01.hdf5", {"file_format": "hdf5"}),
        ("func1pt8mm/{}/betas_session01.nii.gz", {"file_format": "nifti"}),
        ("fsaverage/{}/rh.betas_session01.mgh", {"space": "fsaverage", "mask": "all"}),
    ],
)
def test_truncated_betas_are_named(tree, tmp_path, name, arguments):
    root = shutil.copytree(tree.root, tmp_path / "nsd")
    name = name.format("betas_fithrf_GLMdenoise_RR")
    path = root / "nsddata_betas/ppdata/subj01" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read .*truncated"):
        load_nsd(root, units="percent", sessions=1, verbose=False, **arguments)


def test_a_design_that_counts_from_zero_is_refused(tree, tmp_path):
    from scipy.io import loadmat, savemat

    path = tree.root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    design = {key: value for key, value in loadmat(path).items() if not key.startswith("_")}
    savemat(tmp_path / "zero.mat", design | {"masterordering": design["masterordering"] - 1})
    with pytest.raises(ValueError, match=r"masterordering .* runs from 0 to 9999"):
        read_design(tmp_path / "zero.mat")
    savemat(tmp_path / "short.mat", design | {"sharedix": design["sharedix"][:, :3]})
    with pytest.raises(ValueError, match=r"'sharedix': \(1, 3\)"):
        read_design(tmp_path / "short.mat")


def test_subjects_have_their_own_images(tree):
    design = read_design(tree.root / "nsddata/experiments/nsd/nsd_expdesign.mat")
    first, third = (make_trials(design, subject, [1], None) for subject in (1, 3))
    own = NSDTree(tree.root, subject=3)
    assert third["nsd_id"].tolist() == [own.shown(1, t) - 1 for t in range(750)]
    np.testing.assert_array_equal(first["shared"], third["shared"])
    assert not set(first.loc[~first["shared"], "nsd_id"]) & set(third["nsd_id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "MNI"}, "space='MNI' must be one of 'func1pt8mm', 'fsaverage'"),
        ({"sessions": [0, 1]}, "must be of 1 … 40"),
        ({"sessions": [1, 1]}, "must be of 1 … 40"),
        ({"sessions": []}, "must be of 1 … 40"),
        ({"sessions": [1.7]}, r"sessions=\[1\.7\] must be of 1 … 40"),
        ({"one_hour": "first"}, "one_hour='first' must be one of"),
        ({"file_format": "mat"}, "file_format='mat'"),
        ({"image_size": 0}, "image_size=0 must be 1 or more"),
        ({"image_size": (32, -1)}, r"image_size=\(32, -1\) must be 1 or more"),
    ],
)
def test_bad_arguments_are_named(tree, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(tree, **arguments)
    with pytest.raises(ValueError, match="subject=9 must be one of"):
        load_nsd(tree.root, 9, units="percent")


def test_subjects_had_as_many_sessions_as_were_published(tree):
    # Allen et al. (2022): four subjects had all 40, two 32 and two 30.
    for subject, n in enumerate([40, 40, 32, 30, 40, 32, 40, 30], start=1):
        with pytest.raises(ValueError, match=f"must be of 1 … {n} for subject {subject},"):
            load_nsd(tree.root, subject, units="percent", sessions=[1, 41])


def test_images_are_resized_as_image_files_are(tree, data):
    small = load(tree, image_size=np.int64(32), sessions=np.int64(1))
    assert small.images.shape[1:] == (32, 32, 3)
    row = data.trials["nsd_id"].unique().tolist().index(small.trials["nsd_id"].unique()[5])
    resized = Image.fromarray(data.images[row]).resize((32, 32), Image.Resampling.BICUBIC)
    assert small.images[5].any()
    np.testing.assert_array_equal(small.images[5], resized)
