"""cycle: encode then decode, decode then encode, beside what such cycles allow."""

from typing import Any

import numpy as np
import pandas as pd

from brainenc.analysis.contrasts import trial_halves
from brainenc.analysis.parts import (
    Part,
    check_decoder,
    check_not_fitted_to_test,
    checked_parts,
    retrievals,
)
from brainenc.analysis.through_decoder import (
    PSEUDO_INVERSE,
    RANDOM,
    pseudo_inverse,
    random_encoder,
)
from brainenc.decoders import RidgeDecoder
from brainenc.decoders.responses import check_every_image, check_every_voxel
from brainenc.encoders import BaseEncoder
from brainenc.metrics import correlation, cosine_similarity
from brainenc.model_selection import fixed_seed

TARGETS, RESPONSES = "targets", "responses"


def cycle(
    encoder: Any,
    decoder: Any,
    *,
    train: Any,
    test: Any,
    pool_size: int | None = None,
    n_pools: int = 30,
    random_state: Any = 0,
) -> pd.DataFrame:
    """Encode and decode, and decode and encode: what comes back.

    That a cycle comes back says that encoder and decoder agree with each other. The rows beside say
    how much of it is about measured responses.

    Parameters
    ----------
    encoder : BaseEncoder, fitted to targets as features
    decoder : Decoder, fitted to the same kind of targets
    train : pair (betas, targets)
        Of training images, to which the references are fitted.
    test : pair (betas, targets)
        Of images that neither was fitted to. Betas are (n_images, n_voxels) or (n_images,
        n_repeats, n_voxels), NaN where a repeat is missing.
    pool_size : int, optional
        Images in a pool; 300, or all if there are fewer.
    n_pools : int
    random_state : int, Generator or None
        Of pools, halves of trials, draws and the random encoder.

    Returns
    -------
    DataFrame, one row per path
        ``path``; ``kind``: "cycle", "one way", "reference" or "null"; ``space``: "targets" (what
        is decoded, against the image's targets; ``r`` is the mean over dimensions across images)
        or "responses" (what is encoded, against measured averages; mean over voxels). Retrieval is
        by the cosine, minus the training mean, of targets or of patterns in units of s.d.;
        ``image_retrieval``, ``brain_retrieval`` and the other columns of
        `brainenc.metrics.Retrieval.row`.

        In the space of targets: the encoder's predictions decoded, one draw decoded, measured
        responses decoded (one way), the references of `through_decoder`, and the predictions for
        permuted images. In that of responses: the encoder's prediction from the true targets (one
        way), from targets that were decoded from the *same* trials, and, with repeats, from half of
        an image's trials against the other half; that half itself (no model), and permuted images.

    Raises
    ------
    ValueError : an image on both sides; an encoder that was fitted to test images; shapes that do
        not match.
    TypeError : no encoder, no decoder.
    sklearn.exceptions.NotFittedError : one of them is not fitted.

    Notes
    -----
    A response that is decoded and encoded comes back with its own trial noise in it. Only the other
    trials of the image show what was kept of its signal.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((160, 8))
    >>> signal = targets @ rng.standard_normal((8, 15))
    >>> betas = signal[:, None] + 3 * rng.standard_normal((160, 2, 15))  # 2 repeats, 15 voxels
    >>> train, test = (betas[:100], targets[:100]), (betas[100:], targets[100:])
    >>> decoder = brainenc.RidgeDecoder().fit(*train)
    >>> encoder = brainenc.RidgeEncoder().fit(*train[::-1])
    >>> table = cycle(encoder, decoder, train=train, test=test).set_index("path")
    >>> r = table["r"]
    >>> bool(r["decoder → encoder, same trials"] > r["decoder → encoder, other trials"] > 0.2)
    True
    """
    check_decoder(decoder)
    if not isinstance(encoder, BaseEncoder):
        raise TypeError(f"encoder={encoder!r} must be an encoder, such as brainenc.RidgeEncoder()")
    random_state = fixed_seed(random_state)
    learned, asked = checked_parts(decoder, train, test)
    check_every_voxel(learned.betas)
    check_every_image(learned.betas)
    check_every_image(asked.betas)
    check_not_fitted_to_test(encoder, asked.targets, type(encoder).__name__)
    rng = np.random.default_rng(random_state)
    permuted = rng.permutation(len(asked.targets))
    scored = _Scored(
        decoder, {"pool_size": pool_size, "n_pools": n_pools, "random_state": random_state}
    )
    encoded = _encode(encoder, asked.targets)
    weights = random_encoder(learned, random_state)
    own = RidgeDecoder(targets=None).fit(weights(learned.targets), learned.targets)
    draw = encoder.sample(asked.targets, n=1, random_state=random_state)[0].reshape(encoded.shape)
    decoded = decoder.predict(asked.betas)
    targets = {
        ("encoder → decoder", "cycle"): decoder.predict(encoded),
        ("encoder, one draw → decoder", "cycle"): decoder.predict(draw),
        ("measured → decoder", "one way"): decoder.predict(asked.betas),
        (f"{PSEUDO_INVERSE} → decoder", "reference"): decoder.predict(
            pseudo_inverse(decoder, learned, asked)
        ),
        (f"{RANDOM}", "reference"): own.predict(weights(asked.targets)),
        ("encoder, images permuted → decoder", "null"): decoder.predict(encoded[permuted]),
    }
    rows = [scored.of_targets(*key, found, asked) for key, found in targets.items()]
    returned = _encode(encoder, decoded)
    responses = {
        ("encoder", "one way"): encoded,
        ("decoder → encoder, same trials", "cycle"): returned,
        ("decoder → encoder, images permuted", "null"): returned[permuted],
    }
    rows += [scored.of_responses(*key, found, asked.averages) for key, found in responses.items()]
    first, second = trial_halves(asked.betas, rng)
    both = np.isfinite(first).any(axis=1) & np.isfinite(second).any(axis=1)
    if both.sum() >= 2:
        again = _encode(encoder, decoder.predict(first[both]))
        for path, kind, found in (
            ("decoder → encoder, other trials", "cycle", again),
            ("half of the trials, no model", "reference", first[both]),
        ):
            rows.append(scored.of_responses(path, kind, found, second[both]))
    return pd.DataFrame(rows)


