"""Files with flipped bytes, cut short or in the place of others: the same numbers, or their name.

A small form for every kind of file that is read back. An error is a ValueError (or says which file
is missing), names the file or its folder, and comes within seconds.
"""

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from nsd_tree import NSDTree

import brainenc
from brainenc.benchmarking import BenchmarkResult
from brainenc.datasets import convert_nsd, load_nsd
from brainenc.features import FeatureExtractor
from brainenc.training.checkpoints import Checkpoints

FEW = {"cv": 2, "n_bootstraps": 3, "n_permutations": 3, "n_draws": 3, "verbose": False}


def damages(path, n, seed=0):
    """Changed contents of a file, written one after the other; the file is whole again after."""
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    try:
        for i in range(n):
            damaged = bytearray(whole)
            way = ("flip", "flip", "cut", "zero", "insert")[i % 5]
            place = int(rng.integers(len(whole)))
            if way == "flip":
                damaged[place] ^= 1 << int(rng.integers(8))
            elif way == "cut":
                del damaged[place:]
            elif way == "zero":
                damaged[place : place + 16] = bytes(len(damaged[place : place + 16]))
            else:
                damaged[place:place] = b"7"
            if damaged != whole:
                path.write_bytes(damaged)
                yield f"{way} at {place}"
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    return brainenc.EncodingData(images, rng.standard_normal((40, 2, 3)).astype(np.float32))


def ridge():
    return brainenc.RidgeEncoder(brainenc.PixelFeatures(4, verbose=False))


def test_models(data, tmp_path):
    encoder = ridge().fit(data.images, data.betas)
    folder = encoder.save(tmp_path / "model", voxels=pd.DataFrame({"roi": ["V1", "V2", None]}))
    truth, n_refused = encoder.predict(data.images), 0
    for path in folder.iterdir():
        for what in damages(path, 150):
            try:
                loaded = brainenc.load(folder)
            except ValueError as error:
                assert path.name in str(error) or str(folder) in str(error), what  # noqa: PT017
                n_refused += 1
            else:  # white space between values of JSON
                np.testing.assert_array_equal(loaded.predict(data.images), truth)
                assert loaded.voxels_["roi"].tolist()[:2] == ["V1", "V2"]
    assert n_refused > 200
    other = ridge().fit(data.images, data.betas + 1).save(tmp_path / "other")
    shutil.copy(other / "arrays.safetensors", folder)
    with pytest.raises(ValueError, match=r"arrays\.safetensors is damaged"):
        brainenc.load(folder)


class Halved(FeatureExtractor):
    def __init__(self, *, batch_size=8, store=None, verbose=False):
        self.batch_size, self.store, self.verbose = batch_size, store, verbose

    def _extract(self, batch):
        return batch.reshape(len(batch), -1) / 2.0


def test_stored_features(data, tmp_path):
    extractor = Halved(store=tmp_path)
    truth = extractor.transform(data.images)
    paths = sorted(tmp_path.rglob("*.npy"))
    for number, path in enumerate(paths[:8]):
        for what in damages(path, 25, seed=number):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = extractor.transform(data.images)
            np.testing.assert_array_equal(found, truth, err_msg=what)
            if what == f"cut at {128 + truth[0].nbytes}":  # the checksum alone is lost
                continue
            assert len(caught) == 1, what
            assert f"{path} is damaged and will be computed again" in str(caught[0].message)
    shutil.copy(paths[0], paths[1])
    with pytest.warns(RuntimeWarning, match="checksum is wrong"):
        np.testing.assert_array_equal(extractor.transform(data.images), truth)


def test_stored_features_of_earlier_versions_are_used(data, tmp_path):
    truth = Halved(store=tmp_path).transform(data.images)
    for path in tmp_path.rglob("*.npy"):
        np.save(path, np.load(path) + 1)  # a mark, and no checksum
    np.testing.assert_array_equal(Halved(store=tmp_path).transform(data.images), truth + 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_finished_pairs_and_tables_of_a_benchmark(data, tmp_path):
    run = {"encoders": {"ridge": ridge()}, "out": tmp_path / "run", "check": False, **FEW}
    truth = brainenc.benchmark(data, **run)
    files = sorted(path for path in (tmp_path / "run/pairs").rglob("*") if path.is_file())
    assert {path.suffix for path in files} == {".json", ".npy", ".npz"}
    for path in files:
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) * 2 // 3] ^= 16
        path.write_bytes(damaged)
        again = brainenc.benchmark(data, **run)
        for table in ("voxels", "draws", "calibration"):
            ours, theirs = (getattr(r, table) for r in (again, truth))
            pd.testing.assert_frame_equal(ours, theirs)
        assert path.stat().st_size == len(whole) or path.suffix == ".json"

    folder = truth.save(tmp_path / "tables")
    for path in sorted(folder.iterdir()):
        for what in damages(path, 12):
            try:
                loaded = BenchmarkResult.load(folder)
            except ValueError as error:
                assert str(path) in str(error), what  # noqa: PT017
            else:
                assert path.name == "manifest.json"
                assert loaded.manifest["data"] == truth.manifest["data"]
    table = folder / "encoders.csv"
    table.write_text(table.read_text().replace("ridge", "my ridge"))
    with pytest.raises(ValueError, match=r"encoders\.csv .* was changed.*verify=False"):
        BenchmarkResult.load(folder)
    assert "my ridge" in set(BenchmarkResult.load(folder, verify=False).encoders["encoder"])


