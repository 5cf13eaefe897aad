"""Simulated cortex: positions, tuning and expected responses of voxels."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from brainenc.arrays import blocks
from brainenc.datasets.simulated.energy import FREQUENCIES, N_CHANNELS, ORIENTATIONS, cell_centres
from brainenc.datasets.simulated.scenes import CATEGORIES, FIELD
from brainenc.progress import progress


@dataclass(frozen=True)
class Area:
    """Parameters of the voxels of one area.

    `share` of all voxels; polar `angles` from one end of its patch of the sheet to the other
    (degrees, counted from the horizontal towards the upper visual field); pRF size `size + slope ·
    eccentricity` (degrees, s.d.); `exponent` of the compressive nonlinearity; weight of `colour`
    against orientation channels; `selectivity` for each of CATEGORIES, None for early areas.
    """

    share: float
    angles: tuple[float, float]
    size: float
    slope: float
    exponent: float = 0.6
    colour: float = 0.0
    selectivity: tuple[float, ...] | None = None


#: pRF sizes and exponents follow Kay et al. (2013), J Neurophysiol 110, rounded.
AREAS = {
    "V1v": Area(0.09, (0, 90), 0.25, 0.10, 0.6, 0.3),
    "V1d": Area(0.09, (-90, 0), 0.25, 0.10, 0.6, 0.3),
    "V2v": Area(0.08, (90, 0), 0.35, 0.15, 0.5, 0.4),
    "V2d": Area(0.08, (0, -90), 0.35, 0.15, 0.5, 0.4),
    "V3v": Area(0.07, (0, 90), 0.45, 0.25, 0.4, 0.4),
    "V3d": Area(0.07, (-90, 0), 0.45, 0.25, 0.4, 0.4),
    "hV4": Area(0.10, (90, -90), 0.70, 0.35, 0.35, 0.8),
    #                                                     face  body  place vehicle food
    "FFA": Area(0.13, (-60, 60), 1.6, 0.4, selectivity=(1.00, 0.30, 0.05, 0.15, 0.15)),
    "PPA": Area(0.14, (-60, 60), 2.0, 0.4, selectivity=(0.05, 0.10, 1.00, 0.30, 0.10)),
    "EBA": Area(0.15, (-60, 60), 1.6, 0.4, selectivity=(0.35, 1.00, 0.05, 0.15, 0.10)),
}

#: Order of the areas along the sheet: neighbours share a meridian.
SHEET = ("V3d", "V2d", "V1d", "V1v", "V2v", "V3v", "hV4", "FFA", "PPA", "EBA")

#: Sharpness of the preferred hue of voxels with a concept (von Mises): half at a sixth of a circle.
_CONCEPT_SHARPNESS = 1.4

#: Random directions that the weights of an area's voxels span, by a subject's own law.
_OWN_DIRECTIONS = 16

#: Numerical properties of objects that high-level voxels are tuned to besides category.
ATTRIBUTES = ("hue_cos", "hue_sin", "tilt", "style")


def early(roi: pd.Series) -> np.ndarray:
    """Mask of the voxels in retinotopic early areas, shape (n_voxels,)."""
    return roi.map(lambda name: AREAS[name].selectivity is None).to_numpy(bool)


# ------------------------------------------------------------------ positions


def place_voxels(n_voxels: int) -> pd.DataFrame:
    """Voxels on a folded sheet, area after area.

    Parameters
    ----------
    n_voxels : int
        At least one per area.

    Returns
    -------
    pandas.DataFrame, n_voxels rows
        ``roi``; ``hemisphere`` ("lh", "rh"); ``i``, ``j``, ``k`` (position in the folded sheet,
        each taken once); ``along``, ``across`` (0 … 1, position within the area's patch).
    """
    counts = _area_counts(n_voxels)
    width = max(1, round(np.sqrt(n_voxels / 2)))
    patches = []
    for right, hemisphere in enumerate(("lh", "rh")):
        first_row = 0
        for roi in SHEET:
            n = (counts[roi] + 1 - right) // 2
            row, column = np.divmod(np.arange(n), width)
            sheet_row = first_row + row
            patch = {
                "roi": roi,
                "hemisphere": hemisphere,
                "i": sheet_row,
                "j": column + (width + 4) * right,
                "k": np.round(3 + 3 * np.sin(2 * np.pi * sheet_row / 12)).astype(int),
                "along": (row + 0.5) / (row.max() + 1) if n else row,
                "across": (column + 0.5) / width,
            }
            patches.append(pd.DataFrame(patch))
            first_row += row.max() + 1 if n else 0
    table = pd.concat(patches)
    order = table["roi"].map(list(AREAS).index).to_numpy().argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


def _area_counts(n_voxels: int) -> dict[str, int]:
    """Largest-remainder shares of the voxels, at least one each."""
    quota = np.array([area.share for area in AREAS.values()]) * (n_voxels - len(AREAS))
    counts = 1 + np.floor(quota).astype(int)
    for area in np.argsort(-(quota % 1), kind="stable")[: n_voxels - counts.sum()]:
        counts[area] += 1
    return dict(zip(AREAS, counts.tolist(), strict=True))


def place_prfs(voxels: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Population receptive fields: ``x``, ``y`` and ``size`` (s.d.), degrees; one row per voxel.

    Eccentricity grows exponentially across the sheet, the polar angle runs along it, and each
    hemisphere sees the opposite side. Fields are centred inside the image.
    """
    start, end = np.array([AREAS[roi].angles for roi in voxels["roi"]]).T
    jitter = 0.04 * rng.standard_normal((2, len(voxels)))
    along = np.clip(voxels["along"] + jitter[0], 0, 1)
    across = np.clip(voxels["across"] + jitter[1], 0, 1)
    angle = np.deg2rad(start + (end - start) * along)
    nearest, farthest = 0.3, 0.46 * FIELD
    eccentricity = nearest * (farthest / nearest) ** across
    side = np.where(voxels["hemisphere"] == "lh", 1, -1)
    size = [AREAS[roi].size for roi in voxels["roi"]]
    slope = np.array([AREAS[roi].slope for roi in voxels["roi"]])
    prfs = {
        "x": side * eccentricity * np.cos(angle),
        "y": eccentricity * np.sin(angle),
        "size": (size + slope * eccentricity) * np.exp(0.1 * rng.standard_normal(len(voxels))),
    }
    return pd.DataFrame(prfs)


# ------------------------------------------------------------------ responses


@dataclass(frozen=True, eq=False)
class Law:
    """What the voxels of a subject respond to: with it new images have a true response.

    Attributes
    ----------
    tuning : array, shape (n_voxels, N_CHANNELS)
        Weights of the channels of `gabor_energy`.
    exponent, content_share : arrays, shape (n_voxels,)
        Of the compression; share of the variance that content makes, 0 in early areas.
    selectivity : array, shape (n_voxels, n_categories)
    attribute_gain : array, shape (n_voxels, n_attributes)
    hue, hue_sharpness : arrays, shape (n_voxels,)
        Hue that a voxel with a concept prefers, 0 … 1 on a circle, and how sharply; 0: all alike.
    centre, scale : arrays, shape (n_voxels, 3)
        Mean and s.d., over the images simulated, of the low-level part, of content, and of both.
        `expected_responses` sets them.
    mean, signal_sd : arrays, shape (n_voxels,)
        Of responses in the units of the betas.
    """

    tuning: np.ndarray
    exponent: np.ndarray
    content_share: np.ndarray
    selectivity: np.ndarray
    attribute_gain: np.ndarray
    mean: np.ndarray
    signal_sd: np.ndarray
    hue: np.ndarray
    hue_sharpness: np.ndarray
    centre: np.ndarray = field(init=False)
    scale: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        for name, value in (("centre", 0.0), ("scale", 1.0)):
            object.__setattr__(self, name, np.full((len(self.exponent), 3), value))

    @classmethod
    def draw(
        cls,
        roi: pd.Series,
        prfs: pd.DataFrame,
        mean: np.ndarray,
        signal_sd: np.ndarray,
        rng: np.random.Generator,
    ) -> "Law":
        """Law of voxels with these labels and receptive fields."""
        n_voxels = len(roi)
        return cls(
            tuning=draw_tuning(roi, prfs, rng),
            exponent=np.array([AREAS[name].exponent for name in roi]),
            content_share=np.where(early(roi), 0.0, rng.uniform(0.75, 0.95, n_voxels)),
            selectivity=_draw_selectivity(roi, rng),
            attribute_gain=0.5 * rng.standard_normal((n_voxels, len(ATTRIBUTES))),
            mean=mean,
            signal_sd=signal_sd,
            hue=np.zeros(n_voxels),
            hue_sharpness=np.zeros(n_voxels),
        )

    def give_concepts(self, share: float, hues: int, rng: np.random.Generator) -> None:
        """Give a share of the high-level voxels of every area a category in one of `hues` hues.

        Such voxels respond to nothing else, whatever their area prefers.
        """
        high = np.flatnonzero(self.content_share)
        chosen = rng.permutation(high)[: round(share * len(high))]
        concept = rng.permutation(np.arange(len(chosen)) % (len(CATEGORIES) * hues))
        self.selectivity[chosen] = np.eye(len(CATEGORIES))[concept // hues]
        self.attribute_gain[chosen] = 0
        self.hue[chosen] = concept % hues / hues
        self.hue_sharpness[chosen] = _CONCEPT_SHARPNESS

    def select(self, voxels: np.ndarray) -> "Law":
        """Law of some voxels, by position."""
        chosen = {f.name: getattr(self, f.name)[voxels] for f in fields(self)}
        centre, scale = chosen.pop("centre"), chosen.pop("scale")
        law = Law(**chosen)
        law.centre[:], law.scale[:] = centre, scale
        return law

    def respond(
        self, energy: np.ndarray, objects: pd.DataFrame | None, prfs: pd.DataFrame
    ) -> np.ndarray:
        """Noise-free responses to new images in the units of the betas.

        Parameters
        ----------
        energy : array, shape (n_images, N_CHANNELS, GRID, GRID)
        objects : pandas.DataFrame or None
            As `make_scenes` returns it; images without a row show no object. None: unknown.
        prfs : pandas.DataFrame, n_voxels rows

        Returns
        -------
        array, shape (n_images, n_voxels), float32
            NaN in high-level voxels if objects are unknown.
        """
        responses = np.empty((len(energy), len(prfs)), np.float32)
        for v in blocks(len(prfs), 256):
            drive = pooled_energy(energy, prfs[v], self.tuning[v]) ** self.exponent[v]
            high = np.flatnonzero(self.content_share[v])
            if len(high):
                at = high + v.start
                share = self.content_share[at]
                low_level = (drive[:, high] - self.centre[at, 0]) / self.scale[at, 0]
                if objects is None:
                    drive[:, high] = np.nan
                else:
                    content = _content_drive(objects, prfs.iloc[at], self, at, len(energy))
                    content = (content ** self.exponent[at] - self.centre[at, 1]) / self.scale[
                        at, 1
                    ]
                    drive[:, high] = np.sqrt(1 - share) * low_level + np.sqrt(share) * content
            drive = (drive - self.centre[v, 2]) / self.scale[v, 2]
            responses[:, v] = drive * self.signal_sd[v] + self.mean[v]
        return responses


def expected_responses(
    energy: np.ndarray,
    objects: pd.DataFrame,
    law: Law,
    prfs: pd.DataFrame,
    *,
    block: int = 256,
    verbose: bool = False,
) -> np.ndarray:
    """Noise-free responses, each voxel with mean 0 and s.d. 1 over the images.

    Early areas pool normalised energy under the pRF and compress it (Kay et al., 2013). High-level
    areas respond to object categories, weighted by contrast, size and distance from the pRF and
    normalised by all objects; 5–25 % of their variance is low-level.

    Parameters
    ----------
    energy : array, shape (n_images, N_CHANNELS, GRID, GRID)
    objects : pandas.DataFrame
        As `make_scenes` returns it.
    law : Law
        Its `centre` and `scale` are set to those of these images.
    prfs : pandas.DataFrame, n_voxels rows
    block : int
        Voxels computed at once.

    Returns
    -------
    array, shape (n_images, n_voxels), float32
    """
    n_voxels = len(prfs)
    responses = np.empty((len(energy), n_voxels), np.float32)

    def standardised(values: np.ndarray, voxels: Any, part: int) -> np.ndarray:
        law.centre[voxels, part] = values.mean(axis=0, dtype=np.float64)
        law.scale[voxels, part] = (values - law.centre[voxels, part]).std(axis=0)
        return _standardised(values)

    parts = list(blocks(n_voxels, block))
    for v in progress(parts, desc="true responses", unit="block", verbose=verbose):
        drive = pooled_energy(energy, prfs[v], law.tuning[v]) ** law.exponent[v]
        share = law.content_share[v]
        high = np.flatnonzero(share)
        if len(high):
            at = high + v.start
            content = _content_drive(objects, prfs.iloc[at], law, at)
            low_level = np.sqrt(1 - share[high]) * standardised(drive[:, high], at, 0)
            content = standardised(content ** law.exponent[at], at, 1)
            drive[:, high] = low_level + np.sqrt(share[high]) * content
        responses[:, v] = standardised(drive, v, 2)
    return responses


def responses_by_own_law(
    tokens: np.ndarray, roi: pd.Series, rng: np.random.Generator
) -> np.ndarray:
    """Noise-free responses of a law that no other subject has, each with mean 0 and s.d. 1.

    The weights of an area's voxels, on z-scored tokens, are random mixtures of `_OWN_DIRECTIONS`
    random directions, drawn for the area. Directions of two subjects are alike by chance only, so
    that one subject's weights tell nothing of another's, but voxels of an area are alike.

    Parameters
    ----------
    tokens : array, shape (n_images, n_tokens, width)
        Without noise.
    roi : pandas.Series, length n_voxels
    rng : numpy.random.Generator

    Returns
    -------
    array, shape (n_images, n_voxels), float32
    """
    X = tokens.reshape(len(tokens), -1).astype(np.float64)
    X = X - X.mean(axis=0)
    sd = X.std(axis=0)
    X /= np.where(sd > 0, sd, 1)
    responses = np.empty((len(X), len(roi)), np.float32)
    for name in roi.unique():
        voxels = np.flatnonzero(roi == name)
        directions = rng.standard_normal((X.shape[1], _OWN_DIRECTIONS))
        mixtures = rng.standard_normal((_OWN_DIRECTIONS, len(voxels)))
        responses[:, voxels] = _standardised(X @ directions @ mixtures)
    return responses


def mix_laws(shared: np.ndarray, own: np.ndarray, alikeness: float) -> np.ndarray:
    """Responses of which the share `alikeness` of the variance is `shared` and the rest `own`."""
    mixed = np.sqrt(alikeness) * shared + np.sqrt(1 - alikeness) * own
    return _standardised(mixed).astype(np.float32)


def pooled_energy(energy: np.ndarray, prfs: pd.DataFrame, tuning: np.ndarray) -> np.ndarray:
    """Energy weighted by channel and by the Gaussian pRF, shape (n_images, n_voxels), >= 0."""
    x, y = cell_centres()
    px, py, size = (prfs[column].to_numpy()[:, None, None] for column in ("x", "y", "size"))
    field = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * size**2))
    field /= field.sum(axis=(1, 2), keepdims=True)
    weights = tuning[:, :, None, None] * field[:, None]
    flat = weights.reshape(len(weights), -1).astype(energy.dtype)
    return energy.reshape(len(energy), -1) @ flat.T