class _Scored:
    """Rows of the table."""

    def __init__(self, decoder: Any, options: dict[str, Any]):
        self.decoder, self.options = decoder, options

    def of_targets(self, path: str, kind: str, found: np.ndarray, asked: Part) -> dict[str, Any]:
        flat = found.reshape(len(found), -1)
        similarity = cosine_similarity(flat, asked.flat, mean=self.decoder.target_mean_.reshape(-1))
        return self._row(path, kind, TARGETS, correlation(flat, asked.flat), similarity)

    def of_responses(
        self, path: str, kind: str, found: np.ndarray, measured: np.ndarray
    ) -> dict[str, Any]:
        scaling = self.decoder.scaling_
        patterns = [scaling.apply(part.astype(np.float64)) for part in (measured, found)]
        similarity = cosine_similarity(*patterns)
        return self._row(path, kind, RESPONSES, correlation(found, measured), similarity)

    def _row(
        self, path: str, kind: str, space: str, r: np.ndarray, similarity: np.ndarray
    ) -> dict[str, Any]:
        options = self.options
        if options["pool_size"] is not None:
            options = {**options, "pool_size": min(options["pool_size"], len(similarity))}
        (found,) = retrievals({"": similarity}, **options).values()
        mean = float(np.nanmean(r)) if np.isfinite(r).any() else np.nan
        return {"path": path, "kind": kind, "space": space, "r": mean, **found.row()}


def _encode(encoder: Any, targets: np.ndarray) -> np.ndarray:
    return np.asarray(encoder.predict(targets)).reshape(len(targets), -1)
