"""The contract of decoders, for all of them, and scikit-learn's checks."""

import json
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator

import brainenc
from brainenc.decoders import Decoder
from brainenc.encoders.saving import structure_checksum

DECODERS = {
    "ridge": lambda: brainenc.RidgeDecoder(n_test_repeats=2),
    "ridge on averages": lambda: brainenc.RidgeDecoder(train_on="averages"),
    "encoder": lambda: brainenc.EncoderDecoder(brainenc.RidgeEncoder()),
    "mind eye": lambda: brainenc.MindEyeDecoder(
        sizes={"width": 32}, n_epochs=5, learning_rate=1e-3, device="cpu"
    ),
    "mind reader": lambda: brainenc.MindReaderDecoder(device="cpu"),
}

#: scikit-learn checks that decoders fail on purpose.
EXPECTED_FAILURES = {
    "check_regressor_multioutput": "predictions are float32, as those of encoders are",
}


def scikit_learn_checks():
    for name, make in DECODERS.items():
        for estimator, check in estimator_checks_generator(make()):
            function = getattr(check, "func", check).__name__
            reason = EXPECTED_FAILURES.get(function)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            yield pytest.param(estimator, check, id=f"{name}-{function}", marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(scikit_learn_checks()))
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn feeds degenerate data on purpose
        check(estimator)


