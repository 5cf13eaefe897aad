"""Noise ceiling of single draws and of their averages."""

from typing import Any

import numpy as np

from brainenc.metrics.noise_ceiling import NoiseCeiling


def ceiling_of_draws(
    ceiling: NoiseCeiling, n_draws: int, *, trials_per_draw: Any = 1
) -> NoiseCeiling:
    """Pearson r of the mean of K draws from the true distribution with averages of trials.

    A draw has the noise of a trial. If signal has variance s² and trial noise σ², the mean of K
    draws has variance s² + σ²/K and the average of n trials s² + σ²/n, and only s² is shared: r =
    √(s² / (s² + σ²/K)) · √(s² / (s² + σ²/n)), the ceiling of r for n trials times that for K. It
    grows with K to the ceiling for n trials, that of `predict`: averaging draws raises r without a
    better encoder. Draws from the true distribution *have* this r; draws that vary too little
    exceed it, which does not make them better.

    Parameters
    ----------
    ceiling : NoiseCeiling
        For the averages that are scored, in any space.
    n_draws : int
        K, number of averaged draws; 1 is one draw.
    trials_per_draw : float or array, shape (n_voxels,)
        1 if the encoder was fitted to single trials. Draws of an encoder that was fitted to
        averages have the noise of an average of that many trials.

    Returns
    -------
    NoiseCeiling
        In space "r", for the same averages; `estimator` names the number of draws.

    Raises
    ------
    ValueError : n_draws < 1.
    """
    if n_draws < 1:
        raise ValueError(f"n_draws={n_draws}: at least one draw is averaged")
    of_averages = ceiling.to("r")
    n_trials = np.atleast_1d(n_draws * np.asarray(trials_per_draw, dtype=np.float64))
    values = of_averages.values * of_averages.with_n_trials(n_trials[None]).values
    what = "one draw" if n_draws == 1 else f"mean of {n_draws} draws"
    return NoiseCeiling(values, "r", ceiling.n_trials, f"{ceiling.estimator}, {what}")
