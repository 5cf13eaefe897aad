"""Outputs of GLMsingle of every type and format, written as its own code writes them."""

import dataclasses
import re
import textwrap

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from own_data import (
    AFFINE,
    N_IMAGES,
    NAMES,
    SHAPE,
    OwnData,
    assert_is_own,
    make_own_data,
    trial_table,
)

from brainenc.datasets import load_glmsingle

STEMS = {
    "A": "TYPEA_ONOFF", "B": "TYPEB_FITHRF", "C": "TYPEC_FITHRF_GLMDENOISE",
    "D": "TYPED_FITHRF_GLMDENOISE_RR",
}  # fmt: skip


@pytest.fixture
def own():
    return make_own_data()


def output_of(own: OwnData, kind: str = "D", *, flat: bool = False) -> dict:
    """Dict that GLMsingle saves for a model type; flat, as of data (units, time)."""
    rng = np.random.default_rng(5)
    maps = {
        "R2": rng.uniform(0, 100, SHAPE),
        "meanvol": rng.uniform(500, 900, SHAPE).astype(np.float32),
        "noiseceiling": rng.uniform(0, 80, SHAPE),
        "R2run": rng.uniform(0, 100, (*SHAPE, 3)),
    }
    if kind != "A":
        maps["HRFindex"] = rng.integers(0, 20, SHAPE).astype(float)
    if kind == "D":
        maps["FRACvalue"] = rng.choice([0.05, 0.5, 1.0], SHAPE)
    betas = own.betas
    if flat:
        maps = {name: values[own.mask] for name, values in maps.items()}
        maps = {name: v.reshape(len(v), 1, 1, *v.shape[1:]) for name, v in maps.items()}
        betas = own.betas[own.mask][:, None, None]
    others = {"pcnum": 3, "noisepool": None, "pcregressors": [np.ones((4, 2)), np.ones((5, 2))]}
    if kind == "A":  # its betas have no axis of trials
        return {"betasmd": betas[..., 0], **maps}
    return {"betasmd": betas, **maps, **others}


def write(content: dict, path):
    """As GLMsingle does: np.save, or HDF5 with Empty for None."""
    if path.suffix == ".npy":
        np.save(path, content)
        return path
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if isinstance(value, list):
                group = file.create_group(key)
                for i, one in enumerate(value):
                    group[str(i)] = one
            else:
                file[key] = h5py.Empty("f") if value is None else value
    return path


