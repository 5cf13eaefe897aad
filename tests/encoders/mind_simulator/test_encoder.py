"""MindSimulator: it learns, repeats, is saved; its options do what they say; draws add up."""

import numpy as np
import pandas as pd
import pytest
import torch

import brainenc
from brainenc.encoders import MindSimulatorEncoder, RidgeEncoder
from brainenc.encoders import tokens as token_features
from brainenc.encoders.mind_simulator import sampler, stages
from brainenc.encoders.mind_simulator.noise import draw_spread, remaining_noise
from brainenc.encoders.mind_simulator.parameters import TRAINING, all_sizes
from brainenc.metrics import correlation
from brainenc.nets import DiffusionPrior, soft_clip_loss
from brainenc.nets.diffusion import cosine_schedule
from brainenc.noise.gaussian import ResidualNoise
from brainenc.repeats import average_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.training import TrainingResult, TrainingRun
from brainenc.training.batches import Batch

SMALL = {"n_latents": 2, "latent_width": 4, "hidden": 24, "width": 16, "depth": 1, "head_width": 4}
#: The network alone: what blends do is in tests/encoders/test_blended.py.
FAST = {"sizes": SMALL, "autoencoder_epochs": 3, "prior_epochs": 1, "n_steps": 6, "blend": None}
#: The published design, smaller: no linear start, the latent has the shape of the tokens.
PLAIN = {
    "sizes": SMALL | {"n_latents": None, "latent_width": None, "dropout": 0, "prior_dropout": 0},
    "gaussian_start": False,
    "voxel_dropout": 0.0,
}

#: Voxels of `problem` that have data.
WITH_DATA = np.arange(20) != 3


def simulated(n_images=150, n_voxels=20, n_repeats=2, noise_sd=1.0, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n_images, 3, 4)).astype(np.float32)
    signal = tokens.reshape(n_images, -1) @ rng.standard_normal((12, n_voxels)) / np.sqrt(12)
    noise = noise_sd * rng.standard_normal((n_images, n_repeats, n_voxels))
    return tokens, (signal[:, None] + 2 + noise).astype(np.float32)


@pytest.fixture(scope="module")
def problem():
    tokens, betas = simulated()
    betas[:, :, 3] = np.nan
    betas[:40, 1, 5] = np.nan
    betas[::7, 1] = np.nan
    return tokens, betas


@pytest.fixture(scope="module")
def fitted(problem):
    return MindSimulatorEncoder(**FAST).fit(*problem)


@pytest.fixture(scope="module")
def plain(problem):
    """Trained for long enough that the prior listens to its condition."""
    return MindSimulatorEncoder(**(FAST | PLAIN | {"prior_epochs": 30, "learning_rate": 5e-3})).fit(
        *problem
    )


# ------------------------------------------------------------------ tokens larger than memory


@pytest.mark.parametrize("options", [FAST, FAST | PLAIN], ids=["auto", "plain"])
def test_tokens_in_half_precision_are_read_batch_by_batch(problem, options, tmp_path, monkeypatch):
    tokens, betas = problem
    np.save(tmp_path / "tokens.npy", tokens.astype(np.float16))
    half = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    at_once = MindSimulatorEncoder(**options).fit(half.astype(np.float32), betas)
    monkeypatch.setattr(token_features, "TOKENS_IN_MEMORY", 0)
    # Three images at a time: predictions in blocks.
    monkeypatch.setattr(stages, "BLOCK_VALUES", 3 * 5 * 20)
    lazily = MindSimulatorEncoder(**options).fit(half, betas)
    assert not isinstance(lazily._tokens(half), np.ndarray) or lazily._tokens(half) is half
    # Sums of float32 in batches of other sizes, made more of by training.
    close = {"rtol": 1e-2, "atol": 1e-2}
    np.testing.assert_allclose(lazily.predict(half), at_once.predict(tokens), **close)
    np.testing.assert_allclose(lazily.noise_.variance, at_once.noise_.variance, **close)
    draws, expected = (encoder.sample(half, 2, 0) for encoder in (lazily, at_once))
    assert draws.dtype == np.float32
    assert correlation(draws.reshape(-1, 20), expected.reshape(-1, 20))[WITH_DATA].min() > 0.999


