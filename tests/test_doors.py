"""Every door of the package takes what has one meaning, and refuses what has two."""

import numpy as np
import pandas as pd
import pytest
import torch

import brainenc
from brainenc import metrics
from brainenc.brain.volumes import to_nifti
from brainenc.model_selection import image_folds

N = 12  # images, and voxels

MASK = np.isin(np.arange(N), [2, 3, 7, 9, 10])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 8, 8), dtype=np.uint8)
    return brainenc.EncodingData(images, rng.standard_normal((N, 3, N)))


@pytest.fixture(scope="module")
def encoder(data):
    X = np.random.default_rng(1).standard_normal((N, 4))
    return brainenc.RidgeEncoder(features=None).fit(X, data.betas)


@pytest.fixture(scope="module")
def truth():
    simulated = brainenc.datasets.simulate_subject(N, 40, random_state=0, verbose=False)
    return simulated.select(voxels=np.arange(N)).truth


# ------------------------------------------------------------------ masks and positions

#: Functions of (objects, chosen) to what was chosen.
DOORS = {
    "train_test": lambda o, m: o["data"].train_test(m)[1].betas,
    "select(images)": lambda o, m: o["data"].select(images=m).betas,
    "select(voxels)": lambda o, m: o["data"].select(voxels=m).betas,
    "log_density": lambda o, m: o["encoder"].log_density(
        np.zeros((N, 4)), o["data"].betas, voxels=m
    ),
    "localize": lambda o, m: brainenc.localize(o["encoder"], np.eye(N, 4), m).t,
    "cv": lambda o, m: image_folds([(np.flatnonzero(~MASK), m)], N)[0][1],
    "cv, train": lambda o, m: image_folds([(m, np.flatnonzero(~MASK))], N)[0][0],
    "truth.select(images)": lambda o, m: o["truth"].select(images=m).signal,
    "truth.select(voxels)": lambda o, m: o["truth"].select(voxels=m).signal,
    "truth.noise_covariance": lambda o, m: o["truth"].noise_covariance(m),
    "ceiling.of_voxels": lambda o, m: o["data"].noise_ceiling().of_voxels(m).values,
    "ceiling.table": lambda o, m: o["data"].noise_ceiling().table({"V1": m})[["n_voxels", "r"]],
}

#: One meaning: the rows of MASK.
CHOICES = {
    "list of bool": MASK.tolist(),
    "column": MASK[:, None],
    "row": MASK[None],
    "object": MASK.astype(object),
    "Series": pd.Series(MASK, index=range(50, 50 + N)),
    "nullable": pd.Series(MASK, dtype="boolean"),
    "tensor": torch.from_numpy(MASK),
    "positions": np.flatnonzero(MASK),
    "negative positions": np.flatnonzero(MASK) - N,
    "big-endian positions": np.flatnonzero(MASK).astype(">i4"),
    "Series of positions": pd.Series(np.flatnonzero(MASK), index=[3, 1, 0, 2, 4]),
    "nullable positions": pd.Series(np.flatnonzero(MASK), dtype="Int64"),
}

#: Two meanings, or none.
UNCLEAR = {
    "0 and 1": (MASK.astype(int), r"numbers of 0 and 1.*mask > 0.*flatnonzero"),
    "uint8": (MASK.astype(np.uint8), "numbers of 0 and 1"),
    "0. and 1.": (MASK.astype(float), "numbers of 0 and 1"),
    "column of 0 and 1": (MASK.astype(np.int8)[:, None], "numbers of 0 and 1"),
    "tensor of 0 and 1": (torch.from_numpy(MASK.astype(np.int64)), "numbers of 0 and 1"),
    "nsdgeneral": (np.where(np.arange(N) < 2, -1, MASK), r"numbers of -1 and 0 and 1"),
    "zeros": (np.zeros(N, int), "numbers of 0 only"),
    "0 and 1 of another length": ([0, 1, 1, 0], "names a row twice.*mask > 0"),
    "repeated": ([2, 5, 2], "names a row twice"),
    "repeated from the end": ([2, 2 - N], "names a row twice"),
    "missing": (pd.Series(MASK, dtype="boolean").where(MASK, pd.NA), "missing entries"),
    "None in it": (np.where(MASK, True, None), "missing entries"),
    "masked": (np.ma.masked_array(MASK, ~MASK), "masked"),
    "shuffled Series": (pd.Series(MASK, index=[*range(1, N), 0]), "not in increasing order"),
    "another length": (MASK[1:], r"mask of shape \(11,\)"),
    "text": (["V1", "V2"], "mask or integer positions"),
    "missing positions": (pd.Series([2, None], dtype="Int64"), "mask or integer positions"),
}


