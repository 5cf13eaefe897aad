"""experiment: planted tuning and preferences, coverage and nulls, closed forms, refusals."""

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc import experiment
from brainenc.datasets import draw_scenes, simulate_subject
from brainenc.insilico import bars, gratings
from brainenc.report import condition_bars, tuning_curves


def linear_voxels(rng):
    """An encoder of 20 voxels with known weights and 20 of noise, which shares trial noise."""
    X = rng.standard_normal((300, 12)).astype(np.float32)
    weights = rng.standard_normal((12, 40))
    weights[:, 20:] = 0
    noise = rng.standard_normal((300, 3, 40)) + 0.7 * rng.standard_normal((300, 3, 1))
    betas = (X @ weights)[:, None] + 3 * noise
    return brainenc.RidgeEncoder(features=None).fit(X, betas), weights, rng


@pytest.fixture(scope="module")
def planted():
    return linear_voxels(np.random.default_rng(0))


def test_means_and_contrasts_are_those_of_predictions(planted):
    encoder, _, _ = planted
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal((n, 12)).astype(np.float32) for n in (5, 9, 4))
    found = experiment(
        encoder, {"a": a, "b": b, "c": c}, rois={"some": [1, 3, 5]},
        contrasts={"ab": {"a": 1, "b": -1}, "c": {"c": 1, "a": -0.5, "b": -0.5}}, n_draws=40,
    )  # fmt: skip
    means = [encoder.predict(x).mean(axis=0) for x in (a, b, c)]
    voxels = found.voxels.pivot(index="voxel", columns="condition", values="response")
    np.testing.assert_allclose(voxels["b"], means[1], rtol=1e-4, atol=1e-5)
    rois = found.rois.query("roi == 'some'").set_index("condition")
    assert rois.loc["c", "response"] == pytest.approx(means[2][[1, 3, 5]].mean(), rel=1e-4)
    of_images = encoder.predict(c)[:, [1, 3, 5]].mean(axis=1)
    assert rois.loc["c", "image_sd"] == pytest.approx(of_images.std(ddof=1), rel=1e-4)
    effects = found.voxel_contrasts.pivot(index="voxel", columns="contrast", values="effect")
    np.testing.assert_allclose(effects["ab"], means[0] - means[1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        effects["c"], means[2] - (means[0] + means[1]) / 2, rtol=1e-3, atol=1e-4
    )
    # Model s.d.: of draws of the same functions, made here at once.
    drawn = encoder.sample(np.concatenate([a, b]), 40, 0, noise="weights")
    sd = (drawn[:, :5].mean(axis=1) - drawn[:, 5:].mean(axis=1)).std(axis=0, ddof=1)
    own = found.voxel_contrasts.query("contrast == 'ab'")["model_sd"]
    np.testing.assert_allclose(own, sd, rtol=1e-3)


def test_trial_noise_of_an_area_includes_what_its_voxels_share(planted):
    encoder, _, _ = planted
    X = np.random.default_rng(2).standard_normal((2, 3, 12)).astype(np.float32)
    found = experiment(encoder, {"a": X[0], "b": X[1]}, n_draws=20)
    row = found.rois.iloc[0]
    drawn = encoder.sample(X[0], 4000, 0, noise="trial") - encoder.predict(X[0])
    of_area = drawn.mean(axis=2).std(axis=0).mean()
    # 12 000 draws have an s.d. with an error of .7 %.
    assert row["trial_sd"] == pytest.approx(of_area, rel=0.04)
    # True: 3 √(1/40 + .49); without the shared part it would be .47.
    assert row["trial_sd"] == pytest.approx(3 * np.sqrt(1 / 40 + 0.49), rel=0.15)


def test_intervals_hold_the_true_contrast_as_often_as_they_say():
    inside, found_in_noise, power = [], 0, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        encoder, weights, _ = linear_voxels(rng)
        high, low = rng.standard_normal((2, 30, 12)).astype(np.float32)
        high[:, :4] += 1
        table = experiment(encoder, {"high": high, "low": low}, n_draws=400).voxel_contrasts
        true = (high.mean(axis=0) - low.mean(axis=0)) @ weights
        held = ((table["low"] <= true) & (true <= table["high"])).to_numpy()
        inside.append([held[:20].mean(), held[20:].mean()])
        found_in_noise += (table["q"][20:] < 0.05).sum()
        power.append((table["p"][:20] < 0.05).mean())
    with_signal, noise = np.mean(inside, axis=0)
    # 120 voxels, of which the 20 of an encoder share their images: an s.d. of about .03.
    assert with_signal == pytest.approx(0.95, abs=0.06)
    assert noise >= 0.95  # ridge shrinks them to 0, the truth
    assert found_in_noise <= 6
    assert np.mean(power) > 0.6


@pytest.fixture(scope="module")
def subject():
    return simulate_subject(n_images=1000, n_voxels=160, random_state=0)


@pytest.mark.slow
def test_preferred_orientations_are_within_ten_degrees(subject):
    gabor = brainenc.GaborPyramid(verbose=False)
    encoder = brainenc.RidgeEncoder(gabor).fit(subject.images[:800], subject.betas[:800])
    stimuli = gratings(cycles=[4, 8])
    found = experiment(encoder, stimuli, rois=subject.voxels)
    table = found.preferences.query("parameter == 'orientation'").reset_index(drop=True)
    true = subject.truth.respond(stimuli.images)
    angle = np.deg2rad(stimuli.table["orientation"].to_numpy())
    vector = np.exp(2j * angle) @ np.where(np.isfinite(true), true, 0)
    preferred = np.rad2deg(np.angle(vector)) / 2 % 180
    error = np.abs((table["preferred"] - preferred + 90) % 180 - 90)
    asked = np.isfinite(true).all(axis=0) & (table["q"] < 0.05)
    assert asked.sum() > 20
    assert error[asked].median() < 5  # chance: 45
    assert (error[asked] < 10).mean() > 0.85
    # What is said of the error holds: two s.d. of it contain nearly all.
    assert (error[asked] < 2 * table["error"][asked]).mean() > 0.85

    order = np.random.default_rng(0).permutation(800)
    null = brainenc.RidgeEncoder(gabor).fit(subject.images[:800], subject.betas[:800][order])
    of_null = experiment(null, stimuli)
    assert (of_null.preferences["q"] < 0.05).mean() <= 0.05
    assert (of_null.voxel_contrasts["q"] < 0.05).mean() <= 0.05


@pytest.mark.slow
def test_preferred_categories_are_the_planted_ones(subject):
    """The truth is what the same pictures evoke; the encoder has their tokens."""
    tokens = subject.truth.tokens
    encoder = brainenc.RidgeEncoder(features=None).fit(tokens[:700], subject.betas[:700])
    names = ["face", "body", "place"]
    conditions = {name: tokens[700:][subject.truth.category[700:] == name] for name in names}
    found = experiment(
        encoder, conditions, rois=subject.voxels,
        parameters={"category": {name: name for name in names}},
    )  # fmt: skip
    signal, category = subject.truth.signal[700:], subject.truth.category[700:]
    means = np.stack([signal[category == name].mean(axis=0) for name in names])
    table = found.preferences.reset_index(drop=True)
    high = subject.voxels["roi"].isin(["FFA", "PPA", "EBA"]).to_numpy()
    right = table["preferred"].to_numpy() == np.array(names)[means.argmax(axis=0)]
    assert right[high & (table["q"] < 0.05)].mean() >= 0.95
    of_area = found.table()[names].idxmax(axis=1)
    assert of_area[["FFA", "PPA", "EBA"]].tolist() == ["face", "place", "body"]


def test_a_bar_is_found_where_the_receptive_field_is(subject):
    """Retinotopy in silico: the preferred position of early voxels follows their field's centre."""
    gabor = brainenc.GaborPyramid(verbose=False)
    early = subject.voxels["roi"].isin(["V1v", "V1d", "V2v", "V2d"]).to_numpy()
    data = subject.select(voxels=early)
    encoder = brainenc.RidgeEncoder(gabor).fit(data.images[:400], data.betas[:400])
    positions = [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]
    found = experiment(encoder, bars([90], positions=positions), n_draws=0)
    table = found.preferences.query("parameter == 'position'")
    assert table["p"].isna().all()  # without draws
    r = np.corrcoef(table["preferred"].astype(float), data.truth.prfs["x"])[0, 1]
    assert r > 0.4  # of 54 noisy voxels: by chance an s.d. of .14


def test_a_result_is_saved_and_its_localizer_is_a_map(planted, tmp_path):
    encoder, _, _ = planted
    X = np.random.default_rng(4).standard_normal((2, 6, 12)).astype(np.float32)
    found = experiment(
        encoder, {"a": X[0] + 1, "b": X[1]}, n_draws=30, parameters={"x": {"a": 1, "b": 2}}
    )
    loaded = brainenc.Experiment.load(found.save(tmp_path / "result"))
    for name in ("rois", "contrasts", "tuning", "preferences"):
        pd.testing.assert_frame_equal(
            getattr(loaded, name), getattr(found, name), check_dtype=False
        )
    assert str(loaded) == str(found)
    kept = found.localizer(alpha=0.05)
    q = found.voxel_contrasts["q"].to_numpy()
    np.testing.assert_array_equal(np.isnan(kept), ~(q <= 0.05))
    z = found.localizer("a > b", value="z")
    np.testing.assert_allclose(
        z, found.voxel_contrasts["effect"] / found.voxel_contrasts["model_sd"]
    )
    with pytest.raises(ValueError, match="contrast='c'"):
        found.localizer("c")
    with pytest.raises(ValueError, match="value='t'"):
        found.localizer(value="t")
    assert len(condition_bars(found.rois).axes) == 1
    assert len(tuning_curves(found.tuning, "x").axes) == 1
    with pytest.raises(ValueError, match="parameter='y'"):
        tuning_curves(found.tuning, "y")


def test_stimuli_give_parameters_and_areas_come_from_the_voxel_table(subject):
    encoder = brainenc.RidgeEncoder(brainenc.PixelFeatures(4, verbose=False))
    encoder.fit(subject.images[:60], subject.betas[:60])
    found = experiment(
        encoder, gratings([0, 90], contrasts=[0.2, 0.8], phases=2), rois=subject.voxels, n_draws=20
    )
    assert found.tuning["parameter"].unique().tolist() == ["orientation", "contrast"]
    assert set(found.rois["roi"]) == {"all", *subject.rois()}
    curve = found.tuning.query("parameter == 'contrast' and roi == 'all'")
    means = found.rois.query("roi == 'all'").set_index("condition")["response"]
    low = means[["orientation 0, contrast 0.2", "orientation 90, contrast 0.2"]].mean()
    assert curve["response"].iloc[0] == pytest.approx(low, rel=1e-5)


def test_images_far_from_those_of_the_fit_are_mentioned(planted):
    encoder, _, _ = planted
    X = np.random.default_rng(5).standard_normal((2, 6, 12)).astype(np.float32)
    assert experiment(encoder, {"a": X[0], "b": X[1]}, n_draws=0).warnings == []
    (note,) = experiment(encoder, {"a": X[0], "b": 20 * X[1]}, n_draws=0).warnings
    assert "condition 'b'" in note
    assert "extrapolates" in note


def test_scenes_of_given_objects_are_an_experiment(subject):
    """The loop of a design study: draw, predict, compare with what the subject would do."""
    objects = pd.DataFrame({"image": np.arange(8), "category": ["face", "place"] * 4, "size": 6.0})
    images = draw_scenes(objects)
    assert subject.truth.respond(images, objects).shape == (8, 160)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"conditions": [1]}, TypeError, "dict of name to images"),
        ({"conditions": {"a": np.zeros((2, 12))}}, ValueError, "at least two"),
        ({"conditions": {"a": np.zeros((0, 12)), "b": np.zeros((1, 12))}}, ValueError, "no images"),
        ({"conditions": {"1": np.zeros((1, 12)), 1: np.zeros((1, 12))}}, ValueError, "twice"),
        ({"conditions": {"a": np.zeros((1, 5)), "b": np.zeros((1, 5))}}, ValueError, "5"),
        ({"contrasts": {"x": {"a": 1, "z": -1}}}, ValueError, "'z'; conditions are"),
        ({"contrasts": {"x": {"a": 1}}}, ValueError, "sum to 0"),
        ({"contrasts": ["a"]}, TypeError, "dict of name to weights"),
        ({"parameters": {"size": {"a": 1}}}, ValueError, "row for the condition 'b'|missing"),
        ({"parameters": {"size": {"a": 1, "b": 2, "c": 3}}}, ValueError, "'c', which conditions"),
        ({"parameters": {"s": {"a": 1, "b": 2}}, "circular": {"t": 5}}, ValueError, "has 't'"),
        ({"parameters": {"s": {"a": 1, "b": 2}}, "circular": {"s": 5}}, ValueError, "evenly"),
        ({"rois": ["V1"] * 3}, ValueError, "3 rows.*40 voxels"),
        ({"rois": {"V1": [50]}}, ValueError, "50"),
        ({"n_draws": 3}, ValueError, "n_draws=3"),
        ({"confidence": 95}, ValueError, "confidence=95"),
        ({"random_state": None}, TypeError, "must be an int"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(planted, how, error, message):
    encoder, _, _ = planted
    conditions = {"a": np.zeros((2, 12)), "b": np.ones((2, 12))}
    with pytest.raises(error, match=message):
        experiment(encoder, **{"conditions": conditions, **how})


def test_encoders_without_a_distribution_are_refused_with_the_way_out():
    rng = np.random.default_rng(0)
    from sklearn.linear_model import Lasso

    X, Y = rng.standard_normal((40, 5)), rng.standard_normal((40, 2, 3))
    encoder = brainenc.encoders.as_encoder(Lasso(0.01)).fit(X, Y)
    with pytest.raises(ValueError, match="add_refits"):
        experiment(encoder, {"a": X[:3], "b": X[3:9]})
    with pytest.raises(TypeError, match="fitted brainenc encoder"):
        experiment(Lasso(), {"a": X[:3], "b": X[3:9]})


def test_a_loaded_experiment_has_the_same_types(planted, tmp_path):
    encoder, _, rng = planted
    X = {name: rng.standard_normal((3, 12)).astype(np.float32) for name in "abc"}
    parameters = {
        "size": {"a": 1, "b": 10, "c": 10},
        "object": {"a": "1", "b": "2", "c": "x"},
        "fine": {"a": 0.1, "b": 1 / 3, "c": 0.1},
    }
    found = experiment(encoder, X, parameters=parameters, rois={"01": [0], "2": [1]}, n_draws=20)
    found.save(tmp_path)
    loaded = brainenc.Experiment.load(tmp_path)
    for name in ("rois", "voxels", "contrasts", "voxel_contrasts", "tuning", "preferences"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(found, name), check_exact=True)
    sizes = loaded.tuning.query("parameter == 'size' and roi == 'all'")["value"].tolist()
    assert [(type(size), size) for size in sizes] == [(int, 1), (int, 10)]
    preferred = loaded.preferences.query("parameter == 'object'")["preferred"]
    assert {type(value) for value in preferred} == {str}


def conditions(rng):
    return {name: rng.standard_normal((3, 12)).astype(np.float32) for name in ("a", "b", "1")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rois": {"all": [0]}}, "rois has the key 'all'"),
        ({"rois": {1: [0], "1": [1]}}, "rois has the name '1' twice"),
        ({"rois": {" ": [0]}}, "empty name"),
        (
            {"contrasts": {1: {"a": 1, "b": -1}, "1": {"a": -1, "b": 1}}},
            "contrasts has the name '1' twice",
        ),
        ({"contrasts": {"c": {"a": -1, 1: 1, "1": 5}}}, r"contrasts\['c'\] has the name"),
        (
            {"parameters": pd.DataFrame({"s": [1, 2, 3, 4]}, index=["a", "b", "1", "a"])},
            "parameters has two rows for the condition 'a'",
        ),
        (
            {"parameters": pd.DataFrame({"s": [1, None, 3]}, index=["a", "b", "1"])},
            "parameters has no value of 's' for the condition 'b'",
        ),
        (
            {"parameters": {"s": {"a": 1, "b": 2, "1": 3}, 5: {"a": 1, "b": 2, "1": 3},
                            "5": {"a": 1, "b": 2, "1": 3}}},
            "parameters has the name '5' twice",
        ),
    ],
)  # fmt: skip
def test_names_and_rows_that_are_not_unique_are_refused(planted, settings, message):
    encoder, _, rng = planted
    with pytest.raises(ValueError, match=message):
        experiment(encoder, conditions(rng), n_draws=0, **settings)


