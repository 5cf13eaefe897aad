"""Trainings in processes of their own: killed, interrupted, spread over two."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_problem

SCRIPT = Path(training_problem.__file__)


def started(*arguments, launcher=(), warnings="default"):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": warnings}
    return subprocess.Popen(
        [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell runs in the background ignores Ctrl-C, and so would this.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None:
            pytest.fail(f"ended without {path.name}: {process.stderr.read()}")
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.02)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ("kept", "last", "ema"):
        assert ours[name].keys() == theirs[name].keys()
        for key, value in ours[name].items():
            assert torch.equal(value, theirs[name][key]), f"{name} {key}"
    for column, values in ours["history"].items():
        torch.testing.assert_close(
            torch.tensor(values),
            torch.tensor(theirs["history"][column]),
            rtol=0,
            atol=0,
            equal_nan=True,
        )
    for name in ("stopped", "best_step", "n_steps"):
        assert ours[name] == theirs[name]


@pytest.fixture(scope="module")
def uninterrupted():
    return training_problem.run()


# 44 steps, a row every 7, a checkpoint every 5. A loss of 24 dies three steps after a checkpoint
# and two after a row; evaluation 5 is that of step 28; checkpoint 4 is that of step 20, cut off
# after 1000 bytes; loss 3 dies before there is anything to resume.
@pytest.mark.parametrize(
    ("place", "when", "newest"),
    [("loss", 24, 20), ("evaluate", 5, 25), ("checkpoint", 4, 15), ("loss", 3, None)],
)
def test_killed_and_resumed_is_the_uninterrupted_to_the_bit(
    tmp_path, uninterrupted, place, when, newest
):
    process = started(tmp_path, "--stop-at", place, when)
    with process.stderr:
        wait_for(tmp_path / "ready", process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    present = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*.pt"))
    assert present[-1:] == ([f"step-{newest:09d}.pt"] if newest else [])
    resumed = training_problem.run(
        checkpoint_dir=tmp_path / "checkpoints", checkpoint_every=5, resume=True
    )
    assert_same(resumed, uninterrupted)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-000000040.pt", "step-000000044.pt"]  # no litter of the killed writer


def test_ctrl_c_keeps_the_best_weights_and_the_history(tmp_path, uninterrupted):
    process = started(tmp_path, "--stop-at", "loss", 24)
    with process.stderr:
        wait_for(tmp_path / "ready", process)
        process.send_signal(signal.SIGINT)
        messages = process.stderr.read()
        assert process.wait() == 0, messages
    assert "training was interrupted in step 24 of 44" in messages
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    assert out["stopped"] == "interrupted"
    assert out["n_steps"] == 23
    assert out["history"]["loss"][1:] == uninterrupted["history"]["loss"][1:4]
    heldout = out["history"]["heldout_mse"]
    assert out["best_step"] == out["history"]["step"][heldout.index(min(heldout))]
    parts = training_problem.problem()
    parts["module"].load_state_dict(out["kept"])
    with torch.no_grad():
        assert float(parts["evaluate"](parts["module"].eval())["heldout_mse"]) == min(heldout)


def test_two_trainings_do_not_share_a_folder_of_checkpoints(tmp_path, uninterrupted):
    folder = tmp_path / "checkpoints"
    process = started(tmp_path, "--stop-at", "loss", 24)
    with process.stderr:
        wait_for(tmp_path / "ready", process)
        present = sorted(path.name for path in folder.glob("step-*.pt"))
        for resume in (True, False):
            with pytest.raises(
                BlockingIOError,
                match=rf"^checkpoint_dir='.*checkpoints' is in use by process {process.pid} on .*: "
                "wait until that training has ended, or choose another checkpoint_dir",
            ):
                training_problem.run(checkpoint_dir=folder, checkpoint_every=5, resume=resume)
        assert sorted(path.name for path in folder.glob("step-*.pt")) == present
        process.kill()
        process.wait()
    # The lock went with the process that held it.
    resumed = training_problem.run(checkpoint_dir=folder, checkpoint_every=5, resume=True)
    assert_same(resumed, uninterrupted)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = started(tmp_path, "--distributed", launcher=launcher, warnings="error")
    _, messages = process.communicate(timeout=180)
    assert process.returncode == 0, messages
    one = training_problem.run(dropout=0.0)
    for rank in range(2):
        two = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert two["best_step"] == one["best_step"]
        for column, values in one["history"].items():
            # Sums in another order: float32 rounding (6e-8; 1e-7 is what is seen), and 44 steps.
            torch.testing.assert_close(
                torch.tensor(two["history"][column]),
                torch.tensor(values),
                rtol=3e-6,
                atol=0,
                equal_nan=True,
            )
        for name, value in one["last"].items():
            if name != "n_seen":
                torch.testing.assert_close(two["last"][name], value, rtol=1e-5, atol=1e-6)
