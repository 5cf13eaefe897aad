"""Ridge in primal form: a search over penalties on Gram matrices, with torch on any device.

Every fold needs only XᵀX and XᵀY of its training images; one pass over the images gives them for
all folds, as the total minus the part of the test images. In the principal axes of the training
features the weights at penalty α are c / (λ + α), so a fold costs one eigendecomposition for any
number of penalties. The remaining cost is the squared error on the test images for every penalty
and voxel. Test images are predicted at one penalty only, chosen by generalised cross-validation,
which is cheap and correct, or off by one, for most voxels. The change of the error to the other
penalties follows approximately from the residuals and a few mixtures of the test images; if the
approximation is not accurate enough for the choice, these penalties are predicted too.
"""

import functools
import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from brainenc.arrays import blocks
from brainenc.devices import full_precision, linear_algebra_device
from brainenc.model_selection import Folds
from brainenc.solvers._fold import N_CHECKS, Changes, make_fold, principal_axes
from brainenc.solvers.forms import freedom_left
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.search import choose_search
from brainenc.solvers.smoother import gcv_scores
from brainenc.solvers.voxels import voxel_groups

#: Voxels solved together: matrices of voxels × features of a few MB.
_BLOCK_VOXELS = 1024
#: Columns of X are padded to a multiple of this: one column more slows products by a third.
_COLUMNS = 16
#: Bound on the unknown part of a change of the error, in standard deviations.
_SAFETY = 4


def ridge_cv(
    X: np.ndarray,
    Y: np.ndarray,
    alphas: np.ndarray,
    folds: Folds,
    *,
    per_voxel: Any = True,
    search: str = "auto",
    device: Any = "cpu",
) -> RidgeFit:
    """Ridge regression in primal form.

    Minimises ‖Xw + b − y‖² + α‖w‖² for each voxel, with the α that has the smallest mean squared
    error over `folds`. Use it with fewer features than images: memory grows with n_features².

    Parameters
    ----------
    X : array, shape (n_images, n_features), float
    Y : array, shape (n_images, n_voxels), float, without NaN
    alphas : array, shape (n_alphas,)
    folds : list of (train, test) positions
        `RidgeFit.held_out` is NaN for images in no test part.
    per_voxel : bool, or array of labels, shape (n_voxels,)
        Choose α per voxel (True), one for all voxels (False), or one for the voxels of each label,
        such as those of an ROI.
    search : "auto", "guided" or "exact"
        "exact" predicts the test images at every penalty, "guided" where that may change the choice
        (see the notes). "auto" is exact up to 1000 images.
    device : str or torch.device

    Returns
    -------
    RidgeFit, in the dtype of X.

    Notes
    -----
    Of penalties with equal errors the first is chosen. A penalty is excluded without predicting
    every test image if the lower bound of its error (estimate minus four standard deviations) is
    too large. On data that are hard for this rule (an outlying image, features present in few
    images, folds of categories) the tests require the best penalty in 99 % of voxels, and otherwise
    an error within half a percent of the smallest.

    The principal axes come from XᵀX, so directions of X weaker than √ε times the strongest one (ε
    is the precision of its dtype) are round-off, which α has to outweigh. Voxels with a smaller α
    are solved again in double precision.

    References
    ----------
    Dupré la Tour et al. (2022), NeuroImage 264, whose himalaya package gives the same answers.

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.model_selection import image_folds
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 3)).astype("float32")
    >>> Y = X[:, :2] + 0.1 * rng.standard_normal((60, 2)).astype("float32")
    >>> fit = ridge_cv(X, Y, np.array([1e-3, 1e3]), image_folds(5, 60))
    >>> fit.weights.round(0) + 0.0
    array([[1., 0.],
           [0., 1.],
           [0., 0.]], dtype=float32)
    """
    n_images, n_voxels = Y.shape
    search = choose_search(search, n_images, folds)
    with full_precision():
        design = _Design(X, alphas, folds, linear_algebra_device(device))
        dtype = design.X.numpy(force=True).dtype
        parts = list(blocks(n_voxels, _BLOCK_VOXELS))
        shared = _shared_alphas(design, Y, voxel_groups(per_voxel, n_voxels))
        fit = RidgeFit(
            weights=np.empty((X.shape[1], n_voxels), dtype),
            intercept=np.empty(n_voxels, dtype),
            alphas=np.empty(n_voxels, dtype),
            held_out=np.empty((n_images, n_voxels), dtype),
        )
        if not design.is_partition:
            fit.held_out[:] = np.nan
        for voxels in parts:
            block = design.block(Y[:, voxels])
            own = None if shared is None else shared[voxels]
            _store(fit, voxels, design, block, *design.solve(block, own, search))
        lost = np.flatnonzero(fit.alphas < design.round_off())
    if len(lost) and X.dtype == np.float32:
        doubles = X.astype(np.float64)
        of_lost = per_voxel if np.ndim(per_voxel) == 0 else np.asarray(per_voxel)[lost]
        options: Any = {"per_voxel": of_lost, "search": search, "device": device}
        again = ridge_cv(doubles, Y[:, lost], alphas, folds, **options)
        for name in ("weights", "intercept", "alphas", "held_out"):
            getattr(fit, name)[..., lost] = getattr(again, name)
    return fit


