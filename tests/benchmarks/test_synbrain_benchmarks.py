"""The SynBrain benchmarks score what they say they score."""

import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from sklearn.metrics.pairwise import cosine_similarity

import brainenc

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import synbrain_ablation as ablation
import synbrain_common as common
import synbrain_vs_ridge as vs_ridge

TINY_VAE = {
    "pooled_length": 16,
    "n_channels": 4,
    "channel_multipliers": (1,),
    "n_blocks": 1,
    "projector_width": 8,
    "mlp_widths": (8, 8),
    "mlp_token_width": 4,
}


@pytest.fixture
def tiny(monkeypatch):
    """SynBrain at sizes that train at once."""
    sizes = {"vae": TINY_VAE, "mapper": {"depth": 1, "n_heads": 1}}
    monkeypatch.setattr(common, "SMALL", {**common.SMALL, "sizes": sizes, "mapper_steps": 5})


@pytest.fixture(scope="module")
def split():
    data = brainenc.datasets.simulate_subject(
        60, 20, n_tokens=4, token_width=8, n_sessions=1, random_state=0
    )
    return ablation.make_split(data, 40)


def test_retrieval_is_by_cosine_as_scikit_learn_computes_it():
    rng = np.random.default_rng(0)
    tokens = 1 + rng.standard_normal((40, 3, 5))  # a common mean: centring would change the ranks
    latents = tokens + 2 * rng.standard_normal(tokens.shape)
    cosine = cosine_similarity(latents.reshape(40, -1), tokens.reshape(40, -1))
    expected = (cosine.argmax(axis=1) == np.arange(40)).mean()
    found = ablation.cosine_top_1(latents, tokens, pool_size=40)
    assert 0.1 < expected < 0.9
    assert found == pytest.approx(expected)  # a pool of all images: the order does not matter
    assert ablation.cosine_top_1(7 * tokens, tokens, 40) == 1


def test_retrieval_of_what_says_nothing_is_at_chance():
    rng = np.random.default_rng(0)
    tokens, constant = rng.standard_normal((100, 2, 8)), np.ones((100, 2, 8))
    # One answer for all is right once if that image is in the pool: exactly chance.
    assert ablation.cosine_top_1(constant, tokens, pool_size=20) == pytest.approx(1 / 20)


def test_betas_get_the_total_variance_of_the_published_subject():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((50, 3, 8)) * np.linspace(0.1, 2, 8) + 3
    betas[::7, 2] = np.nan
    trials = betas[np.isfinite(betas).all(axis=2)] * common.published_unit(betas)
    error = np.square(trials - trials.mean(axis=0)).sum(axis=1).mean()
    assert error == pytest.approx(350 / 0.28)


