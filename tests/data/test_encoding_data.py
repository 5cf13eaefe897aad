import dataclasses
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

import brainenc
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import ImageFiles
from brainenc.data.npz import load_data, load_npz

N_IMAGES, N_REPEATS, N_VOXELS = 8, 3, 5


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (N_IMAGES, 6, 4, 3), dtype=np.uint8)


@pytest.fixture
def betas():
    """Single trials, some missing whole, one voxel without any data."""
    betas = np.random.default_rng(1).normal(2, 3, (N_IMAGES, N_REPEATS, N_VOXELS))
    betas[[1, 4], 2] = np.nan
    betas[6, 1:] = np.nan
    betas[:, :, 3] = np.nan
    return betas.astype(np.float32)


@pytest.fixture
def voxels():
    return pd.DataFrame(
        {
            "prf": ["V1v", "V2v", "V1v", None, "V1d"],
            "floc": ["", "FFA", "", "FFA", ""],
            "ncsnr": np.array([0.1, 0.2, np.nan, 0.4, 0.5], dtype=np.float32),
            "hemisphere": list("LRLRL"),
            "vertex": [10, 20, 30, 40, 50],
        }
    )


@pytest.fixture
def data(images, betas, voxels):
    trials = pd.DataFrame(np.argwhere(np.isfinite(betas[:, :, 0])), columns=["image", "repeat"])
    trials["session"] = trials["repeat"] + 1
    return EncodingData(images, betas, voxels, trials, name="subj01")


# ------------------------------------------------------------------ from_trials


def grouped_slowly(betas, ids):
    rows = {i: [betas[t] for t in range(len(ids)) if ids[t] == i] for i in sorted(set(ids))}
    n_repeats = max(len(row) for row in rows.values())
    missing = [np.full(betas.shape[1], np.nan)]
    return np.array([row + missing * (n_repeats - len(row)) for row in rows.values()])


@pytest.fixture
def trial_wise(images):
    rng = np.random.default_rng(3)
    ids = rng.choice([0, 2, 3, 5, 7], size=23, p=[0.1, 0.4, 0.2, 0.2, 0.1])
    betas = rng.standard_normal((23, N_VOXELS)).astype(np.float32)
    return images, betas, ids


@pytest.mark.parametrize("container", [np.asarray, list, pd.Series])
def test_from_trials_groups_unsorted_ids_with_uneven_repeats(trial_wise, container):
    images, betas, ids = trial_wise
    data = EncodingData.from_trials(images, betas, container(ids))
    np.testing.assert_array_equal(data.betas, grouped_slowly(betas, ids.tolist()))
    np.testing.assert_array_equal(data.images, images[np.unique(ids)])
    assert data.betas.dtype == np.float32
    assert data.n_repeats == np.bincount(ids).max()


def test_from_trials_keeps_what_is_known_of_each_trial(trial_wise):
    images, betas, ids = trial_wise
    session = np.repeat([1, 2, 3], [8, 8, 7])
    run = pd.Series([f"run{i}" for i in range(23)], index=range(100, 123))
    known = {"session": pd.Series(session), "run": run, "units": "percent signal change"}
    data = EncodingData.from_trials(images, betas, ids, **known)
    assert data.units == "percent signal change"
    trials = data.trials
    assert sorted(trials["trial"]) == list(range(23))
    for row in trials.itertuples():
        np.testing.assert_array_equal(data.betas[row.image, row.repeat], betas[row.trial])
        assert (np.unique(ids)[row.image], row.session) == (ids[row.trial], session[row.trial])
        assert row.run == f"run{row.trial}"
    # Repeats count up in the order of presentation.
    for _, of_image in trials.groupby("image"):
        assert of_image["trial"].is_monotonic_increasing
        assert of_image["repeat"].tolist() == list(range(len(of_image)))