def _shared_alphas(
    design: "_Design", Y: np.ndarray, groups: list[np.ndarray] | None
) -> Tensor | None:
    """Positions of the penalties of voxels that share them, (n_voxels,); None without groups."""
    if groups is None:
        return None
    found = torch.empty(Y.shape[1], dtype=torch.long, device=design.X.device)
    for group in groups:
        parts = [group[part] for part in blocks(len(group), _BLOCK_VOXELS)]
        found[torch.as_tensor(group)] = _shared_alpha(design, Y, parts)
    return found


def _shared_alpha(design: "_Design", Y: np.ndarray, parts: list[np.ndarray]) -> Tensor:
    """Position of the penalty with the smallest error summed over the voxels of `parts`.

    With weights s ∘ c, where only the shrinkage s depends on the penalty, the squared error is that
    of the mean response − 2 s·(c ∘ Pᵀy) + s·(PᵀP ∘ ccᵀ)s: terms that depend on voxels can be summed
    before penalties are tried.
    """
    sums: list[Any] = [(0, 0)] * len(design.folds)
    for voxels in parts:
        block = design.block(Y[:, voxels])
        for i, (fold, projected, mean) in enumerate(
            zip(design.folds, block.of_folds, block.means, strict=True)
        ):
            toward = (block.Y[fold.test] - mean).T @ fold.features
            linear = toward.mul_(projected).sum(0, dtype=torch.float64)
            sums[i] = (sums[i][0] + linear, sums[i][1] + (projected.T @ projected).double())
    changes = [
        fold.summed_changes(linear, outer, design.alphas)
        for fold, (linear, outer) in zip(design.folds, sums, strict=True)
    ]
    return torch.stack(changes).mean(0).argmin()


def _store(
    fit: RidgeFit,
    voxels: slice,
    design: "_Design",
    block: "_Block",
    chosen: Tensor,
    held_out: list[Tensor],
) -> None:
    """Refit a block to all images; write results into the arrays of `fit`."""
    alphas = design.alphas[chosen]
    weights = design.all.axes @ (block.of_all / (design.all.values + alphas[:, None])).T
    weights /= design.unit
    fit.weights[:, voxels] = weights.numpy(force=True)
    fit.intercept[voxels] = (block.mean - design.mean @ weights).numpy(force=True)
    fit.alphas[voxels] = design.alphas_given[chosen].numpy(force=True)
    for (_, test), prediction in zip(design.folds_given, held_out, strict=True):
        fit.held_out[test, voxels] = prediction.add_(block.mean).numpy(force=True)


