"""Features that a learning curve's encoders see, computed once for each subject."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import clone

from brainenc.benchmarking.curve_methods import description
from brainenc.benchmarking.manifest import data_hash
from brainenc.conversion import check_one_order
from brainenc.data.encoding_data import EncodingData
from brainenc.encoders.composed import extraction
from brainenc.storage import fingerprint


class CurveInputs:
    """Features of each subject's images for an encoder, computed once."""

    def __init__(self, subjects: Mapping[str, EncodingData], features: Any):
        self.subjects, self.features = subjects, features
        self._transforms: dict[str, Any] = {}
        self._hashes: dict[str, str] = {}
        if features is None or hasattr(features, "transform"):
            return
        if not isinstance(features, Mapping):
            if len(subjects) > 1:
                raise ValueError(
                    f"features must be a transformer or a dict with an array for each of "
                    f"{list(subjects)}, got a {type(features).__name__}"
                )
            self.features = {next(iter(subjects)): features}
        for name, d in subjects.items():
            if name not in self.features:
                raise ValueError(f"features has no array for {name}: {list(self.features)}")
            X = self.features[name]
            check_one_order(features=X, betas=d.betas)
            if len(X) != d.n_images:
                raise ValueError(
                    f"features of {name} of shape {np.shape(X)} must have {d.n_images} rows"
                )

    def of(self, encoder: Any, name: str) -> tuple[Any, Any]:
        """Unfitted encoder for features, and the features of a subject's images."""
        encoder = clone(encoder)
        if isinstance(self.features, Mapping):
            if "features" in encoder.get_params(deep=False):
                encoder.set_params(features=None)
            return encoder, np.asarray(self.features[name])
        if self.features is not None and "features" in encoder.get_params(deep=False):
            encoder.set_params(features=clone(self.features))
        images = self.subjects[name].images
        if name not in self._transforms:  # which keep the features that they compute
            self._transforms[name] = extraction(images, {})
        return encoder.precompute(images, self._transforms[name])

    def hash(self, name: str) -> str:
        """Fingerprint of a subject's images, betas and given features."""
        if name not in self._hashes:
            own = [data_hash(self.subjects[name])]
            if isinstance(self.features, Mapping):
                own.append(fingerprint(np.asarray(self.features[name])))
            self._hashes[name] = fingerprint(*own)
        return self._hashes[name]


def description_of(features: Any) -> Any:
    """Features as plain values; arrays are in the hashes of subjects."""
    return "given" if isinstance(features, Mapping) else description(features)
