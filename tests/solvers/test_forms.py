"""Forms of a kernel: eigenvectors and the band agree with the definitions, also on hard data."""

import numpy as np
import pytest
import torch

from brainenc.model_selection import image_folds
from brainenc.solvers import banded_ridge_cv, kernel_ridge_cv
from brainenc.solvers import forms as forms_module
from brainenc.solvers.band_reduction import reduce_to_band
from brainenc.solvers.forms import BandForm, EigenForm, form_of_kernel

KINDS = ["decaying", "heavy tails", "duplicates", "narrow", "categories", "constant"]


def kernel(kind, n=150, dtype=torch.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 2 * n)) / np.arange(1, 2 * n + 1) ** 0.5
    if kind == "heavy tails":
        X *= rng.standard_t(2, (n, 1))
    elif kind == "duplicates":
        X[: n // 2] = X[-(n // 2) :]
    elif kind == "narrow":
        X = X[:, :7]
    elif kind == "categories":
        X += 30 * rng.standard_normal((3, 2 * n))[np.arange(n) % 3]
    elif kind == "constant":
        X[:] = 1
    return torch.as_tensor(X @ X.T).to(dtype)


def both(K, monkeypatch):
    """The band form and the form of eigenvectors."""
    monkeypatch.setattr(forms_module, "BAND_IMAGES", 1)
    band = form_of_kernel(K)
    monkeypatch.setattr(forms_module, "BAND_IMAGES", len(K))
    eigen = form_of_kernel(K)
    assert (type(band), type(eigen)) == (BandForm, EigenForm)
    return band, eigen


def left(K, alpha):
    """I − H by its definition: α (CKC + α)⁻¹ on what has mean 0."""
    n = len(K)
    centre = torch.eye(n).to(K) - 1 / n
    return centre @ torch.linalg.inv(centre @ K @ centre / alpha + torch.eye(n).to(K)) @ centre


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_are_their_definition(kind, monkeypatch):
    K = kernel(kind)
    n = len(K)
    Y = torch.as_tensor(np.random.default_rng(1).standard_normal((n, 5)))
    Y -= Y.mean(0)
    tried = torch.tensor([1e-3, 1.0, 1e2], dtype=torch.float64)
    alphas = tried[[0, 0, 2, 1, 0]]
    truth = {float(alpha): left(K, float(alpha)) for alpha in tried}
    expected = torch.stack([truth[float(a)] @ y for a, y in zip(alphas, Y.T, strict=True)], 1)
    squares = torch.stack([(I_H @ Y).square().sum(0) for I_H in truth.values()], 1)
    for form in both(K, monkeypatch):
        projected = form.axes.T @ Y
        # Double precision: condition numbers up to 1e8 leave 1e-8 of the largest number.
        near = {"rtol": 0, "atol": 1e-7 * float(Y.abs().max())}
        torch.testing.assert_close(form.residuals(Y, projected, alphas), expected, **near)
        torch.testing.assert_close(form.squares(Y, projected, tried), squares, rtol=1e-6, atol=1e-9)
        traces = torch.stack([I_H.trace() for I_H in truth.values()])
        torch.testing.assert_close(form.freedom(tried), traces, rtol=1e-6, atol=1e-9)
        rows = torch.tensor([3, 1, 40])
        for alpha, I_H in truth.items():
            gram = form.left_gram(rows, alpha).tril()
            torch.testing.assert_close(gram, I_H[rows][:, rows].tril(), rtol=0, atol=1e-7)
        centre = torch.eye(n).to(K) - 1 / n
        largest = float(torch.linalg.eigvalsh(centre @ K @ centre)[-1])
        assert form.largest == pytest.approx(largest, rel=2e-3, abs=1e-9)


def test_rows_of_a_form_can_be_in_another_order(monkeypatch):
    K = kernel("decaying")
    order = torch.randperm(len(K), generator=torch.Generator().manual_seed(0))
    Y = torch.randn(len(K), 3, generator=torch.Generator().manual_seed(1), dtype=K.dtype)
    alphas = torch.tensor([1.0, 1.0, 10.0], dtype=K.dtype)
    for form in both(K, monkeypatch):
        moved = form.reordered(order)
        as_given = form.residuals(Y, form.axes.T @ Y, alphas)
        found = moved.residuals(Y[order], moved.axes.T @ Y[order], alphas)
        torch.testing.assert_close(found, as_given[order])


@pytest.mark.parametrize("width", [1, 16, 33, 128, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_a_band_is_the_matrix_seen_along_orthogonal_axes(kind, width):
    K = kernel(kind, n=131)
    band, Q = reduce_to_band(K.clone(), width=width)
    n = len(K)
    B = torch.zeros_like(K)
    start = 0
    for i, block in enumerate(band.diagonal):
        end = start + len(block)
        B[start:end, start:end] = block
        if i < len(band.below):
            after = slice(end, end + len(band.below[i]))
            B[after, start:end], B[start:end, after] = band.below[i], band.below[i].T
        start = end
    assert start == n
    # Round-off of products of up to n reflections, relative to the largest eigenvalue.
    tolerance = 1e-13 * n * float(torch.linalg.matrix_norm(K, 2) + 1)
    torch.testing.assert_close(Q @ B @ Q.T, K, rtol=0, atol=tolerance)
    torch.testing.assert_close(Q.T @ Q, torch.eye(n).to(K), rtol=0, atol=1e-13 * n)


@pytest.mark.parametrize("search", ["exact", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_ridge_is_the_same_in_both_forms(kind, search, monkeypatch):
    K = kernel(kind).numpy()
    Y = K[:, :4] / (1 + np.abs(K[:, :4]).max()) + np.random.default_rng(2).standard_normal((150, 4))
    arguments = (Y, np.logspace(-2, 5, 8), image_folds(5, 150))
    fits = []
    for n in (1, 150):
        monkeypatch.setattr(forms_module, "BAND_IMAGES", n)
        fits.append(kernel_ridge_cv(K, *arguments, search=search))
        fits.append(banded_ridge_cv([K, np.eye(150)], *arguments, n_iter=3, search=search))
    for band, eigen in zip(fits[:2], fits[2:], strict=True):
        if kind != "constant":  # with which all penalties have one answer
            np.testing.assert_array_equal(band.alphas, eigen.alphas)
        np.testing.assert_allclose(band.held_out, eigen.held_out, rtol=0, atol=1e-6)


def test_penalties_below_round_off_have_finite_answers(monkeypatch):
    # In single precision the band of a kernel of rank 7 has negative eigenvalues of 1e-7 of its
    # largest one, more than the penalty.
    K = kernel("narrow", n=400, dtype=torch.float32) * 1e6
    Y = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    Y -= Y.mean(0)
    for form in both(K, monkeypatch):
        tiny = torch.full((3,), 1e-4)
        found = form.residuals(Y, form.axes.T @ Y, tiny)
        assert torch.isfinite(found).all()
        assert (found.norm(dim=0) <= Y.norm(dim=0) * 1.01).all()


def test_a_kernel_whose_products_overflow_is_refused(monkeypatch):
    monkeypatch.setattr(forms_module, "BAND_IMAGES", 1)
    with pytest.raises(ValueError, match="products are infinite"):
        form_of_kernel(kernel("decaying", dtype=torch.float32) * 3e37)
