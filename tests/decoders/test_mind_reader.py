"""MindReaderDecoder: published size and losses; combining decoders; screening captions."""

import numpy as np
import pytest
import torch

import brainenc
from brainenc.decoders import CombinedDecoder, combination_weights, combine, screen_captions
from brainenc.decoders.mind_reader import PRESETS
from brainenc.nets import MindReaderMapper
from brainenc.training import Batch


def test_the_published_net_has_the_published_number_of_weights():
    net = MindReaderMapper(15724, 512, **PRESETS["published"].sizes)
    convolutions = 4 * 64 + 64 + 4 * (2 * (64 * 64 * 3 + 64) + 64 * 64 + 64)
    wanted = convolutions + 64 * 512 + 512 + 7872 * 128 + 128 + 128 + 1
    assert sum(p.numel() for p in net.parameters()) == wanted == 1_156_929
    assert net(torch.randn(2, 15724)).shape == (2, 512)
    assert net.pad(torch.zeros(1, 1, 15724)).shape[-1] == 15744


def test_the_faster_order_of_its_two_linear_maps_is_the_published_one():
    torch.manual_seed(0)
    net = MindReaderMapper(20, 6, n_channels=4, n_blocks=1, hidden=3).double()
    rows = torch.randn(5, 20, dtype=torch.float64)
    x = net.blocks(torch.relu(net.conv_in(net.pad(rows[:, None]))))
    wanted = net.read_out(torch.relu(net.positions(net.channels(x))))[..., 0]
    torch.testing.assert_close(net(rows), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_voxels", [1, 2, 7])
@pytest.mark.parametrize("padding", [0, 10])
def test_any_number_of_voxels(n_voxels, padding):
    net = MindReaderMapper(n_voxels, 5, n_channels=4, n_blocks=1, hidden=3, padding=padding)
    assert net(torch.randn(2, n_voxels)).shape == (2, 5)


def test_its_losses_are_the_published_sums():
    rng = np.random.default_rng(0)
    found, wanted = torch.from_numpy(rng.standard_normal((2, 6, 5)))
    decoder = brainenc.MindReaderDecoder()
    batch = Batch({"betas": found, "targets": wanted})
    unit = [x / x.norm(dim=1, keepdim=True) for x in (found, wanted)]
    cosine = unit[0] @ unit[1].T
    distance = 0.4 * (found - wanted).square().mean() + 0.6 * (1 - cosine.diag()).mean()
    logits = cosine / 0.5
    both = [logits.diag() - torch.logsumexp(logits, dim) for dim in (0, 1)]
    contrast = -(both[0].mean() + both[1].mean()) / 2
    losses = decoder._losses(torch.nn.Identity(), batch, 0.0, 0.5)
    assert losses["loss"].item() == pytest.approx(distance.item(), rel=1e-9)
    losses = decoder._losses(torch.nn.Identity(), batch, 0.5, 0.5)
    assert losses["loss"].item() == pytest.approx((distance + contrast).item() / 2, rel=1e-9)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((120, 2, 3)).astype(np.float32)
    betas = targets.reshape(120, 6) @ rng.standard_normal((6, 24))
    return (betas[:, None] + rng.standard_normal((120, 2, 24))).astype(np.float32), targets


SMALL = {"n_channels": 4, "n_blocks": 1, "hidden": 4}


def test_the_published_targets_are_clipped_and_of_unit_length(problem):
    betas, targets = problem

    class Small(brainenc.MindReaderDecoder):
        def _net_sizes(self):
            return SMALL

    decoder = Small.published(clip=1.5, n_epochs=2, device="cpu").fit(betas, targets)
    assert decoder.adapter_.mean is None
    clipped = np.clip(targets.reshape(120, 6), -1.5, 1.5)
    unit = clipped / np.linalg.norm(clipped, axis=1, keepdims=True)
    np.testing.assert_allclose(decoder.adapter_.transform(targets.reshape(120, 6)), unit, atol=1e-6)
    assert decoder.history_["training"].value_counts().to_dict() == {"distance": 2, "contrast": 2}
    without = Small.published(contrast=0, n_epochs=2, device="cpu").fit(betas, targets)
    assert set(without.history_["training"]) == {"distance"}


def test_a_tenth_is_held_out(problem):
    betas, targets = problem
    decoder = brainenc.MindReaderDecoder(sizes=SMALL, n_epochs=2, device="cpu")
    held_out = decoder.fit_held_out(betas, targets)
    known = np.isfinite(held_out).all(axis=(1, 2))
    assert known.sum() == 12
    np.testing.assert_allclose(held_out[known], decoder.predict(betas[known]), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": -1}, "clip=-1 must be"),
        ({"contrast": 2}, "contrast=2 must be at most 1"),
        ({"sizes": "huge"}, "sizes='huge' must be one of"),
        ({"learning_rate": 0}, "learning_rate=0 must be more than 0"),
        ({"n_epochs": 0}, "n_epochs=0 must be at least 1"),
    ],
)
def test_wrong_parameters(problem, change, message):
    with pytest.raises(ValueError, match=message):
        brainenc.MindReaderDecoder(**change).fit(*problem)


