"""Downloaded models of open_clip, compared with `open_clip.create_model_from_pretrained`."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.base import clone

from brainenc.features import OpenCLIPFeatures
from brainenc.features import _weights as weights
from brainenc.features.registry import make_features

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VISION = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}
MODEL = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
NAME = "brainenc-folder-vit"
#: Each differs from the defaults in one thing that changes features.
CONFIGS = {
    "QuickGELU": {"model_cfg": {**MODEL, "quick_gelu": True}, "preprocess_cfg": {}},
    "mean and s.d.": {"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}},
    "squash": {"preprocess_cfg": {"resize_mode": "squash"}},
    "longest": {"preprocess_cfg": {"resize_mode": "longest", "fill_color": 9}},
    "bilinear": {"preprocess_cfg": {"interpolation": "bilinear"}},
    "image size": {"model_cfg": {**MODEL, "vision_cfg": {**VISION, "image_size": 48}}},
    "all": {
        "model_cfg": {**MODEL, "quick_gelu": True},
        "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3, "resize_mode": "squash"},
    },
}


@pytest.fixture(scope="module", autouse=True)
def known_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{NAME}.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 40, 56, 3), dtype=np.uint8)


def write(folder, config, seed=0, file="open_clip_model.safetensors"):
    """A folder as ``huggingface-cli download --local-dir`` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL, "preprocess_cfg": {}, **config}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config["model_cfg"])
    with torch.no_grad():  # positions of random networks are small, and so is what differs
        model.visual.positional_embedding.mul_(3)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save(state, folder / file)
    return folder


def by_open_clip(folder, images):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.no_grad():
        batch = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        return model.eval().encode_image(batch).numpy()


def features(*arguments, **settings):
    return OpenCLIPFeatures(*arguments, device="cpu", verbose=False, **settings)


def ways(folder):
    file = folder / "open_clip_model.safetensors"
    return {
        "local-dir:": (f"local-dir:{folder}",),
        "folder as model": (folder,),
        "folder as text": (str(folder),),
        "folder as pretrained": (NAME, folder),
        "file as pretrained": (NAME, file),
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_every_way_is_open_clips_own(config, images, tmp_path):
    folder = write(tmp_path / "model", CONFIGS[config])
    right = by_open_clip(folder, images)
    for way, arguments in ways(folder).items():
        got = features(*arguments).transform(images)
        np.testing.assert_allclose(got, right, atol=1e-5, err_msg=way)
    # Without the configuration the same weights are another network.
    alone = tmp_path / "alone.safetensors"
    shutil.copy(folder / "open_clip_model.safetensors", alone)
    if config != "image size":
        assert np.abs(features(NAME, alone).transform(images) - right).max() > 1e-3


@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "epoch_3.pt", "mine.safetensors"])
def test_weights_of_other_names(file, images, tmp_path):
    folder = write(tmp_path / "a", CONFIGS["all"], file=file)
    right = by_open_clip(write(tmp_path / "b", CONFIGS["all"]), images)
    np.testing.assert_allclose(features(NAME, folder / file).transform(images), right, atol=1e-5)


def test_a_chosen_file_of_several_is_taken(images, tmp_path):
    folder = write(tmp_path / "model", CONFIGS["all"])
    write(folder, CONFIGS["all"], seed=1, file="other.pth")
    own = by_open_clip(folder, images)
    np.testing.assert_allclose(features(folder).transform(images), own, atol=1e-5)
    other = features(NAME, folder / "other.pth").transform(images)
    assert np.abs(other - own).max() > 0.1
    right = by_open_clip(write(tmp_path / "seed1", CONFIGS["all"], seed=1), images)
    np.testing.assert_allclose(other, right, atol=1e-5)


