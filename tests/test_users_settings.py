"""What a user's script sets for torch, NumPy and pandas changes no number, and stays as it was."""

import functools
import locale
import warnings
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from test_threads import in_threads
from tiny_encoders import tiny_encoder
from torch import nn
from torchvision.transforms.functional import to_tensor

import brainenc
from brainenc.encoders import ENCODERS, RidgeEncoder
from brainenc.features import (
    EfficientNetLiteFeatures,
    GaborPyramid,
    PixelFeatures,
    TorchFeatures,
)
from brainenc.features.torch_module import build_timm
from brainenc.process_state import own_settings


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def half_by_default():
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device():
    torch.set_default_device("meta")  # has no numbers: whatever is made there is lost
    try:
        yield
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def grad_disabled():
    torch.set_grad_enabled(False)
    try:
        yield
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


@contextmanager
def seeded_elsewhere():
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    yield
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@contextmanager
def all_at_once():
    with ExitStack() as stack:
        for setting in (default_dtype, default_device, grad_disabled):
            stack.enter_context(setting())
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        yield
        assert torch.is_autocast_enabled("cpu")


SETTINGS = {
    "default dtype float64": default_dtype,
    "default dtype bfloat16": half_by_default,
    "default device": default_device,
    "device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "gradients disabled": grad_disabled,
    "deterministic algorithms": deterministic,
    "NumPy raises": lambda: np.errstate(all="raise"),
    "NumPy ignores": lambda: np.errstate(all="ignore"),
    "seeds": seeded_elsewhere,
    "all at once": all_at_once,
}

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((112, 6, 5)).astype(np.float32)
BETAS = FEATURES.mean(1)[:, None] @ RNG.standard_normal((5, 8)) + RNG.standard_normal((112, 2, 8))
NETWORKS = ("latent", "synbrain", "mindsimulator", "mindreader", "roitransformer")


