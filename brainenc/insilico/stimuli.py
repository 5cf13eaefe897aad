"""Pictures for experiments: gratings, bars, objects on backgrounds, series of contrast and blur.

Positions and sizes are fractions of the image: x to the right and y up from the centre, from −0.5
to 0.5. Orientations are those of stripes and bars, in degrees counterclockwise: 0 is horizontal, 90
vertical.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from brainenc.conversion import numeric_array, text_keys
from brainenc.data.images import as_images
from brainenc.insilico.stimulus_values import check_inside, checked_values, value_text
from brainenc.validation import check_whole

#: Mid-grey, the background of made pictures.
GREY = 127.5


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Pictures and what is shown in each.

    Attributes
    ----------
    images : array, shape (n_images, size, size, 3), uint8
    table : pandas.DataFrame, n_images rows
        ``condition``, and a column per parameter, such as ``orientation``. Images of one condition
        have the same parameters.

    Examples
    --------
    >>> from brainenc.insilico import gratings
    >>> stimuli = gratings(orientations=[0, 90], phases=4, image_size=32)
    >>> stimuli.images.shape, list(stimuli.conditions())
    ((8, 32, 32, 3), ['orientation 0', 'orientation 90'])
    """

    images: np.ndarray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        names = ", ".join(self.parameters.columns)
        n = self.table["condition"].nunique()
        return f"Stimuli({len(self)} images, {n} conditions, parameters: {names})"

    def conditions(self) -> dict[str, np.ndarray]:
        """Images of each condition, in the order of the table."""
        groups = self.table.reset_index(drop=True).groupby("condition", sort=False).indices
        named = text_keys(groups, "the column condition")
        return {name: self.images[rows] for name, rows in named.items()}

    @property
    def parameters(self) -> pd.DataFrame:
        """Parameters of each condition: one row per condition, which is the index."""
        return self.table.drop_duplicates("condition").set_index("condition")


def gratings(
    orientations: Sequence[float] = (0, 22.5, 45, 67.5, 90, 112.5, 135, 157.5),
    *,
    cycles: Sequence[float] = (8,),
    contrasts: Sequence[float] = (0.8,),
    sizes: Sequence[float | None] = (None,),
    phases: int = 8,
    x: float = 0,
    y: float = 0,
    image_size: int = 64,
) -> Stimuli:
    """Sine gratings on mid-grey, in all combinations of their parameters.

    Parameters
    ----------
    orientations : sequence of float
        Of the stripes, degrees: 0 is horizontal, 90 vertical.
    cycles : sequence of float
        Cycles per image.
    contrasts : sequence of float in [0, 1]
        (brightest − darkest) / (brightest + darkest).
    sizes : sequence of float or None
        Diameter of a round aperture with a soft edge, as a fraction of the image; None: the whole
        image.
    phases : int
        Images of each condition, at equal steps of phase.
    x, y : float
        Centre of the aperture.
    image_size : int
        Height and width in pixels.

    Returns
    -------
    Stimuli
        With the parameters that have more than one value; at least the orientation.

    Raises
    ------
    ValueError : a value out of its range, or more cycles than pixels can show.

    Examples
    --------
    >>> found = gratings([0, 45, 90, 135], contrasts=[0.1, 0.8], phases=2)
    >>> len(found), list(found.parameters.columns)
    (16, ['orientation', 'contrast'])
    """
    values = checked_values(
        {"orientation": orientations, "cycles": cycles, "contrast": contrasts, "size": sizes}
    )
    check_whole("image_size", image_size)
    check_whole("phases", phases)
    check_inside("(x, y)", [(x, y)])
    if max(cycles) > image_size / 2 or min(cycles) <= 0:
        raise ValueError(
            f"cycles={list(cycles)} must be above 0 and at most {image_size / 2:g}, half of "
            f"image_size={image_size}"
        )
    right, up = _grid(image_size)

    def draw(orientation: float, n: float, contrast: float, size: float | None) -> np.ndarray:
        angle = np.deg2rad(orientation)
        across = up * np.cos(angle) - right * np.sin(angle)
        phase = np.arange(phases)[:, None, None] / phases
        wave = np.sin(2 * np.pi * (n * across + phase))
        return _grey(contrast * wave * _aperture(right - x, up - y, size, image_size))

    return _crossed(values, draw, ["orientation"])


