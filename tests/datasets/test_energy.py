import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from brainenc.datasets.simulated.energy import (
    FREQUENCIES,
    GRID,
    ORIENTATIONS,
    _normalised,
    _oriented_energy,
    cell_centres,
    gabor_energy,
)
from brainenc.datasets.simulated.scenes import FIELD


def grating(cycles, angle, phase=0.0, size=64, amplitude=0.3):
    y, x = np.mgrid[:size, :size] / size
    wave = np.sin(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return np.repeat(np.round(255 * (0.5 + amplitude * wave))[..., None], 3, axis=2).astype(
        np.uint8
    )


def oriented(energy):
    shape = (len(energy), len(FREQUENCIES), len(ORIENTATIONS), GRID, GRID)
    return energy[:, :-4].reshape(shape)


@pytest.mark.parametrize("f", range(4))
@pytest.mark.parametrize("o", [0, 1, 4])
def test_a_grating_drives_its_own_channel_most(f, o):
    energy = oriented(gabor_energy(grating(FREQUENCIES[f], ORIENTATIONS[o])[None]))
    middle = energy[0, :, :, 6:10, 6:10].mean(axis=(2, 3))
    assert np.unravel_index(middle.argmax(), middle.shape) == (f, o)


def test_energy_matches_direct_convolution_with_a_quadrature_pair():
    """Slow oracle: sum image × complex Gabor at each sample, in space."""
    rng = np.random.default_rng(0)
    size, f, o = 48, 1, 1
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    frequency, angle = FREQUENCIES[f] / size, ORIENTATIONS[o]
    sd = 1 / (2 * np.pi * 0.4 * frequency)
    grey = image.mean(axis=2) / 255 - 0.5
    y, x = np.mgrid[:size, :size]
    samples = np.arange(2 * GRID) * size / (2 * GRID)
    squared = np.empty((2 * GRID, 2 * GRID))
    for a, row in enumerate(samples):
        for b, column in enumerate(samples):
            envelope = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sd**2))
            phase = 2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle))
            gabor = envelope * np.exp(-1j * phase) / (2 * np.pi * sd**2)
            squared[a, b] = np.abs((grey * gabor).sum()) ** 2
    expected = squared.reshape(GRID, 2, GRID, 2).mean(axis=(1, 3))
    energy = _oriented_energy(grey[None].astype(np.float32))
    energy = energy.reshape(len(FREQUENCIES), len(ORIENTATIONS), GRID, GRID)[f, o]
    # The fast form is periodic in the padded image and cuts the pass band: 1 % of the largest.
    np.testing.assert_allclose(energy, expected, atol=0.01 * expected.max())


def test_normalisation_divides_by_the_energy_of_the_neighbourhood():
    energy = np.random.default_rng(0).random((2, 24, GRID, GRID))
    blurred = uniform_filter(energy.sum(axis=1), size=(0, 3, 3), mode="constant")
    np.testing.assert_allclose(_normalised(energy), energy / (0.005 + blurred[:, None]))


def test_energy_does_not_depend_on_phase_and_saturates_with_contrast():
    phases = np.stack([grating(8, 0, phase) for phase in (0, 0.7, 2.0)])
    middle = oriented(gabor_energy(phases))[:, 2, 0, 5:11, 5:11].mean(axis=(1, 2))
    # The pair is in quadrature but for the filter's gain at the negative frequency, below 1e-5.
    np.testing.assert_allclose(middle, middle[0], rtol=0.01)
    low, high = (
        oriented(gabor_energy(grating(8, 0, amplitude=a)[None]))[0, 2, 0, 8, 8] for a in (0.2, 0.4)
    )
    # Energy grows fourfold; normalisation leaves less than half of that.
    assert low < high < 2 * low


def test_colour_channels_tell_red_green_blue_and_yellow_apart():
    patches = np.zeros((4, 48, 48, 3), np.uint8)
    for i, colour in enumerate([(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 40)]):
        patches[i] = colour
    colour = gabor_energy(patches)[:, -4:].mean(axis=(2, 3))
    np.testing.assert_array_equal(colour.argmax(axis=1), [0, 1, 2, 3])
    assert gabor_energy(np.full((1, 48, 48, 3), 90, np.uint8))[:, -4:].max() == 0


def test_cells_are_where_cell_centres_says():
    x, y = cell_centres()
    assert x[0, 0] == pytest.approx(-FIELD / 2 + FIELD / GRID / 2)
    assert y[0, 0] == pytest.approx(FIELD / 2 - FIELD / GRID / 2)  # row 0 is the top
    image = np.full((1, 64, 64, 3), 128, np.uint8)
    image[0, 4:8, 48:52] = 255  # row 1, column 12 of 16
    energy = oriented(gabor_energy(image))[0, 3].sum(axis=0)
    row, column = np.unravel_index(energy.argmax(), energy.shape)
    assert abs(x[row, column] - 2.36) < 0.53  # pixel 50 of 64; one cell is 0.525°
    assert abs(y[row, column] - 3.41) < 0.53  # pixel 6 of 64
