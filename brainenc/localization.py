"""Concept localisation: voxels that prefer the images of a concept, by an encoder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from brainenc.arrays import blocks
from brainenc.brain.volumes import to_nifti
from brainenc.conversion import check_row_order, plain_array
from brainenc.csv_files import write_csv
from brainenc.data.images import as_images, image_batches, looks_like_images
from brainenc.data.voxels import beside_results
from brainenc.model_selection import fdr
from brainenc.progress import progress
from brainenc.validation import check_index, check_whole

if TYPE_CHECKING:
    import nibabel

_RESPONSES = ("predictions", "draws")
_TESTS = ("one-sample", "welch")
_ALTERNATIVES = ("greater", "less", "two-sided")


@dataclass(frozen=True, eq=False)
class ConceptMap:
    """Result of `localize`: responses of voxels to images of a concept against the rest.

    Attributes
    ----------
    t : array, shape (n_voxels,)
        t statistic of the test over images. `t`, `p`, `q` and `effect` are NaN for a voxel without
        predictions or with constant ones.
    p : array, shape (n_voxels,)
        p-value of `t`.
    q : array, shape (n_voxels,)
        p adjusted over voxels (Benjamini–Hochberg): the smallest false discovery rate at which the
        voxel is a discovery.
    effect : array, shape (n_voxels,)
        Mean response to the concept minus that to the rest, in standard deviations of a single
        trial: z units, as of z-scored betas.
    significant : array of bool, shape (n_voxels,)
        q <= `alpha`, and an effect of at least `min_effect` in the tested direction.
    n_concept, n_rest : int
        Images.
    responses, test, alternative, alpha, min_effect
        As given to `localize`.
    """

    t: np.ndarray
    p: np.ndarray
    q: np.ndarray
    effect: np.ndarray
    significant: np.ndarray
    n_concept: int
    n_rest: int
    responses: str
    test: str
    alternative: str
    alpha: float
    min_effect: float

    def __repr__(self) -> str:
        return (
            f"ConceptMap({int(self.significant.sum())} of {self.t.size} voxels, {self.n_concept} "
            f"images of the concept against {self.n_rest})"
        )

    def table(self, voxels: pd.DataFrame | None = None) -> pd.DataFrame:
        """One row per voxel: `voxel` (position), columns of the voxel table if given, results.

        Parameters
        ----------
        voxels : DataFrame, n_voxels rows, optional
            As `EncodingData.voxels`. Columns with the name of a result, such as ``p``, are taken
            over as ``p_of_voxel``.

        Raises
        ------
        ValueError : the number of rows differs from that of voxels.
        """
        results = pd.DataFrame(
            {name: getattr(self, name) for name in ("t", "p", "q", "effect", "significant")}
        )
        results.insert(0, "voxel", np.arange(len(results)))
        if voxels is None:
            return results
        self._check_rows(voxels)
        return beside_results(results, voxels)

    def to_csv(self, path: str | os.PathLike, voxels: pd.DataFrame | None = None) -> Path:
        """Write `table` as CSV, atomically.

        Parameters
        ----------
        path : path
        voxels : as for `table`

        Returns
        -------
        pathlib.Path : `path`
        """
        write_csv(path, self.table(voxels))
        return Path(path)

    def to_nifti(
        self,
        voxels: pd.DataFrame,
        path: str | os.PathLike | None = None,
        *,
        value: str = "t",
        thresholded: bool = False,
        **grid: Any,
    ) -> "nibabel.Nifti1Image":
        """The map as a NIfTI volume.

        Parameters
        ----------
        voxels : DataFrame, n_voxels rows
            With columns ``i``, ``j``, ``k``.
        path : path, optional
            File to write, ``.nii`` or ``.nii.gz``.
        value : "t", "p", "q", "effect" or "significant"
        thresholded : bool
            Set voxels that are not significant to NaN.
        **grid
            `affine`, `shape`, `mask`, as for `brainenc.brain.to_nifti`.

        Returns
        -------
        nibabel.Nifti1Image, float32

        Raises
        ------
        ValueError : as `brainenc.brain.to_nifti`, or unknown `value`.
        """
        if value not in ("t", "p", "q", "effect", "significant"):
            raise ValueError(f"value={value!r} must be 't', 'p', 'q', 'effect' or 'significant'")
        self._check_rows(voxels)
        values = np.asarray(getattr(self, value), dtype=np.float32)
        if thresholded:
            values = np.where(self.significant, values, np.float32(np.nan))
        return to_nifti(values, voxels, path=path, **grid)

    def _check_rows(self, voxels: pd.DataFrame) -> None:
        check_row_order(t=self.t, voxels=voxels)
        if len(voxels) != self.t.size:
            raise ValueError(f"voxels has {len(voxels)} rows, but the map has {self.t.size} voxels")


def localize(
    encoder: Any,
    images: Any,
    concept_mask: Any,
    *,
    responses: str = "predictions",
    n_draws: int = 5,
    test: str = "one-sample",
    alternative: str = "greater",
    alpha: float = 0.05,
    min_effect: float = 0.1,
    batch_size: int = 256,
    random_state: Any = 0,
    verbose: bool = False,
) -> ConceptMap:
    """Find the voxels that prefer images of a concept, according to an encoder.

    Responses to all images are synthesised in batches, and every voxel's mean response to the
    images of the concept is tested against its mean response to the rest.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
    images : images or features, as for ``encoder.predict``
        One row per image; files and memory-mapped arrays are read in batches. Use images that the
        encoder was not fitted on, since its predictions of those include noise.
    concept_mask : mask of shape (n_images,), or positions
        The images of the concept; at least two, and two others.
    responses : "predictions" or "draws"
        Expected responses, or the average of `n_draws` single-trial draws per image, which includes
        noise as in an experiment.
    n_draws : int
        Draws averaged per image; for "draws".
    test : "one-sample" or "welch"
        One-sample t-test of the concept's responses against the mean of the rest, treated as known:
        valid if the rest are many more. Welch's t-test includes the error of that mean.
    alternative : "greater", "less" or "two-sided"
        "greater": voxels that prefer the concept.
    alpha : float
        False discovery rate over voxels.
    min_effect : float
        Smallest significant difference, in standard deviations of a single trial. With 0 only the
        test decides.
    batch_size : int
        Images synthesised at a time.
    random_state : int, Generator or None
        Seed of the draws, which also depend on `batch_size`.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    ConceptMap

    Raises
    ------
    ValueError : a parameter is out of range, there are fewer than two images of the concept or of
        the rest, or the encoder has no noise, the unit of `min_effect`.

    Notes
    -----
    The population of the test is that of images: p refers to *synthetic* responses to other images
    of the concept. The test is conditional on the encoder: it cannot show that voxels really
    respond this way. Systematic errors of the encoder do not average out over images, and with
    thousands of images any small difference is significant. `min_effect` is therefore in units of
    the trials: if an encoder explains little, its responses hardly vary, and effects are small. The
    test assumes independent images.

    The s.d. of a single trial is that of the encoder: of predictions, √(variance over images +
    variance of ``encoder.noise_``); of draws, their s.d. over images and draws.

    References
    ----------
    MindSimulator (ICLR 2025): the images come from a search for "a photo of …" among many.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> encoder = brainenc.RidgeEncoder().fit(features, betas)
    >>> images = rng.standard_normal((200, 8))  # features of images to test
    >>> concept = brainenc.localize(encoder, images, images[:, 0] > 1, verbose=False)
    >>> int(concept.t.argmax())  # voxel 0 responds to feature 0
    0
    """
    _check_choices(responses, test, alternative, alpha, min_effect, n_draws, batch_size)
    n_images, batches = in_batches(images, batch_size)
    chosen = np.zeros(n_images, dtype=bool)
    chosen[check_index(concept_mask, n_images, "concept_mask")] = True
    if min(chosen.sum(), (~chosen).sum()) < 2:
        raise ValueError(
            f"concept_mask selects {chosen.sum()} of {n_images} images: a test takes at least two "
            "of the concept and two others"
        )
    rng = np.random.default_rng(random_state)
    concept, rest, trials = Moments(), Moments(), Moments()
    with progress(desc="localize", total=n_images, unit="image", verbose=verbose) as bar:
        for rows, batch in batches:
            if responses == "draws":
                draws = two_dimensional(encoder.sample(batch, n_draws, rng), 3)
                trials.add(draws.reshape(-1, draws.shape[2]))
                synthetic = draws.mean(axis=0)
            else:
                synthetic = two_dimensional(encoder.predict(batch), 2)
                trials.add(synthetic)
            concept.add(synthetic[chosen[rows]])
            rest.add(synthetic[~chosen[rows]])
            bar.update(len(synthetic))
    variance = trials.variance
    if responses == "predictions":
        variance = variance + _noise_variance(encoder, variance)
    t, p = t_test(concept, rest, test, alternative)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.where(np.isnan(t), np.nan, (concept.mean - rest.mean) / np.sqrt(variance))
    q = fdr(p)
    size = {"greater": effect, "less": -effect, "two-sided": np.abs(effect)}[alternative]
    return ConceptMap(
        t=t,
        p=p,
        q=q,
        effect=effect,
        significant=(q <= alpha) & (size >= min_effect),
        n_concept=concept.n,
        n_rest=rest.n,
        responses=responses,
        test=test,
        alternative=alternative,
        alpha=alpha,
        min_effect=min_effect,
    )


class Moments:
    """Mean and variance over rows that come in blocks (Chan, Golub & LeVeque 1983).

    Attributes
    ----------
    n : int
    mean : array, shape (n_voxels,), float64
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, block: np.ndarray) -> None:
        """Add rows (n, n_voxels); n may be 0."""
        if not len(block):
            return
        mean = block.mean(axis=0, dtype=np.float64)
        squares = np.square(block - mean).sum(axis=0)
        total = self.n + len(block)
        shift = mean - self.mean
        self._squares = self._squares + squares + shift**2 * (self.n * len(block) / total)
        self.mean = self.mean + shift * (len(block) / total)
        self.n = total

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variance; 0 where it is only round-off."""
        variance = self._squares / (self.n - 1)
        return np.where(variance > 1e-12 * self.mean**2, variance, variance * 0)


def t_test(
    concept: Moments, rest: Moments, test: str, alternative: str
) -> tuple[np.ndarray, np.ndarray]:
    """Statistic and p of the concept's mean against the rest's, per voxel.

    Parameters
    ----------
    concept, rest : Moments
    test : "one-sample" or "welch"
    alternative : "greater", "less" or "two-sided"

    Returns
    -------
    t, p : arrays, shape (n_voxels,); NaN where responses are constant.
    """
    sd, other_sd = np.sqrt(concept.variance), np.sqrt(rest.variance)
    # Welch's test with an error-free mean is the one-sample test.
    if test == "one-sample":
        other_sd = np.zeros_like(other_sd)
    with np.errstate(invalid="ignore", divide="ignore"):
        t, p = stats.ttest_ind_from_stats(
            concept.mean, sd, concept.n, rest.mean, other_sd, rest.n,
            equal_var=False, alternative=alternative,
        )  # fmt: skip
    varies = sd + other_sd > 0
    return np.where(varies, t, np.nan), np.where(varies, p, np.nan)


def in_batches(images: Any, batch_size: int) -> tuple[int, Iterator[tuple[slice, Any]]]:
    """Number of images or rows of features, and batches of them with their rows."""
    check_whole("batch_size", batch_size)
    if looks_like_images(images):
        images = as_images(images)
        parts = image_batches(images, batch_size)
    else:
        images = images if isinstance(images, np.ndarray) else plain_array(images, "images")
        parts = (images[rows] for rows in blocks(len(images), batch_size))
    return len(images), zip(blocks(len(images), batch_size), parts, strict=True)


def two_dimensional(responses: np.ndarray, ndim: int) -> np.ndarray:
    """Responses with a voxel axis, which an encoder fitted to one-dimensional betas lacks."""
    return responses if responses.ndim == ndim else responses[..., None]


def _noise_variance(encoder: Any, known: np.ndarray) -> np.ndarray:
    noise = getattr(encoder, "noise_", None)
    if noise is None or np.isnan(noise.variance[~np.isnan(known)]).all():
        raise ValueError(
            f"{type(encoder).__name__} has no estimate of single-trial noise, so that effects have "
            'no scale; use responses="draws"'
        )
    return noise.variance


def _check_choices(
    responses: str,
    test: str,
    alternative: str,
    alpha: float,
    min_effect: float,
    n_draws: int,
    batch_size: int,
) -> None:
    for name, value, known in [
        ("responses", responses, _RESPONSES),
        ("test", test, _TESTS),
        ("alternative", alternative, _ALTERNATIVES),
    ]:
        if value not in known:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must be a rate between 0 and 1")
    if not min_effect >= 0:
        raise ValueError(f"min_effect={min_effect} must be 0 or more")
    for name, count in {"n_draws": n_draws, "batch_size": batch_size}.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be 1 or more")
