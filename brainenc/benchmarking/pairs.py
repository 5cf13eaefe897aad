"""An (encoder, fold) pair: fit it, time it, write predictions and scores of draws to a folder.

The folder is written atomically and has a fingerprint in ``info.json``, so that an interrupted run
reuses finished pairs and fits the rest.
"""

import shutil
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sklearn.base import BaseEstimator, clone

from brainenc.arrays import take_rows
from brainenc.benchmarking.draw_blocks import score_draws
from brainenc.benchmarking.draw_kept import Arrays, read_kept
from brainenc.benchmarking.draw_plan import DrawPlan
from brainenc.benchmarking.draw_sources import DrawSource, encoder_source, reference_sources
from brainenc.process_state import interruption_ends_fit, pair_lock
from brainenc.reading import read_array
from brainenc.storage import (
    atomic_path,
    check_file,
    file_record,
    read_signed_json,
    write_signed_json,
)
from brainenc.temporaries import scratch_folder


@dataclass(frozen=True)
class Pair:
    """An encoder to be fitted on one fold.

    Attributes
    ----------
    encoder : estimator, unfitted
    name : str
    fold : int
    train, test : arrays of int
    folder : pathlib.Path
        Folder for the predictions of the test images.
    key : str
        Fingerprint of encoder, data, split and plan of the draws.
    plan : DrawPlan or None
        Plan of the draws; None for no draws.
    scale : array, shape (n_voxels,), or None
        Unit of "z" in this fold, as in `Split`, for scores of draws.
    references : bool
        Whether to add reference rows; the encoder must have `fit_held_out`.
    lost : str
        Why this run has nothing of the pair, "" if it has: its folder could not be written, or the
        process that fitted it was killed.
    rows : array of int or None
        Row of `X` of each image, where it is not its own: a control with permuted images.
    fitted : bool
        Whether the encoder is fitted already: it is scored as it is.
    """

    encoder: BaseEstimator
    name: str
    fold: int
    train: np.ndarray
    test: np.ndarray
    folder: Path
    key: str
    plan: DrawPlan | None = None
    scale: np.ndarray | None = None
    references: bool = False
    lost: str = ""
    rows: np.ndarray | None = None
    fitted: bool = False

    @property
    def place(self) -> tuple[str, int]:
        """Which one it is, of those of a run."""
        return self.name, self.fold

    def finished(self) -> bool:
        """Whether an earlier run wrote predictions of this pair."""
        try:
            info = read_signed_json(self.folder / "info.json")
            if info.get("key") != self.key or info.get("error") is not None:
                return False
            # Pairs of versions before 0.2 have no checksums.
            for name, record in info.get("files", {}).items():
                check_file(self.folder / name, record)
            return len(self.predictions()) == len(self.test)
        except (FileNotFoundError, ValueError, AttributeError):  # missing or damaged: fit again
            return False

    def to_fit(self) -> bool:
        """Whether a run must fit this pair: unfinished, or without room for its draws then."""
        return not self.finished() or bool(self.info().get("draw_again"))

    def info(self) -> dict[str, Any]:
        """Times, memory, and the error if there was one."""
        if self.lost:
            return {"key": self.key, "error": self.lost, "draws": {}, "draw_errors": {}}
        return read_signed_json(self.folder / "info.json")

    def predictions(self) -> np.ndarray:
        """Predictions of the test images, shape (n_test, n_voxels), memory-mapped."""
        return read_array(self.folder / "predictions.npy", mapped=True)

    def draws(self, label: str = "") -> Arrays:
        """Kept arrays of the draws of the encoder, or of the reference row of that label.

        Arrays with values for every image and voxel are memory-mapped.
        """
        return read_kept(self.folder / _draws_folder(label))


def _draws_folder(label: str) -> str:
    return f"draws {label}" if label else "draws"


