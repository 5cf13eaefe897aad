"""RidgeDecoder against scikit-learn, its penalties, weights, and leaks it must not have."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import brainenc
from brainenc.decoders.responses import averages_of, single_trials
from brainenc.metrics import retrieval
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats


def simulated(n=150, n_voxels=25, n_targets=6, noise=3.0, *, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((n, n_targets))
    signal = targets @ rng.standard_normal((n_targets, n_voxels))
    betas = signal[:, None] + noise * rng.standard_normal((n, 3, n_voxels))
    betas[:, 1:][rng.random((n, 2)) < missing] = np.nan
    return betas, targets


def scaled(betas, averages):
    mean, sd = averages.mean(axis=0), averages.std(axis=0)
    return (betas - mean) / sd


@pytest.mark.parametrize("train_on", ["averages", "trials"])
@pytest.mark.parametrize("n_voxels", [25, 200])  # primal and kernel form
def test_it_is_the_ridge_of_scikit_learn(train_on, n_voxels):
    betas, targets = simulated(n_voxels=n_voxels, missing=0.2)
    averages = average_repeats(betas)
    decoder = brainenc.RidgeDecoder(alphas=[30.0], train_on=train_on).fit(betas, targets)
    trials, images = single_trials(betas)
    rows = {"averages": (averages, targets), "trials": (trials, targets[images])}
    X, Y = rows[train_on]
    theirs = Ridge(30.0).fit(scaled(X, averages), Y)
    new = simulated(n_voxels=n_voxels, seed=1)[0]
    wanted = theirs.predict(scaled(average_repeats(new), averages))
    np.testing.assert_allclose(decoder.predict(new), wanted, atol=2e-5)


@pytest.mark.parametrize("train_on", ["averages", "trials"])
def test_weights_are_those_of_scikit_learn(train_on):
    betas, targets = simulated(missing=0.2)
    weights = np.random.default_rng(1).uniform(0, 2, len(betas))
    weights[:10] = 0
    decoder = brainenc.RidgeDecoder(alphas=[30.0], train_on=train_on)
    decoder.fit(betas, targets, sample_weight=weights)
    averages = average_repeats(betas)
    mean = np.average(averages, axis=0, weights=weights)
    sd = np.sqrt(np.average((averages - mean) ** 2, axis=0, weights=weights))
    trials, images = single_trials(betas)
    rows = {"averages": (averages, np.arange(150)), "trials": (trials, images)}
    X, images = rows[train_on]
    theirs = Ridge(30.0).fit((X - mean) / sd, targets[images], sample_weight=weights[images])
    new = average_repeats(simulated(seed=1)[0])
    np.testing.assert_allclose(decoder.predict(new), theirs.predict((new - mean) / sd), atol=1e-4)
    np.testing.assert_allclose(decoder.alphas_, 30, rtol=1e-6)


def test_equal_weights_change_nothing():
    betas, targets = simulated(missing=0.2)
    new = simulated(seed=1)[0]
    plain = brainenc.RidgeDecoder().fit(betas, targets)
    equal = brainenc.RidgeDecoder().fit(betas, targets, sample_weight=np.ones(150))
    np.testing.assert_allclose(equal.alphas_, plain.alphas_, rtol=1e-6)
    np.testing.assert_allclose(equal.predict(new), plain.predict(new), atol=1e-3)


@pytest.mark.parametrize("n_test", [1, 3])
def test_the_penalty_is_the_best_one_for_held_out_averages_of_the_test(n_test):
    betas, targets = simulated(noise=8.0)
    alphas = np.logspace(0, 5, 11)
    decoder = brainenc.RidgeDecoder(alphas=alphas, alpha_per_target=False, n_test_repeats=n_test)
    held_out = decoder.fit_held_out(betas, targets)
    averages = average_repeats(betas)
    trials, images = single_trials(scaled(betas, averages))
    tested, of = averages_of(scaled(betas, averages), n_test)
    errors = np.zeros(len(alphas))
    for train, test in image_folds(5, 150, random_state=0):
        learned, held = np.isin(images, train), np.isin(of, test)
        for i, alpha in enumerate(alphas):
            fit = Ridge(alpha).fit(trials[learned], targets[images[learned]])
            errors[i] += np.square(fit.predict(tested[held]) - targets[of[held]]).mean()
    np.testing.assert_allclose(decoder.alphas_, alphas[errors.argmin()])
    assert held_out.shape == targets.shape
    assert np.isfinite(held_out).all()


def test_a_single_trial_needs_a_larger_penalty_than_an_average():
    betas, targets = simulated(noise=8.0)
    one, three = (
        brainenc.RidgeDecoder(alpha_per_target=False, n_test_repeats=n).fit(betas, targets)
        for n in (1, 3)
    )
    assert one.alphas_[0] > three.alphas_[0]


def test_averages_are_of_disjoint_trials_of_one_image():
    betas = np.arange(24.0).reshape(2, 6, 2)
    betas[0, 0] = betas[1, 1:] = np.nan
    averages, images = averages_of(betas, 2)
    assert images.tolist() == [0, 0, 1]  # five trials make two averages; a single one counts alone
    np.testing.assert_array_equal(averages[0], betas[0, 1:3].mean(axis=0))
    np.testing.assert_array_equal(averages[1], betas[0, 3:5].mean(axis=0))
    np.testing.assert_array_equal(averages[2], betas[1, 0])


def test_fault_2_and_5_what_is_chosen_is_chosen_without_the_test_images():
    """The best penalty on the test images would be above chance on noise."""
    rng = np.random.default_rng(0)
    best, honest = [], []
    ids = np.arange(60)
    for _ in range(12):
        betas, targets = rng.standard_normal((120, 3, 30)), rng.standard_normal((120, 5))

        def score(alphas, betas=betas, targets=targets):
            decoder = brainenc.RidgeDecoder(alphas=alphas).fit(betas[:60], targets[:60])
            similarity = decoder.similarity(betas[60:], targets[60:])
            return retrieval(
                similarity, query_ids=ids, candidate_ids=ids, pool_size=60, n_pools=1
            ).image_retrieval

        grid = np.logspace(-1, 4, 6)
        honest.append(score(grid))
        best.append(max(score([alpha]) for alpha in grid))
    error = np.std(honest) / np.sqrt(12)
    assert abs(np.mean(honest) - 1 / 60) < 3 * max(error, np.sqrt(1 / 60 / 720))
    assert np.mean(best) > np.mean(honest)


def test_fault_8_held_out_predictions_never_saw_their_own_target():
    betas, targets = simulated()
    decoder = brainenc.RidgeDecoder(alphas=[50.0])
    before = decoder.fit_held_out(betas, targets)
    assert np.corrcoef(before.ravel(), targets.ravel())[0, 1] < 0.99
    targets = targets.copy()
    targets[7] += 100
    after = decoder.fit_held_out(betas, targets)
    np.testing.assert_allclose(after[7], before[7], atol=1e-6)
    assert np.abs(after[8:] - before[8:]).max() > 1


def test_repeats_of_an_image_are_on_one_side_of_every_inner_fold():
    # Each image has a pattern of its own in its trials, which says nothing about other images.
    rng = np.random.default_rng(0)
    own = 5 * rng.standard_normal((80, 1, 200))
    betas = own + rng.standard_normal((80, 3, 200))
    targets = rng.standard_normal((80, 4))
    held_out = brainenc.RidgeDecoder(alphas=[1.0]).fit_held_out(betas, targets)
    r = np.corrcoef(held_out.ravel(), targets.ravel())[0, 1]
    assert abs(r) < 4 / np.sqrt(held_out.size)


def test_permuted_training_images_are_within_three_standard_errors_of_chance():
    betas, targets = simulated(400, noise=2.0)
    ids = np.arange(200)

    def score(order):
        decoder = brainenc.RidgeDecoder().fit(betas[:200], targets[order])
        similarity = decoder.similarity(betas[200:], targets[200:])
        return retrieval(similarity, query_ids=ids, candidate_ids=ids, pool_size=100)

    assert score(np.arange(200)).image_retrieval > 0.5
    rng = np.random.default_rng(0)
    found = [score(rng.permutation(200)) for _ in range(20)]
    for name in ("image_retrieval", "brain_retrieval"):
        values = np.array([getattr(one, name) for one in found])
        assert abs(values.mean() - 0.01) < 3 * values.std() / np.sqrt(20)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"train_on": "repeats"}, "train_on='repeats' must be"),
        ({"n_test_repeats": 0}, "n_test_repeats=0 must be"),
        ({"alphas": [-1]}, "alphas"),
    ],
)
def test_parameters_that_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        brainenc.RidgeDecoder(**parameters).fit(*simulated())


@pytest.mark.parametrize(
    "weights", [np.ones(3), -np.ones(150), np.zeros(150), np.full(150, np.nan)]
)
def test_weights_that_are_refused(weights):
    with pytest.raises(ValueError, match="sample_weight"):
        brainenc.RidgeDecoder().fit(*simulated(), sample_weight=weights)
