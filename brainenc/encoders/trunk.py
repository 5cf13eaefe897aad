"""Networks of a new subject that start from those of another one."""

from collections.abc import Sequence
from typing import Any


def start_from(net: Any, source: Any, own: Sequence[str] = ()) -> list[str]:
    """Copy the weights that two networks share; in place.

    Parameters
    ----------
    net, source : torch modules
    own : sequence of str
        Beginnings of the names of weights that belong to the subject. They are not copied, and
        neither are weights of other shapes, which are of voxels.

    Returns
    -------
    list of str
        Names of the weights that were copied: the trunk.
    """
    theirs, ours = source.state_dict(), net.state_dict()
    shared = [
        name
        for name, value in ours.items()
        if name in theirs and theirs[name].shape == value.shape and not name.startswith(tuple(own))
    ]
    net.load_state_dict({**ours, **{name: theirs[name].clone() for name in shared}})
    return shared


def freeze(net: Any, names: Sequence[str]) -> None:
    """Leave these weights as they are in the training."""
    for name, parameter in net.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def check_same_features(new: Any, source: Any) -> None:
    """Raise ValueError unless features of the new subject have the shape of the source's."""
    ours, theirs = new.feature_shape_, source.feature_shape_
    if list(ours) != list(theirs):
        raise ValueError(
            f"features of an image have the shape {list(ours)}, and the networks of this "
            f"{type(source).__name__} were fitted to the shape {list(theirs)}: adapt needs the "
            "same features"
        )
