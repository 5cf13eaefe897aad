"""BOLD5000: a subject with the layout of release 2, and betas that say where they come from."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import load_bold5000, published_test_mask

SHAPE = (4, 3, 2)
#: The brain mask's; that of the volumes of betas is wrong in the release.
AFFINE = np.array([[2.0, 0, 0, -70], [0, 2, 0, -90], [0, 0, 2, -60], [0, 0, 0, 1]])
PICTURES = {
    "COCO": ["COCO_train2014_000000000036.jpg", "COCO_train2014_000000000049.jpg"],
    "ImageNet": ["n01440764_10110.JPEG", "n01443537_1234.JPEG"],
    "Scene": ["airport1.jpg"],
}
ALL = [name for names in PICTURES.values() for name in names]
REPEATED = ["n01440764_10110.JPEG", "airport1.jpg"]
#: Sessions of CSI4 are nine; runs of 37 pictures, one or two per session.
N_RUNS = {session: 1 + session % 2 for session in range(1, 10)}
ROI_VOXELS = {
    ("LH", "PPA"): [(0, 0, 0), (0, 1, 1)],
    ("RH", "PPA"): [(3, 2, 1)],
    ("LH", "LO"): [(1, 1, 0)],  # so spelt for some subjects
}


def shown():
    """(session, run, picture) of every trial; each picture is shown in every run but one."""
    rng = np.random.default_rng(0)
    trials = []
    for session, n_runs in N_RUNS.items():
        for run in range(1, n_runs + 1):
            names = rng.choice(ALL, 37) if (session, run) != (3, 2) else [ALL[0]] * 37
            trials += [(session, run, str(name)) for name in names]
    return trials


def brain():
    mask = np.zeros(SHAPE, bool)
    mask[:, 1:] = True
    mask[0, 0, 0] = True
    return mask


def volumes(session):
    """(X, Y, Z, n_trials): session, trial and voxel in one number."""
    n_trials = 37 * N_RUNS[session]
    x, y, z, trial = np.meshgrid(*map(np.arange, (*SHAPE, n_trials)), indexing="ij")
    return (100 * session + trial + x / 10 + y / 100 + z / 1000).astype(np.float32)


def write_volume(path, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), path)


def write_lists(root):
    lists = root / "BOLD5000_Stimuli/Stimuli_Presentation_Lists/CSI4"
    seen = set()
    for session, run, _ in dict.fromkeys((s, r, None) for s, r, _ in shown()):
        folder = lists / f"CSI4_sess{session:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for s, r, name in shown() if (s, r) == (session, run)]
        lines = [f"rep_{name}" if name in seen else name for name in names]
        seen |= set(names)
        (folder / f"CSI_sess{session:02d}_run{run:02d}.txt").write_text("\n".join(lines) + "\n")


def write_rois(root, folder="derivatives/spm"):
    path = root / folder / "sub-CSI4"
    path.mkdir(parents=True)
    for (side, roi), voxels in ROI_VOXELS.items():
        mask = np.zeros(SHAPE, np.uint8)
        mask[tuple(np.transpose(voxels))] = 1
        write_volume(path / f"sub-CSI4_mask-{side}{roi}.nii.gz", mask)


@pytest.fixture
def root(tmp_path):
    presented = tmp_path / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli"
    for folder, names in PICTURES.items():
        (presented / folder).mkdir(parents=True)
        for name in names:
            picture = np.full((5, 5, 3), 10 + 40 * ALL.index(name), np.uint8)
            Image.fromarray(picture).save(presented / folder / name, format="PNG")
    repeated = presented.parent / "repeated_stimuli_113_list.txt"
    repeated.write_text("\n".join([*REPEATED, "COCO_train2014_never_shown.jpg"]) + "\n")
    names = "\n".join(name for _, _, name in shown())
    (tmp_path / "CSI4_imgnames.txt").write_text(names + "\n")
    write_volume(tmp_path / "CSI4_brainmask.nii.gz", brain().astype(np.uint8))
    for session in N_RUNS:
        name = f"CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{session:02d}.nii.gz"
        write_volume(tmp_path / name, volumes(session), np.eye(4))
    return tmp_path


def expected_trials():
    """By picture: (session, run, trial in the session) in the order of presentation."""
    found, count = {name: [] for name in ALL}, dict.fromkeys(N_RUNS, 0)
    for session, run, name in shown():
        found[name].append((session, run, count[session]))
        count[session] += 1
    return found


def test_every_trial_is_at_its_picture(root):
    data = load_bold5000(root, 4)
    inside = brain()
    for name, places in expected_trials().items():
        image = data.trials.loc[data.trials["stimulus"] == name, "image"].unique()
        assert len(image) == 1
        assert data.images[image[0]][0, 0, 0] == 10 + 40 * ALL.index(name)
        betas = data.betas[image[0], : len(places)]
        expected = [volumes(session)[..., trial][inside] for session, _, trial in places]
        np.testing.assert_array_equal(betas, expected)
        assert np.isnan(data.betas[image[0], len(places) :]).all()
        rows = data.trials[data.trials["image"] == image[0]]
        listed = rows[["session", "run", "trial"]].itertuples(index=False, name=None)
        assert list(listed) == places
    assert data.units == "percent signal change"


def test_voxels_are_on_the_grid_of_the_brain_mask(root):
    data = load_bold5000(root, 4)
    np.testing.assert_array_equal(data.voxels[["i", "j", "k"]], np.argwhere(brain()))
    np.testing.assert_array_equal(data.volume.affine, AFFINE)
    assert data.atlases == []


@pytest.mark.parametrize("folder", ["", "spm", "derivatives/spm"])
def test_rois_have_hemispheres_and_their_usual_names(root, folder):
    (root / "sub-CSI4").mkdir()  # an empty folder hides nothing
    if not folder:
        (root / "sub-CSI4").rmdir()
    write_rois(root, folder)
    data = load_bold5000(root, 4)
    assert data.atlases == ["LOC", "PPA"]
    of_ppa = data.voxels[data.voxels["PPA"]]
    assert set(of_ppa[["i", "j", "k"]].itertuples(index=False, name=None)) == {
        (0, 0, 0), (0, 1, 1), (3, 2, 1),
    }  # fmt: skip
    assert of_ppa["hemisphere"].tolist() == ["lh", "lh", "rh"]
    some = load_bold5000(root, 4, rois="PPA")
    np.testing.assert_array_equal(some.betas, data.select(roi="PPA").betas)
    with pytest.raises(ValueError, match=r"no ROI \['OPA'\] here; there are \['LOC', 'PPA'\]"):
        load_bold5000(root, 4, rois=["OPA"])


def test_the_repeated_pictures_are_for_testing(root):
    data = load_bold5000(root, 4)
    _, test = data.train_test(published_test_mask(data))
    assert set(test.trials["stimulus"]) == set(REPEATED)
    kinds = data.trials.groupby("stimulus")["category"].unique()
    for kind, names in PICTURES.items():
        assert all(kinds[name].tolist() == [kind] for name in names)
    (root / "BOLD5000_Stimuli/Scene_Stimuli/repeated_stimuli_113_list.txt").unlink()
    with pytest.raises(ValueError, match="no column 'split'"):
        published_test_mask(load_bold5000(root, 4))


def test_lists_of_the_runs_give_the_same_trials(root):
    expected = load_bold5000(root, 4)
    write_lists(root)
    both = load_bold5000(root, 4)
    (root / "CSI4_imgnames.txt").unlink()
    lists = load_bold5000(root, 4)
    for data in (both, lists):
        assert data.trials.equals(expected.trials)
        np.testing.assert_array_equal(data.betas, expected.betas)


def test_two_lists_that_differ_are_refused(root):
    write_lists(root)
    names = (root / "CSI4_imgnames.txt").read_text().splitlines()
    (root / "CSI4_imgnames.txt").write_text("\n".join([names[-1], *names[:-1]]))
    with pytest.raises(ValueError, match=r"CSI4_imgnames\.txt lists 518 trials .* trials differ"):
        load_bold5000(root, 4)


def test_arrays_of_rois(root):
    folder = root / "BOLD5000_GLMsingle_ROI_betas/py"
    folder.mkdir(parents=True)
    n_trials = len(shown())
    arrays = {
        "LHPPA": np.arange(n_trials)[:, None] + np.array([0.1, 0.2]),
        "RHPPA": np.arange(n_trials)[:, None] + np.array([0.3]),
        "LHRSC": np.arange(n_trials)[:, None] + np.array([0.4]),
    }
    for name, array in arrays.items():
        np.save(folder / f"CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{name}.npy", array)
    with pytest.raises(FileNotFoundError, match="needs the folder Stimuli_Presentation_Lists"):
        load_bold5000(root, 4, form="rois")
    write_lists(root)
    data = load_bold5000(root, 4, form="rois")
    assert data.voxels["roi"].tolist() == ["PPA", "PPA", "PPA", "RSC"]
    assert data.voxels["hemisphere"].tolist() == ["lh", "lh", "rh", "lh"]
    first = {name: [i for i, t in enumerate(shown()) if t[2] == name] for name in ALL}
    for name, rows in first.items():
        image = data.trials.loc[data.trials["stimulus"] == name, "image"].iloc[0]
        expected = np.array(rows)[:, None] + [0.1, 0.2, 0.3, 0.4]
        np.testing.assert_allclose(data.betas[image, : len(rows)], expected, rtol=1e-6)
    some = load_bold5000(root, 4, form="rois", rois="RSC")
    np.testing.assert_array_equal(some.betas, data.betas[:, :, 3:])
    with pytest.raises(ValueError, match=r"no ROI \['OPA'\] here"):
        load_bold5000(root, 4, form="rois", rois="OPA")
    np.save(folder / "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHLOC.npy", np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"must be \(n_trials, n_voxels\) of one length"):
        load_bold5000(root, 4, form="rois")


def test_a_saved_folder_is_the_same(root, tmp_path):
    data = load_bold5000(root, 4)
    loaded = EncodingData.load(data.save(tmp_path / "csi4.brain"))
    np.testing.assert_array_equal(loaded.betas, data.betas)
    assert loaded.trials.equals(data.trials)
    np.testing.assert_array_equal(loaded.images, data.images)


def test_what_is_missing_is_listed(root):
    (root / "CSI4_brainmask.nii.gz").unlink()
    (root / "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-07.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="2 files of BOLD5000 CSI4") as error:
        load_bold5000(root, 4)
    assert "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-07.nii.gz" in str(error.value)
    assert "figshare.com/articles/dataset/BOLD5000_Release_2_0/14456124" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"CSI1_imgnames\.txt"):
        load_bold5000(root, 1)
    write_lists(root)
    with pytest.raises(FileNotFoundError, match=r"allses_LHEarlyVis\.npy"):
        load_bold5000(root, 4, form="rois")


def test_a_picture_that_is_missing_is_named(root):
    (root / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli/Scene/airport1.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 pictures shown are not under .* airport1"):
        load_bold5000(root, 4)


def test_files_that_do_not_belong_together_are_refused(root):
    path = root / "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-02.nii.gz"
    write_volume(path, volumes(2)[..., :-1])
    with pytest.raises(ValueError, match=r"lists 518 trials, but the 9 sessions have 517"):
        load_bold5000(root, 4)
    write_lists(root)
    with pytest.raises(ValueError, match=r"ses-02\.nii\.gz has 36 volumes, but 37 trials"):
        load_bold5000(root, 4)
    write_volume(path, volumes(2)[:3])
    with pytest.raises(ValueError, match=r"ses-02\.nii\.gz is \(3, 3, 2\), but the mask is"):
        load_bold5000(root, 4)
    write_volume(path, volumes(2)[..., 0])
    with pytest.raises(ValueError, match=r"ses-02\.nii\.gz is \(4, 3, 2\), but betas are"):
        load_bold5000(root, 4)
    write_volume(path, volumes(2))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"ses-02\.nii\.gz cannot be read"):
        load_bold5000(root, 4)


def test_arguments_that_are_refused(root):
    with pytest.raises(ValueError, match="subject=0 must be one of 1 … 4"):
        load_bold5000(root, 0)
    with pytest.raises(ValueError, match="form='surface' must be"):
        load_bold5000(root, 4, form="surface")
    with pytest.raises(FileNotFoundError, match=r"rois='PPA': no .*sub-CSI4_mask-LHPPA"):
        load_bold5000(root, 4, rois="PPA")
