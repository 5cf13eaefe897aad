"""augmentation_study: what synthetic trials are worth to a decoder, beside real ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from brainenc import metrics
from brainenc.augmentation.conditions import Replicate, added_rows, fit_encoders
from brainenc.augmentation.linear import Pairs
from brainenc.augmentation.result import AugmentationResult, Scores
from brainenc.augmentation.tuning import Decoded, DecoderFits, RidgeFits, on_equal_terms
from brainenc.data.encoding_data import EncodingData
from brainenc.data.synthetic import check_measured
from brainenc.decoders import Decoder, EncoderDecoder
from brainenc.decoders.responses import VoxelScaling
from brainenc.encoders import RidgeEncoder
from brainenc.encoders.training_images import check_not_trained_on
from brainenc.progress import progress
from brainenc.repeats import average_repeats

#: Name of the encoder that is always there.
REFERENCE = "ridge"
#: Pools of each retrieval; the interval is over images and replicates.
N_POOLS = 10


def augmentation_study(
    data: EncodingData,
    encoders: Mapping[str, Any] | None = None,
    *,
    targets: Any,
    decoder: Any = None,
    features: Any = None,
    adapted: Mapping[str, Any] | None = None,
    n_real: int = 150,
    n_tuning: int = 100,
    n_test: int | None = None,
    ratios: Iterable[int] = (4,),
    replicates: int = 10,
    pool_size: int = 300,
    random_state: int = 0,
    verbose: bool = False,
) -> AugmentationResult:
    """Train a decoder on real trials and on added rows of many kinds, and compare.

    All conditions have the same real trials (one of each of `n_real` images), the same test images
    and the same tuning: the penalty and the weight of the added rows, which may be 0, are chosen on
    the averaged responses to `n_tuning` further images. A decoder that is trained by steps takes
    the same number of steps in all conditions, in batches of the same size. No encoder is fitted to
    tuning or test images, and no synthetic trial is among them.

    - ``none``: nothing is added.
    - ``real rows repeated``, ``real rows with noise`` (of the ridge encoder), ``BiMixCo rows``:
      controls, which have no new image.
    - of each encoder, fitted to exactly the real trials: its predictions and its draws (noise and
      all), for new images and for the real ones, and draws for new images with images permuted.
    - ``… as decoder``: the encoder itself, without any synthetic trial (`EncoderDecoder`).
    - ``…, adapted``: encoders of another subject, adapted to the real trials.
    - ``real trials of the new images``: what measuring would have brought.

    Parameters
    ----------
    data : EncodingData
        Measured trials only.
    encoders : dict of name to encoder, unfitted, optional
        To be tested; a ridge encoder is always there.
    targets : array, shape (n_images, n_dimensions) or (n_images, n_tokens, width)
        Of all images.
    decoder : Decoder, unfitted, optional
        By default ridge in closed form, whose penalty and weight have the least squared error on
        the tuning images. Any other decoder gets the tuning images as `validation`, if its `fit`
        takes these, by which it chooses penalties and weights of a network; the weight of added
        rows is that which identifies tuning images best: 0, 0.1, 0.3 or 1 if its `fit` takes
        `sample_weight`, else 0 or 1. Steps and batches are set by its method `on_equal_terms`, as
        `brainenc.MindEyeDecoder` has it; give `n_real` no smaller than its batch. A decoder
        of your own with inner folds needs `validation`, or synthetic rows would be in them.
    features : array, optional
        What encoders predict from, one row per image; by default the targets.
    adapted : dict of name to encoder, fitted to another subject and other images, optional
        Each is adapted to the real trials of every replicate.
    n_real, n_tuning, n_test : int
        Images; by default `n_test` is at most 600.
    ratios : iterable of int
        Added rows per real row; as many new images are set aside as the largest needs.
    replicates : int
        Other images for each part, and other trials.
    pool_size : int
        Of the retrieval; at most the number of test images.
    random_state : int
    verbose : bool

    Returns
    -------
    AugmentationResult
        ``print(result.report())``; ``result.table()``.

    Raises
    ------
    ValueError : synthetic trials in `data`, too few images, numbers of rows that do not match, NaN
        in targets or features; an encoder with the name "ridge", or two with one name; an encoder
        in `adapted` that was fitted to images of `data`.
    TypeError : `decoder` is not a decoder, or one of encoders, which are conditions.

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(n_images=200, n_voxels=40, random_state=0)
    >>> result = brainenc.augmentation_study(
    ...     data.zscore_by_session(), targets=data.truth.tokens, n_real=40, n_tuning=30, n_test=40,
    ...     ratios=(2,), replicates=2, pool_size=40,
    ... )
    >>> sorted(result.table()["condition"])[-1]
    'ridge: predictions, real images'
    >>> result.report().startswith("80 synthetic trials")
    True
    """
    check_measured(data.trials, range(data.n_images), "data of an augmentation study")
    given = _named(encoders, "encoders", [REFERENCE])
    others = _named(adapted, "adapted", [])
    ratios = sorted({int(ratio) for ratio in ratios})
    tokens = _of_images(targets, data.n_images, "targets")
    inputs = tokens if features is None else _of_images(features, data.n_images, "features")
    parts = _Parts(data, tokens.reshape(len(tokens), -1).astype(np.float64), inputs)
    sizes = _sizes(data, n_real, n_tuning, n_test, ratios)
    equal = _equal(decoder, n_real, ratios)
    shape = tokens.shape[1:]
    tested = {REFERENCE: RidgeEncoder(), **given}
    for name, encoder in others.items():  # each replicate tests others of all images
        check_not_trained_on(encoder, inputs[parts.shown], name, "images of the study")
    scores: list[Scores] = []
    for number in progress(
        range(replicates), desc="augmentation", unit="replicate", verbose=verbose
    ):
        scores += _replicate(
            parts, sizes, ratios, tested, others, (equal, shape), pool_size, (random_state, number)
        )
    settings: dict[str, Any] = {
        "n_real": n_real,
        "n_tuning": n_tuning,
        "n_test": sizes[2],
        "ratios": ratios,
        "data": data.name,
        "encoders": list(tested),
        "adapted": list(others),
        "decoder": "ridge, closed form" if equal is None else repr(equal),
        "pool_size": min(pool_size, sizes[2]),
        "n_steps": getattr(equal, "n_steps", None),
    }
    return AugmentationResult(scores, {**settings, "replicates": replicates}, random_state)


def _equal(decoder: Any, n_real: int, ratios: list[int]) -> Any:
    """The decoder on equal terms for all conditions; None for ridge in closed form."""
    if decoder is None:
        return None
    if not isinstance(decoder, Decoder) or isinstance(decoder, EncoderDecoder):
        raise TypeError(
            f"decoder={decoder!r} must be None or a decoder that learns from rows, such as "
            "brainenc.MindEyeDecoder(); encoders are decoders in the study anyway ('… as decoder')"
        )
    return on_equal_terms(decoder, n_real, n_real * (1 + ratios[-1]))


def _named(encoders: Mapping[str, Any] | None, argument: str, reserved: list[str]) -> dict:
    """Encoders by name as text; names of conditions are made of these."""
    found: dict[str, Any] = {}
    for name, encoder in (encoders or {}).items():
        text = str(name)
        if text in reserved:
            raise ValueError(
                f"{argument} has the name {text!r}, which is that of the ridge encoder that is "
                "always there: give it another name"
            )
        if text in found:
            raise ValueError(f"{argument} has the name {text!r} twice, as text: rename one")
        if not text.strip() or ":" in text or text.endswith(", adapted"):
            raise ValueError(
                f"{argument} has the name {text!r}, but a name is not empty, has no colon and does "
                "not end with ', adapted': names of conditions are made of these"
            )
        found[text] = encoder
    return found


def _of_images(values: Any, n_images: int, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim < 2 or len(array) != n_images:
        raise ValueError(
            f"{name} {array.shape} must have one row for each of the {n_images} images"
        )
    if array.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(array.reshape(n_images, -1)).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{name} {array.shape} contain NaN or infinity for {bad.size} images (first in row "
                f"{bad[0]}): correct or leave out those images"
            )
    return array


def _sizes(
    data: EncodingData, n_real: int, n_tuning: int, n_test: int | None, ratios: list[int]
) -> tuple[int, int, int, int]:
    """Numbers of real, tuning, test and new images."""
    shown = data.trials["image"].nunique()
    if not ratios or ratios[0] < 1:
        raise ValueError(f"ratios={ratios} must be whole numbers from 1")
    n_new = n_real * ratios[-1]
    left = shown - n_real - n_tuning - n_new
    n_test = min(600, left) if n_test is None else n_test
    if min(n_real, n_tuning, n_test) < 2 or n_test > left:
        raise ValueError(
            f"{shown} images with trials are too few for {n_real} real, {n_tuning} tuning, "
            f"{n_new} new ({ratios[-1]} times {n_real}) and {n_test} test images: make n_real, "
            "ratios or n_test smaller"
        )
    return n_real, n_tuning, n_test, n_new


class _Parts:
    """Data of the study: trials, averages, targets and features of all images."""

    def __init__(self, data: EncodingData, targets: np.ndarray, features: np.ndarray):
        self.betas, self.targets, self.features = data.betas, targets, features
        self.averages = average_repeats(data.betas)
        self.shown = np.unique(data.trials["image"])
        self.present = np.isfinite(data.betas).any(axis=2)

    def one_trial(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random trial of each image."""
        numbers = np.where(self.present[images], rng.random(self.present[images].shape), -1)
        return self.betas[images, numbers.argmax(axis=1)]


