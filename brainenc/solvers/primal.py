"""Ridge in primal form: a search over penalties on Gram matrices, with torch on any device.

Every fold needs XᵀX and XᵀY of its training images only; one pass over the images gives them for
all folds, as the total minus what the test images add. In the principal axes of the training
features the weights of a penalty α are c / (λ + α), so a fold costs one eigendecomposition,
however many penalties are tried. What is left is the squared error on the test images, for every
penalty and voxel: it is computed nearly first, and again in full precision for those voxels in
which that could change the choice. Nearly means in low precision, and with weights of all penalties
mixed from those of a few: to a percent, 13 curves 1 / (λ + α) are mixtures of some five.
"""

import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from brainenc.devices import full_precision
from brainenc.model_selection import Folds
from brainenc.solvers.result import RidgeFit

#: Voxels solved together: matrices of voxels × features of some MB.
_BLOCK_VOXELS = 1024
#: Pairs of voxel and penalty screened together: their weights stay in the cache.
_BLOCK_PAIRS = 2048
#: Strips a Gram matrix is cut into, to save what its symmetry makes needless.
_N_STRIPS = 4
#: Weights of all penalties are mixed from those along axes this large, as a share of the largest.
_KEPT = 0.01
#: The screening takes its errors to be within so many standard deviations.
_SAFETY = 4


def ridge_cv(
    X: np.ndarray,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    *,
    per_voxel: bool = True,
    device: Any = "cpu",
) -> RidgeFit:
    """Ridge regression in primal form.

    Minimises ‖Xw + b − y‖² + α‖w‖² for each voxel, with the α that has the smallest mean squared
    error over `folds`.
    The form to use when there are fewer features than images: memory grows with n_features².

    Parameters
    ----------
    X : array, shape (n_images, n_features), float
    Y : array, shape (n_images, n_voxels), float, without NaN
    alphas : array, shape (n_alphas,)
    folds : list of (train, test) positions
        Every image in exactly one test part, for `RidgeFit.held_out` to be complete; images in
        no test part are NaN there.
    per_voxel : bool
        Choose α for each voxel by itself, or one for all voxels.
    device : str or torch.device

    Returns
    -------
    RidgeFit, in the dtype of X.

    Notes
    -----
    Of penalties with equal errors the first is taken. The principal axes come from XᵀX, so what
    X does along directions weaker than √ε times its strongest one (ε the precision of its dtype)
    is round-off, which α has to outweigh. Voxels that choose an α too small for that are solved
    again in double precision.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264, whose himalaya package gives the same answers.
    """
    n_images, n_voxels = Y.shape
    with full_precision():
        design = _Design(X, alphas, folds, _working_device(device))
        dtype = design.X.numpy(force=True).dtype
        blocks = list(_slices(n_voxels, _BLOCK_VOXELS))
        shared = None if per_voxel else _shared_alpha(design, Y, blocks)
        fit = RidgeFit(
            weights=np.empty((X.shape[1], n_voxels), dtype),
            intercept=np.empty(n_voxels, dtype),
            alphas=np.empty(n_voxels, dtype),
            held_out=np.empty((n_images, n_voxels), dtype),
        )
        if not design.is_partition:
            fit.held_out[:] = np.nan
        for voxels in blocks:
            block = design.block(Y[:, voxels])
            best = design.alphas[design.choose(block) if shared is None else shared]
            _store(fit, voxels, design, block, best.expand(len(block.mean)))
        lost = np.flatnonzero(fit.alphas < design.round_off())
    if len(lost) and X.dtype == np.float32:
        doubles = X.astype(np.float64)
        again = ridge_cv(doubles, Y[:, lost], alphas, folds, per_voxel=per_voxel, device=device)
        for name in ("weights", "intercept", "alphas", "held_out"):
            getattr(fit, name)[..., lost] = getattr(again, name)
    return fit


def _shared_alpha(design: "_Design", Y: np.ndarray, blocks: list[slice]) -> Tensor:
    """Position of the penalty with the smallest error summed over voxels."""
    total: Any = 0
    for voxels in blocks:
        block = design.block(Y[:, voxels])
        each = [design.errors(block, alpha.expand(len(block.mean))) for alpha in design.alphas]
        total = total + torch.stack(each).sum(1)
    return total.argmin()


