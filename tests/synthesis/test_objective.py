"""objective: equal to predict, gradients by finite differences, all extractors and encoders."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from torch import nn
from torchvision import transforms
from torchvision.transforms.functional import to_tensor

import brainenc
from brainenc.synthesis import objective
from brainenc.synthesis.tensors import ClampInside, bounded_root, on_tensors


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(n_images=120, n_voxels=24, random_state=2)


def as_tensor(images):
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.GELU(), nn.Conv2d(8, 6, 3, stride=2))


RESIZED = transforms.Compose(
    [transforms.Resize(48), transforms.CenterCrop(40), transforms.ToTensor(),
     transforms.Normalize([0.5] * 3, [0.2] * 3)]
)  # fmt: skip
EXTRACTORS = {
    "gabor": lambda: brainenc.GaborPyramid(verbose=False),
    "gabor, log": lambda: brainenc.GaborPyramid(n_scales=2, nonlinearity="log", verbose=False),
    "gabor, own size": lambda: brainenc.GaborPyramid(n_scales=2, size=None, verbose=False),
    "pixels": lambda: brainenc.PixelFeatures(8, verbose=False),
    "grey pixels": lambda: brainenc.PixelFeatures((6, 9), color=False, verbose=False),
    "module": lambda: brainenc.TorchFeatures(network(), "2", preprocess=to_tensor, verbose=False),
    "module, resized": lambda: brainenc.TorchFeatures(
        network(), "1", preprocess=RESIZED, pool="tokens", verbose=False
    ),
    "timm": lambda: brainenc.TorchFeatures(
        "resnet10t", "layer2", pretrained=False, verbose=False
    ),
    "efficientnet": lambda: brainenc.EfficientNetLiteFeatures("block4", verbose=False),
    "efficientnet, crop": lambda: brainenc.EfficientNetLiteFeatures(
        "block2", "avg", crop="center", verbose=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXTRACTORS)
def test_values_are_those_of_predict(data, name):
    encoder = brainenc.RidgeEncoder(EXTRACTORS[name]()).fit(data.images[:80], data.betas[:80])
    voxels = [0, 5, 11]
    drive = objective(encoder, voxels)
    expected = encoder.predict(data.images[80:])[:, voxels].mean(axis=1)
    found = drive(as_tensor(data.images[80:])).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=0.05 * expected.std())
    np.testing.assert_allclose(drive.score(data.images[80:]), found, atol=1e-5)
    if "resized" not in name and "timm" not in name and "efficient" not in name:
        # Nothing is resized by Pillow: float32 round-off is all there is.
        np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())


@pytest.mark.parametrize("name", ["gabor", "pixels", "module"])
def test_gradients_are_those_of_finite_differences(data, name):
    encoder = brainenc.RidgeEncoder(EXTRACTORS[name]()).fit(data.images[:80], data.betas[:80])
    drive = objective(encoder, [3])
    images = (0.1 + 0.8 * as_tensor(data.images[90:92])).requires_grad_(True)
    (gradient,) = torch.autograd.grad(drive(images).sum(), images)
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(images.shape, generator=rng)
        step = 2e-3 * direction
        with torch.no_grad():
            change = (drive(images + step) - drive(images - step)).sum() / 2
        along = (gradient * step).sum()
        assert float(change) == pytest.approx(float(along), rel=0.05, abs=2e-5)


def test_a_uniform_image_has_a_finite_gradient(data):
    encoder = brainenc.RidgeEncoder(EXTRACTORS["gabor"]()).fit(data.images[:60], data.betas[:60])
    grey = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(encoder)(grey).sum(), grey)
    assert torch.isfinite(gradient).all()


def test_roots_and_clamps():
    values = torch.tensor([0.25, 0.0, 4.0], requires_grad=True)
    root = bounded_root(values)
    (gradient,) = torch.autograd.grad(root.sum(), values)
    np.testing.assert_allclose(root.detach(), [0.5, 0, 2])
    np.testing.assert_allclose(gradient, [1, 5000, 0.25], rtol=1e-4)
    values = torch.tensor([-0.5, 1.5, 0.5, 1.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(
        (ClampInside.apply(values) * torch.tensor([1.0, 1.0, 1.0, -1.0])).sum(), values
    )
    # Back inside is a way: up from below 0, down from above 1.
    np.testing.assert_array_equal(gradient, [1, 0, 1, -1])


def test_banded_ridge_a_prior_and_tokens(data):
    gabor = EXTRACTORS["gabor"]()
    spaces = {"gabor": gabor, "pixels": EXTRACTORS["pixels"]()}
    banded = brainenc.BandedRidgeEncoder(spaces, n_iter=5).fit(data.images[:60], data.betas[:60])
    expected = banded.predict(data.images[60:])[:, 2]
    found = objective(banded, [2]).score(data.images[60:])
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.std())
    source = brainenc.RidgeEncoder(gabor).fit(data.images[:60], data.betas[:60])
    new = source.adapt(data.images[60:], data.betas[60:])
    drive = objective(new, [1])
    np.testing.assert_allclose(
        drive.score(data.images[:9]), new.predict(data.images[:9])[:, 1], rtol=2e-3, atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("blend", ["ridge", None])
def test_the_transformer_over_areas(data, blend):
    features = brainenc.TorchFeatures(
        network(), "2", preprocess=to_tensor, pool="tokens", verbose=False
    )
    encoder = brainenc.ROITransformerEncoder(
        features, rois=data.voxels, blend=blend, n_members=2, n_epochs=1, min_images=20
    )
    encoder.fit(data.images[:100], data.betas[:100])
    drive = objective(encoder, "FFA", rois=data.voxels)
    voxels = data.rois()["FFA"]
    expected = encoder.predict(data.images[100:])[:, voxels].mean(axis=1)
    np.testing.assert_allclose(
        drive.score(data.images[100:]), expected, atol=0.005 * expected.std()
    )
    images = as_tensor(data.images[:1]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(drive(images).sum(), images)
    assert gradient.abs().sum() > 0


def test_areas_weights_and_grey_images(data):
    grey = data.images[..., 1]
    encoder = brainenc.RidgeEncoder(brainenc.PixelFeatures(8, verbose=False))
    encoder.fit(grey[:80], data.betas[:80])
    predicted = encoder.predict(grey[80:])
    rgb = np.repeat(grey[80:, :, :, None], 3, axis=-1)
    weights = np.array([1.0, -1.0])
    np.testing.assert_allclose(
        objective(encoder, [2, 7], weights=weights).score(rgb), predicted[:, [2, 7]] @ weights,
        atol=1e-4,
    )  # fmt: skip
    of_area = objective(encoder, "PPA", rois=data.voxels["roi"].to_numpy()).score(rgb)
    own = predicted[:, data.rois()["PPA"]].mean(axis=1)
    np.testing.assert_allclose(of_area, own, atol=1e-4)
    np.testing.assert_allclose(objective(encoder).score(rgb), predicted.mean(axis=1), atol=1e-4)


def halved(image):
    return to_tensor(image) / 2


def test_what_has_no_gradient_or_is_not_equal_is_refused(data):
    images, betas = data.images[:60], data.betas[:60]
    kernel = brainenc.KernelRidgeEncoder(EXTRACTORS["pixels"]()).fit(images, betas)
    with pytest.raises(TypeError, match="KernelRidgeEncoder has no read-out"):
        objective(kernel)
    with_pca = make_pipeline(EXTRACTORS["pixels"](), PCA(5))
    with pytest.raises(TypeError, match="Pipeline has no gradient"):
        objective(brainenc.RidgeEncoder(with_pca).fit(images, betas))
    tokens = brainenc.RidgeEncoder(features=None).fit(data.truth.tokens, data.betas)
    with pytest.raises(TypeError, match="fitted to features and not to images"):
        objective(tokens)
    with pytest.raises(TypeError, match="must be a fitted brainenc encoder"):
        objective(nn.Linear(2, 2))
    own = brainenc.TorchFeatures(network(), "2", preprocess=halved, verbose=False)
    encoder = brainenc.RidgeEncoder(own).fit(images, betas)
    with pytest.raises(ValueError, match="prepared by halved"):
        objective(encoder)
    with pytest.raises(ValueError, match="differs from predict"):
        objective(encoder, preprocess=lambda rgb: rgb)
    assert objective(encoder, preprocess=lambda rgb: rgb / 2).difference < 0.02


def test_wrong_voxels_weights_and_images_are_refused(data):
    encoder = brainenc.RidgeEncoder(EXTRACTORS["pixels"]()).fit(data.images[:60], data.betas[:60])
    with pytest.raises(ValueError, match="names an ROI: give rois"):
        objective(encoder, "FFA")
    with pytest.raises(ValueError, match="XYZ"):
        objective(encoder, "XYZ", rois=data.voxels)
    with pytest.raises(ValueError, match="99"):
        objective(encoder, [99])
    with pytest.raises(ValueError, match=r"weights \(1,\)"):
        objective(encoder, [1, 2], weights=[1])
    with pytest.raises(ValueError, match="float tensor"):
        objective(encoder)(torch.zeros((2, 64, 64, 3)))
    with pytest.raises(ValueError, match="float tensor"):
        objective(encoder)(torch.zeros((2, 3, 64, 64), dtype=torch.uint8))
    lacking = data.betas[:60].copy()
    lacking[:, :, 4] = np.nan
    half = brainenc.RidgeEncoder(EXTRACTORS["pixels"]()).fit(data.images[:60], lacking)
    with pytest.raises(ValueError, match="1 voxels without data"):
        objective(half, [3, 4])
    assert len(objective(half).weights) == 23
    assert isinstance(data.voxels, pd.DataFrame)


def test_steps_of_torchvision_have_counterparts():
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    from PIL import Image

    for mode in (transforms.InterpolationMode.BILINEAR, transforms.InterpolationMode.BICUBIC):
        steps = transforms.Compose([transforms.Resize(64, mode), transforms.ToTensor()])
        found = on_tensors(steps)(as_tensor(image[None]))[0]
        # Pillow rounds to 8 bits: a grey level for bicubic, which does so too, or two.
        np.testing.assert_allclose(found, steps(Image.fromarray(image)), atol=2.01 / 255)


def test_images_that_are_none_of_the_fit_are_refused(data):
    encoder = brainenc.RidgeEncoder(EXTRACTORS["gabor"]()).fit(data.images[:80], data.betas[:80])
    drive = objective(encoder, [0])
    images = as_tensor(data.images[80:84])
    expected = drive(images)
    torch.testing.assert_close(drive(images.double()), expected)
    torch.testing.assert_close(drive(images + 1e-6), expected, atol=1e-3, rtol=1e-3)
    for wrong in (255 * images, images - 0.1, images + 0.3, images * torch.nan):
        with pytest.raises(ValueError, match="must be RGB from 0 to 1: divide 8-bit images by 255"):
            drive(wrong)
    with pytest.raises(ValueError, match=r"encoder was fitted to images of .*: resize them"):
        drive(images[:, :, 2:])
    for wrong in (data.images[80:84] / 255, data.images[80:84, ..., 0]):
        with pytest.raises(ValueError, match=r"must be pictures .* in uint8"):
            drive.score(wrong)
