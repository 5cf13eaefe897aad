"""StackedEncoder: weights against a quadratic programme, members, features, draws."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import brainenc
from brainenc import (
    BandedRidgeEncoder,
    GaborPyramid,
    MeanEncoder,
    PixelFeatures,
    RidgeEncoder,
    StackedEncoder,
)
from brainenc.encoders.base import BaseEncoder
from brainenc.solvers.simplex import blend, measure_errors, simplex_weights


class HoldsOut(RidgeEncoder):
    """Ridge that learns all but the first `n` images, as networks do that hold some out once."""

    def __init__(self, features="auto", *, n=10, device="auto"):
        super().__init__(features, device=device)
        self.n = n

    def _fit(self, features, betas):
        held_out = np.full((len(betas), betas.shape[2]), np.nan, dtype=np.float32)
        super()._fit(features[self.n :], betas[self.n :])
        held_out[: self.n] = self._predict(features[: self.n])
        return held_out


class FirstHalf(RidgeEncoder):
    """Ridge on the first half of the features."""

    half = slice(None, 6)

    def _fit(self, features, betas):
        return super()._fit(features[:, self.half], betas)

    def _predict(self, features):
        return super()._predict(features[:, self.half])


class SecondHalf(FirstHalf):
    half = slice(6, None)


@pytest.fixture(scope="module")
def problem():
    """240 images; voxels 0–4 follow the first 6 features, voxels 5–9 the others; 3 repeats."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((240, 12)).astype(np.float32)
    mixing = np.zeros((12, 10))
    mixing[:6, :5], mixing[6:, 5:] = rng.standard_normal((2, 6, 5))
    betas = 5 + X @ mixing + 1.5 * rng.standard_normal((3, 240, 10))
    return X, betas.transpose(1, 0, 2).astype(np.float32)


# -------------------------------------------------------------------- weights


