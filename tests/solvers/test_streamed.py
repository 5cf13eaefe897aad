"""Streamed kernels against products in float64, from arrays of every kind that is given."""

import numpy as np
import pytest
import torch

from brainenc.solvers import _products, streamed
from brainenc.solvers.streamed import ScaledFeatures, cross_kernel, linear_kernel
from brainenc.solvers.voxels import feature_scaling


@pytest.fixture
def tokens():
    """Half precision, with columns of different scales, one constant and one large."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((37, 11, 13)) * np.exp(rng.standard_normal((11, 13)))
    tokens += 3 * rng.standard_normal((11, 13))
    tokens[:, 4, 5] = 0.1
    tokens[:, 2, 3] = np.linspace(-60_000, 60_000, 37)  # their squares overflow half precision
    return tokens.astype(np.float16)


def z_scored(X, fitted):
    """In float64, constant columns as 0."""
    X, fitted = (np.asarray(each, np.float64).reshape(len(each), -1) for each in (X, fitted))
    sd = fitted.std(axis=0)
    sd[sd < 1e-6 * np.abs(fitted.mean(axis=0))] = 1
    return (X - fitted.mean(axis=0)) / sd


def mapped(array, folder):
    np.save(folder / "features.npy", array)
    return np.load(folder / "features.npy", mmap_mode="r")


KINDS = {
    "half precision": lambda X, _: X,
    "float32": lambda X, _: X.astype(np.float32),
    "float64": lambda X, _: X.astype(np.float64),
    "flat": lambda X, _: X.reshape(len(X), -1),
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "flat in Fortran order": lambda X, _: np.asfortranarray(X.reshape(len(X), -1)),
    "mapped": mapped,
    "mapped in Fortran order": lambda X, folder: mapped(np.asfortranarray(X), folder),
    "view of a map": lambda X, folder: mapped(np.concatenate([X[:3], X]), folder)[3:],
    "every other column": lambda X, _: np.repeat(X, 2, axis=2)[:, :, ::2],
}


@pytest.mark.parametrize("block_columns", [None, 1, 7, 64, 142, 143, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_is_that_of_z_scored_features(tokens, kind, block_columns, tmp_path):
    given = KINDS[kind](tokens, tmp_path)
    found = linear_kernel(given, block_columns=block_columns)
    double = kind == "float64"
    assert found.kernel.dtype == found.mean.dtype == (np.float64 if double else np.float32)
    expected = z_scored(tokens, tokens)
    # Sums of 143 products, of which the largest are about 30: round-off of float32.
    tolerance = 1e-10 if double else 2e-4
    np.testing.assert_allclose(found.kernel, expected @ expected.T, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(found.kernel, found.kernel.T)


def test_scaling_is_that_of_features_in_memory(tokens):
    flat = tokens.reshape(len(tokens), -1).astype(np.float32)
    for standardize in (True, False):
        found = linear_kernel(tokens, standardize=standardize, block_columns=10)
        mean, scale = feature_scaling(flat, standardize)
        np.testing.assert_array_equal(found.mean, mean)
        np.testing.assert_array_equal(found.scale, scale)


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_of_new_images(tokens, kind, tmp_path):
    new, fitted = tokens[:9] * np.float16(0.5), tokens[9:]
    given = KINDS[kind](fitted, tmp_path)
    _, mean, scale = linear_kernel(given)
    expected = z_scored(new, fitted) @ z_scored(fitted, fitted).T
    fit = ScaledFeatures(given, mean, scale)
    like_new = new if given.ndim == 3 else new.reshape(9, -1)
    np.testing.assert_allclose(cross_kernel(like_new, fit), expected, atol=2e-3, rtol=1e-4)


def test_blocks_of_new_images_and_of_columns_are_whole(tokens, monkeypatch):
    _, mean, scale = linear_kernel(tokens)
    fit = ScaledFeatures(tokens, mean, scale)
    whole = cross_kernel(tokens[:10], fit)
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 4 * 47 * 17)  # 17 columns of 47 images
    monkeypatch.setattr(streamed, "_AHEAD_BYTES", 3 * 2 * 37 * 17)
    monkeypatch.setattr(streamed, "_PRODUCT_BYTES", 8 * 37 * 3)  # 3 new images
    parts = [(part, seen.rows) for part, seen in streamed.SeenImages(tokens[:10], fit).blocks()]
    assert [len(part) for _, part in parts] == [3, 3, 3, 1]
    np.testing.assert_allclose(np.concatenate([p for _, p in parts]), whole, atol=1e-3)


def test_files_are_read_ahead_and_each_column_once(tokens, tmp_path, monkeypatch):
    given = mapped(tokens, tmp_path)
    monkeypatch.setattr(streamed, "_AHEAD_BYTES", 2 * len(tokens) * 50)
    ahead, read = [], []
    monkeypatch.setattr(streamed, "read_ahead", lambda _, columns: ahead.append(columns))
    columns_of = streamed._columns
    monkeypatch.setattr(
        streamed,
        "_columns",
        lambda X, columns, out: read.append(columns) or columns_of(X, columns, out),
    )
    linear_kernel(given, block_columns=25)
    for slices in (ahead, read):
        covered = [i for part in slices for i in range(143)[part]]
        assert covered == list(range(143))
    assert [part.start for part in ahead] == [0, 50, 100]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_by_column(tokens, value):
    tokens[5, 10, 2] = value
    with pytest.raises(ValueError, match="first in column 132"):
        linear_kernel(tokens, block_columns=20)


def test_features_that_changed_since_the_fit_are_refused(tokens):
    _, mean, scale = linear_kernel(tokens)
    fit = ScaledFeatures(tokens, mean, scale)
    new = tokens[:2].copy()
    tokens[:, 3, 3] = tokens[::-1, 3, 3] + np.float16(0.5)
    with pytest.raises(ValueError, match="have changed"):
        cross_kernel(new, fit)
    with pytest.raises(ValueError, match=r"\(2, 12\) do not have the 143 numbers"):
        cross_kernel(np.zeros((2, 12), np.float32), fit)


def test_sketch_keeps_scalar_products_within_its_error():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((30, 5000)).astype(np.float32)
    X[15:] += X[:15]
    _, mean, scale = linear_kernel(X, standardize=False)
    fit = ScaledFeatures(X, mean, scale)
    n = 1000
    short = fit.sketch(n)
    Z = z_scored(X, X) * X.std(axis=0, dtype=np.float64)
    exact = Z @ Z.T
    norms = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    error = (short @ short.T - exact) / norms
    # s.d. of at most sqrt(2 / n); 465 pairs.
    assert 0.5 / np.sqrt(n) < error.std() < np.sqrt(2 / n)
    assert np.abs(error).max() < 5 * np.sqrt(2 / n)
    directions = rng.standard_normal((5000, 3)).astype(np.float32)
    np.testing.assert_allclose(fit.projected(directions), Z @ directions, atol=1e-2)


def test_sketch_does_not_depend_on_blocks(tokens, monkeypatch):
    _, mean, scale = linear_kernel(tokens)
    fit = ScaledFeatures(tokens, mean, scale)
    whole = fit.sketch(20)
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 4 * 37 * 33)
    np.testing.assert_allclose(fit.sketch(20), whole, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_products_in_torch_are_those_of_blas(dtype):
    """The sum that a GPU takes, here on torch's CPU device."""
    rng = np.random.default_rng(0)
    blocks = [(rng.standard_normal((6, k)), rng.standard_normal((9, k))) for k in (5, 8)]
    totals = [
        _products.total_of_products(6, 9, np.dtype(dtype), "cpu"),
        _products._DeviceTotal(6, 9, np.dtype(dtype), "cpu"),
    ]
    expected = sum(a @ b.T for a, b in blocks)
    for total in totals:
        for a, b in blocks:
            total.add(a.astype(dtype), b.astype(dtype))
        assert total.result().dtype == dtype
        np.testing.assert_allclose(
            total.result(), expected, atol=1e-5 if dtype == np.float32 else 1e-12
        )


def test_error_of_a_wide_kernel_is_that_of_single_precision():
    """The error that the module states, for features like those of a network."""
    rng = np.random.default_rng(0)
    n, rank, p = 60, 50, 40_000
    latent = rng.standard_normal((n, rank)) / np.arange(1, rank + 1)
    X = (latent @ rng.standard_normal((rank, p)) + 0.05 * rng.standard_normal((n, p))).astype("f2")
    expected = z_scored(X, X)
    error = np.abs(linear_kernel(X, block_columns=4096).kernel - expected @ expected.T)
    assert error.max() < 2e-6 * p
    short = torch.from_numpy(expected).float().bfloat16().double().numpy()
    assert np.abs(short @ short.T - expected @ expected.T).max() > 1e-4 * p