def write_mat(content: dict, path):
    """As MATLAB saves with -v7.3: reversed axes, classes as attributes, modelmd for betasmd."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in content.items():
            if isinstance(value, np.ndarray):
                stored = value.T if value.ndim > 1 else value
                name = "modelmd" if key == "betasmd" else key
                file.create_dataset(name, data=stored).attrs["MATLAB_class"] = np.bytes_("double")
    return path


# ------------------------------------------------------------------ formats and types


@pytest.mark.parametrize("kind", ["B", "C", "D"])
@pytest.mark.parametrize("ending", [".npy", ".hdf5", ".mat"])
@pytest.mark.parametrize("flat", [False, True], ids=["volume", "flat"])
def test_every_type_and_format_is_the_experiment(own, tmp_path, kind, ending, flat):
    content = output_of(own, kind, flat=flat and ending != ".mat")
    path = tmp_path / f"{STEMS[kind]}{ending}"
    if ending == ".mat" and flat:
        content = output_of(own, kind)
        order = own.mask.ravel(order="F")  # MATLAB's volume(mask)
        for key in ("betasmd", *(k for k in content if getattr(content[k], "shape", ()) == SHAPE)):
            values = content[key]
            rows = values.reshape(-1, *values.shape[3:], order="F")[order]
            content[key] = rows.reshape(len(rows), 1, 1, *rows.shape[1:])
    (write_mat if ending == ".mat" else write)(content, path)
    mask = own.nifti(own.mask, tmp_path / "mask.nii.gz")
    atlas = own.nifti(own.codes, tmp_path / "visual.nii.gz")
    for source in (path, tmp_path):
        data = load_glmsingle(
            source, trial_table(own), own.pictures, mask, atlases={"visual": atlas}, labels=NAMES
        )
        assert_is_own(data, own)
    assert data.voxels["visual"].fillna("").tolist() == own.labels()
    assert data.units == "percent signal change"
    np.testing.assert_allclose(data.volume.affine, AFFINE)
    trials = data.trials.sort_values("trial")
    assert trials["run"].tolist() == [1] * 8 + [2] * 8 + [3] * 8
    expected = output_of(own, kind)
    columns = {"noiseceiling": "glmsingle_noise_ceiling", "R2": "glmsingle_R2",
               "HRFindex": "glmsingle_HRFindex", "meanvol": "glmsingle_meanvol"}  # fmt: skip
    if kind == "D":
        columns["FRACvalue"] = "glmsingle_FRACvalue"
    for key, name in columns.items():
        found = expected[key][own.mask].astype(np.float32)
        np.testing.assert_array_equal(data.voxels[name], found, err_msg=key)
    assert data.atlases == ["visual"]  # whole numbers of GLMsingle are no codes


def test_the_last_type_of_a_folder_is_taken_unless_one_is_named(own, tmp_path):
    for kind in "ABCD":
        content = output_of(dataclasses.replace(own, betas=own.betas + ord(kind)), kind)
        write(content, tmp_path / f"{STEMS[kind]}.npy")
    args = (trial_table(own), own.pictures, own.mask)
    for kind in ("B", "C", "D", None):
        data = load_glmsingle(tmp_path, *args, kind=kind)
        np.testing.assert_allclose(data.betas, own.expected() + ord(kind or "D"), rtol=1e-6)


def test_results_in_memory_are_taken(own):
    results = {"typea": output_of(own, "A"), "typed": output_of(own)}
    for path in (results, results["typed"]):
        assert_is_own(load_glmsingle(path, own.ids, own.pictures, own.mask), own)
    with pytest.raises(ValueError, match=r"of type A \(ONOFF\)"):
        load_glmsingle({"typea": results["typea"]}, own.ids, own.pictures, own.mask)


def test_its_noise_ceiling_is_not_taken_for_ours(own, tmp_path):
    path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
    with_it = load_glmsingle(path, own.ids, own.pictures, own.mask)
    content = {k: v for k, v in output_of(own).items() if k != "noiseceiling"}
    without = load_glmsingle(write(content, path), own.ids, own.pictures, own.mask)
    assert "glmsingle_noise_ceiling" not in without.voxels
    np.testing.assert_array_equal(with_it.noise_ceiling().values, without.noise_ceiling().values)


def test_sessions_are_outputs_one_after_the_other(own, tmp_path):
    paths = []
    for i, betas in enumerate(np.split(own.betas, [10], axis=3)):
        (tmp_path / str(i)).mkdir()
        part = dataclasses.replace(own, betas=betas)
        paths.append(write(output_of(part), tmp_path / str(i) / f"{STEMS['D']}.hdf5"))
    data = load_glmsingle(paths, own.ids, own.pictures, own.mask)
    assert_is_own(data, own)
    assert data.trials.sort_values("trial")["session"].tolist() == [1] * 10 + [2] * 14
    assert {"glmsingle_R2_1", "glmsingle_R2_2"} <= set(data.voxels)
    assert data.atlases == []


def test_hemispheres_are_surfaces(own, tmp_path):
    rng = np.random.default_rng(0)
    values = {side: rng.standard_normal((n, 1, 1, 24)) for side, n in (("lh", 7), ("rh", 5))}
    paths = {
        side: write({"betasmd": one}, tmp_path / f"{side}.npy") for side, one in values.items()
    }
    paths["rh"] = write_mat({"betasmd": values["rh"]}, tmp_path / "rh.mat")
    data = load_glmsingle(paths, own.ids, own.pictures, None)
    trial = own.ids.index("picture_3")
    found = np.concatenate([values["lh"], values["rh"]])[:, 0, 0, trial].astype(np.float32)
    np.testing.assert_array_equal(data.betas[3, 0], found)
    assert data.voxels["vertex"].tolist() == [*range(7), *range(5)]


# ------------------------------------------------------------------ trials and pictures


def test_trials_are_tables_of_every_kind(own, tmp_path):
    path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
    folder = own.write_pictures(tmp_path / "stimuli")
    table = trial_table(own, ".png").rename(columns={"image": "stim_file"})
    table = table.assign(onset=np.arange(24) * 4.0, response=list("abcd") * 6)
    table.to_csv(tmp_path / "trials.tsv", sep="\t", index=False)
    files = []
    for run, rows in table.groupby("run"):
        blank = pd.DataFrame({"onset": [99.0], "stim_file": ["n/a"]})
        file = tmp_path / f"sub-01_ses-02_task-view_run-{run}_events.tsv"
        pd.concat([rows.drop(columns="run"), blank]).to_csv(file, sep="\t", index=False)
        files.append(file)
    for trials in (table, tmp_path / "trials.tsv", str(tmp_path / "trials.tsv"),
                   [rows for _, rows in table.groupby("run")]):  # fmt: skip
        data = load_glmsingle(path, trials, folder, own.mask)
        assert_is_own(data, own)
        assert data.trials.sort_values("trial")["response"].tolist() == list("abcd") * 6
        assert data.trials.sort_values("trial")["run"].tolist() == [1] * 8 + [2] * 8 + [3] * 8
    with pytest.warns(UserWarning, match="3 of 27 rows of trials have no picture"):
        data = load_glmsingle(path, files, folder, own.mask)
    assert_is_own(data, own)
    assert data.trials.sort_values("trial")["run"].tolist() == [1] * 8 + [2] * 8 + [3] * 8
    assert set(data.trials["session"]) == {2}


def test_a_table_of_stimuli_and_its_pictures(own, tmp_path):
    path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
    folder = own.write_pictures(tmp_path / "files")
    files = [f"files/{name}.png" for name in own.names]
    table = pd.DataFrame({"file": files, "category": list("abcdabcd")})
    table.to_csv(tmp_path / "stimuli.tsv", sep="\t", index=False)
    for stimuli, images in (
        (tmp_path / "stimuli.tsv", None),
        (table, folder),
        (table.sample(frac=1, random_state=1).reset_index(drop=True), folder),
    ):
        data = load_glmsingle(path, own.ids, stimuli, own.mask, images=images)
        assert_is_own(data, own)
        assert data.stimuli["category"].tolist() == list("abcdabcd")


def design_of(own):
    runs = np.split(own.shown, 3)
    return {"stimorder": own.shown.tolist(), "numtrialrun": [len(run) for run in runs],
            "params": {"wantpercentbold": 1, "hrflibrary": np.ones((4, 20))},
            "design": [np.zeros((10, N_IMAGES)) for _ in runs]}  # fmt: skip


@pytest.mark.parametrize("matlab", [False, True])
def test_the_design_beside_the_betas_gives_conditions_and_runs(own, tmp_path, matlab):
    if matlab:
        path = write_mat(output_of(own), tmp_path / f"{STEMS['D']}.mat")
        with h5py.File(tmp_path / "DESIGNINFO.mat", "w") as file:
            file["stimorder"] = own.shown[:, None] + 1.0
            file["numtrialrun"] = np.full((3, 1), 8.0)
    else:
        path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
        np.save(tmp_path / "DESIGNINFO.npy", design_of(own))
    data = load_glmsingle(path, None, own.pictures, own.mask)
    assert_is_own(data, own)
    assert data.trials.sort_values("trial")["run"].tolist() == [1] * 8 + [2] * 8 + [3] * 8
    assert_is_own(load_glmsingle(path, own.ids, own.pictures, own.mask), own)
    # A table in another order than the betas is found by it.
    with pytest.warns(UserWarning, match=r"of 8 pictures are of several conditions in DESIGNINFO"):
        load_glmsingle(path, own.ids[::-1], own.pictures, own.mask)


def test_a_design_of_categories_is_no_contradiction(own, tmp_path):
    path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
    design = {**design_of(own), "stimorder": (own.shown // 4).tolist()}
    np.save(tmp_path / "DESIGNINFO.npy", design)
    assert_is_own(load_glmsingle(path, own.ids, own.pictures, own.mask), own)


def test_units_are_those_that_glmsingle_was_asked_for(own, tmp_path):
    path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
    np.save(tmp_path / "DESIGNINFO.npy", {**design_of(own), "params": {"wantpercentbold": 0}})
    assert load_glmsingle(path, own.ids, own.pictures, own.mask).units == ""
    assert load_glmsingle(path, own.ids, own.pictures, own.mask, units="a.u.").units == "a.u."


# ------------------------------------------------------------------ bad input


def refused(match, path, own, trials=None, error=ValueError, mask=None, **options):
    trials = own.ids if trials is None else trials
    mask = own.mask if mask is None else mask
    with pytest.raises(error, match=match) as caught:
        load_glmsingle(path, trials, own.pictures, mask, **options)
    assert "\n" not in str(caught.value)


def test_type_a_has_no_betas_of_trials(own, tmp_path):
    path = write(output_of(own, "A"), tmp_path / f"{STEMS['A']}.npy")
    refused(r"TYPEA_ONOFF.npy is of type A \(ONOFF\).*no betas of trials.*TYPED", path, own)
    refused("of type A", tmp_path, own)
    write(output_of(own, "A"), tmp_path / "mine.hdf5")
    refused(r"shape \(5, 4, 6\), and no axis of trials.*type A", tmp_path / "mine.hdf5", own)
    refused("kind='X' must be 'B', 'C' or 'D'", tmp_path, own, kind="X")
    refused("holds no TYPEB_FITHRF", tmp_path, own, kind="B", error=FileNotFoundError)


def test_what_does_not_fit_is_said(own, tmp_path):
    path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
    short = pd.DataFrame({"image": own.ids[1:]})
    refused("trials has 23 rows.*betas of 24 trials", path, own, short)
    refused("none that names the picture", path, own, pd.DataFrame({"what": own.ids}))
    refused("has no column 'stim'", path, own, trial_table(own), image_column="stim")
    refused(r"shape \(5, 4, 6, 24\), but the mask has \(4, 4, 6\)", path, own, mask=own.mask[:4])
    refused("there is no file or folder", tmp_path / "absent", own, error=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused("holds no output of GLMsingle", tmp_path / "empty", own, error=FileNotFoundError)
    write({"R2": np.ones(SHAPE)}, tmp_path / "mine.npy")
    refused(r"mine.npy has no betasmd; it has \['R2'\]", tmp_path / "mine.npy", own)
    write({"R2": np.ones(SHAPE)}, tmp_path / "mine.hdf5")
    refused(r"has no betasmd or modelmd; it has \['R2'\]", tmp_path / "mine.hdf5", own)
    with pytest.raises(ValueError, match="trials is missing, and there is no DESIGNINFO"):
        load_glmsingle(path, None, own.pictures, own.mask)
    with pytest.raises(ValueError, match="mask is missing"):
        load_glmsingle(path, own.ids, own.pictures, None)


def test_code_in_a_file_is_not_run(own, tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = write({**output_of(own), "noisepool": Runs()}, tmp_path / f"{STEMS['D']}.npy")
    refused(r"TYPED_FITHRF_GLMDENOISE_RR.npy.*Python object.*open", path, own)
    assert not (tmp_path / "ran").exists()


def test_infinite_betas_of_voxels_without_signal_are_missing(own, tmp_path):
    i, j, k = np.argwhere(own.mask)[4]
    own.betas[i, j, k] = np.inf
    path = write(output_of(own), tmp_path / f"{STEMS['D']}.npy")
    with pytest.warns(UserWarning, match=r"1 of \d+ voxels of the mask have only NaN"):
        data = load_glmsingle(path, own.ids, own.pictures, own.mask)
    assert np.isnan(data.betas[..., 4]).all()
    assert np.isfinite(np.delete(data.betas, 4, axis=2)).all()


def test_a_truncated_file_is_named(own, tmp_path):
    for ending in (".npy", ".hdf5"):
        path = write(output_of(own), tmp_path / f"{STEMS['D']}{ending}")
        path.write_bytes(path.read_bytes()[:-2000])
        refused(f"TYPED_FITHRF_GLMDENOISE_RR{ending}", path, own)


# ------------------------------------------------------------------ the new user's job

PAGE = (REPOSITORY / "docs" / "howto_own_data.rst").read_text(encoding="utf-8")
#: First block of Python on the page about own data.
SCRIPT = textwrap.dedent(re.search(r"code-block:: python\n\n((?:   .*\n)+)", PAGE)[1])


def write_job(folder, n_images=240, n_repeats=3, n_voxels=300):
    """GLMsingle's output, trials, pictures, mask, atlas and labels of an experiment."""
    rng = np.random.default_rng(0)
    shape = (12, 11, 10)
    mask = np.zeros(shape, dtype=bool)
    mask.ravel()[rng.choice(mask.size, n_voxels, replace=False)] = True
    pictures = rng.integers(0, 256, (n_images, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    shown = rng.permutation(np.repeat(np.arange(n_images), n_repeats))
    grey = pictures[:, ::8, ::8].mean(axis=3).reshape(n_images, -1)
    signal = (grey - grey.mean(0)) / grey.std(0) @ rng.standard_normal((16, n_voxels)) / 4
    betas = np.zeros((*shape, len(shown)), dtype=np.float32)
    betas[mask] = signal[shown].T + rng.standard_normal((n_voxels, len(shown)))
    codes = np.where(mask, 1 + np.arange(mask.size).reshape(shape) % 3, 0)
    names = [f"p{i:03d}" for i in range(n_images)]
    own = OwnData(betas, mask, codes, names, dict(zip(names, pictures, strict=True)), shown)
    own.write_pictures(folder / "stimuli")
    trial_table(own, ".png").to_csv(folder / "trials.tsv", sep="\t", index=False)
    own.nifti(mask, folder / "mask.nii.gz")
    own.nifti(codes, folder / "visual.nii.gz")
    labels = "0 Unknown 0 0 0 0\n1 V1 0 0 0 0\n2 V2 0 0 0 0\n3 V3 0 0 0 0"
    (folder / "labels.ctab").write_text(labels)
    (folder / "glmsingle").mkdir()
    write({"betasmd": betas, "R2": np.ones(shape)}, folder / "glmsingle" / f"{STEMS['D']}.npy")
    return own


@pytest.mark.slow
def test_own_files_to_a_report_with_rois_and_a_map_in_eight_lines(tmp_path, monkeypatch):
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 8
    own = write_job(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(SCRIPT, "script.py", "exec"), names)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(roi in report for roi in ("V1", "V2", "V3"))
    rois = names["result"].rois
    assert set(rois["roi"]) >= {"V1", "V2", "V3"}
    values = nib.load(tmp_path / "r.nii.gz").get_fdata()
    assert np.isfinite(values).sum() == 300
    np.testing.assert_array_equal(np.isfinite(values), own.mask)
    # Gabor features hold what drives these voxels, and it is a mask in the right order.
    assert np.nanmean(values) > 0.3
