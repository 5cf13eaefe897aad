"""GaborPyramid: Gabor energy at several scales, a classical model of early visual cortex."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from brainenc.arrays import blocks
from brainenc.data.images import LUMA
from brainenc.devices import resolve_device
from brainenc.features.base import FeatureExtractor
from brainenc.process_state import state_lock

#: Added to intensities (0 … 1) before the logarithm: the transition from linear to Weber.
DARK_LIGHT = 0.05
#: Mean amplitude, in log units of contrast, below which values are round-off.
FLOOR = 1e-4
#: Wavelength of the filters in pixels of their own level.
WAVELENGTH = 4.0

#: Images per thread at a time: their maps fit the cache.
_PART = 8

CHANNELS = ("luminance", "red-green", "blue-yellow")


def gabor_bank(n_orientations: int, wavelength: float = WAVELENGTH) -> np.ndarray:
    """Quadrature pairs of Gabor filters with a bandwidth of one octave.

    Parameters
    ----------
    n_orientations : int
        Equally spaced in 180°. Filter k responds best to gratings whose luminance changes along k ·
        180° / n_orientations, measured from the x axis towards +y (downwards).
    wavelength : float
        Pixels per cycle.

    Returns
    -------
    array of float32, shape (n_orientations, 2, size, size)
        Even (cosine) and odd (sine) filters, size odd. Both sum to 0, so that a uniform patch has
        no response. A full-field grating of amplitude a at the preferred frequency has energy a².
    """
    octave = (2 + 1) / (2 - 1)
    sigma = wavelength / math.pi * math.sqrt(math.log(2) / 2) * octave
    radius = math.ceil(2.5 * sigma)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    angles = np.pi * np.arange(n_orientations)[:, None, None] / n_orientations
    phase = 2 * np.pi / wavelength * (x * np.cos(angles) + y * np.sin(angles))
    even, odd = envelope * np.cos(phase), envelope * np.sin(phase)
    even -= envelope * (even.sum((1, 2), keepdims=True) / envelope.sum())
    gain = (even * np.cos(phase)).sum((1, 2)), (odd * np.sin(phase)).sum((1, 2))
    pairs = np.stack([even / gain[0][:, None, None], odd / gain[1][:, None, None]], axis=1)
    return pairs.astype(np.float32)


def gabor_energy(images: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Phase-invariant energy: squared responses of each quadrature pair, summed.

    Parameters
    ----------
    images : tensor, shape (n, H, W)
        The outermost pixels are repeated beyond the border.
    bank : tensor, shape (n_orientations, 2, size, size)

    Returns
    -------
    tensor, shape (n, n_orientations, H, W)
    """
    size = bank.shape[-1]
    padded = F.pad(images[:, None], (size // 2,) * 4, mode="replicate")
    responses = F.conv2d(padded, bank.reshape(-1, 1, size, size))
    even_odd = responses.reshape(len(images), -1, 2, *images.shape[1:])
    return even_odd.square().sum(2)


def opponent_channels(rgb: torch.Tensor) -> torch.Tensor:
    """Log luminance and colour opponency: red-green and blue-yellow.

    Parameters
    ----------
    rgb : tensor, shape (n, 3, H, W), 0 … 1

    Returns
    -------
    tensor, shape (n, 3, H, W)
        Logarithms of luminance (0.299 R + 0.587 G + 0.114 B), R / G and B / mean(R, G), each
        after adding 0.05. Colour channels of greys are exactly 0.
    """
    red, green, blue = rgb.unbind(1)
    luminance = LUMA[0].item() * red + LUMA[1].item() * green + LUMA[2].item() * blue
    yellow = (red + green) / 2

    def log(light: torch.Tensor) -> torch.Tensor:
        return torch.log(light + DARK_LIGHT)

    return torch.stack([log(luminance), log(red) - log(green), log(blue) - log(yellow)], dim=1)


def _on_threads(function: Callable[[Any], Any], parts: list) -> list:
    """Results of a torch function of each part, with one thread per part.

    torch's own threads synchronise after every small operation, which takes ten times as long on a
    busy machine.
    """
    with _single_threads(len(parts)) as pool:
        return list(pool.map(function, parts))


def _single_threads(at_most: int) -> ThreadPoolExecutor:
    """Threads in which torch's functions use no others, as many as torch uses here.

    torch keeps the number in each thread and, for threads that start later, once for the process.
    The latter is put back before anything is computed: a fit in another thread is to have its own.
    """
    with state_lock():
        n_threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(min(n_threads, at_most), initializer=_use_one_thread)
        all_started = threading.Barrier(min(n_threads, at_most))
        try:
            list(pool.map(lambda _: all_started.wait(), range(all_started.parties)))
        except BaseException:
            all_started.abort()  # Ctrl-C: the pool could not end while some wait for the others
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(n_threads)
    return pool


def _use_one_thread() -> None:
    torch.get_num_threads()  # else the thread's first operation would take the process's number
    torch.set_num_threads(1)


class GaborPyramid(FeatureExtractor):
    """Gabor energy over scales, orientations and positions, with colour opponency.

    The energy model of complex cells [1]_ as used for encoding models of fMRI [2]_ [3]_; needs no
    weights and no training. An image is resized, converted to log luminance and two colour-opponent
    channels, and put into a pyramid in which every level halves the resolution. At each level,
    quadrature pairs of Gabor filters give the amplitude (root of the energy) per orientation, which
    is averaged over the cells of a grid and compressed.

    Parameters
    ----------
    n_scales : int
        Number of levels, an octave apart. With size=128 the four default scales have 32, 16, 8 and
        4 cycles per image.
    n_orientations : int
        Orientations in 180°.
    pool : int
        The grid has pool × pool cells at every scale.
    color : bool
        Add the colour channels: their energy summed over orientations (chromatic cells are weakly
        tuned, and the sum needs few features) at all scales except the finest, where colour vision
        is poor [4]_.
    low_pass : bool
        Add the channels themselves, averaged over a grid of 2·pool × 2·pool cells.
    nonlinearity : {"sqrt", "log", "none"}
        Compression of the mean amplitude a in a cell: its root, log(1 + a / 0.01), or nothing.
    size : int or None
        Images are resized (bilinear, antialiased) until the shorter side has this many pixels, so
        that neither the cost nor the features depend on the resolution. None keeps their size.
    device : {"auto", "cpu", "cuda", ...}
        float32 on all devices.
    batch_size : int
        Images per batch.
    store : path or FeatureStore, optional
        Store of computed features.
    verbose : bool
        Show a progress bar.

    Notes
    -----
    A grey image has the same features as grey or as RGB; its colour features are exactly 0.
    Energies of uniform patches are exactly 0 too: a floor of 0.0001 log units (float32 round-off)
    is subtracted from mean amplitudes, since z-scoring would amplify round-off. `feature_table`
    describes the columns.

    References
    ----------
    .. [1] Adelson & Bergen (1985), JOSA A 2, 284-299.
    .. [2] Kay, Naselaris, Prenger & Gallant (2008), Nature 452, 352-355.
    .. [3] Nishimoto et al. (2011), Current Biology 21, 1641-1646.
    .. [4] Mullen (1985), Journal of Physiology 359, 381-400.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    >>> pyramid = brainenc.GaborPyramid(n_scales=2, pool=2, size=64)
    >>> features = pyramid.fit_transform(images)
    >>> features.shape == (3, len(pyramid.feature_table()))
    True
    >>> sorted(pyramid.feature_table()["kind"].unique())
    ['energy', 'low-pass']
    """

    def __init__(
        self,
        n_scales: int = 4,
        n_orientations: int = 8,
        pool: int = 8,
        *,
        color: bool = True,
        low_pass: bool = True,
        nonlinearity: str = "sqrt",
        size: int | None = 128,
        device: str = "auto",
        batch_size: int = 64,
        store: Any = None,
        verbose: bool = True,
    ):
        self.n_scales = n_scales
        self.n_orientations = n_orientations
        self.pool = pool
        self.color = color
        self.low_pass = low_pass
        self.nonlinearity = nonlinearity
        self.size = size
        self.device = device
        self.batch_size = batch_size
        self.store = store
        self.verbose = verbose

    def _extract(self, batch: np.ndarray) -> np.ndarray:
        device = resolve_device(self.device)
        if device.type != "cpu":
            return self._features(batch, device)
        parts = [batch[images] for images in blocks(len(batch), _PART)]
        return np.concatenate(_on_threads(lambda part: self._features(part, device), parts))

    @torch.inference_mode()
    def _features(self, batch: np.ndarray, device: torch.device) -> np.ndarray:
        images = torch.from_numpy(batch).to(device)
        if images.ndim == 3:
            images = images[..., None].expand(-1, -1, -1, 3)
        return self.tensor_features(images.permute(0, 3, 1, 2).float() / 255).cpu().numpy()

    def tensor_features(
        self,
        images: torch.Tensor,
        root: Callable[[torch.Tensor], torch.Tensor] = torch.sqrt,
    ) -> torch.Tensor:
        """Features of images as tensors, through which gradients pass.

        Parameters
        ----------
        images : tensor, shape (n, 3, H, W)
            RGB from 0 to 1.
        root : function of a tensor
            Square root; one with a bounded gradient for `brainenc.synthesis`, since that of
            ``torch.sqrt`` is infinite at 0, the energy of a uniform patch.

        Returns
        -------
        tensor, shape (n, n_features)
        """
        level = opponent_channels(self._resized(images))
        level = level if self.color else level[:, :1]
        self._check(level.shape[2:])
        bank = torch.from_numpy(gabor_bank(self.n_orientations)).to(images.device)
        maps = [F.adaptive_avg_pool2d(level, 2 * self.pool)] if self.low_pass else []
        for scale in range(self.n_scales):
            if scale > 0:
                level = F.avg_pool2d(level, 2)
            maps.append(self._pooled(gabor_energy(level[:, 0], bank), root))
            if self.color and scale > 0:
                maps += [
                    self._pooled(gabor_energy(level[:, c], bank).sum(1, keepdim=True), root)
                    for c in (1, 2)
                ]
        return torch.cat([each.flatten(1) for each in maps], dim=1)

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        """RGB from 0 to 1, shape (b, 3, H, W)."""
        if self.size is None:
            return images
        zoom = self.size / min(images.shape[2:])
        target = [round(zoom * side) for side in images.shape[2:]]
        return F.interpolate(images, target, mode="bilinear", antialias=True)

    def _pooled(
        self, energy: torch.Tensor, root: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        amplitude = F.adaptive_avg_pool2d(root(energy), self.pool)
        amplitude = (amplitude - FLOOR).clamp(min=0)
        if self.nonlinearity == "none":
            return amplitude
        return root(amplitude) if self.nonlinearity == "sqrt" else torch.log1p(amplitude / 0.01)

    def _check(self, shape: tuple[int, ...]) -> None:
        for name in ("n_scales", "n_orientations", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.nonlinearity not in ("sqrt", "log", "none"):
            raise ValueError(
                f'nonlinearity={self.nonlinearity!r} must be one of "sqrt", "log" and "none"'
            )
        coarsest = min(shape) >> (self.n_scales - 1)
        if coarsest < self.pool or (self.low_pass and min(shape) < 2 * self.pool):
            raise ValueError(
                f"the coarsest of {self.n_scales} scales of a {shape[0]} × {shape[1]} image has "
                f"{coarsest} pixels a side, too few for a grid of {self.pool} cells: "
                "use fewer scales, a smaller pool, or a larger size"
            )

    def feature_table(self) -> pd.DataFrame:
        """Description of each feature.

        Returns
        -------
        DataFrame, one row per feature in the order of `transform`
            channel : "luminance", "red-green" or "blue-yellow"
            kind : "low-pass" or "energy"
            scale : level of the pyramid, 0 the finest; NaN for low-pass
            wavelength : pixels of the resized image per cycle; NaN for low-pass
            orientation : degrees, from the x axis downwards, of the change of luminance, or NaN
            row, column : cell of the grid
        """
        channels = CHANNELS if self.color else CHANNELS[:1]
        nan, blocks = float("nan"), []
        if self.low_pass:
            blocks += [(channel, "low-pass", nan, nan, nan, 2 * self.pool) for channel in channels]
        for scale in range(self.n_scales):
            wavelength = WAVELENGTH * 2**scale
            for k in range(self.n_orientations):
                angle = 180 * k / self.n_orientations
                blocks.append(("luminance", "energy", scale, wavelength, angle, self.pool))
            if self.color and scale > 0:
                blocks += [(c, "energy", scale, wavelength, nan, self.pool) for c in CHANNELS[1:]]
        names = ["channel", "kind", "scale", "wavelength", "orientation", "row", "column"]
        rows = [(*b[:5], i, j) for b in blocks for i in range(b[5]) for j in range(b[5])]
        return pd.DataFrame(rows, columns=names)
