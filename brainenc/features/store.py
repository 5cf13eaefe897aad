"""FeatureStore: features on disk, keyed by the image's content and the extractor."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.sealed import read_sealed, save_sealed
from brainenc.storage import atomic_path, fingerprint, write_json


class FeatureStore:
    """Folder of computed features, shared by folds, runs and processes.

    There is one file per image: ``<folder>/<extractor>/<2 digits>/<image>.npy``. Both names are
    hashes: of the extractor's `FeatureExtractor.key`, stored as text in ``<extractor>/key.json``,
    and of the image's pixels and shape, so that an image is found in any order and from files or
    arrays.

    Files are written under a temporary name and renamed. Two processes may compute the same image
    at once (the later file replaces an equal one), and a killed process leaves only complete files.
    Every file ends with a checksum of its content and its name, which is compared when it is read:
    a damaged file, or one in the place of another, is computed again, with a warning. Files of
    versions before 0.2 have no checksum and are read as they are.

    Parameters
    ----------
    folder : path
        It is created when the first features are written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import brainenc
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    >>> with TemporaryDirectory() as folder:
    ...     store = brainenc.FeatureStore(folder)
    ...     features = brainenc.PixelFeatures(store=store).fit_transform(images)
    ...     len(list(store.folder.rglob("*.npy")))  # one file per image
    3
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    @classmethod
    def at(cls, store: "FeatureStore | str | os.PathLike") -> "FeatureStore":
        """The store itself, or the one in a folder."""
        return store if isinstance(store, FeatureStore) else cls(store)

    def shelf(self, key: dict[str, Any]) -> "Shelf":
        """The part of the store that holds the features of one extractor.

        Parameters
        ----------
        key : dict, JSON-able

        Raises
        ------
        PermissionError : the shelf is new and the folder is read-only.
        """
        folder = self.folder / fingerprint(key)
        if not (folder / "key.json").exists():
            write_json(folder / "key.json", key)
        return Shelf(folder)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.folder)!r})"


class Shelf:
    """Features of one extractor; see `FeatureStore.shelf`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, image: np.ndarray) -> Path:
        """Path of the file with the features of an image."""
        name = fingerprint(image)
        return self.folder / name[:2] / f"{name}.npy"

    def get(self, images: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Features of images; missing ones are computed and stored.

        Parameters
        ----------
        images : array of uint8, shape (n_images, H, W[, 3])
        compute : function
            Called at most once, with the missing rows (array of int); returns their features.

        Returns
        -------
        array of float32, shape (n_images, ...)
        """
        paths = [self.path(image) for image in images]
        found = [_read(path) for path in paths]
        missing = np.array([i for i, features in enumerate(found) if features is None], int)
        if missing.size:
            for i, features in zip(missing, compute(missing), strict=True):
                found[i] = features
                with atomic_path(paths[i]) as temporary:
                    save_sealed(temporary, features, _identity(paths[i]))
        return np.stack([features for features in found if features is not None])


def _identity(path: Path) -> str:
    """Extractor and image of a file, as its name has them."""
    return f"{path.parent.parent.name}/{path.stem}"


def _read(path: Path) -> np.ndarray | None:
    try:
        return read_sealed(path, _identity(path), dtype=np.float32, unsealed=True)
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(
            f"{path} is damaged and will be computed again: {error}", RuntimeWarning, stacklevel=2
        )
        return None
