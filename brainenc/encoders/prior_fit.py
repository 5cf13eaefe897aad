"""Ridge with a `WeightPrior`, from features and betas to weights, shares and posterior."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from brainenc.data.atlas_labels import text_labels
from brainenc.data.voxels import atlas_columns, atlas_labels
from brainenc.devices import resolve_device
from brainenc.encoders.weight_prior import WeightPrior
from brainenc.model_selection import image_folds
from brainenc.solvers.evidence import prior_ridge_evidence
from brainenc.solvers.posterior import WeightPosterior, weight_posterior
from brainenc.solvers.priors import PriorBands, prior_candidates, prior_ridge_cv
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.result import RidgeFit
from brainenc.solvers.search import choose_search
from brainenc.solvers.voxels import (
    EXACT_IMAGES,
    check_voxel_labels,
    choose_alphas,
    choose_per_voxel,
    feature_scaling,
    fit_voxels,
    flatten_tokens,
    folds_of_rows,
)

#: How penalties, and the mixture of priors, can be chosen.
SELECTIONS = ("auto", "cross-validation", "evidence")


class PriorFit(NamedTuple):
    """Ridge with a prior, fitted.

    Attributes
    ----------
    regression : RidgeRegression
        In primal form: weights of the features.
    held_out : array, shape (n_images, n_voxels)
    bands : PriorBands
    shares : array, shape (n_components + 1, n_voxels)
        Of each component and of the isotropic prior; they sum to 1.
    posterior : WeightPosterior
        Of the fit with the largest weight in each voxel.
    """

    regression: RidgeRegression
    held_out: np.ndarray
    bands: PriorBands
    shares: np.ndarray
    posterior: WeightPosterior


def fit_with_prior(encoder: Any, features: np.ndarray, averages: np.ndarray) -> PriorFit:
    """Fit a `RidgeEncoder` with a prior.

    Parameters
    ----------
    encoder : RidgeEncoder
    features : array, shape (n_images, ...)
    averages : array, shape (n_images, n_voxels)
        NaN where an image has no data.

    Returns
    -------
    PriorFit

    Raises
    ------
    ValueError : features that are not those of the prior, ROI labels of other voxels.
    """
    prior: WeightPrior = encoder.prior
    prior.check(features, getattr(encoder, "features_", None))
    labels = voxel_labels(prior, encoder.rois, averages.shape[1])
    X = flatten_tokens(features)
    mean, scale = feature_scaling(X, encoder.standardize)
    X = (X - mean) / scale
    precise = X.astype(np.float64) if len(X) <= EXACT_IMAGES else X
    factors = [factor * scale[:, None] for factor in prior.factors]
    bands = PriorBands.of(precise, factors)
    averages = averages.astype(X.dtype, copy=False)
    n_voxels, n_components = averages.shape[1], len(factors)
    check_voxel_labels(encoder.alpha_per_voxel, n_voxels)
    weights = np.full((X.shape[1], n_voxels), np.nan, X.dtype)
    intercept, alphas = np.full((2, n_voxels), np.nan, X.dtype)
    held_out = np.full(averages.shape, np.nan, X.dtype)
    shares, largest = np.full((2, n_components + 1, n_voxels), np.nan, X.dtype)
    folds = image_folds(encoder.cv, len(X), random_state=encoder.random_state)
    search = choose_search(encoder.search, len(X), folds)
    for own, voxels in _groups(prior, labels):
        candidates, positions = prior_candidates(n_components, own), np.arange(n_voxels)[voxels]

        def solve(
            rows: np.ndarray,
            Y: np.ndarray,
            some: Any,
            candidates: np.ndarray = candidates,
            positions: np.ndarray = positions,
        ) -> RidgeFit:
            data = (
                bands,
                precise[rows],
                Y,
                choose_alphas(encoder.alphas, (len(rows), X.shape[1])),
                folds_of_rows(encoder.cv, rows, len(X), random_state=encoder.random_state),
                candidates,
            )
            per_voxel = choose_per_voxel(encoder.alpha_per_voxel, len(Y), positions[some])
            device = resolve_device(encoder.device)
            if by_evidence(encoder.selection, encoder.cv, encoder.alpha_per_voxel):
                return prior_ridge_evidence(*data, per_voxel=per_voxel, device=device)
            return prior_ridge_cv(*data, per_voxel=per_voxel, search=search, device=device)

        fit = fit_voxels(
            averages[:, voxels],
            solve,
            n_weights=X.shape[1],
            dual=False,
            n_bands=len(candidates),
            min_images=encoder.cv if isinstance(encoder.cv, int) else 2,
        )
        weights[:, voxels], intercept[voxels] = fit.weights, fit.intercept
        alphas[voxels], held_out[:, voxels] = fit.alphas, fit.held_out
        of_candidates = np.asarray(fit.band_weights)
        shares[:, voxels] = candidates.T @ of_candidates
        largest[:, voxels] = candidates[np.nan_to_num(of_candidates).argmax(axis=0)].T
    posterior = weight_posterior(
        bands.features(X).astype(X.dtype, copy=False),
        averages,
        lambda some: averages[:, some] - intercept[some] - X @ weights[:, some],
        alphas,
        band_weights=largest,
        band_sizes=bands.sizes,
    )
    maps = [F.astype(X.dtype) for F in bands.maps]
    return PriorFit(
        RidgeRegression(weights, intercept, alphas, mean, scale),
        held_out,
        PriorBands(maps, X.shape[1]),
        shares,
        posterior,
    )


def by_evidence(selection: str, cv: Any, alpha_per_voxel: Any) -> bool:
    """Whether penalties and mixture are chosen by evidence; else by cross-validation.

    "auto" is evidence, unless `cv` has folds of its own (a splitter, such as one of categories):
    they say which new images there will be. Voxels that share a penalty by their labels are fitted
    by cross-validation.

    Raises
    ------
    ValueError : an unknown selection, or evidence asked for with labels.
    """
    has_labels = not isinstance(alpha_per_voxel, str) and np.ndim(alpha_per_voxel) == 1
    if selection not in SELECTIONS:
        raise ValueError(
            f"selection={selection!r} must be one of {', '.join(map(repr, SELECTIONS))}"
        )
    if has_labels and selection == "evidence":
        raise ValueError(
            'selection="evidence" has no penalty for the voxels of a label: give '
            'alpha_per_voxel as "auto" or a bool, or selection="cross-validation"'
        )
    if selection != "auto":
        return selection == "evidence"
    return isinstance(cv, (int, np.integer)) and not has_labels


def with_prior_of(new: Any, fitted: Any) -> Any:
    """An unfitted linear encoder with the weights of a fitted one as its prior; set in place."""
    new.set_params(prior=WeightPrior.from_encoders([fitted]))
    if "rois" in new.get_params(deep=False):
        new.set_params(rois=None)  # of the old subject's voxels
    return new


def voxel_labels(prior: WeightPrior, rois: Any, n_voxels: int) -> np.ndarray | None:
    """ROI label of each voxel, (n_voxels,); None if there are none.

    Raises
    ------
    ValueError : labels of another number of voxels, or of no ROI of the prior.
    """
    if rois is None:
        return None
    labels = np.array([label or "" for label in text_labels(rois, "rois")], dtype=object)
    if len(labels) != n_voxels:
        raise ValueError(
            f"rois has labels of {len(labels)} voxels, but betas has {n_voxels} voxels; give the "
            "labels of these voxels, or rois=None"
        )
    if not set(labels) & set(prior.names[1:]):
        raise ValueError(_no_overlap(prior, {"rois": labels}))
    return labels


def labels_of_table(prior: WeightPrior, voxels: pd.DataFrame) -> np.ndarray | None:
    """Labels of the first atlas that has ROIs of the prior; None if the prior has no ROIs.

    Raises
    ------
    ValueError : no atlas has any ROI of the prior.
    """
    kinds = all(name.startswith("kind ") for name in prior.names[1:])
    if len(prior.names) == 1 or kinds:
        return None
    known = {name: atlas_labels(voxels, name) for name in atlas_columns(voxels)}
    for labels in known.values():
        if set(labels) & set(prior.names[1:]):
            return labels
    raise ValueError(_no_overlap(prior, known))


def _no_overlap(prior: WeightPrior, labels: dict[str, Any]) -> str:
    theirs = "; ".join(
        f"{name}: {', '.join(sorted({str(x) for x in found if x})[:8])}"
        for name, found in labels.items()
    )
    return (
        f"the prior has components of the ROIs {', '.join(prior.names[1:9])}, and none of them is "
        f"among the labels of these voxels ({theirs or 'no atlas'}): give labels of the same "
        "atlas, or a prior without ROIs"
    )


def _groups(
    prior: WeightPrior, labels: np.ndarray | None
) -> Sequence[tuple[list[int], np.ndarray | slice]]:
    """Components to try, and the voxels that try them."""
    n_components = len(prior.factors)
    if labels is None:
        kinds = [i for i, name in enumerate(prior.names) if i == 0 or name.startswith("kind ")]
        return [(kinds if len(kinds) == n_components else [0], slice(None))]
    found = []
    for label in dict.fromkeys(labels.tolist()):
        own = prior.component(label) if label else None
        found.append(([0] if own is None else [0, own], np.flatnonzero(labels == label)))
    return found
