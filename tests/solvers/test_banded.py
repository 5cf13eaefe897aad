"""Banded ridge against himalaya's random search, and its choice of candidates."""

import numpy as np
import pytest
from himalaya.backend import set_backend
from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search
from himalaya.kernel_ridge._random_search import generate_dirichlet_samples

from brainenc import solvers
from brainenc.model_selection import image_folds
from brainenc.solvers.proposals import random_weights

ALPHAS = 300 * np.logspace(-4, 2, 13)


def make_bands(n=300, n_voxels=80, widths=(40, 100, 200), seed=0):
    """Bands of kernels with trace n; voxels mix them."""
    rng = np.random.default_rng(seed)
    bands = []
    for width in widths:
        band = rng.standard_normal((n, width)) * np.arange(1, width + 1) ** -0.6
        bands.append(band / np.sqrt(np.square(band).sum(1).mean()))
    mixing = rng.dirichlet([0.5] * len(widths), n_voxels)
    Y = sum(
        band @ rng.standard_normal((band.shape[1], n_voxels)) * np.sqrt(share)
        for band, share in zip(bands, mixing.T, strict=True)
    )
    Y += rng.standard_normal(Y.shape) * np.geomspace(0.3, 3, n_voxels)
    return bands, Y, image_folds(5, n)


def held_out_error(fit, Y, folds):
    """Of each voxel, as a share of its variance."""
    return np.mean([np.square(fit.held_out[t] - Y[t]).mean(0) for _, t in folds], axis=0) / Y.var(0)


@pytest.mark.parametrize("per_voxel", [True, False])
def test_the_same_candidates_give_what_himalaya_chooses(per_voxel):
    bands, Y, folds = make_bands()
    Ks = [band @ band.T for band in bands]
    candidates = random_weights(12, 3, np.random.RandomState(4))
    fit = solvers.banded_ridge_cv(
        Ks, Y, ALPHAS, folds, candidates=candidates, per_voxel=per_voxel, search="exact"
    )
    set_backend("numpy")
    deltas, _, scores, _ = solve_multiple_kernel_ridge_random_search(
        np.stack(Ks),
        Y,
        n_iter=candidates,
        alphas=ALPHAS,
        cv=folds,
        fit_intercept=True,
        return_weights="dual",
        local_alpha=per_voxel,
        progress_bar=False,
    )
    # Both are direct solves in double precision, of kernels whose condition is 1e5.
    if per_voxel:
        np.testing.assert_allclose(
            held_out_error(fit, Y, folds), -scores.max(0) / Y.var(0), rtol=1e-8
        )
    np.testing.assert_allclose(fit.band_weights / fit.alphas, np.exp(deltas), rtol=1e-6, atol=1e-12)


def test_random_candidates_are_those_of_himalaya():
    wanted = generate_dirichlet_samples(11, 3, random_state=3)
    wanted[0] = 1 / 3
    np.testing.assert_array_equal(random_weights(11, 3, np.random.RandomState(3)), wanted)


def test_guided_search_gives_up_next_to_nothing():
    bands, Y, folds = make_bands()
    Ks = [band @ band.T for band in bands]
    guided, exact = (
        held_out_error(
            solvers.banded_ridge_cv(
                Ks,
                Y,
                ALPHAS,
                folds,
                search=search,
                candidates=random_weights(20, 3, np.random.RandomState(0)),
            ),
            Y,
            folds,
        )
        for search in ("guided", "exact")
    )
    # Voxels are left out where generalised cross-validation is 3 % worse, which errs at times.
    assert (guided > exact * (1 + 1e-9)).mean() < 0.05
    assert (guided / exact - 1).mean() < 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_chosen_candidates_beat_as_many_random_ones(seed):
    bands, Y, folds = make_bands(seed=seed)
    Ks = [band @ band.T for band in bands]
    chosen = solvers.banded_ridge_cv(
        Ks, Y, ALPHAS, folds, n_iter=15, candidates="chosen", random_state=seed
    )
    candidates = random_weights(15, 3, np.random.RandomState(seed))
    random = solvers.banded_ridge_cv(Ks, Y, ALPHAS, folds, candidates=candidates)
    assert held_out_error(chosen, Y, folds).mean() < held_out_error(random, Y, folds).mean()


@pytest.mark.parametrize("search", ["guided", "exact"])
def test_few_features_give_the_answers_of_their_kernels(search):
    bands, Y, folds = make_bands(widths=(10, 25, 40))
    of_kernels, of_features = (
        solvers.banded_ridge_cv(given, Y, ALPHAS, folds, n_iter=6, search=search)
        for given in (
            [band @ band.T for band in bands],
            solvers.feature_bands(np.concatenate(bands, axis=1), [10, 25, 40]),
        )
    )
    for name in ("alphas", "band_weights", "weights", "intercept", "held_out"):
        # Round-off of squared singular values: 1e-16 times a condition of 1e5 and more.
        np.testing.assert_allclose(
            getattr(of_features, name), getattr(of_kernels, name), rtol=1e-6, atol=1e-7
        )


def test_few_features_in_single_precision():
    bands, Y, folds = make_bands(widths=(10, 25, 40))
    X = np.concatenate(bands, axis=1)
    single, double = (
        solvers.banded_ridge_cv(
            solvers.feature_bands(X.astype(t), [10, 25, 40]), Y.astype(t), ALPHAS.astype(t), folds
        )
        for t in (np.float32, np.float64)
    )
    assert single.weights.dtype == np.float32
    same = np.isclose(single.alphas, double.alphas, rtol=1e-3)
    same &= np.isclose(single.band_weights, double.band_weights, atol=1e-4).all(0)
    assert same.mean() >= 0.95  # candidates follow from errors, so that a tie changes them
    np.testing.assert_allclose(single.held_out[:, same], double.held_out[:, same], atol=1e-3)


@pytest.mark.parametrize("narrow", [True, False])
def test_a_band_of_constant_features_explains_nothing(narrow):
    bands, Y, folds = make_bands(widths=(10, 25))
    bands[1][:] = 0.3
    Ks = [band @ band.T for band in bands]
    given = solvers.feature_bands(np.concatenate(bands, axis=1), [10, 25]) if narrow else Ks
    candidates = [[0, 1], [1, 0], [0.5, 0.5]]
    fit = solvers.banded_ridge_cv(given, Y, ALPHAS, folds, candidates=candidates)
    only = solvers.kernel_ridge_cv(Ks[0], Y, ALPHAS, folds)
    assert (fit.band_weights[0] > 0).mean() > 0.8
    assert (held_out_error(fit, Y, folds) <= held_out_error(only, Y, folds) * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": [[1.0, 0, 0, 0]]}, r"shape \(1, 4\) must have the shape"),
        ({"candidates": [[0.5, 0.6, 0]]}, "sum to 1"),
        ({"candidates": [[1.5, -0.5, 0]]}, "positive or 0"),
        ({"candidates": "few"}, "candidates='few' must be 'random'"),
        ({"bands": "nan"}, "kernels must be finite"),
    ],
)
def test_bad_candidates_and_kernels(change, message):
    bands, Y, folds = make_bands(n=40, n_voxels=3, widths=(5, 6, 7))
    Ks = [band @ band.T for band in bands]
    if change.pop("bands", None):
        Ks[1] = Ks[1] * np.nan
    with pytest.raises(ValueError, match=message):
        solvers.banded_ridge_cv(Ks, Y, ALPHAS, folds, **change)
