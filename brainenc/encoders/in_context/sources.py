"""Other subjects of a pretraining: their features, betas and names."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from brainenc.encoders.inputs import extracted, extractor_for
from brainenc.features.learned import fitted_extractor, learns
from brainenc.validation import check_betas


class Sources(NamedTuple):
    """Subjects that a net is pretrained on.

    Attributes
    ----------
    subjects : list
        As `WeightPrior.fit` takes them.
    features : list of arrays, shape (n_images, ...)
    betas : list of arrays, shape (n_images, n_repeats, n_voxels)
    names : list of str
    extractor : transformer or None
    """

    subjects: list[Any]
    features: list[np.ndarray]
    betas: list[np.ndarray]
    names: list[str]
    extractor: Any


def sources_of(subjects: Iterable[Any], features: Any) -> Sources:
    """Features and betas of subjects: EncodingData, or pairs of images or features and betas.

    Raises
    ------
    TypeError : something else.
    ValueError : none, features that learn from images, other numbers of features.
    """
    subjects = list(subjects)
    if not subjects:
        raise ValueError("subjects is empty: give the data of at least one other subject")
    found: list[np.ndarray] = []
    betas: list[np.ndarray] = []
    names: list[str] = []
    data: list[Any] = []
    extractor = None
    for i, subject in enumerate(subjects):
        if hasattr(subject, "betas") and hasattr(subject, "images"):
            X, y, name = subject.images, subject.betas, subject.name
        elif isinstance(subject, tuple | list) and len(subject) == 2:
            (X, y), name = subject, f"subject {i + 1}"
        else:
            raise TypeError(
                f"subjects[{i}] is a {type(subject).__name__}: give EncodingData, or a pair "
                "(images or features, betas)"
            )
        extractor = extractor_for(features, X)
        if extractor is not None:
            if learns(extractor):
                raise ValueError(
                    f"features={features!r} learns from images, so that every subject would have "
                    "other features: fit it once, and give its features of each subject's images"
                )
            extractor = fitted_extractor(clone(extractor), X)
            values = extracted(extractor, X)
        else:
            values = np.asarray(X)
        if found and values.shape[1:] != found[0].shape[1:]:
            raise ValueError(
                f"features of {name} are of shape {list(values.shape[1:])}, and those of "
                f"{names[0]} of shape {list(found[0].shape[1:])}: give the same features of all "
                "subjects"
            )
        if not (values.ndim in (2, 3) and np.isfinite(values).all()):
            raise ValueError(
                f"features of {name} of shape {values.shape} must be finite, (n_images, "
                "n_features) or (n_images, n_tokens, width)"
            )
        found.append(values)
        betas.append(check_betas(y, n_images=len(values)))
        names.append(str(name))
        data.append(
            SimpleNamespace(betas=betas[-1], n_images=len(values), name=names[-1], images=X)
        )
    return Sources(data, found, betas, names, extractor)
