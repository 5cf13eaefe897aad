"""Speed of training SynBrain, against its published step. See `speed.py`.

Runs on CUDA as well, and without Lightning: see `gpu.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import published_synbrain as published
import torch
from measuring import measure, row, timed
from torch import nn

#: NSD subject 1 with tokens of OpenCLIP ViT-bigG/14, as in SynBrain, and the published batch;
#: tokens of CLIP ViT-L/14, as in MindSimulator.
PUBLISHED: dict[str, Any] = {
    "voxels": 15_724,
    "tokens": (256, 1664),
    "trials": 27_000,
    "vae": {},
    "mapper": {},
    "prior tokens": (257, 768),
    "prior": "published",
}
TINY: dict[str, Any] = {
    "voxels": 60,
    "tokens": (4, 16),
    "trials": 27_000,
    "vae": {
        "pooled_length": 64,
        "n_channels": 8,
        "channel_multipliers": (1, 2),
        "n_blocks": 1,
        "projector_width": 32,
    },
    "mapper": {"depth": 2, "n_heads": 2},
    "prior tokens": (4, 8),
    "prior": "auto",
}
MAPPER_STEPS = 50_000  # of a published training
N_TIMED = 2
#: Sizes of the curves of losses: a CPU takes 200 steps in a minute.
CURVES: dict[str, Any] = {"voxels": 400, "tokens": (16, 64), "trials": 240, "batch": 24}


def sizes_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sizes of a run; fewer examples at a time on a CPU."""
    on_gpu = arguments.device.startswith("cuda")
    sizes = TINY if arguments.quick else PUBLISHED
    return sizes | {"batch": 24 if on_gpu else 4, "images": 24 if on_gpu else 2}


