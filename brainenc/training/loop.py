"""The training loop: examples → batches → steps → rows of the history → selected weights."""

import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from brainenc.process_state import keeps_interrupted_training, state_lock
from brainenc.progress import progress
from brainenc.reading import reading
from brainenc.training.batches import Batch, Examples, Order, prefetched
from brainenc.training.checkpoints import Checkpoints
from brainenc.training.learner import Learner, Loss, Weights, seed_everything, start_fabric
from brainenc.training.settings import TrainingSettings


class TrainingError(RuntimeError):
    """The loss or its gradient is NaN or infinite."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training, besides the weights in the module.

    Attributes
    ----------
    history : DataFrame
        One row per `report_every` steps: step, epoch, learning_rate, seconds since the start,
        the mean of each loss and of grad_norm (before clipping) over the steps since the last
        row, and the evaluated metrics. With `monitor` the first row is of step 0, with NaN losses.
    n_steps : int
        Number of steps done.
    stopped : {"end", "patience", "stop", "interrupted"}
        Reason of the end.
    best_step : int or None
        Step of the best evaluation; None without `monitor`.
    kept : {"best", "ema", "last"}
        Kind of weights that the module has now.
    last, ema : dict of tensors
        Weights after the last step, and their moving average (None without `ema_decay`), on the
        CPU.
    """

    history: pd.DataFrame
    n_steps: int
    stopped: str
    best_step: int | None
    kept: str
    last: Weights
    ema: Weights | None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the training."""
        return self.stopped == "interrupted"


def train(
    module: nn.Module,
    loss: Loss,
    examples: Examples,
    settings: TrainingSettings,
    *,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    stop: Callable[[Mapping[str, float]], bool] | None = None,
    parameters: Iterable[Any] | None = None,
    ema: Weights | None = None,
    device: str | torch.device = "auto",
    checkpoint_dir: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    verbose: bool = False,
    desc: str = "training",
) -> TrainingResult:
    """Train a module; on return it is in evaluation mode, on its device, with selected weights.

    The selected weights are the best ones by `settings.monitor` if it is set, else the moving
    average if there is one, else the last ones.

    Random numbers in step s depend only on (`random_state`, s): on a CPU, a training that was
    killed and resumed gives the same bits as an uninterrupted one. Under ``torchrun`` each process
    computes its slice of every batch, and the result equals that of one process up to rounding,
    unless the module draws its own random numbers per example (dropout). The global state of torch,
    NumPy and the environment is restored. It changes meanwhile, so trainings in several threads of
    a process run one after the other.

    Parameters
    ----------
    module : torch.nn.Module
    loss : function (module, batch) -> dict of scalar tensors
        ``"loss"`` is minimised, a mean over the examples of the `Batch`; the others are reported.
        Noise must come from the batch, so that it does not depend on the number of processes.
    examples : Examples
    settings : TrainingSettings
    evaluate : function (module) -> dict of float, optional
        Metrics every `report_every` steps, in evaluation mode and without gradients, with the
        moving average of the weights if there is one; only in the first process. NaN is never
        better.
    stop : function (row of the history) -> bool, optional
        Called after each row; True ends the training.
    parameters : iterable of parameters, or of dicts, optional
        Parameters to train, as for torch optimisers: dicts may have their own ``"lr"`` or
        ``"weight_decay"``. Others are frozen. None: all that require a gradient.
    ema : dict of tensors, optional
        Initial moving average; by default the weights of `module`.
    device : {"auto", "cpu", "cuda", "cuda:1", "mps"} or torch.device
        Under ``torchrun``, "auto", "cpu" or "cuda": each process uses its own.
    checkpoint_dir : path, optional
        Folder for the checkpoints of only this training.
    checkpoint_every : int, optional
        Steps between checkpoints; None: one with each row. The end always has one.
    resume : bool
        Continue from the newest checkpoint in `checkpoint_dir`, or begin if there is none.
    identity : dict of JSON-like values, optional
        Further values that a checkpoint must match to be resumed, such as weights of the losses.
    verbose : bool
        Show a progress bar with the losses.
    desc : str
        Name of the training in the progress bar.

    Returns
    -------
    TrainingResult

    Warns
    -----
    RuntimeWarning : Ctrl-C ended the training early, or a damaged checkpoint was skipped.

    Raises
    ------
    TrainingError : the loss or gradient of a step is not finite. The module keeps the weights
        from before that step.
    FileExistsError : not `resume`, and there are checkpoints in `checkpoint_dir`.
    BlockingIOError : another process trains in `checkpoint_dir`; the message says which.
    ValueError : a checkpoint is of another training, or none is readable; or arguments are
        inconsistent.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from brainenc.training import Examples, TrainingSettings, train
    >>> features = np.random.default_rng(0).standard_normal((64, 4)).astype("float32")
    >>> examples = Examples(features=(features, np.arange(64)), betas=(features, np.arange(64)))
    >>> def loss(module, batch):
    ...     return {"loss": (module(batch["features"]) - batch["betas"]).square().mean()}
    >>> settings = TrainingSettings(n_epochs=20, batch_size=16, learning_rate=0.05)
    >>> result = train(torch.nn.Linear(4, 4), loss, examples, settings, device="cpu")
    >>> result.n_steps, result.stopped
    (80, 'end')
    >>> bool(result.history["loss"].iloc[-1] < result.history["loss"].iloc[0])
    True
    """
    _check_arguments(settings, evaluate, ema, checkpoint_dir, checkpoint_every, resume)
    with state_lock(), ExitStack() as stack:
        stack.enter_context(_globals_kept())
        fabric = start_fabric(device, settings.precision)
        gpus = [fabric.device] if fabric.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(_module_kept(module, fabric.device))
        learner = Learner(fabric, module, loss, settings, parameters, ema)
        run = _Run(learner, examples, evaluate, stop)
        if checkpoint_dir is not None:
            mine = {
                "settings": settings.description(),
                "data": examples.description(),
                "network": learner.description(),
                "identity": dict(identity or {}),
            }
            checkpoints = Checkpoints(checkpoint_dir, mine)
            if fabric.is_global_zero:  # which writes them
                stack.enter_context(checkpoints.held())
            run.open_checkpoints(checkpoints, checkpoint_every, resume)
        try:
            run.fit_loop(verbose and fabric.is_global_zero, desc)
        except KeyboardInterrupt:
            if not keeps_interrupted_training():
                raise
            run.stopped = "interrupted"
        return run.finish()


def _check_arguments(
    settings: TrainingSettings,
    evaluate: Any,
    ema: Any,
    checkpoint_dir: Any,
    checkpoint_every: int | None,
    resume: bool,
) -> None:
    if settings.monitor is not None and evaluate is None:
        raise ValueError(f"monitor={settings.monitor!r} needs evaluate, a function that gives it")
    if ema is not None and settings.ema_decay is None:
        raise ValueError("ema is where the moving average starts, but ema_decay is None")
    if checkpoint_dir is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every need a checkpoint_dir")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every={checkpoint_every} must be 1 or more")


@contextmanager
def _globals_kept() -> Iterator[None]:
    """Restore the environment, number of threads and current GPU on exit."""
    environment, n_threads = dict(os.environ), torch.get_num_threads()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        # Set, it becomes that of threads that start later, too.
        if torch.get_num_threads() != n_threads:
            torch.set_num_threads(n_threads)
        if gpu is not None:
            torch.cuda.set_device(gpu)


@contextmanager
def _module_kept(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Module in training mode on a device; on exit in evaluation mode, on its device, unfrozen."""
    home = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    trainable = {parameter: parameter.requires_grad for parameter in module.parameters()}
    try:
        module.to(device).train()
        yield
    finally:
        module.to(home).eval()
        for parameter, was_trainable in trainable.items():
            parameter.requires_grad_(was_trainable)
            parameter.grad = None


