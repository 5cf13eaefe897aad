"""Kernels of features that do not fit into memory, from blocks of columns.

A kernel is a sum over features, so it is summed up over blocks of them, each of which is read,
converted to single precision, z-scored and multiplied. Every byte of a file is read once: a block
has all images of some features, which is what their means and standard deviations need.

Products are those of float32 (float64 for features in float64), and sums over blocks round less
than one long sum: against float64, the largest error of a kernel of 40 000 features is below 2e-6
of its diagonal. Products of features in bfloat16 are three to four times faster where the processor
has instructions for them, but their kernel is wrong by 2e-4 of its diagonal, which changes
predictions at small penalties by up to 6e-3 of their norm (float32: 6e-4). They are not used.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from brainenc.arrays import blocks, read_ahead, release
from brainenc.solvers._products import total_of_products
from brainenc.solvers.voxels import feature_scaling

#: Size in bytes of a z-scored block of columns.
_BLOCK_BYTES = 2**27
#: Size in bytes of the columns of a file that are read ahead. Of 9000 images in half precision each
#: row is then read in pieces of 60 KB: pieces of 8 KB are read at a third of the speed.
_AHEAD_BYTES = 2**29
#: Largest size in bytes of the kernel of new images that `ScaledFeatures.products` makes at once.
_PRODUCT_BYTES = 2**30
#: Columns of `ScaledFeatures.sketch`: its scalar products have an s.d. of sqrt(2 / 8192), 1.6 %.
SKETCH_COLUMNS = 8192


class LinearKernel(NamedTuple):
    """Kernel of z-scored features, and their scaling.

    Attributes
    ----------
    kernel : array, shape (n_images, n_images)
    mean, scale : arrays, shape (n_features,)
        As `brainenc.solvers.voxels.feature_scaling` gives them.
    """

    kernel: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


def linear_kernel(
    features: Any,
    *,
    standardize: bool = True,
    device: Any = "cpu",
    block_columns: int | None = None,
) -> LinearKernel:
    """Kernel XXᵀ of z-scored features X, read in blocks of columns.

    Parameters
    ----------
    features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
        Or what has ``shape`` and ``dtype`` and gives blocks of columns, ``features[:, a:b]``, such
        as a memory map of any memory order. Half precision is converted to float32 block by block.
    standardize : bool
        Divide by the standard deviation; features are centred in any case.
    device : str or torch.device
        Where blocks are multiplied.
    block_columns : int, optional
        Columns of a block; by default blocks are of 128 MiB.

    Returns
    -------
    LinearKernel, float32, or float64 for features in float64

    Raises
    ------
    ValueError : NaN or infinite features.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float16)
    >>> found = linear_kernel(X)
    >>> Z = (X - found.mean) / found.scale
    >>> bool(np.abs(found.kernel - Z @ Z.T).max() < 1e-3)
    True
    """
    n_images, n_features = len(features), math.prod(features.shape[1:])
    dtype = _dtype(features)
    mean, scale = np.empty(n_features, dtype), np.empty(n_features, dtype)
    total = total_of_products(n_images, n_images, dtype, device, symmetric=True)
    for columns, block in _column_blocks(features, n_images, block_columns):
        with np.errstate(invalid="ignore", over="ignore"):  # refused on the next line
            mean[columns], scale[columns] = feature_scaling(block, standardize)
        _refuse_non_finite(mean[columns], columns)
        _scale(block, mean[columns], scale[columns])
        total.add(block, block)
    return LinearKernel(total.result(), mean, scale)


def cross_kernel(new: Any, fitted: "ScaledFeatures", *, device: Any = "cpu") -> np.ndarray:
    """Kernel of new images with those that a regression was fitted to, in blocks of columns.

    Parameters
    ----------
    new : array, shape (n_new, n_features) or (n_new, n_tokens, width)
        As for `linear_kernel`; scaled as `fitted` is.
    fitted : ScaledFeatures
    device : str or torch.device

    Returns
    -------
    array, shape (n_new, n_images)

    Raises
    ------
    ValueError : another number of features, or the fitted features are no longer those that their
        scaling was computed from.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32)
    >>> _, mean, scale = linear_kernel(X)
    >>> cross_kernel(X[:2], ScaledFeatures(X, mean, scale)).shape
    (2, 5)
    """
    scaled = fitted.scaling_of(new)
    dtype = np.result_type(fitted.dtype, scaled.dtype)
    total = total_of_products(len(scaled), len(fitted), dtype, device)
    for columns, block in fitted.blocks(n_rows=len(scaled) + len(fitted), check=True):
        both = scaled.columns(columns), block
        total.add(*(part.astype(dtype, copy=False) for part in both))
    return total.result()


@dataclass(frozen=True)
class ScaledFeatures:
    """z-scored features that are not held: they are read and scaled in blocks of columns.

    Attributes
    ----------
    features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
        As they were given, such as a memory map in half precision. They are needed as long as this
        object is used, and must not change.
    mean, scale : arrays, shape (n_features,)

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    >>> scaled = ScaledFeatures(X, np.full(4, 4, np.float32), np.full(4, 2, np.float32))
    >>> scaled.shape
    (3, 4)
    >>> scaled.columns(slice(1, 3)).tolist()
    [[-1.5, -1.0], [0.5, 1.0], [2.5, 3.0]]
    """

    features: Any
    mean: np.ndarray
    scale: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of images and of features."""
        return len(self.features), len(self.mean)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of z-scored features: float32, or float64 for features in float64."""
        return _dtype(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def columns(self, columns: slice) -> np.ndarray:
        """z-scored features (n_images, n_columns) of consecutive columns."""
        shape = (len(self), len(range(len(self.mean))[columns]))
        block = _columns(self.features, columns, np.empty(shape, self.dtype))
        return _scale(block, self.mean[columns], self.scale[columns])

    def blocks(
        self, n_rows: int | None = None, *, check: bool = False
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of columns, and their z-scored features; all of them, each once.

        A block is in the memory of the one before.

        Parameters
        ----------
        n_rows : int, optional
            Rows that have room in a block, if there are others beside these.
        check : bool
            Compare the mean of each feature with the stored one.

        Raises
        ------
        ValueError : the features have changed.
        """
        for columns, block in _column_blocks(self.features, n_rows or len(self), None):
            if check and not _same_mean(block, self.mean[columns], self.scale[columns]):
                raise ValueError(
                    "the features that the ridge regression was fitted to have changed: features "
                    f"{self.features.shape} of {self.features.dtype} are too large for a copy in "
                    "memory, so the file or array itself must stay as it was. Write new features "
                    "to another file, or fit again"
                )
            yield columns, _scale(block, self.mean[columns], self.scale[columns])

    def scaling_of(self, features: Any) -> "ScaledFeatures":
        """Features of other images, to be scaled as these.

        Raises
        ------
        ValueError : another number of features.
        """
        if math.prod(features.shape[1:]) != len(self.mean):
            raise ValueError(
                f"features {tuple(features.shape)} do not have the {len(self.mean)} numbers per "
                "image that the regression was fitted to"
            )
        return ScaledFeatures(features, self.mean, self.scale)

    @functools.cached_property
    def kernel(self) -> np.ndarray:
        """Kernel (n_images, n_images) of these images; kept once it has been computed."""
        total = total_of_products(len(self), len(self), self.dtype, "cpu", symmetric=True)
        for _, block in self.blocks(check=True):
            total.add(block, block)
        return total.result()

    @functools.cached_property
    def short(self) -> np.ndarray:
        """The `sketch` of these images; kept once it has been computed."""
        return self.sketch()

    def projected(self, directions: np.ndarray) -> np.ndarray:
        """Scaled features times a matrix (n_features, k)."""
        found = np.zeros((len(self), directions.shape[1]), self.dtype)
        for columns, block in self.blocks():
            found += block @ directions[columns]
        return found

    def sketch(self, n_columns: int | None = None) -> np.ndarray:
        """Short vectors (n_images, n_columns) with about the scalar products of the features.

        Each feature gets a random sign and is added to one of the columns, the same for all
        images: scalar products are unbiased, with a relative s.d. of sqrt(2 / n_columns) for a
        vector with itself, and exact with as many columns as features. By default there are
        8192 columns, or as many as features.

        References
        ----------
        Charikar, Chen & Farach-Colton (2004), Theoretical Computer Science 312 (count sketch).
        """
        n_columns = n_columns or min(SKETCH_COLUMNS, len(self.mean))
        found = np.zeros((len(self), n_columns), self.dtype)
        signs = _signs(len(self.mean))
        for columns, block in self.blocks():
            block *= signs[columns]
            for start in range(columns.start - columns.start % n_columns, columns.stop, n_columns):
                some = slice(max(start, columns.start), min(start + n_columns, columns.stop))
                to = slice(some.start - start, some.stop - start)
                found[:, to] += block[:, some.start - columns.start : some.stop - columns.start]
        return found


