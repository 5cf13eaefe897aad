"""What the SynBrain benchmarks share: settings of the small SynBrain, units, files."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

import brainenc
from brainenc.benchmarking.split import trial_sd
from brainenc.encoders.synbrain.sizes import PUBLISHED_STEPS
from brainenc.encoders.synbrain.voxels import PUBLISHED_ERROR
from brainenc.storage import atomic_path, write_json

#: SynBrain with the small sizes of its networks (`brainenc.encoders.synbrain.sizes.small_sizes`) on
#: any device; the tables in docs/results were made with this length, whatever the number of voxels.
#: At the published learning rate, 1e-4, a few hundred steps hardly move it.
SMALL = {
    "sizes": {"vae": {"pooled_length": 512}},
    "learning_rate": 2e-3,
    "mapper_steps": 1500,
    # Without the steps that the default adds to the paper.
    **PUBLISHED_STEPS,
}

FORMAT: dict = {"index": False, "float_format": "{:.3f}".format, "na_rep": "–"}


def small_synbrain(n_trials: int, n_steps: int, **changes) -> brainenc.SynBrainEncoder:
    """The small SynBrain, its autoencoder trained for about `n_steps` steps."""
    per_epoch = max(1, n_trials // 24)
    return brainenc.SynBrainEncoder(
        None, vae_epochs=math.ceil(n_steps / per_epoch), **{**SMALL, **changes}
    )


def published_unit(betas: np.ndarray) -> float:
    """Factor for betas that makes their total variance that of NSD subject 1.

    The paper's loss sums the squared error over voxels and weighs SoftCLIP with 1000: with few
    voxels, in other units, the autoencoder would be trained for SoftCLIP alone. Scores in z units
    and correlations do not depend on the factor.
    """
    return float(np.sqrt(PUBLISHED_ERROR / np.nansum(trial_sd(betas) ** 2)))


def show(tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        print(f"\n{name}\n{table.to_string(**FORMAT)}")


def write(folder: Path, stem: str, tables: dict[str, pd.DataFrame], manifest: dict | None) -> None:
    """Every table as ``<stem>_<name>.csv``, the manifest as ``<stem>.json``."""
    for name, table in tables.items():
        with atomic_path(folder / f"{stem}_{name}.csv") as temporary:
            table.to_csv(temporary, **FORMAT)
    if manifest is not None:
        write_json(folder / f"{stem}.json", manifest)
    print(f"\nwritten to {folder}")
