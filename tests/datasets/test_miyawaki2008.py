"""Miyawaki et al. 2008 from small files laid out as nilearn's fetcher lays them out."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import func as nilearn_func
from scipy.signal import detrend

from brainenc.datasets import load_miyawaki2008

SHAPE = (5, 4, 3)
LAG = 2
N_FIGURES, N_RANDOM = 12, 20


def design(kind, run, rng):
    """Patterns of each volume, (n_volumes, 10, 10), −1 at rest, and of each block."""
    n_volumes, n_blocks = (6, 4) if kind == "figure" else (3, 5)
    rest = np.full((2, 10, 10), -1)
    # Four figures, each in every run; random patterns come once.
    figures = (np.arange(100).reshape(10, 10) % np.arange(2, 6)[:, None, None] == 0).astype(int)
    blocks = figures[rng.permutation(4)]
    if kind == "random":
        blocks = rng.integers(0, 2, (n_blocks, 10, 10))
    volumes = [rest]
    for block in blocks:
        volumes += [np.repeat(block[None], n_volumes, axis=0), rest]
    volumes.append(rest)
    return np.concatenate(volumes), blocks


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Files under data_dir/miyawaki2008 and what is in them."""
    rng = np.random.default_rng(0)
    data_dir = tmp_path_factory.mktemp("nilearn")
    folder = data_dir / "miyawaki2008"
    for name in ("func", "label", "mask"):
        (folder / name).mkdir(parents=True)
    mask = rng.random(SHAPE) < 0.6
    save(folder / "mask/mask.nii.gz", mask)
    save(folder / "bg.nii.gz", mask)
    rois = {}
    for name in nilearn_func.miyawaki2008_file_mask()[1:]:
        rois[name] = rng.random(SHAPE) < 0.12
        save(folder / "mask" / name, rois[name])
    runs = []
    for kind, n_runs in (("figure", N_FIGURES), ("random", N_RANDOM)):
        for run in range(1, n_runs + 1):
            volumes, blocks = design(kind, run, rng)
            label = folder / f"label/data_{kind}_run{run:02d}_label.csv"
            # The files go through the squares column by column.
            by_column = volumes.transpose(0, 2, 1).reshape(len(volumes), 100)
            np.savetxt(label, by_column, fmt="%d", delimiter=",")
            series = rng.standard_normal((*SHAPE, len(volumes))).astype(np.float32)
            series += 100 + np.arange(len(volumes), dtype=np.float32) / 10  # a trend
            save(folder / f"func/data_{kind}_run{run:02d}.nii.gz", series)
            runs.append((kind, series, volumes, blocks))
    return data_dir, mask, rois, runs


def save(path, values):
    values = values.astype(np.float32 if values.dtype.kind == "f" else np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([3.0, 3, 3, 1])), path)


@pytest.fixture(scope="module")
def data(truth):
    return load_miyawaki2008(truth[0], verbose=False)


def expected_blocks(truth, wanted):
    """Slow oracle: per run detrend and z-score with SciPy, then average block by block."""
    _, mask, _, runs = truth
    for number, (kind, series, volumes, blocks) in enumerate(runs, start=1):
        if kind not in wanted:
            continue
        voxels = detrend(series[mask].astype(np.float64), axis=1).T
        voxels = (voxels - voxels.mean(axis=0)) / voxels.std(axis=0, ddof=1)
        n_volumes = 6 if kind == "figure" else 3
        for b, block in enumerate(blocks):
            start = 2 + b * (n_volumes + 2)
            assert (volumes[start : start + n_volumes] == block).all()
            yield number, block, voxels[start + LAG : start + LAG + n_volumes].mean(axis=0)


