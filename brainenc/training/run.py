"""TrainingRun: device, precision, seed and other settings shared by the trainings of a fit."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brainenc.training.batches import Examples
from brainenc.training.learner import Loss
from brainenc.training.loop import TrainingResult, train
from brainenc.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Settings shared by all trainings of one fit.

    Attributes
    ----------
    batch_size, learning_rate, weight_decay, precision, random_state
        As for `TrainingSettings`.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    checkpoint_dir : path, optional
        Each training writes its checkpoints to its own folder in it.
    resume : bool
        Continue from these checkpoints.
    verbose : bool
        Show progress bars.

    Examples
    --------
    >>> run = TrainingRun(batch_size=16, learning_rate=1e-3, weight_decay=0.05)
    >>> run.settings(n_epochs=2, weight_decay=0.0).batch_size
    16
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    device: str = "auto"
    precision: str = "auto"
    random_state: int = 0
    checkpoint_dir: str | os.PathLike | None = None
    resume: bool = False
    verbose: bool = False

    def settings(self, **more: Any) -> TrainingSettings:
        """Settings of one training: those of the run, with `more` added or replaced."""
        of_run = {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "precision": self.precision,
            "random_state": self.random_state,
        }
        return TrainingSettings(**{**of_run, **more})

    def seeded(self, k: int) -> "TrainingRun":
        """The run with the k-th seed after its own."""
        return replace(self, random_state=self.random_state + k)

    def train(
        self,
        net: Any,
        loss: Loss,
        examples: Examples,
        settings: TrainingSettings,
        *,
        name: str,
        identity: Mapping[str, Any] | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        stop: Callable[[Mapping[str, float]], bool] | None = None,
        parameters: Iterable[Any] | None = None,
    ) -> TrainingResult:
        """Train one network, as `brainenc.training.train` does.

        Parameters
        ----------
        net : module with `sizes`
        loss, examples, settings, evaluate, stop, parameters
            As for `train`.
        name : str
            Name in the progress bar and of the folder of checkpoints.
        identity : dict of JSON-like values, optional
            Values, besides the sizes of the net, that a checkpoint must match to be resumed.

        Returns
        -------
        TrainingResult
        """
        folder = self.checkpoint_dir
        return train(
            net,
            loss,
            examples,
            settings,
            evaluate=evaluate,
            stop=stop,
            parameters=parameters,
            device=self.device,
            checkpoint_dir=None if folder is None else Path(folder) / name,
            resume=self.resume,
            identity={**net.sizes, **(identity or {})},
            verbose=self.verbose,
            desc=name,
        )
