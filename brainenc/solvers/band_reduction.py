"""Reduction of a symmetric matrix to a band, A = Q B Qᵀ, by matrix products.

An eigendecomposition first reduces to three diagonals, which reads the whole matrix once for each
of its rows. To a band of some hundred diagonals the reduction consists of matrix products.

References
----------
Bischof, Lang & Sun (2000), ACM TOMS 26, "A framework for symmetric band reduction".
Schreiber & Van Loan (1989), SIAM J. Sci. Stat. Comput. 10 (products of reflections, I − V T Vᵀ).
"""

from typing import NamedTuple

import torch
from torch import Tensor

#: Rows of a block: wide enough for fast matrix products, narrow enough for fast solutions.
WIDTH = 128
#: Columns whose reflections are computed one by one.
_LEAF = 16


class Reflections(NamedTuple):
    """Product of reflections, I − V T Vᵀ, of the rows from `start`.

    Attributes
    ----------
    V, VT : (n_rows, n_columns)
    start : int
    """

    V: Tensor
    VT: Tensor
    start: int


class BlockTridiagonal(NamedTuple):
    """Symmetric matrix of blocks along the diagonal and below it.

    Attributes
    ----------
    diagonal, below : lists of tensors, shape (size, size) and (next size, size)
    """

    diagonal: list[Tensor]
    below: list[Tensor]


def reduce_to_band(A: Tensor, width: int = WIDTH) -> tuple[BlockTridiagonal, Tensor]:
    """B and Q with A = Q B Qᵀ.

    Parameters
    ----------
    A : (n, n)
        Symmetric. Its memory is used for intermediate results.
    width : int
        Of blocks of B.

    Returns
    -------
    B : BlockTridiagonal
    Q : (n, n), orthogonal

    Examples
    --------
    >>> import torch
    >>> X = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> B, Q = reduce_to_band(X @ X.T, width=2)
    >>> [tuple(block.shape) for block in B.diagonal]
    [(2, 2), (2, 2), (2, 2)]
    >>> bool(torch.allclose((Q.T @ X @ X.T @ Q)[:2, :2], B.diagonal[0]))
    True
    """
    n = len(A)
    reflections = []
    diagonal, below = [], []
    for start in range(0, n, width):
        end = min(start + width, n)
        diagonal.append(A[start:end, start:end].clone())
        if end == n:
            break
        reflected = _factor_columns(A[end:, start:end])
        reflections.append(Reflections(reflected.V, reflected.V @ reflected.T, end))
        corner = A.new_zeros(min(end + width, n) - end, end - start)
        corner[: len(reflected.R)] = reflected.R[: len(corner)]
        below.append(corner)
        _reflect_both_sides(A[end:, end:], reflections[-1])
    return BlockTridiagonal(diagonal, below), _orthogonal(n, reflections, A)


class _Factored(NamedTuple):
    V: Tensor
    T: Tensor
    R: Tensor


def _factor_columns(A: Tensor) -> _Factored:
    """A = (I − V T Vᵀ) [R; 0], by halves of the columns, so that most of it is matrix products."""
    n_rows, n_columns = A.shape
    if n_columns <= _LEAF or n_rows <= n_columns:
        return _factor_leaf(A)
    half = n_columns // 2
    left = _factor_columns(A[:, :half])
    right = torch.addmm(A[:, half:], left.V, left.T.T @ (left.V.T @ A[:, half:]), alpha=-1)
    lower = _factor_columns(right[half:])
    V = A.new_zeros(n_rows, n_columns)
    V[:, :half], V[half:, half:] = left.V, lower.V
    T = A.new_zeros(n_columns, n_columns)
    T[:half, :half], T[half:, half:] = left.T, lower.T
    T[:half, half:] = -left.T @ (left.V[half:].T @ lower.V) @ lower.T
    R = A.new_zeros(n_columns, n_columns)
    R[:half, :half], R[:half, half:], R[half:, half:] = left.R, right[:half], lower.R
    return _Factored(V, T, R)


def _factor_leaf(A: Tensor) -> _Factored:
    packed, tau = torch.geqrf(A)
    k = len(tau)
    V = packed[:, :k].tril(-1)
    V.diagonal().fill_(1)
    products = V.T @ V
    T = A.new_zeros(k, k)
    for i in range(k):  # of the first i + 1 reflections, from that of the first i
        T[i, i] = tau[i]
        T[:i, i] = -tau[i] * (T[:i, :i] @ products[:i, i])
    return _Factored(V, T, packed[:k].triu())


def _reflect_both_sides(A: Tensor, of: Reflections) -> None:
    """Q'A Q in place, for Q = I − V T Vᵀ."""
    W = A @ of.VT
    Z = torch.addmm(W, of.V, of.VT.T @ W, alpha=-0.5)
    A.addmm_(torch.cat([of.V, Z], 1), torch.cat([Z, of.V], 1).T, alpha=-1)


def _orthogonal(n: int, reflections: list[Reflections], like: Tensor) -> Tensor:
    Q = torch.eye(n, dtype=like.dtype, device=like.device)
    for of in reversed(reflections):  # what is before `start` is still that of the identity
        part = Q[of.start :, of.start :]
        part.addmm_(of.VT, of.V.T @ part, alpha=-1)
    return Q
