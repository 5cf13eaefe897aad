"""Tables of a learning curve: means, paired differences, and what a method is worth in images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainenc.benchmarking.group_tests import t_test
from brainenc.benchmarking.intervals import mean_over_voxels
from brainenc.model_selection import bootstrap_interval, bootstrap_p_value

#: Mean over voxels in each bootstrap sample, (n_bootstraps,), by (subject, encoder, size, draw).
Samples = Mapping[tuple[str, str, int, int], np.ndarray]


def sampled_r(prediction: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R of each voxel in each bootstrap sample of images, (n_bootstraps, n_voxels).

    Parameters
    ----------
    prediction, target : arrays, shape (n_images, n_voxels)
        NaN leaves out an image for that voxel.
    weights : array, shape (n_bootstraps, n_images)
        Count of each image in each sample.

    Returns
    -------
    array, shape (n_bootstraps, n_voxels)
        NaN where r is undefined.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).standard_normal((2, 30, 4))
    >>> r = sampled_r(x, y, np.ones((1, 30)))
    >>> bool(np.isclose(r[0, 2], np.corrcoef(x[:, 2], y[:, 2])[0, 1]))
    True
    """
    present = np.isfinite(prediction) & np.isfinite(target)
    some = present.astype(np.float64)
    n = np.maximum(some.sum(axis=0), 1)
    x, y = (np.where(present, a, 0).astype(np.float64) for a in (prediction, target))
    # Around the mean of all images, so that squares do not cancel.
    x, y = (np.where(present, a - a.sum(axis=0) / n, 0) for a in (x, y))
    w = np.asarray(weights, dtype=np.float64)
    n_w, sx, sy = w @ some, w @ x, w @ y
    with np.errstate(invalid="ignore", divide="ignore"):
        xx = w @ (x * x) - sx * sx / n_w
        yy = w @ (y * y) - sy * sy / n_w
        r = (w @ (x * y) - sx * sy / n_w) / np.sqrt(xx * yy)
        tiny = 1e-12
        constant = (xx <= tiny * np.square(x).sum(0)) | (yy <= tiny * np.square(y).sum(0))
    return np.where(constant | ~np.isfinite(r), np.nan, r)


def mean_samples(r: np.ndarray) -> np.ndarray:
    """Mean over voxels in each sample."""
    return np.asarray(mean_over_voxels(r))


def summary_table(scores: pd.DataFrame, samples: Samples) -> pd.DataFrame:
    """Means over draws and subjects, with intervals over images and over subjects."""
    rows = []
    whole = scores[scores["roi"] == "all"]
    key: Any
    for key, part in whole.groupby(["encoder", "size"], sort=False):
        encoder, size = key
        per_subject = part.groupby("subject", sort=False)["r"].mean()
        over_subjects = t_test(per_subject.to_numpy(float))
        names = list(per_subject.index)
        low, high = bootstrap_interval(_over_subjects(samples, encoder, size, names))
        rows.append(
            {
                "encoder": encoder,
                "size": int(size),
                "r": float(per_subject.mean()),
                "low": float(low),
                "high": float(high),
                "low_subjects": over_subjects.low,
                "high_subjects": over_subjects.high,
                "noise_ceiling": float(part["noise_ceiling"].mean()),
                "n_images": float(part["n_images"].mean()),
                "n_subjects": int(per_subject.notna().sum()),
                "n_draws": int(part["draw"].nunique()),
                "seconds": float(part["seconds"].mean()),
            }
        )
    return pd.DataFrame(rows)


