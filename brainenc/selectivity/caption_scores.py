"""caption_scores: whether descriptions of voxels predict measured responses to new images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer

from brainenc.conversion import check_row_order, text_labels
from brainenc.numeric import as_numbers
from brainenc.prompts import unit_norm
from brainenc.repeats import average_repeats
from brainenc.selectivity.words import split, texts_by_image
from brainenc.validation import check_betas, check_whole

#: Similarities of a description that are all within this range are one: round-off of single
#: precision, in which most models compute embeddings.
_CONSTANT = 1e-6
#: Differences of cosines that are round-off, in units of the precision of the embeddings.
_ROUND_OFF = 32

#: From texts to their embeddings, (n_texts, n_features).
Embed = Callable[[list[str]], Any]


def caption_scores(
    descriptions: Sequence[str | None],
    captions: Any,
    betas: Any,
    *,
    rois: Any = None,
    embed: Embed | None = None,
    n_shuffles: int = 100,
    random_state: int = 0,
) -> pd.DataFrame:
    """How well descriptions of voxels predict measured responses, beside shuffled descriptions.

    The similarity of a voxel's description to the captions of an image is the prediction of its
    response (LaVCa's test). Since an area's label alone predicts much, the comparison that counts
    is with descriptions shuffled among voxels of the same ROI.

    Parameters
    ----------
    descriptions : sequence of str or None, length n_voxels
        A word, words or a sentence per voxel; None or empty for voxels without.
    captions : sequence of str, or of sequences of str, length n_images
        One or several captions per image; similarities are averaged over them.
    betas : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        Measured responses to these images, which had no part in the descriptions. Images without
        any (NaN) are left out.
    rois : array of str, shape (n_voxels,), optional
        Labels, for the comparisons within ROIs.
    embed : function, optional
        From a list of texts to embeddings, whose cosine is the similarity: a sentence model of
        yours, or ``encode_text`` of `OpenCLIPFeatures`. By default TF-IDF of the captions' words.
    n_shuffles : int
    random_state : int
        Seed of the shuffles.

    Returns
    -------
    DataFrame, one row per voxel
        ``voxel``; ``roi``, if given; ``description``; ``score``, Spearman's correlation;
        ``shuffled``, mean score with descriptions shuffled over all described voxels; with `rois`,
        ``shuffled_in_roi`` and ``roi_label``, the score of the commonest description of the ROI.
        NaN without a description, for betas that are constant or incomplete over the images kept,
        and where the description is as similar to all images, as without a word in common.

    Raises
    ------
    ValueError : other numbers of voxels or images, fewer than 10 images with betas, or no
        description.

    References
    ----------
    Matsuyama et al. (2026), ICLR (LaVCa).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> captions = ["a dog in a park", "a dog on a bed", "a red bus", "a bus in a street"] * 10
    >>> rng = np.random.default_rng(0)
    >>> dogs = np.array(["dog" in caption for caption in captions])
    >>> betas = dogs[:, None] * [1, -1] + rng.standard_normal((40, 2)) / 2
    >>> found = brainenc.caption_scores(["dog", "bus"], captions, betas)
    >>> bool((found["score"] > 0.6).all())
    True
    """
    check_row_order(captions=captions, betas=betas)
    check_row_order(descriptions=descriptions, rois=rois)
    texts = [text or "" for text in text_labels(descriptions, "descriptions")]
    array = check_betas(betas, n_voxels=len(texts))
    rows = texts_by_image(captions, "captions", len(array))
    check_whole("n_shuffles", n_shuffles)
    labels = None if rois is None else text_labels(rois, "rois")
    if labels is not None and len(labels) != len(texts):
        raise ValueError(f"rois has {len(labels)} labels, but there are {len(texts)} descriptions")
    known = sorted(set(texts) - {""})
    if not known:
        raise ValueError("descriptions are all empty: nothing can be scored")
    responses = np.asarray(average_repeats(array), dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(responses).any(axis=1))
    if len(kept) < 10:
        raise ValueError(f"betas has responses to {len(kept)} images: give at least 10")
    if empty := [i for i in kept.tolist() if not any(text.strip() for text in rows[i])]:
        raise ValueError(f"captions[{empty[0]}] is empty: leave such images out")

    similar, precision = _similarity(known, [rows[i] for i in kept], embed)
    predicted = _ranks(_steps(similar, _ROUND_OFF * precision))  # (n_images, n_known)
    measured = _ranks(responses[kept])
    place = np.array([known.index(text) if text else -1 for text in texts])
    described = np.flatnonzero(place >= 0)

    def score(of_voxels: np.ndarray) -> np.ndarray:
        return np.einsum("iv,iv->v", predicted[:, of_voxels], measured[:, described])

    table = pd.DataFrame({"voxel": np.arange(len(texts)), "description": texts})
    if labels is not None:
        table.insert(1, "roi", labels)
    own = place[described]
    rng = np.random.default_rng(random_state)
    columns = {
        "score": score(own),
        "shuffled": _mean_score(score, own, [np.arange(len(own))], n_shuffles, rng),
    }
    if labels is not None:
        keys = np.array([label or "" for label in labels[described]], dtype=object)
        strata = [np.flatnonzero(keys == key) for key in dict.fromkeys(keys)]
        columns["shuffled_in_roi"] = _mean_score(score, own, strata, n_shuffles, rng)
        commonest = own.copy()
        for stratum in strata:
            commonest[stratum] = np.bincount(own[stratum]).argmax()
        columns["roi_label"] = score(commonest)
    for name, values in columns.items():
        table[name] = np.nan
        table.loc[described, name] = values
    return table


def _mean_score(
    score: Callable[[np.ndarray], np.ndarray],
    own: np.ndarray,
    strata: list[np.ndarray],
    n_shuffles: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Mean score with descriptions shuffled within strata; undefined ones are left out."""
    total, n = np.zeros(len(own)), np.zeros(len(own))
    for _ in range(n_shuffles):
        shuffled = own.copy()
        for stratum in strata:
            shuffled[stratum] = own[rng.permutation(stratum)]
        found = score(shuffled)
        total += np.nan_to_num(found)
        n += np.isfinite(found)
    with np.errstate(invalid="ignore"):
        return total / n


def _similarity(
    descriptions: list[str], captions: list[list[str]], embed: Embed | None
) -> tuple[np.ndarray, float]:
    """Mean cosine of each description with the captions of each image, (n_images, n); precision."""
    precision = float(np.finfo(np.float64).eps)
    flat = [text for texts in captions for text in texts]
    image = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    if embed is None:
        vectorizer = TfidfVectorizer(analyzer=split)
        theirs = vectorizer.fit_transform(flat)
        cosine = (theirs @ vectorizer.transform(descriptions).T).toarray()
    else:
        theirs, ours = (_embedded(embed, texts) for texts in (flat, descriptions))
        precision = float(max(np.finfo(found.dtype).eps for found in (theirs, ours)))
        cosine = unit_norm(theirs) @ unit_norm(ours).T
    total = np.zeros((len(captions), len(descriptions)))
    np.add.at(total, image, cosine)
    return total / np.bincount(image)[:, None], precision


def _embedded(embed: Embed, texts: list[str]) -> np.ndarray:
    found = as_numbers(embed(texts), "the output of embed")
    if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
        raise ValueError(
            f"embed gave an array {found.shape} for {len(texts)} texts: it must give one row of "
            "finite numbers per text"
        )
    return found


def _steps(similar: np.ndarray, smallest: float) -> np.ndarray:
    """Similarities (n_images, n) as numbers of steps; what differs by round-off is equal."""
    order = np.argsort(similar, axis=0, kind="stable")
    grown = np.take_along_axis(similar, order, axis=0)
    steps = np.zeros(similar.shape)
    np.cumsum(np.diff(grown, axis=0) > smallest, axis=0, out=steps[1:])
    steps[:, np.ptp(similar, axis=0) <= _CONSTANT] = 0
    merged = np.empty_like(steps)
    np.put_along_axis(merged, order, steps, axis=0)
    return np.where(np.isnan(similar), np.nan, merged)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of each column, centred and of unit length; NaN where constant or not finite."""
    finite = np.isfinite(values).all(axis=0)
    ranks = rankdata(np.where(finite, values, 0), axis=0)
    ranks -= ranks.mean(axis=0)
    size = np.sqrt(np.square(ranks).sum(axis=0))
    return ranks / np.where(finite & (size > 0), size, np.nan)
