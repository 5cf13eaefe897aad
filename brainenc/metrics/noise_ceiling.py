"""Noise ceilings: the best score of any model, given the trial-to-trial noise of each voxel.

A measured response is signal plus noise, and a model of the images can only explain the signal.
Three estimators of the share of variance that is signal, each giving a `NoiseCeiling`:

- `noise_ceiling_from_ncsnr`: from published ncsnr values (signal s.d. / single-trial noise s.d.);
- `noise_ceiling_from_repeats`: from the betas, by analysis of variance (the NSD definition);
- `noise_ceiling_split_half`: from the betas, by the Spearman–Brown-corrected split-half
  correlation.

The ceiling depends on the number of trials averaged in the scored responses and on the space of the
score. `NoiseCeiling` stores both. For a perfect model, correlated with responses averaged over n
trials, r² = ncsnr² / (ncsnr² + 1/n), and r is its square root. A split-half reliability corrected
by Spearman–Brown *is* that r² and must not be squared again. The ncsnr is a ratio of standard
deviations, not a ceiling: do not divide r by it.

>>> ceiling = noise_ceiling_from_ncsnr([0.5, 1.0], n_trials=3)
>>> ceiling.values.round(3)
array([0.429, 0.75 ])
>>> ceiling.to("r").normalize([0.4, 0.4], space="r").round(3)
array([0.611, 0.462])

Long because most of it is documentation; the type and its estimators belong together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.conversion import plain_array
from brainenc.documentation import see
from brainenc.html_tables import html_table
from brainenc.metrics.variance_components import (
    VarianceComponents,
    reliability_of_average,
    split_half_reliability,
    variance_components,
)
from brainenc.model_selection import bootstrap_interval, bootstrap_weights
from brainenc.numeric import as_doubles, as_numbers
from brainenc.repeats import shared_number, trials_of_averages
from brainenc.validation import check_beta_values, check_betas, check_index

if TYPE_CHECKING:
    import pandas as pd

_TO_R2: dict[str, Callable[[Any], Any]] = {
    "r": np.square,
    "r2": lambda values: values,
    "percent": lambda values: values / 100,
}
_FROM_R2: dict[str, Callable[[Any], Any]] = {
    "r": np.sqrt,
    "r2": lambda values: values,
    "percent": lambda values: values * 100,
}


@dataclass(frozen=True, eq=False)
class NoiseCeiling:
    """Largest expected score of a model per voxel, with its space and number of trials.

    Attributes
    ----------
    values : array, shape (n_voxels,)
        In `space`. 0 without detectable signal, NaN where the ceiling is undefined (no repeats, no
        data, a constant voxel).
    space : {"r", "r2", "percent"}
        Bound of the Pearson correlation, of its square (the share of variance that is signal), or
        of 100 times that.
    n_trials : float or array, shape (n_voxels,)
        Trials averaged in the scored responses; with uneven repeats the effective number 1 / mean(1
        / n_i) over images. An array only if voxels differ.
    estimator : str
        Name of the estimator.
    interval : array, shape (2, n_voxels), optional
        Lower and upper confidence limits, in `space`.

    Raises
    ------
    ValueError : unknown space, values outside its range, shapes that do not match, fewer than one
        trial.

    Examples
    --------
    >>> from brainenc.metrics import noise_ceiling_from_ncsnr
    >>> ceiling = noise_ceiling_from_ncsnr([0.5, 1.0], n_trials=3)
    >>> ceiling.space, ceiling.to("r").values.round(2)
    ('r2', array([0.65, 0.87]))
    >>> ceiling.with_n_trials(1).values.round(2)  # for single trials
    array([0.2, 0.5])
    """

    values: NDArray[np.float64]
    space: str
    n_trials: float | NDArray[np.float64]
    estimator: str
    interval: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check_space(self.space)
        values = np.atleast_1d(as_doubles(self.values, "values"))
        if values.ndim != 1:
            raise ValueError(f"values {values.shape} must have one entry per voxel, (n_voxels,)")
        self._set("values", _check_range(values, self.space, "values"))
        n_trials = as_doubles(self.n_trials, "n_trials")
        if n_trials.shape not in ((), values.shape) or (n_trials < 1).any():
            raise ValueError(
                f"n_trials={self.n_trials!r} must be a number >= 1, or one per voxel {values.shape}"
            )
        self._set("n_trials", shared_number(n_trials))
        if self.interval is not None:
            interval = as_doubles(self.interval, "interval")
            if interval.shape != (2, *values.shape):
                raise ValueError(f"interval {interval.shape} must be {(2, *values.shape)}")
            self._set("interval", _check_range(interval, self.space, "interval"))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def to(self, space: str) -> "NoiseCeiling":
        """Express the same ceiling in another space.

        Parameters
        ----------
        space : {"r", "r2", "percent"}

        Returns
        -------
        NoiseCeiling : values and interval in `space`.

        Raises
        ------
        ValueError : unknown space.
        """
        _check_space(space)
        if space == self.space:
            return self
        return self._map(lambda values: _FROM_R2[space](_TO_R2[self.space](values)), space=space)

    def with_n_trials(self, n_trials: ArrayLike) -> "NoiseCeiling":
        """Ceiling for responses averaged over another number of trials, with the same ncsnr.

        1 is the ceiling for single trials.

        Parameters
        ----------
        n_trials : float, or array of shape (n_images,), (n_images, 1) or (n_images, n_voxels)
            As in `noise_ceiling_from_ncsnr`. The `n_trials` of a ceiling of the same voxels is
            taken too.

        Returns
        -------
        NoiseCeiling : in the same space; this one if the numbers are its own.

        Raises
        ------
        ValueError : fewer than one trial, or a shape that does not fit or has two meanings.
        """
        if n_trials is self.n_trials:
            return self
        new = trials_of_averages(n_trials, self.values.size)
        if np.array_equal(new, self.n_trials, equal_nan=True):
            return self
        ratio = self.n_trials / new

        def rescale(values: NDArray[np.float64]) -> NDArray[np.float64]:
            r2 = _TO_R2[self.space](values)
            with np.errstate(divide="ignore"):
                return _FROM_R2[self.space](1 / (1 + (1 - r2) / r2 * ratio))

        return self._map(rescale, n_trials=new)

    def of_voxels(self, voxels: Any) -> "NoiseCeiling":
        """The ceiling of some voxels.

        Parameters
        ----------
        voxels : slice, mask of bool, shape (n_voxels,), or positions, each once
        """
        if not isinstance(voxels, slice):
            voxels = check_index(voxels, self.values.size, "voxels")
        n_trials = self.n_trials
        return replace(
            self,
            values=self.values[voxels],
            n_trials=n_trials[voxels] if isinstance(n_trials, np.ndarray) else n_trials,
            interval=None if self.interval is None else self.interval[:, voxels],
        )

    def _repr_html_(self) -> str:
        known = self.values[np.isfinite(self.values)]
        quantiles = np.quantile(known, [0.1, 0.5, 0.9]) if len(known) else np.full(3, np.nan)
        trials = np.unique(np.round(self.n_trials, 2))
        shown = {
            "space": self.space,
            "voxels": f"{len(self.values)}, {len(self.values) - len(known)} undefined",
            "10 %, median, 90 %": ", ".join(f"{value:.3g}" for value in quantiles),
            "trials averaged": trials[0] if len(trials) == 1 else f"{trials[0]} to {trials[-1]}",
            "estimator": self.estimator,
        }
        return html_table("NoiseCeiling", shown)

    def _map(self, function: Callable[[Any], Any], **changes: Any) -> "NoiseCeiling":
        interval = None if self.interval is None else function(self.interval)
        return replace(self, values=function(self.values), interval=interval, **changes)

    def normalize(
        self, score: ArrayLike, *, space: str, n_trials: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Divide a score by the ceiling: 1 is the best score that noise allows.

        Nothing is clipped: noise in score and ceiling gives some voxels more than 1, and clipping
        would bias averages.

        Parameters
        ----------
        score : array, shape (..., n_voxels)
            Scores in the space of this ceiling.
        space : {"r", "r2", "percent"}
            Space of `score`, which must be that of the ceiling.
        n_trials : float or array, optional
            Trials averaged in the scored responses (a number, or one per voxel); compared with
            those of the ceiling if given.

        Returns
        -------
        array, shape (..., n_voxels): a ratio, also for percent. NaN where the ceiling is 0 or NaN.

        Raises
        ------
        ValueError : space, number of trials or number of voxels differ from those of the ceiling.
        """
        _check_space(space)
        if space != self.space:
            raise ValueError(
                f"the score is in space {space!r} and the ceiling in {self.space!r}: "
                f"convert with ceiling.to({space!r}) first" + see("guide/noise_ceilings")
            )
        if n_trials is not None and not np.allclose(
            n_trials, self.n_trials, rtol=1e-6, equal_nan=True
        ):
            raise ValueError(
                f"the score is for averages of {n_trials} trials and the ceiling for "
                f"{self.n_trials}: convert with ceiling.with_n_trials({n_trials}) first"
                + see("guide/noise_ceilings")
            )
        score = as_doubles(score, "score")
        if score.shape[-1:] != self.values.shape:
            raise ValueError(
                f"score {score.shape} must have {self.values.size} voxels on its last axis, "
                "like the ceiling"
            )
        return score / np.where(self.values > 0, self.values, np.nan)

    def table(self, rois: Mapping[str, ArrayLike]) -> "pd.DataFrame":
        """Average the ceiling over all voxels and over each ROI.

        Parameters
        ----------
        rois : dict of label to positions of voxels
            As `EncodingData.rois` gives them; {} for all voxels alone.

        Returns
        -------
        DataFrame, one row for all voxels (roi "all") and one per ROI
            roi, n_voxels, without_ceiling (voxels whose ceiling is undefined), and the means of r
            and r2 over the others; NaN where no voxel has a ceiling.
        """
        import pandas as pd

        r, r2 = self.to("r").values, self.to("r2").values
        rows = []
        for roi, chosen in {"all": np.arange(r.size), **rois}.items():
            name = f"rois[{roi!r}]"
            array = plain_array(chosen, name)
            some = array.any() if array.dtype == bool else array.size
            voxels = check_index(chosen, r.size, name) if some else np.arange(0)
            known = voxels[np.isfinite(r[voxels])]
            row = {"roi": roi, "n_voxels": voxels.size, "without_ceiling": voxels.size - known.size}
            means = (r[known].mean(), r2[known].mean()) if known.size else (np.nan, np.nan)
            rows.append(row | dict(zip(("r", "r2"), means, strict=True)))
        return pd.DataFrame(rows)


