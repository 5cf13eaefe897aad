"""Procedural colour scenes: textures with faces, bodies, places, vehicles and food in them.

Every scene has a table of its objects, so that responses to content can be simulated without object
recognition. The scene spans `FIELD` degrees of visual angle, as in the NSD.
"""

import colorsys
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from brainenc.progress import progress

#: Width and height of a scene in degrees of visual angle.
FIELD = 8.4

#: Categories of a scene. A place fills the scene, the others are objects in it.
CATEGORIES = ("face", "body", "place", "vehicle", "food")

#: Share of scenes without a main place that still have a place of low contrast behind.
PLACE_BEHIND = 0.25

_OVERSAMPLING = 4  # shapes are drawn this much larger and averaged down: smooth edges

Colour = tuple[int, int, int]


def make_scenes(
    seeds: Sequence[np.random.SeedSequence], image_size: int = 64, *, verbose: bool = False
) -> tuple[np.ndarray, pd.DataFrame]:
    """Scenes and the objects in them.

    Parameters
    ----------
    seeds : sequence of numpy.random.SeedSequence, length n_images
        One per scene, so that a scene does not depend on the number of scenes.
    image_size : int
        Height and width in pixels.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    images : array, shape (n_images, image_size, image_size, 3), uint8
    objects : pandas.DataFrame
        One row per object, at least one per image, the main object of an image first: ``image``;
        ``category``; ``x``, ``y`` (centre, degrees right and up of fixation); ``size`` (degrees);
        ``contrast`` (0 … 1); ``hue`` (0 … 1, a circle); ``tilt`` and ``style`` (−1 … 1).
    """
    images = np.empty((len(seeds), image_size, image_size, 3), np.uint8)
    rows = []
    bar = progress(seeds, desc="drawing scenes", unit="image", verbose=verbose)
    for i, seed in enumerate(bar):
        rng = np.random.default_rng(seed)
        objects = _scene_content(rng)
        images[i] = draw_scene(rng, objects, image_size)
        rows += [{"image": i, **content} for content in objects]
    return images, pd.DataFrame(rows)


# ------------------------------------------------------------------ content of a scene


def _scene_content(rng: np.random.Generator) -> list[dict]:
    main = _random_object(rng, str(rng.choice(CATEGORIES)), (2.8, 6.5), spread=1.2)
    others = [c for c in CATEGORIES if c != "place"]
    objects = [main]
    for _ in range(rng.integers(0, 3)):
        objects.append(_random_object(rng, str(rng.choice(others)), (1.5, 2.6), spread=2.2))
    if main["category"] != "place" and rng.random() < PLACE_BEHIND:
        place = _random_object(rng, "place", (FIELD, FIELD), spread=0.0)
        objects.append({**place, "contrast": 0.5 * place["contrast"]})
    return objects


def _random_object(
    rng: np.random.Generator, category: str, sizes: tuple[float, float], spread: float
) -> dict:
    place = category == "place"
    x, y = np.clip(spread * rng.standard_normal(2), -0.4 * FIELD, 0.4 * FIELD)
    return {
        "category": category,
        "x": 0.0 if place else float(x),
        "y": 0.0 if place else float(y),
        "size": FIELD if place else float(rng.uniform(*sizes)),
        "contrast": float(rng.uniform(0.35, 1.0)),
        "hue": float(rng.random()),
        "tilt": float(rng.uniform(-1, 1)),
        "style": float(rng.uniform(-1, 1)),
    }


def draw_scene(
    rng: np.random.Generator, objects: list[dict], size: int, background: np.ndarray | None = None
) -> np.ndarray:
    """Picture (size, size, 3) of objects on a background, a texture by default."""
    scene = Image.fromarray(_texture(rng, size) if background is None else background)
    # Places lie behind everything and the main object before everything.
    order = sorted(objects[::-1], key=lambda content: content["category"] != "place")
    for content in order:
        if content["category"] == "place":
            scene = Image.blend(scene, _draw_place(rng, content, size), 0.9 * content["contrast"])
        else:
            _paste(scene, _draw_object(rng, content, size), content, size)
    return np.asarray(scene)


