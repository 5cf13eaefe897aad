"""Ridge from rows that belong to images: trials or averages to learn from, others to choose by.

The penalty is chosen on held-out rows of the kind that the test will have, since the best one
depends on their noise: chosen on single trials it is several times too large for averages.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainenc.model_selection import Folds
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.voxels import choose_alphas, choose_per_voxel

#: Value of the column that stands for the intercept of weighted rows: its penalty is negligible.
_INTERCEPT = 1e3


@dataclass(frozen=True)
class Rows:
    """Responses (n_rows, n_voxels) and the image of each row (n_rows,)."""

    responses: np.ndarray
    images: NDArray[np.int64]

    def of_images(self, images: np.ndarray) -> "Rows":
        """Rows of some images."""
        some = np.isin(self.images, images)
        return Rows(self.responses[some], self.images[some])


def fit_rows(
    learned: Rows,
    held: Rows,
    targets: np.ndarray,
    folds: Folds,
    *,
    weights: np.ndarray | None = None,
    alphas: Any = "auto",
    alpha_per_target: Any = "auto",
    **options: Any,
) -> tuple[RidgeRegression, np.ndarray]:
    """Ridge from `learned` rows, with the penalty that is best for `held` rows of held-out images.

    Parameters
    ----------
    learned, held : Rows
    targets : array, shape (n_images, n_targets)
    folds : list of (train, test) images
    weights : array, shape (n_images,), optional
        Of the squared errors of an image's rows; those with weight 0 are left out.
    alphas, alpha_per_target, **options
        As for `RidgeDecoder`.

    Returns
    -------
    regression : RidgeRegression
    held_out : array, shape (n_images, n_targets)
        Mean over the `held` rows of an image; NaN where there is none.
    """
    if weights is not None:
        kept = np.flatnonzero(weights > 0)
        learned, held = learned.of_images(kept), held.of_images(kept)
    system = _system(learned, held, targets, weights)
    per_target = choose_per_voxel(alpha_per_target, len(np.unique(learned.images)))
    size = len(learned.images) if weights is None else float(weights[learned.images].sum())
    shape = (max(1, round(size)), learned.responses.shape[1])
    tried = choose_alphas(alphas, shape) * system.copies
    cut = _cut(folds, learned, held, system.copies)
    found, predicted = RidgeRegression.fit(
        *(np.concatenate([system.X, system.X_held]), np.concatenate([system.Y, system.Y_held])),
        alphas=tried,
        alpha_per_voxel=per_target,
        cv=cut,
        standardize=False,
        **options,
    )
    final = _with_penalties(system, found.alphas, options)
    return system.regression(final), system.held_out(predicted[len(system.X) :], len(targets))


def beside(
    n_images: int, averages: np.ndarray, targets: np.ndarray, of_images: np.ndarray
) -> tuple[Rows, np.ndarray, Folds]:
    """Validation images behind `n_images` training images, as the one fold of `fit_rows`.

    Returns
    -------
    held : Rows
        The validation images.
    targets : array, shape (n_images + n_validation, n_targets)
    folds : list of one (training images, validation images)
    """
    others = n_images + np.arange(len(averages))
    both = np.concatenate([of_images, targets.astype(of_images.dtype, copy=False)])
    return Rows(averages, others), both, [(np.arange(n_images), others)]


def _cut(folds: Folds, learned: Rows, held: Rows, copies: int) -> Folds:
    """Folds of images as folds of the rows of a `_System`."""
    cut = []
    n = len(learned.images)
    for train, test in folds:
        rows = np.flatnonzero(np.isin(learned.images, train))
        tested = copies * n + np.flatnonzero(np.isin(held.images, test))
        if len(rows) and len(tested):
            cut.append((np.concatenate([rows + copy * n for copy in range(copies)]), tested))
    return cut


def _with_penalties(
    system: "_System", alphas: np.ndarray, options: dict[str, Any]
) -> RidgeRegression:
    """Ridge from the learned rows alone, with a given penalty for each target."""
    n = len(system.X)
    one = [(np.arange(n - 1), np.array([n - 1]))]  # nothing is left to choose
    parts = []
    for alpha in np.unique(alphas):
        targets = np.flatnonzero(alphas == alpha)
        fit, _ = RidgeRegression.fit(
            *(system.X, system.Y[:, targets]),
            alphas=[alpha],
            alpha_per_voxel=False,
            cv=one,
            standardize=False,
            **options,
        )
        parts.append((targets, fit))
    if len(parts) == 1:
        return parts[0][1]
    first = parts[0][1]
    coef = np.empty((len(first.coef), len(alphas)), first.coef.dtype)
    intercept = np.empty(len(alphas), first.intercept.dtype)
    for targets, fit in parts:
        coef[:, targets], intercept[targets] = fit.coef, fit.intercept
    return replace(first, coef=coef, intercept=intercept, alphas=alphas)


@dataclass(frozen=True)
class _System:
    """Rows as a regression with equal weights; without weights these are the rows themselves."""

    X: np.ndarray
    Y: np.ndarray
    X_held: np.ndarray
    Y_held: np.ndarray
    images_held: np.ndarray

    copies = 1

    def regression(self, fit: RidgeRegression) -> RidgeRegression:
        return fit

    def unscaled(self, predicted: np.ndarray) -> np.ndarray:
        return predicted

    def held_out(self, predicted: np.ndarray, n_images: int) -> np.ndarray:
        """Mean over the rows of each image."""
        predicted = self.unscaled(predicted)
        total = np.zeros((n_images, predicted.shape[1]), predicted.dtype)
        np.add.at(total, self.images_held, predicted)
        count = np.bincount(self.images_held, minlength=n_images)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / count


@dataclass(frozen=True)
class _Weighted(_System):
    """Rows times the square roots of their weights, each with its mirror image.

    With mirror images the mean that the solver subtracts is 0, so that it fits no intercept: this
    is the last column, which is scaled as the rows are. Both copies double the squared errors, and
    with it the penalty.
    """

    mean: np.ndarray
    target_mean: np.ndarray
    roots_held: np.ndarray

    copies = 2

    def regression(self, fit: RidgeRegression) -> RidgeRegression:
        weights = fit.weights()
        n_voxels = len(self.mean)
        return RidgeRegression(
            coef=weights[:-1],
            intercept=self.target_mean + _INTERCEPT * weights[-1],
            alphas=fit.alphas / self.copies,
            feature_mean=self.mean,
            feature_scale=np.ones(n_voxels),
        )

    def unscaled(self, predicted: np.ndarray) -> np.ndarray:
        return predicted / self.roots_held[:, None] + self.target_mean


def _system(learned: Rows, held: Rows, targets: np.ndarray, weights: np.ndarray | None) -> _System:
    if weights is None:
        rows = (learned.responses, targets[learned.images])
        return _System(*rows, held.responses, targets[held.images], held.images)
    root, root_held = np.sqrt(weights[learned.images]), np.sqrt(weights[held.images])
    share = np.square(root) / np.square(root).sum()
    mean = share @ learned.responses.astype(np.float64)
    target_mean = share @ targets[learned.images].astype(np.float64)

    def scaled(rows: Rows, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        X = np.hstack([rows.responses - mean, np.full((len(roots), 1), _INTERCEPT)])
        return X * roots[:, None], (targets[rows.images] - target_mean) * roots[:, None]

    X, Y = scaled(learned, root)
    rows_held = scaled(held, root_held)
    both = np.concatenate([X, -X]), np.concatenate([Y, -Y])
    return _Weighted(*both, *rows_held, held.images, mean, target_mean, root_held)
