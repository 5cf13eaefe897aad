"""Read official SynBrain checkpoints without running code in them, and write them.

The layout is that of the released files: the autoencoder's ``last.pth`` holds `model`, whose keys
carry a ``module.`` prefix; the mapper's ``last.pt`` holds `model`, `ema` (the weights used at
inference) and `args`, an `argparse.Namespace` with the number of attention heads.
"""

import os
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from brainenc.nets.brainvae import BrainVAE
from brainenc.nets.s2n import S2N, Constant
from brainenc.process_state import state_lock
from brainenc.reading import check_archive
from brainenc.storage import atomic_path

Weights = dict[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)

VAE, MAPPER = "a SynBrain autoencoder checkpoint", "a SynBrain mapper checkpoint"
PREFIX = "module."


def read_vae(path: str | os.PathLike) -> tuple[BrainVAE, dict[str, Any]]:
    """Autoencoder of an official checkpoint (``last.pth``).

    Parameters
    ----------
    path : path
        No code in the file is run: only tensors, plain values and `argparse.Namespace` are read.

    Returns
    -------
    vae : BrainVAE
        float32, on the CPU.
    sizes : dict
        Its parameters, found from the shapes of the weights.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : the file is damaged, of another kind or contains code, or its weights are not
        finite or not those of BrainVAE. The message names the file and the reason.
    """
    with _naming(path, VAE):
        content = _load(path)
        weights = _weights(content, "model", path)
        if "encoder.conv_in.weight" not in weights:
            hint = "; it looks like the mapper's: use read_s2n" if "pos_embed" in weights else ""
            raise ValueError(f"its weights are not those of a BrainVAE{hint}")
        vae = _build(BrainVAE, _vae_sizes(weights), weights)
    return vae, dict(vae.sizes)


def read_s2n(
    path: str | os.PathLike, weights: str = "ema", n_heads: int | None = None
) -> tuple[S2N, dict[str, Any]]:
    """Mapper of an official checkpoint (``last.pt``).

    Parameters
    ----------
    path : path
        Nothing in the file is run: only tensors, plain values and `argparse.Namespace` are read.
    weights : {"ema", "model"}
        The moving average, used at inference, or the last step of training.
    n_heads : int, optional
        Attention heads, which the weights do not determine. By default ``args.model_head`` of the
        file.

    Returns
    -------
    s2n : S2N
        float32, on the CPU.
    sizes : dict
        Its parameters, found from the shapes of the weights.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : as `read_vae`; or the number of heads is missing or does not fit, or the mapper was
        not trained to predict the latent.
    """
    if weights not in ("ema", "model"):
        raise ValueError(f'weights={weights!r} must be "ema" or "model"')
    with _naming(path, MAPPER):
        content = _load(path)
        if weights not in content and "model" in content:
            _refuse_vae(_weights(content, "model", path))
        found = _weights(content, weights, path)
        _refuse_vae(found)
        if "pos_embed" not in found:
            raise ValueError("its weights are not those of an S2N mapper")
        arguments = _arguments(content)
        if (prediction := arguments.get("prediction", "x")) != "x":
            raise ValueError(f'args.prediction is {prediction!r}, but only "x" is supported')
        heads = _n_heads(arguments if n_heads is None else {"model_head": n_heads})
        s2n = _build(S2N, {**_s2n_sizes(found), "n_heads": heads}, found)
    return s2n, dict(s2n.sizes)


def write_vae(path: str | os.PathLike, vae: BrainVAE, *, epoch: int = 0) -> Path:
    """Write an autoencoder as an official checkpoint, atomically.

    Parameters
    ----------
    path : path
        A former file there is replaced.
    vae : BrainVAE
        Architecture "conv-attention", the only one of the layout.
    epoch : int
        Epochs trained.

    Returns
    -------
    pathlib.Path : `path`

    Raises
    ------
    ValueError : the "mlp" architecture.
    """
    if vae.sizes["architecture"] != "conv-attention":
        raise ValueError(
            f"vae has architecture={vae.sizes['architecture']!r}; the official checkpoints "
            'have only "conv-attention"'
        )
    content = {
        "epoch": epoch,
        "model": {PREFIX + key: weight for key, weight in _state(vae).items()},
        "optimizer": {},
        "train_losses": [],
        "val_losses": [],
        "test_losses": [],
        "lrs": [],
    }
    return _save(path, content)


