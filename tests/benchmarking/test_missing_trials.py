"""Ceilings, K rows and floors of a benchmark where voxels lack different trials.

Signal and noise of every voxel have variance 1, and ridge on the signals knows the signal: it
reaches the ceiling √(n / (n + 1)) for averages of n trials; one draw has the noise of a trial, and
reaches √(1/2) of that.
"""

import numpy as np
import pandas as pd
import pytest

import brainenc

N, N_TEST, VOXELS = 700, 300, 20
FEW = np.arange(VOXELS) >= VOXELS // 2


def subject(n_repeats=4, few=1):
    """Half of the voxels have only `few` trials of the test images; all have all others."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((N, VOXELS)).astype("f4")
    betas = signal[:, None] + rng.standard_normal((N, n_repeats, VOXELS)).astype("f4")
    test = np.arange(N - N_TEST, N)
    betas[np.ix_(test, range(few, n_repeats), np.flatnonzero(FEW))] = np.nan
    voxels = pd.DataFrame({"roi": np.where(FEW, "few", "all")})
    images = np.zeros((N, 4, 4), np.uint8)
    return signal, brainenc.EncodingData(images, betas, voxels), [(np.arange(N - N_TEST), test)]


def run(data, signal, cv, **options):
    options = {"n_draws": 0, "n_bootstraps": 20, "n_permutations": 20} | options
    return brainenc.benchmark(
        data,
        {"ridge": brainenc.RidgeEncoder(features=None)},
        features=signal,
        cv=cv,
        references=False,
        check=False,
        verbose=False,
        **options,
    )


def of_ridge(table):
    return table[table["encoder"] == "ridge"]


@pytest.mark.parametrize("averaged", [False, True])
def test_a_fixed_test_set_has_the_ceiling_of_each_voxel(averaged):
    signal, data, cv = subject()
    result = run(data.average_repeats() if averaged else data, signal, cv)
    maps = of_ridge(result.maps)
    for voxels, n in ((FEW, 1), (~FEW, 4)):
        truth = np.sqrt(n / (n + 1))
        # s.e. over 10 voxels of a ceiling from 700 images, .006 in r at most: four of these.
        assert abs(maps["noise_ceiling"][voxels].mean() - truth) < 0.025
        # and of r over 300 images and 10 voxels: .010.
        assert abs(maps["r"][voxels].mean() - truth) < 0.04
        assert abs(maps["r_normalized"][voxels].mean() - 1) < 0.05


def test_rows_of_draws_have_the_ceiling_of_each_voxel():
    signal, data, cv = subject()
    rows = of_ridge(run(data, signal, cv, n_draws=20).k_fairness)
    one, many = (
        rows[rows["average_kind"] == kind].iloc[0] for kind in ("one draw", "mean of draws")
    )
    noise = np.mean([1, 1 / 4])  # of averages, over the two halves of the voxels
    for row, k in ((one, 1), (many, 20)):
        truth = np.mean([np.sqrt(n / (n + 1)) for n in (1, 4)]) * np.sqrt(k / (k + 1))
        assert abs(row["noise_ceiling"] - truth) < 0.02
        assert abs(row["r"] - truth) < 0.03  # draws of an encoder that knows the signal reach it
        # In z units a trial has variance 2/2: noise 1 has .5.
        assert abs(row["mse_z_floor"] - (noise + 1 / k) / 2) < 0.04
        assert abs(row["mse_z"] - (noise + 1 / k) / 2) < 0.06


def test_draws_of_averages_have_the_noise_of_averages():
    """A draw of an encoder fitted to averages of 4 trials is an average of 4 trials."""
    signal, data, cv = subject(few=4)
    result = run(data.average_repeats(), signal, cv, n_draws=20)
    row = of_ridge(result.k_fairness).query("average_kind == 'one draw'").iloc[0]
    truth = np.sqrt(4 / 5) ** 2
    assert abs(row["noise_ceiling"] - truth) < 0.02
    assert abs(row["r"] - truth) < 0.03


def test_the_simulated_truth_draws_single_trials_and_is_no_row_beside_averages():
    data = brainenc.datasets.simulate_subject(n_images=80, n_voxels=30, random_state=0)
    features = np.random.default_rng(0).standard_normal((80, 3))
    options = {"n_draws": 5, "n_bootstraps": 5, "n_permutations": 5}
    single = run(data, features, 2, **options)
    averages = run(data.average_repeats(), features, 2, **options)
    assert "true distribution" in set(single.draws["encoder"])
    assert "true distribution" not in set(averages.draws["encoder"])


def test_averages_taken_for_single_trials_are_said():
    signal, data, cv = subject(few=4)
    averages = data.average_repeats()
    unsaid = brainenc.EncodingData(data.images, averages.betas, averages.voxels)
    said = brainenc.EncodingData(data.images, averages.betas, averages.voxels, n_averaged=4)
    sentence = "betas have no repeats, and nothing says whether they are averages"
    assert any(sentence in warning for warning in run(unsaid, signal, cv).warnings)
    assert not any(sentence in warning for warning in run(said, signal, cv).warnings)
