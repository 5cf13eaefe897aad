"""Algonauts 2023: folders with known responses, and the score by the formula of its paper."""

import pickle

import numpy as np
import pytest
from algonauts_tree import (
    ATLASES,
    N_VERTICES,
    NSD_IDS,
    VERTICES,
    pixels,
    responses,
    roi_numbers,
    write_algonauts_tree,
)
from scipy.stats import pearsonr

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets import (
    algonauts2023_score,
    algonauts2023_test_images,
    load_algonauts2023,
    write_algonauts2023_submission,
)
from brainenc.metrics import NoiseCeiling


@pytest.fixture
def root(tmp_path):
    write_algonauts_tree(tmp_path, subject=3)
    return tmp_path


@pytest.fixture
def data(root):
    return load_algonauts2023(root, 3)


def test_images_and_responses_belong_together(data):
    assert data.betas.shape == (12, 1, 16)
    assert data.betas.dtype == np.float32
    for image in (0, 3, 11):
        np.testing.assert_array_equal(data.images[image], pixels(image))
    # On the left the sign is +, the whole part is the image's number, hundredths the vertex.
    left = (data.voxels["hemisphere"] == "lh").to_numpy()
    np.testing.assert_array_equal(data.betas[:, 0, left], responses("lh"))
    np.testing.assert_array_equal(data.betas[:, 0, ~left], responses("rh"))
    np.testing.assert_array_equal(data.trials["nsd_id"], NSD_IDS)


def test_vertices_and_rois_are_those_of_their_hemisphere(data):
    assert data.atlases == list(ATLASES)
    for side, here in data.voxels.groupby("hemisphere"):
        np.testing.assert_array_equal(here["vertex"], VERTICES[side])
        for atlas, mapping in ATLASES.items():
            labels = [mapping[n] if n else "" for n in roi_numbers(side, atlas)]
            assert here[atlas].tolist() == labels
    surface = data.to_surface(data.betas[4, 0])
    values = surface["rh"].darrays[0].data
    assert values[90_000] == responses("rh")[4, 7]


def test_images_are_ordered_by_number_whatever_the_listing(root):
    folder = root / "subj03/training_split/training_images"
    for path in folder.iterdir():  # names no longer sort as numbers do
        number, nsd = path.stem.split("_")
        path.rename(folder / f"train-{int(number.split('-')[1])}_{nsd}.png")
    data = load_algonauts2023(root, 3)
    np.testing.assert_array_equal(data.images[10], pixels(10))
    np.testing.assert_array_equal(data.trials["nsd_id"], NSD_IDS)
    (folder / "train-4_nsd-72999.png").unlink()
    with pytest.raises(ValueError, match="numbered 1 … n without a gap"):
        load_algonauts2023(root, 3)


def test_test_images(root):
    images = algonauts2023_test_images(root, 3)
    np.testing.assert_array_equal(images, np.stack([pixels(i, test=True) for i in range(4)]))


def test_a_saved_folder_is_the_same(data, tmp_path):
    loaded = EncodingData.load(data.save(tmp_path / "subj03.brain"))
    np.testing.assert_array_equal(loaded.betas, data.betas)
    np.testing.assert_array_equal(loaded.images, data.images)
    assert loaded.units == "z-scored within session, averaged over repeats"


def test_missing_files_are_listed(root):
    folder = root / "subj03"
    (folder / "training_split/training_fmri/rh_training_fmri.npy").unlink()
    (folder / "roi_masks/lh.all-vertices_fsaverage_space.npy").unlink()
    with pytest.raises(FileNotFoundError, match="2 files") as error:
        load_algonauts2023(root, 3)
    assert "subj03/training_split/training_fmri/rh_training_fmri.npy" in str(error.value)
    assert "subj03/roi_masks/lh.all-vertices_fsaverage_space.npy" in str(error.value)
    with pytest.raises(FileNotFoundError, match="subj04/test_split/test_images"):
        algonauts2023_test_images(root, 4)
    with pytest.raises(ValueError, match="subject=9"):
        load_algonauts2023(root, 9)


def test_arrays_that_do_not_fit_are_refused(root):
    fmri = root / "subj03/training_split/training_fmri"
    np.save(fmri / "lh_training_fmri.npy", responses("lh")[:, :5])
    with pytest.raises(ValueError, match=r"masks of 16 vertices, but the responses .* are of 14"):
        load_algonauts2023(root, 3)
    for side in ("lh", "rh"):
        np.save(fmri / f"{side}_training_fmri.npy", responses(side)[:-1])
    with pytest.raises(ValueError, match="12 training images, but responses to 11"):
        load_algonauts2023(root, 3)
    np.save(fmri / "lh_training_fmri.npy", responses("lh").T)
    with pytest.raises(ValueError, match=r"lh_training_fmri\.npy .* rows must be images"):
        load_algonauts2023(root, 3)
    for side in ("lh", "rh"):
        np.save(fmri / f"{side}_training_fmri.npy", responses(side).astype(str))
    with pytest.raises(TypeError, match=r"lh_training_fmri\.npy holds <U"):
        load_algonauts2023(root, 3)


class Payload:
    def __reduce__(self):
        return eval, ("1 / 0",)


