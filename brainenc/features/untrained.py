"""Copies of feature extractors with random weights, as controls of what training has added."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from sklearn.base import clone

from brainenc.features.base import FeatureExtractor
from brainenc.features.transformed import WrappedFeatures
from brainenc.identity import identity
from brainenc.late_imports import if_imported
from brainenc.process_state import torch_seeded

#: Packages whose layers keep weights in parameters of their own, drawn so small: class tokens,
#: embeddings of positions.
_SMALL = 0.02


def find_networks(features: Iterable[Any]) -> Iterator[Any]:
    """Those of several transformers that contain a network."""
    for transformer in features:
        if any(_is_network(part) for part in _extractors(transformer)):
            yield transformer


def _extractors(transformer: Any) -> Iterator[Any]:
    if isinstance(transformer, if_imported("sklearn.pipeline", "Pipeline")):
        parts = [step for _, step in transformer.steps]
    elif isinstance(transformer, if_imported("sklearn.pipeline", "FeatureUnion")):
        parts = [part for _, part in transformer.transformer_list]
    elif isinstance(transformer, WrappedFeatures):
        parts = [transformer.extractor]
    else:
        parts = []
        yield transformer
    for part in parts:
        yield from _extractors(part)


def _is_network(extractor: Any) -> bool:
    """Whether an extractor runs a network: without importing torch to find out."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(extractor).__mro__}
    ours = (
        "torch_module.TorchFeatures",
        "openclip.OpenCLIPFeatures",
        "efficientnet_lite.EfficientNetLiteFeatures",
    )
    return any(f"brainenc.features.{name}" in kinds for name in ours)


def untrained(features: Any, random_state: int) -> tuple[Any, str]:
    """Copy of a transformer whose networks have random weights, and the networks' names.

    Parameters
    ----------
    features : transformer with a network, as `find_networks` gives it
    random_state : int
        Seed of the weights.

    Returns
    -------
    transformer or None
        None if all weights are random in the first place.
    str : such as "resnet50"

    Raises
    ------
    ValueError : weights of a layer that does not say how it is initialised.
    """
    names: list[str] = []

    def changed(part: Any) -> Any:
        if isinstance(part, if_imported("sklearn.pipeline", "Pipeline")):
            found = clone(part)
            found.steps = [(name, changed(step)) for name, step in part.steps]
            return found
        if isinstance(part, if_imported("sklearn.pipeline", "FeatureUnion")):
            found = clone(part)
            found.transformer_list = [(name, changed(p)) for name, p in part.transformer_list]
            return found
        if isinstance(part, WrappedFeatures):
            return clone(part).set_params(extractor=changed(part.extractor))
        if not _is_network(part):
            return part if part is None or isinstance(part, str) else clone(part)
        other, name = _untrained_network(part, random_state)
        if other is not None:
            names.append(name)
        return part if other is None else other

    found = changed(features)
    return (found if names else None), " and ".join(dict.fromkeys(names))


def _untrained_network(extractor: Any, random_state: int) -> tuple[Any, str]:
    from brainenc.features.efficientnet_lite import EfficientNetLiteFeatures
    from brainenc.features.torch_module import TorchFeatures

    if isinstance(extractor, EfficientNetLiteFeatures):
        if not extractor.pretrained:
            return None, ""
        return clone(extractor).set_params(pretrained=False), "EfficientNet-Lite0"
    if not isinstance(extractor, TorchFeatures):
        return UntrainedCLIP(clone(extractor), random_state), str(extractor.model)
    if isinstance(extractor.module, str):
        if extractor.pretrained is False:
            return None, ""
        return clone(extractor).set_params(pretrained=False), extractor.module
    module = extractor.module
    if not any(True for _ in module.parameters()):
        return None, ""
    other = reinitialised(module, random_state)
    # timm's models know how images are prepared for them, and so does the copy.
    return clone(extractor).set_params(module=other), type(module).__name__


def reinitialised(module: Any, random_state: int) -> Any:
    """Copy of a network with weights as its layers draw them at first.

    Parameters
    ----------
    module : torch.nn.Module
        It is not changed.
    random_state : int

    Raises
    ------
    ValueError : weights that belong to a layer without ``reset_parameters``, of a class of the
        user's own: how they are drawn is not known.
    """
    import torch

    with torch_seeded(random_state), torch.no_grad():
        found = copy.deepcopy(module)
        for name, layer in found.named_modules():
            reset = getattr(layer, "reset_parameters", None) or getattr(
                layer, "_reset_parameters", None
            )
            own = dict(layer.named_parameters(recurse=False))
            if callable(reset):
                reset()
                own = {}
            if own and "code" in identity(type(layer)):
                raise ValueError(
                    f"{type(layer).__name__}{f' at {name!r}' if name else ''} has weights "
                    f"({', '.join(own)}) and no method reset_parameters() that draws them anew: "
                    "add one"
                )
            for key, weights in own.items():
                if "bias" in key:
                    weights.zero_()
                elif "gamma" not in key and "scale" not in key:  # these multiply what passes
                    weights.normal_(0, _SMALL)
    return found


class UntrainedCLIP(FeatureExtractor):
    """Features of a CLIP image tower with random weights; see `untrained`.

    Parameters
    ----------
    extractor : OpenCLIPFeatures
        Architecture, layer, and how images are prepared.
    random_state : int
    """

    def __init__(
        self,
        extractor: Any,
        random_state: int = 0,
        *,
        batch_size: int = 64,
        store: Any = None,
        verbose: bool = True,
    ):
        self.extractor = extractor
        self.random_state = random_state
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def key(self) -> dict[str, Any]:
        """As `FeatureExtractor.key`: that of the extractor, with the seed."""
        return {**self.extractor.key(), "untrained": self.random_state}

    def _extract(self, batch: Any) -> Any:
        if not hasattr(self, "_loaded"):
            self._loaded = self._network()
        bf16 = self.extractor.precision == "bf16"
        return self._loaded.features(
            batch, self.extractor.layer, bf16=bf16, normalize=self.extractor.normalize
        )

    def _network(self) -> Any:
        from brainenc.devices import resolve_device
        from brainenc.features._clip_model import LoadedModel
        from brainenc.features.openclip import load_model

        device = resolve_device(self.extractor.device)
        loaded = load_model(self.extractor.model, self.extractor.pretrained, device)
        clip = copy.copy(loaded.clip)  # the text tower is shared, and never run
        clip._modules = dict(clip._modules) | {
            "visual": reinitialised(loaded.clip.visual.cpu(), self.random_state).to(device)
        }
        loaded.clip.visual.to(device)
        return LoadedModel(clip.eval(), loaded.preprocess, device)
