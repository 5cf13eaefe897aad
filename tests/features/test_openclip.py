import gc
import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.base import clone

from brainenc.features import OpenCLIPFeatures
from brainenc.features import _weights as weights
from brainenc.features import openclip as module

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "brainenc-tiny-vit": {
        "layers": 2,
        "width": 48,
        "head_width": 16,
        "patch_size": 8,
        "image_size": 32,
    },
    "brainenc-tiny-resnet": {
        "layers": [1, 1, 1, 1],
        "width": 8,
        "patch_size": None,
        "image_size": 32,
    },
    "brainenc-tiny-timm": {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 224,
    },
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Function of a model name and a seed: file with random weights of a small model."""
    folder = tmp_path_factory.mktemp("openclip")
    configs = folder / "configs"
    configs.mkdir()
    for name, tower in TOWERS.items():
        config = {"embed_dim": 24, "vision_cfg": tower, "text_cfg": TEXT}
        (configs / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(configs)

    def write(name="brainenc-tiny-vit", seed=0):
        path = folder / f"{name}-{seed}.pt"
        if not path.exists():
            torch.manual_seed(seed)
            torch.save(open_clip.create_model(name).state_dict(), path)
        return path

    return write


@pytest.fixture(scope="module")
def images():
    # Neither square nor of the model's size, so that resizing and cropping both count.
    return np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)


def directly(name, path, images):
    """open_clip as its README uses it, one image at a time: (embedding, all tokens)."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(path))
    model.eval()
    pooled, tokens = [], []
    with torch.no_grad():
        for image in images:
            x = preprocess(Image.fromarray(image))[None]
            pooled.append(model.encode_image(x))
            if hasattr(model.visual, "transformer"):
                last = model.visual.forward_intermediates(
                    x,
                    indices=1,
                    normalize_intermediates=True,
                    output_fmt="NLC",
                    output_extra_tokens=True,
                )
                parts = last["image_intermediates_prefix"][-1], last["image_intermediates"][-1]
                tokens.append(torch.cat(parts, 1))
            elif hasattr(model.visual, "trunk"):
                tokens.append(model.visual.trunk.forward_features(x))
    return torch.cat(pooled).numpy(), torch.cat(tokens).numpy() if tokens else None


def features(path, layer="pooled", name="brainenc-tiny-vit", **settings):
    return OpenCLIPFeatures(name, path, layer, device="cpu", verbose=False, **settings)


@pytest.mark.parametrize("name", TOWERS)
def test_pooled_features_are_open_clips_own(checkpoint, images, name):
    expected, _ = directly(name, checkpoint(name), images)
    got = features(checkpoint(name), name=name, batch_size=2).fit_transform(images)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4)  # float32 sums, batched
    assert (np.abs(np.linalg.norm(got, axis=1) - 1) > 0.1).all()  # not normalised


def test_tokens_in_threads_are_those_of_the_own_images(checkpoint, images):
    """Extractors of equal weights share a network, which hands its tokens to whoever listens."""
    path = checkpoint()

    def tokens(image):
        return features(path, "tokens", batch_size=1).transform(np.stack([image] * 20))

    expected = [tokens(image) for image in images]
    with ThreadPoolExecutor(len(images)) as pool:
        for found, alone in zip(pool.map(tokens, images), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("name", ["brainenc-tiny-vit", "brainenc-tiny-timm"])
def test_tokens_are_the_normed_last_block_class_token_first(checkpoint, images, name):
    _, expected = directly(name, checkpoint(name), images)
    got = features(checkpoint(name), "tokens", name, batch_size=3).transform(images)
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4)


def test_tokens_and_pooled_fit_together(checkpoint, images):
    path = checkpoint()
    tokens, pooled = (features(path, layer).transform(images) for layer in ("tokens", "pooled"))
    projection = torch.load(path)["visual.proj"].numpy()
    np.testing.assert_allclose(tokens[:, 0] @ projection, pooled, atol=1e-5)


def test_grey_images_are_read_as_open_clip_reads_them(checkpoint, images):
    grey = images[..., 0]
    expected, _ = directly("brainenc-tiny-vit", checkpoint(), grey)
    np.testing.assert_allclose(features(checkpoint()).transform(grey), expected, atol=1e-5)


def test_a_tower_without_tokens_says_so(checkpoint, images):
    name = "brainenc-tiny-resnet"
    with pytest.raises(ValueError, match='layer="tokens" needs a vision transformer'):
        features(checkpoint(name), "tokens", name).transform(images)


def test_bf16_is_near_and_has_a_key_of_its_own(checkpoint, images):
    full, half = features(checkpoint()), features(checkpoint(), precision="bf16")
    a, b = full.transform(images), half.transform(images)
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()  # 8 bits of mantissa, two blocks
    assert full.key() != half.key()
    assert full.key() == features(checkpoint(), precision="32").key()