def write_s2n(
    path: str | os.PathLike,
    s2n: S2N,
    ema: S2N | None = None,
    *,
    steps: int = 0,
    args: Mapping[str, Any] | None = None,
) -> Path:
    """Write a mapper as an official checkpoint, atomically.

    Parameters
    ----------
    path : path
        A former file there is replaced.
    s2n : S2N
    ema : S2N, optional
        The moving average of its weights; by default `s2n` itself.
    steps : int
        Steps trained.
    args : mapping, optional
        More entries of `args`, such as ``hidden_dim``; plain values.

    Returns
    -------
    pathlib.Path : `path`

    Raises
    ------
    ValueError : `fold_time` was applied, which removes weights of the layout, or the sizes of `ema`
        differ from those of `s2n`.
    """
    ema = s2n if ema is None else ema
    if isinstance(s2n.t_embedder, Constant) or isinstance(ema.t_embedder, Constant):
        raise ValueError("the time of this mapper is folded; pass the one that fold_time came from")
    if ema.sizes != s2n.sizes:
        raise ValueError(f"ema has sizes {ema.sizes}, but s2n {s2n.sizes}")
    known = {"model_depth": s2n.sizes["depth"], "model_head": s2n.sizes["n_heads"]}
    content = {
        "model": _state(s2n),
        "ema": _state(ema),
        "opt": {},
        "args": Namespace(**{**(args or {}), **known, "prediction": "x"}),
        "steps": steps,
    }
    return _save(path, content)


def _save(path: str | os.PathLike, content: dict[str, Any]) -> Path:
    # Through a file object: given a path, torch puts the temporary's name into the archive.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
    return Path(path)


def _state(net: nn.Module) -> Weights:
    return {key: weight.detach().cpu() for key, weight in net.state_dict().items()}


@contextmanager
def _naming(path: str | os.PathLike, kind: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as {kind}: {error}") from None


def _load(path: str | os.PathLike) -> dict[str, Any]:
    """Top level of a checkpoint; tensors stay in the file until they are copied."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    check_archive(path)
    try:
        # Warnings and torch's list of safe classes are those of the whole process.
        with (
            state_lock(),
            warnings.catch_warnings(),
            torch.serialization.safe_globals([Namespace]),
        ):
            warnings.simplefilter("ignore")  # about formats that are rejected below
            # Mapped: only one of the mapper's four sets of weights is read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file may raise any error
        raise ValueError(_reason(error)) from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dict with the key 'model'")
    return content


def _reason(error: Exception) -> str:
    """Reason of an error in torch.load, without its advice to read the file unsafely."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {found[1]}, which is not data; refused, and nothing of it was run"
    if found := re.search(r"WeightsUnpickler error: (.*)", text):
        text = found[1]
    # Only the first line, as the advice follows; some messages print whole tensors.
    first = next(iter(text.splitlines()), "") or type(error).__name__
    return f"damaged, or a file of another kind? {first[:200]}"


def _weights(content: Mapping[str, Any], key: str, path: str | os.PathLike) -> Weights:
    """State dict of that key, checked, with keys without the prefix."""
    found = content.get(key)
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"it has no weights {key!r}; its keys are {_listing(content)}")
    for name, weight in found.items():
        if not isinstance(name, str) or not _is_plain(weight):
            raise ValueError(f"{key}[{name!r}] is not a dense tensor of floats")
    # Strides of 0 can expand one number to terabytes.
    n_bytes = sum(weight.numel() * weight.element_size() for weight in found.values())
    if n_bytes > os.path.getsize(path):
        raise ValueError(f"its weights claim {n_bytes} bytes, more than the file has")
    for name, weight in found.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{key}[{name!r}] holds NaN or infinite values")
    if all(name.startswith(PREFIX) for name in found):
        return {name.removeprefix(PREFIX): weight for name, weight in found.items()}
    return dict(found)