class _Run:
    """State of a training: the learner, its position, and results so far."""

    def __init__(self, learner: Learner, examples: Examples, evaluate: Any, stop: Any):
        self.learner, self.examples = learner, examples
        self.fabric, self.settings = learner.fabric, learner.settings
        self.evaluate, self.stop = evaluate, stop
        self.order = Order(
            len(examples),
            self.settings.batch_size,
            self.settings.random_state,
            self.fabric.global_rank,
            self.fabric.world_size,
        )
        per_epoch = self.order.steps_per_epoch
        self.n_steps = self.settings.n_steps or (self.settings.n_epochs or 0) * per_epoch
        self.report_every = self.settings.report_every or per_epoch
        self.checkpoints: Checkpoints | None = None
        self.checkpoint_every = self.report_every
        self.step, self.stopped = 0, ""
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}  # of the losses of the steps since the last row
        self.n_summed = 0
        self.best: dict[str, Any] | None = None  # value, step, weights
        self.seconds_before, self.started = 0.0, time.perf_counter()

    # ------------------------------------------------------------ the loop

    def fit_loop(self, verbose: bool, desc: str) -> None:
        if self.step == 0 and self.settings.monitor is not None:
            self.close_row()
        bar = progress(desc=desc, total=self.n_steps, unit="step", verbose=verbose)
        with closing(self.batches()) as batches, bar:
            bar.update(self.step)
            for batch in batches:
                self.train_step(batch)
                means = {name: total / self.n_summed for name, total in self.sums.items()}
                bar.set_postfix({n: f"{mean:.4g}" for n, mean in means.items()}, refresh=False)
                bar.update()
                if self.step % self.report_every == 0 or self.step == self.n_steps:
                    self.close_row()
                if self.step == self.n_steps:
                    self.stopped = self.stopped or "end"
                if self.stopped or self.step % self.checkpoint_every == 0:
                    self.write_checkpoint()
                if self.stopped:
                    break

    def batches(self) -> Generator[Batch]:
        steps = range(self.n_steps if self.stopped else self.step, self.n_steps)
        loaded = prefetched(lambda step: (step, self.examples[self.order.rows(step)]), steps)
        with closing(loaded):
            for step, arrays in loaded:
                yield self.learner.batch(arrays, step, self.n_steps, self.order.epoch(step))

    def train_step(self, batch: Batch) -> None:
        losses = self.learner.losses_and_gradient(batch)
        wrong = [name for name, value in losses.items() if not math.isfinite(value)]
        if "loss" in wrong or "grad_norm" in wrong:
            raise TrainingError(self.explain(wrong))
        self.learner.update()
        self.step += 1
        self.n_summed += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def explain(self, wrong: list[str]) -> str:
        last = self.checkpoints.newest() if self.checkpoints else None
        return (
            f"{', '.join(wrong)} not finite in step {self.step + 1} of {self.n_steps}; the module "
            f"keeps the weights of step {self.step}. The last good checkpoint is "
            f"{last or 'none: there was no checkpoint_dir, or no time to write one'}. Look for "
            "NaN in the data, or try a lower learning_rate, clip_norm, or precision='32'."
        )

    # ------------------------------------------------------------ rows and what follows from them

    def close_row(self) -> None:
        """Add a row to the history; keep the weights if they are best; decide whether to stop."""
        row: dict[str, float] = {
            "step": self.step,
            "epoch": self.step / self.order.steps_per_epoch,
            "learning_rate": self.learner.learning_rate,
            "seconds": self.seconds(),
            **{name: total / self.n_summed for name, total in self.sums.items()},
        }
        # The first process decides for all: if only one stopped, because a metric differs in the
        # last bit or by the clock, the others would wait for it.
        row = self.fabric.broadcast(self.evaluated(row) if self.fabric.is_global_zero else row)
        self.rows.append(row)
        self.sums, self.n_summed = {}, 0
        if self.settings.monitor is not None:
            self.keep_best(row)
        if self.step and self.stop is not None and self.fabric.broadcast(bool(self.stop(row))):
            self.stopped = "stop"

    def evaluated(self, row: dict[str, float]) -> dict[str, float]:
        if self.evaluate is None:
            return row
        seed_everything(self.fabric.device, self.settings.random_state, "evaluation", self.step)
        with self.learner.evaluating() as module:
            metrics = {name: float(value) for name, value in self.evaluate(module).items()}
        if taken := sorted(row.keys() & metrics.keys()):
            raise ValueError(f"evaluate gives {taken}, names that losses have: use other names")
        if self.settings.monitor is not None and self.settings.monitor not in metrics:
            raise ValueError(
                f"monitor={self.settings.monitor!r} is not among what evaluate gives: "
                f"{sorted(metrics)}"
            )
        return row | metrics

    def keep_best(self, row: dict[str, float]) -> None:
        value = row[str(self.settings.monitor)]
        sign = 1 if self.settings.mode == "max" else -1
        if (
            self.best is None
            or math.isnan(self.best["value"])
            or (sign * value > sign * self.best["value"])
        ):
            weights = self.learner.weights_to_evaluate()
            self.best = {"value": value, "step": self.step, "weights": weights}
        since = sum(earlier["step"] > self.best["step"] for earlier in self.rows)
        if self.settings.patience is not None and since >= self.settings.patience:
            self.stopped = "patience"

    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def finish(self) -> TrainingResult:
        last, ema = self.learner.weights(), self.learner.ema
        kept = "best" if self.best else "ema" if ema else "last"
        self.learner.module.load_state_dict(
            self.best["weights"] if self.best else ema if ema else last
        )
        if self.stopped == "interrupted":
            which = f"best, of step {self.best['step']}" if self.best else kept
            warnings.warn(
                f"training was interrupted in step {self.step + 1} of {self.n_steps}; the module "
                f"has the weights that are {which}",
                RuntimeWarning,
                stacklevel=3,
            )
        return TrainingResult(
            history=pd.DataFrame(self.rows, columns=None if self.rows else _COLUMNS),
            n_steps=self.step,
            stopped=self.stopped,
            best_step=self.best["step"] if self.best else None,
            kept=kept,
            last=last,
            ema={name: tensor.cpu() for name, tensor in ema.items()} if ema else None,
        )

    # ------------------------------------------------------------ checkpoints

    def open_checkpoints(self, checkpoints: Checkpoints, every: int | None, resume: bool) -> None:
        self.checkpoints, self.checkpoint_every = checkpoints, every or self.report_every
        if not resume:
            checkpoints.refuse_any()
        elif (state := checkpoints.read()) is not None:
            with reading(checkpoints.resumed_from, "a checkpoint of this training"):
                self.learner.load_state(state["learner"])
                for name in (*_STATE, "seconds_before"):
                    setattr(self, name, state["run"][name])
        self.fabric.barrier()  # no process writes before all have read

    def write_checkpoint(self) -> None:
        if self.checkpoints is None:
            return
        if self.fabric.is_global_zero:
            run = {name: getattr(self, name) for name in _STATE} | {
                "seconds_before": self.seconds()
            }
            self.checkpoints.write(self.step, {"learner": self.learner.state(), "run": run})
        self.fabric.barrier()


_COLUMNS = ["step", "epoch", "learning_rate", "seconds"]
_STATE = ("step", "stopped", "rows", "sums", "n_summed", "best")
