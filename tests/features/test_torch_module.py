import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from sklearn.base import clone
from torchvision.transforms import v2

from brainenc.features import TorchFeatures
from brainenc.features import _weights as weights


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def brighter(image):
    return to_tensor(image) * 1.1


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    network(torch.rand(4, 3, 48, 48))  # so that batch norm's averages are not their defaults
    return network


def torch_features(module, layer, **settings):
    settings = {"preprocess": to_tensor, "device": "cpu", "verbose": False, **settings}
    return TorchFeatures(module, layer, **settings)


def by_hand(resnet, images):
    """Activations of layer2 by calling the parts one after the other, one image at a time."""
    was_training = resnet.training
    resnet.eval()
    maps = []
    with torch.no_grad():
        for image in images:
            x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(to_tensor(image)[None]))))
            maps.append(resnet.layer2(resnet.layer1(x)))
    resnet.train(was_training)
    return torch.cat(maps).numpy()


def test_every_pooling_of_feature_maps(resnet, images):
    maps = by_hand(resnet, images)
    expected = {
        "avg": maps.mean((2, 3)),
        "flatten": maps.reshape(5, -1),
        "tokens": maps.transpose(0, 2, 3, 1).reshape(5, 36, 128),
    }
    for pool, wanted in expected.items():
        got = torch_features(resnet, "layer2", pool=pool, batch_size=2).fit_transform(images)
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-4)  # float32, other batches


def test_dotted_names_and_vectors(resnet, images):
    resnet.eval()
    with torch.no_grad():
        expected = resnet(torch.stack([to_tensor(image) for image in images])).numpy()
    got = torch_features(resnet, "fc").transform(images)
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4)
    deep = torch_features(resnet, "layer1.0.conv2", pool="flatten").transform(images)
    assert deep.shape == (5, 64 * 12 * 12)


@pytest.mark.parametrize("pool", ["avg", "flatten", "tokens"])
def test_tokens_of_a_timm_transformer(images, pool, tmp_path):
    torch.manual_seed(1)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    path = tmp_path / "vit.pt"
    torch.save(network.state_dict(), path)
    config = timm.data.resolve_model_data_config(network)
    preprocess = timm.data.create_transform(**config, is_training=False)
    tokens = []
    with torch.no_grad():
        for image in images[:2]:
            tokens.append(network.eval().forward_features(preprocess(Image.fromarray(image))[None]))
    tokens = torch.cat(tokens).numpy()
    expected = {"avg": tokens.mean(1), "flatten": tokens.reshape(2, -1), "tokens": tokens}[pool]
    extractor = TorchFeatures(
        "vit_tiny_patch16_224", "norm", pretrained=path, pool=pool, device="cpu", verbose=False
    )
    np.testing.assert_allclose(extractor.transform(images[:2]), expected, atol=1e-4)


def test_later_layers_do_not_run(resnet, images):
    ran = []
    hooks = [
        getattr(resnet, name).register_forward_hook(lambda *_, name=name: ran.append(name))
        for name in ("layer1", "layer3")
    ]
    torch_features(resnet, "layer2").transform(images)
    for hook in hooks:
        hook.remove()
    assert set(ran) == {"layer1"}  # twice: the axes of the activation are found out first


def test_the_module_is_left_as_it_was(resnet, images):
    resnet.train()
    resnet.layer3.eval()
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    torch_features(resnet, "layer2").transform(images)
    assert resnet.training
    assert resnet.layer1.training
    assert not resnet.layer3.training
    assert not resnet.layer2._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


def test_unknown_layer_suggests_names(resnet, images):
    with pytest.raises(ValueError, match=r"layer='layer2.0.con1' .* did you mean 'layer2.0.conv1'"):
        torch_features(resnet, "layer2.0.con1").transform(images)


def test_what_has_no_sense_is_refused(resnet, images):
    with pytest.raises(ValueError, match="preprocess is needed for a ResNet"):
        torch_features(resnet, "layer2", preprocess=None).transform(images)
    with pytest.raises(ValueError, match=r"shape \(5, 1000\) has no pool='tokens'"):
        torch_features(resnet, "fc", pool="tokens").transform(images)
    with pytest.raises(ValueError, match="pool='max' must be"):
        torch_features(resnet, "fc", pool="max").transform(images)
    with pytest.raises(TypeError, match="module is a int"):
        torch_features(3, "fc").transform(images)
    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        torch_features("resnet_18", "fc").transform(images)


def test_layers_that_are_not_run_or_give_no_tensor(images):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = torch.nn.LSTM(48, 4)
            self.unused = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.pair(x[:, 0])[0]

    with pytest.raises(ValueError, match="'unused' is not run"):
        torch_features(Odd(), "unused").transform(images)
    with pytest.raises(TypeError, match="'pair' gives a tuple"):
        torch_features(Odd(), "pair").transform(images)


def test_keys_tell_weights_layers_and_preprocessing_apart(resnet):
    base = torch_features(resnet, "layer2").key()
    changed = clone(torch_features(resnet, "layer2")).module
    with torch.no_grad():
        changed.layer1[0].conv1.weight[0, 0, 0, 0] += 1e-3
    others = [
        torch_features(changed, "layer2"),
        torch_features(resnet, "layer1"),
        torch_features(resnet, "layer2", pool="flatten"),
        torch_features(resnet, "layer2", preprocess=brighter),
    ]
    assert all(other.key() != base for other in others)
    assert torch_features(resnet, "layer2", preprocess=lambda i: to_tensor(i)).key() == base
    assert clone(torch_features(resnet, "layer2", batch_size=1)).key() == base
    elu, relu = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), a) for a in (torch.nn.ELU(), torch.nn.ReLU())
    )
    elu.load_state_dict(relu.state_dict())
    assert torch_features(elu, "1").key() != torch_features(relu, "1").key()


def test_random_preprocessing_cannot_be_stored(resnet, images, tmp_path):
    augment = v2.Compose([v2.RandomCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="preprocess gives another result each time"):
        torch_features(resnet, "layer2", preprocess=augment, store=tmp_path).transform(images)


def test_store_serves_the_same_module_again(resnet, images, tmp_path):
    first = torch_features(resnet, "layer2", store=tmp_path).transform(images)
    again = torch_features(resnet, "layer2", store=tmp_path)
    again._extract = None  # nothing is left to compute
    np.testing.assert_array_equal(again.transform(images), first)


def test_random_weights_are_the_same_in_every_copy(images):
    extractor = torch_features("resnet10t", "layer1", preprocess=None, pretrained=False)
    state = torch.get_rng_state()
    first = extractor.transform(images)
    assert torch.equal(torch.get_rng_state(), state)  # the user's own random numbers go on
    torch.rand(1)  # so that equal networks do not come from equal states
    np.testing.assert_array_equal(clone(extractor).transform(images), first)


def test_missing_weights_name_the_ways_on(images, monkeypatch, tmp_path):
    monkeypatch.setattr(weights.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError,
        match=r"resnet18.*pretrained=<local file>.*EfficientNetLite.*GaborPyramid",
    ):
        TorchFeatures("resnet18", "layer1", verbose=False).transform(images)
    with pytest.raises(FileNotFoundError, match=r"no\.pt' is not a file"):
        TorchFeatures("resnet18", "layer1", pretrained="no.pt", verbose=False).transform(images)
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(
        ValueError, match=r"other.pt cannot be loaded as weights of timm's resnet18"
    ):
        TorchFeatures("resnet18", "layer1", pretrained=path, verbose=False).transform(images)
