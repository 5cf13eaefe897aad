"""Numbers of trials are facts of an image and a voxel; ceilings against simulated truth.

In every simulation signal and noise have variance 1, so that the reliability of an average of n
trials is n / (n + 1), and over images with n_i trials 1 / (1 + mean(1 / n_i)).
"""

import json

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc import EncodingData, metrics
from brainenc.repeats import effective_trials, trials_of_averages

N, VOXELS = 4000, 12
#: s.e. of an estimated reliability about 1/2 from 4000 images is at most .012 in one voxel, .004 in
#: the mean over 12; five of these, and a tenth of the smallest fault looked for (.05).
TOLERANCE = 0.02


def simulate(n_repeats=4, n_images=N, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n_images, VOXELS))
    return signal, signal[:, None] + rng.standard_normal((n_images, n_repeats, VOXELS))


def as_data(betas, **parts):
    return EncodingData(np.zeros((len(betas), 2, 2), np.uint8), betas, **parts)


def outside_sessions(betas, rng):
    """Half of the voxels are outside the slab in the sessions of trials 1 to 3 of most images."""
    few = np.flatnonzero(rng.random(len(betas)) < 0.8)
    betas[np.ix_(few, [1, 2, 3], range(VOXELS // 2, VOXELS))] = np.nan


def censored(betas, rng):
    """Whole trials are lost, some images completely."""
    betas[rng.random(betas.shape[:2]) < 0.4] = np.nan


def ragged_units(betas, rng):
    """Every unit has its own number of trials of every image, also none."""
    n = rng.integers(0, 5, (len(betas), VOXELS))
    betas[np.arange(4)[None, :, None] >= n[:, None]] = np.nan


def test_images_repeated_only(betas, rng):
    betas[500:, 1:] = np.nan


test_images_repeated_only.__test__ = False
MISSING = [outside_sessions, censored, ragged_units, test_images_repeated_only]


def reached(signal, betas, rows):
    """r² of the true signal with averages of the images `rows`, voxel by voxel with NumPy."""
    found = []
    for v in range(VOXELS):
        trials = betas[rows, :, v]
        n = np.isfinite(trials).sum(axis=1)
        average = np.nansum(trials, axis=1)[n > 0] / n[n > 0]
        found.append(np.corrcoef(signal[rows, v][n > 0], average)[0, 1] ** 2)
    return np.array(found)


def expected(betas, rows):
    n = np.isfinite(betas[rows]).sum(axis=1).astype(float)
    n[n == 0] = np.nan
    return 1 / (1 + np.nanmean(1 / n, axis=0))


@pytest.mark.parametrize("lose", MISSING, ids=lambda f: f.__name__)
def test_the_ceiling_is_what_the_true_signal_reaches(lose):
    signal, betas = simulate()
    lose(betas, np.random.default_rng(1))
    data = as_data(betas)
    for rows in (np.arange(N), np.arange(500), np.arange(1000, N)):
        truth = expected(betas, rows)
        # The simulation itself agrees with the formula: s.e. of r² from 500 images is .032.
        np.testing.assert_allclose(reached(signal, betas, rows).mean(), truth.mean(), atol=0.05)
        for case in (data, data.average_repeats()):
            ceiling = case.noise_ceiling(None if len(rows) == N else rows)
            halves = np.split(ceiling.values - truth, 2)
            assert abs(np.mean(halves[0])) < TOLERANCE, case
            assert abs(np.mean(halves[1])) < TOLERANCE, case
            n_trials = np.broadcast_to(ceiling.n_trials, (VOXELS,))
            # With variances of 1 the reliability r² of n trials gives n = r² / (1 - r²).
            np.testing.assert_allclose(n_trials, truth / (1 - truth), rtol=1e-9)


@pytest.mark.parametrize("lose", MISSING, ids=lambda f: f.__name__)
def test_averages_have_the_ceiling_of_their_trials(lose):
    """Averaging loses the trials, not what is known of them: selected, saved and averaged again."""
    _, betas = simulate(n_images=600)
    lose(betas, np.random.default_rng(1))
    data = as_data(betas)
    average = data.average_repeats()
    np.testing.assert_allclose(average.noise_ceiling().values, data.noise_ceiling().values)
    assert average.average_repeats() is average
    some = {"images": np.arange(0, 600, 2), "voxels": np.arange(3, 9)}
    n = np.isfinite(betas).sum(axis=1)[::2, 3:9]
    part = average.select(**some)
    np.testing.assert_allclose(
        part.effective_trials(), data.select(**some).effective_trials(), rtol=1e-12
    )
    counts = np.broadcast_to(part.n_averaged, n.shape)
    np.testing.assert_array_equal(counts[n > 0], n[n > 0])


def test_the_trial_table_counts_only_what_all_voxels_share():
    _, betas = simulate(n_images=30)
    assert as_data(betas).average_repeats().trials["n_averaged"].eq(4).all()
    betas[3, 0, 1] = np.nan
    average = as_data(betas).average_repeats()
    assert "n_averaged" not in average.trials
    assert average.n_averaged.shape == (30, VOXELS)
    assert average.n_averaged[3, :3].tolist() == [4, 3, 4]
    # The voxels that are left share their counts.
    assert average.select(voxels=range(2, 5)).trials["n_averaged"].eq(4).all()


def test_folder_and_npz_keep_the_counts(tmp_path):
    _, betas = simulate(n_images=30)
    betas[3, 0, 1] = np.nan
    average = as_data(betas).average_repeats()
    average.save(tmp_path / "a.brain")
    loaded = EncodingData.load(tmp_path / "a.brain")
    np.testing.assert_array_equal(loaded.n_averaged, average.n_averaged)
    assert loaded.n_averaged.dtype == np.uint8
    np.testing.assert_array_equal(loaded.noise_ceiling().values, average.noise_ceiling().values)
    np.savez(
        tmp_path / "a.npz",
        images=average.images,
        betas=average.betas[:, 0],
        ncsnr=average.voxels["ncsnr"],
        n_averaged=average.n_averaged,
    )
    from_npz = brainenc.load_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(from_npz.noise_ceiling().values, average.noise_ceiling().values)


def test_a_folder_of_an_earlier_version_has_its_counts_in_the_trial_table(tmp_path):
    _, betas = simulate(n_images=30)
    average = as_data(betas).average_repeats()
    average.save(tmp_path / "a.brain")
    meta = tmp_path / "a.brain" / "meta.json"
    content = json.loads(meta.read_text())
    new = ("n_averaged_shape", "files", "checksum")
    former = {key: value for key, value in content.items() if key not in new}
    meta.write_text(json.dumps(former | {"format_version": 1}))
    (tmp_path / "a.brain" / "n_averaged.npy").unlink()
    loaded = EncodingData.load(tmp_path / "a.brain")
    np.testing.assert_array_equal(loaded.n_averaged, average.n_averaged)


# ------------------------------------------------------------------ given by the user


def test_averages_with_given_counts_have_their_ceiling():
    """Truth: the averages are correlated with the signal that made them."""
    rng = np.random.default_rng(2)
    signal = rng.standard_normal((N, VOXELS))
    n = rng.integers(1, 6, (N, VOXELS))
    averages = signal + rng.standard_normal((N, VOXELS)) / np.sqrt(n)
    voxels = pd.DataFrame({"ncsnr": np.ones(VOXELS)})
    data = as_data(averages, voxels=voxels, n_averaged=n)
    truth = 1 / (1 + np.mean(1 / n, axis=0))
    np.testing.assert_allclose(data.noise_ceiling().values, truth, rtol=1e-12)
    np.testing.assert_allclose(reached(signal, averages[:, None], np.arange(N)), truth, atol=0.04)


def test_counts_have_one_number_one_per_image_or_one_per_image_and_voxel():
    averages = np.random.default_rng(0).standard_normal((6, 4))
    voxels = pd.DataFrame({"ncsnr": np.ones(4)})
    per_image = np.array([1, 2, 3, 1, 2, 3])
    of_table = pd.DataFrame({"image": range(6), "repeat": 0, "n_averaged": per_image})
    for n_averaged, trials in ((per_image, None), (per_image[:, None], None), (None, of_table)):
        data = as_data(averages, voxels=voxels, n_averaged=n_averaged, trials=trials)
        np.testing.assert_allclose(data.effective_trials(), 1 / np.mean(1 / per_image))
        np.testing.assert_array_equal(data.trials["n_averaged"], per_image)
    assert as_data(averages, voxels=voxels, n_averaged=3).noise_ceiling().n_trials == 3


@pytest.mark.parametrize(
    ("n_averaged", "message"),
    [
        (0, "whole numbers >= 1.*it is 0 for image 0"),
        (1.5, "it is 1.5"),
        ([1, 2, 3], r"n_averaged \(3,\) must be one number, or one for each of the 6 images"),
        (np.ones((4, 6)), r"n_averaged \(4, 6\).*\(6, 4\)"),
        (np.nan, "it is nan"),
    ],
)
def test_counts_that_cannot_be_are_refused(n_averaged, message):
    with pytest.raises(ValueError, match=message):
        as_data(np.random.default_rng(0).standard_normal((6, 4)), n_averaged=n_averaged)


def test_counts_that_contradict_are_refused():
    averages = np.random.default_rng(0).standard_normal((6, 4))
    trials = pd.DataFrame({"image": range(6), "repeat": 0, "n_averaged": 2})
    with pytest.raises(ValueError, match="different numbers of averaged trials"):
        as_data(averages, trials=trials, n_averaged=3)
    with pytest.raises(ValueError, match=r"3 trials in a beta, but betas \(6, 2, 4\) have repeats"):
        as_data(np.stack([averages, averages], axis=1), n_averaged=3)


def test_a_count_is_needed_only_where_there_is_a_beta():
    averages = np.random.default_rng(0).standard_normal((6, 4))
    averages[2, 1] = np.nan
    counts = np.full((6, 4), 3)
    counts[2, 1] = 0
    data = as_data(averages, n_averaged=counts)
    assert data.n_averaged.shape == (6, 1)  # those with data share the number
    np.testing.assert_allclose(data.effective_trials(), 3)


def test_averages_given_without_a_word_are_taken_for_single_trials_aloud():
    averages = np.random.default_rng(0).standard_normal((30, 4)).astype("f4")
    voxels = pd.DataFrame({"ncsnr": np.ones(4)})
    with pytest.warns(UserWarning, match="nothing says whether they are averages"):
        assert as_data(averages, voxels=voxels).noise_ceiling().n_trials == 1
    for n in (1, 3):
        assert as_data(averages, voxels=voxels, n_averaged=n).noise_ceiling().n_trials == n


# ------------------------------------------------------------------ trials of NaN are no trials


def test_trials_of_nan_alone_are_no_trials():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((5, 3, 4))
    betas[0, 1] = betas[4] = np.nan
    every = pd.DataFrame(np.argwhere(np.ones((5, 3))), columns=["image", "repeat"])
    data = as_data(betas, trials=every.assign(session=1))
    assert len(data.trials) == 11
    assert data.trials["image"].nunique() == 4
    assert data.average_repeats().trials["n_averaged"].tolist() == [2, 3, 3, 3]


def test_censored_trials_get_no_place_among_repeats():
    rng = np.random.default_rng(0)
    trials = rng.standard_normal((7, 4))
    trials[[1, 6]] = np.nan
    images = np.arange(3 * 4).reshape(3, 2, 2).astype(np.uint8)
    data = EncodingData.from_trials(
        images, trials, [0, 0, 0, 1, 1, 1, 2], session=[1, 1, 2, 2, 3, 3, 3]
    )
    assert data.betas.shape == (2, 3, 4)
    np.testing.assert_array_equal(data.betas[0, :2], trials[[0, 2]])
    assert data.trials["trial"].tolist() == [0, 2, 3, 4, 5]
    assert data.trials["session"].tolist() == [1, 2, 2, 3, 3]
    np.testing.assert_array_equal(np.asarray(data.images), images[:2])


# ------------------------------------------------------------------ numbers of trials


def test_effective_trials_by_hand():
    betas = np.ones((3, 3, 2))
    betas[0, 1:, 1] = np.nan
    betas[1, :, 1] = np.nan
    np.testing.assert_allclose(effective_trials(betas), [3, 1 / np.mean([1, 1 / 3])])
    np.testing.assert_allclose(effective_trials(betas, images=np.array([0, 0, 2])),
                               [3, 1 / np.mean([1, 1, 1 / 3])])  # fmt: skip
    averaged = np.array([[2, 4], [2, 4], [5, 5]])
    np.testing.assert_allclose(
        effective_trials(betas[:, :1], averaged),
        [1 / np.mean([1 / 2, 1 / 2, 1 / 5]), 1 / np.mean([1 / 4, 1 / 5])],
    )


def test_a_ceiling_for_its_own_trials_is_itself():
    _, betas = simulate(n_images=50)
    ragged_units(betas, np.random.default_rng(0))
    ceiling = metrics.noise_ceiling_from_repeats(betas, n_bootstraps=5)
    assert ceiling.n_trials.shape == (VOXELS,)
    for own in (ceiling.n_trials, ceiling.n_trials.copy(), ceiling.n_trials[None]):
        np.testing.assert_allclose(ceiling.with_n_trials(own).values, ceiling.values, rtol=1e-12)
    there = ceiling.with_n_trials(1).with_n_trials(ceiling.n_trials)
    np.testing.assert_allclose(there.values, ceiling.values, rtol=1e-9)
    np.testing.assert_allclose(there.interval, ceiling.interval, rtol=1e-9)


def test_numbers_with_two_meanings_are_refused():
    with pytest.raises(ValueError, match=r"two meanings.*n_trials\[:, None\]"):
        trials_of_averages([1, 2, 3], 3)
    assert trials_of_averages([1, 2, 4], 5) == pytest.approx(1 / np.mean([1, 1 / 2, 1 / 4]))
    assert trials_of_averages(np.array([[1], [2], [4]]), 3) == trials_of_averages([1, 2, 4], 5)
    np.testing.assert_array_equal(trials_of_averages([[1, 2, 3]], 3), [1, 2, 3])
    counts = np.array([[2, 0, 0], [4, 3, 0]])
    np.testing.assert_allclose(
        trials_of_averages(counts, 3), [1 / np.mean([1 / 2, 1 / 4]), 3, np.nan]
    )
    for wrong in (0, 0.5, [1, 0], [[0.5, 1, 1]], np.zeros((2, 3)), np.nan):
        with pytest.raises(ValueError, match="must be >= 1"):
            trials_of_averages(wrong, 3)
    with pytest.raises(ValueError, match=r"n_trials \(2, 2\)"):
        trials_of_averages(np.ones((2, 2)), 3)
