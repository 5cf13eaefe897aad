"""The distribution of trials is fitted when it is first needed."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.noise import trials
from brainenc.noise.trials import TrialDistribution


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((130, 10)).astype(np.float32)
    shared = rng.standard_normal((130, 3, 1))
    betas = X[:, None, :6] + rng.standard_normal((130, 3, 6)) + shared
    betas[:10, 2] = np.nan
    return X, betas.astype(np.float32)


@pytest.fixture
def fits(monkeypatch):
    """Number of distributions that were fitted."""
    counted = []
    fit = trials.TrialsLater.fit

    def count(self):
        if self._fitted is None:
            counted.append(1)
        return fit(self)

    monkeypatch.setattr(trials.TrialsLater, "fit", count)
    return counted


def same(ours, theirs):
    for name in ("noise", "trial", "error"):
        for part in ("factors", "private_sd"):
            np.testing.assert_array_equal(
                getattr(getattr(ours, name), part), getattr(getattr(theirs, name), part)
            )
    assert (ours.shape is None) == (theirs.shape is None)
    if ours.shape is not None:
        np.testing.assert_array_equal(ours.shape.quantiles, theirs.shape.quantiles)


@pytest.mark.parametrize("name", ["ridge", "mean", "latent", "mindreader", "calibrated"])
def test_searches_and_predictions_do_not_fit_it(name, problem, fits):
    encoder = tiny_encoder(name)
    if name == "calibrated":
        encoder.set_params(cv=3)
    X, betas = problem
    encoder.fit(X, betas)
    encoder.predict(X)
    # Distances of trials need the spread of the fit of each fold, and the shape of the last one.
    n_folds = 4 if name == "calibrated" else 0
    assert sum(fits) == n_folds
    encoder.sample(X, n=2)
    encoder.sample(X, n=2)
    encoder.predict_interval(X)
    assert sum(fits) <= n_folds + 2  # the calibrated one, and its encoder's
    encoder.fit_noise()
    with_one = sum(fits)
    pickle.dumps(encoder)
    assert sum(fits) == with_one


def test_a_search_fits_none(problem, fits):
    search = GridSearchCV(brainenc.RidgeEncoder(), {"standardize": [True, False]}, cv=3)
    search.fit(*problem)
    assert not fits
    search.best_estimator_.fit_noise()
    assert len(fits) == 1


def test_betas_may_change_between_fit_and_first_use(problem):
    X, betas = problem
    expected = brainenc.RidgeEncoder().fit(X, betas).fit_noise()
    changed = betas.copy()
    encoder = brainenc.RidgeEncoder()
    held_out = encoder.fit_held_out(X, changed)
    changed[:] = 0
    held_out[:] = 0
    same(encoder.trials_, expected.trials_)


def test_it_is_the_same_as_at_once(problem):
    X, betas = problem
    encoder = brainenc.RidgeEncoder()
    held_out = encoder.fit_held_out(X, betas)
    same(encoder.trials_, TrialDistribution.fit(betas, held_out))
    many = np.random.default_rng(0).standard_normal((1200, 3, 5)).astype(np.float32)
    zeros = np.zeros((1200, 5), np.float32)
    later = TrialDistribution.later(many, zeros)
    same(later.fit(), TrialDistribution.fit(many, zeros))


def test_what_is_kept_is_a_few_trials():
    betas = np.random.default_rng(0).standard_normal((3000, 3, 40)).astype(np.float32)
    held_out = np.zeros((3000, 40), np.float32)
    rows = trials.TakenRows(betas)
    made = []

    class Counted(trials.TakenRows):
        def __init__(self, array):
            super().__init__(array)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "TakenRows", Counted)
        TrialDistribution.later(betas, held_out)
    kept = sum(copied.nbytes for rows in made for _, copied in rows._taken)
    # 2000 and 1500 trials, and the predictions of their images; not the 9000 trials.
    assert kept <= 4 * 40 * (2000 + 1500) * 4 / 3
    assert not rows._taken


@pytest.mark.parametrize(
    "copied",
    [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy, copy.copy],
    ids=["pickle", "deepcopy", "copy"],
)
def test_copies_draw_the_same(copied, problem):
    X, betas = problem
    expected = brainenc.RidgeEncoder().fit(X, betas).sample(X, n=2, random_state=0)
    encoder = copied(brainenc.RidgeEncoder().fit(X, betas))
    assert "trials_later_" not in vars(encoder)
    np.testing.assert_array_equal(encoder.sample(X, n=2, random_state=0), expected)


def test_saving_before_the_first_draw(problem, tmp_path):
    X, betas = problem
    encoder = brainenc.RidgeEncoder().fit(X, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(
        loaded.sample(X, n=2, random_state=0), encoder.sample(X, n=2, random_state=0)
    )


def test_threads_fit_it_once(problem, fits):
    X, betas = problem
    encoder = brainenc.RidgeEncoder().fit(X, betas)
    with ThreadPoolExecutor(4) as pool:
        draws = list(pool.map(lambda _: encoder.sample(X, n=2, random_state=0), range(8)))
    for draw in draws[1:]:
        np.testing.assert_array_equal(draw, draws[0])


def test_a_failed_estimate_can_be_repeated(problem, monkeypatch):
    X, betas = problem
    expected = brainenc.RidgeEncoder().fit(X, betas).sample(X, n=2, random_state=0)
    encoder = brainenc.RidgeEncoder().fit(X, betas)
    with monkeypatch.context() as patch:

        def out_of_memory(*arguments, **options):
            raise MemoryError

        patch.setattr("brainenc.noise.estimates.assemble", out_of_memory)
        with pytest.raises(MemoryError):
            encoder.sample(X, n=2)
    # The random numbers of the first attempt are not used up.
    np.testing.assert_array_equal(encoder.sample(X, n=2, random_state=0), expected)


def test_an_unfitted_encoder_has_none(problem):
    encoder = brainenc.RidgeEncoder()
    assert not hasattr(encoder, "trials_")
    assert not hasattr(clone(encoder.fit(*problem)), "trials_")