def _store(
    fit: RidgeFit, voxels: slice, design: "_Design", block: "_Block", alphas: Tensor
) -> None:
    """Refit a block to all images; its results go into the arrays of `fit`."""
    weights = design.all.axes @ (block.of_all / (design.all.values + alphas[:, None])).T
    fit.weights[:, voxels] = weights.numpy(force=True)
    fit.intercept[voxels] = (block.mean - design.mean @ weights).numpy(force=True)
    fit.alphas[voxels] = alphas.numpy(force=True)
    held_out = design.held_out(block, alphas)
    for (_, test), prediction in zip(design.folds_given, held_out, strict=True):
        fit.held_out[test, voxels] = prediction.add_(block.mean).numpy(force=True)


class _Axes(NamedTuple):
    """Principal axes of some images' features: XᵀX = axes · diag(values) · axesᵀ once centred."""

    mean: Tensor
    values: Tensor
    axes: Tensor

    def project(self, products: Tensor) -> Tensor:
        """Centred YᵀX in these axes, (n_voxels, n_features), from Yᵀ[X, 1]."""
        return torch.addr(products[:, :-1], products[:, -1], self.mean, alpha=-1) @ self.axes


def _principal_axes(gram: Tensor) -> _Axes:
    """From [X, 1]ᵀ[X, 1]."""
    mean = gram[-1, :-1] / gram[-1, -1]
    values, axes = torch.linalg.eigh(torch.addr(gram[:-1, :-1], gram[-1, :-1], mean, alpha=-1))
    return _Axes(mean, values.clamp_(min=0), axes)  # round-off makes some negative


class _Fold(NamedTuple):
    """A fold: the axes of its training images, and its test images in them."""

    train: _Axes
    n_train: int
    test: slice | Tensor  # rows of the design
    features: Tensor  # (n_test, n_features)

    def predict(self, projected: Tensor, mean: Tensor, alphas: Tensor) -> Tensor:
        """Test images at one penalty per voxel, (n_test, n_voxels)."""
        weights = projected / (self.train.values + alphas[:, None])
        return torch.addmm(mean, self.features, weights.T)


class _Block(NamedTuple):
    """Some voxels' centred responses, and what the folds and the refit need of them."""

    Y: Tensor  # (n_images, n_voxels)
    mean: Tensor  # of Y before it was centred
    of_folds: list[Tensor]  # projections of the training images, (n_voxels, n_features)
    means: list[Tensor]  # of the training images
    of_all: Tensor  # projection of all images

    def of(self, voxels: Tensor) -> "_Block":
        """The same for some of the voxels."""
        return _Block(
            self.Y[:, voxels],
            self.mean[voxels],
            [part[voxels] for part in self.of_folds],
            [mean[voxels] for mean in self.means],
            self.of_all[voxels],
        )


