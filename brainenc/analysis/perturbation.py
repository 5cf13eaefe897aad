"""perturb: what a decoder reads when the voxels of an ROI are set to other values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from brainenc.analysis.parts import (
    check_decoder,
    check_responses_of,
    embedding_of,
    target_arrays,
)
from brainenc.decoders.responses import check_every_image
from brainenc.metrics import cosine_similarity
from brainenc.repeats import average_repeats
from brainenc.validation import check_index

#: Measure that is not a category.
EMBEDDING = "embedding"


@dataclass(frozen=True, eq=False)
class Perturbation:
    """Result of `perturb`.

    Attributes
    ----------
    table : DataFrame, one row per level and measure
        ``level`` ("quantile 0.95", "z 10"); ``measure``: "embedding" (mean length of the change of
        the decoded embedding, over the root mean square distance of undisturbed ones from their
        mean) or a name of `prototypes` (change of the cosine with it). ``before``, ``after``,
        ``change``: means over images. ``random_mean``, ``random_low``, ``random_high``: mean and
        95 % range of the change by as many random voxels. ``p``: two-sided, of a change as far from
        theirs. ``n_voxels``; ``outside``: share of the voxels whose value is outside what they have
        over the images given; ``size``: mean length of the change of responses, in s.d.
    shifts : array, shape (n_levels, shape of a target)
        Mean over images of the change of the decoded embedding.
    """

    table: pd.DataFrame
    shifts: np.ndarray

    def __repr__(self) -> str:
        levels = self.table["level"].nunique()
        return f"Perturbation({levels} levels, {self.table['n_voxels'].iloc[0]} voxels)"


def perturb(
    decoder: Any,
    betas: Any,
    voxels: Any,
    *,
    quantiles: Sequence[float] = (0.05, 0.95),
    values: Sequence[float] = (),
    prototypes: Mapping[str, Any] | None = None,
    n_random: int = 100,
    random_state: Any = 0,
) -> Perturbation:
    """Change of decoded embeddings when voxels are set to a value, beside random voxels.

    Each of the voxels is set to a quantile of its own responses, so that all values occur in the
    data. The null is the same with as many voxels drawn at random from all: their change is scaled
    to the length of that of the voxels asked about, image by image, so that only the direction
    differs.

    Parameters
    ----------
    decoder : Decoder, fitted
    betas : array, shape (n_images, n_voxels) or (n_images, n_repeats, n_voxels)
        Responses that are changed; repeats are averaged. A missing voxel counts as its mean.
    voxels : mask of shape (n_voxels,), or positions
        Those to set, such as ``data.rois()["FFA"]``.
    quantiles : sequence of float in [0, 1]
        Of each voxel's averages over the images of `betas`.
    values : sequence of float
        Further values, in s.d. from the voxel's training mean. Column ``outside`` shows the share
        of voxels that never have them: what a decoder gives for these is extrapolated.
    prototypes : dict of name to target, optional
        Such as the mean target of each category over training images. The score is the cosine of
        decoded embedding and prototype, both minus the training mean.
    n_random : int
        Sets of random voxels.
    random_state : int, Generator or None

    Returns
    -------
    Perturbation

    Raises
    ------
    ValueError : fewer than two images, no voxel or all, no level, quantiles outside [0, 1], images
        without data.

    Notes
    -----
    It is the decoder that is perturbed, not the brain. For a linear decoder the voxels' part of the
    embedding becomes one vector whatever the image, and `shifts` are the weights times the mean
    change of responses: no more than the weights of the ROI. Since responses of voxels are
    correlated, weights of a decoder are not the selectivity of its voxels (Haufe et al. 2014,
    NeuroImage 87).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((200, 4))
    >>> code = np.zeros((4, 40))
    >>> code[0, :5], code[1:, 5:] = 1, rng.standard_normal((3, 35))  # voxels 0 to 4: dimension 0
    >>> betas = targets @ code + 0.5 * rng.standard_normal((200, 40))
    >>> decoder = brainenc.RidgeDecoder().fit(betas[:150], targets[:150])
    >>> found = perturb(decoder, betas[150:], range(5), prototypes={"first": np.eye(4)[0]})
    >>> rows = found.table[found.table["measure"] == "first"].set_index("level")
    >>> bool(rows["change"]["quantile 0.95"] > rows["random_high"]["quantile 0.95"])
    True
    >>> int(np.abs(found.shifts[1]).argmax())
    0
    """
    check_decoder(decoder)
    array = check_responses_of(decoder, betas, "betas")
    check_every_image(array)
    if len(array) < 2:
        raise ValueError(
            f"betas {array.shape} has {len(array)} image: give at least two, since quantiles and "
            "the spread of decoded embeddings are over images"
        )
    responses = decoder.scaling_.apply(average_repeats(array).astype(np.float64))
    n_voxels = responses.shape[1]
    asked = check_index(voxels, n_voxels, "voxels")
    if len(asked) == n_voxels:
        raise ValueError(
            f"voxels selects {n_voxels} of {n_voxels}: random voxels would be the same ones"
        )
    if n_random < 1:
        raise ValueError(f"n_random={n_random} must be at least 1")
    levels = _levels(quantiles, values)
    scores = _Scores(decoder, prototypes)
    before = scores.embeddings(responses)
    of_before = scores.similarities(before)
    rng = np.random.default_rng(random_state)
    random_sets = [rng.choice(n_voxels, len(asked), replace=False) for _ in range(n_random)]
    low, high = responses.min(axis=0), responses.max(axis=0)
    round_off = 1e-6 * (1 + np.abs(low) + np.abs(high))
    rows, shifts = [], []
    for level, kind, number in levels:
        change = _change(responses, asked, kind, number)
        size = np.linalg.norm(change, axis=1)
        own = scores.change(responses + change, before, of_before)
        shifts.append((own.after - before).mean(axis=0).reshape(decoder.target_shape_))
        null = []
        for some in random_sets:
            other = _change(responses, some, kind, number)
            length = np.linalg.norm(other, axis=1)
            other *= np.divide(size, length, out=np.zeros_like(size), where=length > 0)[:, None]
            null.append(scores.change(responses + other, before, of_before).measures)
        value = (responses + change)[0, asked]
        outside = (value < (low - round_off)[asked]) | (value > (high + round_off)[asked])
        for i, measure in enumerate(scores.names):
            random = np.array([found[i] for found in null])
            start = np.nan if measure == EMBEDDING else of_before[:, i - 1].mean()
            rows.append(
                {
                    "level": level,
                    "measure": measure,
                    "before": start,
                    "after": start + own.measures[i],
                    "change": own.measures[i],
                    "random_mean": random.mean(),
                    "random_low": np.percentile(random, 2.5),
                    "random_high": np.percentile(random, 97.5),
                    "p": _two_sided(own.measures[i], random),
                    "n_voxels": len(asked),
                    "outside": outside.mean(),
                    "size": size.mean(),
                }
            )
    return Perturbation(pd.DataFrame(rows), np.stack(shifts).astype(np.float32))


@dataclass(frozen=True)
class _Changed:
    """Embeddings after a change, and the change of each measure."""

    after: np.ndarray
    measures: np.ndarray


class _Scores:
    """Embeddings of scaled responses, and their similarity with prototypes."""

    def __init__(self, decoder: Any, prototypes: Mapping[str, Any] | None):
        self.decoder, self.read = decoder, embedding_of(decoder)
        self.mean = decoder.target_mean_.reshape(-1)
        given = dict(prototypes or {})
        if EMBEDDING in given:
            raise ValueError(f"prototypes has {EMBEDDING!r}, the name of another measure")
        self.names = [EMBEDDING, *given]
        self.prototypes = None
        if given:
            stacked = [np.asarray(of)[None] for of in given.values()]
            arrays = [
                target_arrays(decoder, of, f"prototypes[{name!r}]")
                for name, of in zip(given, stacked, strict=True)
            ]
            self.prototypes = np.concatenate(arrays).reshape(len(arrays), -1)

    def embeddings(self, responses: np.ndarray) -> np.ndarray:
        scaling = self.decoder.scaling_
        found = self.read(scaling.mean + scaling.sd * responses)
        return found.reshape(len(found), -1).astype(np.float64)

    def similarities(self, embeddings: np.ndarray) -> np.ndarray:
        if self.prototypes is None:
            return np.empty((len(embeddings), 0))
        return cosine_similarity(embeddings, self.prototypes, mean=self.mean)

    def change(self, responses: np.ndarray, before: np.ndarray, of_before: Any) -> _Changed:
        after = self.embeddings(responses)
        spread = np.sqrt(np.square(before - before.mean(axis=0)).sum(axis=1).mean())
        length = np.linalg.norm(after - before, axis=1).mean()
        relative = length / spread if spread > 0 else np.nan
        scores = (self.similarities(after) - of_before).mean(axis=0)
        return _Changed(after, np.array([relative, *scores]))


def _levels(quantiles: Sequence[float], values: Sequence[float]) -> list[tuple[str, str, float]]:
    """Label, kind and number of each level."""
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantiles={tuple(quantiles)} must be between 0 and 1")
    if not np.isfinite(np.asarray(values, float)).all():
        raise ValueError(f"values={tuple(values)} must be finite numbers, in s.d.")
    found = [(f"quantile {q:g}", "quantile", float(q)) for q in quantiles]
    found += [(f"z {value:g}", "z", float(value)) for value in values]
    if not found:
        raise ValueError("quantiles and values are empty: give a level to set the voxels to")
    return found


def _change(responses: np.ndarray, voxels: np.ndarray, kind: str, number: float) -> np.ndarray:
    """What setting voxels to a level adds to scaled responses."""
    some = responses[:, voxels]
    level = np.quantile(some, number, axis=0) if kind == "quantile" else number
    change = np.zeros_like(responses)
    change[:, voxels] = level - some
    return change


def _two_sided(observed: float, random: np.ndarray) -> float:
    """Two-sided p among random sets, the observed one added."""
    if not np.isfinite(observed):
        return float("nan")
    tail = min((random >= observed).sum(), (random <= observed).sum())
    return float(min(1.0, 2 * (1 + tail) / (1 + len(random))))
