"""Pixels and degrees of visual angle."""

import numbers

import numpy as np


def pixels_per_degree(image: np.ndarray, image_deg: float) -> float:
    """Pixels of an image (H, W, …) that is `image_deg` degrees wide."""
    return image.shape[1] / image_deg


def eccentricity(image: np.ndarray, fixation: tuple[float, float], scale: float) -> np.ndarray:
    """Distance of each pixel's centre from fixation, in degrees.

    Parameters
    ----------
    image : array, shape (H, W) or (H, W, 3)
    fixation : (float, float)
        Degrees right and up of the image's centre.
    scale : float
        Pixels per degree.

    Returns
    -------
    array, shape (H, W)
    """
    height, width = image.shape[:2]
    x = (np.arange(width) + 0.5 - width / 2) / scale - fixation[0]
    y = (height / 2 - np.arange(height) - 0.5) / scale - fixation[1]
    return np.hypot(x[None, :], y[:, None])


def check_degrees(name: str, value: float, *, zero: bool = False) -> None:
    """Raise ValueError unless a number of degrees is finite and positive, or 0 if it may be."""
    right = isinstance(value, numbers.Real) and np.isfinite(value)
    if not right or value < 0 or (value == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise ValueError(f"{name}={value!r} must be a number of degrees, {least}")