@pytest.fixture(scope="module")
def objects(data, encoder, truth):
    return {"data": data, "encoder": encoder, "truth": truth}


@pytest.mark.parametrize("door", DOORS)
def test_masks_and_positions_of_every_kind_choose_the_same(objects, door):
    right = np.asarray(DOORS[door](objects, MASK))
    for name, chosen in CHOICES.items():
        found = np.asarray(DOORS[door](objects, chosen))
        np.testing.assert_array_equal(found, right, err_msg=name)


@pytest.mark.parametrize("door", DOORS)
def test_what_may_be_a_mask_or_positions_is_refused(objects, door):
    for name, (chosen, message) in UNCLEAR.items():
        with pytest.raises((ValueError, TypeError), match=message):
            print(name, DOORS[door](objects, chosen))


def test_the_rows_of_the_mask_are_chosen(data):
    np.testing.assert_array_equal(data.train_test(MASK)[1].betas, data.betas[[2, 3, 7, 9, 10]])
    np.testing.assert_array_equal(
        data.select(voxels=MASK).betas, data.betas[:, :, [2, 3, 7, 9, 10]]
    )


def test_log_density_of_some_voxels_is_that_of_their_normal(data, encoder):
    from scipy.stats import multivariate_normal

    X, few = np.zeros((N, 4)), np.flatnonzero(MASK)
    noise, expected = encoder.noise_, encoder.predict(X)[:, few]
    found = encoder.log_density(X, data.betas, voxels=MASK)
    if encoder.residual_shape_ is None:
        factors = noise.factors[:, few].astype(float)
        covariance = factors.T @ factors + np.diag(noise.private_sd[few].astype(float) ** 2)
        right = multivariate_normal(expected[0], covariance).logpdf(data.betas[0, 0, few])
        assert found[0, 0] == pytest.approx(right, rel=1e-4)


# ------------------------------------------------------------------ folds


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ((np.arange(9), np.arange(9, 12)), r"cv=\[\(train, test\)\]"),
        ([list(range(9)), list(range(9, 12))], r"cv=\[\(train, test\)\]"),
        (([0, 1], [2, 3]), r"cv=\[\(train, test\)\]"),
        ((~MASK, MASK), r"cv=\[\(train, test\)\]"),
        ([(~MASK, MASK, MASK)], "3 parts.*pair"),
        ([np.arange(9)], "9 parts.*pair"),
        ([(1 - MASK.astype(int), MASK.astype(int))], r"train of fold 0 of cv.*mask > 0"),
        ([(~MASK, MASK | (np.arange(N) == 0))], "in both train and test"),
        ([(MASK, np.zeros(N, bool))], "0 test images"),
        ([([0, 1, 2, 2], [3, 4])], "train of fold 0 of cv names a row twice"),
        ([([0, 1], [3, N])], "test of fold 0 of cv has positions from 3 to 12"),
        ("loo", "cv"),
        ([3, 4], "list of pairs"),
    ],
)
def test_folds_that_are_none_say_how_to_give_them(data, cv, message):
    with pytest.raises(ValueError, match=message):
        image_folds(cv, N)
    with pytest.raises(ValueError, match=message):
        brainenc.benchmark(data, {"mean": brainenc.MeanEncoder()}, cv=cv, verbose=False)


