"""learning_curve: how good encoders are with few images of a new subject."""

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

import brainenc
from brainenc.benchmarking.curve_data import (
    check_sizes,
    image_hashes,
    shared_with,
    subject_names,
    subset,
    test_images,
    test_targets,
)
from brainenc.benchmarking.curve_methods import Transfer, as_methods, description, start
from brainenc.benchmarking.curve_result import LearningCurve, check_curve_folder
from brainenc.benchmarking.curve_tables import (
    mean_samples,
    pair_table,
    sampled_r,
    summary_table,
    worth_table,
)
from brainenc.benchmarking.manifest import data_hash, hardware, versions
from brainenc.conversion import check_one_order
from brainenc.data.encoding_data import EncodingData
from brainenc.data.voxels import atlas_labels
from brainenc.encoders.composed import extraction
from brainenc.encoders.mean import MeanEncoder
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.metrics import correlation
from brainenc.model_selection import bootstrap_weights
from brainenc.progress import progress
from brainenc.reading import read_array
from brainenc.storage import atomic_path, fingerprint


def learning_curve(
    data: EncodingData | Sequence[EncodingData] | Mapping[str, EncodingData],
    encoders: Mapping[str, Any],
    *,
    sizes: Sequence[int] | None = None,
    sources: Sequence[EncodingData] | Mapping[str, EncodingData] | None = None,
    unit: str = "images",
    features: Any = None,
    test: Any = None,
    n_draws: int = 5,
    references: bool = True,
    reference: str = "ridge",
    n_bootstraps: int = 1000,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
    verbose: bool = True,
) -> LearningCurve:
    """Score encoders that are fitted to few images of a subject, over the number of images.

    Of a fixed order of the images that are not tested, the first ones are taken: larger subsets
    hold the smaller ones. Betas are z-scored within each subset. All encoders are fitted to the
    same subsets and scored on the same test images: mean over voxels of r with the averages over
    repeats.

    Parameters
    ----------
    data : EncodingData, or several subjects: a list, or a dict of subject to EncodingData
        Each of several subjects is the new one in turn, and the others are its sources; test images
        of the new subject are left out of these.
    encoders : dict of name to encoder, or to `Transfer`
        An encoder is fitted to each subset from scratch; a fitted one is adapted (its `adapt`). A
        `Transfer` learns from the sources first.
    sizes : sequence of int, optional
        Numbers of images (or sessions); by default those of 25, 50, 100, 200, 400 and 1000 that
        there are.
    sources : list or dict of EncodingData, optional
        Other subjects. They must not hold the test images.
    unit : "images" or "sessions"
    features : transformer, or dict of subject to array (n_images, …), optional
        In place of the encoders' own; a single array if there is one subject and no source.
    test : share, mask or positions of images, optional
        The fixed test set, of each subject; by default the images that the stimulus table calls
        ``shared``, else a quarter.
    n_draws : int
        Orders of the images.
    references : bool
        Add the mean response ("mean"), ridge from scratch ("ridge") and, with sources, ridge with
        their prior ("ridge, prior") where missing.
    reference : str
        The encoder that the others are compared with.
    n_bootstraps : int
        Resamples of the test images.
    out : path, optional
        Folder for tables, report and fits: the same call continues an interrupted run.
    random_state : int
    verbose : bool
        Show a progress bar.

    Returns
    -------
    LearningCurve

    Warns
    -----
    RuntimeWarning : a fit failed; the others go on.

    Raises
    ------
    ValueError : sizes above what there is, sources that hold test images of the new subject,
        features of other images, no sources for a `Transfer`.
    TypeError : data, encoders or features of a wrong type.
    FileExistsError : `out` holds something else.

    Examples
    --------
    >>> import brainenc
    >>> first, second = brainenc.datasets.simulate_subjects(2, 90, 10, shared_images=0)
    >>> tokens = {d.name: d.truth.tokens for d in (first, second)}
    >>> curve = brainenc.learning_curve(
    ...     second, {"ridge": brainenc.RidgeEncoder()}, sizes=[20, 40], sources=[first],
    ...     features=tokens, n_draws=1, n_bootstraps=20, verbose=False)
    >>> sorted(set(curve.summary["encoder"]))
    ['mean', 'ridge', 'ridge, prior']
    """
    alone = isinstance(data, EncodingData)
    targets = subject_names([data] if alone else data, "data")
    given = subject_names(sources or [], "sources")
    if both := sorted(set(targets) & set(given)):
        raise ValueError(f"{both[0]} is among data and sources: it would be its own source")
    if n_draws < 1 or n_bootstraps < 1:
        raise ValueError(f"n_draws={n_draws} and n_bootstraps={n_bootstraps} must be at least 1")
    everyone = {**targets, **given}
    methods = as_methods(encoders, len(everyone) > 1)
    if references:
        methods = _with_references(methods, features, len(everyone) > 1)
    inputs = _Inputs(everyone, features)
    folder = None if out is None else check_curve_folder(out)
    masks = {name: test_images(d, test, random_state) for name, d in targets.items()}
    steps = {name: check_sizes(d, masks[name], sizes, unit) for name, d in targets.items()}
    kept, notes = _checked_sources(targets, given, masks)
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, str, int, int], np.ndarray] = {}
    n_fits = sum(len(s) for s in steps.values()) * n_draws * len(methods)
    bar = iter(progress(range(n_fits), desc="fits", unit="fit", verbose=verbose))
    for subject, of_subject in targets.items():
        run = _Subject(subject, of_subject, masks[subject], n_bootstraps, random_state)
        for name, method in methods.items():
            others = {
                other: (everyone[other], rows_kept) for other, rows_kept in kept[subject].items()
            }
            fits = _Fits(name, method, run, inputs, others, folder)
            for draw in range(n_draws):
                for size in steps[subject]:
                    next(bar, None)
                    found, drawn = fits.score(size, draw, unit)
                    rows += found
                    samples[subject, name, size, draw] = drawn
    next(bar, None)
    scores = pd.DataFrame(rows)
    summary = summary_table(scores, samples)
    manifest = {
        "subjects": {name: {"hash": inputs.hash(name)} for name in everyone},
        "targets": list(targets),
        "sources": {name: list(others) for name, others in kept.items()},
        "encoders": {name: description(method) for name, method in methods.items()},
        "sizes": steps,
        "unit": unit,
        "n_draws": n_draws,
        "n_bootstraps": n_bootstraps,
        "random_state": random_state,
        "reference": reference,
        "alikeness": {
            name: d.truth.alikeness for name, d in everyone.items() if hasattr(d.truth, "alikeness")
        },
        "versions": versions(),
        "hardware": hardware(),
    }
    result = LearningCurve(
        scores=scores,
        summary=summary,
        pairs=pair_table(scores, samples, reference),
        worth=worth_table(summary, scores, samples, reference),
        manifest=manifest,
        warnings=notes,
    )
    if folder is not None:
        result.save(folder)
        result.to_html(folder / "curve.html")
    return result


