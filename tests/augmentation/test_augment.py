"""augment: real trials as they were, synthetic ones marked, and refused where data are tested."""

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.data.synthetic import SYNTHETIC, check_measured, measured_betas, synthetic_images


@pytest.fixture(scope="module")
def subject():
    data = brainenc.datasets.simulate_subject(n_images=80, n_voxels=20, random_state=0)
    tokens = data.truth.tokens
    encoder = brainenc.RidgeEncoder().fit(tokens[:50], data.betas[:50])
    return data, tokens, encoder


def parts(data):
    return data.select(images=range(50)), data.select(images=range(50, 70))


def test_new_images_follow_and_their_trials_are_marked(subject):
    data, tokens, encoder = subject
    real, new = parts(data)
    more = brainenc.augment(real, encoder, new.images, features=tokens[50:70], n_draws=2)
    assert more.n_images == 70
    np.testing.assert_array_equal(more.betas[:50], real.betas)
    drawn = encoder.sample(tokens[50:70], 2, 0, noise="full")
    np.testing.assert_array_equal(more.betas[50:, :2], np.swapaxes(drawn, 0, 1))
    assert np.isnan(more.betas[50:, 2:]).all()
    made = more.trials[more.trials[SYNTHETIC]]
    assert len(made) == 40
    assert made["image"].min() == 50
    assert len(more.trials) - len(made) == len(real.trials)
    np.testing.assert_array_equal(synthetic_images(more.trials), np.arange(50, 70))


def test_predictions_have_no_noise_and_may_be_repeats_of_the_real_images(subject):
    data, tokens, encoder = subject
    real, _ = parts(data)
    more = brainenc.augment(real, encoder, features=tokens[:50], noise=None)
    assert more.betas.shape == (50, real.n_repeats + 1, 20)
    np.testing.assert_allclose(more.betas[:, -1], encoder.predict(tokens[:50]), rtol=1e-6)
    assert more.trials[SYNTHETIC].sum() == 50
    again = brainenc.augment(more, encoder, features=tokens[:50], noise=None)
    assert again.trials[SYNTHETIC].sum() == 100


def test_the_mark_is_kept_by_subsets_and_files(subject, tmp_path):
    data, tokens, encoder = subject
    real, new = parts(data)
    more = brainenc.augment(real, encoder, new.images, features=tokens[50:70])
    assert more.select(images=range(45, 55)).trials[SYNTHETIC].sum() == 5
    loaded = brainenc.EncodingData.load(more.save(tmp_path / "more.brain"))
    np.testing.assert_array_equal(synthetic_images(loaded.trials), np.arange(50, 70))


def test_a_synthetic_trial_is_in_no_test_fold(subject):
    data, tokens, encoder = subject
    real, new = parts(data)
    more = brainenc.augment(real, encoder, new.images, features=tokens[50:70])
    message = r"images have synthetic trials \(first: image 5\d\)"
    with pytest.raises(ValueError, match="test fold 0: .* " + message):
        brainenc.benchmark(more, {"mean": brainenc.MeanEncoder()}, cv=4, check=False)
    with pytest.raises(ValueError, match=message):
        more.train_test(range(45, 60))
    with pytest.raises(ValueError, match=message):
        brainenc.evaluate(more, {"mean": brainenc.MeanEncoder().fit(tokens[:50], real.betas)})
    with pytest.raises(ValueError, match=message):
        brainenc.augmentation_study(more, targets=np.concatenate([tokens[:50], tokens[50:70]]))
    train, test = more.train_test(range(10))
    assert train.trials[SYNTHETIC].sum() == 20
    assert not test.trials[SYNTHETIC].any()


def test_folds_with_synthetic_trials_for_training_only_run(subject):
    data, tokens, encoder = subject
    real, new = parts(data)
    more = brainenc.augment(real, encoder, new.images, features=tokens[50:70])
    folds = [(np.arange(10, 70), np.arange(10))]
    result = brainenc.benchmark(
        more, {"mean": brainenc.MeanEncoder()}, cv=folds, check=False, n_permutations=10
    )
    assert result is not None


def test_images_of_the_real_data_are_not_new(subject):
    data, tokens, encoder = subject
    real, _ = parts(data)
    with pytest.raises(ValueError, match=r"5 of the new images are .*first: 0"):
        brainenc.augment(real, encoder, data.images[45:55], features=tokens[45:55])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "some"}, "noise='some' must be one of"),
        ({"n_draws": 0}, "n_draws=0 must be 1 or more"),
        ({"features": np.ones((3, 4))}, "features of 3 images, but there are 50"),
    ],
)
def test_what_it_refuses(subject, options, message):
    data, tokens, encoder = subject
    with pytest.raises(ValueError, match=message):
        brainenc.augment(parts(data)[0], encoder, **{"features": tokens[:50], **options})


