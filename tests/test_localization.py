"""Concept localisation: the test against scipy, the maps against the simulated truth."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

import brainenc
from brainenc import ConceptMap, MeanEncoder, PixelFeatures, RidgeEncoder, localize
from brainenc.data.images import ImageFiles
from brainenc.localization import Moments
from brainenc.noise.trials import TrialDistribution


@pytest.fixture(scope="module")
def fitted():
    """Ridge on 12 features, and 50 new images, in descending order of the first feature."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 12)).astype(np.float32)
    betas = 300 + X @ rng.standard_normal((12, 9)) + rng.standard_normal((150, 9))
    new = X[100:]
    return RidgeEncoder().fit(X[:100], betas[:100]), new[np.argsort(-new[:, 0])]


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_t_and_p_are_those_of_scipy(fitted, alternative, batch_size):
    encoder, X = fitted
    # Around 300, float32 has steps of 3e-5, and how a product is rounded depends on its size: with
    # predictions of the same batches, nothing is lost.
    batches = [X[start : start + batch_size] for start in range(0, len(X), batch_size)]
    responses = np.concatenate([encoder.predict(batch) for batch in batches]).astype(np.float64)
    concept, rest = responses[:20], responses[20:]
    options = {"alternative": alternative, "batch_size": batch_size}
    found = localize(encoder, X, np.arange(20), **options)
    expected = stats.ttest_1samp(concept, rest.mean(0), alternative=alternative)
    np.testing.assert_allclose(found.t, expected.statistic, rtol=1e-6)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-5)
    np.testing.assert_allclose(found.q, stats.false_discovery_control(expected.pvalue), rtol=1e-5)
    welch = localize(encoder, X, np.arange(50) < 20, test="welch", **options)
    expected = stats.ttest_ind(concept, rest, equal_var=False, alternative=alternative)
    np.testing.assert_allclose(welch.t, expected.statistic, rtol=1e-6)
    np.testing.assert_allclose(welch.p, expected.pvalue, rtol=1e-5)
    assert (found.n_concept, found.n_rest) == (20, 30)


def test_effects_are_in_standard_deviations_of_a_trial(fitted):
    encoder, X = fitted
    responses = encoder.predict(X).astype(np.float64)
    difference = responses[:20].mean(0) - responses[20:].mean(0)
    trial_sd = np.sqrt(responses.var(0, ddof=1) + encoder.noise_.variance)
    found = localize(encoder, X, np.arange(20), min_effect=0.2)
    np.testing.assert_allclose(found.effect, difference / trial_sd, rtol=1e-5)
    np.testing.assert_array_equal(found.significant, (found.q <= 0.05) & (found.effect >= 0.2))
    less = localize(encoder, X, np.arange(20), min_effect=0.2, alternative="less")
    np.testing.assert_array_equal(less.significant, (less.q <= 0.05) & (less.effect <= -0.2))
    both = localize(encoder, X, np.arange(20), min_effect=0.2, alternative="two-sided")
    assert (both.significant & (both.effect < 0)).any()
    assert (both.significant & (both.effect > 0)).any()
    # 50 images × 400 draws tell a s.d. to 1 %; the spread of effects over images is shared.
    drawn = localize(encoder, X, np.arange(20), responses="draws", n_draws=400)
    np.testing.assert_allclose(drawn.effect, found.effect, atol=0.03)
    again = localize(encoder, X, np.arange(20), responses="draws", n_draws=400)
    np.testing.assert_array_equal(drawn.t, again.t)


def test_draws_are_averaged_per_image_before_the_test(fitted):
    encoder, X = fitted
    found = localize(encoder, X, np.arange(20), responses="draws", n_draws=3, random_state=4)
    synthetic = encoder.sample(X, 3, np.random.default_rng(4)).mean(0).astype(np.float64)
    # Counting draws as images would give 59 degrees of freedom and a t √3 times as large.
    expected = stats.ttest_1samp(synthetic[:20], synthetic[20:].mean(0), alternative="greater")
    np.testing.assert_allclose(found.t, expected.statistic, rtol=1e-5)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-4)


