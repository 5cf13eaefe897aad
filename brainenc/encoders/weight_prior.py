"""WeightPrior: what the weights of other subjects' voxels are like, as a prior of a new subject."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.data.atlas_labels import text_labels
from brainenc.data.voxels import atlas_labels
from brainenc.encoders.inputs import extracted, extractor_for
from brainenc.encoders.training_images import marks_of
from brainenc.features.learned import fitted_extractor, learns
from brainenc.features.one_space import check_not_learned, extractor_description, learns_any
from brainenc.repeats import average_repeats
from brainenc.solvers.priors import prior_factor
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.voxels import flatten_tokens

#: Name of the component of all voxels.
ALL = "all"
#: Largest departure of a new subject's feature means, in s.d. of the prior's features, and largest
#: ratio of their s.d.: the median over features, so that single features may differ.
MOST_SHIFT, MOST_RATIO = 5.0, 10.0
#: Voxels by whose weights kinds are found, and leading directions that tell them apart.
_N_CLUSTERED, _N_DIRECTIONS = 20_000, 20


@dataclass(frozen=True, eq=False, repr=False)
class WeightPrior:
    """Prior covariance of ridge weights, learned from the voxels of other subjects.

    It is made by `from_encoders` or `fit`, and used by ``RidgeEncoder(prior=...)``. Its features
    are the link between subjects: no images need to be shared.

    Attributes
    ----------
    factors : list of arrays, shape (n_features, rank)
        F of each component, in units of the features as they are: the covariance is FFᵀ.
    names : list of str
        "all" (voxels of all kinds), then "kind 1", … or ROI labels.
    feature_mean, feature_scale : arrays, shape (n_features,)
        Of the sources' images.
    feature_shape : list of int
        Shape of an image's features.
    extractor : dict or None
        Description of the extractor of the features; None if features were given.
    sources : list of str
        Names of the subjects, or the number of voxels of those without name.
    n_voxels : int
        Voxels of all sources.
    marks : array, shape (n_images, 8)
        Random projections of the features of the sources' images, by which test images among them
        are found.

    References
    ----------
    Gu et al. (2022), NeuroImage 264 (others' predictions as a linear ensemble, which is ridge with
    this prior).

    Examples
    --------
    >>> import brainenc
    >>> *others, new = brainenc.datasets.simulate_subjects(3, 80, 20, shared_images=0)
    >>> encoders = [brainenc.RidgeEncoder().fit(d.truth.tokens, d.betas) for d in others]
    >>> prior = brainenc.WeightPrior.from_encoders(encoders)
    >>> encoder = brainenc.RidgeEncoder(prior=prior).fit(new.truth.tokens[:40], new.betas[:40])
    >>> encoder.prior_shares_.shape  # of the component "all" and of the isotropic prior
    (2, 20)
    """

    factors: list[np.ndarray]
    names: list[str]
    feature_mean: np.ndarray
    feature_scale: np.ndarray
    feature_shape: list[int]
    extractor: Any
    sources: list[str]
    n_voxels: int
    marks: np.ndarray

    #: `brainenc.load` reads it from a folder of its own.
    saved_alone = True

    def __sklearn_clone__(self) -> "WeightPrior":
        return self  # it is fitted: a copy of an encoder has the same prior

    def __deepcopy__(self, memo: Any) -> "WeightPrior":
        return self

    def __repr__(self) -> str:
        n = len(self.sources)
        return (
            f"WeightPrior({self.n_voxels} voxels of {n} subject{'s' * (n != 1)}, "
            f"{len(self.feature_mean)} features, components: {', '.join(self.names)})"
        )

    # ---------------------------------------------------------------- making one

    @classmethod
    def from_encoders(
        cls,
        encoders: Any,
        *,
        n_components: int = 1,
        rois: Any = None,
        random_state: int | None = 0,
    ) -> "WeightPrior":
        """From fitted encoders with a linear part, of other subjects, on the same features.

        Parameters
        ----------
        encoders : list of encoders, or dict of subject's name to encoder
            `RidgeEncoder`, `BandedRidgeEncoder` or `PLSEncoder`.
        n_components : int
            1: one covariance, of all voxels. More: also that many covariances of kinds of voxels,
            which are clusters of their weights.
        rois : list of arrays of str, optional
            ROI labels of each encoder's voxels: one covariance per label in place of kinds.
        random_state : int
            Seed of the clusters.

        Returns
        -------
        WeightPrior

        Raises
        ------
        TypeError : an encoder without a linear part.
        ValueError : no encoders, encoders of different features, labels of other voxels.
        """
        named = encoders if isinstance(encoders, Mapping) else dict(enumerate(encoders))
        if not named:
            raise ValueError("encoders is empty: give the fitted encoders of other subjects")
        maps, first = [], None
        for name, encoder in named.items():
            check_is_fitted(encoder)
            own = getattr(encoder, "linear_map", lambda: None)()
            if own is None:
                raise TypeError(
                    f"encoders[{name!r}] is a {type(encoder).__name__}, which has no weights of "
                    "features: give RidgeEncoder, BandedRidgeEncoder or PLSEncoder"
                )
            extractor = getattr(encoder, "features_", None)
            if len(named) > 1 and learns_any(extractor):
                raise ValueError(
                    f"encoders[{name!r}] has features that were learned from its own images, so "
                    "that every encoder has others: fit the transformer once, and give its "
                    "features to all encoders"
                )
            shape = encoder.feature_shape_
            # Of several extractors: their features side by side.
            shape = [len(own.mean)] if isinstance(shape, Mapping) else list(shape)
            key = extractor_description(extractor), shape
            if first is None:
                first = key
            elif key != first:
                raise ValueError(
                    f"encoders[{name!r}] has the features {key[0]} of shape {key[1]}, and the first"
                    f" one {first[0]} of shape {first[1]}: a prior is of one kind of features"
                )
            maps.append(own)
        assert first is not None
        sources = [
            str(n) if isinstance(n, str) else f"{e.n_voxels_} voxels" for n, e in named.items()
        ]
        marks = [np.asarray(encoder.training_marks_) for encoder in named.values()]
        return prior_of_maps(maps, sources, marks, first, n_components, rois, random_state)

    @classmethod
    def fit(
        cls,
        subjects: Any,
        features: Any = "auto",
        *,
        n_components: int = 1,
        atlas: str | None = None,
        random_state: int | None = 0,
        device: str = "auto",
    ) -> "WeightPrior":
        """From the data of other subjects, with ridge on their features.

        Parameters
        ----------
        subjects : sequence of EncodingData
        features : "auto" or transformer; or list of arrays, one per subject
            As for `RidgeEncoder`; or the features of each subject's images. Not one that learns
            from images, such as a pipeline with PCA: each subject would have other features.
        n_components, random_state
            As for `from_encoders`.
        atlas : str, optional
            Column of the voxel tables: one covariance per ROI label in place of kinds.
        device : str
            Of the solver.

        Returns
        -------
        WeightPrior

        Raises
        ------
        ValueError : no subjects, features that learn, no such atlas, other numbers of features.
        """
        subjects = list(subjects)
        given = isinstance(features, Sequence) and not isinstance(features, str)
        if not subjects or (given and len(features) != len(subjects)):
            raise ValueError(
                f"there are {len(subjects)} subjects"
                + (f" and features of {len(features)}" if given else "; give at least one")
            )
        maps, marks, key = [], [], None
        for i, data in enumerate(subjects):
            extractor = None if given else extractor_for(features, data.images)
            if extractor is not None and learns(extractor):
                raise ValueError(
                    f"features={features!r} learns from images, so that every subject would have "
                    "other features: fit it once, and give its features of each subject's images"
                )
            if extractor is not None:
                extractor = fitted_extractor(clone(extractor), data.images)
                X = extracted(extractor, data.images)
            else:
                X = np.asarray(features[i])
                if len(X) != data.n_images:
                    raise ValueError(
                        f"features[{i}] of shape {X.shape} must have a row for each of the "
                        f"{data.n_images} images of {data.name}"
                    )
            own = extractor_description(extractor), list(X.shape[1:])
            if key is not None and own != key:
                raise ValueError(
                    f"features of {data.name} are of shape {own[1]}, and those of "
                    f"{subjects[0].name} of shape {key[1]}: give the same features of all subjects"
                )
            key = own
            averages = average_repeats(data.betas)
            regression, _ = RidgeRegression.fit(
                X, averages, device=device, random_state=random_state
            )
            variance = regression.posterior(X, averages).variance
            maps.append(LinearMap.of(regression, variance))
            marks.append(marks_of(X))
        assert key is not None
        rois = None if atlas is None else [atlas_labels(d.voxels, atlas) for d in subjects]
        sources = [data.name for data in subjects]
        return prior_of_maps(maps, sources, marks, key, n_components, rois, random_state)

    # ---------------------------------------------------------------- using one

    def check(self, features: np.ndarray, extractor: Any) -> None:
        """Raise ValueError unless features of a new subject are those of the prior.

        Parameters
        ----------
        features : array, shape (n_images, ...)
        extractor : transformer or None
            That the features come from.
        """
        shape = list(features.shape[1:])
        if shape != list(self.feature_shape):
            raise ValueError(
                f"the prior is of features of shape {self.feature_shape} per image, and these "
                f"features have the shape {shape}: give the features that its sources had"
            )
        own = extractor_description(extractor)
        if own != self.extractor:
            check_not_learned(extractor, "the prior")
        if own is not None and self.extractor is not None and own != self.extractor:
            raise ValueError(
                f"the prior is of the features {self.extractor}, and the encoder has {own}: give "
                "both the same extractor"
            )
        check_scale(flatten_tokens(features), self.feature_mean, self.feature_scale)

    def component(self, label: str) -> int | None:
        """Position of the component of a ROI label, None if there is none."""
        return self.names.index(label) if label in self.names else None

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the prior to a folder, which `brainenc.load` reads.

        Raises
        ------
        FileExistsError : `folder` exists and holds no model.
        """
        from brainenc.encoders.saving import save

        return save(self, folder)