def quadratic_programme(gram):
    k = len(gram)
    gram = gram / np.trace(gram)
    found = minimize(
        lambda w: w @ gram @ w,
        np.full(k, 1 / k),
        jac=lambda w: 2 * gram @ w,
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(k)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x


@pytest.mark.parametrize("k", [2, 3, 6])
def test_weights_are_those_of_a_quadratic_programme(k):
    rng = np.random.default_rng(k)
    # Members share much of their error, as encoders share the noise of the trials.
    errors = rng.standard_normal((60, 4 * k, k)) + 2 * rng.standard_normal((60, 4 * k, 1))
    grams = np.einsum("nia,nib->nab", errors, errors)
    weights = simplex_weights(grams)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    # SLSQP stops at 1e-14 of the objective, that is about 1e-6 of the weights.
    np.testing.assert_allclose(weights, [quadratic_programme(gram) for gram in grams], atol=1e-4)
    assert 0.1 < (weights == 0).mean() < 0.8  # bounds were met and left


def test_degenerate_weights():
    same = np.ones((1, 3, 3)) * 2.0
    np.testing.assert_allclose(simplex_weights(same), 1 / 3)
    np.testing.assert_allclose(simplex_weights(np.zeros((1, 2, 2))), 0.5)
    perfect = np.diag([1.0, 0, 2])[None]
    np.testing.assert_allclose(simplex_weights(perfect), [[0, 1, 0]], atol=1e-8)
    assert np.isnan(simplex_weights(np.full((1, 2, 2), np.nan))).all()
    assert simplex_weights(np.ones((1, 1, 1))).item() == 1


def test_errors_count_where_all_members_predict():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((600, 4))
    members = [targets + rng.standard_normal((600, 4)) for _ in range(3)]
    members[1][:200, 2] = np.nan
    targets[550:, 1] = np.nan
    errors = measure_errors(members, targets)
    assert errors.n_images.tolist() == [600, 550, 400, 600]
    for voxel, rows in enumerate([slice(None), slice(550), slice(200, None), slice(None)]):
        e = np.stack([m[rows, voxel] - targets[rows, voxel] for m in members])
        np.testing.assert_allclose(errors.grams[voxel], e @ e.T, rtol=1e-9)


def test_pooling_adds_images_of_the_average_voxel():
    rng = np.random.default_rng(0)
    scales = np.array([1, 10, 0.1])  # voxels in other units count alike
    targets = np.zeros((30, 3))
    members = [rng.standard_normal((30, 3)) * scales * s for s in (1, 1.3)]
    members[0][:, 2] = np.nan
    errors = measure_errors(members, targets)
    own, all_alike = errors.weights(0), errors.weights(1e12)
    np.testing.assert_allclose(all_alike, np.tile(all_alike[:, :1], 3), atol=1e-6)
    np.testing.assert_allclose(own[:, 2], all_alike[:, 2], atol=1e-6)  # it has no images
    by_hand = []
    normed = [g / np.trace(g) for g in errors.grams[:2]]
    for gram in normed:
        by_hand.append(quadratic_programme(gram + 50 / 30 * np.mean(normed, axis=0)))
    np.testing.assert_allclose(errors.weights(50)[:, :2].T, by_hand, atol=1e-4)


def test_blend_leaves_out_what_has_no_weight():
    weights = np.array([[1.0, 0.5, np.nan], [0.0, 0.5, np.nan]])
    predictions = [np.ones((2, 3)), np.full((2, 3), np.nan)]
    predictions[1][:, 1] = 3
    np.testing.assert_array_equal(blend(weights, predictions), [[1, 2, np.nan]] * 2)


# -------------------------------------------------------------------- fitting


def test_each_voxel_listens_to_the_member_that_knows_it(problem):
    X, betas = problem
    stack = StackedEncoder([FirstHalf(), SecondHalf(), MeanEncoder()]).fit(X[:180], betas[:180])
    assert list(stack.encoders_) == ["firsthalf", "secondhalf", "mean"]
    assert (stack.weights_[0, :5] > 0.85).all()
    assert (stack.weights_[1, 5:] > 0.85).all()
    np.testing.assert_allclose(stack.weights_.sum(axis=0), 1, atol=1e-6)
    for member in (FirstHalf(), SecondHalf()):
        alone = member.fit(X[:180], betas[:180]).score(X[180:], betas[180:])
        assert stack.score(X[180:], betas[180:]) > alone + 0.3


def test_weights_minimise_the_error_of_held_out_predictions(problem):
    X, betas = problem
    stack = StackedEncoder([FirstHalf(), RidgeEncoder()], pooling=0).fit(X, betas)
    targets = betas.mean(axis=1)
    held_out = [FirstHalf().fit_held_out(X, betas), RidgeEncoder().fit_held_out(X, betas)]
    for voxel in range(10):
        e = np.stack([h[:, voxel] - targets[:, voxel] for h in held_out]).astype(float)
        np.testing.assert_allclose(
            stack.weights_[:, voxel], quadratic_programme(e @ e.T), atol=1e-4
        )
    np.testing.assert_array_equal(stack.held_out_images_, 240)
    expected = sum(
        w * m.fit(X, betas).predict(X)
        for w, m in zip(stack.weights_, (FirstHalf(), RidgeEncoder()), strict=True)
    )
    np.testing.assert_allclose(stack.predict(X), expected, atol=1e-4)


def test_held_out_predictions_of_the_stack_use_weights_of_other_images():
    """Twenty members of pure noise: weights chosen on an image lower its own error."""
    rng = np.random.default_rng(0)
    X, betas = np.zeros((100, 1)), rng.standard_normal((100, 200))

    class Noise(MeanEncoder):
        def __init__(self, seed=0):
            self.seed = seed

        def _fit(self, features, betas):
            self.mean_ = np.zeros(betas.shape[2])
            return np.random.default_rng(self.seed).standard_normal(betas.shape[::2]) / 2

    stack = StackedEncoder([Noise(seed + 1) for seed in range(20)], pooling=0)
    held_out = stack.fit_held_out(X, betas)
    members = [Noise(seed + 1).fit_held_out(X, betas) for seed in range(20)]
    too_good = blend(stack.weights_, members)
    assert np.mean((held_out - betas) ** 2) > 1.01  # noise is worse than saying 0
    assert np.mean((too_good - betas) ** 2) < 1


def test_images_that_no_member_learnt_are_used_if_there_are_enough(problem):
    X, betas = problem
    stack = StackedEncoder([HoldsOut(n=60), FirstHalf()]).fit(X, betas)
    np.testing.assert_array_equal(stack.held_out_images_, 60)
    counted = []

    class Counting(HoldsOut):
        def _fit(self, features, betas):
            counted.append(len(features))
            return super()._fit(features, betas)

    StackedEncoder([Counting(n=60), FirstHalf()]).fit(X, betas)
    assert counted == [240]
    stack = StackedEncoder([Counting(n=20), FirstHalf()]).fit(X, betas)
    assert counted[1:] == [240, 192, 192, 192, 192, 192]
    np.testing.assert_array_equal(stack.held_out_images_, 240)
    counted.clear()
    StackedEncoder([Counting(n=60), FirstHalf()], cv=3).fit(X, betas)
    assert counted == [240, 160, 160, 160]


def test_prefit_members_keep_what_they_learnt(problem):
    X, betas = problem
    members = {"first": FirstHalf().fit(X[:100], betas[:100])}
    members["second"] = SecondHalf().fit(X[:100], betas[:100])
    before = {name: member.predict(X) for name, member in members.items()}
    stack = StackedEncoder(members, cv="prefit", pooling=0).fit(X[100:200], betas[100:200])
    assert (stack.weights_[0, :5] > 0.8).all()
    assert (stack.weights_[1, 5:] > 0.8).all()
    for name, member in members.items():
        np.testing.assert_array_equal(member.predict(X), before[name])
    assert stack.score(X[200:], betas[200:]) > 0.6
    with pytest.raises(NotFittedError, match=r"fitted encoders.*clone"):
        clone(stack).fit(X, betas)
    with pytest.raises(ValueError, match="'first' predicts 10 voxels, but betas has 7"):
        StackedEncoder(members, cv="prefit").fit(X, betas[..., :7])


def test_history_is_that_of_the_members(problem, tmp_path):
    X, betas = problem

    class Trained(FirstHalf):
        def _fit(self, features, betas):
            self.history_ = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]})
            return super()._fit(features, betas)

    stack = StackedEncoder({"a": Trained(), "b": Trained(), "c": RidgeEncoder()}).fit(X, betas)
    assert stack.history_["encoder"].tolist() == ["a", "a", "b", "b"]
    folder = stack.save(tmp_path / "model")
    loaded = brainenc.load(folder, classes=[Trained])
    pd.testing.assert_frame_equal(loaded.history_, stack.history_, check_dtype=False)
    np.testing.assert_allclose(loaded.predict(X), stack.predict(X), atol=1e-6)
    np.testing.assert_array_equal(loaded.weights_, stack.weights_)
    assert not StackedEncoder([MeanEncoder()]).fit(X, betas).history_.size


