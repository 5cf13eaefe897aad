"""ROIs, attention and learning; what it shares with others is in test_network_encoders.py."""

import numpy as np
import pandas as pd
import pytest
import torch

import brainenc
from brainenc.encoders import ROITransformerEncoder
from brainenc.encoders.roi_transformer import response_clusters, roi_labels

SMALL = {"hidden": 16, "n_heads": 4, "feed_forward": 16, "dropout": 0.0}
LABELS = np.array(["V1"] * 4 + ["FFA"] * 4 + [""] * 2, dtype=object)


def simulated(n_images=300, n_tokens=9, places=(2, 7), seed=0):
    """Betas of two ROIs, each linear in one token; voxels outside follow the mean of all."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n_images, n_tokens, 6)).astype(np.float32)
    parts = [tokens[:, place] @ rng.standard_normal((6, 4)) for place in places]
    betas = np.concatenate([*parts, tokens.mean(1) @ rng.standard_normal((6, 2))], axis=1)
    return tokens, (betas + 3).astype(np.float32)


@pytest.fixture(scope="module")
def problem():
    return simulated()


@pytest.fixture(scope="module")
def fitted(problem):
    tokens, betas = problem
    encoder = ROITransformerEncoder(
        rois=LABELS, sizes=SMALL, n_members=1, n_epochs=50, learning_rate=1e-2, weight_decay=0
    )
    return encoder.fit(tokens[:240], betas[:240])


def test_it_learns_a_small_deterministic_map(problem, fitted):
    tokens, betas = problem
    error = np.square(fitted.predict(tokens[240:]) - betas[240:]).mean(0) / betas.var(0)
    # The ROIs' tokens are hard to miss and no noise was added: what 340 steps leave. Looking at
    # all tokens alike would leave 8/9 of the variance.
    assert error[:8].max() < 0.1


def test_attention_finds_the_token_that_drives_a_roi(problem, fitted):
    maps = fitted.attention_maps(problem[0][240:])
    assert fitted.rois_ == ["V1", "FFA", "rest"]
    assert maps.shape == (60, 3, 3, 3)
    np.testing.assert_allclose(maps.sum((2, 3)), 1, rtol=1e-5)
    flat = maps.mean(0).reshape(3, 9)
    # Token 2 is the third of the first row, token 7 the second of the last. Even is 1/9.
    assert flat[:2].argmax(1).tolist() == [2, 7]
    assert flat[0, 2] > 0.4
    assert flat[1, 7] > 0.4


def test_a_class_token_is_not_on_the_map(problem):
    tokens, betas = problem
    tokens = np.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
    encoder = ROITransformerEncoder(rois=LABELS, sizes=SMALL, n_members=2, n_epochs=4)
    maps = encoder.fit(tokens, betas).attention_maps(tokens[:5])
    with torch.no_grad():
        inputs = torch.from_numpy(encoder.adapter_.transform(tokens[:5]))
        expected = np.mean([net.attention(inputs).numpy() for net in encoder.members_], axis=0)
    expected = expected[:, :, 1:] / expected[:, :, 1:].sum(2, keepdims=True)
    assert maps.shape == (5, 3, 3, 3)
    np.testing.assert_allclose(maps.reshape(5, 3, 9), expected, rtol=1e-5)


def test_maps_of_pooled_features_and_of_tokens_without_a_grid(problem):
    tokens, betas = problem
    options = {"rois": LABELS, "sizes": SMALL, "n_members": 1, "n_epochs": 1}
    pooled = ROITransformerEncoder(**options).fit(tokens.mean(1), betas)
    assert (pooled.attention_maps(tokens.mean(1)) == 1).all()
    seven = ROITransformerEncoder(**options).fit(tokens[:, :7], betas)
    assert np.isfinite(seven.predict(tokens[:, :7])).all()
    with pytest.raises(ValueError, match="7 tokens are no square grid"):
        seven.attention_maps(tokens[:, :7])
    with pytest.warns(UserWarning, match="50 images, fewer than min_images=100"):
        few = ROITransformerEncoder(**options).fit(tokens[:50], betas[:50])
    with pytest.raises(ValueError, match="fewer than min_images=100 images"):
        few.attention_maps(tokens)


# ------------------------------------------------------------------ ROIs


@pytest.fixture
def voxels():
    hemisphere = ["lh", "rh"] * 5
    return pd.DataFrame(
        {"ncsnr": 0.5, "visual": [*LABELS[:8], None, ""], "other": "A", "hemisphere": hemisphere}
    )


def test_labels_of_a_voxel_table(voxels):
    labels = roi_labels(voxels, None, hemispheres=True)
    assert labels.tolist() == [
        *["V1 lh", "V1 rh"] * 2,
        *["FFA lh", "FFA rh"] * 2,
        *["rest lh", "rest rh"],
    ]
    assert roi_labels(voxels, None, False).tolist() == ["V1"] * 4 + ["FFA"] * 4 + ["rest"] * 2
    assert set(roi_labels(voxels, "other", False)) == {"A"}
    without = voxels.drop(columns="hemisphere")
    assert roi_labels(without, None, True).tolist() == roi_labels(voxels, None, False).tolist()
    with pytest.raises(ValueError, match=r"columns \['ncsnr'.* no atlas 'visuel'"):
        roi_labels(voxels, "visuel", False)
    with pytest.raises(ValueError, match="no atlas of ROI labels"):
        roi_labels(voxels[["ncsnr"]], None, False)


def test_the_voxel_table_is_heard_where_nothing_was_said(voxels):
    told = ROITransformerEncoder(hemispheres=False).with_voxels(voxels)
    assert told.rois.tolist() == ["V1"] * 4 + ["FFA"] * 4 + ["rest"] * 2
    for own in (None, LABELS):
        encoder = ROITransformerEncoder(rois=own)
        assert encoder.with_voxels(voxels) is encoder
    auto = ROITransformerEncoder()
    assert auto.with_voxels(voxels[["ncsnr"]]).rois == "auto"
    assert auto.rois == "auto"


def test_a_table_as_rois_is_saved_with_the_encoder(problem, voxels, tmp_path):
    tokens, betas = problem
    encoder = ROITransformerEncoder(rois=voxels, sizes=SMALL, n_members=1, n_epochs=1)
    encoder.fit(tokens, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    assert loaded.rois_ == ["V1 lh", "V1 rh", "FFA lh", "FFA rh", "rest lh", "rest rh"]
    np.testing.assert_array_equal(
        loaded.attention_maps(tokens[:3]), encoder.attention_maps(tokens[:3])
    )


@pytest.mark.filterwarnings("ignore:50 images, fewer than min_images")
@pytest.mark.parametrize("n_images", [300, 50])
def test_labels_of_other_voxels_are_refused(problem, n_images):
    tokens, betas = (part[:n_images] for part in problem)
    with pytest.raises(ValueError, match="labels of 9 voxels, but betas has 10 voxels"):
        ROITransformerEncoder(rois=LABELS[:9]).fit(tokens, betas)
    with pytest.raises(ValueError, match="must be 'auto', None, labels"):
        ROITransformerEncoder(rois="V1").fit(tokens, betas)


def test_another_subject_brings_other_voxels(problem, fitted):
    tokens, betas = problem
    adapted = fitted.set_params(n_epochs=1).adapt(tokens, betas[:, :6], rois=LABELS[:6])
    assert adapted.rois_ == ["V1", "FFA"]
    clustered = fitted.adapt(tokens, betas[:, :6])
    assert clustered.rois_[0].startswith("cluster")
    assert clustered.predict(tokens).shape == (300, 6)
    assert fitted.rois_ == ["V1", "FFA", "rest"]


def test_voxels_that_respond_alike_are_a_cluster():
    rng = np.random.default_rng(0)
    sources = rng.standard_normal((200, 3))
    membership = np.arange(60) % 3
    responses = sources[:, membership] + 0.5 * rng.standard_normal((200, 60))
    responses[rng.random(responses.shape) < 0.05] = np.nan
    labels = response_clusters(responses.astype(np.float32), 3, 0)
    pairs = pd.crosstab(labels, membership).to_numpy()
    assert ((pairs > 0).sum(0) == 1).all()  # up to the names
    assert ((pairs > 0).sum(1) == 1).all()
    few = response_clusters(responses[:, :2].astype(np.float32), 12, 0)
    assert len(set(few)) == 2
