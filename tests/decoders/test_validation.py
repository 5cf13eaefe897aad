"""Fits with validation images of one's own, and of a number of steps of one's own."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import brainenc
from brainenc.decoders.responses import VoxelScaling

ALPHAS = np.logspace(0, 4, 9)


def subject(n_images=130, n_voxels=20, n_dimensions=6, noise=4.0):
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((n_images, n_dimensions))
    signal = targets @ rng.standard_normal((n_dimensions, n_voxels))
    betas = signal[:, None] + noise * rng.standard_normal((n_images, 2, n_voxels))
    return betas, targets


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("train_on", ["trials", "averages"])
def test_ridge_takes_the_penalty_that_is_best_for_the_validation_images(weighted, train_on):
    betas, targets = subject()
    train, held, test = slice(0, 60), slice(60, 100), slice(100, 130)
    weights = np.where(np.arange(60) < 20, 0.2, 1.0) if weighted else None
    decoder = brainenc.RidgeDecoder(alphas=ALPHAS, alpha_per_target=False, train_on=train_on)
    how = {} if weights is None else {"sample_weight": weights}
    decoder.fit(betas[train], targets[train], validation=(betas[held], targets[held]), **how)

    scaling = VoxelScaling.of(betas[train], weights)
    averages = scaling.apply(betas.mean(axis=1))
    rows, images = averages[train], np.arange(60)
    if train_on == "trials":
        rows, images = scaling.apply(betas[train].reshape(120, -1)), np.repeat(np.arange(60), 2)
    mass = None if weights is None else weights[images]
    fits = [Ridge(alpha=a).fit(rows, targets[images], sample_weight=mass) for a in ALPHAS]
    errors = [np.square(fit.predict(averages[held]) - targets[held]).mean() for fit in fits]
    best = int(np.argmin(errors))
    assert 0 < best < len(ALPHAS) - 1
    np.testing.assert_allclose(decoder.alphas_, ALPHAS[best], rtol=1e-6)
    np.testing.assert_allclose(
        decoder.predict(betas[test]), fits[best].predict(averages[test]), atol=2e-5
    )


def test_nothing_but_the_penalty_comes_from_the_validation_images():
    betas, targets = subject()
    decoder = brainenc.RidgeDecoder(alphas=[10.0])
    others = [(betas[60:100], targets[60:100]), (100 + 3 * betas[100:], -targets[100:])]
    found = [
        decoder.fit(betas[:60], targets[:60], validation=pair).predict(betas[100:])
        for pair in others
    ]
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize(
    "decoder",
    [
        brainenc.MindEyeDecoder(sizes={"width": 16}, n_steps=30, device="cpu"),
        brainenc.MindReaderDecoder(
            sizes={"n_channels": 2, "hidden": 4}, n_steps=30, contrast=0.0, device="cpu"
        ),
    ],
)
def test_networks_learn_from_all_images_in_the_steps_that_are_asked_for(decoder):
    betas, targets = subject(n_images=160)
    last = []
    for n in (110, 130):
        decoder.fit(betas[:n], targets[:n], validation=(betas[130:], targets[130:]))
        last.append(int(decoder.history_["step"].iloc[-1]))
        assert decoder.history_["held_out_nce"].notna().all()
        np.testing.assert_allclose(decoder.target_mean_, targets[:n].mean(axis=0))
        if hasattr(decoder.net_, "centre"):  # of all training images, none of which is held out
            np.testing.assert_allclose(decoder.net_.centre, targets[:n].mean(axis=0), atol=1e-6)
    assert last[0] == last[1] == 30
    assert decoder.fit(betas[:130], targets[:130]).history_["step"].iloc[-1] == 30


def test_the_weights_that_are_kept_are_best_for_the_validation_images():
    """With the targets of other images as validation, no step is better than the start."""
    betas, targets = subject(n_images=160)
    options = {"sizes": {"width": 16}, "n_steps": 60, "learning_rate": 0.01, "device": "cpu"}
    decoder = brainenc.MindEyeDecoder(**options)
    right = (betas[130:], targets[130:])
    wrong = (betas[130:], -targets[130:])
    best = [
        decoder.fit(betas[:130], targets[:130], validation=pair).score(*right)
        for pair in (right, wrong)
    ]
    assert best[0] > best[1]


def test_equal_terms_are_those_of_the_most_examples_in_batches_of_the_fewest():
    decoder = brainenc.MindEyeDecoder(n_epochs=60, batch_size=64)
    equal = decoder.on_equal_terms(40, 640)
    assert (equal.n_steps, equal.batch_size, equal.min_images) == (600, 40, 2)
    assert {equal.steps_for(n) for n in (40, 100, 640)} == {600}
    assert decoder.n_steps is None
    assert brainenc.MindEyeDecoder(n_steps=7).on_equal_terms(40, 640).n_steps == 7
    published = brainenc.MindEyeDecoder.published(n_epochs=2, batch_size=10)
    assert published.steps_for(45) == 8  # full batches only


@pytest.mark.parametrize(
    ("validation", "error", "message"),
    [
        (np.ones((3, 4)), TypeError, r"must be a pair \(betas, targets\)"),
        ((np.ones((5, 7)), np.ones((5, 6))), ValueError, "has 7 features"),
        ((np.ones((5, 20)), np.ones((4, 6))), ValueError, "one row for each of the 5 images"),
        ((np.ones((5, 20)), np.ones((5, 3))), ValueError, "do not fit"),
        ((np.full((5, 20), np.nan), np.ones((5, 6))), ValueError, "NaN"),
    ],
)
def test_validation_images_that_do_not_fit(validation, error, message):
    betas, targets = subject()
    for decoder in (brainenc.RidgeDecoder(), brainenc.MindEyeDecoder(device="cpu")):
        with pytest.raises(error, match=message):
            decoder.fit(betas, targets, validation=validation)


def test_several_subjects_have_no_validation_images():
    betas, targets = subject()
    with pytest.raises(ValueError, match="validation is for a fit to one subject"):
        brainenc.MindEyeDecoder().fit([(betas, targets)], validation=(betas, targets))
