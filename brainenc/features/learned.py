"""Transformers that learn from images, apart from those that do not.

What learns nothing gives an image the same features whatever the other images are: it is computed
once and shared. What learns (a scaling, a PCA) has to be fitted to training images alone, in every
fold anew. `share` divides a transformer into the two.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import get_tags

from brainenc.data.images import as_images, take_images
from brainenc.features.base import FeatureExtractor, learns_from_images
from brainenc.late_imports import if_imported
from brainenc.validation import check_extracted

try:
    from sklearn.frozen import FrozenEstimator
except ImportError:  # before scikit-learn 1.6
    FrozenEstimator = None


def learns(transformer: Any) -> bool:
    """Whether a transformer may learn from the images that it is fitted to.

    Only these learn nothing: brainenc's feature extractors and subclasses of `FeatureExtractor`
    that do not override `fit`, transformers with the tag ``requires_fit=False`` of scikit-learn,
    fitted ones in a ``FrozenEstimator``, and pipelines and unions of such.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> import brainenc
    >>> pixels = brainenc.PixelFeatures()
    >>> learns(pixels), learns(make_pipeline(pixels, PCA(10)))
    (False, True)
    """
    if transformer is None or isinstance(transformer, str):  # "passthrough", "drop"
        return False
    if isinstance(transformer, FeatureExtractor):
        return learns_from_images(transformer)
    if _is_pipeline(transformer):
        return any(learns(step) for _, step in transformer.steps)
    if _is_union(transformer):
        return any(learns(part) for _, part in transformer.transformer_list)
    if FrozenEstimator is not None and isinstance(transformer, FrozenEstimator):
        return False
    return _requires_fit(transformer)


def _is_pipeline(transformer: Any) -> bool:
    return type(transformer) is if_imported("sklearn.pipeline", "Pipeline")


def _is_union(transformer: Any) -> bool:
    return type(transformer) is if_imported("sklearn.pipeline", "FeatureUnion")


def _requires_fit(transformer: Any) -> bool:
    try:
        return bool(get_tags(transformer).requires_fit)
    except Exception:  # no tags, or tags of another version of scikit-learn
        return True


def fitted_extractor(extractor: Any, images: Any) -> Any:
    """The extractor fitted to images; one whose ``fit`` returns nothing is fitted in place."""
    if FrozenEstimator is not None and isinstance(extractor, FrozenEstimator):
        return extractor  # its fit does nothing, and wants a y
    with config_context(transform_output="default"):  # tokens between steps have no table
        found = extractor.fit(images)
    return extractor if found is None else found


def fit_nothing(transformer: Any, images: Any) -> Any:
    """Fit a transformer that learns nothing, to a single image: it cannot learn from others."""
    if isinstance(transformer, FeatureExtractor):
        return transformer.fit(images)  # checks them
    return fitted_extractor(transformer, _some(images, [0]))


def share(transformer: Any, images: Any, transform: Callable[[Any], np.ndarray]) -> tuple[Any, Any]:
    """What can be computed once of a transformer, and a transformer for the rest.

    Parameters
    ----------
    transformer : transformer, unfitted
    images : images
        Or features, for a `LearnedFeatures`, of which nothing is computed.
    transform : callable
        Takes a transformer that learns nothing, and returns its features of `images`.

    Returns
    -------
    rest : transformer or None
        What is left to be fitted, to rows of `X`; None if nothing is. Its features of these rows
        are those of the whole transformer, fitted to the same images.
    X : array, one row per image; or `images`, if nothing can be computed before

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    >>> whole = make_pipeline(brainenc.PixelFeatures(verbose=False), PCA(2))
    >>> rest, X = share(whole, images, lambda pixels: pixels.fit_transform(images))
    >>> X.shape, rest.fit(X[:6]).transform(X[6:]).shape
    ((9, 64), (3, 2))
    """
    return share_all({"": transformer}, images, transform, single=True)[""]


def share_all(
    transformers: dict[str, Any],
    images: Any,
    transform: Callable[[Any], np.ndarray],
    *,
    single: bool = False,
) -> dict[str, tuple[Any, Any]]:
    """`share` of several transformers, whose rests take one joined array.

    Parameters
    ----------
    transformers : dict of name to transformer
    images, transform : as for `share`
    single : bool
        Of a single transformer that learns nothing, the rest is None and X its own array.

    Returns
    -------
    dict of name to (rest, X), with the same X for all.
    """
    if single and (takes_features(transformers[""])):
        return {"": (transformers[""], images)}
    parts = _Parts(images, transform)
    rests = {name: parts.rest(transformer) for name, transformer in transformers.items()}
    if single and isinstance(rests[""], Columns):
        return {"": (None, parts.arrays[0])}
    if parts.only_images:
        return {name: (clone(transformer), images) for name, transformer in transformers.items()}
    X = parts.joined()
    return {name: (LearnedFeatures(rest), X) for name, rest in rests.items()}


def takes_features(transformer: Any) -> bool:
    """Whether a transformer takes features that were computed before, and no images.

    A fitted one in a ``FrozenEstimator`` takes what it took before.
    """
    if FrozenEstimator is not None and isinstance(transformer, FrozenEstimator):
        return takes_features(transformer.estimator)
    return isinstance(transformer, LearnedFeatures)


def on_arrays(transformer: Any, images: Any) -> tuple["LearnedFeatures", np.ndarray]:
    """A transformer of images as one of rows of numbers, and the images as such rows."""
    parts = _Parts(images, lambda _: np.empty(0))
    rest = Within(parts.images_themselves(), clone(transformer))
    parts.flatten = True
    return LearnedFeatures(rest), parts.joined()


class Columns(TransformerMixin, BaseEstimator):
    """Some columns of a joined array, in the shape and dtype of the features in them.

    Parameters
    ----------
    start : int or None
        First column; None: the array is not joined and passes as it is.
    shape : list of int
        Of an image's features.
    dtype : str, optional
        By default that of the joined array.
    """

    def __init__(self, start: int | None = None, shape: Any = (), dtype: str | None = None):
        self.start = start
        self.shape = shape
        self.dtype = dtype

    def fit(self, X: Any, y: Any = None) -> "Columns":
        """Nothing is learnt."""
        return self

    def transform(self, X: Any) -> Any:
        """The features, contiguous as if they were alone: sums round alike."""
        if self.start is None:
            return X
        stop = self.start + int(np.prod(self.shape))
        part = np.ascontiguousarray(X[:, self.start : stop])
        part = part if self.dtype is None else part.astype(self.dtype, copy=False)
        return part.reshape(len(X), *self.shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class LearnedFeatures(TransformerMixin, BaseEstimator):
    """The part of a transformer that learns: from features that were computed before.

    Parameters
    ----------
    transformer : transformer, unfitted

    Attributes
    ----------
    transformer_ : transformer, fitted
    """

    def __init__(self, transformer: Any):
        self.transformer = transformer

    def fit(self, X: Any, y: Any = None) -> "LearnedFeatures":
        """Fit to rows of the array that `share` gave."""
        self.transformer_ = fitted_extractor(clone(self.transformer), X)
        return self

    def transform(self, X: Any) -> Any:
        """Features of rows of such an array, checked."""
        return check_extracted(self.transformer_.transform(X), len(X), _named(self.transformer_))


def _named(transformer: Any) -> Any:
    """The transformer that a user wrote, for errors."""
    return _named(transformer.transformer_) if isinstance(transformer, Within) else transformer


class Within(TransformerMixin, BaseEstimator):
    """A transformer of some columns of a joined array.

    Not a ``Pipeline``, which asks its last step for attributes that a fit has set.

    Parameters
    ----------
    columns : Columns
    transformer : transformer, unfitted
    """

    def __init__(self, columns: Columns, transformer: Any):
        self.columns = columns
        self.transformer = transformer

    def fit(self, X: Any, y: Any = None) -> "Within":
        """Fit to these columns of the rows."""
        self.transformer_ = fitted_extractor(clone(self.transformer), self.columns.transform(X))
        return self

    def transform(self, X: Any) -> Any:
        """Features of these columns of the rows."""
        return self.transformer_.transform(self.columns.transform(X))


class SideBySide(TransformerMixin, BaseEstimator):
    """Features of several transformers of the same rows, flattened and joined.

    Parameters
    ----------
    transformers : list of transformers, unfitted
    """

    def __init__(self, transformers: list[Any]):
        self.transformers = transformers

    def fit(self, X: Any, y: Any = None) -> "SideBySide":
        """Fit each."""
        self.transformers_ = [fitted_extractor(clone(part), X) for part in self.transformers]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """All features, (n_images, n_features)."""
        parts = [
            check_extracted(part.transform(X), len(X), _named(part)) for part in self.transformers_
        ]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


class _Parts:
    """Arrays that transformers share, each once, and their places in a joined array."""

    def __init__(self, images: Any, transform: Callable[[Any], np.ndarray]):
        self.images, self.transform = images, transform
        self.arrays: list[Any] = []
        self.places: list[list[Columns]] = []
        self.flatten = False

    @property
    def only_images(self) -> bool:
        return len(self.arrays) == 1 and self.arrays[0] is self.images

    def rest(self, transformer: Any) -> Any:
        """The transformer, with places of arrays in place of all that learns nothing."""
        if self.is_shared(transformer):
            return self.place(self.transform(transformer))
        if _is_pipeline(transformer):
            return self.rest_of_pipeline(transformer)
        if _is_union(transformer):
            rest = clone(transformer)
            rest.transformer_list = [
                (name, part if isinstance(part, str) and part == "drop" else self.rest(part))
                for name, part in transformer.transformer_list
            ]
            return rest
        return Within(self.images_themselves(), clone(transformer))

    def rest_of_pipeline(self, pipeline: Any) -> Any:
        steps = pipeline.steps
        n = next(n for n in range(len(steps), -1, -1) if n == 0 or self.is_shared(first(steps, n)))
        if n:
            names, rest = "+".join(name for name, _ in steps[:n]), steps[n:]
            begin = self.place(self.transform(first(steps, n)))
        else:
            names, rest = steps[0][0], steps[1:]
            begin = self.rest(steps[0][1])
        found = clone(pipeline)
        found.steps = [(names, begin), *((name, clone(step)) for name, step in rest)]
        return found

    def is_shared(self, transformer: Any) -> bool:
        """Whether the features of an image are the same, whatever the other images are."""
        if isinstance(transformer, str) or transformer is None or learns(transformer):
            return False
        return _all_extractors(transformer) or _each_row_alone(transformer, self.images)

    def place(self, array: Any) -> Columns:
        for known, places in zip(self.arrays, self.places, strict=True):
            if known is array:
                places.append(Columns())
                return places[-1]
        self.arrays.append(array)
        self.places.append([Columns()])
        return self.places[-1][0]

    def images_themselves(self) -> Columns:
        return self.place(self.images)

    def joined(self) -> np.ndarray:
        """All arrays side by side; a single one as it is."""
        if len(self.arrays) == 1 and not self.flatten:
            return self.arrays[0]
        arrays = [
            _loaded(array) if array is self.images else np.asarray(array) for array in self.arrays
        ]
        start = 0
        for array, places in zip(arrays, self.places, strict=True):
            for place in places:
                place.set_params(start=start, shape=list(array.shape[1:]), dtype=str(array.dtype))
            start += int(np.prod(array.shape[1:]))
        dtype = np.result_type(np.float32, *arrays)  # also for images, which must not look so
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], 1, dtype=dtype)


def first(steps: list[tuple[str, Any]], n: int) -> Any:
    """The first n steps of a pipeline; a single one without the pipeline."""
    from sklearn.pipeline import Pipeline

    return clone(steps[0][1]) if n == 1 else Pipeline([(name, clone(s)) for name, s in steps[:n]])


def _all_extractors(transformer: Any) -> bool:
    if _is_pipeline(transformer):
        return all(_all_extractors(step) for _, step in transformer.steps)
    if _is_union(transformer):
        return all(_all_extractors(part) for _, part in transformer.transformer_list)
    return isinstance(transformer, FeatureExtractor)


def _each_row_alone(transformer: Any, images: Any) -> bool:
    """Whether an image alone has the features that it has among others.

    A ``FunctionTransformer`` may subtract the mean of the rows that it is given: nothing is
    learnt in its `fit`, but its features of all images are not those of the parts.
    """
    rows = sorted({0, len(images) // 2, len(images) - 1})
    try:
        together = np.asarray(_quiet(transformer, images).transform(_some(images, rows)))
        for i, row in enumerate(rows):
            one = _some(images, [row])
            alone = np.asarray(_quiet(transformer, images).transform(one))[0]
            scale = np.abs(together[i]).max(initial=0)
            if not np.allclose(alone, together[i], rtol=1e-3, atol=1e-4 * scale, equal_nan=True):
                return False
    except Exception:  # whatever it says of few images
        return False
    return True


def _quiet(transformer: Any, images: Any) -> Any:
    found = clone(transformer)
    names = [name for name in found.get_params() if name.rpartition("__")[2] == "verbose"]
    found.set_params(**dict.fromkeys(names, False))
    return fitted_extractor(found, _some(images, [0]))


def _some(images: Any, rows: list[int]) -> Any:
    return take_images(as_images(images), np.array(rows))


def _loaded(images: Any) -> np.ndarray:
    images = as_images(images)
    return np.asarray(images[np.arange(len(images))])