def test_latents_are_aligned_with_averages_of_tokens_that_would_fill_the_memory(monkeypatch):
    tokens = np.random.default_rng(0).standard_normal((40, 16, 3)).astype(np.float32)
    learnt = np.arange(40) < 30
    monkeypatch.setattr(token_features, "TOKENS_IN_MEMORY", 0)
    at_once = stages.clip_targets(tokens, learnt, (2, 4))  # few numbers: nothing to average
    monkeypatch.setattr(token_features, "MAX_LINEAR", 12)
    averaged = stages.clip_targets(tokens, learnt, (2, 4))
    grid = tokens.reshape(40, 2, 2, 2, 2, 3).mean((2, 4)).reshape(40, 4, 3)
    assert averaged.shape == (40, 2, 4)
    np.testing.assert_allclose(averaged, stages.clip_targets(grid, learnt, (2, 4)), atol=1e-5)
    assert np.abs(averaged - at_once).max() > 0.1


# ------------------------------------------------------------------ learning


@pytest.mark.slow
def test_the_networks_learn_a_deterministic_map():
    """Without the linear start: responses that are a function of the tokens, without noise."""
    tokens, betas = simulated(400, 12, 1, noise_sd=0.0)
    encoder = MindSimulatorEncoder(
        **PLAIN
        | {"sizes": PLAIN["sizes"] | {"hidden": 64, "width": 32, "depth": 2, "head_width": 8}},
        n_steps=20,
        autoencoder_epochs=60,
        prior_epochs=120,
        learning_rate=3e-3,
    ).fit(tokens[:320], betas[:320])
    r = correlation(encoder.predict(tokens[320:]), betas[320:, 0])
    # A few hundred steps on 272 images come to .84 (on one computer; rounding moves it a little).
    # A prior that ignores its condition, or a decoder that does not decode, has r 0.
    assert r.mean() > 0.75


def test_it_is_close_to_ridge_where_the_truth_is_linear():
    tokens, betas = simulated(300, 20, 2)
    train, test = slice(220), slice(220, None)
    sizes = {"n_latents": 3, "latent_width": 8, "hidden": 64}
    ours = MindSimulatorEncoder(sizes=sizes, voxel_dropout=0.2, prior_epochs=1)
    average = average_repeats(betas[test])
    r = [
        correlation(e.fit(tokens[train], betas[train]).predict(tokens[test]), average).mean()
        for e in (ours, RidgeEncoder())
    ]
    # The autoencoder has learnt from 187 of 220 images; the mean has r 0.
    assert r[1] > 0.5
    assert r[0] > r[1] - 0.1


def test_few_images_leave_ridge_alone(problem):
    tokens, betas = problem[0][:99], problem[1][:99]
    with pytest.warns(UserWarning, match="99 images, fewer than min_images=100.* as ridge"):
        encoder = MindSimulatorEncoder(**FAST).fit(tokens, betas)
    ridge = RidgeEncoder().fit(tokens, betas)
    np.testing.assert_array_equal(encoder.predict(tokens), ridge.predict(tokens))
    np.testing.assert_array_equal(encoder.sample(tokens, 2, 0), ridge.sample(tokens, 2, 0))
    assert encoder.autoencoder_ is None
    assert len(encoder.history_) == 0
    with pytest.raises(ValueError, match="fewer than min_images=100 images"):
        encoder.sample(tokens, start=np.zeros(20))


def test_without_a_linear_start_few_images_are_learnt_by_the_networks(problem):
    tokens, betas = problem[0][:60], problem[1][:60]
    encoder = MindSimulatorEncoder(**FAST | PLAIN).fit(tokens, betas)  # and nothing is warned of
    assert encoder.linear_ is None
    assert set(encoder.history_["stage"]) == {"autoencoder", "prior"}


