"""FeatureExtractor: base class with batches, progress, the store and scikit-learn's interface."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from brainenc.data.images import as_images, image_batches
from brainenc.features.saved import check_as_saved
from brainenc.features.store import FeatureStore
from brainenc.identity import fitted_identity, identity, unidentified
from brainenc.process_state import own_settings
from brainenc.progress import progress
from brainenc.storage import atomic_path
from brainenc.validation import check_extracted

#: Constructor arguments that do not change the features.
_HOW = frozenset({"batch_size", "device", "store", "verbose"})


class FeatureExtractor(TransformerMixin, BaseEstimator, ABC):
    """Images to features, as a scikit-learn transformer. Subclass it to add an extractor.

    A subclass provides its constructor, whose arguments include ``batch_size``, ``store`` and
    ``verbose``, and `_extract`. If features depend on more than the constructor's arguments (such
    as weights), it extends `key` too.

    Extractors are not fitted to images: `transform` works without `fit`. A subclass that learns
    from images overrides `fit`; the benchmark then fits it to the training images of each fold, and
    a store keeps its features by what it has learnt.

    Attributes
    ----------
    image_shape_ : tuple
        (H, W) or (H, W, 3) of the images given to `fit`.
    weights_ : dict
        Of an extractor in a loaded encoder: `weights` when the encoder was saved.
    probe_ : array
        Likewise, features of a test picture. Both are compared before the first features.
    """

    #: Part of `key`; raise it when a change of code changes the features, so that stored features
    #: of the old code are not reused.
    version = 1

    batch_size: int
    store: "FeatureStore | str | os.PathLike | None"
    verbose: bool

    @abstractmethod
    def _extract(self, batch: np.ndarray) -> np.ndarray:
        """Features of a batch, shape (b, n_features) or (b, n_tokens, width).

        Parameters
        ----------
        batch : array of uint8, shape (b, H, W) or (b, H, W, 3)
        """

    def key(self) -> dict[str, Any]:
        """Identity of the features, JSON-able: equal keys give equal features of an image.

        The class, its version and all constructor arguments except batch_size, device, store and
        verbose, each by its content (`brainenc.identity.identity`). A class of your own enters
        with its code.
        """
        parameters = {k: v for k, v in self.get_params(deep=False).items() if k not in _HOW}
        return {**self._class_key(), **identity(parameters)}

    def _class_key(self) -> dict[str, Any]:
        kind = type(self)
        name = {"extractor": f"{kind.__module__}.{kind.__qualname__}", "version": self.version}
        code = identity(kind)
        return name | ({"code": code["code"]} if "code" in code else {})

    def weights(self) -> dict[str, str] | None:
        """Source and checksum of the network weights that the features depend on.

        A saved encoder has them, and the loaded one compares them before it computes features.

        Returns
        -------
        dict of "source" (a file or a name) and "checksum" (text); None for features without weights

        Examples
        --------
        >>> import brainenc
        >>> brainenc.PixelFeatures().weights() is None
        True
        """
        return None

    def fit(self, X: Any, y: Any = None) -> "FeatureExtractor":
        """Check the images; nothing is learnt from them.

        Parameters
        ----------
        X : images, see `brainenc.data.images.as_images`
        y : ignored
        """
        self.image_shape_ = tuple(as_images(X).shape[1:])
        for name in ("weights_", "probe_"):  # of an encoder that was loaded
            self.__dict__.pop(name, None)
        return self

    @own_settings()
    def transform(self, X: Any, *, out: Any = None) -> np.ndarray:
        """Features of images.

        Parameters
        ----------
        X : array of uint8, list of paths, PIL images or arrays, or lazy sequence; n_images rows
            Read batch by batch.
        out : float32 array or path, optional
            Destination of a large result: an array (such as a memmap) of the right shape, or the
            path of a ``.npy`` file, written under a temporary name and renamed when complete.

        Returns
        -------
        array of float32, shape (n_images, n_features) or (n_images, n_tokens, width)
            `out` if it is given; for a path the file, memory-mapped and read-only.

        Raises
        ------
        TypeError, ValueError : X are not images; `out` has another shape; features are not finite;
            or, in a loaded encoder, the weights are not those it was saved with.
        """
        images = as_images(X)
        if not getattr(self, "_as_saved", False):
            check_as_saved(self)
            self._as_saved = True
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        with _destination(out, len(images)) as allocate:
            result = None
            for start, features in self._batches(images):
                if result is None:
                    result = allocate(features.shape[1:])
                if features.shape[1:] != result.shape[1:]:
                    raise ValueError(
                        f"{type(self).__name__} gave features of shape {features.shape[1:]} for "
                        f"images[{start}], but of shape {result.shape[1:]} for images[0]; if they "
                        "are from a store, remove its folder"
                    )
                result[start : start + len(features)] = features
        if isinstance(out, (str, os.PathLike)):
            return np.load(out, mmap_mode="r")
        assert result is not None  # as_images rejects empty images
        wanted = getattr(self, "_sklearn_output_config", {}).get("transform")
        if result.ndim > 2 and (wanted or get_config()["transform_output"]) != "default":
            raise ValueError(
                f"{type(self).__name__} gives tokens, {result.shape}, and a table has two axes: "
                'use set_output(transform="default"), or pooled features'
            )
        return result

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the features, as scikit-learn makes them: "pixelfeatures0" and so on.

        With ``set_output(transform="pandas")`` `transform` returns a table with these columns.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        array of str, shape (n_features,)

        Raises
        ------
        sklearn.exceptions.NotFittedError : the size of the images is unknown before `fit`.
        ValueError : the features are tokens, which have two axes.

        Examples
        --------
        >>> import numpy as np
        >>> import brainenc
        >>> images = np.zeros((2, 8, 8), dtype=np.uint8)
        >>> pixels = brainenc.PixelFeatures(size=2).fit(images)
        >>> pixels.get_feature_names_out()[:2]
        array(['pixelfeatures0', 'pixelfeatures1'], dtype=object)
        >>> pixels.set_output(transform="pandas").transform(images).shape
        (2, 4)
        """
        check_is_fitted(self, "image_shape_")
        shape = self._blank_shape()
        if len(shape) != 1:
            raise ValueError(
                f"{type(self).__name__} gives tokens, {shape} for each image, and only features "
                "with one axis have names"
            )
        name = type(self).__name__.lower()
        return np.array([f"{name}{i}" for i in range(shape[0])], dtype=object)

    def _blank_shape(self) -> tuple[int, ...]:
        """Shape of the features of an image, found on a black one."""
        blank = np.zeros((1, *self.image_shape_), dtype=np.uint8)
        with own_settings():
            return np.shape(self._extract(blank))[1:]

    def _batches(self, images: Any) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, features) of each batch, from the store if they are in it."""
        store = self._kept_in()
        shelf = None if store is None else FeatureStore.at(store).shelf(self._stored_as())
        name = type(self).__name__
        with progress(desc=name, total=len(images), unit="image", verbose=self.verbose) as bar:
            start = 0
            for batch in image_batches(images, self.batch_size):

                def compute(rows: np.ndarray, batch=batch, start=start) -> np.ndarray:
                    return self._checked(batch[rows], start + rows)

                everything = np.arange(len(batch))
                yield start, compute(everything) if shelf is None else shelf.get(batch, compute)
                start += len(batch)
                bar.update(len(batch))

    def _kept_in(self) -> "FeatureStore | str | os.PathLike | None":
        """Where features are kept; a wrapped extractor's store serves its wrapper too."""
        return self.store

    def _of_test_picture(self) -> np.ndarray:
        """Features of a fixed picture, (1, ...), which a saved encoder has for comparison."""
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 256, (1, *self.image_shape_), dtype=np.uint8)
        return self._checked(picture, np.zeros(1, int))

    def _stored_as(self) -> dict[str, Any]:
        """Key of features in a store: with what a subclass has learnt from images, if it learns."""
        key = self.key()
        if learns_from_images(self):
            own = {*self.get_params(deep=False), "image_shape_", "_loaded"}
            own.add("_sklearn_output_config")  # a table has the same features
            learnt = {name: value for name, value in vars(self).items() if name not in own}
            key = key | {"learnt": fitted_identity(learnt)}
        if unknown := unidentified(key):
            raise ValueError(
                f"{type(self).__name__} holds a {unknown[0]}, whose content cannot be read, so its "
                "features cannot be told from others in a store: use store=None"
            )
        return key

    def _checked(self, batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
        features = check_extracted(self._extract(batch), len(batch), self, images=rows)
        with np.errstate(over="ignore"):
            narrow = features.astype(np.float32, copy=False)
        # Beyond float32, about 3e38, numbers become infinite.
        return (
            narrow if narrow is features else check_extracted(narrow, len(batch), self, images=rows)
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True  # scikit-learn's checks assume 2-D tables
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # Each worker loads the network again instead of receiving it.
        left_out = ("_loaded", "_found", "_as_saved")
        return {k: v for k, v in super().__getstate__().items() if k not in left_out}


def learns_from_images(extractor: FeatureExtractor) -> bool:
    """Whether an extractor has a `fit` of its own, which may learn from images."""
    kind = type(extractor)
    own_fit = kind.fit is not FeatureExtractor.fit
    return own_fit or kind.fit_transform is not FeatureExtractor.fit_transform


@contextmanager
def _destination(out: Any, n_images: int) -> Iterator[Any]:
    """Function from the shape of one image's features to the array to fill."""
    if isinstance(out, (str, os.PathLike)):
        with atomic_path(out) as temporary:
            yield lambda shape: np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.float32, shape=(n_images, *shape)
            )
    else:
        yield lambda shape: _fitting(out, (n_images, *shape))


def _fitting(out: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the features have shape {shape}")
    return out
