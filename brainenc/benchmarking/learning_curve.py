"""learning_curve: how good encoders are with few images of a new subject."""

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import delayed

import brainenc
from brainenc.benchmarking import cluster
from brainenc.benchmarking.curve_data import (
    check_sizes,
    image_hashes,
    shared_with,
    subject_names,
    subset,
    test_images,
    test_targets,
)
from brainenc.benchmarking.curve_fits import Point, run_point
from brainenc.benchmarking.curve_inputs import CurveInputs, description_of
from brainenc.benchmarking.curve_methods import Transfer, as_methods, description, start
from brainenc.benchmarking.curve_result import LearningCurve, check_curve_folder
from brainenc.benchmarking.curve_tables import (
    pair_table,
    summary_table,
    worth_table,
)
from brainenc.benchmarking.fitting import as_they_end
from brainenc.benchmarking.manifest import hardware, versions
from brainenc.data.encoding_data import EncodingData
from brainenc.data.voxels import atlas_labels
from brainenc.encoders.mean import MeanEncoder
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.encoders.training_images import check_not_trained_on
from brainenc.identity import fitted_identity, identity
from brainenc.model_selection import bootstrap_weights
from brainenc.progress import progress
from brainenc.storage import fingerprint


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
    n_jobs: int | None = 1,
    scheduler: str | None = None,
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
    n_jobs : int
        Fits at once, in processes of their own; learning from the sources is not among them.
    scheduler : str, optional
        Address of a Dask scheduler (``tcp://…``) whose workers do the fits in place of `n_jobs`
        processes; they must see the folder `out`. See :doc:`/cluster`.
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
    ValueError : sizes above what there is, sources that hold test images of the new subject, a
        fitted encoder that was fitted to such images, features of other images, no sources for a
        `Transfer`.
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
    inputs = CurveInputs(everyone, features)
    folder = None if out is None else check_curve_folder(out)
    masks = {name: test_images(d, test, random_state) for name, d in targets.items()}
    steps = {name: check_sizes(d, masks[name], sizes, unit) for name, d in targets.items()}
    kept, notes = _checked_sources(targets, given, masks)
    runs = {
        subject: _Subject(subject, d, masks[subject], n_bootstraps, random_state)
        for subject, d in targets.items()
    }
    points: list[Point] = []
    fits_of: dict[tuple[str, str], _Fits] = {}
    for subject, run in runs.items():
        others = {other: (everyone[other], rows) for other, rows in kept[subject].items()}
        for name, method in methods.items():
            fits = _Fits(name, method, run, inputs, others, folder)
            fits.check_test_images()
            points += fits.points(steps[subject], n_draws, unit)
            fits_of[subject, name] = fits
    rows, samples = [], {}
    betas = {name: d.betas for name, d in targets.items()}
    with cluster.connected(scheduler, out) as send, warnings.catch_warnings():
        # joblib may take the memory of a large fit for a leak and replace the worker: harmless.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
        for point in _run_points(points, fits_of, betas, send, n_jobs, verbose):
            found, drawn = runs[point.subject].rows(point)
            rows.append((point, found))
            samples[point.place] = drawn
    order = {place: i for i, place in enumerate(p.place for p in points)}
    rows.sort(key=lambda found: order[found[0].place])
    scores = pd.DataFrame([row for _, of_point in rows for row in of_point])
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

    def rows(self, point: Point) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Rows of the table of scores, and the mean r in each bootstrap sample."""
        values = point.values
        if values is None:
            values = np.full(2 + len(self.weights) + self.data.n_voxels, np.nan)
        n_bootstraps = len(self.weights)
        seconds, n_images = values[:2]
        drawn, r = values[2 : 2 + n_bootstraps], values[2 + n_bootstraps :]
        rows = []
        for roi, voxels in self.places.items():
            own, ceiling = r[voxels], self.ceiling[voxels]
            row = {"subject": self.name, "encoder": point.name, "size": point.size}
            row |= {"draw": point.draw, "roi": roi}
            row["r"] = np.nanmean(own) if np.isfinite(own).any() else np.nan
            row["noise_ceiling"] = np.nanmean(ceiling) if np.isfinite(ceiling).any() else np.nan
            row |= {"n_voxels": int(np.isfinite(own).sum()), "n_images": n_images}
            rows.append(row | {"seconds": seconds, "error": point.lost})
        return rows, drawn


class _Fits:
    """Fits of one method to subsets of one subject."""

    def __init__(
        self,
        name: str,
        method: Any,
        run: _Subject,
        inputs: CurveInputs,
        others: Mapping[str, tuple[EncodingData, np.ndarray]],
        folder: Path | None,
    ):
        self.name, self.method, self.run, self.inputs = name, method, run, inputs
        self.others, self.folder = others, folder
        self._started: Any = None
        transfers = isinstance(method, Transfer)
        self._encoder = method.encoder if transfers else method
        self._is_fitted = hasattr(self._encoder, "n_voxels_")  # it is adapted
        of_sources = [
            [inputs.hash(n), identity(d.voxels), rows.tolist()] for n, (d, rows) in others.items()
        ]
        self._key = fingerprint(
            brainenc.__version__,
            description(method),
            # Of a fitted encoder the weights too, which the parameters do not give; a copy is
            # without the parts that are made when they are first needed.
            fitted_identity(copy.copy(self._encoder)) if self._is_fitted else None,
            inputs.hash(run.name),
            identity(run.data.voxels),  # ROIs of encoders, of the group and of priors
            None if inputs.features is None else description_of(inputs.features),
            of_sources if transfers else [],
            run.held_out,
            run.weights,
            run.seed,
        )

    def points(self, sizes: Sequence[int], n_draws: int, unit: str) -> list[Point]:
        """The fits of this method, with the values that an earlier run kept."""
        run, found = self.run, []
        for draw in range(n_draws):
            for size in sizes:
                file = None
                part = subset(run.data, run.held_out, size, unit, [run.seed, draw])
                if self.folder is not None:
                    key = fingerprint(self._key, size, draw, unit, part.rows, part.shown)
                    file = self.folder.resolve() / "fits" / f"{key}.npy"
                ids = (self.name, run.name, size, draw, unit)
                scored = (run.held_out, len(run.weights), run.seed, run.data.voxels)
                found.append(Point(*ids, None, part, *scored, file).kept())
        return found

    def check_test_images(self) -> None:
        """Raise ValueError if the encoder that is adapted was fitted to test images."""
        if self._is_fitted:
            tested = self._for_adapting()[self.run.held_out]
            images = f"test images of {self.run.name}"
            check_not_trained_on(self._encoder, tested, self.name, images)

    def forget(self) -> None:
        """Forget what was learned from the sources, which may be large."""
        self._started = None

    def start(self) -> tuple[Any, Any]:
        """The encoder that is fitted or adapted, and its inputs for the new subject.

        Learning from the sources is done once, and not part of a fit.
        """
        if self._started is None:
            inner = self._encoder
            if self._is_fitted:
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


def _run_points(
    points: Sequence[Point],
    fits: Mapping[tuple[str, str], _Fits],
    betas: Mapping[str, Any],
    send: Callable[[Any], Any],
    n_jobs: int | None,
    verbose: bool,
) -> Iterator[Point]:
    """The points with values, in the order in which they are fitted."""
    bar = progress(desc="fits", total=len(points), unit="fit", verbose=verbose)
    with bar:
        # One method after the other: only what it has learned from the sources is in memory.
        for (subject, name), own in fits.items():
            of_method = [p for p in points if (p.subject, p.name) == (subject, name)]
            for point in _fitted(of_method, own, betas[subject], send, n_jobs):
                bar.update()
                yield point
            own.forget()


def _fitted(
    points: Sequence[Point], fits: _Fits, betas: Any, send: Callable[[Any], Any], n_jobs: int | None
) -> Iterator[Point]:
    """The points of one method and subject."""
    todo = [point for point in points if point.values is None]
    yield from (point for point in points if point.values is not None)
    if not todo:
        return
    try:
        encoder, X = fits.start()
    except Exception as error:  # of what learns from the sources: the others go on
        why = str(error) or type(error).__name__
        yield from (_lost(replace(point, lost=why)) for point in todo)
        return
    todo = [replace(point, encoder=encoder) for point in todo]
    jobs = [delayed(run_point)(point, send(X), send(betas)) for point in todo]
    with closing(as_they_end(jobs, todo, n_jobs)) as found:
        for point in found:
            yield _lost(point) if point.lost else point


def _lost(point: Point) -> Point:
    message = f"{point.name}, {point.size} {point.unit} of {point.subject}: {point.lost}"
    warnings.warn(message, RuntimeWarning, stacklevel=4)
    return point
