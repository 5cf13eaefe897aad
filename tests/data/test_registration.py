"""Correlations over shifts and sizes, against loops over pixels."""

import numpy as np
import pytest

from brainenc.data.registration import MAX_SHIFT, SIZES, _Coarse, register


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    found = rng.standard_normal((7, 32, 32)).astype(np.float32)
    found[5] = np.roll(found[1], (4, -2), axis=(0, 1))
    found[6] = np.roll(found[2], (0, 6), axis=(0, 1))[:, ::-1]
    return found


def correlations(a, b):
    """Mean product of a(p) and b(p + shift) where they overlap, over root mean squares."""
    n = len(a)
    reach = int(MAX_SHIFT * n)
    found = np.zeros((2 * reach + 1, 2 * reach + 1))
    for i, y in enumerate(range(-reach, reach + 1)):
        for j, x in enumerate(range(-reach, reach + 1)):
            of_a = a[max(0, -y) : n - max(0, y), max(0, -x) : n - max(0, x)]
            of_b = b[max(0, y) : n - max(0, -y), max(0, x) : n - max(0, -x)]
            found[i, j] = (of_a.astype(float) * of_b).mean() / np.sqrt(
                (a.astype(float) ** 2).mean() * (b.astype(float) ** 2).mean()
            )
    return found.ravel()


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_the_best_shift_and_size_is_that_of_all_tried_one_by_one(maps, order):
    a, b = np.triu_indices(len(maps), 1)
    mirrored = np.arange(len(a)) % 3 == 1
    if order == "shuffled":
        some = np.random.default_rng(1).permutation(len(a))
        a, b, mirrored = a[some], b[some], mirrored[some]
    coarse = _Coarse(maps)
    r, transform = coarse.best_shift_and_size(a, b, mirrored)
    size = coarse.maps[0].shape[1]
    reach = int(MAX_SHIFT * size)
    for pair in range(len(a)):
        best = (-1.0, None)
        for of_a, of_b in [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)]:
            second = coarse.maps[of_b][b[pair]]
            second = second[:, ::-1] if mirrored[pair] else second
            found = correlations(coarse.maps[of_a][a[pair]], second)
            if found.max() > best[0]:
                y, x = np.divmod(found.argmax(), 2 * reach + 1) - np.array(reach)
                log_size = np.log(SIZES[of_b] / SIZES[of_a])
                shift = SIZES[of_b] / size * np.array([x, y])
                best = (found.max(), [*shift, log_size, 0])
        np.testing.assert_allclose(r[pair], best[0], atol=1e-5)
        np.testing.assert_allclose(transform[pair], best[1], atol=1e-12)


def test_a_pair_has_the_same_correlation_alone_and_among_others(maps):
    a, b = np.triu_indices(len(maps), 1)
    mirrored = (a == 2) & (b == 6)
    together, transforms = register(maps, a, b, mirrored)
    for pair in range(len(a)):
        one = slice(pair, pair + 1)
        r, transform = register(maps, a[one], b[one], mirrored[one])
        np.testing.assert_allclose(r[0], together[pair], atol=1e-6)
        np.testing.assert_allclose(transform[0], transforms[pair], atol=1e-4)


def test_shifted_and_mirrored_copies_are_found_at_their_shift(maps):
    r, transform = register(
        maps, np.array([1, 2]), np.array([5, 6]), np.array([False, True]), aspect=1.0
    )
    assert (r > 0.95).all()
    np.testing.assert_allclose(transform[0], [-2 / 32, 4 / 32, 0, 0], atol=0.01)
    np.testing.assert_allclose(np.abs(transform[1]), [6 / 32, 0, 0, 0], atol=0.01)
