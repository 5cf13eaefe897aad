"""What fails after or between the fits costs itself alone, and the same call goes on."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from joblib._parallel_backends import MultiprocessingBackend
from joblib.parallel import register_parallel_backend

import brainenc
from brainenc.benchmarking import (
    BenchmarkResult,
    cautions,
    draw_run,
    draw_tables,
    run_scores,
    scoring,
    tables,
)
from brainenc.encoders.base import BaseEncoder

#: That an encoder failed is said at once; these tests ask what the result holds.
pytestmark = pytest.mark.filterwarnings(r"ignore:\w+ failed:RuntimeWarning")

FEW = {"cv": 2, "n_bootstraps": 20, "n_permutations": 19, "n_draws": 6, "check": False}
FEW |= {"references": False, "verbose": False}


class Fitted(BaseEncoder):
    """Ridge that counts its fits in a file, and may do something in one of them."""

    def __init__(self, features=None, *, log=None, deed=None):
        self.features = features
        self.log = log
        self.deed = deed

    def _fit(self, features, betas):
        with open(self.log, "a") as file:
            file.write(".")
        if self.deed is not None:
            self.deed()
        self.ridge_ = brainenc.RidgeEncoder(alphas=[1.0]).fit(features, betas)
        return self.ridge_.predict(features)

    def _predict(self, features):
        return self.ridge_.predict(features)


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(40, 12, random_state=0, verbose=False)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def call(data, tmp_path, log):
    """The benchmark of three encoders, of which the second has features of its own."""

    def benchmark(out=tmp_path / "run", deed=None, **options):
        signal = np.asarray(data.truth.signal)
        encoders = {name: Fitted(log=str(log)) for name in ("first", "second", "third")}
        if deed is not None:
            encoders["second"] = Fitted(log=str(log), deed=deed)
        features = {"first": signal, "second": signal[:, ::-1], "third": signal[:, :3]}
        return brainenc.benchmark(data, encoders, features=features, out=out, **(FEW | options))

    return benchmark


@pytest.fixture
def whole(call):
    return call(out=None)


def fails_at(monkeypatch, owner, name, when=lambda *args: True):
    """Make a function fail where `when` is true of its arguments."""
    function = getattr(owner, name)

    def failing(*args, **options):
        if when(*args):
            raise OSError(28, "No space left on device")
        return function(*args, **options)

    monkeypatch.setattr(owner, name, failing)


def has_second(scores, *args):
    return "second" in scores


def rows_of(table, names=("first", "third")):
    """Rows of the encoders, without what is measured by the clock."""
    clocks = ["fit_seconds", "predict_images_per_second", "peak_memory_mb", "error"]
    kept = table[table["encoder"].isin(names)].reset_index(drop=True)
    return kept.drop(columns=clocks, errors="ignore")


STEPS = {
    "scores": (scoring, "score_encoder", None),
    "row of the table": (tables, "encoder_table", has_second),
    "rows by ROI": (tables, "roi_table", has_second),
    "maps": (tables, "map_table", has_second),
    "differences": (tables, "pair_table", lambda *args: True),
    "warnings": (run_scores, "find_warnings", lambda *args: True),
    "scores of draws": (draw_run, "score_encoder_draws", None),
    "all scores of draws": (draw_run, "measured_correlations", lambda *args: True),
    "table of draws": (draw_tables, "draw_table", has_second),
    "differences of draws": (draw_tables, "draw_pair_table", lambda *args: True),
    "calibration": (draw_tables, "calibration_table", has_second),
    "noise correlations": (draw_tables, "noise_correlation_table", has_second),
    "warnings of draws": (cautions, "_alike", lambda *args: True),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_costs_itself_alone(call, whole, log, tmp_path, monkeypatch, step):
    owner, name, when = STEPS[step]
    calls = iter(range(1000))
    with monkeypatch.context() as patched:
        fails_at(patched, owner, name, when or (lambda *args: next(calls) == 1))
        result = call()
    stored = BenchmarkResult.load(tmp_path / "run")
    # The scores of the others are what they are without the failure.
    for table in ("encoders", "rois", "maps", "voxels"):
        of_predictions = getattr(whole, table).columns.intersection(getattr(result, table).columns)
        for found in (result, stored):
            pd.testing.assert_frame_equal(
                rows_of(getattr(found, table)[of_predictions]),
                rows_of(getattr(whole, table)[of_predictions]),
                check_dtype=False,
            )
    said = " ".join([*result.warnings, *result.encoders["error"].fillna("")])
    assert "No space left on device" in said
    assert "OSError" in str(result.manifest.get("tracebacks", said))
    path = result.to_html(tmp_path / "report.html")
    assert "No space left" in path.read_text()
    # The same call makes the rest, and fits nothing again.
    n_fits = len(log.read_text())
    again = call()
    assert len(log.read_text()) == n_fits
    assert again.warnings == whole.warnings
    for table in ("encoders", "rois", "maps", "pairs", "draws", "calibration"):
        left_out = ["fit_seconds", "predict_images_per_second", "peak_memory_mb"]
        pd.testing.assert_frame_equal(
            getattr(again, table).drop(columns=left_out, errors="ignore"),
            getattr(whole, table).drop(columns=left_out, errors="ignore"),
        )


def test_an_encoder_that_is_not_scored_has_a_row_with_the_error(call, tmp_path, monkeypatch):
    calls = iter(range(1000))
    fails_at(monkeypatch, scoring, "score_encoder", lambda *args: next(calls) == 1)
    table = call().encoders.set_index("encoder")
    assert table.loc["second", "error"].startswith("not scored: OSError: [Errno 28]")
    assert np.isnan(table.loc["second", "r"])
    assert (table.loc[["first", "third"], "error"] == "").all()


# ------------------------------------------------------------------ pairs


def test_predictions_that_cannot_be_written_are_fitted_again(
    call, whole, log, monkeypatch, tmp_path
):
    with monkeypatch.context() as patched:
        fails_at(patched, np, "save", lambda path, *args: "second" in str(path))
        result = call()
    errors = result.encoders.set_index("encoder")["error"]
    assert "No space left" in errors["second"]
    assert errors["first"] == errors["third"] == ""
    # Nothing half-written keeps the disk full.
    left = [path.name for path in (tmp_path / "run" / "pairs").glob("second*/fold*/*")]
    assert set(left) == {"info.json"}
    n_fits = len(log.read_text())
    again = call()
    assert len(log.read_text()) == n_fits + 2  # the two folds of the second
    pd.testing.assert_frame_equal(rows_of(again.maps, ["second"]), rows_of(whole.maps, ["second"]))


def test_a_pair_that_cannot_be_written_at_all_costs_itself_alone(call, whole, monkeypatch):
    with monkeypatch.context() as patched:
        from brainenc.benchmarking import pairs

        fails_at(patched, pairs, "write_signed_json", lambda path, *args: "second" in str(path))
        result = call()
    assert "No space left" in result.encoders.set_index("encoder")["error"]["second"]
    pd.testing.assert_frame_equal(rows_of(result.maps), rows_of(whole.maps))
    pd.testing.assert_frame_equal(rows_of(call().maps, ["second"]), rows_of(whole.maps, ["second"]))


def test_draws_without_room_are_drawn_again(call, whole, log, monkeypatch):
    with monkeypatch.context() as patched:
        from brainenc.benchmarking import pairs

        fails_at(patched, pairs, "score_draws", lambda *args: "second" in str(args[-1]))
        result = call()
    assert any("second: its draws are not scored: OSError" in text for text in result.warnings)
    pd.testing.assert_frame_equal(
        rows_of(result.maps, ["second"])[["r", "mse"]],
        rows_of(whole.maps, ["second"])[["r", "mse"]],
    )
    n_fits = len(log.read_text())
    pd.testing.assert_frame_equal(call().draws, whole.draws)
    assert len(log.read_text()) == n_fits + 2


def die():
    os._exit(9)


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_pair_alone(call, whole, tmp_path):
    """As the system kills one that needs too much memory."""
    result = call(deed=die, n_jobs=2)
    errors = result.encoders.set_index("encoder")["error"]
    assert "process was killed" in errors["second"]
    assert errors["first"] == errors["third"] == ""
    pd.testing.assert_frame_equal(rows_of(result.maps), rows_of(whole.maps))


class Unsendable:
    """Something that no other process can get."""

    def __call__(self):
        pass

    def __deepcopy__(self, memory):
        return self

    def __reduce__(self):
        raise TypeError("it holds an open file")


@pytest.mark.slow
def test_an_encoder_that_cannot_be_sent_costs_itself_alone(call, whole):
    result = call(deed=Unsendable(), n_jobs=2)
    errors = result.encoders.set_index("encoder")["error"]
    assert "PicklingError" in errors["second"]
    assert errors["first"] == errors["third"] == ""
    pd.testing.assert_frame_equal(rows_of(result.maps), rows_of(whole.maps))


class LikeRay(MultiprocessingBackend):
    """Gives no results as they come, as Ray's backend does not."""


