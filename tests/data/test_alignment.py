import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

import brainenc
from brainenc import metrics, model_selection
from brainenc.data import alignment, held_out_ridge
from brainenc.data.alignment import check_alignment
from brainenc.data.cheap_features import cheap_features
from brainenc.data.encoding_data import EncodingData
from brainenc.data.npz import load_npz


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(240, 100, image_size=48)


def with_betas(data, betas):
    return dataclasses.replace(data, betas=betas, trials=None)


# ------------------------------------------------------------------ what it finds


def test_a_simulated_subject_is_aligned(data):
    found = data.check()
    assert found.verdict == "aligned"
    assert found.p == 1 / 201  # better than each of 200 permutations
    assert found.null.shape == (200,)
    assert found.r > found.null.max()
    assert max(found.shifted.values()) < found.r / 2


def test_shuffled_images_are_warned_of(data):
    order = np.random.default_rng(0).permutation(data.n_images)
    shuffled = dataclasses.replace(data, images=data.images[order])
    with pytest.warns(UserWarning, match="'simulated' do not seem to belong together"):
        found = shuffled.check()
    assert found.verdict == "misaligned"
    assert found.r < found.expected
    # Nothing is left: within four s.d. of permuted images.
    assert abs(found.r - found.null.mean()) < 4 * found.null.std()


@pytest.mark.parametrize(("shift", "way"), [(1, "next"), (-1, "previous")])
def test_rows_shifted_by_one_are_warned_of_with_a_hint(data, shift, way):
    """Betas that moved one row down belong to the row before theirs: image i fits row i + 1."""
    moved = with_betas(data, np.roll(data.betas, shift, axis=0))
    with pytest.warns(
        UserWarning, match=f"with the betas of the {way} row r = 0.[23].* off by one"
    ):
        found = moved.check()
    assert found.verdict == "shifted"
    # The same images and betas meet again, but for the row that went round.
    assert abs(found.shifted[shift] - data.check().r) < 0.03


def test_a_shift_is_seen_where_neighbours_are_alike(data):
    """Frames of a film: the wrong neighbour does far better than a permutation, too."""
    betas = data.betas.copy()
    betas[:-1] += 0.7 * np.nan_to_num(data.betas[1:] - np.nanmean(data.betas, axis=(0, 1)))
    assert with_betas(data, betas).check().verdict == "aligned"
    with pytest.warns(UserWarning, match="next row"):
        found = with_betas(data, np.roll(betas, 1, axis=0)).check()
    assert found.p < 0.05
    assert found.verdict == "shifted"


@pytest.mark.parametrize("name", ["miyawaki2008_s1_v1.npz", "cowley2023_v4_210325.npz"])
def test_real_data_are_aligned(real_data, name):
    assert load_npz(real_data(name)).check().verdict == "aligned"


def test_shuffled_real_data_are_not(real_data):
    data = load_npz(real_data("cowley2023_v4_210325.npz")).select(images=range(300))
    order = np.random.default_rng(0).permutation(data.n_images)
    with pytest.warns(UserWarning, match="do not seem to belong together"):
        assert with_betas(data, data.betas[order]).check().verdict == "misaligned"


# ------------------------------------------------------------------ no false alarms


@pytest.fixture(scope="module")
def features(data):
    return cheap_features(data.images)


def alarms(images, betas_of, n_sets):
    """How many data sets are called misaligned or shifted."""
    found = [
        check_alignment(
            images,
            betas_of(np.random.default_rng(seed)),
            n_permutations=40,
            random_state=seed,
        )
        for seed in range(n_sets)
    ]
    return sum(each.suspicious for each in found)


def test_noise_raises_no_alarm(data):
    """Noise with correlated voxels. 30 sets without an alarm bound the rate at 10 % (95 %)."""

    def noise(rng):
        return rng.standard_normal((60, 3, 20)) + rng.standard_normal((60, 3, 1))

    assert alarms(data.images[:60], noise, 30) == 0


