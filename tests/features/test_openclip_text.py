"""Text, unit length and layers of CLIP models, against open_clip as its README uses it."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from brainenc.features import OpenCLIPFeatures

NAME = "brainenc-tiny-text"
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TOWERS = {
    NAME: {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32},
    f"{NAME}-resnet": {"layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "image_size": 32},
}
PROMPTS = ["a face", "a red car", "two houses by a lake"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Function of a model name: file with random weights, and a folder with its configuration."""
    folder = tmp_path_factory.mktemp("openclip")
    (folder / "configs").mkdir()
    for name, tower in TOWERS.items():
        config = {"embed_dim": 24, "vision_cfg": tower, "text_cfg": TEXT}
        (folder / "configs" / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "configs")

    def write(name=NAME):
        path = folder / name / "open_clip_pytorch_model.bin"
        if not path.exists():
            path.parent.mkdir()
            torch.manual_seed(0)
            torch.save(open_clip.create_model(name).state_dict(), path)
        return path

    return write


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)


def features(path, layer="pooled", name=NAME, **settings):
    return OpenCLIPFeatures(name, path, layer, device="cpu", verbose=False, **settings)


def opened(path, name=NAME):
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(path))
    return model.eval(), preprocess


def test_text_is_open_clips_own(checkpoint):
    model, _ = opened(checkpoint())
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(NAME)(PROMPTS), normalize=True)
    found = features(checkpoint(), batch_size=2).encode_text(PROMPTS)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    "templates", [open_clip.SIMPLE_IMAGENET_TEMPLATES, ["a photo of {}.", "a drawing of {}."]]
)
def test_templates_are_averaged_as_in_zero_shot_classifiers(checkpoint, templates):
    model, _ = opened(checkpoint())
    functions = [t if callable(t) else t.format for t in templates]
    classifier = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer(NAME), PROMPTS, functions, use_tqdm=False
    )
    found = features(checkpoint()).encode_text(PROMPTS, templates)
    np.testing.assert_allclose(found, classifier.T.numpy(), atol=1e-6)


def test_text_of_a_downloaded_folder_needs_no_network(checkpoint):
    path = checkpoint()
    config = {"model_cfg": open_clip.get_model_config(NAME), "preprocess_cfg": {"mean": [0.5] * 3}}
    (path.parent / "open_clip_config.json").write_text(json.dumps(config))
    try:
        folder = OpenCLIPFeatures(f"local-dir:{path.parent}", device="cpu", verbose=False)
        np.testing.assert_allclose(
            folder.encode_text(PROMPTS), features(path).encode_text(PROMPTS), atol=1e-6
        )
    finally:
        (path.parent / "open_clip_config.json").unlink()


def test_images_are_the_same_after_text(checkpoint, images):
    extractor = features(checkpoint())
    before = extractor.transform(images)
    extractor.encode_text(PROMPTS)
    np.testing.assert_array_equal(extractor.transform(images), before)


def test_unit_length_is_an_option_with_a_key_of_its_own(checkpoint, images):
    plain, unit = features(checkpoint()), features(checkpoint(), normalize=True)
    expected = plain.transform(images)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.transform(images), expected, atol=1e-6)
    tokens = features(checkpoint(), "tokens", normalize=True).transform(images)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=2), 1, atol=1e-5)
    assert plain.key() != unit.key()
    assert "normalize" not in plain.key()  # as in stores of former versions
    np.testing.assert_array_equal(unit.encode_text(PROMPTS), plain.encode_text(PROMPTS))


@pytest.mark.parametrize("layer", ["transformer.resblocks.1", "transformer.resblocks.1.mlp"])
def test_layers_are_those_of_open_clips_image_tower(checkpoint, images, layer):
    model, preprocess = opened(checkpoint())
    seen = []
    model.visual.get_submodule(layer).register_forward_hook(lambda *io: seen.append(io[2]))
    with torch.no_grad():
        model.encode_image(torch.stack([preprocess(Image.fromarray(i)) for i in images]))
    expected = seen[0].numpy()  # (n_images, 17, 48): batch first in open_clip 3
    found = features(checkpoint(), layer, batch_size=3).transform(images)
    assert found.shape == (5, 17, 48)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert features(checkpoint(), layer).key() != features(checkpoint(), "tokens").key()


def test_maps_of_a_convolutional_tower_become_tokens(checkpoint, images):
    name = f"{NAME}-resnet"
    model, preprocess = opened(checkpoint(name), name)
    seen = []
    model.visual.layer2.register_forward_hook(lambda *io: seen.append(io[2]))
    with torch.no_grad():
        model.encode_image(torch.stack([preprocess(Image.fromarray(i)) for i in images]))
    expected = seen[0].flatten(2).mT.numpy()
    found = features(checkpoint(name), "layer2", name).transform(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_unknown_layer_suggests_one(checkpoint, images):
    with pytest.raises(ValueError, match=r"layer='transformer.resblock.1' must.*did you mean"):
        features(checkpoint(), "transformer.resblock.1").transform(images)


def test_the_last_layer_is_that_before_the_norm(checkpoint, images):
    model, _ = opened(checkpoint())
    last = features(checkpoint(), "transformer.resblocks.2").transform(images)
    with torch.no_grad():
        normed = model.visual.ln_post(torch.from_numpy(last)).numpy()
    np.testing.assert_allclose(
        normed, features(checkpoint(), "tokens").transform(images), atol=1e-5
    )


@pytest.mark.parametrize(
    ("prompts", "templates", "error", "message"),
    [
        ("a face", None, TypeError, r"is one text: give a list, \['a face'\]"),
        ([], None, ValueError, "at least one text"),
        (["a face", " "], None, ValueError, "no empty one"),
        (["a face", 3], None, TypeError, "3 is a int"),
        (["face"], "a photo of a {}.", TypeError, "templates='a photo of a {}.' is one text"),
        (["face"], ["a photo"], ValueError, "must have one {}"),
        (["face"], ["a {} by a {}"], ValueError, "must have one {}"),
        (["face"], [3], TypeError, "templates has a int"),
        (["face"], [], ValueError, "templates is empty"),
        ([" very" * 20], None, ValueError, "has 22 tokens, and this model reads 16"),
    ],
)
def test_wrong_prompts(checkpoint, prompts, templates, error, message):
    with pytest.raises(error, match=message):
        features(checkpoint()).encode_text(prompts, templates)


def test_text_is_in_the_space_of_pooled_features_only(checkpoint):
    with pytest.raises(ValueError, match="layer='tokens' has no text"):
        features(checkpoint(), "tokens").encode_text(PROMPTS)


def test_a_tokenizer_that_cannot_be_had(checkpoint, monkeypatch):
    def missing(name):
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "get_tokenizer", missing)
    with pytest.raises(ValueError, match=r"the tokenizer of .* cannot be had: no network"):
        features(checkpoint()).encode_text(PROMPTS)