def test_a_generator_of_folds_and_an_array_of_them():
    parts = np.arange(N).reshape(2, 6)
    for cv in (
        ((train, test) for train, test in [parts, parts[::-1]]),
        np.stack([parts, parts[::-1]]),
    ):
        folds = image_folds(cv, N)
        assert [test.tolist() for _, test in folds] == [parts[1].tolist(), parts[0].tolist()]


# ------------------------------------------------------------------ betas and features

#: Betas (N, N) as everything they may be, each equal to the float64 array.
KINDS = {
    "float32": lambda b: b.astype(np.float32),
    "big-endian": lambda b: b.astype(">f8"),
    "Fortran": np.asfortranarray,
    "reversed": lambda b: b[::-1].copy()[::-1],
    "list": lambda b: b.tolist(),
    "object": lambda b: b.astype(object),
    "pd.NA": lambda b: pd.DataFrame(b).convert_dtypes(),
    "object with pd.NA": lambda b: pd.DataFrame(b).convert_dtypes().to_numpy(dtype=object),
    "object with None": lambda b: np.where(np.isnan(b), None, b),
    "masked": lambda b: np.ma.masked_invalid(b),
    "tensor": torch.from_numpy,
    "tensor with gradient": lambda b: torch.from_numpy(b).requires_grad_(),
    "bfloat16": lambda b: torch.from_numpy(b).bfloat16(),
    "half": lambda b: torch.from_numpy(b).half(),
    "list of tensors": lambda b: [torch.from_numpy(row).requires_grad_() for row in b],
    "long double": lambda b: b.astype(np.longdouble),
    "matrix": lambda b: np.asarray(b).view(np.matrix),
}

REFUSED = {
    "text": np.full((N, N), "0.5"),
    "text objects": np.full((N, N), "0.5", object),
    "dates": np.full((N, N), "2020-01-01", "M8[D]"),
    "complex": np.zeros((N, N), complex),
    "bool": np.zeros((N, N), bool),
    "structured": np.zeros((N, N), [("b", float)]),
    "sparse tensor": torch.eye(N).to_sparse(),
    "tensor without values": torch.zeros((N, N), device="meta"),
    "ragged": [[1.0, 2.0], [1.0]],
}

BETAS_DOORS = {
    "EncodingData": lambda b: brainenc.EncodingData(np.zeros((N, 8, 8), np.uint8), b).betas[:, 0],
    "from_trials": lambda b: brainenc.EncodingData.from_trials(
        np.zeros((N, 8, 8), np.uint8), b, np.arange(N)
    ).betas[:, 0],
    "fit": lambda b: (
        brainenc.MeanEncoder()
        .fit(np.zeros((N, 8, 8), np.uint8), b)
        .predict(np.zeros((1, 8, 8), np.uint8))
    ),
}


@pytest.fixture(scope="module")
def betas():
    # Steps of 1/16 are exact in bfloat16 and half precision.
    values = np.random.default_rng(2).integers(-60, 60, (N, N)) / 16
    values[3] = np.nan
    return values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", BETAS_DOORS)
def test_betas_of_every_kind_are_the_same_numbers(betas, door, kind):
    right = BETAS_DOORS[door](betas)
    found = BETAS_DOORS[door](KINDS[kind](betas))
    np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("door", BETAS_DOORS)
def test_betas_that_are_none_are_refused_by_name(door, kind):
    with pytest.raises((TypeError, ValueError), match="betas"):
        BETAS_DOORS[door](REFUSED[kind])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "pd.NA" not in kind])
def test_features_of_every_kind_are_the_same_numbers(betas, kind):
    X = np.nan_to_num(betas)
    y = np.random.default_rng(3).standard_normal((N, 2))
    right = brainenc.RidgeEncoder(features=None).fit(X, y).predict(X)
    given = KINDS[kind](X)
    found = brainenc.RidgeEncoder(features=None).fit(given, y).predict(given)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


