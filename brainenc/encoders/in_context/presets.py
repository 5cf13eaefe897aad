"""Nets, stages and training parameters of the pretraining of in-context encoders."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from brainenc.encoders.in_context.episodes import Stage
from brainenc.training import TrainingRun

#: Net, stages and training of each value of `sizes`.
PRESETS: dict[str, dict[str, Any]] = {
    "auto": {
        "net": {"width": 48, "depth": 2, "n_heads": 4, "hidden": 96, "dropout": 0.1},
        "stages": [Stage("real", (15, 60), 1.0)],
        "training": {
            "n_steps": 500,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
        },
    },
    "published": {
        "net": {"depth": 20, "n_heads": 10, "hidden": 2048, "n_registers": 4, "dropout": 0.5},
        "stages": [
            Stage("synthetic", (500, 500), 1 / 3),
            Stage("synthetic", (30, 500), 1 / 3),
            Stage("real", (30, 500), 1 / 3),
        ],
        "training": {
            # 100 epochs of the voxels of three subjects of NSD in each stage.
            "n_steps": 200_000,
            "batch_size": 64,
            "learning_rate": 1e-4,
            "weight_decay": 0.1,
        },
    },
}

#: Widths of the published tokens by that of the embedding; of others 48 more, in tens.
_WIDTHS = {512: 560, 768: 800, 1152: 1200}


def plan(
    encoder: Any, feature_shape: Sequence[int]
) -> tuple[dict[str, Any], list[Stage], int, TrainingRun]:
    """Arguments of the net, stages, number of steps and settings of an encoder's pretraining."""
    published = encoder.sizes == "published"
    preset = PRESETS["published" if published else "auto"]
    net = {**preset["net"], **(encoder.sizes if isinstance(encoder.sizes, Mapping) else {})}
    if published:
        n = prod(feature_shape)
        net["width"] = _WIDTHS.get(n, 10 * ((n + 48) // 10))
    given = {name: getattr(encoder, name) for name in preset["training"]}
    options = {n: preset["training"][n] if v is None else v for n, v in given.items()}
    n_steps, seed = options.pop("n_steps"), encoder.random_state
    run = TrainingRun(
        **options,
        device=encoder.device,
        precision=encoder.precision,
        random_state=int(np.random.default_rng().integers(2**31)) if seed is None else seed,
        checkpoint_dir=encoder.checkpoint_dir,
        verbose=encoder.verbose,
    )
    return net, preset["stages"], n_steps, run