def ncsnr_from_repeats(betas: ArrayLike) -> NDArray[np.float64]:
    """Noise ceiling signal-to-noise ratio: signal s.d. over single-trial noise s.d.

    The noise variance is the pooled variance within images; the signal variance is the unbiased
    estimate of a random-effects analysis of variance for uneven repeats, floored at 0. With equal
    numbers of repeats it is the NSD formula (total variance of the trials minus noise variance)
    times (N − 1) / (N − n_repeats), with N trials in total: the variance of all trials is slightly
    below signal + noise because repeats share their signal.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
        Single trials, NaN where a repeat is missing. z-score within session first if sessions
        drift, as NSD does.

    Returns
    -------
    array, shape (n_voxels,)
        Dimensionless, >= 0; infinite, or huge by round-off, if all trials of each image are equal.
        NaN for a voxel without repeated images, with fewer than two images or without variance.

    Raises
    ------
    ValueError : infinite betas, only NaN, wrong number of dimensions.

    References
    ----------
    Allen et al. (2022), Nature Neuroscience 25, "Noise ceiling".

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> betas = rng.standard_normal((2000, 1, 1)) + 2 * rng.standard_normal((2000, 3, 1))
    >>> ncsnr_from_repeats(betas).round(1)  # signal s.d. 1, noise s.d. 2
    array([0.5])
    """
    components = _components(betas, 0, None)
    return np.sqrt(_signal_to_noise(components)[0])