register_parallel_backend("like_ray", LikeRay)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["multiprocessing", "like_ray", "threading", "sequential"])
def test_any_backend_of_joblib_gives_the_same_scores(call, whole, backend):
    with parallel_config(backend=backend, n_jobs=2):
        result = call(n_jobs=None)
    pd.testing.assert_frame_equal(result.maps, whole.maps)


def test_a_wrong_number_of_jobs_is_still_an_error(call):
    with pytest.raises(ValueError, match="n_jobs"):
        call(n_jobs=0)


def interrupt_a_training():
    import torch

    from brainenc.training import Examples, TrainingSettings, train

    def loss(module, batch):
        raise KeyboardInterrupt

    x = np.zeros((8, 2), np.float32)
    examples = Examples(x=(x, np.arange(8)))
    train(torch.nn.Linear(2, 2), loss, examples, TrainingSettings(n_epochs=1), device="cpu")


def test_no_half_trained_network_is_scored_after_ctrl_c(call, log, tmp_path):
    """Elsewhere Ctrl-C ends a training early and the fit goes on with the network as it is."""
    with pytest.raises(KeyboardInterrupt):
        call(deed=interrupt_a_training)
    finished = list((tmp_path / "run" / "pairs").glob("*/fold*/info.json"))
    assert {path.parent.parent.name.split("-")[0] for path in finished} == {"first"}
    with pytest.warns(RuntimeWarning, match="training was interrupted"):
        interrupt_a_training()


