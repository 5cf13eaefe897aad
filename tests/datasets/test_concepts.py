"""Concepts, voxels of noise, captions and joint embeddings of the simulated subject."""

import numpy as np
import pytest

from brainenc.datasets import simulate_subject
from brainenc.datasets.simulated.captions import COLOURS, colour_of, mentioned
from brainenc.datasets.simulated.scenes import CATEGORIES


@pytest.fixture(scope="module")
def data():
    return simulate_subject(500, 300, 2, concepts=0.5, noise_voxels=0.2, random_state=4)


def test_without_them_the_subject_is_the_same(data):
    plain = simulate_subject(60, 40, 2, random_state=4)
    named = simulate_subject(60, 40, 2, concepts=0.0, noise_voxels=0.0, random_state=4)
    np.testing.assert_array_equal(plain.betas, named.betas)
    np.testing.assert_array_equal(plain.images, data.images[:60])


def test_noise_voxels_have_no_signal_and_the_same_spread(data):
    truth, selectivity = data.truth, data.truth.selectivity
    noise = selectivity["noise"].to_numpy()
    assert noise.mean() == pytest.approx(0.2)
    assert (truth.ncsnr[noise] == 0).all()
    assert (truth.ncsnr[~noise] > 0).all()
    assert np.ptp(truth.signal[:, noise], axis=0).max() == 0
    others = simulate_subject(500, 300, 2, concepts=0.5, random_state=4).truth
    total = np.hypot(others.noise_sd, others.noise_sd * others.ncsnr)
    np.testing.assert_allclose(truth.noise_sd[noise], total[noise], rtol=1e-5)
    assert (selectivity.loc[noise, "concept"] == "").all()


def test_concept_voxels_respond_to_their_category_in_their_colour(data):
    """Predicted by the table of objects alone, computed here anew."""
    truth, selectivity = data.truth, data.truth.selectivity
    objects = truth.objects
    high = data.voxels["roi"].isin(["FFA", "PPA", "EBA"]).to_numpy()
    with_colour = (selectivity["colour"] != "").to_numpy()
    silent = selectivity["noise"].to_numpy()
    assert with_colour[high & ~silent].mean() == pytest.approx(0.5, abs=0.1)
    assert not with_colour[~high].any()
    for voxel in np.flatnonzero(with_colour)[:12]:
        category, colour = selectivity.loc[voxel, ["category", "colour"]]
        hue = COLOURS.index(colour) / len(COLOURS)
        away = np.abs((objects["hue"] - hue + 0.5) % 1 - 0.5)
        shown = objects[(objects["category"] == category) & (away < 1 / 8)]["image"].unique()
        wrong_colour = objects[(objects["category"] == category) & (away > 3 / 8)]["image"].unique()
        wrong_colour = np.setdiff1d(wrong_colour, shown)
        neither = np.setdiff1d(np.arange(500), [*shown, *wrong_colour])
        z = (truth.signal[:, voxel] - truth.signal[:, voxel].mean()) / truth.signal[:, voxel].std()
        assert z[shown].mean() > 0.8
        assert z[shown].mean() > z[wrong_colour].mean() + 0.5
        assert z[shown].mean() > z[neither].mean() + 0.8


def test_no_roi_gives_concepts_away(data):
    selectivity = data.truth.selectivity
    with_colour = selectivity["colour"] != ""
    concepts = selectivity.loc[with_colour, "concept"]
    assert concepts.nunique() == 20
    commonest = concepts.groupby(data.voxels.loc[with_colour, "roi"]).agg(
        lambda names: names.value_counts(normalize=True).iloc[0]
    )
    assert (commonest < 0.3).all()  # of 20


def test_selectivity_follows_voxels_and_the_law(data):
    chosen = np.array([250, 3, 299])
    part = data.truth.select(voxels=chosen)
    expected = data.truth.selectivity.iloc[chosen].reset_index(drop=True)
    assert part.selectivity.equals(expected)
    responses = part.respond(data.images[:20], data.truth.select(images=np.arange(20)).objects)
    np.testing.assert_allclose(responses, data.truth.signal[:20][:, chosen], atol=1e-4)