def bars(
    orientations: Sequence[float] = (0, 90),
    *,
    positions: Sequence[float] = tuple(np.linspace(-0.4, 0.4, 9).round(3).tolist()),
    width: float = 0.1,
    contrast: float = 0.8,
    image_size: int = 64,
) -> Stimuli:
    """Bars at several positions, filled with a checkerboard, as in retinotopic mapping.

    Parameters
    ----------
    orientations : sequence of float
        Of the bar, degrees: 0 is horizontal, 90 vertical.
    positions : sequence of float
        Distance of the bar from the centre, across it: upwards, for a vertical bar to the right.
    width : float
    contrast : float in [0, 1]
    image_size : int
        Height and width in pixels.

    Returns
    -------
    Stimuli
        With the parameters ``orientation`` and ``position``; two images per condition, a
        checkerboard and its negative.

    Raises
    ------
    ValueError : a value out of its range.

    Examples
    --------
    >>> bars([0, 90], positions=[-0.2, 0.2]).parameters["position"].tolist()
    [-0.2, 0.2, -0.2, 0.2]
    """
    values = checked_values({"orientation": orientations, "position": positions})
    checked_values({"contrast": [contrast]})
    check_whole("image_size", image_size)
    if not 0 < width <= 1:
        raise ValueError(f"width={width} must be above 0 and at most 1, the whole image")
    for orientation, position in product(*values.values()):
        angle = np.deg2rad(orientation)
        end = 0.5 * (abs(np.sin(angle)) + abs(np.cos(angle)))
        if abs(position) >= end + width / 2:
            raise ValueError(
                f"positions={list(positions)} must lie in the image: a bar of orientation "
                f"{orientation:g} at {position:g} is outside, the edge is at {end:.2g}"
            )
    right, up = _grid(image_size)

    def draw(orientation: float, position: float) -> np.ndarray:
        angle = np.deg2rad(orientation)
        across = up * np.cos(angle) - right * np.sin(angle)
        across = (across if np.cos(angle) > 1e-9 else -across) - position
        along = right * np.cos(angle) + up * np.sin(angle)
        checks = np.where((np.floor(2 * across / width) + np.floor(2 * along / width)) % 2, 1, -1)
        soft = np.clip((width / 2 - np.abs(across)) * image_size + 0.5, 0, 1)
        return _grey(contrast * soft * np.stack([checks, -checks]))

    return _crossed(values, draw, ["orientation", "position"])


def objects_on_backgrounds(
    objects: dict[str, Any],
    backgrounds: Any = None,
    *,
    sizes: Sequence[float] = (0.6,),
    positions: Sequence[tuple[float, float]] = ((0, 0),),
    image_size: int = 64,
    random_state: int = 0,
) -> Stimuli:
    """Cut-out objects on grey or on pictures, every object of a condition at every place.

    Parameters
    ----------
    objects : dict of condition to arrays (n_objects, H, W, 4), uint8, or lists of PIL images
        RGBA pictures, transparent outside the object.
    backgrounds : images, optional
        Pictures, of which each image gets one at random, the same for the k-th object of every
        condition; by default mid-grey.
    sizes : sequence of float
        Larger side of an object, as a fraction of the image.
    positions : sequence of (x, y)
        Centres.
    image_size : int
        Height and width in pixels.
    random_state : int
        Seed of the choice of backgrounds.

    Returns
    -------
    Stimuli
        With the parameter ``object``, the condition; and ``size``, ``x``, ``y`` if they vary.

    Raises
    ------
    ValueError : no objects, pictures without transparency, a value out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> disc = np.zeros((2, 16, 16, 4), np.uint8)
    >>> disc[:, 4:12, 4:12] = 255
    >>> found = objects_on_backgrounds({"disc": disc}, sizes=[0.3, 0.6])
    >>> found.parameters["size"].tolist(), len(found)
    ([0.3, 0.6], 4)
    """
    cut_outs = {
        name: [_rgba(one, name) for one in some]
        for name, some in text_keys(objects, "objects").items()
    }
    if not cut_outs or not all(cut_outs.values()):
        raise ValueError("objects has no picture, or a condition without one")
    check_whole("image_size", image_size)
    pairs = numeric_array(positions, "positions")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"positions={positions!r} must be pairs (x, y), such as [(0, 0)]")
    places = list(map(tuple, pairs.astype(float).tolist()))
    values = checked_values({"object": list(cut_outs), "size": sizes, "place": places})
    check_inside("positions", places)
    sizes = values["size"]
    if not all(size is not None and 0 < size <= 1 for size in sizes):
        raise ValueError(f"sizes={list(sizes)} must be above 0 and at most 1, the whole image")
    rng = np.random.default_rng(random_state)
    behind = _backgrounds(backgrounds, image_size)
    most = max(map(len, cut_outs.values()))
    chosen = behind[rng.integers(len(behind), size=(len(sizes) * len(places), most))]

    def draw(name: str, size: float, place: tuple[float, float]) -> np.ndarray:
        row = sizes.index(size) * len(places) + places.index(place)
        both = zip(chosen[row], cut_outs[name], strict=False)
        return np.stack([_pasted(one, ground, size, place) for ground, one in both])

    found = _crossed(values, draw, ["object"])
    if "place" not in found.table:
        return found
    shown = np.array(found.table["place"].tolist())
    table = found.table.drop(columns="place").assign(x=shown[:, 0], y=shown[:, 1])
    return Stimuli(found.images, table)


