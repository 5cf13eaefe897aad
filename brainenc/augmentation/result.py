"""AugmentationResult: gains over nothing added, their share of what real trials bring, a report."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc.augmentation.conditions import NONE, REAL_TRIALS, controls_of
from brainenc.storage import atomic_path

CENTRED, UNCENTRED = "centred", "uncentred"
DIRECTIONS = {"image_retrieval": "image", "brain_retrieval": "brain"}
N_BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Scores:
    """Retrieval of one condition in one replicate.

    Attributes
    ----------
    condition : str
    ratio : int
        Added rows per real row.
    replicate : int
    similarity : str
        "centred", "uncentred" or "CSLS".
    chance : float
    tries : DataFrame, one row per test image
        ``image_hits``, ``image_tries``, ``brain_hits``, ``brain_tries``.
    more : dict
        relative_mse, weight, penalty.
    """

    condition: str
    ratio: int
    replicate: int
    similarity: str
    chance: float
    tries: pd.DataFrame
    more: dict[str, float]

    def score(self, direction: str) -> float:
        """Share of right choices."""
        part = DIRECTIONS[direction]
        total = self.tries[f"{part}_tries"].sum()
        return float(self.tries[f"{part}_hits"].sum() / total) if total else float("nan")


@dataclass(frozen=True)
class AugmentationResult:
    """Scores of an augmentation study.

    Attributes
    ----------
    scores : list of Scores
    settings : dict
        n_real, n_tuning, n_test, ratios, replicates.
    random_state : int
        Seed of the bootstrap.

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(n_images=150, n_voxels=30, random_state=0)
    >>> result = brainenc.augmentation_study(
    ...     data, targets=data.truth.tokens, n_real=30, n_tuning=30, n_test=30, ratios=(2,),
    ...     replicates=1, pool_size=30,
    ... )
    >>> list(result.replicates()["condition"][:2])
    ['none', 'none']
    """

    scores: list[Scores]
    settings: dict[str, Any]
    random_state: int = 0
    _gains: dict[Any, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def replicates(self) -> pd.DataFrame:
        """Scores of each condition in each replicate, one row per kind of similarity."""
        rows = [
            {
                "condition": s.condition,
                "ratio": s.ratio,
                "replicate": s.replicate,
                "similarity": s.similarity,
                **{direction: s.score(direction) for direction in DIRECTIONS},
                "chance": s.chance,
                **s.more,
            }
            for s in self.scores
        ]
        return pd.DataFrame(rows)

    def table(self, ratio: int | None = None) -> pd.DataFrame:
        """Gains of each condition over "none", by kind of similarity.

        Parameters
        ----------
        ratio : int, optional
            Added rows per real row; by default the largest.

        Returns
        -------
        DataFrame
            For both directions the score, the gain over "none" in the same replicates, its interval
            (``_low``, ``_high``: 95 %, bootstrap over replicates and images), and
            ``_share``, the gain as a share of that of real trials. ``relative_mse`` and ``weight``
            are means over replicates. ``gain`` is True if the interval is above 0 in both
            directions, and above those of repeated rows, rows with noise and permuted images.
        """
        ratio = self.settings["ratios"][-1] if ratio is None else ratio
        every = self.replicates()
        every = every[every["ratio"] == ratio]
        if every.empty:
            raise ValueError(f"ratio={ratio} must be one of {self.settings['ratios']}")
        names = list(dict.fromkeys(every["condition"]))
        rows = []
        for key, part in every.groupby(["condition", "similarity"], sort=False):
            name, label = map(str, key)
            row: dict[str, Any] = {"condition": name, "similarity": label}
            above = name not in (NONE, REAL_TRIALS)
            for direction in DIRECTIONS:
                row[direction] = part[direction].mean()
                gain = self._gain(ratio, label, direction, name)
                real = self._gain(ratio, label, direction, REAL_TRIALS)
                low, high = _interval(gain[1:])
                row[f"{direction}_gain"] = gain[0]
                row[f"{direction}_low"], row[f"{direction}_high"] = low, high
                row[f"{direction}_share"] = gain[0] / real[0] if real[0] > 0 else np.nan
                above = above and low > 0
                for control in controls_of(name, names):
                    less = gain - self._gain(ratio, label, direction, control)
                    above = above and _interval(less[1:])[0] > 0
            for column in ("relative_mse", "weight"):
                row[column] = part[column].mean() if column in part else np.nan
            rows.append({**row, "gain": bool(above)})
        return pd.DataFrame(rows)

    def _gain(self, ratio: int, label: str, direction: str, name: str) -> np.ndarray:
        """Gain over "none", then its resamples, (1 + N_BOOTSTRAPS,)."""
        key = (ratio, label, direction, name)
        if key not in self._gains:
            self._gains[key] = self._resampled(*key)
        return self._gains[key]

    def _resampled(self, ratio: int, label: str, direction: str, name: str) -> np.ndarray:
        part = DIRECTIONS[direction]
        found = {
            (s.condition, s.replicate): s.tries
            for s in self.scores
            if s.ratio == ratio and s.similarity == label and s.condition in (name, NONE)
        }
        numbers = sorted({replicate for condition, replicate in found if condition == name})
        gains = np.empty((len(numbers), 1 + N_BOOTSTRAPS))
        for i, replicate in enumerate(numbers):
            weights = self._image_weights(replicate, len(found[name, replicate]))
            both = [found[condition, replicate] for condition in (name, NONE)]
            with np.errstate(invalid="ignore", divide="ignore"):
                a, b = (
                    (weights @ t[f"{part}_hits"].to_numpy())
                    / (weights @ t[f"{part}_tries"].to_numpy())
                    for t in both
                )
            gains[i] = a - b
        rng = np.random.default_rng(self.random_state)
        chosen = rng.integers(0, len(numbers), (len(numbers), N_BOOTSTRAPS))
        resampled = np.take_along_axis(gains[:, 1:], chosen, axis=0).mean(axis=0)
        return np.concatenate([[gains[:, 0].mean()], resampled])

    def _image_weights(self, replicate: int, n: int) -> np.ndarray:
        """Ones, then resamples of images: the same for all conditions, so that gains are paired."""
        if (replicate, n) not in self._gains:
            rng = np.random.default_rng([self.random_state, replicate])
            drawn = rng.multinomial(n, np.full(n, 1 / n), N_BOOTSTRAPS)
            self._gains[replicate, n] = np.concatenate([np.ones((1, n)), drawn])
        return self._gains[replicate, n]

    def report(self, ratio: int | None = None) -> str:
        """The result in words: first, the share of the gain of real trials that was recovered.

        Parameters
        ----------
        ratio : int, optional
            As for `table`.
        """
        return "\n".join(self.findings(ratio))

    def findings(self, ratio: int | None = None) -> list[str]:
        """Sentences of the report: the kind of synthetic trials that recovered most comes first.

        Most in that of the two directions, centred, in which it recovered less.

        Parameters
        ----------
        ratio : int, optional
            As for `table`.
        """
        ratio = self.settings["ratios"][-1] if ratio is None else ratio
        table = self.table(ratio)
        kinds = [
            name
            for name in dict.fromkeys(table["condition"])
            if name.endswith("new images") and name != REAL_TRIALS
        ]
        best = max(kinds, key=lambda name: _less(_row(table, name, CENTRED)))
        n = ratio * self.settings["n_real"]
        which = best if len(kinds) == 1 else f"{best}; the best of {len(kinds)} kinds"
        lines = [f"{n} synthetic trials ({which}) recovered {_recovered(table, best)}."]
        gained = table[table["gain"] & (table["similarity"] == CENTRED)]["condition"]
        lines.append(
            "Gains above 0 in both directions, centred, and above those of repeated rows, rows "
            "with noise and permuted images: " + (", ".join(gained) or "none") + "."
        )
        real = _row(table, REAL_TRIALS, CENTRED)
        lines.append(
            f"Real trials of as many new images bring {100 * real['image_retrieval_gain']:+.1f} "
            f"points in image retrieval and {100 * real['brain_retrieval_gain']:+.1f} in brain "
            f"retrieval, centred ({_plural(self.settings['replicates'], 'replicate')}, "
            f"{self.settings['n_real']} real trials)."
        )
        for name in kinds:
            if name != best:
                lines.append(f"- {name}: recovered {_recovered(table, name)}.")
        return lines

    def to_html(self, path: str | os.PathLike) -> Path:
        """Write the report: one self-contained HTML file, with the gains as a figure.

        Returns
        -------
        pathlib.Path : `path`
        """
        from brainenc.report.augmentation import render_augmentation

        with atomic_path(path) as temporary:
            temporary.write_bytes(render_augmentation(self).encode("utf-8", errors="replace"))
        return Path(path)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write ``report.txt``, ``report.html``, ``gains.csv`` (all ratios), ``replicates.csv``.

        Parameters
        ----------
        folder : path
            Made if it is not there.

        Returns
        -------
        pathlib.Path
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ratios = self.settings["ratios"]
        tables = [self.table(ratio).assign(ratio=ratio) for ratio in ratios]
        (folder / "report.txt").write_text(self.report() + "\n", encoding="utf-8")
        self.to_html(folder / "report.html")
        pd.concat(tables).to_csv(folder / "gains.csv", index=False)
        self.replicates().to_csv(folder / "replicates.csv", index=False)
        return folder


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    """Percentile interval of 95 %; NaN if it is undefined in all resamples."""
    known = resampled[np.isfinite(resampled)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _row(table: pd.DataFrame, name: str, label: str) -> pd.Series:
    return table[(table["condition"] == name) & (table["similarity"] == label)].iloc[0]


def _less(row: pd.Series) -> float:
    """The smaller share of the two directions; −∞ if one is undefined."""
    shares = [float(row[f"{direction}_share"]) for direction in DIRECTIONS]
    return min(shares) if np.isfinite(shares).all() else -np.inf


def _recovered(table: pd.DataFrame, name: str) -> str:
    """Shares in both directions, centred, and what they would be uncentred."""
    centred, uncentred = (_shares(_row(table, name, label)) for label in (CENTRED, UNCENTRED))
    return (
        f"{centred}, centred, of what as many real trials bring; uncentred it looks like "
        f"{uncentred}"
    )


def _shares(row: pd.Series) -> str:
    image, brain = (_percent(row[f"{direction}_share"]) for direction in DIRECTIONS)
    return f"{image} (image retrieval) and {brain} (brain retrieval)"


def _percent(share: float) -> str:
    return "an undefined share" if np.isnan(share) else f"{100 * share:.0f} %"


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
