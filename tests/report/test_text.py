import numpy as np
import pandas as pd
import pytest

from brainenc.report import text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.1234, "0.123"), (-0.1236, "−0.124"), (-0.0001, "0.000"), (np.nan, "–"), (None, "–")],
)
def test_number(value, expected):
    assert text.number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0.00"),
        (0.0418349, "0.0418"),
        (12.345, "12.3"),
        (54321.6, "54\u202f322"),
        (3.2e-7, "3.20e−7"),
        (-1.5e9, "−1.50e9"),
        (np.inf, "–"),
    ],
)
def test_quantity_has_three_digits_at_any_magnitude(value, expected):
    assert text.quantity(value) == expected


def test_interval_and_p():
    assert text.interval(-0.1, 0.25) == "[−0.100,\u00a00.250]"
    assert text.interval(np.nan, 0.25) == ""
    assert text.p_value(0.0004) == "<\u00a00.001"
    assert text.p_value(0.0312) == "=\u00a00.031"


def test_names_in_a_sentence():
    assert text.joined(["a"]) == "a"
    assert text.joined(["a", "b", "c"]) == "a, b and c"


# -------------------------------------------------------------------- who is best


def encoder_table(**r_and_mse):
    rows = [
        {"encoder": name, "r": r, "r_low": r - 0.02, "r_high": r + 0.02, "mse_z": mse}
        | {"noise_ceiling": 0.8, "r_normalized": r / 0.8, "n_voxels_normalized": 30}
        for name, (r, mse) in r_and_mse.items()
    ]
    return pd.DataFrame(rows)


def pair(a, b, metric, difference, half_width=0.01):
    row = {"encoder_a": a, "encoder_b": b, "metric": metric, "difference": difference}
    return row | {"low": difference - half_width, "high": difference + half_width, "p": 0.004}


def said(encoders, pairs, **kinds):
    kinds = {"mean": "MeanEncoder", "ridge": "RidgeEncoder"} | kinds
    order = text.ranking(encoders)
    columns = ["encoder_a", "encoder_b", "metric", "difference", "low", "high", "p"]
    oriented = text.oriented(pd.DataFrame(pairs, columns=columns), order)
    return " ".join(text.findings(encoders, oriented, kinds)).replace("\u00a0", " ")


def test_ranking_puts_encoders_without_r_behind_and_leaves_out_the_failed():
    table = encoder_table(
        mean=(np.nan, 0.9), failed=(np.nan, np.nan), ridge=(0.3, 0.8), new=(0.4, 0.7)
    )
    assert text.ranking(table) == ["new", "ridge", "mean"]


def test_turned_pairs_are_the_same_differences_seen_from_the_other_side():
    rng = np.random.default_rng(0)
    score = dict(zip("abcd", rng.normal(size=4), strict=True))
    pairs = pd.DataFrame(
        [pair(a, b, "r", score[a] - score[b], 0.3) for a, b in ["ab", "ac", "ad", "bc", "bd", "cd"]]
    )
    turned = text.oriented(pairs, ["c", "a", "d", "b"])
    assert list(turned["encoder_a"] + turned["encoder_b"]) == ["ca", "cd", "cb", "ad", "ab", "db"]
    for row in turned.itertuples():
        difference = score[row.encoder_a] - score[row.encoder_b]
        # one sign change of a float64: exact but for the half width added and taken away
        np.testing.assert_allclose(
            [row.difference, row.low, row.high], [difference, difference - 0.3, difference + 0.3]
        )
    assert list(pairs["encoder_a"]) == list("aaabbc"), "the table given was changed"