def _with_references(methods: dict[str, Any], features: Any, has_sources: bool) -> dict[str, Any]:
    """The mean, ridge and prior ridge on the features of the first encoder, where missing."""
    first = next((m.encoder if isinstance(m, Transfer) else m for m in methods.values()), None)
    own = getattr(first, "features", None) if features is None else None
    ridge = RidgeEncoder(own if own is not None else "auto")
    found: dict[str, Any] = {"mean": MeanEncoder(), "ridge": ridge}
    if has_sources:
        found["ridge, prior"] = Transfer(ridge, "prior")
    return {**found, **methods}


def _checked_sources(
    targets: Mapping[str, EncodingData],
    given: Mapping[str, EncodingData],
    masks: Mapping[str, np.ndarray],
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Images to learn from of each source, by new subject; and notes on those left out.

    Raises
    ------
    ValueError : a source holds test images of the new subject.
    """
    everyone = {**targets, **given}
    if len(everyone) < 2:
        return {name: {} for name in targets}, []
    hashes = {name: image_hashes(d) for name, d in everyone.items()}
    kept: dict[str, dict[str, np.ndarray]] = {}
    notes = []
    for name in targets:
        kept[name] = {}
        for other in everyone:
            if other == name:
                continue
            leaks = shared_with(hashes[other], hashes[name], masks[name])
            if other in given and leaks.any():
                raise ValueError(
                    f"the source {other} holds {leaks.sum()} of the test images of {name} (rows "
                    f"{np.flatnonzero(leaks)[:5].tolist()}, …): leave them out with "
                    "source.select(images=...), or give another test="
                )
            if leaks.all():
                raise ValueError(f"all images of {other} are test images of {name}")
            if leaks.any():
                notes.append(f"{leaks.sum()} images of {other} are tested in {name}: left out")
            kept[name][other] = np.flatnonzero(~leaks)
    return kept, notes


class _Inputs:
    """Features of each subject's images for an encoder, computed once."""

    def __init__(self, subjects: Mapping[str, EncodingData], features: Any):
        self.subjects, self.features = subjects, features
        self._computed: dict[str, dict[str, Any]] = {name: {} for name in subjects}
        self._hashes: dict[str, str] = {}
        if features is None or hasattr(features, "transform"):
            return
        if not isinstance(features, Mapping):
            if len(subjects) > 1:
                raise ValueError(
                    f"features must be a transformer or a dict with an array for each of "
                    f"{list(subjects)}, got a {type(features).__name__}"
                )
            self.features = {next(iter(subjects)): features}
        for name, d in subjects.items():
            if name not in self.features:
                raise ValueError(f"features has no array for {name}: {list(self.features)}")
            X = self.features[name]
            check_one_order(features=X, betas=d.betas)
            if len(X) != d.n_images:
                raise ValueError(
                    f"features of {name} of shape {np.shape(X)} must have {d.n_images} rows"
                )

    def of(self, encoder: Any, name: str) -> tuple[Any, Any]:
        """Unfitted encoder for features, and the features of a subject's images."""
        encoder = clone(encoder)
        if isinstance(self.features, Mapping):
            if "features" in encoder.get_params(deep=False):
                encoder.set_params(features=None)
            return encoder, np.asarray(self.features[name])
        if self.features is not None and "features" in encoder.get_params(deep=False):
            encoder.set_params(features=clone(self.features))
        images = self.subjects[name].images
        return encoder.precompute(images, extraction(images, self._computed[name]))

    def hash(self, name: str) -> str:
        """Fingerprint of a subject's images, betas and given features."""
        if name not in self._hashes:
            own = [data_hash(self.subjects[name])]
            if isinstance(self.features, Mapping):
                own.append(fingerprint(np.asarray(self.features[name])))
            self._hashes[name] = fingerprint(*own)
        return self._hashes[name]


class _Subject:
    """A new subject: its test images, their averages and bootstrap samples."""

    def __init__(
        self, name: str, data: EncodingData, held_out: np.ndarray, n_bootstraps: int, seed: int
    ):
        self.name, self.data, self.held_out, self.seed = name, data, held_out, seed
        self.targets = test_targets(data, held_out)
        self.weights = bootstrap_weights(len(self.targets), n_bootstraps, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a ceiling that cannot be estimated is NaN
            self.ceiling = data.noise_ceiling(held_out).to("r").values
        self.places = {"all": np.arange(data.n_voxels)}
        if data.atlases:
            labels = atlas_labels(data.voxels, data.atlases[0])
            self.places |= {
                str(label): np.flatnonzero(labels == label)
                for label in dict.fromkeys(labels.tolist())
                if label
            }


class _Fits:
    """Fits of one method to subsets of one subject."""

    def __init__(
        self,
        name: str,
        method: Any,
        run: _Subject,
        inputs: _Inputs,
        others: Mapping[str, tuple[EncodingData, np.ndarray]],
        folder: Path | None,
    ):
        self.name, self.method, self.run, self.inputs = name, method, run, inputs
        self.others, self.folder = others, folder
        self._started: Any = None
        transfers = isinstance(method, Transfer)
        of_sources = [[inputs.hash(n), rows.tolist()] for n, (_, rows) in others.items()]
        self._key = fingerprint(
            brainenc.__version__,
            description(method),
            inputs.hash(run.name),
            None if inputs.features is None else description_of(inputs.features),
            of_sources if transfers else [],
            run.held_out,
            run.weights,
            run.seed,
        )

    def score(self, size: int, draw: int, unit: str) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Rows of the table of scores, and the mean r in each bootstrap sample."""
        file = None
        if self.folder is not None:
            key = fingerprint(self._key, size, draw, unit)
            file = self.folder / "fits" / f"{key}.npy"
            if file.exists():
                return self._rows(size, draw, read_array(file))
        try:
            values = self._fit(size, draw, unit)
        except Exception as error:  # of one fit: the others go on
            message = f"{self.name}, {size} {unit} of {self.run.name}: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
            n = 2 + len(self.run.weights) + self.run.data.n_voxels
            found, drawn = self._rows(size, draw, np.full(n, np.nan))
            return [row | {"error": str(error)} for row in found], drawn
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as temporary, open(temporary, "wb") as stream:
                np.save(stream, values)
        return self._rows(size, draw, values)

    def _fit(self, size: int, draw: int, unit: str) -> np.ndarray:
        """Seconds, number of images, bootstrap samples and r of each voxel, in one array."""
        run = self.run
        part = subset(run.data, run.held_out, size, unit, [run.seed, draw])
        encoder, X = self._start()  # learning from the sources is not part of a fit
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # networks that become ridge with few images
            if hasattr(encoder, "n_voxels_"):
                fitted = encoder.adapt(X[part.rows], part.betas)
            else:
                fitted = clone(encoder).with_voxels(run.data.voxels).fit(X[part.rows], part.betas)
        seconds = time.perf_counter() - begun
        prediction = fitted.predict(X[run.held_out])
        r = correlation(prediction, run.targets)
        drawn = mean_samples(sampled_r(prediction, run.targets, run.weights))
        return np.concatenate([[seconds, len(part.rows)], drawn, r])

    def _start(self) -> tuple[Any, Any]:
        if self._started is None:
            inner = self.method.encoder if isinstance(self.method, Transfer) else self.method
            if hasattr(inner, "n_voxels_"):  # fitted: it is adapted
                self._started = inner, self._for_adapting()
                return self._started
            prepared, X = self.inputs.of(inner, self.run.name)
            sources = {}
            if isinstance(self.method, Transfer):
                for name, (data, rows) in self.others.items():
                    _, theirs = self.inputs.of(inner, name)
                    sources[name] = data.select(images=rows), theirs[rows]
            self._started = start(self.method, prepared, sources), X
        return self._started

    def _for_adapting(self) -> Any:
        """Given features, or the images."""
        if isinstance(self.inputs.features, Mapping):
            return np.asarray(self.inputs.features[self.run.name])
        return self.run.data.images

    def _rows(
        self, size: int, draw: int, values: np.ndarray
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        n_bootstraps = len(self.run.weights)
        seconds, n_images = values[:2]
        drawn, r = values[2 : 2 + n_bootstraps], values[2 + n_bootstraps :]
        rows = []
        for roi, voxels in self.run.places.items():
            own = r[voxels]
            ceiling = self.run.ceiling[voxels]
            rows.append(
                {
                    "subject": self.run.name,
                    "encoder": self.name,
                    "size": size,
                    "draw": draw,
                    "roi": roi,
                    "r": np.nanmean(own) if np.isfinite(own).any() else np.nan,
                    "noise_ceiling": (
                        np.nanmean(ceiling) if np.isfinite(ceiling).any() else np.nan
                    ),
                    "n_voxels": int(np.isfinite(own).sum()),
                    "n_images": n_images,
                    "seconds": seconds,
                    "error": "",
                }
            )
        return rows, drawn


def description_of(features: Any) -> Any:
    """Features as plain values; arrays are in the hashes of subjects."""
    return "given" if isinstance(features, Mapping) else description(features)
