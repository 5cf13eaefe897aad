"""Last stage of SynBrain's default: mapper and decoder trained together, by voxels."""

from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from brainenc.encoders.synbrain.held_out import N_EVALUATIONS, HeldOutImages, early_stopping
from brainenc.encoders.synbrain.stages import mlps_of
from brainenc.nets import S2N, BrainVAE
from brainenc.nets.losses import masked_squared_error
from brainenc.repeats import average_repeats
from brainenc.training import Cosine, Examples, TrainingRun


class MapperAndDecoder(nn.Module):
    """Tokens to responses: the mapper, if there is one, and the decoder of the autoencoder.

    Parameters
    ----------
    mapper : S2N or None
    vae : BrainVAE
    n_voxels : int
    """

    def __init__(self, mapper: S2N | None, vae: BrainVAE, n_voxels: int):
        super().__init__()
        self.mapper, self.vae, self.n_voxels = mapper, vae, n_voxels
        self.sizes = {**vae.sizes, "n_voxels": n_voxels}

    def forward(self, tokens: Tensor) -> Tensor:
        """Responses (batch, n_voxels) to tokens (batch, n_tokens, width)."""
        z = tokens if self.mapper is None else self.mapper(tokens)
        return self.vae.decode(z, self.n_voxels)

    def trained(self, few_shot: bool) -> list[Any]:
        """Weights to train: of the decoder, and of the mapper (its MLPs alone if `few_shot`)."""
        decoder = [*self.vae.post_projector.parameters(), *self.vae.decoder.parameters()]
        if self.mapper is None:
            return decoder
        return decoder + (mlps_of(self.mapper) if few_shot else list(self.mapper.parameters()))


def fit_voxels(
    mapper: S2N | None,
    vae: BrainVAE,
    betas: np.ndarray,
    tokens: np.ndarray,
    run: TrainingRun,
    *,
    n_steps: int,
    few_shot: bool = False,
    held: HeldOutImages | None = None,
) -> pd.DataFrame:
    """Train mapper and decoder by the squared error of average responses.

    Parameters
    ----------
    mapper, vae : trained in place
    betas, tokens, run, few_shot, held
        As for `brainenc.encoders.synbrain.stages.fit_mapper`. Weights from before this stage are
        kept if none are better for held-out images.
    n_steps : int

    Returns
    -------
    DataFrame : the history
    """
    averages = average_repeats(betas).astype(np.float32, copy=False)
    shown = np.isfinite(averages).any(axis=1)
    image = np.flatnonzero(shown if held is None else shown & held.learnt)
    stopping: dict[str, Any] = {}
    if held is not None:
        every = max(1, n_steps // N_EVALUATIONS)
        stopping = early_stopping(N_EVALUATIONS // 3) | {"report_every": every}
    net = MapperAndDecoder(mapper, vae, betas.shape[2])

    def loss(module: Any, batch: Any) -> dict[str, Tensor]:
        return {"loss": masked_squared_error(module(batch["tokens"]), batch["averages"])}

    def evaluate(module: Any) -> dict[str, float]:
        assert held is not None
        return held.error_of_mapper(module.mapper, module.vae)

    result = run.train(
        net,
        loss,
        Examples(tokens=(tokens, image), averages=(averages, image)),
        run.settings(n_steps=n_steps, clip_norm=1.0, schedule=Cosine(), **stopping),
        name="voxels",
        parameters=net.trained(few_shot),
        evaluate=None if held is None else evaluate,
    )
    return result.history.assign(stage="voxels")
