"""Several feature spaces of the same images: a dict of transformers, or bands of columns."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.data.images import looks_like_images
from brainenc.encoders.inputs import Inputs, extracted
from brainenc.features.learned import (
    LearnedFeatures,
    SideBySide,
    fitted_extractor,
    learns,
    share_all,
    takes_features,
)
from brainenc.solvers.voxels import flatten_tokens
from brainenc.validation import feature_shape_message


class FeatureSpaces(Inputs):
    """Inputs of an encoder whose `features` may be a dict, and that has the parameter `bands`.

    Attributes
    ----------
    band_sizes_ : dict of name to int
        Number of features of each band, set by a fit to a dict of transformers.
    """

    bands: Any = None
    #: Whether `bands` has the shapes of tokens; otherwise numbers of features.
    _keeps_shapes: bool = False

    def precompute(self, images: Any, transform: Callable[[Any], np.ndarray]) -> tuple[Any, Any]:
        """As `BaseEncoder.precompute`; a dict of transformers becomes `bands` if none learns."""
        if not isinstance(self.features, Mapping):
            return super().precompute(images, transform)
        if any(learns(t) for t in self.features.values()):
            shared = share_all(dict(self.features), images, transform)
            rests = {name: rest for name, (rest, _) in shared.items()}
            return clone(self).set_params(features=rests), next(iter(shared.values()))[1]
        found = {name: transform(clone(t)) for name, t in self.features.items()}
        bands = {
            name: list(part.shape[1:]) if self._keeps_shapes else math.prod(part.shape[1:])
            for name, part in found.items()
        }
        given = clone(self).set_params(features=None, bands=bands)
        return given, np.concatenate([flatten_tokens(part) for part in found.values()], axis=1)

    def learned_features(self) -> Any:
        """As `BaseEncoder.learned_features`, of all bands side by side."""
        if not isinstance(self.features, Mapping):
            return super().learned_features()
        if not all(map(takes_features, self.features.values())):
            return None
        return LearnedFeatures(SideBySide(list(self.features.values())))

    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        # After the fit, what it found counts, not the parameter.
        transformers = self.features if reset else getattr(self, "features_", None)
        if not isinstance(transformers, Mapping):
            return super()._features_of(X, reset=reset)
        before = all(map(takes_features, transformers.values()))
        if not before and not looks_like_images(X):
            raise TypeError(
                "features is a dict of transformers, so images are wanted, not features"
            )
        if reset:
            self.features_ = {n: fitted_extractor(clone(t), X) for n, t in transformers.items()}
        found = {name: extracted(t, X) for name, t in self.features_.items()}
        check_band_shapes(self, found, reset=reset)
        parts = {name: flatten_tokens(band) for name, band in found.items()}
        if reset:
            self.band_sizes_ = {name: part.shape[1] for name, part in parts.items()}
        return np.concatenate(list(parts.values()), axis=1)

    def _band_shapes_of(self, features: np.ndarray) -> dict[str, list[int]]:
        """Shapes of an image's features in each band, when they are fitted."""
        if isinstance(self.features, Mapping):
            return dict(self.feature_shape_)  # type: ignore[attr-defined]
        return check_bands(self.bands, list(features.shape[1:]))


def check_band_shapes(encoder: Any, bands: Mapping[str, np.ndarray], *, reset: bool) -> None:
    """Record the shape of an image's features in each band, or compare it with the recorded one.

    Raises
    ------
    ValueError : it differs, for example because images have another size.
    """
    shapes = {name: list(band.shape[1:]) for name, band in bands.items()}
    if reset:
        encoder.feature_shape_ = shapes
    for name, band in bands.items():
        if shapes[name] != encoder.feature_shape_[name]:
            raise ValueError(
                feature_shape_message(encoder, band, encoder.feature_shape_[name], name)
            )


def check_bands(bands: Mapping[str, Any] | None, shape: list[int]) -> dict[str, list[int]]:
    """Bands as a dict of shapes whose sizes add up to the number of features.

    Parameters
    ----------
    bands : dict of name to int or shape, or None for one band
    shape : list of int
        Of the features of an image.

    Raises
    ------
    ValueError : they do not add up, or a band is empty.
    """
    if bands is None:
        return {"all": shape}
    shapes = {name: [int(n) for n in np.atleast_1d(band)] for name, band in bands.items()}
    sizes, n_features = [math.prod(band) for band in shapes.values()], math.prod(shape)
    if (
        min((n for band in shapes.values() for n in band), default=0) < 1
        or sum(sizes) != n_features
    ):
        raise ValueError(
            f"bands={dict(bands)} must be positive and add up to the {n_features} features, "
            f"not to {sum(sizes)}"
        )
    return shapes