def test_from_trials_keeps_lazy_images_lazy(trial_wise, tmp_path):
    images, betas, ids = trial_wise
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = EncodingData.from_trials(mapped, betas, ids)
    assert not isinstance(data.images, np.ndarray)
    np.testing.assert_array_equal(np.asarray(data.images), images[np.unique(ids)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda i, b, s: (i, b, s + 1), ValueError, "from 1 to 8.*rows 0 … 7.*counted from 1"),
        (lambda i, b, s: (i, b, s - 1), ValueError, "from -1 to"),
        (lambda i, b, s: (i, b, s[:-1]), ValueError, "betas has 23, image_ids has 22"),
        (lambda i, b, s: (i, b, s + 0.5), TypeError, "image_ids must be integers.*float64"),
        (
            lambda i, b, s: (i, b[:, None].repeat(2, 1), s),
            ValueError,
            r"\(23, 2, 5\) must be \(n_tr",
        ),
        (lambda i, b, s: (i, b * np.inf, s), ValueError, "infinite"),
    ],
)
def test_from_trials_refuses_what_does_not_fit(trial_wise, change, error, message):
    with pytest.raises(error, match=message):
        EncodingData.from_trials(*change(*trial_wise))


def test_from_trials_checks_the_sessions(trial_wise):
    with pytest.raises(ValueError, match="betas has 23, image_ids has 23, session has 2"):
        EncodingData.from_trials(*trial_wise, session=[1, 2])


# ------------------------------------------------------------------ z-scores


def sessions_of(data):
    for _, rows in data.trials.groupby("session"):
        yield rows["image"].to_numpy(), rows["repeat"].to_numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zscore_by_session_is_scipys_per_session(data, dtype):
    data = EncodingData(data.images, data.betas.astype(dtype), data.voxels, data.trials)
    scored = data.zscore_by_session()
    for where in sessions_of(data):
        expected = stats.zscore(data.betas[where].astype(float), axis=0, nan_policy="omit")
        # float32 of size 10 has a rounding error of 1e-6, over an s.d. of 3.
        np.testing.assert_allclose(scored.betas[where], expected, atol=2e-6)
    assert scored.betas.dtype == dtype
    np.testing.assert_array_equal(np.isnan(scored.betas), np.isnan(data.betas))


def test_zscore_is_exact_far_from_zero(images):
    # Raw signal: 10 000 ± 1. A float32 mean summed trial by trial is off by 0.01 and more.
    rng = np.random.default_rng(0)
    betas = (10_000 + rng.standard_normal((4000, 1, 2))).astype(np.float32)
    trials = pd.DataFrame({"image": np.arange(4000), "repeat": 0, "session": 1})
    data = EncodingData(np.repeat(images[:1], 4000, axis=0), betas, trials=trials)
    expected = stats.zscore(betas.astype(float), axis=0)
    np.testing.assert_allclose(data.zscore_by_session().betas, expected, atol=1e-3)


