"""Betas and mask of any format as a grid and a source of trials."""

import glob
import os
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.brain.surfaces import HEMISPHERES
from brainenc.brain.volumes import open_volume, read_volume
from brainenc.conversion import plain_array
from brainenc.data.image_files import natural_order
from brainenc.data.trial_sources import (
    ArrayTrials,
    GrayordinateTrials,
    ImageTrials,
    Runs,
    SurfaceTrials,
    TrialSource,
    layout_of,
    opened,
    surface_shape,
)
from brainenc.data.voxel_grids import (
    GrayordinateGrid,
    SurfaceGrid,
    VolumeGrid,
    as_hemispheres,
    check_affine,
    read_mask,
    read_surface_map,
)
from brainenc.documentation import see
from brainenc.reading import read_array, reading

Grid = VolumeGrid | SurfaceGrid | GrayordinateGrid

_CIFTI = (".dscalar.nii", ".dtseries.nii")
_HDF5 = (".h5", ".hdf5", ".hdf", ".mat")


def open_betas(
    betas: Any,
    mask: Any,
    *,
    axes: str | None = None,
    affine: Any = None,
    space: str = "native",
    n_trials: int | None = None,
) -> tuple[Grid, Runs]:
    """Grid of the voxels, and the trials of all runs.

    Parameters
    ----------
    betas, mask, axes, affine, space
        As of `brainenc.EncodingData.from_volumes`.
    n_trials : int, optional
        Number of trials in all, which may decide between two orders of axes.

    Raises
    ------
    ValueError : shapes, affines or grids that do not match; an empty mask, or one of labels.
    """
    runs = _runs(betas)
    names = [_name(run, i, len(runs)) for i, run in enumerate(runs)]
    sources: list[TrialSource] = []
    grid: Any
    if _is_cifti(runs[0]):
        images = [_cifti(run, name) for run, name in zip(runs, names, strict=True)]
        grid = _grayordinates(images[0], mask, space)
        for image, name in zip(images, names, strict=True):
            grid.check(image.header.get_axis(1), name)
            sources.append(GrayordinateTrials(image, grid, name))
        return grid, Runs(sources)
    if _is_surface(runs[0]):
        pairs = [_hemispheres(run, name) for run, name in zip(runs, names, strict=True)]
        grid = _surface(pairs, names, mask)
        return grid, Runs([SurfaceTrials(p, grid, n) for p, n in zip(pairs, names, strict=True)])
    images = [_volume_run(run, name) for run, name in zip(runs, names, strict=True)]
    grid = volume_grid(images, mask, affine, space)
    alone = n_trials if len(runs) == 1 else None
    for image, name in zip(images, names, strict=True):
        if hasattr(image, "affine"):
            if len(image.shape) not in (3, 4):
                raise ValueError(f"{name} has the shape {image.shape}, not (X, Y, Z, trials)")
            grid.check(image.shape[:3], image.affine, name)
            sources.append(ImageTrials(image, grid.inside, name))
            continue
        with opened(image) as values:
            shape = tuple(values.shape)
        known = {"axes": axes, "n_trials": alone}
        layout = layout_of(shape, grid.inside.shape, grid.n_voxels, name, **known)  # type: ignore[arg-type]
        sources.append(ArrayTrials(image, layout, grid.inside, name))
    return grid, Runs(sources)


# ------------------------------------------------------------------ runs


def _runs(betas: Any) -> list[Any]:
    """A list of runs, each of one kind."""
    if isinstance(betas, str) and not os.path.exists(betas) and glob.has_magic(betas):
        found = natural_order(glob.glob(betas))
        if not found:
            raise FileNotFoundError(f"betas={betas!r} matches no file")
        return list(found)
    if _is_dataset(betas):
        return [betas]
    pairs = as_hemispheres(betas, "betas")
    if pairs and any(isinstance(value, (list, tuple)) for value in pairs.values()):
        lengths = {side: len(value) for side, value in pairs.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"betas has {lengths} runs: hemispheres must have the same")
        return [dict(zip(pairs, run, strict=True)) for run in zip(*pairs.values(), strict=True)]
    if isinstance(betas, (list, tuple)):
        if not betas:
            raise ValueError("betas is an empty list of runs")
        return list(betas)
    return [betas]


