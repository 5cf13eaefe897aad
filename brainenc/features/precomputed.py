"""PrecomputedFeatures: features computed elsewhere, found by the content of the image."""

from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import row_blocks
from brainenc.conversion import check_row_order, numeric_array
from brainenc.data.images import as_images, image_batches
from brainenc.features.base import FeatureExtractor
from brainenc.identity import identity
from brainenc.storage import fingerprint


def image_hashes(images: Any) -> np.ndarray:
    """Hashes of images' pixels and shapes, by which `PrecomputedFeatures` and stores find images.

    Parameters
    ----------
    images : images
        Read one by one.

    Returns
    -------
    array of str, shape (n_images,)

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.features import image_hashes
    >>> images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    >>> first, second = image_hashes(images)
    >>> first == second, len(first)
    (True, 32)
    """
    parts = image_batches(as_images(images), 64)
    return np.array([fingerprint(image) for batch in parts for image in batch], dtype=str)


class PrecomputedFeatures(FeatureExtractor):
    """Rows of a table of features, looked up by the content of the image.

    Embeddings of captions, dimensions of concepts, ratings, or the output of any other model become
    a feature space like others: a band of `BandedRidgeEncoder`, part of a ``FeatureUnion``, or the
    features of an encoder that is given images.

    Parameters
    ----------
    images : images, or array of str, shape (n_images,)
        The images that the rows of `values` are of; or their hashes, as `image_hashes` gives them,
        which keeps a saved encoder small.
    values : array or DataFrame, shape (n_images, n_features) or (n_images, n_tokens, width)
        Finite numbers. Two rows of one image must be equal.
    name : str
        Name of the features in errors.
    batch_size : int
        Images looked up at once.
    store : path or FeatureStore, optional
        Of no use here.
    verbose : bool
        Show a progress bar.

    Notes
    -----
    An image is found if its pixels and its shape are the same: the row of a file is not found for
    the file in another size or compression. Nothing is guessed for images without a row.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    >>> ratings = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    >>> features = brainenc.PrecomputedFeatures(images, ratings, "ratings", verbose=False)
    >>> features.transform(images[[2, 0]])
    array([[4., 5.],
           [0., 1.]], dtype=float32)
    """

    def __init__(
        self,
        images: Any,
        values: Any,
        name: str = "precomputed",
        *,
        batch_size: int = 256,
        store: Any = None,
        verbose: bool = True,
    ):
        self.images = images
        self.values = values
        self.name = name
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def key(self) -> dict[str, Any]:
        """See `FeatureExtractor.key`; the table by its content, in any order of rows."""
        rows, values = self._table()
        names = sorted(rows)
        shown = {name: fingerprint(np.asarray(values[rows[name]])) for name in names}
        return {**self._class_key(), "table": fingerprint(identity(shown))}

    def _table(self) -> tuple[dict[str, int], np.ndarray]:
        """Row of each hash, and the values; made once for the arrays that were given."""
        given = (self.images, self.values)
        kept = getattr(self, "_loaded", None)
        if kept is None or any(a is not b for a, b in zip(kept[0], given, strict=True)):
            self._loaded = kept = (given, self._read())
        return kept[1]

    def _read(self) -> tuple[dict[str, int], np.ndarray]:
        check_row_order(images=self.images, values=self.values)
        values = numeric_array(self.values, "values")
        if values.ndim not in (2, 3) or 0 in values.shape:
            raise ValueError(
                f"values of {self.name!r} {values.shape} must be (n_images, n_features) or "
                "(n_images, n_tokens, width); a single feature is values[:, None]"
            )
        start = 0
        for block in row_blocks(values):
            bad = np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(axis=1))
            if bad.size:
                raise ValueError(
                    f"values of {self.name!r} has NaN or infinite numbers in row {start + bad[0]}: "
                    "leave out such images, or replace the numbers"
                )
            start += len(block)
        names = _hashes_of(self.images)
        if len(names) != len(values):
            raise ValueError(
                f"values of {self.name!r} {values.shape} must have one row for each of the "
                f"{len(names)} images"
            )
        rows: dict[str, int] = {}
        for i, name in enumerate(names.tolist()):
            first = rows.setdefault(name, i)
            if first != i and not np.array_equal(values[first], values[i]):
                raise ValueError(
                    f"images {first} and {i} of {self.name!r} are the same picture with different "
                    "values: leave one of them out, or average their rows"
                )
        return rows, values

    def _extract(self, batch: np.ndarray) -> np.ndarray:
        rows, values = self._table()
        found = [rows.get(fingerprint(image)) for image in batch]
        missing = [i for i, row in enumerate(found) if row is None]
        if missing:
            raise ValueError(
                f"{self.name!r} has no row for {len(missing)} of these {len(batch)} images, the "
                f"first of them of shape {batch.shape[1:]}: its {len(rows)} images are found by "
                "their pixels and shape, so give it those that the encoder gets, unchanged"
            )
        return np.asarray(values[np.array(found, dtype=int)])

    def _of_test_picture(self) -> np.ndarray:
        return np.asarray(self._table()[1][:1], np.float32)

    def _blank_shape(self) -> tuple[int, ...]:
        return self._table()[1].shape[1:]


def _hashes_of(images: Any) -> np.ndarray:
    """Hashes of images, or the hashes themselves."""
    if _are_hashes(images):
        return np.asarray(images).astype(str)
    return image_hashes(images)


def _are_hashes(images: Any) -> bool:
    """Whether these are texts of 32 hexadecimal digits, which no path of a picture is."""
    texts = images.to_numpy() if isinstance(images, pd.Series) else images
    texts = texts if isinstance(texts, (list, tuple, np.ndarray)) else []
    if isinstance(texts, np.ndarray) and (texts.ndim != 1 or texts.dtype.kind not in "UO"):
        return False
    digits = set("0123456789abcdef")
    return len(texts) > 0 and all(
        isinstance(text, str) and len(text) == 32 and digits.issuperset(text) for text in texts
    )
