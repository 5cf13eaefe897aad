"""MindReaderEncoder: convolutions over an image embedding, to voxels."""

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from brainenc.arrays import row_blocks, varies
from brainenc.encoders.ensemble import seeded
from brainenc.encoders.network import NetworkEncoder, Preset
from brainenc.encoders.trained import MIN_IMAGES, Published
from brainenc.nets import MindReaderNet, mind_reader_loss
from brainenc.training import Cosine, StepDecay

PRESETS = {
    "auto": Preset(
        sizes={"n_channels": 16, "n_blocks": 1, "hidden": 256, "dropout": 0.3},
        training={
            "n_members": 3,
            "n_epochs": 12,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "weight_decay": 0.05,
        },
        settings={"schedule": Cosine(), "clip_norm": 1.0},
    ),
    "published": Preset(
        sizes={},
        training={
            "n_members": 1,
            "n_epochs": 40,
            "batch_size": 32,
            "learning_rate": 2e-4,
            "weight_decay": 1e-5,
        },
        settings={"optimizer": "adam", "schedule": StepDecay(every=10, gamma=0.8)},
        as_published=True,
    ),
}

#: Features of which more than this share would be clipped are on another scale than CLIP's.
MOST_CLIPPED = 0.01


@dataclass(frozen=True)
class EmbeddingAdapter:
    """Features to the network's input signal, (n_images, width), float32.

    Tokens are averaged, values clipped to ±`clip`, and vectors divided by their length. Then,
    unless `mean` is None, each feature is z-scored over the images of the fit.
    """

    clip: float | None
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None

    @classmethod
    def fit(cls, features: np.ndarray, clip: Any, standardize: bool) -> "EmbeddingAdapter":
        """Adapter for features (n_images, width) or (n_images, n_tokens, width)."""
        pooled = _pooled(features)
        if clip == "auto":
            clip = 1.5 if (np.abs(pooled) > 1.5).mean() <= MOST_CLIPPED else None
        adapter = cls(clip)
        if not standardize:
            return adapter
        embeddings = adapter.transform(pooled)
        mean, sd = embeddings.mean(0, dtype=np.float64), embeddings.std(0, dtype=np.float64)
        scale = np.where(varies(mean, sd), sd, 1)
        return cls(clip, mean.astype(np.float32), scale.astype(np.float32))

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Embeddings of new features."""
        x = _pooled(features)
        if self.clip is not None:
            x = np.clip(x, -self.clip, self.clip)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(length > 0, length, 1)
        return x if self.mean is None else (x - self.mean) / self.scale


def _pooled(features: np.ndarray) -> np.ndarray:
    if features.ndim == 2:
        return features.astype(np.float32, copy=False)
    dtype = np.result_type(features.dtype, np.float32)  # half precision would round the mean
    pooled = [block.mean(axis=1, dtype=dtype) for block in row_blocks(features)]
    return np.concatenate(pooled).astype(np.float32, copy=False)


class MindReaderEncoder(Published, NetworkEncoder):
    """Mind Reader's encoding model: a convolutional network from an image embedding to voxels.

    The pooled embedding (tokens are averaged) is clipped and divided by its length. A residual
    convolutional network reads it as a signal of one channel; the loss is a weighted sum of squared
    error and cosine distance. Targets are averages over repeats, z-scored per voxel; the loss
    leaves out missing values.

    Parameters
    ----------
    features : "auto", None or transformer
        Pooled features (n_images, width) or tokens (n_images, n_tokens, width), which are averaged;
        "auto" takes float arrays as they are and computes OpenCLIP features of images.
    sizes : "auto", "published" or dict
        Network and training: "published" is the published network and schedule, with one member;
        "auto" is smaller and trains in seconds on 600 images. A dict replaces arguments of
        `brainenc.nets.MindReaderNet` in "auto".
    clip : "auto", float or None
        Features are first clipped to ±`clip`; published: 1.5, for CLIP embeddings. "auto" is 1.5 if
        it clips at most 1 % of the values, as with CLIP, else None. ``adapter_.clip`` is the value
        used.
    standardize : "auto" or bool
        z-score each feature over the images after the division by the length. "auto" does so
        unless `sizes` is "published".
    mse_weight, cosine_weight : float
        Weights of the squared error and of the cosine distance across voxels of each image.
    blend : "auto", "ridge" or None
        "ridge": in each voxel the prediction is a convex blend of mean, ridge on the same features
        and network, with weights chosen on held-out images. "auto" is "ridge", but None, the
        network alone, with ``sizes="published"``.
    min_images, n_members, n_epochs
        As for `brainenc.encoders.network.NetworkEncoder`: with fewer than `min_images` images ridge
        is fitted, with a warning; `n_members` networks are averaged.
    batch_size, learning_rate, weight_decay : optional
        Training parameters; None: those of the preset.
    device, precision, checkpoint_dir, random_state, verbose
        As for `brainenc.encoders.trained.TrainedEncoder`.

    Attributes
    ----------
    history_ : DataFrame
        One row per evaluation of every `member`, with `held_out_r`, the mean over voxels of r
        across its held-out images; the weights with the largest are kept. Empty with ridge.
    members_ : list of brainenc.nets.MindReaderNet
    blend_ : RidgeBlend or None
    net_share_ : array, shape (n_voxels,)
        Weight of the network in each voxel's blend; absent without one.
    linear_ : RidgeRegression or None
        Used instead of networks with fewer than `min_images` images.
    adapter_ : EmbeddingAdapter
        Makes the network's inputs from features.

    References
    ----------
    Lin, Sprague & Singh (2022), Mind Reader, NeurIPS 35.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> tokens = rng.standard_normal((40, 4, 8)).astype("float32")  # 40 images of 4 tokens
    >>> betas = tokens[:, None, 0, :5] + rng.standard_normal((40, 2, 5))  # 2 repeats, 5 voxels
    >>> options = {"n_members": 2, "n_epochs": 1, "min_images": 20, "device": "cpu"}
    >>> sizes = {"n_channels": 4, "n_blocks": 1, "hidden": 16}
    >>> encoder = brainenc.MindReaderEncoder(sizes=sizes, **options)
    >>> encoder.fit(tokens, betas).predict(tokens[:3]).shape
    (3, 5)
    >>> len(encoder.members_)
    2
    """

    presets = PRESETS
    at_least: ClassVar = {"mse_weight": 0.0, "cosine_weight": 0.0}
    saved_parts = (*NetworkEncoder.saved_parts, EmbeddingAdapter, MindReaderNet)

    def __init__(
        self,
        features: Any = "auto",
        *,
        sizes: Any = "auto",
        clip: Any = "auto",
        standardize: Any = "auto",
        mse_weight: float = 0.4,
        cosine_weight: float = 0.6,
        blend: str | None = "auto",
        min_images: int = MIN_IMAGES,
        n_members: int | None = None,
        n_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: int | None = 0,
        verbose: bool = False,
    ):
        super().__init__(
            features,
            sizes=sizes,
            blend=blend,
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
        self.clip = clip
        self.standardize = standardize
        self.mse_weight = mse_weight
        self.cosine_weight = cosine_weight

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.clip != "auto" and self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip!r} must be 'auto', None or more than 0")

    def _adapter(self, features: np.ndarray) -> EmbeddingAdapter:
        standardize = self.sizes != "published" if self.standardize == "auto" else self.standardize
        return EmbeddingAdapter.fit(features, self.clip, standardize)

    def _make_net(self, shape: tuple[int, ...], sizes: dict[str, Any], random_state: int) -> Any:
        return seeded(random_state, lambda: MindReaderNet(shape[0], len(self.mean_), **sizes))

    def _loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return mind_reader_loss(
            predictions, targets, mse_weight=self.mse_weight, cosine_weight=self.cosine_weight
        )
