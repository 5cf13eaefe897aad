"""Checkpoints of BraInCoRL's released code, read without running code in them."""

import os
import re

from brainenc.encoders.checkpoint_files import (
    build,
    count,
    load_checkpoint,
    naming,
    shape_of,
    state_dict_of,
)
from brainenc.nets.in_context import InContextNet

KIND = "a BraInCoRL checkpoint"


def read_net(path: str | os.PathLike, n_heads: int = 10) -> InContextNet:
    """The net of a checkpoint, whose `state_dict` has the weights.

    Parameters
    ----------
    path : path
        No code in the file is run: only tensors and plain values are read.
    n_heads : int
        Attention heads, which the weights do not determine; 10 in all released presets.

    Returns
    -------
    InContextNet
        float32, on the CPU; its sizes are found from the shapes of the weights.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : the file is damaged, of another kind or contains code, or its weights are not
        finite or not those of the net. The message names the file and the reason.
    """
    with naming(path, KIND):
        weights = state_dict_of(load_checkpoint(path), "state_dict", path)
        _, n_registers, width = shape_of(weights, "cls_token", 3)
        if width % n_heads:
            raise ValueError(f"its tokens are {width} wide, which {n_heads} heads cannot share")
        sizes = {
            "n_features": shape_of(weights, "early_layers.0.block.0.weight", 1)[0] - 1,
            "width": width,
            "depth": count(weights, r"transformer\.(\d+)\."),
            "n_heads": n_heads,
            "hidden": shape_of(weights, "transformer.0.ffn.linear2.weight", 2)[1],
            "n_registers": n_registers,
        }
        if extra := [
            name for name in weights if re.match(r"(early_layers|weight_pred)\.[1-9]", name)
        ]:
            raise ValueError(
                f"it has more than one residual block before or behind the layers ({extra[0]}), "
                "and the released presets have one"
            )
        return build(InContextNet, sizes, weights).eval()