class SeenImages:
    """Images as a regression sees them: rows of their kernel with the fitted images, on indexing.

    A block of rows is computed at a time (1 GiB at most) and kept until another is needed, so that
    small blocks in order read the fitted features once.

    Parameters
    ----------
    features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
    fitted : ScaledFeatures

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32)
    >>> _, mean, scale = linear_kernel(X)
    >>> seen = SeenImages(X, ScaledFeatures(X, mean, scale))
    >>> seen[1:3].rows.shape
    (2, 5)
    """

    def __init__(self, features: Any, fitted: ScaledFeatures):
        self.features, self.fitted = features, fitted
        self._first, self._block = 0, np.empty((0, len(fitted)), fitted.dtype)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, images: slice) -> "KernelRows":
        first, stop, _ = images.indices(len(self))
        if not self._first <= first <= stop <= self._first + len(self._block):
            size = max(stop - first, _PRODUCT_BYTES // (8 * max(1, len(self.fitted))))
            self._first = first
            self._block = cross_kernel(self.features[first : first + size], self.fitted)
        return KernelRows(self._block[first - self._first : stop - self._first])

    def blocks(self) -> Iterator[tuple[slice, "KernelRows"]]:
        """All images, in blocks that fit into memory."""
        size = _PRODUCT_BYTES // (8 * max(1, len(self.fitted)))
        for images in blocks(len(self), size):
            yield images, self[images]


class KernelRows(NamedTuple):
    """Kernel of some images with the fitted ones.

    Attributes
    ----------
    rows : array, shape (n_images, n_fitted)
    """

    rows: np.ndarray


def _signs(n: int) -> np.ndarray:
    """Random signs (n,), the same in every call."""
    return np.random.default_rng(0).integers(0, 2, n, dtype=np.int8) * np.int8(2) - np.int8(1)


# ------------------------------------------------------------------ blocks of columns


def _dtype(features: Any) -> np.dtype:
    return np.dtype(np.float64 if features.dtype == np.float64 else np.float32)


def _column_blocks(
    features: Any, n_rows: int, block_columns: int | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of columns (n_images, n_columns) as C-ordered floats.

    The caller may change a block, which is in the memory of the one before. The columns that
    follow are read ahead from the disk while the caller computes.
    """
    n_features, dtype = math.prod(features.shape[1:]), _dtype(features)
    size = block_columns or max(16, _BLOCK_BYTES // (dtype.itemsize * max(1, n_rows)))
    ahead = max(1, _AHEAD_BYTES // (size * len(features) * np.dtype(features.dtype).itemsize))
    whole = list(blocks(n_features, size * ahead))
    memory = np.empty(len(features) * min(size, n_features), dtype)
    for i, wide in enumerate(whole):
        for soon in whole[i : i + 2] if i == 0 else whole[i + 1 : i + 2]:
            read_ahead(features, soon)
        for part in blocks(wide.stop - wide.start, size):
            columns = slice(wide.start + part.start, wide.start + part.stop)
            shape = (len(features), columns.stop - columns.start)
            yield columns, _columns(features, columns, memory[: math.prod(shape)].reshape(shape))
        release(features)


def _columns(features: Any, columns: slice, out: np.ndarray) -> np.ndarray:
    """A copy of consecutive columns in `out`, in its dtype."""
    features = _flat(features)
    if len(features.shape) == 2:
        np.copyto(out, features[:, columns])
        return out
    width = features.shape[2]
    first = columns.start // width
    tokens = np.asarray(features[:, first : -(-columns.stop // width)])
    # Whole tokens are read, and the rest of the first and last left out.
    offset = columns.start - first * width
    np.copyto(out, tokens.reshape(len(tokens), -1)[:, offset : offset + out.shape[1]])
    return out


def _flat(features: Any) -> Any:
    """Tokens side by side as (n_images, n_features), if that is possible without a copy."""
    plain = isinstance(features, np.ndarray) and features.ndim == 3 and len(features) > 0
    if plain and features[0].flags.c_contiguous:
        return features.reshape(len(features), -1)
    return features


def _same_mean(block: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> bool:
    # Other features of as many images differ by about 1 / sqrt(n_images) of their s.d.
    found, _ = feature_scaling(block, standardize=False)
    return bool((np.abs(found - mean) <= 1e-4 * scale + 1e-6 * np.abs(mean)).all())


def _scale(block: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """z-scored block, in its own memory."""
    block -= mean
    block /= scale
    return block


def _refuse_non_finite(mean: np.ndarray, columns: slice) -> None:
    # A column with NaN or infinity has a mean that is not finite.
    if not np.isfinite(mean).all():
        first = columns.start + int(np.flatnonzero(~np.isfinite(mean))[0])
        raise ValueError(
            f"features contain NaN or infinity (first in column {first} of the numbers of an "
            "image): correct or leave out those images"
        )
