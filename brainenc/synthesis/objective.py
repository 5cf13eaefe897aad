"""objective: the mean predicted response of voxels as a differentiable function of images."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from brainenc.data.voxels import as_voxels, in_rois
from brainenc.encoders.base import BaseEncoder
from brainenc.synthesis.read_out import read_out
from brainenc.synthesis.tensors import check_range, tensor_features
from brainenc.validation import check_index

#: Largest difference from `predict`, in s.d. of the predictions of test pictures. Pillow rounds
#: resized images to 8 bits and torch does not, which explains a hundredth.
TOLERANCE = 0.05


class Objective(nn.Module):
    """Weighted mean of the predicted responses of some voxels, as a function of images.

    `objective` makes it.

    Parameters
    ----------
    features, responses : functions of tensors
        From images to features, and from features to the responses of the voxels.
    weights : tensor, shape (n_chosen,)
    image_shape : tuple of (height, width)
        Of the images that the encoder was fitted to.

    Attributes
    ----------
    difference : float
        Largest difference from the encoder's ``predict``, in s.d. of the predictions of test
        pictures.
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        responses: Callable[[Tensor], Tensor],
        weights: Tensor,
        image_shape: tuple[int, int],
    ):
        super().__init__()
        self._features, self._responses = features, responses
        self.image_shape = image_shape
        self.difference = 0.0
        self.weights: Tensor
        self.register_buffer("weights", weights)

    def responses(self, images: Tensor) -> Tensor:
        """Predicted responses of the voxels, (n, n_chosen), in units of the betas."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images {tuple(images.shape)}, {images.dtype}, must be a float tensor "
                "(n, 3, H, W) of RGB from 0 to 1"
            )
        check_range(images, "images are given")
        if 0 not in self.image_shape and tuple(images.shape[2:]) != self.image_shape:
            raise ValueError(
                f"images {tuple(images.shape)} have the size {tuple(images.shape[2:])}, and the "
                f"encoder was fitted to images of {self.image_shape}: resize them"
            )
        return self._responses(self._features(images.to(self.weights.dtype)))

    def forward(self, images: Tensor) -> Tensor:
        """Weighted mean of the responses of each image.

        Parameters
        ----------
        images : tensor of float, shape (n, 3, H, W)
            RGB from 0 to 1, of the size of the fit.

        Returns
        -------
        tensor, shape (n,), in units of the betas

        Raises
        ------
        ValueError : pixels outside of 0 … 1, or images of another size or kind.
        """
        return self.responses(images) @ self.weights

    def score(self, images: np.ndarray) -> np.ndarray:
        """Value of pictures (n, H, W, 3) in uint8, (n,)."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"images {images.shape}, {images.dtype}, must be pictures (n, H, W, 3) in uint8"
            )
        found = []
        with torch.no_grad():
            for first in range(0, len(images), 64):
                block = torch.from_numpy(np.ascontiguousarray(images[first : first + 64]))
                found.append(self(block.permute(0, 3, 1, 2).float() / 255).numpy())
        return np.concatenate(found)


