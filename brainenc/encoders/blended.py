"""Blends with ridge: convex weights per voxel of the mean, of ridge and of a network."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.encoders.base import HeldOut
from brainenc.encoders.ensemble import voxel_moments
from brainenc.encoders.function_draws import Functions, Streams, drawn_of_posterior
from brainenc.encoders.tokens import linear_features
from brainenc.encoders.trained import TrainedEncoder
from brainenc.model_selection import Folds, image_folds
from brainenc.repeats import average_repeats
from brainenc.solvers.posterior import WeightPosterior
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.simplex import blend, measure_errors
from brainenc.training import TrainingRun

#: Weight, in images, of the errors of the average voxel beside the voxel's own.
POOLING = 100

#: Folds of the held-out images, for held-out predictions of the blend.
N_FOLDS = 5

#: Folds of ridge for its held-out predictions, if the network has held out a part of the images.
#: The network that predicts is then the one that held them out, and ridge, which predicts from all
#: images, has to be judged by fits to nearly all: in 5 folds it would look worse than it is.
N_RIDGE_FOLDS = 50


def cross_blend(
    held_out: Sequence[np.ndarray], targets: np.ndarray, folds: Folds, pooling: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convex weights of predictions per voxel, and held-out predictions of the blend.

    Parameters
    ----------
    held_out : k arrays, shape (n_images, n_voxels)
        Held-out predictions; NaN where there is none.
    targets : array, shape (n_images, n_voxels)
        Repeat-averaged betas; NaN where an image has none.
    folds : list of (train, test)
        Every image is blended with the weights chosen on the images outside its fold.
    pooling : float, >= 0
        As for `brainenc.solvers.simplex.Errors.weights`.

    Returns
    -------
    weights : array, shape (k, n_voxels)
        NaN for a voxel without data.
    blended : array, shape (n_images, n_voxels), float32
    n_images : array, shape (n_voxels,)
        Number of images that the weights of each voxel were chosen on.
    """
    errors = [measure_errors([part[test] for part in held_out], targets[test]) for _, test in folds]
    total = sum(errors[1:], errors[0])
    weights = total.weights(pooling)
    weights[:, ~np.isfinite(targets).any(axis=0)] = np.nan
    blended = np.empty(targets.shape, dtype=np.float32)
    for (_, test), own in zip(folds, errors, strict=True):
        of_others = (total - own).weights(pooling)
        blended[test] = blend(of_others, [part[test] for part in held_out])
    return weights, blended, total.n_images


@dataclass(frozen=True)
class RidgeBlend:
    """Weighted sum of the mean response, of ridge and of a network, with weights per voxel.

    Attributes
    ----------
    linear : RidgeRegression
        From features to voxels, fitted to all images.
    mean : array, shape (n_voxels,)
        Mean response.
    weights : array, shape (3, n_voxels), float32
        Weights of mean, ridge and network; >= 0, with sum 1. NaN for a voxel without data.
    posterior : WeightPosterior
        Of the weights of ridge.
    """

    linear: RidgeRegression
    mean: np.ndarray
    weights: np.ndarray
    posterior: WeightPosterior

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        betas: np.ndarray,
        held_out: np.ndarray,
        *,
        device: Any = "auto",
        random_state: int | None = 0,
    ) -> tuple["RidgeBlend", np.ndarray]:
        """Fit ridge, and choose weights on the images that the network held out.

        Parameters
        ----------
        features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
        betas : array, shape (n_images, n_repeats, n_voxels)
        held_out : array, shape (n_images, n_voxels)
            Predictions of the network; NaN for images that it has learnt.
        device, random_state
            Of ridge, and of the folds.

        Returns
        -------
        blend : RidgeBlend
        blended : array, shape (n_images, n_voxels)
            Held-out predictions of the blend; NaN where the network has none.

        Raises
        ------
        ValueError : fewer than two images with data were held out.
        """
        averages = average_repeats(betas)
        shown = np.isfinite(averages).any(1)
        rows = np.flatnonzero(np.isfinite(held_out).any(1) & shown)
        if len(rows) < 2:
            raise ValueError(
                f'blend="ridge" chooses weights on images that the network has not learnt, and '
                f"{len(rows)} were held out: hold out some (`validation`), or give blend=None"
            )
        given = {"device": device, "random_state": random_state}
        seen = linear_features(features)
        linear, by_ridge = RidgeRegression.fit(seen, averages, **given)
        fitted = np.isfinite(by_ridge).any(0)  # voxels with enough images
        if len(rows) < shown.sum() and fitted.any():
            least = int(np.isfinite(averages[:, fitted]).sum(axis=0).min())
            n_folds = min(N_RIDGE_FOLDS, least)
            _, by_ridge[:, fitted] = RidgeRegression.fit(
                seen, averages[:, fitted], cv=n_folds, **given
            )
        mean, _ = voxel_moments(averages)
        targets = averages[rows]
        constant = np.broadcast_to(mean, targets.shape)
        folds = image_folds(min(N_FOLDS, len(rows)), len(rows), random_state=random_state)
        weights, found, _ = cross_blend(
            [constant, by_ridge[rows], held_out[rows]], targets, folds, POOLING
        )
        weights[:, ~np.isfinite(averages).any(axis=0)] = np.nan
        blended = np.full(averages.shape, np.nan, dtype=np.float32)
        blended[rows] = found
        posterior = linear.posterior(seen, averages)
        return cls(linear, mean, weights.astype(np.float32), posterior), blended

    @property
    def net_share(self) -> np.ndarray:
        """Weight of the network, (n_voxels,)."""
        return self.weights[2]

    def deviations(
        self, features: np.ndarray, n: int, streams: Streams, error: np.ndarray | None
    ) -> Functions:
        """Deviations of drawn functions from the prediction: those of the posterior of ridge.

        The network learnt the same trials, so its error is taken as that of ridge; and a share of
        the mean response trades variance for bias, of which the posterior is the measure there is.
        How members of the network differ comes on top.

        Parameters
        ----------
        features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
        n : int
        streams : Streams
        error : array, shape (n_voxels,), or None
            Variance of the blend's held-out error. Of what exceeds the variance of the weights each
            image gets a part of its own; None: no image does.
        """
        X: Any = self.linear.scaled(linear_features(features))
        drawn = self.posterior.at(X, self.linear.X_fit, error=error)
        return lambda voxels: drawn_of_posterior(drawn, n, streams, voxels)

    def predict(self, features: np.ndarray, of_net: np.ndarray) -> np.ndarray:
        """Blend predictions or draws of the network with the mean and ridge.

        Parameters
        ----------
        features : array, shape (n_images, n_features) or (n_images, n_tokens, width)
        of_net : array, shape (n_images, n_voxels) or (n, n_images, n_voxels)

        Returns
        -------
        array of the shape of `of_net`, float32
        """
        by_ridge = self.linear.predict(linear_features(features))
        rest = blend(self.weights[:2], [np.broadcast_to(self.mean, by_ridge.shape), by_ridge])
        return rest + np.where(self.net_share == 0, np.float32(0), self.net_share * of_net)


