"""Held-out predictions of a run, and the fold that tests each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from brainenc.arrays import write_array
from brainenc.benchmarking.image_names import image_names
from brainenc.benchmarking.pairs import Pair
from brainenc.data.encoding_data import EncodingData
from brainenc.documentation import see
from brainenc.model_selection import Folds
from brainenc.reading import read_array
from brainenc.storage import atomic_path

#: Predictions of a run without a folder are kept in memory up to this size.
MAX_BYTES = 2**30


def fold_table(data: EncodingData, folds: Folds) -> pd.DataFrame:
    """Fold that tests each image.

    Parameters
    ----------
    data : EncodingData
    folds : list of (train, test)

    Returns
    -------
    DataFrame, one row per image and fold that tests it
        ``image``, its position in the data; ``name``, that of its file, if images are files;
        ``fold``, missing (``<NA>``) for an image that no fold tests. Ordered by image.
    """
    images = np.concatenate([test for _, test in folds])
    number = np.repeat(np.arange(len(folds)), [len(test) for _, test in folds])
    untested = np.setdiff1d(np.arange(data.n_images), images)
    table = pd.DataFrame(
        {
            "image": np.concatenate([images, untested]),
            "fold": pd.array([*number.tolist(), *[None] * len(untested)], dtype="Int64"),
        }
    ).sort_values(["image", "fold"], ignore_index=True)
    names = image_names(data)
    if names is not None:
        of_row = np.array(names, dtype=object)[table["image"]]
        table.insert(1, "name", of_row)
    return table


def as_fold_table(table: pd.DataFrame) -> pd.DataFrame:
    """A fold table read from a file, with whole numbers of folds."""
    return table.assign(fold=table["fold"].astype("Int64")) if "fold" in table else table


@dataclass(frozen=True)
class KeptPredictions:
    """Predictions of the test images of every fold, in memory or in the folder of a run.

    Attributes
    ----------
    places : dict of encoder name to folder, relative to that of the run
    folder : path or None
        Folder of the run.
    arrays : dict of encoder name to list of arrays, shape (n_test, n_voxels)
        Those in memory.
    """

    places: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def of_fold(self, name: str, fold: int) -> np.ndarray:
        """Predictions of the test images of one fold, (n_test, n_voxels).

        Raises
        ------
        ValueError : there is no encoder of that name, or it has no predictions.
        FileNotFoundError : they are neither in memory nor in the folder.
        """
        if name not in self.places:
            raise ValueError(
                f"there are no predictions of {name!r}; there are those of {list(self.places)}"
            )
        if name in self.arrays:
            return self.arrays[name][fold]
        if self.folder is None:
            raise FileNotFoundError(
                f"the predictions of this run are larger than {MAX_BYTES >> 30} GiB and are not "
                "kept in memory: run it with a folder, brainenc.benchmark(..., out=folder)"
                + see("howto_fixed_test")
            )
        path = self.folder / self.places[name] / f"fold{fold}" / "predictions.npy"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: predictions are in the folder of the run (its out=), and not "
                "in copies of its tables"
            )
        return read_array(path, mapped=True)

    def write(self, folder: Path) -> None:
        """Write the arrays that are in memory to the folder of a run."""
        for name, of_folds in self.arrays.items():
            for fold, predictions in enumerate(of_folds):
                path = folder / self.places[name] / f"fold{fold}" / "predictions.npy"
                if not path.exists():
                    with atomic_path(path) as temporary:
                        write_array(temporary, predictions)


def keep_predictions(pairs: Mapping[str, Sequence[Pair]], folder: Path | None) -> KeptPredictions:
    """Predictions of finished pairs.

    Parameters
    ----------
    pairs : dict of encoder name to its pairs
    folder : path or None
        Folder of the run; without one, predictions of up to 1 GiB are read into memory.
    """
    places = {
        name: f"{of_folds[0].folder.parents[1].name}/{of_folds[0].folder.parent.name}"
        for name, of_folds in pairs.items()
    }
    if folder is not None:
        return KeptPredictions(places, folder)
    arrays = {name: [pair.predictions() for pair in of_folds] for name, of_folds in pairs.items()}
    if sum(array.nbytes for parts in arrays.values() for array in parts) > MAX_BYTES:
        return KeptPredictions(places)
    in_memory = {name: [np.array(part) for part in parts] for name, parts in arrays.items()}
    return KeptPredictions(places, None, in_memory)
