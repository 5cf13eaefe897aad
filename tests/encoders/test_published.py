"""`published()` of the models of papers: sizes and training are those of the papers."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from brainenc.encoders import (
    MindReaderEncoder,
    MindSimulatorEncoder,
    ROITransformerEncoder,
    SynBrainEncoder,
    network,
)
from brainenc.encoders.ensemble import Ensemble
from brainenc.encoders.mind_simulator import stages as mind_simulator
from brainenc.encoders.synbrain import stages as synbrain
from brainenc.training import StepDecay, TrainingRun


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def problem(n_images, n_voxels, *shape):
    """Tokens of the published shape, and made-up betas."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((n_images, *shape), dtype=np.float32)
    return tokens, rng.standard_normal((n_images, 2, n_voxels), dtype=np.float32)


def recorded(seen, name):
    """A stage of training that takes down what it is given, and trains nothing."""

    def stage(net, *others, **options):
        runs = [each for each in others if isinstance(each, TrainingRun)]
        seen[name] = {"net": net, "run": runs[0], **options}
        return pd.DataFrame()

    return stage


# ------------------------------------------------------------------ SynBrain


@pytest.fixture
def synbrain_stages(monkeypatch):
    """What both stages are given by `fit`, whose nets have sizes and no memory."""
    seen = {}
    for name in ("fit_vae", "fit_mapper"):
        monkeypatch.setattr(synbrain, name, recorded(seen, name))

    def fit(encoder):
        with torch.device("meta"):
            encoder.fit(*problem(2, 20, 256, 1664))
        return seen["fit_vae"], seen["fit_mapper"]

    return fit


def test_synbrain(synbrain_stages):
    vae, mapper = synbrain_stages(SynBrainEncoder.published())
    # Counted in the official code, at the tokens of OpenCLIP ViT-bigG/14.
    assert round(n_parameters(vae["net"]) / 1e6, 2) == 78.31
    assert round(n_parameters(mapper["net"]) / 1e6, 1) == 410.9
    for stage in (vae, mapper):
        run = stage["run"]
        assert (run.batch_size, run.learning_rate, run.weight_decay) == (24, 1e-4, 0.05)
    assert (vae["n_epochs"], vae["relative_stop"]) == (15, 0.28)
    assert (vae["held"], mapper["held"], mapper["averaged"]) == (None, None, False)
    assert vae["variational"]
    assert vae["contrastive"]
    assert mapper["n_steps"] == 50_000
    assert mapper["ema_decay"] == pytest.approx(0.9999, abs=1e-12)
    assert (synbrain.KL_WEIGHT, synbrain.CLIP_WEIGHT) == (1e-3, 1e3)


def test_what_is_given_comes_before_the_published_values_of_synbrain(synbrain_stages):
    vae, mapper = synbrain_stages(
        SynBrainEncoder.published(vae_epochs=3, mapper_steps=100, batch_size=7, learning_rate=0.5)
    )
    assert (vae["n_epochs"], mapper["n_steps"]) == (3, 100)
    assert mapper["ema_decay"] == 0.95  # over the same part of the training as published
    assert (vae["run"].batch_size, vae["run"].learning_rate) == (7, 0.5)
    assert vae["run"].weight_decay == 0.05
    assert round(n_parameters(vae["net"]) / 1e6, 2) == 78.31


# ------------------------------------------------------------------ MindSimulator


@pytest.fixture
def mind_simulator_stages(monkeypatch):
    seen = {}

    def autoencoder(net, trials, targets, run, options):
        seen.update(net=net, run=run, options=options)
        return pd.DataFrame()

    def prior(prior, *others):
        seen["prior"] = prior
        return pd.DataFrame()

    def encode(net, trials, image, repeat, device):  # nets without memory encode nothing
        return np.ones((len(image), 257, 768), np.float32)

    for name, function in {
        "fit_autoencoder": autoencoder,
        "fit_prior": prior,
        "encode": encode,
    }.items():
        monkeypatch.setattr(mind_simulator, name, function)

    def fit(encoder):
        with torch.device("meta"):
            encoder.fit(*problem(10, 15_724, 257, 768))
        return seen

    return fit


def test_mind_simulator(mind_simulator_stages):
    encoder = MindSimulatorEncoder.published()
    seen = mind_simulator_stages(encoder)
    assert round(n_parameters(seen["net"]) / 1e6, 1) == 211.6
    sizes = {"width": 768, "depth": 6, "n_heads": 14, "head_width": 48, "n_steps": 100}
    assert sizes.items() <= seen["prior"].sizes.items()
    run, options = seen["run"], seen["options"]
    assert (run.batch_size, run.learning_rate, run.weight_decay) == (32, 3e-4, 0.01)
    assert (options["autoencoder_epochs"], options["prior_epochs"]) == (300, 150)
    assert options["temperature"] == (0.004, 0.0075)
    assert options["condition_dropout"] == 0.2
    assert (options["voxel_dropout"], options["validation"]) == (0, 0)
    assert encoder.linear_ is None  # the diffusion starts from a point, not from ridge
    assert (encoder.n_draws, encoder.guidance, encoder.noise_correlation) == (5, 1, 0)
    assert encoder.n_sampling_steps is None  # all of the 100