def made_up(sizes: dict[str, Any], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, n_tokens, width) and a trial of every image, partly a linear function of them."""
    rng = np.random.default_rng(0)
    n_tokens, width = sizes["tokens"]
    tokens = rng.standard_normal((n, n_tokens, width), dtype=np.float32)
    weights = rng.standard_normal((width, sizes["voxels"]), dtype=np.float32) / width**0.5
    betas = tokens.mean(1) @ weights * n_tokens**0.5
    return tokens, 0.3 * betas + 0.3 * rng.standard_normal(betas.shape, dtype=np.float32)


def made_nets(sizes: dict[str, Any]) -> tuple[Any, Any]:
    from brainenc.nets import S2N, BrainVAE

    torch.manual_seed(0)
    return BrainVAE(*sizes["tokens"], **sizes["vae"]), S2N(*sizes["tokens"], **sizes["mapper"])


def synbrain(arguments: argparse.Namespace) -> Iterator[dict]:
    """Steps of both stages at the published size; then whole curves of losses, small."""
    sizes, device = sizes_of(arguments), arguments.device
    size = f"{sizes['voxels']} voxels, batch of {sizes['batch']}"
    ours, theirs = (
        measure(time_steps, "vae", who, sizes, device) for who in ("brainenc", "published")
    )
    yield row("synbrain: autoencoder step, bf16", size, ours, theirs)
    once = measure(time_means, sizes, device)
    ours, theirs = (
        measure(time_steps, "mapper", who, sizes, device) for who in ("brainenc", "published")
    )
    yield row("synbrain: mapper step, bf16", size, ours, theirs)
    yield row("synbrain: posterior mean, per trial, once", size, once)
    # The means are computed once for every trial, before so many steps.
    amortised = {
        name: ours[name] + once[name] * sizes["trials"] / MAPPER_STEPS for name in ("s", "CPU s")
    }
    amortised["peak GiB"] = max(ours["peak GiB"], once["peak GiB"])
    yield row("synbrain: mapper step with its share of the means", size, amortised, theirs)
    n_steps = 20 if arguments.quick else 200
    for stage in ("vae", "mapper"):
        found = measure(compare_curves, stage, n_steps, curve_sizes(arguments.quick), device)
        yield row(f"synbrain: loss of {stage}", f"{n_steps} steps, small nets", found)


def time_steps(stage: str, who: str, sizes: dict[str, Any], device: str) -> dict:
    """Median over some steps of one stage, after one that is not counted."""
    arrays = dict(zip(("tokens", "betas"), made_up(sizes, sizes["batch"]), strict=True))
    vae, mapper = made_nets(sizes)
    vae.to(device).eval()
    if who == "brainenc":
        if stage == "mapper":  # as stage 2 finds them on disk
            shape = (sizes["batch"], *sizes["tokens"])
            arrays |= {"target": np.ones(shape, dtype=np.float32)}
        step = our_steps(stage, vae, mapper, device, "bf16", n_steps=1 + N_TIMED)
    else:
        step = published_steps(stage, vae, mapper, device)
    del vae, mapper
    return median_of(lambda: step(arrays), device)


def time_means(sizes: dict[str, Any], device: str) -> dict:
    """Posterior means of trials, for stage 2: per trial."""
    from brainenc.encoders.synbrain import stages
    from brainenc.training import TrainingRun

    _, betas = made_up(sizes, sizes["batch"])
    vae = made_nets(sizes)[0].eval()
    run = TrainingRun(
        batch_size=sizes["batch"], learning_rate=1e-4, weight_decay=0.05, device=device
    )
    found = median_of(
        lambda: stages.posterior_means(
            vae, betas[:, None], stages.trial_index(betas[:, None]), run, MAPPER_STEPS
        ),
        device,
    )
    return found | {name: found[name] / sizes["batch"] for name in ("s", "CPU s")}


def median_of(work: Callable[[], Any], device: str, n: int = N_TIMED) -> dict:
    """Median times of `n` calls after a first one, and the peak memory of all."""
    seconds: dict[str, list[float]] = {"s": [], "CPU s": []}
    with timed(device) as found:
        for _ in range(1 + n):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            seconds["s"].append(time.perf_counter() - wall)
            seconds["CPU s"].append(time.process_time() - cpu)
    return found | {name: statistics.median(each[1:]) for name, each in seconds.items()}


Step = Callable[[dict[str, np.ndarray]], float]


def our_steps(stage: str, vae: Any, mapper: Any, device: str, precision: str, n_steps: int) -> Step:
    """What `brainenc.training.train` does in a step, with the settings of `fit_vae`, `fit_mapper`.

    Batch to the device, loss, gradient, its norm and clipping, the check that all is finite,
    optimiser and moving average.
    """
    from brainenc.encoders.synbrain import stages
    from brainenc.training import TrainingSettings
    from brainenc.training.learner import Learner

    if stage == "vae":
        module, own = vae, {"weight_decay": 0.05}
        loss = stages.vae_loss(kl_weight=stages.KL_WEIGHT, clip_weight=stages.CLIP_WEIGHT)
    else:
        module, own = mapper, {"ema_decay": 0.9999, "clip_norm": 1.0}
        loss = stages.mapper_loss(vae)
    settings = TrainingSettings(n_steps=n_steps, learning_rate=1e-4, precision=precision, **own)
    module.to(device).train()
    learner = Learner(fabric_for(device, precision), module, loss, settings, None, None)
    done = 0

    def step(arrays: dict[str, np.ndarray]) -> float:
        nonlocal done
        batch = learner.batch(arrays, done, n_steps, 0)
        losses = learner.losses_and_gradient(batch)
        assert np.isfinite(list(losses.values())).all()
        learner.update()
        done += 1
        return losses["loss"]

    return step


def published_steps(stage: str, vae: Any, mapper: Any, device: str, seed: int = 0) -> Step:
    plain_vae = published.VAE(vae.sizes)
    plain_vae.load_state_dict(vae.state_dict())
    plain_vae.to(device)
    if stage == "vae":
        step: Any = published.VAEStep(plain_vae, seed)
    else:
        plain = published.Mapper(mapper.sizes)
        plain.load_state_dict(mapper.state_dict())
        step = published.MapperStep(plain.to(device), plain_vae)

    def run(arrays: dict[str, np.ndarray]) -> float:
        betas, tokens = (torch.from_numpy(arrays[name]).to(device) for name in ("betas", "tokens"))
        return step(betas, tokens)

    return run


def curve_sizes(quick: bool) -> dict[str, Any]:
    from brainenc.encoders.synbrain.sizes import small_sizes

    if quick:
        return TINY | {name: CURVES[name] for name in ("trials", "batch")}
    small = small_sizes(CURVES["tokens"], CURVES["trials"], CURVES["voxels"])
    conv = {name: size for name, size in small.vae.items() if not name.startswith("mlp")}
    # The length that the curves in docs/results were made with.
    return CURVES | {"vae": conv | {"pooled_length": 512}, "mapper": small.mapper}


def compare_curves(stage: str, n_steps: int, sizes: dict[str, Any], device: str) -> dict:
    """Losses of brainenc in bf16 and of the published step in float32, on the same batches.

    Means over 20 steps; the noise of the two autoencoders is drawn differently, so another
    published training with other noise says how much that makes.
    """
    tokens, betas = made_up(sizes, sizes["trials"])
    vae, mapper = made_nets(sizes)
    vae.to(device).eval()
    with torch.no_grad():  # kept in half precision, as for stage 2
        target = vae.encode(torch.from_numpy(betas).to(device))[0].half().float().cpu().numpy()
    rng = np.random.default_rng(1)
    batches = [rng.choice(len(tokens), sizes["batch"], replace=False) for _ in range(n_steps)]

    def curve(step: Step, **more: np.ndarray) -> np.ndarray:
        arrays = {"tokens": tokens, "betas": betas, **more}
        losses = [step({name: each[rows] for name, each in arrays.items()}) for rows in batches]
        return np.convolve(losses, np.full(20, 1 / 20), "valid")

    with timed(device) as found:
        theirs, again = (
            curve(published_steps(stage, vae, mapper, device, seed)) for seed in (0, 1)
        )
        more = {"target": target} if stage == "mapper" else {}
        ours = curve(our_steps(stage, vae, mapper, device, "bf16", n_steps), **more)
    return {
        "last loss": ours[-1],
        "last / first loss": ours[-1] / ours[0],
        "largest deviation": float(np.max(np.abs(ours / theirs - 1))),
        "of other noise": float(np.max(np.abs(again / theirs - 1))),
        "peak GiB": found["peak GiB"],
    }


class OneProcess:
    """What a `Learner` asks of Lightning Fabric, where that is not installed: one device."""

    global_rank, world_size = 0, 1

    def __init__(self, device: str, precision: str):
        self.device, self.is_low = torch.device(device), precision == "bf16"

    def setup(self, objective: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        def autocast(*inputs: Any) -> Any:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_low):
                return objective(*inputs)

        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        return autocast, optimizer

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def clip_gradients(self, *_: Any, max_norm: float, error_if_nonfinite: bool) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(
            self.parameters, max_norm, error_if_nonfinite=error_if_nonfinite
        )

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        return values


def fabric_for(device: str, precision: str) -> Any:
    from brainenc.training.learner import start_fabric

    try:
        return start_fabric(device, precision)
    except ImportError:
        return OneProcess(device, precision)