def test_zscore_goes_by_the_trial_table_and_not_by_the_repeat(trial_wise):
    images, betas, ids = trial_wise
    session = np.repeat(["a", "b"], [11, 12])
    data = EncodingData.from_trials(images, betas, ids, session=session)
    # The order of z-scoring and grouping must not matter.
    first = np.concatenate([stats.zscore(part, axis=0) for part in np.split(betas, [11])])
    expected = grouped_slowly(first, ids.tolist())
    np.testing.assert_allclose(data.zscore_by_session().betas, expected, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_voxel_constant_in_a_session_is_nan_there_and_counted(data, dtype):
    betas = data.betas.astype(dtype)
    first = next(sessions_of(data))
    betas[first[0], first[1], 0] = 0.1  # the mean of eight of which is not quite 0.1
    constant = EncodingData(data.images, betas, data.voxels, data.trials)
    with pytest.warns(UserWarning, match=r"^1 times a voxel was constant"):
        scored = constant.zscore_by_session()
    assert np.isnan(scored.betas[first][:, 0]).all()
    expected = EncodingData(data.images, data.betas.astype(dtype), trials=data.trials)
    np.testing.assert_array_equal(
        scored.betas[:, :, 1:], expected.zscore_by_session().betas[:, :, 1:]
    )


def test_zscore_needs_a_session_for_every_trial(data):
    no_sessions = EncodingData(data.images, data.betas)
    with pytest.raises(ValueError, match=r"no 'session'.*from_trials"):
        no_sessions.zscore_by_session()
    trials = data.trials.astype({"session": float})
    trials.loc[[2, 5], "session"] = np.nan
    gaps = EncodingData(data.images, data.betas, trials=trials)
    with pytest.raises(ValueError, match="2 of 20 trials have no session"):
        gaps.zscore_by_session()


def test_zscore_leaves_the_original_as_it_was(data):
    before = data.betas.copy()
    data.zscore_by_session()
    np.testing.assert_array_equal(data.betas, before)


# ------------------------------------------------------------------ averages


def test_average_repeats_is_nanmean_and_counts_trials(data):
    average = data.average_repeats()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        expected = np.nanmean(data.betas.astype(float), axis=1)
    # Three float32 of size 10 summed: 1e-6.
    np.testing.assert_allclose(average.betas[:, 0], expected, atol=3e-6)
    assert average.n_repeats == 1
    assert average.trials["n_averaged"].tolist() == [3, 2, 3, 3, 2, 3, 1, 3]
    pd.testing.assert_series_equal(average.voxels["ncsnr"], data.voxels["ncsnr"])


def test_averages_remember_the_ncsnr_of_the_single_trials(images):
    rng = np.random.default_rng(0)
    n, ncsnr = 3000, np.array([0.3, 1.0, 2.0])
    betas = ncsnr * rng.standard_normal((n, 1, 3)) + rng.standard_normal((n, 3, 3))
    data = EncodingData(np.repeat(images[:1], n, axis=0), betas)
    # s.e. of the signal variance is at most sqrt(2/n)·(ncsnr² + 1/3): 0.014, 0.034 and 0.11, so
    # that of its root is 0.024, 0.017 and 0.028; allow four of the largest.
    estimated = data.average_repeats().voxels["ncsnr"]
    np.testing.assert_allclose(estimated, ncsnr, atol=0.11)
    assert "ncsnr" not in data.voxels
    assert "ncsnr" not in EncodingData(data.images, betas[:, :1]).average_repeats().voxels


def test_an_image_without_data_has_no_row_in_the_averaged_trials(images, betas):
    betas[2] = np.nan
    average = EncodingData(images, betas).average_repeats()
    assert np.isnan(average.betas[2]).all()
    assert average.trials["image"].tolist() == [0, 1, 3, 4, 5, 6, 7]


# ------------------------------------------------------------------ parts


def check_images_are(part, data, rows):
    """`part` is `data` at `rows`, in betas, images and trial table."""
    np.testing.assert_array_equal(part.betas, data.betas[rows])
    np.testing.assert_array_equal(np.asarray(part.images), np.asarray(data.images)[rows])
    whole = data.trials.set_index(["image", "repeat"])["session"]
    assert len(part.trials) == sum(data.trials["image"].isin(rows))
    for trial in part.trials.itertuples():
        assert trial.session == whole[rows[trial.image], trial.repeat]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        ([5, 0, 6], [5, 0, 6]),
        ([-1, 1], [7, 1]),
        (np.arange(8) % 2 == 1, [1, 3, 5, 7]),
        (pd.Series(np.arange(8) > 5, index=list("abcdefgh")), [6, 7]),
        (range(3), [0, 1, 2]),
        (4, [4]),
    ],
    ids=["positions", "negative", "mask", "Series", "range", "one"],
)
def test_select_images(data, index, rows):
    check_images_are(data.select(images=index), data, rows)


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        ({"roi": "V1v"}, [0, 2]),
        ({"roi": ["V1d", "V1v", "V1v"]}, [0, 2, 4]),
        ({"roi": "FFA", "atlas": "floc"}, [1, 3]),
        ({"voxels": [4, 0]}, [4, 0]),
        ({"roi": "FFA"}, [1, 3]),
        ({"voxels": [-1]}, [4]),
        ({"voxels": [False, True, True, False, False]}, [1, 2]),
    ],
)
def test_select_voxels(data, arguments, columns):
    part = data.select(**arguments)
    np.testing.assert_array_equal(part.betas, data.betas[:, :, columns])
    expected = data.voxels.iloc[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.voxels, expected)
    pd.testing.assert_frame_equal(part.trials, data.trials)


