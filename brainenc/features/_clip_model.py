"""A CLIP model on its device: images and text to embeddings."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from brainenc.features.layout import ARRANGED, arranged, find_layout
from brainenc.features.torch_module import activation_at, pool_activation
from brainenc.process_state import state_lock


@dataclass(eq=False)
class LoadedModel:
    """A CLIP model on its device, which takes uint8 images."""

    clip: Any
    preprocess: Any
    device: torch.device
    #: Of the file that the weights were read from.
    checksum: str = ""
    #: Name by which open_clip finds the tokenizer.
    name: str = ""
    layouts: dict[Any, str] = field(default_factory=dict)

    @torch.inference_mode()
    def features(
        self, batch: np.ndarray, layer: str, bf16: bool, normalize: bool = False
    ) -> np.ndarray:
        """Pooled features or tokens of a batch of images, float32, perhaps of unit length."""
        with ThreadPoolExecutor() as pool:  # PIL works outside the interpreter's lock
            prepared = list(pool.map(lambda i: self.preprocess(Image.fromarray(i)), batch))
        images = torch.stack(prepared).to(self.device)
        # Extractors in other threads share the network, and with it the hook for tokens.
        with state_lock(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.tensor_features(images, layer, normalize).cpu().numpy()

    def tensor_features(
        self, images: torch.Tensor, layer: str, normalize: bool = False
    ) -> torch.Tensor:
        """Features of prepared images (n, 3, H, W), float32, through which gradients pass."""
        if layer in ("pooled", "tokens"):
            found = (self._tokens if layer == "tokens" else self._pooled)(images).float()
        else:
            found = self._at(layer, images).float()
        return torch.nn.functional.normalize(found, dim=-1) if normalize else found

    def text(self, texts: list[str], batch_size: int) -> np.ndarray:
        """Embeddings of texts, float32, shape (n_texts, embed_dim), not of unit length."""
        tokenizer = _tokenizer(self.name)
        _check_lengths(texts, tokenizer)
        with state_lock():
            # Until now only the image tower was there. Parameters that were moved in inference
            # mode could have no gradient later.
            self.clip.to(self.device)
            with torch.inference_mode():
                parts = [
                    self.clip.encode_text(tokenizer(texts[i : i + batch_size]).to(self.device))
                    for i in range(0, len(texts), batch_size)
                ]
        return torch.cat(parts).float().cpu().numpy()

    def _at(self, layer: str, images: torch.Tensor) -> torch.Tensor:
        """Output of a layer of the image tower, as (b, n_tokens, width) or (b, width)."""
        visual = self.clip.visual
        try:
            activation = activation_at(visual, layer, images)
        except ValueError as error:
            raise ValueError(
                f'layer={layer!r} must be "pooled", "tokens" or the name of a layer: {error}'
            ) from None
        if activation.ndim not in ARRANGED:
            raise ValueError(
                f"the activation of layer={layer!r}, {tuple(activation.shape)}, has "
                f"{activation.ndim} axes: choose a layer with two to four"
            )
        where = (layer, tuple(images.shape[1:]), activation.ndim)
        if where not in self.layouts:
            self.layouts[where] = find_layout(
                lambda probes: activation_at(visual, layer, probes), images, activation, visual
            )
        activation = arranged(activation, self.layouts[where])
        return activation if activation.ndim == 2 else pool_activation(activation, "tokens")

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        return self.clip.encode_image(images, normalize=False)

    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        norm = _token_norm(self.clip.visual)
        hook = None if norm is None else norm.register_forward_hook(lambda *io: seen.append(io[2]))
        if hook is not None:
            try:
                self.clip.encode_image(images, normalize=False)
            finally:
                hook.remove()
        if not seen or seen[0].ndim != 3:
            raise ValueError(
                'layer="tokens" needs a vision transformer with a layer norm over all tokens, '
                'which this model does not have; use layer="pooled", or TorchFeatures with the '
                "name of a layer"
            )
        return seen[0]


def _tokenizer(name: str) -> Any:
    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:  # of the hub, of a missing library
        raise ValueError(
            f"the tokenizer of {name} cannot be had: {str(error)[:300]}. Models whose text tower "
            "is not CLIP's own need the library transformers and a downloaded tokenizer"
        ) from error


def _check_lengths(texts: list[str], tokenizer: Any) -> None:
    """Refuse texts that the tokenizer would cut; those of other libraries do not say it."""
    if not hasattr(tokenizer, "encode"):
        return
    longest = tokenizer.context_length
    for text in texts:
        if (n := len(tokenizer.encode(text)) + 2) > longest:
            raise ValueError(
                f"the text {text[:60]!r} has {n} tokens, and this model reads {longest}: shorten it"
            )


def _token_norm(visual: torch.nn.Module) -> torch.nn.Module | None:
    """The layer norm after the last block, in open_clip's own towers and in those from timm."""
    return getattr(visual, "ln_post", None) or getattr(getattr(visual, "trunk", None), "norm", None)
