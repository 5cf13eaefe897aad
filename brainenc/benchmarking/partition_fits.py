"""Fits of a variance partition: banded ridge on subsets of bands, which share their kernels."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from brainenc.benchmarking.partition_bands import Bands
from brainenc.benchmarking.partition_kept import Kept, keep_prediction, kept_prediction
from brainenc.devices import resolve_device
from brainenc.model_selection import Folds
from brainenc.process_state import own_settings
from brainenc.progress import progress
from brainenc.solvers import RidgeFit, banded_ridge_cv, feature_bands
from brainenc.solvers.proposals import random_weights
from brainenc.solvers.search import choose_search
from brainenc.solvers.voxels import (
    EXACT_IMAGES,
    choose_alphas,
    choose_per_voxel,
    fit_voxels,
    folds_of_rows,
)

#: Folds within the training images, in which penalties and band weights are chosen.
INNER_FOLDS = 5
#: Largest number of bands of which all subsets are fitted.
MAX_FULL = 4


class Member(NamedTuple):
    """A band in a model, as it is (0) or with its images in a permutation, counted from 1."""

    band: str
    permutation: int = 0

    def __str__(self) -> str:
        if self.permutation < 2:
            return f"{self.band}, permuted" if self.permutation else self.band
        return f"{self.band}, permuted ({self.permutation})"


#: Bands of a model, in order.
Model = tuple[Member, ...]


def subset(names: Iterable[str], permuted: Iterable[str] = (), permutation: int = 1) -> Model:
    """Model of some bands, of which some are permuted."""
    null = set(permuted)
    return tuple(Member(name, permutation if name in null else 0) for name in names)


def permutation_of(model: Model) -> int:
    """The permutation that a model has, 0 if none."""
    return max(member.permutation for member in model)


def model_name(model: Model) -> str:
    """Name of a model in tables, such as "one + two, permuted"."""
    return " + ".join(map(str, model))


def models_of(names: Sequence[str], n_permutations: int = 1) -> list[Model]:
    """All models that the parts of the variance, and their nulls, are computed from.

    All subsets of at most `MAX_FULL` bands; of more, all bands, all but one, and each alone. The
    same with all bands permuted, and all bands with one of them permuted, of each permutation.
    """
    sizes: Iterable[int] = range(1, len(names) + 1)
    if len(names) > MAX_FULL:
        sizes = (1, len(names) - 1, len(names))
    subsets = [chosen for n in sizes for chosen in combinations(names, n)]
    found = [subset(chosen) for chosen in subsets]
    for k in range(1, n_permutations + 1):
        found += [subset(names, [name], k) for name in names]
        found += [subset(chosen, chosen, k) for chosen in subsets]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Settings:
    """How banded ridge is fitted; see `brainenc.variance_partitioning`."""

    alphas: Any
    n_iter: int
    device: str
    random_state: int


@dataclass
class FoldBands:
    """Bands of one fold: their scaled features, and kernels that are computed once.

    Attributes
    ----------
    parts : dict of Member to (train, test) features, each (n, n_features)
    """

    parts: dict[Member, list[np.ndarray]]
    _kernels: dict[Member, np.ndarray] = field(default_factory=dict)
    _cross: dict[Member, np.ndarray] = field(default_factory=dict)

    def kernel(self, member: Member) -> np.ndarray:
        """Of the training images."""
        if member not in self._kernels:
            train, _ = self.parts[member]
            self._kernels[member] = train @ train.T
        return self._kernels[member]

    def cross(self, member: Member) -> np.ndarray:
        """Of test images with training images."""
        if member not in self._cross:
            train, test = self.parts[member]
            self._cross[member] = test @ train.T
        return self._cross[member]

    def forget_other(self, permutation: int) -> None:
        """Forget what belongs to another permutation than this one."""
        for known in (self.parts, self._kernels, self._cross):
            for member in [m for m in known if m.permutation not in (0, permutation)]:
                del known[member]

    def solver_bands(self, model: Model, device: Any) -> Callable[[np.ndarray], Any]:
        """Bands of given training images: their features where these are few, else kernels."""
        parts = [self.parts[member][0] for member in model]
        sizes, n_images = [part.shape[1] for part in parts], len(parts[0])
        if 2 * sum(sizes) <= n_images:
            X = np.concatenate(parts, axis=1)
            return lambda rows: feature_bands(X[rows], sizes, device=device)
        Ks = [self.kernel(member) for member in model]
        return lambda rows: [K if len(rows) == n_images else K[np.ix_(rows, rows)] for K in Ks]


def held_out_predictions(
    bands: Bands,
    models: Sequence[Model],
    averages: np.ndarray,
    folds: Folds,
    orders: Sequence[np.ndarray],
    settings: Settings,
    verbose: bool,
    kept: Kept | None = None,
) -> dict[Model, np.ndarray]:
    """Predictions of the test images of all folds, one fold after the other, by every model.

    Parameters
    ----------
    averages : array, shape (n_images, n_voxels)
    orders : sequence of array of int, shape (n_images,)
        Of each permutation the image whose features an image gets: the same for all bands.
    kept : Kept, optional
        Files of predictions: those of an earlier run are read, and others are written.

    Returns
    -------
    dict of Model to array, shape (n_tested, n_voxels), float32
    """
    found: dict[Model, list[np.ndarray]] = {model: [] for model in models}
    steps = iter(
        progress(range(len(folds) * len(models)), desc="partition", unit="fit", verbose=verbose)
    )
    for train, test in folds:
        fold = _Fold(bands, train, test, orders)
        shape = len(test), averages.shape[1]
        # One permutation after the other: only the kernels of one are in memory.
        for model in sorted(models, key=permutation_of):
            next(steps, None)
            file = None if kept is None else kept.file(model, train, test, orders)
            prediction = None if file is None else kept_prediction(file, shape)
            if prediction is None:
                with own_settings():
                    ready = fold.bands_of(model)
                    prediction = _predicted(ready, model, averages[train], settings)
                if file is not None:
                    keep_prediction(file, prediction)
            found[model].append(prediction)
    next(steps, None)
    return {model: np.concatenate(parts) for model, parts in found.items()}


@dataclass
class _Fold:
    """Bands of a fold, computed when a model needs them; of one permutation at a time."""

    bands: Bands
    train: np.ndarray
    test: np.ndarray
    orders: Sequence[np.ndarray]
    _ready: FoldBands = field(default_factory=lambda: FoldBands({}))

    def bands_of(self, model: Model) -> FoldBands:
        """Bands of a model's members, with kernels that other models of the fold share."""
        own = permutation_of(model)
        self._ready.forget_other(own)
        for permutation in {member.permutation for member in model}:
            self._compute(permutation)
        return self._ready

    def _compute(self, permutation: int) -> None:
        if any(member.permutation == permutation for member in self._ready.parts):
            return
        rows = self.train, self.test
        if permutation:
            order = self.orders[permutation - 1]
            rows = order[self.train], order[self.test]
        for name, given in self.bands.of_fold(*rows).items():
            wide = np.float64 if len(self.train) <= EXACT_IMAGES else given[0].dtype
            parts = [part.astype(wide, copy=False) for part in given]
            self._ready.parts[Member(name, permutation)] = parts


