"""Words against planted selectivity, voxels of noise and permuted betas."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone

import brainenc
from brainenc import describe
from brainenc.datasets.simulated.scenes import CATEGORIES


def test_planted_favourites_are_named(planted, described):
    voxels = described.voxels
    right = np.array(
        [
            word in concept.split()
            for word, concept in zip(voxels["word"], planted.selectivity["concept"], strict=True)
        ]
    )
    named = voxels["named"].to_numpy()
    assert named[planted.high].mean() > 0.9
    # Voxels with two favourites may have the word "large" first: both are seen better then.
    weights = np.sort(planted.selectivity[list(CATEGORIES)].to_numpy(), axis=1)
    clear = planted.high & (weights[:, -1] > 1.3 * weights[:, -2])
    assert clear.sum() > 0.7 * planted.high.sum()
    assert right[clear & named].mean() >= 0.95  # chance is about .3


def test_labels_of_concepts_are_found_where_no_roi_has_them(planted):
    objects = planted.truth.select(images=planted.new).objects
    colour = brainenc.datasets.simulated.captions.colour_of(objects["hue"])
    names = pd.Series(colour + " ").str.cat(objects["category"].reset_index(drop=True))
    labels = names.groupby(objects["image"].to_numpy()).agg(list).tolist()
    found = describe(
        planted.encoder, planted.images, labels=labels, betas=planted.betas, n_permutations=200
    )
    with_colour = (planted.selectivity["colour"] != "").to_numpy()
    right = (found.voxels["word"] == planted.selectivity["concept"]).to_numpy()
    assert right[with_colour].mean() >= 0.95  # chance 1 / 20
    assert found.voxels["named"][with_colour].mean() > 0.9


def test_voxels_of_noise_have_coherent_top_images_and_no_name(planted, described):
    """Half of them would be described, by one category for most of their top images."""
    by_category = describe(
        planted.encoder,
        planted.images,
        labels=planted.category,
        betas=planted.betas,
        training=planted.training,
        n_permutations=200,
    )
    purity = by_category.voxels["purity"][planted.noise]
    assert (purity > 0.5).mean() > 0.3
    assert by_category.manifest["null_share_above_half"] > 0.3
    for found in (described, by_category):
        noise, named = found.voxels[planted.noise], found.voxels["named"]
        assert noise["named"].sum() <= 0.05 * named.sum()  # the false discovery rate
        # p is uniform: 60 voxels, which share their noise.
        assert (noise["p"] <= 0.05).mean() < 0.16
        assert 0.3 < noise["p"].median() < 0.7


def test_after_permuting_the_betas_few_voxels_are_named(planted):
    """Over all images, before the split: nothing of them goes with any picture."""
    rng = np.random.default_rng(0)
    betas = np.concatenate([planted.training[1], planted.betas])[rng.permutation(1800)]
    encoder = clone(planted.encoder).fit(planted.training[0], betas[:1000])
    found = describe(
        encoder, planted.images, planted.captions, betas=betas[1000:], n_permutations=400
    )
    assert found.voxels["named"].mean() <= 0.05


def test_halves_agree_about_selective_voxels_only(planted, described):
    agreement = described.voxels["agreement"]
    assert agreement[planted.high].median() > 0.85
    assert abs(agreement[planted.noise].median()) < 0.3


def test_r_and_p_are_those_of_a_correlation_with_the_word(planted, described):
    rows = described.words.iloc[[0, 40, 300, 700]]
    for row in rows.itertuples():
        has = np.array([row.word in caption.split() for caption in planted.captions], float)
        y = np.nanmean(planted.betas[:, :, row.voxel], axis=1)
        expected = stats.pearsonr(has, y, alternative="greater")
        assert row.r == pytest.approx(expected.statistic, abs=1e-5)
        # 400 permutations against the t distribution: s.e. at most .025.
        assert row.p == pytest.approx(max(expected.pvalue, 1 / 401), abs=0.08)
    predicted = planted.encoder.predict(planted.images)
    y = np.nanmean(planted.betas, axis=1)
    expected = [stats.pearsonr(predicted[:, v], y[:, v]).statistic for v in range(20)]
    np.testing.assert_allclose(described.voxels["r_model"][:20], expected, atol=1e-5)


def test_images_without_betas_are_described_and_not_tested(planted):
    betas = planted.betas.copy()
    betas[200:] = np.nan
    part = describe(
        planted.encoder, planted.images, planted.captions, betas=betas, n_permutations=50
    )
    alone = describe(
        planted.encoder, planted.images, planted.captions, betas=planted.betas, n_permutations=50
    )
    pd.testing.assert_series_equal(part.voxels["word"], alone.voxels["word"])
    assert part.manifest["n_tested_images"] == 200
    has = np.array(["face" in caption.split() for caption in planted.captions[:200]], float)
    row = part.words[part.words["word"] == "face"].iloc[0]
    y = np.nanmean(betas[:200, :, row["voxel"]], axis=1)
    assert row["r"] == pytest.approx(np.corrcoef(has, y)[0, 1], abs=1e-5)


def test_images_of_the_fit_are_refused(planted):
    images = np.concatenate([planted.images[:50], planted.training[0][:3]])
    betas = np.concatenate([planted.betas[:50], planted.training[1][:3]])
    captions = [*planted.captions[:50], "a face", "a face", "a body"]
    with pytest.raises(ValueError, match=r"was fitted to 3 of the 53 images with betas"):
        describe(planted.encoder, images, captions, betas=betas, min_images=2)
    betas[50:] = np.nan  # described, and not tested
    found = describe(planted.encoder, images, captions, betas=betas, min_images=2, n_permutations=5)
    assert found.manifest["n_tested_images"] == 50


def test_without_betas_nothing_is_named(planted):
    found = describe(planted.encoder, planted.images, planted.captions)
    assert not found.voxels["named"].any()
    assert found.voxels["q"].isna().all()
    assert "words are not tested" in found.warnings[0]
    assert (found.voxels["word"] != "").all()


def test_voxels_without_predictions_have_no_words(planted):
    training = planted.training[0], planted.training[1].copy()
    training[1][:, :, 5] = np.nan
    encoder = clone(planted.encoder).fit(*training)
    betas = planted.betas.copy()
    betas[:, :, 7] = 2.0  # constant
    found = describe(
        encoder, planted.images, planted.captions, betas=betas, training=training,
        n_permutations=20,
    ).voxels  # fmt: skip
    assert found.loc[5, "word"] == ""
    assert not found.loc[[5, 7], "named"].any()
    assert found.loc[[5], ["purity", "p", "q", "agreement"]].isna().all(axis=None)
    assert np.isnan(found.loc[7, "p"])


def test_a_composer_makes_sentences(planted):
    def composer(words, images):
        assert len(images) == 12
        return f"{' and '.join(words)}, as in image {images[0]}"

    found = describe(
        planted.encoder, planted.images, planted.captions, n_top=12, n_words=2, composer=composer
    )
    words = found.words[found.words["voxel"] == 0]["word"]
    first = found.top[found.top["voxel"] == 0]["image"].iloc[0]
    assert found.voxels.loc[0, "sentence"] == f"{' and '.join(words)}, as in image {first}"


def test_it_is_kept_as_tables(described, tmp_path):
    described.save(tmp_path / "words")
    again = brainenc.Description.load(tmp_path / "words")
    for name in ("voxels", "words", "top"):
        pd.testing.assert_frame_equal(
            getattr(again, name), getattr(described, name), check_dtype=False
        )
    assert repr(again) == repr(described)
    with pytest.raises(FileExistsError, match="holds a description of voxels"):
        brainenc.benchmarking.table_folders.check_no_other(tmp_path / "words", ["curve.json"])


def test_rois(planted, described):
    table = described.rois()
    assert table.loc["PPA", "words"].startswith("place")
    part = described.voxels[planted.data.voxels["roi"] == "FFA"]
    assert table.loc["FFA", "named"] == part["named"].mean()
    with pytest.raises(KeyError, match="no column 'streams'"):
        described.rois("streams")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"captions": None}, ValueError, "either captions or labels"),
        ({"betas": np.zeros((5, 240))}, ValueError, "betas"),
        ({"betas": np.zeros((800, 3))}, ValueError, "betas has 3 voxels, but the encoder"),
        ({"betas": np.full((800, 240), np.nan)}, ValueError, "nothing but NaN"),
        ({"voxels": pd.DataFrame({"roi": ["a"]})}, ValueError, "voxels has 1 rows"),
        ({"n_top": 0}, ValueError, "n_top=0 must be a whole number"),
        ({"n_top": 801}, ValueError, "n_top=801 must be"),
        ({"alpha": 5}, ValueError, "alpha=5"),
        ({"training": np.zeros(3)}, TypeError, "training must be a pair"),
        ({"training": (np.zeros((9, 2)), np.zeros((9, 2)))}, ValueError, "has 9 images"),
    ],
)
def test_wrong_arguments(planted, settings, error, message):
    captions = settings.pop("captions", planted.captions)
    with pytest.raises(error, match=message):
        describe(planted.encoder, planted.images, captions, **settings)


def small_description(voxels, **settings):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((60, 4)), rng.standard_normal((60, 2, 3))
    encoder = brainenc.RidgeEncoder(features=None).fit(X, Y)
    labels = ["01", "1"] * 30
    images = rng.standard_normal((60, 4))
    return describe(encoder, images, labels=labels, voxels=voxels, min_images=2, **settings)


def test_columns_of_the_voxel_table_and_results_are_both_kept():
    alone = small_description(None).voxels
    voxels = pd.DataFrame({"z": [10.0, 20, 30], "p": [1, 2, 3], "word": ["u", "v", "w"]})
    voxels["voxel"] = [7, 8, 9]  # numbers of their own
    found = small_description(voxels).voxels
    for name in voxels:
        assert found[f"{name}_of_voxel"].tolist() == voxels[name].tolist()
    pd.testing.assert_frame_equal(found[list(alone)], alone)


def test_a_loaded_description_has_the_same_types(tmp_path):
    voxels = pd.DataFrame(
        {"streams": ["01", "02", None], "parcel": ["1", "02", "3"], "flag": [True, False, True]}
    )
    found = small_description(voxels)
    found.save(tmp_path)
    loaded = brainenc.Description.load(tmp_path)
    for name in ("voxels", "words", "top"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(found, name), check_exact=True)
    assert loaded.voxels["parcel"].tolist() == ["1", "02", "3"]
    assert loaded.voxels["streams"].tolist()[:2] == ["01", "02"]
    assert pd.isna(loaded.voxels["streams"].tolist()[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_top": 2.5}, "n_top=2.5 must be a whole number of at least 1"),
        ({"n_top": 100}, "n_top=100 must be a whole number of at least 1 and at most 60"),
        ({"n_words": True}, "n_words=True must be"),
        ({"batch_size": 0}, "batch_size=0 must be"),
    ],
)
def test_numbers_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        small_description(None, **{"n_top": 5, **settings})
