"""Text queries against planted concepts, other gaps, paraphrases and words without meaning."""

import json

import numpy as np
import open_clip
import pytest
import torch

import brainenc
from brainenc import text_concept, text_scores

CONCEPTS = [
    f"a {colour} {category}"
    for colour in ("red", "green", "cyan", "purple")
    for category in ("face", "body", "place", "vehicle", "food")
]


def auc(scores, positive):
    return (scores[positive][:, None] > scores[~positive]).mean()


def fitted(planted, gap):
    joint = planted.truth.joint(modality_gap=gap)
    X, betas = joint.images[planted.fit], planted.training[1]
    return joint, brainenc.RidgeEncoder(features=None).fit(X, betas)


@pytest.mark.parametrize("gap", [0.0, 1.0, 4.0])
def test_prompts_find_planted_concepts_whatever_the_gap(planted, gap):
    joint, encoder = fitted(planted, gap)
    scores = text_scores(encoder, CONCEPTS, text=joint)
    found = [
        auc(scores[prompt].to_numpy(), (planted.selectivity["concept"] == prompt[2:]).to_numpy())
        for prompt in CONCEPTS
        if (planted.selectivity["concept"] == prompt[2:]).any()
    ]
    assert len(found) >= 15
    assert np.mean(found) > 0.95


def test_the_gap_changes_no_ranks(planted):
    ranks = []
    for gap in (0.0, 4.0):
        joint, encoder = fitted(planted, gap)
        scores = text_scores(encoder, ["a face", "a place", "a body"], text=joint)
        ranks.append(scores[planted.high].to_numpy().argmax(axis=1))
    assert (ranks[0] == ranks[1]).mean() > 0.9


def test_words_without_meaning_find_nothing(planted):
    joint, encoder = fitted(planted, 1.0)
    prompts = ["a face", "a place", *(f"a {word}" for word in ("blorp", "snarf", "wug", "dax"))]
    scores = text_scores(encoder, prompts, text=joint)
    faces = (planted.selectivity["concept"] == "face").to_numpy()
    others = planted.high & ~faces
    area = {p: auc(scores[p].to_numpy()[faces | others], faces[faces | others]) for p in prompts}
    assert area["a face"] > 0.9
    meaningless = [area[prompt] for prompt in prompts[2:]]
    assert abs(np.mean(meaningless) - 0.5) < 0.2


def test_retrieval_agrees_with_weights_and_takes_any_encoder(planted):
    """Tokens in the encoder, joint embeddings beside them."""
    joint, encoder = fitted(planted, 1.0)
    prompts = ["a face", "a place", "a body"]
    scores = text_scores(
        planted.encoder, prompts, text=joint,
        images=planted.images, embeddings=joint.images[planted.new],
    )  # fmt: skip
    for prompt in prompts:
        mine = (planted.selectivity["concept"] == prompt[2:]).to_numpy()
        others = planted.high & ~mine
        assert auc(scores[prompt].to_numpy()[mine | others], mine[mine | others]) > 0.9
    # By hand, for one voxel and prompt.
    direction = joint.encode_text(["a place"])[0]
    near = np.argsort(-(joint.images[planted.new] @ direction))[:50]
    predicted = planted.encoder.predict(planted.images)[:, 3].astype(float)
    expected = (predicted[near].mean() - predicted.mean()) / predicted.std(ddof=1)
    assert scores["a place"][3] == pytest.approx(expected, rel=1e-4)
    by_features = text_scores(encoder, prompts, text=joint, images=joint.images[planted.new])
    assert by_features.shape == (240, 3)


def test_concepts_are_the_nearest_images_and_localise(planted):
    joint = planted.truth.joint()
    images = joint.images[planted.new]
    mask = text_concept(images, "place", 60, text=joint, templates=["a view of a {}"])
    near = images @ joint.encode_text(["a view of a place"])[0]
    assert mask.sum() == 60
    assert near[mask].min() >= near[~mask].max()
    found = brainenc.localize(planted.encoder, planted.images, mask)
    roi = planted.data.voxels["roi"].to_numpy()
    ppa = (roi == "PPA") & (planted.selectivity["concept"] == "place").to_numpy()
    assert found.significant[ppa].mean() > 0.8
    assert found.effect[ppa].mean() > found.effect[planted.noise].mean() + 0.2


