"""What the trainings of one fit have in common: where, how precisely, from which seed."""

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
    """How the networks of one fit are trained.

    Attributes
    ----------
    batch_size, learning_rate, weight_decay, precision, random_state
        As for `TrainingSettings`.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    checkpoint_dir : path, optional
        Each training writes its checkpoints to a folder of its own in it.
    resume : bool
        Go on from the checkpoints there.
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
        """Settings of one training: those of the run, and what else it needs or overrides."""
        of_run = {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "precision": self.precision,
            "random_state": self.random_state,
        }
        return TrainingSettings(**{**of_run, **more})

    def seeded(self, k: int) -> "TrainingRun":
        """The run with the k-th of the seeds that follow its own."""
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
            Of the progress bar, and of the folder of checkpoints.
        identity : dict of JSON-like values, optional
            What else, beside the sizes of the net, a checkpoint must agree in to be resumed.

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
