"""What a function of images does, as a hash: two functions that do the same are one."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from brainenc.documentation import see
from brainenc.process_state import own_settings
from brainenc.storage import fingerprint


def behaviour(
    function: Callable[[Image.Image], Any], name: str, *, may_be_random: bool = True
) -> str:
    """Hash of a function's results for fixed images, which identify it better than its name.

    Parameters
    ----------
    function : from a PIL image to an array or tensor
    name : str
        Of the argument, for errors.
    may_be_random : bool
        Whether a function with random steps is of use where nothing is stored; the error says so.

    Raises
    ------
    ValueError : it gives another result each time.

    Examples
    --------
    >>> behaviour(lambda image: np.asarray(image) // 2, "halved") == behaviour(
    ...     lambda image: np.asarray(image) >> 1, "shifted"
    ... )
    True
    """
    results = []
    with own_settings():  # torchvision's conversions use torch's default dtype
        for image in _test_images():
            try:
                first, second = (np.asarray(function(image)) for _ in range(2))
            except Exception as error:  # of grey or small images: images as these have no features
                results.append(fingerprint(type(error).__name__))
                continue
            if not np.array_equal(first, second):
                refused = (
                    "so its features cannot be stored; remove the random steps, or use store=None"
                    if may_be_random
                    else "so an image has no features of its own; remove the random steps"
                )
                raise ValueError(
                    f"{name} gives another result each time for one image, {refused}"
                    + see("guide/features")
                )
            results.append(fingerprint(first))
    return fingerprint(results)


def _test_images() -> list[Image.Image]:
    """Noise and a smooth picture, wide and high, small, dark and grey."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (256, 320, 3), dtype=np.uint8)
    rows, columns = np.mgrid[0:425, 0:425] / 424
    smooth = (255 * np.stack([rows, columns, 1 - rows * columns], axis=-1)).astype(np.uint8)
    dark, small = noise[:96, :64] // 16, noise[:40, :40]
    return [Image.fromarray(image) for image in (noise, smooth, dark, small, noise[..., 0])]
