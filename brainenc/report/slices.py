"""Values in slices of the subject's own volume, over anatomy or the mean of the betas."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from brainenc.arrays import row_blocks
from brainenc.brain.volumes import open_volume, to_nifti
from brainenc.data.encoding_data import EncodingData
from brainenc.report.panels import make_panels
from brainenc.report.style import MUTED, NothingToDraw

#: Name of the background made from the betas.
MEAN_BETAS = "mean betas"

#: Axes of a canonical volume, from left, back and below.
AXES = {"x": 0, "y": 1, "z": 2}


def plot_slices(
    values: Any,
    data: EncodingData,
    *,
    background: Any = None,
    axis: str = "z",
    n_slices: int = 12,
    title: str = "",
    cmap: str = "inferno",
    limits: tuple[float, float] | None = None,
    ax: Any = None,
) -> Figure:
    """Values per voxel as a mosaic of slices in the subject's own space.

    Parameters
    ----------
    values : array, shape (n_voxels,)
        NaN is not drawn. Values are drawn voxel by voxel and never resampled.
    data : EncodingData
        With ``volume``, and ``i, j, k`` in the voxel table.
    background : NIfTI image, path or "mean betas", optional
        Anatomy in the same millimetres: its nearest voxel is shown behind each voxel of the grid.
        "mean betas": mean of all trials, in the voxels of the data.
    axis : "x", "y" or "z"
        Direction of the slices: sagittal, coronal, axial.
    n_slices : int
        Slices, evenly spaced over those that hold a finite value.
    title : str
    cmap : str
    limits : (low, high), optional
        Limits of the colours; by default the range of the values and 0.
    ax : sequence of Axes, optional
        One per slice.

    Returns
    -------
    Figure
        Slices from left to right, back to front or bottom to top, with their millimetres. The left
        of the subject is on the left.

    Raises
    ------
    NothingToDraw : no value is finite.
    ValueError : the data have no volume, an unknown axis, no slice, or another number of Axes than
        slices.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from brainenc import EncodingData, Volume
    >>> voxels = pd.DataFrame(np.argwhere(np.ones((4, 4, 3))), columns=["i", "j", "k"])
    >>> images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    >>> data = EncodingData(images, np.zeros((5, 48)), voxels, volume=Volume((4, 4, 3), np.eye(4)))
    >>> len(plot_slices(np.arange(48.0), data).axes)  # three slices and the colour bar
    4
    """
    if data.volume is None:
        data.to_nifti(values)  # says what is missing
    image = to_nifti(
        np.asarray(values, dtype=float),
        data.voxels,
        shape=data.volume.shape,  # type: ignore[union-attr]
        affine=data.volume.affine,  # type: ignore[union-attr]
    )
    behind = None
    if isinstance(background, str) and background == MEAN_BETAS:
        behind = data.to_nifti(_mean(data.betas))
    elif background is not None:
        behind = background if hasattr(background, "affine") else open_volume(background)
    look: dict[str, Any] = {"axis": axis, "n_slices": n_slices, "cmap": cmap, "limits": limits}
    return slice_figure(image, behind, title=title, ax=ax, **look)


def slice_figure(
    image: Any,
    background: Any = None,
    *,
    axis: str = "z",
    n_slices: int = 12,
    title: str = "",
    cmap: str = "inferno",
    limits: tuple[float, float] | None = None,
    ax: Any = None,
) -> Figure:
    """Slices of a volume; parameters as of `plot_slices`.

    Parameters
    ----------
    image, background : NIfTI images
        Values, NaN where there are none; anatomy in the same millimetres, or None.
    axis, n_slices, title, cmap, limits, ax
        As of `plot_slices`.

    Returns
    -------
    Figure
    """
    import nibabel as nib

    if axis not in AXES:
        raise ValueError(f"axis={axis!r} must be 'x', 'y' or 'z'")
    if n_slices < 1:
        raise ValueError(f"n_slices={n_slices} must be 1 or more")
    image = nib.as_closest_canonical(image)
    drawn = np.moveaxis(np.asarray(image.dataobj), AXES[axis], 0)
    filled = np.flatnonzero(np.isfinite(drawn).any(axis=(1, 2)))
    if not filled.size:
        raise NothingToDraw("No voxel has a value.")
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, n_slices).round().astype(int))]
    finite = drawn[np.isfinite(drawn)]
    limits = limits or (min(0.0, float(finite.min())), max(0.0, float(finite.max())))
    behind = None if background is None else _on_grid(background, image, AXES[axis])
    n_columns = min(len(chosen), 6)
    zooms = np.delete(image.header.get_zooms()[:3], AXES[axis])
    n_rows = -(-len(chosen) // n_columns)
    high = 10.0 / n_columns * drawn.shape[2] * zooms[1] / (drawn.shape[1] * zooms[0])
    size = (10.6, n_rows * (min(high, 4.0) + 0.25) + 0.3)
    panels = make_panels(ax, len(chosen), n_columns, size=size)
    norm = Normalize(*limits)
    for axes, k in zip(panels.flat, chosen, strict=True):
        _slice(axes, None if behind is None else behind[k], drawn[k], zooms, cmap, norm)
        corner = np.zeros(3)
        corner[AXES[axis]] = k
        millimetres = (image.affine @ [*corner, 1])[AXES[axis]]
        axes.set_title(f"{axis} = {millimetres:.0f} mm", fontsize="small", color=MUTED)
    if panels.is_new and title:
        panels.figure.suptitle(title, x=0.01, ha="left", weight="bold")
    bar = panels.figure.colorbar(
        ScalarMappable(norm, cmap), ax=panels.flat, shrink=0.7, fraction=0.02, pad=0.01
    )
    bar.outline.set_visible(False)
    return panels.finished()


def _on_grid(anatomy: Any, image: Any, axis: int) -> np.ndarray:
    """Nearest voxel of the anatomy at each voxel of the grid of the values, slices first."""
    if len(anatomy.shape) != 3:
        raise ValueError(f"background {anatomy.shape} must be a volume of three dimensions")
    content = np.asarray(anatomy.dataobj, dtype=np.float32)
    to_voxel = np.linalg.inv(anatomy.affine) @ image.affine
    place = np.indices(image.shape[:3]).reshape(3, -1)
    at = np.rint(to_voxel[:3, :3] @ place + to_voxel[:3, 3:]).astype(int)
    inside = ((at >= 0) & (at < np.array(content.shape)[:, None])).all(axis=0)
    found = np.full(place.shape[1], np.nan, np.float32)
    found[inside] = content[tuple(at[:, inside])]
    if not inside.any():
        raise ValueError(
            "background and the volume of the data do not overlap: they are not in the same "
            "millimetres"
        )
    return np.moveaxis(found.reshape(image.shape[:3]), axis, 0)


def _mean(betas: np.ndarray) -> np.ndarray:
    """Mean of all trials per voxel, block by block."""
    total, n = np.zeros(betas.shape[2]), np.zeros(betas.shape[2])
    for part in row_blocks(betas):
        block = np.asarray(part, dtype=np.float64)
        total += np.nansum(block, axis=(0, 1))
        n += np.isfinite(block).sum(axis=(0, 1))
    return total / np.where(n > 0, n, np.nan)


def _slice(
    axes: Axes, behind: np.ndarray | None, drawn: np.ndarray, zooms: Any, cmap: str, norm: Any
) -> None:
    look: dict[str, Any] = {"origin": "lower", "interpolation": "none"}
    look["aspect"] = zooms[1] / zooms[0]
    if behind is not None:
        known = behind[np.isfinite(behind)]
        low, high = np.percentile(known, [2, 98]) if known.size else (0, 1)
        axes.imshow(behind.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), **look)
    axes.imshow(np.ma.masked_invalid(drawn.T), cmap=cmap, norm=norm, **look)
    axes.set_axis_off()
