"""What a learning curve fits: encoders from scratch, with a prior of the sources, or adapted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from brainenc.benchmarking.group_mean import GroupMean
from brainenc.encoders.describe import describe
from brainenc.encoders.sklearn_encoder import as_encoder
from brainenc.encoders.weight_prior import WeightPrior
from brainenc.features.one_space import fitted_once, learns_any

HOW = ("prior", "adapt", "pretrain", "group-mean")


@dataclass(frozen=True)
class Transfer:
    """An encoder that starts from other subjects, for `brainenc.learning_curve`.

    Parameters
    ----------
    encoder : encoder, unfitted
    how : "prior", "adapt", "pretrain" or "group-mean"
        "prior": the encoder, which has the parameter `prior`, gets a `WeightPrior` of ridge fits of
        all sources. "adapt": the encoder is fitted to the source with the most images, and `adapt`
        fits it to the images of the new subject. "pretrain": its method `pretrain` gets all
        sources, and `fit` the images of the new subject.
        "group-mean": the encoder is fitted to the mean
        responses of each ROI of each source, and the new subject's voxels are predicted as these,
        with the mean of the voxel alone fitted. Features that learn from images, such as a pipeline
        with PCA, are fitted once, to the images of the sources that are used, and are those of the
        new subject too.
    n_components, rois
        Of the prior: kinds of voxels, and whether each ROI has a component of its own.

    Examples
    --------
    >>> import brainenc
    >>> Transfer(brainenc.RidgeEncoder(), "prior").how
    'prior'
    """

    encoder: Any
    how: str = "prior"
    n_components: int = 1
    rois: bool = False

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise ValueError(f"how={self.how!r} must be one of {', '.join(HOW)}")
        if self.how == "prior" and "prior" not in self.encoder.get_params(deep=False):
            raise TypeError(
                f"{type(self.encoder).__name__} has no parameter prior; use how='adapt'"
            )
        if self.how == "pretrain" and not hasattr(self.encoder, "pretrain"):
            raise TypeError(
                f"{type(self.encoder).__name__} has no method pretrain; use how='adapt'"
            )


def as_methods(encoders: Mapping[str, Any], has_sources: bool) -> dict[str, Any]:
    """Encoders and transfers by name, with the references that are missing.

    Raises
    ------
    TypeError : something else.
    ValueError : no encoders, or a transfer without sources.
    """
    if not isinstance(encoders, Mapping) or not encoders:
        raise ValueError("encoders must be a dict of name to encoder or Transfer, and not empty")
    found: dict[str, Any] = {}
    for name, given in encoders.items():
        if isinstance(given, Transfer):
            if not has_sources:
                raise ValueError(
                    f"encoder {name!r} starts from other subjects, and there are none: give "
                    "sources=[...], or several subjects"
                )
            found[str(name)] = given
        elif isinstance(given, BaseEstimator):
            found[str(name)] = as_encoder(given, str(name))
        else:
            raise TypeError(
                f"encoder {name!r} is a {type(given).__name__}: give an encoder, or a Transfer"
            )
    return found


def description(method: Any) -> Any:
    """A method as plain values."""
    if isinstance(method, Transfer):
        own = {"how": method.how, "n_components": method.n_components, "rois": method.rois}
        return {"transfer": own, "encoder": describe(method.encoder)}
    return describe(method)


def start(method: Any, prepared: Any, sources: Mapping[str, tuple[Any, np.ndarray]]) -> Any:
    """What is fitted to each subset: `prepared` itself, or what the sources make of it.

    Parameters
    ----------
    method : encoder or Transfer
    prepared : encoder
        That of the method, for features.
    sources : dict of name to (EncodingData, features)
    """
    if not isinstance(method, Transfer):
        return prepared
    if method.how == "adapt":
        name = max(sources, key=lambda name: sources[name][0].n_images)
        data, X = sources[name]
        encoder = _in_one_space(prepared, {name: X}).with_voxels(data.voxels)
        return encoder.fit(X, data.betas)
    encoder = _in_one_space(prepared, {name: X for name, (_, X) in sources.items()})
    if method.how == "pretrain":
        return encoder.pretrain([(X, data.betas) for data, X in sources.values()])
    if method.how == "group-mean":
        return GroupMean.of(encoder, sources)
    data = [d for d, _ in sources.values()]
    # Of what the encoder sees: `_features_of` has what is learned, and the bands side by side.
    features = [clone(encoder)._features_of(X, reset=True) for _, X in sources.values()]
    atlas = data[0].atlases[0] if method.rois and data[0].atlases else None
    prior = WeightPrior.fit(data, features, n_components=method.n_components, atlas=atlas)
    return encoder.set_params(prior=prior)


def _in_one_space(prepared: Any, inputs: Mapping[str, np.ndarray]) -> Any:
    """Unfitted copy whose learned features are fitted once, to the sources' images.

    The new subject has them too: what is learned from the sources is of these features alone.
    Encoders with members of their own keep the members' features when they are adapted.
    """
    encoder = clone(prepared)
    features = encoder.get_params(deep=False).get("features")
    if learns_any(features):
        encoder.set_params(features=fitted_once(features, inputs))
    return encoder
