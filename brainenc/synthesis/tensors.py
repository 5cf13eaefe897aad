"""Feature extractors as functions of tensors, through which gradients pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainenc.data.images import LUMA, area_weights
from brainenc.devices import resolve_device
from brainenc.features.efficientnet_lite import CENTER, EfficientNetLiteFeatures
from brainenc.features.gabor import GaborPyramid
from brainenc.features.openclip import OpenCLIPFeatures, load_model
from brainenc.features.pixels import PixelFeatures
from brainenc.features.torch_module import TorchFeatures

#: From images (n, 3, H, W), RGB from 0 to 1, to features (n, ...).
TensorFeatures = Callable[[Tensor], Tensor]

#: Largest slope of a square root is 1 / (2 · this).
_SMALLEST_ROOT = 1e-4


#: Pixels may leave 0 … 1 by this much: round-off of single precision.
_OUTSIDE = 1e-4


def check_range(images: Tensor, what: str) -> None:
    """Raise ValueError for pixels outside of 0 … 1, or NaN; `what` begins the message."""
    if not images.numel():
        return
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    if not (low >= -_OUTSIDE and high <= 1 + _OUTSIDE):
        raise ValueError(
            f"{what} with pixels from {low:.4g} to {high:.4g}, which must be RGB from 0 to 1: "
            "divide 8-bit images by 255, and clamp what a generator makes, "
            "torch.sigmoid(x) or x.clamp(0, 1)"
        )


class BoundedRoot(torch.autograd.Function):
    """Square root whose gradient at 0 is large and not infinite."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The square root."""
        root = values.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Gradient, with roots below `_SMALLEST_ROOT` taken as that."""
        (root,) = ctx.saved_tensors
        return gradients[0] / (2 * root.clamp(min=_SMALLEST_ROOT))


def bounded_root(values: Tensor) -> Tensor:
    """Square root with a bounded gradient."""
    found: Tensor = BoundedRoot.apply(values)
    return found


class ClampInside(torch.autograd.Function):
    """Clamp to 0 … 1, through which gradients of ascent pass unless they lead further out.

    A plain clamp has no gradient at saturated pixels, which then never come back.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Values within 0 … 1."""
        ctx.save_for_backward(values)
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Gradient of ascent, 0 where a step along it would lead further out."""
        (values,) = ctx.saved_tensors
        gradient = gradients[0]
        outwards = ((values > 1) & (gradient > 0)) | ((values < 0) & (gradient < 0))
        return gradient.masked_fill(outwards, 0)


def tensor_features(
    extractor: Any, grey: bool, preprocess: Callable[[Tensor], Tensor] | None = None
) -> TensorFeatures:
    """An extractor as a differentiable function of images.

    Parameters
    ----------
    extractor : FeatureExtractor, fitted
    grey : bool
        It was fitted to grey images.
    preprocess : function of a tensor (n, 3, H, W), optional
        For `TorchFeatures` whose `preprocess` takes PIL images only.

    Raises
    ------
    TypeError : an extractor without gradients.
    ValueError : images are prepared by a function whose counterpart for tensors is unknown.
    """
    if isinstance(extractor, GaborPyramid):
        return lambda images: extractor.tensor_features(images, bounded_root)
    if isinstance(extractor, PixelFeatures):
        return lambda images: _pixels(extractor, images, grey)
    if isinstance(extractor, EfficientNetLiteFeatures):
        return lambda images: _efficientnet(extractor, images)
    if isinstance(extractor, OpenCLIPFeatures):
        return _openclip(extractor)
    if isinstance(extractor, TorchFeatures):
        return _of_module(extractor, preprocess)
    raise TypeError(
        f"{type(extractor).__name__} has no gradient with respect to images: fit the encoder with "
        "GaborPyramid, PixelFeatures, EfficientNetLiteFeatures, OpenCLIPFeatures or "
        "TorchFeatures, or use a search without gradients, which takes any function of images as "
        "the objective"
    )