def test_weights_count_by_content(checkpoint, images, tmp_path):
    first, second = checkpoint(seed=0), checkpoint(seed=1)
    copy = tmp_path / "copy.pt"
    copy.write_bytes(first.read_bytes())
    assert features(first).key() == features(copy).key() != features(second).key()
    store = tmp_path / "store"
    a, b = (features(path, store=store).transform(images) for path in (first, second))
    assert np.abs(a - b).max() > 0.01
    np.testing.assert_array_equal(features(copy, store=store).transform(images), a)
    json.dumps(features(first).key())


def test_a_checkpoint_replaced_under_its_name_is_noticed(checkpoint, images, tmp_path):
    path = tmp_path / "model.pt"
    extractor = features(path)
    path.write_bytes(checkpoint(seed=0).read_bytes())
    before = extractor.transform(images)
    path.write_bytes(checkpoint(seed=1).read_bytes())
    after = extractor.transform(images)
    np.testing.assert_allclose(after, features(checkpoint(seed=1)).transform(images), atol=1e-6)
    assert np.abs(after - before).max() > 0.01


def test_stored_features_need_no_network(checkpoint, images, tmp_path):
    features(checkpoint(), store=tmp_path).transform(images)
    gc.collect()
    again = features(checkpoint(), store=tmp_path)
    again.transform(images)
    assert not hasattr(again, "_loaded")


def test_the_network_is_shared_never_sent_and_freed(checkpoint, images):
    extractor = features(checkpoint())
    before = extractor.transform(images)
    other = clone(extractor)
    assert not hasattr(other, "_loaded")
    other.transform(images)
    assert other._loaded is extractor._loaded
    pickled = pickle.dumps(extractor)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).transform(images), before)
    del other, extractor
    gc.collect()
    assert not module._MODELS


def test_unknown_model_suggests_a_name():
    with pytest.raises(ValueError, match="did you mean 'ViT-B-32'"):
        OpenCLIPFeatures("ViT-B32", verbose=False).transform(np.zeros((1, 8, 8, 3), np.uint8))


def test_neither_tag_nor_file(images):
    extractor = OpenCLIPFeatures("ViT-B-32", "no/such.pt", verbose=False)
    with pytest.raises(
        FileNotFoundError, match=r"(?s)'no/such.pt' is neither.*openai.*GaborPyramid"
    ):
        extractor.transform(images)


def test_a_file_of_another_model_is_named(checkpoint, images):
    path = checkpoint("brainenc-tiny-resnet")
    with pytest.raises(ValueError, match=rf"{path.name} cannot be loaded as weights"):
        features(path).transform(images)


def test_a_broken_file_is_named(images, tmp_path):
    path = tmp_path / "broken.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"broken.pt cannot be loaded as weights"):
        OpenCLIPFeatures("ViT-B-32", path, verbose=False).transform(images)


@pytest.mark.parametrize("wrong", [{"layer": "cls"}, {"precision": "16"}])
def test_wrong_choices(checkpoint, images, wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name}='{value}' must be"):
        features(checkpoint(), **wrong).transform(images)


def test_without_network_the_error_is_quick_and_names_the_ways_on(images, monkeypatch, tmp_path):
    # A port of this machine where nobody listens: a real refused connection, and an empty cache.
    monkeypatch.setattr(weights.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        OpenCLIPFeatures(verbose=False).transform(images)
    assert time.monotonic() - start < 10  # open_clip alone tries for 45 s
    for part in (
        "ViT-B-32",
        "laion2b_s34b_b79k",
        "pretrained=<local file>",
        "GaborPyramid()",
        "[pretrained]",
    ):
        assert part in str(error.value)


def test_a_cached_tag_needs_no_network(checkpoint, images, monkeypatch, tmp_path):
    """The hub's cache on disk holds a small model under the name that the tag asks for."""
    monkeypatch.setattr(weights.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    tag = {
        "hf_hub": "brainenc/tiny/",
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "resize_mode": "squash",
    }
    tags = {"seed0": {**tag, "interpolation": "bilinear"}}
    checkpoint()
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "brainenc-tiny-vit", tags)
    repository = tmp_path / "models--brainenc--tiny"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    cached = snapshot / "open_clip_pytorch_model.bin"
    cached.write_bytes(checkpoint().read_bytes())
    got = OpenCLIPFeatures("brainenc-tiny-vit", "seed0", device="cpu", verbose=False)
    model, _, preprocess = open_clip.create_model_and_transforms(
        "brainenc-tiny-vit",
        pretrained=str(cached),
        image_mean=(0.5,) * 3,
        image_std=(0.25,) * 3,
        image_resize_mode="squash",
        image_interpolation="bilinear",
    )
    with torch.no_grad():
        x = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        expected = model.eval().encode_image(x).numpy()
    np.testing.assert_allclose(got.transform(images), expected, atol=1e-5)
    assert got.key() != features(cached).key()  # other preprocessing, so other numbers
