"""Responses and targets of some images, checked, and their retrieval as rows of a table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.analysis.same_targets import same_targets
from brainenc.conversion import check_one_order, numeric_array
from brainenc.data.images import looks_like_images
from brainenc.decoders import Decoder
from brainenc.decoders.responses import VoxelScaling
from brainenc.encoders.inputs import extracted
from brainenc.encoders.training_images import check_not_trained_on
from brainenc.metrics import Retrieval, csls, retrieval
from brainenc.metrics.similarity import CSLS
from brainenc.repeats import average_repeats
from brainenc.validation import check_betas


@dataclass(frozen=True)
class Part:
    """Betas and targets of the same images.

    Attributes
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
    targets : array, shape (n_images, n_dimensions) or (n_images, n_tokens, width)
    """

    betas: np.ndarray
    targets: np.ndarray

    @property
    def averages(self) -> np.ndarray:
        """Averages over the repeats that there are, (n_images, n_voxels)."""
        return average_repeats(self.betas)

    @property
    def flat(self) -> np.ndarray:
        """Targets, flattened."""
        return self.targets.reshape(len(self.targets), -1)


def check_decoder(decoder: Any) -> None:
    """Raise TypeError unless it is a decoder, NotFittedError unless it is fitted."""
    if not isinstance(decoder, Decoder):
        raise TypeError(f"decoder={decoder!r} must be a decoder, such as brainenc.RidgeDecoder()")
    check_is_fitted(decoder)


def check_fits_anew(decoder: Any, way_out: str) -> None:
    """Raise ValueError for a decoder of an encoder that was fitted before, which no copy has."""
    if getattr(decoder, "prefit", False):
        raise ValueError(
            f"copies of {type(decoder).__name__}(prefit=True) cannot be fitted: give {way_out}"
        )


def unfitted(decoder: Any) -> Any:
    """Copy to fit to target arrays, which the decoder's extractor, if any, has made already."""
    found = clone(decoder)
    if "targets" in found.get_params(deep=False):
        found.set_params(targets=None)
    return found


