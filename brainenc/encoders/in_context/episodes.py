"""Contexts that an in-context net learns from: voxels of other subjects, or synthetic ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Share of the variance of synthetic responses that the image explains: drawn between these.
SIGNAL = (0.02, 0.6)
#: s.d. of the factor of the other voxel in a mixed one.
MIXED = 0.5
#: s.d. below which the responses of a context count as constant.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Stage:
    """A part of the pretraining.

    Attributes
    ----------
    voxels : "synthetic" or "real"
        Random weights and normal noise on the subjects' images; or the subjects' voxels.
    context : (int, int)
        Fewest and most images of a context; one number for all voxels of a step.
    share : float
        Of the steps of the pretraining.
    """

    voxels: str
    context: tuple[int, int]
    share: float


@dataclass(frozen=True)
class Episode:
    """Contexts and queries of some voxels, each with images of its own subject.

    Attributes
    ----------
    images : tensor, shape (n_voxels, n, n_features)
    responses : tensor, shape (n_voxels, n)
    new_images, new_responses : tensors, the same of the images to predict
    """

    images: Tensor
    responses: Tensor
    new_images: Tensor
    new_responses: Tensor


class Episodes:
    """Episodes of the voxels of some subjects.

    Parameters
    ----------
    inputs : list of arrays, shape (n_images, n_features)
        Of each subject's images.
    averages : list of arrays, shape (n_images, n_voxels)
        z-scored; NaN where an image has no data.
    scaled : bool
        z-score the responses of an episode by mean and s.d. of its context, as at a fit.
    most_queries : int
        Images of an episode whose responses are predicted; at most half of those there are.
    """

    def __init__(
        self,
        inputs: list[np.ndarray],
        averages: list[np.ndarray],
        scaled: bool,
        most_queries: int,
    ):
        self.inputs = [torch.from_numpy(np.asarray(X, np.float32)) for X in inputs]
        self.averages = [torch.from_numpy(np.asarray(Y, np.float32)) for Y in averages]
        self.scaled, self.most_queries = scaled, most_queries
        #: Subject and column of each voxel.
        self.subject = np.repeat(np.arange(len(averages)), [Y.shape[1] for Y in averages])
        self.column = np.concatenate([np.arange(Y.shape[1]) for Y in averages])
        #: Fewest images that a voxel has.
        self.n_images = int(min(np.isfinite(Y).sum(axis=0).min() for Y in averages))

    @property
    def n_queries(self) -> int:
        """Images that are predicted in an episode."""
        return min(self.most_queries, self.n_images // 2)

    @property
    def longest(self) -> int:
        """Most images of a context."""
        return self.n_images - self.n_queries

    def draw(
        self, voxels: np.ndarray, n: int, rng: np.random.Generator, kind: str = "real"
    ) -> Episode:
        """An episode with n images of context for each of these voxels.

        `kind` is "real", "mixed" or "synthetic"; "mixed" adds a little of another voxel of the
        subject to each, so that no voxel is met twice and none can be learned by heart.
        """
        found = [self._of_voxel(voxel, n, rng, kind) for voxel in voxels]
        X, y = (torch.stack(part) for part in zip(*found, strict=True))
        context = y[:, :n]
        if self.scaled:
            mean, sd = context.mean(dim=1, keepdim=True), context.std(dim=1, keepdim=True)
            y = (y - mean) / torch.where(sd > _CONSTANT, sd, 1)
        return Episode(X[:, :n], y[:, :n], X[:, n:], y[:, n:])

    def _of_voxel(
        self, voxel: int, n: int, rng: np.random.Generator, kind: str
    ) -> tuple[Tensor, Tensor]:
        X = self.inputs[self.subject[voxel]]
        y = self.averages[self.subject[voxel]][:, self.column[voxel]]
        if kind == "mixed":
            other = self.averages[self.subject[voxel]]
            other = other[:, rng.integers(other.shape[1])]
            both = torch.isfinite(other) & torch.isfinite(y)
            if both.sum() >= n + self.n_queries:
                y = torch.where(both, y + MIXED * float(rng.standard_normal()) * other, torch.nan)
        known = np.flatnonzero(np.isfinite(y.numpy()))
        some = torch.from_numpy(rng.choice(known, n + self.n_queries, replace=False))
        if kind != "synthetic":
            return X[some], y[some]
        weights = torch.from_numpy(rng.standard_normal(X.shape[1]).astype(np.float32))
        signal = X @ weights
        signal = ((signal - signal.mean()) / signal.std().clamp(min=_CONSTANT))[some]
        share = rng.uniform(*SIGNAL)
        noise = torch.from_numpy(rng.standard_normal(len(some)).astype(np.float32))
        return X[some], np.sqrt(share) * signal + np.sqrt(1 - share) * noise


def on(episode: Episode, device: Any) -> Episode:
    """The episode on a device."""
    return Episode(*(getattr(episode, name).to(device) for name in Episode.__dataclass_fields__))


def ridge_weights(images: Tensor, responses: Tensor, alpha: float) -> Tensor:
    """Ridge weights and intercept of each voxel, (n_voxels, n_features + 1).

    Parameters
    ----------
    images : tensor, shape (n_voxels, n, n_features)
    responses : tensor, shape (n_voxels, n)
    alpha : float
        Penalty of the weights, which are of centred features as they are.

    Examples
    --------
    >>> import torch
    >>> images = torch.eye(3)[None]
    >>> weights = ridge_weights(images, torch.tensor([[1.0, 0.0, -1.0]]), 1.0)
    >>> [round(weight, 2) + 0 for weight in weights[0].tolist()]
    [0.5, 0.0, -0.5, 0.0]
    """
    with torch.autocast(images.device.type, enabled=False):
        images, responses = images.float(), responses.float()
        mean, level = images.mean(dim=1, keepdim=True), responses.mean(dim=1, keepdim=True)
        X, y = images - mean, responses - level
        identity = torch.eye(X.shape[2], device=X.device)
        gram = X.transpose(1, 2) @ X + alpha * identity
        weights = torch.linalg.solve(gram, X.transpose(1, 2) @ y[..., None])[..., 0]
        intercept = level[:, 0] - (mean[:, 0] * weights).sum(dim=1)
    return torch.cat([weights, intercept[:, None]], dim=1)


def inferred(net: Any, images: Tensor, responses: Tensor, alpha: float) -> Tensor:
    """Weights and intercept of each voxel by a net, (n_voxels, n_features + 1).

    A net that corrects gets ridge weights with penalty `alpha`, in units of their s.d. a priori.
    """
    if net.start is None:
        return net(images, responses)
    unit = alpha**-0.5
    return unit * net(images, responses, ridge_weights(images, responses, alpha) / unit)


def predicted(images: Tensor, weights: Tensor) -> Tensor:
    """Responses (n_voxels, n) to images by weights and intercept."""
    return (images @ weights[:, :-1, None])[..., 0] + weights[:, -1:]
