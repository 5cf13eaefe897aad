"""What predicted embeddings hold: categories of images, and how many dimensions vary."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics.sums import check_matrix, check_pair
from brainenc.numeric import average_ranks


def category_auc(
    scores: ArrayLike, labels: ArrayLike, *, min_positives: int = 5
) -> NDArray[np.float64]:
    """Area under the ROC curve of each category, over images.

    The probability that an image of the category has a higher score than one that is not of it, a
    tie counting one half. It is computed within a category: pooled over categories, a constant that
    follows their frequencies would be above .5.

    Parameters
    ----------
    scores : array, shape (n_images, n_categories)
        Larger for images that are more likely of the category.
    labels : array, shape (n_images, n_categories)
        1 or True where the image is of the category, 0 where not.
    min_positives : int
        Fewest images of a category, and fewest of no such category.

    Returns
    -------
    array, shape (n_categories,)
        Chance, and the value of a constant score, is exactly .5. NaN with too few images, or where
        a score is NaN. Compare AUC − .5, not AUC, in ratios.

    Raises
    ------
    ValueError : shapes that do not match, or labels that are not 0 or 1.

    Examples
    --------
    >>> labels = np.arange(20)[:, None] < 8
    >>> category_auc(np.zeros((20, 1)), labels)
    array([0.5])
    >>> category_auc(-np.arange(20)[:, None], labels)
    array([1.])
    """
    scores, given = check_pair(scores, labels)
    if not np.isin(given, (0, 1)).all():
        raise ValueError("labels must be 0 or 1 (or bool), one column per category")
    found = np.full(scores.shape[1], np.nan)
    for category, (values, positive) in enumerate(zip(scores.T, given.T == 1, strict=True)):
        n_positive = int(positive.sum())
        n_negative = len(values) - n_positive
        if min(n_positive, n_negative) < max(min_positives, 1) or np.isnan(values).any():
            continue
        above = average_ranks(values)[positive].sum() - n_positive * (n_positive + 1) / 2
        found[category] = above / (n_positive * n_negative)
    return found


def output_dimension(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Number of dimensions in which predictions vary, relative to that of the targets.

    The participation ratio (Σλ)² / Σλ² of the eigenvalues λ of the covariance over images, of the
    predictions over that of the targets. Predictions that collapse to a few outputs, whatever the
    image, show near 0.

    Parameters
    ----------
    predictions, targets : array, shape (n_images, n_features)

    Returns
    -------
    float
        NaN if either is constant, or has NaN.

    Raises
    ------
    ValueError : shapes that do not match.

    Examples
    --------
    >>> targets = np.random.default_rng(0).standard_normal((200, 20))
    >>> round(output_dimension(3 * targets, targets), 3)
    1.0
    >>> output_dimension(targets[:, :1] * np.ones(20), targets) < 0.06
    True
    """
    predictions, targets = check_pair(predictions, targets)
    return _participation(predictions, "predictions") / _participation(targets, "targets")


def _participation(values: np.ndarray, name: str) -> float:
    deviations = check_matrix(values, name).astype(np.float64)
    size = np.linalg.norm(deviations)
    deviations -= deviations.mean(axis=0)
    wide = deviations.shape[1] > deviations.shape[0]
    gram = deviations @ deviations.T if wide else deviations.T @ deviations
    total = float(np.trace(gram))
    # The mean is known to the round-off of a sum of the values.
    if not np.sqrt(total) > (1e-6 if values.dtype == np.float32 else 1e-12) * size:
        return float("nan")
    return total**2 / float(np.square(gram).sum())
