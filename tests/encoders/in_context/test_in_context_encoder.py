"""InContextEncoder: what of the net counts, what is held out, and what it is without a net."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge

import brainenc
from brainenc.datasets import simulate_subjects
from brainenc.encoders.in_context import encoder as module
from brainenc.encoders.in_context.context import POOLING
from brainenc.encoders.in_context.episodes import ridge_weights
from brainenc.features import PixelFeatures
from brainenc.model_selection import image_folds

N = 60
NET = {"width": 16, "depth": 1, "n_heads": 2, "hidden": 16, "dropout": 0.0}
SHORT = {"sizes": NET, "n_coordinates": 6, "n_steps": 6, "batch_size": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def subjects():
    return simulate_subjects(4, 130, 12, shared_images=0, n_tokens=4, token_width=4)


@pytest.fixture(scope="module")
def pretrained(subjects):
    encoder = brainenc.InContextEncoder(**SHORT)
    found = encoder.pretrain([(d.truth.tokens, d.betas) for d in subjects[:3]])
    assert found is encoder
    return encoder


@pytest.fixture(scope="module")
def helping(pretrained):
    """An encoder whose net is taken to help at all numbers of images."""
    known = pretrained.pretrained
    return clone(pretrained).set_params(pretrained=replace(known, gain=np.ones(len(known.sizes))))


@pytest.fixture(scope="module")
def context(subjects):
    new = subjects[3]
    return new.truth.tokens[:N], new.betas[:N]


def z_scored(Y):
    mean, sd = Y.mean(axis=0), Y.std(axis=0)
    return (Y - mean) / sd, mean, sd


def by_the_net(known, X, Y, new):
    """What the net alone predicts, without the code of the encoder."""
    flat = lambda A: A.reshape(len(A), -1).astype(np.float64)  # noqa: E731
    inputs = lambda A: (flat(A) - known.prior.feature_mean) @ known.basis  # noqa: E731
    Z, (y, mean, sd) = inputs(X), z_scored(Y)
    alpha = np.exp(np.interp(np.log(len(Z)), np.log(known.sizes), np.log(known.alphas)))
    centred = Z - Z.mean(axis=0)
    start = np.linalg.solve(centred.T @ centred + alpha * np.eye(Z.shape[1]), centred.T @ y)
    start = np.vstack([start, y.mean(axis=0) - Z.mean(axis=0) @ start])
    as_tensor = lambda A: torch.tensor(A, dtype=torch.float32)  # noqa: E731
    images = as_tensor(Z).expand(y.shape[1], *Z.shape)
    with torch.no_grad():
        found = known.net(images, as_tensor(y.T), as_tensor(start.T * np.sqrt(alpha)))
    weights = found.double().numpy().T / np.sqrt(alpha)
    return mean + sd * (inputs(new) @ weights[:-1] + weights[-1])


def test_the_prediction_is_prior_ridge_moved_towards_the_net(helping, context, subjects):
    X, betas = context
    fitted = clone(helping).fit(X, betas)
    assert (fitted.net_share_ > 0).any()
    new = subjects[3].truth.tokens[N:]
    Y = np.nanmean(betas, axis=1)
    ridge = brainenc.RidgeEncoder(None, prior=helping.prior).fit(X, betas)
    of_net = by_the_net(helping.pretrained, X, Y, new)
    expected = (1 - fitted.net_share_) * ridge.predict(new) + fitted.net_share_ * of_net
    np.testing.assert_allclose(fitted.predict(new), expected, atol=1e-4)
    # Weights are of z-scored features, as those of ridge.
    flat = X.reshape(N, -1)
    scaled = (new.reshape(len(new), -1) - flat.mean(axis=0)) / flat.std(axis=0)
    by_weights = scaled @ fitted.coef_ + fitted.intercept_
    np.testing.assert_allclose(by_weights, expected, atol=1e-4)
    assert fitted.coef_.shape == ridge.coef_.shape == (16, 12)


def test_the_share_has_the_smallest_error_on_held_out_images(helping, context):
    X, betas = context
    fitted = clone(helping)
    held_out = fitted.fit_held_out(X, betas)
    Y = np.nanmean(betas, axis=1)
    of_ridge = brainenc.RidgeEncoder(None, prior=helping.prior).fit_held_out(X, betas)
    of_net = np.full(Y.shape, np.nan)
    for train, test in image_folds(5, N, random_state=0):
        of_net[test] = by_the_net(helping.pretrained, X[train], Y[train], X[test])
    tried = np.linspace(0, 1, 2001)
    errors = np.stack(
        [np.sum((Y - of_ridge - s * (of_net - of_ridge)) ** 2, axis=0) for s in tried]
    )
    scale = errors[0] + errors[-1]  # voxels on one scale
    errors = errors / scale
    pooled = errors + POOLING / N * errors.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.net_share_, tried[pooled.argmin(axis=0)], atol=2e-3)
    share = fitted.net_share_
    np.testing.assert_allclose(held_out, (1 - share) * of_ridge + share * of_net, atol=1e-4)


def test_a_net_that_did_not_help_in_the_pretraining_counts_for_nothing(helping, context):
    known = helping.pretrained
    encoder = clone(helping).set_params(
        pretrained=replace(known, sizes=np.array([30, 120]), alphas=np.ones(2), gain=[-1.0, 1.0])
    )
    X, betas = context
    # log(60) is halfway between log(30) and log(120): the gain is 0 there.
    fitted = encoder.fit(X, betas)
    ridge = brainenc.RidgeEncoder(None, prior=helping.prior).fit(X, betas)
    np.testing.assert_array_equal(fitted.predict(X), ridge.predict(X))
    np.testing.assert_array_equal(fitted.sample(X, 2, 0), ridge.sample(X, 2, 0))
    assert (fitted.net_share_ == 0).all()


def test_without_a_net_it_says_so_or_is_ridge(context, helping):
    X, betas = context
    with pytest.raises(ValueError, match=r"has no net: call pretrain\(subjects\)"):
        brainenc.InContextEncoder().fit(X, betas)
    for prior in (None, helping.prior):
        encoder = brainenc.InContextEncoder(untrained="ridge", prior=prior).fit(X, betas)
        ridge = brainenc.RidgeEncoder(prior=prior).fit(X, betas)
        np.testing.assert_array_equal(encoder.predict(X), ridge.predict(X))
        for noise in ("auto", "weights"):
            ours, theirs = (e.sample(X, 2, 0, noise=noise) for e in (encoder, ridge))
            np.testing.assert_array_equal(ours, theirs)


def test_missing_images_of_a_voxel_are_left_out_of_its_context(helping, context):
    X, betas = context
    holed = betas.copy()
    holed[:20, :, 2] = np.nan
    holed[:, :, 5] = np.nan
    fitted, whole = clone(helping).fit(X, holed), clone(helping).fit(X, betas)
    prediction = fitted.predict(X)
    assert np.isnan(prediction[:, 5]).all()
    others = np.delete(np.arange(12), [2, 5])
    assert np.isfinite(prediction[:, others]).all()
    # The pooled errors lack two voxels, which moves shares a little.
    np.testing.assert_allclose(prediction[:, others], whole.predict(X)[:, others], atol=0.1)
    share = fitted.net_share_[2]
    of_net = by_the_net(helping.pretrained, X[20:], np.nanmean(betas, axis=1)[20:, [2]], X)
    alone = brainenc.RidgeEncoder(None, prior=helping.prior).fit(X, holed).predict(X)[:, 2]
    np.testing.assert_allclose(
        prediction[:, 2], (1 - share) * alone + share * of_net[:, 0], atol=1e-3
    )


def test_draws_saving_and_changed_parameters(helping, context, tmp_path):
    X, betas = context
    fitted = clone(helping).fit(X, betas)
    loaded = brainenc.load(fitted.save(tmp_path / "model"))
    assert loaded.pretrained.net.sizes == fitted.pretrained.net.sizes
    for noise in ("auto", "weights", "trial"):
        drawn = fitted.sample(X[:5], 3, 0, noise=noise)
        assert np.isfinite(drawn).all()
        np.testing.assert_array_equal(loaded.sample(X[:5], 3, 0, noise=noise), drawn)
    expected = fitted.predict(X)
    np.testing.assert_array_equal(loaded.predict(X), expected)
    fitted.set_params(pretrained=None, prior=None, sizes="published", n_coordinates=1)
    np.testing.assert_array_equal(fitted.predict(X), expected)
    np.testing.assert_array_equal(loaded.fit(X, betas).predict(X), expected)


def test_adapt_keeps_the_net_and_the_prior(helping, context, subjects):
    fitted = clone(helping).fit(subjects[2].truth.tokens, subjects[2].betas)
    X, betas = context
    adapted = fitted.adapt(X, betas[..., :7])
    expected = clone(helping).fit(X, betas[..., :7])
    np.testing.assert_array_equal(adapted.predict(X), expected.predict(X))
    assert adapted.pretrained is helping.pretrained


def test_a_prior_can_be_made_of_it(helping, context):
    X, betas = context
    fitted = clone(helping).fit(X, betas)
    prior = brainenc.WeightPrior.from_encoders([fitted])
    W = fitted.coef_ / fitted.regression_.feature_scale[:, None]
    # Directions of the prior are those of the weights.
    F = prior.factors[0]
    rest = W - F @ np.linalg.lstsq(F, W, rcond=None)[0]
    assert np.abs(rest).max() < 1e-3 * np.abs(W).max()


def test_features_of_the_pretraining_are_asked_for(helping, context):
    X, betas = context
    with pytest.raises(ValueError, match="shape"):
        clone(helping).fit(X.reshape(N, -1), betas)
    with pytest.raises(ValueError, match="another scale"):
        clone(helping).fit(100 * X + 1000, betas)


def test_images_through_an_extractor():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60, 4, 4), dtype=np.uint8) for _ in range(3)]
    betas = [x.reshape(60, -1)[:, None, :5] / 50 + rng.standard_normal((60, 1, 5)) for x in images]
    pairs = list(zip(images, betas, strict=True))
    encoder = brainenc.InContextEncoder(PixelFeatures(), **SHORT).pretrain(pairs[:2])
    pixels = [PixelFeatures().transform(x) for x in images]
    given = brainenc.InContextEncoder(None, **SHORT).pretrain(
        list(zip(pixels[:2], betas[:2], strict=True))
    )
    np.testing.assert_array_equal(encoder.pretrained.gain, given.pretrained.gain)
    np.testing.assert_allclose(
        encoder.fit(*pairs[2]).predict(images[2]),
        given.fit(pixels[2], betas[2]).predict(pixels[2]),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="shape"):
        clone(encoder).set_params(features=PixelFeatures(size=2)).fit(*pairs[2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: [], ValueError, "subjects is empty"),
        (lambda s: [3], TypeError, r"subjects\[0\] is a int"),
        (lambda s: [(s[0][0][:, :1], s[0][1]), s[1]], ValueError, "same features of all"),
        (lambda s: [(s[0][0][:20], s[0][1][:20])], ValueError, "no voxel with responses to 30"),
        (lambda s: [(s[0][0], s[0][1][:-1])], ValueError, "130"),
        (lambda s: [(np.full_like(s[0][0], np.nan), s[0][1])], ValueError, "finite"),
    ],
)
def test_subjects_that_cannot_be_learned_from(pretrained, subjects, change, error, message):
    pairs = [(d.truth.tokens, d.betas) for d in subjects[:2]]
    encoder = clone(pretrained)
    with pytest.raises(error, match=message):
        encoder.pretrain(change(pairs))
    assert encoder.pretrained is pretrained.pretrained  # nothing is lost


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sizes": "huge"}, "sizes='huge'"),
        ({"untrained": "mean"}, "untrained='mean'"),
        ({"n_coordinates": 0}, "n_coordinates=0"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"sizes": "published"}, "the pretrained net corrects a prior"),
    ],
)
def test_a_wrong_parameter_is_named(pretrained, context, parameters, message):
    with pytest.raises(ValueError, match=message):
        clone(pretrained).set_params(**parameters).fit(*context)
    with pytest.raises(TypeError, match="must be an InContextPretraining"):
        clone(pretrained).set_params(pretrained=3).fit(*context)


def test_the_same_seed_gives_the_same_net(pretrained, subjects):
    again = brainenc.InContextEncoder(**SHORT).pretrain(
        [(d.truth.tokens, d.betas) for d in subjects[:3]]
    )
    ours, theirs = (e.pretrained.net.state_dict() for e in (again, pretrained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    history = pretrained.pretrained.history
    assert history["held_out_gain"].iloc[0] == 0  # an untrained correction is none


def test_a_pretraining_is_resumed_from_its_checkpoints(pretrained, subjects, tmp_path):
    pairs = [(d.truth.tokens, d.betas) for d in subjects[:3]]
    encoder = brainenc.InContextEncoder(**SHORT, checkpoint_dir=tmp_path / "checkpoints")
    encoder.pretrain(pairs)
    with pytest.raises(FileExistsError, match="checkpoints"):
        clone(encoder).pretrain(pairs)
    again = clone(encoder).pretrain(pairs, resume=True)  # the end is there: nothing is trained
    for fresh in (encoder, again):
        ours, theirs = (e.pretrained.net.state_dict() for e in (fresh, pretrained))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match="resume=True needs checkpoint_dir"):
        clone(pretrained).pretrain(pairs, resume=True)


def test_ridge_weights_of_each_voxel():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((3, 9, 4)), rng.standard_normal((3, 9))
    found = ridge_weights(torch.tensor(X), torch.tensor(y), 2.0).numpy()
    for v in range(3):
        ridge = Ridge(alpha=2.0).fit(X[v], y[v])
        np.testing.assert_allclose(found[v], [*ridge.coef_, ridge.intercept_], atol=1e-5)


# ------------------------------------------------------------------ what it learns


def kinds_of_voxels(seed, n_images=200, n_voxels=60):
    """Subjects whose voxels are each one of three kinds: a population that is not Gaussian."""
    rng = np.random.default_rng(seed)
    W = 3 * np.random.default_rng(99).standard_normal((12, 3)) / np.sqrt(12)
    X = rng.standard_normal((n_images, 12)).astype(np.float32)
    signal = X @ W[:, rng.integers(3, size=n_voxels)]
    return X, (signal + 8 * rng.standard_normal(signal.shape)).astype(np.float32), signal


@pytest.mark.slow
def test_it_beats_prior_ridge_where_voxels_are_of_kinds_and_never_with_shuffled_responses():
    encoder = brainenc.InContextEncoder(
        sizes=NET, n_coordinates=3, n_steps=250, batch_size=16, learning_rate=3e-3, device="cpu"
    ).pretrain([kinds_of_voxels(seed)[:2] for seed in range(4)])
    assert encoder.pretrained.gain[0] > 0.005
    X, y, signal = kinds_of_voxels(10)
    test = slice(100, None)

    def error(fitted):
        return np.mean((fitted.predict(X[test]) - signal[test]) ** 2)

    fitted = clone(encoder).fit(X[:20], y[:20])
    ridge = brainenc.RidgeEncoder(prior=encoder.prior).fit(X[:20], y[:20])
    assert fitted.net_share_.mean() > 0.1
    assert error(fitted) < 0.95 * error(ridge)
    # A context of shuffled responses is worth nothing: near the mean, as the prior without data.
    order = np.random.default_rng(0).permutation(100)
    shuffled = clone(encoder).fit(X[:100], y[:100][order])
    right = clone(encoder).fit(X[:100], y[:100])
    spread = [f.predict(X[test]).std(axis=0).mean() for f in (shuffled, right)]
    assert spread[0] < 0.35 * spread[1]


# ------------------------------------------------------------------ as published


def test_published_net_stages_and_training(monkeypatch, subjects):
    seen = {}

    def pretrained_net(features, averages, names, prior, net, stages, n_steps, n, run):
        seen.update(prior=prior, net=net, stages=stages, run=run)

    monkeypatch.setattr(module, "pretrained_net", pretrained_net)
    rng = np.random.default_rng(0)
    pair = rng.standard_normal((40, 512)), rng.standard_normal((40, 3))
    encoder = brainenc.InContextEncoder.published().pretrain([pair])
    sizes = {"width": 560, "depth": 20, "n_heads": 10, "hidden": 2048, "n_registers": 4}
    assert sizes.items() <= seen["net"].items()
    assert seen["prior"] is None
    assert encoder.prior is None
    kinds = [(stage.voxels, *stage.context) for stage in seen["stages"]]
    assert kinds == [("synthetic", 500, 500), ("synthetic", 30, 500), ("real", 30, 500)]
    run = seen["run"]
    assert (run.batch_size, run.learning_rate, run.weight_decay) == (64, 1e-4, 0.1)
    assert seen["net"]["dropout"] == 0.5


def test_the_published_recipe_runs_and_reads_embeddings_of_unit_length(monkeypatch, subjects):
    small = {"depth": 1, "n_heads": 2, "hidden": 8, "dropout": 0.0}
    monkeypatch.setitem(module.PRESETS["published"], "net", small)
    encoder = brainenc.InContextEncoder.published(n_steps=6, batch_size=4, device="cpu")
    encoder.pretrain([(d.truth.tokens, d.betas) for d in subjects[:3]])
    net = encoder.pretrained.net
    assert net.sizes["width"] == 60  # 10 · ((16 + 48) // 10)
    assert list(encoder.pretrained.history["stage"].unique()) == [1, 2, 3]
    X, betas = subjects[3].truth.tokens[:N], subjects[3].betas[:N]
    fitted = encoder.fit(X, betas)
    unit = X.reshape(N, -1) / np.linalg.norm(X.reshape(N, -1), axis=1, keepdims=True)
    y, mean, sd = z_scored(np.nanmean(betas, axis=1))
    with torch.no_grad():
        images = torch.tensor(unit, dtype=torch.float32).expand(12, N, 16)
        weights = net(images, torch.tensor(y.T, dtype=torch.float32)).numpy().T
    expected = mean + sd * (unit @ weights[:-1] + weights[-1])
    np.testing.assert_allclose(fitted.predict(X), expected, atol=1e-4)
    np.testing.assert_allclose(unit @ fitted.coef_ + fitted.intercept_, expected, atol=1e-4)
    np.testing.assert_allclose(fitted.predict(3 * X), fitted.predict(X), atol=1e-4)
    assert np.isfinite(fitted.sample(X[:4], 2, 0)).all()
    with pytest.raises(ValueError, match="weights"):
        fitted.sample(X[:4], 2, 0, noise="weights")
    with pytest.raises(TypeError, match="no weights of"):
        brainenc.WeightPrior.from_encoders([fitted])


def test_a_learning_curve_pretrains_it_on_the_sources(subjects, pretrained):
    features = {d.name: d.truth.tokens for d in subjects}
    curve = brainenc.learning_curve(
        subjects[3],
        {"in context": brainenc.Transfer(brainenc.InContextEncoder(**SHORT), "pretrain")},
        sources=subjects[:3],
        features=features,
        sizes=(40,),
        n_draws=1,
        n_bootstraps=10,
        random_state=0,
    )
    row = curve.summary.query("encoder == 'in context'").iloc[0]
    assert np.isfinite(row["r"])
    with pytest.raises(TypeError, match="RidgeEncoder has no method pretrain"):
        brainenc.Transfer(brainenc.RidgeEncoder(), "pretrain")


def test_a_given_prior_keeps_the_held_out_subject_out_of_the_coordinates():
    """As the page and `pretrain` say: by default that subject's betas are in the prior."""
    subjects = simulate_subjects(3, 60, 10, shared_images=0)
    pixels = PixelFeatures(size=4, verbose=False)
    last = subjects[-1]
    changed = brainenc.EncodingData(last.images, last.betas[::-1], name=last.name)

    def basis(held_out, prior):
        sources = [*subjects[:-1], held_out]
        prior = brainenc.WeightPrior.fit(sources[:-1], pixels) if prior else None
        encoder = brainenc.InContextEncoder(pixels, prior=prior, **SHORT)
        return encoder.pretrain(sources).pretrained.basis

    np.testing.assert_array_equal(basis(last, True), basis(changed, True))
    assert not np.allclose(basis(last, False), basis(changed, False), rtol=0.01)
