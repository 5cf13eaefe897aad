"""Near copies across folds are said, and kept in one fold when asked for."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut

import brainenc

FEW = {"n_bootstraps": 20, "n_permutations": 9, "n_draws": 0, "verbose": False, "check": False}
MEAN = {"mean": brainenc.MeanEncoder()}


@pytest.fixture(scope="module")
def scenes():
    return brainenc.datasets.simulate_subject(120, 20, random_state=0)


@pytest.fixture(scope="module")
def thrice(scenes):
    """Every trial an image of its own, the picture thrice, jittered by two grey levels."""
    picture = np.repeat(np.arange(40), 3)
    jitter = np.random.default_rng(0).integers(-2, 3, (120, *scenes.images.shape[1:]))
    images = np.clip(scenes.images[picture].astype(int) + jitter, 0, 255).astype(np.uint8)
    betas = scenes.betas[:40].reshape(120, 1, -1)
    return brainenc.EncodingData(images, np.nan_to_num(betas)), picture


def run(data, **options):
    return brainenc.benchmark(data, MEAN, **FEW | options)


def said(result):
    return [warning for warning in result.warnings if "near copy" in warning]


def sides(result_folds, groups):
    """Groups that are on both sides of a fold."""
    return [np.intersect1d(groups[train], groups[test]) for train, test in result_folds]


def test_trials_given_as_jittered_images_are_heard(thrice):
    data, picture = thrice
    folds = list(KFold(4, shuffle=True, random_state=1).split(data.images))
    (warning,) = said(run(data, cv=folds))
    n = sum(np.isin(picture[test], picture[train]).sum() for train, test in folds)
    assert warning.startswith(f"{n} of 120 test images have a near copy among the training images")
    assert "cv='similar'" in warning
    assert "from_trials" not in warning  # they are not identical


def test_copies_kept_in_one_fold_are_no_reason_to_warn(thrice):
    data, picture = thrice
    folds = list(GroupKFold(4).split(data.images, groups=picture))
    for options in ({"cv": folds}, {"cv": "similar"}, {"groups": "similar", "cv": 4}):
        assert said(run(data, **options)) == []


@pytest.mark.slow
def test_mirrored_copies_with_the_same_betas_are_heard_and_cured():
    data = brainenc.datasets.simulate_subject(100, 60, random_state=1)
    images = np.concatenate([data.images, data.images[:, :, ::-1]])
    both = brainenc.EncodingData(images, np.concatenate([data.betas, data.betas]))
    ridge = {"ridge": brainenc.RidgeEncoder(brainenc.GaborPyramid(verbose=False))}
    few = FEW | {"references": False}
    plain = brainenc.benchmark(both, ridge, **few)
    (warning,) = said(plain)
    assert "mirrored" in warning
    n_near = int(warning.split()[0])
    # A mirrored partner is in another of five folds with a chance of .8.
    assert abs(n_near - 160) < 4 * np.sqrt(2 * 100 * 0.8 * 0.2) * 2
    similar = brainenc.benchmark(both, ridge, cv="similar", **few)
    assert said(similar) == []
    by_hand = np.tile(np.arange(100), 2)
    grouped = brainenc.benchmark(both, ridge, groups=by_hand, **few)
    # Fewer than a tenth of the groups differ (corridors that are alike), and so do the scores.
    r = [result.encoders["r"].iloc[0] for result in (similar, grouped)]
    assert abs(r[0] - r[1]) < 0.05


@pytest.mark.slow
def test_frames_of_films_score_by_film_with_similar_folds(real_data):
    with np.load(real_data("henaff2021_v1_ay3_u001.npz")) as file:
        data = brainenc.EncodingData(file["images"], file["betas"])
        film = file["movie"] + 10 * (np.arange(440) >= 240)
    ridge = {"ridge": brainenc.RidgeEncoder(brainenc.GaborPyramid(verbose=False))}
    r = {}
    options = {"plain": {}, "similar": {"cv": "similar"}, "films": {"groups": film}}
    for name, how in options.items():
        result = brainenc.benchmark(data, ridge, references=False, **how, **FEW)
        r[name] = result.encoders["r"].iloc[0]
        assert len(said(result)) == (name == "plain")
    # Measured: .81, .34 and .33; over seeds, similar folds give .30 to .37.
    assert r["plain"] > 0.75
    assert r["similar"] < 0.45
    assert abs(r["similar"] - r["films"]) < 0.1


def test_identical_pictures_are_said_to_be_so(scenes):
    data = brainenc.EncodingData(scenes.images[np.repeat(np.arange(40), 3)], scenes.betas)
    (warning,) = said(run(data))
    assert "120 images are identical to another one" in warning
    assert "EncodingData.from_trials" in warning
    assert said(run(scenes)) == []


def test_a_pair_alike_among_hundreds_is_not_worth_a_word(scenes):
    others = brainenc.datasets.simulate_subject(280, 10, random_state=7).images
    more = np.concatenate([scenes.images, others])
    more[399] = np.asarray(Image.fromarray(more[0]).rotate(4))
    data = brainenc.EncodingData(more, np.random.default_rng(0).standard_normal((400, 5)))
    folds = [(np.arange(200), np.arange(200, 400))]
    assert data.similar_images().near(*folds[0][::-1]).sum() >= 1
    assert said(run(data, cv=folds)) == []


# ------------------------------------------------------------------ groups of one's own


def folds_of(monkeypatch, data, **options):
    """The folds that a benchmark makes."""
    from brainenc.benchmarking import run as module

    seen = []
    made = module.make_folds
    monkeypatch.setattr(module, "make_folds", lambda *given: seen.append(made(*given)) or seen[-1])
    run(data, **options)
    return seen[-1]


@pytest.mark.parametrize("cv", [5, 3, GroupKFold(4), LeaveOneGroupOut()])
def test_groups_of_ones_own_stay_whole(scenes, monkeypatch, cv):
    groups = np.array([f"run {i % 7}" for i in range(120)])
    folds = folds_of(monkeypatch, scenes, cv=cv, groups=groups)
    assert all(len(both) == 0 for both in sides(folds, groups))
    np.testing.assert_array_equal(np.sort(np.concatenate([t for _, t in folds])), np.arange(120))


def test_similar_folds_are_whole_groups_shuffled_by_the_seed(thrice, monkeypatch):
    data, picture = thrice
    folds = [folds_of(monkeypatch, data, cv="similar", random_state=seed) for seed in (0, 0, 1)]
    assert len(folds[0]) == 5
    for made in folds:
        assert all(len(both) == 0 for both in sides(made, picture))
        assert {len(test) for _, test in made} == {24}
    tests = [np.concatenate([test for _, test in made]).tolist() for made in folds]
    assert tests[0] == tests[1] != tests[2]


def test_a_column_of_the_trial_table_gives_groups(scenes, monkeypatch):
    day = np.arange(120) % 6
    trials = scenes.trials.assign(
        day=day[scenes.trials["image"]], run=np.arange(len(scenes.trials))
    )
    data = dataclasses.replace(scenes, trials=trials)
    folds = folds_of(monkeypatch, data, cv=3, groups="day")
    assert all(len(both) == 0 for both in sides(folds, day))
    with pytest.raises(ValueError, match=r"groups='run': \d+ images have trials with several"):
        run(data, groups="run")
    with pytest.raises(ValueError, match=r"groups='dya' is no column of the trial table"):
        run(data, groups="dya")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cv": "similr"}, "cv='similr' must be"),
        ({"cv": "similar", "groups": np.arange(120)}, "cv='similar' makes its own groups"),
        ({"groups": np.arange(119)}, r"groups \(119,\) must have one value for each of the 120"),
        ({"groups": np.where(np.arange(120) < 3, np.nan, 1)}, "no value for 3 of 120 images"),
        ({"groups": np.arange(120) // 60}, "2 groups of images are too few for 5 folds"),
        ({"groups": np.arange(120) // 3, "cv": KFold(4, shuffle=True)}, "in both train and test"),
    ],
)
def test_folds_that_groups_do_not_allow_are_refused(scenes, options, message):
    with pytest.raises(ValueError, match=message):
        run(scenes, **options)


def test_one_film_of_most_images_cannot_be_held_out(scenes):
    images = scenes.images.copy()
    rng = np.random.default_rng(0)
    images[:80] = np.clip(images[0].astype(int) + rng.integers(-3, 4, (80, 1, 1, 1)), 0, 255)
    data = brainenc.EncodingData(images, scenes.betas)
    with pytest.raises(ValueError, match=r"\d+ of 120 images are connected by near copies, frames"):
        run(data, cv="similar")
