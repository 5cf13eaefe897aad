"""A fit that is killed and resumed gives the encoder of an uninterrupted one, to the bit."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from brainenc.encoders import make_encoder

SCRIPT = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from brainenc.encoders import make_encoder
    from brainenc.training.checkpoints import Checkpoints

    folder = Path(sys.argv[1])
    write, count = Checkpoints.write, 0

    def write_and_wait(self, step, state):
        global count
        write(self, step, state)
        count += 1
        if count == int(sys.argv[2]):
            (folder / "ready").touch()
            time.sleep(600)

    Checkpoints.write = write_and_wait
    data = np.load(folder / "data.npz")
    encoder = make_encoder(sys.argv[3], **eval(sys.argv[4]), checkpoint_dir=folder / "c")
    encoder.fit(data["tokens"], data["betas"])
"""

PARAMETERS = {
    "latent": {"n_latents": 6, "hidden": 16, "n_members": 2, "n_epochs": 3, "least_gain": 0},
    "synbrain": {
        "sizes": {
            "vae": {
                "pooled_length": 32,
                "n_channels": 8,
                "channel_multipliers": (1, 2),
                "n_blocks": 1,
                "projector_width": 32,
            }
        },
        "learning_rate": 1e-4,
        "vae_epochs": 3,
        "batch_size": 48,
        "mapper_steps": 20,
    },
}


@pytest.fixture(scope="module")
def problem():
    """160 images of six tokens, 24 voxels, 3 trials, every tenth of which is missing."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((160, 6, 10)).astype(np.float32)
    signal_part = (tokens @ rng.standard_normal((10, 24))).max(axis=1)
    betas = signal_part[:, None] + rng.standard_normal((160, 3, 24))
    betas[rng.random((160, 3)) < 0.1] = np.nan
    return tokens, betas.astype(np.float32)


# Checkpoints: one with each row of a history. LatentEncoder writes more than 12 in its first
# member; SynBrainEncoder 3 in stage 1 and then one for each of 2 epochs.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("latent", 22), ("synbrain", 4)])
def test_killed_and_resumed_is_the_uninterrupted_to_the_bit(problem, tmp_path, name, count):
    tokens, betas = problem
    parameters = PARAMETERS[name]
    np.savez(tmp_path / "data.npz", tokens=tokens, betas=betas)
    arguments = [tmp_path, str(count), name, repr(parameters)]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process.stderr:
        deadline = time.monotonic() + 120
        while not (tmp_path / "ready").exists():
            if process.poll() is not None:
                pytest.fail(process.stderr.read())
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    encoder = make_encoder(name, **parameters, checkpoint_dir=tmp_path / "c")
    resumed = encoder.fit(tokens, betas, resume=True)
    straight = make_encoder(name, **parameters).fit(tokens, betas)
    np.testing.assert_array_equal(resumed.predict(tokens), straight.predict(tokens))
    np.testing.assert_array_equal(resumed.sample(tokens, 1, 0), straight.sample(tokens, 1, 0))
    columns = ["step", "loss"]
    assert resumed.history_[columns].equals(straight.history_[columns])