def _replicate(
    parts: _Parts,
    sizes: tuple[int, int, int, int],
    ratios: list[int],
    encoders: dict[str, Any],
    adapted: dict[str, Any],
    decoder: tuple[Any, tuple[int, ...]],
    pool_size: int,
    seed: tuple[int, int],
) -> list[Scores]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(parts.shown)
    real, tuning, test, new = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    real_trials, new_trials = parts.one_trial(real, rng), parts.one_trial(new, rng)
    scaling = VoxelScaling.of(real_trials[:, None])

    def scaled(responses: np.ndarray) -> np.ndarray:
        return np.nan_to_num(scaling.apply(responses)).astype(np.float64)

    learned = Pairs(scaled(real_trials), parts.targets[real])
    tuned_on = Pairs(scaled(parts.averages[tuning]), parts.targets[tuning])
    tested = Pairs(scaled(parts.averages[test]), parts.targets[test])
    scorer = _Scorer(learned.Y.mean(axis=0), tested.Y, test, pool_size, seed)
    fits: Any = RidgeFits(learned, tuned_on, tested)
    if decoder[0] is not None:
        fits = DecoderFits(learned, tuned_on, tested, *decoder)
    whole = Replicate(
        learned,
        parts.features[real],
        Pairs(scaled(new_trials), parts.targets[new]),
        parts.features[new],
        ratios[-1],
    )
    fitted = fit_encoders(encoders, whole)
    from_others = {
        name: encoder.adapt(whole.real_features, learned.X[:, None])
        for name, encoder in adapted.items()
    }
    found: list[Scores] = []
    for ratio in ratios:
        n_new = ratio * len(real)
        replicate = Replicate(
            learned,
            whole.real_features,
            Pairs(whole.new.X[:n_new], whole.new.Y[:n_new]),
            whole.new_features[:n_new],
            ratio,
        )
        for name, added in added_rows(replicate, fitted, from_others, rng):
            found += scorer.of_decoded(name, ratio, fits.decoded(added))
    for name, encoder in {**fitted, **_named_adapted(from_others)}.items():
        itself = EncoderDecoder(encoder, prefit=True, method="correlation")
        itself.fit(learned.X, whole.real_features)
        similarity = itself.similarity(tested.X, parts.features[test])
        found.append(scorer.score(f"{name} as decoder", ratios[-1], "centred", similarity))
    return found