def _paste(scene: Image.Image, tile: Image.Image, content: dict, size: int) -> None:
    centre = ((0.5 + content["x"] / FIELD) * size, (0.5 - content["y"] / FIELD) * size)
    corner = tuple(round(c - tile.width / 2) for c in centre)
    opacity = tile.getchannel("A").point(lambda alpha: alpha * content["contrast"])
    scene.paste(tile.convert("RGB"), corner, opacity)


# ------------------------------------------------------------------ textures


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """1/f noise in colour with a dominant orientation, and a grating in part of it; uint8."""
    frequency, angle = _frequency_grid(size)
    slope, orientation = rng.uniform(0.9, 1.4), rng.uniform(0, np.pi)
    anisotropy = np.exp(rng.uniform(0, 1.5) * np.cos(2 * (angle - orientation)))
    spectrum = np.fft.rfft2(rng.standard_normal((4, size, size))) * frequency**-slope * anisotropy
    noise = np.fft.irfft2(spectrum, s=(size, size))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    luminance, warm, green, where = noise
    weight = rng.uniform(0, 1.5) / (1 + np.exp(-4 * where))
    luminance = luminance + weight * _grating(rng, size)
    chroma = np.stack([warm, -0.5 * warm + 0.7 * green, -0.5 * warm - 0.7 * green], axis=-1)
    mean = 0.5 + 0.08 * rng.standard_normal(3)
    contrast, saturation = rng.uniform(0.06, 0.2), rng.uniform(0, 0.08)
    return _to_uint8(mean + contrast * luminance[..., None] + saturation * chroma)


def _grating(rng: np.random.Generator, size: int) -> np.ndarray:
    cycles, angle, phase = 2 ** rng.uniform(1, 4), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size
    return np.sin(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)


@lru_cache(maxsize=4)
def _frequency_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    fy, fx = np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = np.inf  # no mean: it is set by the caller
    return frequency, np.arctan2(fy, fx)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


# ------------------------------------------------------------------ objects, in a unit square


