"""category_information: categories from responses, from embeddings, and from decoded ones."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainenc.analysis.categories import category_table
from brainenc.analysis.parts import (
    check_decoder,
    check_fits_anew,
    checked_parts,
    unfitted,
)
from brainenc.decoders import RidgeDecoder
from brainenc.decoders.responses import check_every_image
from brainenc.metrics import category_auc
from brainenc.model_selection import (
    bootstrap_interval,
    bootstrap_weights,
    fixed_seed,
    permutation_p,
)

RESPONSES, EMBEDDINGS, DECODED = "responses", "embeddings", "decoded embeddings"
#: The row over categories.
MEAN = "mean"


def category_information(
    decoder: Any,
    *,
    train: Any,
    test: Any,
    categories: Any,
    min_positives: int = 5,
    n_bootstraps: int = 200,
    n_permutations: int = 200,
    random_state: Any = 0,
) -> pd.DataFrame:
    """Area under the ROC curve of categories: what of responses is left in decoded embeddings.

    The same linear read-out (ridge) is fitted to each source: measured responses, true embeddings
    (the targets), and decoded embeddings, where those of training images are held-out predictions,
    as those of test images are.

    Parameters
    ----------
    decoder : Decoder, fitted to `train`
        A copy is fitted by ``fit_held_out``; for `EncoderDecoder` give one that is not prefit.
    train, test : pairs (betas, targets)
        As for `through_decoder`.
    categories : pair (of train, of test)
        Labels, (n_images,), or 0 and 1, (n_images, n_categories). An image without a label (None,
        NaN) is left out of read-outs and areas.
    min_positives : int
        Fewest test images of a category, and fewest others; see `brainenc.metrics.category_auc`.
    n_bootstraps, n_permutations : int
        Of test images.
    random_state : int, Generator or None

    Returns
    -------
    DataFrame, one row per source and category, and one for their mean
        ``source`` ("responses", "embeddings", "decoded embeddings"), ``category``, ``auc``;
        ``low``, ``high``: 95 % interval over test images. ``permuted_low``, ``permuted_high`` and
        ``p`` (one-sided): with the labels of test images permuted. ``share``: AUC − .5 over that of
        responses; ratios of AUC itself count chance as a gain. ``n_positive``: test images.

    Raises
    ------
    ValueError : shapes that do not match, an image on both sides, no category with enough images,
        no held-out predictions.

    References
    ----------
    Lin, Sprague & Singh (2022), Mind Reader, NeurIPS 35, compare such areas; their share "kept",
    .812 / .829, is 95 % above chance.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((200, 6))
    >>> betas = targets @ rng.standard_normal((6, 20)) + 6 * rng.standard_normal((200, 20))
    >>> labels = np.where(targets[:, 0] > 0, "face", "place")
    >>> train, test = (betas[:120], targets[:120]), (betas[120:], targets[120:])
    >>> decoder = brainenc.RidgeDecoder().fit(*train)
    >>> table = category_information(
    ...     decoder, train=train, test=test, categories=(labels[:120], labels[120:])
    ... )
    >>> mean = table[table["category"] == "mean"].set_index("source")["auc"]
    >>> bool(mean["embeddings"] > mean["decoded embeddings"] > 0.6)
    True
    """
    check_decoder(decoder)
    check_fits_anew(decoder, "one with prefit=False")
    random_state = fixed_seed(random_state)
    learned, asked = checked_parts(decoder, train, test)
    check_every_image(asked.betas)
    labels = category_table(categories, len(learned.betas))
    if len(labels.test) != len(asked.betas):
        raise ValueError(
            f"categories of test have {len(labels.test)} rows, but there are {len(asked.betas)} "
            "images"
        )
    train_rows, test_rows = np.flatnonzero(labels.train_known), np.flatnonzero(labels.test_known)
    of_train, of_test = labels.train[train_rows], labels.test[test_rows]
    both = np.flatnonzero(of_train.any(axis=0) & ~of_train.all(axis=0))
    names = [labels.names[i] for i in both]
    of_train, of_test = of_train[:, both], of_test[:, both]
    if MEAN in names:
        raise ValueError(f"categories has {MEAN!r}, the name of another row: give it another name")
    enough = np.minimum(of_test.sum(axis=0), (~of_test).sum(axis=0)) >= max(min_positives, 1)
    if not enough.any():
        raise ValueError(
            f"categories has none with {min_positives} test images and as many others, and both in "
            "training"
        )
    held = unfitted(decoder).fit_held_out(learned.betas, learned.targets)
    held = held.reshape(len(held), -1)[train_rows]
    known = np.isfinite(held).all(axis=1)
    if known.sum() < 2:
        raise ValueError(
            f"{type(decoder).__name__} held out {known.sum()} training images: decoded embeddings "
            "of images that it has learnt would be too good; give more images"
        )
    betas, targets = asked.betas[test_rows], asked.flat[test_rows]
    decoded = decoder.predict(betas).reshape(len(betas), -1)
    scores = {
        RESPONSES: _read_out(learned.betas[train_rows], betas, of_train),
        EMBEDDINGS: _read_out(learned.flat[train_rows], targets, of_train),
        DECODED: _read_out(held[known], decoded, of_train[known]),
    }
    weights = bootstrap_weights(len(of_test), n_bootstraps, random_state=random_state)
    rng = np.random.default_rng([random_state, 1])
    orders = [rng.permutation(len(of_test)) for _ in range(n_permutations)]
    above: NDArray[Any] = np.array([])
    rows = []
    for source, values in scores.items():
        auc = _with_mean(category_auc(values, of_test, min_positives=min_positives))
        drawn = np.array(
            [
                _with_mean(category_auc(values[some], of_test[some], min_positives=1))
                for some in (np.repeat(np.arange(len(w)), w.astype(int)) for w in weights)
            ]
        )
        null = np.array(
            [
                _with_mean(category_auc(values, of_test[order], min_positives=min_positives))
                for order in orders
            ]
        )
        low, high = bootstrap_interval(np.where(np.isnan(auc), np.nan, drawn))
        null_low, null_high = bootstrap_interval(null)
        p = permutation_p(auc, (null >= auc).sum(axis=0), n_permutations)
        if source == RESPONSES:
            above = auc - 0.5
        for i, name in enumerate([*names, MEAN]):
            n_positive = of_test.sum() if name == MEAN else of_test[:, i].sum()
            rows.append(
                {
                    "source": source,
                    "category": name,
                    "auc": auc[i],
                    "low": low[i],
                    "high": high[i],
                    "permuted_low": null_low[i],
                    "permuted_high": null_high[i],
                    "p": p[i],
                    "share": (auc[i] - 0.5) / above[i] if above[i] > 0 else np.nan,
                    "n_positive": int(n_positive),
                }
            )
    return pd.DataFrame(rows)


def _read_out(train: np.ndarray, test: np.ndarray, labels: NDArray[np.bool_]) -> NDArray[Any]:
    """Scores (n_images, n_categories) of ridge from a source to the categories."""
    ridge = RidgeDecoder(targets=None).fit(train, labels.astype(np.float64))
    return ridge.predict(test).astype(np.float64)


def _with_mean(auc: NDArray[Any]) -> NDArray[Any]:
    """Areas, and their mean over categories that have one."""
    mean = np.nanmean(auc) if np.isfinite(auc).any() else np.nan
    return np.append(auc, mean)
