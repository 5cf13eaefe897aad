"""Blur of images, uniform or growing with eccentricity, in degrees of visual angle."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from brainenc.features.visual_angle import check_degrees, eccentricity, pixels_per_degree

#: s.d. of UBP's blur as a share of the image's width: OpenCV's for a kernel of 51 pixels, at 224.
_UBP_SD = (0.3 * ((51 - 1) * 0.5 - 1) + 0.8) / 224

#: Blurred copies of an image have s.d. that differ by this factor; between them it is interpolated.
_STEP = 1.25

#: s.d. in pixels below which a Gaussian leaves pixels as they are, for 8-bit images.
_SHARP = 0.15


@dataclass(frozen=True)
class GaussianBlur:
    """Uniform blur; made by `gaussian_blur`, which describes the parameters."""

    sigma_deg: float
    image_deg: float = 8.4

    saved_alone = True  # a saved extractor may hold it

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Blurred image, as the given one: uint8, (H, W) or (H, W, 3)."""
        return _rounded(_blurred(image, self.sigma_deg * pixels_per_degree(image, self.image_deg)))


@dataclass(frozen=True)
class FovealBlur:
    """Blur that grows with eccentricity; made by `foveal_blur`, which describes the parameters."""

    sigma_deg: float
    e2: float = 2.3
    fixation: tuple[float, float] = (0.0, 0.0)
    image_deg: float = 8.4

    saved_alone = True

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Blurred image, as the given one: uint8, (H, W) or (H, W, 3)."""
        scale = pixels_per_degree(image, self.image_deg)
        sd = self.sigma_deg * scale * (1 + eccentricity(image, self.fixation, scale) / self.e2)
        n = 1 + int(np.ceil(np.log(sd.max() / sd.min()) / np.log(_STEP)))
        levels = np.geomspace(sd.min(), sd.max(), max(n, 2))
        # The mixture of two Gaussians has the variance that is wanted.
        place = np.interp(sd**2, levels**2, np.arange(len(levels)))
        mixed = np.zeros(image.shape)
        for level, width in enumerate(levels):
            weight = np.clip(1 - np.abs(place - level), 0, None)
            mixed += _over_colours(weight, image) * _blurred(image, float(width))
        return _rounded(mixed)


@dataclass(frozen=True)
class UBPBlur:
    """Blend of an image with a blurred one, as UBP has it; made by ``foveal_blur("ubp")``."""

    saved_alone = True

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Blended image, as the given one: uint8, (H, W) or (H, W, 3)."""
        distance = eccentricity(image, (0.0, 0.0), 1.0)
        blurred = _over_colours(1 - 0.5 * np.exp(-3 * distance / distance.max()), image)
        return _rounded(blurred * _blurred(image, _UBP_SD * image.shape[1]) + (1 - blurred) * image)


def gaussian_blur(sigma_deg: float, *, image_deg: float = 8.4) -> GaussianBlur:
    """Gaussian blur of the whole image, for `TransformedFeatures`.

    Parameters
    ----------
    sigma_deg : float, >= 0
        s.d. in degrees of visual angle.
    image_deg : float
        Width of the image in degrees; 8.4 in the NSD.

    Returns
    -------
    GaussianBlur : function from an image, uint8, (H, W) or (H, W, 3), to another of its size

    Raises
    ------
    ValueError : a number is out of range.

    Notes
    -----
    Pixel values are blurred as they are stored, not as luminance, and the image is continued by its
    mirror image.

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.features import gaussian_blur
    >>> image = np.zeros((21, 21), dtype=np.uint8)
    >>> image[10, 10] = 250
    >>> blur = gaussian_blur(0.4, image_deg=8.4)  # 1 pixel
    >>> int(blur(image)[10, 10])  # 250 / 2π
    40
    """
    check_degrees("sigma_deg", sigma_deg, zero=True)
    check_degrees("image_deg", image_deg)
    return GaussianBlur(float(sigma_deg), float(image_deg))


def foveal_blur(
    sigma_deg: float | str,
    e2: float = 2.3,
    *,
    fixation: tuple[float, float] = (0.0, 0.0),
    image_deg: float = 8.4,
) -> FovealBlur | UBPBlur:
    """Blur that grows with the distance from fixation, for `TransformedFeatures`.

    Parameters
    ----------
    sigma_deg : float, > 0, or "ubp"
        s.d. of the Gaussian at fixation, in degrees. At eccentricity e it is sigma_deg · (1 +
        e / e2), the inverse of the fall of acuity. "ubp" is the preset of UBP (Wu et al., 2025),
        which has no other parameters: pixel values are (1 − α) · image + α · blurred image with
        α = 1 − .5 · exp(−3 d / d_max), d the distance from the centre and d_max that of the
        corners; the blur has an s.d. of 8 pixels in an image of 224. Thus the centre, too, is
        blurred by half.
    e2 : float, > 0
        Eccentricity at which acuity is half of that at fixation, in degrees.
    fixation : (float, float)
        Degrees right and up of the centre of the image.
    image_deg : float
        Width of the image in degrees; 8.4 in the NSD.

    Returns
    -------
    FovealBlur or UBPBlur : function from an image, uint8, (H, W) or (H, W, 3), to another of its
        size

    Raises
    ------
    ValueError : a number is out of range, or another name than "ubp".

    References
    ----------
    Geisler & Perry (1998), SPIE 3299 (e2 = 2.3°); Wu et al. (2025), CVPR (UBP).

    Examples
    --------
    >>> import numpy as np
    >>> from brainenc.features import foveal_blur
    >>> stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    >>> contrast = foveal_blur(0.05)(stripes).astype(float).std(axis=0)
    >>> int(foveal_blur(0.05)(stripes)[32, 30:34].std()) > int(
    ...     foveal_blur(0.05)(stripes)[32, :4].std()
    ... )
    True
    """
    if isinstance(sigma_deg, str):
        given = (e2, tuple(fixation), image_deg)
        if sigma_deg != "ubp" or given != (2.3, (0.0, 0.0), 8.4):
            raise ValueError(
                f'foveal_blur({sigma_deg!r}) must be "ubp" alone, without other parameters, or '
                "have a number of degrees"
            )
        return UBPBlur()
    for name, value in {"sigma_deg": sigma_deg, "e2": e2, "image_deg": image_deg}.items():
        check_degrees(name, value)
    x, y = (float(value) for value in fixation)
    if not (np.isfinite(x) and np.isfinite(y)):
        raise ValueError(f"fixation={fixation!r} must be two finite numbers of degrees")
    return FovealBlur(float(sigma_deg), float(e2), (x, y), float(image_deg))


def _blurred(image: np.ndarray, sd: float) -> np.ndarray:
    """Image blurred by a Gaussian of `sd` pixels, float64."""
    values = np.asarray(image, np.float64)
    if sd < _SHARP:
        return values
    return gaussian_filter(values, sd, mode="mirror", axes=(0, 1))


def _over_colours(weights: np.ndarray, image: np.ndarray) -> np.ndarray:
    return weights if image.ndim == 2 else weights[..., None]


def _rounded(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
