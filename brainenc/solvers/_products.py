"""Sums of matrix products over blocks of columns, in place."""

from typing import Any

import numpy as np

from brainenc.arrays import blocks


def total_of_products(
    n: int, m: int, dtype: np.dtype, device: Any, *, symmetric: bool = False
) -> Any:
    """Sum of products a bᵀ, (n, m), to which blocks are added by ``add(a, b)``.

    Parameters
    ----------
    n, m : int
    dtype : float32 or float64
    device : str or torch.device
    symmetric : bool
        Whether a and b are the same.
    """
    if str(device) == "cpu" or str(device).startswith("mps"):  # no double precision there
        return _SymmetricTotal(n, dtype) if symmetric else _Total(n, m, dtype)
    return _DeviceTotal(n, m, dtype, device)


class _Total:
    """Sum of products a bᵀ, added in place by BLAS."""

    def __init__(self, n: int, m: int, dtype: np.dtype):
        from scipy.linalg import get_blas_funcs

        # BLAS adds to matrices in Fortran order only.
        self.sum = np.zeros((m, n), dtype, order="F")
        self.gemm = get_blas_funcs("gemm", dtype=dtype)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        # The transpose of a block in C order is in Fortran order.
        self.gemm(1, b.T, a.T, 1, self.sum, trans_a=1, overwrite_c=1)

    def result(self) -> np.ndarray:
        return self.sum.T


class _SymmetricTotal:
    """Sum of products a aᵀ: half of the operations, as one triangle is computed."""

    def __init__(self, n: int, dtype: np.dtype):
        from scipy.linalg import get_blas_funcs

        self.sum = np.zeros((n, n), dtype, order="F")
        self.syrk = get_blas_funcs("syrk", dtype=dtype)

    def add(self, a: np.ndarray, _: np.ndarray) -> None:
        self.syrk(1, a.T, 1, self.sum, trans=1, lower=1, overwrite_c=1)

    def result(self) -> np.ndarray:
        found = self.sum.T  # its upper triangle, in C order
        for rows in blocks(len(found), 512):
            found[rows.stop :, rows] = found[rows, rows.stop :].T
            found[rows, rows] = np.triu(found[rows, rows]) + np.triu(found[rows, rows], 1).T
        return found


class _DeviceTotal:
    """Sum of products a bᵀ on a GPU, in full precision."""

    def __init__(self, n: int, m: int, dtype: np.dtype, device: Any):
        import torch

        self.device = device
        self.sum = torch.zeros(n, m, dtype=getattr(torch, str(dtype)), device=device)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        import torch

        from brainenc.devices import full_precision

        with full_precision():
            ours, theirs = (torch.from_numpy(block).to(self.device) for block in (a, b))
            self.sum.addmm_(ours, theirs.T)

    def result(self) -> np.ndarray:
        return self.sum.cpu().numpy()
