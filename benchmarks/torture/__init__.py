"""Campaigns that try to break brainenc: kills, mutated inputs, names with markup, two runs at once.

    PYTHONPATH=benchmarks:tests python -m torture --out docs/results

Long campaigns continue where they were stopped; the tests in ``tests/torture`` run short ones.
"""
