"""Learner: module, optimiser and moving average on a device, one step at a time."""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from brainenc.devices import full_precision, resolve_device
from brainenc.storage import fingerprint
from brainenc.training.batches import Batch, derived_seed
from brainenc.training.precision import in_bf16
from brainenc.training.settings import TrainingSettings

Weights = Mapping[str, torch.Tensor]
Loss = Callable[[nn.Module, Batch], Mapping[str, torch.Tensor]]


def start_fabric(device: str | torch.device, precision: str) -> Any:
    """Fabric for one device, or for this process's device under ``torchrun``.

    Raises
    ------
    ValueError : no such device, or one with a number under ``torchrun``.
    """
    # Imported here, since Fabric takes seconds to import and sets an environment variable.
    from lightning_fabric import Fabric

    resolved = resolve_device(device)
    spread = _torchrun(resolved) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
    # On a GPU Fabric queries torch's precision of products, which may raise an error.
    with _no_chatter(), full_precision():
        fabric = Fabric(
            accelerator=resolved.type,
            precision="bf16-mixed" if in_bf16(resolved, precision) else "32-true",
            **(spread or _one_device(resolved)),
        )
        fabric.launch()
    return fabric


def _one_device(device: torch.device) -> dict[str, Any]:
    from lightning_fabric.plugins.environments import LightningEnvironment

    # Explicit, so that Fabric does not read the variables of a cluster.
    plugins = [LightningEnvironment()]
    if device.type != "cuda":
        return {"devices": 1, "plugins": plugins}
    # Without a number the current GPU, as elsewhere with "cuda".
    index = torch.cuda.current_device() if device.index is None else device.index
    return {"devices": [index], "plugins": plugins}


def _torchrun(device: torch.device) -> dict[str, Any] | None:
    from lightning_fabric.plugins.environments import TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    if not TorchElasticEnvironment.detect():
        return None
    if device.index is not None:
        raise ValueError(f'device="{device}" under torchrun: use "auto", "cpu" or "cuda"')
    per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": per_node,
        "num_nodes": int(os.environ["WORLD_SIZE"]) // per_node,
        # A loss need not use every parameter, as with one process.
        "strategy": DDPStrategy(find_unused_parameters=True),
        "plugins": [TorchElasticEnvironment()],
    }


