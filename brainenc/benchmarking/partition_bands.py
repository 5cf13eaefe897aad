"""Bands of a variance partition: checked, and as features of the images of a fold."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.benchmarking.inputs import Inputs, describe_features
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import take_images
from brainenc.documentation import see
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.encoders.spaces import check_bands
from brainenc.identity import identity
from brainenc.solvers.voxels import feature_scaling, flatten_tokens
from brainenc.validation import check_features


@dataclass(frozen=True)
class Source:
    """Features of all images, or what they are learned from.

    Attributes
    ----------
    X : array (n_images, …), or images
    learned : transformer or None
        Fitted to rows of `X` of the training images of each fold.
    """

    X: Any
    learned: Any

    def of_rows(self, train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
        """Features of training and test images, (n, n_features), learned from the first."""
        parts = [self._rows(train), self._rows(test)]
        if self.learned is not None:
            fitted = clone(self.learned).fit(parts[0])
            parts = [fitted.transform(part) for part in parts]
        return [flatten_tokens(np.asarray(part)) for part in parts]

    def _rows(self, rows: np.ndarray) -> Any:
        return self.X[rows] if isinstance(self.X, np.ndarray) else take_images(self.X, rows)


@dataclass(frozen=True)
class Bands:
    """Bands by name: a source of features each, or columns of one source.

    Attributes
    ----------
    sources : dict of name to Source
    columns : dict of name to slice, or None
        Of a single source, which is that of every band.
    description : dict
        Plain values for the manifest.
    """

    sources: dict[str, Source]
    columns: dict[str, slice] | None
    description: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return list(self.sources)

    def identity(self) -> dict[str, Any]:
        """Content of all bands as plain values; images are those of the data."""
        sources = {id(source): source for source in self.sources.values()}
        described = {
            key: [
                identity(source.X) if isinstance(source.X, np.ndarray) else "images",
                identity(source.learned),
            ]
            for key, source in sources.items()
        }
        columns = self.columns or {}
        return {
            name: [
                *described[id(source)],
                [columns[name].start, columns[name].stop] if columns else None,
            ]
            for name, source in self.sources.items()
        }

    def of_fold(self, train: np.ndarray, test: np.ndarray) -> dict[str, list[np.ndarray]]:
        """Features of each band, of training and test images: z-scored by the training images.

        Each band is divided by the square root of its number of features, as `BandedRidgeEncoder`
        does.
        """
        computed: dict[int, list[np.ndarray]] = {}
        found = {}
        for name, source in self.sources.items():
            if id(source) not in computed:
                computed[id(source)] = source.of_rows(train, test)
            parts = computed[id(source)]
            if self.columns is not None:
                _check_total(self.columns, parts[0].shape[1])
                parts = [part[:, self.columns[name]] for part in parts]
            mean, scale = feature_scaling(parts[0])
            scale = scale * np.sqrt(parts[0].shape[1]).astype(scale.dtype)
            found[name] = [(part - mean) / scale for part in parts]
        return found


def read_bands(data: EncodingData, bands: Any, features: Any, verbose: bool) -> Bands:
    """Bands from the arguments of `brainenc.variance_partitioning`.

    Raises
    ------
    TypeError, ValueError : bands that overlap, do not add up to the features, are fewer than two,
        or have names that a table cannot hold.
    """
    inputs = Inputs(data, verbose)
    if isinstance(features, Mapping):
        _check_names(list(features))
        sources = {str(name): source_of(inputs, part, str(name)) for name, part in features.items()}
        if bands is not None:
            _check_sizes_of_dict(bands, sources)
        return Bands(sources, None, describe_features(features))
    if bands is None:
        raise ValueError(
            "bands is missing: give the number of features of each band, bands={'one': 40, 'two': "
            "40}, or features as a dict of band to array or transformer"
            + see("variance_partitioning")
        )
    columns = as_columns(bands)
    _check_names(list(columns))
    source = source_of(inputs, features, "features")
    if source.learned is None:
        _check_total(columns, flatten_tokens(source.X[:1]).shape[1])
    description = {name: [part.start, part.stop] for name, part in columns.items()}
    return Bands(dict.fromkeys(columns, source), columns, {"columns": description})


def as_columns(bands: Any) -> dict[str, slice]:
    """Columns of each band, from numbers of features or slices.

    Raises
    ------
    TypeError : no dict of numbers or slices.
    ValueError : bands that overlap, leave columns out, or are empty.

    Examples
    --------
    >>> as_columns({"one": 40, "two": 10})
    {'one': slice(0, 40, None), 'two': slice(40, 50, None)}
    """
    if not isinstance(bands, Mapping) or not bands:
        raise TypeError(
            f"bands must be a dict of name to number of features, such as {{'one': 40, 'two': 40}}"
            f", got {bands!r:.80}" + see("variance_partitioning")
        )
    kinds = {type(part) is slice for part in bands.values()}
    if kinds == {True}:
        return _of_slices({str(name): part for name, part in bands.items()})
    for name, part in bands.items():
        if isinstance(part, bool) or not isinstance(part, Integral):
            raise TypeError(
                f"band {name!r} is {part!r:.60}: give every band as a number of features, in the "
                "order of the columns, or every band as a slice of columns. Arrays and "
                "transformers of each band go into features={...}" + see("variance_partitioning")
            )
    total = sum(int(part) for part in bands.values())
    check_bands(bands, [total])  # each is positive
    ends = np.cumsum([0, *map(int, bands.values())]).tolist()
    return {
        str(name): slice(start, stop)
        for name, start, stop in zip(bands, ends[:-1], ends[1:], strict=True)
    }


def _of_slices(bands: dict[str, slice]) -> dict[str, slice]:
    last = 0
    for part in bands.values():
        if part.step not in (None, 1) or part.stop is None or min(part.start or 0, part.stop) < 0:
            raise ValueError(
                f"bands={bands} must be slices with a stop, without a step, counted from the first "
                "column"
            )
        last = max(last, part.stop)
    columns = {name: slice(part.start or 0, part.stop) for name, part in bands.items()}
    owner: dict[int, str] = {}
    for name, part in columns.items():
        taken = next((i for i in range(part.start, part.stop) if i in owner), None)
        if taken is not None:
            raise ValueError(
                f"bands {owner[taken]!r} and {name!r} overlap: both hold column {taken}, which "
                "each would explain; give every column to one band" + see("variance_partitioning")
            )
        owner |= dict.fromkeys(range(part.start, part.stop), name)
        if part.start >= part.stop:
            raise ValueError(f"band {name!r} is empty: columns {part.start} to {part.stop}")
    if len(owner) != last:
        missing = next(i for i in range(last) if i not in owner)
        raise ValueError(
            f"bands={bands} leave out column {missing}: they must add up to the features, so drop "
            "columns of the features instead" + see("variance_partitioning")
        )
    return columns


def _check_total(columns: Mapping[str, slice], n_features: int) -> None:
    """Raise ValueError unless the bands add up to the features."""
    check_bands({name: part.stop - part.start for name, part in columns.items()}, [n_features])


def _check_names(names: list[Any]) -> None:
    if len(names) < 2:
        raise ValueError(
            f"bands {names} must be at least two: what a single one explains is the R² of "
            "brainenc.benchmark" + see("variance_partitioning")
        )
    for name in map(str, names):
        if not name.strip() or not name.isprintable():
            raise ValueError(f"the band name {name!r} is empty or has control characters")
    if len({str(name) for name in names}) < len(names):
        raise ValueError(f"bands {names} have a name twice, as text")
    for name in map(str, names):
        for ending in ("_null", "_normalized", "_low", "_high"):
            if name + ending in set(map(str, names)):
                raise ValueError(
                    f"the band name {name + ending!r} is a column of band {name!r} in the tables; "
                    "rename it"
                )
    joined = [f"{a}+{b}" for a in map(str, names) for b in map(str, names) if a != b]
    if clash := set(joined) & set(map(str, names)):
        raise ValueError(
            f"the band name {clash.pop()!r} is what the share of two bands is called; rename it"
        )


def _check_sizes_of_dict(bands: Any, sources: Mapping[str, Source]) -> None:
    """Sizes given beside a dict of features must be theirs."""
    columns = as_columns(bands)
    if list(columns) != list(sources):
        raise ValueError(
            f"bands names {list(columns)} and features {list(sources)}: give the same names in the "
            "same order, or no bands"
        )
    for name, source in sources.items():
        size = columns[name].stop - columns[name].start
        if source.learned is None and flatten_tokens(source.X[:1]).shape[1] != size:
            raise ValueError(
                f"bands says that {name!r} has {size} features, and features[{name!r}] has "
                f"{flatten_tokens(source.X[:1]).shape[1]}; leave bands out"
            )


def source_of(inputs: Inputs, features: Any, name: str) -> Source:
    """Source of features given as an array, a transformer, a name or None."""
    features = "auto" if features is None else features
    if isinstance(features, str):
        entry = inputs.entry(RidgeEncoder(features), None, name)
    else:
        entry = inputs.entry(RidgeEncoder(), features, name)
    X = entry.X
    if entry.learned is None:
        X = check_features(RidgeEncoder(), X, reset=True)
    return Source(X, entry.learned)
