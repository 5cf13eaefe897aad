"""Losses of the SynBrain autoencoder, contrastive losses, masked squared error: scalar tensors."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class SynBrainLoss(NamedTuple):
    """The weighted total and its unweighted parts; scalar tensors."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    soft_clip: Tensor


def synbrain_vae_loss(
    reconstruction: Tensor,
    betas: Tensor,
    z: Tensor,
    tokens: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    *,
    kl_weight: float = 1e-3,
    clip_weight: float = 1e3,
    temperature: float = 0.125,
) -> SynBrainLoss:
    """Reconstruction + `kl_weight` · KL + `clip_weight` · SoftCLIP.

    Parameters
    ----------
    reconstruction, betas : tensor, shape (batch, n_voxels)
        Same units. NaN in the betas makes the total NaN: mask missing trials first.
    z : tensor, shape (batch, n_tokens, width)
        The decoded latent, sampled in the published training.
    tokens : tensor, shape of z
        The image's CLIP tokens.
    mean, log_variance : tensor, shape of z
        Mean and log-variance of the posterior.
    kl_weight, clip_weight : float
        With 0 a part is left out of the total but still reported.
    temperature : float
        Temperature of SoftCLIP.

    Returns
    -------
    SynBrainLoss : (total, reconstruction, kl, soft_clip)

    Raises
    ------
    ValueError : the shapes do not match.

    References
    ----------
    SynBrain (NeurIPS 2025), arXiv 2508.10298.
    """
    squared_error = reconstruction_loss(reconstruction, betas)
    kl = kl_divergence(mean, log_variance)
    soft_clip = soft_clip_loss(z, tokens, temperature)
    total = squared_error
    # Left out, not multiplied by zero: zero times infinity is NaN.
    if kl_weight:
        total = total + kl_weight * kl
    if clip_weight:
        total = total + clip_weight * soft_clip
    return SynBrainLoss(total, squared_error, kl, soft_clip)


def reconstruction_loss(reconstruction: Tensor, betas: Tensor) -> Tensor:
    """Squared error summed over voxels, averaged over the batch.

    Parameters
    ----------
    reconstruction, betas : tensor, shape (batch, n_voxels)

    Raises
    ------
    ValueError : the shapes differ.
    """
    _check_same_shape(reconstruction=reconstruction, betas=betas)
    return (reconstruction - betas).square().sum() / len(betas)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, 1)) in nats, summed over the latent, averaged over the batch.

    Parameters
    ----------
    mean, log_variance : tensor, shape (batch, ...)

    Raises
    ------
    ValueError : the shapes differ.
    """
    _check_same_shape(mean=mean, log_variance=log_variance)
    # exp(x) - 1 loses all digits for a variance near one.
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum() / len(mean)


def soft_clip_loss(predictions: Tensor, targets: Tensor, temperature: float = 0.125) -> Tensor:
    """Contrastive loss whose soft labels are the similarities between targets.

    Cross-entropy between softmax(targets·targetsᵀ / T) and softmax(predictions·targetsᵀ / T), of
    rows and of columns, averaged. Each item is first flattened and scaled to unit length.

    Parameters
    ----------
    predictions, targets : tensor, shape (batch, ...)
        The loss of a batch of one is 0.
    temperature : float
        T > 0.

    Raises
    ------
    ValueError : the shapes differ, or the temperature is not positive.

    References
    ----------
    Scotti et al. (2023), MindEye, NeurIPS; there with a temperature that changes.
    """
    _check_same_shape(predictions=predictions, targets=targets)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r} must be positive")
    predictions = F.normalize(predictions.flatten(1), dim=1)
    targets = F.normalize(targets.flatten(1), dim=1)
    labels = (targets @ targets.T / temperature).softmax(dim=1)
    logits = predictions @ targets.T / temperature
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _check_same_shape(**tensors: Tensor) -> None:
    (first, a), (second, b) = tensors.items()
    if a.shape != b.shape:
        raise ValueError(
            f"{first} {tuple(a.shape)} and {second} {tuple(b.shape)} must have the same shape"
        )


def masked_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over the targets that are not NaN; scalar, 0 if there are none."""
    present = ~targets.isnan()
    return (F.mse_loss(predictions, targets.nan_to_num(), reduction="none") * present).sum() / (
        present.sum().clamp(min=1)
    )


def info_nce(predictions: Tensor, targets: Tensor, temperature: float = 0.5) -> Tensor:
    """Contrastive loss of both directions, averaged: each item is to find its own partner.

    Cross-entropy of softmax(cosine / T) over targets and over predictions. Items are flattened.

    Parameters
    ----------
    predictions, targets : tensor, shape (batch, ...)
        The loss of a batch of one is 0.
    temperature : float
        T > 0.

    Raises
    ------
    ValueError : the shapes differ, or the temperature is not positive.

    References
    ----------
    Oord et al. (2018), Contrastive predictive coding.
    """
    partners = torch.arange(len(predictions), device=predictions.device)
    ones = torch.ones(len(predictions), dtype=predictions.dtype, device=predictions.device)
    return bimixco_loss(predictions, targets, partners, ones, temperature)


def bimixco_loss(
    predictions: Tensor,
    targets: Tensor,
    partners: Tensor,
    shares: Tensor,
    temperature: float = 0.006,
) -> Tensor:
    """Contrastive loss of mixed responses, of both directions, averaged.

    Response i was ``shares[i] * responses[i] + (1 - shares[i]) * responses[partners[i]]``: its
    labels are `shares` of its own target and the rest of its partner's. Masses are *added*, so that
    a row that is its own partner has all of its mass on its own target.

    Parameters
    ----------
    predictions : tensor, shape (batch, ...)
        From mixed responses.
    targets : tensor, shape of predictions
        Not mixed.
    partners : tensor of int, shape (batch,)
        As of `mixing_partners`.
    shares : tensor, shape (batch,)
        In [0, 1]; 1 for a response that is not mixed.
    temperature : float
        T > 0.

    Raises
    ------
    ValueError : the shapes differ, or the temperature is not positive.

    References
    ----------
    Scotti et al. (2023), MindEye, NeurIPS; Kim et al. (2020), MixCo.
    """
    _check_same_shape(predictions=predictions, targets=targets)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r} must be positive")
    predictions = F.normalize(predictions.flatten(1), dim=1)
    targets = F.normalize(targets.flatten(1), dim=1)
    logits = predictions @ targets.T / temperature
    rows = torch.arange(len(logits), device=logits.device)
    labels = torch.diag(shares.to(logits.dtype))
    labels.index_put_((rows, partners), 1 - shares.to(logits.dtype), accumulate=True)
    there = (labels * logits.log_softmax(dim=1)).sum()
    back = (labels * logits.log_softmax(dim=0)).sum()
    return -(there + back) / (2 * len(logits))


def mixing_partners(groups: Tensor, order: Tensor) -> Tensor:
    """A random permutation within each group, as positions in the batch.

    Parameters
    ----------
    groups : tensor of int, shape (batch,)
        Subject of each row; responses of two subjects cannot be mixed.
    order : tensor, shape (batch,)
        Random numbers, whose order is the permutation.

    Returns
    -------
    tensor of int, shape (batch,)
        ``groups[partners] == groups``.

    Examples
    --------
    >>> import torch
    >>> groups = torch.tensor([0, 1, 0, 1])
    >>> mixing_partners(groups, torch.tensor([0.9, 0.1, 0.2, 0.7])).tolist()
    [2, 1, 0, 3]
    """
    partners = torch.empty_like(groups)
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        partners[rows] = rows[order[rows].argsort()]
    return partners
