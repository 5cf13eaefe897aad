"""Correlation of pairs of small pictures at their best shift, size and rotation."""

import numpy as np

from brainenc.arrays import blocks
from brainenc.data.small_pictures import blur_matrix

#: Relative sizes of the second picture that are tried first; a crop of 80 % is magnified by 1.25.
SIZES = (1.0, 0.9, 0.8)

#: Largest shift as a share of the width, log relative size, and rotation in radians (7°).
MAX_SHIFT, MAX_LOG_SIZE, MAX_ANGLE = 0.2, 0.26, 0.12

#: Correlation of blurred pictures over shifts and sizes below which a pair is not followed up: .6
#: is exceeded by 98 % of copies that are turned by 5°, and by 1 % of pairs of other photographs.
MIN_COARSE = 0.5

#: Smallest share of the first picture that the second must cover.
MIN_OVERLAP = 0.5

#: Steps of the search with half and with all of the resolution.
N_STEPS = (8, 4)

#: Pairs registered at once; their arrays fit the processor's cache.
N_AT_ONCE = 128

#: Blur in small pixels before the first search, and before the final correlation: shifts by parts
#: of a pixel blur a picture by about the latter.
COARSE_BLUR, FINE_BLUR = 1.4, 0.5


def register(
    maps: np.ndarray, a: np.ndarray, b: np.ndarray, mirrored: np.ndarray, aspect: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Largest correlation of picture `a` with the shifted, resized and rotated picture `b`.

    Parameters
    ----------
    maps : array of float32, shape (n_pictures, SIDE, SIDE)
        Detail of the pictures.
    a, b : array of int, shape (n_pairs,)
    mirrored : array of bool, shape (n_pairs,)
        Compare with the mirror image of `b`.
    aspect : float
        Height / width of the pictures before they were made square.

    Returns
    -------
    r : array of float64, shape (n_pairs,)
        −1 where pictures do not overlap enough.
    transform : array of float64, shape (n_pairs, 4)
        Shift along x and y as shares of width and height, log of relative size, and angle in
        radians, of the point of `b` that is compared with a point of `a`.
    """
    r, transform = np.full(len(a), -1.0), np.zeros((len(a), 4))
    for rows in blocks(len(a), N_AT_ONCE):
        second = maps[b[rows]]
        second = np.where(mirrored[rows, None, None], second[:, :, ::-1], second)
        r[rows], transform[rows] = _register(maps[a[rows]], second, aspect)
    return r, transform


def _register(a: np.ndarray, b: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    small_a, small_b = _halved(a), _halved(b)
    r, transform = _best_shift_and_size(small_a, small_b)
    close = np.flatnonzero(r > MIN_COARSE)
    if len(close):
        fine = blur_matrix(FINE_BLUR)
        small = _refine(small_a[close], small_b[close], transform[close], aspect, N_STEPS[0])[1]
        r[close], transform[close] = _refine(
            fine @ a[close] @ fine.T, fine @ b[close] @ fine.T, small, aspect, N_STEPS[1]
        )
    return r, transform


def _halved(maps: np.ndarray) -> np.ndarray:
    """Blurred, with half of the resolution."""
    weights = blur_matrix(COARSE_BLUR)
    weights = (weights[::2] + weights[1::2]) / 2
    return weights @ maps @ weights.T


def _best_shift_and_size(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest correlation over whole shifts and some sizes, and its transform."""
    n, size = a.shape[:2]
    reach = int(MAX_SHIFT * size)
    shifts = np.arange(-reach, reach + 1)
    overlap = 1 - np.abs(shifts) / size
    best, transform = np.full(n, -1.0), np.zeros((n, 4))
    magnified = [(relative, 1.0) for relative in SIZES[1:]]  # a or b
    for of_a, of_b in [(1.0, 1.0), *magnified, *(pair[::-1] for pair in magnified)]:
        first, second = _magnified(a, of_a), _magnified(b, of_b)
        r = _correlations(first, second, reach) / np.outer(overlap, overlap)
        flat = r.reshape(n, -1)
        where = flat.argmax(axis=1)
        r_here = flat[np.arange(n), where]
        y, x = shifts[where // len(shifts)], shifts[where % len(shifts)]
        # Point of_a * p of a is compared with point of_b * (p + shift) of b.
        log_size = np.full(n, np.log(of_b / of_a))
        here = np.stack([of_b * x / size, of_b * y / size, log_size, np.zeros(n)], axis=1)
        better = r_here > best
        best[better], transform[better] = r_here[better], here[better]
    return best, transform


def _magnified(maps: np.ndarray, relative: float) -> np.ndarray:
    """The middle of the pictures, of `relative` times their size, in as many pixels."""
    if relative == 1:
        return maps
    size = maps.shape[1]
    centre = (size - 1) / 2
    position = centre + (np.arange(size) - centre) * relative
    low = np.minimum(position.astype(int), size - 2)
    weights = np.zeros((size, size), np.float32)
    weights[np.arange(size), low] = 1 - (position - low)
    weights[np.arange(size), low + 1] += position - low
    return weights @ maps @ weights.T


def _correlations(a: np.ndarray, b: np.ndarray, reach: int) -> np.ndarray:
    """Mean products at shifts of −reach … reach pixels, over root mean squares of all pixels."""
    padded = (a.shape[1] + reach,) * 2
    from scipy import fft

    spectrum = np.conj(fft.rfft2(a, padded)) * fft.rfft2(b, padded)
    shifts = np.arange(-reach, reach + 1)
    products = fft.irfft2(spectrum, padded)[:, shifts][:, :, shifts]
    norm = np.sqrt(np.square(a).sum(axis=(1, 2)) * np.square(b).sum(axis=(1, 2)))
    return products / np.maximum(norm, 1e-12)[:, None, None]


def _refine(
    a: np.ndarray, b: np.ndarray, transform: np.ndarray, aspect: float, n_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Newton steps on the squared difference of contrast-normalised pictures.

    As in Lucas & Kanade (1981), Proceedings IJCAI, 674. The best transform met is kept.
    """
    n, size = a.shape[:2]
    y, x = (grid.ravel() - (size - 1) / 2 for grid in np.mgrid[:size, :size].astype(np.float32))
    slopes = np.gradient(b, axis=(2, 1))  # along x, along y
    stacked = np.stack([b, *slopes])
    flat = a.reshape(n, -1)
    now = transform * [size, size, 1, 1]
    limits = np.array([MAX_SHIFT * size, MAX_SHIFT * size, MAX_LOG_SIZE, MAX_ANGLE])
    steps = np.array([1.5, 1.5, 0.1, 0.1])
    best, kept = np.full(n, -1.0), now.copy()
    for step in range(n_steps + 1):
        relative = np.exp(now[:, 2:3])
        cosine, sine = relative * np.cos(now[:, 3:]), relative * np.sin(now[:, 3:])
        # Rotation in the pictures' own shape, in which a pixel is `aspect` times as high as wide.
        along_x = (cosine * x - sine * aspect * y).astype(np.float32)
        along_y = (cosine * y + sine / aspect * x).astype(np.float32)
        values, inside = _sample(stacked, along_x + now[:, :1], along_y + now[:, 1:2])
        r, first, second = _correlation(flat, values[0], inside)
        better = r > best
        best[better], kept[better] = r[better], now[better]
        if step == n_steps:
            break
        by_x, by_y = values[1] * inside, values[2] * inside
        jacobian = np.stack(
            [
                by_x,
                by_y,
                by_x * along_x + by_y * along_y,
                by_y * along_x / aspect - by_x * along_y * aspect,
            ],
            axis=1,
        )
        gain = np.sqrt(np.square(second).sum(axis=1) / np.square(first).sum(axis=1).clip(1e-12))
        residual = gain[:, None] * first - second
        hessian = (jacobian @ jacobian.transpose(0, 2, 1)).astype(np.float64)
        slope = (jacobian @ residual[:, :, None]).astype(np.float64)
        hessian += (0.01 * np.einsum("pii->pi", hessian)[:, :, None] + 1e-8) * np.eye(4)
        change = np.linalg.solve(hessian, slope)[:, :, 0]
        now = np.clip(now + np.clip(change, -steps, steps), -limits, limits)
    return best, kept / [size, size, 1, 1]


def _sample(maps: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (k, n, size, size) at points (n, m) from their centres, bilinear; which are inside."""
    n, size = maps.shape[1:3]
    last, middle = size - 1, np.float32((size - 1) / 2)
    x, y = x.astype(np.float32) + middle, y.astype(np.float32) + middle
    inside = (x >= 0) & (x <= last) & (y >= 0) & (y <= last)
    left, top = (np.clip(part, 0, last - 1e-3).astype(np.int32) for part in (x, y))
    x, y = np.clip(x - left, 0, 1), np.clip(y - top, 0, 1)
    flat = maps.reshape(len(maps), -1)
    corner = np.arange(n)[:, None] * size**2 + top * size + left
    above = flat[:, corner] * (1 - x) + flat[:, corner + 1] * x
    below = flat[:, corner + size] * (1 - x) + flat[:, corner + size + 1] * x
    return above * (1 - y) + below * y, inside


def _correlation(
    a: np.ndarray, b: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlation over the points inside, and both centred there and 0 elsewhere."""
    n = inside.sum(axis=1, keepdims=True).clip(1)
    a, b = (part - (part * inside).sum(axis=1, keepdims=True) / n for part in (a, b))
    a, b = a * inside, b * inside
    norm = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    r = (a * b).sum(axis=1) / np.maximum(norm, 1e-12)
    return np.where(inside.mean(axis=1) >= MIN_OVERLAP, r, -1.0), a, b