def test_weak_features_raise_no_alarm(data, features):
    """Reliable voxels of which the features explain a sixth: hard to see in 60 images."""

    def weak(rng):
        explained = features[:60] @ rng.standard_normal((features.shape[1], 20))
        other = rng.standard_normal((60, 20))
        signal = explained / explained.std(axis=0) + np.sqrt(5) * other
        return signal[:, None] + rng.standard_normal((60, 2, 20))

    assert alarms(data.images[:60], weak, 30) <= 1  # fewer than one in 40 is the rate built in


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.select(images=range(15)), "too few images to tell: 15, where 20"),
        (
            lambda data: dataclasses.replace(data, images=np.full_like(data.images, 7)),
            "all images look the same",
        ),
        # There are repeats: it is signal that is wanting.
        (lambda data: with_betas(data, np.zeros_like(data.betas)), "betas with signal in them"),
    ],
)
def test_nothing_to_go_by_is_said_and_not_warned_of(data, change, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = change(data).check()
    assert found.verdict == "unknown"
    assert reason in found.message
    assert np.isnan(found.r)


def test_without_repeats_ncsnr_tells_what_is_reliable(data):
    noise = np.random.default_rng(0).standard_normal(data.truth.signal.shape)
    betas = data.truth.signal + 0.5 * data.truth.signal.std(axis=0) * noise
    single = EncodingData(data.images, betas, data.voxels.assign(ncsnr=2.0))
    assert single.check().verdict == "aligned"
    order = np.random.default_rng(0).permutation(data.n_images)
    with pytest.warns(UserWarning, match="belong together"):
        with_betas(single, betas[order]).check()
    said_to_be_noise = data.voxels.assign(ncsnr=0.1)
    found = EncodingData(data.images, betas[order], said_to_be_noise).check()
    assert found.verdict == "unknown"


def test_without_repeats_and_ncsnr_the_order_is_tested(data):
    """Whether permuted betas are reliable is unknown, but they have to be related to images."""
    single = with_betas(data, data.betas[:, :1])
    found = single.check()
    assert found.verdict == "aligned"
    assert np.isnan(found.expected)
    with pytest.warns(UserWarning, match="next row r = 0.[12].* off by one"):
        assert with_betas(data, np.roll(data.betas[:, :1], 1, axis=0)).check().verdict == "shifted"
    with pytest.warns(UserWarning, match="previous row but one r = 0.[12]"):
        assert with_betas(data, np.roll(data.betas[:, :1], -2, axis=0)).check().suspicious
    order = np.random.default_rng(0).permutation(data.n_images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = with_betas(data, data.betas[order, :1]).check()
    assert found.verdict == "unknown"
    assert "20 images with repeats, or ncsnr" in found.message


def test_images_without_trials_and_voxels_without_data_are_passed_over(data):
    betas = data.betas.copy()
    betas[::7] = np.nan
    betas[:, :, :10] = np.nan
    betas[:, :, 10] = 3
    found = with_betas(data, betas).check()
    assert found.verdict == "aligned"
    assert np.isfinite(found.null).all()


def test_a_seed_repeats_it_and_a_subset_is_enough(data):
    ours, theirs = (
        check_alignment(data.images, data.betas, n_images=120, random_state=3) for _ in range(2)
    )
    assert ours.r == theirs.r
    np.testing.assert_array_equal(ours.null, theirs.null)
    assert ours.verdict == "aligned"
    with pytest.raises(ValueError, match="n_images=0"):
        data.check(n_images=0)


def test_of_a_data_object_the_arrays_and_tables_are_checked(data):
    """Rows without trials, ncsnr and trial counts come from the tables of `EncodingData`."""
    noise = np.random.default_rng(0).standard_normal(data.truth.signal.shape)
    averages = data.truth.signal + 0.5 * data.truth.signal.std(axis=0) * noise
    averages[::9] = np.nan
    here = np.flatnonzero(np.arange(data.n_images) % 9)
    ncsnr = np.random.default_rng(1).uniform(0.1, 0.5, data.n_voxels)
    trials = pd.DataFrame({"image": here, "repeat": 0, "n_averaged": 1 + here % 3})
    whole = EncodingData(data.images, averages, pd.DataFrame({"ncsnr": ncsnr}), trials, "s1")
    known = {"ncsnr": ncsnr, "n_averaged": 1 + here % 3, "name": "s1"}
    expected = whole.check(random_state=2)
    assert expected.verdict == "aligned"
    for rows in (None, here):
        found = check_alignment(data.images, averages, rows=rows, **known, random_state=2)
        np.testing.assert_array_equal(found.null, expected.null)
        assert (found.r, found.expected, found.message) == (
            expected.r,
            expected.expected,
            expected.message,
        )
    # What is planted depends on the reliability of the averages, which so many trials make.
    single = check_alignment(data.images, averages, ncsnr=ncsnr, random_state=2)
    assert single.r == expected.r
    assert single.expected < expected.expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ncsnr": np.ones(99)}, r"ncsnr \(99,\) must have one value for each of the 100 voxels"),
        ({"n_permutations": 0}, "n_permutations=0"),
    ],
)
def test_what_does_not_fit_is_refused(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        check_alignment(data.images, data.betas, **arguments)
    with pytest.raises(ValueError, match="has 240 rows, but there are 239 images"):
        check_alignment(data.images[1:], data.betas)


# ------------------------------------------------------------------ its parts


def test_scores_are_those_of_ridge_in_cross_validation(features):
    """Oracle: scikit-learn's Ridge on the features, fold by fold, responses centred by hand."""
    rng = np.random.default_rng(1)
    responses = (features @ rng.standard_normal((features.shape[1], 4))).astype(np.float32)
    responses += 2 * rng.standard_normal(responses.shape).astype(np.float32)
    tested = held_out_ridge.ridge_folds(len(features), np.random.default_rng(5))
    smoothers = held_out_ridge.ridge_smoothers(features, tested)
    folds = model_selection.image_folds(5, len(features), random_state=np.random.default_rng(5))
    scores = []
    for smoother, alpha in zip(smoothers, held_out_ridge.ALPHAS, strict=True):
        expected = np.zeros_like(responses)
        for train, test in folds:
            centred = responses[train] - responses[train].mean(axis=0)
            model = Ridge(alpha, fit_intercept=False).fit(features[train], centred)
            expected[test] = model.predict(features[test])
        # float32 eigenvectors of a matrix of 192: 1e-3 of the predictions' size.
        np.testing.assert_allclose(smoother @ responses, expected, atol=1e-3 * expected.std())
        scores.append(
            [np.corrcoef(e, r)[0, 1] for e, r in zip(expected.T, responses.T, strict=True)]
        )
    centred = responses - responses.mean(axis=0)
    best = np.mean(scores, axis=1).max()
    assert abs(held_out_ridge.held_out_score(smoothers, centred) - best) < 1e-3


def test_the_reliability_of_averages_is_that_of_so_many_trials(data):
    betas = np.random.default_rng(0).standard_normal((data.n_images, 30))
    ncsnr = np.linspace(0.2, 0.5, 30)
    rows = np.arange(data.n_images)
    voxels, share = alignment._reliable_voxels(
        betas[:, None], rows, np.random.default_rng(0), ncsnr, n_averaged=4
    )
    assert sorted(voxels) == list(range(15, 30))  # half of the voxels
    # Allen et al. (2022): ncsnr² / (ncsnr² + 1 / n).
    assert share == pytest.approx(np.mean(ncsnr[15:] ** 2 / (ncsnr[15:] ** 2 + 1 / 4)))


def test_chosen_voxels_do_not_look_better_than_they_are(data):
    """Of pure noise, those most reliable in one half are nothing special in the other."""
    shares = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((80, 3, 1000))
        shares.append(alignment._reliable_voxels(noise, np.arange(80), rng)[1])
    ceiling = metrics.noise_ceiling_from_repeats(rng.standard_normal((40, 3, 4000))).values
    # Means over 500 voxels whose s.d. is .12: s.e. .006. Chosen by both halves they have .17 more.
    assert np.mean(shares) == pytest.approx(ceiling.mean(), abs=0.025)


def test_features_see_luminance_colour_and_contrast(data, features):
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.square(features).sum(axis=1).mean(), 1, rtol=1e-4)
    rng = np.random.default_rng(0)
    luminance = np.broadcast_to(rng.integers(0, 256, (30, 1, 1), dtype=np.uint8), (30, 20, 20))
    # Kinds that do not vary (no edges, no colour) leave the whole variance to luminance.
    assert cheap_features(luminance).shape == (30, 16 * 16)
    np.testing.assert_allclose(
        np.abs(np.corrcoef(cheap_features(luminance)[:, 0], luminance[:, 0, 0])[0, 1]), 1, rtol=1e-5
    )
    colour = np.array([[200, 0, 0], [0, 102, 0]], np.uint8)[rng.integers(0, 2, 30)]  # equal grey
    colour = np.broadcast_to(colour[:, None, None], (30, 20, 20, 3))
    assert cheap_features(colour).shape[1] in (2 * 8 * 8, 16 * 16 + 2 * 8 * 8)
