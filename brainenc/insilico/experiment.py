"""experiment: what a fitted encoder predicts for conditions of images, with its uncertainty."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from brainenc.benchmarking.manifest import hardware, versions
from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.training_images import marks_of
from brainenc.insilico import tables
from brainenc.insilico.conditions import (
    Place,
    axes_of,
    checked_conditions,
    checked_contrasts,
    checked_parameters,
    places_of,
)
from brainenc.insilico.effects import Responses
from brainenc.insilico.result import Experiment
from brainenc.process_state import own_settings
from brainenc.progress import progress

#: Distance of a condition's images from those of the fit, in s.d. of these, that is mentioned.
_FAR = 4.0


def experiment(
    encoder: Any,
    conditions: Any,
    *,
    rois: Any = None,
    contrasts: Mapping[str, Mapping[Any, float]] | None = None,
    parameters: Any = None,
    circular: Mapping[str, float] | None = None,
    n_draws: int = 200,
    confidence: float = 0.95,
    random_state: int = 0,
    verbose: bool = False,
) -> Experiment:
    """Mean response to each condition, contrasts and tuning, as a fitted encoder predicts them.

    Two uncertainties are kept apart. *Model uncertainty* is that of the encoder's weights: draws of
    whole functions of the image, ``sample(noise="weights")``, so that an error of a weight is in
    all images of a draw and does not average out over them. Intervals and p are of it. *Trial
    noise* is what single trials of an experiment would add; it averages out over trials.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
        With a distribution of its weights (ridge, for example), or refits
        (`brainenc.encoders.add_refits`).
    conditions : dict of name to images, or `brainenc.insilico.Stimuli`
        Images or features, as for ``encoder.predict``, at least two conditions. Use images that the
        encoder was not fitted to.
    rois : voxel table, labels (n_voxels,), or dict of name to mask or positions, optional
        Areas, such as ``data.voxels``; by default those of the voxel table that a loaded encoder
        has. All voxels together are an area, too.
    contrasts : dict of name to dict of condition to weight, optional
        Weights sum to 0. By default the difference of two conditions, or each of several minus the
        mean of the others.
    parameters : dict of parameter to dict of condition to value, or DataFrame, optional
        Values that conditions stand for, for tuning curves; a row per condition. Stimuli have them.
    circular : dict of parameter to period, optional
        Parameters whose largest value is next to the smallest; ``{"orientation": 180}`` by default.
    n_draws : int
        Draws of the encoder's functions; 0 for means without uncertainty.
    confidence : float
        Of the intervals.
    random_state : int
        Seed of the draws.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    Experiment

    Raises
    ------
    TypeError : arguments of a wrong type.
    ValueError : fewer than two conditions, unknown names, weights that do not sum to 0, or an
        encoder without a distribution of its weights.

    Notes
    -----
    The distribution of a mean is normal with the s.d. of the draws, so intervals and p are those of
    t with ``n_draws`` − 1 degrees of freedom. q is the false discovery rate (Benjamini–Hochberg)
    over the areas of an atlas, or over voxels, within a contrast. All refer to the encoder's
    expected response to these images: systematic errors, such as features that do not have what a
    voxel responds to, are not in them.

    Intervals and p of areas include that weights of voxels with shared noise err together: draws
    have the correlation of the residuals of training responses between voxels. They do not include
    the bias of shrinkage. Ridge predicts responses that are too close to the mean, in all voxels of
    an area that has a preference, so that this error does not average out over its voxels:
    intervals of areas with strong effects and few training images contain the true mean too rarely
    (:doc:`/howto_in_silico`).

    ``experiment(...).warnings`` names conditions whose features are far from those of the fit.
    Draws take ``4 · n_draws · n_conditions · n_voxels`` bytes.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> encoder = brainenc.RidgeEncoder().fit(features, betas)
    >>> low, high = rng.standard_normal((2, 20, 8))
    >>> high[:, 0] += 2  # voxel 0 responds to feature 0
    >>> found = brainenc.experiment(encoder, {"high": high, "low": low}, rois={"first": [0]})
    >>> found.contrasts[["contrast", "roi", "n_voxels"]]
         contrast    roi  n_voxels
    0  high > low    all         5
    1  high > low  first         1
    >>> int(found.voxel_contrasts["p"].argmin())
    0
    """
    if not isinstance(encoder, BaseEncoder):
        raise TypeError(
            f"encoder must be a fitted brainenc encoder, got {type(encoder).__name__}; "
            "brainenc.encoders.as_encoder makes one of a regressor"
        )
    check_is_fitted(encoder)
    _check_numbers(n_draws, confidence, random_state)
    named, own = checked_conditions(conditions)
    names = list(named)
    axes = axes_of(checked_parameters(parameters, own, names), circular)
    weights = checked_contrasts(contrasts, names)
    n_voxels = encoder.n_voxels_
    places = places_of(getattr(encoder, "voxels_", None) if rois is None else rois, n_voxels)
    shares = shares_of(places, encoder)
    features, member = _features(encoder, named, verbose)
    with own_settings():
        prediction = encoder._predict(features).astype(np.float32, copy=False)
        draws = _mean_draws(encoder, features, member, n_draws, random_state, verbose)
    of_rois = np.nan_to_num(prediction) @ shares
    means = {"voxels": member @ prediction, "rois": member @ of_rois}
    spread = {
        kind: np.stack([_spread(values[row > 0]) for row in member])
        for kind, values in (("voxels", prediction), ("rois", of_rois))
    }
    by_voxel = Responses(means["voxels"], draws)
    known = np.isfinite(means["voxels"]).all(axis=0)
    by_roi = Responses(means["rois"], np.where(known, draws, 0) @ shares.astype(np.float32))
    trial = trial_noise(encoder, shares)
    distances = _distances(encoder, features)
    notes = [
        note
        for name, row in zip(names, member, strict=True)
        for note in _far_away(name, distances[row > 0])
    ]
    how = {"conditions": {name: len(images) for name, images in named.items()}}
    tested = tables.Tested(by_voxel, by_roi, places, shares, confidence)
    return Experiment(
        rois=tables.condition_rows(tested, how["conditions"], spread["rois"], trial["rois"]),
        voxels=tables.voxel_rows(tested, names, spread["voxels"], trial["voxels"]),
        contrasts=tables.contrast_rows(tested, weights),
        voxel_contrasts=tables.voxel_contrast_rows(tested, weights),
        tuning=tables.tuning_rows(tested, axes),
        preferences=tables.preference_rows(tested, axes),
        manifest={
            "encoder": type(encoder).__name__,
            "n_voxels": n_voxels,
            "settings": {
                **how,
                "contrasts": {
                    k: dict(zip(names, w.tolist(), strict=True)) for k, w in weights.items()
                },
                "parameters": [axis.name for axis in axes],
                "circular": {axis.name: axis.period for axis in axes if axis.period is not None},
                "n_draws": n_draws,
                "confidence": confidence,
                "random_state": random_state,
            },
            "versions": versions(),
            "hardware": hardware(),
        },
        warnings=notes,
    )


def _features(
    encoder: Any, named: Mapping[str, Any], verbose: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Features of all images, and the weights (n_conditions, n_images) of means of conditions."""
    parts = [
        encoder._features_of(images)
        for images in progress(named.values(), desc="features", unit="condition", verbose=verbose)
    ]
    of_image = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    member = np.equal.outer(np.arange(len(parts)), of_image).astype(np.float64)
    return np.concatenate(parts), member / member.sum(axis=1, keepdims=True)