class _Design:
    """Features, penalties and folds, ready for one block of voxels after another.

    Where folds part the images, rows are in the order of the folds: test images are slices then,
    which need no copies.
    """

    def __init__(self, X: np.ndarray, alphas: Any, folds: Folds, device: torch.device):
        self.folds_given = folds
        self.is_partition = _is_partition(folds, len(X))
        tests = [test for _, test in folds]
        self.images = np.arange(len(X))
        self.tests: list[slice | Tensor] = [torch.as_tensor(test) for test in tests]
        if self.is_partition:
            self.images = np.concatenate(tests)
            bounds = np.cumsum([0, *map(len, tests)]).tolist()
            self.tests = [slice(*ends) for ends in pairwise(bounds)]
        features = torch.as_tensor(X[self.images], device=device)
        self.alphas = torch.as_tensor(np.asarray(alphas)).to(features)
        self.mean = features.mean(0)
        features -= self.mean
        self.X = torch.cat([features, features.new_ones(len(X), 1)], dim=1)
        *grams, total = self._products(self.X)
        self.all = _principal_axes(total)
        self.folds = [
            self._fold(gram, len(train), rows)
            for gram, (train, _), rows in zip(grams, folds, self.tests, strict=True)
        ]
        self.screens = [_Screen(fold, self.alphas) for fold in self.folds]

    def _fold(self, gram: Tensor, n_train: int, test: slice | Tensor) -> _Fold:
        axes = _principal_axes(gram)
        return _Fold(axes, n_train, test, (self.X[test, :-1] - axes.mean) @ axes.axes)

    def _products(self, left: Tensor) -> list[Tensor]:
        """leftᵀ[X, 1] over the training images of each fold, and last over all images."""
        if self.is_partition:
            of_test = [left[test].T @ self.X[test] for test in self.tests]
            total = functools.reduce(torch.add, of_test)
            return [*(torch.sub(total, part, out=part) for part in of_test), total]
        of_train = [left[train].T @ self.X[train] for train, _ in self.folds_given]
        return [*of_train, left.T @ self.X]

    def round_off(self) -> float:
        """Eigenvalues of XᵀX, and penalties, that are no larger than what rounding made of it."""
        return torch.finfo(self.X.dtype).eps * float(self.all.values[-1])

    def block(self, Y: np.ndarray) -> _Block:
        responses = torch.as_tensor(Y[self.images]).to(self.X)
        mean = responses.mean(0)
        responses -= mean
        *products, total = self._products(responses)
        pairs = list(zip(self.folds, products, strict=True))
        return _Block(
            responses,
            mean,
            [fold.train.project(part) for fold, part in pairs],
            [part[:, -1] / fold.n_train for fold, part in pairs],
            self.all.project(total),
        )

    def held_out(self, block: _Block, alphas: Tensor) -> list[Tensor]:
        """Predictions of the test images of each fold, of centred responses."""
        parts = zip(self.folds, block.of_folds, block.means, strict=True)
        return [fold.predict(projected, mean, alphas) for fold, projected, mean in parts]

    def errors(self, block: _Block, alphas: Tensor) -> Tensor:
        """Mean over folds of the squared error at one penalty per voxel, (n_voxels,)."""
        predictions = self.held_out(block, alphas)
        of_folds = [
            prediction.sub_(block.Y[fold.test]).square_().mean(0)
            for fold, prediction in zip(self.folds, predictions, strict=True)
        ]
        return torch.stack(of_folds).mean(0)

    def choose(self, block: _Block) -> Tensor:
        """Position of the penalty with the smallest error, for each voxel."""
        error, doubt = self._screened(block)
        possible = error - doubt <= (error + doubt).amin(1, keepdim=True)
        undecided = possible & (possible.sum(1, keepdim=True) > 1)
        for pairs in undecided.nonzero().split(_BLOCK_VOXELS):
            voxels, penalties = pairs.T
            error[voxels, penalties] = self.errors(block.of(voxels), self.alphas[penalties])
        return error.where(possible, torch.inf).argmin(1)

    def _screened(self, block: _Block) -> tuple[Tensor, Tensor]:
        """Mean over folds of the squared errors (n_voxels, n_alphas), and how far they are off."""
        parts = zip(self.folds, self.screens, block.of_folds, block.means, strict=True)
        found = [
            screen.errors(projected, block.Y[fold.test] - mean)
            for fold, screen, projected, mean in parts
        ]
        errors, doubts = (torch.stack(part) for part in zip(*found, strict=True))
        return errors.mean(0), _SAFETY * doubts.square().sum(0).sqrt() / len(doubts)


