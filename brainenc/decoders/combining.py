"""Several decoders as one: convex weights of their similarities; captions that fit their image."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.saving import save
from brainenc.metrics import cosine_similarity
from brainenc.numeric import as_doubles


@dataclass(frozen=True)
class CombinedDecoder:
    """Fitted decoders whose similarities are added with weights.

    The similarity is the cosine of predicted and candidate targets for every decoder, also for one
    that has another similarity of its own, since the weights were chosen for the cosine.

    Attributes
    ----------
    decoders : list of BaseDecoder
    weights : array, shape (n_decoders,)
        Not negative; their sum is 1.
    """

    decoders: list[Any]
    weights: NDArray[np.float64]

    #: `brainenc.load` reads it from a folder of its own.
    saved_alone = True
    saved_format = "brainenc.decoder"

    def __post_init__(self) -> None:
        weights = as_doubles(self.weights, "weights")
        _check_number(self.decoders, weights.tolist(), "weights")
        if not (weights >= 0).all() or not np.isclose(weights.sum(), 1):
            raise ValueError(f"weights={weights.tolist()} must be 0 or more, with the sum 1")
        object.__setattr__(self, "weights", weights)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the fitted decoders and their weights to a folder, which `brainenc.load` reads.

        Parameters
        ----------
        folder : path
            A former model there is replaced once the new one is complete.

        Returns
        -------
        pathlib.Path : `folder`

        Raises
        ------
        FileExistsError, TypeError : as for `brainenc.BaseEncoder.save`.
        sklearn.exceptions.NotFittedError : a decoder is not fitted.
        """
        for decoder in self.decoders:
            check_is_fitted(decoder)
        return save(self, folder)

    def similarity(self, X: Any, candidates: Sequence[Any], *, center: bool = True) -> np.ndarray:
        """Weighted sum of cosines of predicted targets with those of candidates.

        Parameters
        ----------
        X : betas, as for `BaseDecoder.predict`
        candidates : list of targets
            Of the same images, for each decoder.
        center : bool
            Subtract the mean target of the training images first, as for the weights.

        Returns
        -------
        array, shape (n_responses, n_candidates)
            NaN where a decoder with a weight above 0 has an undefined prediction.
        """
        _check_number(self.decoders, candidates, "candidates")
        parts = [
            _cosines(decoder, decoder.predict(X), some, center=center)
            for decoder, some in zip(self.decoders, candidates, strict=True)
        ]
        return _weighted(self.weights, np.stack(parts))


def combine(
    decoders: Sequence[Any], betas: Any, targets: Sequence[Any], *, step: float = 0.1
) -> CombinedDecoder:
    """Fit decoders, and choose weights of their similarities on held-out training images.

    Parameters
    ----------
    decoders : list of BaseDecoder, unfitted
    betas : array, as for `BaseDecoder.fit`
        Of the training images.
    targets : list
        Targets of the training images for each decoder, such as embeddings of the image and of its
        caption.
    step : float
        Of the grid of weights.

    Returns
    -------
    CombinedDecoder

    Raises
    ------
    ValueError : other numbers of decoders and targets; no images that all decoders held out.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> image, caption = rng.standard_normal((2, 100, 5))
    >>> both = np.hstack([image, caption])
    >>> betas = both @ rng.standard_normal((10, 40)) + rng.standard_normal((100, 40))
    >>> decoders = [brainenc.RidgeDecoder(), brainenc.RidgeDecoder()]
    >>> combined = brainenc.decoders.combine(decoders, betas[:80], [image[:80], caption[:80]])
    >>> combined.similarity(betas[80:], [image[80:], caption[80:]]).shape
    (20, 20)
    """
    _check_number(decoders, targets, "targets")
    predictions = [d.fit_held_out(betas, t) for d, t in zip(decoders, targets, strict=True)]
    known = np.logical_and.reduce(
        [np.isfinite(p.reshape(len(p), -1)).all(axis=1) for p in predictions]
    )
    if known.sum() < 2:
        raise ValueError(
            f"{known.sum()} images were held out by all of the {len(decoders)} decoders, which is "
            "too few to choose weights: give them the same random_state, and more images"
        )
    similarities = [
        _cosines(decoder, predicted, some)[np.ix_(known, known)]
        for decoder, predicted, some in zip(decoders, predictions, targets, strict=True)
    ]
    return CombinedDecoder(list(decoders), combination_weights(similarities, step=step))