def test_a_cached_hub_model_needs_no_network(images, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--brainenc--tiny"
    write(repository / "snapshots" / "abc", CONFIGS["all"])
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    right = by_open_clip(repository / "snapshots" / "abc", images)
    got = features("hf-hub:brainenc/tiny").transform(images)
    np.testing.assert_allclose(got, right, atol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"hf-hub:brainenc/absent is not on this machine"):
        features("hf-hub:brainenc/absent").transform(images)


def test_keys_count_the_configuration_and_not_the_place(images, tmp_path):
    first = write(tmp_path / "a", CONFIGS["all"])
    moved = write(tmp_path / "b", CONFIGS["all"])
    other = write(tmp_path / "c", CONFIGS["QuickGELU"])
    key = features(first).key()
    assert key == features(f"local-dir:{moved}").key()
    assert key != features(other).key()
    json.dumps(key)
    store = tmp_path / "store"
    right = features(other, store=store).transform(images)
    assert np.abs(features(first, store=store).transform(images) - right).max() > 1e-3
    np.testing.assert_array_equal(clone(features(other, store=store)).transform(images), right)


def test_a_replaced_configuration_is_noticed(images, tmp_path):
    folder = write(tmp_path / "model", CONFIGS["squash"])
    extractor = features(folder)
    before = extractor.transform(images)
    write(folder, CONFIGS["mean and s.d."])
    after = extractor.transform(images)
    np.testing.assert_allclose(after, by_open_clip(folder, images), atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_a_configuration_of_another_model_is_refused(images, tmp_path):
    wide = {"model_cfg": {**MODEL, "vision_cfg": {**VISION, "width": 32}}}
    folder = write(tmp_path / "model", wide)
    with pytest.raises(ValueError, match=r"has width=32, and model='.*' has 48.*local-dir:"):
        features(NAME, folder).transform(images)
    right = by_open_clip(folder, images)
    np.testing.assert_allclose(features(folder).transform(images), right, atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("[1, 2", ValueError, "open_clip_config.json is damaged"),
        ('{"model_cfg": 3}', ValueError, "has no model_cfg"),
        ("{}", ValueError, "has no model_cfg"),
        (None, FileNotFoundError, r"is a folder without open_clip_config\.json"),
    ],
)
def test_damaged_configurations_are_named(damage, error, message, images, tmp_path):
    folder = write(tmp_path / "model", {})
    config = folder / "open_clip_config.json"
    config.unlink() if damage is None else config.write_text(damage)
    with pytest.raises(error, match=message):
        features(f"local-dir:{folder}").transform(images)


def test_a_folder_without_weights_is_named(images, tmp_path):
    folder = write(tmp_path / "model", {})
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        features(folder).transform(images)


def test_a_file_named_as_that_of_a_tag_has_the_settings_of_the_tag(images, tmp_path, monkeypatch):
    tag = {"url": "https://example.org/abc/of-a-tag.pt", "mean": (0.5,) * 3, "std": (0.5,) * 3,
           "quick_gelu": True}  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {"theirs": tag})
    config = {
        "model_cfg": {**MODEL, "quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    right = by_open_clip(write(tmp_path / "model", config), images)
    alone = tmp_path / "of-a-tag.pt"
    write(tmp_path / "written", config, file="of-a-tag.pt")
    shutil.copy(tmp_path / "written" / "of-a-tag.pt", alone)
    np.testing.assert_allclose(features(NAME, alone).transform(images), right, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_files_are_openais_and_have_quickgelu(tmp_path):
    from brainenc.features._clip_folder import settings_of_file

    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pt")
    assert settings_of_file(NAME, tmp_path / "script.pt") == {"quick_gelu": True}
    assert settings_of_file(NAME, tmp_path / "plain.pt") == {}


def test_the_command_line_takes_them(tmp_path, images):
    folder = write(tmp_path / "model", CONFIGS["all"])
    found = make_features(f"openclip:local-dir:{folder}", device="cpu", verbose=False)
    np.testing.assert_allclose(found.transform(images), by_open_clip(folder, images), atol=1e-5)
    assert make_features("openclip:hf-hub:laion/CLIP").model == "hf-hub:laion/CLIP"
    assert make_features("openclip:ViT-B-32:openai").pretrained == "openai"
