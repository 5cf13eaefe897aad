"""Words or labels of images as a table, and which of them are over-represented in top images."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from brainenc.conversion import text_labels

#: Words without content.
_FUNCTION_WORDS = """
    a about above across after against all along also am an and another any are around as at be
    because been before behind being below beneath beside besides between both but by can could did
    do does doing down during each either every few for from further get gets had has have having he
    her here hers him his how i if in inside into is it its itself just many me more most much my
    near next no nor not of off on one onto or other others our ours out outside over own same
    several she should so some such than that the their theirs them themselves then there these they
    this those through to together too toward towards two three under until up upon very was we were
    what when where which while who whom whose why will with within without would you your yours
    picture photo photograph image view front back top bottom
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())

#: Weight of the prior of the log-odds, in images: a word of one of `n_top` images is no evidence.
_PRIOR = 10.0


@dataclass(frozen=True)
class Words:
    """Which words each image has.

    Attributes
    ----------
    present : sparse array, shape (n_images, n_words)
        1 if the image has the word, in any of its captions.
    names : array of str, shape (n_words,)
    """

    present: Any
    names: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """Share of the images that have each word, shape (n_words,)."""
        return np.asarray(self.present.sum(axis=0)).ravel() / self.present.shape[0]


def words_of(captions: Any, labels: Any, n_images: int, min_images: int) -> Words:
    """Words of captions, or labels, that at least `min_images` images have, and not all.

    Parameters
    ----------
    captions : sequence of str, or of sequences of str, or None
        One or several sentences per image.
    labels : sequence of str, or of sequences of str, or None
        One or several labels per image, which may have spaces.
    n_images : int
    min_images : int

    Raises
    ------
    ValueError : both or neither are given, another number of rows, or no word is left.
    """
    if (captions is None) == (labels is None):
        raise ValueError("give either captions or labels, one row per image")
    name, given = ("labels", labels) if captions is None else ("captions", captions)
    rows = texts_by_image(given, name, n_images)
    found = [
        set(texts) if captions is None else {word for text in texts for word in split(text)}
        for texts in rows
    ]
    counts: dict[str, int] = {}
    for words in found:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    names = sorted(word for word, n in counts.items() if min_images <= n < n_images)
    if not names:
        raise ValueError(
            f"{name} has no word that at least min_images={min_images} of the {n_images} images "
            "have, and not all of them: give more images, or a smaller min_images"
        )
    place = {word: i for i, word in enumerate(names)}
    pairs = [(i, place[w]) for i, words in enumerate(found) for w in sorted(words) if w in place]
    row, column = np.array(pairs).T
    present = sparse.csr_array((np.ones(len(pairs)), (row, column)), shape=(n_images, len(names)))
    return Words(present, np.array(names))


def texts_by_image(given: Any, name: str, n_images: int | None = None) -> list[list[str]]:
    """Texts of each image, of a sequence with one or several per image.

    Raises
    ------
    TypeError : one text in place of a sequence.
    ValueError : another number of rows.
    """
    if isinstance(given, (str, bytes)):
        raise TypeError(f"{name} is one text: give one row per image")
    several = [not isinstance(row, (str, bytes)) and isinstance(row, Iterable) for row in given]
    if any(several):
        listed = [list(row) if many else [row] for row, many in zip(given, several, strict=True)]
        # One array of all texts, in which missing ones are None whatever stood for them.
        flat = iter(text_labels([text for row in listed for text in row] or [None], name))
        rows = [[text for text in (next(flat) for _ in row) if text is not None] for row in listed]
    else:
        rows = [[] if text is None else [text] for text in text_labels(given, name)]
    if n_images is not None and len(rows) != n_images:
        raise ValueError(f"{name} has {len(rows)} rows, but there are {n_images} images")
    return rows


def split(text: str) -> list[str]:
    """Words of a sentence in lower case, without function words and single letters."""
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())
    return [word for word in words if len(word) > 1 and word not in STOP_WORDS]


@dataclass(frozen=True)
class OverRepresentation:
    """How much more frequent words are in top images, each of shape (n_voxels, n_words).

    Attributes
    ----------
    z : weighted log-odds: log odds ratio of top images and others, with a prior of the words'
        frequencies, in units of its standard error (Monroe et al. 2008)
    lift : share among the top images / share among all
    purity : share among the top images
    """

    z: np.ndarray
    lift: np.ndarray
    purity: np.ndarray


def over_represented(images: np.ndarray, words: Words) -> OverRepresentation:
    """Which words the top images have more often than others.

    Parameters
    ----------
    images : array of int, shape (n_top, n_voxels)
        Rows of the top images of each voxel.
    words : Words

    Returns
    -------
    OverRepresentation

    References
    ----------
    Monroe, Colaresi & Quinn (2008), Political Analysis 16.
    """
    n_top, n_voxels = images.shape
    n_images = words.present.shape[0]
    rows = np.repeat(np.arange(n_voxels), n_top)
    member = sparse.csr_array(
        (np.ones(rows.size), (rows, images.T.ravel())), shape=(n_voxels, n_images)
    )
    top = (member @ words.present).toarray()
    share = words.share
    rest = n_images * share - top
    prior = _PRIOR * share
    has, lacks = top + prior, n_top - top + _PRIOR - prior
    has_rest = rest + prior
    lacks_rest = n_images - n_top - rest + _PRIOR - prior
    z = np.log(has / lacks) - np.log(has_rest / lacks_rest)
    z /= np.sqrt(1 / has + 1 / lacks + 1 / has_rest + 1 / lacks_rest)
    purity = top / n_top
    return OverRepresentation(z, purity / share, purity)
