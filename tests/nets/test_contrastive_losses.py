"""InfoNCE and BiMixCo against sums over pairs, and the faults of the public BiMixCo."""

import math

import numpy as np
import pytest
import torch

from brainenc.nets import bimixco_loss, info_nce, mixing_partners


def draws(*shape, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def cosine(a, b):
    a, b = a.ravel().tolist(), b.ravel().tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def by_pairs(predictions, targets, labels, temperature):
    """Cross-entropy of both directions, as sums over pairs; `labels` maps (i, j) to a mass."""
    n = len(predictions)
    s = [[cosine(predictions[i], targets[j]) / temperature for j in range(n)] for i in range(n)]
    total = 0.0
    for (i, j), mass in labels.items():
        row = math.log(sum(math.exp(s[i][k]) for k in range(n)))
        column = math.log(sum(math.exp(s[k][j]) for k in range(n)))
        total += mass * (s[i][j] - row + s[i][j] - column)
    return -total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_info_nce_is_the_sum_over_pairs(temperature):
    targets = draws(6, 2, 5, seed=0)
    predictions = targets + draws(6, 2, 5, seed=1)
    expected = by_pairs(predictions, targets, {(i, i): 1.0 for i in range(6)}, temperature)
    assert info_nce(predictions, targets, temperature).item() == pytest.approx(expected, rel=1e-12)
    # Orthonormal and perfect: log(1 + (n − 1) exp(−1/T)).
    eye = torch.eye(4, dtype=torch.float64)
    closed = math.log1p(3 * math.exp(-1 / temperature))
    assert info_nce(eye, eye, temperature).item() == pytest.approx(closed, rel=1e-12)


def test_bimixco_is_the_sum_over_pairs():
    targets, predictions = draws(5, 7, seed=0), draws(5, 7, seed=1)
    partners, shares = torch.tensor([1, 2, 0, 4, 3]), torch.tensor([0.9, 0.2, 1.0, 0.5, 0.7])
    labels = {(i, i): shares[i].item() for i in range(5)}
    labels |= {(i, partners[i].item()): 1 - shares[i].item() for i in range(5)}
    expected = by_pairs(predictions, targets, labels, 0.2)
    found = bimixco_loss(predictions, targets, partners, shares.double(), 0.2)
    assert found.item() == pytest.approx(expected, rel=1e-6)  # shares are float32


def test_fault_6_a_row_that_is_its_own_partner_keeps_all_of_its_mass():
    targets, predictions = draws(4, 7, seed=0), draws(4, 7, seed=1)
    partners = torch.tensor([0, 2, 1, 3])  # fixed points: 0, mixed with itself, and 3, not mixed
    shares = torch.tensor([0.3, 0.4, 0.8, 1.0], dtype=torch.float64)
    labels = {(0, 0): 1.0, (3, 3): 1.0, (1, 1): 0.4, (1, 2): 0.6, (2, 2): 0.8, (2, 1): 0.2}
    expected = by_pairs(predictions, targets, labels, 0.2)
    found = bimixco_loss(predictions, targets, partners, shares, 0.2).item()
    assert found == pytest.approx(expected, rel=1e-12)
    # As in public code, where labels[i, partners[i]] = 1 - share overwrites: .7 and 0.
    public = by_pairs(predictions, targets, labels | {(0, 0): 0.7, (3, 3): 0.0}, 0.2)
    assert abs(found - public) > 0.05


def test_fault_6_partners_are_of_the_same_subject_and_a_permutation():
    rng = np.random.default_rng(0)
    for n_subjects in (1, 3, 7):
        groups = torch.from_numpy(rng.integers(0, n_subjects, 40))
        partners = mixing_partners(groups, torch.from_numpy(rng.random(40)))
        assert (groups[partners] == groups).all()
        assert sorted(partners.tolist()) == list(range(40))
    # Permutations of the subjects, joined without offsets, point at the first subject's rows.
    joined = torch.cat([torch.randperm(6), torch.randperm(6)])
    assert not (torch.arange(12) // 6 == joined // 6).all()


def test_partners_are_any_permutation_with_equal_chance():
    groups, rng = torch.zeros(3, dtype=torch.int64), np.random.default_rng(0)
    found = [
        tuple(mixing_partners(groups, torch.from_numpy(rng.random(3))).tolist())
        for _ in range(3000)
    ]
    counts = np.unique(np.array(found) @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert (abs(counts - 500) < 4 * math.sqrt(500 * 5 / 6)).all()


@pytest.mark.parametrize("loss", [info_nce, bimixco_loss])
def test_what_the_losses_refuse(loss):
    more = () if loss is info_nce else (torch.arange(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\).*same shape"):
        loss(torch.ones(3, 4), torch.ones(3, 5), *more)
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        loss(torch.ones(3, 4), torch.ones(3, 4), *more, temperature=0)
