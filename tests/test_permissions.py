"""Files of every writer have the user's umask, and links are followed."""

import os
import stat

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.brain import to_nifti, to_surface
from brainenc.storage import write_json
from brainenc.training.checkpoints import Checkpoints

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")


@pytest.fixture
def mask(request):
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    voxels = pd.DataFrame({"i": range(3), "j": 0, "k": 0, "vertex": range(3), "hemisphere": "lh"})
    return brainenc.EncodingData(images, rng.standard_normal((40, 2, 3)), voxels)


def write_all(folder, data):
    """Everything that the package writes, of which a fit and a benchmark are the smallest."""
    features = brainenc.PixelFeatures(4, store=folder / "store", verbose=False)
    encoder = brainenc.RidgeEncoder(features).fit(data.images, data.betas)
    encoder.save(folder / "model")
    encoder.sample(data.images, n=2, random_state=0, out=folder / "draws.npy")
    features.transform(data.images, out=folder / "features.npy")
    data.save(folder / "data.brain")
    data.to_csv(np.zeros(3), folder / "maps.csv")
    to_nifti(np.zeros(3), data.voxels, path=folder / "map.nii.gz")
    to_surface(np.zeros(3), data.voxels, n_vertices=10, path=folder / "map.func.gii")
    write_json(folder / "notes.json", {})
    Checkpoints(folder / "checkpoints", {}).write(3, {})
    options = {"cv": 2, "n_bootstraps": 2, "n_permutations": 2, "n_draws": 2, "verbose": False}
    encoders = {"ridge": brainenc.RidgeEncoder(brainenc.PixelFeatures(4, verbose=False))}
    result = brainenc.benchmark(data, encoders, out=folder / "run", check=False, **options)
    result.save(folder / "again")
    result.to_html(folder / "report.html", surface="none")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], indirect=True)
def test_files_have_the_users_umask(mask, data, tmp_path):
    write_all(tmp_path / "out", data)
    paths = [path for path in (tmp_path / "out").rglob("*") if not path.is_symlink()]
    assert len({path.suffix for path in paths}) >= 9
    assert len(paths) > 60
    for path in paths:
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_links_are_followed_and_stay_links(data, tmp_path):
    features = brainenc.PixelFeatures(4, verbose=False)
    encoder = brainenc.RidgeEncoder(features).fit(data.images, data.betas)
    (tmp_path / "large").mkdir()
    writers = {
        "model": encoder.save,
        "data.brain": data.save,
        "draws.npy": lambda path: encoder.sample(data.images, n=2, random_state=0, out=path),
        "maps.csv": lambda path: data.to_csv(np.zeros(3), path),
        "map.nii": lambda path: to_nifti(np.zeros(3), data.voxels, path=path),
    }
    for name, write in writers.items():
        link = tmp_path / name
        write(tmp_path / "large" / name)
        link.symlink_to(tmp_path / "large" / name)
        before = (tmp_path / "large" / name).stat().st_mtime_ns
        write(link)
        assert link.is_symlink()
        assert (tmp_path / "large" / name).stat().st_mtime_ns > before
    assert {path.name for path in (tmp_path / "large").iterdir()} == set(writers)
    np.testing.assert_array_equal(
        brainenc.load(tmp_path / "model").predict(data.images), encoder.predict(data.images)
    )