# ------------------------------------------------------------------ losses, by hand


class KnownBatch(Batch):
    """A batch whose random numbers are known."""

    def __init__(self, fields, numbers, **when):
        super().__init__({name: torch.from_numpy(field) for name, field in fields.items()}, **when)
        self.numbers = numbers

    def uniform(self, *shape):
        assert self.numbers["uniform"].shape == (len(self), *shape)
        return torch.from_numpy(self.numbers["uniform"])

    def normal(self, *shape):
        assert self.numbers["normal"].shape == (len(self), *shape)
        return torch.from_numpy(self.numbers["normal"])

    def integers(self, high, *shape):
        """The largest there are, and the smallest."""
        return torch.tensor([high - 1, 0] * len(self))[: len(self)]


@pytest.fixture
def trials(problem):
    tokens, betas = problem
    mean, sd = np.random.default_rng(1).uniform(1, 2, (2, 20)).astype(np.float32)
    learnt = np.arange(len(betas)) % 5 > 0
    return stages.Trials(betas, average_repeats(betas), tokens, mean, sd, learnt)


#: What both losses depend on, at the values of `FAST`.
OPTIONS = TRAINING["auto"] | {"condition_dropout": 0.2, "n_steps": 6}
RUN = TrainingRun(batch_size=64, learning_rate=1e-3, weight_decay=0.05)


def losses_of(monkeypatch, fit, *arguments):
    """The loss and the examples that a stage would be trained with."""
    seen = {}

    def kept(run, net, loss, examples, settings, **more):
        seen.update(loss=loss, examples=examples)
        return TrainingResult(pd.DataFrame(), 0, "end", None, "last", {}, None)

    monkeypatch.setattr(TrainingRun, "train", kept)
    fit(*arguments)
    return seen["loss"], seen["examples"]


def learnt_trials(trials):
    """Image and repeat of each, (2, n_trials); voxel 0 has data in all trials there are."""
    present = np.isfinite(trials.betas[:, :, 0])
    return np.stack(np.nonzero(present & trials.learnt[:, None]))


def small_autoencoder():
    return stages.make_autoencoder((3, 4), 20, all_sizes(SMALL), 0).eval()


@pytest.mark.parametrize(("step", "temperature"), [(0, 0.3), (5, 0.2), (2, 0.2809017)])
def test_the_loss_of_the_autoencoder(trials, monkeypatch, step, temperature):
    """Hidden voxels are 0 and the others larger; the average is to be told; half a cosine."""
    options = OPTIONS | {"temperature": (0.3, 0.1), "voxel_dropout": 0.25}
    net, rng = small_autoencoder(), np.random.default_rng(0)
    targets = rng.standard_normal((150, 2, 4)).astype(np.float32)
    loss, examples = losses_of(
        monkeypatch, stages.fit_autoencoder, net, trials, targets, RUN, options
    )
    rows = np.arange(0, len(examples), 9)
    hidden = rng.random((len(rows), 20)).astype(np.float32)
    with torch.no_grad():
        found = loss(net, KnownBatch(examples[rows], {"uniform": hidden}, step=step, n_steps=10))
    image, repeat = learnt_trials(trials)[:, rows]
    z = (trials.betas[image, repeat] - trials.mean) / trials.sd
    z = np.where(np.isnan(z) | (hidden < 0.25), 0, z) / 0.75
    with torch.no_grad():
        decoded, latent = net(torch.from_numpy(z.astype(np.float32)))
    wanted = (trials.averages[image] - trials.mean) / trials.sd
    error = np.nanmean((decoded.numpy() - wanted) ** 2)
    clip = soft_clip_loss(latent, torch.from_numpy(targets[image]), temperature)
    # float32 sums of a few hundred numbers.
    assert float(found["reconstruction"]) == pytest.approx(error, rel=1e-4)
    assert float(found["soft_clip"]) == pytest.approx(float(clip), rel=1e-4)
    assert float(found["loss"]) == pytest.approx(error + float(clip), rel=1e-4)


