"""Readers with one fault each, put through the campaign; prints the outcomes as JSON.

``python planted_faults.py FOLDER``, with ``benchmarks`` on the path.
"""

import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from torture import mutations
from torture.subjects import Subject

GOOD = b'{"numbers": [1, 2, 3]}'


def write(folder):
    (folder / "numbers.json").write_bytes(GOOD)


def content(folder):
    path = folder / "numbers.json"
    return path.read_bytes() if path.exists() else b""


def clear(folder):
    if content(folder) != GOOD:
        raise ValueError(f"{folder / 'numbers.json'} is damaged")
    return [1, 2, 3]


def names_nothing(folder):
    if content(folder) != GOOD:
        raise ValueError("damaged")
    return [1, 2, 3]


def of_another_kind(folder):
    if content(folder) != GOOD:
        raise KeyError("numbers.json")
    return [1, 2, 3]


def takes_anything(folder):
    return np.frombuffer(content(folder), np.uint8)


def warns(folder):
    if content(folder) != GOOD:
        warnings.warn("numbers.json was changed", stacklevel=1)
    return takes_anything(folder)


def reads_and_forgives(folder):
    return [len(GOOD)]


def allocates(folder):
    if content(folder) != GOOD:
        np.ones(3 * 2**30, dtype=np.uint8)
    return 0


def fills(folder):
    if content(folder) != GOOD:
        np.ones(2**27, dtype=np.uint8)  # within the limit, and more than an input may take
    return 0


def hides_a_memory_error(folder):
    try:
        return allocates(folder)
    except MemoryError as error:
        raise ValueError("numbers.json is too large") from error


def sleeps(folder):
    if content(folder) != GOOD:
        time.sleep(60)
    return 0


def ignores_the_alarm(folder):
    if content(folder) != GOOD:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)
    return 0


def crashes(folder):
    if content(folder) != GOOD:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def runs_a_command(folder):
    if content(folder) != GOOD:
        os.system("true")
    return 0


def unpickles(folder):
    import pickle

    if content(folder) != GOOD:
        pickle.loads(b"cbuiltins\nlen\n(VtR.")
    return 0


def writes_elsewhere(folder):
    if content(folder) != GOOD:
        (Path(sys.argv[1]) / "elsewhere").write_text("x")
    return 0


def writes_here(folder):
    (folder / "cache").write_text("x")
    return 0


READERS = (
    *(clear, names_nothing, of_another_kind, takes_anything, warns, reads_and_forgives, allocates),
    *(fills, hides_a_memory_error, sleeps, ignores_the_alarm, crashes, runs_a_command, unpickles),
    *(writes_elsewhere, writes_here),
)


def main():
    mutations.SECONDS, mutations.PATIENCE, mutations.RESIDENT = 3, 4, 2**26
    home = Path(sys.argv[1]) / "inside"
    home.mkdir()
    found = {}
    for read in READERS:
        sample = mutations.Sample(Subject("planted", read.__name__, write, read), home)
        for _, _, outcomes in mutations.run([(sample, [0])], home, 1):
            found[read.__name__] = dict(Counter(one["outcome"] for one in outcomes))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