def with_contrast(images: Any, contrasts: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.8)) -> Stimuli:
    """The same pictures at several contrasts.

    Parameters
    ----------
    images : images, as for `brainenc.images.as_images`
    contrasts : sequence of float in [0, 1]
        Factor of the differences from the picture's mean luminance: 1 leaves it as it is.

    Returns
    -------
    Stimuli
        With the parameter ``contrast``.

    Raises
    ------
    ValueError : a contrast below 0 or above 1.

    Examples
    --------
    >>> import numpy as np
    >>> picture = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    >>> bool((with_contrast(picture, [0.5, 1]).images[1] == picture[0]).all())
    True
    """
    values = checked_values({"contrast": contrasts})
    pixels = _rgb(images)
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    return _crossed(values, lambda c: _uint8(mean + c * (pixels - mean)), ["contrast"])


def with_blur(images: Any, sigmas: Sequence[float] = (0, 0.01, 0.02, 0.04, 0.08)) -> Stimuli:
    """The same pictures, blurred more and more.

    Parameters
    ----------
    images : images, as for `brainenc.images.as_images`
    sigmas : sequence of float, >= 0
        s.d. of the Gaussian, as a fraction of the picture's width; 0 leaves it as it is.

    Returns
    -------
    Stimuli
        With the parameter ``blur``.

    Raises
    ------
    ValueError : a negative sigma.

    Examples
    --------
    >>> import numpy as np
    >>> picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    >>> found = with_blur(picture, [0, 0.1])
    >>> bool(found.images[1].std() < 0.2 * found.images[0].std())
    True
    """
    values = checked_values({"blur": sigmas})
    if not all(sigma >= 0 for sigma in sigmas):
        raise ValueError(f"sigmas={list(sigmas)} must be 0 or more")
    pixels = _rgb(images)

    def draw(sigma: float) -> np.ndarray:
        sd = sigma * pixels.shape[2]
        return _uint8(gaussian_filter(pixels, (0, sd, sd, 0), mode="nearest"))

    return _crossed(values, draw, ["blur"])


# ------------------------------------------------------------------ parts


def _crossed(
    values: Mapping[str, Sequence[Any]],
    draw: Callable[..., np.ndarray],
    always: Sequence[str],
) -> Stimuli:
    """All combinations; parameters with one value have no column unless `always` names them."""
    shown = [name for name in values if len(values[name]) > 1 or name in always]
    images, rows = [], []
    for combination in product(*values.values()):
        drawn = draw(*combination)
        given = dict(zip(values, combination, strict=True))
        parameters = {name: given[name] for name in shown}
        name = ", ".join(f"{key} {value_text(value)}" for key, value in parameters.items())
        images.append(drawn)
        rows += [{"condition": name, **parameters}] * len(drawn)
    table = pd.DataFrame(rows)
    if "size" in table:
        table["size"] = table["size"].astype(float)  # None, the whole image, is NaN
    return Stimuli(np.concatenate(images), table)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Fractions right and up of the centre, of the pixels' centres."""
    right = (np.arange(size) + 0.5) / size - 0.5
    to_the_right, up = np.meshgrid(right, -right)
    return to_the_right, up


def _aperture(right: np.ndarray, up: np.ndarray, size: float | None, pixels: int) -> np.ndarray:
    if size is None:
        return np.ones_like(right)
    edge = max(0.1 * size, 1 / pixels)
    return 1 / (1 + np.exp((np.hypot(right, up) - size / 2) / (edge / 4)))


def _grey(deviation: np.ndarray) -> np.ndarray:
    """RGB of deviations from mid-grey, −1 … 1."""
    grey = _uint8(GREY * (1 + deviation))
    return np.repeat(grey[..., None], 3, axis=-1)


def _uint8(values: np.ndarray) -> np.ndarray:
    return np.round(np.clip(values, 0, 255)).astype(np.uint8)


def _rgb(images: Any) -> np.ndarray:
    pixels = np.asarray(as_images(images), dtype=np.float64)
    return pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=-1)


def _rgba(picture: Any, name: str) -> Image.Image:
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 4 or array.dtype != np.uint8:
        raise ValueError(
            f"objects[{name!r}] has a picture of shape {array.shape}, {array.dtype}, and needs "
            "RGBA pictures (H, W, 4) in uint8, transparent outside the object"
        )
    return Image.fromarray(array)


def _backgrounds(backgrounds: Any, size: int) -> np.ndarray:
    if backgrounds is None:
        return np.full((1, size, size, 3), int(GREY), np.uint8)
    return np.stack(list(_resized(_rgb(backgrounds), size)))


def _resized(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for picture in pixels.astype(np.uint8):
        yield np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def _pasted(
    picture: Image.Image, background: np.ndarray, size: float, place: tuple[float, float]
) -> np.ndarray:
    pixels = len(background)
    zoom = size * pixels / max(picture.size)
    width, height = (max(1, round(zoom * side)) for side in picture.size)
    tile = picture.resize((width, height), Image.Resampling.LANCZOS)
    scene = Image.fromarray(background)
    left = round((0.5 + place[0]) * pixels - width / 2)
    top = round((0.5 - place[1]) * pixels - height / 2)
    scene.paste(tile.convert("RGB"), (left, top), tile.getchannel("A"))
    return np.asarray(scene)
