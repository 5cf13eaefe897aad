"""perturb: the closed form of linear decoders, what an ROI prefers, and random sets as ROIs."""

import numpy as np
import pytest

import brainenc
from brainenc.repeats import average_repeats


@pytest.fixture(scope="module")
def prototypes(subject):
    train, _ = subject.rows
    labels, tokens = subject.categories[train], subject.train[1]
    return {name: tokens[labels == name].mean(axis=0) for name in ("face", "place")}


@pytest.fixture(scope="module")
def by_roi(subject, prototypes):
    rois = subject.data.rois()
    return {
        roi: brainenc.perturb(subject.decoder, subject.test[0], rois[roi], prototypes=prototypes)
        for roi in ("FFA", "PPA", "V1v")
    }


def rows_of(found, measure):
    return found.table[found.table["measure"] == measure].set_index("level")


@pytest.mark.parametrize(("roi", "category"), [("FFA", "face"), ("PPA", "place")])
def test_high_values_of_an_roi_read_as_what_its_voxels_prefer(by_roi, roi, category):
    rows = rows_of(by_roi[roi], category)
    assert rows.loc["quantile 0.95", "change"] > rows.loc["quantile 0.95", "random_high"]
    assert rows.loc["quantile 0.05", "change"] < rows.loc["quantile 0.05", "random_low"]
    assert rows["p"].max() < 0.05
    assert rows["outside"].max() == 0
    np.testing.assert_allclose(rows["after"], rows["before"] + rows["change"])


def test_an_early_area_reads_as_no_category_more_than_random_voxels_do(by_roi):
    for category in ("face", "place"):
        ours = rows_of(by_roi["FFA" if category == "face" else "PPA"], category)["change"]
        early = rows_of(by_roi["V1v"], category)["change"]
        assert early["quantile 0.95"] < ours["quantile 0.95"] / 2


def test_random_sets_as_rois_have_p_values_of_a_null(subject, prototypes):
    rng = np.random.default_rng(5)
    p = []
    for seed in range(30):
        voxels = rng.choice(150, 15, replace=False)
        found = brainenc.perturb(
            subject.decoder,
            subject.test[0][:50],
            voxels,
            quantiles=(0.9,),
            prototypes={"face": prototypes["face"]},
            n_random=40,
            random_state=seed,
        )
        p.append(rows_of(found, "face")["p"].iloc[0])
    # Uniform: mean .5 with an s.e. of .05, and p < .05 in 1.5 of 30 (7 or more: 1 in 2000).
    assert abs(np.mean(p) - 0.5) < 0.2
    assert np.sum(np.array(p) < 0.05) < 7


def test_shifts_of_a_linear_decoder_are_weights_times_the_change(subject):
    decoder, betas = subject.decoder, subject.test[0][:40]
    start = decoder.predict(np.zeros((1, 150))).reshape(-1).astype(float)
    weights = decoder.predict(np.eye(150)).reshape(150, -1).astype(float) - start
    averages = average_repeats(betas)
    voxels = [3, 50, 99]
    found = brainenc.perturb(decoder, betas, voxels, quantiles=(0.8,), values=(10,), n_random=2)
    levels = np.quantile(averages[:, voxels], 0.8, axis=0)
    change = (levels - averages[:, voxels]).mean(axis=0)
    expected = change @ weights[voxels]
    # Predictions are float32 of size 1.
    np.testing.assert_allclose(found.shifts[0].reshape(-1), expected, atol=2e-5)
    far = decoder.scaling_.mean[voxels] + 10 * decoder.scaling_.sd[voxels]
    expected = (far - averages[:, voxels]).mean(axis=0) @ weights[voxels]
    np.testing.assert_allclose(found.shifts[1].reshape(-1), expected, atol=2e-5)
    assert rows_of(found, "embedding").loc["z 10", "outside"] == 1


def test_size_of_the_random_change_is_that_of_the_asked_one():
    """A decoder whose embedding is the response: lengths of changes are those of responses."""
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((300, 12)) * np.geomspace(0.1, 10, 12)
    scaled = betas / betas.std(axis=0)
    decoder = brainenc.RidgeDecoder(alphas=[1e-6]).fit(betas, scaled)
    found = brainenc.perturb(decoder, betas[:80], [0, 1, 2], quantiles=(1.0,), n_random=30)
    row = found.table.iloc[0]
    assert row["random_low"] == pytest.approx(row["change"], rel=1e-3)
    assert row["random_high"] == pytest.approx(row["change"], rel=1e-3)


def test_quantiles_that_are_the_responses_change_nothing(subject):
    betas = np.repeat(average_repeats(subject.test[0])[:1], 5, axis=0)
    found = brainenc.perturb(subject.decoder, betas, [1, 2], quantiles=(0.5,), n_random=3)
    assert np.abs(found.shifts).max() == 0
    assert np.isnan(found.table["change"]).all()  # relative to a spread of 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxels": []}, "selects nothing of 150"),
        ({"voxels": np.ones(150, bool)}, "selects 150 of 150"),
        ({"voxels": [150]}, "150"),
        ({"quantiles": (95,)}, "between 0 and 1"),
        ({"quantiles": ()}, "are empty"),
        ({"values": (np.nan,)}, "finite"),
        ({"prototypes": {"embedding": np.zeros((16, 64))}}, "name of another measure"),
        ({"prototypes": {"a": np.zeros(16)}}, "each had the shape"),
        ({"n_random": 0}, "at least 1"),
    ],
)
def test_refused(subject, change, message):
    arguments = {"voxels": [0], "n_random": 1, **change}
    with pytest.raises((ValueError, IndexError), match=message):
        brainenc.perturb(subject.decoder, subject.test[0][:5], **arguments)


def test_images_without_data_are_refused(subject):
    betas = subject.test[0][:5].copy()
    betas[2] = np.nan
    with pytest.raises(ValueError, match="first in row 2"):
        brainenc.perturb(subject.decoder, betas, [0], n_random=1)


def test_the_retrieval_head_is_perturbed_where_there_is_one():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((30, 5))
    betas = targets @ rng.standard_normal((5, 12)) + rng.standard_normal((30, 12))
    with pytest.warns(UserWarning, match="images"):  # too few for the network
        decoder = brainenc.MindEyeDecoder(device="cpu").fit(betas, targets)
    found = brainenc.perturb(decoder, betas, [0, 1], quantiles=(1.0,), n_random=2)
    changed = betas.copy()
    changed[:, :2] = betas[:, :2].max(axis=0)
    expected = (decoder.embeddings(changed) - decoder.embeddings(betas)).mean(axis=0)
    np.testing.assert_allclose(found.shifts[0], expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"quantiles": (), "values": (1,)}])
def test_one_image_has_no_quantiles(subject, options):
    with pytest.raises(ValueError, match="has 1 image: give at least two"):
        brainenc.perturb(subject.decoder, subject.test[0][:1], [0, 1], **options)
