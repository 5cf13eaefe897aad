"""MindEyeDecoder: its start as ridge, several subjects, adaptation, and its training rows."""

import dataclasses
import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch

import brainenc
from brainenc.decoders.mind_eye_training import PRESETS, TrainingRows, random_averages
from brainenc.decoders.subjects import SubjectData
from brainenc.metrics import retrieval
from brainenc.repeats import average_repeats

SMALL = {"sizes": {"width": 32}, "n_epochs": 20, "learning_rate": 1e-3, "device": "cpu"}


def subject(targets, n_voxels, seed, noise=3.0, n_repeats=3):
    rng = np.random.default_rng(seed)
    flat = targets.reshape(len(targets), -1)
    signal = flat @ rng.standard_normal((flat.shape[1], n_voxels))
    shape = (len(targets), n_repeats, n_voxels)
    return (signal[:, None] + noise * rng.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def targets():
    return np.random.default_rng(0).standard_normal((160, 3, 4)).astype(np.float32)


def top_1(decoder, betas, targets):
    ids = np.arange(len(targets))
    found = retrieval(
        decoder.similarity(betas, targets), query_ids=ids, candidate_ids=ids, pool_size=len(ids)
    )
    return found.image_retrieval, found.brain_retrieval


def test_with_few_images_it_is_the_ridge_decoder(targets):
    betas = subject(targets, 30, 1)
    few = targets[:60]
    decoder = brainenc.MindEyeDecoder(device="cpu")
    with pytest.warns(UserWarning, match="60 images, fewer than min_images=100"):
        held_out = decoder.fit_held_out(betas[:60], few)
    # The ridge decoder of rotated targets, rotated back.
    flat = few.reshape(60, 12).astype(float)
    rotation = np.linalg.svd(flat - flat.mean(0))[2].T
    ridge = brainenc.RidgeDecoder()
    theirs = ridge.fit_held_out(betas[:60], (flat - flat.mean(0)) @ rotation)
    for found, wanted in (
        (decoder.predict(betas[60:]), ridge.predict(betas[60:])),
        (held_out, theirs),
    ):
        wanted = wanted @ rotation.T + flat.mean(0)
        np.testing.assert_allclose(found.reshape(-1, 12), wanted, atol=2e-4)
    # The retrieval head has the same direction.
    head = decoder.embeddings(betas[60:]).reshape(-1, 12) - flat.mean(0)
    tokens = decoder.predict(betas[60:]).reshape(-1, 12) - flat.mean(0)
    cosine = (head * tokens).sum(1) / np.linalg.norm(head, axis=1) / np.linalg.norm(tokens, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)
    assert decoder.history_.empty


def test_training_uses_the_held_out_tenth_and_says_what_it_held_out(targets):
    betas = subject(targets, 30, 1)
    decoder = brainenc.MindEyeDecoder(**SMALL)
    held_out = decoder.fit_held_out(betas, targets)
    known = np.isfinite(held_out).all(axis=(1, 2))
    assert known.sum() == 16
    assert "held_out_nce" in decoder.history_
    best = decoder.history_["held_out_nce"].min()
    assert best < decoder.history_["held_out_nce"].iloc[0]
    r = np.corrcoef(held_out[known].ravel(), targets[known].ravel())[0, 1]
    assert 0.6 < r < 1


def test_two_subjects_share_the_trunk_and_each_has_its_voxels(targets):
    first, second = subject(targets, 30, 1), subject(targets, 20, 2, n_repeats=2)
    pairs = [(first[:120], targets[:120]), (second[20:140], targets[20:140])]
    decoder = brainenc.MindEyeDecoder(**SMALL).fit(pairs)
    assert decoder.n_features_in_ == 30
    other = decoder.of_subject(1)
    assert other.n_features_in_ == 20
    assert other.net_ is decoder.net_
    for fitted, betas in ((decoder, first), (other, second)):
        for score in top_1(fitted, betas[140:], targets[140:]):
            assert score > 0.5  # chance .05
    with pytest.raises(ValueError, match=r"20 voxels, but .* was fitted to 30"):
        decoder.predict(second)
    with pytest.raises(ValueError, match="subject=2: the decoder was fitted to 2 subjects"):
        decoder.of_subject(2)


def test_several_subjects_are_saved(targets, tmp_path):
    pairs = [(subject(targets, n, n), targets) for n in (15, 10)]
    decoder = brainenc.MindEyeDecoder(**{**SMALL, "n_epochs": 1}).fit(pairs)
    loaded = brainenc.load(decoder.save(tmp_path / "model"))
    for i, (betas, _) in enumerate(pairs):
        np.testing.assert_array_equal(
            loaded.of_subject(i).similarity(betas, targets),
            decoder.of_subject(i).similarity(betas, targets),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, t: (b, t[:, :2]), "targets of the shapes"),
        (lambda b, t: (b[:-1], t), "must have one row for each of the 159"),
        (lambda b, t: (b, np.where(t > 2.5, np.nan, t)), "targets .* contain NaN"),
    ],
)
def test_a_subject_that_is_refused_leaves_the_former_fit(targets, change, message):
    betas = subject(targets, 15, 1)
    decoder = brainenc.MindEyeDecoder(**{**SMALL, "n_epochs": 1}).fit(betas, targets)
    before = decoder.predict(betas)
    with pytest.raises(ValueError, match=message):
        decoder.fit([(betas, targets), change(betas, targets)])
    np.testing.assert_array_equal(decoder.predict(betas), before)