def _is_plain(weight: Any) -> bool:
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.layout == torch.strided
        and weight.device.type == "cpu"
        and weight.is_floating_point()
    )


def _refuse_vae(weights: Weights) -> None:
    if "encoder.conv_in.weight" in weights:
        raise ValueError("it holds the autoencoder: use read_vae")


def _vae_sizes(weights: Weights) -> dict[str, Any]:
    n_channels = _shape(weights, "encoder.conv_in.weight", 3)[0]
    n_levels = _count(weights, r"encoder\.down\.(\d+)\.")
    n_halvings = _count(weights, r"encoder\.down\.(\d+)\.downsample\.")
    levels = [
        _shape(weights, f"encoder.down.{i}.block.0.conv1.weight", 3)[0] for i in range(n_levels)
    ]
    projector_width, length = _shape(weights, "pre_projector_mean.2.weight", 2)
    return {
        "n_tokens": _shape(weights, "encoder.conv_out.weight", 3)[0],
        "token_width": _shape(weights, "pre_projector_mean.8.weight", 2)[0],
        "pooled_length": length * 2**n_halvings,
        "n_halvings": n_halvings,
        "n_channels": n_channels,
        "channel_multipliers": tuple(level // n_channels for level in levels),
        "n_blocks": _count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
        "projector_width": projector_width,
    }


def _s2n_sizes(weights: Weights) -> dict[str, Any]:
    _, n_tokens, width = _shape(weights, "pos_embed", 3)
    return {
        "n_tokens": n_tokens,
        "width": width,
        "depth": _count(weights, r"blocks\.(\d+)\."),
        "mlp_ratio": _shape(weights, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "n_time_features": _shape(weights, "t_embedder.mlp.0.weight", 2)[1],
    }


def _shape(weights: Weights, key: str, n_dimensions: int) -> tuple[int, ...]:
    if key not in weights:
        raise ValueError(f"the weight {key} is missing")
    shape = tuple(weights[key].shape)
    if len(shape) != n_dimensions or 0 in shape:
        raise ValueError(f"the weight {key} {shape} must have {n_dimensions} dimensions, none of 0")
    return shape


def _count(weights: Weights, pattern: str) -> int:
    return len({found[1] for key in weights if (found := re.match(pattern, key))})


def _arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    args = content.get("args")
    return vars(args) if isinstance(args, Namespace) else {}


def _n_heads(arguments: Mapping[str, Any]) -> int:
    if "model_head" not in arguments:
        raise ValueError(
            "the number of attention heads is not in it (args.model_head); pass n_heads"
        )
    n_heads = arguments["model_head"]
    if not isinstance(n_heads, int) or isinstance(n_heads, bool):
        raise ValueError(f"the number of attention heads must be an int, not {n_heads!r:.50}")
    return n_heads


def _build(make: Callable[..., Net], sizes: Mapping[str, Any], weights: Weights) -> Net:
    """Net of these sizes and weights, without initialising or copying weights."""
    with torch.device("meta"):
        net = make(**sizes)
    _compare(net.state_dict(), weights)
    copies = {
        key: torch.empty(weight.shape, dtype=torch.float32).copy_(weight.detach())
        for key, weight in weights.items()
    }
    net.load_state_dict(copies, assign=True)
    return net


def _compare(expected: Mapping[str, Tensor], found: Weights) -> None:
    reshaped = [
        f"{key} {tuple(found[key].shape)} for {tuple(weight.shape)}"
        for key, weight in expected.items()
        if key in found and found[key].shape != weight.shape
    ]
    faults = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": reshaped,
    }
    if any(faults.values()):
        texts = [f"{fault}: {_listing(keys)}" for fault, keys in faults.items() if keys]
        raise ValueError("its weights do not fit the net; " + "; ".join(texts))


def _listing(keys: Any, most: int = 5) -> str:
    keys = [str(key)[:200] for key in keys]
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