# ------------------------------------------------------------------ open_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openclip")
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    tower = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    config = {"embed_dim": 24, "vision_cfg": tower, "text_cfg": text}
    (folder / "brainenc-tiny-joint.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    path = folder / "weights.pt"
    torch.save(open_clip.create_model("brainenc-tiny-joint").state_dict(), path)
    return lambda **settings: brainenc.OpenCLIPFeatures(
        "brainenc-tiny-joint", path, device="cpu", verbose=False, **settings
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_the_encoders_own_model_embeds_the_prompts(clip, normalize):
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    features = clip(normalize=normalize)
    embedded = features.transform(images)
    prompts = ["a face", "a street"]
    text = features.encode_text(prompts)
    # A voxel that responds along the difference of the two texts, and its opposite.
    drive = embedded @ (text[0] - text[1])
    betas = np.column_stack([drive, -drive]) / drive.std()
    betas += 0.01 * np.random.default_rng(1).standard_normal(betas.shape)
    encoder = brainenc.RidgeEncoder(features).fit(images, betas)
    scores = text_scores(encoder, prompts)
    assert scores.loc[0, "a face"] > scores.loc[0, "a street"]
    assert scores.loc[1, "a face"] < scores.loc[1, "a street"]
    by_images = text_scores(encoder, prompts, images=images, n_nearest=10)
    assert by_images.shape == (2, 2)
    mask = text_concept(images, "a face", 10, text=features)
    unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    assert set(np.flatnonzero(mask)) == set(np.argsort(-(unit @ text[0]))[:10])


def test_prompts_without_a_text_tower(planted, clip):
    with pytest.raises(ValueError, match="features=None of the encoder has no text tower: fit"):
        text_scores(planted.encoder, ["a", "b"])
    images = np.zeros((30, 32, 32, 3), np.uint8)
    images[:, 0, 0] = np.arange(30)[:, None]
    pixels = brainenc.PixelFeatures(size=2, verbose=False)
    encoder = brainenc.RidgeEncoder(pixels).fit(images, np.arange(30.0))
    with pytest.raises(ValueError, match=r"PixelFeatures\(.*has no text tower"):
        text_scores(encoder, ["a face", "a place"])
    with pytest.raises(ValueError, match=r"24 numbers, and the encoder's weights have 12"):
        text_scores(encoder, ["a face", "a place"], text=clip())
    with pytest.raises(ValueError, match="has no text tower"):
        text_concept(images, "a face", 3, text=pixels)
    with pytest.raises(ValueError, match="JointEmbeddings embeds no images"):
        text_concept(images, "a face", 3, text=planted.truth.joint())


@pytest.mark.parametrize(
    ("prompts", "settings", "error", "message"),
    [
        (["a face"], {}, ValueError, "at least two, all different"),
        (["a face", "a face"], {}, ValueError, "at least two, all different"),
        ("a face", {}, TypeError, "is one text"),
        (
            ["a", "b"],
            {"images": np.zeros((9, 64))},
            ValueError,
            "n_nearest=50 must be .* at most 8",
        ),
        (["a", "b"], {"images": np.ones((60, 3))}, ValueError, "embeddings of images have 3"),
    ],
)
def test_wrong_queries(planted, prompts, settings, error, message):
    joint, encoder = fitted(planted, 1.0)
    with pytest.raises(error, match=message):
        text_scores(encoder, prompts, text=joint, **settings)


def test_wrong_concepts(planted):
    joint = planted.truth.joint()
    with pytest.raises(TypeError, match="must be one text"):
        text_concept(joint.images, ["a face"], text=joint)
    with pytest.raises(ValueError, match="n=1800 must be"):
        text_concept(joint.images, "a face", 1800, text=joint)


def test_an_encoder_without_linear_weights(planted):
    joint = planted.truth.joint()
    mean = brainenc.MeanEncoder().fit(joint.images, joint.images[:, :2])
    with pytest.raises(TypeError, match="MeanEncoder has no linear weights"):
        text_scores(mean, ["a face", "a place"], text=joint)