# ------------------------------------------------------------------ tables as they come


def test_tables_are_there_while_other_encoders_are_fitted(call, whole, tmp_path):
    seen = {}
    out = tmp_path / "run"

    def look():
        seen.setdefault("result", BenchmarkResult.load(out))

    result = call(deed=look)
    unfinished = seen["result"]
    pd.testing.assert_frame_equal(
        rows_of(
            unfinished.maps[whole.maps.columns.intersection(unfinished.maps.columns)], ["first"]
        ),
        rows_of(whole.maps[whole.maps.columns.intersection(unfinished.maps.columns)], ["first"]),
    )
    assert unfinished.manifest["unfinished"] == ["second", "third"]
    assert "second, third" in unfinished.warnings[0]
    assert unfinished.to_html(tmp_path / "so far.html").exists()
    assert "unfinished" not in BenchmarkResult.load(out).manifest
    assert result.warnings == whole.warnings


def test_tables_of_a_finished_run_stay_until_the_new_ones_are_all_there(call, tmp_path):
    call()
    before = (tmp_path / "run" / "encoders.csv").read_bytes()
    seen = []
    call(deed=lambda: seen.append((tmp_path / "run" / "encoders.csv").read_bytes()), random_state=1)
    assert seen == [before, before]
    assert (tmp_path / "run" / "encoders.csv").read_bytes() != before