def test_all_voxels_are_no_further_test_of_the_areas_of_a_dict(planted):
    encoder, _, rng = planted
    found = experiment(
        encoder, conditions(rng), rois={"x": [0], "y": [1], "z": [25]}, n_draws=30
    ).contrasts
    for _, table in found.groupby("contrast"):
        p, q = table["p"].to_numpy(), table["q"].to_numpy()
        assert q[0] == p[0]
        order = np.argsort(p[1:])
        adjusted = np.minimum.accumulate((np.sort(p[1:]) * 3 / np.arange(1, 4))[::-1])[::-1]
        np.testing.assert_allclose(q[1:][order], adjusted)


@pytest.mark.parametrize("circular", [None, {}])
def test_a_voxel_that_answers_the_same_to_all_prefers_nothing(circular):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4))
    betas = np.concatenate([X[:, :1], np.full((60, 1), 3.3)], axis=1)
    encoder = brainenc.RidgeEncoder(features=None).fit(X, betas[:, None])
    named = {str(k): rng.standard_normal((5, 4)) for k in range(4)}
    angles = {"orientation": {str(k): 45.0 * k for k in range(4)}}
    found = experiment(encoder, named, parameters=angles, circular=circular, n_draws=30)
    row = found.preferences.set_index("voxel")
    assert row.loc[1, ["preferred", "error", "agreement", "p"]].isna().all()
    assert np.isfinite(row.loc[0, ["preferred", "agreement", "p"]].astype(float)).all()


def test_parameters_of_stimuli_may_be_given_back():
    stimuli = gratings([0, 90], sizes=[0.3, None], phases=2, image_size=16)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    pixels = brainenc.PixelFeatures(4, verbose=False)
    encoder = brainenc.RidgeEncoder(pixels).fit(images, rng.standard_normal((40, 2, 3)))
    own = experiment(encoder, stimuli, n_draws=0)
    given = experiment(encoder, stimuli, parameters=stimuli.parameters, n_draws=0)
    pd.testing.assert_frame_equal(given.tuning, own.tuning)
