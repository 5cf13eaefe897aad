"""TrainedDecoder: parameters and settings that decoders with networks share."""

import numbers
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import clone

from brainenc.decoders.base import BaseDecoder
from brainenc.decoders.held_images import HeldImages
from brainenc.encoders.network import LEAST_STEPS, N_EVALUATIONS, Preset
from brainenc.encoders.trained import check_number
from brainenc.training import TrainingRun, TrainingSettings


class TrainedDecoder(BaseDecoder):
    """Base class of decoders that train a network.

    Parameters
    ----------
    targets : "auto", None or transformer
        As for `brainenc.RidgeDecoder`.
    sizes : "auto", "published" or dict
        Network and training: a key of `presets`. A dict replaces arguments of the network in
        "auto".
    n_epochs, batch_size, learning_rate, weight_decay : optional
        Training parameters; None: those of the preset.
    n_steps : int, optional
        Steps of a training, whatever the number of examples; `n_epochs` is then not used.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    precision : "auto", "32", "bf16"
        As for `brainenc.training.TrainingSettings`.
    random_state : int or None
        Seed; None gives another decoder each time.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    history_ : DataFrame
        One row per evaluation; empty if no network was trained.
    """

    presets: ClassVar[Mapping[str, Preset]]
    #: Smallest values of parameters; an int is of a parameter that is one.
    at_least: ClassVar[Mapping[str, float]] = {}

    history_: pd.DataFrame

    def __init__(
        self,
        targets: Any = "auto",
        *,
        sizes: Any = "auto",
        n_epochs: int | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        self.targets = targets
        self.sizes = sizes
        self.n_epochs = n_epochs
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def published(cls, **overrides: Any) -> Any:
        """The published configuration.

        Parameters
        ----------
        **overrides
            Parameters of the decoder that replace the published ones.

        Returns
        -------
        Decoder, unfitted
        """
        return cls(**{"sizes": "published", **overrides})

    @abstractmethod
    def _make_net(self, *shape: Any, **sizes: Any) -> Any:
        """Untrained network."""

    def _preset(self) -> Preset:
        return self.presets[self.sizes if isinstance(self.sizes, str) else "auto"]

    def _net_sizes(self) -> dict[str, Any]:
        given = {} if isinstance(self.sizes, str) else self.sizes
        return {**self._preset().sizes, **given}

    def _run(self) -> tuple[TrainingRun, int]:
        """Settings of the training, and its number of epochs."""
        options = dict(self._preset().training)
        for name in options:
            if (value := getattr(self, name)) is not None:
                options[name] = value
        n_epochs = options.pop("n_epochs")
        seed = self.random_state
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        run = TrainingRun(
            **options,
            device=self.device,
            precision=self.precision,
            random_state=int(seed),
            verbose=self.verbose,
        )
        return run, n_epochs

    def _settings(
        self, run: TrainingRun, n_epochs: int, n_examples: int, **more: Any
    ) -> TrainingSettings:
        preset = self._preset()
        length: dict[str, Any] = {"n_epochs": n_epochs}
        if self.n_steps is not None or not preset.as_published:
            n_steps = self.steps_for(n_examples)
            length = {"n_steps": n_steps, "report_every": max(1, n_steps // N_EVALUATIONS)}
        return run.settings(**{**length, **preset.settings, **more})

    def steps_for(self, n_examples: int) -> int:
        """Steps of a training on so many examples: `n_steps`, if it is given."""
        if self.n_steps is not None:
            return self.n_steps
        run, n_epochs = self._run()
        if self._preset().as_published:
            return n_epochs * max(1, n_examples // run.batch_size)
        return max(LEAST_STEPS, n_epochs * n_examples // run.batch_size)

    def on_equal_terms(self, fewest: int, most: int) -> Any:
        """Unfitted copy that is trained alike on any number of examples in a range.

        Its number of steps is that for the most examples, its batches are of at most the fewest.

        Parameters
        ----------
        fewest, most : int
            Numbers of examples.

        Returns
        -------
        Decoder, unfitted
        """
        run, _ = self._run()
        new = clone(self).set_params(
            n_steps=self.steps_for(most), batch_size=min(run.batch_size, fewest)
        )
        if "min_images" in new.get_params():  # trained with the fewest too
            new.set_params(min_images=2)
        return new

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any, *, validation: Any = None) -> Any:
        """Fit to betas and the targets of their images.

        Parameters
        ----------
        X, y : as for `BaseDecoder.fit`
        validation : pair (betas, targets), optional
            Other images, on whose averages the weights are chosen: no training image is held out.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError : as `BaseDecoder.fit`, also for the validation images.
        """
        self._fit_all(X, y, validation=validation)
        return self

    def _fit_checked(self, betas: np.ndarray, y: Any, validation: Any = None) -> np.ndarray:
        scaled, targets = self._scaled(betas, y)
        return self._fit(scaled, targets, HeldImages.of(self, validation))

    @abstractmethod
    def _fit(
        self, betas: np.ndarray, targets: np.ndarray, held: HeldImages | None = None
    ) -> np.ndarray:
        """As `BaseDecoder._fit`; with `held`, no training image is held out."""

    def _check_parameters(self) -> None:
        if not isinstance(self.sizes, Mapping) and self.sizes not in self.presets:
            raise ValueError(
                f"sizes={self.sizes!r} must be one of {list(self.presets)}, or a dict of sizes"
            )
        least = {"n_epochs": 1, "n_steps": 1, "batch_size": 1, "weight_decay": 0.0, **self.at_least}
        for name, smallest in least.items():
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), smallest)
        rate, seed = self.learning_rate, self.random_state
        if rate is not None and not rate > 0:
            raise ValueError(f"learning_rate={rate!r} must be more than 0")
        if not (seed is None or isinstance(seed, numbers.Integral)):
            raise ValueError(f"random_state={seed!r} must be an int or None")