def test_a_real_lead_is_called_real_with_its_numbers():
    words = said(
        encoder_table(mean=(np.nan, 0.9), ridge=(0.3, 0.8), new=(0.352, 0.7)),
        [
            pair("mean", "ridge", "mse_z", 0.1),
            pair("mean", "new", "mse_z", 0.2),
            pair("ridge", "new", "r", -0.052),
        ],
    )
    assert "<strong>new</strong> predicts best" in words
    assert "0.352 [0.332, 0.372]" in words
    assert "44 % of the ceiling, in the 30 voxels" in words
    assert (
        "lead over <strong>ridge</strong> is 0.052 [0.042, 0.062] (paired bootstrap, p = 0.004), "
        "a real difference" in words
    )
    assert (
        "lower than that of the mean response (<strong>mean</strong>) by 0.200 [0.190, 0.210]"
        in (words)
    )


def test_a_lead_whose_interval_holds_zero_is_not_called_real():
    table = encoder_table(ridge=(0.3, 0.8), new=(0.305, 0.7))
    words = said(table, [pair("new", "ridge", "r", 0.005)])
    assert "may well be chance" in words
    assert "real" not in words


def test_a_best_r_whose_interval_holds_zero_is_not_left_standing():
    # r ± .02 in these tables; its share of the ceiling is r / .8.
    words = said(encoder_table(ridge=(-0.012, 0.8), mean=(np.nan, 0.9)), [])
    r = "r of <strong>−0.012 [−0.032, 0.008]</strong>, which may well be chance"
    assert r in words
    assert "on average −" in words  # a true minus, as everywhere on the page
    assert "chance" not in said(encoder_table(ridge=(0.3, 0.8), mean=(np.nan, 0.9)), [])


def test_both_the_runner_up_and_ridge_are_compared_with():
    table = encoder_table(ridge=(0.3, 0.8), best=(0.4, 0.6), second=(0.35, 0.7))
    pairs = [pair("best", "second", "r", 0.05), pair("best", "ridge", "r", 0.1)]
    words = said(table, pairs)
    assert "over <strong>second</strong> is 0.050" in words
    assert "over <strong>ridge</strong> is 0.100" in words


def test_losing_to_the_mean_response_is_said():
    table = encoder_table(mean=(np.nan, 0.7), new=(0.1, 0.9))
    words = said(table, [pair("new", "mean", "mse_z", 0.2)])
    assert "squared error is higher than that of the mean response" in words
    assert "By squared error, <strong>mean</strong> is ahead (0.700 against 0.900)" in words


def test_a_tie_with_the_mean_response_is_said():
    table = encoder_table(mean=(np.nan, 0.9), new=(0.1, 0.895))
    words = said(table, [pair("new", "mean", "mse_z", -0.005)])
    assert "−0.005 [−0.015, 0.005], which may well be chance" in words


def test_one_encoder_and_no_ceiling():
    table = encoder_table(new=(0.3, 0.8)).assign(noise_ceiling=np.nan, r_normalized=np.nan)
    words = said(table, [])
    assert words.startswith("<strong>new</strong> reaches a mean voxelwise r")
    assert "its noise ceiling is unknown" in words


def test_without_any_r_nobody_is_best():
    assert "No encoder has a defined r" in said(encoder_table(mean=(np.nan, 0.9)), [])
    assert "could be scored" in said(encoder_table(mean=(np.nan, np.nan)), [])


def test_names_are_escaped():
    table = encoder_table(**{"<b>x</b>": (0.3, 0.8), "ridge": (0.2, 0.9)})
    words = said(table, [pair("<b>x</b>", "ridge", "r", 0.1)])
    assert "&lt;b&gt;x&lt;/b&gt;" in words
    assert "<b>" not in words


def test_ceiling_note_sums_up_uneven_trials():
    manifest = {"noise_ceiling": {"estimator": "repeats", "n_trials": [3.0, 3.0, np.nan, 1.5]}}
    assert "3 trials (from 1.5 to 3)" in text.ceiling_note(manifest)
    manifest["noise_ceiling"]["n_trials"] = 3.0
    assert text.ceiling_note(manifest).endswith("over 3 trials.")
