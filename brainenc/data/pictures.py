"""One picture of Pillow as the pixels that were shown: upright, opaque, 8 bits."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps

#: A colour: its name or "#rrggbb", a grey value, or red, green and blue in 0 … 255.
Colour = str | int | Sequence[int]

#: Modes of Pillow with an alpha channel.
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


def pixels_of(
    image: Image.Image, mode: str, name: str, background: Colour | None = None
) -> np.ndarray:
    """Pixels of a picture as a program that shows images would show them.

    A photograph that its camera marked as turned (EXIF) is turned upright, and transparent pixels
    are laid over the background.

    Parameters
    ----------
    image : PIL.Image.Image
    mode : "RGB" or "L"
    name : str
        Name of the picture in errors.
    background : colour, optional

    Returns
    -------
    array of uint8, shape (H, W, 3) or (H, W)

    Raises
    ------
    ValueError : several frames, more than 8 bits, or transparent pixels without a background.
    """
    check_picture(image, name)
    upright = ImageOps.exif_transpose(image)
    if not _has_alpha(upright):
        return np.asarray(upright.convert(mode))
    premultiplied = {"RGBa": "RGBA", "La": "LA"}
    rgba = upright.convert(premultiplied.get(upright.mode, upright.mode)).convert("RGBA")
    opaque = over_background(np.asarray(rgba), name, background)
    return np.asarray(Image.fromarray(opaque).convert(mode))


def check_picture(image: Image.Image, name: str) -> None:
    """Check what the header of a file says, before its pixels are read.

    Raises
    ------
    ValueError : several frames, or more than 8 bits.
    """
    n_frames = getattr(image, "n_frames", 1)
    # A camera's MPO file is a photograph with a preview of it.
    if n_frames > 1 and image.format != "MPO":
        raise ValueError(
            f"{name} has {n_frames} frames or pages: save the one that was shown as a file "
            "of its own (or image.copy(), the current frame of a PIL image)"
        )
    # PIL would clip or cut these to 0 … 255 silently.
    deep = image.mode == "F" or image.mode.startswith("I")
    if deep or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        raise ValueError(
            f"{name} has more than 8 bits (mode {image.mode}): scale it to 0 … 255 and save it as "
            "uint8, since only you know its range"
        )


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of the upright picture, from the header of its file."""
    width, height = image.size
    if image.format == "TIFF":  # Pillow may have turned the size already: 256 and 257 are the tags
        width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def over_background(rgba: np.ndarray, name: str, background: Colour | None) -> np.ndarray:
    """Pixels with alpha laid over a background of one colour.

    Parameters
    ----------
    rgba : array of uint8, shape (..., 4)
        Red, green, blue and alpha, 0 (transparent) … 255 (opaque); not premultiplied.
    name : str
        Name of the picture in errors.
    background : colour, optional
        Not needed if all pixels are opaque.

    Returns
    -------
    array of uint8, shape (..., 3)
        background + (colour − background) · alpha / 255, rounded.

    Raises
    ------
    ValueError : transparent pixels without a background.

    Examples
    --------
    >>> over_background(np.array([200, 30, 30, 0], np.uint8), "image", "white").tolist()
    [255, 255, 255]
    """
    alpha = rgba[..., 3:]
    if (alpha == 255).all():
        return rgba[..., :3]
    if background is None:
        raise ValueError(
            f"{name} has transparent pixels, whose colour depends on what lies behind them: name "
            'the background that was shown, as ImageFiles(paths, background="white") or '
            "as_images(images, background=(128, 128, 128)), or save the images without "
            "transparency (an alpha channel of 255)"
        )
    behind = np.array(rgb_of(background), dtype=np.float32)
    mixed = behind + (rgba[..., :3] - behind) * (alpha.astype(np.float32) / 255)
    return np.rint(mixed).astype(np.uint8)


def rgb_of(background: Any) -> tuple[int, int, int]:
    """Red, green and blue of a colour.

    Raises
    ------
    ValueError : no colour, or numbers outside 0 … 255.
    """
    channels: Any = ()
    if isinstance(background, str):
        with suppress(ValueError):  # refused below
            channels = ImageColor.getrgb(background)
    else:
        channels = tuple(np.ravel(background).tolist())
        channels = channels * 3 if np.ndim(background) == 0 else channels
    if len(channels) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in channels):
        raise ValueError(
            f"background={background!r} must be a colour: a name or '#rrggbb', a grey value, or "
            "(red, green, blue), each a whole number in 0 … 255"
        )
    return channels


def _has_alpha(image: Image.Image) -> bool:
    palette_with_alpha = image.mode == "P" and str(getattr(image.palette, "mode", "")).endswith("A")
    return image.mode in _WITH_ALPHA or "transparency" in image.info or palette_with_alpha