# -------------------------------------------------------------------- parameters


def test_parameters_of_members_as_in_scikit_learn(problem):
    X, betas = problem
    for encoders in (
        [RidgeEncoder(None), MeanEncoder()],
        [("ridge", RidgeEncoder(None)), ("mean", MeanEncoder())],
        {"ridge": RidgeEncoder(None), "mean": MeanEncoder()},
    ):
        stack = StackedEncoder(encoders)
        assert stack.get_params()["encoders"] is encoders
        changed = clone(stack).set_params(ridge__alphas=[1.0])
        assert changed.get_params()["ridge"].alphas == [1.0]
        assert stack.get_params()["ridge__alphas"] == "auto"  # not changed: clones were
        other = clone(stack).set_params(mean=RidgeEncoder(cv=3), ridge__cv=4)
        assert {name: m.cv for name, m in other._members().items()} == {"ridge": 4, "mean": 3}
    search = GridSearchCV(
        stack, {"ridge__alphas": [[1e6], [1.0]], "pooling": [10]}, cv=2, error_score="raise"
    ).fit(X[:100], betas[:100, :, :3])
    assert search.best_params_["ridge__alphas"] == [1.0]
    assert (search.best_estimator_.encoders_["ridge"].alphas_ == 1).all()
    two = StackedEncoder([RidgeEncoder(), RidgeEncoder(cv=3)])
    assert two.get_params()["ridge-2__cv"] == 3


