"""masking_curve: decoding from fewer and fewer voxels, with and without fitting anew."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.analysis.categories import category_table, prototype_scores
from brainenc.analysis.parts import (
    Part,
    check_decoder,
    check_fits_anew,
    checked_parts,
    retrievals,
    unfitted,
)
from brainenc.conversion import column
from brainenc.metrics import category_auc
from brainenc.model_selection import fixed_seed


def masking_curve(
    decoder: Any,
    *,
    train: Any,
    test: Any,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
    order: Any = "random",
    categories: Any = None,
    refit: bool = True,
    n_masks: int = 3,
    pool_size: int | None = None,
    n_pools: int = 30,
    random_state: Any = 0,
) -> pd.DataFrame:
    """Retrieval and category AUC from a part of the voxels.

    Two questions with two answers: what is left to *this* decoder when voxels are missing (they are
    NaN, which counts as their training mean), and what the *other voxels* hold, to a decoder that
    is fitted to them alone.

    Parameters
    ----------
    decoder : Decoder, fitted to `train`
    train, test : pairs (betas, targets)
        As for `through_decoder`.
    shares : sequence of float in [0, 1]
        Shares of voxels that are masked.
    order : "random" or array, shape (n_voxels,)
        Voxels with larger numbers are masked first, equal ones in random order: ncsnr (most
        reliable first), its negative, or ``data.voxels["roi"] == "FFA"`` (an ROI first). Compare
        with "random", its null: as many voxels of any kind.
    categories : pair (of train, of test), optional
        Labels, (n_images,), or 0 and 1, (n_images, n_categories). A category's score is the product
        of the decoded embedding and the category's mean target in training, both minus the training
        mean. An image without a label (None, NaN) is left out of the AUC.
    refit : bool
        Also fit copies of the decoder to the voxels that are left.
    n_masks : int
        Random masks; one if `order` has no ties.
    pool_size : int, optional
        Images in a pool; 300, or all if there are fewer.
    n_pools : int
    random_state : int, Generator or None

    Returns
    -------
    DataFrame, one row per share, mask and kind of fit
        ``share``, ``n_masked``, ``mask`` (from 0), ``refit``, ``image_retrieval``,
        ``brain_retrieval`` (by the decoder's main similarity), ``chance``, ``category_auc`` (mean
        over categories; NaN without `categories`). A test image without data in the voxels that are
        left is in neither. Without any voxel retrieval is NaN, and the AUC of the constant that is
        left is .5.

    Raises
    ------
    ValueError : shares outside [0, 1], an order of another length or with NaN, an image on both
        sides.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((150, 5))
    >>> betas = targets @ rng.standard_normal((5, 20)) + rng.standard_normal((150, 20))
    >>> train, test = (betas[:100], targets[:100]), (betas[100:], targets[100:])
    >>> decoder = brainenc.RidgeDecoder().fit(*train)
    >>> curve = masking_curve(decoder, train=train, test=test, shares=(0, 0.8, 1), n_masks=2)
    >>> mean = curve.groupby(["refit", "share"])["image_retrieval"].mean()
    >>> bool(mean[False, 0.8] < mean[True, 0.8] < mean[True, 0])
    True
    """
    check_decoder(decoder)
    random_state = fixed_seed(random_state)
    learned, asked = checked_parts(decoder, train, test)
    for share in shares:
        if not 0 <= share <= 1:
            raise ValueError(f"shares={tuple(shares)} must be between 0 and 1")
    if n_masks < 1:
        raise ValueError(f"n_masks={n_masks} must be at least 1")
    if refit:
        check_fits_anew(decoder, "refit=False, or a decoder with prefit=False")
    n_voxels = decoder.n_features_in_
    numbers = _numbers(order, n_voxels)
    if len(np.unique(numbers)) == n_voxels:
        n_masks = 1
    labels = None if categories is None else category_table(categories, len(learned.betas))
    if labels is not None and len(labels.test) != len(asked.betas):
        raise ValueError(
            f"categories of test have {len(labels.test)} rows, but there are {len(asked.betas)} "
            "images"
        )
    options = {"pool_size": pool_size, "n_pools": n_pools, "random_state": random_state}
    rng = np.random.default_rng(random_state)
    rows = []
    for mask in range(n_masks):
        # Sorted by number, equal ones as the permutation has them.
        shuffled = rng.permutation(n_voxels)
        first = shuffled[np.argsort(-numbers[shuffled], kind="stable")]
        for share in shares:
            masked = np.sort(first[: round(share * n_voxels)])
            for again in (False, True) if refit else (False,):
                scores = _scores(decoder, learned, asked, masked, again, labels, options)
                rows.append(
                    {
                        "share": float(share),
                        "n_masked": len(masked),
                        "mask": mask,
                        "refit": again,
                        **scores,
                    }
                )
    return pd.DataFrame(rows)


def _scores(
    decoder: Any,
    learned: Part,
    asked: Part,
    masked: np.ndarray,
    again: bool,
    labels: Any,
    options: dict[str, Any],
) -> dict[str, float]:
    left = np.setdiff1d(np.arange(decoder.n_features_in_), masked)
    betas = asked.betas
    if not left.size:
        similarity = np.full((len(betas), len(betas)), np.nan)
    else:
        if again and masked.size:
            decoder = unfitted(decoder).fit(learned.betas[:, :, left], learned.targets)
            betas = betas[:, :, left]
        elif masked.size:
            betas = np.array(betas)
            betas[:, :, masked] = np.nan
        similarity = next(iter(decoder.similarities(betas, asked.targets).values()))
    found = next(iter(retrievals({"": similarity}, **options).values()))
    auc = np.nan
    if labels is not None:
        scores = np.zeros(labels.test.shape)
        if left.size:
            scores = prototype_scores(decoder.predict(betas), learned.flat, labels.train)
        some = labels.test_known & np.isfinite(scores).all(axis=1)
        every = category_auc(scores[some], labels.test[some])
        auc = float(np.nanmean(every)) if np.isfinite(every).any() else np.nan
    return {
        "image_retrieval": found.image_retrieval,
        "brain_retrieval": found.brain_retrieval,
        "chance": found.image.chance,
        "category_auc": auc,
    }


def _numbers(order: Any, n_voxels: int) -> np.ndarray:
    """Numbers by which voxels are masked, the largest first."""
    if isinstance(order, str):
        if order != "random":
            raise ValueError(f"order={order!r} must be 'random' or an array of numbers")
        return np.zeros(n_voxels)
    numbers = column(order, "order", "n_voxels").astype(np.float64)
    if len(numbers) != n_voxels or not np.isfinite(numbers).all():
        raise ValueError(
            f"order {numbers.shape} must have a finite number for each of {n_voxels} voxels"
        )
    return numbers
