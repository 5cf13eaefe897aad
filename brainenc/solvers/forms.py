"""Forms of a kernel in which ridge is cheap for every penalty: of eigenvectors, and of a band.

The constant is projected out of the kernel K first, so that the intercept is not penalised. In both
forms K = U B Uᵀ with orthonormal U, the axes. B is diagonal in the form of eigenvectors. In the
form of a band it is some hundred diagonals wide, takes a third of the time to find, and is solved
with each penalty in a time linear in its size.
"""

import copy
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from brainenc.solvers.band_reduction import BlockTridiagonal, reduce_to_band

#: Rows by their positions, or as a slice, which is not copied.
Rows = slice | Tensor
#: Blocks of rows of a symmetric product, of which only the lower half is computed. A GPU takes less
#: time for one product than for the start of four.
_GRAM_BLOCKS = 4
#: Images from which the band takes less time than eigenvectors, on a CPU with some thousand voxels:
#: it is found in less time, and each penalty takes more.
BAND_IMAGES = 5000
#: The largest eigenvalue, which only says what round-off is, is right to this.
_LARGEST_TOLERANCE = 1e-3


class Form(Protocol):
    """A kernel of n_images with the constant projected out.

    Attributes
    ----------
    axes : (n_images, n_axes), orthonormal
    largest : float
        The largest eigenvalue; 0 if there is none.
    """

    axes: Tensor
    largest: float

    def residuals(self, Y: Tensor, projected: Tensor, alphas: Tensor) -> Tensor:
        """(I − H) y of centred responses y at one penalty per voxel, (n_images, n_voxels).

        `projected` is axesᵀ Y.
        """
        ...

    def squares(self, Y: Tensor, projected: Tensor, alphas: Tensor) -> Tensor:
        """Squared residuals summed over images, for each voxel and penalty."""
        ...

    def left_gram(self, rows: Rows, alpha: float) -> Tensor:
        """(I − H) of some images, of which only the lower triangle is complete."""
        ...

    def freedom(self, alphas: Tensor) -> Tensor:
        """Degrees of freedom that each penalty leaves, the trace of I − H, without the constant."""
        ...

    def reordered(self, order: Tensor) -> "Form":
        """The same with images in another order."""
        ...


def form_of_kernel(K: Tensor) -> Form:
    """The form that takes less time, of a kernel (n_images, n_images)."""
    if len(K) > BAND_IMAGES and K.device.type == "cpu":
        return BandForm.of_kernel(K)
    return EigenForm.of_kernel(K)


def _without_constant(K: Tensor) -> tuple[Tensor, Tensor]:
    """A kernel on what has mean 0, (n − 1, n − 1), and the reflection that took it there.

    It takes the constant vector to the first axis, which is left out: the others are orthogonal to
    the constant at the level of round-off, whatever the penalty.
    """
    mirror = K.new_full((len(K),), len(K) ** -0.5)
    mirror[0] += 1
    mirror /= torch.linalg.norm(mirror)
    row = mirror @ K
    reflected = torch.addr(K, mirror, row, alpha=-2)
    reflected.addr_(row - 2 * (row @ mirror) * mirror, mirror, alpha=-2)
    return reflected[1:, 1:], mirror


def _axes_of_images(within: Tensor, mirror: Tensor) -> Tensor:
    """Axes (n, n − 1) of the images, from those of the kernel without the constant."""
    axes = torch.cat([within.new_zeros(1, within.shape[1]), within])
    return axes.addr_(mirror, mirror @ axes, alpha=-2)


