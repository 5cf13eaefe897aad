"""Campaigns that try to break brainenc: kills, mutated inputs, names with markup, two runs at once.

    PYTHONPATH=benchmarks:tests python -m torture --out docs/results

Long campaigns continue where they were stopped; the tests in ``tests/torture`` run short ones.
"""

import os
import sys

# Before torch is imported: forks must not lack threads that the first process had.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else a lazy import writes files outside the folder that is watched.
sys.dont_write_bytecode = True
