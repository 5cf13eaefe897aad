"""Axes of activations: whatever their order, features are those of images, positions, channels."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from brainenc.features import TorchFeatures
from brainenc.features.layout import ARRANGED, arranged, check_layout

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def small(image):
    return to_tensor(image.resize((64, 64)))


class Blocks(nn.Module):
    """Two attention blocks in one of the orders of axes that networks use."""

    def __init__(self, order, *, width=24, n_heads=2, prefix=1, patch=8):
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.stem = nn.Conv2d(3, width, patch, patch)
        self.prefix = nn.Parameter(torch.randn(prefix, width))
        self.places = nn.Parameter(torch.randn(64 + prefix, width))
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, n_heads, batch_first=order != "LNC") for _ in range(2)
        )
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in "12")
        self.shown = nn.ModuleList(nn.Identity() for _ in range(2))

    def forward(self, images):
        x = self.stem(images).flatten(2).mT
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)
        x = x + self.places[: x.shape[1]]
        for attend, mlp, shown in zip(self.attention, self.mlp, self.shown, strict=True):
            x = x.transpose(0, 1) if self.order == "LNC" else x
            x = x + attend(x, x, x, need_weights=False)[0]
            x = x + mlp(x)
            x = x.mT if self.order == "NCL" else x
            x = shown(x)
            x = x.mT if self.order == "NCL" else x
            x = x.transpose(0, 1) if self.order == "LNC" else x
        return x


@pytest.mark.parametrize("pool", ["avg", "flatten", "tokens"])
@pytest.mark.parametrize("order", ["NLC", "LNC", "NCL"])
def test_tokens_in_any_order_give_the_same_features(order, pool):
    with torch.no_grad():
        right = Blocks("NLC")(torch.stack([small(Image.fromarray(i)) for i in IMAGES]))
    expected = {"avg": right.mean(1), "flatten": right.flatten(1), "tokens": right}[pool]
    extractor = TorchFeatures(
        Blocks(order), "shown.1", preprocess=small, pool=pool, device="cpu", verbose=False,
        batch_size=2,
    )  # fmt: skip
    np.testing.assert_allclose(extractor.transform(IMAGES), expected.numpy(), atol=1e-5)
    assert extractor._found[1] == order


def test_as_many_tokens_as_channels():
    # 64 patches of width 64, where sizes say nothing.
    network = Blocks("NCL", width=64, prefix=0)
    with torch.no_grad():
        expected = Blocks("NLC", width=64, prefix=0)(
            torch.stack([small(Image.fromarray(i)) for i in IMAGES])
        ).mean(1)
    extractor = TorchFeatures(network, "shown.1", preprocess=small, device="cpu", verbose=False)
    np.testing.assert_allclose(extractor.transform(IMAGES), expected.numpy(), atol=1e-5)


def test_as_many_images_as_tokens_or_probes():
    for n_images in (17, 24, 65):
        images = np.random.default_rng(1).integers(0, 256, (n_images, 16, 16, 3), dtype=np.uint8)
        with torch.no_grad():
            right = Blocks("NLC")(torch.stack([small(Image.fromarray(i)) for i in images])).mean(1)
        got = TorchFeatures(
            Blocks("LNC"), "shown.1", preprocess=small, device="cpu", verbose=False,
            batch_size=n_images,
        ).transform(images)  # fmt: skip
        np.testing.assert_allclose(got, right.numpy(), atol=1e-5)


# ------------------------------------------------------------------ networks as they come

#: (model of timm, layer, layout); a dash where the layer has the images in pieces.
OF_TIMM = [
    ("swin_tiny_patch4_window7_224", "layers.0", "NHWC"),
    ("swin_tiny_patch4_window7_224", "layers.2.blocks.1.mlp.fc1", "NLC"),
    ("swinv2_tiny_window8_256", "norm", "NHWC"),
    ("vit_tiny_patch16_224", "blocks.0.attn", "NLC"),
    ("vit_tiny_patch16_224", "blocks.11", "NLC"),
    ("mixer_s32_224", "blocks.7", "NLC"),
    ("convnext_atto", "stages.1.blocks.0.mlp.fc1", "NCHW"),
    ("convnext_atto", "stages.3", "NCHW"),
    ("efficientnet_b0", "blocks.6", "NCHW"),
    ("poolformer_s12", "stages.3", "NCHW"),
    ("resnet10t", "layer4", "NCHW"),
    ("resnet10t", "global_pool", "NC"),
]
MEANS = {"NHWC": (1, 2), "NCHW": (2, 3), "NLC": (1,), "NC": ()}


def by_hand(name, layer, images):
    """Output of a layer, from timm alone."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = timm.create_model(name).eval()
    prepare = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    seen = []
    model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    with torch.no_grad():
        model(torch.stack([prepare(Image.fromarray(image)) for image in images]))
    return seen[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer", "layout"), OF_TIMM)
def test_layers_of_timm_by_hand(name, layer, layout):
    activation = by_hand(name, layer, IMAGES[:2])
    wanted = activation.mean(MEANS[layout]) if MEANS[layout] else activation
    extractor = TorchFeatures(name, layer, pretrained=False, device="cpu", verbose=False)
    np.testing.assert_allclose(extractor.transform(IMAGES[:2]), wanted.numpy(), atol=1e-4)
    assert extractor._found[1] == layout


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["tokens", "flatten"])
def test_order_of_features_of_a_swin_transformer(pool):
    name, layer = "swin_tiny_patch4_window7_224", "layers.2"
    maps = by_hand(name, layer, IMAGES[:2])  # 14 × 14 × 384
    wanted = {"tokens": maps.flatten(1, 2), "flatten": maps.permute(0, 3, 1, 2).flatten(1)}[pool]
    got = TorchFeatures(
        name, layer, pretrained=False, pool=pool, device="cpu", verbose=False
    ).transform(IMAGES[:2])
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "layout"), [("features.1", "NHWC"), ("norm", "NHWC"), ("permute", "NCHW")]
)
def test_swin_of_torchvision_has_both_orders(layer, layout):
    torch.manual_seed(0)
    network = torchvision.models.swin_t()
    extractor = TorchFeatures(network, layer, preprocess=small, device="cpu", verbose=False)
    extractor.transform(IMAGES)
    assert extractor._found[1] == layout


