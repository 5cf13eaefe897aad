"""ROITransformerEncoder: a learned query per ROI attends over image tokens."""

import os
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from brainenc.conversion import check_row_order, text_labels
from brainenc.data.voxels import atlas_columns, atlas_labels
from brainenc.encoders.ensemble import run_net, seeded
from brainenc.encoders.network import NetworkEncoder, Preset
from brainenc.encoders.tokens import TokenAdapter, principal_components
from brainenc.encoders.trained import MIN_IMAGES, Published
from brainenc.nets import ROIAttention
from brainenc.nets.losses import masked_squared_error
from brainenc.nets.roi_attention import grid_side
from brainenc.training import OneCycle, TrainingRun

PRESETS = {
    "auto": Preset(
        sizes={"hidden": 128, "n_heads": 16, "feed_forward": 128, "dropout": 0.2},
        training={
            "n_members": 2,
            "n_epochs": 12,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "weight_decay": 0.05,
        },
        settings={"schedule": OneCycle(), "clip_norm": 1.0},
    ),
    "published": Preset(
        sizes={"hidden": None, "n_heads": 16, "feed_forward": 1024, "dropout": 0.1},
        training={
            "n_members": 1,
            "n_epochs": 15,
            "batch_size": 16,
            "learning_rate": 5e-4,
            "weight_decay": 1e-4,
        },
        settings={"clip_norm": 0.1},
        as_published=True,
    ),
}

#: Name of the query of voxels outside every ROI.
REST = "rest"

#: Principal components of the responses that clustering uses.
N_COMPONENTS = 32


