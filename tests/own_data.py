"""Small volumes of a made-up experiment, and its files: what a laboratory has on disk."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

SHAPE = (5, 4, 6)
AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2.0, 0, -60], [0, 0, 2.5, -20], [0, 0, 0, 1]])
N_IMAGES, N_REPEATS = 8, 3
NAMES = {1: "V1", 2: "V2", 12: "hV4"}


@dataclass
class OwnData:
    """Volumes (X, Y, Z, trials), a mask, an atlas of codes, pictures and the order of trials."""

    betas: np.ndarray
    mask: np.ndarray
    codes: np.ndarray
    names: list[str]
    pictures: dict[str, np.ndarray]
    shown: np.ndarray

    @property
    def ids(self) -> list[str]:
        """Name of the picture of each trial."""
        return [self.names[i] for i in self.shown]

    def expected(self, n_images: int = N_IMAGES) -> np.ndarray:
        """Betas by image, repeat and voxel, put together trial by trial."""
        voxels = [tuple(place) for place in np.argwhere(self.mask)]
        counts = np.bincount(self.shown, minlength=n_images)
        found = np.full((n_images, counts.max(), len(voxels)), np.nan, dtype=np.float32)
        seen = [0] * n_images
        for trial, image in enumerate(self.shown):
            for column, place in enumerate(voxels):
                found[image, seen[image], column] = self.betas[(*place, trial)]
            seen[image] += 1
        return found

    def labels(self) -> list[str]:
        """Name of each voxel's ROI, "" outside."""
        return [NAMES.get(int(code), "") for code in self.codes[self.mask]]

    def write_pictures(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, picture in self.pictures.items():
            Image.fromarray(picture).save(folder / f"{name}.png")
        return folder

    def nifti(self, values: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
        kind = np.int16 if values.dtype.kind in "bi" else np.float32
        nib.save(nib.Nifti1Image(values.astype(kind), affine), path)
        return path


def make_own_data(seed: int = 0) -> OwnData:
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < 0.5
    codes = rng.choice([0, 1, 2, 12], size=SHAPE)
    names = [f"picture_{i}" for i in range(N_IMAGES)]
    pictures = {name: rng.integers(0, 256, (12, 10, 3), dtype=np.uint8) for name in names}
    shown = rng.permutation(np.repeat(np.arange(N_IMAGES), N_REPEATS))
    betas = rng.standard_normal((*SHAPE, len(shown))).astype(np.float32)
    return OwnData(betas, mask, codes, names, pictures, shown)


def assert_is_own(data, own: OwnData) -> None:
    """Betas, positions, ROIs and pictures are those of the made-up experiment."""
    np.testing.assert_array_equal(data.betas, own.expected())
    np.testing.assert_array_equal(data.voxels[["i", "j", "k"]], np.argwhere(own.mask))
    assert data.stimuli["name"].str.partition(".")[0].tolist() == own.names
    for i, name in enumerate(own.names):
        np.testing.assert_array_equal(data.images[i], own.pictures[name])


def trial_table(own: OwnData, ending: str = "") -> pd.DataFrame:
    runs = np.repeat([1, 2, 3], len(own.shown) // 3)
    return pd.DataFrame({"image": [name + ending for name in own.ids], "run": runs})