def test_windows_are_no_images():
    extractor = TorchFeatures(
        "swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn", pretrained=False, verbose=False
    )
    message = r"'layers.0.blocks.0.attn', \(128, 49, 96\) for 2 images.*cut in pieces"
    with pytest.raises(ValueError, match=message):
        extractor.transform(IMAGES[:2])


# ------------------------------------------------------------------ layout as a parameter


class Fixed(nn.Module):
    """An activation in which nothing says what its axes are: all mixed, one size of images."""

    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.mix = shape, nn.Linear(3 * 64 * 64, int(np.prod(shape)))
        self.shown = nn.Identity()

    def forward(self, images):
        return self.shown(self.mix(images.flatten(1)).unflatten(1, self.shape))


@pytest.mark.parametrize("shape", [(6, 8), (4, 5, 6)])
def test_what_cannot_be_found_out_is_refused_and_may_be_given(shape):
    network, known = Fixed(shape), ARRANGED[len(shape) + 1]

    def features(**settings):
        return TorchFeatures(
            network, "shown", preprocess=small, device="cpu", verbose=False, **settings
        ).transform(IMAGES)

    with pytest.raises(ValueError, match=rf"layer='shown', \(3, .*not clear .*such as \"{known}\""):
        features()
    with torch.no_grad():
        activation = network(torch.stack([small(Image.fromarray(i)) for i in IMAGES])).numpy()
    others = {3: ("NCL", 2), 4: ("NHWC", (1, 2))}[len(shape) + 1]
    first = {3: 1, 4: (2, 3)}[len(shape) + 1]
    np.testing.assert_allclose(features(layout=known), activation.mean(first), atol=1e-6)
    np.testing.assert_allclose(features(layout=others[0]), activation.mean(others[1]), atol=1e-6)


def test_maps_of_one_position_and_of_one_channel():
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    single = nn.Sequential(nn.Conv2d(3, 1, 5, 2), nn.ReLU())
    x = torch.stack([to_tensor(image) for image in IMAGES])
    with torch.no_grad():
        expected = pooled(x)[:, :, 0, 0].numpy(), single(x).mean((2, 3)).numpy()
    for network, layer, wanted in ((pooled, "2", expected[0]), (single, "1", expected[1])):
        got = TorchFeatures(
            network, layer, preprocess=to_tensor, device="cpu", verbose=False
        ).transform(IMAGES)
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_the_layout_is_found_once_and_counts_in_the_key():
    network = Blocks("LNC")
    n_runs = []
    network.stem.register_forward_hook(lambda *_: n_runs.append(1))
    extractor = TorchFeatures(
        network, "shown.1", preprocess=small, device="cpu", verbose=False, batch_size=1
    )
    extractor.transform(IMAGES)
    assert len(n_runs) == len(IMAGES) + 1
    given = TorchFeatures(network, "shown.1", preprocess=small, layout="LNC", verbose=False)
    assert given.key() != extractor.key()
    np.testing.assert_allclose(given.transform(IMAGES), extractor.transform(IMAGES), atol=1e-5)


def test_probes_leave_random_numbers_and_the_module_alone():
    network = Blocks("LNC").train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    TorchFeatures(network, "shown.1", preprocess=small, device="cpu", verbose=False).transform(
        IMAGES
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in network.modules())
    assert not any(part._forward_hooks for part in network.modules())


def test_integer_images_are_probed_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return self.conv(images / 255)

    def as_bytes(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    got = TorchFeatures(Scaled(), "conv", preprocess=as_bytes, verbose=False).transform(IMAGES)
    assert got.shape == (3, 4)


@pytest.mark.parametrize("layout", ["NCWHD", "NHW", "channels last", "", 3, None])
def test_wrong_layouts_are_named(layout):
    with pytest.raises(ValueError, match=r"layout=.* must be .*NHWC"):
        check_layout(layout)


def test_a_layout_that_does_not_fit_is_named():
    extractor = TorchFeatures(
        Blocks("LNC"), "shown.1", preprocess=small, layout="NLC", device="cpu", verbose=False
    )
    with pytest.raises(ValueError, match=r"\(65, 3, 24\) for 3 images, is not in the layout='NLC'"):
        extractor.transform(IMAGES)
    with pytest.raises(ValueError, match="is not in the layout='NHWC'"):
        extractor.set_params(layout="NHWC").transform(IMAGES)


def test_arranged_and_back():
    values = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for layout in ("NCHW", "NHWC", "HWNC", "CNWH"):
        moved = values.permute(["NCHW".index(axis) for axis in layout])
        assert torch.equal(arranged(moved, layout), values)