def test_select_by_the_voxel_table(data):
    part = data.select(voxels=data.voxels["hemisphere"] == "L")
    assert part.voxels["vertex"].tolist() == [10, 30, 50]


def test_select_both_and_again(data):
    part = data.select(images=[7, 2, 4], roi="V1v").select(images=[2, 0], voxels=[1])
    check_images_are(part, data.select(voxels=[2]), [4, 7])


def test_a_voxel_without_data_can_be_selected(data):
    assert np.isnan(data.select(voxels=[3]).betas).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"roi": "V9"}, ValueError, r"no ROI \['V9'\].*'V1v', 'V2v', 'V1d'"),
        ({"roi": "V1v", "atlas": "kastner"}, ValueError, r"'kastner'.*\['prf', 'floc'\]"),
        ({"roi": "V1v", "atlas": "hemisphere"}, ValueError, "'hemisphere' is not in"),
        ({"roi": "V1v", "voxels": [0]}, ValueError, "not both"),
        ({"roi": []}, ValueError, "selects nothing"),
        ({"images": [0, 8]}, ValueError, "images has positions from 0 to 8, outside 0 … 7"),
        ({"images": [1, 1]}, ValueError, "names a row twice"),
        ({"images": [1, -7]}, ValueError, "names a row twice"),
        ({"images": [True]}, ValueError, r"images is a mask of shape \(1,\), but 8"),
        ({"voxels": [0.5]}, TypeError, "voxels must be"),
    ],
)
def test_select_refuses_what_is_not_there(data, arguments, error, message):
    with pytest.raises(error, match=message):
        data.select(**arguments)


@pytest.mark.parametrize("test", [0.25, np.float32(0.25), [6, 1], np.isin(np.arange(8), [1, 6])])
def test_train_and_test_share_no_image_and_lose_none(data, test):
    # Each image has a beta of its own, by which it is known again on either side.
    train, held_out = data.train_test(test)
    sides = [set(part.betas[:, 0, 0].tolist()) for part in (train, held_out)]
    assert len(sides[1]) == 2
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(data.betas[:, 0, 0].tolist())
    for part in (train, held_out):
        rows = [data.betas[:, 0, 0].tolist().index(beta) for beta in part.betas[:, 0, 0]]
        check_images_are(part, data, rows)
    if not np.isscalar(test):
        assert sides[1] == set(data.betas[[1, 6], 0, 0].tolist())


def test_train_test_is_repeatable_and_random(data):
    def drawn(seed):
        return data.train_test(0.5, random_state=seed)[1].betas[:, 0, 0].tolist()

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize("test", [0.0, 1.0, 0.01, -0.5, 1.5])
def test_train_test_refuses_an_empty_side(data, test):
    with pytest.raises(ValueError, match=f"test={test} of 8 images.*between 0 and 1"):
        data.train_test(test)


@pytest.mark.parametrize("test", [2, np.int64(2), True])
def test_train_test_refuses_a_number_that_could_mean_two_things(data, test):
    with pytest.raises(ValueError, match=r"must be a share such as 0\.2, a mask"):
        data.train_test(test)
    assert data.train_test([2])[1].n_images == 1


def test_train_test_refuses_to_test_on_everything(data):
    with pytest.raises(ValueError, match="none to train on"):
        data.train_test(np.ones(8, dtype=bool))


class Truth:
    """Stands for what a simulator knows: follows the selection."""

    def __init__(self, selected=()):
        self.selected = selected

    def select(self, **arguments):
        return Truth((*self.selected, arguments))