@pytest.mark.parametrize("n_trials", [20, 100, 1800])
def test_the_autoencoder_is_trained_for_the_steps_asked_for(n_trials):
    epochs = common.small_synbrain(n_trials, n_steps=50).vae_epochs
    per_epoch = max(1, n_trials // 24)
    assert (epochs - 1) * per_epoch < 50 <= epochs * per_epoch


def test_decoding_tokens_with_the_full_autoencoder_is_the_ablation_without_s2n(split, tiny):
    full, ablated = (
        common.small_synbrain(100, 6, s2n=s2n).fit(split.tokens, split.betas)
        for s2n in (True, False)
    )
    found = ablation.without_mapper(full).predict(split.test_tokens)
    np.testing.assert_array_equal(found, ablated.predict(split.test_tokens))
    assert np.abs(found - full.predict(split.test_tokens)).max() > 1e-3
    assert full.mapper_ is not None  # the full model is left as it was


def test_scores_of_the_baselines_are_those_of_plain_numpy(split, tiny):
    with pytest.warns(UserWarning, match="LatentEncoder is fitted as ridge"):  # to 40 images
        rows, facts = ablation.run("full", 0, split, n_steps=2, pool=10)
    rows = {row["encoder"]: row for row in rows}
    assert list(rows) == ["full", ablation.NO_S2N, "mean", "ridge", "LatentEncoder"]

    trials = split.betas[np.isfinite(split.betas).all(axis=2)]
    train_mean = np.nanmean(np.nanmean(split.betas, axis=1), axis=0)
    z = (split.test_averages - train_mean) / trials.std(axis=0)
    assert rows["mean"]["MSE (z)"] == pytest.approx(np.mean(z**2), rel=1e-4)
    pattern = [np.corrcoef(train_mean, one)[0, 1] for one in split.test_averages]
    assert rows["mean"]["pattern r"] == pytest.approx(np.mean(pattern), rel=1e-4)
    assert np.isnan(rows["mean"]["r"])  # of a constant
    assert rows["mean"]["syn retrieval"] == pytest.approx(0.1)

    ridge = brainenc.RidgeEncoder(None, random_state=0).fit(split.tokens, split.betas)
    predicted = ridge.predict(split.test_tokens)
    r = [np.corrcoef(*pair)[0, 1] for pair in zip(predicted.T, split.test_averages.T, strict=True)]
    assert rows["ridge"]["r"] == pytest.approx(np.mean(r), rel=1e-4)
    # No better than the null after two steps, and in its unit.
    assert 0.8 < facts["reconstruction / null, first"] < 20


def test_seeds_are_summarised_and_a_score_without_spread_has_none():
    rows = [
        {"encoder": "full", "r": r, "reconstructed r": 0.5, "MSE (z)": 1.0, "pattern r": np.nan}
        | {"raw retrieval": 0.1, "syn retrieval": 0.2}
        for r in (0.1, 0.2, 0.6)
    ]
    table = ablation.summary(pd.DataFrame(rows)).iloc[0]
    assert table["r"] == "0.300 ± 0.265"  # s.d. with n − 1
    assert table["reconstructed r"] == "0.500"
    assert np.isnan(table["pattern r"])


def test_differences_to_ridge_have_the_sign_of_the_scores():
    data = brainenc.datasets.simulate_subject(60, 20, n_sessions=1, random_state=0)
    worse = brainenc.RidgeEncoder(alphas=[1e-3])
    encoders = {
        "mean": brainenc.MeanEncoder(),
        vs_ridge.LATENT: worse,
        "ridge": brainenc.RidgeEncoder(),
    }
    features = dict.fromkeys(["ridge", vs_ridge.LATENT], data.truth.tokens)
    result = brainenc.benchmark(
        data, encoders, features=features, references=False, n_permutations=1, verbose=False
    )
    subject = vs_ridge.Subject("title", data, data.truth.tokens)
    scores = vs_ridge.score_table(subject, result).set_index("encoder")
    r, gain = scores["r"], scores["r − ridge"]
    assert gain[vs_ridge.LATENT] == pytest.approx(r[vs_ridge.LATENT] - r["ridge"])
    assert abs(gain[vs_ridge.LATENT]) > 1e-3  # else the sign would not show
    assert np.isnan(gain["mean"])
    assert np.isnan(gain["ridge"])
    rois = vs_ridge.roi_table(subject, result)
    difference = rois[vs_ridge.LATENT] - rois["ridge"]
    np.testing.assert_allclose(rois["r − ridge"], difference, atol=1e-6)


def test_absent_data_is_named_and_left_out(monkeypatch, capsys, tmp_path):
    arguments = ["x", "--sets", "miyawaki", "v4", "--data", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    vs_ridge.main()
    printed = capsys.readouterr().out
    assert "miyawaki left out" in printed
    assert "cowley2023_v4_210325.npz" in printed
    assert list(tmp_path.iterdir()) == []


def readme_rows() -> list[str]:
    """What the README must say, from the table of the benchmark."""
    path = REPOSITORY / "docs" / "results" / "synbrain_vs_ridge_scores.csv"
    scores = pd.read_csv(path, na_values="–").set_index(["encoder", "data"])
    latent, ridge = scores.loc[vs_ridge.LATENT], scores.loc["ridge"]
    rows = []
    for name in latent.index:
        low, high = latent.loc[name, "95 % of it"].split(" – ")
        r = latent.loc[name, "r"]
        rows.append(f"| {name} | {ridge.loc[name, 'r']:.3f} | {r:.3f} | [{low}, {high}] |")
    return [row.replace("0.", ".") for row in rows]


def test_the_readme_says_what_the_benchmark_found():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = readme_rows()
    assert len(rows) == len(vs_ridge.SETS)
    assert [row for row in rows if row not in text] == []


def test_losses_of_all_seeds_are_averaged_from_first_to_last():
    curves = pd.DataFrame(
        {
            "encoder": ["full", "full"],
            "seed": [0, 1],
            "epochs": [3, 4],
            "minutes": [1.0, 2.0],
            "KL, first": [1.0, 3.0],
            "KL, last": [0.5, 0.25],
        }
    )
    row = ablation.training_table(curves).iloc[0]
    assert row.to_dict() == {"encoder": "full", "epochs": 3.5, "minutes": 1.5, "KL": "2 → 0.375"}
