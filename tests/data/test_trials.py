import numpy as np
import pandas as pd
import pytest
from scipy import stats

from brainenc.data.splits import held_out_images
from brainenc.data.trials import (
    averaged_trials,
    group_by_image,
    trials_of_images,
    trials_present,
    zscore_by_session,
)
from brainenc.data.voxels import in_rois, roi_positions


def test_grouped_betas_are_found_again_by_the_trial_table():
    rng = np.random.default_rng(0)
    ids = rng.choice([1, 4, 6], size=17, p=[0.2, 0.3, 0.5])
    betas = rng.standard_normal((17, 3))
    grouped, shown, trials = group_by_image(betas, ids, n_images=7, run=np.arange(17) // 5)
    np.testing.assert_array_equal(shown, [1, 4, 6])
    np.testing.assert_array_equal(
        grouped[trials["image"], trials["repeat"]], betas[trials["trial"]]
    )
    np.testing.assert_array_equal(shown[trials["image"]], ids[trials["trial"]])
    np.testing.assert_array_equal(trials["run"], trials["trial"] // 5)
    # Nothing else is in it, and what is in it is listed.
    found = trials_present(grouped)
    pd.testing.assert_frame_equal(found, trials[["image", "repeat"]].reset_index(drop=True))
    assert len(found) == 17


def test_zscores_means_and_sds_belong_together():
    """Inverse: mean + sd · z gives the betas back; scipy gives the same z."""
    rng = np.random.default_rng(0)
    betas = rng.normal(100, 5, (10, 2, 3))
    betas[0, :, 1] = np.nan
    trials = trials_present(betas).assign(session=lambda table: table["image"] % 2)
    zscored, mean, sd = zscore_by_session(betas, trials)
    assert mean.shape == sd.shape == (2, 3)
    for session in (0, 1):
        here = trials[trials["session"] == session]
        where = (here["image"], here["repeat"])
        np.testing.assert_allclose(mean[session] + sd[session] * zscored[where], betas[where])
        expected = stats.zscore(betas[where], axis=0, nan_policy="omit")
        np.testing.assert_allclose(zscored[where], expected, atol=1e-12)


def test_a_constant_voxel_has_a_mean_and_no_sd():
    betas = np.random.default_rng(0).standard_normal((6, 1, 3))
    betas[:, :, 0], betas[:, :, 1] = 0.1, np.nan
    trials = pd.DataFrame({"image": range(6), "repeat": 0, "session": 1})
    zscored, mean, sd = zscore_by_session(betas, trials)
    assert mean[0, 0] == pytest.approx(0.1)
    np.testing.assert_array_equal(
        np.isnan([*mean, *sd]), [[False, True, False], [True, True, False]]
    )
    np.testing.assert_array_equal(np.isnan(zscored).all(axis=(0, 1)), [True, True, False])


def test_averages_are_listed_where_there_are_trials():
    trials = averaged_trials(np.array([[3, 2], [0, 0], [0, 1]]))
    assert trials.to_dict("list") == {"image": [0, 2], "repeat": [0, 0]}


def test_trials_of_images_take_their_new_rows():
    trials = pd.DataFrame({"image": [0, 0, 1, 3], "repeat": [0, 1, 0, 0], "run": [5, 6, 7, 8]})
    kept = trials_of_images(trials, np.array([3, 0]), n_images=4)
    assert kept.to_dict("list") == {"image": [0, 1, 1], "repeat": [0, 0, 1], "run": [8, 5, 6]}


def test_voxels_in_several_rois_are_the_union():
    voxels = pd.DataFrame({"prf": ["V1", "V2", "V1", None], "ncsnr": 0.5, "floc": list("abba")})
    assert {label: list(at) for label, at in roi_positions(voxels).items()} == {
        "V1": [0, 2],
        "V2": [1],
    }
    assert in_rois(voxels, ["V1", "V2"]).tolist() == [True, True, True, False]
    assert in_rois(voxels, "b", "floc").tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match=r"no ROI \['V9'\] here; there are \['V1', 'V2'\]"):
        in_rois(voxels, ["V1", "V9"])


@pytest.mark.parametrize(("test", "n_test"), [(0.25, 10), ([1, 5], 2), (np.arange(40) < 3, 3)])
def test_held_out_images_are_as_many_as_asked_for(test, n_test):
    mask = held_out_images(test, 40, random_state=3)
    assert mask.dtype == bool
    assert mask.sum() == n_test
    np.testing.assert_array_equal(mask, held_out_images(test, 40, random_state=3))