def test_every_block_is_at_its_image_and_repeat(truth, data):
    n_random = 5 * N_RANDOM
    assert data.images.shape == (4 + n_random, 10, 10)
    assert data.images.dtype == np.uint8
    assert data.betas.shape == (4 + n_random, N_FIGURES, int(truth[1].sum()))
    seen = {}
    for number, block, response in expected_blocks(truth, ("figure", "random")):
        (image,) = np.flatnonzero((data.images == 255 * block).all(axis=(1, 2)))
        repeat = seen[image] = seen.get(image, -1) + 1
        # Single precision in the files and in nilearn.
        np.testing.assert_allclose(data.betas[image, repeat], response, atol=2e-5)
        row = data.trials.query(f"image == {image} and repeat == {repeat}").iloc[0]
        assert row["run"] == number
        assert row["part"] == ("figures" if number <= N_FIGURES else "random")
    assert len(data.trials) == 4 * N_FIGURES + n_random
    assert np.isnan(data.betas[4:, 1:]).all()
    assert data.units == "z-scored within run"


def test_figures_are_upright(truth, data):
    figure = (np.arange(100).reshape(10, 10) % 4 == 0).astype(np.uint8)
    assert not (figure == figure.T).all()
    assert (data.images == 255 * figure).all(axis=(1, 2)).sum() == 1


@pytest.mark.parametrize(("part", "n_images", "n_runs"), [("figures", 4, 12), ("random", 100, 20)])
def test_parts(truth, data, part, n_images, n_runs):
    some = load_miyawaki2008(truth[0], part=part, verbose=False)
    assert some.n_images == n_images
    assert some.trials["run"].nunique() == n_runs
    assert set(some.trials["part"]) == {part}
    rows = slice(0, 4) if part == "figures" else slice(4, None)
    np.testing.assert_array_equal(some.betas, data.betas[rows, : some.n_repeats])
    np.testing.assert_array_equal(some.images, data.images[rows])


def test_voxels_have_places_areas_and_hemispheres(truth, data):
    _, mask, rois, _ = truth
    places = data.voxels[["i", "j", "k"]].to_numpy()
    np.testing.assert_array_equal(places, np.argwhere(mask))
    assert data.atlases == ["area", "eccentricity"]
    areas = ["V1v", "V1d", "V2v", "V2d", "VP", "V3", "V3A", "V4v"]
    bins = [f"lag{n}to{n + 1}" for n in range(11)]
    for voxel, place in enumerate(map(tuple, places)):
        in_rois = [
            (s, n) for s in ("LH", "RH") for n in areas + bins if rois[f"{s}{n}.nii.gz"][place]
        ]
        row = data.voxels.iloc[voxel]
        for column, names in (("area", areas), ("eccentricity", bins)):
            here = sorted({names.index(n) for _, n in in_rois if n in names})
            assert row[column] == (names[here[0]] if here else "")
        assert (row["hemisphere"] == "") == (not in_rois)
        if len({s for s, _ in in_rois}) == 1:
            assert row["hemisphere"] == in_rois[0][0].lower()
    np.testing.assert_array_equal(data.volume.affine, np.diag([3.0, 3, 3, 1]))


def test_larger_squares(truth):
    large = load_miyawaki2008(truth[0], part="figures", square_size=6, verbose=False)
    small = load_miyawaki2008(truth[0], part="figures", verbose=False)
    np.testing.assert_array_equal(large.images, np.kron(small.images, np.ones((1, 6, 6), np.uint8)))


def test_bad_arguments_and_files(truth, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="part='letters' must be"):
        load_miyawaki2008(truth[0], part="letters")
    files = nilearn_func.fetch_miyawaki2008(truth[0], verbose=0)
    short = pd.read_csv(files.label[0], header=None)[:-1]
    short.to_csv(tmp_path / "short.csv", header=False, index=False)
    files.label[0] = str(tmp_path / "short.csv")
    monkeypatch.setattr("nilearn.datasets.fetch_miyawaki2008", lambda *args, **kwargs: files)
    with pytest.raises(ValueError, match=r"run01.* has 36 volumes, but .*short\.csv 35 rows"):
        load_miyawaki2008(verbose=False)
