"""Activations of a layer of any torch module."""

import difflib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from brainenc.devices import resolve_device
from brainenc.documentation import see
from brainenc.features._weights import (
    ELSE,
    cached_on_disk,
    hub_reachable,
    module_hash,
    weights_hash,
)
from brainenc.features.base import FeatureExtractor
from brainenc.features.behaviour import behaviour
from brainenc.features.layout import ARRANGED, arranged, check_layout, find_layout
from brainenc.process_state import own_settings, state_lock, torch_seeded


class TorchFeatures(FeatureExtractor):
    """Activations of one layer of a torch module, with their axes in one order.

    Parameters
    ----------
    module : torch.nn.Module or str
        A module that takes a batch of images (b, channels, H, W), or the name of a timm model. A
        module runs in evaluation mode on `device` and is then restored.
    layer : str
        Dotted name, as in ``module.named_modules()``. Later layers are not run.
    preprocess : function, optional
        From a PIL image (RGB, or "L" for grey arrays) to a tensor (channels, H, W), deterministic;
        for example torchvision's ``weights.transforms()``. Models of timm have their own; others
        need one.
    pool : {"avg", "flatten", "tokens"}
        Conversion of an activation to features:

        =============================  ==========  ==============  ============
        activation of one image        "avg"       "flatten"       "tokens"
        =============================  ==========  ==============  ============
        vector (c)                     c           c               –
        feature maps (c, h, w)         c           c · h · w       (h · w, c)
        tokens (n, c)                  c           n · c           (n, c)
        =============================  ==========  ==============  ============

        Feature maps are in this order whatever the order of the network's axes (`layout`). The
        mean over tokens includes class and register tokens; without them, take "tokens" and leave
        them out by their positions.
    layout : str
        Order of the axes of the activation, a letter for each: N images, C channels, L tokens, H
        and W rows and columns; "NCHW", "NHWC", "NLC", "LNC", "NCL" or "NC" for example. "auto"
        finds it out by running the network on a few artificial images, and refuses to guess where
        these do not say it.
    pretrained : bool or path
        Only with a name: True for timm's weights, downloaded on first use, a checkpoint file, or
        False for random weights with a fixed seed.
    device : {"auto", "cpu", "cuda", "cuda:1", "mps"}
    batch_size : int
        Images per batch.
    store : path or FeatureStore, optional
        Store of computed features, keyed by the module's layers with their settings, its weights,
        and the results of `preprocess` for test images of several sizes, grey ones among them.
    verbose : bool
        Show a progress bar.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import brainenc
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.ReLU())
    >>> def preprocess(image):
    ...     return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    >>> images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    >>> extractor = brainenc.TorchFeatures(module, "1", preprocess=preprocess, pool="avg")
    >>> extractor.fit_transform(images).shape
    (2, 8)
    """

    def __init__(
        self,
        module: torch.nn.Module | str,
        layer: str,
        *,
        preprocess: Callable[[Image.Image], torch.Tensor] | None = None,
        pool: str = "avg",
        layout: str = "auto",
        pretrained: bool | str | os.PathLike = True,
        device: str = "auto",
        batch_size: int = 32,
        store: Any = None,
        verbose: bool = True,
    ):
        self.module = module
        self.layer = layer
        self.preprocess = preprocess
        self.pool = pool
        self.layout = layout
        self.pretrained = pretrained
        self.device = device
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    version = 2  # in version 1, channels-last activations were averaged over channels

    def key(self) -> dict[str, Any]:
        """See `FeatureExtractor.key`; weights by content, `preprocess` by effect."""
        module = self.network()
        return {
            **self._class_key(),
            "weights": module_hash(module),
            "layer": self.layer,
            "pool": self.pool,
            "layout": self.layout,
            "preprocess": behaviour(self._prepare(module), "preprocess"),
        }

    def weights(self) -> dict[str, str]:
        """See `FeatureExtractor.weights`: names, shapes and numbers of all weights."""
        module = self.network()
        if not isinstance(self.module, str):
            source = f"a {type(module).__name__}"
        elif isinstance(self.pretrained, bool):
            kind = "published" if self.pretrained else "random"
            source = f"the {kind} weights of timm's {self.module}"
        else:
            source = str(self.pretrained)
        return {"source": source, "checksum": weights_hash(module)}

    @torch.inference_mode()
    def _extract(self, batch: np.ndarray) -> np.ndarray:
        module, device = self.network(), resolve_device(self.device)
        images = self.images_on(module, batch)
        with state_lock(), evaluating(module, device):  # other extractors may have the module too
            images = images.to(device)
            return self.as_features(module, images, activation_at(module, self.layer, images))

    def as_features(
        self, module: torch.nn.Module, images: torch.Tensor, activation: torch.Tensor
    ) -> np.ndarray:
        """Features of a batch, from the layer's activation for the images as the module gets them.

        Parameters
        ----------
        module : torch.nn.Module
        images : tensor, shape (b, channels, H, W)
        activation : tensor, shape (b, ...)

        Returns
        -------
        array of float32, shape (b, n_features) or (b, n_tokens, width)
        """
        activation = arranged(activation, self._layout(module, images, activation))
        return pool_activation(activation, self.pool).float().cpu().numpy()

    def tensor_features(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images as tensors, through which gradients pass.

        Parameters
        ----------
        images : tensor, shape (n, channels, H, W)
            As `preparation` makes them.

        Returns
        -------
        tensor, shape (n, n_features) or (n, n_tokens, width)
        """
        module = self.network()
        images = _as_weights(images, module)
        with state_lock(), evaluating(module, images.device):
            activation = activation_at(module, self.layer, images)
            with torch.no_grad():
                layout = self._layout(module, images.detach(), activation.detach())
        return pool_activation(arranged(activation, layout), self.pool).float()

    def preparation(self) -> Callable[[Image.Image], torch.Tensor]:
        """What makes a tensor of a PIL image: `preprocess`, or the transform of a timm model."""
        module = self.network()
        if self.preprocess is None and getattr(module, "pretrained_cfg", None):
            import timm

            config = timm.data.resolve_model_data_config(module)
            with own_settings():
                transform: Any = timm.data.create_transform(**config, is_training=False)
            return transform
        return self._prepare(module)

    def images_on(self, module: torch.nn.Module, batch: np.ndarray) -> torch.Tensor:
        """A batch of images as the module takes them: prepared, in its precision."""
        prepare = self._prepare(module)
        images = torch.stack([prepare(Image.fromarray(image)) for image in batch])
        return _as_weights(images, module)

    def _layout(
        self, module: torch.nn.Module, images: torch.Tensor, activation: torch.Tensor
    ) -> str:
        """Axes of the activation: as given, or found out once per module, layer and image size."""
        shape = tuple(activation.shape)
        what = f"the activation of layer={self.layer!r}, {shape} for {len(images)} images"
        if activation.ndim not in ARRANGED:
            raise ValueError(
                f"{what}, has {activation.ndim} axes: choose a layer with two to four, such as "
                "(b, c), (b, n_tokens, c) or (b, c, h, w)"
            )
        given = check_layout(self.layout)
        if given is not None:
            if len(given) != len(shape) or shape[given.index("N")] != len(images):
                raise ValueError(f"{what}, is not in the layout={given!r} that was given")
            return given
        where = (id(module), self.layer, tuple(images.shape[1:]), len(shape))
        if getattr(self, "_found", (None,))[0] != where:
            try:
                layout = find_layout(
                    lambda probes: activation_at(module, self.layer, probes),
                    images,
                    activation,
                    module,
                )
            except ValueError as error:
                raise ValueError(f"{what}, cannot be used: {error}") from None
            self._found = (where, layout)
        return self._found[1]

    def network(self) -> torch.nn.Module:
        """The module itself, or the model of timm, built once."""
        if isinstance(self.module, torch.nn.Module):
            return self.module
        if not isinstance(self.module, str):
            raise TypeError(
                f"module is a {type(self.module).__name__}: give a torch.nn.Module or a timm name"
            )
        wanted = (self.module, str(self.pretrained))
        if getattr(self, "_loaded", (None,))[0] != wanted:
            with torch.inference_mode(False):  # or gradients could not pass its weights, later
                self._loaded = (wanted, build_timm(self.module, self.pretrained))
        return self._loaded[1]

    def _prepare(self, module: torch.nn.Module) -> Callable[[Image.Image], torch.Tensor]:
        if self.preprocess is not None:
            return self.preprocess
        if not getattr(module, "pretrained_cfg", None):
            raise ValueError(
                f"preprocess is needed for a {type(module).__name__}: a function of a PIL image "
                "that gives a tensor (channels, H, W), such as torchvision's weights.transforms()"
                + see("guide/features")
            )
        import timm

        config = timm.data.resolve_model_data_config(module)
        with own_settings():  # it has tensors of mean and s.d.
            transform = timm.data.create_transform(**config, is_training=False)
        return lambda image: transform(image.convert("RGB"))


def _as_weights(images: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    """Images in the precision of the module's weights, which its layers take no other than."""
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return images.to(next(floats, images.dtype)) if images.is_floating_point() else images


class _Reached(Exception):
    """Ends a forward pass at a layer and carries its activation."""

    def __init__(self, activation: Any):
        self.activation = activation


def activation_at(module: torch.nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    """Output of a layer; the forward pass ends there.

    Parameters
    ----------
    module : torch.nn.Module
    layer : str
        Dotted name of a submodule. If it runs several times, the first output is used.
    images : tensor, shape (b, channels, H, W)

    Returns
    -------
    tensor, shape (b, ...)

    Raises
    ------
    ValueError : unknown layer, or the layer is not run.
    TypeError : the layer's output is not a tensor.
    """
    layers = dict(module.named_modules())
    if layer not in layers:
        near = difflib.get_close_matches(layer, layers, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see named_modules()"
        raise ValueError(f"layer={layer!r} is not in this {type(module).__name__}; {hint}")

    def stop(_module: Any, _inputs: Any, output: Any) -> None:
        raise _Reached(output)

    hook = layers[layer].register_forward_hook(stop)
    try:
        module(images)
    except _Reached as reached:
        if not isinstance(reached.activation, torch.Tensor):
            raise TypeError(
                f"layer={layer!r} gives a {type(reached.activation).__name__} and not a tensor; "
                "choose a layer inside it"
            ) from None
        return reached.activation
    finally:
        hook.remove()
    raise ValueError(f"layer={layer!r} is not run when {type(module).__name__} is given images")


def pool_activation(activation: torch.Tensor, pool: str) -> torch.Tensor:
    """Activation as features, by the table in `TorchFeatures`.

    Parameters
    ----------
    activation : tensor, shape (b, c), (b, c, h, w) or (b, n_tokens, c)
    pool : {"avg", "flatten", "tokens"}

    Returns
    -------
    tensor, shape (b, n_features) or (b, n_tokens, width)

    Raises
    ------
    ValueError : unknown `pool`, another number of axes, or "tokens" of a vector.
    """
    if pool not in ("avg", "flatten", "tokens"):
        raise ValueError(f'pool={pool!r} must be "avg", "flatten" or "tokens"')
    if activation.ndim not in (2, 3, 4) or (activation.ndim == 2 and pool == "tokens"):
        raise ValueError(
            f"an activation of shape {tuple(activation.shape)} has no pool={pool!r}: it must be "
            "(b, c), (b, c, h, w) or (b, n_tokens, c), and for tokens one of the last two"
        )
    if pool == "flatten" or activation.ndim == 2:
        return activation.flatten(1)
    tokens = activation.flatten(2).mT if activation.ndim == 4 else activation
    return tokens.mean(1) if pool == "avg" else tokens


@contextmanager
def evaluating(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Module in evaluation mode on a device; restored on exit."""
    training = {part: part.training for part in module.modules()}
    tensors = [*module.parameters(), *module.buffers()]
    home = tensors[0].device if tensors else device
    try:
        module.to(device).eval()
        yield
    finally:
        module.to(home)
        for part, was_training in training.items():
            part.training = was_training


def build_timm(name: str, pretrained: bool | str | os.PathLike) -> torch.nn.Module:
    """Model of timm with random weights (False), published weights (True), or those of a file.

    Raises
    ------
    ImportError : timm is not installed.
    ValueError : unknown name, or the file does not contain this model's weights.
    FileNotFoundError : missing file; or the weights are not on this machine and cannot be
        downloaded.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"module={name!r} is not one of timm.list_models(){hint}")
    if not isinstance(pretrained, bool) and not Path(pretrained).is_file():
        raise FileNotFoundError(f"pretrained={str(pretrained)!r} is not a file with weights")
    # timm draws random weights first, and a worker or a later run must get the same ones.
    with own_settings(), torch_seeded(0):
        return _created(name, pretrained)


def _created(name: str, pretrained: bool | str | os.PathLike) -> torch.nn.Module:
    import timm

    if pretrained is False:
        return timm.create_model(name)
    if pretrained is True:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=_source(name))
    try:
        return timm.create_model(name, checkpoint_path=str(pretrained))
    except Exception as error:  # torch, pickle and safetensors raise different errors
        raise ValueError(
            f"{pretrained} cannot be loaded as weights of timm's {name}: {str(error)[:500]}"
        ) from error


def _source(name: str) -> dict[str, str]:
    """Source of the weights for timm: the cached file, if there is one."""
    import timm

    repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    if not repository:
        return {}
    cached = cached_on_disk(repository, ("model.safetensors", "pytorch_model.bin"))
    if cached is not None:
        return {"file": str(cached)}
    if hub_reachable():
        return {}
    raise FileNotFoundError(
        f"the weights of {name} ({repository}) are not on this machine and cannot be downloaded. "
        f"Ways on: give a checkpoint as pretrained=<local file>, {ELSE}" + see("guide/features")
    )