# ---------------------------------------------------------------- combining


def test_weights_favour_what_finds_the_image():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 60, 60))
    good, better = noise[0] + 1.5 * np.eye(60), noise[1] + 3 * np.eye(60)
    weights = combination_weights([good, better, noise[2]])
    assert weights.sum() == pytest.approx(1)
    assert weights[1] > weights[0] > weights[2]
    # Every mixture on the grid, ranked by counting: none is better.
    ranks = []
    for a in range(11):
        for b in range(11 - a):
            mixed = (a * good + b * better + (10 - a - b) * noise[2]) / 10
            rows = [1 / (1 + (row > row[i]).sum()) for i, row in enumerate(mixed)]
            columns = [1 / (1 + (column > column[i]).sum()) for i, column in enumerate(mixed.T)]
            ranks.append(((np.mean(rows) + np.mean(columns)) / 2, (a / 10, b / 10)))
    assert max(ranks)[1] == pytest.approx(tuple(weights[:2]))


def test_combined_decoders_know_the_training_images_only(problem):
    betas, targets = problem
    image, caption = targets[:, 0], targets[:, 1]
    decoders = [brainenc.RidgeDecoder(), brainenc.RidgeDecoder()]
    combined = combine(decoders, betas[:90], [image[:90], caption[:90]])
    found = combined.similarity(betas[90:], [image[90:], caption[90:]])
    by_hand = sum(
        weight * decoder.similarity(betas[90:], some)
        for weight, decoder, some in zip(
            combined.weights, decoders, [image[90:], caption[90:]], strict=True
        )
    )
    np.testing.assert_allclose(found, by_hand)
    right = (found.argmax(axis=1) == np.arange(30)).mean()
    alone = decoders[0].similarity(betas[90:], image[90:])
    assert right > (alone.argmax(axis=1) == np.arange(30)).mean()
    with pytest.raises(ValueError, match="2 decoders and 1 targets"):
        combine(decoders, betas, [image])


def test_combined_decoders_have_the_similarity_that_the_weights_were_chosen_for(problem):
    betas, targets = problem
    decoders = [brainenc.EncoderDecoder(brainenc.RidgeEncoder(None)), brainenc.RidgeDecoder()]
    some = [targets[:, 0], targets[:, 1]]
    combined = combine(decoders, betas[:90], [part[:90] for part in some])
    tested = [part[90:] for part in some]
    for center in (True, False):
        expected = 0
        for weight, decoder, part in zip(combined.weights, decoders, tested, strict=True):
            mean = decoder.target_mean_ if center else np.zeros(part.shape[1])
            a, b = (
                x.reshape(30, -1) - mean.reshape(-1) for x in (decoder.predict(betas[90:]), part)
            )
            norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
            expected = expected + weight * (a @ b.T) / norms
        found = combined.similarity(betas[90:], tested, center=center)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(found).max() <= 1 + 1e-6  # nats are not


def test_undefined_similarities_have_the_last_rank_and_no_weight():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 40, 40))
    good, partly = noise[0] + np.eye(40), noise[1] + 6 * np.eye(40)
    partly[:38] = np.nan  # nearly perfect where it is defined, which is in 2 of 40 rows
    weights = combination_weights([good, partly])
    np.testing.assert_array_equal(weights, [1, 0])

    class Fixed:
        target_mean_ = np.zeros(3)

        def __init__(self, found):
            self.found = found

        def predict(self, X):
            return self.found

        def _targets_of(self, y):
            return y

    known = rng.standard_normal((5, 3))
    both = CombinedDecoder([Fixed(known), Fixed(np.full((5, 3), np.nan))], np.array([1.0, 0.0]))
    found = both.similarity(known, [known, known])
    np.testing.assert_allclose(np.diag(found), 1)


# ---------------------------------------------------------------- captions


def test_captions_with_more_than_half_of_the_best_probability_are_kept():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((40, 5))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = probability > probability.max(axis=1, keepdims=True) / 2
    np.testing.assert_array_equal(screen_captions(logits), wanted)
    assert screen_captions(logits, share=0.0).all()
    logits[0, 1:], logits[1] = np.nan, np.nan
    kept = screen_captions(logits)
    assert kept[0].tolist() == [True, False, False, False, False]
    assert not kept[1].any()
    with pytest.raises(ValueError, match="share=1 must be"):
        screen_captions(logits, share=1)