@pytest.mark.parametrize("linear", [True, False])
def test_the_loss_of_the_prior(trials, monkeypatch, linear):
    """Noise is added to what the linear path leaves, and what is Gaussian of it is known."""
    net, rng = small_autoencoder(), np.random.default_rng(0)
    prior = stages.make_prior((3, 4), (2, 4), all_sizes(SMALL), OPTIONS["n_steps"], 0).eval()
    for weight in (prior.latents_out.weight, prior.no_condition):  # listens, and to no image too
        torch.nn.init.normal_(weight)
    mean, sd = rng.standard_normal((2, 4)).astype(np.float32), 0.7
    axes = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    variance = np.linspace(0.1, 2, 8).astype(np.float32)
    scale = stages.LatentScale(mean, sd, *((axes, variance) if linear else ()))
    expected = rng.standard_normal((150, 2, 4)).astype(np.float32) if linear else None
    loss, examples = losses_of(
        monkeypatch, stages.fit_prior, prior, net, scale, trials, expected, RUN, OPTIONS
    )
    rows = np.arange(0, len(examples), 9)
    noise = rng.standard_normal((len(rows), 2, 4)).astype(np.float32)
    shown = np.where(np.arange(len(rows)) % 3, 0.21, 0.19).astype(np.float32)
    with torch.no_grad():
        found = loss(prior, KnownBatch(examples[rows], {"uniform": shown, "normal": noise}))
    image, repeat = learnt_trials(trials)[:, rows]
    step = np.where(np.arange(len(rows)) % 2, 1, 6)  # of six
    kept = cosine_schedule(6)[step]
    z = np.nan_to_num((trials.betas[image, repeat] - trials.mean) / trials.sd)
    with torch.no_grad():
        x0 = (net.encode(torch.from_numpy(z.astype(np.float32))).numpy() - mean) / sd
        x0 = (x0 - expected[image] if linear else x0).reshape(-1, 8)
        noisy = np.sqrt(kept)[:, None] * x0 + np.sqrt(1 - kept)[:, None] * noise.reshape(-1, 8)
        guess = prior(
            torch.from_numpy(noisy.reshape(-1, 2, 4).astype(np.float32)),
            torch.from_numpy(step),
            torch.from_numpy(trials.tokens[image]),
            torch.from_numpy(shown >= 0.2),
        ).numpy()
    guess = guess.reshape(-1, 8).astype(float)
    if linear:
        # The Gaussian's conditional mean: covariance with the noisy latent, times its inverse.
        covariance = axes @ np.diag(variance) @ axes.T
        for row, share in enumerate(kept):
            of_noisy = share * covariance + (1 - share) * np.eye(8)
            guess[row] += np.sqrt(share) * covariance @ np.linalg.solve(of_noisy, noisy[row])
    error = np.mean((guess - x0) ** 2)
    assert float(found["denoising_mse"]) == pytest.approx(error, rel=1e-4)  # float32
    assert float(found["loss"]) == pytest.approx(300 * error, rel=1e-4)  # as published


# ------------------------------------------------------------------ the contract, with its nets


def test_repeats_for_a_seed_and_leaves_the_global_one(problem, fitted):
    tokens, _ = problem
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = MindSimulatorEncoder(**FAST).fit(*problem)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(again.predict(tokens), fitted.predict(tokens))
    np.testing.assert_array_equal(again.sample(tokens, 2, 1), fitted.sample(tokens, 2, 1))
    others = np.isfinite(fitted.mean_) & ~fitted.undefined_
    different = fitted.sample(tokens, 2, 2) != again.sample(tokens, 2, 1)
    assert different[..., others].all()
    other_seed = MindSimulatorEncoder(**FAST, random_state=1).fit(*problem)
    assert not np.allclose(other_seed.predict(tokens), fitted.predict(tokens), equal_nan=True)