def _named_adapted(encoders: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}, adapted": encoder for name, encoder in encoders.items()}


class _Scorer:
    """Retrieval of the test images of a replicate, in the same pools for all conditions."""

    def __init__(
        self,
        training_mean: np.ndarray,
        targets: np.ndarray,
        ids: np.ndarray,
        pool_size: int,
        seed: tuple[int, int],
    ):
        self.mean, self.targets, self.ids = training_mean, targets, ids
        self.pool_size, self.seed = min(pool_size, len(ids)), seed

    def of_decoded(self, name: str, ratio: int, best: Decoded) -> list[Scores]:
        """Scores for each kind of similarity."""
        missed = np.square(best.predicted - self.targets).mean()
        more = {
            "relative_mse": float(missed / np.square(self.mean - self.targets).mean()),
            **best.chosen,
        }
        return [
            self.score(name, ratio, label.partition(" ")[0], values, **more)
            for label, values in best.similarities.items()
        ]

    def score(
        self, name: str, ratio: int, label: str, similarity: np.ndarray, **more: float
    ) -> Scores:
        """Both directions of one similarity."""
        found = metrics.retrieval(
            similarity,
            query_ids=self.ids,
            candidate_ids=self.ids,
            pool_size=self.pool_size,
            n_pools=N_POOLS,
            random_state=self.seed[1],
        )
        tries = pd.DataFrame(
            {
                "image_hits": found.image.hits,
                "image_tries": found.image.tries,
                "brain_hits": found.brain.hits,
                "brain_tries": found.brain.tries,
            }
        )
        return Scores(name, ratio, self.seed[1], label, found.image.chance, tries, dict(more))
