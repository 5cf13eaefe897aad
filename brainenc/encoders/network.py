"""Base class of encoders that are ensembles of networks: parameters, fitting, predicting."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from brainenc.encoders.base import HeldOut
from brainenc.encoders.blended import BlendedEncoder
from brainenc.encoders.ensemble import (
    Recipe,
    ensemble_folds,
    fit_ensemble,
    run_net,
    voxel_moments,
)
from brainenc.encoders.function_draws import (
    Functions,
    Streams,
    functions_of_members,
    some_images,
    variance_of_members,
)
from brainenc.encoders.inputs import adapting
from brainenc.encoders.trained import MIN_IMAGES, check_number
from brainenc.encoders.trunk import check_same_features, freeze, start_from
from brainenc.metrics import correlation
from brainenc.repeats import average_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.training import TrainingRun, TrainingSettings

#: Smallest number of steps of a default training; with few images an epoch is few steps.
LEAST_STEPS = 100

#: Evaluations per training; the best evaluated weights are kept.
N_EVALUATIONS = 20


@dataclass(frozen=True)
class Preset:
    """Sizes and training parameters of a network.

    Attributes
    ----------
    sizes : dict
        Arguments of the network.
    training : dict
        n_members, n_epochs, batch_size, learning_rate, weight_decay.
    settings : dict
        Further arguments of `TrainingSettings`.
    as_published : bool
        Train exactly `n_epochs` and evaluate after each; otherwise train at least 100 steps and
        evaluate 20 times.
    """

    sizes: dict[str, Any]
    training: dict[str, Any]
    settings: dict[str, Any]
    as_published: bool = False


class NetworkEncoder(BlendedEncoder):
    """Base class of encoders whose prediction is the mean of networks trained on z-scored averages.

    A subclass has `presets`, passes the parameters below and those of `BlendedEncoder` to
    ``__init__``, and provides `_adapter`, `_make_net` and `_loss`.

    Parameters
    ----------
    sizes : "auto", "published" or dict
        Network and training: a key of `presets`. A dict replaces arguments of the network in
        "auto".
    min_images : int
        With fewer images ridge on the same features is fitted instead: `linear_` then is a
        `RidgeRegression` and `members_` is empty.
    n_members : int, optional
        Networks that are trained and averaged. Each is stopped early on a different part of the
        images; a single one on a tenth of the images.
    n_epochs : int, optional
        None of `n_members`, `n_epochs` and the training parameters of `TrainedEncoder` means the
        value of the preset.
    **training
        Parameters of `BlendedEncoder`.
    """

    presets: ClassVar[Mapping[str, Preset]]
    #: Beginnings of the names of a network's weights that belong to the subject.
    own_weights: ClassVar[tuple[str, ...]] = ("read_out.",)

    def __init__(
        self,
        features: Any = "auto",
        *,
        sizes: Any = "auto",
        min_images: int = MIN_IMAGES,
        n_members: int | None = None,
        n_epochs: int | None = None,
        **training: Any,
    ):
        super().__init__(features, **training)
        self.sizes = sizes
        self.min_images = min_images
        self.n_members = n_members
        self.n_epochs = n_epochs

    # ---------------------------------------------------------------- what a subclass provides

    @abstractmethod
    def _adapter(self, features: np.ndarray) -> Any:
        """Object whose method `transform` makes inputs of the network from features."""

    def _inputs(self, features: np.ndarray) -> Any:
        """Inputs of the network; a lazy array if they would fill the memory."""
        return self.adapter_.transform(features)

    def _prepare(self, features: np.ndarray, responses: np.ndarray, random_state: int) -> None:
        """Set the attributes that `_make_net` derives from the data."""

    @abstractmethod
    def _make_net(self, shape: tuple[int, ...], sizes: dict[str, Any], random_state: int) -> Any:
        """Untrained network for inputs of `shape` per image."""

    @abstractmethod
    def _loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Scalar; targets are NaN where an image has no data."""

    # ---------------------------------------------------------------- fitting

    def adapt(self, X: Any, y: Any) -> Any:
        """Fit to a new subject, from this one's trunk; this encoder is unchanged.

        The networks start from this subject's; only the read-out of voxels starts anew. With fewer
        than `min_images` images the trunk stays as it is. An encoder that is ridge, fitted to fewer
        than `min_images` images, has no trunk and fits anew.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject
            The number of voxels may differ; features must have the same shape.

        Returns
        -------
        Encoder of the same class
        """
        return super().adapt(X, y)

    def _adapting(self) -> tuple[Any, dict[str, Any]]:
        new = adapting(self).set_params(checkpoint_dir=None)
        return new, {"source": self} if self.members_ else {}

    def _started(self, net: Any, source: "NetworkEncoder", member: int, frozen: bool) -> Any:
        """A network of the new subject with the trunk of one of the source's."""
        trunk = start_from(net, source.members_[member % len(source.members_)], self.own_weights)
        if frozen:
            freeze(net, trunk)
        return net

    def _train(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        **start: Any,
    ) -> np.ndarray | HeldOut:
        held_out = super()._train(features, betas, run, options, **start)
        if self.blend_ is not None and len(self.members_) > 1:
            self.member_variance_ *= np.square(self.net_share_)
        return held_out

    def _train_net(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        *,
        source: Any = None,
        **start: Any,
    ) -> np.ndarray:
        self.members_: list[Any] = []
        self.history_, self.linear_ = pd.DataFrame(), None
        if source is not None:
            check_same_features(self, source)
        elif self._becomes_ridge(len(features)):
            self.linear_, held_out = RidgeRegression.fit(
                features, average_repeats(betas), device=run.device, random_state=run.random_state
            )
            return held_out
        # Arrays of the size of the averages are changed in place: with all of NSD's voxels each
        # takes half a gigabyte. With a single repeat the average is the user's own array.
        responses = average_repeats(betas).astype(np.float32, copy=betas.shape[1] == 1)
        self.mean_, self.scale_ = voxel_moments(responses)
        responses -= self.mean_
        responses /= self.scale_
        self.mean_[np.isnan(responses).all(axis=0)] = np.nan  # the prediction becomes NaN too
        self.adapter_ = self._adapter(features) if source is None else source.adapter_
        inputs = self._inputs(features)
        self._prepare(inputs, responses, run.random_state)
        folds = ensemble_folds(len(inputs), options["n_members"], run.random_state)
        recipe = self._recipe(inputs.shape[1:], options["n_epochs"])
        anew = recipe.make_net
        if source is not None:
            frozen = self._becomes_ridge(len(features))
            recipe = replace(
                recipe,
                make_net=lambda seed: self._started(
                    anew(seed), source, seed - run.random_state, frozen
                ),
            )
        found = fit_ensemble(inputs, responses, folds, recipe, run)
        self.members_, self.history_ = found.nets, found.history
        if len(self.members_) > 1:
            self.member_variance_ = variance_of_members(
                self._of_members(inputs, rows=some_images(len(inputs)))
            )
        return self._in_betas(found.held_out)

    def _predict_net(self, features: np.ndarray) -> np.ndarray:
        if self.linear_ is not None:
            return self.linear_.predict(features)
        inputs = self._inputs(features)
        predictions = reduce(np.add, (run_net(net, inputs, self.device) for net in self.members_))
        predictions /= len(self.members_)
        return self._in_betas(predictions)

    def _functions(self, features: np.ndarray, n: int, streams: Streams) -> Functions:
        """Draws vary as members of the ensemble do, and as ridge does in a blend.

        Refused for a single network, and for ridge in its place.
        """
        if len(self.members_) < 2:
            return super()._functions(features, n, streams)
        members = self._of_members(self._inputs(features))
        if (blend := getattr(self, "blend_", None)) is None:
            return functions_of_members(self, members, features, n, streams)
        # Members differ in the network's part of the prediction.
        members = [self.net_share_ * member for member in members]
        return functions_of_members(
            self,
            members,
            features,
            n,
            streams,
            beside=lambda error: blend.deviations(features, n, streams, error),
        )

    def _of_members(self, inputs: Any, rows: np.ndarray | None = None) -> list[np.ndarray]:
        nets = self.members_
        return [self._in_betas(run_net(net, inputs, self.device, rows=rows)) for net in nets]

    def _in_betas(self, predictions: np.ndarray) -> np.ndarray:
        """Convert predictions from z units to the units of the betas, in place."""
        predictions *= self.scale_
        predictions += self.mean_
        return predictions

    def _recipe(self, shape: tuple[int, ...], n_epochs: int) -> Recipe:
        given = {} if isinstance(self.sizes, str) else self.sizes
        sizes = {**self._preset().sizes, **given}
        return Recipe(
            make_net=lambda seed: self._make_net(shape, sizes, seed),
            settings=lambda n_images, run: self._settings(n_images, n_epochs, run),
            loss=self._loss,
            evaluate=lambda *pair: {"held_out_r": mean_correlation(*pair)},
        )

    def _settings(self, n_images: int, n_epochs: int, run: TrainingRun) -> TrainingSettings:
        preset = self._preset()
        length: dict[str, Any] = {"n_epochs": n_epochs}
        if not preset.as_published:
            n_steps = max(LEAST_STEPS, n_epochs * n_images // run.batch_size)
            length = {"n_steps": n_steps, "report_every": max(1, n_steps // N_EVALUATIONS)}
        return run.settings(**length, **preset.settings, monitor="held_out_r")

    # ---------------------------------------------------------------- parameters

    def _preset(self) -> Preset:
        return self.presets[self.sizes if isinstance(self.sizes, str) else "auto"]

    def _defaults(self, features: np.ndarray, betas: np.ndarray) -> dict[str, Any]:
        return dict(self._preset().training)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not isinstance(self.sizes, Mapping) and self.sizes not in self.presets:
            raise ValueError(
                f"sizes={self.sizes!r} must be one of {list(self.presets)}, or a dict of sizes"
            )
        for name in ("n_members", "n_epochs"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1)


def mean_correlation(predictions: Tensor, targets: Tensor) -> float:
    """Mean over voxels of r across images; NaN if it is undefined for all of them.

    Parameters
    ----------
    predictions, targets : tensor, shape (n_images, n_voxels)
        NaN in a target leaves out that image for that voxel.
    """
    r = correlation(predictions.float().cpu().numpy(), targets.cpu().numpy())
    return float(np.nanmean(r)) if np.isfinite(r).any() else float("nan")
