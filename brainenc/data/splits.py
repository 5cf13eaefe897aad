"""Which images are held out for testing."""

from typing import Any

import numpy as np

from brainenc.validation import check_index


def held_out_images(
    test: float | Any, n_images: int, *, random_state: int | None = 0
) -> np.ndarray:
    """Mask of the test images.

    Parameters
    ----------
    test : float in (0, 1), or mask of shape (n_images,), or positions
        A share drawn at random, or the test images themselves.
    n_images : int
    random_state : int
        Seed of the random share.

    Returns
    -------
    array of bool, shape (n_images,), neither all True nor all False

    Raises
    ------
    ValueError : one side would be empty, or a whole number, which is no share.
    """
    if np.ndim(test) == 0 and not isinstance(test, (float, np.floating)):
        # scikit-learn would take it for a number of images, an index for one image.
        raise ValueError(
            f"test={test!r} must be a share such as 0.2, a mask, or positions such as range(20)"
        )
    if isinstance(test, (float, np.floating)):
        n_test = round(test * n_images)
        if not 0 < n_test < n_images:
            raise ValueError(
                f"test={test} of {n_images} images leaves one side empty; "
                "give a share between 0 and 1"
            )
        index = np.random.default_rng(random_state).permutation(n_images)[:n_test]
    else:
        index = check_index(test, n_images, "test")
    held_out = np.zeros(n_images, dtype=bool)
    held_out[index] = True
    if held_out.all():
        raise ValueError("test selects every image, which leaves none to train on")
    return held_out
