"""consistency: maps of a simulated subject against its truth, ceilings, and nulls."""

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.analysis.consistency import IMAGES, TRIALS
from brainenc.analysis.contrasts import (
    Responses,
    image_halves,
    map_noise,
    noise_ratio,
    permutations_within,
    reliability,
    trial_halves,
)
from brainenc.repeats import average_repeats


@pytest.fixture(scope="module")
def table(subject):
    data = subject.data
    signal = data.truth.signal
    rng = np.random.default_rng(0)
    noisy = signal[:, None] + data.truth.noise_sd * rng.standard_normal((1000, 2, 150))
    return brainenc.consistency(
        data.betas,
        subject.categories,
        others={
            "signal": signal,
            "noisy": noisy,
            "images permuted": rng.permutation(signal),
        },
        rois=data.voxels["roi"],
    )


def rows_of(table, comparison):
    return table[table["comparison"] == comparison].set_index("category")


def test_the_true_signal_is_at_the_ceiling(table):
    rows = rows_of(table, "signal")
    # Halves of 150 voxels and 1000 images: the ceiling is known to a few percent.
    np.testing.assert_allclose(rows["r_normalized"], 1, atol=0.06)
    noisy = rows_of(table, "noisy")
    np.testing.assert_allclose(noisy["r_normalized"], 1, atol=0.08)
    assert (noisy["r"] < rows["r"]).all()
    assert (noisy["ceiling"] < rows["ceiling"]).all()


def test_halves_are_below_the_whole_and_above_other_categories(table):
    for comparison in (TRIALS, IMAGES):
        rows = rows_of(table, comparison)
        assert (rows["r"] > rows["other_categories_max"]).all()
        assert (rows["r"] > rows["labels_permuted"]).all()
        assert (rows[["p", "p_within_rois"]] < 0.05).all(axis=None)
        assert (rows["r"] < rows_of(table, "signal")["r"]).all()
        assert rows[["ceiling", "r_normalized"]].isna().all(axis=None)
        assert (rows["dice"] > rows["dice_chance"]).all()
    assert (table["dice_chance"] == 0.1).all()


def test_raw_activation_maps_agree_between_any_two_categories(table):
    rows = rows_of(table, TRIALS)
    assert (rows["activation_other"] > 0.9).all()
    assert (rows["other_categories"] < 0.1).all()


def test_permuted_images_have_no_category(table):
    rows = rows_of(table, "images permuted")
    assert rows["p"].min() > 0.01  # of five
    assert rows["p"].mean() > 0.2
    assert (rows["dice"] < 0.5).all()