def _pixels(extractor: PixelFeatures, images: Tensor, grey: bool) -> Tensor:
    values = images
    if grey or not extractor.color:
        values = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    if extractor.size is not None:
        size = extractor.size
        height, width = (size, size) if isinstance(size, int | np.integer) else size
        rows, columns = (
            images.new_tensor(area_weights(n, to))
            for n, to in ((images.shape[2], height), (images.shape[3], width))
        )
        values = rows @ values @ columns.T
    return values.permute(0, 2, 3, 1).flatten(1)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """As Pillow's bicubic filter with antialiasing: columns, then rows, each rounded to 8 bits.

    Gradients pass through the rounding.
    """
    for target in ((images.shape[2], size[1]), size):
        found = F.interpolate(images, target, mode="bicubic", antialias=True, align_corners=False)
        found = found.clamp(0, 1)
        images = found + ((255 * found).round() / 255 - found).detach()
    return images


def _efficientnet(extractor: EfficientNetLiteFeatures, images: Tensor) -> Tensor:
    if extractor.crop == "center":
        height, width = images.shape[2:]
        side = max(1, int(CENTER * min(height, width)))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        images = images[:, :, top : top + side, left : left + side]
    prepared = (255 * _resize(images, (224, 224)) - 127) / 128
    return extractor.tensor_features(prepared.contiguous(memory_format=torch.channels_last))


def _openclip(extractor: OpenCLIPFeatures) -> TensorFeatures:
    loaded = load_model(extractor.model, extractor.pretrained, resolve_device(extractor.device))
    prepare = on_tensors(loaded.preprocess)
    layer, normalize = extractor.layer, bool(extractor.normalize)
    return lambda images: loaded.tensor_features(prepare(images), layer, normalize)


def _of_module(
    extractor: TorchFeatures, preprocess: Callable[[Tensor], Tensor] | None
) -> TensorFeatures:
    prepare = preprocess or on_tensors(extractor.preparation())
    return lambda images: extractor.tensor_features(prepare(images))


#: Steps of a torchvision Compose that a tensor of RGB from 0 to 1 needs no longer.
_IDENTITIES = (
    *("ToTensor", "MaybeToTensor", "PILToTensor", "ToImage", "MaybePILToTensor"),
    *("_convert_to_rgb", "MaybeConvertMode", "to_tensor", "ensure_rgb"),
)


def on_tensors(preprocess: Any) -> Callable[[Tensor], Tensor]:
    """The counterpart for tensors (n, 3, H, W), RGB from 0 to 1, of a function of PIL images.

    Parameters
    ----------
    preprocess : torchvision's Compose, a Module, or ``to_tensor``

    Raises
    ------
    ValueError : another function.
    """
    name = getattr(preprocess, "__name__", type(preprocess).__name__)
    if name in _IDENTITIES:
        return lambda images: images
    if isinstance(getattr(preprocess, "transforms", None), list):
        steps = [on_tensors(step) for step in preprocess.transforms]

        def run(images: Tensor) -> Tensor:
            for step in steps:
                images = step(images)
            return images

        return run
    if name == "Resize":
        return lambda images: _resized_as(preprocess, images)
    if isinstance(preprocess, torch.nn.Module):
        return preprocess
    raise ValueError(
        f"images are prepared by {name}, a function of PIL images that has no gradient: give "
        "objective(..., preprocess=function) the same for a tensor (n, 3, H, W) of RGB from 0 to 1"
    )


def _resized_as(resize: Any, images: Tensor) -> Tensor:
    """Images of the size that torchvision's Resize makes, by Pillow's filter if it is bicubic."""
    if str(getattr(resize.interpolation, "value", resize.interpolation)) != "bicubic":
        return resize(images).clamp(0, 1)
    height, width = resize(images[:1].detach()).shape[2:]
    return _resize(images, (height, width))