def test_adapting_with_few_images_changes_only_the_read_in(targets):
    source = brainenc.MindEyeDecoder(**SMALL).fit(subject(targets, 30, 1), targets)
    before = {name: value.clone() for name, value in source.net_.state_dict().items()}
    new = subject(targets, 20, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = source.adapt(new[:60], targets[:60])
    many = source.adapt(new[:120], targets[:120])
    for name, value in source.net_.state_dict().items():
        assert torch.equal(value, before[name])
        if not name.startswith("read_in."):
            assert torch.equal(few.net_.state_dict()[name], value)
    assert not torch.equal(many.net_.read_out.weight, source.net_.read_out.weight)
    for decoder in (few, many):
        assert decoder.net_.sizes["n_voxels"] == (20,)
        assert min(top_1(decoder, new[120:], targets[120:])) > 0.5


def test_the_published_schedule_runs_without_held_out_images(targets):
    sizes = {"width": 16, "n_blocks": 1, "head_layers": 2}

    published = dataclasses.replace(PRESETS["published"], sizes=sizes)

    class Small(brainenc.MindEyeDecoder):
        presets: ClassVar = {**PRESETS, "published": published}

    betas = subject(targets, 20, 1)
    decoder = Small.published(n_epochs=3, device="cpu").fit(betas, targets)
    assert len(decoder.history_) == 3
    assert not decoder.net_.centre.any()
    few = decoder.adapt(betas[:50, :, :10], targets[:50])
    assert torch.equal(few.net_.read_out.weight, decoder.net_.read_out.weight)
    assert len(few.history_) == 3  # its read-in is trained


def test_an_image_that_two_subjects_saw_is_held_out_of_both(targets):
    betas = np.zeros((160, 1, 2), np.float32)
    flat = targets.reshape(160, -1)
    order = np.random.default_rng(0).permutation(160)
    parts = [SubjectData(betas, flat, None), SubjectData(betas, flat[order], None)]
    held = TrainingRows(parts).held_out(0)
    first = set(held[held < 160])
    second = set(order[held[held >= 160] - 160])
    assert first == second
    assert len(first) == 16


def test_random_averages_are_averages_of_repeats_that_there_are():
    generator = torch.Generator().manual_seed(0)
    betas = torch.tensor([[[1.0], [2.0], [4.0]], [[8.0], [0.0], [16.0]], [[0.0], [5.0], [0.0]]])
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    found = torch.stack(
        [
            random_averages(betas, present, lambda n: torch.rand(3, n, generator=generator))[:, 0]
            for _ in range(400)
        ]
    )
    means = [1.0, 2.0, 4.0, 1.5, 2.5, 3.0, 7 / 3]
    np.testing.assert_allclose(found[:, 0].unique().numpy(), sorted(means), rtol=1e-6)
    assert set(found[:, 1].tolist()) == {8, 16, 12}
    assert set(found[:, 2].tolist()) == {5}


def test_permuted_training_images_give_chance(targets):
    betas = subject(targets, 30, 1)
    scores = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(120)
        decoder = brainenc.MindEyeDecoder(**SMALL).fit(betas[:120], targets[order])
        scores += [top_1(decoder, betas[120:], targets[120:])]
    mean, error = np.mean(scores, axis=0), np.std(scores, axis=0, ddof=1) / np.sqrt(5)
    assert (abs(mean - 1 / 40) < 3 * error + 0.02).all()


def test_what_is_learned_from_are_the_betas_that_were_given(targets):
    betas = subject(targets, 20, 1)
    kept = betas.copy()
    brainenc.MindEyeDecoder(**{**SMALL, "n_epochs": 1}).fit(betas, targets)
    np.testing.assert_array_equal(betas, kept)
    assert average_repeats(betas).shape == (160, 20)
