import numpy as np
import pytest

from brainenc.repeats import (
    average_repeats,
    count_repeats,
    has_repeats,
    within_image_residuals,
)


@pytest.fixture
def betas():
    """Uneven repeats: whole trials missing, single values missing, one image without any."""
    rng = np.random.default_rng(0)
    betas = rng.normal(3, 1, (40, 4, 6)).astype(np.float32)
    betas[rng.random((40, 4)) < 0.3] = np.nan
    betas[rng.random(betas.shape) < 0.05] = np.nan
    betas[7] = np.nan
    betas[8, 1:] = np.nan
    return betas


@pytest.fixture(params=["array", "memmap", "fortran"])
def layout(request, betas, tmp_path):
    if request.param == "memmap":
        np.save(tmp_path / "betas.npy", betas)
        return np.load(tmp_path / "betas.npy", mmap_mode="r")
    return np.asfortranarray(betas) if request.param == "fortran" else betas


def test_count_repeats_counts_one_by_one(layout, betas):
    counted = [[sum(not np.isnan(b) for b in image[:, v]) for v in range(6)] for image in betas]
    np.testing.assert_array_equal(count_repeats(layout), counted)


def test_one_voxel_with_two_trials_of_an_image_is_a_repeat():
    betas = np.full((5, 3, 4), np.nan)
    betas[:, 0] = betas[1, 1] = 1
    assert has_repeats(betas)
    betas[1, 0, 1:] = betas[1, 1, 0] = np.nan  # now every voxel has one trial of image 1
    assert not has_repeats(betas)
    betas[4, 2, 3] = 1
    assert has_repeats(betas)
    assert not has_repeats(betas[:, :1])


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # NumPy's; ours is silent
def test_average_repeats_is_nanmean(layout, betas):
    average = average_repeats(layout)
    assert average.dtype == np.float32
    # Sums of at most four float32 of size 3: a few units in the last place, 2.4e-7 each.
    np.testing.assert_allclose(average, np.nanmean(betas.astype(float), axis=1), rtol=1e-6)
    assert np.isnan(average[7]).all()


def test_average_repeats_works_in_blocks_of_images():
    # 3e6 values: several blocks of 2**20.
    betas = np.random.default_rng(0).standard_normal((30, 2, 50_000))
    betas[::3, 1] = np.nan
    # Two float64 summed in either order are the same number.
    np.testing.assert_allclose(average_repeats(betas), np.nanmean(betas, axis=1), rtol=1e-15)
    np.testing.assert_array_equal(count_repeats(betas), np.isfinite(betas).sum(axis=1))


def test_average_of_one_repeat_is_it(betas):
    np.testing.assert_array_equal(average_repeats(betas[:, :1]), betas[:, 0])


def test_residuals_are_deviations_from_the_other_trials_of_the_image(layout, betas):
    residuals, degrees = within_image_residuals(layout)
    expected = np.full(betas.shape, np.nan)
    expected_degrees = np.zeros(6, dtype=int)
    for i in range(40):
        for v in range(6):
            present = np.flatnonzero(np.isfinite(betas[i, :, v]))
            if len(present) >= 2:
                trials = betas[i, present, v].astype(float)
                expected[i, present, v] = trials - trials.mean()
                expected_degrees[v] += len(present) - 1
    # Differences of float32 of size 3: absolute error of a few 2.4e-7.
    np.testing.assert_allclose(residuals, expected, atol=2e-6)
    np.testing.assert_array_equal(degrees, expected_degrees)
    assert residuals.dtype == np.float32


def test_residuals_do_not_change_the_betas(betas):
    before = betas.copy()
    within_image_residuals(betas)
    within_image_residuals(betas[:, :1])
    np.testing.assert_array_equal(betas, before)


def test_residual_variance_is_the_noise_variance():
    rng = np.random.default_rng(0)
    noise_sd = np.array([0.5, 1.0, 2.0])
    betas = rng.standard_normal((4000, 1, 3)) + noise_sd * rng.standard_normal((4000, 3, 3))
    betas[:1500, 2] = np.nan
    betas[:500, 1] = np.nan
    residuals, degrees = within_image_residuals(betas)
    variance = np.nansum(residuals**2, axis=(0, 1)) / degrees
    # s.e. of a variance is sqrt(2 / degrees) = 1.8 % of it; allow four. Dividing by the number
    # of trials would be 36 % too small.
    np.testing.assert_allclose(variance, noise_sd**2, rtol=4 * np.sqrt(2 / degrees[0]))


def test_without_repeated_images_there_are_no_residuals(betas):
    residuals, degrees = within_image_residuals(betas[:, :1])
    assert np.isnan(residuals).all()
    np.testing.assert_array_equal(degrees, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, ">i2"])
def test_repeats_of_other_numbers_are_averaged_as_float64(dtype):
    # Sums of 3 × 250 exceed uint8, and those of 3 × 30 000 exceed float16.
    top = 250 if np.dtype(dtype).itemsize == 1 else 30_000
    betas = np.random.default_rng(0).integers(0, top, (6, 3, 4)).astype(dtype)
    right = betas.astype(np.float64)
    np.testing.assert_allclose(average_repeats(betas), right.mean(axis=1), rtol=1e-12)
    residuals, _ = within_image_residuals(betas)
    np.testing.assert_allclose(residuals, right - right.mean(axis=1, keepdims=True), atol=1e-9)
    mask = np.zeros(betas.shape, bool)
    mask[2, 1] = mask[3] = True
    masked = np.ma.masked_array(betas, mask)
    np.testing.assert_array_equal(count_repeats(masked), (~mask).sum(axis=1))
    with np.errstate(invalid="ignore"):
        wanted = np.where(mask, 0, right).sum(axis=1) / (~mask).sum(axis=1)
    np.testing.assert_allclose(average_repeats(masked), wanted, rtol=1e-12)
