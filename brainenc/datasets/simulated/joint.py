"""Joint embeddings of simulated images and of text, with a modality gap, as CLIP has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from brainenc.datasets.simulated.captions import COLOURS, mentioned
from brainenc.datasets.simulated.scenes import CATEGORIES, FIELD
from brainenc.prompts import Template, check_prompts, in_templates, mean_direction, unit_norm
from brainenc.storage import fingerprint

#: Numbers in an embedding.
WIDTH = 64

#: Sharpness of the match of a hue and the name of a colour (von Mises).
_SHARPNESS = 2.0


@dataclass(frozen=True)
class JointEmbeddings:
    """Embeddings of simulated images, and text in the same space; see `SimulatedTruth.joint`.

    Attributes
    ----------
    images : array, shape (n_images, 64), float32
        Of unit length.
    modality_gap : float
        Length of the part that all images share, and of that which all texts share, relative to
        the content.

    Examples
    --------
    >>> from brainenc.datasets import simulate_subject
    >>> joint = simulate_subject(20, 10, 2).truth.joint(modality_gap=2.0)
    >>> joint.images.shape, joint.modality_gap
    ((20, 64), 2.0)
    """

    images: np.ndarray
    modality_gap: float

    def encode_text(
        self, prompts: Sequence[str], templates: Sequence[Template] | None = None
    ) -> np.ndarray:
        """Embeddings of text, as `OpenCLIPFeatures.encode_text` gives them.

        Categories ("face", "body", "place", "vehicle", "food") and colours ("red", "green", "cyan",
        "purple") are understood. Text without any of them has a direction of its own at random.

        Parameters
        ----------
        prompts : sequence of str
        templates : sequence of str or of functions, optional

        Returns
        -------
        array of float32, shape (n_prompts, 64), of unit length

        Raises
        ------
        TypeError, ValueError : prompts or templates are none.

        Examples
        --------
        >>> from brainenc.datasets import simulate_subject
        >>> joint = simulate_subject(20, 10, 2).truth.joint()
        >>> joint.encode_text(["a face", "a red vehicle"], ["a photo of {}."]).shape
        (2, 64)
        """
        texts = in_templates(check_prompts(prompts), templates)
        _, gap = _gaps()
        found = [[_content_of_text(text) + self.modality_gap * gap for text in t] for t in texts]
        return mean_direction(np.array(found))


def embed_images(
    objects: pd.DataFrame, n_images: int, modality_gap: float, noise: float, seed: int
) -> JointEmbeddings:
    """Embeddings of scenes with these objects.

    Parameters
    ----------
    objects : pandas.DataFrame
        As `make_scenes` returns it.
    n_images : int
    modality_gap, noise : float
        Relative to the content, whose length is 1.
    seed : int
        Of the noise, which is that of the image: of what it shows, not of its row.
    """
    for name, value in {"modality_gap": modality_gap, "noise": noise}.items():
        if not value >= 0:  # NaN too
            raise ValueError(f"{name}={value} must be 0 or more")
    categories, colours, both = _directions()
    kind = pd.Categorical(objects["category"], CATEGORIES).codes
    hue = objects["hue"].to_numpy()[:, None] - np.arange(len(COLOURS)) / len(COLOURS)
    match = np.exp(_SHARPNESS * np.cos(2 * np.pi * hue))
    match /= match.sum(axis=1, keepdims=True)
    seen = objects["contrast"].to_numpy() * np.sqrt(objects["size"].to_numpy() / FIELD)
    each = categories[kind] + match @ colours + np.einsum("oc,ocd->od", match, both[kind])
    content = np.zeros((n_images, WIDTH))
    np.add.at(content, objects["image"].to_numpy(), seen[:, None] * each)
    gap, _ = _gaps()
    found = unit_norm(content) + modality_gap * gap
    found += noise / np.sqrt(WIDTH) * _noise_of(objects, n_images, seed)
    return JointEmbeddings(unit_norm(found).astype(np.float32), float(modality_gap))


def _noise_of(objects: pd.DataFrame, n_images: int, seed: int) -> np.ndarray:
    """Standard normal numbers (n_images, d), the same for an image in any selection of images."""
    content = pd.util.hash_pandas_object(objects.drop(columns="image"), index=False).to_numpy()
    noise = np.empty((n_images, WIDTH))
    by_image = objects.groupby(objects["image"].to_numpy()).indices
    for image in range(n_images):
        own = content[by_image.get(image, [])].tolist()
        noise[image] = np.random.default_rng([seed, *own]).standard_normal(WIDTH)
    return noise


@lru_cache(maxsize=1)
def _basis() -> np.ndarray:
    """Orthonormal rows, the same for every subject."""
    return np.linalg.qr(np.random.default_rng(2026).standard_normal((WIDTH, WIDTH)))[0].T


def _gaps() -> tuple[np.ndarray, np.ndarray]:
    """What all images have, and what all texts have."""
    return _basis()[0], _basis()[1]


def _directions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of categories (5, d), of colours (4, d), and of a category in a colour (5, 4, d)."""
    n, m = len(CATEGORIES), len(COLOURS)
    rows = _basis()[2:]
    return rows[:n], rows[n : n + m], rows[n + m : n + m + n * m].reshape(n, m, WIDTH)


def _content_of_text(text: str) -> np.ndarray:
    """Direction of what a text names, of length 1."""
    categories, colours, both = _directions()
    total = np.zeros(WIDTH)
    for category, colour in mentioned(text):
        if category:
            total += categories[CATEGORIES.index(category)]
        if colour:
            total += colours[COLOURS.index(colour)]
        if category and colour:
            total += both[CATEGORIES.index(category), COLOURS.index(colour)]
    if not total.any():
        seed = int(fingerprint(text.lower())[:8], 16)
        total = np.random.default_rng(seed).standard_normal(WIDTH)
    return unit_norm(total)
