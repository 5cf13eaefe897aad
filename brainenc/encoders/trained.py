"""Base classes of encoders that train networks: parameters, checks, resuming, few images."""

import numbers
import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from brainenc.encoders.base import BaseEncoder, HeldOut
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.streamed import ScaledFeatures
from brainenc.training import TrainingRun

#: With fewer images the held-out error is too noisy for early stopping or blending; on the 16
#: training images of Miyawaki et al. (2008) blending with a network lowered ridge's score.
MIN_IMAGES = 100


class TrainedEncoder(BaseEncoder):
    """Base class of encoders that train networks.

    A subclass passes the parameters below to ``__init__`` and provides

    - ``_train(features, betas, run, options)``, which trains with a `TrainingRun` and returns the
      value of `_fit`; `options` are all parameters, with the defaults in place of None;
    - ``_predict(features)``;
    - ``_defaults(features, betas)``, the values of parameters that are None.

    A subclass with the parameter `min_images` fits ridge (`linear_`) to fewer images, with a
    warning.

    Parameters
    ----------
    batch_size, learning_rate, weight_decay : optional
        Training parameters; None: the encoder's defaults.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
        Device of training and prediction.
    precision : "auto", "32", "bf16"
        Precision of training. "auto" is bf16 on a GPU that supports it. Results are float32.
    checkpoint_dir : path, optional
        Folder for checkpoints of the training; ``fit(..., resume=True)`` continues from them.
    random_state : int or None
        Seed; None gives another encoder each time.
    verbose : bool
        Show progress bars.
    """

    saved_parts: tuple[type, ...] = (
        *BaseEncoder.saved_parts,
        RidgeRegression,
        ScaledFeatures,
    )
    #: Smallest values of the subclass's own parameters; an int is of a parameter that is one.
    at_least: ClassVar[Mapping[str, float]] = {}
    #: Parameters in [0, 1).
    below_one: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        features: Any = "auto",
        *,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        self.features = features
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.device = device
        self.precision = precision
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.verbose = verbose

    # ---------------------------------------------------------------- what a subclass provides

    @abstractmethod
    def _train(
        self, features: np.ndarray, betas: np.ndarray, run: TrainingRun, options: dict[str, Any]
    ) -> np.ndarray | HeldOut:
        """Train the networks; return the value of `_fit`."""

    @abstractmethod
    def _defaults(self, features: np.ndarray, betas: np.ndarray) -> dict[str, Any]:
        """Values that replace None in the parameters, for these data."""

    def _becomes_ridge(self, n_images: int) -> bool:
        """Whether ridge replaces the network, because there are too few images."""
        return n_images < getattr(self, "min_images", 0)

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any, *, resume: bool = False) -> Any:
        """Fit to images and betas.

        Parameters
        ----------
        X, y : as for `BaseEncoder.fit`
        resume : bool
            Continue from the checkpoints in `checkpoint_dir`, if there are any.

        Returns
        -------
        self

        Warns
        -----
        UserWarning : fewer images than `min_images`; ridge is fitted.

        Raises
        ------
        ValueError : as `BaseEncoder.fit`; a parameter is out of range; `resume` without
            `checkpoint_dir` or `random_state`.
        TrainingError : the loss became NaN or infinite; names the step and the last checkpoint.
        FileExistsError : `checkpoint_dir` has checkpoints, and `resume` is False.
        """
        self._check_resume(resume)
        self._fit_all(X, y, resume=resume)
        return self

    def _check_resume(self, resume: bool) -> None:
        if resume and (self.checkpoint_dir is None or self.random_state is None):
            raise ValueError(
                "resume=True needs checkpoint_dir, and a random_state that is not None"
            )

    def _fit(
        self, features: np.ndarray, betas: np.ndarray, *, resume: bool = False, **start: Any
    ) -> np.ndarray | HeldOut:
        options = self._options(features, betas)
        shared = set(TrainingRun.__dataclass_fields__) - {"resume"}
        run = TrainingRun(resume=resume, **{name: options[name] for name in shared})
        if self._becomes_ridge(len(features)) and not start:  # a trunk needs fewer images
            warnings.warn(
                f"{len(features)} images, fewer than min_images={options['min_images']}: "
                f"{type(self).__name__} is fitted as ridge, without a network",
                stacklevel=4,
            )
        return self._train(features, betas, run, options, **start)

    def _options(self, features: np.ndarray, betas: np.ndarray) -> dict[str, Any]:
        """All parameters, with the defaults in place of None, and a seed."""
        defaults = self._defaults(features, betas)
        defaults["random_state"] = int(np.random.default_rng().integers(2**31))
        options = self.get_params(deep=False)
        return {k: defaults.get(k) if v is None else v for k, v in options.items()}

    def _check_parameters(self) -> None:
        """Raise ValueError for invalid parameters before training starts."""
        at_least = {"batch_size": 1, "weight_decay": 0.0, "min_images": 2, **self.at_least}
        parameters = self.get_params(deep=False)
        for name, smallest in at_least.items():
            if parameters.get(name) is not None:
                check_number(name, parameters[name], smallest)
        for name in self.below_one:
            value = parameters[name]
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}={value!r} must be at least 0 and less than 1")
        rate, seed = self.learning_rate, self.random_state
        if rate is not None and not rate > 0:
            raise ValueError(f"learning_rate={rate!r} must be more than 0")
        if not (seed is None or isinstance(seed, numbers.Integral)):
            raise ValueError(f"random_state={seed!r} must be an int or None")


def check_number(name: str, value: Any, smallest: float) -> None:
    """Check that a parameter is a number, and no less than the smallest; an int if that is one.

    Raises
    ------
    TypeError : no number, or no whole one.
    ValueError : too small.
    """
    kind, wanted = (
        (numbers.Integral, "an int") if isinstance(smallest, int) else (numbers.Real, "a number")
    )
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r} must be {wanted}")
    if not float(value) >= smallest:
        raise ValueError(f"{name}={value!r} must be at least {smallest:g}")


class Published:
    """An encoder that is the model of a paper: its parameter `sizes` may be "published"."""

    @classmethod
    def published(cls, **overrides: Any) -> Any:
        """The published configuration.

        Parameters
        ----------
        **overrides
            Parameters of the encoder that replace the published ones.

        Returns
        -------
        Encoder, unfitted
        """
        return cls(**{"sizes": "published", **overrides})
