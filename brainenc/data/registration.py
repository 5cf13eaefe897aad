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
N_AT_ONCE = 64

#: Pairs whose correlations at all shifts are in memory at once: 10 MB.
_PAIRS_OF_SHIFTS = 4096

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
    small = _Coarse(maps)
    r, transform = small.best_shift_and_size(a, b, mirrored)
    fine = blur_matrix(FINE_BLUR)
    close = np.flatnonzero(r > MIN_COARSE)
    for some in blocks(len(close), N_AT_ONCE):
        pairs = close[some]
        flipped = mirrored[pairs]
        halves = small.maps[0][a[pairs]], _flipped(small.maps[0][b[pairs]], flipped)
        start = _refine(*halves, transform[pairs], aspect, N_STEPS[0])[1]
        first, second = maps[a[pairs]], _flipped(maps[b[pairs]], flipped)
        r[pairs], transform[pairs] = _refine(
            fine @ first @ fine.T, fine @ second @ fine.T, start, aspect, N_STEPS[1]
        )
    return r, transform


def _flipped(maps: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """The mirror images of some of the maps."""
    return np.where(flip[:, None, None], maps[:, :, ::-1], maps)


class _Coarse:
    """Pictures with half of the resolution, as they are and magnified.

    Attributes
    ----------
    maps : list of arrays, shape (n_pictures, size, size)
        One for each of `SIZES`.
    """

    def __init__(self, maps: np.ndarray):
        halved = _halved(maps)
        self.maps = [_magnified(halved, relative) for relative in SIZES]
        self._norms = [np.sqrt(np.square(part).sum(axis=(1, 2))) for part in self.maps]

    def best_shift_and_size(
        self, a: np.ndarray, b: np.ndarray, mirrored: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Largest correlation over whole shifts and some sizes, and its transform."""
        size, sizes = self.maps[0].shape[1], range(1, len(SIZES))
        shifts = np.arange(-int(MAX_SHIFT * size), int(MAX_SHIFT * size) + 1)
        best, transform = np.full(len(a), -1.0), np.zeros((len(a), 4))
        sides = [(0, 0), *((k, 0) for k in sizes), *((0, k) for k in sizes)]  # a or b magnified
        for rows in blocks(len(a), _PAIRS_OF_SHIFTS):
            for (of_a, of_b), flat in zip(
                sides, self._correlations(a[rows], b[rows], mirrored[rows], sides), strict=True
            ):
                where = flat.argmax(axis=1)
                r_here = flat[np.arange(len(flat)), where]
                y, x = shifts[where // len(shifts)], shifts[where % len(shifts)]
                # Point of_a * p of a is compared with point of_b * (p + shift) of b.
                log_size = np.full(len(flat), np.log(SIZES[of_b] / SIZES[of_a]))
                step = SIZES[of_b] / size
                here = np.stack([step * x, step * y, log_size, np.zeros(len(flat))], axis=1)
                better = np.flatnonzero(r_here > best[rows])
                best[rows][better], transform[rows][better] = r_here[better], here[better]
        return best, transform

    def _correlations(
        self, a: np.ndarray, b: np.ndarray, mirrored: np.ndarray, sides: list[tuple[int, int]]
    ) -> np.ndarray:
        """Correlations at all shifts of pairs, (n_sides, n_pairs, n_shifts²).

        Mean products where pictures overlap, over root mean squares of all pixels. Pictures have
        many partners: all of them meet all shifts of a picture in one product.
        """
        size = self.maps[0].shape[1]
        reach = int(MAX_SHIFT * size)
        overlap = 1 - np.abs(np.arange(-reach, reach + 1)) / size
        shares = np.outer(overlap, overlap).ravel()
        order = np.argsort(a, kind="stable")
        partners = b[order], mirrored[order]
        second = [_flipped(part[partners[0]], partners[1]) for part in self.maps]
        second = [part.reshape(len(part), -1) for part in second]
        firsts, begins = np.unique(a[order], return_index=True)
        windows = [_windows(part[firsts], reach) for part in self.maps]
        shifted = np.empty((len(SIZES), *windows[0].shape[1:]), np.float32)
        products = np.empty((len(sides), len(a), len(shares)))
        for i, (begin, end) in enumerate(zip(begins, [*begins[1:], len(a)], strict=True)):
            for part, windows_of_size in zip(shifted, windows, strict=True):
                part[:] = windows_of_size[i]
            of_shifts = shifted.reshape(len(SIZES), len(shares), -1)
            for k, (of_a, of_b) in enumerate(sides):
                products[k, begin:end] = second[of_b][begin:end] @ of_shifts[of_a].T
        found = np.empty_like(products)
        for k, (of_a, of_b) in enumerate(sides):
            norm = self._norms[of_a][a[order]] * self._norms[of_b][b[order]]
            found[k, order] = products[k] / (np.maximum(norm, 1e-12)[:, None] * shares)
        return found


def _windows(maps: np.ndarray, reach: int) -> np.ndarray:
    """Views of maps shifted by −reach … reach pixels along y and x, 0 beyond the maps.

    Shape (n, 2 reach + 1, 2 reach + 1, height, width).
    """
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)))
    found = np.lib.stride_tricks.sliding_window_view(padded, maps.shape[1:], axis=(1, 2))
    return found[:, ::-1, ::-1]  # what begins at `reach - s` holds at q what was at q - s


def _halved(maps: np.ndarray) -> np.ndarray:
    """Blurred, with half of the resolution."""
    weights = blur_matrix(COARSE_BLUR)
    weights = (weights[::2] + weights[1::2]) / 2
    return weights @ maps @ weights.T


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

    def weighted(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        values = np.take(flat, points, axis=1, mode="clip")  # all are inside: it spares a check
        values *= weights
        return values

    above = weighted(corner, 1 - x)
    above += weighted(corner + 1, x)
    below = weighted(corner + size, 1 - x)
    below += weighted(corner + size + 1, x)
    above *= 1 - y
    below *= y
    above += below
    return above, inside


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