@dataclass(frozen=True)
class LinearMap:
    """Weights of features as they are, with the noise that they were estimated in.

    Attributes
    ----------
    weights : array, shape (n_features, n_voxels)
        Of features in their own units; betas in theirs.
    noise_sd : array, shape (n_voxels,)
        s.d. of the noise of averaged betas; NaN for a voxel without data.
    mean, scale : arrays, shape (n_features,)
        Of the features of the training images.
    """

    weights: np.ndarray
    noise_sd: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, regression: RidgeRegression, variance: np.ndarray) -> "LinearMap":
        """Of a fitted regression, and the variance of its error."""
        weights = regression.weights() / regression.feature_scale[:, None]
        sd = np.sqrt(np.maximum(variance, 0))
        return cls(weights, sd, regression.feature_mean, regression.feature_scale)

    def in_noise_units(self) -> np.ndarray:
        """Weights (n_features, n_known) of voxels in units of their noise; 0 if it is 0."""
        scaled = self.weights * self.scale[:, None]
        # Voxels that are fitted without error must not outweigh all others.
        size = np.sqrt(np.square(self.noise_sd) + np.square(scaled).sum(axis=0))
        known = np.isfinite(size)
        found = self.weights / np.where(known & (size > 0), size, 1)
        return np.where(known, found, 0).astype(np.float32)