class BlendedEncoder(TrainedEncoder):
    """Base class of encoders that train networks and blend their predictions with ridge.

    A subclass passes `blend` and the parameters of `TrainedEncoder` to ``__init__``, and provides
    ``_train_net`` and ``_predict_net``, the `_train` and `_predict` of the network alone.

    Parameters
    ----------
    blend : "auto", "ridge" or None
        "ridge": predictions are weighted sums of the mean response, of ridge on the same features
        and of the network. The weights of a voxel are >= 0, sum to 1, and minimise the squared
        error on images that the network has not learnt. None: the network alone. "auto" is "ridge",
        and None with ``sizes="published"`` or without held-out images.
    **training
        Parameters of `TrainedEncoder`.

    Attributes
    ----------
    blend_ : RidgeBlend or None
        None without blending, and where ridge replaces the network.
    net_share_ : array, shape (n_voxels,)
        Weight of the network in each voxel; absent where `blend_` is None.
    """

    saved_parts = (*TrainedEncoder.saved_parts, RidgeBlend, WeightPosterior)

    def __init__(self, features: Any = "auto", *, blend: str | None = "auto", **training: Any):
        super().__init__(features, **training)
        self.blend = blend

    @property
    def net_share_(self) -> np.ndarray:
        """Weight of the network in the prediction of each voxel, (n_voxels,)."""
        found = getattr(self, "blend_", None)
        if found is None:
            raise AttributeError(
                f"this {type(self).__name__} has no net_share_: it is not fitted, or not blended"
            )
        return found.net_share

    # ---------------------------------------------------------------- what a subclass provides

    @abstractmethod
    def _train_net(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        **start: Any,
    ) -> np.ndarray:
        """Train the networks; return their held-out predictions, NaN for other images."""

    @abstractmethod
    def _predict_net(self, features: np.ndarray) -> np.ndarray:
        """Predictions of the networks, or of ridge where it replaces them."""

    # ---------------------------------------------------------------- fitting, predicting

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not (self.blend is None or self.blend in ("auto", "ridge")):
            raise ValueError(f"blend={self.blend!r} must be 'auto', 'ridge' or None")

    def _blends(self, options: dict[str, Any]) -> bool:
        if self.blend != "auto":
            return self.blend is not None
        published = isinstance(sizes := options.get("sizes"), str) and sizes == "published"
        return not published and options.get("validation", 1) > 0

    def _train(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        **start: Any,
    ) -> np.ndarray | HeldOut:
        held_out = self._train_net(features, betas, run, options, **start)
        self.blend_: RidgeBlend | None = None
        # Networks that start from another subject's, `source`, are trained with few images too.
        is_ridge = self._becomes_ridge(len(features)) and "source" not in start
        if is_ridge or not self._blends(options):
            return held_out
        self.blend_, held_out = RidgeBlend.fit(
            features, betas, held_out, device=run.device, random_state=run.random_state
        )
        return held_out

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return self._blended(features, self._predict_net(features))

    def _blended(self, features: np.ndarray, of_net: np.ndarray) -> np.ndarray:
        """Predictions or draws of the network, blended if the encoder is."""
        found = getattr(self, "blend_", None)  # earlier versions have saved encoders without
        return of_net if found is None else found.predict(features, of_net)
