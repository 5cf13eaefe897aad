"""Data sets and features of the comparison of encoders."""

import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

import brainenc

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import compare_encoders
from comparison import SESSIONS, Subject, averages, with_features

RNG = np.random.default_rng(0)


def test_rows_of_a_session_are_the_photographs_of_their_numbers(tmp_path):
    (tmp_path / "session" / "images").mkdir(parents=True)
    greys = RNG.permutation(12)
    for i, grey in enumerate(greys):  # without leading zeros, so that image10 comes before image2
        picture = Image.new("RGB", (8, 8), (20 * int(grey),) * 3)
        picture.save(tmp_path / "session" / "images" / f"image{i + 1}.png")
    np.save(tmp_path / "session" / "responses.npy", np.stack([greys, -greys], 1) * 1.5)
    subject = averages("session", "a session", None)(tmp_path)
    np.testing.assert_array_equal(subject.data.betas[:, 0, 0], 1.5 * greys)
    np.testing.assert_array_equal(np.asarray(subject.data.images)[:, 0, 0, 0], 20 * greys)
    assert (subject.data.n_images, subject.data.n_voxels) == (12, 2)


@pytest.mark.parametrize("name", list(SESSIONS))
def test_sessions_of_the_measured_data(name, real_data):
    session = name.removeprefix("v4-")
    folder = real_data(f"cowley2023_v4_{session}").parent
    subject = SESSIONS[name](folder)
    assert subject.data.n_images == 1200
    path = folder / f"cowley2023_v4_{session}" / "images" / "image0345.jpg"
    np.testing.assert_array_equal(subject.data.images[344], np.asarray(Image.open(path)))


def test_named_features_are_those_of_the_images(tmp_path):
    images = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    data = brainenc.EncodingData(images, RNG.standard_normal((3, 2, 4)))
    subject = Subject("pictures", data, brainenc.PixelFeatures())
    assert with_features(subject, None) is subject
    named = with_features(subject, "efficientnet-lite0:block2:avg", tmp_path)
    assert named.title == "pictures, efficientnet-lite0:block2:avg"
    right = brainenc.EfficientNetLiteFeatures("block2", "avg", verbose=False).transform(images)
    np.testing.assert_array_equal(named.features.transform(images), right)
    assert len(list(tmp_path.rglob("*.npy"))) == 3


def test_encoders_get_the_spaces_of_their_rows():
    data = brainenc.datasets.simulate_subject(40, 10, random_state=0, verbose=False)
    given = ["--encoders", "ridge", "banded ridge", "--features", "pixels", "--draws", "4"]
    arguments = compare_encoders.parse_arguments(given)
    subject = Subject("s", data, data.truth.tokens)
    spaces = compare_encoders.spaces_of(subject, arguments.features, None)
    wanted = arguments.encoders
    result = compare_encoders.compare(subject, spaces, wanted, arguments)
    assert list(result.encoders["encoder"]) == ["mean", "ridge", "banded ridge"]
    pixels = brainenc.PixelFeatures(verbose=False).transform(data.images)
    direct = brainenc.benchmark(
        data, {"ridge": brainenc.RidgeEncoder()}, features=pixels, references=False, cv=5,
        n_permutations=1, n_draws=0, verbose=False,
    )  # fmt: skip
    r = result.encoders.set_index("encoder")["r"]
    assert r["ridge"] == pytest.approx(direct.encoders["r"].iloc[0], abs=1e-5)
    first = compare_encoders.compare(subject, spaces, wanted, arguments, first_fold=True)
    assert list(first.encoders["encoder"]) == ["ridge", "banded ridge"]
    maps = result.voxels.query("encoder == 'ridge' and fold == 0")["r"]
    alone = first.voxels.query("encoder == 'ridge'")["r"]
    np.testing.assert_allclose(alone, maps, atol=1e-6)


def test_rows_of_several_spaces():
    """LatentEncoder of all spaces and of the last; ridge of each; banded ridge last, of all."""
    rng = np.random.default_rng(0)
    spaces = {"a": rng.standard_normal((120, 6)), "b": rng.standard_normal((120, 4, 3))}
    rows = compare_encoders.make_rows(spaces, list(compare_encoders.ENCODERS))
    names = list(rows.encoders)
    assert names[-3:] == ["ridge (a)", "ridge (b)", "banded ridge"]
    assert [name for name in names if "kernel" in name] == [
        f"kernel ridge ({seen})" for seen in ("all", "a", "b")
    ]
    assert rows.features["ridge (a)"] is spaces["a"]
    assert rows.features["SynBrain (b)"] is spaces["b"]
    joined = np.concatenate([spaces["a"], spaces["b"].reshape(120, 12)], axis=1)
    for name in ("LatentEncoder (all)", "banded ridge", "stacked (all)", "kernel ridge (all)"):
        np.testing.assert_array_equal(rows.features[name], joined)
    assert rows.encoders["LatentEncoder (all)"].bands == {"a": [6], "b": [4, 3]}
    assert rows.encoders["Mind Reader (b)"].blend == "auto"
    assert rows.encoders["Mind Reader, network alone (b)"].blend is None
    betas = rng.standard_normal((120, 5)).astype(np.float32)
    stacked = rows.encoders["stacked (all)"].fit(joined, betas)
    ridge = brainenc.RidgeEncoder(None).fit(spaces["b"], betas)
    np.testing.assert_allclose(
        stacked.encoders_["ridge, b"].predict(spaces["b"]), ridge.predict(spaces["b"]), atol=1e-5
    )