class _Screen:
    """Squared errors of a fold at all penalties, nearly: few products, in low precision.

    With weights z in the axes of the training images, and test images P in the same axes, the
    error is ‖y‖² − 2 zᵀPᵀy + zᵀPᵀPz. Test images vary along nearly the same axes, so PᵀP is nearly
    diagonal: the diagonal counts in full, and little is lost with the rest, in which all the work
    is. There weights of all penalties are mixed from those of a few.
    """

    def __init__(self, fold: _Fold, alphas: Tensor):
        self.low = _screening_dtype(fold.features)
        # Features in units in which their squares sum up to 1: fourth powers of others may not be
        # finite.
        total = fold.features.square().sum().clamp(min=torch.finfo(fold.features.dtype).tiny)
        self.unit = total.sqrt()
        features = fold.features / self.unit
        self.features = features.to(self.low)
        self.shrinkage = total / (fold.train.values + alphas[:, None])
        gram = features.T @ features
        self.diagonal = gram.diagonal().clone()
        gram.fill_diagonal_(0)
        # √(1 / n_test), were the test images drawn like those of training.
        self.coupling = torch.linalg.norm(gram)
        self.strips = _strips(gram.to(self.low))

    def errors(self, projected: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors (n_voxels, n_alphas), and the standard deviation of what is lost.

        `Y` are the test images' responses minus the mean of the training images.
        """
        projected = projected / self.unit
        squares = Y.square().sum(0)[:, None]
        correlated = projected * (Y.T.to(self.low) @ self.features)
        linear = correlated @ self.shrinkage.T
        sizes = projected.square() * self.diagonal
        mixing, basis = self._mixed_from_few(sizes.mean(0))
        cross = self._cross(projected, mixing, basis)
        along_axes = sizes @ self.shrinkage.square().T
        predicted = along_axes + cross
        error = squares - 2 * linear + predicted
        # Each product is off by a random share: it averages out over the images.
        lost = (squares * predicted.clamp(min=0) / len(Y)).sqrt() + cross.abs()
        # So do the products of two axes, in which weights are replaced by their mixtures.
        replaced = sizes @ (self.shrinkage - mixing @ basis).square().T
        mixed = 2 * self.coupling * along_axes.sqrt() * replaced.sqrt()
        return error / len(Y), (torch.finfo(self.low).eps * lost + mixed) / len(Y)

    def _mixed_from_few(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """(n_alphas, k) and (k, n_features), whose product is nearly the shrinkage.

        Axes count as what voxels have in them: `sizes` are mean squares, (n_features,).
        """
        scale = sizes.sqrt().clamp(min=torch.finfo(sizes.dtype).eps * sizes.max().sqrt())
        scale = scale.where(scale > 0, 1)  # no voxel varies
        U, values, V = torch.linalg.svd(self.shrinkage * scale, full_matrices=False)
        n = int((values > _KEPT * values[0]).sum())
        return U[:, :n] * values[:n], V[:n] / scale

    def _cross(self, projected: Tensor, mixing: Tensor, basis: Tensor) -> Tensor:
        """Sum over pairs of different axes, (n_voxels, n_alphas)."""
        total = []
        for some in projected.split(max(1, _BLOCK_PAIRS // len(basis))):
            weights = (some[:, None] * basis).to(self.low)
            flat = weights.flatten(0, 1)
            product = torch.empty_like(flat)
            for strip in self.strips:
                stop, width = strip.shape
                torch.mm(flat[:, :stop], strip, out=product[:, stop - width : stop])
            of_pairs = product.view_as(weights) @ weights.mT
            total.append(((mixing @ of_pairs.to(mixing)) * mixing).sum(-1))
        return torch.cat(total)


def _strips(symmetric: Tensor) -> list[Tensor]:
    """Columns of a symmetric matrix down to the diagonal, twice what is above it.

    The sum over strips of aᵀ strip b, with a and b the parts of z that it faces, is zᵀMz.
    """
    bounds = np.linspace(0, len(symmetric), _N_STRIPS + 1).astype(int)
    strips = []
    for start, stop in pairwise(bounds):
        strip = symmetric[:stop, start:stop].clone()
        strip[:start] *= 2
        strips.append(strip)
    return [strip for strip in strips if strip.numel()]


def _screening_dtype(features: Tensor) -> torch.dtype:
    """A lower precision than that of the features, where the device is faster at it."""
    if features.dtype == torch.float64:
        return torch.float32
    if features.is_cuda:
        fast = torch.cuda.get_device_capability(features.device) >= (8, 0)
    else:
        known: dict = getattr(torch.cpu, "get_capabilities", dict)()
        fast = bool(known.get("amx_bf16") or known.get("avx512_bf16"))
    return torch.bfloat16 if fast else features.dtype


def _is_partition(folds: Folds, n_images: int) -> bool:
    """Whether each image is tested once, and trained on in all other folds."""
    tested = np.concatenate([test for _, test in folds])
    return np.array_equal(np.sort(tested), np.arange(n_images)) and all(
        len(np.unique(train)) == len(train) == n_images - len(test) for train, test in folds
    )


def _working_device(device: Any) -> torch.device:
    device = torch.device(device)
    # Apple's GPUs lack eigendecompositions and double precision.
    return torch.device("cpu") if device.type == "mps" else device


def _slices(n: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
