"""Fits of a learning curve: each in this process, in several, or on the workers of a cluster."""

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from brainenc.benchmarking import cluster
from brainenc.benchmarking.curve_data import Subset, subset_betas
from brainenc.benchmarking.curve_tables import mean_samples, sampled_r
from brainenc.metrics import correlation
from brainenc.model_selection import bootstrap_weights
from brainenc.process_state import interruption_ends_fit, pair_lock
from brainenc.reading import read_array
from brainenc.repeats import average_repeats
from brainenc.storage import atomic_path


@dataclass(frozen=True)
class Point:
    """One fit of a learning curve.

    Attributes
    ----------
    name, subject : str
        Of the encoder and of the new subject.
    size, draw : int
    unit : "images" or "sessions"
    encoder : encoder
        It is fitted to the subset; a fitted one is adapted.
    part : Subset
        Images and trials to learn.
    held_out : array of bool, shape (n_images,)
        Test images.
    n_bootstraps, seed : int
        Resamples of the test images.
    voxels : DataFrame
        Of the new subject.
    file : pathlib.Path or None
        Where `values` are kept.
    values : array or None
        Seconds, number of images, mean r in each resample, and r of each voxel.
    lost : str
        Why it could not be fitted, "" if it could.
    """

    name: str
    subject: str
    size: int
    draw: int
    unit: str
    encoder: Any
    part: Subset
    held_out: np.ndarray
    n_bootstraps: int
    seed: int
    voxels: pd.DataFrame
    file: Path | None
    values: np.ndarray | None = None
    lost: str = ""

    @property
    def place(self) -> tuple[str, str, int, int]:
        """Which one it is, of those of a curve."""
        return self.subject, self.name, self.size, self.draw

    def kept(self) -> "Point":
        """With the values that an earlier run kept, if there are any."""
        if self.file is None or not self.file.exists():
            return self
        return replace(self, values=read_array(self.file))


def run_point(point: Point, X: Any, betas: Any) -> Point:
    """Fit, score and keep the values; an error is recorded in `lost`.

    Parameters
    ----------
    point : Point
    X : images or features of all images of the new subject, or an `ArrayFile` of them
    betas : array, shape (n_images, n_repeats, n_voxels), or an `ArrayFile` of it

    Returns
    -------
    Point
        With values, or the reason why there are none; without encoder and voxels.
    """
    slim = replace(point, encoder=None, voxels=point.voxels.iloc[:0])
    try:
        with pair_lock(), interruption_ends_fit(), cluster.on_worker(X, betas) as (X, betas):
            found = _values(point, X, betas)
            if point.file is not None:
                point.file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(point.file) as temporary, open(temporary, "wb") as stream:
                    np.save(stream, found)
    except Exception as error:  # of one fit: the others go on
        return replace(slim, lost=str(error) or type(error).__name__)
    return replace(slim, values=found)


def _values(point: Point, X: Any, betas: np.ndarray) -> np.ndarray:
    learnt = subset_betas(betas, point.part)
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks that become ridge with few images
        if hasattr(point.encoder, "n_voxels_"):
            fitted = point.encoder.adapt(X[point.part.rows], learnt)
        else:
            encoder = clone(point.encoder).with_voxels(point.voxels)
            fitted = encoder.fit(X[point.part.rows], learnt)
    seconds = time.perf_counter() - begun
    targets = average_repeats(np.asarray(betas[point.held_out]))
    weights = bootstrap_weights(len(targets), point.n_bootstraps, random_state=point.seed)
    prediction = fitted.predict(X[point.held_out])
    drawn = mean_samples(sampled_r(prediction, targets, weights))
    r = correlation(prediction, targets)
    return np.concatenate([[seconds, len(point.part.rows)], drawn, r])