def test_what_is_given_comes_before_the_published_values_of_mind_simulator(mind_simulator_stages):
    given = {"prior_epochs": 2, "n_steps": 10, "learning_rate": 0.5}
    seen = mind_simulator_stages(MindSimulatorEncoder.published(**given))
    assert seen["prior"].sizes["n_steps"] == 10
    assert seen["options"]["prior_epochs"] == 2
    assert (seen["run"].learning_rate, seen["run"].batch_size) == (0.5, 32)
    assert seen["options"]["autoencoder_epochs"] == 300


# ------------------------------------------------------------------ Mind Reader, ROI transformer


@pytest.fixture
def ensemble(monkeypatch):
    """The net that `fit` would train, its settings for 9000 images, and the number of nets."""
    seen = {}

    def fit_ensemble(inputs, targets, folds, recipe, run):
        seen.update(
            net=recipe.make_net(run.random_state),
            settings=recipe.settings(9000, run),
            n_members=len(folds),
        )
        return Ensemble([], np.full_like(targets, np.nan), pd.DataFrame())

    monkeypatch.setattr(network, "fit_ensemble", fit_ensemble)

    def fit(encoder, *problem):
        with torch.device("meta"):
            encoder.fit(*problem)
        return seen["net"], seen["settings"], seen["n_members"]

    return fit


def test_mind_reader(ensemble):
    encoder = MindReaderEncoder.published()
    net, settings, n_members = ensemble(encoder, *problem(100, 10_000, 512))
    # Counted by hand in tests/nets/test_mind_reader.py.
    assert n_parameters(net) == 1_553_553
    assert settings.n_epochs == 40
    assert settings.batch_size == 32
    assert settings.optimizer == "adam"
    assert (settings.learning_rate, settings.weight_decay) == (2e-4, 1e-5)
    assert settings.schedule == StepDecay(every=10, gamma=0.8)
    assert n_members == 1
    assert (encoder.mse_weight, encoder.cosine_weight) == (0.4, 0.6)
    assert encoder.adapter_.mean is None  # clipped and divided by the length, no more


def test_roi_transformer(ensemble):
    encoder = ROITransformerEncoder.published(rois=np.arange(20_000) % 50, min_images=2)
    net, settings, n_members = ensemble(encoder, *problem(20, 20_000, 961, 768))
    # Counted by hand in tests/nets/test_roi_attention.py.
    assert n_parameters(net) == 19_358_496
    assert net.attend.num_heads == 16
    assert (settings.n_epochs, settings.batch_size) == (15, 16)
    assert (settings.learning_rate, settings.weight_decay) == (5e-4, 1e-4)
    assert (settings.optimizer, settings.clip_norm) == ("adamw", 0.1)
    assert settings.monitor == "held_out_r"
    assert n_members == 1


@pytest.mark.parametrize("make", [MindReaderEncoder, ROITransformerEncoder])
def test_what_is_given_comes_before_the_published_values(ensemble, make):
    given = make.published(n_epochs=3, learning_rate=0.5, n_members=2)
    _, settings, n_members = ensemble(given, *problem(100, 5, 4, 32))
    assert (settings.n_epochs, settings.learning_rate, n_members) == (3, 0.5, 2)
    of_paper = make.presets["published"].training
    assert settings.batch_size == of_paper["batch_size"]
    assert settings.weight_decay == of_paper["weight_decay"]


@pytest.mark.parametrize(
    ("encoder", "changed", "kept"),
    [
        (MindReaderEncoder(sizes={"hidden": 7}, blend=None), {"hidden": 7}, {"n_channels": 16}),
        (
            ROITransformerEncoder(sizes={"hidden": 32}, blend=None),
            {"hidden": 32},
            {"feed_forward": 128},
        ),
    ],
)
def test_a_dict_replaces_sizes_of_auto(ensemble, encoder, changed, kept):
    net, settings, n_members = ensemble(
        encoder.set_params(n_epochs=30, learning_rate=0.5), *problem(100, 5, 4, 32)
    )
    assert (changed | kept).items() <= net.sizes.items()
    assert (settings.n_steps, settings.learning_rate) == (30 * 9000 // 32, 0.5)
    assert n_members == encoder.presets["auto"].training["n_members"]
    assert encoder.get_params()["batch_size"] is None  # left as it was given


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    "make", [MindReaderEncoder, MindSimulatorEncoder, ROITransformerEncoder, SynBrainEncoder]
)
def test_published_is_a_value_of_the_parameter_sizes(make):
    encoder = make.published(verbose=True, batch_size=3)
    assert type(encoder) is make
    assert make().get_params()["sizes"] == "auto"
    expected = make().get_params() | {"sizes": "published", "verbose": True, "batch_size": 3}
    assert encoder.get_params() == expected
    assert clone(encoder).get_params() == expected
    assert make.published(sizes="auto").get_params() == make().get_params()
    with pytest.raises(TypeError, match="depth"):
        make.published(depth=3)