def test_masked_features_are_refused():
    X = np.ma.masked_less(np.random.default_rng(0).standard_normal((N, 3)), -0.5)
    with pytest.raises(ValueError, match="NaN"):
        brainenc.RidgeEncoder(features=None).fit(X, np.ones((N, 2)))


def test_whole_numbers_that_float32_rounds_stay_exact():
    large = np.array([[2**24 + 1, 3], [5, -(2**24) - 3]])
    images = np.zeros((2, 8, 8), np.uint8)
    assert brainenc.EncodingData(images, large).betas[:, 0].tolist() == large.tolist()
    assert brainenc.EncodingData(images, large // 2).betas.dtype == np.float32


# ------------------------------------------------------------------ the order of rows


def shuffled(values):
    """A Series of the same values whose index has another order."""
    return pd.Series(values, index=np.roll(np.arange(len(values)), 1))


MAP_DOORS = {
    "to_csv": lambda data, r, folder: pd.read_csv(data.to_csv({"r": r}, folder / "a.csv"))["r"],
    "to_csv, one": lambda data, r, folder: pd.read_csv(data.to_csv(r, folder / "a.csv"))["value"],
    "to_nifti": lambda data, r, folder: np.asarray(data.to_nifti(r).dataobj)[:, 0, 0],
    "to_surface": lambda data, r, folder: data.to_surface(r, n_vertices=N)["lh"].darrays[0].data,
    "brain.to_nifti": lambda data, r, folder: np.asarray(
        to_nifti(r, data.voxels.astype({"i": ">i4"})).dataobj
    )[:, 0, 0],
}


@pytest.fixture(scope="module")
def placed():
    table = pd.DataFrame({"i": np.arange(N), "j": 0, "k": 0, "vertex": np.arange(N)})
    table["hemisphere"] = "lh"
    return brainenc.EncodingData(
        np.zeros((5, 8, 8), np.uint8),
        np.random.default_rng(0).standard_normal((5, N)),
        table,
        volume=brainenc.Volume((N, 1, 1), np.eye(4)),
    )


@pytest.mark.parametrize("door", MAP_DOORS)
def test_maps_are_written_position_by_position(placed, tmp_path, door):
    r = np.random.default_rng(0).random(N).astype(np.float32)
    for given in (
        r,
        pd.Series(r),
        pd.Series(r, index=range(100, 100 + N)),  # as result.maps.query(...) gives them
        pd.Series(r, index=list("abcdefghijkl")),
        pd.Series(r, dtype="Float32"),
        r[:, None],
        torch.from_numpy(r).requires_grad_(),
        r.astype(">f4"),
    ):
        found = np.asarray(MAP_DOORS[door](placed, given, tmp_path))
        np.testing.assert_allclose(found, r, rtol=1e-6)


@pytest.mark.parametrize("door", MAP_DOORS)
def test_maps_in_another_order_are_refused(placed, tmp_path, door):
    r = np.random.default_rng(0).random(N)
    for given in (shuffled(r), pd.Series(r, index=range(7, 7 + N)).sort_values()):
        with pytest.raises(ValueError, match=r"index.*(to_numpy\(\)|reset_index)"):
            MAP_DOORS[door](placed, given, tmp_path)


def test_a_table_of_maps(placed, tmp_path):
    table = pd.DataFrame({"r": np.arange(N) / 7, 2: np.arange(N)}, index=range(30, 30 + N))
    written = pd.read_csv(placed.to_csv(table, tmp_path / "a.csv"))
    np.testing.assert_allclose(written["r"], table["r"])
    assert written["2"].tolist() == list(range(N))
    with pytest.raises(TypeError, match=r"DataFrame: pass values\.to_numpy\(\)\.T"):
        placed.to_nifti(table)


ROW_DOORS = {
    "voxels": lambda images, betas, s: brainenc.EncodingData(images, betas, s.to_frame("ncsnr")),
    "betas": lambda images, betas, s: brainenc.EncodingData(images, pd.DataFrame(betas, s.index)),
    "image_ids": lambda images, betas, s: brainenc.EncodingData.from_trials(
        images, betas, pd.Series(range(N), s.index)
    ),
    "session": lambda images, betas, s: brainenc.EncodingData.from_trials(
        images, betas, range(N), session=s
    ),
    "run": lambda images, betas, s: brainenc.EncodingData.from_trials(
        images, betas, range(N), run=s
    ),
}


@pytest.mark.parametrize("door", ROW_DOORS)
def test_rows_in_another_order_are_refused_and_other_indexes_left_out(door):
    images = np.zeros((N, 8, 8), np.uint8)
    betas = np.random.default_rng(0).standard_normal((N, N))
    values = pd.Series(np.arange(N) / 3)
    with pytest.raises(ValueError, match=rf"{door}.* index .*increasing order.*sort_index"):
        ROW_DOORS[door](images, betas, shuffled(values.to_numpy()))
    values.index = range(40, 40 + N)
    data = ROW_DOORS[door](images, betas, values)
    np.testing.assert_array_equal(data.betas[:, 0], betas)
    column = {"voxels": data.voxels.get("ncsnr"), "session": data.trials.get("session")}.get(door)
    if column is not None:
        np.testing.assert_array_equal(column, np.arange(N) / 3)


@pytest.mark.parametrize(
    "labels", [["V1", "V2"] * 6, [b"V1", b"V2"] * 6, [1, 2] * 6, [1.0, 2.0] * 6]
)
def test_labels_of_voxels_given_to_encoders(encoder, data, labels):
    X = np.random.default_rng(1).standard_normal((N, 4))
    right = brainenc.calibrate(encoder, X, data.betas, groups=["a", "b"] * 6).scale_
    for given in (labels, np.array(labels)[:, None], pd.Series(labels, index=range(20, 32))):
        found = brainenc.calibrate(encoder, X, data.betas, groups=given).scale_
        np.testing.assert_array_equal(found, right)
    with pytest.raises(ValueError, match="groups has an index that is not in increasing order"):
        brainenc.calibrate(encoder, X, data.betas, groups=shuffled(labels))


def test_columns_of_one_shuffled_table_belong_together():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.standard_normal((N, 3)), columns=list("abc"))
    table["image"], table["session"] = np.arange(N), np.repeat([1, 2], N // 2)
    table = table.sample(frac=1, random_state=0)
    images = np.zeros((N, 8, 8), np.uint8)
    data = brainenc.EncodingData.from_trials(
        images, table[list("abc")], table["image"], session=table["session"]
    )
    np.testing.assert_array_equal(data.betas[:, 0], table.sort_index()[list("abc")])
    with pytest.raises(ValueError, match="same index in another order"):
        brainenc.EncodingData.from_trials(images, table[list("abc")], table["image"].sort_index())


def test_features_and_betas_with_one_index_in_two_orders_are_refused():
    X = pd.DataFrame(np.random.default_rng(0).standard_normal((N, 2)), columns=["a", "b"])
    y = X + 1
    chance = X.sample(frac=1, random_state=0)
    encoder = brainenc.RidgeEncoder(features=None)
    fitted = encoder.fit(chance, y.loc[chance.index])
    np.testing.assert_allclose(fitted.predict(X), encoder.fit(X, y).predict(X), atol=1e-3)
    with pytest.raises(ValueError, match="X and y have the same index in another order"):
        encoder.fit(chance, y)


def test_metrics_take_no_mask_for_positions():
    ceiling = metrics.NoiseCeiling(np.arange(N) / N, "r2", n_trials=3, estimator="given")
    assert ceiling.of_voxels(slice(2, 4)).values.tolist() == [2 / N, 3 / N]
    assert ceiling.table({"none": []})["n_voxels"].tolist() == [N, 0]