class EigenForm:
    """A kernel by its eigenvectors.

    Parameters
    ----------
    values : (n_axes,)
    axes : (n_images, n_axes)
        Eigenvectors. Those with eigenvalue 0 may be left out.
    """

    def __init__(self, values: Tensor, axes: Tensor):
        self.values, self.axes = values, axes
        self.is_complete = axes.shape[1] >= len(axes) - 1
        self.largest = float(values[-1]) if len(values) else 0.0

    @classmethod
    def of_kernel(cls, K: Tensor) -> "EigenForm":
        """Of a kernel (n_images, n_images)."""
        inner, mirror = _without_constant(K)
        values, within = torch.linalg.eigh(inner)
        return cls(values.clamp_(min=0), _axes_of_images(within, mirror))

    def residuals(self, Y: Tensor, projected: Tensor, alphas: Tensor) -> Tensor:
        """See `Form`."""
        shares = self.values[:, None] + alphas
        if self.is_complete:
            return self.axes @ torch.div(alphas, shares, out=shares).mul_(projected)
        torch.div(self.values[:, None], shares, out=shares)
        return torch.addmm(Y, self.axes, shares.mul_(projected), alpha=-1)

    def squares(self, Y: Tensor, projected: Tensor, alphas: Tensor) -> Tensor:
        """See `Form`."""
        shares = (alphas[:, None] / (self.values + alphas[:, None])).square()
        along = projected.square()
        left = along.T @ shares.T
        if not self.is_complete:
            left += (Y.square().sum(0) - along.sum(0)).clamp_(min=0)[:, None]
        return left

    def left_gram(self, rows: Rows, alpha: float) -> Tensor:
        """See `Form`."""
        if self.is_complete:
            return lower_gram(self.axes[rows] * (alpha / (self.values + alpha)).sqrt())
        gram = lower_gram(self.axes[rows] * (self.values / (self.values + alpha)).sqrt())
        gram.add_(1 / len(self.axes)).neg_()
        gram.diagonal().add_(1)
        return gram

    def freedom(self, alphas: Tensor) -> Tensor:
        """See `Form`."""
        return freedom_left(self.values, alphas, len(self.axes))

    def reordered(self, order: Tensor) -> "EigenForm":
        """See `Form`."""
        return EigenForm(self.values, self.axes[order])


class BandForm:
    """A kernel by a band matrix.

    Parameters
    ----------
    band : BlockTridiagonal, of n_images − 1 rows
    axes : (n_images, n_images − 1)
    """

    def __init__(self, band: BlockTridiagonal, axes: Tensor):
        self.band, self.axes = band, axes
        self.largest = _largest_eigenvalue(band)
        ends = torch.as_tensor([len(block) for block in band.diagonal]).cumsum(0).tolist()
        self._slices = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self._factors: dict[float, _Factor] = {}

    @classmethod
    def of_kernel(cls, K: Tensor) -> "BandForm":
        """Of a kernel (n_images, n_images)."""
        inner, mirror = _without_constant(K)
        band, within = reduce_to_band(inner)
        del inner
        return cls(band, _axes_of_images(within, mirror))

    def residuals(self, Y: Tensor, projected: Tensor, alphas: Tensor) -> Tensor:
        """See `Form`. Fast if voxels of one penalty follow each other."""
        left = torch.empty_like(projected)
        values, lengths = alphas.unique_consecutive(return_counts=True)
        start = 0
        for alpha, length in zip(values.tolist(), lengths.tolist(), strict=True):
            voxels = slice(start, start + length)
            left[:, voxels] = self._solve(projected[:, voxels], alpha)
            start += length
        return self.axes @ left

    def squares(self, Y: Tensor, projected: Tensor, alphas: Tensor) -> Tensor:
        """See `Form`."""
        return torch.stack(
            [self._solve(projected, alpha).square_().sum(0) for alpha in alphas.tolist()], 1
        )

    def left_gram(self, rows: Rows, alpha: float) -> Tensor:
        """See `Form`."""
        half = self._forward(self.axes[rows].T, self._factor(alpha))
        return lower_gram(half.T).mul_(alpha)

    def freedom(self, alphas: Tensor) -> Tensor:
        """See `Form`."""
        traces = [self._factor(alpha).trace_of_inverse() for alpha in alphas.tolist()]
        return alphas * alphas.new_tensor(traces)

    def reordered(self, order: Tensor) -> "BandForm":
        """See `Form`."""
        found = copy.copy(self)  # with the same factors
        found.axes = self.axes[order]
        return found

    def _solve(self, Z: Tensor, alpha: float) -> Tensor:
        """α (B + α)⁻¹ Z."""
        factor = self._factor(alpha)
        return self._backward(self._forward(Z, factor), factor).mul_(alpha)

    def _forward(self, Z: Tensor, factor: "_Factor") -> Tensor:
        """L⁻¹ Z, where B + α = L Lᵀ."""
        found = Z.new_empty(Z.shape)
        for i, rows in enumerate(self._slices):
            part = Z[rows]
            if i:
                before = found[self._slices[i - 1]]
                part = torch.addmm(part, factor.below[i - 1], before, alpha=-1)
            torch.mm(factor.inverses[i], part, out=found[rows])
        return found

    def _backward(self, found: Tensor, factor: "_Factor") -> Tensor:
        """L⁻ᵀ Z in place."""
        for i in reversed(range(len(self._slices))):
            part = found[self._slices[i]]
            if i + 1 < len(self._slices):
                after = found[self._slices[i + 1]]
                part = torch.addmm(part, factor.below[i].T, after, alpha=-1)
            found[self._slices[i]] = factor.inverses[i].T @ part
        return found

    def _factor(self, alpha: float) -> "_Factor":
        if alpha not in self._factors:
            shift = 0.0
            while (factor := _Factor.of(self.band, alpha + shift)) is None:
                # Below round-off of the kernel, where the band may have negative eigenvalues.
                eps = torch.finfo(self.axes.dtype).eps
                shift = max(10 * shift, eps * max(self.largest, alpha))
            self._factors[alpha] = factor
        return self._factors[alpha]


