"""Read official SynBrain checkpoints without running code in them, and write them.

The layout is that of the released files: the autoencoder's ``last.pth`` holds `model`, whose keys
carry a ``module.`` prefix; the mapper's ``last.pt`` holds `model`, `ema` (the weights used at
inference) and `args`, an `argparse.Namespace` with the number of attention heads.
"""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brainenc.encoders.checkpoint_files import (
    PREFIX,
    Weights,
    build,
    count,
    load_checkpoint,
    naming,
    shape_of,
    state_dict_of,
)
from brainenc.nets.brainvae import BrainVAE
from brainenc.nets.s2n import S2N, Constant
from brainenc.storage import atomic_path

VAE, MAPPER = "a SynBrain autoencoder checkpoint", "a SynBrain mapper checkpoint"


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
    with naming(path, VAE):
        content = load_checkpoint(path)
        weights = state_dict_of(content, "model", path)
        if "encoder.conv_in.weight" not in weights:
            hint = "; it looks like the mapper's: use read_s2n" if "pos_embed" in weights else ""
            raise ValueError(f"its weights are not those of a BrainVAE{hint}")
        vae = build(BrainVAE, _vae_sizes(weights), weights)
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
    with naming(path, MAPPER):
        content = load_checkpoint(path)
        if weights not in content and "model" in content:
            _refuse_vae(state_dict_of(content, "model", path))
        found = state_dict_of(content, weights, path)
        _refuse_vae(found)
        if "pos_embed" not in found:
            raise ValueError("its weights are not those of an S2N mapper")
        arguments = _arguments(content)
        if (prediction := arguments.get("prediction", "x")) != "x":
            raise ValueError(f'args.prediction is {prediction!r}, but only "x" is supported')
        heads = _n_heads(arguments if n_heads is None else {"model_head": n_heads})
        s2n = build(S2N, {**_s2n_sizes(found), "n_heads": heads}, found)
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


def _refuse_vae(weights: Weights) -> None:
    if "encoder.conv_in.weight" in weights:
        raise ValueError("it holds the autoencoder: use read_vae")


def _vae_sizes(weights: Weights) -> dict[str, Any]:
    n_channels = shape_of(weights, "encoder.conv_in.weight", 3)[0]
    n_levels = count(weights, r"encoder\.down\.(\d+)\.")
    n_halvings = count(weights, r"encoder\.down\.(\d+)\.downsample\.")
    levels = [
        shape_of(weights, f"encoder.down.{i}.block.0.conv1.weight", 3)[0] for i in range(n_levels)
    ]
    projector_width, length = shape_of(weights, "pre_projector_mean.2.weight", 2)
    return {
        "n_tokens": shape_of(weights, "encoder.conv_out.weight", 3)[0],
        "token_width": shape_of(weights, "pre_projector_mean.8.weight", 2)[0],
        "pooled_length": length * 2**n_halvings,
        "n_halvings": n_halvings,
        "n_channels": n_channels,
        "channel_multipliers": tuple(level // n_channels for level in levels),
        "n_blocks": count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
        "projector_width": projector_width,
    }


def _s2n_sizes(weights: Weights) -> dict[str, Any]:
    _, n_tokens, width = shape_of(weights, "pos_embed", 3)
    return {
        "n_tokens": n_tokens,
        "width": width,
        "depth": count(weights, r"blocks\.(\d+)\."),
        "mlp_ratio": shape_of(weights, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "n_time_features": shape_of(weights, "t_embedder.mlp.0.weight", 2)[1],
    }


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
