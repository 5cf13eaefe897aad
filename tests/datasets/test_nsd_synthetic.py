"""NSD-synthetic beside NSD: a tree of its layout, with betas that say where they come from."""

import pickle

import h5py
import numpy as np
import pandas as pd
import pytest
from nsd_tree import ID_LOW, NEVER, SHAPE, NSDTree, write_mgh, write_volume
from scipy.io import savemat

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import load_nsd_synthetic

N_TRIALS = 744
PICTURE = (10, 14, 3)


class SyntheticTree:
    """Numbers of images from 1, each run with ten trials that repeat the one before."""

    def __init__(self, root, subject=2, seed=0):
        self.nsd = NSDTree(root, subject, sessions=())
        rng = np.random.default_rng(seed)
        runs = []
        for _ in range(8):
            order = rng.permutation(np.r_[np.arange(1, 285), np.arange(1, 285)])[:83].tolist()
            for place in sorted(rng.choice(83, 10, replace=False), reverse=True):
                order.insert(place, order[place])
            runs.append(order)
        runs[0][:2] = [284, 284]
        self.shown = np.concatenate(runs)

    def betas(self):
        """Stored integers, (744, X, Y, Z): the image at one voxel, the trial at the others."""
        x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
        trial = np.arange(N_TRIALS)[:, None, None, None]
        betas = (trial * 3 + x + 10 * y + 100 * z).astype(np.int16)
        betas[:, *ID_LOW] = self.shown
        betas[:, *NEVER] = 0
        return betas

    def picture(self, number):
        pixels = np.zeros(PICTURE, np.uint8)
        pixels[0, 0] = [number // 256, number % 256, 9]
        return pixels

    def write(self, *, nifti=False, surface=False):
        nsd = self.nsd
        nsd.write_rois()
        folder = nsd.folder("nsddata/experiments/nsdsynthetic")
        design = {"masterordering": self.shown[None].astype(np.uint16), "stimpattern": 1.0}
        savemat(folder / "nsdsynthetic_expdesign.mat", design)
        pd.DataFrame(
            {
                "Image number": range(1, 285),
                "Image": [f"image_{i}" for i in range(1, 285)],
                "Image subclass number": 1,
                "Image subclass": [f"sub{i % 71}" for i in range(1, 285)],
                "Image class number": 1,
                "Image class": [f"class{i % 8}" for i in range(1, 285)],
            }
        ).to_csv(folder / "nsdsyntheticimageinformation.csv", index=False)
        stimuli = nsd.folder("nsddata_stimuli/stimuli/nsdsynthetic")
        pictures = np.stack([self.picture(number) for number in range(1, 285)])
        own = f"nsdsynthetic_colorstimuli_subj{nsd.subject:02d}.hdf5"
        for name, some in {
            "nsdsynthetic_stimuli.hdf5": pictures[:220],
            own: pictures[220:],
        }.items():
            with h5py.File(stimuli / name, "w") as file:
                file["imgBrick"] = some
        version = "nsdsyntheticbetas_fithrf_GLMdenoise_RR"
        betas = nsd.folder(f"nsddata_betas/ppdata/{{}}/func1pt8mm/{version}")
        if nifti:
            stored = np.moveaxis(self.betas(), 0, 3)
            write_volume(betas / "betas_nsdsynthetic.nii.gz", stored)
        else:
            with h5py.File(betas / "betas_nsdsynthetic.hdf5", "w") as file:
                stored = self.betas().transpose(0, 3, 2, 1)
                file.create_dataset("betas", data=stored, chunks=(N_TRIALS, 1, 1, 1))
        if surface:
            betas = nsd.folder(f"nsddata_betas/ppdata/{{}}/fsaverage/{version}")
            for side, sign in {"lh": 1, "rh": -1}.items():
                vertex, trial = np.mgrid[:40, :N_TRIALS]
                values = (sign * (vertex + 1) + trial / 1000).astype(np.float32)
                write_mgh(betas / f"{side}.betas_nsdsynthetic.mgh", values[:, None, None])
        return self


def load(tree, **options):
    options = {"units": "percent", "verbose": False, **options}
    return load_nsd_synthetic(tree.nsd.root, tree.nsd.subject, **options)


@pytest.fixture(params=["hdf5", "nifti"])
def tree(tmp_path, request):
    return SyntheticTree(tmp_path).write(nifti=request.param == "nifti")


def test_every_trial_is_at_its_image(tree):
    data = load(tree)
    inside = tree.nsd.nsdgeneral == 1
    names = np.unique(tree.shown)
    assert data.betas.shape[0] == len(names)
    for image, number in enumerate(names):
        trials = np.flatnonzero(tree.shown == number)
        betas = data.betas[image, : len(trials)]
        expected = tree.betas()[trials][:, inside] / 300
        expected[:, np.ptp(tree.betas()[:, inside], axis=0) == 0] = np.nan
        np.testing.assert_allclose(betas, expected, rtol=1e-6)
        assert np.isnan(data.betas[image, len(trials) :]).all()
        np.testing.assert_array_equal(data.images[image], tree.picture(number))
        rows = data.trials[data.trials["image"] == image]
        assert rows["trial"].tolist() == trials.tolist()
        assert set(rows["synthetic_id"]) == {number - 1}
        assert set(rows["stimulus"]) == {f"image_{number}"}
        assert set(rows["category"]) == {f"class{number % 8}"}
    assert data.name == "NSD-synthetic subj02"
    assert data.units == "percent signal change"


def test_runs_alternate_between_two_tasks(tree):
    trials = load(tree).trials.sort_values("trial")
    np.testing.assert_array_equal(trials["run"], 1 + np.arange(N_TRIALS) // 93)
    odd = trials["run"] % 2 == 1
    assert set(trials.loc[odd, "task"]) == {"fixation"}
    assert set(trials.loc[~odd, "task"]) == {"one-back"}
    repeats = [t for t in range(1, N_TRIALS) if tree.shown[t] == tree.shown[t - 1] and t % 93]
    assert trials.loc[trials["one_back"], "trial"].tolist() == repeats


def test_zscores_are_over_the_session(tree):
    inside = tree.nsd.nsdgeneral == 1
    stored = tree.betas()[:, inside].astype(float)
    varies = np.ptp(stored, axis=0) > 0
    expected = (stored - stored.mean(0))[:, varies] / stored[:, varies].std(0)
    data = load(tree, units="zscore")
    rows = data.trials.sort_values("trial")
    betas = data.betas[rows["image"], rows["repeat"]][:, varies]
    np.testing.assert_allclose(betas, expected, atol=1e-5)


def test_the_ncsnr_of_the_main_experiment_is_no_ceiling_of_this_one(tree):
    data = load(tree)
    assert "ncsnr" not in data.voxels
    expected = tree.nsd.ncsnr[tree.nsd.nsdgeneral == 1]
    np.testing.assert_array_equal(data.voxels["nsd_ncsnr"], expected)
    assert data.atlases[0] == "prf-visualrois"


def test_surface(tmp_path):
    tree = SyntheticTree(tmp_path).write(surface=True)
    data = load(tree, space="fsaverage", mask="all")
    rows = data.trials.sort_values("trial")
    betas = data.betas[rows["image"], rows["repeat"]]
    np.testing.assert_allclose(betas[5, [0, 40]], [1.005, -0.995], rtol=1e-6)


def test_a_saved_folder_is_the_same(tmp_path):
    data = load(SyntheticTree(tmp_path).write(), image_size=8)
    loaded = EncodingData.load(data.save(tmp_path / "s2.brain"))
    np.testing.assert_array_equal(loaded.betas, data.betas)
    np.testing.assert_array_equal(loaded.images, data.images)
    assert loaded.trials.equals(data.trials)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data.images)), data.images)