def test_truth_follows_selections(data):
    data = EncodingData(data.images, data.betas, data.voxels, truth=Truth())
    (images, voxels) = data.select(images=[3, 1], roi="V2v").truth.selected
    np.testing.assert_array_equal(images["images"], [3, 1])
    np.testing.assert_array_equal(voxels["voxels"], [1])
    assert data.select().truth is data.truth


# ------------------------------------------------------------------ ROIs


@pytest.mark.parametrize("dtype", [object, "str", "string", "category"])
@pytest.mark.parametrize("missing", [None, np.nan, ""])
def test_rois_of_every_text_dtype(images, betas, dtype, missing):
    labels = pd.Series(["V2", "V1", missing, "V2", "V1"]).astype(dtype)
    data = EncodingData(images, betas, pd.DataFrame({"prf": labels, "ncsnr": 0.5}))
    assert data.atlases == ["prf"]
    rois = data.rois()
    assert list(rois) == ["V2", "V1"]
    np.testing.assert_array_equal(rois["V2"], [0, 3])
    np.testing.assert_array_equal(rois["V1"], [1, 4])


def test_numbers_and_places_are_no_atlas(images, betas, voxels):
    voxels["n_sessions"], voxels["r2"] = [4, 4, 3, 4, 4], np.linspace(0, 1, 5)
    data = EncodingData(images, betas, voxels)
    assert data.atlases == ["prf", "floc"]
    assert EncodingData(images, betas).rois() == {}


def test_repr_says_what_a_user_asks_first(data):
    assert repr(data) == (
        "EncodingData('subj01': 8 images (6, 4, 3), 20 trials, up to 3 repeats, 5 voxels; "
        "prf: 3 ROIs, floc: 1 ROIs)"
    )


# ------------------------------------------------------------------ making it


