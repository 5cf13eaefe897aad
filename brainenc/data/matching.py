"""How well each pattern of betas fits its image, beside the patterns of other images.

A template is what the image should evoke: a held-out prediction, or the average of the other trials
of the image. The score of a pattern is its product with the template, whitened by the noise between
voxels, in standard deviations of the products with patterns of other images. A pattern that does
not belong to its image has a score of mean 0 and s.d. 1, which needs no assumption about the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Share of the mean noise variance that is added to the noise covariance before it is inverted.
SHRINKAGE = 0.3

#: Smallest numbers of images for the share of misplaced patterns, and for a group of its own.
MIN_SCORES, MIN_IN_GROUP = 100, 12

#: A group stands out if its mean score is credibly below this share of that of the other groups.
LOW_GROUP = 0.5

#: False-alarm rate, over all groups of one kind together.
GROUP_ALPHA = 0.002

#: Log-likelihood ratio, and lower limit of the share, from which misplaced patterns are reported.
SHARE_EVIDENCE, SHARE_LOW = 5.0, 0.02


def match_scores(
    templates: np.ndarray,
    patterns: np.ndarray,
    residuals: np.ndarray,
    image: np.ndarray,
    folds: Sequence[np.ndarray],
) -> np.ndarray:
    """Score of each pattern with its template.

    Parameters
    ----------
    templates, patterns : array, shape (n, n_voxels)
        In a template, nothing is from the patterns of its fold but those of its own image.
    residuals : array, shape (n, n_voxels)
        Patterns without the response to their image. The noise covariance for a fold is estimated
        from the other folds.
    image : array of int, shape (n,)
        Image of each pattern.
    folds : list of array of int
        Positions of the patterns of each fold; all patterns of an image are in one.

    Returns
    -------
    array, shape (n,); NaN where the fold has too few patterns of other images.
    """
    scores = np.full(len(patterns), np.nan)
    for fold in folds:
        rest = np.setdiff1d(np.concatenate(folds), fold)
        covariance = residuals[rest].T @ residuals[rest] / max(1, len(rest))
        size = np.trace(covariance) / len(covariance)
        if not size > 0:
            continue
        covariance += SHRINKAGE * size * np.eye(len(covariance), dtype=covariance.dtype)
        whitened = np.linalg.solve(covariance, templates[fold].T).T
        products = (whitened @ patterns[fold].T).astype(np.float64)
        other = image[fold][:, None] != image[fold]
        n = other.sum(axis=1)
        own = np.diag(products)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(other, products, 0).sum(axis=1) / n
            sd = np.sqrt(np.where(other, (products - mean[:, None]) ** 2, 0).sum(axis=1) / (n - 1))
            found = (own - mean) / sd
        scores[fold] = np.where((n >= MIN_IN_GROUP) & (sd > 0), found, np.nan)
    return scores


@dataclass(frozen=True)
class Share:
    """Estimated share of patterns that do not belong to their image.

    Attributes
    ----------
    value, low : float
        Estimate, and its lower limit (two standard errors); NaN with fewer than `MIN_SCORES`
        images.
    evidence : float
        Log-likelihood ratio of this share against none.
    aligned : float
        Mean score of the patterns that do belong to theirs.
    """

    value: float
    low: float
    evidence: float
    aligned: float

    @property
    def credible(self) -> bool:
        """Whether there are such patterns beyond doubt."""
        return self.evidence > SHARE_EVIDENCE and self.low >= SHARE_LOW


def misplaced_share(scores: np.ndarray, image: np.ndarray) -> Share:
    """Share of scores from N(0, 1), the rest being from one other normal distribution.

    Scores of one image are not independent: they count as one score.

    Scores of patterns that fit their images vary less than those of the others, since what the
    image evokes is part of the template, unless some images evoke much more than others: the s.d.
    of the other distribution is at most 1, or half of its mean.
    """
    finite = np.isfinite(scores)
    z = scores[finite]
    n_images = len(np.unique(image[finite]))
    if n_images < MIN_SCORES or not z.mean() > 0:
        return Share(np.nan, np.nan, 0.0, np.nan)
    shares = np.arange(0, 0.81, 0.01)
    fits = [_fit_with_share(z, share) for share in shares]
    likelihood = np.array([fit[0] for fit in fits]) * n_images / len(z)
    best = int(likelihood.argmax())
    low = shares[np.flatnonzero(likelihood > likelihood[best] - 2)[0]]
    return Share(
        float(shares[best]), float(low), float(likelihood[best] - likelihood[0]), fits[best][1]
    )


def _fit_with_share(z: np.ndarray, share: float) -> tuple[float, float]:
    """Log-likelihood and mean of the aligned scores for this share, by expectation maximisation."""
    null = share * _density(z, 0, 1)
    mean, sd = z[z >= np.quantile(z, share)].mean(), min(1.0, z.std())
    for _ in range(30):
        aligned = (1 - share) * _density(z, mean, sd)
        belongs = aligned / np.maximum(aligned + null, 1e-300)
        total = max(belongs.sum(), 1e-9)
        mean = float(belongs @ z / total)
        sd = float(np.clip(np.sqrt(belongs @ (z - mean) ** 2 / total), 0.3, max(1, mean / 2)))
    density = (1 - share) * _density(z, mean, sd) + null
    return float(np.log(np.maximum(density, 1e-300)).sum()), mean


def _density(z: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """Of the normal distribution."""
    return np.exp(-0.5 * ((z - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


@dataclass(frozen=True)
class Low:
    """A group of patterns that fit their images badly.

    Attributes
    ----------
    score : float
        Mean score of the group; 0 if no pattern belongs to its image.
    usual : float
        Mean score of the better half of the groups.
    shift : int
        Position of the betas that fit better, relative to their own; 0 if none does.
    shifted : float
        Mean score with these betas; NaN without a shift.
    """

    score: float
    usual: float
    shift: int = 0
    shifted: float = np.nan


def low_groups(
    scores: np.ndarray,
    image: np.ndarray,
    groups: Mapping[str, np.ndarray],
    shifted: Mapping[int, np.ndarray] | None = None,
) -> dict[str, Low]:
    """Groups that credibly fit less than half as well as others, or fit better when shifted.

    Parameters
    ----------
    scores : array, shape (n,)
    image : array of int, shape (n,)
        Scores of one image are averaged within a group first, as they are not independent.
    groups : dict of name to mask (n,)
    shifted : dict of int to array, shape (n,), optional
        Scores with the betas that lie so many positions further on.

    Returns
    -------
    dict of name to Low
    """
    shifted = shifted or {}
    level = GROUP_ALPHA / max(1, len(groups))
    all_means = {name: _mean(scores, image, mask, level) for name, mask in groups.items()}
    means = {name: found for name, found in all_means.items() if found is not None}
    ordered = sorted(mean for mean, _ in means.values())
    usual = float(np.mean(ordered[len(ordered) // 2 :])) if ordered else np.nan
    low = {}
    for name, (mean, error) in means.items():
        better = {
            shift: gain
            for shift, other in shifted.items()
            if (gain := _mean(other - scores, image, groups[name], level / len(shifted)))
            and gain[0] - gain[1] > 0
        }
        if better:
            shift = max(better, key=lambda shift: better[shift][0])
            low[name] = Low(mean, usual, shift, mean + better[shift][0])
        elif len(means) > 1 and mean + error < LOW_GROUP * usual:
            low[name] = Low(mean, usual)
    return low


def _mean(
    scores: np.ndarray, image: np.ndarray, mask: np.ndarray, level: float
) -> tuple[float, float] | None:
    """Mean over the images of a group, and the error that is exceeded with this probability."""
    of_group = np.flatnonzero(mask & np.isfinite(scores))
    _, position = np.unique(image[of_group], return_inverse=True)
    if not len(position) or position.max() + 1 < MIN_IN_GROUP:
        return None
    per_image = np.bincount(position, scores[of_group]) / np.bincount(position)
    n = len(per_image)
    # Few scores that are alike by chance must not look certain.
    sd = max(per_image.std(ddof=1), 0.5)
    from scipy.stats import t as student

    return float(per_image.mean()), float(student.isf(level, n - 1) * sd / np.sqrt(n))
