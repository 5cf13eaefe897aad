"""Compiled sums of products under shuffles of images, for many images, voxels and shuffles.

NumPy would write the shuffled responses of every shuffle to memory. Here the responses of a few
voxels stay in the cache for all shuffles, and are read in each order.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from brainenc.arrays import blocks
from brainenc.machine_code import compiled
from brainenc.metrics.sums import n_threads

#: Images × voxels of one array in the cache: 512 KiB of float32.
_ENTRIES = 2**17
#: Fewest voxels at a time, a line of the cache.
_VOXELS = 16


def counted(
    predicted: np.ndarray, measured: np.ndarray, orders: np.ndarray, observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products in the last order, and in how many orders they reach `observed`.

    Parameters
    ----------
    predicted, measured : array, shape (n_images, n_voxels), float32
    orders : array, shape (n_orders, n_images), int32
        Rows of `measured` that the rows of `predicted` are multiplied with.
    observed : array, shape (n_voxels,), float32

    Returns
    -------
    sums : array, shape (n_voxels,), float32
    count : array, shape (n_voxels,), int
    """
    sums, count = np.empty_like(observed), np.zeros(observed.shape, dtype=np.int64)

    def of_block(voxels: slice) -> None:
        _count(
            predicted[:, voxels].copy(),
            measured[:, voxels].copy(),
            orders,
            observed[voxels],
            sums[voxels],
            count[voxels],
        )

    size = max(_VOXELS, _ENTRIES // len(predicted) // _VOXELS * _VOXELS)
    with ThreadPoolExecutor(n_threads()) as pool:
        list(pool.map(of_block, blocks(len(observed), size)))
    return sums, count


@compiled
def _count(predicted, measured, orders, observed, sums, count):
    n_images, n_voxels = predicted.shape
    in_fours = n_images // 4 * 4
    for k in range(len(orders)):
        rows = orders[k]
        sums[:] = 0
        for i in range(0, in_fours, 4):
            x0, x1, x2, x3 = predicted[i], predicted[i + 1], predicted[i + 2], predicted[i + 3]
            y0, y1 = measured[rows[i]], measured[rows[i + 1]]
            y2, y3 = measured[rows[i + 2]], measured[rows[i + 3]]
            for j in range(n_voxels):
                sums[j] += x0[j] * y0[j] + x1[j] * y1[j] + x2[j] * y2[j] + x3[j] * y3[j]
        for i in range(in_fours, n_images):
            x0, y0 = predicted[i], measured[rows[i]]
            for j in range(n_voxels):
                sums[j] += x0[j] * y0[j]
        for j in range(n_voxels):
            count[j] += sums[j] >= observed[j]