@pytest.mark.parametrize(
    ("encoders", "error", "message"),
    [
        ([], ValueError, "empty"),
        ("ridge", TypeError, "list of encoders"),
        ([RidgeEncoder], TypeError, "members must be encoders"),
        ([("a", RidgeEncoder()), ("a", MeanEncoder())], ValueError, r"\['a'\] more than once"),
        ({"cv": RidgeEncoder()}, ValueError, r"cannot be named \['cv'\]"),
        ({"a__b": RidgeEncoder()}, ValueError, "cannot be named"),
    ],
)
def test_wrong_members_are_named(problem, encoders, error, message):
    with pytest.raises(error, match=message):
        StackedEncoder(encoders).fit(*problem)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"draws": "both"}, "draws='both'"),
        ({"pooling": -1}, "pooling=-1"),
        ({"pooling": np.nan}, "pooling=nan"),
        ({"cv": "loo"}, "cv='loo'"),
        ({"inputs": {"ridge": [8, 6], "mean": [0, 6]}}, "columns 8 to 14"),
        ({"inputs": {"ridge": [0, 6]}}, r"not the members \['mean'\]"),
    ],
)
def test_wrong_parameters_are_named(problem, parameters, message):
    with pytest.raises(ValueError, match=message):
        StackedEncoder([RidgeEncoder(), MeanEncoder()], **parameters).fit(*problem)


def test_members_are_told_about_the_voxels():
    class OfROIs(RidgeEncoder):
        def __init__(self, features="auto", *, rois=None):
            super().__init__(features)
            self.rois = rois

        def with_voxels(self, voxels):
            return clone(self).set_params(rois=voxels["roi"].tolist())

    stack = StackedEncoder({"rois": OfROIs(), "mean": MeanEncoder()}, pooling=7)
    told = stack.with_voxels(pd.DataFrame({"roi": ["V1", "V2"]}))
    assert told.get_params()["rois__rois"] == ["V1", "V2"]
    assert told.pooling == 7
    assert stack.get_params()["rois__rois"] is None
    plain = StackedEncoder([MeanEncoder()])
    assert plain.with_voxels(pd.DataFrame({"roi": ["V1"]})) is plain


# -------------------------------------------------------------------- features


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    return images, (images[:, 3:8, 2, 0] / 50 + rng.standard_normal((60, 5))).astype(np.float32)


def spaces():
    pixels = PixelFeatures(size=4, verbose=False)
    gabor = GaborPyramid(n_scales=2, pool=2, size=32, verbose=False)
    return pixels, gabor


def test_each_member_has_its_own_features_of_images(pictures, tmp_path):
    images, betas = pictures
    pixels, gabor = spaces()
    members = {
        "pixels": RidgeEncoder(pixels),
        "gabor": RidgeEncoder(gabor),
        "both": BandedRidgeEncoder({"pixels": pixels, "gabor": gabor}, n_iter=3),
        "mean": MeanEncoder(),
    }
    stack = StackedEncoder(members).fit(images, betas)
    prediction = stack.predict(images)
    by_hand = [clone(member).fit(images, betas).predict(images) for member in members.values()]
    np.testing.assert_allclose(prediction, blend(stack.weights_, by_hand), atol=1e-4)
    assert len(stack.features_) == 2
    loaded = brainenc.load(stack.save(tmp_path / "model"))
    np.testing.assert_allclose(loaded.predict(images), prediction, atol=1e-6)
    with pytest.raises(TypeError, match="images must be uint8"):
        StackedEncoder(members).fit(betas, betas)
    with pytest.raises(TypeError, match="GaborPyramid"):
        StackedEncoder([RidgeEncoder(None), MeanEncoder()]).fit(images, betas)