class _Factor(NamedTuple):
    """L of L Lᵀ = B + α, by blocks: the inverses of those on its diagonal, and those below."""

    inverses: list[Tensor]
    below: list[Tensor]

    @classmethod
    def of(cls, band: BlockTridiagonal, alpha: float) -> "_Factor | None":
        """None if B + α is not positive definite."""
        inverses: list[Tensor] = []
        below: list[Tensor] = []
        for i, block in enumerate(band.diagonal):
            shifted = block.clone()
            shifted.diagonal().add_(alpha)
            if i:
                below.append(band.below[i - 1] @ inverses[-1].T)
                shifted.addmm_(below[-1], below[-1].T, alpha=-1)
            factor, info = torch.linalg.cholesky_ex(shifted)
            if info:
                return None
            identity = torch.eye(len(block), dtype=block.dtype, device=block.device)
            inverses.append(torch.linalg.solve_triangular(factor, identity, upper=False))
        return cls(inverses, below)

    def trace_of_inverse(self) -> float:
        """Trace of (B + α)⁻¹, whose blocks on the diagonal follow from the last one."""
        total, after = 0.0, None
        for i in reversed(range(len(self.inverses))):
            within = torch.eye(len(self.inverses[i])).to(self.inverses[i])
            if after is not None:
                within += self.below[i].T @ after @ self.below[i]
            after = self.inverses[i].T @ within @ self.inverses[i]
            total += float(after.trace())
        return total


def freedom_left(values: Tensor, alphas: Tensor, n_images: int) -> Tensor:
    """Degrees of freedom that each penalty leaves, for the eigenvalues of a centred kernel."""
    return n_images - 1 - (values / (values + alphas[:, None])).sum(1)


def lower_gram(X: Tensor) -> Tensor:
    """XXᵀ, of which only the lower triangle is complete."""
    if X.device.type != "cpu":
        return X @ X.T
    gram = X.new_zeros(len(X), len(X))
    for rows in torch.arange(len(X), device=X.device).tensor_split(_GRAM_BLOCKS):
        if len(rows):
            start, end = int(rows[0]), int(rows[-1]) + 1
            gram[start:end, :end] = X[start:end] @ X[:end].T
    return gram


def _largest_eigenvalue(band: BlockTridiagonal) -> float:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    if not all(torch.isfinite(block).all() for block in band.diagonal):
        raise ValueError("the kernel has numbers so large that their products are infinite")
    sizes = [len(block) for block in band.diagonal]
    n, like = sum(sizes), band.diagonal[0]

    def product(vector: np.ndarray) -> np.ndarray:
        parts = torch.as_tensor(vector.ravel()).to(like).split(sizes)
        found = [block @ part for block, part in zip(band.diagonal, parts, strict=True)]
        for i, block in enumerate(band.below):
            found[i + 1] += block @ parts[i]
            found[i] += block.T @ parts[i + 1]
        return torch.cat(found).numpy(force=True)

    operator = LinearOperator((n, n), matvec=product, dtype=like.numpy(force=True).dtype)
    try:
        found = eigsh(
            operator,
            1,
            which="LA",
            v0=np.ones(n),
            tol=_LARGEST_TOLERANCE,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        found = error.eigenvalues
    return max(float(found[0]), 0.0) if len(found) else 0.0
