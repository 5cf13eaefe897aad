"""The study with any decoder and encoder: what each fit sees, and that terms are equal."""

from typing import ClassVar

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge

import brainenc
from brainenc.augmentation.conditions import NONE, REAL_TRIALS, REPEATED
from brainenc.augmentation.linear import Pairs
from brainenc.augmentation.tuning import DecoderFits, identification_error
from brainenc.decoders import BaseDecoder

OPTIONS = {
    "n_real": 24,
    "n_tuning": 30,
    "n_test": 50,
    "ratios": (2,),
    "replicates": 1,
    "pool_size": 50,
}


def own_data(noise=2.0, n_voxels=20, n_images=200):
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((n_images, 6))
    signal = targets @ rng.standard_normal((6, n_voxels))
    betas = signal[:, None] + noise * rng.standard_normal((n_images, 2, n_voxels))
    images = rng.integers(0, 256, (n_images, 4, 4), dtype=np.uint8)
    return brainenc.EncodingData(images, betas), targets


class Spy(brainenc.RidgeDecoder):
    """A ridge decoder that records what its fits get."""

    seen: ClassVar[list] = []

    def fit(self, X, y, sample_weight=None, *, validation=None):
        self.seen.append((X, y, sample_weight, validation))
        return super().fit(X, y, sample_weight, validation=validation)


class SpyNet(brainenc.MindEyeDecoder):
    """A network that records the length of its trainings."""

    seen: ClassVar[list] = []

    def fit(self, X, y=None, *, validation=None):
        super().fit(X, y, validation=validation)
        self.seen.append((len(X), int(self.history_["step"].iloc[-1]), self.batch_size))
        return self


class SpyEncoder(brainenc.RidgeEncoder):
    """An encoder that records what it is fitted to."""

    seen: ClassVar[list] = []

    def fit(self, X, y):
        self.seen.append(np.asarray(X))
        return super().fit(X, y)


def rows_in(rows, others):
    """Which rows are among others."""
    known = {np.asarray(row, np.float32).tobytes() for row in others}
    return np.array([np.asarray(row, np.float32).tobytes() in known for row in rows])


def test_every_fit_has_the_same_real_rows_and_no_test_or_tuning_row():
    data, targets = own_data()
    Spy.seen.clear()
    SpyEncoder.seen.clear()
    result = brainenc.augmentation_study(
        data, {"spy": SpyEncoder()}, targets=targets, decoder=Spy(alphas=[1.0, 10.0]), **OPTIONS
    )
    n = OPTIONS["n_real"]
    first = Spy.seen[0]
    assert first[2] is None
    assert len(first[0]) == n
    weights = set()
    for X, y, weight, validation in Spy.seen:
        np.testing.assert_array_equal(X[:n], first[0])
        np.testing.assert_array_equal(y[:n], first[1])
        for part, same in zip(validation, first[3], strict=True):
            np.testing.assert_array_equal(part, same)
        assert not rows_in(y, validation[1])[:n].any()
        if weight is not None:
            np.testing.assert_array_equal(weight[:n], 1)
            assert len(set(weight[n:])) == 1
            weights.add(weight[-1])
            assert len(X) == 3 * n
    assert weights == {0.1, 0.3, 1.0}
    # Without added rows one fit, with them three: the same number for every condition.
    n_conditions = len({name for name in result.replicates()["condition"] if "decoder" not in name})
    assert len(Spy.seen) == 1 + 3 * (n_conditions - 1)
    # The encoder was fitted once, to the targets of the real images only.
    (features,) = SpyEncoder.seen
    assert rows_in(features, first[1]).all()
    assert len(features) == n