def test_a_mapping_cannot_run_code(root):
    path = root / "subj03/roi_masks/mapping_streams.npy"
    np.save(path, np.array({1: Payload()}, dtype=object), allow_pickle=True)
    with pytest.raises(ZeroDivisionError):
        np.load(path, allow_pickle=True)
    with pytest.raises(ValueError, match=r"builtins\.eval has no place"):
        load_algonauts2023(root, 3)
    np.save(path, {1: "early"})
    with pytest.raises(ValueError, match=r"no names for the labels \[5\]"):
        load_algonauts2023(root, 3)
    # Written by NumPy 1, whose module was called otherwise; labels as its integers.
    mapping = {np.int64(n): label for n, label in ATLASES["streams"].items()}
    text = pickle.dumps(np.array(mapping, dtype=object), 3)
    assert b"numpy._core.multiarray" in text
    old = text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(path.read_bytes()[:128] + old)
    assert "ventral" in load_algonauts2023(root, 3).rois("streams")


# ------------------------------------------------------------------ score and submission


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((60, 8))
    predictions = betas + rng.standard_normal((60, 8)) * np.linspace(0.2, 3, 8)
    predictions[:, 1] *= -1
    ceiling = np.array([0.3, 0.5, 0.4, 0.2, 0.9, 0.0, np.nan, 0.6])
    return predictions, betas, ceiling


def test_score_is_the_challenges(scored):
    predictions, betas, ceiling = scored
    score = algonauts2023_score(predictions, betas, ceiling)
    expected = np.full(8, np.nan)
    for v in (0, 1, 2, 3, 4, 7):
        r = pearsonr(predictions[:, v], betas[:, v]).statistic
        expected[v] = 100 * max(r, 0) ** 2 / ceiling[v]
    np.testing.assert_allclose(score.vertices, expected, rtol=1e-9)  # both in double precision
    assert expected[1] == 0
    assert expected[0] > 100  # not clipped
    assert score.median == pytest.approx(np.median(expected[[0, 1, 2, 3, 4, 7]]))
    assert score.mean == pytest.approx(np.mean(expected[[0, 1, 2, 3, 4, 7]]))
    assert (score.n_masked, score.n_undefined) == (2, 0)
    clipped = algonauts2023_score(predictions, betas, ceiling, clip=True)
    np.testing.assert_allclose(clipped.vertices, np.minimum(expected, 100), rtol=1e-9)


def test_score_takes_ceilings_in_any_space_and_no_percentages_unsaid(scored):
    predictions, betas, ceiling = scored
    expected = algonauts2023_score(predictions, betas, ceiling)
    for typed in (
        NoiseCeiling(100 * ceiling, "percent", n_trials=3, estimator="given"),
        NoiseCeiling(np.sqrt(ceiling), "r", n_trials=3, estimator="given"),
    ):
        score = algonauts2023_score(predictions, betas[:, None], typed)
        np.testing.assert_allclose(score.vertices, expected.vertices)
    with pytest.raises(ValueError, match="values"):
        algonauts2023_score(predictions, betas, 100 * ceiling)


def test_constant_predictions_are_undefined_and_counted(scored):
    predictions, betas, ceiling = scored
    predictions[:, [2, 5]] = 1
    score = algonauts2023_score(predictions, betas, ceiling)
    assert np.isnan(score.vertices[2])
    assert (score.n_masked, score.n_undefined) == (2, 1)
    nothing = algonauts2023_score(predictions, betas, np.zeros(8))
    assert np.isnan([nothing.median, nothing.mean]).all()


def test_submission_goes_to_the_hemispheres(data, tmp_path):
    rng = np.random.default_rng(0)
    predictions = rng.standard_normal((4, 16))
    paths = write_algonauts2023_submission(tmp_path / "out", 3, predictions, data.voxels)
    assert [str(p.relative_to(tmp_path)) for p in paths] == [
        "out/subj03/lh_pred_test.npy",
        "out/subj03/rh_pred_test.npy",
    ]
    left, right = map(np.load, paths)
    assert left.dtype == right.dtype == np.float32
    assert (left.shape[1], right.shape[1]) == (N_VERTICES["lh"], N_VERTICES["rh"])
    np.testing.assert_array_equal(left, predictions[:, :7].astype(np.float32))
    np.testing.assert_array_equal(right, predictions[:, 7:].astype(np.float32))
    # By the table and not by position.
    mixed = rng.permutation(16)
    table = data.voxels.iloc[mixed]
    (path, _) = write_algonauts2023_submission(tmp_path / "m", 3, predictions[:, mixed], table)
    np.testing.assert_array_equal(np.sort(np.load(path)), np.sort(left))


def test_bad_submissions_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="one column per row of voxels"):
        write_algonauts2023_submission(tmp_path, 3, np.zeros((4, 15)), data.voxels)
    with pytest.raises(ValueError, match="not finite"):
        write_algonauts2023_submission(tmp_path, 3, np.full((4, 16), np.nan), data.voxels)
    no_side = data.voxels.drop(columns="hemisphere")
    with pytest.raises(ValueError, match="column 'hemisphere'"):
        write_algonauts2023_submission(tmp_path, 3, np.zeros((4, 16)), no_side)


def test_a_table_of_labels_takes_no_memory_for_places_that_it_does_not_have(root):
    path = root / "subj03/roi_masks/mapping_streams.npy"
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    # LONG_BINPUT: memory would be taken for four billion places.
    pickled = b"\x80\x03}r" + (2**32 - 1).to_bytes(4, "little") + b"."
    path.write_bytes(b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + pickled)
    with pytest.raises(ValueError, match=r"mapping_streams\.npy is no saved dict .*damaged"):
        load_algonauts2023(root, 3)


def test_labels_that_are_no_numbers_are_named(root):
    path = root / "subj03/roi_masks/lh.streams_challenge_space.npy"
    np.save(path, np.load(path).astype("S4"))
    with pytest.raises(ValueError, match=r"lh\.streams_challenge_space\.npy holds \|S4"):
        load_algonauts2023(root, 3)
