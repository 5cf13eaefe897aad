"""One space of features for several subjects, of transformers that learn from images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from brainenc.data.images import as_images
from brainenc.features.learned import fitted_extractor, learns
from brainenc.identity import fitted_identity, unidentified
from brainenc.storage import fingerprint


def frozen(transformer: Any) -> Any:
    """A fitted transformer, or a dict of such, whose features a later fit leaves as they are.

    Weights, priors and networks that were learned from features are of these features alone: a PCA
    that is fitted to other images makes others.
    """
    if isinstance(transformer, Mapping):
        return {name: frozen(part) for name, part in transformer.items()}
    return FrozenEstimator(transformer) if learns(transformer) else transformer


def learns_any(transformer: Any) -> bool:
    """As `learns`, of a transformer, a dict of such, or None."""
    parts = transformer.values() if isinstance(transformer, Mapping) else [transformer]
    return any(map(learns, parts))


def fitted_once(transformer: Any, inputs: Mapping[str, Any]) -> Any:
    """A transformer, or a dict of such, with what learns fitted to several subjects' images.

    Parameters
    ----------
    transformer : transformer, unfitted, or dict of such
    inputs : dict of subject's name to images, or to what `share` gave of them

    Returns
    -------
    transformer or dict, `frozen`

    Raises
    ------
    ValueError : images of several sizes.
    """
    if isinstance(transformer, Mapping):
        return {name: fitted_once(part, inputs) for name, part in transformer.items()}
    if not learns(transformer):
        return transformer
    arrays = [_loaded(x) for x in inputs.values()]
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = {n: list(a.shape[1:]) for n, a in zip(inputs, arrays, strict=True)}
        raise ValueError(
            f"features={transformer!r} is fitted once to the images of all sources, whose shapes "
            f"differ: {shapes}. Make images of one size, or give the features of each subject"
        )
    return frozen(fitted_extractor(clone(transformer), np.concatenate(arrays)))


def check_not_learned(extractor: Any, of: str) -> None:
    """Raise ValueError if features were learned from the images of this fit.

    Parameters
    ----------
    extractor : fitted transformer, dict of such, or None
    of : str
        What is of other features: "the prior".
    """
    if learns_any(extractor):
        raise ValueError(
            f"features={extractor!r} was fitted to this subject's images, so that its features are "
            f"others than those of {of}: fit it once, to the images of the other subjects, and "
            "give sklearn.frozen.FrozenEstimator(fitted) as features of all of them"
        )


def extractor_description(extractor: Any) -> dict[str, Any] | None:
    """What an extractor computes, as plain values; None if features were given."""
    if extractor is None:
        return None
    if isinstance(extractor, Mapping):
        return {name: extractor_description(part) for name, part in extractor.items()}
    if isinstance(extractor, FrozenEstimator):
        return extractor_description(extractor.estimator)
    key = getattr(extractor, "key", None)
    found = {"class": type(extractor).__name__, "key": str(key() if callable(key) else extractor)}
    if learns(extractor):
        # Fitted to other images it makes other features.
        learned = fitted_identity(extractor)
        found["learned"] = "unknown" if unidentified(learned) else fingerprint(learned)
    return found


def _loaded(inputs: Any) -> np.ndarray:
    if isinstance(inputs, np.ndarray):
        return inputs
    images = as_images(inputs)
    return np.asarray(images[np.arange(len(images))])
