"""describe: words for voxels, with tests against permuted images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from brainenc.conversion import check_row_order
from brainenc.data.images import as_images, looks_like_images, take_images
from brainenc.data.voxels import beside_results
from brainenc.encoders.training_images import check_not_trained_on
from brainenc.metrics import correlation
from brainenc.model_selection import fdr
from brainenc.repeats import average_repeats
from brainenc.selectivity.result import Description
from brainenc.selectivity.top import TopImages, top_positions
from brainenc.selectivity.words import OverRepresentation, Words, over_represented, words_of
from brainenc.validation import check_betas, check_same_length, check_whole

#: From words and rows of top images to a sentence.
Composer = Callable[[list[str], list[int]], str]


def describe(
    encoder: Any,
    images: Any,
    captions: Any = None,
    *,
    labels: Any = None,
    betas: Any = None,
    training: tuple[Any, Any] | None = None,
    voxels: pd.DataFrame | None = None,
    n_top: int = 30,
    n_words: int = 5,
    min_images: int = 5,
    alpha: float = 0.05,
    n_permutations: int = 1000,
    composer: Composer | None = None,
    batch_size: int = 256,
    random_state: int = 0,
    verbose: bool = False,
) -> Description:
    """Words, or labels, that the images with the largest predicted responses share.

    The words of a voxel come from predictions, and are tested against measured betas: is the
    response to images that have the word larger than to others, compared with permuted images?
    Without that test a word means nothing, since the top images of a voxel of pure noise have words
    in common too.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
    images : images or features, as for ``encoder.predict``
        One row per image, which the encoder was not fitted to.
    captions : sequence of str, or of sequences of str, optional
        One or several sentences per image; their words are compared, in lower case and without
        function words.
    labels : sequence of str, or of sequences of str, optional
        One or several labels per image, in place of captions.
    betas : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels), optional
        Measured responses to these images, NaN for images without. By default no word is tested,
        and no voxel is named.
    training : (X, betas), optional
        What the encoder was fitted to. Three clones are fitted for comparison: two to random halves
        (``agreement``), one to permuted images (``null``).
    voxels : DataFrame, n_voxels rows, optional
        As `EncodingData.voxels`; its columns are taken over, those with the name of a result, such
        as a coordinate ``z``, as ``z_of_voxel``.
    n_top : int
        Images per voxel.
    n_words : int
        Words per voxel at most.
    min_images : int
        Words that fewer images have are left out.
    alpha : float
        False discovery rate over voxels of a voxel's first word.
    n_permutations : int
    composer : function, optional
        From the words of a voxel (list of str) and the rows of its top images (list of int) to a
        sentence: a captioner or language model of yours. None is part of brainenc.
    batch_size : int
        Images predicted at a time.
    random_state : int
        Seed of the permutations and halves.
    verbose : bool
        Show progress bars.

    Returns
    -------
    Description

    Raises
    ------
    ValueError, TypeError : captions and labels are both or neither given; another number of rows
        than images or voxels; fewer images with betas than 10; the encoder was fitted to images
        with betas; a number out of range.

    Notes
    -----
    p of a word: share of permutations of the images, among those with betas, in which the
    correlation of the word with the betas of the voxel is at least the observed one. It is valid
    if neither encoder nor choice of words has seen these betas. It says that the word goes with
    responses, not that it is the best description: words that occur together are not told apart by
    a test of each. The test treats images as exchangeable; near copies count twice.

    References
    ----------
    Luo et al. (2024), ICLR (BrainSCUBA); Matsuyama et al. (2026), ICLR (LaVCa); Monroe et al.
    (2008), Political Analysis 16 (weighted log-odds).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(300, 40, 3, random_state=0)
    >>> fit, new = np.arange(200), np.arange(200, 300)
    >>> tokens, captions = data.truth.tokens, data.truth.captions()
    >>> encoder = brainenc.RidgeEncoder(features=None).fit(tokens[fit], data.betas[fit])
    >>> found = brainenc.describe(
    ...     encoder, tokens[new], captions[200:], betas=data.betas[new], voxels=data.voxels
    ... )
    >>> found.voxels.query("roi == 'PPA'")["word"].mode()[0]
    'place'
    """
    settings = {
        "n_top": n_top,
        "n_words": n_words,
        "min_images": min_images,
        "n_permutations": n_permutations,
    }
    for name, value in settings.items():
        check_whole(name, value)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must be a rate between 0 and 1")
    n_images = len(images)
    words = words_of(captions, labels, n_images, min_images)
    check_row_order(betas=betas, captions=captions, labels=labels)
    tested = None if betas is None else _Tested.of(betas, n_images)
    keep = np.empty(0, int) if tested is None else tested.rows
    if tested is not None:
        # p would not be valid: predictions of images in the fit contain their betas' noise.
        name = type(encoder).__name__
        check_not_trained_on(encoder, rows_of(images, keep), name, "images with betas")

    top, predicted = top_positions(
        encoder, images, n_top, batch_size=batch_size, verbose=verbose, keep=keep, name="n_top"
    )
    n_voxels = top.images.shape[1]
    if tested is not None and tested.responses.shape[1] != n_voxels:
        raise ValueError(
            f"betas has {tested.responses.shape[1]} voxels, but the encoder predicts {n_voxels}"
        )
    if voxels is not None and len(voxels) != n_voxels:
        raise ValueError(f"voxels has {len(voxels)} rows, but the encoder has {n_voxels} voxels")
    measure = over_represented(top.images, words)
    table = word_table(top, measure, words, n_words)
    rng = np.random.default_rng(random_state)
    if tested is None:
        table[["r", "p", "q"]] = np.nan
    else:
        table["r"], table["p"] = tested.test(table, words, n_permutations, rng)
        table["q"] = fdr(table["p"].to_numpy())
    found = _voxel_table(table, n_voxels, alpha)
    if tested is not None:
        found["r_model"] = correlation(predicted, tested.responses)
    null = None
    if training is not None:
        compared = _Compared(images, words, n_top, batch_size, verbose)
        found["agreement"] = compared.agreement(encoder, training, rng)
        null = compared.null(encoder, training, rng)
    if composer is not None:
        rows = {voxel: part["word"].tolist() for voxel, part in table.groupby("voxel")}
        found["sentence"] = [
            composer(rows[v], top.images[:, v].tolist()) if v in rows else ""
            for v in found["voxel"]
        ]
    found = beside_results(found, voxels)
    manifest: dict[str, Any] = {
        "settings": {**settings, "alpha": alpha, "random_state": random_state},
        "encoder": type(encoder).__name__,
        "n_images": n_images,
        "n_tested_images": 0 if tested is None else len(tested.rows),
        "n_voxels": n_voxels,
        "vocabulary": len(words.names),
        "of": "labels" if captions is None else "captions",
        "median_purity": _median(found["purity"]),
        "null_median_purity": None if null is None else _median(null),
        "null_share_above_half": None if null is None else float((null > 0.5).mean()),
    }
    warnings = []
    if tested is None:
        warnings.append(
            "No betas were given: words are not tested, and no voxel is named. The top images of "
            "pure noise share words too."
        )
    return Description(found, table, top.table("voxel", range(n_voxels), np.arange(n_voxels)),
                       manifest, warnings)  # fmt: skip


def word_table(
    top: TopImages, measure: OverRepresentation, words: Words, n_words: int
) -> pd.DataFrame:
    """The words with the largest weighted log-odds of each voxel, one row per (voxel, rank).

    Words that are not more frequent among the top images are left out, and so are voxels with
    constant or undefined predictions.
    """
    order = np.argsort(-measure.z, axis=1, kind="stable")[:, :n_words]
    voxel = np.repeat(np.arange(len(order)), order.shape[1])
    word = order.ravel()
    table = pd.DataFrame(
        {
            "voxel": voxel,
            "rank": np.tile(np.arange(1, order.shape[1] + 1), len(order)),
            "word": words.names[word],
            "purity": measure.purity[voxel, word],
            "lift": measure.lift[voxel, word],
            "z": measure.z[voxel, word],
        }
    )
    kept = top.defined[voxel] & (table["lift"] > 1).to_numpy()
    return table[kept].reset_index(drop=True)


def _voxel_table(table: pd.DataFrame, n_voxels: int, alpha: float) -> pd.DataFrame:
    """One row per voxel with its first word; q is over voxels."""
    first = table[table["rank"] == 1].set_index("voxel").drop(columns=["rank", "q"])
    found = first.reindex(range(n_voxels)).rename(columns={"r": "r_word"})
    found["word"] = found["word"].fillna("").astype(str)
    found["q"] = fdr(found["p"].to_numpy())
    found["named"] = (found["q"] <= alpha).to_numpy()
    return found.reset_index(names="voxel")


@dataclass(frozen=True)
class _Tested:
    """Images with betas, and their responses, averaged over repeats: z-scored in `scores`."""

    rows: np.ndarray
    responses: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, betas: Any, n_images: int) -> "_Tested":
        array = check_betas(betas, n_images=n_images)
        averages = np.asarray(average_repeats(array), dtype=np.float64)
        rows = np.flatnonzero(np.isfinite(averages).any(axis=1))
        if len(rows) < 10:
            raise ValueError(
                f"betas has responses to {len(rows)} of the {n_images} images: a test takes at "
                "least 10"
            )
        responses = averages[rows]
        known = np.isfinite(responses)
        n = np.maximum(known.sum(axis=0), 1)
        centred = responses - np.where(known, responses, 0).sum(axis=0) / n
        size = np.sqrt(np.square(np.where(known, centred, 0)).sum(axis=0))
        # A constant voxel has round-off only, and no correlation.
        flat = size <= 1e-10 * np.sqrt(np.square(np.where(known, responses, 0)).sum(axis=0))
        return cls(rows, responses, centred / np.where(flat, np.nan, size))

    def test(
        self, table: pd.DataFrame, words: Words, n_permutations: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Correlation of each row's word with the betas of its voxel, and its p.

        NaN where the word or the betas do not vary.
        """
        present = words.present[self.rows].toarray()
        centred = present - present.mean(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            centred = centred / np.sqrt(np.square(centred).sum(axis=0))
        column = pd.Index(words.names).get_indexer(table["word"])
        voxel = table["voxel"].to_numpy()
        scores = np.nan_to_num(self.scores)  # an image that a voxel lacks counts as its mean
        defined = np.isfinite(self.scores).any(axis=0)[voxel]
        groups = [(w, np.flatnonzero(column == w)) for w in np.unique(column)]

        def correlations(order: np.ndarray) -> np.ndarray:
            found = np.empty(len(table))
            for w, places in groups:
                found[places] = centred[order, w] @ scores[:, voxel[places]]
            return np.where(defined, found, np.nan)

        observed = correlations(np.arange(len(self.rows)))
        at_least = np.zeros(len(table))
        # Equal up to round-off counts as equal: permutations may repeat.
        for _ in range(n_permutations):
            at_least += correlations(rng.permutation(len(self.rows))) >= observed - 1e-12
        p = np.where(np.isnan(observed), np.nan, (1 + at_least) / (1 + n_permutations))
        return observed, p


@dataclass(frozen=True)
class _Compared:
    """Encoders fitted for comparison, described in the same way."""

    images: Any
    words: Words
    n_top: int
    batch_size: int
    verbose: bool

    def _measured(self, encoder: Any, X: Any, betas: np.ndarray) -> tuple[Any, np.ndarray]:
        fitted = clone(encoder).fit(X, betas)
        top = top_positions(
            fitted, self.images, self.n_top, batch_size=self.batch_size, verbose=self.verbose
        )
        return over_represented(top.images, self.words), top.defined

    def agreement(
        self, encoder: Any, training: tuple[Any, Any], rng: np.random.Generator
    ) -> np.ndarray:
        """Correlation over words of the log-odds of two encoders fitted to disjoint halves."""
        X, betas = checked_training(training)
        order = rng.permutation(len(betas))
        halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        (one, seen), (other, also) = (
            self._measured(encoder, rows_of(X, half), betas[half]) for half in halves
        )
        # Both (n_voxels, n_words): words are the samples.
        r = correlation(one.z.T, other.z.T)
        return np.where(seen & also, r, np.nan)

    def null(self, encoder: Any, training: tuple[Any, Any], rng: np.random.Generator) -> np.ndarray:
        """Purity of the first word of every voxel of an encoder fitted to permuted images."""
        X, betas = checked_training(training)
        measure, seen = self._measured(encoder, X, betas[rng.permutation(len(betas))])
        best = measure.z.argmax(axis=1)
        return measure.purity[np.arange(len(best)), best][seen]


def checked_training(training: Any) -> tuple[Any, np.ndarray]:
    """Images or features and betas (n_images, n_repeats, n_voxels) that an encoder was fitted to.

    Raises
    ------
    TypeError : not a pair.
    ValueError : another number of rows, or fewer than 20 images.
    """
    if not isinstance(training, tuple) or len(training) != 2:
        raise TypeError("training must be a pair (X, betas), what the encoder was fitted to")
    X, given = training
    check_row_order(X=X, betas=given)
    betas = check_betas(given, name="betas of training")
    check_same_length(X=X, betas=betas)
    if len(betas) < 20:
        raise ValueError(f"training has {len(betas)} images: halves need at least 20")
    return X, betas


def rows_of(X: Any, rows: np.ndarray) -> Any:
    """Rows of images or features."""
    return take_images(as_images(X), rows) if looks_like_images(X) else np.asarray(X)[rows]


def _median(values: Sequence[float] | np.ndarray | pd.Series) -> float | None:
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite)) if finite.size else None