def test_an_encoder_of_other_voxels(subject):
    data, tokens, _ = subject
    other = brainenc.RidgeEncoder().fit(tokens[:50], data.betas[:50, :, :7])
    with pytest.raises(ValueError, match="gives 7 voxels, but the data have 20"):
        brainenc.augment(parts(data)[0], other, features=tokens[:50])


def test_a_mark_must_be_true_or_false(subject):
    trials = subject[0].trials.assign(synthetic="perhaps")
    with pytest.raises(ValueError, match="other than True and False: 'perhaps'"):
        check_measured(trials, range(3), "test")


@pytest.mark.parametrize("dtype", [object, float, "boolean"])
def test_a_trial_without_a_mark_was_measured(subject, dtype):
    data, tokens, encoder = subject
    real, _ = parts(data)
    marks = pd.Series([pd.NA if dtype == "boolean" else np.nan] * len(real.trials), dtype=dtype)
    marks[real.trials["image"] == 4] = 1.0 if dtype is float else True
    trials = real.trials.assign(synthetic=marks)
    np.testing.assert_array_equal(synthetic_images(trials), [4])
    check_measured(trials, range(4), "test")
    half = brainenc.EncodingData(real.images, real.betas, real.voxels, trials)
    more = brainenc.augment(half, encoder, features=tokens[:50], noise=None)
    marked = (real.trials["image"] == 4).sum()
    assert more.trials[SYNTHETIC].sum() == marked + 50


def test_synthetic_trials_do_not_count_in_the_noise_ceiling(subject):
    data, tokens, encoder = subject
    real, new = parts(data)
    expected = real.noise_ceiling(n_bootstraps=20)
    more = brainenc.augment(real, encoder, new.images, features=tokens[50:70], n_draws=3)
    repeats = brainenc.augment(real, encoder, features=tokens[:50], n_draws=2, noise=None)
    for one, rows in ((more, None), (repeats, None), (more, range(50))):
        found = one.noise_ceiling(rows, n_bootstraps=20)
        np.testing.assert_allclose(found.values, real.noise_ceiling(rows).values, rtol=1e-12)
        np.testing.assert_allclose(found.n_trials, expected.n_trials, rtol=1e-12)
    assert measured_betas(real.betas, real.trials) is real.betas
    assert np.isfinite(more.betas[50:, :3]).all()  # the data keep them
    folds = [(np.arange(25, 70), np.arange(25)), (np.arange(25), np.arange(25, 50))]
    options = {"check": False, "n_permutations": 10, "verbose": False}
    mean = {"mean": brainenc.MeanEncoder()}
    augmented = brainenc.benchmark(more, mean, cv=folds, **options)
    plain = [(train[train < 50], test) for train, test in folds]
    alone = brainenc.benchmark(real, mean, cv=plain, **options)
    found, expected = (one.maps["noise_ceiling"] for one in (augmented, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_table_of_stimuli_goes_on(subject):
    data, tokens, encoder = subject
    real, new = parts(data)
    table = pd.DataFrame({"name": [f"n{i}" for i in range(50)], "number": range(50)})
    named = brainenc.EncodingData(real.images, real.betas, real.voxels, real.trials, stimuli=table)
    more = brainenc.augment(named, encoder, new.images, features=tokens[50:70])
    assert more.stimuli["name"].tolist()[:50] == table["name"].tolist()
    assert more.stimuli["number"].tolist()[:50] == list(range(50))
    assert len(more.stimuli) == 70
    assert more.stimuli[50:].isna().all(axis=None)
    again = brainenc.augment(named, encoder, features=tokens[:50])
    pd.testing.assert_frame_equal(again.stimuli, named.stimuli)


@pytest.mark.parametrize("per_voxel", [False, True])
def test_averages_of_trials_keep_their_numbers(subject, per_voxel):
    data, tokens, encoder = subject
    real, new = parts(data)
    counts = np.random.default_rng(0).integers(1, 4, (50, 20 if per_voxel else 1))
    averages = brainenc.EncodingData(
        real.images, np.nanmean(real.betas, axis=1), real.voxels, n_averaged=counts
    )
    more = brainenc.augment(averages, encoder, new.images, features=tokens[50:70])
    np.testing.assert_array_equal(more.n_averaged[:50], counts)
    np.testing.assert_array_equal(more.n_averaged[50:], 1)
    for options in ({"features": tokens[:50]}, {"images": new.images, "features": tokens[50:70]}):
        with pytest.raises(ValueError, match=r"averages of up to 3 trials .* n_draws=2"):
            brainenc.augment(averages, encoder, n_draws=2, **options)
    ones = brainenc.EncodingData(
        real.images, np.nanmean(real.betas, axis=1), real.voxels, n_averaged=1
    )
    assert brainenc.augment(ones, encoder, features=tokens[:50]).n_repeats == 2
