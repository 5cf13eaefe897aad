"""Trials and batches of SynBrain's stages, and held-out images, by which training is stopped."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainenc.nets import BrainVAE
from brainenc.repeats import average_repeats

#: Metric on held-out images, evaluations of stage 2, and most held-out trials in one of stage 1.
MONITOR, N_EVALUATIONS, N_JUDGED = "held_out_mse", 20, 1024


def trial_index(
    betas: np.ndarray, images: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Image and repeat of every trial present; of the images of a mask, if one is given."""
    present = np.isfinite(betas).any(axis=2)
    if images is not None:
        present &= images[:, None]
    image, repeat = np.nonzero(present)
    return image, repeat


def batches_of(array: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows of an array in batches."""
    return (array[i : i + batch_size] for i in range(0, len(array), batch_size))


def tensor_of(rows: np.ndarray, device: Any) -> Tensor:
    """Rows as float32 on a device."""
    return torch.from_numpy(rows.astype(np.float32, copy=False)).to(device)


@dataclass(frozen=True)
class HeldOutImages:
    """Images that no stage learns, by which training is stopped.

    Attributes
    ----------
    learnt : array of bool, shape (n_images,)
        False for the held-out images.
    trials : array, shape (n_trials, n_voxels)
        Of held-out images, at most `N_JUDGED`.
    of_trials, averages : array, shape (n_trials, n_voxels), (n_images_held, n_voxels)
        Average response to the image of each trial, and to each held-out image.
    tokens : array, shape (n_images_held, n_tokens, width)
    batch_size : int
    """

    learnt: np.ndarray
    trials: np.ndarray
    of_trials: np.ndarray
    averages: np.ndarray
    tokens: np.ndarray
    batch_size: int

    @classmethod
    def of(
        cls, learnt: np.ndarray, betas: np.ndarray, tokens: np.ndarray, batch_size: int
    ) -> "HeldOutImages":
        """The images that a mask leaves, of betas as the networks see them."""
        averages = average_repeats(betas).astype(np.float32, copy=False)
        image, repeat = trial_index(betas, ~learnt)
        some = np.unique(np.linspace(0, len(image) - 1, min(len(image), N_JUDGED)).astype(int))
        rows = np.unique(image)
        return cls(
            learnt,
            betas[image[some], repeat[some]],
            averages[image[some]],
            averages[rows],
            tokens[rows],
            batch_size,
        )

    def error_of_autoencoder(self, vae: Any) -> dict[str, float]:
        """Mean squared error of decoded posterior means of trials against averages."""
        n_voxels = self.trials.shape[1]
        return self._error(
            lambda x: vae.decode(vae.encode(x)[0], n_voxels), vae, self.trials, self.of_trials
        )

    def error_of_mapper(self, mapper: Any, vae: BrainVAE) -> dict[str, float]:
        """Mean squared error of decoded latents of images against averages."""
        device = device_of(vae if mapper is None else mapper)
        vae.to(device)
        n_voxels = self.averages.shape[1]
        return self._error(
            lambda x: vae.decode(x if mapper is None else mapper(x), n_voxels),
            vae,
            self.tokens,
            self.averages,
        )

    def _error(self, call: Any, net: Any, inputs: np.ndarray, wanted: np.ndarray) -> dict:
        device = device_of(net)
        found = [call(tensor_of(x, device)).cpu() for x in batches_of(inputs, self.batch_size)]
        return {MONITOR: float(F.mse_loss(torch.cat(found).float(), torch.from_numpy(wanted)))}


def early_stopping(patience: int) -> dict[str, Any]:
    """Settings of a training that is stopped by the error on held-out images."""
    return {"monitor": MONITOR, "mode": "min", "patience": patience}


def device_of(net: nn.Module) -> torch.device:
    """Device of the weights."""
    return next(net.parameters()).device