def test_a_prediction_does_not_depend_on_the_other_images(problem, fitted):
    tokens, _ = problem
    whole = fitted.predict(tokens)
    np.testing.assert_allclose(fitted.predict(tokens[7:9]), whole[7:9], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", ["fitted", "plain"])
def test_save_and_load(which, problem, tmp_path, request):
    tokens, encoder = problem[0], request.getfixturevalue(which)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_allclose(loaded.predict(tokens), encoder.predict(tokens), rtol=1e-6)
    for noise in ("full", "latent", None):
        np.testing.assert_allclose(
            loaded.sample(tokens, 2, 0, noise=noise),
            encoder.sample(tokens, 2, 0, noise=noise),
            rtol=1e-6,
        )


def test_missing_data(problem, fitted):
    tokens, _ = problem
    prediction, draws = fitted.predict(tokens), fitted.sample(tokens, 2, 0)
    assert np.isnan(prediction[:, 3]).all()
    assert np.isnan(draws[..., 3]).all()
    others = np.arange(20) != 3
    assert np.isfinite(prediction[:, others]).all()
    assert np.isfinite(draws[..., others]).all()


def test_a_missing_trial_counts_neither_in_the_input_nor_in_the_error(problem):
    tokens, betas = problem
    outlier = np.where(np.isnan(betas), 1e6, betas)
    learnt = np.ones(len(betas), dtype=bool)
    mean, sd = np.full((2, 20), 1.0, dtype=np.float32)
    average = average_repeats(betas)
    trials = stages.Trials(betas, average, tokens, mean, sd, learnt)
    image, repeat = trials.index(learnt)
    assert len(image) == np.isfinite(betas).any(axis=2).sum()
    net = small_autoencoder()
    z = stages.encode(net, trials, image, repeat, "cpu")
    filled = np.where(np.isnan(betas), 1.0, outlier).astype(np.float32)
    expected = stages.encode(
        net, stages.Trials(filled, average, tokens, mean, sd, learnt), image, repeat, "cpu"
    )
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)


def test_held_out_images_are_not_learnt(problem):
    """Responses of held-out images choose epochs, and are in no gradient."""
    tokens, betas = problem
    encoder = MindSimulatorEncoder(**FAST | PLAIN)
    held_out = encoder.fit_held_out(tokens, betas)
    held = np.isfinite(held_out).any(axis=1)
    assert held.sum() == round(0.15 * 150)
    np.testing.assert_allclose(held_out[held], encoder.predict(tokens[held]), rtol=1e-4, atol=1e-4)
    changed = betas.copy()
    changed[held] += 50
    again = MindSimulatorEncoder(**FAST | PLAIN).fit(tokens, changed)
    np.testing.assert_array_equal(again.mean_, encoder.mean_)
    losses = [e.history_.query("stage == 'autoencoder'").loss for e in (encoder, again)]
    np.testing.assert_array_equal(*losses)


def test_images_held_out_are_some_that_have_data(problem):
    tokens, betas = problem
    encoder = MindSimulatorEncoder(**FAST, validation=0.02)
    first = np.isfinite(encoder.fit_held_out(tokens, betas)).any(axis=1)
    assert first.sum() == 3
    # Without these there was nothing to judge by, which the fit ended with.
    held_out = encoder.fit_held_out(tokens, np.where(first[:, None, None], np.nan, betas))
    held = np.isfinite(held_out).any(axis=1)
    assert held.sum() == 3
    assert not (held & first).any()


def test_held_out_predictions_are_of_the_images_held_out(problem):
    tokens, betas = problem
    encoder = MindSimulatorEncoder(**(FAST | PLAIN))
    held_out = encoder.fit_held_out(tokens, betas)
    rows = np.isfinite(held_out).any(axis=1)
    assert rows.sum() == round(0.15 * len(rows))
    # Without a linear path nothing else is known of them than at prediction.
    np.testing.assert_allclose(held_out[rows], encoder.predict(tokens)[rows], atol=1e-5)