def test_names_of_images_may_be_missing(tmp_path):
    tree = SyntheticTree(tmp_path).write()
    next(tmp_path.rglob("nsdsyntheticimageinformation.csv")).unlink()
    assert "stimulus" not in load(tree).trials


def test_what_is_missing_is_listed(tmp_path):
    tree = SyntheticTree(tmp_path).write()
    for name in ("nsdsynthetic_colorstimuli_subj02.hdf5", "betas_nsdsynthetic.hdf5"):
        next(tmp_path.rglob(name)).unlink()
    with pytest.raises(FileNotFoundError, match="2 files of NSD are missing") as error:
        load(tree)
    assert "betas_nsdsynthetic.hdf5 or " in str(error.value)
    assert "sessions" not in str(error.value)


def test_files_of_another_layout_are_refused(tmp_path):
    tree = SyntheticTree(tmp_path).write()
    path = next(tmp_path.rglob("nsdsynthetic_expdesign.mat"))
    for shown, message in [
        (tree.shown[:-1], r"masterordering \(1, 743\), but NSD-synthetic's is \(1, 744\)"),
        (tree.shown - 1, "must be whole numbers of 1 … 284"),
        (tree.shown + 1, "must be whole numbers of 1 … 284"),
    ]:
        savemat(path, {"masterordering": shown[None]})
        with pytest.raises(ValueError, match=message):
            load(tree)
    savemat(path, {"other": 1.0})
    with pytest.raises(ValueError, match="masterordering None"):
        load(tree)
    savemat(path, {"masterordering": tree.shown[None]})
    stimuli = next(tmp_path.rglob("nsdsynthetic_stimuli.hdf5"))
    with h5py.File(stimuli, "w") as file:
        file["imgBrick"] = np.zeros((219, *PICTURE), np.uint8)
    with pytest.raises(
        ValueError, match=r"nsdsynthetic_stimuli\.hdf5 has images \(219, 10, 14, 3\)"
    ):
        load(tree)