@contextmanager
def _no_chatter() -> Iterator[None]:
    """Suppress Fabric's messages about its settings."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def seed_everything(device: torch.device, random_state: int, purpose: str, *index: int) -> int:
    """Seed the global generators, which layers such as dropout use; return the seed."""
    seed = derived_seed(random_state, purpose, *index)
    torch.random.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    return seed


class Learner:
    """Module, optimiser and moving average of the weights; see `train` for the arguments."""

    def __init__(
        self,
        fabric: Any,
        module: nn.Module,
        loss: Loss,
        settings: TrainingSettings,
        parameters: Iterable[Any] | None,
        ema: Weights | None,
    ):
        self.fabric, self.module, self.settings = fabric, module, settings
        groups = _parameter_groups(module, parameters)
        _freeze_all_but(module, groups)
        self.optimizer = _optimizer(groups, settings, fabric.device)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.objective, self.stepper = fabric.setup(_Objective(module, loss), self.optimizer)
        self.generator = torch.Generator(fabric.device)
        self.ema: dict[str, torch.Tensor] | None = None
        if settings.ema_decay is not None:
            self.ema = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            _copy_into(self.ema, ema or {})
            self.average = get_ema_multi_avg_fn(settings.ema_decay)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first group in the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def batch(self, arrays: dict[str, np.ndarray], step: int, n_steps: int, epoch: int) -> Batch:
        """Arrays on the device, with the noise and the learning rate of that step."""
        rank, device = self.fabric.global_rank, self.fabric.device
        self._set_learning_rate(step, n_steps, epoch)
        seed_everything(device, self.settings.random_state, "layers", step, rank)
        self.generator.manual_seed(derived_seed(self.settings.random_state, "batch", step))
        return Batch(
            {name: torch.from_numpy(array).to(device) for name, array in arrays.items()},
            step=step,
            n_steps=n_steps,
            epoch=epoch,
            generator=self.generator,
            rank=rank,
            world_size=self.fabric.world_size,
            gather=_Gather.apply if self.fabric.world_size > 1 else None,
        )

    def _set_learning_rate(self, step: int, n_steps: int, epoch: int) -> None:
        schedule, warmup = self.settings.schedule, self.settings.warmup_steps
        factor = schedule.factor(step, n_steps, epoch) * min(1.0, (step + 1) / max(1, warmup))
        momentum = schedule.momentum(step, n_steps)
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
            if momentum is not None:
                group["betas"] = (momentum, group["betas"][1])

    def losses_and_gradient(self, batch: Batch) -> dict[str, float]:
        """Losses of the global batch and norm of the gradient, which is then clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.objective(batch)
        self.fabric.backward(losses["loss"])
        norm = self.fabric.clip_gradients(
            self.objective,
            self.stepper,
            max_norm=self.settings.clip_norm or math.inf,  # with ∞ the factor is exactly 1
            error_if_nonfinite=False,
        )
        named = {**losses, "grad_norm": norm}
        # One transfer from the device for all values.
        stacked = torch.stack([value.detach().float() for value in named.values()])
        return dict(zip(named, self.fabric.all_reduce(stacked).tolist(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """One step of the optimiser and of the moving average."""
        self.stepper.step()
        if self.ema is None:
            return
        now = self.module.state_dict()
        moving = [name for name, tensor in self.ema.items() if tensor.is_floating_point()]
        self.average([self.ema[name] for name in moving], [now[name] for name in moving], 0)
        _copy_into(self.ema, {name: now[name] for name in now.keys() - set(moving)})

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The module with the weights to evaluate, in evaluation mode and without gradients."""
        weights = self.weights() if self.ema is not None else None
        try:
            if self.ema is not None:
                self.module.load_state_dict(self.ema)
            self.module.eval()
            with torch.no_grad():
                yield self.module
        finally:
            if weights is not None:
                self.module.load_state_dict(weights)
            self.module.train()

    def weights(self) -> Weights:
        """Copy of the weights, on the CPU."""
        return _on_cpu(self.module.state_dict())

    def weights_to_evaluate(self) -> Weights:
        """Copy of the moving average if there is one, else of the weights; on the CPU."""
        return self.weights() if self.ema is None else _on_cpu(self.ema)

    def description(self) -> dict[str, Any]:
        """Network and trained parameters that a checkpoint must match."""
        shapes = [[name, list(value.shape)] for name, value in self.module.state_dict().items()]
        trained = [name for name, value in self.module.named_parameters() if value.requires_grad]
        rates = [[group["lr"], group["weight_decay"]] for group in self.optimizer.param_groups]
        return {
            "module": type(self.module).__name__,
            "n_weights": sum(value.numel() for value in self.module.state_dict().values()),
            "layers": fingerprint(shapes),
            "trained": fingerprint(trained, rates),
        }

    def state(self) -> dict[str, Any]:
        """State of the learner in a checkpoint."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            _copy_into(self.ema, state["ema"])


class _Gather(torch.autograd.Function):
    """Rows of all processes, in order; gradients of all processes return to the rows' process."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class _Objective(nn.Module):
    """Module and loss as one forward pass, so that DDP and autocast cover both."""

    def __init__(self, module: nn.Module, loss: Loss):
        super().__init__()
        self.module = module
        self.losses = partial(
            loss, module
        )  # not registered in torch: a loss may contain a frozen network

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        losses = self.losses(batch)
        if not isinstance(losses, Mapping) or "loss" not in losses:
            raise TypeError(f'loss returned {losses!r}, but must return a dict with the key "loss"')
        shapes = {name: tuple(torch.as_tensor(value).shape) for name, value in losses.items()}
        if any(shapes.values()):
            raise ValueError(
                f"loss returned tensors of shapes {shapes}, but they must be scalars, shape ()"
            )
        return {
            name: value if name == "loss" else torch.as_tensor(value, device=batch.device).detach()
            for name, value in losses.items()
        }


def _parameter_groups(module: nn.Module, parameters: Iterable[Any] | None) -> list[dict[str, Any]]:
    chosen = list(module.parameters() if parameters is None else parameters)
    if parameters is None:
        chosen = [parameter for parameter in chosen if parameter.requires_grad]
    if not chosen:
        raise ValueError(f"parameters: {type(module).__name__} has none to train")
    if not isinstance(chosen[0], dict):
        return [{"params": chosen}]
    return [{**group, "params": list(group["params"])} for group in chosen]


def _freeze_all_but(module: nn.Module, groups: list[dict[str, Any]]) -> None:
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    if strangers := trained - {id(parameter) for parameter in module.parameters()}:
        raise ValueError(
            f"{len(strangers)} of the parameters to train are not in this {type(module).__name__}"
        )
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def _optimizer(
    groups: list[dict[str, Any]], settings: TrainingSettings, device: torch.device
) -> torch.optim.Optimizer:
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    return kind(
        groups,
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cpu", "cuda") or None,
    )


def _copy_into(tensors: dict[str, torch.Tensor], values: Weights) -> None:
    if unknown := values.keys() - tensors.keys():
        raise ValueError(f"weights {sorted(unknown)} are none of this network's")
    for name, value in values.items():
        tensors[name].copy_(value)


def _on_cpu(weights: Weights) -> Weights:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