def checked_part(decoder: Any, pair: Any, name: str) -> Part:
    """A pair (betas, targets) of the voxels and the kind of targets that a decoder was fitted to.

    Raises
    ------
    ValueError : no pair, rows, voxels or targets that do not match.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{name} must be a pair (betas, targets), got {type(pair).__name__}")
    betas, targets = pair
    check_one_order(betas=betas, targets=targets)
    betas = check_responses_of(decoder, betas, f"betas of {name}")
    targets = target_arrays(decoder, targets, f"targets of {name}")
    if len(betas) != len(targets):
        raise ValueError(
            f"{name}: betas {betas.shape} and targets {targets.shape} must have one row per image"
        )
    if len(betas) < 2:
        raise ValueError(f"{name} has {len(betas)} image: give at least two")
    return Part(betas, targets)


def checked_parts(decoder: Any, train: Any, test: Any) -> tuple[Part, Part]:
    """Both pairs, of which no image is in both, and no test image in the fit of an encoder within.

    Raises
    ------
    ValueError : as `checked_part`, an image on both sides, or a decoder by an encoder that was
        fitted to test images.
    """
    learned, asked = checked_part(decoder, train, "train"), checked_part(decoder, test, "test")
    check_apart(learned, asked)
    check_not_fitted_to_test(getattr(decoder, "encoder_", None), test[1], "of the decoder")
    return learned, asked


def check_not_fitted_to_test(encoder: Any, shown: Any, name: str) -> None:
    """Raise ValueError if an encoder was fitted to test images, given as it takes them."""
    check_not_trained_on(encoder, shown, name, "test images")


def check_responses_of(decoder: Any, betas: Any, name: str) -> np.ndarray:
    """Betas (n_images, n_repeats, n_voxels) of the voxels that a decoder was fitted to."""
    array = check_betas(betas, name=name)
    if array.shape[2] != decoder.n_features_in_:
        raise ValueError(
            f"{name} {array.shape} have {array.shape[2]} voxels, but {type(decoder).__name__} was "
            f"fitted to {decoder.n_features_in_}: give the betas of the same voxels"
        )
    return array


def target_arrays(decoder: Any, targets: Any, name: str) -> np.ndarray:
    """Targets as an array of the shape that a decoder was fitted to; of images, by its extractor.

    Raises
    ------
    TypeError : images, and the decoder was fitted to arrays.
    ValueError : another shape, or NaN.
    """
    if looks_like_images(targets):
        extractor = getattr(decoder, "targets_", None)
        if extractor is None:
            raise TypeError(
                f"{name} are images, but {type(decoder).__name__} has no extractor of targets: "
                "give arrays of targets"
            )
        return extracted(extractor, targets)
    array = numeric_array(targets, name)
    if list(array.shape[1:]) != decoder.target_shape_:
        raise ValueError(
            f"{name} {array.shape} do not fit: each had the shape {tuple(decoder.target_shape_)} "
            f"when {type(decoder).__name__} was fitted"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} {array.shape} contain NaN or infinity: leave those images out")
    return array


def check_apart(train: Part, test: Part) -> None:
    """Raise ValueError if a test image is one of the training images, by its targets."""
    both = np.flatnonzero(same_targets(train.targets, test.targets))
    if both.size:
        raise ValueError(
            f"{len(both)} test images (first in row {both[0]}) have the targets of a training "
            "image: an image must not be on both sides; leave these out of one"
        )


def embedding_of(decoder: Any) -> Callable[[np.ndarray], np.ndarray]:
    """What the similarity of a decoder is of: its retrieval head if it has one, else `predict`."""
    return getattr(decoder, "embeddings", decoder.predict)


def labelled_similarities(decoder: Any, betas: np.ndarray, targets: Any) -> dict[str, np.ndarray]:
    """Similarities of a decoder, the main one first, and CSLS of the main one."""
    found = dict(decoder.similarities(betas, targets))
    main = next(iter(found.values()))
    return {**found, CSLS: csls(main, min(10, *main.shape))}


def retrievals(
    similarities: dict[str, np.ndarray], *, pool_size: int | None, n_pools: int, random_state: int
) -> dict[str, Retrieval]:
    """`retrieval` of each similarity, of responses and candidates in the same order."""
    found = {}
    for label, values in similarities.items():
        ids = np.arange(len(values))
        size = min(300, len(ids)) if pool_size is None else pool_size
        found[label] = retrieval(
            values,
            query_ids=ids,
            candidate_ids=ids,
            pool_size=size,
            n_pools=1 if size == len(ids) else n_pools,
            random_state=random_state,
        )
    return found


def linear_part(
    predict: Callable[[np.ndarray], np.ndarray], scaling: VoxelScaling, responses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Change of predictions along the principal axes of responses, from their mean.

    Of a linear decoder this is all of it, within the span of the responses.

    Parameters
    ----------
    predict : callable, from betas (n, n_voxels) to targets
    scaling : VoxelScaling
    responses : array, shape (n_images, n_voxels)
        A missing voxel counts as its mean.

    Returns
    -------
    axes : array, shape (n_axes, n_voxels)
        Of length 1, orthogonal, in units of s.d.
    slopes : array, shape (n_axes, n_dimensions)
        Change of the prediction per unit along each axis.
    """
    scaled = scaling.apply(responses.astype(np.float64))
    _, sizes, axes = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    axes = axes[sizes > 1e-6 * sizes.max()]
    # As far from the mean as a response is.
    length = np.sqrt(len(scaling.mean))
    mean = np.asarray(scaling.mean, np.float64)
    start = predict(mean[None]).reshape(1, -1)
    ends = predict(mean + length * axes * scaling.sd).reshape(len(axes), -1)
    return axes, (ends.astype(np.float64) - start) / length
