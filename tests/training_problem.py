"""A small training with everything in it, run here or as a process that others kill.

``python training_problem.py FOLDER [--stop-at PLACE WHEN] [--distributed]`` trains and writes
FOLDER/out.pt. In call number WHEN of PLACE (loss, evaluate or checkpoint) it writes FOLDER/ready
and then waits to be killed.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from brainenc.process_state import torch_seeded
from brainenc.training import Cosine, Examples, TrainingSettings, train

SETTINGS = {
    "n_epochs": 4,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "schedule": Cosine(),
    "warmup_steps": 5,
    "clip_norm": 1.0,
    "ema_decay": 0.9,
    "report_every": 7,
    "monitor": "heldout_mse",
    "mode": "min",
    "random_state": 3,
}


class Encoder(nn.Module):
    """Tokens -> latent distribution -> betas; `dropout` draws inside a layer, `idle` is unused."""

    def __init__(self, dropout):
        super().__init__()
        self.mapper = nn.Linear(6, 2 * 4)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(4, 5)
        self.idle = nn.Linear(3, 3)
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.long))

    def forward(self, tokens, noise=None):
        mean, log_variance = self.mapper(tokens).chunk(2, dim=1)
        latent = mean if noise is None else mean + (log_variance / 2).exp() * noise
        return latent, self.decoder(self.dropout(latent))


def loss(module, batch):
    module.n_seen += 1
    latent, betas = module(batch["tokens"], batch.normal(4))
    # The contrastive part compares every example with every other of the global batch.
    z, target = batch.gather(latent), batch.gather(batch["tokens"])[:, :4]
    similarity = nn.functional.normalize(z) @ nn.functional.normalize(target).T
    contrastive = nn.functional.cross_entropy(similarity / 0.125, torch.arange(len(z)))
    reconstruction = ((betas - batch["betas"]) ** 2).mean()
    return {
        "loss": reconstruction + 0.1 * contrastive,
        "reconstruction": reconstruction,
        "contrastive": contrastive,
    }


def problem(dropout=0.2):
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((40, 6)).astype(np.float32)
    signal = np.tanh(tokens @ rng.standard_normal((6, 5)))
    betas = (signal[:, None] + 0.3 * rng.standard_normal((40, 3, 5))).astype(np.float32)
    image, repeat = (index.ravel() for index in np.indices((30, 3)))
    heldout = torch.from_numpy(tokens[30:]), torch.from_numpy(betas[30:].mean(1))

    def evaluate(module):
        return {"heldout_mse": ((module(heldout[0])[1] - heldout[1]) ** 2).mean()}

    with torch_seeded(0):
        module = Encoder(dropout)
    examples = Examples(tokens=(tokens, image), betas=(betas, image, repeat))
    return {"module": module, "loss": loss, "examples": examples, "evaluate": evaluate}


def run(dropout=0.2, settings=None, **options):
    """Train the problem: everything that must be equal when trainings are equal."""
    parts = problem(dropout)
    module = parts["module"]
    result = train(
        settings=TrainingSettings(**{**SETTINGS, **(settings or {})}),
        device="cpu",
        **{**parts, **options},
    )
    return {
        "kept": dict(module.state_dict()),
        "last": dict(result.last),
        "ema": dict(result.ema),
        "history": result.history.drop(columns="seconds").to_dict("list"),
        "stopped": result.stopped,
        "best_step": result.best_step,
        "n_steps": result.n_steps,
    }


def waiting(folder, function, when):
    """`function`, which waits to be killed instead of answering the call number `when`."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == when:
            (folder / "ready").touch()
            time.sleep(600)
        return function(*args, **kwargs)

    return wrapped


def half_written(folder, when):
    """``torch.save`` that is killed in the middle of checkpoint number `when`."""
    save = torch.save
    calls = 0

    def wrapped(content, path):
        nonlocal calls
        calls += 1
        save(content, path)
        if calls == when:
            Path(path).write_bytes(Path(path).read_bytes()[:1000])
            (folder / "ready").touch()
            time.sleep(600)

    return wrapped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop-at", nargs=2)
    parser.add_argument("--distributed", action="store_true")
    arguments = parser.parse_args()
    folder, parts = arguments.folder, problem()
    options = {"checkpoint_dir": folder / "checkpoints", "checkpoint_every": 5}
    if arguments.stop_at:
        place, when = arguments.stop_at[0], int(arguments.stop_at[1])
        if place == "checkpoint":
            torch.save = half_written(folder, when)
        else:
            options[place] = waiting(folder, parts[place], when)
    if arguments.distributed:
        out = run(dropout=0.0, **options)
        torch.save(out, folder / f"rank{torch.distributed.get_rank()}.pt")
    else:
        torch.save(run(**options), folder / "out.pt")


if __name__ == "__main__":
    main()