def _predicted(
    fold: FoldBands, model: Model, averages: np.ndarray, settings: Settings
) -> np.ndarray:
    n_images, n_bands = len(averages), len(model)
    device = resolve_device(settings.device)
    bands_of = fold.solver_bands(model, device)
    generator = np.random.RandomState(settings.random_state)
    # Each band alone is among the candidates, so that what a further band costs is what it costs to
    # choose, and not that a smaller model is out of reach.
    weights = np.eye(n_bands)
    if n_bands > 1:
        weights = np.concatenate([weights, random_weights(settings.n_iter, n_bands, generator)])

    def solve(rows: np.ndarray, Y: np.ndarray, voxels: Any) -> RidgeFit:
        folds = folds_of_rows(INNER_FOLDS, rows, n_images, random_state=settings.random_state)
        return banded_ridge_cv(
            bands_of(rows),
            Y,
            choose_alphas(settings.alphas, (len(Y), 1)).astype(Y.dtype),
            folds,
            candidates=weights,
            per_voxel=choose_per_voxel("auto", len(Y)),
            search=choose_search("auto", len(Y), folds),
            random_state=settings.random_state,
            device=device,
        )

    fitted = fit_voxels(
        averages, solve, n_weights=n_images, dual=True, n_bands=n_bands, min_images=INNER_FOLDS
    )
    assert fitted.band_weights is not None
    prediction = np.tile(fitted.intercept, (len(fold.parts[model[0]][1]), 1))
    for member, of_band in zip(model, fitted.band_weights, strict=True):
        prediction += fold.cross(member) @ (fitted.weights * of_band)
    return prediction.astype(np.float32)
