"""Official checkpoints of SynBrain: encoders made from them, and written as them."""

import os
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.synbrain import checkpoint
from brainenc.encoders.synbrain.sizes import PUBLISHED_TRAINING
from brainenc.noise.trials import TrialDistribution
from brainenc.process_state import own_settings


class OfficialCheckpoints:
    """Part of `brainenc.SynBrainEncoder`: reading and writing checkpoints of the official code."""

    mapper_: Any
    vae_: Any

    @classmethod
    @own_settings()
    def from_official(
        cls,
        *,
        vae: str | os.PathLike,
        s2n: str | os.PathLike,
        n_voxels: int,
        features: Any = "auto",
        **parameters: Any,
    ) -> Any:
        """Make a fitted encoder from checkpoints of the official code.

        Parameters
        ----------
        vae, s2n : path
            ``last.pth`` of the autoencoder and ``last.pt`` of the mapper, whose moving average is
            used. No code in the files is run.
        n_voxels : int
            Number of voxels, in the order of the data the autoencoder was trained on.
        features, **parameters
            Parameters of the encoder; tokens must have the shape the mapper was trained on.

        Returns
        -------
        SynBrainEncoder

        Raises
        ------
        FileNotFoundError, ValueError : a file is missing, damaged or of another kind; the message
            names it.
        """
        if n_voxels < 1:
            raise ValueError(f"n_voxels={n_voxels!r} must be at least 1")
        encoder: Any = cls.published(features=features, **parameters)  # type: ignore[attr-defined]
        encoder._check_parameters()
        encoder.vae_, vae_sizes = checkpoint.read_vae(vae)
        encoder.mapper_, sizes = checkpoint.read_s2n(s2n)
        shape = (sizes["n_tokens"], sizes["width"])
        if shape != (vae_sizes["n_tokens"], vae_sizes["token_width"]):
            raise ValueError(
                f"{vae} has latents of shape {vae_sizes['n_tokens']} × {vae_sizes['token_width']}, "
                f"but {s2n} maps tokens of {shape[0]} × {shape[1]}: are they of one model?"
            )
        encoder.n_voxels_, encoder.betas_ndim_ = n_voxels, 3
        encoder.feature_shape_, encoder.n_features_in_ = list(shape), shape[0]
        if not (features is None or isinstance(features, str)):
            encoder.features_ = clone(features)  # extractors are not fitted to images
        encoder.undefined_ = np.zeros(n_voxels, dtype=bool)
        encoder.batch_size_ = encoder.batch_size or PUBLISHED_TRAINING["batch_size"]
        encoder.history_ = pd.DataFrame()
        encoder.sample_kind_ = encoder.sample_kind
        encoder.space_ = encoder.read_out_ = encoder.blend_ = encoder.linear_ = None
        encoder.trials_ = TrialDistribution.unknown(n_voxels)
        return encoder

    def to_official(self, *, vae: str | os.PathLike, s2n: str | os.PathLike) -> None:
        """Write the nets as official checkpoints, which `from_official` reads.

        Parameters
        ----------
        vae, s2n : path
            Existing files are replaced, atomically. The mapper's weights, here the moving average,
            are written as `model` and as `ema`.

        Raises
        ------
        ValueError : the encoder has ``s2n=False`` or the "mlp" architecture, which are not in the
            layout, or voxels are reordered, scaled, read out or blended, which the official code
            would not do.
        """
        check_is_fitted(self)
        found = {
            "linear_": "min_images",
            "space_": "standardize and voxel_order",
            "read_out_": "read_out",
            "blend_": "blend",
        }
        if wrong := [found[name] for name in found if getattr(self, name, None) is not None]:
            raise ValueError(
                "an official checkpoint holds an autoencoder and a mapper alone, which would "
                f"predict other responses than this encoder: it was fitted with {wrong}; fit "
                "SynBrainEncoder.published(), with sizes= of your choice"
            )
        if self.mapper_ is None:
            raise ValueError(
                "an official checkpoint holds a mapper, and this encoder was fitted with s2n=False"
            )
        checkpoint.write_vae(vae, self.vae_)
        checkpoint.write_s2n(s2n, self.mapper_)
