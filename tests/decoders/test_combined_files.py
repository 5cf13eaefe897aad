"""Combined decoders on disk: the same similarities, and refused weights."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import brainenc
from brainenc.decoders import CombinedDecoder, combine


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    image, caption = rng.standard_normal((2, 100, 5))
    code = rng.standard_normal((10, 20))
    betas = np.hstack([image, caption]) @ code + 2 * rng.standard_normal((100, 20))
    return betas, [image, caption]


@pytest.mark.parametrize(
    "decoders",
    [
        lambda: [brainenc.RidgeDecoder(), brainenc.RidgeDecoder(train_on="averages")],
        lambda: [brainenc.RidgeDecoder(), brainenc.EncoderDecoder(brainenc.RidgeEncoder())],
    ],
    ids=["ridge", "of an encoder"],
)
def test_a_loaded_one_gives_the_same_similarities(problem, decoders, tmp_path):
    betas, targets = problem
    combined = combine(decoders(), betas[:80], [part[:80] for part in targets])
    folder = combined.save(tmp_path / "both")
    loaded = brainenc.load(folder)
    assert isinstance(loaded, CombinedDecoder)
    np.testing.assert_array_equal(loaded.weights, combined.weights)
    some = [part[80:] for part in targets]
    for center in (True, False):
        found, expected = (
            d.similarity(betas[80:], some, center=center) for d in (loaded, combined)
        )
        np.testing.assert_array_equal(found, expected)


def test_it_replaces_a_former_model_and_nothing_else(problem, tmp_path):
    betas, targets = problem
    combined = combine([brainenc.RidgeDecoder()], betas, targets[:1])
    combined.save(tmp_path / "model")
    combined.save(tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no model"):
        combined.save(tmp_path / "other")


def test_changed_weights_are_noticed(problem, tmp_path):
    betas, targets = problem
    combined = combine([brainenc.RidgeDecoder(), brainenc.RidgeDecoder()], betas, targets)
    folder = combined.save(tmp_path / "model")
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace("CombinedDecoder", "CombinedDecoders", 1))
    with pytest.raises(ValueError, match="damaged"):
        brainenc.load(folder)


def test_an_unfitted_decoder_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        CombinedDecoder([brainenc.RidgeDecoder()], np.ones(1)).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]])
def test_weights_must_be_convex(weights):
    decoders = [brainenc.RidgeDecoder(), brainenc.RidgeDecoder()]
    with pytest.raises(ValueError, match="sum 1"):
        CombinedDecoder(decoders, np.array(weights))


def test_one_weight_for_each_decoder():
    with pytest.raises(ValueError, match="1 decoders and 2 weights"):
        CombinedDecoder([brainenc.RidgeDecoder()], np.array([0.5, 0.5]))