def draw_tuning(roi: pd.Series, prfs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Non-negative channel weights: frequency × orientation, and colour; (n_voxels, N_CHANNELS)."""
    n_voxels = len(roi)
    # Small fields prefer fine stripes: about one cycle per field's s.d.
    octave = np.log2(FIELD / prfs["size"].to_numpy()) - 1.5 + 0.5 * rng.standard_normal(n_voxels)
    octave = np.clip(octave, 1.5, 4)[:, None]
    frequency = np.exp(-((np.log2(FREQUENCIES) - octave) ** 2))
    preferred = rng.uniform(0, np.pi, (n_voxels, 1))
    sharpness = rng.uniform(0.4, 1, (n_voxels, 1))
    orientation = 1 + sharpness * np.cos(2 * (np.array(ORIENTATIONS) - preferred))
    tuning = np.empty((n_voxels, N_CHANNELS))
    tuning[:, :-4] = (frequency[:, :, None] * orientation[:, None]).reshape(n_voxels, -1)
    tuning[:, :-4] /= tuning[:, :-4].mean(axis=1, keepdims=True)
    colour = np.array([AREAS[name].colour for name in roi])
    tuning[:, -4:] = colour[:, None] * rng.gamma(1.0, 1.0, (n_voxels, 4))
    return tuning


def _draw_selectivity(roi: pd.Series, rng: np.random.Generator) -> np.ndarray:
    """(n_voxels, n_categories): the area's preference, differing between voxels by about half."""
    flat = (0.0,) * len(CATEGORIES)
    area = np.array([AREAS[name].selectivity or flat for name in roi])
    return area * np.exp(0.4 * rng.standard_normal(area.shape))


def object_attributes(objects: pd.DataFrame) -> np.ndarray:
    """ATTRIBUTES of every object, shape (n_objects, n_attributes), each within −1 … 1."""
    hue = 2 * np.pi * objects["hue"]
    return np.column_stack([np.cos(hue), np.sin(hue), objects["tilt"], objects["style"]])


def visibility(objects: pd.DataFrame, x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Overlap of objects with Gaussian windows, times contrast; shape (n_objects, n_windows)."""
    ox, oy, extent, contrast = (
        objects[column].to_numpy(np.float32)[:, None] for column in ("x", "y", "size", "contrast")
    )
    x, y, size = (np.asarray(a, np.float32) for a in (x, y, size))
    spread = size**2 + (extent / 3) ** 2
    return contrast * np.exp(-((ox - x) ** 2 + (oy - y) ** 2) / (2 * spread))


def sum_by_image(values: np.ndarray, objects: pd.DataFrame) -> np.ndarray:
    """Sum over the objects of each image; `objects` is in the order of images and none is empty."""
    image = objects["image"].to_numpy()
    return np.add.reduceat(values, np.flatnonzero(np.diff(image, prepend=-1)), axis=0)


def _sum_in_images(values: np.ndarray, objects: pd.DataFrame, n_images: int) -> np.ndarray:
    """Sum over the objects of each of `n_images` images, of which some may be empty."""
    total = np.zeros((n_images, *values.shape[1:]), values.dtype)
    np.add.at(total, objects["image"].to_numpy(), values)
    return total


def _content_drive(
    objects: pd.DataFrame,
    prfs: pd.DataFrame,
    law: Law,
    voxels: np.ndarray,
    n_images: int | None = None,
) -> np.ndarray:
    weight = visibility(objects, *prfs[["x", "y", "size"]].to_numpy().T)
    weight *= np.sqrt(objects["size"].to_numpy(np.float32) / FIELD)[:, None]
    category = pd.Categorical(objects["category"], CATEGORIES).codes
    gain = object_attributes(objects) @ law.attribute_gain[voxels].T
    preference = law.selectivity[voxels].T[category] * np.exp(gain)
    if (sharpness := law.hue_sharpness[voxels]).any():
        away = objects["hue"].to_numpy()[:, None] - law.hue[voxels]
        preference = preference * np.exp(sharpness * (np.cos(2 * np.pi * away) - 1))
    if n_images is None:
        return sum_by_image(weight * preference, objects) / (0.2 + sum_by_image(weight, objects))
    content, total = (
        _sum_in_images(values, objects, n_images) for values in (weight * preference, weight)
    )
    return content / (0.2 + total)


def _standardised(responses: np.ndarray) -> np.ndarray:
    centred = responses - responses.mean(axis=0, dtype=np.float64)
    return centred / centred.std(axis=0)