def noise_ceiling_from_ncsnr(
    ncsnr: ArrayLike, n_trials: ArrayLike, *, space: str = "r2"
) -> NoiseCeiling:
    """Noise ceiling ncsnr² / (ncsnr² + 1/n) for averages of n trials.

    Parameters
    ----------
    ncsnr : array, shape (n_voxels,)
        Signal s.d. / single-trial noise s.d., >= 0. NaN stays NaN.
    n_trials : float, or array of shape (n_images,), (n_images, 1) or (n_images, n_voxels)
        Trials averaged, >= 1: one number, one per image, or one per image and voxel where voxels
        lack different trials (0 where a voxel has none of an image). They enter as 1 / mean(1 /
        n_i), per voxel if voxels differ. See `brainenc.repeats.trials_of_averages`.
    space : {"r", "r2", "percent"}

    Returns
    -------
    NoiseCeiling

    Raises
    ------
    ValueError : a negative ncsnr, fewer than one trial, numbers whose shape does not fit or has
        two meanings, an unknown space.

    References
    ----------
    Allen et al. (2022), Nature Neuroscience 25, "Noise ceiling".

    Examples
    --------
    >>> noise_ceiling_from_ncsnr([0.5, 1.0], n_trials=3, space="percent").values.round(1)
    array([42.9, 75. ])
    """
    ncsnr = np.atleast_1d(as_doubles(ncsnr, "ncsnr"))
    if (ncsnr < 0).any():
        raise ValueError(
            f"ncsnr has negative values (smallest {np.nanmin(ncsnr):g}): it is a ratio "
            "of standard deviations, >= 0"
        )
    n = trials_of_averages(n_trials, ncsnr.size)
    return NoiseCeiling(reliability_of_average(ncsnr**2, n), "r2", n, "ncsnr").to(space)


