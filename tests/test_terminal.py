"""What the command line does when the terminal, the disk or a signal is against it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import brainenc
from brainenc import terminal
from brainenc.terminal import is_expected, one_line, printable

OPTIONS = ["--features", "pixels", "--cv", "3", "--n-draws", "0", "--n-bootstraps", "20"]
OPTIONS += ["--n-permutations", "20", "--no-check"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    data = brainenc.datasets.simulate_subject(40, 10, random_state=0, verbose=False)
    np.savez(folder / "d.npz", images=data.images, betas=data.betas)
    return folder


def start(*arguments, cwd, environment=None, **options):
    command = [sys.executable, "-m", "brainenc.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **(environment or {})}, **pipes)


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, error = process.communicate(timeout=300)
    return process.returncode, out or b"", (error or b"").decode(errors="replace")


# ------------------------------------------------------------------ outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp932", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "TERM": "dumb"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "12"},
    ],
    ids=lambda environment: next(iter(environment.values())),
)
def test_characters_that_the_terminal_lacks_are_replaced(folder, tmp_path, environment):
    """The summary has "–" for the r of the mean, and the folder has a name beyond ASCII."""
    here = tmp_path / "Gehörte – 模型"
    here.mkdir()
    options = [*OPTIONS, "--encoders", "mean", "--out", "run ü"]
    there = {"cwd": here, "environment": environment}
    status, out, error = run("benchmark", folder / "d.npz", *options, **there)
    assert (status, "Traceback" in error) == (0, False)
    assert b"?" in out
    assert (here / "run ü" / "report.html").exists()
    status, out, _ = run("benchmark", "--help", **there)
    assert status == 0
    assert b"--n-" in out or "COLUMNS" in environment


@pytest.mark.slow
def test_a_path_that_is_no_text_is_written_and_printed(folder, tmp_path):
    if sys.platform != "linux":
        pytest.skip("names of files are text on this system")
    here = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run-\xff"))
    options = [*OPTIONS, "--encoders", "mean", "-q", "--out", here]
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xfe.npz"))
    data.write_bytes((folder / "d.npz").read_bytes())
    for command in (["benchmark", data, *options], ["report", here]):
        status, _, error = run(*command, cwd=tmp_path)
        assert (status, error) == (0, "")
    assert (here / "report.html").exists()
    assert (here / "encoders.csv").exists()


def test_a_reader_that_goes_away_costs_nothing(folder, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    options = [*OPTIONS, "--encoders", "mean", "-q", "--out", tmp_path / "run"]
    status, _, error = run("benchmark", folder / "d.npz", *options, cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert (status, error) == (0, "")
    assert (tmp_path / "run" / "report.html").exists()


def test_closed_outputs_cost_nothing(folder, tmp_path):
    options = [*OPTIONS, "--encoders", "mean", "--out", tmp_path / "run"]
    command = [sys.executable, "-m", "brainenc.cli", "benchmark", folder / "d.npz", *options]
    line = f"{' '.join(map(str, command))} >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", line], timeout=300).returncode == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_an_output_that_is_full_is_one_line_and_costs_nothing_else(folder, tmp_path):
    options = [*OPTIONS, "--encoders", "mean", "-q", "--out", tmp_path / "run"]
    with open("/dev/full", "wb") as full:
        status, _, error = run("benchmark", folder / "d.npz", *options, cwd=tmp_path, stdout=full)
        assert status == 2
        assert error == "brainenc: the output could not be written: No space left on device\n"
        assert (tmp_path / "run" / "report.html").exists()
        # Nor is it an error that stderr is.
        assert run("info", cwd=tmp_path, stderr=full)[0] == 0


@pytest.mark.slow
def test_no_cache_folder_and_no_temporary_folder(folder, tmp_path):
    nowhere = tmp_path / "read-only"
    nowhere.write_text("no folder")
    environment = dict.fromkeys(("MPLCONFIGDIR", "TMPDIR", "HOME", "XDG_CACHE_HOME"), str(nowhere))
    options = [*OPTIONS, "--encoders", "mean", "-q", "--out", tmp_path / "run"]
    status, _, error = run(
        "benchmark", folder / "d.npz", *options, cwd=tmp_path, environment=environment
    )
    assert "Traceback" not in error
    assert status == 0
    assert (tmp_path / "run" / "report.html").exists()


# ------------------------------------------------------------------ disks


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes on this system")
def test_a_disk_that_fills_up_is_one_line_and_the_same_command_goes_on(folder, tmp_path):
    resource = pytest.importorskip("resource")
    np.save(tmp_path / "images.npy", np.load(folder / "d.npz")["images"])

    def no_room(size=3000):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    model = [
        "fit",
        "ridge",
        folder / "d.npz",
        "--features",
        "pixels",
        "--no-check",
        "--out",
        "model",
    ]
    commands = {
        "model": model,
        "predictions.npy": ["predict", "model", "images.npy", "--out", "predictions.npy"],
        "draws.npy": ["sample", "model", "images.npy", "-n", "20", "--out", "draws.npy"],
    }
    for name, command in commands.items():
        status, _, error = run(*command, cwd=tmp_path, preexec_fn=no_room(1000))
        assert status == 2
        assert error.count("\n") == 1
        assert f"{name} is not written (File too large)" in error
        assert not [path for path in tmp_path.iterdir() if name in path.name]
        assert run(*command, cwd=tmp_path)[0] == 0
    command = ["benchmark", folder / "d.npz", *OPTIONS, "--encoders", "ridge", "-q", "--out", "run"]
    status, out, error = run(*command, cwd=tmp_path, preexec_fn=no_room())
    assert status == 2
    assert "Traceback" not in error
    assert "the report is not written" in error
    assert "brainenc report run" in error
    assert b"ridge" in out  # the scores themselves are shown
    assert not [path for path in (tmp_path / "run").rglob(".*")]
    status, _, error = run(*command, cwd=tmp_path)
    assert (status, error) == (0, "")


def test_which_errors_are_one_line():
    import zipfile
    from concurrent.futures.process import BrokenProcessPool

    import torch
    from nibabel.filebasedimages import ImageFileError
    from safetensors import SafetensorError

    from brainenc.training import TrainingError

    for error in (
        *(ValueError("x"), OSError("x"), MemoryError(), ImportError("x"), EOFError("x")),
        *(SafetensorError("x"), ImageFileError("x"), zipfile.BadZipFile("x"), TrainingError("x")),
        *(
            BrokenProcessPool("x"),
            torch.OutOfMemoryError("x"),
            UnicodeDecodeError("a", b"", 0, 1, ""),
        ),
    ):
        assert is_expected(error)
        assert one_line(error)
    for error in (
        KeyError("x"),
        AttributeError("x"),
        AssertionError(),
        IndexError(),
        RuntimeError(),
    ):
        assert not is_expected(error)
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(ValueError("two\nlines")) == "two lines"
    assert printable("a\x1b[31mb\n") == "a?[31mb?"


def test_a_bug_shows_a_traceback_and_debug_shows_each(capsys):
    def bug():
        raise KeyError("x")

    def bad_input():
        raise ValueError("bad input")

    with pytest.raises(KeyError):
        terminal.run(bug, lambda: False)
    with pytest.raises(ValueError, match="bad input"):
        terminal.run(bad_input, lambda: True)
    assert terminal.run(bad_input, lambda: False) == 2
    assert capsys.readouterr().err == "brainenc: bad input\n"


# ------------------------------------------------------------------ signals


def _hears_signals():
    """Signals as in a terminal: shells in the background, and nohup, have some ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def processes_of(group):
    shown = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-g", str(group)], capture_output=True, text=True
    )
    return [line for line in shown.stdout.splitlines() if " Z" not in line]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_a_benchmark_with_one_line_and_no_process_left(
    tmp_path, n_jobs, name, status
):
    data = brainenc.datasets.simulate_subject(200, 40, random_state=0, verbose=False)
    np.savez(tmp_path / "d.npz", images=data.images, betas=data.betas)
    command = ["benchmark", "d.npz", *OPTIONS, "--encoders", "ridge,synbrain", "-q", "--out", "run"]
    process = start(
        *command, "--n-jobs", n_jobs, cwd=tmp_path, start_new_session=True,
        preexec_fn=_hears_signals,
    )  # fmt: skip
    while not list(tmp_path.glob("run/pairs/*/fold*/info.json")) and process.poll() is None:
        time.sleep(0.2)
    time.sleep(2)  # within a fit of a network
    process.send_signal(getattr(signal, name))  # to the main process alone, as `kill` does
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == status
    assert (
        error.strip()
        == "brainenc: stopped; the same command goes on after the fits that are finished"
    )
    time.sleep(2)
    assert processes_of(process.pid) == []
    assert not list((tmp_path / "run").rglob(".*"))
    # No network that was trained for a part of the time was kept.
    finished = list((tmp_path / "run").glob("pairs/*/fold*/info.json"))
    assert finished
    assert not [path for path in finished if "interrupted" in path.read_text()]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_within_a_text_that_python_executes_keeps_the_exit_status(tmp_path):
    # As `dataclass` and `namedtuple` execute one at imports: Python would end itself with SIGINT
    # after a plain KeyboardInterrupt from there, whoever caught it.
    (tmp_path / "stopped.py").write_text(
        "import os, signal, sys\n"
        "from brainenc import terminal\n"
        "def command():\n"
        "    exec('os.kill(os.getpid(), signal.SIGINT)')\n"
        "sys.exit(terminal.run(command, lambda: False))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "stopped"], cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=_hears_signals, env={**os.environ, "PYTHONPATH": f"{os.getcwd()}:{tmp_path}"},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (130, 1)
