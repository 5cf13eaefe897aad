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
    train_known, test_known : arrays of bool, shape (n_images,)
        Images that have a label: without one an image is neither of a category nor of the rest.
    """

    names: list[str]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    train_known: NDArray[np.bool_]
    test_known: NDArray[np.bool_]


def label_columns(categories: Any) -> tuple[list[str] | None, NDArray[np.float64]]:
    """Labels (n_images,), or columns of 0 and 1, as columns of 1, 0 and NaN (no label).

    Returns
    -------
    names : list of str, sorted; None of columns
    columns : array, shape (n_images, n_categories)

    Raises
    ------
    ValueError : numbers other than 0 and 1, or more than two dimensions.
    """
    given = plain_array(categories, "categories")
    if given.ndim == 1:
        labels = text_labels(given, "categories")
        names = sorted({own for own in labels if own is not None})
        rows = [[float(own == n) if own is not None else np.nan for n in names] for own in labels]
        return names, np.array(rows).reshape(len(labels), len(names))
    table = given.astype(np.float64) if given.dtype == bool else numeric_array(given, "categories")
    if table.ndim != 2 or not np.isin(table[~np.isnan(table)], (0, 1)).all():
        raise ValueError(
            f"categories {table.shape} must be labels (n_images,), or 0 or 1, (n_images, "
            "n_categories)"
        )
    return None, table.astype(np.float64)


def category_table(categories: Any, n_train: int) -> Categories:
    """A pair (of train, of test) of labels, or of columns of 0 and 1, checked.

    An image without a label (None, or NaN in a column) is of no category, and unknown. One whose
    label no training image has is of no category, and known. Categories without a training image
    are left out.

    Raises
    ------
    ValueError : no pair, other numbers of columns, numbers other than 0 and 1, rows that lack.
    """
    if not isinstance(categories, tuple | list) or len(categories) != 2:
        raise ValueError("categories must be a pair: of the training images, of the test images")
    (names, train), (others, test) = (label_columns(part) for part in categories)
    if names is None or others is None:
        if names is not others or train.shape[1] != test.shape[1]:
            raise ValueError(
                f"categories {train.shape} and {test.shape} must both be labels, or have as many "
                "columns"
            )
        names = [str(i) for i in range(train.shape[1])]
    else:
        place = {name: i for i, name in enumerate(others)}
        missing = np.isnan(test).any(axis=1) if others else np.ones(len(test), dtype=bool)
        new = np.where(missing, np.nan, 0.0)
        chosen = [test[:, place[n]] if n in place else new for n in names]
        test = np.stack(chosen, axis=1) if chosen else np.empty((len(test), 0))
    known = [np.logical_not(np.isnan(table).any(axis=1)) for table in (train, test)]
    tables = [(t == 1) & k.reshape(-1, 1) for t, k in zip((train, test), known, strict=True)]
    if len(tables[0]) != n_train:
        raise ValueError(
            f"categories of train have {len(tables[0])} rows, but there are {n_train} images"
        )
    kept = np.flatnonzero(tables[0].any(axis=0))
    if not kept.size:
        raise ValueError("categories has no category with a training image")
    return Categories([names[i] for i in kept], *(table[:, kept] for table in tables), *known)


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