def noise_ceiling_from_repeats(
    betas: ArrayLike,
    *,
    n_trials: ArrayLike | None = None,
    space: str = "r2",
    n_bootstraps: int = 0,
    random_state: Any = 0,
    confidence: float = 0.95,
) -> NoiseCeiling:
    """Noise ceiling from repeated images, by the NSD formula on `ncsnr_from_repeats`.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
        Single trials, NaN where a repeat is missing. May be memory-mapped.
    n_trials : float or array, optional
        Trials averaged in the scored responses, as in `noise_ceiling_from_ncsnr`. By default all
        repeats in `betas`: 1 / mean(1 / n_i) over the images with data, per voxel if voxels lack
        different trials.
    space : {"r", "r2", "percent"}
    n_bootstraps : int
        Resamples of the images for `interval`; 0 for none.
    random_state : int, Generator or None
        Seed of the resamples.
    confidence : float
        Of the percentile interval.

    Returns
    -------
    NoiseCeiling
        0 where the estimated signal variance is not positive. NaN for a voxel without repeated
        images, with fewer than two images or without variance.

    Raises
    ------
    ValueError : infinite betas, nothing but NaN, fewer than one trial, an unknown space.

    References
    ----------
    Allen et al. (2022), Nature Neuroscience 25, "Noise ceiling".

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> betas = rng.standard_normal((2000, 1, 1)) + 2 * rng.standard_normal((2000, 3, 1))
    >>> noise_ceiling_from_repeats(betas).values.round(1)  # 0.25 / (0.25 + 1/3) = 0.43
    array([0.4])
    """
    _check_space(space)
    components = _components(betas, n_bootstraps, random_state)
    n: Any = components.n_trials[0]
    if n_trials is not None:
        n = trials_of_averages(n_trials, n.size)
    r2 = reliability_of_average(_signal_to_noise(components), n)
    return _from_sets(r2, n, "repeats (NSD formula)", confidence).to(space)