def _mean_draws(
    encoder: Any,
    features: np.ndarray,
    member: np.ndarray,
    n_draws: int,
    random_state: int,
    verbose: bool,
) -> np.ndarray:
    """Means over the images of each condition of drawn functions, (n_draws, conditions, voxels)."""
    found = np.zeros((n_draws, len(member), encoder.n_voxels_), np.float32)
    if not n_draws:
        return found
    total = len(features) * encoder.n_voxels_
    with progress(desc="draws", total=total, unit="response", verbose=verbose) as bar:
        for (images, voxels), drawn in encoder._function_blocks(features, n_draws, random_state):
            weights = member[:, images].astype(np.float32)
            found[:, :, voxels] += np.matmul(weights, drawn)
            bar.update(drawn.shape[1] * drawn.shape[2])
    return found


def _spread(responses: np.ndarray) -> np.ndarray:
    """s.d. over images; NaN of one image."""
    if len(responses) < 2:
        return np.full(responses.shape[1], np.nan)
    return responses.std(axis=0, ddof=1, dtype=np.float64)


def _distances(encoder: Any, features: np.ndarray) -> np.ndarray:
    """Distance of each image from those of the fit, in s.d. of these; 0 if it is unknown."""
    known = getattr(encoder, "training_marks_", np.empty((0, 0)))
    if known.shape[1] == 0:
        return np.zeros(len(features))
    centre, sd = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    marks = (marks_of(features) - centre) / np.where(sd > 0, sd, np.inf)
    return np.sqrt(np.square(marks).mean(axis=1))


def _far_away(name: str, distance: np.ndarray) -> list[str]:
    middle = float(np.median(distance))
    if middle <= _FAR:
        return []
    return [
        f"images of the condition {name!r} are far from those that the encoder was fitted to: "
        f"their features differ by {middle:.1f} s.d. of these. The encoder extrapolates, which "
        "intervals and p do not include"
    ]


def shares_of(places: list[Place], encoder: Any) -> np.ndarray:
    """Share of each voxel in the mean of each area, (n_voxels, n_areas); 0 without data."""
    known = np.isfinite(encoder.training_mean_)
    shares = np.zeros((len(known), len(places)))
    for i, (_, _, voxels) in enumerate(places):
        inside = voxels[known[voxels]]
        shares[inside, i] = 1 / max(len(inside), 1)
    return shares


def trial_noise(encoder: Any, shares: np.ndarray) -> dict[str, np.ndarray]:
    """s.d. of single trials of a voxel, and of the mean of an area, which voxels' noise shares."""
    noise = encoder.trial_noise_
    if noise is None:
        return {"voxels": np.full(len(shares), np.nan), "rois": np.full(shares.shape[1], np.nan)}
    private = np.nan_to_num(noise.private_sd).astype(np.float64)
    variance = np.square(private) @ np.square(shares)
    variance = variance + np.square(np.nan_to_num(noise.factors) @ shares).sum(axis=0)
    return {"voxels": np.sqrt(noise.variance), "rois": np.sqrt(variance)}


def _check_numbers(n_draws: Any, confidence: float, random_state: Any) -> None:
    if not isinstance(n_draws, int | np.integer) or not (n_draws == 0 or n_draws >= 20):
        raise ValueError(f"n_draws={n_draws!r} must be 20 or more, or 0 for no uncertainty")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    if not isinstance(random_state, int | np.integer):
        raise TypeError(
            f"random_state={random_state!r} must be an int: images are drawn in blocks, with the "
            "same functions for all"
        )
