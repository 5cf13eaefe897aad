"""Images on both sides are found in every float type, and others are not."""

import numpy as np
import pytest
import torch

from brainenc.analysis.same_targets import same_targets


def in_bfloat16(values):
    return torch.from_numpy(values).to(torch.bfloat16).float().numpy()


KINDS = {
    "float64": lambda values: values,
    "float32": lambda values: values.astype(np.float32),
    "float16": lambda values: values.astype(np.float16),
    "float16 as float32": lambda values: values.astype(np.float32).astype(np.float16).astype("f4"),
    "bfloat16": in_bfloat16,
    "other batches": lambda values: values * (1 + 1e-7 * np.sign(np.sin(1e6 * values))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(400,), (5, 30), (4,)])
@pytest.mark.parametrize("offset", [0, 20])
def test_the_same_in_another_float_type(kind, shape, offset):
    rng = np.random.default_rng(0)
    known = offset + rng.standard_normal((300, *shape))
    asked = np.concatenate([KINDS[kind](known[5:9]), offset + rng.standard_normal((200, *shape))])
    asked = asked.astype(KINDS[kind](known[:1]).dtype)
    if kind in ("float16 as float32", "bfloat16"):
        asked[4:] = KINDS[kind](asked[4:].astype(np.float64))
    found = same_targets(known, asked)
    np.testing.assert_array_equal(found, np.arange(204) < 4)
    np.testing.assert_array_equal(same_targets(asked, known), np.isin(np.arange(300), range(5, 9)))


def test_targets_of_one_dimension_are_compared_exactly():
    known = np.linspace(0, 1, 5001)[:, None]
    assert not same_targets(known, known[:-1] + 1e-7).any()
    assert same_targets(known, known[::-1]).all()
    singles = known.astype(np.float32)
    assert same_targets(known, singles).all()


def test_counts_and_columns_of_0_and_1():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2, (50, 30)).astype(float)
    asked = rng.integers(0, 2, (40, 30)).astype(np.float32)
    asked[7] = known[3]
    expected = [(row == known).all(axis=1).any() for row in asked]
    np.testing.assert_array_equal(same_targets(known, asked), expected)
