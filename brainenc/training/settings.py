"""TrainingSettings: settings of a training, apart from data, network and machine."""

from dataclasses import asdict, dataclass, field
from typing import Any

from brainenc.training.schedules import Constant, Schedule

PRECISIONS = ("auto", "32", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of `train`; checkpoints with other settings are not resumed.

    Parameters
    ----------
    n_epochs, n_steps : int
        Length of the training; give one of the two.
    batch_size : int
        Examples per step, over all processes. An epoch consists of all full batches, in a new order
        each time; with fewer examples than this, a batch is all of them.
    learning_rate : float
    optimizer : {"adamw", "adam"}
        "adam" adds the weight decay to the gradient (L2), "adamw" subtracts it from the weights.
    weight_decay : float
    adam_betas : (float, float)
    schedule : Schedule
    warmup_steps : int
        The learning rate is multiplied with (step + 1) / `warmup_steps` until that is 1.
    clip_norm : float, optional
        Largest norm of the gradient of all parameters together.
    ema_decay : float, optional
        Keep a moving average of the weights, ema ← decay · ema + (1 − decay) · weights after each
        step, starting from the initial weights. The moving average is evaluated and kept.
    report_every : int, optional
        Steps between rows of the history, evaluations and decisions to stop; None: one epoch.
    monitor : str, optional
        Evaluation metric whose best weights are kept. The weights before training count too.
    mode : {"max", "min"}
        Whether `monitor` is better when large or when small.
    patience : int, optional
        Stop after this number of consecutive evaluations without improvement.
    precision : {"auto", "32", "bf16"}
        "bf16" computes under autocast, with weights in float32; "auto" is bf16 on a GPU that
        supports it.
    random_state : int
        Seed of the order of the examples and of the noise of each step.

    Raises
    ------
    ValueError : a setting is out of range, or two settings are inconsistent.

    Examples
    --------
    >>> settings = TrainingSettings(n_epochs=5, learning_rate=0.01)
    >>> settings.batch_size, settings.optimizer
    (32, 'adamw')
    """

    n_epochs: int | None = None
    n_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-4
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = field(default_factory=Constant)
    warmup_steps: int = 0
    clip_norm: float | None = None
    ema_decay: float | None = None
    report_every: int | None = None
    monitor: str | None = None
    mode: str = "max"
    patience: int | None = None
    precision: str = "auto"
    random_state: int = 0

    def __post_init__(self) -> None:
        if (self.n_epochs is None) == (self.n_steps is None):
            raise ValueError(
                f"n_epochs={self.n_epochs} and n_steps={self.n_steps}: give one of the two"
            )
        for name in ("n_epochs", "n_steps", "batch_size", "report_every", "patience"):
            self._require(name, lambda value: value >= 1, "1 or more")
        for name in ("learning_rate", "clip_norm"):
            self._require(name, lambda value: value > 0, "more than 0")
        for name in ("weight_decay", "warmup_steps", "random_state"):
            self._require(name, lambda value: value >= 0, "0 or more")
        self._require("ema_decay", lambda value: 0 <= value < 1, "at least 0 and less than 1")
        for name, known in _CHOICES.items():
            self._require(name, known.__contains__, "one of " + ", ".join(map(repr, known)))
        if self.patience is not None and self.monitor is None:
            raise ValueError(
                f"patience={self.patience} needs monitor=<name of an evaluated metric>"
            )

    def _require(self, name: str, holds: Any, wanted: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise ValueError(f"{name}={value!r} must be {wanted}")

    def description(self) -> dict[str, Any]:
        """The settings as JSON-like values."""
        schedule = {"name": type(self.schedule).__name__, **asdict(self.schedule)}
        return {**asdict(self), "schedule": schedule}


_CHOICES = {
    "optimizer": ("adamw", "adam"),
    "mode": ("max", "min"),
    "precision": PRECISIONS,
}
