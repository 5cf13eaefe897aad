"""An encoder with a network in one file: the second example of the documentation."""

from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn import functional

from brainenc.encoders.ensemble import seeded
from brainenc.encoders.network import NetworkEncoder, Preset
from brainenc.encoders.trained import MIN_IMAGES
from brainenc.solvers.voxels import feature_scaling, flatten_tokens
from brainenc.training import Cosine


class Perceptron(nn.Module):
    """Features (batch, n_features) to z-scored responses (batch, n_voxels), by one hidden layer."""

    def __init__(self, n_features, n_voxels, *, hidden=64, dropout=0.2):
        super().__init__()
        # `save` writes these; `brainenc.load` makes the module from them, then reads the weights.
        self.sizes = {
            "n_features": n_features,
            "n_voxels": n_voxels,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.layers = nn.Sequential(
            nn.Linear(n_features, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_voxels),
        )

    def forward(self, features):
        return self.layers(features)


PRESETS = {
    "auto": Preset(
        sizes={"hidden": 64, "dropout": 0.2},
        training={
            "n_members": 3,
            "n_epochs": 20,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "weight_decay": 0.05,
        },
        settings={"schedule": Cosine(), "clip_norm": 1.0},
    )
}


@dataclass(frozen=True)
class Standardizer:
    """Features to inputs of the network, (n_images, n_features): z-scored over the fit's images."""

    mean: np.ndarray
    scale: np.ndarray

    def transform(self, features):
        return ((flatten_tokens(features) - self.mean) / self.scale).astype(np.float32)


class PerceptronEncoder(NetworkEncoder):
    """Mean of multilayer perceptrons with one hidden layer, trained on averages over repeats.

    Parameters
    ----------
    features : "auto", None or transformer
        As for `RidgeEncoder`; tokens are laid out one after the other.
    sizes : "auto" or dict
        A dict replaces arguments of `Perceptron`: `hidden`, `dropout`.
    outlier : float
        Error, in s.d. of the averages, from which on the loss grows linearly (Huber 1964); > 0.
    min_images, n_members, n_epochs
        As for `brainenc.encoders.network.NetworkEncoder`; 3 members and 20 epochs when None.
    batch_size, learning_rate, weight_decay : optional
        32, 3e-3, .05 when None.
    device, precision, checkpoint_dir, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.
    """

    presets = PRESETS
    saved_parts = (*NetworkEncoder.saved_parts, Standardizer, Perceptron)

    def __init__(
        self,
        features="auto",
        *,
        sizes="auto",
        outlier=2.0,
        min_images=MIN_IMAGES,
        n_members=None,
        n_epochs=None,
        batch_size=None,
        learning_rate=None,
        weight_decay=None,
        device="auto",
        precision="auto",
        checkpoint_dir=None,
        random_state=0,
        verbose=False,
    ):
        super().__init__(
            features,
            sizes=sizes,
            min_images=min_images,
            n_members=n_members,
            n_epochs=n_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            device=device,
            precision=precision,
            checkpoint_dir=checkpoint_dir,
            random_state=random_state,
            verbose=verbose,
        )
        self.outlier = outlier

    def _check_parameters(self):
        super()._check_parameters()
        if not self.outlier > 0:
            raise ValueError(f"outlier={self.outlier!r} must be more than 0")

    def _adapter(self, features):
        return Standardizer(*feature_scaling(flatten_tokens(features)))

    def _make_net(self, shape, sizes, random_state):
        return seeded(random_state, lambda: Perceptron(*shape, self.n_voxels_, **sizes))

    def _loss(self, predictions, targets):
        present = targets.isfinite()  # NaN where a voxel has no data for an image
        return functional.huber_loss(predictions[present], targets[present], delta=self.outlier)
