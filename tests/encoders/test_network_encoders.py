"""What holds for every encoder that is nothing but trained networks."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

import brainenc
from brainenc.encoders import MindReaderEncoder, RidgeEncoder, ROITransformerEncoder, network
from brainenc.encoders import tokens as token_features
from brainenc.encoders.ensemble import ensemble_folds, seeded
from brainenc.encoders.trained import MIN_IMAGES
from brainenc.repeats import average_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.training import TrainingRun

SMALL_MIND = {"n_channels": 4, "n_blocks": 1, "hidden": 16, "dropout": 0.1}
SMALL_ROI = {"hidden": 16, "n_heads": 4, "feed_forward": 16, "dropout": 0.1}
ENCODERS = {
    "mindreader": MindReaderEncoder(
        sizes=SMALL_MIND, n_members=2, n_epochs=2, learning_rate=5e-3, min_images=2
    ),
    "roitransformer": ROITransformerEncoder(
        sizes=SMALL_ROI, n_members=2, n_epochs=2, n_clusters=2, min_images=2
    ),
}


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Short trainings: what is tested here does not need good ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "LEAST_STEPS", 20)
        yield


@pytest.fixture(scope="module")
def problem():
    """Tokens and betas of 60 images: few steps, and a few trials missing."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((60, 4, 5)).astype(np.float32)
    signal = tokens.mean(1) @ rng.standard_normal((5, 8)) * 2 + 3
    betas = (signal[:, None] + rng.standard_normal((60, 3, 8))).astype(np.float32)
    betas[rng.random((60, 3)) < 0.1] = np.nan
    return tokens, betas


@pytest.fixture(scope="module", params=list(ENCODERS))
def fitted(request, problem):
    return clone(ENCODERS[request.param]).fit(*problem)


def test_the_same_seed_gives_the_same_network_and_another_another(fitted, problem):
    tokens, betas = problem
    again = clone(fitted).fit(tokens, betas)
    np.testing.assert_array_equal(again.predict(tokens), fitted.predict(tokens))
    np.testing.assert_array_equal(again.sample(tokens, 2, 1), fitted.sample(tokens, 2, 1))
    other = clone(fitted).set_params(random_state=1).fit(tokens, betas)
    assert (other.predict(tokens) != fitted.predict(tokens)).any()


def test_every_network_of_an_ensemble_has_a_training_seed_of_its_own(problem, monkeypatch):
    """With one seed all would see the examples of their folds in one order, with one dropout."""
    seeds, train = [], TrainingRun.train

    def recorded(run, net, loss, examples, settings, **options):
        seeds.append((run.random_state, settings.random_state))
        return train(run, net, loss, examples, settings, **options)

    monkeypatch.setattr(TrainingRun, "train", recorded)
    clone(ENCODERS["mindreader"]).set_params(random_state=7).fit(*problem)
    assert seeds == [(7, 7), (8, 8)]


