"""Read-outs of encoders, from features to voxels, as functions of tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainenc.encoders.banded import BandedRidgeEncoder
from brainenc.encoders.pls import PLSEncoder
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.encoders.roi_transformer import ROITransformerEncoder
from brainenc.encoders.tokens import linear_features

#: From features (n, ...) to responses (n, n_chosen).
ReadOut = Callable[[Tensor], Tensor]


def read_out(encoder: Any, voxels: np.ndarray) -> ReadOut:
    """Responses of some voxels as a differentiable function of features.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
    voxels : array of int

    Raises
    ------
    TypeError : an encoder whose read-out has no gradient here.
    """
    if isinstance(encoder, RidgeEncoder | BandedRidgeEncoder | PLSEncoder):
        found = encoder.linear_map()
        at_mean = encoder._predict(found.mean[None])
        return _linear(found.weights[:, voxels], found.mean, at_mean[0, voxels])
    if isinstance(encoder, ROITransformerEncoder):
        return _of_networks(encoder, voxels)
    raise TypeError(
        f"{type(encoder).__name__} has no read-out with a gradient: use RidgeEncoder, "
        "BandedRidgeEncoder, PLSEncoder or ROITransformerEncoder, or a search without gradients, "
        "which takes any function of images as the objective"
    )


def _linear(weights: np.ndarray, mean: np.ndarray, at_mean: np.ndarray) -> ReadOut:
    """Around the mean features, so that large features do not cancel."""
    W, centre, constant = (
        torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))
        for a in (weights, mean, at_mean)
    )

    def respond(features: Tensor) -> Tensor:
        device = features.device
        return (features.flatten(1) - centre.to(device)) @ W.to(device) + constant.to(device)

    return respond


def _of_networks(encoder: Any, voxels: np.ndarray) -> ReadOut:
    """Mean of the members, blended with ridge where the encoder blends."""
    if encoder.linear_ is not None:
        raise TypeError(
            f"this {type(encoder).__name__} was fitted to few images and is ridge in place of the "
            "network: fit a RidgeEncoder"
        )
    adapter = encoder.adapter_
    mean, scale = torch.from_numpy(adapter.mean), torch.from_numpy(adapter.scale)
    components = None if adapter.components is None else torch.from_numpy(adapter.components)
    own_scale, own_mean = (
        torch.from_numpy(np.asarray(a, np.float32)) for a in (encoder.scale_, encoder.mean_)
    )
    blend = getattr(encoder, "blend_", None)

    def of_net(features: Tensor) -> Tensor:
        tokens = (features - mean) / scale
        if components is not None:
            tokens = tokens @ components.to(tokens.dtype)
        tokens = tokens if tokens.ndim == 3 else tokens[:, None]
        members = [net.eval()(tokens) for net in encoder.members_]
        found: Tensor = torch.stack(members).mean(0) * own_scale + own_mean
        return found

    if blend is None:
        return lambda features: of_net(features)[:, voxels]
    linear = blend.linear
    weights = linear.weights() / linear.feature_scale[:, None]
    at_mean = linear.predict(linear.feature_mean[None])[0]
    ridge = _linear(weights, linear.feature_mean, at_mean)
    shares = torch.from_numpy(np.asarray(blend.weights, np.float32))
    constant = torch.from_numpy(np.asarray(blend.mean, np.float32))

    def blended(features: Tensor) -> Tensor:
        if linear_features(features.detach().numpy()[:1]).shape[1:] != features.shape[1:]:
            raise TypeError(
                "tokens are averaged over neighbours for the ridge part of this blend, which has "
                "no gradient here: fit with blend=None"
            )
        by_ridge = ridge(features)
        found = shares[0] * constant + shares[1] * by_ridge + shares[2] * of_net(features)
        return found[:, voxels]

    return blended