def test_trials_are_found_in_the_betas(images, betas):
    betas[0, 0, 0] = np.nan  # one voxel of a trial is not the trial
    trials = EncodingData(images, betas).trials
    expected = [(i, r) for i in range(8) for r in range(3) if not np.isnan(betas[i, r]).all()]
    assert list(trials.itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((7, 4, 4), np.uint8)}, ValueError, r"betas \(8, 3, 5\).*7 images"),
        ({"images": np.zeros((8, 4, 4))}, TypeError, "images must be uint8"),
        ({"betas": np.full((8, 2), np.nan)}, ValueError, "nothing but NaN"),
        ({"betas": np.full((8, 2), np.inf)}, ValueError, "infinite"),
        ({"betas": np.full((8, 2), "a")}, TypeError, "betas must be numeric"),
        ({"voxels": pd.DataFrame(index=range(4))}, ValueError, r"voxels has 4 rows.*5 voxels"),
        ({"trials": {"image": [0]}}, ValueError, "needs 'repeat'"),
        ({"trials": {"image": [8], "repeat": [0]}}, ValueError, r"trials\['image'\].*0 … 7"),
        ({"trials": {"image": [0], "repeat": [-1]}}, ValueError, r"trials\['repeat'\].*0 … 2"),
        ({"trials": {"image": [0.5], "repeat": [0]}}, TypeError, r"trials\['image'\].*float64"),
        ({"trials": {"image": [0, 0], "repeat": [1, 1]}}, ValueError, "repeat twice"),
        (
            {"trials": {"image": [0, 0, 0], "repeat": [0, 1, 2]}},
            ValueError,
            "data for 17 trials that trials does not list, the first being repeat 0 of image 1",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(images, betas, change, error, message):
    if "trials" in change:
        change = {"trials": pd.DataFrame(change["trials"])}
    with pytest.raises(error, match=message):
        EncodingData(**{"images": images, "betas": betas, **change})


def test_it_is_compared_and_hashed_by_identity(data, images, betas):
    assert data == data
    assert data != EncodingData(images, betas)
    assert len({data, data}) == 1


def test_it_is_frozen(data):
    with pytest.raises(AttributeError):
        data.name = "other"


def test_checked_parts_are_neither_read_nor_copied(data):
    """A copy with another name keeps the very arrays; with `checked` a wrong part goes through."""
    renamed = dataclasses.replace(data, name="other", checked=True)
    assert renamed.name == "other"
    for part in ("images", "betas", "voxels", "trials"):
        assert getattr(renamed, part) is getattr(data, part)
    with pytest.raises(ValueError, match="voxels has 4 rows"):
        dataclasses.replace(renamed, voxels=data.voxels[:4])
    assert len(dataclasses.replace(data, voxels=data.voxels[:4], checked=True).voxels) == 4


def test_the_callers_tables_are_not_touched(images, betas, voxels):
    voxels.index = list("abcde")
    data = EncodingData(images, betas, voxels)
    assert data.voxels.index.tolist() == [0, 1, 2, 3, 4]
    assert voxels.index.tolist() == list("abcde")


def test_it_goes_to_worker_processes(data, tmp_path):
    for i, image in enumerate(data.images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    on_disk = EncodingData(ImageFiles.from_folder(tmp_path), data.betas, data.voxels, data.trials)
    copy = pickle.loads(pickle.dumps(on_disk.select(images=[3, 1])))
    check_images_are(copy, data, [3, 1])
    pd.testing.assert_frame_equal(copy.voxels, data.voxels)


def test_parts_of_memory_mapped_betas_are_not_walked_again(data, tmp_path, monkeypatch):
    data.save(tmp_path / "subj01.brain")
    loaded = EncodingData.load(tmp_path / "subj01.brain")

    def walked(*_, **__):
        raise AssertionError("all betas were read")

    monkeypatch.setattr("brainenc.data.encoding_data.check_betas", walked)
    monkeypatch.setattr("brainenc.data.trials.trials_present", walked)
    loaded.train_test(0.25)
    loaded.select(roi="V1v")
    EncodingData.load(tmp_path / "subj01.brain")


# ------------------------------------------------------------------ .npz


@pytest.fixture
def npz(tmp_path, images, betas):
    """Write an .npz of the usual arrays with some changed; None leaves one out."""

    def write(**changes):
        arrays = {"images": images, "betas": betas, **changes}
        path = tmp_path / "mine.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


def test_load_npz_reads_all_it_knows(npz, images, betas):
    session = np.arange(24).reshape(8, 3)
    ncsnr = np.linspace(0, 1, 5)
    roi = np.array(["V1", "V1", "", "V2", "V2"])
    path = npz(roi=roi, ncsnr=ncsnr, session=session, run=session + 100, other=np.zeros(3))
    with pytest.warns(UserWarning, match=r"arrays that are not read: 'other'; the keys read are"):
        data = load_npz(path)
    assert data.name == "mine"
    assert load_npz(npz(), name="subj01").name == "subj01"
    np.testing.assert_array_equal(data.images, images)
    np.testing.assert_array_equal(data.betas, betas)
    np.testing.assert_array_equal(data.voxels["ncsnr"], ncsnr)
    assert {label: index.tolist() for label, index in data.rois().items()} == {
        "V1": [0, 1],
        "V2": [3, 4],
    }
    trials = data.trials
    np.testing.assert_array_equal(trials["session"], session[trials["image"], trials["repeat"]])
    np.testing.assert_array_equal(trials["run"], trials["session"] + 100)


@pytest.mark.parametrize(
    "roi", [np.array([1, 1, 2, 2, 2]), np.array([b"1", b"1", b"2", b"2", b"2"])]
)
def test_load_npz_takes_numbers_and_bytes_as_labels(npz, roi):
    assert list(load_npz(npz(roi=roi)).rois()) == ["1", "2"]


def test_load_npz_takes_averaged_betas(npz, betas):
    data = load_npz(npz(betas=betas[:, 0]))
    np.testing.assert_array_equal(data.betas[:, 0], betas[:, 0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"betas": None}, ValueError, r"mine\.npz holds \['images'\], but betas is missing"),
        ({"images": None, "betas": None, "x": 1}, ValueError, "images and betas is missing"),
        ({"betas": np.zeros((7, 2))}, ValueError, "8 images"),
        ({"images": np.zeros((8, 4, 4))}, TypeError, "uint8"),
        ({"roi": np.array(["V1"])}, ValueError, r"roi has shape \(1,\).*\(5,\)"),
        ({"session": np.zeros(8)}, ValueError, r"session has shape \(8,\).*\(8, 3\)"),
        (
            {"betas": np.array([None] * 8)},
            ValueError,
            "betas.npy: it holds Python objects.*save numbers",
        ),
    ],
)
def test_load_npz_refuses_arrays_that_do_not_fit(npz, changes, error, message):
    with pytest.raises(error, match=message):
        load_npz(npz(**changes))


