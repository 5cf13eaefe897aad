import numpy as np
import pytest
import synbrain_oracles as oracles
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl_divergence

from brainenc.nets import kl_divergence, reconstruction_loss, soft_clip_loss, synbrain_vae_loss


def draws(*shape, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("temperature", [0.125, 1.0])
def test_soft_clip_is_the_sum_over_pairs(temperature):
    targets = draws(7, 3, 5, seed=0)
    predictions = targets + draws(7, 3, 5, seed=1)
    loss = soft_clip_loss(predictions, targets, temperature)
    # Both in double precision.
    assert loss.item() == pytest.approx(
        oracles.soft_clip(predictions, targets, temperature), rel=1e-12
    )


def test_soft_clip_default_temperature_is_the_published_one():
    targets, predictions = draws(4, 6, seed=0), draws(4, 6, seed=1)
    expected = oracles.soft_clip(predictions, targets, 0.125)
    assert soft_clip_loss(predictions, targets).item() == pytest.approx(expected, rel=1e-12)


def test_soft_clip_of_the_targets_is_the_entropy_of_its_labels_and_the_least_there_is():
    targets = draws(6, 40, seed=0)
    unit = targets / targets.norm(dim=1, keepdim=True)
    labels = (unit @ unit.T / 0.125).softmax(1)
    entropy = torch.distributions.Categorical(probs=labels).entropy().mean()
    perfect = soft_clip_loss(targets, targets)
    assert perfect.item() == pytest.approx(entropy.item(), rel=1e-12)
    assert soft_clip_loss(targets.roll(1, 0), targets) > perfect + 1


def test_soft_clip_ignores_the_length_of_vectors_and_is_zero_for_a_batch_of_one():
    targets, predictions = draws(5, 8, seed=0), draws(5, 8, seed=1)
    scaled = soft_clip_loss(predictions * torch.arange(1, 6)[:, None], 100 * targets)
    assert scaled.item() == pytest.approx(soft_clip_loss(predictions, targets).item(), rel=1e-12)
    assert soft_clip_loss(predictions[:1], targets[:1]).item() == 0


def test_kl_is_that_of_torch_distributions():
    mean, log_variance = draws(4, 3, 5, seed=0), draws(4, 3, 5, seed=1)
    one = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch_kl_divergence(Normal(mean, (log_variance / 2).exp()), one).sum() / 4
    assert kl_divergence(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-12)


def test_kl_keeps_its_digits_near_the_prior():
    # exp(x) - 1 - x = x²/2 + …; in float32 the first two terms cancel to nothing below 1e-4.
    log_variance = torch.full((1, 1), 1e-3)
    expected = 0.5 * (1e-6 / 2 + 1e-9 / 6)
    # expm1 is good to one unit in the last place of 1e-3, 1e-10, of 2.5e-7.
    assert kl_divergence(torch.zeros(1, 1), log_variance).item() == pytest.approx(
        expected, rel=1e-3
    )


def test_reconstruction_is_summed_over_voxels_and_averaged_over_the_batch():
    betas = torch.zeros(2, 3)
    reconstruction = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    assert reconstruction_loss(reconstruction, betas).item() == (1 + 4 + 9) / 2


def test_total_is_the_weighted_sum_with_the_published_weights():
    betas, reconstruction = draws(3, 11, seed=0), draws(3, 11, seed=1)
    z, tokens = draws(3, 4, 5, seed=2), draws(3, 4, 5, seed=3)
    mean, log_variance = draws(3, 4, 5, seed=4), draws(3, 4, 5, seed=5)
    loss = synbrain_vae_loss(reconstruction, betas, z, tokens, mean, log_variance)
    expected = (
        ((reconstruction - betas) ** 2).sum() / 3
        + 0.001 * kl_divergence(mean, log_variance)
        + 1000 * oracles.soft_clip(z, tokens, 0.125)
    )
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    parts = loss.reconstruction + 0.001 * loss.kl + 1000 * loss.soft_clip
    assert loss.total.item() == pytest.approx(parts.item(), rel=1e-12)


def test_a_part_with_weight_zero_is_left_out_even_where_it_is_infinite():
    betas, z = draws(3, 11, seed=0), draws(3, 4, 5, seed=1)
    infinite = torch.full_like(z, 1e6)  # a variance of exp(1e6)
    loss = synbrain_vae_loss(
        betas + 1, betas, z, z.roll(1, 0), z, infinite, kl_weight=0, clip_weight=0
    )
    assert torch.isinf(loss.kl)
    assert loss.soft_clip > 0
    assert loss.total.item() == pytest.approx(11)


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"predictions \(2, 3\) and targets \(2, 4\)"):
        soft_clip_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"reconstruction \(2, 1\) and betas \(2, 4\)"):
        reconstruction_loss(torch.zeros(2, 1), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"mean \(2, 1\) and log_variance \(2, 4\)"):
        kl_divergence(torch.zeros(2, 1), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        soft_clip_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0)
