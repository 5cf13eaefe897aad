"""Contrast-normalised Gabor energy on a coarse grid: what the simulated early areas respond to.

Kept apart from `brainenc.features` on purpose: an encoder whose features were the ones that made
the data would look better than it is.
"""

from collections.abc import Iterator

import numpy as np
from scipy import fft

from brainenc.arrays import blocks
from brainenc.datasets.simulated.scenes import FIELD
from brainenc.progress import progress

#: The energy is sampled on GRID × GRID cells that cover the image.
GRID = 16

#: Preferred spatial frequencies, cycles per image, and orientations of the stripes' normal.
FREQUENCIES = (2.0, 4.0, 8.0, 16.0)
ORIENTATIONS = tuple(np.pi * np.arange(6) / 6)

#: Orientation-selective channels come first, then red, green, blue and yellow.
N_CHANNELS = len(FREQUENCIES) * len(ORIENTATIONS) + 4

_BANDWIDTH = 0.4  # s.d. of the filter in frequency, relative to its centre: about 1.4 octaves
_SEMISATURATION = 0.005  # added to the summed energy, (fraction of full contrast)²
_SAMPLES = 2 * GRID  # energy is computed at twice the grid's density and averaged
_WINDOW = 3 * GRID  # samples across the padded image, which is half as wide again


def gabor_energy(images: np.ndarray, *, block: int = 64, verbose: bool = False) -> np.ndarray:
    """Energy of quadrature Gabor pairs after divisive normalisation, and opponent colour.

    The energy of each channel is divided by the energy of all channels in a neighbourhood
    (Heeger, 1992). The image is surrounded by mid-grey, as on a display.

    Parameters
    ----------
    images : array, shape (n_images, size, size, 3), uint8
        `size` is a multiple of `GRID`.
    block : int
        Images computed at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    array, shape (n_images, N_CHANNELS, GRID, GRID), float32, >= 0
    """
    energy = np.empty((len(images), N_CHANNELS, GRID, GRID), np.float32)
    parts = list(blocks(len(images), block))
    for rows in progress(parts, desc="Gabor energy", unit="block", verbose=verbose):
        pixels = np.asarray(images[rows], np.float32) / 255
        out = energy[rows]
        out[:, :-4] = _normalised(_oriented_energy(pixels.mean(axis=-1) - 0.5))
        out[:, -4:] = _opponent_colour(pixels)
    return energy


def cell_centres() -> tuple[np.ndarray, np.ndarray]:
    """Degrees right and up of fixation of the cells' centres; two arrays of shape (GRID, GRID)."""
    right = ((np.arange(GRID) + 0.5) / GRID - 0.5) * FIELD
    x, y = np.meshgrid(right, -right)
    return x, y


def _oriented_energy(grey: np.ndarray) -> np.ndarray:
    """Squared envelope of the analytic Gabor response, averaged in every cell."""
    n, size = len(grey), grey.shape[1]
    padded = size * _WINDOW // _SAMPLES
    spectrum = fft.fft2(grey, s=(padded, padded))  # zero is mid-grey
    energy = np.empty((n, N_CHANNELS - 4, GRID, GRID), np.float32)
    for c, (rows, columns, gain) in enumerate(_filters(padded)):
        # Only the pass band is transformed back, moved to zero frequency: that leaves the
        # envelope as it is, and gives it at the few positions that are wanted.
        band = spectrum[:, rows[:, None], columns] * gain
        envelope = fft.ifft2(band)[:, :_SAMPLES, :_SAMPLES] * (_WINDOW / padded) ** 2
        squared = envelope.real**2 + envelope.imag**2
        energy[:, c] = squared.reshape(n, GRID, 2, GRID, 2).mean(axis=(2, 4))
    return energy


def _filters(padded: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows and columns of the spectrum each channel passes, and its gain there."""
    offset = np.fft.fftfreq(_WINDOW, 1 / _WINDOW).astype(int)
    for cycles in FREQUENCIES:
        frequency = cycles * _WINDOW / _SAMPLES  # cycles per padded image
        for angle in ORIENTATIONS:
            row, column = frequency * np.sin(angle), frequency * np.cos(angle)
            rows, columns = round(row) + offset, round(column) + offset
            squared_distance = (rows[:, None] - row) ** 2 + (columns - column) ** 2
            gain = np.exp(-squared_distance / (2 * (_BANDWIDTH * frequency) ** 2))
            yield rows % padded, columns % padded, gain.astype(np.float32)


def _normalised(energy: np.ndarray) -> np.ndarray:
    return energy / (_SEMISATURATION + _neighbourhood(energy.sum(axis=1, keepdims=True)))


def _neighbourhood(maps: np.ndarray) -> np.ndarray:
    """Mean over 3 × 3 cells; beyond the border lies grey without energy."""
    for axis in (-2, -1):
        pad = [(0, 0)] * maps.ndim
        pad[axis] = (1, 1)
        padded = np.moveaxis(np.pad(maps, pad), axis, 0)
        maps = np.moveaxis((padded[:-2] + padded[1:-1] + padded[2:]) / 3, 0, axis)
    return maps


def _opponent_colour(pixels: np.ndarray) -> np.ndarray:
    """Red, green, blue and yellow: half-wave rectified colour contrast, averaged in every cell."""
    n, size = len(pixels), pixels.shape[1]
    cell = size // GRID
    colour = pixels.reshape(n, GRID, cell, GRID, cell, 3).mean(axis=(2, 4))
    red, green, blue = np.moveaxis(colour, -1, 0)
    brightness = 0.1 + colour.mean(axis=-1)
    opponent = np.stack([red - green, blue - (red + green) / 2], axis=1) / brightness[:, None]
    both = np.stack([np.maximum(opponent, 0), np.maximum(-opponent, 0)], axis=2)
    return both.reshape(n, 4, GRID, GRID)
