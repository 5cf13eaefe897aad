"""EncodingData: the images, betas, voxel table and trial table of one subject."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainenc.arrays import row_blocks
from brainenc.brain.surfaces import FSAVERAGE, to_surface
from brainenc.brain.volumes import Volume, to_nifti
from brainenc.data import brain_folder
from brainenc.data import images as image_io
from brainenc.data.alignment import AlignmentCheck, check_alignment
from brainenc.repeats import average_repeats, count_repeats
from brainenc.storage import atomic_path
from brainenc.validation import check_betas, check_index, check_same_length

if TYPE_CHECKING:
    import nibabel

    from brainenc.metrics import NoiseCeiling

#: Columns of the voxel table that say where a voxel is or how good it is, not which ROI it is in.
NON_ATLAS_COLUMNS = ("ncsnr", "i", "j", "k", "x", "y", "z", "vertex", "hemisphere")


@dataclass(frozen=True, eq=False)  # arrays have no one truth value: identity it is
class EncodingData:
    """Images and the betas they evoked, with tables of voxels and trials.

    Parameters
    ----------
    images : array or lazy sequence, shape (n_images, H, W[, 3]), uint8
        One row per unique image; also a list of paths or PIL images.
    betas : array, shape (n_images, n_repeats, n_voxels) or (n_images, n_voxels)
        Single-trial responses, NaN where a repeat is missing. Kept as float32 or float64,
        memory-mapped arrays stay on disk.
    voxels : pandas.DataFrame, optional
        One row per voxel: one column of ROI labels per atlas (missing or "" outside every ROI),
        and any of ``ncsnr``, ``i, j, k``, ``x, y, z``, ``vertex``, ``hemisphere``.
    trials : pandas.DataFrame, optional
        One row per trial present: ``image`` and ``repeat`` (positions in `betas`), and any of
        ``session``, ``run``. Made from `betas` when not given; otherwise it must list every
        trial that `betas` has data for.
    name : str
        Shown in tables and reports.
    truth : object, optional
        What is known of the true responses, with the methods `select` and `rescale` of
        `brainenc.datasets.SimulatedTruth`; simulated subjects only, not saved.
    volume : Volume, optional
        Grid of the volume that the voxels come from, whose places ``i, j, k`` name.
    units : str
        What the betas are in ("percent signal change", say), for people to read; "" if unsaid.

    Raises
    ------
    ValueError : rows that do not match, empty or infinite betas, images of different sizes.
    TypeError : images that are not uint8, betas that are not numeric.
    """

    images: Any
    betas: np.ndarray
    # None only until __post_init__ has made the table.
    voxels: pd.DataFrame = None  # type: ignore[assignment]
    trials: pd.DataFrame = None  # type: ignore[assignment]
    name: str = "data"
    truth: Any = None
    volume: Volume | None = None
    units: str = ""

    def __post_init__(self) -> None:
        images = image_io.as_images(self.images)
        betas = check_betas(self.betas, n_images=len(images))
        voxels = pd.DataFrame(index=range(betas.shape[2])) if self.voxels is None else self.voxels
        present = _trials_present(betas)
        trials = present if self.trials is None else self.trials
        _check_tables(voxels, trials, betas.shape)
        _check_complete(trials, present)
        if self.volume is not None:
            self.volume.check_positions(voxels)
        self.__dict__.update(
            images=images,
            betas=betas,
            voxels=voxels.reset_index(drop=True),
            trials=trials.reset_index(drop=True),
        )

    @classmethod
    def _unchecked(cls, **parts: Any) -> "EncodingData":
        """Parts that are known to fit: the usual checks would read all betas from disk."""
        data = object.__new__(cls)
        data.__dict__.update(parts)
        return data

    def _with(self, **changes: Any) -> "EncodingData":
        return self._unchecked(**{**self.__dict__, **changes})

    # ---------------------------------------------------------------- what is in it

    @property
    def n_images(self) -> int:
        """Number of unique images."""
        return self.betas.shape[0]

    @property
    def n_repeats(self) -> int:
        """Largest number of repeats of an image."""
        return self.betas.shape[1]

    @property
    def n_voxels(self) -> int:
        """Number of voxels, vertices or neurons."""
        return self.betas.shape[2]

    @property
    def atlases(self) -> list[str]:
        """Columns of the voxel table that hold ROI labels."""
        return atlas_columns(self.voxels)

    def rois(self, atlas: str | None = None) -> dict[str, np.ndarray]:
        """Voxel positions of every ROI.

        Parameters
        ----------
        atlas : str, optional
            Column of the voxel table; the first atlas by default.

        Returns
        -------
        dict of label to array of int, in order of first appearance; {} without an atlas.

        Raises
        ------
        ValueError : no such atlas.
        """
        if atlas is None:
            if not self.atlases:
                return {}
            atlas = self.atlases[0]
        if atlas not in self.atlases:
            raise ValueError(f"atlas {atlas!r} is not in the voxel table, which has {self.atlases}")
        codes, labels = pd.factorize(self.voxels[atlas])  # missing labels get no code
        return {str(label): np.flatnonzero(codes == i) for i, label in enumerate(labels) if label}

    def __repr__(self) -> str:
        atlases = ", ".join(f"{atlas}: {len(self.rois(atlas))} ROIs" for atlas in self.atlases)
        return (
            f"EncodingData({self.name!r}: {self.n_images} images {tuple(self.images.shape[1:])}, "
            f"{len(self.trials)} trials, up to {self.n_repeats} repeats, {self.n_voxels} voxels"
            + (f", {self.units}" if self.units else "")
            + (f"; {atlases})" if atlases else ")")
        )

    # ---------------------------------------------------------------- making it

    @classmethod
    def from_trials(
        cls,
        images: Any,
        betas: np.ndarray,
        image_ids: Sequence[int] | np.ndarray,
        *,
        session: Sequence | np.ndarray | None = None,
        run: Sequence | np.ndarray | None = None,
        voxels: pd.DataFrame | None = None,
        name: str = "data",
        volume: Volume | None = None,
        units: str = "",
    ) -> "EncodingData":
        """Group trial-wise betas by image.

        Parameters
        ----------
        images : array or sequence, shape (n_unique, H, W[, 3])
            The unique images. Those that no trial shows are left out.
        betas : array, shape (n_trials, n_voxels)
            One row per trial, in the order of presentation.
        image_ids : array of int, shape (n_trials,)
            Row of `images` (counted from 0) that each trial showed.
        session, run : array, shape (n_trials,), optional
            Kept in the trial table; `zscore_by_session` needs the session.
        voxels, name, volume, units
            As for `EncodingData`.

        Returns
        -------
        EncodingData
            Images in increasing order of id, repeats in order of presentation. The trial table
            also has ``trial``, the row of `betas` that each trial came from.

        Raises
        ------
        ValueError : lengths that differ, or ids outside `images` (ids counted from 1, say).
        """
        images = image_io.as_images(images)
        flat = check_betas(betas)
        if flat.shape[1] != 1:
            raise ValueError(
                f"betas {np.shape(betas)} must be (n_trials, n_voxels), trial by trial"
            )
        flat = flat[:, 0]
        given = {"session": session, "run": run}
        labels = {key: np.asarray(value) for key, value in given.items() if value is not None}
        check_same_length(betas=flat, image_ids=image_ids, **labels)
        ids = np.asarray(image_ids)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"image_ids must be integers, got {ids.dtype}")
        if ids.min() < 0 or ids.max() >= len(images):
            raise ValueError(
                f"image_ids run from {ids.min()} to {ids.max()}, but images has rows 0 … "
                f"{len(images) - 1}; are the ids counted from 1?"
            )
        shown, row = np.unique(ids, return_inverse=True)
        trials = pd.DataFrame({"image": row, "trial": np.arange(len(row)), **labels})
        trials.insert(1, "repeat", trials.groupby("image").cumcount())
        grouped = np.full(
            (len(shown), trials["repeat"].max() + 1, flat.shape[1]), np.nan, flat.dtype
        )
        grouped[trials["image"], trials["repeat"]] = flat
        trials = trials.sort_values(["image", "repeat"])
        shown_images = image_io.take_images(images, shown)
        return cls(
            shown_images,
            grouped,
            voxels,  # type: ignore[arg-type]
            trials,
            name,
            volume=volume,
            units=units,
        )

    def zscore_by_session(self) -> "EncodingData":
        """Each voxel z-scored within each session, over all its trials.

        Returns
        -------
        EncodingData
            Betas in units of the voxel's standard deviation (ddof 0) over the trials of the
            session. NaN where a voxel does not vary within a session (counted in a warning).

        Raises
        ------
        ValueError : the trial table has no session column, or trials without a session.
        """
        if "session" not in self.trials:
            raise ValueError(
                f"the trial table has columns {list(self.trials.columns)} but no 'session'; "
                "pass session= to EncodingData.from_trials"
            )
        if n_without := int(self.trials["session"].isna().sum()):
            raise ValueError(f"{n_without} of {len(self.trials)} trials have no session")
        betas = np.full(self.betas.shape, np.nan, dtype=self.betas.dtype)
        n_constant = 0
        means, sds = [], []
        for _, rows in self.trials.groupby("session"):
            where = (rows["image"].to_numpy(), rows["repeat"].to_numpy())
            # float64, since a float32 sum of hundreds of trials far from 0 is off.
            deviation = self.betas[where].astype(np.float64)
            with warnings.catch_warnings():
                # A voxel without data in this session is NaN before and after.
                warnings.filterwarnings("ignore", "Mean of empty slice")
                mean = np.nanmean(deviation, axis=0)
                deviation -= mean
                sd = np.sqrt(np.nanmean(deviation**2, axis=0))
            # Round-off leaves a constant voxel with a tiny s.d.; it must not blow up to ±1.
            constant = sd <= 1e-12 * np.abs(mean)
            n_constant += int(constant.sum())
            sd[constant] = np.nan
            betas[where] = deviation / sd
            means.append(mean)
            sds.append(sd)
        if n_constant:
            warnings.warn(
                f"{n_constant} times a voxel was constant in a session; its z-score is NaN there",
                stacklevel=2,
            )
        truth = self.truth
        if truth is not None:
            truth = truth.rescale(1 / np.array(sds), -np.array(means) / np.array(sds), self.trials)
        return self._with(betas=betas, truth=truth, units="z-scored within session")

    def average_repeats(self) -> "EncodingData":
        """One averaged response per image.

        Returns
        -------
        EncodingData
            n_repeats is 1. The trial table has one row per image with ``n_averaged``, the number
            of trials in its average (the largest over voxels). When the voxel table has no
            ``ncsnr`` and there are repeats, it gets the one estimated from them, since averages
            alone no longer tell it.
        """
        voxels = self.voxels
        if "ncsnr" not in voxels and self.n_repeats > 1:
            from brainenc.metrics import ncsnr_from_repeats

            voxels = voxels.assign(ncsnr=ncsnr_from_repeats(self.betas))
        n_averaged = count_repeats(self.betas).max(axis=1)
        trials = pd.DataFrame({"image": np.arange(self.n_images), "repeat": 0})
        trials["n_averaged"] = n_averaged
        trials = trials[n_averaged > 0].reset_index(drop=True)
        return self._with(betas=average_repeats(self.betas)[:, None], voxels=voxels, trials=trials)

    def noise_ceiling(
        self, *, n_bootstraps: int = 0, random_state: int | None = 0
    ) -> "NoiseCeiling":
        """Best score against repeat-averaged betas, per voxel.

        Estimated from the repeats; without any, from the ``ncsnr`` of the voxel table and the
        number of trials averaged; NaN everywhere without either.

        Parameters
        ----------
        n_bootstraps : int
            Resamples of images for the 95 % interval; none by default.
        random_state : int

        Returns
        -------
        NoiseCeiling, in space "r2"
        """
        from brainenc import metrics

        if count_repeats(self.betas).max() > 1:
            return metrics.noise_ceiling_from_repeats(
                self.betas, n_bootstraps=n_bootstraps, random_state=random_state
            )
        if "ncsnr" in self.voxels:
            n_trials = self.trials.get("n_averaged", pd.Series(1, self.trials.index))
            return metrics.noise_ceiling_from_ncsnr(self.voxels["ncsnr"], n_trials.to_numpy())
        return metrics.NoiseCeiling(
            np.full(self.n_voxels, np.nan), "r2", n_trials=1, estimator="none: no repeats, no ncsnr"
        )

    def check(self, *, n_images: int = 600, random_state: int | None = 0) -> AlignmentCheck:
        """Whether images and betas belong together, in seconds: permuted images must do worse.

        Parameters
        ----------
        n_images : int
            Images drawn at random to look at.
        random_state : int

        Returns
        -------
        AlignmentCheck

        Warns
        -----
        UserWarning : they do not seem to, or betas of a neighbouring row fit better. Never for
            want of evidence: see `brainenc.data.check_alignment`.
        """
        found = check_alignment(
            self.images,
            self.betas,
            rows=self.trials["image"].to_numpy(),
            ncsnr=self.voxels.get("ncsnr"),
            n_averaged=self.trials.get("n_averaged", 1),
            name=self.name,
            n_images=n_images,
            random_state=random_state,
        )
        if found.suspicious:
            warnings.warn(found.message, stacklevel=2)
        return found

    # ---------------------------------------------------------------- parts of it

    def select(
        self,
        *,
        images: Any = None,
        voxels: Any = None,
        roi: str | Sequence[str] | None = None,
        atlas: str | None = None,
    ) -> "EncodingData":
        """Some of the images and voxels.

        Parameters
        ----------
        images : mask of shape (n_images,) or positions, each once, optional
        voxels : mask of shape (n_voxels,) or positions, optional
        roi : label or several, optional
            Voxels of these ROIs; not together with `voxels`.
        atlas : str, optional
            The atlas that `roi` is in; the first by default.

        Returns
        -------
        EncodingData

        Raises
        ------
        ValueError : nothing selected, positions out of range, no such ROI or atlas, or both
            `roi` and `voxels`.
        """
        if roi is not None:
            if voxels is not None:
                raise ValueError("give roi or voxels, not both")
            known = self.rois(atlas)
            wanted = [roi] if isinstance(roi, str) else list(roi)
            if missing := [label for label in wanted if label not in known]:
                raise ValueError(f"no ROI {missing} here; there are {list(known)}")
            voxels = np.zeros(self.n_voxels, dtype=bool)
            for label in wanted:
                voxels[known[label]] = True
        data = self
        if images is not None:
            data = data._take_images(check_index(images, self.n_images, "images"))
        if voxels is not None:
            data = data._take_voxels(check_index(voxels, self.n_voxels, "voxels"))
        return data

    def _take_images(self, index: np.ndarray) -> "EncodingData":
        if len(np.unique(index)) < len(index):
            raise ValueError("images names a row twice, but each row must be a unique image")
        position = np.full(self.n_images, -1)
        position[index] = np.arange(len(index))
        trials = self.trials.assign(image=position[self.trials["image"]])
        trials = trials[trials["image"] >= 0].sort_values(["image", "repeat"], ignore_index=True)
        return self._with(
            images=image_io.take_images(self.images, index),
            betas=self.betas[index],
            trials=trials,
            truth=None if self.truth is None else self.truth.select(images=index),
        )

    def _take_voxels(self, index: np.ndarray) -> "EncodingData":
        return self._with(
            betas=np.take(self.betas, index, axis=2),
            voxels=self.voxels.iloc[index].reset_index(drop=True),
            truth=None if self.truth is None else self.truth.select(voxels=index),
        )

    def train_test(
        self, test: float | Any = 0.2, *, random_state: int | None = 0
    ) -> tuple["EncodingData", "EncodingData"]:
        """Split by image: all repeats of an image go to one side.

        Parameters
        ----------
        test : float in (0, 1), or mask of shape (n_images,), or positions
            A share drawn at random, or the test images themselves (the shared images of NSD, say).
        random_state : int
            Seed of the random share.

        Returns
        -------
        train, test : EncodingData

        Raises
        ------
        ValueError : one side would be empty, or a whole number, which is no share.
        """
        if np.ndim(test) == 0 and not isinstance(test, (float, np.floating)):
            # scikit-learn would take it for a number of images, an index for one image.
            raise ValueError(
                f"test={test!r} must be a share such as 0.2, a mask, or positions such as range(20)"
            )
        if isinstance(test, (float, np.floating)):
            n_test = round(test * self.n_images)
            if not 0 < n_test < self.n_images:
                raise ValueError(
                    f"test={test} of {self.n_images} images leaves one side empty; "
                    "give a share between 0 and 1"
                )
            index = np.random.default_rng(random_state).permutation(self.n_images)[:n_test]
        else:
            index = check_index(test, self.n_images, "test")
        in_test = np.zeros(self.n_images, dtype=bool)
        in_test[index] = True
        if in_test.all():
            raise ValueError("test selects every image, which leaves none to train on")
        return self.select(images=~in_test), self.select(images=in_test)

    # ---------------------------------------------------------------- on disk

    def save(self, folder: str | os.PathLike, *, copy_images: bool = False) -> Path:
        """Write a ``.brain`` folder of plain files, whole or not at all.

        A killed save leaves what was there, and a hidden ``.*.tmp`` folder beside it to delete.

        ``meta.json``, ``betas.npy``, ``images.npy`` (or ``images/``, copies of image files),
        ``voxels.csv`` and ``trials.csv``. `truth` is not written.

        Parameters
        ----------
        folder : path
            An existing folder of that name is replaced once the new one is complete.
        copy_images : bool
            Copy images that are rows of an HDF5 file (NSD's) into ``images.npy``. Otherwise the
            folder says where that file is and which rows, and needs it when images are read.

        Returns
        -------
        pathlib.Path : `folder`

        Raises
        ------
        PermissionError : the parent folder is read-only.
        OSError : the disk is full.
        FileExistsError : `folder` exists and is not a ``.brain`` folder, or holds the image files
            that `images` reads, which would be lost.
        """
        folder = Path(folder)
        brain_folder.write(
            folder,
            images=self.images,
            betas=self.betas,
            voxels=self.voxels,
            trials=self.trials,
            name=self.name,
            volume=self.volume,
            units=self.units,
            copy_images=copy_images,
        )
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "EncodingData":
        """Read a ``.brain`` folder; betas and images are memory-mapped and not read yet.

        Parameters
        ----------
        folder : path

        Returns
        -------
        EncodingData

        Raises
        ------
        FileNotFoundError : the folder or one of its files is missing; named.
        ValueError : a file is truncated or does not fit the others, or the folder was written
            by a newer version.
        """
        parts = brain_folder.read(Path(folder))
        check_same_length(images=parts["images"], betas=parts["betas"])
        _check_tables(parts["voxels"], parts["trials"], parts["betas"].shape)
        return cls._unchecked(**parts, truth=None)

    # ---------------------------------------------------------------- out to the brain

    def to_nifti(self, values: Any, path: str | os.PathLike | None = None) -> "nibabel.Nifti1Image":
        """Values per voxel in the volume that the voxels come from.

        Parameters
        ----------
        values : array, shape (n_voxels,) or (n_maps, n_voxels)
        path : path, optional
            A ``.nii`` or ``.nii.gz`` file to write.

        Returns
        -------
        nibabel.Nifti1Image, float32, NaN outside the voxels

        Raises
        ------
        ValueError : the data have no `volume`, or another number of values than of voxels.
        """
        if self.volume is None and "vertex" in self.voxels:
            raise ValueError(f"the voxels of {self.name!r} are on the surface: use to_surface")
        if self.volume is None:
            raise ValueError(
                f"{self.name!r} does not know the volume its voxels come from: set "
                "data = dataclasses.replace(data, volume=Volume(shape, affine)), with i, j, k in "
                "the voxel table, or use brainenc.brain.to_nifti"
            )
        shape, affine = self.volume.shape, self.volume.affine
        return to_nifti(values, self.voxels, shape=shape, affine=affine, path=path)

    def to_surface(
        self,
        values: Any,
        path: str | os.PathLike | None = None,
        *,
        n_vertices: int = FSAVERAGE,
    ) -> "dict[str, nibabel.GiftiImage]":
        """Values per vertex as GIfTI, a hemisphere each: see `brainenc.brain.to_surface`."""
        return to_surface(values, self.voxels, n_vertices=n_vertices, path=path)

    def to_csv(self, values: Any, path: str | os.PathLike) -> Path:
        """The voxel table with values beside it.

        Parameters
        ----------
        values : array, shape (n_voxels,), or dict of column name to such arrays
            An array becomes the column ``value``.
        path : path

        Returns
        -------
        pathlib.Path : `path`

        Raises
        ------
        ValueError : another number of values than of voxels, or the name of a column that there is.
        """
        named = dict(values) if isinstance(values, Mapping) else {"value": values}
        check_same_length(voxels=self.voxels, **named)
        for name, column in named.items():
            if np.ndim(column) != 1:
                raise ValueError(
                    f"{name} {np.shape(column)} must be (n_voxels,): give several columns as a "
                    "dict of name to values"
                )
        if taken := [name for name in named if name in self.voxels]:
            raise ValueError(f"the voxel table has columns {taken} already; choose other names")
        with atomic_path(path) as temporary:
            self.voxels.assign(**named).to_csv(temporary, index_label="voxel")
        return Path(path)


def atlas_columns(voxels: pd.DataFrame) -> list[str]:
    """Columns of a voxel table that hold ROI labels."""
    return [
        str(column)
        for column in voxels
        if column not in NON_ATLAS_COLUMNS and not pd.api.types.is_numeric_dtype(voxels[column])
    ]


def _trials_present(betas: np.ndarray) -> pd.DataFrame:
    present = [~np.isnan(np.fmax.reduce(block, axis=-1)) for block in row_blocks(betas)]
    image, repeat = np.nonzero(np.concatenate(present))
    return pd.DataFrame({"image": image, "repeat": repeat})


def _check_tables(voxels: pd.DataFrame, trials: pd.DataFrame, shape: tuple[int, ...]) -> None:
    if len(voxels) != shape[2]:
        raise ValueError(f"voxels has {len(voxels)} rows, but betas {shape} has {shape[2]} voxels")
    for column, n in (("image", shape[0]), ("repeat", shape[1])):
        if column not in trials:
            raise ValueError(f"trials has columns {list(trials.columns)}; it needs {column!r}")
        values = trials[column]
        if not pd.api.types.is_integer_dtype(values):
            raise TypeError(f"trials[{column!r}] must be integer positions, got {values.dtype}")
        if len(values) and (values.min() < 0 or values.max() >= n):
            raise ValueError(f"trials[{column!r}] has positions outside 0 … {n - 1}")
    if trials.duplicated(["image", "repeat"]).any():
        raise ValueError("trials lists the same image and repeat twice")


def _check_complete(trials: pd.DataFrame, present: pd.DataFrame) -> None:
    """What is not listed would be dropped by everything that goes by the trial table."""
    keys = ["image", "repeat"]
    unlisted = pd.MultiIndex.from_frame(present).difference(pd.MultiIndex.from_frame(trials[keys]))
    if len(unlisted):
        image, repeat = unlisted[0]
        raise ValueError(
            f"betas has data for {len(unlisted)} trials that trials does not list, the first being "
            f"repeat {repeat} of image {image}"
        )