def outcome(name, folder=None):
    """Predictions, draws and intervals of an encoder, also from a file."""
    encoder = tiny_encoder(name, features=None, device="cpu", random_state=0)
    if name == "roitransformer":
        encoder.set_params(rois=np.array(["a", "b"] * 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder.fit(FEATURES, BETAS)
        found = [
            encoder.predict(FEATURES[:5]),
            encoder.sample(FEATURES[:5], n=3, random_state=0),
            encoder.predict_interval(FEATURES[:5])[0],
            encoder.log_density(FEATURES[:5], BETAS[:5]),
        ]
        if folder is not None:
            loaded = brainenc.load(encoder.save(folder / f"{name}"))
            np.testing.assert_array_equal(loaded.predict(FEATURES[:5]), found[0])
    return found


@pytest.fixture(scope="module")
def alone():
    """Outcomes without any setting, computed when they are asked for."""
    return functools.cache(outcome)


#: All encoders with several settings together, and one of them with each; slow: another, whose
#: networks have other kinds of layers.
PAIRS = [
    *((name, "all at once") for name in ENCODERS),
    *(("latent", setting) for setting in SETTINGS if setting != "all at once"),
    *(
        pytest.param("mindsimulator", setting, marks=pytest.mark.slow)
        for setting in SETTINGS
        if setting != "all at once"
    ),
]


@pytest.mark.parametrize(("name", "setting"), PAIRS)
def test_an_encoder_is_fitted_bit_by_bit_as_without_the_setting(name, setting, alone, tmp_path):
    right = alone(name)
    with SETTINGS[setting]():
        found = outcome(name, tmp_path if name in NETWORKS else None)
    for mine, its in zip(found, right, strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_loaded_network_can_be_trained_on(name, tmp_path):
    encoder = tiny_encoder(name, features=None, device="cpu", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder.fit(FEATURES, BETAS).save(tmp_path / "model")
        with torch.inference_mode():
            loaded = brainenc.load(tmp_path / "model")
        right = encoder.adapt(FEATURES, BETAS[..., :6]).predict(FEATURES[:4])
        np.testing.assert_array_equal(
            loaded.adapt(FEATURES, BETAS[..., :6]).predict(FEATURES[:4]), right
        )


# ------------------------------------------------------------------ extractors

IMAGES = RNG.integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)


def network():
    return TorchFeatures(
        build_timm("resnet10t", False), "layer2", preprocess=to_tensor, verbose=False, device="cpu"
    )


EXTRACTORS = {
    "pixels": lambda: PixelFeatures(size=5, verbose=False),
    "gabor": lambda: GaborPyramid(n_scales=2, pool=2, size=32, verbose=False),
    "torch": network,
    "timm": lambda: TorchFeatures(
        "resnet10t", "layer2", pretrained=False, verbose=False, device="cpu"
    ),
    "efficientnet-lite": lambda: EfficientNetLiteFeatures("block3", verbose=False, device="cpu"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_are_bit_by_bit_as_without_the_setting(name, setting):
    right = EXTRACTORS[name]()
    key, features = right.key(), right.transform(IMAGES)
    with SETTINGS[setting]():
        extractor = EXTRACTORS[name]()
        assert extractor.key() == key
        np.testing.assert_array_equal(extractor.transform(IMAGES), features)
        again = EXTRACTORS[name]()  # without the key first
        np.testing.assert_array_equal(again.transform(IMAGES), features)


def test_a_double_precision_module_gets_double_precision_images():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    right = module(torch.stack([to_tensor(image) for image in IMAGES]).double()).mean((2, 3))
    extractor = TorchFeatures(module, "1", preprocess=to_tensor, verbose=False, device="cpu")
    for setting in (own_settings, default_dtype):
        with setting():
            got = extractor.transform(IMAGES)
        np.testing.assert_allclose(got, right.detach().numpy(), rtol=1e-6)


def test_channels_last_memory_changes_nothing():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    extractor = TorchFeatures(module, "1", preprocess=to_tensor, verbose=False, device="cpu")
    right = extractor.transform(IMAGES)
    module.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(extractor.transform(IMAGES), right, atol=1e-6)


# ------------------------------------------------------------------ users' own code, and threads


class Seen:
    """Default dtype, gradients and reaction to overflow while an extractor of a user runs."""

    def fit(self, images):
        return self

    def get_params(self, deep=False):
        return {}

    def transform(self, images):
        self.settings = torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr()["over"]
        return np.asarray(images, float).reshape(len(images), -1)


def test_a_users_extractor_runs_with_the_users_settings():
    extractor = Seen()
    encoder = RidgeEncoder(None, cv=2).fit(IMAGES.reshape(4, -1).astype(float), BETAS[:4])
    encoder.features_, encoder.feature_shape_ = extractor, [4800]
    with default_dtype(), torch.no_grad(), np.errstate(over="raise"):
        encoder.predict(IMAGES)
    assert extractor.settings == (torch.float64, False, "raise")


def test_threads_share_the_default_dtype_and_the_last_gives_it_back():
    def seen(_):
        dtypes = []
        for _ in range(200):
            with own_settings(), own_settings():
                dtypes.append(torch.get_default_dtype())
        return dtypes

    with default_dtype():
        for dtypes in in_threads(seen, range(4)):
            assert set(dtypes) == {torch.float32}
        with pytest.raises(ValueError, match="stop"), own_settings():
            raise ValueError("stop")
        assert torch.get_default_dtype() == torch.float64


# ------------------------------------------------------------------ tables and text


def tables(folder):
    """A benchmark of data with labels, its tables, and data and results read from disk again."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)
    betas = rng.standard_normal((30, 2, 4))
    data = brainenc.EncodingData(
        images=images, betas=betas, voxels=pd.DataFrame({"roi": ["V1", "V1", None, "V2"]})
    )
    data.save(folder / "data.brain")
    data = brainenc.EncodingData.load(folder / "data.brain")
    encoder = RidgeEncoder(PixelFeatures(verbose=False))
    result = brainenc.benchmark(
        data, {"ridge": encoder}, cv=2, n_bootstraps=5, n_draws=4, verbose=False
    )
    result.save(folder / "result")
    again = brainenc.BenchmarkResult.load(folder / "result")
    found = {
        name: getattr(again, name)
        for name in ("rois", "pairs", "maps", "voxels", "draws", "k_fairness")
    }
    return {
        "labels": {name: rows.tolist() for name, rows in data.rois().items()},
        **{
            name: table.drop(columns="seconds", errors="ignore").to_csv(float_format="%.17g")
            for name, table in found.items()
        },
    }


@contextmanager
def decimal_commas():
    former = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "de_DE.utf8", "fr_FR.utf8"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        break
    else:
        pytest.skip("no locale with decimal commas is installed")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, former)


@contextmanager
def text_as_in_the_other_pandas():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 3 says that the option will go
        option = pd.option_context("future.infer_string", pd.__version__ < "3")
        option.__enter__()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            option.__exit__(None, None, None)


TABLES = {
    "text as in the other pandas": text_as_in_the_other_pandas,
    "text as Python strings": lambda: pd.option_context("mode.string_storage", "python"),
    "decimal commas": decimal_commas,
    "NumPy raises": lambda: np.errstate(all="raise"),
    "all at once": all_at_once,
}


@pytest.mark.parametrize("setting", TABLES)
def test_a_benchmark_is_the_same_with_and_without_the_setting(setting, tmp_path):
    right = tables(tmp_path / "without")
    with TABLES[setting]():
        assert tables(tmp_path / "with") == right
