"""Parts of the data whose betas do not belong to their images: rows, sessions, runs, repeats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainenc.data.matching import Low, low_groups, match_scores, misplaced_share

#: Numbers of equal blocks of rows, or of trials in the order of presentation.
N_BLOCKS = (2, 4, 8, 16)

#: Smallest share of the voxels that a trial needs.
MIN_PRESENT = 0.75

#: Columns of the trial table whose values are groups of trials.
KINDS = ("session", "repeat", "run")

#: What patterns are compared with.
PREDICTIONS, OTHER_TRIALS = "predictions from their images", "other trials of the same images"


@dataclass(frozen=True)
class MisalignedPart:
    """A part whose betas do not seem to belong to their images.

    Attributes
    ----------
    name : str
        Such as "rows 300–599", "session 7", "repeat 2" or "about 20 % of the rows".
    found : str
        Name and scores.
    """

    name: str
    found: str


def misaligned_rows(
    predictions: np.ndarray,
    targets: np.ndarray,
    shifted: Mapping[int, np.ndarray],
    folds: Sequence[np.ndarray],
    rows: np.ndarray,
) -> list[MisalignedPart]:
    """Blocks of rows whose betas do not fit predictions from their images.

    Parameters
    ----------
    predictions, targets : array, shape (n_rows, n_voxels)
        Held-out predictions, and averages that they were fitted to.
    shifted : dict of int to array, shape (n_rows, n_voxels)
        Averages of the rows that lie so many rows further on.
    folds : list of array of int
        Folds of the predictions.
    rows : array of int, shape (n_rows,)
        Rows of the data, in increasing order.
    """
    image = np.arange(len(rows))
    residuals = targets - _slope(predictions, targets) * predictions

    def score(patterns: np.ndarray) -> np.ndarray:
        return match_scores(predictions, patterns, residuals, image, folds)

    scores = score(targets)
    moved = {shift: score(patterns) for shift, patterns in shifted.items()}
    parts = _blocks(scores, image, moved, "row", [f"{row}" for row in rows])
    return parts or _scattered(scores, image, "rows")


def misaligned_trials(
    trials: np.ndarray,
    table: pd.DataFrame,
    predictions: np.ndarray | None,
    folds: Sequence[np.ndarray],
) -> list[MisalignedPart]:
    """Sessions, runs, repeats or blocks of trials that do not fit their images.

    Each trial is compared with the average of the other trials of its image, which takes no
    features, and with the prediction.

    Parameters
    ----------
    trials : array, shape (n_images, n_repeats, n_voxels)
    table : DataFrame
        Trial table of these images: ``image`` and ``repeat`` are positions in `trials`.
    predictions : array, shape (n_images, n_voxels), or None
        Held-out predictions.
    folds : list of array of int
        Folds of the images.
    """
    table = in_order(table)
    present = np.isfinite(trials[table["image"], table["repeat"]]).mean(axis=1)
    table = table[present >= MIN_PRESENT].reset_index(drop=True)  # others look like noise
    image = table["image"].to_numpy()
    patterns = session_centred(trials, table)
    folds = [np.flatnonzero(np.isin(image, fold)) for fold in folds]
    groups = _trial_groups(table)
    parts: list[MisalignedPart] = []
    count = np.bincount(image, minlength=len(trials))[image]
    several = count > 1
    if several.any():
        total = np.zeros((len(trials), patterns.shape[1]), patterns.dtype)
        np.add.at(total, image, patterns)
        n = np.maximum(count, 2)[:, None].astype(patterns.dtype)
        others = (total[image] - patterns) / (n - 1)
        noise = (patterns - total[image] / n) * np.sqrt(n / (n - 1))
        kept = np.flatnonzero(several)
        position = np.full(len(image), -1)
        position[kept] = np.arange(len(kept))
        inside = [position[fold][position[fold] >= 0] for fold in folds]
        scores = np.full(len(image), np.nan)
        scores[kept] = match_scores(others[kept], patterns[kept], noise[kept], image[kept], inside)
        parts += _named(scores, image, groups, OTHER_TRIALS)
        if "trial" in table:
            parts = parts or _blocks(scores, image, {}, "trial", list(table["trial"].astype(str)))
        parts = parts or _scattered(scores, image, "trials")
    if not parts and predictions is not None:
        templates = predictions[image]
        residuals = patterns - _slope(templates, patterns) * templates
        scores = match_scores(templates, patterns, residuals, image, folds)
        parts += _named(scores, image, groups, PREDICTIONS)
    return parts


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Trial table in the order of presentation, as far as it is known."""
    keys = [key for key in ("trial", "session", "run", "image", "repeat") if key in table]
    try:
        return table.sort_values(keys[:1] if keys[0] == "trial" else keys, ignore_index=True)
    except TypeError:  # labels of several types have no order
        return table.sort_values(["image", "repeat"], ignore_index=True)