class _Pen:
    """Draws shapes given in 0 … 1 coordinates (x to the right, y down) on a PIL image."""

    def __init__(self, image: Image.Image):
        self.draw, self.width = ImageDraw.Draw(image), image.width

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        box = np.array([x - rx, y - ry, x + rx, y + ry]) * self.width
        self.draw.ellipse(box.tolist(), fill=colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon((np.array(points) * self.width).ravel().tolist(), fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def line(self, points: Sequence[tuple[float, float]], width: float, colour: Colour) -> None:
        path = (np.array(points) * self.width).ravel().tolist()
        self.draw.line(path, fill=colour, width=max(1, round(width * self.width)), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, colour)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_object(rng: np.random.Generator, content: dict, size: int) -> Image.Image:
    pixels = max(4, round(content["size"] / FIELD * size))
    tile = Image.new("RGBA", (pixels * _OVERSAMPLING,) * 2, (0, 0, 0, 0))
    _DRAW[content["category"]](_Pen(tile), rng, content["hue"], content["style"])
    tile = tile.rotate(-20 * content["tilt"], Image.Resampling.BILINEAR)
    return tile.reduce(_OVERSAMPLING)


def _draw_face(pen: _Pen, rng: np.random.Generator, hue: float, style: float) -> None:
    skin = _colour(0.04 + 0.05 * hue, rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.98))
    hair = _colour(hue, 0.5, rng.uniform(0.1, 0.5))
    width = 0.33 + 0.06 * style
    pen.ellipse(0.5, 0.43, width + 0.07, 0.42, hair)
    pen.ellipse(0.5, 0.54, width, 0.41, skin)
    for side in (-1, 1):
        x = 0.5 + side * 0.42 * width
        pen.ellipse(x, 0.46, 0.075, 0.045, (245, 245, 245))
        pen.ellipse(x, 0.46, 0.038, 0.042, (25, 20, 20))
        pen.line([(x - 0.07, 0.38), (x + 0.07, 0.37)], 0.025, hair)
    pen.line([(0.5, 0.5), (0.48, 0.64), (0.53, 0.65)], 0.02, (90, 55, 45))
    smile = 0.05 * style
    pen.line(
        [(0.38, 0.76 - smile), (0.5, 0.77 + smile), (0.62, 0.76 - smile)], 0.045, (150, 35, 45)
    )


def _draw_body(pen: _Pen, rng: np.random.Generator, hue: float, style: float) -> None:
    cloth = _colour(hue, 0.75, rng.uniform(0.4, 0.95))
    trousers = _colour(hue + 0.4, 0.5, rng.uniform(0.2, 0.6))
    skin = _colour(0.06, 0.4, rng.uniform(0.5, 0.95))
    for side in (-1, 1):
        swing = rng.uniform(-0.3, 0.3)
        _limb(pen, (0.5 + side * 0.07, 0.58), np.pi / 2 - side * 0.25 + swing, 0.2, trousers)
        raised = np.pi / 2 - side * (0.9 + 0.8 * style) + swing
        _limb(pen, (0.5 + side * 0.11, 0.28), raised, 0.16, skin)
    pen.polygon([(0.36, 0.24), (0.64, 0.24), (0.6, 0.62), (0.4, 0.62)], cloth)
    pen.ellipse(0.5, 0.13, 0.075, 0.1, skin)


def _limb(
    pen: _Pen, start: tuple[float, float], angle: float, length: float, colour: Colour
) -> None:
    """Two segments with a bend between them, as an arm or a leg."""
    bend = angle + 0.35 * np.cos(angle)
    joint = (start[0] + length * np.cos(angle), start[1] + length * np.sin(angle))
    end = (joint[0] + length * np.cos(bend), joint[1] + length * np.sin(bend))
    pen.line([start, joint, end], 0.08, colour)


def _draw_vehicle(pen: _Pen, rng: np.random.Generator, hue: float, style: float) -> None:
    paint = _colour(hue, 0.8, rng.uniform(0.5, 1.0))
    roof, glass = 0.34 - 0.1 * style, _colour(0.55, 0.25, 0.9)
    pen.polygon([(0.22, 0.52), (0.34, roof), (0.68, roof), (0.82, 0.52)], paint)
    for left, right in [(0.31, 0.49), (0.53, 0.72)]:
        top = 0.02 + roof
        pen.polygon([(left, 0.5), (left + 0.04, top), (right - 0.03, top), (right, 0.5)], glass)
    pen.box(0.06, 0.5, 0.95, 0.7, paint)
    for x in (0.26, 0.75):
        pen.ellipse(x, 0.71, 0.12, 0.12, (25, 25, 28))
        pen.ellipse(x, 0.71, 0.05, 0.05, (170, 170, 175))


def _draw_food(pen: _Pen, rng: np.random.Generator, hue: float, style: float) -> None:
    pen.ellipse(0.5, 0.62, 0.47, 0.28, (205, 205, 210))
    pen.ellipse(0.5, 0.61, 0.38, 0.21, (240, 240, 240))
    for k in range(round(4 + 2 * style)):
        angle = 2.4 * k + rng.uniform(0, 1)
        x, y = 0.5 + 0.17 * np.cos(angle), 0.54 + 0.1 * np.sin(angle)
        value = rng.uniform(0.6, 1.0)
        pen.ellipse(x, y, 0.13, 0.13, _colour(hue + 0.06 * k, 0.85, value))
        pen.ellipse(x - 0.04, y - 0.05, 0.03, 0.03, _colour(hue + 0.06 * k, 0.2, 1.0))
        pen.line([(x, y - 0.11), (x + 0.03, y - 0.2)], 0.025, (70, 110, 40))


_DRAW: dict[str, Callable[[_Pen, np.random.Generator, float, float], None]] = {
    "face": _draw_face,
    "body": _draw_body,
    "vehicle": _draw_vehicle,
    "food": _draw_food,
}


# ------------------------------------------------------------------ places


def _draw_place(rng: np.random.Generator, content: dict, size: int) -> Image.Image:
    """Corridor, street or landscape by `style`; the horizon is high or low by `tilt`."""
    canvas = Image.new("RGB", (size * _OVERSAMPLING,) * 2)
    style, horizon = content["style"], 0.5 + 0.12 * content["tilt"]
    kind = _corridor if style < -1 / 3 else _street if style < 1 / 3 else _landscape
    kind(_Pen(canvas), rng, content["hue"], horizon)
    return canvas.reduce(_OVERSAMPLING)


def _corridor(pen: _Pen, rng: np.random.Generator, hue: float, horizon: float) -> None:
    x, half = rng.uniform(0.4, 0.6), rng.uniform(0.08, 0.15)
    far = [
        (x - half, horizon - half),
        (x + half, horizon - half),
        (x + half, horizon + half),
        (x - half, horizon + half),
    ]
    near = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    for k, value in enumerate((0.9, 0.6, 0.4, 0.7)):  # ceiling, right wall, floor, left wall
        corners = [near[k], near[(k + 1) % 4], far[(k + 1) % 4], far[k]]
        pen.polygon(corners, _colour(hue, 0.3, value))
    pen.polygon(far, _colour(hue, 0.15, 0.98))
    for depth in (0.25, 0.5, 0.72):
        frame = ((1 - depth) * np.array(near) + depth * np.array(far)).tolist()
        pen.line([*frame, frame[0]], 0.015 * (1.3 - depth), _colour(hue, 0.4, 0.2))


def _street(pen: _Pen, rng: np.random.Generator, hue: float, horizon: float) -> None:
    pen.box(0, 0, 1, 1, _colour(0.58, 0.35, rng.uniform(0.7, 0.95)))
    pen.box(0, horizon + 0.2, 1, 1, _colour(hue, 0.08, 0.4))
    left = -0.02
    while left < 1:
        right, top = left + rng.uniform(0.18, 0.34), horizon - rng.uniform(0.15, 0.45)
        wall = rng.uniform(0.4, 0.85)
        pen.box(left, top, right, horizon + 0.22, _colour(hue + rng.uniform(0, 0.1), 0.4, wall))
        window = _colour(0.13, 0.4, 0.95 if wall < 0.6 else 0.2)
        for x in np.arange(left + 0.035, right - 0.05, 0.075):
            for y in np.arange(top + 0.05, horizon + 0.14, 0.1):
                pen.box(x, y, x + 0.035, y + 0.055, window)
        left = right + 0.005
    pen.polygon([(0.47, horizon + 0.22), (0.53, horizon + 0.22), (0.7, 1), (0.3, 1)], (95, 95, 100))


def _landscape(pen: _Pen, rng: np.random.Generator, hue: float, horizon: float) -> None:
    bands = np.linspace(0, horizon, 9)
    for k in range(8):
        pen.box(0, bands[k], 1, 1, _colour(0.58, 0.65 - 0.06 * k, 0.75 + 0.03 * k))
    x = np.linspace(0, 1, 24)
    for depth, value in enumerate((0.65, 0.5, 0.35)):
        base, phase = horizon + 0.09 * depth, rng.uniform(0, 6)
        ridge = base - 0.06 * np.sin(x * rng.uniform(4, 11) + phase)
        outline = [*np.column_stack([x, ridge]).tolist(), (1.0, 1.0), (0.0, 1.0)]
        pen.polygon(outline, _colour(0.2 + 0.2 * hue, 0.5, value))
    for _ in range(rng.integers(1, 5)):
        x0, foot = rng.uniform(0.05, 0.95), horizon + rng.uniform(0.15, 0.4)
        height = 0.9 * (foot - horizon) + 0.05
        pen.line([(x0, foot), (x0, foot - height)], 0.02, (70, 50, 35))
        crown = _colour(0.25 + 0.1 * hue, 0.7, rng.uniform(0.2, 0.45))
        pen.ellipse(x0, foot - height, 0.3 * height + 0.02, 0.4 * height, crown)