def test_tokens_in_half_precision_are_read_batch_by_batch(fitted, problem, tmp_path, monkeypatch):
    tokens, betas = problem
    np.save(tmp_path / "tokens.npy", tokens.astype(np.float16))
    half = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    exact = half.astype(np.float32)
    at_once = clone(fitted).fit(exact, betas)
    monkeypatch.setattr(token_features, "TOKENS_IN_MEMORY", 0)
    lazily = clone(fitted).fit(half, betas)
    assert not isinstance(lazily._inputs(half), np.ndarray) or lazily._inputs(half).ndim == 2
    # Half precision is read without loss, and means over tokens are not rounded to it.
    np.testing.assert_allclose(lazily.predict(half), at_once.predict(exact), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        lazily.sample(half, 2, 0), at_once.sample(exact, 2, 0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(lazily.history_["held_out_r"], at_once.history_["held_out_r"])


def test_save_and_load(fitted, problem, tmp_path):
    tokens = problem[0]
    loaded = brainenc.load(fitted.save(tmp_path / "model"))
    assert len(loaded.members_) == 2
    np.testing.assert_allclose(loaded.predict(tokens), fitted.predict(tokens), atol=1e-6)
    np.testing.assert_allclose(loaded.sample(tokens, 2, 0), fitted.sample(tokens, 2, 0), atol=1e-6)


def test_the_best_weights_by_held_out_r_are_kept(fitted, problem):
    tokens, betas = problem
    responses = average_repeats(betas)
    folds = ensemble_folds(60, 2, 0)
    for k, (net, (_, held_out)) in enumerate(zip(fitted.members_, folds, strict=True)):
        alone = clone(fitted)
        alone.__dict__.update({**vars(fitted), "members_": [net], "blend_": None})
        r = [
            np.ma.corrcoef(
                np.ma.masked_invalid(responses[held_out, v]), alone.predict(tokens[held_out])[:, v]
            )[0, 1]
            for v in range(8)
        ]
        said = fitted.history_.query(f"member == {k}")["held_out_r"]
        # r of the weights that were kept, recomputed from the betas in another way.
        assert np.mean(r) == pytest.approx(said.max(), abs=1e-4)
        assert said.max() > said.iloc[-1] or said.idxmax() == said.index[-1]


def test_noise_comes_from_images_that_were_held_out(problem):
    """Of one member, a tenth of the images; of several, all of them, each by the other's net."""
    tokens, betas = problem
    for encoder in ENCODERS.values():
        encoder = clone(encoder).set_params(n_members=1, blend=None)
        held_out = encoder.fit_held_out(tokens, betas)
        (_, rows) = ensemble_folds(60, 1, 0)[0]
        assert len(rows) == 6
        np.testing.assert_allclose(held_out[rows], encoder.predict(tokens[rows]), atol=1e-5)
        assert np.isnan(np.delete(held_out, rows, axis=0)).all()


def test_voxels_and_images_without_data(fitted, problem):
    tokens, betas = problem
    holed = betas.copy()
    holed[:, :, 3] = np.nan
    holed[:20, :, 5] = np.nan
    encoder = clone(fitted).set_params(n_epochs=80).fit(tokens, holed)
    prediction = encoder.predict(tokens)
    assert np.isnan(prediction[:, 3]).all()
    assert np.isnan(encoder.sample(tokens, 2, 0)[..., 3]).all()
    assert np.isfinite(np.delete(prediction, 3, axis=1)).all()
    # Missing images taken for responses of 0, or for the mean, would be learnt as such: the mean
    # of voxel 5 is 3, its signal's s.d. 2.2. Left out, they are predicted like others.
    r = np.corrcoef(prediction[:20, 5], np.nanmean(betas[:20, :, 5], axis=1))[0, 1]
    assert r > 0.4


def test_with_few_images_it_is_ridge(problem):
    tokens, betas = problem
    for encoder in (MindReaderEncoder(), ROITransformerEncoder()):
        assert len(tokens) < encoder.min_images == MIN_IMAGES
        message = (
            f"60 images, fewer than min_images=100: {type(encoder).__name__} is fitted as ridge"
        )
        with pytest.warns(UserWarning, match=message):
            encoder.fit(tokens, betas)
        ridge = RidgeEncoder().fit(tokens, betas)
        np.testing.assert_array_equal(encoder.predict(tokens), ridge.predict(tokens))
        assert encoder.members_ == []
        assert isinstance(encoder.linear_, RidgeRegression)


def test_training_goes_on_where_it_was_stopped(fitted, problem, tmp_path):
    tokens, betas = problem
    whole = clone(fitted).set_params(checkpoint_dir=tmp_path / "a").fit(tokens, betas)
    with pytest.raises(FileExistsError, match="resume=True"):
        whole.fit(tokens, betas)
    # As if it had been killed in the second member: the last checkpoint there is not the end.
    for path in sorted((tmp_path / "a" / "member1").glob("step-*.pt"))[-1:]:
        path.unlink()
    resumed = whole.fit(tokens, betas, resume=True)
    np.testing.assert_array_equal(resumed.predict(tokens), fitted.predict(tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": "huge"}, "sizes='huge' must be one of"),
        ({"n_members": 0}, "n_members=0 must be at least 1"),
        ({"learning_rate": 0}, "learning_rate=0 must be more than 0"),
        ({"random_state": "x"}, "random_state='x' must be an int or None"),
        ({"min_images": 1}, "min_images=1 must be at least 2"),
    ],
)
def test_parameters_out_of_range_are_named(fitted, problem, change, message):
    with pytest.raises(ValueError, match=message):
        clone(fitted).set_params(**change).fit(*problem)


def test_resuming_needs_a_folder(fitted, problem):
    with pytest.raises(ValueError, match="resume=True needs checkpoint_dir"):
        clone(fitted).fit(*problem, resume=True)


def test_a_refit_that_fails_leaves_the_former_fit(fitted, problem, tmp_path):
    tokens, betas = problem
    encoder = clone(fitted).set_params(checkpoint_dir=tmp_path).fit(tokens, betas)
    expected, state = encoder.predict(tokens), dict(vars(encoder))
    with pytest.raises(FileExistsError):  # in the middle of the fit
        encoder.fit(tokens, betas[:, :, :5])
    assert vars(encoder) == state
    np.testing.assert_array_equal(encoder.predict(tokens), expected)


def test_making_a_net_leaves_the_generators_of_gpus_alone(monkeypatch):
    """torch.manual_seed seeds those too, and fork_rng puts back the CPU's alone."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        assert seeds.pop() == 3
        expected = torch.rand(4)
    assert torch.equal(seeded(3, lambda: torch.rand(4)), expected)
    assert seeds == []