def test_load_npz_takes_no_text_for_images(tmp_path, betas):
    np.savez(tmp_path / "s.npz", images=np.array(["a.png", "b.png"]), betas=betas)
    with pytest.raises(TypeError, match=r"images in .*s\.npz is text, but must be uint8"):
        load_npz(tmp_path / "s.npz")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_npz_is_named(npz, share):
    path = npz()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"mine\.npz cannot be read as an \.npz file"):
        load_npz(path)


def test_damage_within_a_compressed_npz_is_named(tmp_path, images, betas):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, images=images, betas=betas)
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.npz cannot be read as an \.npz file"):
        load_npz(path)


@pytest.mark.parametrize("kind", ["npy", "text"])
def test_what_is_no_npz_is_named(tmp_path, kind):
    if kind == "npy":
        np.save(tmp_path / "mine.npy", np.ones(3))
        (tmp_path / "mine.npy").rename(tmp_path / "mine.npz")
    else:
        (tmp_path / "mine.npz").write_text("images")
    with pytest.raises(ValueError, match=r"mine\.npz is neither a \.brain folder nor an \.npz"):
        load_npz(tmp_path / "mine.npz")


def test_load_data_takes_either_and_names_what_is_missing(data, npz, tmp_path):
    data.save(tmp_path / "subj01.brain")
    assert load_data(tmp_path / "subj01.brain").name == "subj01"
    assert load_data(str(npz())).name == "mine"
    with pytest.raises(FileNotFoundError, match=r"nowhere\.brain is missing"):
        load_data(tmp_path / "nowhere.brain")


# ------------------------------------------------------------------ real data


def test_miyawaki_2008(real_data):
    data = load_npz(real_data("miyawaki2008_s1_v1.npz"))
    assert (data.n_images, data.n_repeats, data.n_voxels) == (20, 8, 967)
    assert data.trials.groupby("image").size().agg(["min", "max"]).tolist() == [4, 8]
    assert list(data.rois()) == ["V1"]
    assert data.trials["run"].notna().all()
    # "Voxels were z-scored over all trials beforehand".
    trials = data.betas[data.trials["image"], data.trials["repeat"]]
    np.testing.assert_allclose(trials.mean(axis=0), 0, atol=1e-4)


def test_cowley_2023(real_data):
    data = load_npz(real_data("cowley2023_v4_210325.npz"))
    assert (data.n_images, data.n_repeats, data.n_voxels) == (640, 10, 50)
    assert data.trials.groupby("image").size().agg(["min", "max"]).tolist() == [6, 10]
    average = data.average_repeats()
    np.testing.assert_allclose(
        average.betas[:, 0], np.nanmean(data.betas.astype(float), axis=1), rtol=1e-5, atol=1e-6
    )
    assert average.voxels["ncsnr"].between(0.1, 10).mean() > 0.9


def test_kriegeskorte_2008_has_no_betas(real_data):
    with pytest.raises(ValueError, match=r"kriegeskorte2008_92\.npz.*hIT_rdms.*betas is missing"):
        load_npz(real_data("kriegeskorte2008_92.npz"))


# ------------------------------------------------------------------ imports


def test_data_can_be_read_without_torch_or_scikit_learn(npz):
    code = (
        "import sys, brainenc; brainenc.load_npz(sys.argv[1]).select(images=[0, 1]); "
        "print({'torch', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, npz()], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_package_gives_the_public_names():
    assert brainenc.EncodingData is EncodingData
    assert brainenc.load_npz is load_npz
