"""The augmentation study: conditions on equal terms, its report, gains and controls."""

import html
import re

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.augmentation.conditions import (
    NONE,
    REAL_TRIALS,
    REPEATED,
    Replicate,
    added_rows,
    controls_of,
    fit_encoders,
)
from brainenc.augmentation.linear import Pairs
from brainenc.augmentation.result import AugmentationResult, Scores

OPTIONS = {
    "n_real": 16,
    "n_tuning": 40,
    "n_test": 60,
    "ratios": (1, 3),
    "replicates": 2,
    "pool_size": 60,
}


def own_data(noise=2.0, n_voxels=30):
    """Linear responses of a random code, whose images do not matter."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((300, 8))
    signal = targets @ rng.standard_normal((8, n_voxels))
    betas = signal[:, None] + noise * rng.standard_normal((300, 2, n_voxels))
    images = rng.integers(0, 256, (300, 4, 4), dtype=np.uint8)
    return brainenc.EncodingData(images, betas), targets, signal


@pytest.fixture(scope="module")
def study():
    data, targets, signal = own_data()
    # Of another subject, who has seen other images.
    code = np.random.default_rng(3).standard_normal((300, 8))
    slope = np.linalg.lstsq(targets, signal[:, :20], rcond=None)[0]
    other = brainenc.RidgeEncoder().fit(code, code @ slope)
    return brainenc.augmentation_study(
        data,
        {"mean": brainenc.MeanEncoder()},
        targets=targets,
        adapted={"ridge": other},
        **OPTIONS,
    )


def test_all_conditions_are_there_with_equal_terms(study):
    rows = study.replicates()
    names = set(rows["condition"])
    of_encoder = {
        f"{name}: {kind}"
        for name in ("ridge", "mean")
        for kind in (
            "predictions, new images",
            "draws, new images",
            "predictions, real images",
            "draws, real images",
            "draws, images permuted",
        )
    }
    alone = {"none", "real rows repeated", "real rows with noise", "BiMixCo rows", REAL_TRIALS}
    adapted = {f"ridge, adapted: {kind}, new images" for kind in ("predictions", "draws")}
    adapted |= {"ridge, adapted: draws, images permuted"}
    decoders = {"ridge as decoder", "mean as decoder", "ridge, adapted as decoder"}
    assert names == of_encoder | alone | adapted | decoders
    assert set(rows["similarity"]) == {"centred", "uncentred", "CSLS"}
    assert set(rows["ratio"]) == {1, 3}
    first = rows[(rows["condition"] == NONE) & (rows["replicate"] == 0)]
    assert first.groupby("similarity")["image_retrieval"].nunique().eq(1).all()


def test_real_trials_gain_and_are_the_whole_of_their_share(study):
    table = study.table().set_index(["condition", "similarity"])
    real = table.loc[(REAL_TRIALS, "centred")]
    assert real["image_retrieval_gain"] > 0
    assert real["brain_retrieval_gain"] > 0
    assert real["image_retrieval_share"] == pytest.approx(1)
    assert not real["gain"]  # it is what others are measured by
    for control in (REPEATED, "ridge: draws, images permuted", "mean: predictions, new images"):
        assert not table.loc[(control, "centred"), "gain"]
    gains = table.loc[("ridge: draws, new images", "centred")]
    wanted = gains["image_retrieval_gain"] / real["image_retrieval_gain"]
    assert gains["image_retrieval_share"] == pytest.approx(wanted)


def test_gains_are_paired_differences_of_the_replicates(study):
    rows = study.replicates()
    rows = rows[(rows["ratio"] == 3) & (rows["similarity"] == "centred")]
    means = rows.groupby("condition")[["image_retrieval", "brain_retrieval"]].mean()
    table = study.table().query("similarity == 'centred'").set_index("condition")
    for name in (REPEATED, REAL_TRIALS):
        for direction in means:
            wanted = means.loc[name, direction] - means.loc[NONE, direction]
            assert table.loc[name, f"{direction}_gain"] == pytest.approx(wanted)


def test_the_first_sentence_of_the_report_is_the_share(study):
    report = study.report()
    table = study.table().set_index(["condition", "similarity"])
    first, *others = report.splitlines()
    kinds = [
        f"{name}: {kind}, new images"
        for name in ("ridge", "mean", "ridge, adapted")
        for kind in ("predictions", "draws")
    ]
    less = {
        kind: min(table.loc[(kind, "centred"), f"{d}_retrieval_share"] for d in ("image", "brain"))
        for kind in kinds
    }
    best = max(less, key=less.get)
    shares = [
        f"{100 * table.loc[(best, label), f'{direction}_retrieval_share']:.0f} % "
        f"({direction} retrieval)"
        for label in ("centred", "uncentred")
        for direction in ("image", "brain")
    ]
    assert first == (
        f"48 synthetic trials ({best}; the best of 6 kinds) recovered {shares[0]} and {shares[1]}, "
        "centred, of what as many real trials bring; uncentred it looks like "
        f"{shares[2]} and {shares[3]}."
    )
    assert sum(line.startswith("- ") for line in others) == 5


def test_the_page_begins_with_that_sentence_and_shows_the_gains(study, tmp_path):
    page = study.to_html(tmp_path / "study.html").read_text()
    body = re.sub(r"<[^>]+>", " ", page[page.index("</h1>") :])
    assert html.unescape(" ".join(body.split())).startswith(study.report().splitlines()[0])
    table = study.table().set_index(["condition", "similarity"])
    gain = 100 * table.loc[(REAL_TRIALS, "centred"), "image_retrieval_gain"]
    assert f"<td>{gain:.1f}<small>" in page
    for figure in ("gains", "doses"):  # the study has two ratios
        assert "<svg" in page[page.index(f'id="figure-{figure}"') :]


def test_one_replicate_without_any_gain_of_real_trials_has_a_page(tmp_path):
    base = np.zeros(40)
    settings = {"n_real": 10, "ratios": [1], "replicates": 1, "n_test": 40, "n_tuning": 5}
    settings |= {"n_steps": None, "pool_size": 40}
    scores = [
        made(name, base, similarity=label)
        for name in (NONE, "ridge: draws, new images", REAL_TRIALS)
        for label in ("centred", "uncentred")
    ]
    result = AugmentationResult(scores, settings)
    assert result.report().startswith(
        "10 synthetic trials (ridge: draws, new images) recovered an undefined share (image"
    )
    assert "an undefined share" in result.to_html(tmp_path / "page.html").read_text()


def test_it_is_saved_and_the_same_with_the_same_seed(study, tmp_path):
    folder = study.save(tmp_path / "study")
    assert (folder / "report.txt").read_text().startswith("48 synthetic trials")
    assert set(pd.read_csv(folder / "gains.csv")["ratio"]) == {1, 3}
    data, targets, _ = own_data()
    small = OPTIONS | {"replicates": 1, "ratios": (1,)}
    a, b = (brainenc.augmentation_study(data, targets=targets, **small) for _ in range(2))
    pd.testing.assert_frame_equal(a.replicates(), b.replicates())


def test_an_adapted_encoder_that_has_seen_the_images_is_refused():
    data, targets, signal = own_data()
    other = brainenc.RidgeEncoder().fit(targets[:70], signal[:70, :20])
    with pytest.raises(ValueError, match="'theirs' was fitted to 70 of the 300 images of the stu"):
        brainenc.augmentation_study(data, targets=targets, adapted={"theirs": other}, **OPTIONS)


def test_it_can_say_yes():
    """An encoder that knows the truth makes trials that are nearly as good as real ones."""
    data, targets, signal = own_data(noise=4.0)
    # Its responses to many images, with the noise of trials: what adapting starts from.
    rng = np.random.default_rng(5)
    more = rng.standard_normal((3000, 8))
    slope = np.linalg.lstsq(targets, signal, rcond=None)[0]
    betas = (more @ slope)[:, None] + 4 * rng.standard_normal((3000, 2, 30))

    class Known:
        """Adapting changes the units only, to those of the study."""

        def adapt(self, X, y):
            return brainenc.RidgeEncoder().fit(more, betas / data.betas.std(axis=(0, 1)))

    options = OPTIONS | {"ratios": (3,), "replicates": 8}
    result = brainenc.augmentation_study(
        data, targets=targets, adapted={"truth": Known()}, **options
    )
    table = result.table().set_index(["condition", "similarity"])
    row = table.loc[("truth, adapted: draws, new images", "centred")]
    assert row["image_retrieval_share"] > 0.6
    assert row["gain"]


def made(condition, hits, replicate=0, similarity="centred"):
    n = len(hits)
    tries = pd.DataFrame(
        {
            "image_hits": hits,
            "image_tries": np.ones(n),
            "brain_hits": hits,
            "brain_tries": np.ones(n),
        }
    )
    return Scores(condition, 1, replicate, similarity, 0.01, tries, {})


def test_a_gain_must_be_above_the_controls():
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.2).astype(float)
    up = np.maximum(base, rng.random(400) < 0.15)
    synthetic = "ridge: draws, new images"
    settings = {"n_real": 10, "ratios": [1], "replicates": 1}

    def gains(repeated):
        scores = [made(NONE, base), made(REAL_TRIALS, np.ones(400)), made(synthetic, up)]
        result = AugmentationResult([*scores, made(REPEATED, repeated)], settings)
        return result.table().set_index("condition")["gain"]

    assert gains(base)[synthetic]
    assert not gains(up)[synthetic]  # repeated rows do as well
    permuted = [f"ridge{kind}: draws, images permuted" for kind in ("", ", adapted")]
    assert controls_of("ridge, adapted: draws, new images", permuted) == permuted[1:]


def test_encoders_see_the_real_rows_only_and_permuted_rows_are_the_new_ones():
    rng = np.random.default_rng(0)
    replicate = Replicate(
        Pairs(rng.standard_normal((30, 5)), rng.standard_normal((30, 4))),
        rng.standard_normal((30, 4)),
        Pairs(rng.standard_normal((60, 5)), rng.standard_normal((60, 4))),
        rng.standard_normal((60, 4)),
        2,
    )
    fitted = fit_encoders({"ridge": brainenc.RidgeEncoder()}, replicate)
    alone = brainenc.RidgeEncoder().fit(replicate.real_features, replicate.real.X[:, None])
    np.testing.assert_array_equal(
        fitted["ridge"].predict(replicate.new_features), alone.predict(replicate.new_features)
    )
    rows = dict(added_rows(replicate, fitted, {}, np.random.default_rng(1)))
    assert {len(part.X) for part in rows.values() if part is not None} == {60}
    np.testing.assert_allclose(
        rows["ridge: predictions, new images"].X, alone.predict(replicate.new_features)
    )
    np.testing.assert_allclose(
        rows["ridge: predictions, real images"].X,
        np.tile(alone.predict(replicate.real_features), (2, 1)),
    )
    permuted = rows["ridge: draws, images permuted"]
    np.testing.assert_array_equal(permuted.X, rows["ridge: draws, new images"].X)
    assert not np.array_equal(permuted.Y, replicate.new.Y)
    np.testing.assert_allclose(np.sort(permuted.Y, axis=0), np.sort(replicate.new.Y, axis=0))
    assert rows[REAL_TRIALS] is replicate.new


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_real": 200}, "300 images with trials are too few"),
        ({"ratios": ()}, r"ratios=\[\] must be whole numbers from 1"),
        ({"targets": np.ones((3, 4))}, "targets .* one row for each of the 300"),
    ],
)
def test_what_it_refuses(change, message):
    data, targets, _ = own_data()
    with pytest.raises(ValueError, match=message):
        brainenc.augmentation_study(data, **{"targets": targets, **OPTIONS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.where(np.arange(300)[:, None] == 7, np.nan, np.ones((300, 8)))}, "targets"),
        (
            {"features": np.where(np.arange(300)[:, None] == 7, np.inf, np.ones((300, 8)))},
            "features",
        ),
    ],
)
def test_missing_numbers_are_refused_by_their_argument(change, message):
    data, targets, _ = own_data()
    with pytest.raises(ValueError, match=message + r" \(300, 8\) contain NaN .*first in row 7"):
        brainenc.augmentation_study(data, **{"targets": targets, **OPTIONS, **change})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ridge"], "'ridge', which is that of the ridge encoder"),
        ([1, "1"], "'1' twice, as text"),
        (["a: b"], "has no colon"),
        (["ridge, adapted"], "does not end with ', adapted'"),
    ],
)
def test_names_that_stand_for_two_encoders(names, message):
    data, targets, _ = own_data()
    encoders = dict.fromkeys(names, brainenc.MeanEncoder())
    with pytest.raises(ValueError, match=message):
        brainenc.augmentation_study(data, encoders, targets=targets, **OPTIONS)