def noise_ceiling_split_half(
    betas: ArrayLike,
    *,
    n_splits: int = 100,
    space: str = "r2",
    n_bootstraps: int = 0,
    random_state: int | None = 0,
    confidence: float = 0.95,
    verbose: bool = False,
) -> NoiseCeiling:
    """Noise ceiling from the correlation of split halves, corrected to all trials.

    The trials of each image are split in two at random, each half is averaged, and the halves are
    correlated across images. The mean over splits is corrected to the average over all trials by
    Spearman–Brown, in the form for parts of unequal length where an image has an odd number of
    trials. The resulting reliability is the share of signal in the variance of the averages: the
    *squared* correlation of a perfect model with them. It is the ceiling in r², and its square root
    is the ceiling in r; it must not be squared.

    Parameters
    ----------
    betas : array, shape (n_images, n_repeats, n_voxels)
        Single trials, NaN where a repeat is missing. Images with fewer than two trials are left out
        of the correlation. May be memory-mapped.
    n_splits : int
        Random splits to average over.
    space : {"r", "r2", "percent"}
    n_bootstraps : int
        Resamples of the images for `interval`; 0 for none. Each uses all splits, which is slow for
        many voxels.
    random_state : int or None
        Seed of the splits and resamples.
    confidence : float
        Of the percentile interval.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    NoiseCeiling
        For averages over all trials in `betas`, single ones included. 0 where the halves
        correlate negatively. NaN where a half is constant over images or fewer than two images
        have repeats.

    Raises
    ------
    ValueError : infinite betas, nothing but NaN, n_splits < 1, an unknown space.

    References
    ----------
    Spearman (1910), Brown (1910), British Journal of Psychology 3; Horst (1951), Psychometrika 16.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> betas = rng.standard_normal((2000, 1, 1)) + 2 * rng.standard_normal((2000, 3, 1))
    >>> noise_ceiling_split_half(betas, n_splits=10).values.round(1)  # 0.43 expected
    array([0.4])
    """
    _check_space(space)
    if n_splits < 1:
        raise ValueError(f"n_splits={n_splits} must be >= 1")
    betas = check_betas(as_numbers(betas, "betas"))
    split_seed, bootstrap_seed = np.random.SeedSequence(random_state).spawn(2)
    r2, n_trials = split_half_reliability(
        betas,
        _sets(len(betas), n_bootstraps, bootstrap_seed),
        n_splits=n_splits,
        seed=split_seed,
        verbose=verbose,
    )
    return _from_sets(r2, n_trials[0], "split half (Spearman-Brown)", confidence).to(space)


def _components(betas: ArrayLike, n_bootstraps: int, random_state: Any) -> VarianceComponents:
    betas = check_betas(as_numbers(betas, "betas"), values=False)
    components = variance_components(betas, _sets(len(betas), n_bootstraps, random_state))
    # An infinite beta makes the variance infinite or NaN: only then all betas are checked.
    if not np.isfinite(components.signal[0]).all():
        check_beta_values(betas)
    return components


def _sets(n_images: int, n_bootstraps: int, random_state: Any) -> NDArray[np.float64]:
    """Weights of the images: all once, then the bootstrap counts."""
    resamples = bootstrap_weights(n_images, n_bootstraps, random_state=random_state)
    return np.concatenate([np.ones((1, n_images)), resamples])


def _signal_to_noise(components: VarianceComponents) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.maximum(components.signal, 0) / components.noise


def _from_sets(
    r2: NDArray[np.float64], n_trials: Any, estimator: str, confidence: float
) -> NoiseCeiling:
    interval = None
    if len(r2) > 1:
        interval = np.stack(bootstrap_interval(r2[1:], confidence=confidence))
        interval[:, np.isnan(r2[0])] = np.nan
    return NoiseCeiling(r2[0], "r2", n_trials, estimator, interval)


def _check_range(values: NDArray[np.float64], space: str, name: str) -> NDArray[np.float64]:
    top = 100 if space == "percent" else 1
    outside = (values < 0) | (values > top)
    if outside.any():
        raise ValueError(
            f"{name} has {values[outside].flat[0]:g}, outside 0 … {top} of a ceiling in space "
            f"{space!r}; from an ncsnr, use noise_ceiling_from_ncsnr" + see("guide/noise_ceilings")
        )
    return values


def _check_space(space: str) -> None:
    if space not in _TO_R2:
        close = get_close_matches(str(space).lower(), _TO_R2, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"space={space!r} is not one of {', '.join(map(repr, _TO_R2))}{hint}")
