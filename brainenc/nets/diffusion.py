"""Diffusion with a network that predicts the noiseless latent: schedule, noising, denoising.

Step 0 is the latent itself and the last step almost pure noise: at step t a latent x0 becomes
``sqrt(kept[t]) · x0 + sqrt(1 − kept[t]) · N(0, 1)``.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def cosine_schedule(n_steps: int) -> NDArray[np.float64]:
    """Share of the latent in the variance at every step.

    Parameters
    ----------
    n_steps : int
        T, at least 1.

    Returns
    -------
    array, shape (n_steps + 1,)
        Decreases from 1 (no noise) to nearly 0.

    Raises
    ------
    ValueError : n_steps < 1.

    References
    ----------
    Nichol & Dhariwal (2021), Improved denoising diffusion probabilistic models, ICML.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps!r} must be at least 1")
    angle = (np.arange(n_steps + 1) / n_steps + 0.008) / 1.008 * np.pi / 2
    level = np.cos(angle) ** 2
    # No step adds more than .999 of the variance: the last would divide by zero.
    return np.concatenate([[1.0], np.cumprod(np.maximum(level[1:] / level[:-1], 1e-3))])


def add_noise(x0: Tensor, noise: Tensor, kept: Any) -> Tensor:
    """Noisy latents in which the latent has the share `kept` of the variance.

    Parameters
    ----------
    x0, noise : tensor, shape (batch, ...)
    kept : float, or tensor that broadcasts to them
    """
    return kept**0.5 * x0 + (1 - kept) ** 0.5 * noise


def gaussian_gain(kept: Any, variance: Any) -> Any:
    """Factor from a noisy latent to the expected latent, for latents N(0, variance).

    Parameters
    ----------
    kept, variance : float, or tensors that broadcast
    """
    return kept**0.5 * variance / (kept * variance + 1 - kept)


def step_moments(
    x: Tensor, x0: Tensor, kept: float, kept_next: float, eta: float = 1.0
) -> tuple[Tensor, float]:
    """Mean and s.d. of a latent with less noise, given the one with more noise and without noise.

    Parameters
    ----------
    x, x0 : tensor
        The latent at the present step, and without noise.
    kept, kept_next : float
        Shares at the present and the next step, 0 < kept < kept_next <= 1.
    eta : float
        1 is the posterior of the diffusion (DDPM), 0 a deterministic step (DDIM).

    Returns
    -------
    mean : tensor
    sd : float

    References
    ----------
    Ho et al. (2020), DDPM, NeurIPS; Song et al. (2021), DDIM, ICLR: equations 12 and 16.
    """
    noise = (x - kept**0.5 * x0) / (1 - kept) ** 0.5
    variance = eta**2 * (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)
    direction = max(1 - kept_next - variance, 0.0) ** 0.5
    return kept_next**0.5 * x0 + direction * noise, variance**0.5


def sampling_steps(n_steps: int, n_taken: int | None = None, share: float = 1.0) -> list[int]:
    """Steps that a chain visits, from noise to 0.

    Parameters
    ----------
    n_steps : int
        Steps of the schedule.
    n_taken : int, optional
        Number of steps taken from `n_steps` to 0, evenly spaced; None: all.
    share : float
        Start at this share of `n_steps`, and take the same share of the steps.

    Returns
    -------
    list of int, decreasing, the last 0
    """
    first = max(1, round(share * n_steps))
    n_taken = first if n_taken is None else max(1, round(share * n_taken))
    return [round(t) for t in np.linspace(first, 0, min(n_taken, first) + 1)]


def denoise(
    predict_x0: Callable[[Tensor, int], Tensor],
    x: Tensor,
    kept: NDArray[np.float64],
    steps: Sequence[int],
    normal: Callable[[], Tensor],
    eta: float = 1.0,
) -> Tensor:
    """Run a chain from noise to a latent.

    Parameters
    ----------
    predict_x0 : function (x, step) -> tensor of the shape of x
        Expected latent without noise.
    x : tensor
        Start of the chain, with the noise of ``steps[0]``.
    kept : array, shape (n_steps + 1,)
        The schedule.
    steps : list of int
        Decreasing, the last 0; see `sampling_steps`.
    normal : function () -> tensor that broadcasts to x
        Standard normal values; called at random steps.
    eta : float
        See `step_moments`.
    """
    for step, following in pairwise(steps):
        x0 = predict_x0(x, step)
        x, sd = step_moments(x, x0, float(kept[step]), float(kept[following]), eta)
        if sd > 0:
            x = x + sd * normal()
    return x
