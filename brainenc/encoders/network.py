"""What encoders that are nothing but trained networks share: parameters, fitting, predicting."""

import numbers
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.ensemble import Recipe, fit_members, member_folds, run_net, voxel_moments
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.metrics import correlation
from brainenc.repeats import average_repeats
from brainenc.training import TrainingSettings

#: Steps that a default training has at least; epochs of few images are few steps.
LEAST_STEPS = 100

#: Evaluations, at each of which the weights can be found the best so far.
N_EVALUATIONS = 20

AT_LEAST = {"n_members": 1, "n_epochs": 1, "batch_size": 1, "weight_decay": 0, "min_images": 2}


@dataclass(frozen=True)
class Preset:
    """A network, and how it is trained.

    Attributes
    ----------
    sizes : dict
        Arguments of the network.
    training : dict
        n_members, n_epochs, batch_size, learning_rate, weight_decay.
    settings : dict
        Further arguments of `TrainingSettings`.
    as_published : bool
        Exactly so many epochs, judged after each; otherwise at least 100 steps, judged 20 times.
    """

    sizes: dict[str, Any]
    training: dict[str, Any]
    settings: dict[str, Any]
    as_published: bool = False


class NetworkEncoder(BaseEncoder):
    """Base class of encoders whose prediction is the mean of networks trained on z-scored averages.

    A subclass has `presets`, stores `sizes`, `min_images`, `n_members`, `n_epochs`, `batch_size`,
    `learning_rate`, `weight_decay`, `device`, `precision`, `checkpoint_dir`, `random_state` and
    `verbose` in its constructor, and provides `_adapter`, `_make_net` and `_loss`.
    """

    presets: ClassVar[Mapping[str, Preset]]
    #: Smallest value of parameters that have one, besides those all subclasses share.
    at_least: ClassVar[Mapping[str, float]] = {}
    _resume = False

    # ---------------------------------------------------------------- what a subclass provides

    @abstractmethod
    def _adapter(self, features: np.ndarray) -> Any:
        """What makes inputs of the network of features, by its method `transform`."""

    def _inputs(self, features: np.ndarray) -> Any:
        """Inputs of the network; a lazy array of them where they would fill the memory."""
        return self.adapter_.transform(features)

    def _prepare(self, features: np.ndarray, responses: np.ndarray, random_state: int) -> None:
        """Set what `_make_net` needs to know of the data."""

    @abstractmethod
    def _make_net(self, shape: tuple[int, ...], sizes: dict[str, Any], random_state: int) -> Any:
        """Untrained network for inputs of `shape`, of one image."""

    @abstractmethod
    def _loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Scalar; targets are NaN where an image has no data."""

    # ---------------------------------------------------------------- what a user calls

    def fit(self, X: Any, y: Any, *, resume: bool = False) -> "NetworkEncoder":
        """Fit to images and the betas they evoked.

        Parameters
        ----------
        X, y : as for `BaseEncoder.fit`
        resume : bool
            Go on from the checkpoints in `checkpoint_dir`, if there are any.

        Returns
        -------
        self

        Raises
        ------
        ValueError : besides those of `BaseEncoder.fit`, a parameter out of range, or `resume`
            without what it needs.
        TrainingError : the loss became NaN or infinite; names the step and the last checkpoint.
        FileExistsError : `checkpoint_dir` has checkpoints, and `resume` is False.
        """
        self._check_parameters(resume)
        self._resume = resume
        super().fit(X, y)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "sample_kind_")

    # ---------------------------------------------------------------- fitting

    def _fit(self, features: np.ndarray, betas: np.ndarray) -> np.ndarray:
        self.members_: list[Any] = []
        self.history_, self.linear_ = pd.DataFrame(), None
        options = self._options()
        if len(features) < self.min_images:
            self.linear_ = RidgeEncoder(
                None, device=self.device, random_state=options["random_state"]
            )
            return self.linear_._fit(features, betas)
        # Arrays of the size of the averages are changed in place: with all of NSD's voxels each
        # takes half a gigabyte. A single repeat is averaged to itself: the user's own array.
        responses = average_repeats(betas).astype(np.float32, copy=betas.shape[1] == 1)
        self.mean_, self.scale_ = voxel_moments(responses)
        responses -= self.mean_
        responses /= self.scale_
        self.mean_[np.isnan(responses).all(axis=0)] = np.nan  # and so is the prediction
        self.adapter_ = self._adapter(features)
        inputs = self._inputs(features)
        self._prepare(inputs, responses, options["random_state"])
        folds = member_folds(len(inputs), options["n_members"], options["random_state"])
        recipe = self._recipe(inputs.shape[1:], options)
        members = fit_members(inputs, responses, folds, recipe, options)
        self.members_, self.history_ = members.nets, members.history
        return self._in_betas(members.held_out)

    def _predict(self, features: np.ndarray) -> np.ndarray:
        if self.linear_ is not None:
            return self.linear_._predict(features)
        inputs = self._inputs(features)
        predictions = reduce(np.add, (run_net(net, inputs, self.device) for net in self.members_))
        predictions /= len(self.members_)
        return self._in_betas(predictions)

    def _in_betas(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions in z units, changed in place to the units of the betas."""
        predictions *= self.scale_
        predictions += self.mean_
        return predictions

    def _recipe(self, shape: tuple[int, ...], options: dict[str, Any]) -> Recipe:
        return Recipe(
            make_net=lambda seed: self._make_net(shape, options["sizes"], seed),
            settings=lambda n_images, seed: self._settings(n_images, options, seed),
            loss=self._loss,
            evaluate=lambda *pair: {"held_out_r": mean_correlation(*pair)},
        )

    def _settings(self, n_images: int, options: dict[str, Any], seed: int) -> TrainingSettings:
        preset, n_epochs, batch = self._preset(), options["n_epochs"], options["batch_size"]
        length: dict[str, Any] = {"n_epochs": n_epochs}
        if not preset.as_published:
            n_steps = max(LEAST_STEPS, n_epochs * n_images // batch)
            length = {"n_steps": n_steps, "report_every": max(1, n_steps // N_EVALUATIONS)}
        return TrainingSettings(
            **length,
            **preset.settings,
            batch_size=batch,
            learning_rate=options["learning_rate"],
            weight_decay=options["weight_decay"],
            precision=options["precision"],
            random_state=seed,
            monitor="held_out_r",
        )

    # ---------------------------------------------------------------- parameters

    def _preset(self) -> Preset:
        return self.presets[self.sizes if isinstance(self.sizes, str) else "default"]

    def _options(self) -> dict[str, Any]:
        """All parameters, with the preset's own, and a seed, where they are None."""
        preset = self._preset()
        own = dict(preset.training)
        if self.random_state is None:
            own["random_state"] = int(np.random.default_rng().integers(2**31))
        options = self.get_params(deep=False)
        options = {k: own.get(k) if v is None else v for k, v in options.items()}
        given = {} if isinstance(self.sizes, str) else self.sizes
        return options | {"sizes": {**preset.sizes, **given}, "resume": self._resume}

    def _check_parameters(self, resume: bool) -> None:
        """Raise ValueError for what training would only come upon after minutes."""
        if not isinstance(self.sizes, Mapping) and self.sizes not in self.presets:
            raise ValueError(
                f"sizes={self.sizes!r} must be one of {list(self.presets)}, or a dict of sizes"
            )
        for name, smallest in {**AT_LEAST, **self.at_least}.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise ValueError(f"{name}={value!r} must be at least {smallest}")
        rate, seed = self.learning_rate, self.random_state
        if rate is not None and not rate > 0:
            raise ValueError(f"learning_rate={rate!r} must be more than 0")
        if not (seed is None or isinstance(seed, numbers.Integral)):
            raise ValueError(f"random_state={seed!r} must be an int or None")
        if resume and (self.checkpoint_dir is None or seed is None):
            raise ValueError(
                "resume=True needs checkpoint_dir, and a random_state that is not None"
            )


def mean_correlation(predictions: Tensor, targets: Tensor) -> float:
    """Mean over voxels of r across images; NaN if it is undefined for all of them.

    Parameters
    ----------
    predictions, targets : tensor, shape (n_images, n_voxels)
        A target that is NaN leaves that image out for that voxel.
    """
    r = correlation(predictions.float().cpu().numpy(), targets.cpu().numpy())
    return float(np.nanmean(r)) if np.isfinite(r).any() else float("nan")
