"""project_weights: the image embedding that a voxel's weights point at (BrainSCUBA)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.data.images import looks_like_images
from brainenc.localization import in_batches
from brainenc.prompts import unit_norm
from brainenc.validation import check_index


@dataclass(frozen=True)
class ProjectedWeights:
    """Result of `project_weights`.

    Attributes
    ----------
    directions : array, shape (n_voxels, n_features), float32
        Of unit length: the mean direction of the images' embeddings, weighted. NaN for a voxel
        without weights.
    norms : array, shape (n_voxels,), float32
        Mean length of the embeddings, with the same weights.
    similarity : array, shape (n_voxels,)
        Cosine of the weights and `directions`.
    effective_images : array, shape (n_voxels,)
        exp(entropy) of the images' shares: 1 if one image counts, n_images if all do alike.
    """

    directions: np.ndarray
    norms: np.ndarray
    similarity: np.ndarray
    effective_images: np.ndarray

    @property
    def embeddings(self) -> np.ndarray:
        """Directions times norms, (n_voxels, n_features): what a captioner of images takes."""
        return self.directions * self.norms[:, None]


def project_weights(
    encoder: Any,
    images: Any,
    temperature: float = 1 / 150,
    *,
    voxels: Any = None,
    batch_size: int = 4096,
) -> ProjectedWeights:
    """Put the weights of voxels among the embeddings of natural images, as BrainSCUBA does.

    Weights of an encoder on image embeddings are far from every image embedding, and a captioner
    that is made for image embeddings cannot read them. The projection is a mean over many images,
    with shares softmax(cosine of weights and embedding / temperature).

    Parameters
    ----------
    encoder : BaseEncoder with linear weights, fitted to embeddings (n_images, n_features)
        `RidgeEncoder` and others with ``linear_map``, on embeddings such as those of
        `OpenCLIPFeatures`.
    images : images, or embeddings of images, shape (n_images, n_features)
        Many natural images, read in batches; the published ones were 2 million.
    temperature : float, > 0
    voxels : mask of shape (n_voxels,) or positions, optional
        All by default.
    batch_size : int
        Images at a time.

    Returns
    -------
    ProjectedWeights, one row per voxel

    Raises
    ------
    TypeError : the encoder has no linear weights.
    ValueError : embeddings of another width than the encoder's, or of length zero.

    Notes
    -----
    The encoder z-scores features; weights are those of features as they are. A projection exists
    for a voxel of noise too: test what it says with `describe` or `caption_scores`.

    References
    ----------
    Luo et al. (2024), ICLR (BrainSCUBA; temperature 1/150).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> embeddings = rng.standard_normal((300, 8)) + 1
    >>> betas = embeddings[:, :2] + rng.standard_normal((300, 2))
    >>> encoder = brainenc.RidgeEncoder(features=None).fit(embeddings, betas)
    >>> found = brainenc.project_weights(encoder, embeddings)
    >>> int(found.directions[0].argmax()), found.directions.shape
    (0, (2, 8))
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be more than 0")
    weights = embedding_weights(encoder)
    if voxels is not None:
        weights = weights[check_index(voxels, len(weights), "voxels")]
    size = np.linalg.norm(weights, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = weights / np.where(size > 0, size, np.nan)
    n = len(unit)
    largest = np.full(n, -np.inf)
    total, norm, entropy = np.zeros(n), np.zeros(n), np.zeros(n)
    direction = np.zeros_like(unit)
    for _, batch in in_batches(images, batch_size)[1]:
        found = embeddings_of(encoder, batch, unit.shape[1])
        length = np.linalg.norm(found, axis=1)
        if not (length > 0).all():
            raise ValueError("images has an embedding of length zero, which has no direction")
        found = found / length[:, None]
        score = (unit @ found.T) / temperature  # (n_voxels, n_images)
        higher = np.maximum(largest, score.max(axis=1))
        # Shares so far are those of a smaller largest score.
        with np.errstate(invalid="ignore"):
            shrink = np.where(np.isneginf(largest), 0, np.exp(largest - higher))
        share = np.exp(score - higher[:, None])
        total = shrink * total + share.sum(axis=1)
        direction = shrink[:, None] * direction + share @ found
        norm = shrink * norm + share @ length
        entropy = shrink * entropy + np.einsum("vi,vi->v", share, score)
        largest = higher
    bits = np.log(total) + largest - entropy / total
    directions = unit_norm(direction)
    return ProjectedWeights(
        directions.astype(np.float32),
        (norm / total).astype(np.float32),
        np.einsum("vf,vf->v", unit, directions),
        np.exp(bits),
    )


def embedding_weights(encoder: Any) -> np.ndarray:
    """Weights of features as they are, (n_voxels, n_features), NaN for voxels without data.

    Raises
    ------
    TypeError : the encoder has no linear weights of its features.
    """
    found = getattr(encoder, "linear_map", lambda: None)()
    if found is None:
        raise TypeError(
            f"{type(encoder).__name__} has no linear weights of its features: fit a RidgeEncoder "
            "to the embeddings"
        )
    return np.asarray(found.weights, dtype=np.float64).T


def embeddings_of(encoder: Any, images: Any, width: int) -> np.ndarray:
    """Embeddings of a batch of images by the encoder's extractor, or embeddings as given."""
    extractor = getattr(encoder, "features_", None)
    if looks_like_images(images):
        if extractor is None:
            raise ValueError(
                "images are images, but the encoder was fitted to features: give their features"
            )
        found = np.asarray(extractor.transform(images), dtype=np.float64)
    else:
        found = np.asarray(images, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != width:
        raise ValueError(
            f"images gave embeddings {found.shape}, but the encoder has weights of {width} "
            'features per voxel: use one embedding per image, such as OpenCLIPFeatures("…", '
            'layer="pooled"), in fit and here'
        )
    if not np.isfinite(found).all():
        raise ValueError("images gave embeddings with NaN or infinite numbers")
    return found