def test_tables_that_cannot_be_written_are_a_warning_and_the_result_is_given(
    call, whole, tmp_path, monkeypatch
):
    from brainenc.benchmarking import result as results

    with monkeypatch.context() as patched:
        fails_at(patched, results, "write_csv", lambda path, *args: "maps" in str(path))
        with pytest.warns(RuntimeWarning, match=r"tables are not written: maps\.csv could not be"):
            result = call()
    pd.testing.assert_frame_equal(result.maps, whole.maps)
    written = {path.name for path in (tmp_path / "run").glob("*.csv")}
    assert {"encoders.csv", "rois.csv", "draws.csv"} <= written
    assert "maps.csv" not in written
    result.save(tmp_path / "run")
    pd.testing.assert_frame_equal(
        BenchmarkResult.load(tmp_path / "run").maps, whole.maps, check_dtype=False
    )


def test_tables_of_two_runs_are_not_mixed_without_a_word(call, tmp_path):
    call()
    call(out=tmp_path / "other", random_state=1)
    (tmp_path / "run" / "rois.csv").write_bytes((tmp_path / "other" / "rois.csv").read_bytes())
    with pytest.raises(
        ValueError,
        match=r"rois\.csv is truncated or was changed.*the run that replaced it was stopped",
    ):
        BenchmarkResult.load(tmp_path / "run")


def test_nothing_hidden_is_left(call, tmp_path):
    call()
    assert list((tmp_path / "run").rglob(".*")) == []


def test_names_with_control_characters_are_refused_before_the_fits(data, log):
    for name in ("two\nlines", "tab\t", "\x1b[31mred", "nul\0", "line\u2028"):
        with pytest.raises(ValueError, match="control characters"):
            brainenc.benchmark(data, {name: Fitted(log=str(log))})
    assert not log.exists()


@pytest.mark.parametrize(
    "name", ["=1+1", "@ridge", "-2", "'=x", "</script>", 'a,b"c', "$x_1$", "é🧠"]
)
def test_other_names_come_back_from_the_folder(data, log, tmp_path, name):
    features = np.asarray(data.truth.signal)
    encoders = {name: Fitted(log=str(log)), "other": Fitted(log=str(log))}
    brainenc.benchmark(data, encoders, features=features, out=tmp_path / "run", **FEW)
    loaded = BenchmarkResult.load(tmp_path / "run")
    assert list(loaded.encoders["encoder"]) == [name, "other"]
    assert (
        set(loaded.maps["encoder"])
        == set(loaded.draws["encoder"][:2]) | {"other"}
        == {name, "other"}
    )


TWO = """
import sys
import numpy as np
import brainenc
data = brainenc.datasets.simulate_subject(40, 12, random_state=0, verbose=False)
features = np.asarray(data.truth.signal)
encoders = {"ridge": brainenc.RidgeEncoder(), "mean": brainenc.MeanEncoder()}
for _ in range(3):
    brainenc.benchmark(
        data, encoders, features=features, out=sys.argv[1], random_state=int(sys.argv[2]), cv=3,
        n_bootstraps=20, n_permutations=19, n_draws=6, check=False, verbose=False,
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_two_runs_in_one_folder_both_end_and_are_not_mixed(tmp_path, seeds):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path / "run"), str(seed)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in seeds
    ]
    for process in processes:
        error = process.communicate(timeout=300)[1]
        assert (process.returncode, error) == (0, "")
    found = BenchmarkResult.load(tmp_path / "run")
    seed = found.manifest["settings"]["random_state"]
    subprocess.run([sys.executable, "-c", TWO, str(tmp_path / "alone"), str(seed)], check=True)
    alone = BenchmarkResult.load(tmp_path / "alone")
    for table in ("maps", "rois", "pairs", "draws", "calibration"):
        left_out = ["fit_seconds"]
        pd.testing.assert_frame_equal(
            getattr(found, table).drop(columns=left_out, errors="ignore"),
            getattr(alone, table).drop(columns=left_out, errors="ignore"),
        )
    assert list((tmp_path / "run").rglob(".*")) == []