def _is_dataset(run: Any) -> bool:
    """Whether it is (path of an HDF5 file, data set)."""
    if not isinstance(run, tuple) or len(run) != 2 or not isinstance(run[1], str):
        return False
    return isinstance(run[0], (str, os.PathLike)) and str(run[0]).endswith(_HDF5)


def _name(run: Any, i: int, n_runs: int) -> str:
    if isinstance(run, (str, os.PathLike)):
        return str(run)
    if _is_dataset(run):
        return f"{run[0]}:{run[1]}"
    path = run.get_filename() if hasattr(run, "get_filename") else None
    return str(path) if path else ("betas" if n_runs == 1 else f"run {i + 1} of betas")


def _is_cifti(run: Any) -> bool:
    if isinstance(run, (str, os.PathLike)):
        return str(run).endswith(_CIFTI)
    return hasattr(getattr(run, "header", None), "get_axis")


def _is_surface(run: Any) -> bool:
    if isinstance(run, (str, os.PathLike)):
        return str(run).endswith(".gii")
    return isinstance(run, dict) or hasattr(run, "darrays")


def _cifti(run: Any, name: str) -> Any:
    if not _is_cifti(run):
        raise ValueError(f"{name} is no CIFTI file, but the first run is")
    if isinstance(run, (str, os.PathLike)):
        import nibabel as nib

        with reading(run, "a CIFTI file"):
            run = nib.load(run)
    if len(run.shape) != 2 or not hasattr(run.header.get_axis(1), "surface_mask"):
        raise ValueError(f"{name} has the shape {run.shape}, not (trials, grayordinates)")
    return run


def _hemispheres(run: Any, name: str) -> dict[str, Any]:
    """Hemispheres of a run; of a single GIFTI file the one that it names."""
    if not _is_surface(run):
        raise ValueError(f"{name} is no data of a surface, but the first run is")
    if (pairs := as_hemispheres(run, name)) is not None:
        return pairs
    import nibabel as nib

    image = run
    if isinstance(run, (str, os.PathLike)):
        with reading(run, "a GIFTI file"):
            image = nib.load(run)
    meta = [image.meta, *(array.meta for array in image.darrays)]
    found = [str(one.get("AnatomicalStructurePrimary", "")) for one in meta]
    for structure, side in (("CortexLeft", "lh"), ("CortexRight", "rh")):
        if structure in found:
            return {side: run}
    raise ValueError(
        f"{name} does not say its hemisphere: give {{'lh': …, 'rh': …}}, each a file or a list of "
        "runs"
    )


def _volume_run(run: Any, name: str) -> Any:
    """A nibabel image, an array, a path of ``.npy``, or (path, data set)."""
    if _is_cifti(run) or _is_surface(run):
        raise ValueError(f"{name} is data of a surface, but the first run is a volume")
    if _is_dataset(run):
        return (str(run[0]), _dataset(Path(run[0]), run[1]))
    if isinstance(run, (str, os.PathLike)):
        text, colon, dataset = str(run).rpartition(":")
        if colon and text.endswith(_HDF5) and not os.path.exists(run):
            return (text, _dataset(Path(text), dataset))
        if str(run).endswith(_HDF5):
            return (str(run), _dataset(Path(run), None))
        if str(run).endswith(".npy"):
            return str(run)
        return open_volume(run)
    if hasattr(run, "dataobj"):
        return run
    # An HDF5 data set stays on disk.
    is_lazy = hasattr(run, "shape") and hasattr(run, "chunks")
    array = run if is_lazy else plain_array(run, name)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be numeric, got {array.dtype}")
    return array


def _dataset(path: Path, name: str | None) -> str:
    """Name of the data set of trials in an HDF5 file."""
    import h5py

    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    if path.suffix == ".mat" and not h5py.is_hdf5(path):
        raise ValueError(f"{path} is a MATLAB file before version 7.3: save it with -v7.3")
    found: dict[str, tuple] = {}
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        file.visititems(
            lambda key, item: (
                found.update({key: item.shape})
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf"
                else None
            )
        )
    if name is not None:
        if name.strip("/") not in found:
            raise ValueError(f"{path} has no data set {name!r} of numbers; it has {list(found)}")
        return name
    trials = [key for key, shape in found.items() if shape is not None and len(shape) in (2, 4)]
    if len(trials) == 1:
        return trials[0]
    raise ValueError(
        f"{path} has the data sets {found}: name the one with the betas, as ({str(path)!r}, 'name')"
    )