def session_centred(trials: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Trials in the order of `table`, without what each session adds to all of them.

    Each voxel has unit variance and mean 0 within sessions, and each session the same total
    variance; a missing value is 0.

    Returns
    -------
    array of float32, shape (n_trials, n_voxels)
    """
    patterns = trials[table["image"], table["repeat"]].astype(np.float32)
    labels = table["session"] if "session" in table else pd.Series(0, table.index)
    for _, rows in labels.groupby(labels, dropna=False):
        where = rows.index.to_numpy()
        part = patterns[where]
        n = np.isfinite(part).sum(axis=0)
        patterns[where] = part - np.nansum(part, axis=0) / np.maximum(n, 1)
    sd = np.sqrt(np.nansum(patterns**2, axis=0) / np.maximum(np.isfinite(patterns).sum(axis=0), 1))
    patterns = np.nan_to_num(patterns / np.where(sd > 0, sd, 1))
    for _, rows in labels.groupby(labels, dropna=False):
        where = rows.index.to_numpy()
        size = np.sqrt(np.square(patterns[where]).mean())
        patterns[where] /= size if size > 0 else 1
    return patterns


def _slope(templates: np.ndarray, patterns: np.ndarray) -> np.float32:
    total = np.square(templates).sum()
    return np.float32((templates * patterns).sum() / total if total > 0 else 0)


# ------------------------------------------------------------------ groups


def _trial_groups(table: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """Kinds of groups: dict of name to mask over the trials."""
    names = {kind: kind + " " + table[kind].astype(str) for kind in KINDS if kind in table}
    if "session" in names and "run" in names:
        names["run"] += " of " + names["session"]
    groups: dict[str, dict[str, np.ndarray]] = {}
    for kind, labels in names.items():
        labels = labels[table[kind].notna()]
        groups[kind] = {
            str(name): np.isin(table.index, rows)
            for name, rows in labels.groupby(labels).groups.items()
        }
    return groups


def _named(
    scores: np.ndarray,
    image: np.ndarray,
    groups: Mapping[str, Mapping[str, np.ndarray]],
    against: str,
) -> list[MisalignedPart]:
    """Groups that fit badly; runs only if no whole session does."""
    parts: list[MisalignedPart] = []
    for kind, named in groups.items():
        if kind == "run" and parts:
            continue
        for name, low in low_groups(scores, image, named).items():
            parts.append(MisalignedPart(name, _describe(name, low, against)))
    return parts


def _describe(name: str, low: Low, against: str) -> str:
    if low.shift:
        way = "next" if low.shift > 0 else "previous"
        far = "" if abs(low.shift) == 1 else " but one"
        return (
            f"{name} (score {low.shifted:.2f} with the betas of the {way} row{far}, "
            f"{low.score:.2f} with their own)"
        )
    return f"{name} (score {low.score:.2f} with {against}; usual {low.usual:.2f})"


def _blocks(
    scores: np.ndarray,
    image: np.ndarray,
    shifted: Mapping[int, np.ndarray],
    unit: str,
    labels: Sequence[str],
) -> list[MisalignedPart]:
    """Ranges of consecutive positions, from the smallest blocks that show most of it."""
    n = len(scores)
    cuts = {
        k: [np.isin(np.arange(n), some) for some in np.array_split(np.arange(n), k)]
        for k in N_BLOCKS
    }
    masks = {f"{k} {i}": mask for k, of_size in cuts.items() for i, mask in enumerate(of_size)}
    low = low_groups(scores, image, masks, shifted)
    if not low:
        return []
    covered = {k: sum(masks[name].sum() for name in low if name.startswith(f"{k} ")) for k in cuts}
    size = max(k for k in cuts if covered[k] >= 0.7 * max(covered.values()))
    parts: list[tuple[int, int, Low]] = []
    for i in range(size):
        found = low.get(f"{size} {i}")
        if found is None:
            continue
        if parts and parts[-1][1] == i and parts[-1][2].shift == found.shift:
            parts[-1] = (parts[-1][0], i + 1, found)
        else:
            parts.append((i, i + 1, found))
    named = []
    against = PREDICTIONS if unit == "row" else OTHER_TRIALS
    for first, end, found in parts:
        inside = np.flatnonzero(np.any(cuts[size][first:end], axis=0))
        name = f"{unit}s {labels[inside[0]]}–{labels[inside[-1]]}"
        named.append(MisalignedPart(name, _describe(name, found, against)))
    return named


def _scattered(scores: np.ndarray, image: np.ndarray, unit: str) -> list[MisalignedPart]:
    share = misplaced_share(scores, image)
    if not share.credible:
        return []
    name = f"about {100 * share.value:.0f} % of the {unit}"
    found = f"{name}, at scattered places (they score 0, the others {share.aligned:.2f})"
    return [MisalignedPart(name, found)]