def test_checkpoints_of_a_training(tmp_path):
    state = {"w": torch.arange(400.0), "step": 7}
    checkpoints = Checkpoints(tmp_path, {"a": 1})
    path = checkpoints.write(7, state)
    n_refused = 0
    for what in damages(path, 150):
        try:
            found = checkpoints.read()
        except ValueError as error:
            assert path.name in str(error), what  # noqa: PT017
            n_refused += 1
        else:  # dates and attributes of records of the archive
            assert torch.equal(found["w"], state["w"])
            assert found["step"] == 7
    assert n_refused > 120


@pytest.mark.parametrize("content", [{}, {"identity": {"a": 1}}, {"identity": 3, "state": {}}])
def test_checkpoints_that_lack_parts(tmp_path, content):
    checkpoints = Checkpoints(tmp_path, {"a": 1})
    path = checkpoints.write(7, {})
    torch.save({"format": torch.load(path)["format"], **content}, path)
    with pytest.raises(ValueError, match=r"step-000000007\.pt is damaged: it lacks"):
        checkpoints.read()


# ------------------------------------------------------------------ files of others


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return NSDTree(tmp_path_factory.mktemp("nsd"), sessions=[1]).write(nifti=True, surface=True)


FILES = {
    "nsd_expdesign.mat": {},
    "prf-visualrois.mgz.ctab": {},
    "nsdgeneral.nii.gz": {},
    "ncsnr.nii.gz": {},
    "lh.floc-faces.nii.gz": {},
    "betas_session01.hdf5": {"file_format": "hdf5"},
    "betas_session01.nii.gz": {"file_format": "nifti"},
    "lh.betas_session01.mgh": {"space": "fsaverage", "mask": "all"},
    "rh.ncsnr.mgh": {"space": "fsaverage", "mask": "all"},
    "lh.prf-visualrois.mgz": {"space": "fsaverage", "mask": "prf-visualrois"},
    "nsd_stimuli.hdf5": {},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_files_of_nsd(tree, name):
    """They have no checksums of ours; what cannot be read is named, and nothing else comes out."""
    options = {"units": "percent", "sessions": 1, "verbose": False, **FILES[name]}
    path = max(tree.root.rglob(name))  # in folders of the subject, where there are two
    n_refused = 0
    for what in damages(path, 15):
        try:
            np.asarray(load_nsd(tree.root, **options).images[:1])
        except (ValueError, TypeError) as error:
            parts = [path.name, path.name.removesuffix(".ctab"), "mask", "voxels", "volume"]
            assert any(part in str(error) for part in parts), (what, error)  # noqa: PT017
            n_refused += 1
    assert n_refused >= 2 or "stimuli" in name


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_record_of_a_conversion_is_written_again(tree, tmp_path, monkeypatch):
    options = {"units": "percent", "verbose": False}
    two = NSDTree(tmp_path / "nsd", sessions=[1, 2]).write()
    convert_nsd(two.root, tmp_path / "a.brain", sessions=[1, 2], **options)
    from brainenc.datasets import streaming as module

    write = module._write_part

    def stop_at_2(plan, session, *paths):
        if session == 2:
            raise KeyboardInterrupt
        write(plan, session, *paths)

    monkeypatch.setattr(module, "_write_part", stop_at_2)
    with pytest.raises(KeyboardInterrupt):
        convert_nsd(two.root, tmp_path / "b.brain", sessions=[1, 2], **options)
    monkeypatch.undo()
    record = tmp_path / ".b.brain.partial" / "session_01.npy"
    content = bytearray(record.read_bytes())
    content[140] ^= 1
    record.write_bytes(content)
    convert_nsd(two.root, tmp_path / "b.brain", sessions=[1, 2], **options)
    for path in (tmp_path / "a.brain").iterdir():
        assert path.read_bytes() == (tmp_path / "b.brain" / path.name).read_bytes()