def test_tokens_keep_their_shape_in_a_joined_matrix(pictures):
    images, betas = pictures

    class Tokens(PixelFeatures):
        def _extract(self, batch):
            return super()._extract(batch).reshape(len(batch), -1, 3)

    seen = {}

    class Watching(RidgeEncoder):
        def _fit(self, features, betas):
            seen[self.cv] = features.shape
            return super()._fit(features, betas)

    encoders = [Watching(Tokens(size=4), cv=3), Watching(spaces()[0], cv=4)]
    given, X = StackedEncoder(encoders).precompute(
        images, lambda e: e.fit(images).transform(images)
    )
    assert X.shape == (60, 96)
    given.fit(X, betas)
    assert seen == {3: (60, 16, 3), 4: (60, 48)}


def test_the_benchmark_computes_features_once(pictures):
    images, betas = pictures
    calls = []

    class Counted(PixelFeatures):
        def _extract(self, batch):
            calls.append(len(batch))
            return super()._extract(batch)

    pixels = Counted(size=4)
    stack = StackedEncoder([RidgeEncoder(pixels), RidgeEncoder(spaces()[1]), MeanEncoder()])
    data = brainenc.EncodingData(images, betas)
    brainenc.benchmark(
        data,
        {"stack": stack, "pixels": RidgeEncoder(pixels)},
        cv=3,
        n_bootstraps=10,
        n_permutations=10,
    )
    assert sum(calls) == 60
    by_hand = StackedEncoder(stack.encoders).fit(images, betas)
    computed = {
        id(t): t.fit(images).transform(images) for t in (pixels, stack.encoders[1].features)
    }
    given, X = stack.precompute(
        images, lambda t: computed.get(id(t), t.fit(images).transform(images))
    )
    np.testing.assert_allclose(given.fit(X, betas).predict(X), by_hand.predict(images), atol=1e-5)


def test_only_the_mean_on_images(pictures):
    images, betas = pictures
    stack = StackedEncoder([MeanEncoder()]).fit(images, betas)
    np.testing.assert_allclose(stack.predict(images)[0], betas.mean(0), rtol=1e-5)


# -------------------------------------------------------------------- draws