@pytest.fixture(scope="module")
def problem():
    """Betas (images, repeats, voxels) with missing repeats, and targets as tokens."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((160, 2, 4)).astype(np.float32)
    signal = targets.reshape(160, 8) @ rng.standard_normal((8, 30)) + 4
    betas = signal[:, None] + 3 * rng.standard_normal((160, 3, 30))
    betas[rng.random((160, 3)) < 0.1] = np.nan
    betas[np.isnan(betas).all(axis=(1, 2)), 0] = 4
    return betas.astype(np.float32), targets


@pytest.fixture(params=list(DECODERS))
def decoder(request):
    return DECODERS[request.param]()


def test_predictions_have_the_shape_of_targets_and_find_them(decoder, problem):
    betas, targets = problem
    decoder.fit(betas[:120], targets[:120])
    predicted = decoder.predict(betas[120:])
    assert predicted.shape == (40, 2, 4)
    assert predicted.dtype == np.float32
    assert decoder.score(betas[120:], targets[120:]) > 0.7
    for center in (True, False):
        similarity = decoder.similarity(betas[120:], targets[120:], center=center)
        assert similarity.shape == (40, 40)
        ids = np.arange(40)
        found = brainenc.metrics.retrieval(
            similarity, query_ids=ids, candidate_ids=ids, pool_size=40, n_pools=1
        )
        assert found.image_retrieval > 0.5
        assert found.brain_retrieval > 0.5


def test_single_trials_are_rows_and_average_to_repeats(decoder, problem):
    betas, targets = problem
    decoder.fit(betas[:120], targets[:120])
    trial = decoder.predict(betas[120:, 0])
    np.testing.assert_array_equal(trial, decoder.predict(betas[120:, :1]))
    both = decoder.score(betas[120:], targets[120:])
    present = np.isfinite(betas[120:, 0]).all(axis=1)
    assert decoder.score(betas[120:, 0][present], targets[120:][present]) < both


def test_fault_7_a_prediction_does_not_depend_on_the_other_responses(decoder, problem):
    betas, targets = problem
    decoder.fit(betas[:120], targets[:120])
    together, alone = decoder.predict(betas[120:]), decoder.predict(betas[130:131])
    np.testing.assert_allclose(together[10:11], alone, atol=1e-5)


def test_missing_data_of_a_response(decoder, problem):
    betas, targets = (array.copy() for array in problem)
    decoder.fit(betas[:120], targets[:120])
    full = decoder.predict(betas[120:])
    betas[121] = np.nan
    betas[122, :, 3] = np.nan
    found = decoder.predict(betas[120:])
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[2]).all()
    assert np.corrcoef(found[2].ravel(), full[2].ravel())[0, 1] > 0.9
    similarity = decoder.similarity(betas[120:], targets[120:])
    assert np.isnan(similarity[1]).all()
    assert np.isfinite(np.delete(similarity, 1, axis=0)).all()


def test_saved_and_adapted(decoder, problem, tmp_path):
    betas, targets = problem
    decoder.fit(betas[:120], targets[:120])
    loaded = brainenc.load(decoder.save(tmp_path / "model"))
    assert type(loaded) is type(decoder)
    np.testing.assert_array_equal(loaded.predict(betas[120:]), decoder.predict(betas[120:]))
    np.testing.assert_array_equal(
        loaded.similarity(betas[120:], targets[120:]),
        decoder.similarity(betas[120:], targets[120:]),
    )
    before = decoder.predict(betas[120:])
    other = decoder.adapt(betas[:120, :, :20], targets[:120])
    assert isinstance(other, Decoder)
    assert other.score(betas[120:, :, :20], targets[120:]) > 0.6
    np.testing.assert_array_equal(decoder.predict(betas[120:]), before)


def test_scikit_learn_tools_work_with_repeats(decoder, problem):
    betas, targets = problem
    assert cross_val_score(clone(decoder), betas, targets, cv=3).mean() > 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, t: (b[:1], t[:1]), "takes at least 2 to fit"),
        (lambda b, t: (b, t[:-1]), "must have one row for each of the 160"),
        (lambda b, t: (np.where(np.arange(30) == 5, np.nan, b), t), r"1 voxels \(first: 5\)"),
        (
            lambda b, t: (np.where(np.arange(160)[:, None, None] == 9, np.nan, b), t),
            r"no data for 1 images \(first in row 9\)",
        ),
        (lambda b, t: (b, np.where(np.arange(4) == 2, 1.0, t)), r"constant over .* \(first: 2\)"),
        (lambda b, t: (b, np.where(t > 2.9, np.nan, t)), "targets .* contain NaN"),
    ],
)
def test_what_a_fit_refuses_leaves_an_earlier_fit_as_it_was(decoder, problem, change, message):
    betas, targets = problem
    decoder.fit(betas, targets)
    before = decoder.predict(betas)
    with pytest.raises(ValueError, match=message):
        decoder.fit(*change(betas, targets))
    np.testing.assert_array_equal(decoder.predict(betas), before)


def test_another_number_of_voxels_and_other_targets(decoder, problem):
    betas, targets = problem
    decoder.fit(betas, targets)
    with pytest.raises(ValueError, match=r"20 voxels, but .* was fitted to 30"):
        decoder.predict(betas[..., :20])
    with pytest.raises(ValueError, match=r"features|targets"):
        decoder.similarity(betas, targets[:, :1])


def test_targets_from_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    pixels = images.reshape(60, -1).astype(float)
    betas = (pixels @ rng.standard_normal((64, 40)))[:, None] + 50 * rng.standard_normal(
        (60, 2, 40)
    )
    extractor = brainenc.PixelFeatures(verbose=False)
    for decoder in (
        brainenc.RidgeDecoder(extractor),
        brainenc.EncoderDecoder(brainenc.RidgeEncoder(extractor)),
    ):
        decoder.fit(betas[:45], images[:45])
        assert decoder.score(betas[45:], images[45:]) > 0.3
        assert decoder.similarity(betas[45:], images[45:]).shape == (15, 15)
    with pytest.raises(TypeError, match="targets=None"):
        brainenc.RidgeDecoder(None).fit(betas, images)


def test_a_saved_decoder_says_what_it_is_and_one_saved_as_an_encoder_is_read(
    decoder, problem, tmp_path
):
    betas, targets = problem
    decoder.fit(betas, targets)
    folder = decoder.save(tmp_path / "model")
    structure = json.loads((folder / "model.json").read_text())
    assert structure["format"] == "brainenc.decoder"
    structure["format"] = "brainenc.encoder"  # as earlier versions wrote it
    structure["checksum"] = structure_checksum(structure)
    (folder / "model.json").write_text(json.dumps(structure))
    loaded = brainenc.load(folder)
    np.testing.assert_array_equal(loaded.predict(betas), decoder.predict(betas))