def pair_table(scores: pd.DataFrame, samples: Samples, reference: str) -> pd.DataFrame:
    """Differences of every encoder and the reference, paired over images, draws and subjects."""
    rows = []
    whole = scores[scores["roi"] == "all"]
    table = whole.pivot_table(
        index=["subject", "size", "draw"], columns="encoder", values="r", dropna=False
    )
    for encoder in dict.fromkeys(whole["encoder"]):
        if encoder == reference or reference not in table:
            continue
        for size in sorted(set(whole["size"])):
            both = table.xs(size, level="size")[[encoder, reference]].dropna()
            difference = (both[encoder] - both[reference]).groupby("subject", sort=False).mean()
            if difference.empty:
                continue
            names = difference.index
            sampled = _over_subjects(samples, encoder, size, names) - _over_subjects(
                samples, reference, size, names
            )
            low, high = bootstrap_interval(sampled)
            group = t_test(difference.to_numpy(float))
            rows.append(
                {
                    "encoder_a": encoder,
                    "encoder_b": reference,
                    "size": int(size),
                    "difference": float(difference.mean()),
                    "low": float(low),
                    "high": float(high),
                    "p": float(bootstrap_p_value(sampled)),
                    "low_subjects": group.low,
                    "high_subjects": group.high,
                    "p_subjects": group.p,
                    "n_subjects": len(difference),
                    "n_positive": int((difference > 0).sum()),
                }
            )
    return pd.DataFrame(rows, columns=_PAIRS)


_PAIRS = [
    *("encoder_a", "encoder_b", "size", "difference", "low", "high", "p"),
    *("low_subjects", "high_subjects", "p_subjects", "n_subjects", "n_positive"),
]
_WORTH = ["encoder", "reference", "size", "worth", "low", "high", "beyond"]


def worth_table(
    summary: pd.DataFrame, scores: pd.DataFrame, samples: Samples, reference: str
) -> pd.DataFrame:
    """Images from scratch that each method is worth at each size.

    The size at which the reference, interpolated over the logarithm of the size, has the same r.
    NaN outside the sizes measured: then ``beyond`` says "above" or "below" these.
    """
    own = summary[summary["encoder"] == reference].sort_values("size")
    if len(own) < 2:
        return pd.DataFrame(columns=_WORTH)
    sizes, curve = own["size"].to_numpy(float), own["r"].to_numpy(float)
    whole = scores[scores["roi"] == "all"]
    subjects = list(dict.fromkeys(whole["subject"]))
    curves = np.array([_over_subjects(samples, reference, int(n), subjects) for n in sizes])
    rows = []
    row: Any
    for row in summary[summary["encoder"] != reference].itertuples():
        worth = size_at(sizes, curve, row.r)
        sampled = _over_subjects(samples, row.encoder, row.size, subjects)
        found = np.array([size_at(sizes, c, r) for c, r in zip(curves.T, sampled, strict=True)])
        # Samples beyond the sizes stay beyond them: they are at the ends of the interval.
        ends = np.where(np.isnan(found), np.where(sampled > np.nanmax(curves, 0), np.inf, 0), found)
        low, high = np.percentile(ends, [2.5, 97.5], method="nearest") if len(ends) else (0, np.inf)
        beyond = "" if np.isfinite(worth) else "above" if row.r > curve.max() else "below"
        rows.append(
            {
                "encoder": row.encoder,
                "reference": reference,
                "size": row.size,
                "worth": worth,
                "low": low if 0 < low < np.inf else np.nan,
                "high": high if 0 < high < np.inf else np.nan,
                "beyond": beyond,
            }
        )
    return pd.DataFrame(rows, columns=_WORTH)


def size_at(sizes: np.ndarray, curve: np.ndarray, value: float) -> float:
    """Size at which a curve, made monotone, has a value; NaN outside it.

    Examples
    --------
    >>> import numpy as np
    >>> size_at(np.array([10.0, 100.0]), np.array([0.1, 0.3]), 0.2).round(2)
    np.float64(31.62)
    """
    rising = np.maximum.accumulate(np.nan_to_num(curve, nan=-np.inf))
    if not rising[0] <= value <= rising[-1]:
        return float("nan")
    return np.exp(np.interp(value, rising, np.log(sizes)))


def _over_subjects(samples: Samples, encoder: Any, size: Any, subjects: Sequence[Any]) -> Any:
    """Mean over draws, then subjects, in each bootstrap sample."""
    means = []
    for subject in subjects:
        own = [
            drawn
            for (name, method, n, _), drawn in samples.items()
            if (name, method, n) == (subject, encoder, size)
        ]
        if own:
            means.append(np.mean(own, axis=0))
    return np.mean(means, axis=0) if means else np.full(1, np.nan)