def test_the_linear_path_is_not_asked_of_images_it_has_learnt(problem, monkeypatch):
    """It learns the held-out images too; asked of these, it made noise 9 % too small."""

    def asked(self, features):
        raise AssertionError("ridge has learnt these images")

    monkeypatch.setattr(RidgeRegression, "predict", asked)
    held_out = MindSimulatorEncoder(**FAST).fit_held_out(*problem)
    assert np.isfinite(held_out).any(axis=1).sum() == round(0.15 * 150)


def test_checkpoints_resume_to_the_same_encoder(problem, fitted, tmp_path):
    kept = MindSimulatorEncoder(**FAST, checkpoint_dir=tmp_path / "run").fit(*problem)
    resumed = MindSimulatorEncoder(**FAST, checkpoint_dir=tmp_path / "run")
    with pytest.raises(FileExistsError):
        resumed.fit(*problem)
    resumed.fit(*problem, resume=True)
    for encoder in (kept, resumed):
        np.testing.assert_array_equal(encoder.predict(problem[0]), fitted.predict(problem[0]))


# ------------------------------------------------------------------ options


def with_options(encoder, **options):
    """The same fitted encoder with other options of drawing."""
    import copy

    return copy.copy(encoder).set_params(**options)


def correlation_of_draws(encoder, tokens):
    """Mean correlation, over images and voxels, between the draws of an image."""
    draws = encoder.sample(tokens, 6, 0, noise="latent")[..., [0, 1, 2, 4]]
    deviations = draws - draws.mean(axis=(0, 1))
    left = deviations - fitted_mean(encoder, tokens, draws)
    return np.mean(left[0] * left[1:]) / np.mean(left**2)


def fitted_mean(encoder, tokens, draws):
    many = with_options(encoder, noise_correlation=0.0).sample(tokens, 60, 9, noise="latent")
    return many.mean(axis=0)[..., [0, 1, 2, 4]] - draws.mean(axis=(0, 1))


def test_correlated_noise_correlates_the_draws_of_an_image(problem, fitted):
    tokens = problem[0][:60]
    r = [
        correlation_of_draws(with_options(fitted, noise_correlation=rho), tokens)
        for rho in (0.0, 0.5)
    ]
    # 60 images, 5 pairs, four voxels of a latent of 8: the s.e. is about .03. The mean of 60
    # draws that is taken off adds 1/60.
    assert r[0] == pytest.approx(0, abs=0.15)
    assert r[1] == pytest.approx(0.5, abs=0.2)
    same = with_options(fitted, noise_correlation=1.0).sample(tokens, 3, 0, noise="latent")
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5, atol=1e-5)


def test_guidance_of_one_is_none_and_more_exaggerates(problem, plain):
    tokens = problem[0]
    plain_prediction = plain.predict(tokens)
    spread = [
        np.std(with_options(plain, guidance=g).predict(tokens)[:, WITH_DATA], axis=0).mean()
        for g in (0, 1, 3)
    ]
    assert spread[0] < 0.02 * spread[1]  # no condition, and the same noise for all
    assert spread[2] > 1.2 * spread[1]
    near = with_options(plain, guidance=1 + 1e-6).predict(tokens)
    np.testing.assert_allclose(near, plain_prediction, rtol=1e-3, atol=1e-3)


def test_ddim_with_all_steps_and_full_randomness_is_ddpm(problem, plain):
    tokens = problem[0][:20]
    ddpm = plain.sample(tokens, 2, 0, noise="latent")
    ddim = with_options(plain, n_sampling_steps=6, eta=1.0).sample(tokens, 2, 0, noise="latent")
    np.testing.assert_allclose(ddim, ddpm, rtol=1e-4, atol=1e-5)
    fewer = with_options(plain, n_sampling_steps=2).sample(tokens, 2, 0, noise="latent")
    assert not np.allclose(fewer, ddpm, equal_nan=True)


