"""Search without gradients: the protocol, and evolution over the parameters of drawn scenes."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from brainenc.datasets.simulated.given_scenes import COLUMNS, draw_scenes
from brainenc.datasets.simulated.scenes import CATEGORIES
from brainenc.validation import check_whole


@runtime_checkable
class SearchGenerator(Protocol):
    """What `synthesize` searches: images as any function of latents.

    A generator is any object with these methods; it need not inherit.
    """

    def start(self, n: int, seed: int) -> Any:
        """Latents of `n` images."""

    def decode(self, z: Any) -> np.ndarray:
        """Pictures (n, H, W, 3), uint8."""

    def propose(self, z: Any, scores: np.ndarray, i: int) -> Any:
        """As many new latents, from the best ones so far and their scores; step `i`, from 0.

        Of each place the better of the old and the new latent is kept.
        """

    def choose(self, z: Any, new: Any, better: np.ndarray) -> Any:
        """Latents of `new` where `better`, (n,) of bool, and of `z` elsewhere."""


#: Columns of a latent beside the category and the seed of the texture.
_NUMBERS = tuple(COLUMNS)


class SceneSearch:
    """Evolution over the objects of drawn scenes, in the world of `simulate_subject`.

    A latent is a table with one row per object: category, place, size, contrast, hue, tilt, style,
    and the seed of the texture. Since the objects are known, ``truth.respond(images, objects)`` is
    the true response of a simulated subject.

    Parameters
    ----------
    image_size : int
        Height and width in pixels, a multiple of 16.
    n_objects : int
        Objects in each scene, the first in front.
    change : float
        s.d. of a mutation, as a share of the range of a number.

    Examples
    --------
    >>> search = SceneSearch(48, n_objects=1)
    >>> scenes = search.start(3, seed=0)
    >>> search.decode(scenes).shape, len(search.objects(scenes))
    ((3, 48, 48, 3), 3)
    """

    def __init__(self, image_size: int = 64, *, n_objects: int = 2, change: float = 0.15):
        check_whole("n_objects", n_objects)
        if not change > 0:
            raise ValueError(f"change={change} must be above 0")
        self.image_size, self.n_objects, self.change = image_size, n_objects, change

    def start(self, n: int, seed: int) -> pd.DataFrame:
        """Random scenes."""
        self._rng = np.random.default_rng(seed)
        rows = n * self.n_objects
        table = pd.DataFrame({"image": np.repeat(np.arange(n), self.n_objects)})
        table["category"] = self._rng.choice(CATEGORIES, rows)
        for name in _NUMBERS:
            low, high = _range(name)
            table[name] = self._rng.uniform(low, high, rows)
        table["texture"] = np.repeat(self._rng.integers(2**31, size=n), self.n_objects)
        return table

    def decode(self, z: pd.DataFrame) -> np.ndarray:
        """Pictures of scenes, (n, image_size, image_size, 3)."""
        seeds = z.groupby("image")["texture"].first().tolist()
        return draw_scenes(self.objects(z), self.image_size, n_images=len(seeds), seeds=seeds)

    def objects(self, z: pd.DataFrame) -> pd.DataFrame:
        """Objects of scenes, as `brainenc.datasets.draw_scenes` and ``truth.respond`` take them."""
        return z.drop(columns="texture").reset_index(drop=True)

    def propose(self, z: pd.DataFrame, scores: np.ndarray, i: int) -> pd.DataFrame:
        """Changed copies of scenes; every fifth takes the place of another by a better one."""
        n = len(scores)
        parents = np.arange(n)
        rivals = self._rng.integers(n, size=n)
        crossed = (self._rng.random(n) < 0.2) & (scores[rivals] > scores)
        parents[crossed] = rivals[crossed]
        child = pd.concat(
            [z[z["image"] == parent].assign(image=k) for k, parent in enumerate(parents)],
            ignore_index=True,
        )
        size = self.change / np.sqrt(1 + i / 20)
        for name in _NUMBERS:
            low, high = _range(name)
            moved = self._rng.random(len(child)) < 0.5
            step = size * (high - low) * self._rng.standard_normal(len(child)) * moved
            child[name] = _inside(child[name] + step, name, low, high)
        other = self._rng.random(len(child)) < 0.1
        child.loc[other, "category"] = self._rng.choice(CATEGORIES, int(other.sum()))
        anew = np.flatnonzero(self._rng.random(n) < 0.2)
        fresh = dict(zip(anew, self._rng.integers(2**31, size=len(anew)), strict=True))
        child["texture"] = [
            fresh.get(k, old) for k, old in zip(child["image"], child["texture"], strict=True)
        ]
        return child

    def choose(self, z: pd.DataFrame, new: pd.DataFrame, better: np.ndarray) -> pd.DataFrame:
        """Scenes of `new` where `better`, of `z` elsewhere."""
        kept = z[~better[z["image"]]]
        return pd.concat([kept, new[better[new["image"]]]]).sort_values(
            "image", kind="stable", ignore_index=True
        )


def _range(name: str) -> tuple[float, float]:
    """Values that scenes have, within those that `draw_scenes` takes."""
    usual = {"x": (-3.0, 3.0), "y": (-3.0, 3.0), "size": (1.5, 6.5), "contrast": (0.35, 1.0)}
    return usual.get(name, COLUMNS[name][1:])


def _inside(values: pd.Series, name: str, low: float, high: float) -> pd.Series:
    return low + (values - low) % (high - low) if name == "hue" else values.clip(low, high)
