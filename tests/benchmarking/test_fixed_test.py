"""Fixed test sets, the fold table, held-out predictions, and files that list test images."""

import numpy as np
import pytest
from PIL import Image

import brainenc
from brainenc.benchmarking import BenchmarkResult
from brainenc.benchmarking.fixed_test import read_test_set

FEW = {"n_bootstraps": 20, "n_permutations": 9, "n_draws": 0, "controls": False, "check": False}
FEW |= {"verbose": False}
RIDGE = {"ridge": brainenc.RidgeEncoder(brainenc.PixelFeatures(size=8, verbose=False))}


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(60, 12, random_state=0, verbose=False)


@pytest.fixture(scope="module")
def pictures(data, tmp_path_factory):
    """The same data with images in files, whose names are numbers in another order."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, image in enumerate(data.images):
        paths.append(folder / f"{(i + 7) % 60:02d}.png")
        Image.fromarray(image).save(paths[-1])
    return brainenc.EncodingData(paths, data.betas, data.voxels, data.trials)


def test_predictions_are_those_of_a_fit_to_all_other_images(data):
    test = np.array([3, 50, 17, 20])
    result = brainenc.benchmark(data, RIDGE, test=test, **FEW)
    rest = np.setdiff1d(np.arange(60), test)
    train = data.select(images=rest)
    fitted = RIDGE["ridge"].fit(train.images, train.betas)
    predicted = result.predictions("ridge")
    np.testing.assert_allclose(
        predicted[test], fitted.predict(data.images[test]), rtol=1e-4, atol=1e-5
    )
    assert np.isnan(predicted[rest]).all()
    assert result.folds.set_index("image").loc[test, "fold"].tolist() == [0, 0, 0, 0]
    assert result.folds["fold"].isna().sum() == 56
    assert result.manifest["settings"]["cv"] == "fixed test set"


def test_masks_positions_and_names_are_one_test_set(data, pictures):
    positions = [0, 5, 40]
    mask = np.isin(np.arange(60), positions)
    names = [f"{(i + 7) % 60:02d}.png" for i in positions]
    found = [
        brainenc.benchmark(pictures, RIDGE, test=test, **FEW).pairs
        for test in (positions, mask, names, [name.removesuffix(".png") for name in names])
    ]
    for other in found[1:]:
        assert other.equals(found[0])


def test_predictions_of_folds_are_in_the_order_of_the_images(data, tmp_path):
    kept = brainenc.benchmark(data, RIDGE, cv=3, **FEW)
    written = brainenc.benchmark(data, RIDGE, cv=3, out=tmp_path / "run", **FEW)
    assert kept.folds.equals(written.folds)
    for result in (written, BenchmarkResult.load(tmp_path / "run")):
        assert np.array_equal(result.predictions("ridge"), kept.predictions("ridge"))
        assert result.folds.equals(kept.folds)
    one = kept.predictions("ridge", fold=1)
    tested = kept.folds.query("fold == 1")["image"].to_numpy()
    assert np.isfinite(one).all(axis=1).nonzero()[0].tolist() == tested.tolist()
    X = brainenc.PixelFeatures(size=8, verbose=False).transform(data.images)
    rest = np.setdiff1d(np.arange(60), tested)
    fitted = brainenc.RidgeEncoder(features=None).fit(X[rest], data.betas[rest])
    np.testing.assert_allclose(one[tested], fitted.predict(X[tested]), rtol=1e-4, atol=1e-5)
    # A result without a folder takes its predictions along.
    assert np.array_equal(
        BenchmarkResult.load(kept.save(tmp_path / "saved")).predictions("ridge"),
        kept.predictions("ridge"),
    )
    # Copies of the tables alone have none, and say where they are.
    written.save(tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="in the folder of the run"):
        BenchmarkResult.load(tmp_path / "copy").predictions("ridge")
    with pytest.raises(ValueError, match=r"no predictions of 'rigde'; there are those of .*ridge"):
        kept.predictions("rigde")
    with pytest.raises(ValueError, match=r"fold=7 is no fold of this run, which has \[0, 1, 2\]"):
        kept.predictions("ridge", fold=7)


def test_an_image_with_several_predictions_has_none_of_its_own(data):
    first, second = np.arange(60) < 20, (np.arange(60) >= 10) & (np.arange(60) < 30)
    result = brainenc.benchmark(data, RIDGE, cv=[(~first, first), (~second, second)], **FEW)
    with pytest.raises(ValueError, match=r"several folds test an image.*give fold=, one of \[0, 1"):
        result.predictions("ridge")
    assert np.isfinite(result.predictions("ridge", fold=1)[10:30]).all()


def test_r2_is_among_the_pairs(data):
    result = brainenc.benchmark(data, RIDGE, cv=3, **FEW)
    row = result.pairs.query("metric == 'r2' and roi == 'all'").iloc[0]
    r2 = result.encoders.set_index("encoder")["r2"]
    assert row["difference"] == pytest.approx(r2[row["encoder_a"]] - r2[row["encoder_b"]])
    assert row["low"] < row["difference"] < row["high"]
    # The samples behind each interval, in the order of the table.
    assert result.pair_samples.shape == (len(result.pairs), 20)
    position = result.pairs.index.get_loc(row.name)
    low, high = np.percentile(result.pair_samples[position], [2.5, 97.5])
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"test": [0, 1], "cv": 3}, ValueError, "cv=3 makes folds: give one of the two"),
        ({"test": "list.txt"}, TypeError, r"test='list.txt' must be a mask, positions or a list"),
        ({"test": np.ones(60, bool)}, ValueError, "selects every image"),
        ({"test": [0, 0, 1]}, ValueError, "test"),
        ({"test": [0, 60]}, ValueError, "test"),
        ({"test": ["a.png"]}, ValueError, r"test are text.*an array without names"),
        ({"test": 20}, ValueError, r"test=20 must be a share"),
        ({"test": [4]}, ValueError, "scores take at least 2"),
    ],
)
def test_a_test_set_that_is_none_is_refused(data, arguments, error, message):
    with pytest.raises(error, match=message):
        brainenc.benchmark(data, RIDGE, **arguments, **FEW)


def test_files_list_names_positions_or_a_mask(data, pictures, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("07.png\n\n12.png\r\n", encoding="utf-8-sig")
    assert read_test_set(names, pictures).tolist() == ["07.png", "12.png"]
    numbers = tmp_path / "numbers.txt"
    numbers.write_text("3\n4\n")
    assert read_test_set(numbers, data).tolist() == [3, 4]
    # Numbers without a leading zero are names of no file.
    assert read_test_set(numbers, pictures).tolist() == [3, 4]
    both = tmp_path / "both.txt"
    both.write_text("13\n14\n")
    with pytest.raises(ValueError, match=r"names of image files, and positions of other images"):
        read_test_set(both, pictures)
    mask = tmp_path / "mask.npy"
    np.save(mask, np.arange(60) < 9)
    assert read_test_set(mask, data).sum() == 9
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        read_test_set(tmp_path / "empty.txt", data)
