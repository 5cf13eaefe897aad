"""Derivatives of BIDS with betas of trials: NiBetaSeries' and nilearn's layouts."""

import dataclasses
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from own_data import AFFINE, assert_is_own, make_own_data

from brainenc.datasets import load_bids

TYPES = ["face", "house"]


@pytest.fixture
def own():
    return make_own_data()


@dataclasses.dataclass
class Tree:
    """A data set with events, and betas of its runs below ``derivatives``."""

    root: object
    own: object
    runs: list

    @property
    def derivative(self):
        return self.root / "derivatives" / "nibetaseries"

    def stem(self, run):
        return f"sub-01_ses-02_task-view_run-{run}"

    @property
    def folder(self):
        return self.derivative / "sub-01" / "ses-02" / "func"


def tree_of(own, root):
    """Three runs of eight trials; of two types in turn, so that a picture has both."""
    tree = Tree(root, own, np.split(np.arange(24), 3))
    (root / "sub-01" / "ses-02" / "func").mkdir(parents=True)
    tree.folder.mkdir(parents=True)
    for run, trials in enumerate(tree.runs, start=1):
        events = pd.DataFrame(
            {
                "onset": np.arange(len(trials)) * 4.0,
                "trial_type": [TYPES[t % 2] for t in trials],
                "stim_file": [f"{own.ids[t]}.png" for t in trials],
                "rt": trials / 10,
            }
        )
        path = root / "sub-01" / "ses-02" / "func" / f"{tree.stem(run)}_events.tsv"
        events.to_csv(path, sep="\t", index=False)
    return tree


def write_series(tree, space="_space-T1w"):
    """As NiBetaSeries: one file per trial type, volumes in the order of the events."""
    own = tree.own
    for run, trials in enumerate(tree.runs, start=1):
        for i, kind in enumerate(TYPES):
            of_kind = [t for t in trials if t % 2 == i]
            name = f"{tree.stem(run)}{space}_desc-{kind}_betaseries.nii.gz"
            own.nifti(own.betas[..., of_kind], tree.folder / name)


def load(tree, own, tmp_path, **options):
    mask = own.nifti(own.mask, tmp_path / "mask.nii.gz")
    return load_bids(tree.derivative, "01", tmp_path / "stimuli", mask, **options)


def check(data, own):
    assert_is_own(data, own)  # repeats are in the order of presentation, not of the files
    trials = data.trials.sort_values("rt", ignore_index=True)
    assert trials["run"].tolist() == [1] * 8 + [2] * 8 + [3] * 8
    assert set(trials["session"]) == {2}
    np.testing.assert_allclose(trials["rt"], np.arange(24) / 10)
    assert trials["trial_type"].tolist() == [TYPES[t % 2] for t in range(24)]
    np.testing.assert_allclose(data.volume.affine, AFFINE)


def test_series_of_trial_types_are_put_in_the_order_of_presentation(own, tmp_path):
    tree = tree_of(own, tmp_path / "data")
    own.write_pictures(tmp_path / "stimuli")
    write_series(tree)
    check(load(tree, own, tmp_path), own)
    check(load(tree, own, tmp_path, events=tmp_path / "data", session="02", task="view"), own)
    assert load(tree, own, tmp_path, space="MNI152").volume.space == "MNI152"


def test_one_file_per_trial_is_found_by_its_name(own, tmp_path):
    tree = tree_of(own, tmp_path / "data")
    own.write_pictures(tmp_path / "stimuli")
    for first in (0, 1):
        for run, trials in enumerate(tree.runs, start=1):
            seen = dict.fromkeys(TYPES, first)
            for t in trials:
                kind = TYPES[t % 2]
                name = (
                    f"{tree.stem(run)}_contrast-{kind}{seen[kind]:03d}_stat-effect_statmap.nii.gz"
                )
                seen[kind] += 1
                own.nifti(own.betas[..., t], tree.folder / name)
                other = name.replace("stat-effect", "stat-z")
                own.nifti(own.betas[..., t] * 9, tree.folder / other)
        check(load(tree, own, tmp_path), own)
        for path in tree.folder.iterdir():
            path.unlink()


