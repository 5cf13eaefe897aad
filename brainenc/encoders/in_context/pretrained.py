"""InContextPretraining: a net that infers the weights of voxels, with all that it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainenc.devices import resolve_device
from brainenc.encoders.in_context.episodes import inferred
from brainenc.encoders.weight_prior import WeightPrior
from brainenc.features.one_space import check_not_learned
from brainenc.nets.in_context import InContextNet
from brainenc.solvers.voxels import flatten_tokens

#: Tokens of a batch of voxels.
_N_TOKENS = 20_000


@dataclass(frozen=True, eq=False, repr=False)
class InContextPretraining:
    """A pretrained in-context net; `InContextEncoder.pretrain` makes it.

    Attributes
    ----------
    net : InContextNet
    prior : WeightPrior or None
        None: the published net, whose inputs are features divided by their length.
    basis : array, shape (n_features, n_coordinates)
        From centred features to the prior's leading coordinates, which are the net's inputs; with
        no columns for the published net.
    sizes : array of int
        Numbers of images of the contexts at which the next two are known.
    alphas : array, shape (n_sizes,)
        Penalty of the weights that the net corrects.
    gain : array, shape (n_sizes,)
        Of held-out voxels: share of the squared error of these weights that the net removes. The
        net was not trained on these voxels; a prior that `pretrain` made was fitted to them too.
    sources : list of str
        Names of the subjects.
    feature_shape : list of int
    history : DataFrame
        Of the pretraining: one row per evaluation, and the `stage`.

    Examples
    --------
    >>> import brainenc
    >>> *others, _ = brainenc.datasets.simulate_subjects(3, 90, 20, shared_images=0)
    >>> encoder = brainenc.InContextEncoder(n_coordinates=8, n_steps=3, device="cpu")
    >>> encoder.pretrain([(d.truth.tokens, d.betas) for d in others]).pretrained
    InContextPretraining(2 subjects, net of 8 inputs)
    """

    net: InContextNet
    prior: WeightPrior | None
    basis: np.ndarray
    sizes: np.ndarray
    alphas: np.ndarray
    gain: np.ndarray
    sources: list[str]
    feature_shape: list[int]
    history: pd.DataFrame

    def __sklearn_clone__(self) -> "InContextPretraining":
        return self  # it is trained: a copy of an encoder has the same net

    def __deepcopy__(self, memo: Any) -> "InContextPretraining":
        return self

    def __repr__(self) -> str:
        n, inputs = len(self.sources), self.net.sizes["n_features"]
        return f"InContextPretraining({n} subject{'s' * (n != 1)}, net of {inputs} inputs)"

    def check(self, features: np.ndarray, extractor: Any) -> None:
        """Raise ValueError unless features are those of the pretraining."""
        if self.prior is not None:
            self.prior.check(features, extractor)
            return
        check_not_learned(extractor, "the net")
        if list(features.shape[1:]) != list(self.feature_shape):
            raise ValueError(
                f"the net is of features of shape {self.feature_shape} per image, and these "
                f"features have the shape {list(features.shape[1:])}: give the features that it "
                "was pretrained on"
            )

    def inputs(self, features: np.ndarray) -> np.ndarray:
        """Inputs of the net (n_images, n_inputs), float32, of features."""
        return net_inputs(features, self.prior, self.basis)

    def gain_at(self, n: int) -> float:
        """Gain with n images, by interpolation in log(n)."""
        return float(np.interp(np.log(n), np.log(self.sizes), self.gain))

    def weights(self, inputs: np.ndarray, responses: np.ndarray, device: Any) -> np.ndarray:
        """Weights and intercept (n_inputs + 1, n_voxels) that the net infers.

        Parameters
        ----------
        inputs : array, shape (n_images, n_inputs)
        responses : array, shape (n_images, n_voxels)
            z-scored, without NaN.
        device : "auto", "cpu", "cuda", "cuda:1", "mps"
        """
        device = resolve_device(device)
        home = next(self.net.parameters()).device
        net = self.net.to(device).eval()
        at_once = max(1, _N_TOKENS // len(inputs))
        X = torch.from_numpy(np.ascontiguousarray(inputs, np.float32)).to(device)
        Y = torch.from_numpy(np.ascontiguousarray(responses.T, np.float32)).to(device)
        alpha, found = alpha_at(len(X), self.sizes, self.alphas), []
        try:
            with torch.inference_mode():
                for some in Y.split(at_once):
                    images = X.expand(len(some), *X.shape)
                    found.append(inferred(net, images, some, alpha).cpu())
        finally:
            self.net.to(home)
        return torch.cat(found).numpy().T


def alpha_at(n: int, sizes: Sequence[int] | np.ndarray, alphas: np.ndarray) -> float:
    """Penalty with n images, by interpolation of logarithms."""
    return float(np.exp(np.interp(np.log(n), np.log(sizes), np.log(alphas))))


def net_inputs(features: np.ndarray, prior: WeightPrior | None, basis: np.ndarray) -> np.ndarray:
    """Inputs of a net; the attributes of `InContextPretraining` say which."""
    X = flatten_tokens(features).astype(np.float32, copy=False)
    if prior is not None:
        return (X - prior.feature_mean) @ basis
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(length > 0, length, 1)
