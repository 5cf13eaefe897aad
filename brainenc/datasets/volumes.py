"""Conversion of own volumes or surfaces to a folder, with the memory of some trials."""

import os
from pathlib import Path
from typing import Any

from brainenc.data import from_volumes
from brainenc.datasets.glmsingle import write_plan
from brainenc.datasets.streaming import check_new


def convert_volumes(
    betas: Any,
    out: str | os.PathLike,
    mask: Any,
    image_ids: Any,
    images: Any,
    *,
    copy_images: bool = False,
    verbose: bool = True,
    **options: Any,
) -> Path:
    """Write volumes or surfaces as a ``.brain`` folder, some trials in memory at a time.

    After an interruption, the same call continues where it was and gives a bitwise identical
    folder. Until the end all files are in a hidden folder beside `out`.

    Parameters
    ----------
    betas, mask, image_ids, images
        As for `EncodingData.from_volumes`.
    out : path
        The ``.brain`` folder, which must not exist.
    copy_images : bool
        As of `EncodingData.save`.
    verbose : bool
        Show a progress bar, and print what was read.
    **options
        The other arguments of `EncodingData.from_volumes`.

    Returns
    -------
    pathlib.Path : `out`

    Raises
    ------
    FileExistsError : `out` exists, or another process is writing it.
    OSError : the disk is too full for the betas.
    FileNotFoundError, ValueError : as for `EncodingData.from_volumes`.
    """
    out = Path(out)
    check_new(out)
    plan = from_volumes.make_plan(betas, mask, image_ids, images, **options)
    return write_plan(plan, out, copy_images=copy_images, verbose=verbose)