@pytest.fixture(scope="module")
def disagreeing():
    """Members that each know half of what drives a voxel; trial noise shared by all voxels."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((900, 12)).astype(np.float32)
    mixing = rng.standard_normal((12, 8)) / 3
    noise = 0.6 * rng.standard_normal((900, 3, 8)) + 0.6 * rng.standard_normal((900, 3, 1))
    return X, (X @ mixing)[:, None] + noise


@pytest.mark.parametrize("draws", ["residual", "mixture"])
def test_mean_of_draws_is_the_prediction(disagreeing, draws):
    X, betas = disagreeing
    stack = StackedEncoder([FirstHalf(), SecondHalf()], draws=draws).fit(X, betas)
    sampled = stack.sample(X[:20], n=1500, random_state=0)
    error = np.abs(sampled.mean(0) - stack.predict(X[:20])) / sampled.std(0)
    assert error.max() < 5 / np.sqrt(1500)
    assert stack.sample_kind_ == draws
    np.testing.assert_array_equal(sampled[:, :, 2], stack.sample(X[:20], 1500, 0)[:, :, 2])


def test_residual_draws_have_the_spread_of_new_trials_and_a_mixture_more(disagreeing):
    X, betas = disagreeing
    members = [FirstHalf(), SecondHalf()]
    stack = StackedEncoder(members).fit(X[:600], betas[:600])
    residual = (betas[600:] - stack.predict(X[600:])[:, None]).reshape(-1, 8)
    spread = {}
    covered = {}
    for draws in ("residual", "mixture"):
        stack = StackedEncoder(members, draws=draws).fit(X[:600], betas[:600])
        sampled = stack.sample(X[600:], n=300, random_state=0)
        spread[draws] = np.mean((sampled - stack.predict(X[600:])) ** 2, axis=(0, 1))
        low, high = np.percentile(sampled, [5, 95], axis=0)
        inside = (betas[600:] >= low[:, None]) & (betas[600:] <= high[:, None])
        covered[draws] = inside.mean()
    variance = np.mean(residual**2, axis=0)
    # 900 trials of 300 images: s.e. of a variance about sqrt(2/300) = 8 % a voxel, 3 % over 8.
    assert np.mean(spread["residual"] / variance) == pytest.approx(1, abs=0.1)
    assert covered["residual"] == pytest.approx(0.9, abs=0.02)
    # Members' residuals, plus their spread around the prediction: 2 A too much (see Notes).
    predictions = [member.predict(X[600:]) for member in stack.encoders_.values()]
    ambiguity = sum(
        w * np.mean((p - stack.predict(X[600:])) ** 2, axis=0)
        for w, p in zip(stack.weights_, predictions, strict=True)
    )
    expected = variance + 2 * ambiguity
    assert np.mean(spread["mixture"] / expected) == pytest.approx(1, abs=0.1)
    assert np.mean(spread["mixture"] / variance) > 1.3
    assert covered["mixture"] > 0.93


def test_residual_draws_keep_the_noise_that_voxels_share_and_a_mixture_loses_it(problem):
    X, _ = problem
    rng = np.random.default_rng(3)
    signal = np.concatenate(
        [
            X[:, :6] @ rng.standard_normal((6, 30)) / 2.5,
            X[:, 6:] @ rng.standard_normal((6, 30)) / 2.5,
        ],
        axis=1,
    )
    betas = signal[:, None] + rng.standard_normal((240, 3, 60)) + rng.standard_normal((240, 3, 1))
    between = {}
    for draws in ("residual", "mixture"):
        stack = StackedEncoder([FirstHalf(), SecondHalf()], pooling=0, draws=draws).fit(X, betas)
        deviation = stack.sample(X, n=20, random_state=0) - stack.predict(X)
        r = np.corrcoef(deviation.reshape(-1, 60).T)
        between[draws] = r[:30, 30:].mean()
    # Half of the noise variance is common to all voxels; residuals hold some error of fits, too.
    assert between["residual"] == pytest.approx(0.5, abs=0.07)
    assert between["mixture"] < 0.2


def test_a_mixture_picks_members_by_weight_one_for_all_voxels():
    class Constant(BaseEncoder):
        def __init__(self, value=0.0):
            self.value = value

        def _fit(self, features, betas):
            self.fitted_ = True
            return betas.mean(axis=1)

        def _predict(self, features):
            return np.full((len(features), self.n_voxels_), self.value, dtype=np.float32)

        def _draw(self, features, n, rng, part):
            return np.tile(self._predict(features), (n, 1, 1))

    X = np.random.default_rng(0).standard_normal((20, 2))
    stack = StackedEncoder([Constant(1.0), Constant(2.0), Constant(3.0)], draws="mixture")
    stack.fit(X, np.random.default_rng(0).standard_normal((20, 4)))
    stack.weights_ = np.array([[0.2, 0.2, 1, 0], [0.3, 0.3, 0, 0], [0.5, 0.5, 0, 1]])
    draws = stack.sample(X[:5], n=4000, random_state=0)
    shares = [(draws[..., 0] == value).mean() for value in (1, 2, 3)]
    np.testing.assert_allclose(shares, [0.2, 0.3, 0.5], atol=0.015)  # 20 000 draws: s.e. .0035
    np.testing.assert_array_equal(draws[..., 0], draws[..., 1])
    assert (draws[..., 2] == 1).all()
    assert (draws[..., 3] == 3).all()


def test_it_learns_a_deterministic_map():
    """Each member sees half of the features; some voxels follow one half, some the other."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 8)).astype(np.float32)
    weights = rng.standard_normal((8, 20))
    weights[:4, :10] = weights[4:, 10:] = 0
    betas = (X @ weights + 3).astype(np.float32)
    stack = StackedEncoder(
        {"first": RidgeEncoder(), "second": RidgeEncoder()},
        inputs={"first": (0, 4), "second": (4, 4)},
        pooling=0,
    ).fit(X[:200], betas[:200])
    error = np.square(stack.predict(X[200:]) - betas[200:]).mean(0) / betas[200:].var(0)
    # Ridge with the smallest of its penalties shrinks by 1e-4; the other member's weight must be
    # nearly 0, where an even blend would leave a quarter of the variance.
    assert error.max() < 1e-3
    np.testing.assert_allclose(stack.weights_[1, :10], 1, atol=0.02)
    np.testing.assert_allclose(stack.weights_[0, 10:], 1, atol=0.02)