def test_the_prediction_is_the_mean_of_so_many_draws(problem, fitted):
    tokens = problem[0][:20]
    # The same noise whatever the number: means of more draws are nearer to that of very many.
    far = with_options(fitted, n_draws=200).predict(tokens)
    errors = [
        np.nanmean((with_options(fitted, n_draws=n).predict(tokens) - far) ** 2) for n in (1, 5, 40)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_prior_that_says_nothing_need_not_be_asked(problem, monkeypatch):
    # The last layer is 0 at the start, which stays the best epoch where training is hopeless.
    encoder = MindSimulatorEncoder(**(FAST | {"learning_rate": 1e-12})).fit(*problem)
    torch.nn.init.zeros_(encoder.prior_.latents_out.weight)
    torch.nn.init.zeros_(encoder.prior_.latents_out.bias)
    skipped = encoder.sample(problem[0][:4], 3, 0)
    monkeypatch.setattr(DiffusionPrior, "is_silent", False)
    np.testing.assert_array_equal(encoder.sample(problem[0][:4], 3, 0), skipped)


def test_draws_start_from_a_given_latent(problem, fitted):
    tokens = problem[0][:30]
    rest = problem[1][1, 0]
    z = torch.from_numpy(np.nan_to_num((rest - fitted.mean_) / fitted.scale_))[None]
    with torch.no_grad():
        decoded = fitted.autoencoder_(z.float())[0][0].numpy()
    options = {"noise": "latent", "random_state": 0}

    def distance(**start):
        """From what the latent of `rest` is decoded to, in s.d. of the voxels."""
        draws = fitted.sample(tokens, 20, **options, **start)
        z = (draws - fitted.mean_) / fitted.scale_
        return np.sqrt(np.mean(np.square(z - decoded)[..., WITH_DATA]))

    free = distance()
    assert distance(start=rest, start_share=1 / 6) < 0.7 * free  # one step of six is left
    # After all steps hardly anything remains: the schedule ends with less than .1 % of variance.
    assert distance(start=rest, start_share=1.0) == pytest.approx(free, rel=0.15)
    for bad, message in ((rest[:5], "n_voxels"), (np.zeros((2, 20)), "n_voxels")):
        with pytest.raises(ValueError, match=message):
            fitted.sample(tokens, start=bad)
    with pytest.raises(ValueError, match="start_share"):
        fitted.sample(tokens, start=rest, start_share=0)


@pytest.mark.parametrize("which", ["fitted", "plain"])
def test_a_start_comes_back_where_nothing_happens_to_it(which, problem, monkeypatch, request):
    """Without noise and its removal, what the linear path expects is taken off and put back."""
    encoder, rest = request.getfixturevalue(which), problem[1][1, 0]
    monkeypatch.setattr(sampler, "add_noise", lambda x0, noise, kept: x0.expand_as(noise))
    monkeypatch.setattr(sampler, "denoise", lambda predict, x, *others: x)
    draws = encoder.sample(problem[0][:5], 2, 0, noise="latent", start=rest)
    z = torch.from_numpy(np.nan_to_num((rest - encoder.mean_) / encoder.scale_))[None]
    with torch.no_grad():
        decoded = encoder.autoencoder_(z.float())[0][0].numpy()
    expected = np.broadcast_to(decoded * encoder.scale_ + encoder.mean_, draws.shape)
    # float32, scaled down and up again.
    np.testing.assert_allclose(draws[..., WITH_DATA], expected[..., WITH_DATA], atol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        {"sizes": "large"},
        {"sizes": {"heads": 3}},
        {"n_draws": 0},
        {"eta": 2},
        {"noise_correlation": -0.1},
        {"validation": 1.0},
        {"guidance": 2.0, "condition_dropout": 0.0},
        {"learning_rate": 0},
    ],
)
def test_bad_parameters_are_named(problem, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        MindSimulatorEncoder(**bad).fit(*problem)


# ------------------------------------------------------------------ draws


def test_what_draws_scatter_already_is_not_added_again():
    rng = np.random.default_rng(0)
    latent, shared = rng.standard_normal((3, 12)), 1.5 * rng.standard_normal((4, 12))
    spread = ResidualNoise(latent, np.full(12, 0.1))
    # Residuals of trials: latent, what else they share, and what voxels have alone; and a fifth
    # of the latent's again, as the prediction is the mean of five draws.
    factors = np.concatenate([np.sqrt(1.2) * latent, shared])
    noise = ResidualNoise(factors, np.sqrt(np.full(12, 0.5 + 1.2 * 0.01)))
    left = remaining_noise(noise, spread, 5)
    np.testing.assert_allclose(left.covariance(), shared.T @ shared + 0.5 * np.eye(12), atol=1e-4)


def test_nothing_is_added_where_draws_scatter_more_than_trials():
    spread = ResidualNoise(np.array([[2.0, 0.0, 0.0]]), np.zeros(3))
    noise = ResidualNoise(np.array([[1.0, 1.0, 0.0]]), np.array([0.5, 0.5, np.nan]))
    left = remaining_noise(noise, spread, 5)
    assert left.variance[0] == 0
    assert left.variance[1] == pytest.approx(1.25)
    assert np.isnan(left.private_sd[2])


def test_spread_is_the_covariance_of_draws_around_their_mean():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((2, 5))
    draws = rng.standard_normal((4, 5000, 2)) @ factors + rng.standard_normal((5000, 5))
    # 15 000 degrees of freedom: the s.e. of a variance is 1.2 %.
    np.testing.assert_allclose(
        draw_spread(draws).covariance(), factors.T @ factors, rtol=0.05, atol=0.1
    )


def test_full_draws_vary_as_held_out_single_trials_do():
    tokens, betas = simulated(360, 16, 2)
    train, test = slice(240), slice(240, None)
    encoder = MindSimulatorEncoder(**FAST | {"validation": 0.3}).fit(tokens[train], betas[train])
    draws = encoder.sample(tokens[test], 60, 0)
    trials = np.mean((betas[test] - draws.mean(0)[:, None]) ** 2, axis=(0, 1))
    ratio = draws.var(axis=0, ddof=1).mean(axis=0) / trials
    # 72 images tell the noise and 120 test it: s.e. of the ratio about .17 a voxel, a third of that
    # over voxels that share most of their errors.
    assert ratio.mean() == pytest.approx(1, abs=0.15)


def test_without_images_held_out_there_are_latent_draws_alone(problem):
    encoder = MindSimulatorEncoder(**FAST, validation=0.0).fit(*problem)
    tokens = problem[0][:5]
    np.testing.assert_array_equal(
        encoder.sample(tokens, 2, 0), encoder.sample(tokens, 2, 0, noise="latent")
    )
    np.testing.assert_array_equal(
        encoder.sample(tokens, 2, 0, noise=None)[1], encoder.predict(tokens)
    )
    with pytest.raises(
        ValueError, match=r"noise='full' must be one of \['auto', 'latent', 'weights', None\]"
    ):
        encoder.sample(tokens, noise="full")


def test_the_noise_left_to_add_is_of_the_predictions_of_the_fit(problem, fitted, monkeypatch):
    """`noise_` was measured around means of so many draws; `n_draws` may have changed since."""
    tokens, _ = problem
    used = []

    def recorded(noise, spread, n_draws):
        used.append(n_draws)
        return remaining_noise(noise, spread, n_draws)

    monkeypatch.setattr("brainenc.encoders.mind_simulator.encoder.remaining_noise", recorded)
    monkeypatch.setattr(fitted, "n_draws", 9)
    fitted.sample(tokens[:2], 2, 0, noise="full")
    assert set(used) == {5}
