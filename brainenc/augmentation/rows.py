"""augment: data with synthetic trials, marked as such."""

from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.counts import COLUMN
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import as_images
from brainenc.data.synthetic import SYNTHETIC, synthetic_trials

NOISES = ("full", "trial", None)


def responses(
    encoder: Any, features: Any, n_draws: int, noise: str | None, random_state: int | None
) -> np.ndarray:
    """Synthetic responses (n_images, n_draws, n_voxels): draws, or predictions without noise."""
    if noise is None:
        predicted = np.asarray(encoder.predict(features))
        return np.repeat(predicted[:, None], n_draws, axis=1)
    drawn = encoder.sample(features, n_draws, random_state, noise=noise)
    return np.swapaxes(np.asarray(drawn), 0, 1)


def augment(
    real: EncodingData,
    encoder: Any,
    images: Any = None,
    *,
    features: Any = None,
    n_draws: int = 1,
    noise: str | None = "full",
    random_state: int | None = 0,
) -> EncodingData:
    """Data with synthetic trials of an encoder beside the real ones.

    Synthetic trials have True in the column ``synthetic`` of the trial table. They are training
    data: a test fold that has one is an error. They belong to no session: z-score the real data by
    session before (`EncodingData.zscore_by_session`), and fit the encoder to these.

    Parameters
    ----------
    real : EncodingData
    encoder : BaseEncoder, fitted to responses in the units of `real`
        To *training* images only: what it learned from test images would be in the synthetic
        trials.
    images : array, shape (n_new, H, W[, 3]), uint8, optional
        New images, none of which is in `real`; they follow the real ones. None: further repeats of
        the real images.
    features : array, optional
        What the encoder predicts from, one row per image, if it was not fitted to images.
    n_draws : int
        Synthetic trials per image.
    noise : "full", "trial" or None
        As for ``encoder.sample``; None: predictions, which have no noise.
    random_state : int or None

    Returns
    -------
    EncodingData
        Its table of stimuli has missing values for new images. A synthetic trial counts as one
        trial in ``n_averaged``.

    Raises
    ------
    ValueError : an image that is in `real` among the new ones, other numbers of rows or voxels;
        several betas of an image where those of `real` are averages over trials.

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(n_images=60, n_voxels=20, random_state=0)
    >>> tokens = data.truth.tokens
    >>> real, new = data.select(images=range(40)), data.select(images=range(40, 60))
    >>> encoder = brainenc.RidgeEncoder().fit(tokens[:40], real.betas)
    >>> more = brainenc.augment(real, encoder, new.images, features=tokens[40:])
    >>> more.n_images, int(more.trials["synthetic"].sum())
    (60, 20)
    """
    if noise not in NOISES:
        raise ValueError(f"noise={noise!r} must be one of {list(NOISES)}")
    if n_draws < 1:
        raise ValueError(f"n_draws={n_draws} must be 1 or more")
    n_real = real.n_images
    new = real.images if images is None else as_images(images)
    if features is not None and len(features) != len(new):
        raise ValueError(f"features of {len(features)} images, but there are {len(new)} images")
    if images is not None:
        _check_new(real.images, new)
    made = responses(encoder, new if features is None else features, n_draws, noise, random_state)
    if made.shape[2] != real.n_voxels:
        raise ValueError(
            f"the encoder gives {made.shape[2]} voxels, but the data have {real.n_voxels}: fit it "
            "to the same voxels"
        )
    made = made.astype(real.betas.dtype)
    first = real.n_repeats if images is None else 0
    counts = real.n_averaged
    if counts is not None and max(real.n_repeats, first + n_draws) > 1 and (counts > 1).any():
        raise ValueError(
            f"the betas of real are averages of up to {int(counts.max())} trials (n_averaged), "
            f"beside which an image has no further betas, but n_draws={n_draws} and images="
            f"{'None' if images is None else 'new ones'}: give new images with n_draws=1, or real "
            "data of single trials"
        )
    n_images = n_real if images is None else n_real + len(new)
    betas = np.full(
        (n_images, max(real.n_repeats, first + n_draws), real.n_voxels), np.nan, made.dtype
    )
    betas[:n_real, : real.n_repeats] = real.betas
    start = 0 if images is None else n_real
    betas[start:, first : first + n_draws] = made
    image, repeat = np.indices((len(new), n_draws)).reshape(2, -1)
    table = pd.DataFrame({"image": image + start, "repeat": repeat + first, SYNTHETIC: True})
    if COLUMN in real.trials:
        table[COLUMN] = 1
    before = real.trials.assign(**{SYNTHETIC: synthetic_trials(real.trials)})
    trials = pd.concat([before, table], ignore_index=True)
    trials[SYNTHETIC] = trials[SYNTHETIC].astype(bool)
    all_images = real.images if images is None else np.concatenate([real.images[:], new[:]])
    return EncodingData(
        all_images,
        betas,
        voxels=real.voxels,
        trials=trials,
        name=f"{real.name}, augmented",
        volume=real.volume,
        units=real.units,
        n_averaged=None if counts is None else _with_ones(counts, n_images),
        stimuli=real.stimuli.reindex(range(n_images)) if n_images > n_real else real.stimuli,
    )


def _with_ones(counts: np.ndarray, n_images: int) -> np.ndarray:
    """Trials averaged in each beta, with 1 for the images that follow."""
    more = np.ones((n_images - len(counts), counts.shape[1]), counts.dtype)
    return np.concatenate([counts, more])


def _check_new(real: Any, new: Any) -> None:
    if real.shape[1:] != new.shape[1:]:
        raise ValueError(
            f"new images {tuple(new.shape)} must have the size of the real ones, "
            f"{tuple(real.shape[1:])}"
        )
    known = {np.asarray(real[i]).tobytes() for i in range(len(real))}
    same = [i for i in range(len(new)) if np.asarray(new[i]).tobytes() in known]
    if same:
        raise ValueError(
            f"{len(same)} of the new images are among the real ones (first: {same[0]}), where "
            "splits by image would not see it: leave them out, or give images=None for further "
            "repeats of all real images"
        )