def combination_weights(similarities: Sequence[np.ndarray], *, step: float = 0.1) -> np.ndarray:
    """Convex weights with the largest mean reciprocal rank of the right one, in both directions.

    Parameters
    ----------
    similarities : list of arrays, each of shape (n, n)
        Of held-out responses and their images, in the same order. An image whose own similarity is
        NaN has the last rank; NaN of another image is below every number.
    step : float
        Of the grid, in (0, 1].

    Returns
    -------
    array, shape (n_matrices,)
        Not negative, with the sum 1. Of equally good ones the most even.

    Examples
    --------
    >>> import numpy as np
    >>> right = np.eye(4)
    >>> combination_weights([right, right[::-1]]).round(1).tolist()[0] > 0.5
    True
    """
    if not 0 < step <= 1:
        raise ValueError(f"step={step!r} must be more than 0 and at most 1")
    matrices = np.stack([as_doubles(s, "similarities") for s in similarities])
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
        raise ValueError(f"similarities {matrices.shape[1:]} must be square: response i, image i")
    n_steps = round(1 / step)
    best, chosen = (-np.inf, -np.inf), np.array([])
    for parts in _compositions(n_steps, len(matrices)):
        weights = np.array(parts) / n_steps
        score = _reciprocal_rank(_weighted(weights, matrices))
        found = (round(score, 12), -float(np.square(weights).sum()))
        if found > best:
            best, chosen = found, weights
    return chosen


def _cosines(decoder: Any, predicted: Any, candidates: Any, *, center: bool = True) -> np.ndarray:
    """Cosines of predictions with targets, as `Decoder.similarity`, for decoders of every kind."""
    targets = decoder._targets_of(candidates)
    mean = decoder.target_mean_.reshape(-1) if center else None
    return cosine_similarity(predicted.reshape(len(predicted), -1), targets, mean=mean)


def _weighted(weights: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Weighted sum over matrices, without those of weight 0: 0 times NaN is NaN."""
    used = weights > 0
    return np.einsum("d,drc->rc", weights[used], matrices[used])


def _compositions(total: int, n: int) -> Iterator[tuple[int, ...]]:
    if n == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, n - 1):
            yield (first, *rest)


def _reciprocal_rank(similarity: np.ndarray) -> float:
    """Mean of both directions; a tie counts as the mean of the ranks, NaN as the last rank."""
    own = np.diag(similarity)
    ranks = []
    for of_image, axis in ((own[:, None], 1), (own[None], 0)):
        above, equal = (similarity > of_image).sum(axis), (similarity == of_image).sum(axis)
        ranks.append(np.where(np.isnan(own), len(own), 1 + above + (equal - 1) / 2))
    return float(np.mean([np.mean(1 / r) for r in ranks]))


def screen_captions(similarity: Any, *, share: float = 0.5) -> np.ndarray:
    """Captions of an image whose probability is more than a share of the best one's.

    Parameters
    ----------
    similarity : array, shape (n_images, n_captions)
        Logits of an image and its own captions, as CLIP gives them (100 times the cosine, say);
        NaN where an image has fewer captions.
    share : float
        Published: .5. In [0, 1).

    Returns
    -------
    array of bool, shape (n_images, n_captions)
        Always with the best caption; False for all of an image without captions.

    References
    ----------
    Lin, Sprague & Singh (2022), Mind Reader, NeurIPS 35: 1 to 3 of five captions are left.

    Examples
    --------
    >>> screen_captions([[25.0, 24.5, 20.0]]).tolist()  # probabilities .62, .37, .00
    [[True, True, False]]
    """
    logits = as_doubles(similarity, "similarity")
    if logits.ndim != 2:
        raise ValueError(f"similarity {logits.shape} must be (n_images, n_captions)")
    if not 0 <= share < 1:
        raise ValueError(f"share={share!r} must be at least 0 and less than 1")
    # p / p_best = exp(logit − logit_best): the sum of the softmax cancels.
    best = np.where(np.isnan(logits), -np.inf, logits).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        kept = np.exp(logits - best) > share
    return kept & np.isfinite(best)


def _check_number(decoders: Sequence[Any], others: Sequence[Any], name: str) -> None:
    if len(decoders) != len(others) or not decoders:
        raise ValueError(
            f"{len(decoders)} decoders and {len(others)} {name}: give a list with one for each"
        )