@pytest.mark.parametrize("wrong", [{"concepts": -0.1}, {"noise_voxels": 1.5}, {"concepts": np.nan}])
def test_wrong_shares(wrong):
    with pytest.raises(ValueError, match="must be a share between 0 and 1"):
        simulate_subject(20, 10, 1, **wrong)


# ------------------------------------------------------------------ captions


def test_captions_name_what_the_table_has(data):
    captions = data.truth.captions()
    assert len(captions) == 500
    for image, rows in data.truth.objects.groupby("image"):
        said = sorted(mentioned(captions[image]))
        expected = zip(rows["category"], colour_of(rows["hue"]), strict=True)
        assert said == sorted(expected)


def test_captions_follow_the_images(data):
    part = data.truth.select(images=[7, 3])
    captions = data.truth.captions()
    assert part.captions() == [captions[7], captions[3]]


def test_what_a_text_mentions():
    assert mentioned("Two red vehicles near a Face; purple") == [
        ("vehicle", "red"),
        ("face", ""),
        ("", "purple"),
    ]
    assert mentioned("a misplaced bodyguard") == []


def test_names_of_hues_are_on_a_circle():
    assert colour_of([0.0, 0.99, 0.26, 0.5, 0.7]).tolist() == [
        *("red", "red", "green", "cyan", "purple")
    ]


# ------------------------------------------------------------------ joint embeddings


@pytest.mark.parametrize("gap", [0.0, 1.0, 4.0])
def test_text_finds_the_images_of_its_content_whatever_the_gap(data, gap):
    joint = data.truth.joint(modality_gap=gap)
    np.testing.assert_allclose(np.linalg.norm(joint.images, axis=1), 1, atol=1e-5)
    objects = data.truth.objects
    for category in CATEGORIES:
        near = joint.images @ joint.encode_text([f"a {category}"])[0]
        shown = np.isin(np.arange(500), objects[objects["category"] == category]["image"])
        # Share of pairs of an image with and one without it that are in the right order.
        auc = (near[shown][:, None] > near[~shown]).mean()
        assert auc > 0.9


def test_the_gap_is_between_images_and_texts(data):
    cosines = {}
    for gap in (0.0, 3.0):
        joint = data.truth.joint(gap)
        texts = joint.encode_text([f"a {category}" for category in CATEGORIES])
        within = (joint.images[:50] @ joint.images[50:100].T).mean()
        cosines[gap] = within, (joint.images @ texts.T).mean()
    assert cosines[0.0][0] < 0.5
    assert cosines[3.0][0] > 0.85  # 9 / 10 and a little content
    assert cosines[3.0][1] < 0.1  # though each is near its own kind


def test_a_text_without_known_words_says_nothing(data):
    joint = data.truth.joint(0.0)
    near = joint.images @ joint.encode_text(["blorp", "blorp", "snark"]).T
    np.testing.assert_array_equal(near[:, 0], near[:, 1])
    assert np.abs(near).mean() < 0.25  # cosines of random directions of 64 numbers: .125 s.d.
    with pytest.raises(TypeError, match="is one text"):
        joint.encode_text("a face")


def test_templates_are_averaged(data):
    joint = data.truth.joint()
    found = joint.encode_text(["face"], ["a photo of a {}", "a red {}"])
    parts = joint.encode_text(["a face", "a red face"]).mean(axis=0)
    np.testing.assert_allclose(found[0], parts / np.linalg.norm(parts), atol=1e-6)


def test_wrong_numbers(data):
    with pytest.raises(ValueError, match="modality_gap=-1 must be 0 or more"):
        data.truth.joint(-1)


def test_the_embedding_of_an_image_is_the_same_in_any_selection():
    truth = simulate_subject(30, 10, 2, random_state=0).truth
    rows = np.array([20, 3, 11, 29])
    whole = truth.joint().images
    np.testing.assert_array_equal(truth.select(images=rows).joint().images, whole[rows])
    # Images have noise of their own, and another one by another seed.
    clean = truth.joint(noise=0.0).images
    noise, other = whole - clean, truth.joint(random_state=1).images - clean
    r = np.corrcoef(np.concatenate([noise, other]))
    assert np.abs(r[np.triu_indices(60, 1)]).max() < 0.75
    assert np.abs(np.mean(r[np.triu_indices(60, 1)])) < 0.05
