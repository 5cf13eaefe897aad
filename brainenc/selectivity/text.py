"""Text queries: voxels by their agreement with prompts, and images of a concept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.images import as_images, looks_like_images
from brainenc.documentation import see
from brainenc.localization import Moments, in_batches, two_dimensional
from brainenc.numeric import as_numbers
from brainenc.prompts import Template, check_prompts, unit_norm
from brainenc.selectivity.projection import embedding_weights
from brainenc.validation import check_whole


def text_scores(
    encoder: Any,
    prompts: Sequence[str],
    templates: Sequence[Template] | None = None,
    *,
    text: Any = None,
    images: Any = None,
    embeddings: Any = None,
    n_nearest: int = 50,
    batch_size: int = 256,
) -> pd.DataFrame:
    """How well each prompt goes with each voxel, without images that were labelled.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
        Without `images` one with linear weights of joint image-text embeddings.
    prompts : sequence of str, at least two
        They are compared with each other.
    templates : sequence of str or of functions, optional
        As for `OpenCLIPFeatures.encode_text`.
    text : object with ``encode_text(prompts, templates)``, optional
        By default the encoder's `OpenCLIPFeatures`.
    images : images or features, as for ``encoder.predict``, optional
        With images the score is by retrieval: the mean prediction for the `n_nearest` images that
        are nearest to the prompt, less the mean over all images, in s.d. of the predictions over
        images. Without, it is the cosine of weights and text, as below.
    embeddings : array, shape (n_images, n_features), optional
        Embeddings of `images` in the space of the text, if they are not the encoder's features.
    n_nearest : int
        Images per prompt.
    batch_size : int
        Images predicted at a time.

    Returns
    -------
    DataFrame, n_voxels rows, one column per prompt
        NaN for a voxel without weights or with constant predictions.

    Raises
    ------
    TypeError : the encoder has no linear weights.
    ValueError : there is no text tower; fewer than two prompts, or one twice; text and features of
        different widths.

    Notes
    -----
    All texts share a direction that no image has, the modality gap, which is most of a text's
    cosine with any weight. So the mean over the prompts is subtracted first: scores say which of
    these prompts goes better with a voxel, and depend on the set. Scores have no null of their own;
    compare with random prompts, and with measured betas where there are.

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(300, 60, 3, random_state=0)
    >>> joint = data.truth.joint()
    >>> encoder = brainenc.RidgeEncoder(features=None).fit(joint.images, data.betas)
    >>> prompts = ["a face", "a place", "a body"]
    >>> scores = brainenc.text_scores(encoder, prompts, text=joint)
    >>> scores[data.voxels["roi"] == "PPA"].mean().idxmax()
    'a place'
    """
    names = check_prompts(prompts)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"prompts has {len(names)} texts: scores compare prompts with each other, so give at "
            "least two, all different"
        )
    tower = text_tower(encoder, text)
    wanted = encoded(tower, names, templates)
    if images is None:
        weights = unit_norm(_nan_where_zero(embedding_weights(encoder)))
        _same_width(wanted, weights.shape[1], "the encoder's weights")
        scores = weights @ (wanted - wanted.mean(axis=0)).T
        return pd.DataFrame(scores, columns=names)
    place = _embedded(tower, images if embeddings is None else embeddings)
    _same_width(wanted, place.shape[1], "embeddings of images")
    if len(place) != len(images):
        raise ValueError(f"embeddings has {len(place)} rows, but there are {len(images)} images")
    check_whole("n_nearest", n_nearest, most=len(place) - 1, of="one less than there are images")
    nearest = np.stack([_nearest(place, direction, n_nearest) for direction in wanted])
    return _by_retrieval(encoder, images, nearest, names, batch_size)


def text_concept(
    images: Any,
    prompt: str,
    n: int = 200,
    *,
    text: Any,
    templates: Sequence[Template] | None = None,
) -> np.ndarray:
    """The images nearest to a prompt, as a mask for `brainenc.localize`.

    Parameters
    ----------
    images : images, or their embeddings in the space of the text, shape (n_images, n_features)
    prompt : str
    n : int
        Images of the concept.
    text : object with ``encode_text(prompts, templates)``
        Such as `OpenCLIPFeatures`, which embeds images too.
    templates : sequence of str or of functions, optional

    Returns
    -------
    array of bool, shape (n_images,)
        `n` images with the largest cosine; equal ones in the order of images.

    Raises
    ------
    TypeError : `prompt` is not a text.
    ValueError : no text tower, `n` out of range, or embeddings of another width than the text.

    References
    ----------
    MindSimulator (ICLR 2025) takes the 200 or 2000 of 73 000 images nearest to "a photo of …".

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(200, 10, 2, random_state=0)
    >>> joint = data.truth.joint()
    >>> faces = brainenc.text_concept(joint.images, "a face", 20, text=joint)
    >>> int(faces.sum()), bool((data.truth.category[faces] == "face").mean() > 0.8)
    (20, True)
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt={prompt!r} must be one text")
    tower = text_tower(None, text)
    wanted = encoded(tower, [prompt], templates)
    place = _embedded(tower, images)
    _same_width(wanted, place.shape[1], "embeddings of images")
    check_whole("n", n, most=len(place) - 1, of="one less than there are images")
    mask = np.zeros(len(place), dtype=bool)
    mask[_nearest(place, wanted[0], n)] = True
    return mask


