import numpy as np
import pytest

import brainenc
from brainenc import project_weights


@pytest.fixture(scope="module")
def embedded():
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((200, 6)) * [1, 2, 3, 1, 1, 0.5] + 1
    betas = embeddings @ rng.standard_normal((6, 4)) + rng.standard_normal((200, 4))
    return embeddings, betas, brainenc.RidgeEncoder(features=None).fit(embeddings, betas)


@pytest.mark.parametrize("batch_size", [7, 64, 1000])
@pytest.mark.parametrize("temperature", [1 / 150, 0.3])
def test_projection_is_the_formula(embedded, batch_size, temperature):
    """Softmax over all images at once, with weights from differences of predictions."""
    embeddings, _, encoder = embedded
    zero, steps = np.zeros((1, 6)), np.eye(6)
    weights = (encoder.predict(steps) - encoder.predict(zero)).T.astype(float)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    length = np.linalg.norm(embeddings, axis=1)
    there = embeddings / length[:, None]
    score = unit @ there.T / temperature
    p = np.exp(score - score.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    direction = p @ there
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    found = project_weights(encoder, embeddings, temperature, batch_size=batch_size)
    np.testing.assert_allclose(found.directions, direction, atol=2e-4)
    np.testing.assert_allclose(found.norms, p @ length, rtol=2e-3)
    np.testing.assert_allclose(found.similarity, (unit * direction).sum(axis=1), atol=1e-4)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
    np.testing.assert_allclose(found.effective_images, np.exp(entropy), rtol=2e-3)
    np.testing.assert_allclose(found.embeddings, found.directions * found.norms[:, None])


def test_kernel_form_has_the_same_weights(embedded):
    embeddings, betas, _ = embedded
    found = [
        project_weights(
            brainenc.RidgeEncoder(features=None, form=form).fit(embeddings, betas), embeddings
        ).directions
        for form in ("primal", "kernel")
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_projected_weights_are_among_images_despite_the_gap(planted):
    """A weight is far from every image; its projection is as near as an image is."""
    joint = planted.truth.joint(modality_gap=2.0)
    encoder = brainenc.RidgeEncoder(features=None).fit(
        joint.images[planted.fit], planted.training[1]
    )
    found = project_weights(encoder, joint.images)
    nearest = (found.directions @ joint.images.T).max(axis=1)
    assert np.median(nearest) > 0.95
    assert np.median(np.abs(found.similarity)) < 0.5
    text = joint.encode_text(["a face", "a place", "a body"])
    # Content of the projection, against that of the images, is that of the planted category.
    content = found.directions - joint.images.mean(axis=0)
    which = (content @ (text - text.mean(axis=0)).T).argmax(axis=1)
    for k, category in enumerate(["face", "place", "body"]):
        mine = (planted.selectivity["concept"] == category).to_numpy()
        assert (which[mine] == k).mean() > 0.8  # chance 1 / 3


def test_images_go_through_the_extractor_of_the_encoder():
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    pixels = brainenc.PixelFeatures(size=4, verbose=False)
    encoder = brainenc.RidgeEncoder(pixels).fit(images, images[:, 0, :3].astype(float))
    found = project_weights(encoder, images)
    expected = project_weights(encoder, pixels.transform(images))
    np.testing.assert_allclose(found.directions, expected.directions, atol=1e-6)


def test_voxels_without_data_are_nan_and_some_can_be_taken(embedded):
    embeddings, betas, _ = embedded
    betas = betas.copy()
    betas[:, 1] = np.nan
    encoder = brainenc.RidgeEncoder(features=None).fit(embeddings, betas)
    found = project_weights(encoder, embeddings)
    assert np.isnan(found.directions[1]).all()
    assert np.isnan(found.effective_images[1])
    assert np.isfinite(found.directions[[0, 2, 3]]).all()
    some = project_weights(encoder, embeddings, voxels=[2])
    np.testing.assert_allclose(some.directions[0], found.directions[2], atol=1e-6)


def test_wrong_inputs(embedded):
    embeddings, betas, encoder = embedded
    with pytest.raises(ValueError, match=r"gave embeddings \(200, 5\), but the encoder has .*6"):
        project_weights(encoder, embeddings[:, :5])
    with pytest.raises(ValueError, match="temperature=0"):
        project_weights(encoder, embeddings, 0)
    with pytest.raises(ValueError, match="length zero"):
        project_weights(encoder, np.zeros((3, 6)))
    with pytest.raises(ValueError, match="was fitted to features: give their features"):
        project_weights(encoder, np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(TypeError, match="MeanEncoder has no linear weights"):
        project_weights(brainenc.MeanEncoder().fit(embeddings, betas), embeddings)
    tokens = embeddings.reshape(200, 3, 2)
    of_tokens = brainenc.RidgeEncoder(features=None).fit(tokens, betas)
    with pytest.raises(ValueError, match="one embedding per image"):
        project_weights(of_tokens, tokens)