class _Block(NamedTuple):
    """Centred responses of some voxels, and their means and projections per fold."""

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

    If folds partition the images, rows are in the order of the folds: test images are then slices,
    which need no copies. Features are scaled so that their squares sum to about 1, since fourth
    powers might overflow otherwise; the scale is a power of 2, which is free of rounding.
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
        self.mean = features.mean(0)
        features -= self.mean
        self.unit = 2.0 ** math.frexp(torch.linalg.norm(features))[1]
        features /= self.unit
        self.alphas_given = torch.as_tensor(np.asarray(alphas)).to(features)
        self.alphas = self.alphas_given / self.unit**2
        self.n_features = X.shape[1]
        ones = functional.pad(features.new_ones(len(X), 1), (0, -(self.n_features + 1) % _COLUMNS))
        self.X = torch.cat([features, ones], dim=1)
        *grams, total = self._products(self.X[:, : self.n_features + 1])
        self.all = principal_axes(total)
        self.folds = [
            make_fold(gram, len(train), rows, self.X[rows, : self.n_features])
            for gram, (train, _), rows in zip(grams, folds, self.tests, strict=True)
        ]

    def _products(self, left: Tensor) -> list[Tensor]:
        """leftᵀ[X, 1] over the training images of each fold, and last over all images."""
        if self.is_partition:
            of_test = [left[test].T @ self.X[test] for test in self.tests]
            total = functools.reduce(torch.add, of_test)
            products = [*(torch.sub(total, part, out=part) for part in of_test), total]
        else:
            of_train = [left[train].T @ self.X[train] for train, _ in self.folds_given]
            products = [*of_train, left.T @ self.X]
        return [product[:, : self.n_features + 1] for product in products]  # without the padding

    def round_off(self) -> float:
        """Size of eigenvalues of XᵀX, and penalties, at the level of round-off."""
        eps = torch.finfo(self.X.dtype).eps
        return eps * float(self.all.values[-1]) * self.unit**2

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

    def solve(
        self, block: _Block, shared: Tensor | None, search: str
    ) -> tuple[Tensor, list[Tensor]]:
        """Positions of the chosen penalties, or of the shared one, and their `held_out`."""
        if shared is not None:
            return shared, self.held_out(block, self.alphas[shared])
        if search == "exact":
            each = torch.arange(len(self.alphas), device=block.mean.device)
            errors = [self.errors(block, self.alphas[i].expand(len(block.mean))) for i in each]
            best = torch.stack(errors).argmin(0)
            return best, self.held_out(block, self.alphas[best])
        guess = self._guess(block)
        predictions = self.held_out(block, self.alphas[guess])
        best = self._best(block, guess, predictions)
        moved = (best != guess).nonzero()[:, 0]
        again = self.held_out(block.of(moved), self.alphas[best[moved]])
        for prediction, other in zip(predictions, again, strict=True):
            prediction[:, moved] = other
        return best, predictions

    def _guess(self, block: _Block) -> Tensor:
        """Position of the penalty with the smallest error by generalised cross-validation."""
        values, alphas = self.all.values, self.alphas[:, None]
        explained = block.of_all.square() @ ((values + 2 * alphas) / (values + alphas) ** 2).T
        left = block.Y.square().sum(0)[:, None] - explained
        freedom = freedom_left(values, self.alphas, len(self.X))
        return gcv_scores(left, freedom, len(self.X)).argmin(1)

    def _best(self, block: _Block, guess: Tensor, predictions: list[Tensor]) -> Tensor:
        """Position of the penalty with the smallest error, from predictions at a guess."""
        squares, changes = [], []
        parts = zip(self.folds, block.of_folds, predictions, strict=True)
        for fold, projected, prediction in parts:
            residuals = block.Y[fold.test] - prediction
            changes.append(fold.changes(projected, residuals, self.alphas, guess))
            squares.append(residuals.square_().mean(0))
        error, doubt = _over_folds(changes)
        possible = error - doubt <= (error + doubt).amin(1, keepdim=True)
        undecided = possible & (possible.sum(1, keepdim=True) > 1)
        undecided.scatter_(1, guess[:, None], False)
        error += torch.stack(squares).mean(0)[:, None]
        for pairs in undecided.nonzero().split(_BLOCK_VOXELS):
            voxels, penalties = pairs.T
            error[voxels, penalties] = self.errors(block.of(voxels), self.alphas[penalties])
        return error.where(possible, torch.inf).argmin(1)


def _over_folds(changes: list[Changes]) -> tuple[Tensor, Tensor]:
    """Means over folds of the changes of the error, and bounds on their errors."""
    error, deviation, diagonal, checked = map(torch.stack, zip(*changes, strict=True))
    doubt = _SAFETY * deviation.square().sum(0).sqrt() / len(changes)
    # A mean of squares of random mixtures, whose tails are at most normal.
    checked = checked.mean(0)
    chance = _SAFETY * math.sqrt(2 / (N_CHECKS * len(changes))) * checked
    gap = (checked - diagonal.mean(0)).abs()
    return error.mean(0), doubt + (gap + chance).where(gap > chance, 0)


def _is_partition(folds: Folds, n_images: int) -> bool:
    """Whether each image is a test image once and a training image in all other folds."""
    tested = np.concatenate([test for _, test in folds])
    return np.array_equal(np.sort(tested), np.arange(n_images)) and all(
        len(np.unique(train)) == len(train) == n_images - len(test) for train, test in folds
    )