def test_moments_of_blocks_are_those_of_the_whole():
    values = 1e4 + np.random.default_rng(0).standard_normal((60, 3))
    moments = Moments()
    for rows in ([], range(1), range(1, 20), range(20, 60)):
        moments.add(values[list(rows)])
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12)
    # A sum of squares less n·mean² would lose 8 of 16 digits here.
    np.testing.assert_allclose(moments.variance, values.var(0, ddof=1), rtol=1e-9)


# -------------------------------------------------------------------- against the truth


@pytest.fixture(scope="module")
def subject():
    data = brainenc.datasets.simulate_subject(500, 400, session_drift=0, random_state=5)
    fit = np.arange(250)
    encoder = RidgeEncoder(features=None).fit(data.truth.tokens[fit], data.betas[fit])
    return data, encoder, np.arange(250, 500)


def true_effect(truth, images, concept):
    """Noiseless difference in s.d. of a single trial."""
    signal = truth.signal[images]
    trial_sd = np.sqrt(truth.signal.var(axis=0) + truth.noise_sd**2)
    return (signal[concept].mean(axis=0) - signal[~concept].mean(axis=0)) / trial_sd


@pytest.mark.parametrize(("category", "area"), [("face", "FFA"), ("place", "PPA"), ("body", "EBA")])
def test_areas_of_the_simulated_subject_are_recovered(subject, category, area):
    data, encoder, images = subject
    concept = data.truth.category[images] == category
    found = localize(encoder, data.truth.tokens[images], concept)
    effect = true_effect(data.truth, images, concept)
    sensitivity = found.significant[data.voxels["roi"] == area].mean()
    false_discoveries = (effect[found.significant] <= 0).mean()
    print(f"{category}: sensitivity {sensitivity:.2f}, false discoveries {false_discoveries:.3f}")
    # 52 to 60 voxels an area, 250 images to fit: the s.e. of a share of .85 is .05; and an encoder
    # of 250 images is wrong about some voxels, which is why the rate is not held to alpha = .05.
    assert sensitivity > 0.75
    assert false_discoveries < 0.1
    assert np.corrcoef(found.effect, effect)[0, 1] > 0.9


def test_a_random_set_of_images_is_no_concept(subject):
    data, encoder, images = subject
    rng = np.random.default_rng(0)
    n_found = [
        localize(encoder, data.truth.tokens[images], rng.permutation(250)[:45]).significant.sum()
        for _ in range(10)
    ]
    # Voxels share their features, so discoveries come in crowds: seldom, but many at a time.
    assert np.median(n_found) == 0


def test_without_a_smallest_effect_errors_of_the_encoder_are_discoveries(subject):
    data, encoder, images = subject
    concept = data.truth.category[images] == "body"
    effect = true_effect(data.truth, images, concept)
    wrong = [
        (
            effect[localize(encoder, data.truth.tokens[images], concept, min_effect=m).significant]
            <= 0
        )
        for m in (0, 0.1)
    ]
    assert wrong[0].sum() > 2 * wrong[1].sum()
    assert wrong[0].mean() > 0.05  # the false discovery rate that was asked for


# -------------------------------------------------------------------- images, files, bad input