def test_p_of_permutation_within_rois_is_of_more_than_their_means():
    """A map that is the same in all voxels of an ROI, and noise: nothing beyond the ROI's mean."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 300)
    rois = np.repeat(np.arange(6), 20)
    signal = np.where(labels[:, None] == "a", 1.0, 0.0) * (rois - 2.5)
    betas = signal[:, None] + 3 * rng.standard_normal((600, 2, 120))
    options = {"n_splits": 5, "n_permutations": 200}
    within = brainenc.consistency(betas, labels, rois=rois.astype(str), **options)
    anywhere = brainenc.consistency(betas, labels, **options)
    trials = rows_of(within, TRIALS)
    assert (trials["r"] > 0.8).all()
    assert (trials["p_within_rois"] > 0.05).all()
    assert (trials["p"] < 0.01).all()
    assert (rows_of(anywhere, TRIALS)["p_within_rois"] < 0.01).all()


def test_p_of_noise_is_uniform():
    """Noise that voxels share in two factors: maps of noise are smooth, and often alike."""
    labels = np.repeat(["a", "b"], 50)
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        betas = rng.standard_normal((100, 2, 2)) @ rng.standard_normal((2, 40))
        table = brainenc.consistency(
            betas + 0.2 * rng.standard_normal(betas.shape), labels, n_splits=1, n_permutations=99
        )
        p.append(rows_of(table, TRIALS)["p"]["a"])
    # Uniform: mean .5 with an s.e. of .046; p < .05 in 2 of 40 (8 or more: 1 in 1600).
    assert abs(np.mean(p) - 0.5) < 0.19
    assert np.sum(np.array(p) < 0.05) < 8


def test_contrast_is_that_of_means(subject):
    averages = average_repeats(subject.betas)[:200].astype(float)
    labels = subject.categories[:200] == "face"
    averages[3, 5] = np.nan
    found = Responses(averages).contrasts(labels[:, None])[0]
    expected = np.nanmean(averages[labels], axis=0) - np.nanmean(averages[~labels], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_contrast_is_that_of_localize(subject):
    images = subject.tokens[:200]
    faces = subject.categories[:200] == "face"
    effect = brainenc.localize(subject.encoder, images, faces, min_effect=0).effect
    predictions = subject.encoder.predict(images)
    found = Responses(predictions).contrasts(faces[:, None])[0]
    # But for the unit, which is the same for all categories.
    unit = found / effect
    places = subject.categories[:200] == "place"
    effect = brainenc.localize(subject.encoder, images, places, min_effect=0).effect
    other = Responses(predictions).contrasts(places[:, None])[0]
    np.testing.assert_allclose(other / effect, unit, rtol=1e-4)


def test_halves_of_trials_are_disjoint_and_equal():
    rng = np.random.default_rng(0)
    betas = 2.0 ** np.arange(5)[None, :, None] * np.ones((40, 5, 2))
    betas[0, 1:] = np.nan  # one trial
    betas[1, 2:] = np.nan  # two
    a, b = trial_halves(betas, rng)
    assert np.isnan(a[0]).all()
    assert np.isnan(b[0]).all()
    assert sorted([a[1, 0], b[1, 0]]) == [1, 2]
    for x, y in zip(a[2:, 0], b[2:, 0], strict=True):
        sums = [f"{round(2 * total):05b}" for total in (x, y)]
        assert [bits.count("1") for bits in sums] == [2, 2]
        assert round(2 * x) & round(2 * y) == 0
    # Halves of 2 of 5 trials, and of 1 of 2: (38/2 + 1) / (38/5 + 1/2) times the noise.
    assert noise_ratio(betas) == pytest.approx((38 / 2 + 1) / (38 / 5 + 1 / 2))


def test_halves_of_images_have_half_of_each_category():
    labels = np.repeat(np.eye(3, dtype=bool), [20, 11, 40], axis=0)
    first = image_halves(labels, np.random.default_rng(0))
    assert (np.abs(2 * labels[first].sum(axis=0) - labels.sum(axis=0)) <= 1).all()


def test_reliability_is_spearman_brown_for_halves():
    assert reliability(0.5, 2.0) == pytest.approx(2 * 0.5 / 1.5)
    assert np.isnan(reliability(-0.1, 2.0))


def test_permutations_stay_within_groups():
    groups = np.array([1, 0, 1, 0, 2, 1])
    orders = permutations_within(groups, 50, np.random.default_rng(0))
    assert (groups[orders] == groups).all()
    assert len({tuple(order) for order in orders}) > 8  # of 12


def test_images_without_a_label_and_voxels_without_data_are_left_out(subject):
    betas = subject.betas[:300].copy()
    labels = subject.categories[:300].astype(object)
    labels[::7] = None
    betas[:, :, 4] = np.nan
    betas[::7] = 1e6
    table = brainenc.consistency(betas, labels, n_splits=2, n_permutations=9)
    assert (table["n_voxels"] == 149).all()
    kept = np.array([label is not None for label in labels])
    clean = brainenc.consistency(betas[kept], labels[kept], n_splits=2, n_permutations=9)
    found, expected = (rows_of(t, TRIALS)["r"] for t in (table, clean))
    np.testing.assert_allclose(found, expected, atol=0.1)  # other halves


def test_without_repeats_there_is_no_ceiling(subject):
    averages = average_repeats(subject.betas)
    table = brainenc.consistency(
        averages, subject.categories, others={"a": averages}, n_splits=2, n_permutations=9
    )
    assert set(table["comparison"]) == {IMAGES, "a"}
    assert table["ceiling"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": ["a"] * 40}, "categories has 0"),
        ({"categories": ["a", "b"] * 10}, "20 rows, but there are 40 images"),
        ({"categories": np.full((40, 2), 0.5)}, "0 or 1"),
        ({"top": 10}, "share of voxels"),
        ({"n_splits": 0}, "must be >= 1"),
        ({"others": {"a": np.zeros((40, 5))}}, "images and voxels"),
        ({"others": {"a": np.ones((3, 40, 6))}}, "moveaxis"),
        ({"others": {TRIALS: np.zeros((40, 6))}}, "always made"),
        ({"rois": ["V1"] * 5}, "5 labels for 6 voxels"),
    ],
)
def test_refused(change, message):
    betas = np.random.default_rng(0).standard_normal((40, 2, 6))
    arguments = {"categories": ["a", "b"] * 20, **change}
    with pytest.raises(ValueError, match=message):
        brainenc.consistency(betas, **arguments)


@pytest.fixture(scope="module")
def subjects():
    data = brainenc.datasets.simulate_subjects(3, n_images=300, n_voxels=100, random_state=0)
    return {
        name: (own.betas, own.truth.category, own.voxels["roi"])
        for name, own in zip("abc", data, strict=True)
    }


def test_rois_of_subjects_agree_on_categories(subjects):
    table = brainenc.analysis.consistency_across_subjects(subjects)
    assert len(table) == 3 * 5
    high = table[table["category"].isin(["face", "place", "body"])]
    assert (high["r"] > high["other_categories_max"]).all()
    assert (high["r"] > 0.85).all()
    assert (high["p"] < 0.06).all()
    assert (table["n_units"] == 10).all()
    # What subjects share is all of the signal here: the ceiling is reached, within its error.
    np.testing.assert_allclose(table["r_normalized"], 1, atol=0.2)


def test_a_subject_whose_labels_are_permuted_agrees_with_none(subjects):
    betas, labels, rois = subjects["b"]
    p = []
    for seed in range(6):
        permuted = np.random.default_rng(seed).permutation(labels)
        given = {"a": subjects["a"], "b": (betas, permuted, rois)}
        table = brainenc.analysis.consistency_across_subjects(given, n_permutations=99, n_splits=1)
        p += table["p"].tolist()
    # 30 p of which the five of a seed are dependent: the s.e. of the mean is at most .12.
    assert abs(np.mean(p) - 0.5) < 0.3
    assert np.min(p) < 0.5 < np.max(p)


def test_vertices_of_a_common_surface(subjects):
    betas, labels, _ = subjects["a"]
    a, b = trial_halves(betas, np.random.default_rng(0))
    table = brainenc.analysis.consistency_across_subjects(
        {"a": (a, labels, None), "b": (b, labels, None)}, n_permutations=99
    )
    assert (table["n_units"] == 100).all()
    assert (table["r"] > table["labels_permuted"]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda a, b: {"a": a}, "two or more"),
        (lambda a, b: {"a": a, "b": b[:2]}, "must be .betas, categories, rois"),
        (lambda a, b: {"a": a, "b": (*b[:2], None)}, "for some only"),
        (lambda a, b: {"a": a, "b": (*b[:2], ["x"] * 100)}, "0 common ROIs"),
        (lambda a, b: {"a": a, "b": (*b[:2], ["x"] * 9)}, "9 labels for 100"),
        (lambda a, b: {"a": a, "b": (b[0], ["x"] * 300, b[2])}, "0 common categories"),
        (lambda a, b: {"a": (*a[:2], None), "b": (b[0][..., :9], b[1], None)}, "common surface"),
    ],
)
def test_subjects_refused(subjects, given, message):
    with pytest.raises(ValueError, match=message):
        brainenc.analysis.consistency_across_subjects(given(subjects["a"], subjects["b"]))


def test_others_must_have_names(subject):
    with pytest.raises(TypeError, match="dict of name"):
        brainenc.consistency(subject.betas, subject.categories, others=subject.betas)


def false_positives(tables, column="p"):
    p = pd.concat(table[table["category"] == "a"] for table in tables)
    return (p.set_index("comparison")[column] <= 0.05).groupby(level=0).sum()


def test_images_that_differ_are_no_evidence_of_categories():
    """Random labels: any contrast of the same images agrees, within ROIs too."""
    tables = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        signal = rng.standard_normal((80, 40))
        betas = signal[:, None] + rng.standard_normal((80, 2, 40))
        labels = rng.permutation(np.repeat(["a", "b"], 40))
        others = {
            "predicted": signal + 0.5 * rng.standard_normal(signal.shape),
            "images permuted": rng.permutation(signal),
        }
        tables.append(
            brainenc.consistency(
                betas, labels, others=others, rois=list("vwxy") * 10, n_splits=1, n_permutations=39
            )
        )
    for column in ("p", "p_within_rois"):
        found = false_positives(tables, column)
        assert len(found) == 4
        # 3 of 60 expected; 11 or more once in 8000. With labels of one side permuted it is 58.
        assert (found < 11).all()


def test_p_within_rois_finds_a_category_that_their_means_do_not_show():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 60)
    rois = np.repeat(list("vwxy"), 10)
    within = np.tile([1.0, -1.0], 20)  # no ROI has a mean
    betas = 0.5 * (labels == "a")[:, None, None] * within + rng.standard_normal((120, 2, 40))
    table = brainenc.consistency(betas, labels, rois=rois, n_splits=2, n_permutations=99)
    assert (table["p_within_rois"] < 0.05).all()


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_ceiling_is_of_all_images_also_if_few_have_repeats(share):
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels = np.repeat(["a", "b"], 80)
        signal = 0.3 * (labels == "a")[:, None] * rng.standard_normal(80)
        signal = signal + 0.3 * rng.standard_normal((160, 80))
        betas = signal[:, None] + 1.5 * rng.standard_normal((160, 2, 80))
        betas[rng.permutation(160)[: round((1 - share) * 160)], 1] = np.nan
        table = brainenc.consistency(
            betas, labels, others={"truth": signal}, n_splits=5, n_permutations=1
        )
        found.append(rows_of(table, "truth").loc["a", ["r", "ceiling"]].astype(float))
    r, ceiling = np.mean(found, axis=0)
    # The truth is at its ceiling. That of the images with repeats alone is .8 of it, or less.
    assert r / ceiling == pytest.approx(1, abs=0.05)


def test_noise_of_a_map_is_that_of_its_trials():
    rng = np.random.default_rng(0)
    n_trials = rng.integers(0, 4, 30)
    categories = rng.random((30, 2)) < 0.4
    noise = rng.standard_normal((20_000, 30, 3))
    there = np.arange(3) < n_trials[:, None]
    averages = average_repeats(np.where(there, noise, np.nan).transpose(1, 2, 0))
    simulated = Responses(averages).contrasts(categories).var(axis=1)
    # s.e. of a variance of 20 000 values: 1 %.
    np.testing.assert_allclose(map_noise(n_trials, categories), simulated, rtol=0.04)


def test_random_state_may_be_none_or_a_generator():
    rng = np.random.default_rng(0)
    betas, labels = rng.standard_normal((40, 2, 6)), ["a", "b"] * 20
    options = {"n_splits": 1, "n_permutations": 3}
    drawn = [
        brainenc.consistency(betas, labels, random_state=None, **options)["r"] for _ in range(2)
    ]
    assert not np.allclose(*drawn)
    seeded = [
        brainenc.consistency(betas, labels, random_state=np.random.default_rng(1), **options)
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*seeded)


def pairs_of_subjects(n_subjects=60):
    """Two subjects who saw the same images, with labels that mean nothing."""
    for seed in range(n_subjects):
        rng = np.random.default_rng(seed)
        signal = rng.standard_normal((60, 8))
        labels = rng.permutation(np.repeat(["a", "b"], 30))
        one, two = signal + rng.standard_normal((2, 60, 8))
        yield rng, labels, one, two


@pytest.mark.parametrize("with_ids", [False, True])
def test_subjects_who_saw_the_same_images_agree_on_any_division(with_ids):
    p = []
    for rng, labels, one, two in pairs_of_subjects():
        ids, rois = None, list("abcdefgh")
        order = np.arange(60)
        if with_ids:  # in another order, and each with images of its own
            order = rng.permutation(60)
            ids = {"1": np.arange(60), "2": np.append(order[:55], [90, 91, 92, 93, 94])}
        given = {"1": (one, labels, rois), "2": (two[order], labels[order], rois)}
        table = brainenc.analysis.consistency_across_subjects(
            given, image_ids=ids, n_splits=1, n_permutations=39
        )
        assert (table["n_shared"] == (55 if with_ids else 60)).all()
        p.append(table["p"].iloc[0])
    # 3 of 60 expected; 11 or more once in 8000. With labels of one subject permuted it is 17.
    assert np.sum(np.array(p) <= 0.05) < 11


def test_ids_of_images_that_do_not_fit_are_refused():
    _, labels, one, two = next(pairs_of_subjects(1))
    given = {"1": (one, labels, list("abcdefgh")), "2": (two, labels, list("abcdefgh"))}
    every = np.arange(60)
    for ids, message in (
        ({"1": every}, "every subject"),
        ({"1": every, "2": every[1:]}, r"image_ids\['2'\] has 59 ids for 60"),
        ({"1": every, "2": np.append(every[1:], 5)}, "has '5' twice"),
        ({"1": every, "2": [None, *every[1:]]}, "lacks ids"),
        ({"1": every, "2": np.roll(every, 1)}, "labels of an image must agree"),
    ):
        with pytest.raises(ValueError, match=message):
            brainenc.analysis.consistency_across_subjects(given, image_ids=ids)