def test_networks_take_as_many_steps_with_synthetic_rows_as_without():
    data, targets = own_data()
    SpyNet.seen.clear()
    decoder = SpyNet(sizes={"width": 16}, n_epochs=24, batch_size=16, device="cpu")
    result = brainenc.augmentation_study(data, targets=targets, decoder=decoder, **OPTIONS)
    assert {n for n, _, _ in SpyNet.seen} == {24, 72}
    assert {(steps, batch) for _, steps, batch in SpyNet.seen} == {(24 * 72 // 16, 16)}
    assert result.settings["n_steps"] == 108
    rows = result.replicates()
    assert set(rows[rows["condition"] == REAL_TRIALS]["weight"]) <= {0.0, 1.0}


def test_a_ridge_decoder_agrees_with_scikit_learn():
    """Nothing added: retrieval and error are those of a fit by hand."""
    data, targets = own_data()
    Spy.seen.clear()
    result = brainenc.augmentation_study(
        data, targets=targets, decoder=Spy(alphas=[20.0]), **OPTIONS
    )
    X, y, _, _ = Spy.seen[0]
    order = np.random.default_rng((0, 0)).permutation(200)[:152]
    test = order[24 + 30 : 24 + 30 + 50]
    real = order[:24]
    np.testing.assert_allclose(y, targets[real], rtol=1e-6)
    mean, sd = X.mean(axis=0), X.std(axis=0)
    trials = data.betas[real]
    # Units of the real trials: the study z-scores by these, one trial of each image.
    matches = [
        next(
            r
            for r in range(2)
            if np.corrcoef(X[i], (trials[i, r] - trials.mean((0, 1))))[0, 1] > 0.8
        )
        for i in range(24)
    ]
    chosen = trials[np.arange(24), matches]
    tested = (data.betas[test].mean(axis=1) - chosen.mean(axis=0)) / chosen.std(axis=0)
    fit = Ridge(alpha=20.0).fit((X - mean) / sd, y)
    predicted = fit.predict((tested - mean) / sd)
    row = result.replicates().query(f"condition == '{NONE}' and similarity == 'centred'").iloc[0]
    wanted = np.square(predicted - targets[test]).mean()
    wanted /= np.square(targets[real].mean(axis=0) - targets[test]).mean()
    assert row["relative_mse"] == pytest.approx(wanted, rel=1e-3)
    a, b = predicted - y.mean(axis=0), targets[test] - targets[real].mean(axis=0)
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    top = (cosine.argmax(axis=1) == np.arange(50)).mean()
    assert row["image_retrieval"] == pytest.approx(top)


class Plain(BaseDecoder):
    """A decoder of one's own, with nothing but the contract."""

    def __init__(self, targets=None):
        self.targets = targets

    def _fit(self, betas, targets):
        X = betas.mean(axis=1)
        self.coef_ = np.linalg.solve(X.T @ X + 30 * np.eye(X.shape[1]), X.T @ targets)
        return np.full(targets.shape, np.nan)

    def _predict(self, responses):
        return responses @ self.coef_


def test_a_decoder_of_ones_own_can_say_yes_and_no():
    """Known truth: real trials gain, permuted ones do not."""
    data, targets = own_data(noise=4.0, n_images=300)
    options = OPTIONS | {"replicates": 4, "n_test": 100, "pool_size": 100}
    result = brainenc.augmentation_study(data, targets=targets, decoder=Plain(), **options)
    table = result.table().query("similarity == 'centred'").set_index("condition")
    for direction in ("image_retrieval", "brain_retrieval"):
        assert table.loc[REAL_TRIALS, f"{direction}_low"] > 0
        assert table.loc["ridge: draws, images permuted", f"{direction}_low"] <= 0
        assert table.loc[REPEATED, f"{direction}_share"] < 0.5
    assert not table["gain"].any()


@pytest.mark.parametrize(
    "encoder",
    [
        brainenc.LatentEncoder(n_latents=4, device="cpu"),
        pytest.param(
            brainenc.SynBrainEncoder(device="cpu", vae_epochs=1, mapper_steps=3),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            brainenc.MindSimulatorEncoder(
                device="cpu", autoencoder_epochs=1, prior_epochs=1, n_steps=4
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # few images
def test_any_encoder_makes_the_synthetic_trials(encoder):
    subject, other = (
        brainenc.datasets.simulate_subject(n_images=150, n_voxels=n, random_state=seed)
        for n, seed in ((24, 0), (20, 1))
    )
    theirs = clone(encoder).fit(other.truth.tokens, other.zscore_by_session().betas)
    result = brainenc.augmentation_study(
        subject.zscore_by_session(),
        {"tested": encoder},
        targets=subject.truth.tokens,
        adapted={"theirs": theirs},
        decoder=Plain(),
        **OPTIONS | {"n_test": 30, "pool_size": 30, "ratios": (1,)},
    )
    rows = result.replicates().query("similarity == 'centred'").set_index("condition")
    for name in ("tested: draws, new images", "theirs, adapted: predictions, new images"):
        assert np.isfinite(rows.loc[name, "image_retrieval"])


@pytest.mark.parametrize(
    "decoder", [brainenc.RidgeEncoder(), brainenc.EncoderDecoder(brainenc.RidgeEncoder()), "ridge"]
)
def test_what_is_no_decoder_of_rows_is_refused(decoder):
    data, targets = own_data()
    with pytest.raises(TypeError, match="must be None or a decoder that learns from rows"):
        brainenc.augmentation_study(data, targets=targets, decoder=decoder, **OPTIONS)


def test_identification_error_counts_wrong_pairs_in_both_directions():
    values = np.array([[3.0, 1.0, 5.0], [0.0, 2.0, 1.0], [4.0, 0.0, 2.0]])
    by_row = (1 + 0 + 1) / 6  # 5 > 3; none; 4 > 2
    by_column = (1 + 0 + 1) / 6  # 4 > 3; none; 5 > 2
    assert identification_error(values) == pytest.approx((by_row + by_column) / 2)
    values[0, 0] = np.nan
    assert identification_error(np.full((4, 4), np.nan)) == 0.5
    # Row 0 and column 0 are undefined, half wrong; 4 > 2 by row and 5 > 2 by column are left.
    assert identification_error(values) == pytest.approx((0.5 * 2 + 0 + 1) / 6)


def test_every_condition_is_centred_by_the_targets_of_the_real_rows():
    rng = np.random.default_rng(0)
    real, added, tuning, test = (
        Pairs(rng.standard_normal((n, 10)), rng.standard_normal((n, 6)) + shift)
        for n, shift in ((30, 0), (30, 8), (20, 0), (20, 0))
    )
    fits = DecoderFits(real, tuning, test, Plain(), (2, 3))
    fits._alone = (2.0, None)  # so that the fit with added rows is the better one
    found = fits.decoded(added)
    assert found.chosen == {"weight": 1.0}
    wanted = brainenc.metrics.cosine_similarity(
        found.predicted, test.Y.astype(np.float32), mean=real.Y.mean(axis=0)
    )
    np.testing.assert_allclose(found.similarities["centred"], wanted, atol=1e-5)