def test_images_are_read_batch_by_batch(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(30)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    encoder = RidgeEncoder(PixelFeatures(size=4, verbose=False)).fit(images, images[:, :2, 0, 0])
    whole = localize(encoder, images, np.arange(9))
    largest = []

    class Watched(ImageFiles):
        def __array__(self, dtype=None, copy=None):
            largest.append(len(self))
            return super().__array__(dtype, copy)

    lazy = localize(encoder, Watched(paths), np.arange(9), batch_size=4)
    assert max(largest) == 4
    np.testing.assert_allclose(lazy.t, whole.t, rtol=1e-5)
    from_list = localize(encoder, [str(path) for path in paths], np.arange(9), batch_size=11)
    np.testing.assert_allclose(from_list.t, whole.t, rtol=1e-5)


def test_undefined_voxels_are_nan_and_never_significant(fitted):
    _, X = fitted
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((50, 3)) + X[:, :3]
    betas[:, 1] = np.nan
    found = localize(RidgeEncoder().fit(X, betas), X, X[:, 0] > 0.3)
    assert np.isnan(found.t[1])
    assert np.isnan([found.p[1], found.q[1], found.effect[1]]).all()
    assert found.significant.tolist() == [True, False, False]
    constant = localize(MeanEncoder().fit(X, betas), X, np.arange(9))
    assert np.isnan(constant.t).all()
    assert not constant.significant.any()


def test_one_voxel_without_an_axis(fitted):
    _, X = fitted
    encoder = RidgeEncoder().fit(X, X[:, 0])
    for responses in ("predictions", "draws"):
        assert localize(encoder, X, X[:, 0] > 0, responses=responses).significant.tolist() == [True]


def test_maps_go_out_as_csv_and_nifti(fitted, tmp_path):
    encoder, X = fitted
    found = localize(encoder, X, np.arange(20), min_effect=0.2)
    voxels = pd.DataFrame({"roi": list("aaabbbccc"), "i": range(9), "j": 1, "k": 2})
    table = pd.read_csv(found.to_csv(tmp_path / "maps" / "faces.csv", voxels))
    assert list(table) == ["voxel", "roi", "i", "j", "k", "t", "p", "q", "effect", "significant"]
    np.testing.assert_allclose(table["t"], found.t)
    np.testing.assert_array_equal(table["significant"], found.significant)
    assert "roi" not in pd.read_csv(found.to_csv(tmp_path / "plain.csv"))
    found.to_nifti(voxels, tmp_path / "t.nii.gz", affine=np.diag([2.0, 2, 2, 1]))
    volume = nib.load(tmp_path / "t.nii.gz")
    np.testing.assert_allclose(volume.get_fdata()[:, 1, 2], found.t, rtol=1e-6)
    assert volume.header.get_zooms() == (2, 2, 2)
    kept = found.to_nifti(voxels, value="effect", thresholded=True).get_fdata()[:, 1, 2]
    np.testing.assert_array_equal(np.isfinite(kept), found.significant)
    assert 0 < found.significant.sum() < 9
    with pytest.raises(ValueError, match="8 rows, but the map has 9 voxels"):
        found.to_csv(tmp_path / "t.csv", voxels[:8])
    with pytest.raises(ValueError, match="value='z'"):
        found.to_nifti(voxels, value="z")
    assert isinstance(found, ConceptMap)
    assert "20 images of the concept against 30" in repr(found)


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.arange(50) < 1, {}, "selects 1 of 50 images"),
        (np.arange(49), {}, "selects 49 of 50 images"),
        (np.ones(40, bool), {}, "concept_mask is a mask of shape"),
        (range(5), {"test": "z"}, "test='z'"),
        (range(5), {"responses": "betas"}, "responses='betas'"),
        (range(5), {"alternative": "larger"}, "alternative='larger'"),
        (range(5), {"alpha": 5}, "alpha=5"),
        (range(5), {"min_effect": -1}, "min_effect=-1"),
        (range(5), {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_input_is_named(fitted, mask, options, message):
    with pytest.raises(ValueError, match=message):
        localize(*fitted, mask, **options)


def test_an_encoder_without_noise_is_pointed_to_draws(fitted):
    _, X = fitted
    silent = RidgeEncoder().fit(X, X[:, :2])
    silent.trials_ = TrialDistribution.unknown(2)
    with pytest.raises(ValueError, match='responses="draws"'):
        localize(silent, X, np.arange(9))


def test_columns_of_voxels_with_the_name_of_a_result_are_kept(fitted):
    encoder, X = fitted
    found = localize(encoder, X, np.arange(20))
    voxels = pd.DataFrame({"p": np.arange(found.p.size), "roi": "V1"})
    table = found.table(voxels)
    assert table["p_of_voxel"].tolist() == voxels["p"].tolist()
    np.testing.assert_array_equal(table["p"], found.p)
