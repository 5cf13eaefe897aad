import numpy as np
import pytest

from brainenc.arrays import blocks, row_slices, varies


@pytest.mark.parametrize(("n", "size"), [(10, 3), (9, 3), (2, 5), (0, 4), (3, 0)])
def test_blocks_cover_every_row_once_and_in_order(n, size):
    found = list(blocks(n, size))
    assert [row for rows in found for row in range(n)[rows]] == list(range(n))
    assert all(1 <= rows.stop - rows.start <= max(1, size) for rows in found)
    assert all(rows.stop <= n for rows in found)


def test_row_slices_hold_so_many_values():
    array = np.zeros((10, 4, 5))
    sizes = [array[rows].size for rows in row_slices(array, 60)]
    assert sizes == [60, 60, 60, 20]


def test_round_off_of_a_constant_does_not_vary():
    """Seven equal float32, summed one by one: the mean is off, and so the s.d. is not 0."""
    columns = np.repeat(np.linspace(-1e3, 1e3, 500, dtype=np.float32)[None], 7, axis=0)
    mean = np.cumsum(columns, axis=0)[-1] / np.float32(7)
    sd = np.sqrt(np.square(columns - mean).mean(axis=0))
    assert (sd > 0).mean() > 0.3  # a test for 0 would not do
    assert not varies(mean, sd).any()


def test_what_varies_a_little_varies():
    rng = np.random.default_rng(0)
    column = 1000 + rng.standard_normal(500)
    assert varies(column.mean(), column.std())
    assert varies(np.array(0.0), np.array(1e-300))
    assert not varies(np.array([np.nan, 1.0]), np.array([1.0, np.nan])).any()
