"""Shared noise factors of voxels, with variances estimated on held-out images."""

from typing import Any

import numpy as np

from brainenc.model_selection import image_folds

#: Largest number of shared factors; usually fewer exceed chance on held-out trials.
MAX_FACTORS = 100
#: Folds over images for the variance of factors.
_N_FOLDS = 4
#: Rounds of subspace iteration, equal to two and a half of the usual two-sided scheme.
_N_ITERATIONS = 5


def shared_factors(
    rows: np.ndarray,
    images: np.ndarray,
    *,
    noise: np.ndarray | None = None,
    max_factors: int = MAX_FACTORS,
    random_state: Any = 0,
) -> np.ndarray:
    """Factors of the covariance of `rows`, with their variance on held-out images.

    Directions are principal components of the correlation matrix. The variance of the k-th is that
    of held-out images along the k-th direction of the training images, averaged over folds; the
    private variance is the mean variance in the remaining directions. Chance alignment of noise, or
    one image with large residuals, therefore gives no factor.

    Parameters
    ----------
    rows : array, shape (n_rows, n_voxels)
        Mean 0; 0 where missing. Overwritten.
    images : array of int, shape (n_rows,)
        Image of each row, counted from 0; the rows of an image are held out together.
    noise : array, shape (n_images, n_contrasts, n_voxels), optional
        Noise in the rows of an image, whose variance is subtracted. Rows must then be whitened for
        this noise, and directions are those of their covariance.
    max_factors, random_state
        As for `fit_residual_noise`.

    Returns
    -------
    array, shape (n_factors, n_voxels), float32

    References
    ----------
    Bartz (2016), arXiv 1611.00798 (cross-validated eigenvalues).
    """
    rng = np.random.default_rng(random_state)
    sd = np.sqrt(np.einsum("tv,tv->v", rows, rows) / max(np.count_nonzero(rows.any(axis=1)), 1))
    inverse_sd = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
    is_noise = np.zeros(len(rows), dtype=bool)
    if noise is not None:
        sd, inverse_sd = (sd > 0).astype(sd.dtype), (sd > 0).astype(sd.dtype)
        is_noise = np.repeat([False, True], [len(rows), noise.shape[0] * noise.shape[1]])
        rows = np.concatenate([rows, noise.reshape(-1, noise.shape[2])])
        images = np.concatenate([images, np.repeat(np.arange(len(noise)), noise.shape[1])])
    if not (present := rows.any(axis=1)).all():
        rows, images, is_noise = rows[present], images[present], is_noise[present]
    rows *= inverse_sd
    n_voxels, n_images = int((sd > 0).sum()), len(np.unique(images[~is_noise]))
    n_factors = min(max_factors, n_images // 2, n_voxels // 2)
    if n_factors < 1:
        return np.zeros((0, len(sd)), dtype=np.float32)
    # Products of rows suffice, for any number of voxels.
    products = rows @ rows.T
    along, total = _held_out_variance(products, images, is_noise, n_factors, rng)
    strength = _above_private(along, total, n_voxels, n_images)
    kept = strength > 0
    signal = slice(np.count_nonzero(~is_noise))  # noise rows come last
    weights = _direction_weights(products[signal, signal], n_factors, rng)
    directions = weights[:, kept].T.astype(rows.dtype) @ rows[signal]
    return (np.sqrt(strength[kept])[:, None] * directions * sd).astype(np.float32)


def _held_out_variance(
    products: np.ndarray,
    images: np.ndarray,
    is_noise: np.ndarray,
    n_factors: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of rows, and of noise, along directions found in the rows of other images.

    Parameters
    ----------
    products : array, shape (n_rows, n_rows)
        Scalar products of all rows.
    images, is_noise : arrays, shape (n_rows,)

    Returns
    -------
    along : array, shape (2, n_factors)
    total : array, shape (2,)
        Sum over all directions.
    """
    known = np.unique(images[~is_noise])
    folds = image_folds(min(_N_FOLDS, len(known)), len(known), random_state=_seed(rng))
    along, total = np.zeros((2, n_factors)), np.zeros(2)
    for train, test in folds:
        learnt = np.flatnonzero(np.isin(images, known[train]) & ~is_noise)
        weights = _direction_weights(products[np.ix_(learnt, learnt)], n_factors, rng)
        for i in range(2):
            left_out = np.flatnonzero(np.isin(images, known[test]) & (is_noise == bool(i)))
            n = max(len(left_out), 1) * len(folds)
            projected = products[np.ix_(left_out, learnt)] @ weights
            along[i] += np.square(projected).sum(axis=0) / n
            total[i] += products[left_out, left_out].sum() / n
    return along, total


def _direction_weights(products: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (n_rows, n) of the leading principal directions of mean-0 rows.

    Randomised subspace iteration (Halko et al. 2011, SIAM Review 53). Bases are orthonormalised by
    their small Gram matrices, in a tenth of the time of QR on narrow matrices.
    """
    basis = rng.standard_normal((len(products), min(n + 10, len(products))))
    for _ in range(_N_ITERATIONS):
        basis = _orthonormal(products @ basis.astype(products.dtype))
    small = basis.T @ (products @ basis.astype(products.dtype))
    squared, turn = np.linalg.eigh((small + small.T) / 2)
    squared, left = squared[: -n - 1 : -1], basis @ turn[:, : -n - 1 : -1]
    safe = np.where(squared > 1e-6 * squared[0], squared, np.inf)
    return (left / np.sqrt(safe)).astype(products.dtype)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns with the same span; 0 for missing directions."""
    columns = columns.astype(np.float64)
    squared, turn = np.linalg.eigh(columns.T @ columns)
    safe = np.where(squared > 1e-10 * squared[-1], squared, np.inf)
    return (columns @ turn) / np.sqrt(safe)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _above_private(
    along: np.ndarray, total: np.ndarray, n_voxels: int, n_independent: int
) -> np.ndarray:
    """Variance of factors beyond the private variance; 0 for those within chance.

    `along` (2, n_factors) and `total` (2,) are held-out variances of rows and of their noise.
    """
    from sklearn.isotonic import isotonic_regression  # imports scipy.stats

    variance = isotonic_regression(along[0] - along[1], increasing=False)
    private = (total - along.sum(axis=1)) / (n_voxels - len(variance))
    above = variance - max(private[0] - private[1], 0)
    # Chance: two standard errors of the variance of the same number of normal values.
    chance = 2 * np.sqrt(2 / n_independent) * private[0]
    return np.where(above > chance, above, 0).astype(np.float32)
