"""Parts of the data that do not belong to their images, by simulated subjects with known faults."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.data import misaligned_parts
from brainenc.data.matching import low_groups, match_scores, misplaced_share


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(400, 100, image_size=48, n_sessions=8)


def trials_exchanged(data, chosen, seed=0):
    """The data with chosen trials in a random order."""
    image, repeat = (data.trials[key].to_numpy()[chosen] for key in ("image", "repeat"))
    order = np.random.default_rng(seed).permutation(len(image))
    betas = data.betas.copy()
    betas[image, repeat] = data.betas[image[order], repeat[order]]
    return dataclasses.replace(data, betas=betas)


def parts(data):
    with pytest.warns(UserWarning, match="part of the images and betas of 'simulated' do not seem"):
        found = data.check()
    assert found.verdict == "partly misaligned"
    assert found.suspicious
    return found.parts


# ------------------------------------------------------------------ rows


def test_half_of_the_rows_shifted_by_one_are_named(data):
    """Row 200 got the betas of row 399, so that image i fits row i + 1 from 200 on."""
    shifted = np.arange(400)
    shifted[200:] = np.roll(shifted[200:], 1)
    wrong = dataclasses.replace(data, betas=data.betas[shifted], trials=None)
    with pytest.warns(UserWarning, match=r"rows 200–399 \(score (0.9|1).* of the next row, -?0"):
        assert wrong.check().parts == ("rows 200–399",)


def test_permuted_rows_of_a_block_are_named(data):
    order = np.arange(400)
    order[100:200] = np.random.default_rng(0).permutation(order[100:200])
    wrong = dataclasses.replace(data, betas=data.betas[order], trials=None)
    assert parts(wrong) == ("rows 100–199",)


def test_permuted_rows_at_random_places_are_counted(data):
    rng = np.random.default_rng(0)
    some = rng.choice(400, 100, replace=False)
    order = np.arange(400)
    order[some] = np.roll(some, 1)
    wrong = dataclasses.replace(data, betas=data.betas[order], trials=None)
    (name,) = parts(wrong)
    share = int(name.removeprefix("about ").removesuffix(" % of the rows"))
    assert 15 <= share <= 35  # the standard error of a share of 25 % of 400 is 3 % or more


# ------------------------------------------------------------------ trials


def test_a_session_with_other_images_is_named(data):
    wrong = trials_exchanged(data, (data.trials["session"] == 7).to_numpy())
    assert parts(wrong) == ("session 7",)


def test_a_session_whose_trials_moved_by_one_is_named(data):
    """In the order of presentation, as when a dummy trial was not removed."""
    rows = np.flatnonzero((data.trials["session"] == 3).to_numpy())
    image, repeat = (data.trials[key].to_numpy()[rows] for key in ("image", "repeat"))
    betas = data.betas.copy()
    betas[image, repeat] = np.roll(data.betas[image, repeat], 1, axis=0)
    assert parts(dataclasses.replace(data, betas=betas)) == ("session 3",)


def test_a_repeat_with_other_images_is_named(data):
    wrong = trials_exchanged(data, (data.trials["repeat"] == 1).to_numpy())
    assert parts(wrong) == ("repeat 1",)


def test_of_two_repeats_features_say_which_one_is_wrong(data):
    """Two repeats do not agree, whichever of them is wrong."""
    two = dataclasses.replace(data, betas=data.betas[:, :2], trials=None)
    wrong = trials_exchanged(two, (two.trials["repeat"] == 1).to_numpy())
    assert parts(wrong) == ("repeat 1",)


def test_trials_at_random_places_are_counted(data):
    rng = np.random.default_rng(1)
    wrong = trials_exchanged(data, rng.random(len(data.trials)) < 0.15)
    (name,) = [name for name in parts(wrong) if name.endswith("trials")]
    assert 8 <= int(name.removeprefix("about ").removesuffix(" % of the trials")) <= 30


def test_blocks_of_trials_are_found_without_sessions(data):
    table = data.trials.sort_values(["session", "run"]).reset_index(drop=True)
    table["trial"] = np.arange(len(table))
    plain = dataclasses.replace(data, trials=table[["image", "repeat", "trial"]])
    first, last = len(table) // 4, len(table) // 2
    wrong = trials_exchanged(plain, table["trial"].between(first, last - 1).to_numpy())
    (name,) = parts(wrong)
    ends = [int(end) for end in name.removeprefix("trials ").split("–")]
    np.testing.assert_allclose(ends, [first, last], atol=len(table) / 16)


def test_a_weak_session_is_not_a_wrong_one(data):
    """Half the response and the same noise in session 2."""
    where = data.trials[data.trials["session"] == 2]
    index = where["image"].to_numpy(), where["repeat"].to_numpy()
    betas = data.betas.copy()
    betas[index] -= 0.3 * (data.truth.signal - data.truth.signal.mean(axis=0))[index[0]]
    assert dataclasses.replace(data, betas=betas).check().verdict == "aligned"


def test_voxels_outside_some_sessions_are_not_misaligned(data):
    where = data.trials[data.trials["session"] == 2]
    betas = data.betas.copy()
    betas[where["image"], where["repeat"], :60] = np.nan
    assert dataclasses.replace(data, betas=betas).check().verdict == "aligned"


@pytest.mark.parametrize("name", ["miyawaki2008_s1_v1.npz", "cowley2023_v4_210325.npz"])
def test_a_repeat_of_real_data_is_named(real_data, name):
    data = brainenc.load_npz(real_data(name))
    assert data.check().verdict == "aligned"
    wrong = trials_exchanged(data, (data.trials["repeat"] == 2).to_numpy())
    with pytest.warns(UserWarning, match="repeat 2"):
        assert wrong.check().parts == ("repeat 2",)


@pytest.mark.slow
def test_ten_repeats_of_a_public_recording_belong_to_other_images(real_data):
    """Hénaff et al.: r of the averages of the first 40 and last 10 repeats is 0 in every neuron."""
    with pytest.warns(UserWarning, match="'movie', 'category'"):  # arrays that are not read
        data = brainenc.load_npz(real_data("henaff2021_v1_ay3_u001.npz"))
    first, second, last = (
        np.nanmean(data.betas[:, some], axis=1)
        for some in (slice(0, 20), slice(20, 40), slice(40, 50))
    )
    agreement = [
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, y.T, strict=True)])
        for x, y in ((first, second), (first, last))
    ]
    assert agreement[0] > 0.6
    assert abs(agreement[1]) < 0.1
    with pytest.warns(UserWarning, match="repeat 40"):
        found = data.check()
    assert found.parts == tuple(f"repeat {k}" for k in range(40, 50))
    kept = brainenc.EncodingData(data.images, data.betas[:, :40], data.voxels)
    assert kept.check().verdict == "aligned"


# ------------------------------------------------------------------ scores


def test_scores_of_wrong_pairs_have_mean_0_and_sd_1():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 30))
    patterns = signal + rng.standard_normal((1000, 30))
    folds = np.array_split(np.arange(1000), 5)
    image = np.arange(1000)
    right = match_scores(signal, patterns, patterns - signal, image, folds)
    order = rng.permutation(1000)
    wrong = match_scores(signal, patterns[order], patterns[order], image, folds)
    # Standard errors of mean and s.d. of 1000 scores: .03 and .02; allow four.
    assert abs(wrong.mean()) < 0.13
    assert abs(wrong.std() - 1) < 0.1
    assert right.mean() > 1.5


def test_scores_are_whitened_products_in_sds_of_others():
    """Oracle: one score by hand, with the covariance of the other folds."""
    rng = np.random.default_rng(0)
    templates, patterns, residuals = rng.standard_normal((3, 60, 4))
    folds = [np.arange(20), np.arange(20, 60)]
    scores = match_scores(templates, patterns, residuals, np.arange(60), folds)
    covariance = residuals[20:].T @ residuals[20:] / 40
    covariance += 0.3 * np.trace(covariance) / 4 * np.eye(4)
    products = patterns[:20] @ np.linalg.inv(covariance) @ templates[5]
    others = np.delete(products, 5)
    expected = (products[5] - others.mean()) / others.std(ddof=1)
    assert scores[5] == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_the_share_of_wrong_patterns_is_estimated(share):
    rng = np.random.default_rng(0)
    n_wrong = round(2000 * share)
    scores = np.concatenate([rng.standard_normal(n_wrong), rng.normal(2, 0.9, 2000 - n_wrong)])
    found = misplaced_share(scores, np.arange(2000))
    assert found.credible == (share > 0)
    assert found.value == pytest.approx(share, abs=0.06)
    # Forty equal copies are no more evidence than one.
    few = misplaced_share(np.repeat(scores[::40], 40), np.repeat(np.arange(50), 40))
    assert not few.credible


def test_equal_groups_are_rarely_low():
    """1000 sets of 20 groups: the rate built in is 2 in 1000."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 30)
    groups = {f"{k}": labels == k for k in range(20)}
    alarms = sum(
        bool(low_groups(rng.normal(1.0, 1.0, 600), np.arange(600), groups)) for _ in range(1000)
    )
    assert alarms <= 6  # P(more | 2) is .005


def test_trials_keep_no_session_means_and_sizes(data):
    table = misaligned_parts.in_order(data.trials)
    patterns = misaligned_parts.session_centred(data.betas, table)
    of_session = pd.DataFrame(patterns).groupby(table["session"].to_numpy())
    np.testing.assert_allclose(of_session.mean(), 0, atol=1e-5)
    np.testing.assert_allclose((of_session.var(ddof=0).mean(axis=1)), 1, atol=1e-3)
