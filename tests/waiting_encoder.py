"""Encoders that tell when and where they are fitted, or wait for something there."""

import os
import time
import uuid
from pathlib import Path

from joblib import Parallel, delayed

import brainenc


class WaitingEncoder(brainenc.MeanEncoder):
    """The mean, which leaves a file per fit in `log`.

    The first fit without image `wait_without` waits until its process is killed.
    """

    def __init__(self, log=None, wait_without=None):
        super().__init__()
        self.log = log
        self.wait_without = wait_without

    def _fit(self, features, betas):
        log = Path(self.log)
        # Features are the positions of the images.
        here = self.wait_without is not None and self.wait_without not in features[:, 0]
        fold = "waited" if here else f"{features[:, 0].sum():.0f}"
        first = not list(log.glob(f"{fold}-*"))
        (log / f"{fold}-{uuid.uuid4().hex}").write_text(str(os.getpid()))
        while here and first:
            time.sleep(0.05)
        return super()._fit(features, betas)


class MeetingEncoder(brainenc.MeanEncoder):
    """The mean, which leaves a file per process in `log` and waits for `n` processes there."""

    def __init__(self, log=None, n=1):
        super().__init__()
        self.log = log
        self.n = n

    def _fit(self, features, betas):
        log = Path(self.log)
        (log / str(os.getpid())).touch()
        deadline = time.monotonic() + 30
        while len(list(log.iterdir())) < self.n:
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {len(list(log.iterdir()))} processes fit")
            time.sleep(0.05)
        return super()._fit(features, betas)


class JobsEncoder(brainenc.MeanEncoder):
    """The mean, which waits for jobs of its own; with an error if they take too long."""

    def _fit(self, features, betas):
        Parallel(n_jobs=2, timeout=20)(delayed(abs)(i) for i in range(4))
        return super()._fit(features, betas)
