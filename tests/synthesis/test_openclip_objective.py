"""Objectives through CLIP towers with small random weights, prepared in several ways."""

import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

import brainenc
from brainenc.synthesis import objective

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VISION = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}
MODEL = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
NAME = "brainenc-objective-vit"


@pytest.fixture(scope="module", autouse=True)
def known_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{NAME}.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(folder)


def model_folder(folder, preprocess):
    config = {"model_cfg": MODEL, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    state = open_clip.CLIP(**MODEL).state_dict()
    save_file(
        {name: value.contiguous() for name, value in state.items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


@pytest.mark.parametrize(
    ("layer", "normalize"),
    [("pooled", False), ("pooled", True), ("tokens", False), ("transformer.resblocks.0", True)],
)
@pytest.mark.parametrize(
    "preprocess", [{}, {"resize_mode": "squash"}, {"interpolation": "bilinear", "std": [0.4] * 3}]
)
def test_values_are_those_of_predict_and_have_a_gradient(preprocess, layer, normalize, tmp_path):
    rng = np.random.default_rng(0)
    images = brainenc.datasets.simulate_subject(60, 10, 1, random_state=0).images[:, :, 8:]
    features = brainenc.OpenCLIPFeatures(
        f"local-dir:{model_folder(tmp_path, preprocess)}",
        layer=layer,
        normalize=normalize,
        verbose=False,
    )
    betas = rng.standard_normal((60, 2, 5)) + images.mean(axis=(1, 2))[:, None, :1] / 20
    encoder = brainenc.RidgeEncoder(features, alphas=[100.0]).fit(images, betas)
    drive = objective(encoder, [1, 3])
    expected = encoder.predict(images)[:, [1, 3]].mean(axis=1)
    np.testing.assert_allclose(drive.score(images), expected, atol=0.05 * expected.std())
    pixels = torch.from_numpy(images[:2].copy()).permute(0, 3, 1, 2) / 255
    pixels.requires_grad_(True)
    (gradient,) = torch.autograd.grad(drive(pixels).sum(), pixels)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
