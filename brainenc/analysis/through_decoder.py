"""through_decoder: synthetic responses scored by a frozen decoder, beside three references."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from brainenc.analysis.parts import (
    Part,
    check_decoder,
    check_not_fitted_to_test,
    check_responses_of,
    checked_parts,
    embedding_of,
    labelled_similarities,
    linear_part,
    retrievals,
)
from brainenc.decoders import RidgeDecoder
from brainenc.decoders.responses import check_every_image, check_every_voxel
from brainenc.encoders import BaseEncoder, RidgeEncoder
from brainenc.metrics import Retrieval, correlation
from brainenc.metrics.retrieval_scores import DIRECTIONS
from brainenc.model_selection import fixed_seed
from brainenc.repeats import average_repeats

#: Rows of measured responses, and the three reference rows.
MEASURED, ONE_TRIAL = "measured, mean of repeats", "measured, first trial"
RIDGE = "ridge encoder"
PSEUDO_INVERSE = "pseudo-inverse of the decoder"
RANDOM = "random encoder with its own decoder"

#: Singular values of a decoder below this share of the largest are its rounding.
_ROUNDING = 1e-5


def through_decoder(
    decoder: Any,
    synthetic: Mapping[str, Any],
    *,
    train: Any,
    test: Any,
    pool_size: int | None = None,
    n_pools: int = 30,
    random_state: Any = 0,
) -> pd.DataFrame:
    """Retrieval from synthetic responses by a decoder of measured ones, beside three references.

    The score of a decoder on synthetic responses says whether the decoder reads from them what the
    encoder was given. It does not say that the responses are those of the brain. Three rows, which
    cannot be left out, show this:

    - "ridge encoder": the linear encoder's predictions. They have no trial noise, so that they are
      read better than what was measured;
    - "pseudo-inverse of the decoder": responses for which the decoder gives the targets. They
      follow from the decoder alone, and no response was needed to make them;
    - "random encoder with its own decoder": random weights of the targets, and a `RidgeDecoder`
      fitted to such responses of the training images.

    `voxel_r` and `relative_mse`, of synthetic against measured responses, stand in the same row.

    Parameters
    ----------
    decoder : Decoder, fitted
        It stays as it is.
    synthetic : dict of name to encoder or array
        Responses to the test images: (n_images, n_voxels), or (n_images, n_draws, n_voxels) to be
        averaged as repeats are. Or an encoder that takes what is given as targets in `test`
        (features or images), whose predictions are taken. Of what ``encoder.sample`` gives, pass
        ``np.moveaxis(draws, 0, 1)``.
    train : pair (betas, targets)
        Of training images, to which the references are fitted.
    test : pair (betas, targets)
        Of images that neither the decoder nor an encoder was fitted to. Betas are (n_images,
        n_voxels) or (n_images, n_repeats, n_voxels), NaN where a repeat is missing.
    pool_size : int, optional
        Images in a pool; 300, or all if there are fewer.
    n_pools : int
    random_state : int, Generator or None
        Seed of the pools, the bootstrap and the random encoder.

    Returns
    -------
    DataFrame, one row per kind of responses and similarity
        ``responses``, ``kind`` ("measured", "synthetic" or "reference"), ``similarity``, the
        columns of `brainenc.metrics.Retrieval.row`, and for both directions
        ``…_above_measured`` with ``_low``, ``_high`` and ``_p``: the score minus that of the
        measured average, paired over images. ``voxel_r``: mean over voxels of r across images with
        the measured averages. ``relative_mse``: squared error over that of the training mean, in
        units of the voxels' s.d. Both are NaN for measured responses.

    Raises
    ------
    ValueError : an image on both sides; an encoder that was fitted to test images; shapes that do
        not match; a name of a reference row.
    TypeError : no decoder, or no mapping of names.
    sklearn.exceptions.NotFittedError : the decoder is not fitted.

    Notes
    -----
    The decoder's linear part is measured along the principal axes of the training averages, from
    their mean; the pseudo-inverse is of this. Of a linear decoder, with more training images than
    voxels, it is the pseudo-inverse of its weights.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((160, 20))
    >>> signal = targets @ rng.standard_normal((20, 15))
    >>> betas = signal[:, None] + 8 * rng.standard_normal((160, 3, 15))  # 3 repeats, 15 voxels
    >>> train, test = (betas[:100], targets[:100]), (betas[100:], targets[100:])
    >>> decoder = brainenc.RidgeDecoder().fit(*train)
    >>> table = through_decoder(decoder, {"truth": signal[100:]}, train=train, test=test)
    >>> table = table[table["similarity"] == "centred"].set_index("responses")
    >>> bool(table["voxel_r"]["pseudo-inverse of the decoder"] < table["voxel_r"]["truth"])
    True
    >>> scores = table["image_retrieval"]
    >>> bool(scores["pseudo-inverse of the decoder"] > scores["truth"])
    True
    """
    check_decoder(decoder)
    random_state = fixed_seed(random_state)
    learned, asked = checked_parts(decoder, train, test)
    check_every_voxel(learned.betas)
    check_every_image(learned.betas)
    _check_names(synthetic)
    given = {name: _responses(decoder, name, of, test[1], asked) for name, of in synthetic.items()}
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "n_pools": n_pools,
        "random_state": random_state,
    }
    ridge = RidgeEncoder(features=None).fit(learned.targets, learned.betas)
    weights = random_encoder(learned, random_state)
    own = RidgeDecoder(targets=None).fit(weights(learned.targets), learned.targets)
    responses: dict[str, tuple[str, Any, np.ndarray]] = {
        MEASURED: ("measured", decoder, asked.betas)
    }
    if asked.betas.shape[1] > 1:
        responses[ONE_TRIAL] = ("measured", decoder, asked.betas[:, :1])
    responses |= {name: ("synthetic", decoder, betas) for name, betas in given.items()}
    responses |= {
        RIDGE: ("reference", decoder, ridge.predict(asked.targets)),
        PSEUDO_INVERSE: ("reference", decoder, pseudo_inverse(decoder, learned, asked)),
        RANDOM: ("reference", own, weights(asked.targets)),
    }
    rows: list[dict[str, Any]] = []
    measured: dict[str, Retrieval] = {}
    for name, (kind, reader, betas) in responses.items():
        labelled = labelled_similarities(reader, betas, asked.targets)
        found = retrievals(labelled, **options)
        measured = measured or found
        fit = {"voxel_r": np.nan, "relative_mse": np.nan}
        if kind != "measured":
            fit = agreement(decoder, betas, asked)
        for label, one in found.items():
            row = {"responses": name, "kind": kind, "similarity": label, **one.row()}
            rows.append({**row, **_above(one, measured.get(label), name), **fit})
    return pd.DataFrame(rows)


def pseudo_inverse(decoder: Any, learned: Part, asked: Part) -> np.ndarray:
    """Responses (n_images, n_voxels) for which a decoder gives the targets, as far as it can."""
    axes, slopes = linear_part(embedding_of(decoder), decoder.scaling_, learned.averages)
    wanted = (asked.targets - decoder.target_mean_).reshape(len(asked.targets), -1)
    along = wanted @ np.linalg.pinv(slopes, rcond=_ROUNDING)
    return decoder.scaling_.mean + decoder.scaling_.sd * (along @ axes)


def random_encoder(learned: Part, random_state: int) -> Any:
    """Function from targets to responses: random weights, with the measured mean and s.d."""
    mean = learned.flat.mean(axis=0, dtype=np.float64)
    n_voxels = learned.betas.shape[2]
    rng = np.random.default_rng(random_state)
    weights = rng.standard_normal((len(mean), n_voxels))
    made = (learned.flat - mean) @ weights
    averages = learned.averages
    scale = np.nanstd(averages, axis=0) / np.where(made.std(axis=0), made.std(axis=0), 1)
    centre = np.nanmean(averages, axis=0)

    def respond(targets: np.ndarray) -> np.ndarray:
        return centre + scale * ((targets.reshape(len(targets), -1) - mean) @ weights)

    return respond


def agreement(decoder: Any, responses: np.ndarray, asked: Part) -> dict[str, float]:
    """Mean r of voxels across images, and relative squared error, against measured averages."""
    betas = responses if responses.ndim == 2 else average_repeats(responses)
    measured = asked.averages
    r = correlation(betas, measured)
    scaling = decoder.scaling_
    both = np.isfinite(betas) & np.isfinite(measured)
    error = (np.square((betas - measured) / scaling.sd))[both].sum()
    of_mean = (np.square((scaling.mean - measured) / scaling.sd))[both].sum()
    return {
        "voxel_r": float(np.nanmean(r)) if np.isfinite(r).any() else np.nan,
        "relative_mse": float(error / of_mean) if of_mean > 0 else np.nan,
    }


def _above(one: Retrieval, measured: Retrieval | None, name: str) -> dict[str, float]:
    """Score minus that of the measured average; NaN for that row and where it has no such label."""
    found = {
        f"{direction}_above_measured{end}": np.nan
        for direction in DIRECTIONS
        for end in ("", "_low", "_high", "_p")
    }
    if measured is None or name == MEASURED:
        return found
    for direction, row in one.difference(measured).iterrows():
        start = f"{direction}_above_measured"
        found[start] = row["difference"]
        found |= {f"{start}_{end}": row[end] for end in ("low", "high", "p")}
    return found


def _check_names(synthetic: Any) -> None:
    if not isinstance(synthetic, Mapping):
        raise TypeError(
            f"synthetic must be a dict of name to responses or encoder, got {type(synthetic)}"
        )
    taken = {MEASURED, ONE_TRIAL, RIDGE, PSEUDO_INVERSE, RANDOM} & synthetic.keys()
    if taken:
        raise ValueError(f"synthetic has {sorted(taken)}, names of rows that are always there")


def _responses(decoder: Any, name: str, of: Any, shown: Any, asked: Part) -> np.ndarray:
    """Responses (n_images, n_draws, n_voxels) of an encoder or array."""
    if isinstance(of, BaseEncoder):
        check_not_fitted_to_test(of, shown, name)
        of = np.asarray(of.predict(shown)).reshape(len(asked.betas), -1)
    betas = check_responses_of(decoder, of, f"synthetic[{name!r}]")
    if len(betas) != len(asked.betas):
        raise ValueError(
            f"synthetic[{name!r}] {betas.shape} must have one row for each of the "
            f"{len(asked.betas)} test images; of draws that come first, pass "
            "np.moveaxis(draws, 0, 1)"
        )
    return betas