class ROITransformerEncoder(Published, NetworkEncoder):
    """A learned query per ROI attends over the tokens of an image; voxels are read out from it.

    A voxel's response is linear in the attended tokens of its ROI's query, so that `attention_maps`
    shows which parts of an image drive each ROI. Voxels outside every ROI share the query "rest".
    Targets are averages over repeats, z-scored per voxel; the loss leaves out missing values.

    Parameters
    ----------
    features : "auto", None or transformer
        Tokens (n_images, n_tokens, width), which are z-scored feature by feature. Pooled features
        (n_images, n_features) become one token, their leading principal components, to which every
        query attends with weight 1.
    rois : "auto", array, DataFrame or None
        Labels of voxels, (n_voxels,), missing or "" outside every ROI; or a voxel table, such as
        `EncodingData.voxels`, with a column of labels. None clusters voxels with similar responses.
        "auto" uses the voxel table that `with_voxels` gets (the benchmark calls it), else it
        clusters.
    atlas : str, optional
        Column of the table; the first atlas by default.
    hemispheres : bool
        One query per ROI and hemisphere, if the table has a column ``hemisphere``.
    n_clusters : int
        Clusters of voxels without ROIs.
    sizes : "auto", "published" or dict
        Network and training: "published" is the published layer and schedule, with one member;
        "auto" is smaller and trains in seconds on 600 images of 16 tokens. A dict replaces
        arguments of `brainenc.nets.ROIAttention` in "auto".
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
    members_ : list of brainenc.nets.ROIAttention
    blend_ : RidgeBlend or None
    net_share_ : array, shape (n_voxels,)
        Weight of the network in each voxel's blend; absent without one.
    linear_ : RidgeRegression or None
        Used instead of networks with fewer than `min_images` images.
    rois_ : list of str
        Name of each query: "V1v lh", "rest rh", "cluster 3".
    voxel_rois_ : array of int, shape (n_voxels,)
        Index of each voxel's query. `rois_` and `voxel_rois_` are absent with ridge.

    References
    ----------
    Adeli et al. (2025), Transformer brain encoders explain human high-level visual responses.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> tokens = rng.standard_normal((40, 4, 8)).astype("float32")  # 40 images of 4 tokens
    >>> betas = tokens[:, None, 0, :5] + rng.standard_normal((40, 2, 5))  # 2 repeats, 5 voxels
    >>> rois = ["V1", "V1", "V2", "V2", "V2"]
    >>> options = {"n_members": 2, "n_epochs": 1, "min_images": 20, "device": "cpu"}
    >>> encoder = brainenc.ROITransformerEncoder(rois=rois, **options).fit(tokens, betas)
    >>> encoder.rois_
    ['V1', 'V2']
    >>> encoder.attention_maps(tokens[:3]).shape  # 2 ROIs, a grid of 2 × 2 tokens
    (3, 2, 2, 2)
    """

    presets = PRESETS
    at_least: ClassVar = {"n_clusters": 1}
    own_weights: ClassVar = ("read_out.", "queries")
    saved_parts = (*NetworkEncoder.saved_parts, TokenAdapter, ROIAttention)

    def __init__(
        self,
        features: Any = "auto",
        *,
        rois: Any = "auto",
        atlas: str | None = None,
        hemispheres: bool = True,
        n_clusters: int = 12,
        sizes: Any = "auto",
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
        self.rois = rois
        self.atlas = atlas
        self.hemispheres = hemispheres
        self.n_clusters = n_clusters

    # ---------------------------------------------------------------- ROIs

    def with_voxels(self, voxels: pd.DataFrame) -> "ROITransformerEncoder":
        """Copy of the encoder, with the ROIs of a voxel table if `rois` is "auto".

        Parameters
        ----------
        voxels : DataFrame, one row per voxel
            As `EncodingData.voxels`. Without an atlas column, voxels will be clustered.

        Returns
        -------
        ROITransformerEncoder, unfitted
        """
        if not _is_auto(self.rois) or not (self.atlas or atlas_columns(voxels)):
            return self
        labels = roi_labels(voxels, self.atlas, self.hemispheres)
        return clone(self).set_params(rois=labels)

    def adapt(self, X: Any, y: Any, *, rois: Any = "auto") -> "ROITransformerEncoder":
        """Fit to a new subject, from this one's trunk; this encoder is unchanged.

        As `NetworkEncoder.adapt`; the query of an ROI starts from that of the same name.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject; the number of voxels may differ
        rois : as the parameter of that name
            ROIs of the new subject's voxels, for example its voxel table: the old labels belong to
            other voxels.

        Returns
        -------
        ROITransformerEncoder
        """
        check_is_fitted(self)
        new, how = self._adapting()
        new.set_params(rois=rois)._fit_all(X, y, **how)
        return new

    def _adapting(self) -> tuple[Any, dict[str, Any]]:
        new, how = super()._adapting()
        return new.set_params(rois="auto"), how  # the old labels belong to other voxels

    def _started(self, net: Any, source: Any, member: int, frozen: bool) -> Any:
        net = super()._started(net, source, member, frozen)
        theirs = source.members_[member % len(source.members_)].queries
        for k, name in enumerate(self.rois_):
            if name in source.rois_:
                net.queries.data[k] = theirs.data[source.rois_.index(name)]
        return net

    def attention_maps(self, X: Any) -> np.ndarray:
        """Attention of each ROI over the parts of each image.

        Parameters
        ----------
        X : images or features, as for `fit`
            With g² tokens, or g² + 1 of which the first is a class token. Pooled features are one
            token.

        Returns
        -------
        array, shape (n_images, n_rois, g, g), float32
            Attention of each query in `rois_`, mean over heads and members, without the class
            token; each map sums to 1.

        Raises
        ------
        ValueError : the tokens are not a square grid, or the encoder is ridge, fitted to fewer than
            `min_images` images.
        """
        check_is_fitted(self)
        if not self.members_:
            raise ValueError(
                f"fitted to fewer than min_images={self.min_images} images, the encoder is ridge "
                "and attends to nothing; lower min_images, or fit it to more images"
            )
        tokens = self._inputs(self._features_of(X))
        n_tokens = tokens.shape[1]
        side = grid_side(n_tokens)
        if side is None:
            raise ValueError(
                f"{n_tokens} tokens are no square grid, with or without a class token, so that "
                "attention has no map"
            )
        maps = np.mean(
            [run_net(net, tokens, self.device, call=net.attention) for net in self.members_], axis=0
        )[:, :, n_tokens - side**2 :]
        maps /= maps.sum(axis=2, keepdims=True)
        return maps.reshape(*maps.shape[:2], side, side)

    # ---------------------------------------------------------------- fitting

    def _train_net(
        self,
        features: np.ndarray,
        betas: np.ndarray,
        run: TrainingRun,
        options: dict[str, Any],
        **start: Any,
    ) -> np.ndarray:
        self._given_labels(betas.shape[2])  # raise before training
        return super()._train_net(features, betas, run, options, **start)

    def _given_labels(self, n_voxels: int) -> np.ndarray | None:
        """ROI label of each voxel from `rois`; None: voxels are to be clustered."""
        if self.rois is None or _is_auto(self.rois):
            return None
        if isinstance(self.rois, pd.DataFrame):
            labels = roi_labels(self.rois, self.atlas, self.hemispheres)
        elif np.ndim(self.rois) == 1:
            labels = _clean(self.rois)
        else:
            raise ValueError(
                f"rois={self.rois!r} must be 'auto', None, labels of shape (n_voxels,) or a table"
            )
        if len(labels) != n_voxels:
            raise ValueError(
                f"rois has labels of {len(labels)} voxels, but betas has {n_voxels} voxels; give "
                "the labels of these voxels, or rois=None to cluster them"
            )
        return labels

    def _prepare(self, inputs: np.ndarray, responses: np.ndarray, random_state: int) -> None:
        labels = self._given_labels(responses.shape[1])
        if labels is None:
            labels = response_clusters(responses, self.n_clusters, random_state)
        codes, names = pd.factorize(labels)
        self.rois_ = [str(name) for name in names]
        self.voxel_rois_ = codes.astype(np.int64)

    def _adapter(self, features: np.ndarray) -> TokenAdapter:
        return TokenAdapter.fit(features)

    def _inputs(self, features: np.ndarray) -> Any:
        return self.adapter_.tokens(features)

    def _make_net(self, shape: tuple[int, ...], sizes: dict[str, Any], random_state: int) -> Any:
        n_tokens, width = shape
        rois = self.voxel_rois_.tolist()
        return seeded(random_state, lambda: ROIAttention(n_tokens, width, rois, **sizes))

    def _loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return masked_squared_error(predictions, targets)


def roi_labels(voxels: pd.DataFrame, atlas: str | None, hemispheres: bool) -> np.ndarray:
    """Label of each voxel, (n_voxels,), such as "V1v lh", or "rest lh" outside every ROI.

    Parameters
    ----------
    voxels : DataFrame, one row per voxel
    atlas : str, optional
        Column with the labels; the first atlas by default.
    hemispheres : bool
        Split each ROI by the column ``hemisphere``, if there is one.

    Raises
    ------
    ValueError : the table lacks the column, or has no atlas.
    """
    columns = [atlas] if atlas is not None else atlas_columns(voxels)[:1]
    if not columns or columns[0] not in voxels:
        raise ValueError(
            f"rois has columns {list(voxels.columns)}, but "
            + ("no atlas of ROI labels" if atlas is None else f"no atlas {atlas!r}")
        )
    labels = _clean(atlas_labels(voxels, columns[0]))
    if hemispheres and "hemisphere" in voxels:
        sides = _clean(voxels["hemisphere"], "")
        labels = np.array(
            [f"{label} {side}".strip() for label, side in zip(labels, sides, strict=True)],
            dtype=object,
        )
    return labels


def _clean(labels: Any, missing: str = REST) -> np.ndarray:
    """Labels as strings, (n_voxels,); `missing` replaces missing and empty ones."""
    check_row_order(voxels=(), rois=labels)
    text = [label or missing for label in text_labels(labels, "rois")]
    return np.array(text, dtype=object)


def response_clusters(responses: np.ndarray, n_clusters: int, random_state: int) -> np.ndarray:
    """Cluster of each voxel, (n_voxels,), by correlated responses.

    Parameters
    ----------
    responses : array, shape (n_images, n_voxels)
        z-scored; NaN where an image has no data counts as the mean.
    n_clusters : int
        Number of k-means clusters of the voxels' loadings on the leading principal components; at
        most the number of voxels.
    random_state : int

    Returns
    -------
    array of str: "cluster 1", …
    """
    sd, directions = principal_components(np.nan_to_num(responses), N_COMPONENTS)
    loadings = (sd[:, None] * directions).T
    length = np.linalg.norm(loadings, axis=1, keepdims=True)
    profiles = loadings / np.where(length > 0, length, 1)
    n_clusters = min(n_clusters, len(np.unique(profiles, axis=0)))
    found = KMeans(n_clusters, n_init=4, random_state=random_state).fit_predict(profiles)
    return np.array([f"cluster {k + 1}" for k in found], dtype=object)


def _is_auto(rois: Any) -> bool:
    return isinstance(rois, str) and rois == "auto"