def check_prior(prior: Any) -> None:
    """Raise TypeError unless a parameter `prior` is None or a WeightPrior."""
    if prior is not None and not isinstance(prior, WeightPrior):
        raise TypeError(
            f"prior={prior!r} must be a WeightPrior: make one with "
            "brainenc.WeightPrior.from_encoders([...])"
        )


def check_scale(X: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> None:
    """Raise ValueError if features (n_images, n_features) are on another scale than the sources'.

    `mean` and `scale` are the mean and s.d. of each of the sources' features.
    """
    shift = np.median(np.abs(X.mean(axis=0) - mean) / scale)
    varies = X.std(axis=0) > 0
    ratio = np.median(X.std(axis=0)[varies] / scale[varies]) if varies.any() else 1
    if not (shift <= MOST_SHIFT and 1 / MOST_RATIO <= ratio <= MOST_RATIO):
        raise ValueError(
            f"features are on another scale than those of the prior: their mean is {shift:.3g} "
            f"s.d. away, and their s.d. is {ratio:.3g} times as large (medians over features). "
            "Give features as the sources had them; the encoder scales them itself"
        )


def prior_of_maps(
    maps: Sequence[LinearMap],
    sources: list[str],
    marks: Sequence[np.ndarray],
    key: tuple[Any, list[int]],
    n_components: int,
    rois: Any,
    random_state: int | None,
) -> WeightPrior:
    """Prior from the weights of each source; `WeightPrior.from_encoders` has the arguments.

    `key` is the description of the extractor and the shape of an image's features.
    """
    if n_components < 1:
        raise ValueError(f"n_components={n_components!r} must be at least 1")
    scale = np.sqrt(np.mean([np.square(m.scale) for m in maps], axis=0))
    weights = np.concatenate([m.in_noise_units() for m in maps], axis=1)
    scaled = weights * scale[:, None]
    used = scaled.any(axis=0)
    if not used.any():
        raise ValueError("the sources' encoders have no weights: they predict the mean only")
    if rois is not None:
        kinds = _labels_of_voxels(rois, maps)
    elif n_components > 1:
        kinds = _kinds(scaled, used, n_components, random_state)
    else:
        kinds = np.full(len(used), "", dtype=object)
    labels = [label for label in dict.fromkeys(kinds.tolist()) if label]
    labels = labels if rois is not None else sorted(labels, key=lambda kind: int(kind.split()[1]))
    labels = [label for label in labels if used[kinds == label].any()]
    groups = [used, *(used & (kinds == label) for label in labels)]
    factors = [
        (prior_factor(scaled[:, group]) / scale[:, None]).astype(np.float32) for group in groups
    ]
    same = len({m.shape[1] for m in marks}) == 1
    return WeightPrior(
        factors,
        [ALL, *labels],
        np.mean([m.mean for m in maps], axis=0).astype(np.float32),
        scale.astype(np.float32),
        key[1],
        key[0],
        sources,
        int(used.sum()),
        np.concatenate(list(marks)) if same else np.zeros((0, 0), np.float32),
    )


def _labels_of_voxels(rois: Any, maps: Sequence[LinearMap]) -> np.ndarray:
    if len(rois) != len(maps):
        raise ValueError(f"rois has labels for {len(rois)} encoders, and there are {len(maps)}")
    found = []
    for i, (labels, own) in enumerate(zip(rois, maps, strict=True)):
        n = own.weights.shape[1]
        if len(labels) != n:
            raise ValueError(f"rois[{i}] has {len(labels)} labels, and encoder {i} has {n} voxels")
        found += [label or "" for label in text_labels(labels, f"rois[{i}]")]
    return np.array(found, dtype=object)


def _kinds(
    weights: np.ndarray, used: np.ndarray, n_components: int, random_state: int | None
) -> np.ndarray:
    """Kind of each voxel, "" if it has no weights: clusters of weights along leading directions."""
    rows = np.flatnonzero(used)
    directions = prior_factor(weights[:, used], _N_DIRECTIONS)
    directions = directions / np.linalg.norm(directions, axis=0)
    profiles = weights[:, rows].T @ directions
    profiles /= np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-12)
    from sklearn.cluster import KMeans  # .1 s, which fits are spared

    rng = np.random.default_rng(random_state)
    some = rng.permutation(len(profiles))[:_N_CLUSTERED]
    n_kinds = min(n_components, len(np.unique(profiles[some], axis=0)))
    clusters = KMeans(n_kinds, n_init=4, random_state=random_state).fit(profiles[some])
    kinds = np.full(len(used), "", dtype=object)
    kinds[rows] = [f"kind {k + 1}" for k in clusters.predict(profiles)]
    return kinds
