"""MindReaderDecoder: convolutions over voxels, to an embedding of the image or of its caption."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainenc.decoders.held_images import HeldImages
from brainenc.decoders.trained import TrainedDecoder
from brainenc.encoders.ensemble import run_net, seeded
from brainenc.encoders.mind_reader import EmbeddingAdapter
from brainenc.encoders.network import Preset
from brainenc.model_selection import image_folds
from brainenc.nets import MindReaderMapper, info_nce, mind_reader_loss
from brainenc.repeats import average_repeats
from brainenc.training import Cosine, Examples, StepDecay, TrainingRun

PRESETS = {
    "auto": Preset(
        sizes={"n_channels": 16, "n_blocks": 1, "hidden": 16, "dropout": 0.1},
        training={
            "n_epochs": 6,
            "batch_size": 64,
            "learning_rate": 3e-3,
            "weight_decay": 0.05,
        },
        settings={"schedule": Cosine(), "clip_norm": 1.0},
    ),
    "published": Preset(
        sizes={},
        training={
            "n_epochs": 40,
            "batch_size": 32,
            "learning_rate": 4e-4,
            "weight_decay": 1e-5,
        },
        settings={"optimizer": "adam", "schedule": StepDecay(every=10, gamma=0.8)},
        as_published=True,
    ),
}

#: Batch of the second training, with contrast.
CONTRAST_BATCH = 128
#: Temperature of InfoNCE: published, and for centred targets.
TEMPERATURES = {"published": 0.5, "auto": 0.1}
#: With fewer images none are held out, and the last weights are kept.
MIN_HELD_OUT = 50


class MindReaderDecoder(TrainedDecoder):
    """Mind Reader's mapper: convolutions over voxels, to an embedding.

    Targets are clipped and divided by their length. The network is trained twice, on single
    trials: with squared error and cosine distance, then with half of this and half InfoNCE, in
    batches of 128. The paper fits one mapper to the embeddings of images, one to those of captions,
    and adds their similarities: fit two decoders, and see `brainenc.decoders.combine`.

    The neighbours that its convolutions join are voxels in the order of the betas.

    Parameters
    ----------
    targets : "auto", None or transformer
        As for `brainenc.RidgeDecoder`. Tokens are flattened.
    sizes : "auto", "published" or dict
        "published" is the published network and schedule, for targets with their mean, without
        held-out images. "auto" is small, its targets are z-scored after the division, and the
        weights are kept that are best on a tenth of the images. A dict replaces arguments of
        `brainenc.nets.MindReaderMapper` in "auto".
    clip : "auto", float or None
        Targets are first clipped to ±`clip`; published: 1.5, for CLIP embeddings. "auto" is 1.5 if
        it clips at most 1 % of the values, else None.
    mse_weight, cosine_weight : float
        Weights of squared error and cosine distance.
    contrast : float
        Share of InfoNCE in the loss of the second training, in [0, 1]; with 0 there is none.
    n_epochs : int, optional
        Of each of the two trainings.
    n_steps : int, optional
        Of each of the two trainings, whatever the number of trials, instead of `n_epochs`.
    batch_size, learning_rate, weight_decay : optional
        Training parameters; None: those of `sizes`.
    device, precision, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.

    Attributes
    ----------
    net_ : brainenc.nets.MindReaderMapper
    history_ : DataFrame
        One row per evaluation of each `training`, with `held_out_nce` if images were held out.
    adapter_ : EmbeddingAdapter
    length_ : float
        Mean length of the training targets, which predictions are scaled to.

    References
    ----------
    Lin, Sprague & Singh (2022), Mind Reader, NeurIPS 35.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((80, 6)).astype("float32")
    >>> betas = (targets @ rng.standard_normal((6, 30)))[:, None] + rng.standard_normal((80, 2, 30))
    >>> options = {"sizes": {"n_channels": 4, "hidden": 8}, "n_epochs": 1, "device": "cpu"}
    >>> decoder = brainenc.MindReaderDecoder(**options).fit(betas[:60], targets[:60])
    >>> decoder.predict(betas[60:]).shape
    (20, 6)
    """

    presets = PRESETS
    at_least: ClassVar = {"mse_weight": 0.0, "cosine_weight": 0.0, "contrast": 0.0}
    saved_parts = (*TrainedDecoder.saved_parts, EmbeddingAdapter, MindReaderMapper)

    def __init__(
        self,
        targets: Any = "auto",
        *,
        sizes: Any = "auto",
        clip: Any = "auto",
        mse_weight: float = 0.4,
        cosine_weight: float = 0.6,
        contrast: float = 0.5,
        n_epochs: int | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        super().__init__(
            targets,
            sizes=sizes,
            n_epochs=n_epochs,
            n_steps=n_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            device=device,
            precision=precision,
            random_state=random_state,
            verbose=verbose,
        )
        self.clip = clip
        self.mse_weight = mse_weight
        self.cosine_weight = cosine_weight
        self.contrast = contrast

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.clip != "auto" and self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip!r} must be 'auto', None or more than 0")
        if self.contrast > 1:
            raise ValueError(f"contrast={self.contrast!r} must be at most 1")

    # ---------------------------------------------------------------- fitting

    def _make_net(self, *shape: Any, **sizes: Any) -> MindReaderMapper:
        return MindReaderMapper(*shape, **sizes)

    def _fit(
        self, betas: np.ndarray, targets: np.ndarray, held_images: HeldImages | None = None
    ) -> np.ndarray:
        published = self.sizes == "published"
        run, n_epochs = self._run()
        held = np.array([], dtype=int)
        if held_images is None and not published and len(betas) >= MIN_HELD_OUT:
            held = image_folds(10, len(betas), random_state=run.random_state)[0][1]
        used = np.setdiff1d(np.arange(len(betas)), held)
        self.adapter_ = EmbeddingAdapter.fit(targets[used], self.clip, not published)
        self.length_ = float(np.linalg.norm(targets[used], axis=1).mean()) or 1.0
        wanted = self.adapter_.transform(targets)
        tested = None
        if held_images is not None:
            tested = (held_images.averages, self.adapter_.transform(held_images.targets))
        elif held.size:
            tested = (average_repeats(betas[held]), wanted[held])
        shape = (betas.shape[2], targets.shape[1])
        self.net_ = seeded(run.random_state, lambda: self._make_net(*shape, **self._net_sizes()))
        self.history_ = pd.concat(
            [
                self._train(name, betas, wanted, (used, tested), run, n_epochs, share)
                for name, share in (("distance", 0.0), ("contrast", self.contrast))
                if name == "distance" or share
            ],
            ignore_index=True,
        )
        found = np.full(targets.shape, np.nan, np.float32)
        if held.size:
            found[held] = self._predict(average_repeats(betas)[held])
        return found

    def _train(
        self,
        name: str,
        betas: np.ndarray,
        wanted: np.ndarray,
        split: tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None],
        run: TrainingRun,
        n_epochs: int,
        share: float,
    ) -> pd.DataFrame:
        """One training; its history."""
        used, tested = split
        temperature = TEMPERATURES["published" if self.sizes == "published" else "auto"]
        images, repeats = np.nonzero(np.isfinite(betas[used]).any(axis=2))
        images = used[images]
        examples = Examples(betas=(betas, images, repeats), targets=(wanted, images))
        monitor: dict[str, Any] = {}
        evaluate = None
        if tested is not None:
            monitor = {"monitor": "held_out_nce", "mode": "min"}
            averages = torch.from_numpy(tested[0].astype(np.float32))
            evaluate = partial(
                _held_out, averages=averages, targets=tested[1], temperature=temperature
            )
        if share:
            monitor["batch_size"] = CONTRAST_BATCH
        result = run.train(
            self.net_,
            partial(self._losses, share=share, temperature=temperature),
            examples,
            self._settings(run, n_epochs, len(images), **monitor),
            name=name,
            evaluate=evaluate,
        )
        return result.history.assign(training=name)

    def _losses(self, net: Any, batch: Any, share: float, temperature: float) -> dict[str, Tensor]:
        found, wanted = net(batch["betas"]), batch["targets"]
        distance = mind_reader_loss(
            found, wanted, mse_weight=self.mse_weight, cosine_weight=self.cosine_weight
        )
        if not share:
            return {"loss": distance}
        contrast = info_nce(found, wanted, temperature)
        loss = (1 - share) * distance + share * contrast
        return {"loss": loss, "distance": distance, "contrast": contrast}

    # ---------------------------------------------------------------- predicting

    def _predict(self, responses: np.ndarray) -> np.ndarray:
        found = run_net(self.net_, responses.astype(np.float32, copy=False), self.device)
        adapter = self.adapter_
        if adapter.mean is not None:
            found = found * adapter.scale + adapter.mean
        return found * self.length_


def _held_out(
    net: Any, averages: Tensor, targets: np.ndarray, temperature: float
) -> dict[str, float]:
    device = next(net.parameters()).device
    found = net(averages.to(device))
    return {
        "held_out_nce": info_nce(found, torch.from_numpy(targets).to(device), temperature).item()
    }
