"""Categories of images as columns of 0 and 1, and their scores from embeddings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainenc.conversion import numeric_array, plain_array, text_labels


@dataclass(frozen=True)
class Categories:
    """Which image is of which category.

    Attributes
    ----------
    names : list of str
    train, test : arrays of bool, shape (n_images, n_categories)
    """

    names: list[str]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def category_table(categories: Any, n_train: int) -> Categories:
    """A pair (of train, of test) of labels, or of columns of 0 and 1, checked.

    An image without a label (None, NaN) is of no category. Categories without a training image are
    left out.

    Raises
    ------
    ValueError : no pair, other numbers of columns, numbers other than 0 and 1, rows that lack.
    """
    if not isinstance(categories, tuple | list) or len(categories) != 2:
        raise ValueError("categories must be a pair: of the training images, of the test images")
    train, test = (plain_array(part, "categories") for part in categories)
    if train.ndim != test.ndim:
        raise ValueError(f"categories {train.shape} and {test.shape} must have as many dimensions")
    if train.ndim == 2:
        found = [numeric_array(part, "categories") for part in (train, test)]
        if found[0].shape[1] != found[1].shape[1]:
            raise ValueError(f"categories {train.shape} and {test.shape} must have as many columns")
        if not all(np.isin(part, (0, 1)).all() for part in found):
            raise ValueError("categories with two dimensions must be 0 or 1, a column for each")
        names = [str(i) for i in range(train.shape[1])]
        tables = [part == 1 for part in found]
    else:
        labels = [text_labels(part, "categories") for part in (train, test)]
        names = sorted({name for name in labels[0] if name is not None})
        tables = [np.array([[own == name for name in names] for own in part]) for part in labels]
    if len(tables[0]) != n_train:
        raise ValueError(
            f"categories of train have {len(tables[0])} rows, but there are {n_train} images"
        )
    kept = np.flatnonzero(tables[0].any(axis=0))
    if not kept.size:
        raise ValueError("categories has no category with a training image")
    return Categories([names[i] for i in kept], *(table[:, kept] for table in tables))


def prototype_scores(
    embeddings: np.ndarray, targets: np.ndarray, categories: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Scores (n_images, n_categories): embedding times mean target of a category, both centred.

    Not a cosine, so that an embedding at the mean has a score, 0, and a constant one the same
    score for every image.
    """
    mean = targets.mean(axis=0, dtype=np.float64)
    prototypes = np.stack([targets[of].mean(axis=0, dtype=np.float64) for of in categories.T])
    flat = embeddings.reshape(len(embeddings), -1)
    return (flat - mean) @ (prototypes - mean).T
