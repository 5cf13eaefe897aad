"""On a real CUDA device: every encoder and decoder, features and solvers, against the CPU.

Skipped where there is none. `test_on_a_gpu.py` covers machines without one.
"""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from tiny_encoders import tiny_encoder

import brainenc
from brainenc import solvers
from brainenc.encoders import ENCODERS, network
from brainenc.features import EfficientNetLiteFeatures, GaborPyramid, TorchFeatures
from brainenc.model_selection import image_folds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]

#: Encoders without random numbers of the device: fitted on GPU and CPU they are the same function.
CLOSED_FORM = ("mean", "ridge", "banded", "kernelridge")
CASES = {name: (name, {}) for name in ENCODERS} | {
    "kernel ridge form": ("ridge", {"form": "kernel"}),
    "MindSimulator in few steps": (
        "mindsimulator",
        {"learning_rate": 5e-3, "n_sampling_steps": 3, "eta": 0.5}
        | {"guidance": 2.0, "noise_correlation": 0.5},
    ),
}
#: Sums in another order, float32: products of a few hundred terms differ by less.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((110, 4, 6)).astype(np.float32)
    signal = tokens.reshape(110, -1) @ rng.standard_normal((24, 9)) / 5
    return tokens, (signal[:, None] + rng.standard_normal((110, 2, 9))).astype(np.float32)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(network, "LEAST_STEPS", 5)


def made(case, device, precision="32"):
    name, options = CASES[case]
    return tiny_encoder(name, **options, device=device, precision=precision, features=None)


@pytest.mark.parametrize("case", CASES)
def test_encoder(case, problem, tmp_path, few_steps):
    tokens, betas = problem
    encoder = made(case, "cuda").fit(tokens, betas)
    prediction, draws = encoder.predict(tokens), encoder.sample(tokens, 2, 0)
    assert prediction.shape == (110, 9)
    assert draws.shape == (2, 110, 9)
    np.testing.assert_array_equal(encoder.predict(tokens), prediction)
    if CASES[case][0] in CLOSED_FORM:
        on_cpu = made(case, "cpu").fit(tokens, betas)
        np.testing.assert_allclose(prediction, on_cpu.predict(tokens), **CLOSE)
    if hasattr(encoder, "attention_maps"):
        encoder.attention_maps(tokens[:5])
    adapted = encoder.adapt(tokens, betas[..., :5])
    assert adapted.predict(tokens).shape == (110, 5)
    encoder = made(case, "cuda").fit(tokens, betas)
    encoder.save(tmp_path / "model")
    for device in ("cuda", "cpu"):
        loaded = brainenc.load(tmp_path / "model", device=device)
        np.testing.assert_allclose(loaded.predict(tokens), encoder.predict(tokens), **CLOSE)


@pytest.mark.parametrize("case", ["latent", "synbrain", "mindsimulator", "roitransformer"])
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_low_precision_reaches_no_array(case, precision, problem, few_steps):
    tokens, betas = problem
    encoder = made(case, "auto", precision).fit(tokens, betas)
    for values in (encoder.predict(tokens), encoder.sample(tokens, 2, 0)):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


def test_training_goes_on_from_a_checkpoint(problem, tmp_path, few_steps):
    tokens, betas = problem
    encoder = made("synbrain", "cuda").set_params(checkpoint_dir=tmp_path).fit(tokens, betas)
    for stage in ("vae", "mapper"):
        *_, last = sorted((tmp_path / stage).glob("step-*.pt"))
        last.unlink()
    again = clone(encoder).fit(tokens, betas, resume=True)
    # Convolutions may add their gradients up in another order each time.
    np.testing.assert_allclose(again.predict(tokens), encoder.predict(tokens), **CLOSE)


@pytest.mark.parametrize(
    "make",
    [
        lambda device: brainenc.RidgeDecoder(n_test_repeats=2, device=device),
        lambda device: brainenc.EncoderDecoder(brainenc.RidgeEncoder(device=device)),
        lambda device: brainenc.MindEyeDecoder(
            sizes={"width": 32}, n_epochs=5, learning_rate=1e-3, precision="32", device=device
        ),
        lambda device: brainenc.MindReaderDecoder(precision="32", device=device),
    ],
    ids=["ridge", "encoder", "mind eye", "mind reader"],
)
def test_decoder(make, problem, tmp_path):
    tokens, betas = problem
    decoder = make("cuda").fit(betas, tokens)
    predicted = decoder.predict(betas)
    assert predicted.shape == tokens.shape
    decoder.save(tmp_path / "decoder")
    loaded = brainenc.load(tmp_path / "decoder", device="cpu")
    np.testing.assert_allclose(loaded.predict(betas), predicted, **CLOSE)


def test_features():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())

    def prepare(image):
        return torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255

    for make in (
        lambda device: GaborPyramid(3, 4, 2, size=32, device=device, verbose=False),
        lambda device: TorchFeatures(
            module, "1", preprocess=prepare, pool="tokens", device=device, verbose=False
        ),
        lambda device: EfficientNetLiteFeatures("block1", device=device, verbose=False),
    ):
        expected = make("cpu").fit_transform(images)
        # Convolutions on a GPU take other algorithms, and TF32 where torch's user allows it.
        np.testing.assert_allclose(make("cuda").fit_transform(images), expected, **CLOSE)


@pytest.mark.parametrize("form", ["primal", "kernel", "banded"])
@pytest.mark.parametrize("search", ["exact", "guided"])
def test_solver(form, search):
    """The penalties, weights and held-out predictions that the CPU finds."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 60), dtype=np.float32)
    Y = X @ rng.standard_normal((60, 50), dtype=np.float32)
    Y += np.linspace(1, 20, 50, dtype=np.float32) * rng.standard_normal(Y.shape, dtype=np.float32)
    alphas, folds = np.logspace(-1, 4, 11).astype(np.float32), image_folds(5, 400)

    def fit(device):
        options = {"search": search, "device": device}
        if form == "primal":
            return solvers.ridge_cv(X, Y, alphas, folds, **options)
        if form == "kernel":
            return solvers.kernel_ridge_cv(X @ X.T, Y, alphas, folds, **options)
        Ks = [X[:, :20] @ X[:, :20].T, X[:, 20:] @ X[:, 20:].T]
        return solvers.banded_ridge_cv(Ks, Y, alphas, folds, n_iter=6, **options)

    found, expected = fit("cuda"), fit("cpu")
    np.testing.assert_array_equal(found.alphas, expected.alphas)
    np.testing.assert_allclose(found.held_out, expected.held_out, rtol=1e-3, atol=5e-3)


def test_benchmark():
    data = brainenc.datasets.simulate_subject(120, 40, random_state=0)
    result = {
        device: brainenc.benchmark(
            data,
            {
                "ridge": brainenc.RidgeEncoder(
                    GaborPyramid(3, 4, 2, size=32, verbose=False), device=device
                )
            },
            cv=3,
            verbose=False,
        ).encoders.set_index("encoder")["r"]
        for device in ("cuda", "cpu")
    }
    np.testing.assert_allclose(result["cuda"], result["cpu"], atol=1e-4)
