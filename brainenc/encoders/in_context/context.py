"""A subject's images as the context of a pretrained net: inferred weights, and their share."""

from typing import Any, NamedTuple

import numpy as np

from brainenc.encoders.ensemble import voxel_moments
from brainenc.encoders.in_context.pretrained import InContextPretraining
from brainenc.model_selection import Folds
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.simplex import blend, measure_errors

#: Weight, in images, of the average voxel beside a voxel's own errors, as for priors.
POOLING = 200
#: Fewest images of a voxel that the net reads.
FEWEST = 3


def inferred_weights(
    pretrained: InContextPretraining, inputs: np.ndarray, averages: np.ndarray, device: Any
) -> np.ndarray:
    """Weights and intercept (n_inputs + 1, n_voxels) in the units of the betas.

    Parameters
    ----------
    inputs : array, shape (n_images, n_inputs)
    averages : array, shape (n_images, n_voxels)
        NaN where an image has no data; a voxel with fewer than `FEWEST` images has NaN weights.
    """
    mean, scale = voxel_moments(averages)
    present = np.isfinite(averages)
    found = np.full((inputs.shape[1] + 1, averages.shape[1]), np.nan, np.float32)
    patterns, group = np.unique(present, axis=1, return_inverse=True)
    for i, rows in enumerate(patterns.T):
        if rows.sum() < FEWEST:
            continue
        voxels = np.flatnonzero(group == i)
        responses = (averages[np.ix_(rows, voxels)] - mean[voxels]) / scale[voxels]
        found[:, voxels] = scale[voxels] * pretrained.weights(inputs[rows], responses, device)
        found[-1, voxels] += mean[voxels]
    return found


def held_out_predictions(
    pretrained: InContextPretraining,
    inputs: np.ndarray,
    averages: np.ndarray,
    folds: Folds,
    device: Any,
) -> np.ndarray:
    """Predictions (n_images, n_voxels) of each image from the other folds' images as context."""
    found = np.full(averages.shape, np.nan, np.float32)
    for train, test in folds:
        weights = inferred_weights(pretrained, inputs[train], averages[train], device)
        found[test] = inputs[test] @ weights[:-1] + weights[-1]
    found[~np.isfinite(averages)] = np.nan
    return found


class Corrected(NamedTuple):
    """Ridge weights with their correction.

    Attributes
    ----------
    regression : RidgeRegression
    held_out : array, shape (n_images, n_voxels)
    shares : array, shape (n_voxels,)
        Weight of the net in each voxel.
    """

    regression: RidgeRegression
    held_out: np.ndarray
    shares: np.ndarray


def corrected(
    pretrained: InContextPretraining,
    regression: RidgeRegression,
    held_out: np.ndarray,
    features: np.ndarray,
    averages: np.ndarray,
    folds: Folds,
    device: Any,
) -> Corrected:
    """Move the weights of a prior ridge towards those that the net infers.

    The share of the net in a voxel is that with the smallest squared error on held-out images,
    beside which the average voxel's errors count as `POOLING` images; 0 where the net did not
    remove error of held-out voxels in the pretraining, with as many images.

    Parameters
    ----------
    regression : RidgeRegression
        In primal form.
    held_out : array, shape (n_images, n_voxels)
        Its predictions of images that were held out.
    """
    n_voxels = averages.shape[1]
    if pretrained.gain_at(len(features)) <= 0:
        return Corrected(regression, held_out, np.zeros(n_voxels, np.float32))
    inputs = pretrained.inputs(features)
    of_net = held_out_predictions(pretrained, inputs, averages, folds, device)
    shares = measure_errors([held_out, of_net], averages).weights(POOLING)
    found = inferred_weights(pretrained, inputs, averages, device)
    shares[:, ~np.isfinite(found).all(axis=0)] = [[1.0], [0.0]]
    share = shares[1].astype(np.float32)
    # In the units of the scaled features, of which the regression's weights are.
    assert pretrained.prior is not None
    raw = pretrained.basis @ np.nan_to_num(found[:-1])
    mean, scale = regression.feature_mean, regression.feature_scale
    level = np.nan_to_num(found[-1]) + (mean - pretrained.prior.feature_mean) @ raw
    moved = RidgeRegression(
        (regression.coef + share * (scale[:, None] * raw - regression.coef)).astype(np.float32),
        (regression.intercept + share * (level - regression.intercept)).astype(np.float32),
        regression.alphas,
        mean,
        scale,
    )
    both = blend(shares, [held_out, of_net])
    return Corrected(moved, np.where(np.isnan(held_out), np.nan, both), share)


def unit_regression(weights: np.ndarray) -> RidgeRegression:
    """Weights and intercept (n_features + 1, n_voxels) of the net's inputs as a regression."""
    n_features, n_voxels = len(weights) - 1, weights.shape[1]
    return RidgeRegression(
        weights[:-1],
        weights[-1],
        np.full(n_voxels, np.nan, np.float32),
        np.zeros(n_features, np.float32),
        np.ones(n_features, np.float32),
    )