# ------------------------------------------------------------------ masks and grids


def volume_grid(images: list[Any], mask: Any, affine: Any, space: str) -> VolumeGrid:
    """Grid of a mask; without an affine of its own it has that of the first image with one."""
    if mask is None:
        raise ValueError(
            "mask is missing: most of a volume is no brain. Give a NIfTI file or an array of bool "
            "(X, Y, Z); for all voxels numpy.ones(shape, dtype=bool)" + see("howto_own_data")
        )
    of_mask = None
    name = "mask"
    if isinstance(mask, (str, os.PathLike)):
        name = f"mask {os.fspath(mask)}"
        if str(mask).endswith(".npy"):
            values = read_array(mask)
        else:
            image, values = read_volume(mask)
            of_mask = image.affine
    elif hasattr(mask, "dataobj"):
        values, of_mask = np.asanyarray(mask.dataobj), mask.affine
    else:
        values = plain_array(mask, name)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(f"{name} of shape {values.shape} must be (X, Y, Z)")
    if affine is not None:
        check_affine(affine, of_mask, "affine=")
        of_mask = np.asarray(affine, dtype=float)
    if of_mask is None:
        # The mask is an array: the first volume that has an affine says where it lies.
        of_mask = next((image.affine for image in images if hasattr(image, "affine")), None)
    return VolumeGrid(read_mask(values, name), of_mask, space)


def _surface(pairs: list[dict[str, Any]], names: list[str], mask: Any) -> SurfaceGrid:
    for pair, name in zip(pairs, names, strict=True):
        if list(pair) != list(pairs[0]):
            raise ValueError(
                f"{name} is of {list(pair)} and {names[0]} of {list(pairs[0])}: give both "
                "hemispheres as {'lh': […], 'rh': […]}, each a list of runs"
            )
    inside = {}
    masks = as_hemispheres(mask, "mask")
    if mask is not None and masks is None:
        raise ValueError(
            "mask of a surface must be a dict {'lh': …, 'rh': …} of arrays or files, or None for "
            "all vertices"
        )
    for side in (one for one in HEMISPHERES if one in pairs[0]):
        shapes = [
            surface_shape(pair[side], f"{name} of {side}")[0]
            for pair, name in zip(pairs, names, strict=True)
        ]
        for n_vertices, name in zip(shapes, names, strict=True):
            if n_vertices != shapes[0]:
                raise ValueError(
                    f"{name} has {n_vertices} vertices of {side}, but {names[0]} has {shapes[0]}"
                )
        inside[side] = np.ones(shapes[0], dtype=bool)
        if masks is not None:
            if side not in masks:
                raise ValueError(f"mask has {list(masks)}, but the betas have {side}, too")
            values = read_surface_map(masks[side], f"mask of {side}")[0]
            if values.shape != (shapes[0],):
                raise ValueError(
                    f"mask of {side} has the shape {values.shape}, but the betas have {shapes[0]} "
                    "vertices"
                )
            # One hemisphere may have no voxels.
            inside[side] = (
                read_mask(values, f"mask of {side}") if (values > 0).any() else values > 0
            )
    if not any(one.any() for one in inside.values()):
        raise ValueError("mask is empty: no vertex of either hemisphere is above 0")
    return SurfaceGrid(inside)


def _grayordinates(image: Any, mask: Any, space: str) -> GrayordinateGrid:
    axis = image.header.get_axis(1)
    cortex = axis.surface_mask
    if isinstance(mask, str) and mask in ("cortex", "subcortex"):
        inside = cortex if mask == "cortex" else ~cortex
    elif mask is None:
        inside = np.ones(len(axis), dtype=bool)
    else:
        everything = GrayordinateGrid(axis, np.ones(len(axis), dtype=bool), space)
        inside = read_mask(everything.read_map(mask, "mask")[0], "mask")
    if not inside.any():
        raise ValueError(f"mask={mask!r} leaves no grayordinate of {len(axis)}")
    if 0 < cortex[inside].sum() < inside.sum():
        raise ValueError(
            f"betas have {int(cortex[inside].sum())} vertices of the cortex and "
            f"{int((~cortex)[inside].sum())} voxels of other structures, which do not fit one map: "
            "take one of them, with mask='cortex' or mask='subcortex'"
        )
    return GrayordinateGrid(axis, inside, space)