def text_tower(encoder: Any, text: Any) -> Any:
    """What embeds text: `text`, or the extractor of the encoder.

    Raises
    ------
    ValueError : it has no ``encode_text``.
    """
    found = getattr(encoder, "features_", None) if text is None else text
    if callable(getattr(found, "encode_text", None)):
        return found
    whose = f"text={text!r}" if text is not None else f"features={found!r} of the encoder"
    raise ValueError(
        f"{whose} has no text tower: fit the encoder to images with OpenCLIPFeatures(...), or give "
        "text=OpenCLIPFeatures(...), the model whose embeddings it was fitted to"
        + see("selectivity")
    )


def encoded(tower: Any, prompts: list[str], templates: Any) -> np.ndarray:
    """Embeddings of prompts of unit length, float64."""
    found = as_numbers(tower.encode_text(prompts, templates), "the output of encode_text")
    if found.ndim != 2 or len(found) != len(prompts) or not np.isfinite(found).all():
        raise ValueError(
            f"encode_text gave an array {found.shape} for {len(prompts)} prompts: it must give one "
            "row of finite numbers per prompt"
        )
    return unit_norm(found)


def _embedded(tower: Any, images: Any) -> np.ndarray:
    """Embeddings of images of unit length, float64."""
    if looks_like_images(images):
        if not callable(getattr(tower, "transform", None)):
            raise ValueError(
                f"{type(tower).__name__} embeds no images: give their embeddings in place of them"
            )
        found = np.asarray(tower.transform(as_images(images)))
    else:
        found = as_numbers(images, "images")
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(
            f"images gave embeddings {found.shape}: they must be finite, (n_images, n_features)"
        )
    return unit_norm(found)


def _same_width(text: np.ndarray, width: int, what: str) -> None:
    if text.shape[1] != width:
        raise ValueError(
            f"the text has embeddings of {text.shape[1]} numbers, and {what} have {width}: both "
            "must be of one joint model (pooled features, not tokens)"
        )


def _nearest(embeddings: np.ndarray, direction: np.ndarray, n: int) -> np.ndarray:
    return np.argsort(-(embeddings @ direction), kind="stable")[:n]


def _by_retrieval(
    encoder: Any, images: Any, nearest: np.ndarray, names: list[str], batch_size: int
) -> pd.DataFrame:
    moments, near = Moments(), [Moments() for _ in nearest]
    for rows, batch in in_batches(images, batch_size)[1]:
        predicted = two_dimensional(encoder.predict(batch), 2).astype(np.float64)
        moments.add(predicted)
        for one, chosen in zip(near, nearest, strict=True):
            here = chosen[(chosen >= rows.start) & (chosen < rows.start + len(predicted))]
            one.add(predicted[here - rows.start])
    sd = np.sqrt(moments.variance)
    sd = np.where(sd > 0, sd, np.nan)
    return pd.DataFrame(
        np.column_stack([(one.mean - moments.mean) / sd for one in near]), columns=names
    )


def _nan_where_zero(weights: np.ndarray) -> np.ndarray:
    empty = ~np.any(weights != 0, axis=1, keepdims=True)
    return np.where(empty, np.nan, weights)
