"""Ensembles of torch networks, each trained on a part of the images, and their outputs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from brainenc.arrays import blocks, varies
from brainenc.devices import resolve_device
from brainenc.model_selection import Folds, image_folds
from brainenc.process_state import own_settings, torch_seeded
from brainenc.training import Examples, TrainingResult, TrainingRun, TrainingSettings


@dataclass(frozen=True)
class Ensemble:
    """Nets trained on different parts of the images, with held-out predictions.

    Attributes
    ----------
    nets : list of modules
    held_out : array, shape (n_images, n_outputs)
        Prediction of each image by the net that held it out. NaN for images that no net held out,
        or whose net was not trained before an interruption.
    history : DataFrame
    """

    nets: list[Any]
    held_out: np.ndarray
    history: pd.DataFrame


@dataclass(frozen=True)
class Recipe:
    """Functions that make and train a net of an ensemble.

    Attributes
    ----------
    make_net : function (random_state) -> module with `sizes`
        From inputs (batch, ...) to outputs (batch, n_outputs).
    settings : function (n_images, TrainingRun) -> TrainingSettings
    loss : function (predictions, targets) -> scalar tensor
        Targets are NaN where an image has no data.
    evaluate : function (predictions, targets) -> dict of float
        Metrics on the held-out images.
    """

    make_net: Callable[[int], Any]
    settings: Callable[[int, TrainingRun], TrainingSettings]
    loss: Callable[[Tensor, Tensor], Tensor]
    evaluate: Callable[[Tensor, Tensor], dict[str, float]]


def fit_ensemble(
    inputs: Any,
    targets: np.ndarray,
    folds: Folds,
    recipe: Recipe,
    run: TrainingRun,
    *,
    goes_on: Callable[[np.ndarray, np.ndarray], bool] | None = None,
) -> Ensemble:
    """Train one net per fold, evaluated on the held-out images of the fold.

    Parameters
    ----------
    inputs : array, shape (n_images, ...), float32
        Or an object with ``shape``, ``dtype`` and rows by index.
    targets : array, shape (n_images, n_outputs), float32
        Mean 0 and mean square 1; NaN where an image has no data.
    folds : list of (train, test)
    recipe : Recipe
    run : TrainingRun
    goes_on : function (rows, predictions) -> bool, optional
        Of the held-out images of the first net: whether nets are worth their time. If not, it is
        the last one, and the ensemble has no nets.
    """
    nets: list[Any] = []
    histories: list[pd.DataFrame] = []
    held_out = np.full_like(targets, np.nan)
    for k, fold in enumerate(folds):
        net = recipe.make_net(run.random_state + k)
        result = _train_net(net, (inputs, targets), fold, recipe, run.seeded(k), f"member{k}")
        held_out[fold[1]] = run_net(net, inputs, run.device, rows=fold[1])
        nets.append(net)
        histories.append(result.history.assign(member=k))
        if k == 0 and goes_on is not None and not goes_on(fold[1], held_out[fold[1]]):
            nets.clear()
            break
        if result.interrupted:
            break
    return Ensemble(nets, held_out, pd.concat(histories, ignore_index=True))


def _train_net(
    net: Any,
    arrays: tuple[Any, np.ndarray],
    fold: tuple[np.ndarray, np.ndarray],
    recipe: Recipe,
    run: TrainingRun,
    name: str,
) -> TrainingResult:
    (inputs, targets), (train_rows, test_rows) = arrays, fold
    held = torch.from_numpy(targets[test_rows])

    def loss(module: Any, batch: Any) -> dict[str, Tensor]:
        return {"loss": recipe.loss(module(batch["inputs"]), batch["responses"])}

    def evaluate(module: Any) -> dict[str, float]:
        device = next(module.parameters()).device
        return recipe.evaluate(_in_batches(module, inputs, device, test_rows), held.to(device))

    return run.train(
        net,
        loss,
        Examples(inputs=(inputs, train_rows), responses=(targets, train_rows)),
        recipe.settings(len(train_rows), run),
        name=name,
        evaluate=evaluate,
    )


def seeded(random_state: int, make: Callable[[], Any]) -> Any:
    """``make()`` with torch seeded, and its generator as it was afterwards."""
    with torch_seeded(random_state):
        return make()


def run_net(
    net: nn.Module,
    inputs: Any,
    device: Any,
    *,
    call: Callable[[Tensor], Tensor] | None = None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Outputs of a net for inputs (n_images, ...).

    Parameters
    ----------
    net : module
    inputs : array, shape (n_images, ...), float32
    device : as `resolve_device` takes it
    call : function, optional
        Method of the net to call; the net itself by default.
    rows : array of int, optional
        Images to compute; all by default.

    Returns
    -------
    array, shape (n_images, ...)
        Without `call`, (n_images, n_outputs).
    """
    device = resolve_device(device)
    net = net.to(device).eval()
    try:
        with own_settings(), torch.no_grad():
            return _in_batches(call or net, inputs, device, rows).cpu().numpy()
    finally:
        net.to("cpu")


#: Input values per batch: 512 images of 16 tokens of width 64, or 11 images of DINOv2's tokens.
_BATCH_VALUES = 2**23


def _in_batches(
    call: Callable[[Tensor], Tensor], inputs: Any, device: Any, rows: np.ndarray | None = None
) -> Tensor:
    n = int(np.clip(_BATCH_VALUES // max(1, math.prod(inputs.shape[1:])), 1, 512))
    rows = np.arange(len(inputs)) if rows is None else rows
    batches = (inputs[rows[block]] for block in blocks(len(rows), n))
    return torch.cat([call(torch.from_numpy(batch).to(device)) for batch in batches])


def voxel_moments(averages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and s.d. of averages (n_images, n_voxels) over images, float32, NaN left out.

    A voxel without variance or data has s.d. 1; a voxel without data has mean 0.
    """
    mean, scale = np.empty((2, averages.shape[1]), dtype=np.float32)
    for voxels in blocks(averages.shape[1], 2**22 // len(averages)):  # avoids a copy of all
        mean[voxels], scale[voxels] = _moments(averages[:, voxels])
    return mean, scale


def _moments(averages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    present = np.isfinite(averages)
    n = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, averages, 0).sum(axis=0, dtype=np.float64) / n
    centred = np.where(present, averages - mean, 0)
    sd = np.sqrt(np.square(centred).sum(axis=0) / n)
    return mean, np.where(varies(mean, sd), sd, 1.0)


def ensemble_folds(n_images: int, n_members: int, random_state: int) -> Folds:
    """Training and held-out images of each net; a single net holds out a tenth."""
    if n_members == 1:
        return image_folds(10, n_images, random_state=random_state)[:1]
    return image_folds(n_members, n_images, random_state=random_state)