def objective(
    encoder: Any,
    voxels: Any = None,
    *,
    rois: Any = None,
    weights: Any = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> Objective:
    """The predicted mean response of voxels as a ``torch.nn.Module``, equal to ``encoder.predict``.

    Parameters
    ----------
    encoder : BaseEncoder, fitted to images
        `RidgeEncoder`, `BandedRidgeEncoder` or `ROITransformerEncoder`, with features that have a
        gradient: `GaborPyramid`, `PixelFeatures`, `EfficientNetLiteFeatures`, `OpenCLIPFeatures`,
        `TorchFeatures`.
    voxels : mask, positions, or name of an ROI, optional
        Whose responses are averaged; all voxels with data by default.
    rois : voxel table, or labels (n_voxels,), optional
        For the name of an ROI; by default the voxel table of a loaded encoder.
    weights : array, shape (n_chosen,), optional
        Of the chosen voxels, in place of 1 / n_chosen: an area up and another down, for example.
    preprocess : function of a tensor (n, 3, H, W), optional
        Of `TorchFeatures`, whose own takes PIL images.

    Returns
    -------
    Objective
        Takes float RGB (n, 3, H, W) from 0 to 1 and gives one number per image, in units of the
        betas. ``objective.difference`` is its largest difference from ``predict`` for test
        pictures, in s.d. of their predictions.

    Raises
    ------
    TypeError : an encoder or features without gradient.
    ValueError : no such voxels, voxels without data, or a module whose values differ from
        ``predict`` by more than .05 s.d.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    >>> betas = images.mean(axis=(1, 2))[:, None] + np.random.default_rng(1).normal(size=(40, 2, 3))
    >>> encoder = brainenc.RidgeEncoder(brainenc.PixelFeatures(4, verbose=False)).fit(images, betas)
    >>> drive = brainenc.synthesis.objective(encoder, [0])
    >>> pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    >>> bool(np.allclose(drive(pixels).numpy(), encoder.predict(images)[:, 0], atol=1e-3))
    True
    """
    if not isinstance(encoder, BaseEncoder):
        raise TypeError(f"encoder must be a fitted brainenc encoder, got {type(encoder).__name__}")
    check_is_fitted(encoder)
    chosen = _chosen(encoder, voxels, rois)
    if weights is None:
        weights = np.full(len(chosen), 1 / len(chosen))
    weights = np.asarray(weights, dtype=np.float32)
    if weights.shape != chosen.shape or not np.isfinite(weights).all():
        raise ValueError(
            f"weights {weights.shape} must have one finite number for each of the {len(chosen)} "
            "voxels"
        )
    extractor = getattr(encoder, "features_", None)
    if extractor is None:
        raise TypeError(
            f"this {type(encoder).__name__} was fitted to features and not to images, so it has no "
            "function of images: give it an extractor, such as features=brainenc.GaborPyramid()"
        )
    features, shape = _features(extractor, preprocess)
    found = Objective(
        features,
        read_out(encoder, chosen),
        torch.from_numpy(weights),
        (shape[0], shape[1]),
    )
    found.difference = _difference(found, encoder, chosen, shape)
    if not found.difference <= TOLERANCE:
        raise ValueError(
            f"the module differs from predict by {found.difference:.2g} s.d. of the predictions of "
            f"test pictures, more than {TOLERANCE}: its preprocess does not do what that of the "
            "extractor does"
        )
    return found


def _features(
    extractor: Any, preprocess: Callable[[Tensor], Tensor] | None
) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    """Function of images of an extractor, or of a dict of them side by side; shape of an image."""
    parts = list(extractor.values()) if isinstance(extractor, Mapping) else [extractor]
    shape = next((e.image_shape_ for e in parts if hasattr(e, "image_shape_")), (0, 0, 3))
    functions = [tensor_features(part, len(shape) == 2, preprocess) for part in parts]
    if not isinstance(extractor, Mapping):
        return functions[0], shape
    return lambda images: torch.cat([f(images).flatten(1) for f in functions], dim=1), shape


def _chosen(encoder: Any, voxels: Any, rois: Any) -> np.ndarray:
    n_voxels = encoder.n_voxels_
    known = np.isfinite(encoder.training_mean_)
    if voxels is None:
        return np.flatnonzero(known)
    if isinstance(voxels, str):
        rois = getattr(encoder, "voxels_", None) if rois is None else rois
        if rois is None:
            raise ValueError(
                f"voxels={voxels!r} names an ROI: give rois=data.voxels, the table with the labels"
            )
        table = rois if isinstance(rois, pd.DataFrame) else pd.DataFrame({"roi": np.asarray(rois)})
        voxels = in_rois(as_voxels(table, n_voxels), voxels)
    chosen = check_index(voxels, n_voxels, "voxels")
    if not known[chosen].all():
        raise ValueError(f"voxels has {int((~known[chosen]).sum())} voxels without data")
    return chosen


def _difference(
    found: Objective, encoder: Any, chosen: np.ndarray, shape: tuple[int, ...]
) -> float:
    """Largest difference from `predict`, in s.d. over test pictures."""
    pictures = probes((shape[0], shape[1]))
    given = pictures if len(shape) == 3 else np.ascontiguousarray(pictures[..., 0])
    predicted = encoder.predict(given).reshape(len(given), -1)[:, chosen] @ found.weights.numpy()
    if len(shape) == 2:
        pictures = np.repeat(given[..., None], 3, axis=-1)
    sd = predicted.std()
    return float(np.abs(found.score(pictures) - predicted).max() / (sd if sd > 0 else 1))


def probes(shape: tuple[int, int]) -> np.ndarray:
    """Eight textures of several contrasts, (8, H, W, 3), grey in the first channel's sense."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(shape[1]), np.fft.fftfreq(shape[0])))
    spectrum = np.fft.fft2(rng.standard_normal((8, 3, *shape))) / (frequency + 1 / max(shape))
    texture = np.fft.ifft2(spectrum).real
    texture -= texture.mean(axis=(2, 3), keepdims=True)
    texture *= np.linspace(10, 60, 8)[:, None, None, None] / texture.std(axis=(2, 3), keepdims=True)
    pixels = np.clip(127 + texture, 0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