def run_pair(pair: Pair, X: Any, betas: np.ndarray) -> Pair:
    """Fit, predict and draw; an error is recorded and does not stop the other pairs.

    After an error in drawing, predictions are still scored. Ctrl-C ends the pair without a result,
    so that no network that was trained for a part of the time is scored and kept. Warnings and
    memory are recorded for the whole process: pairs in several threads of one process run one after
    the other.

    Parameters
    ----------
    pair : Pair
    X : images or features, one row per image
    betas : array, shape (n_images, n_repeats, n_voxels)

    Returns
    -------
    Pair : the one given, with its folder written.
    """
    info: dict[str, Any] = {"key": pair.key, "error": None, "draws": {}, "draw_errors": {}}
    with pair_lock(), interruption_ends_fit(), atomic_path(pair.folder) as temporary:
        temporary.mkdir()
        try:
            _fit_and_draw(pair, X, betas, temporary, info)
        except Exception as error:
            info["error"] = f"{type(error).__name__}: {error}"
            info["traceback"] = traceback.format_exc()
            # What is half written is of no use, and the disk may be full.
            shutil.rmtree(temporary)
            temporary.mkdir()
        # A later run that goes on with this pair compares them.
        files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        info["files"] = {
            path.relative_to(temporary).as_posix(): file_record(path) for path in files
        }
        write_signed_json(temporary / "info.json", info)
    return pair


def _fit_and_draw(
    pair: Pair, X: Any, betas: np.ndarray, folder: Path, info: dict[str, Any]
) -> None:
    """Write predictions and kept arrays of draws to a folder."""
    # Folds are shuffled: indexing rows of a memory map would copy them into memory.
    with scratch_folder(pair.folder.parent, "rows") as scratch:
        learnt, shown = (
            part if pair.rows is None else pair.rows[part] for part in (pair.train, pair.test)
        )
        train = []
        if not pair.fitted:
            train = [take_rows(X, learnt, scratch), take_rows(betas, pair.train, scratch)]
        X_test = take_rows(X, shown, scratch)
        encoder, predictions, held_out = _timed_fit(pair, train, X_test, info)
        wanted = (len(pair.test), betas.shape[2])
        if predictions.shape != wanted:
            raise ValueError(f"predict gave shape {predictions.shape}, not {wanted}")
        np.save(folder / "predictions.npy", predictions)
        if pair.plan is None or pair.scale is None:
            return
        sources = [encoder_source(encoder, X_test, predictions)]
        if held_out is not None:
            sources += reference_sources(encoder, predictions, train[1], held_out)
        test = take_rows(betas, pair.test, scratch)
        _score_all_draws(pair, pair.plan, sources, test, pair.scale, folder, info)


def _timed_fit(
    pair: Pair, train: list[Any], X_test: Any, info: dict[str, Any]
) -> tuple[Any, np.ndarray, np.ndarray | None]:
    """The fitted encoder, its predictions, and held-out training predictions if needed."""
    encoder: Any = pair.encoder if pair.fitted else clone(pair.encoder)
    held_out = None
    with PeakMemory() as memory, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        if pair.references:
            held_out = encoder.fit_held_out(*train)
        elif not pair.fitted:
            encoder.fit(*train)
        fitted = time.perf_counter()
        predictions = encoder.predict(X_test)
        predicted = time.perf_counter()
    info["fit_seconds"] = np.nan if pair.fitted else fitted - start
    info["predict_seconds"] = predicted - fitted
    info["peak_memory_mb"] = memory.peak_mb
    info["warnings"] = sorted({str(warning.message) for warning in caught})
    return encoder, predictions.astype(np.float32, copy=False), held_out


def _score_all_draws(
    pair: Pair,
    plan: DrawPlan,
    sources: Sequence[DrawSource],
    test: np.ndarray,
    scale: np.ndarray,
    folder: Path,
    info: dict[str, Any],
) -> None:
    """Write kept arrays of draws; `info` gets their source or the error."""
    for source in sources:
        start = time.perf_counter()
        try:
            score_draws(source, test, scale, plan, pair.fold, folder / _draws_folder(source.label))
        except Exception as error:
            info["draw_errors"][source.label] = f"{type(error).__name__}: {error}"
            info["draw_again"] = info.get("draw_again") or isinstance(error, OSError | MemoryError)
            shutil.rmtree(folder / _draws_folder(source.label), ignore_errors=True)
        else:
            seconds = time.perf_counter() - start
            info["draws"][source.label] = {"kind": source.kind, "seconds": seconds}


class PeakMemory:
    """Largest resident memory within a context, above that at its start.

    Attributes
    ----------
    peak_mb : float
        In MiB; sampled every few milliseconds, so shorter peaks can be missed.
    """

    def __init__(self, interval: float = 0.005):
        self.interval = interval
        self.peak_mb = 0.0

    def __enter__(self) -> "PeakMemory":
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self._look()

    def _look(self) -> None:
        above = (self._process.memory_info().rss - self._before) / 2**20
        self.peak_mb = max(self.peak_mb, above)

    def __exit__(self, *exception: Any) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
