import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator

from brainenc.validation import (
    check_betas,
    check_features,
    check_index,
    check_positions,
    check_same_length,
)

# ------------------------------------------------------------------ check_betas


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3)])
def test_betas_get_a_repeat_axis_and_keep_their_values(shape):
    betas = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    checked = check_betas(betas)
    assert checked.shape == {1: (5, 1, 1), 2: (5, 1, 3), 3: (5, 2, 3)}[len(shape)]
    np.testing.assert_array_equal(checked.ravel(), betas.ravel())
    assert np.shares_memory(checked, betas)  # nothing is copied without need


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", "float32"),
        ("float64", "float64"),
        ("float16", "float32"),
        (">f4", "float32"),
        ("int16", "float32"),
        ("uint8", "float32"),
        ("object", "float64"),
    ],
)
def test_betas_become_native_floats(dtype, expected):
    checked = check_betas(np.array([[1, 2], [3, 4]], dtype=dtype))
    assert checked.dtype == np.dtype(expected)
    assert checked.dtype.isnative
    np.testing.assert_array_equal(checked[:, 0], [[1, 2], [3, 4]])


def test_lists_and_frames_are_betas():
    np.testing.assert_array_equal(check_betas([[1, 2], [3, 4]])[:, 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(check_betas(pd.DataFrame({"v": [1.0, 2.0]}))[:, 0, 0], [1, 2])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_the_mask_of_a_masked_array_marks_missing(dtype):
    betas = np.ma.masked_equal(np.array([[1, -99], [3, 4]], dtype=dtype), -99)
    checked = check_betas(betas)
    assert type(checked) is np.ndarray
    np.testing.assert_array_equal(checked[:, 0], [[1, np.nan], [3, 4]])
    assert betas.mask.sum() == 1  # the caller's array is as it was


def test_a_memory_map_stays_on_disk(tmp_path):
    np.save(tmp_path / "betas.npy", np.ones((6, 2, 3), dtype=np.float32))
    mapped = np.load(tmp_path / "betas.npy", mmap_mode="r")
    assert np.shares_memory(check_betas(mapped), mapped)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_infinity_is_found_wherever_it_is(infinite):
    betas = np.zeros((9, 2, 2**20), dtype=np.float32)  # 8 MiB a row, so several blocks
    betas[8, 1, -1] = infinite
    betas[0, 0] = np.nan
    with pytest.raises(ValueError, match="betas contains infinite values"):
        check_betas(betas)


def test_values_near_the_largest_float_are_not_infinite():
    # Checks by summing overflow here.
    check_betas(np.full((10, 10), np.finfo(np.float32).max, dtype=np.float32))


def test_missing_repeats_and_voxels_are_allowed():
    betas = np.full((4, 2, 3), np.nan)
    betas[3, 1, 2] = 1
    check_betas(betas)


@pytest.mark.parametrize(
    ("betas", "error", "message"),
    [
        (None, ValueError, r"betas.*None.*\(n_images, n_voxels\)"),
        (np.full((4, 3), np.nan), ValueError, r"\(4, 1, 3\) contains nothing but NaN"),
        (np.zeros((2, 2, 2, 2)), ValueError, r"\(2, 2, 2, 2\) must be \(n_images, n_voxels\)"),
        (np.float32(1), ValueError, "must be"),
        (np.zeros((0, 3)), ValueError, r"\(0, 1, 3\) is empty"),
        (np.zeros((3, 0)), ValueError, "is empty"),
        (np.zeros((3, 0, 2)), ValueError, "is empty"),
        (np.ones((3, 2), dtype=complex), ValueError, "complex128"),
        (np.ones((3, 2), dtype=bool), TypeError, "must be numeric.*bool"),
        (np.array([["a", "b"]]), TypeError, "must be numeric.*<U1"),
        (np.array([["a", None]], dtype=object), TypeError, "must be numeric.*object"),
        (sparse.eye(3).tocsr(), TypeError, "betas.toarray"),
    ],
)
def test_bad_betas_say_what_is_wrong(betas, error, message):
    with pytest.raises(error, match=message):
        check_betas(betas)


def test_rows_that_do_not_match_name_both_and_the_way_on():
    with pytest.raises(ValueError, match=r"y \(30, 1, 5\).*10 images.*from_trials"):
        check_betas(np.zeros((30, 5)), n_images=10, name="y")
    assert check_betas(np.zeros((10, 5)), n_images=10).shape == (10, 1, 5)


# ------------------------------------------------------------------ check_same_length


def test_same_length_returns_it_or_lists_them():
    assert check_same_length(a=[1, 2], b=np.zeros((2, 5))) == 2
    with pytest.raises(ValueError, match="betas has 3, image_ids has 2"):
        check_same_length(betas=np.zeros(3), image_ids=[1, 2])


# ------------------------------------------------------------------ check_index


@pytest.mark.parametrize(
    "index",
    [
        [False, True, False, False, True],
        np.array([1, 4]),
        [1, -1],
        range(1, 5, 3),
        np.array([1, 4], dtype=np.uint8),
        pd.Series([False, True, False, False, True], index=list("abcde")),
        pd.Series([False, True, False, False, True], dtype="boolean"),
        pd.Series(list("xyxxy"), dtype="string") == "y",
    ],
    ids=repr,
)
def test_masks_and_positions_select_the_same(index):
    selected = check_index(index, 5, "images")
    assert selected.dtype == np.int64
    np.testing.assert_array_equal(selected, [1, 4])


def test_positions_keep_their_order_and_duplicates_where_these_may_be():
    np.testing.assert_array_equal(check_index([3, 0], 4, "voxels"), [3, 0])
    np.testing.assert_array_equal(check_positions([3, 0, -1], 4, "rows"), [3, 0, 3])


def test_one_position_is_an_index():
    np.testing.assert_array_equal(check_index(2, 4, "voxels"), [2])


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ([True, False], ValueError, r"mask of shape \(2,\), but 5"),
        (np.ones((5, 5), dtype=bool), ValueError, "must have one dimension"),
        ([], ValueError, "images selects nothing of 5"),
        (np.zeros(5, dtype=bool), ValueError, "images selects nothing"),
        ([0, 5], ValueError, r"images has positions from 0 to 5, outside 0 … 4"),
        ([-6], ValueError, "from -6 to -6"),
        ([[0, 1], [2, 3]], ValueError, r"images \(2, 2\) must have one dimension"),
        ([0.0, 1.0], TypeError, "float64"),
        (["a"], TypeError, "boolean mask or integer"),
    ],
)
def test_bad_indices_say_what_is_wrong(index, error, message):
    with pytest.raises(error, match=message):
        check_index(index, 5, "images")


def test_a_list_has_the_precision_of_the_array_it_makes():
    values = np.random.default_rng(0).standard_normal((5, 3))
    for given in (values.tolist(), np.asfortranarray(values)):
        checked = check_features(BaseEstimator(), given, reset=True)
        np.testing.assert_array_equal(checked, values)
        assert checked.dtype == np.float64
        assert checked.flags["C_CONTIGUOUS"]
