"""The command ``describe``."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import brainenc
from brainenc.cli import app
from brainenc.cli_describe import captions_by_image


def test_it_writes_what_the_function_gives(tmp_path):
    data = brainenc.datasets.simulate_subject(120, 12, 2, random_state=0)
    captions = data.truth.captions()
    train, test = data.select(images=np.arange(70)), data.select(images=np.arange(70, 120))
    gabor = brainenc.GaborPyramid(n_scales=2, verbose=False)
    encoder = brainenc.RidgeEncoder(gabor).fit(train.images, train.betas)
    encoder.save(tmp_path / "model")
    for name, part in {"train": train, "test": test}.items():
        part.save(tmp_path / f"{name}.brain")
    table = pd.DataFrame({"image": np.repeat(np.arange(50), 2), "caption": ""})
    table.loc[::2, "caption"] = captions[70:]
    table.loc[1::2, "caption"] = [f"also {caption}" for caption in captions[70:]]
    # In another order: the column says which image it is.
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "captions.csv", index=False)
    result = CliRunner().invoke(
        app,
        [
            *("describe", str(tmp_path / "model"), str(tmp_path / "test.brain")),
            *("--captions", str(tmp_path / "captions.csv"), "--train"),
            *(str(tmp_path / "train.brain"), "--out", str(tmp_path / "words")),
            *("--n-permutations", "20", "--n-top", "10", "--quiet"),
        ],
    )
    assert result.exit_code == 0, result.exception
    found = brainenc.Description.load(tmp_path / "words")
    expected = brainenc.describe(
        encoder, test.images, captions[70:], betas=test.betas, voxels=test.voxels,
        training=(train.images, train.betas), n_top=10, n_permutations=20,
    )  # fmt: skip
    pd.testing.assert_frame_equal(found.voxels, expected.voxels, check_dtype=False, atol=1e-5)
    assert "<svg" in (tmp_path / "words" / "words.html").read_text(encoding="utf-8") or (
        not expected.voxels["named"].any()
    )
    assert repr(expected).split(":")[0] in result.output


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"text": ["a", "b"]}, "no column 'caption'"),
        ({"caption": ["a"]}, "has 1 rows, but there are 2 images"),
        (
            {"caption": ["a", "b"], "image": [0, 2]},
            "image 2: positions are whole numbers from 0 to 1",
        ),
        ({"caption": ["a", "b"], "image": [0, 0.5]}, r"image 0\.5"),
        ({"caption": ["a", "b"], "image": [0, np.nan]}, "image nan"),
        ({"caption": ["a", "b"], "image": ["x.png", "y.png"]}, r"image x\.png"),
        ({"caption": ["a", None]}, "none for 1 of 2 images, such as image 1"),
    ],
)
def test_wrong_captions(table, message):
    with pytest.raises(ValueError, match=message):
        captions_by_image(pd.DataFrame(table), 2)
