"""Image embeddings and tokens of CLIP models, through open_clip."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import open_clip
import torch

from brainenc.devices import resolve_device
from brainenc.documentation import see
from brainenc.features import _clip_folder
from brainenc.features._clip_model import LoadedModel
from brainenc.features._weights import ELSE, cached_on_disk, file_hash, hub_reachable, reachable
from brainenc.features.base import FeatureExtractor
from brainenc.process_state import own_settings, torch_seeded
from brainenc.prompts import Template, check_prompts, in_templates, mean_direction
from brainenc.storage import fingerprint


class OpenCLIPFeatures(FeatureExtractor):
    """Features of a CLIP image tower.

    Parameters
    ----------
    model : str or path
        A name of `open_clip.list_models`; or, as for open_clip, ``"hf-hub:OWNER/MODEL"``,
        ``"local-dir:FOLDER"`` or the folder of a downloaded model, which have their own weights.
    pretrained : str or path
        With the name of a model: a tag of `open_clip.list_pretrained_tags_by_model(model)`,
        downloaded on first use and then cached, a checkpoint file, or the folder of a downloaded
        model.
    layer : {"pooled", "tokens"} or str
        "pooled" is the image embedding of `encode_image`, shape (n_images, embed_dim), projected.
        "tokens" are all tokens after the last block and its layer norm (``ln_post``), shape
        (n_images, n_tokens, width), *not* projected. If the model has a class token, it comes
        first, and ``[:, 1:]`` are the patches, row by row. Other names are those of layers of the
        image tower (``named_modules()``), such as "transformer.resblocks.5", whose tokens or
        feature maps become (n_images, n_tokens, width); later layers are not run.
    device : {"auto", "cpu", "cuda", "cuda:1", "mps"}
    precision : {"auto", "32", "bf16"}
        "auto" is 32-bit on every device, so that stored features agree between devices; "bf16" is
        faster on GPUs and has about 2-3 decimal digits.
    batch_size : int
        Images per batch.
    store : path or FeatureStore, optional
        Store of computed features. The network is not loaded if the store has all images.
    verbose : bool
        Show a progress bar.
    normalize : bool
        Divide the embedding, or each token, by its length. By default lengths are as the network
        gives them; published models of voxels on CLIP embeddings take unit length.

    Notes
    -----
    Images are prepared by open_clip's own `preprocess_val` of the model (resize, crop, normalise).
    The model uses QuickGELU if the weights of the tag were trained with it. Where
    ``open_clip_config.json`` lies beside a checkpoint file, its sizes, activation and preparation
    count, as for ``local-dir:``; a file without it is taken with open_clip's settings for a tag
    with this file's name, and else with the activation of the named model and CLIP's preparation.

    References
    ----------
    Radford et al. (2021), ICML; Cherti et al. (2023), CVPR (OpenCLIP).
    """

    def __init__(
        self,
        model: str | os.PathLike = "ViT-B-32",
        pretrained: str | os.PathLike = "laion2b_s34b_b79k",
        layer: str = "pooled",
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 64,
        store: Any = None,
        verbose: bool = True,
        normalize: bool = False,
    ):
        self.model = model
        self.pretrained = pretrained
        self.layer = layer
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose
        self.normalize = normalize

    def key(self) -> dict[str, Any]:
        """See `FeatureExtractor.key`; weights are identified by the content of their file.

        Raises
        ------
        ValueError, FileNotFoundError : as `transform`, if the weights are not available.
        """
        self._check()
        key = super().key()
        if not self.normalize:  # as in stores that were written before there was the choice
            del key["normalize"]
        source = find_source(self.model, self.pretrained)
        tag = source.tag
        found = {
            **key,
            "pretrained": file_hash(source.weights),
            "precision": "bf16" if self.precision == "bf16" else "32",
            # A tag has its own preprocessing; a file with the same weights does not.
            "preprocess": {k: tag[k] for k in (*_PREPROCESS, "quick_gelu") if k in tag},
        }
        if source.config is None:
            return found
        # What the configuration says, wherever the folder is.
        return {**found, "model": "open_clip_config.json", "preprocess": source.config}

    def weights(self) -> dict[str, str]:
        """See `FeatureExtractor.weights`: the file, by its content."""
        source = find_source(self.model, self.pretrained)
        loaded = getattr(self, "_loaded", None)  # in memory, even if the file was replaced since
        checksum = source.checksum() if loaded is None else loaded.checksum
        return {"source": str(source.weights), "checksum": checksum}

    def _check(self) -> None:
        if not isinstance(self.layer, str) or not self.layer:
            raise ValueError(
                f'layer={self.layer!r} must be "pooled", "tokens" or the name of a layer'
            )
        if not isinstance(self.normalize, (bool, np.bool_)):
            raise ValueError(f"normalize={self.normalize!r} must be True or False")
        if self.precision not in ("auto", "32", "bf16"):
            raise ValueError(f'precision={self.precision!r} must be "auto", "32" or "bf16"')

    def _extract(self, batch: np.ndarray) -> np.ndarray:
        self._check()
        # The extractor holds the model, so that it stays loaded for the next batch.
        self._loaded = load_model(self.model, self.pretrained, resolve_device(self.device))
        return self._loaded.features(
            batch, self.layer, bf16=self.precision == "bf16", normalize=bool(self.normalize)
        )

    def encode_text(
        self, prompts: Sequence[str], templates: Sequence[Template] | None = None
    ) -> np.ndarray:
        """Embeddings of text, in the space of pooled image embeddings.

        Parameters
        ----------
        prompts : sequence of str
        templates : sequence of str or of functions, optional
            Texts with one "{}", where the prompt goes, such as "a photo of a {}.", or functions
            from prompt to text, as ``open_clip.OPENAI_IMAGENET_TEMPLATES`` has. Embeddings of unit
            length are averaged over them. By default the prompt is the text.

        Returns
        -------
        array of float32, shape (n_prompts, embed_dim)
            Of unit length, whatever `normalize` is: text is compared by its direction.

        Raises
        ------
        TypeError, ValueError : prompts or templates are none; a text is longer than the model
            reads; `layer` is not "pooled", so that features are in another space; or the model's
            tokenizer cannot be had.
        """
        self._check()
        if self.layer != "pooled":
            raise ValueError(
                f'layer={self.layer!r} has no text: text embeddings are in the space of "pooled" '
                "features"
            )
        texts = in_templates(check_prompts(prompts), templates)
        self._loaded = load_model(self.model, self.pretrained, resolve_device(self.device))
        flat = [text for of_prompt in texts for text in of_prompt]
        found = self._loaded.text(flat, self.batch_size)
        return mean_direction(found.reshape(len(texts), -1, found.shape[1]))


#: Entries of a tag's configuration that define preprocessing.
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


# Extractors with equal weights on a device share one network, freed with the last of them.
_MODELS: WeakValueDictionary[tuple, LoadedModel] = WeakValueDictionary()


def load_model(
    model: str | os.PathLike, pretrained: str | os.PathLike, device: torch.device
) -> LoadedModel:
    """CLIP model with weights, shared if it is already loaded.

    Raises
    ------
    ValueError : unknown model or tag, or the file does not contain this model's weights.
    FileNotFoundError : the weights are not on this machine and cannot be downloaded.
    """
    source = find_source(model, pretrained)
    settings = fingerprint(source.config, {k: str(v) for k, v in source.tag.items()})
    checksum = source.checksum()
    identity = (str(model), str(pretrained), checksum, settings, str(device))
    # The random weights that it is made with stay out of others' draws.
    with own_settings(), torch_seeded(0):
        loaded = _MODELS.get(identity)
        if loaded is None:
            clip, preprocess = _create(source)
            clip.visual.to(device)  # the text tower follows when it is needed
            loaded = _MODELS[identity] = LoadedModel(
                clip.eval(), preprocess, device, checksum, source.model
            )
    return loaded


@dataclass(frozen=True)
class Source:
    """Weights, and what is known of how they were trained.

    Attributes
    ----------
    model : str
        Name of the model; ``local-dir:FOLDER`` with a configuration.
    weights : Path
    tag : dict
        Entry of open_clip's table of tags; may be empty.
    config : dict or None
        Content of ``open_clip_config.json``.
    """

    model: str
    weights: Path
    tag: dict[str, Any]
    config: dict[str, Any] | None = None

    def checksum(self) -> str:
        """Of the weights, and of the configuration if there is one."""
        weights = file_hash(self.weights)
        return weights if self.config is None else fingerprint(weights, self.config)


def find_source(model: str | os.PathLike, pretrained: str | os.PathLike) -> Source:
    """Weights of a model, downloaded if necessary, with their configuration.

    Raises
    ------
    ValueError : unknown model, a damaged configuration, or one of another model.
    FileNotFoundError : not on this machine, and not to be had; the message names the weights.
    """
    folder = _clip_folder.folder_of(model)
    if folder is not None:
        return _of_folder(folder, _clip_folder.weights_in(folder))
    model = os.fspath(model)
    tag = _tag_config(model, pretrained)
    if tag:
        return Source(model, _weights_of_tag(model, tag, pretrained), tag)
    path = Path(pretrained)
    if path.is_dir():
        path = _clip_folder.weights_in(path)
    if not path.is_file():
        raise FileNotFoundError(_no_such_weights(model, pretrained))
    source = _of_folder(path.parent, path)
    if source.config is None:
        return Source(model, path, _clip_folder.settings_of_file(model, path))
    _clip_folder.check_same_model(model, source.config, path.parent)
    return source


def _of_folder(folder: Path, weights: Path) -> Source:
    name = f"local-dir:{folder}"
    return Source(name, weights, {}, _clip_folder.configuration(folder))


def _create(source: Source) -> tuple[Any, Any]:
    try:
        if source.config is not None:
            its_own = source.weights.name in _clip_folder.PREFERRED and (
                source.weights == _clip_folder.weights_in(source.weights.parent)
            )
            clip, _, preprocess = open_clip.create_model_and_transforms(
                source.model, load_weights=its_own, pretrained_text=False
            )
            if not its_own:
                open_clip.load_checkpoint(clip, str(source.weights))
            return clip, preprocess
        clip, _, preprocess = open_clip.create_model_and_transforms(
            source.model,
            pretrained=str(source.weights),
            force_quick_gelu=bool(source.tag.get("quick_gelu")),
            **{f"image_{name}": source.tag.get(name) for name in _PREPROCESS},
        )
    except Exception as error:  # torch, pickle and safetensors raise different errors
        raise ValueError(
            f"{source.weights} cannot be loaded as weights of open_clip's {source.model}: "
            f"{str(error)[:500]}"
        ) from error
    return clip, preprocess


def weights_file(model: str | os.PathLike, pretrained: str | os.PathLike) -> Path:
    """File with the weights: local, cached or newly downloaded.

    Raises
    ------
    ValueError, FileNotFoundError : as `find_source`.
    """
    return find_source(model, pretrained).weights


def _weights_of_tag(model: str, tag: dict[str, Any], pretrained: str | os.PathLike) -> Path:
    where = tag.get("hf_hub") or tag.get("url", "")
    cached = _cached(tag)
    if cached is not None:
        return cached
    server_answers = hub_reachable() if tag.get("hf_hub") else reachable(where)
    error: Exception | str = "no connection to the server"
    if server_answers:
        try:
            return Path(open_clip.download_pretrained(tag))
        except Exception as failure:  # the error depends on the client
            error = failure
    raise FileNotFoundError(
        f"the weights of {model} with pretrained={str(pretrained)!r} ({where}) are not on this "
        f"machine and cannot be downloaded ({error}). Ways on: give the checkpoint as "
        f"pretrained=<local file>, {ELSE}" + see("guide/features")
    )


def _cached(tag: dict[str, Any]) -> Path | None:
    if not tag.get("hf_hub"):
        path = Path("~/.cache/clip").expanduser() / os.path.basename(tag.get("url", ""))
        # open_clip verifies cached files, without a network.
        return Path(open_clip.download_pretrained(tag)) if path.is_file() else None
    repository, name = os.path.split(tag["hf_hub"])
    if not name:
        names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    else:
        names = (f"{os.path.splitext(name)[0]}.safetensors", name)
    return cached_on_disk(repository, names)


def _tag_config(model: str, pretrained: str | os.PathLike) -> dict[str, Any]:
    """open_clip's entry for a tag of a model; empty if `pretrained` is not a tag of it."""
    known = open_clip.list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"model={model!r} is not one of open_clip.list_models(), no folder, and does not begin "
            f"with hf-hub: or local-dir:{hint}" + see("guide/features")
        )
    return dict(open_clip.get_pretrained_cfg(model, str(pretrained)) or {})


def _no_such_weights(model: str, pretrained: str | os.PathLike) -> str:
    tags = open_clip.list_pretrained_tags_by_model(model)
    return (
        f"pretrained={str(pretrained)!r} is neither a file nor a tag of {model}, whose tags are "
        f"{', '.join(tags) or '(none)'}. Give one of these, a local checkpoint file as "
        f"pretrained=<local file>, {ELSE}."
    )
