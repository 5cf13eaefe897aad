"""Layers of a network: found in the order they run, and computed in one forward pass."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from brainenc.data.images import as_images, image_batches
from brainenc.devices import resolve_device
from brainenc.features.torch_module import TorchFeatures, activation_at, evaluating
from brainenc.features.untrained import find_networks, untrained
from brainenc.process_state import own_settings, state_lock
from brainenc.progress import progress

#: Containers whose parts count as layers, and not they themselves.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def network_layers(
    module: nn.Module | str, images: Any, layers: Any = None, **options: Any
) -> dict[str, TorchFeatures]:
    """Extractors of several layers of one network, in the order in which they run.

    `brainenc.layer_map` computes them in one forward pass.

    Parameters
    ----------
    module : torch.nn.Module or str
        As for `TorchFeatures`: a module, or the name of a timm model.
    images : images
        The network is run on the first, to find the order.
    layers : sequence of str, optional
        Dotted names. By default the parts of the network, with those of its containers
        (``nn.Sequential``, ``nn.ModuleList``, ``nn.ModuleDict``) in their place, that give a
        tensor of two to four axes: the blocks of most networks.
    **options
        Of `TorchFeatures`, such as ``preprocess`` and ``pool``.

    Returns
    -------
    dict of layer name to TorchFeatures, which share the module

    Raises
    ------
    ValueError : a layer that the network does not have, or that is not run.
    TypeError : a layer that gives no tensor.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import brainenc
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.ReLU())
    >>> def preprocess(image):
    ...     return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    >>> images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    >>> list(brainenc.network_layers(module, images, preprocess=preprocess))
    ['0', '1']
    """
    first = TorchFeatures(module, "", **options)
    network = first.network()
    batch = np.asarray(as_images(images)[:1])
    device = resolve_device(first.device)
    with state_lock(), own_settings(), evaluating(network, device), torch.inference_mode():
        prepared = first.images_on(network, batch).to(device)
        given = None if layers is None else list(layers)
        for layer in given or []:
            activation_at(network, layer, prepared)  # raises what is wrong with it
        order = _order(network, prepared, given)
    found = {}
    for layer in order:
        found[layer] = copy.copy(first).set_params(layer=layer, module=network)
    return found


def _order(network: nn.Module, images: torch.Tensor, layers: list[str] | None) -> list[str]:
    """Names of layers in the order in which they first give a tensor."""
    wanted = set(layers if layers is not None else parts_of(network))
    found: dict[str, None] = {}
    handles = []
    for name, part in network.named_modules():
        if name in wanted:

            def note(_m: Any, _i: Any, output: Any, name: str = name) -> None:
                given = layers is not None
                if isinstance(output, torch.Tensor) and (given or 2 <= output.ndim <= 4):
                    found[name] = None

            handles.append(part.register_forward_hook(note))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(found)


def parts_of(network: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the parts of a network; of a container, those of its parts."""
    for name, part in network.named_children():
        dotted = f"{prefix}{name}"
        if isinstance(part, _CONTAINERS):
            yield from parts_of(part, f"{dotted}.")
        else:
            yield dotted


def share_a_pass(extractors: Mapping[str, Any]) -> bool:
    """Whether several extractors differ in the layer of one network, its pool and layout only."""
    parts = list(extractors.values())
    if len(parts) < 2 or not all(type(part) is TorchFeatures for part in parts):
        return False
    names = ("module", "preprocess", "pretrained", "device", "batch_size", "store")
    return all(
        getattr(part, name) is getattr(parts[0], name)
        or (name != "module" and getattr(part, name) == getattr(parts[0], name))
        for part in parts[1:]
        for name in names
    )


def in_one_pass(
    extractors: Mapping[str, TorchFeatures], images: Any, narrow: Any = None, *, verbose: bool
) -> dict[str, np.ndarray]:
    """Features of images by several layers, each image given to the network once.

    Parameters
    ----------
    extractors : dict of name to TorchFeatures, for which `share_a_pass` holds
    images : images
    narrow : callable (name, array (b, ...)) -> array (b, n), optional
        Applied to each batch of features before the next one is computed.
    verbose : bool
        Show a progress bar over batches.

    Returns
    -------
    dict of name to array of float32, one row per image
    """
    first = next(iter(extractors.values()))
    network, device = first.network(), resolve_device(first.device)
    images = as_images(images)
    found: dict[str, np.ndarray] = {}
    starts = progress(range(0, len(images), first.batch_size), desc="layers", verbose=verbose)
    for start, batch in zip(starts, image_batches(images, first.batch_size), strict=True):
        with state_lock(), own_settings(), evaluating(network, device), torch.inference_mode():
            prepared = first.images_on(network, batch).to(device)
            for name, features in _layers_at(extractors, network, prepared).items():
                part = features if narrow is None else narrow(name, features)
                if name not in found:
                    found[name] = np.empty((len(images), *part.shape[1:]), np.float32)
                found[name][start : start + len(part)] = part
    for name, features in found.items():
        if not np.isfinite(features).all():
            raise ValueError(f"features of layer {name!r} are not finite")
    return found


def _layers_at(
    extractors: Mapping[str, TorchFeatures], network: nn.Module, images: torch.Tensor
) -> dict[str, np.ndarray]:
    """Features of all layers; each is taken when its layer ends, before later ones overwrite it."""
    modules = dict(network.named_modules())
    found: dict[str, torch.Tensor] = {}
    handles = []
    for name, extractor in extractors.items():

        def keep(_m: Any, _i: Any, output: Any, name: str = name) -> None:
            found.setdefault(name, output.clone())

        handles.append(modules[extractor.layer].register_forward_hook(keep))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    # Layouts are found by running the network, so after the hooks have gone.
    return {
        name: extractor.as_features(network, images, found[name])
        for name, extractor in extractors.items()
    }


def untrained_layers(extractors: Mapping[str, Any], random_state: int) -> dict[str, Any] | None:
    """The same layers with random weights; None if one of them has no network or random ones.

    Raises
    ------
    ValueError : weights of a layer that does not say how it is initialised.
    """
    if share_a_pass(extractors):
        other, _ = untrained(next(iter(extractors.values())), random_state)
        if other is None:
            return None
        network = other.network()
        return {
            name: copy.copy(extractor).set_params(module=network, store=None)
            for name, extractor in extractors.items()
        }
    networks = list(find_networks(extractors.values()))
    if len(networks) < len(extractors):
        return None
    found = {name: untrained(each, random_state)[0] for name, each in extractors.items()}
    return None if any(each is None for each in found.values()) else found
