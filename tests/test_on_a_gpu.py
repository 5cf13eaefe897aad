"""Every encoder with device="cuda", on a GPU that is emulated: the CPU's numbers, and no error."""

import numpy as np
import pytest
import torch
from emulated_gpu import emulated_gpu
from sklearn.base import clone
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.encoders import ENCODERS, network
from brainenc.features import EfficientNetLiteFeatures, GaborPyramid, TorchFeatures
from brainenc.training.learner import start_fabric

#: Encoders of the registry, and what some do besides when they are told to.
CASES = {name: (name, {}) for name in ENCODERS} | {
    "kernel ridge": ("ridge", {"form": "kernel"}),
    "MindSimulator in few steps": (
        "mindsimulator",
        {"learning_rate": 5e-3, "n_sampling_steps": 3, "eta": 0.5}
        | {"guidance": 2.0, "noise_correlation": 0.5},
    ),
}


def made(case, device):
    name, options = CASES[case]
    return tiny_encoder(name, **options, device=device, precision="32", features=None)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((110, 4, 6)).astype(np.float32)
    signal = tokens.reshape(110, -1) @ rng.standard_normal((24, 9)) / 5
    return tokens, (signal[:, None] + rng.standard_normal((110, 2, 9))).astype(np.float32)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(network, "LEAST_STEPS", 5)


@pytest.mark.parametrize("case", CASES)
def test_encoder(case, problem, tmp_path):
    tokens, betas = problem
    expected = made(case, "cpu").fit(tokens, betas)
    with emulated_gpu():
        encoder = made(case, "cuda").fit(tokens, betas)
        prediction = encoder.predict(tokens)
        draws = encoder.sample(tokens, 2, 0)
        if hasattr(encoder, "attention_maps"):
            encoder.attention_maps(tokens[:5])
        encoder.adapt(tokens, betas[..., :5])
        loaded = brainenc.load(encoder.save(tmp_path / "model"))
        np.testing.assert_allclose(loaded.predict(tokens), prediction, rtol=1e-5, atol=1e-5)
    # Without the GPU, every part has to be told to stay off it.
    with_cpu = brainenc.load(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(with_cpu.predict(tokens), prediction, rtol=1e-4, atol=1e-4)
    # The same operations on the same numbers, but for ridge's residuals in another precision.
    np.testing.assert_allclose(prediction, expected.predict(tokens), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(draws, expected.sample(tokens, 2, 0), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_bf16_reaches_no_array(precision, problem):
    """NumPy has none; "auto" is bf16 on a GPU."""
    tokens, betas = problem
    with emulated_gpu():
        for case in ("latent", "synbrain", "mindsimulator", "roitransformer"):
            encoder = made(case, "auto").set_params(precision=precision).fit(tokens, betas)
            assert encoder.predict(tokens).dtype == np.float32
            assert encoder.sample(tokens, 2, 0).dtype == np.float32


def test_training_goes_on_from_a_checkpoint(problem, tmp_path):
    tokens, betas = problem
    options = {"checkpoint_dir": tmp_path, "precision": "32"}
    with emulated_gpu():
        encoder = made("synbrain", "cuda").set_params(**options).fit(tokens, betas)
        for stage in ("vae", "mapper"):
            *_, last = sorted((tmp_path / stage).glob("step-*.pt"))
            last.unlink()
        again = clone(encoder).fit(tokens, betas, resume=True)
        np.testing.assert_array_equal(again.predict(tokens), encoder.predict(tokens))


@pytest.mark.parametrize(("device", "expected"), [("cuda", 1), ("cuda:0", 0)])
def test_training_is_on_the_current_gpu_unless_one_is_named(device, expected, monkeypatch):
    with emulated_gpu():
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        assert start_fabric(device, "32").device == torch.device("cuda", expected)
        monkeypatch.undo()


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
        with emulated_gpu():
            features = make("cuda").fit_transform(images)
        # Parts of a batch on threads of the CPU round as they please.
        np.testing.assert_allclose(features, make("cpu").fit_transform(images), atol=1e-5)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda gpu, cpu: gpu + cpu, "on the CPU"),
        (lambda gpu, cpu: torch.stack([gpu[0], cpu[0]]), "on the CPU"),
        (lambda gpu, cpu: cpu[gpu.long()], "on the CPU"),
        (lambda gpu, cpu: gpu.numpy(), "to numpy"),
        (lambda gpu, cpu: np.sqrt(gpu), "to numpy"),
        (lambda gpu, cpu: torch.rand_like(gpu, generator=torch.Generator()), "generator"),
    ],
)
def test_what_cuda_refuses_is_refused(refused, message):
    with emulated_gpu():
        pair = torch.ones(3, device="cuda"), torch.ones(3)
        with pytest.raises((RuntimeError, TypeError), match=message):
            refused(*pair)
        assert (2 * pair[0][pair[1].long() - 1] + pair[1][0]).device == torch.device("cuda:0")