@pytest.mark.slow
def test_what_nilearn_itself_writes_is_read(own, tmp_path):
    from nilearn.glm import save_glm_to_bids
    from nilearn.glm.first_level import FirstLevelModel

    rng = np.random.default_rng(0)
    bold = tmp_path / "sub-01_ses-02_task-view_run-1_space-T1w_desc-preproc_bold.nii.gz"
    volumes = 100 + rng.standard_normal((5, 4, 6, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(volumes, AFFINE), bold)
    types = ["face", "house", "face", "house"]
    events = pd.DataFrame({"onset": [0.0, 18, 36, 54], "duration": 1.0, "trial_type": types})
    number = events.groupby("trial_type").cumcount()
    trials = [f"{kind}__{i:03d}" for kind, i in zip(types, number, strict=True)]
    mask = nib.Nifti1Image(np.ones((5, 4, 6), dtype=np.int16), AFFINE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn's, about so few volumes
        model = FirstLevelModel(t_r=2, mask_img=mask, minimize_memory=False)
        model.fit(bold, events=events.assign(trial_type=trials))
        out = tmp_path / "data" / "derivatives" / "nilearn"
        save_glm_to_bids(model, {name: name for name in trials}, out_dir=out)
        expected = [model.compute_contrast(name, output_type="effect_size") for name in trials]
    folder = tmp_path / "data" / "sub-01" / "ses-02" / "func"
    folder.mkdir(parents=True)
    events["stim_file"] = ["a.png", "b.png", "b.png", "a.png"]
    events.to_csv(folder / "sub-01_ses-02_task-view_run-1_events.tsv", sep="\t", index=False)
    images = {name: np.zeros((8, 8, 3), dtype=np.uint8) for name in ("a.png", "b.png")}
    data = load_bids(out, "sub-01", images, mask)
    found = np.array([image.get_fdata()[mask.get_fdata() > 0] for image in expected])
    np.testing.assert_allclose(data.betas[0], found[[0, 3]], rtol=1e-5)
    np.testing.assert_allclose(data.betas[1], found[[1, 2]], rtol=1e-5)


def test_pictures_are_those_of_the_data_set_by_default(own, tmp_path):
    tree = tree_of(own, tmp_path / "data")
    own.write_pictures(tmp_path / "data" / "stimuli")
    write_series(tree)
    mask = own.nifti(own.mask, tmp_path / "mask.nii.gz")
    check(load_bids(tree.derivative, "sub-01", None, mask), own)


# ------------------------------------------------------------------ bad input


def refused(match, tree, own, tmp_path, error=ValueError, **options):
    with pytest.raises(error, match=match) as caught:
        load(tree, own, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_ambiguous_is_said(own, tmp_path):
    tree = tree_of(own, tmp_path / "data")
    own.write_pictures(tmp_path / "stimuli")
    refused("sub-01 holds no betas of trials", tree, own, tmp_path, FileNotFoundError)
    write_series(tree)
    refused("no betas of task 'rest', but of", tree, own, tmp_path, task="rest")
    refused("no column 'picture'; it has", tree, own, tmp_path, image_column="picture")
    refused(r"no sub-01_ses-02_task-view_run-1_events.tsv in", tree, own, tmp_path,
            FileNotFoundError, events=tmp_path)  # fmt: skip
    write_series(tree, "_space-MNI152NLin2009cAsym")
    refused(r"betas of the spaces \['MNI.*in_space=", tree, own, tmp_path)
    check(load(tree, own, tmp_path, in_space="T1w"), own)


def test_another_number_of_volumes_than_events_is_said(own, tmp_path):
    tree = tree_of(own, tmp_path / "data")
    own.write_pictures(tmp_path / "stimuli")
    write_series(tree)
    name = f"{tree.stem(2)}_space-T1w_desc-face_betaseries.nii.gz"
    own.nifti(own.betas[..., :2], tree.folder / name)
    refused(f"{name} has 2 volumes, but its events.tsv has . events", tree, own, tmp_path)
    (tree.folder / name).rename(tree.folder / name.replace("face", "scene"))
    refused(r"trial type 'scene', but .*has \['face', 'house'\]", tree, own, tmp_path)


def test_events_without_betas_are_said(own, tmp_path):
    tree = tree_of(own, tmp_path / "data")
    own.write_pictures(tmp_path / "stimuli")
    write_series(tree)
    path = tmp_path / "data" / "sub-01" / "ses-02" / "func" / f"{tree.stem(1)}_events.tsv"
    events = pd.read_csv(path, sep="\t")
    blank = pd.DataFrame({"onset": [40.0], "trial_type": ["response"], "stim_file": ["n/a"]})
    pd.concat([events, blank]).to_csv(path, sep="\t", index=False, na_rep="n/a")
    with pytest.warns(
        UserWarning, match=r"1 of 9 events in .* have no betas \(trial types \['resp"
    ):
        check(load(tree, own, tmp_path), own)
