"""EncodingData: the images, betas, voxel table and trial table of one subject.

Long because most of it is documentation; the methods hand over to the modules beside this one.
"""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainenc import metrics
from brainenc.brain.maps import VoxelMaps
from brainenc.brain.volumes import Volume
from brainenc.conversion import check_row_order
from brainenc.data import brain_folder, from_volumes
from brainenc.data.alignment import AlignmentCheck, check_alignment
from brainenc.data.ceiling import ceiling_of_averages
from brainenc.data.counts import (
    check_n_averaged,
    compact,
    counts_of_average,
    counts_of_table,
    with_counts,
)
from brainenc.data.feature_noise import check_features
from brainenc.data.images import as_images, take_images
from brainenc.data.similarity import SimilarImages, similar_images
from brainenc.data.splits import held_out_images
from brainenc.data.stimuli import as_stimuli
from brainenc.data.synthetic import check_measured
from brainenc.data.trials import (
    as_trials,
    averaged_trials,
    check_trials,
    group_by_image,
    trials_of_images,
    zscore_by_session,
)
from brainenc.data.volume_images import open_pictures
from brainenc.data.voxels import (
    as_voxels,
    atlas_columns,
    check_voxels,
    in_rois,
    roi_positions,
    with_codes_as_labels,
)
from brainenc.html_tables import html_table
from brainenc.repeats import average_repeats, effective_trials
from brainenc.validation import check_betas, check_index, check_same_length


@dataclass(frozen=True, eq=False)  # comparison by identity, as arrays have no truth value
class EncodingData(VoxelMaps):
    """Images and betas of one subject, with tables of voxels and trials.

    Parameters
    ----------
    images : array or lazy sequence, shape (n_images, H, W[, 3]), uint8
        One row per unique image; also a list of paths or PIL images.
    betas : array, shape (n_images, n_repeats, n_voxels) or (n_images, n_voxels)
        Single-trial responses, NaN where a repeat is missing. float32 or float64; memory-mapped
        arrays stay on disk.
    voxels : pandas.DataFrame, optional
        One row per voxel: one column of ROI labels (text) per atlas, missing or "" outside every
        ROI, or one column of bool per ROI; and any of ``ncsnr``, ``i, j, k``, ``x, y, z``,
        ``vertex``, ``hemisphere``.
    trials : pandas.DataFrame, optional
        One row per trial present: ``image`` and ``repeat`` (positions in `betas`), and any of
        ``session``, ``run``. Made from `betas` when not given; otherwise it must list every
        trial that `betas` has data for. Trials listed without data in any voxel are left out.
    name : str
        Shown in tables and reports.
    truth : object, optional
        True responses of a simulated subject, with the methods `select` and `rescale` of
        `brainenc.datasets.SimulatedTruth`; not saved.
    volume : Volume, optional
        Grid of the volume that the voxels come from; ``i, j, k`` are positions in it.
    units : str
        Units of the betas as text, such as "percent signal change"; "" if unknown.
    n_averaged : number or array, shape (n_images,), (n_images, 1) or (n_images, n_voxels), optional
        Trials averaged in each beta, if the betas are averages over repeats; also taken from a
        column ``n_averaged`` of `trials`. By default a beta is a single trial. Kept as an array of
        two dimensions; the trial table has the column if all voxels share the numbers.
    stimuli : pandas.DataFrame, n_images rows, optional
        What is known of each image, such as its name and category, in the order of `images`. It
        goes where the images go: subsets, files, results. Without columns by default.
    checked : bool
        True if all parts come from an `EncodingData`: nothing is checked or converted, since checks
        read all betas.

    Raises
    ------
    ValueError : numbers of rows that do not match, empty or infinite betas, images of different
        sizes.
    TypeError : images that are not uint8, betas that are not numeric.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((20, 16, 16, 3), dtype=np.uint8)
    >>> betas = np.ones((20, 3, 5))  # 20 images, 3 repeats, 5 voxels
    >>> train, test = EncodingData(images, betas).train_test(0.2)
    >>> train.n_images, test.betas.shape
    (16, (4, 3, 5))
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
    n_averaged: Any = None
    # None only until __post_init__ has made the table.
    stimuli: pd.DataFrame = None  # type: ignore[assignment]
    checked: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, checked: bool) -> None:
        if checked:
            return
        check_row_order(images=self.images, betas=self.betas, n_averaged=self.n_averaged)
        images = as_images(self.images)
        betas = check_betas(self.betas, n_images=len(images))
        voxels = as_voxels(self.voxels, betas.shape[2])
        trials = as_trials(self.trials, betas)
        n_averaged = check_n_averaged(self.n_averaged, betas, trials)
        if n_averaged is not None:
            trials = with_counts(trials, n_averaged)
        if self.volume is not None:
            self.volume.check_positions(voxels)
        converted = {"images": images, "betas": betas, "voxels": voxels, "trials": trials}
        converted["n_averaged"] = n_averaged
        converted["stimuli"] = as_stimuli(self.stimuli, len(images))
        for name, value in converted.items():
            object.__setattr__(self, name, value)  # how a frozen dataclass sets its fields

    def _with(self, **changes: Any) -> "EncodingData":
        """Copy with other, already checked parts."""
        return dataclasses.replace(self, **changes, checked=True)

    # ---------------------------------------------------------------- contents

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
        return roi_positions(self.voxels, atlas)

    def __repr__(self) -> str:
        atlases = ", ".join(f"{atlas}: {len(self.rois(atlas))} ROIs" for atlas in self.atlases)
        return (
            f"EncodingData({self.name!r}: {self.n_images} images {tuple(self.images.shape[1:])}, "
            f"{len(self.trials)} trials, up to {self.n_repeats} repeats, {self.n_voxels} voxels"
            + (f", {self.units}" if self.units else "")
            + (f"; {atlases})" if atlases else ")")
        )

    def _repr_html_(self) -> str:
        shown = {
            "images": f"{self.n_images}, {' × '.join(map(str, self.images.shape[1:]))}",
            "trials": f"{len(self.trials)}, up to {self.n_repeats} repeats of an image",
            "voxels": f"{self.n_voxels}" + (f", in {self.units}" if self.units else ""),
        }
        for atlas in self.atlases:
            names = list(map(str, self.rois(atlas)))
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            shown[atlas] = ", ".join(names[:12]) + more
        return html_table(f"EncodingData {self.name}", shown)

    # ---------------------------------------------------------------- construction

    @classmethod
    def from_trials(
        cls,
        images: Any,
        betas: np.ndarray,
        image_ids: Sequence | np.ndarray,
        *,
        session: Sequence | np.ndarray | None = None,
        run: Sequence | np.ndarray | None = None,
        voxels: pd.DataFrame | None = None,
        name: str = "data",
        volume: Volume | None = None,
        units: str = "",
        stimuli: Any = None,
    ) -> "EncodingData":
        """Group trial-wise betas by image.

        Parameters
        ----------
        images : array or sequence, shape (n_unique, H, W[, 3]), dict of name to image, or folder
            Unique images. Images without trials are left out.
        betas : array, shape (n_trials, n_voxels)
            One row per trial, in the order of presentation.
        image_ids : array, shape (n_trials,)
            Row of `images` (counted from 0) that each trial showed; or its name, as text: the name
            of the image's file, with or without folder and ending, or its key in a dict.
        session, run : array, shape (n_trials,), optional
            Columns of the trial table; `zscore_by_session` needs the session.
        voxels, name, volume, units
            As for `EncodingData`.
        stimuli : pandas.DataFrame, or path of a .tsv or .csv file, optional
            One row per image: found by a column with the images' names if they have names,
            otherwise in the order of `images`.

        Returns
        -------
        EncodingData
            Images in the order of `images`, repeats in order of presentation. The trial table
            also has ``trial``, the row of `betas` that each trial came from; the table of stimuli
            has the ``name`` of images with names.

        Raises
        ------
        ValueError : lengths differ, or ids are missing, outside `images` (counted from 1, for
            example) or names of no image, or of several.
        """
        images, names, stimuli = open_pictures(images, stimuli)
        grouped, shown, trials = group_by_image(
            betas, image_ids, n_images=len(images), names=names, session=session, run=run
        )
        tables: Any = {"voxels": voxels, "trials": trials, "stimuli": stimuli.iloc[shown]}
        images = take_images(images, shown)
        return cls(images, grouped, **tables, name=name, volume=volume, units=units)

    @classmethod
    def from_volumes(
        cls,
        betas: Any,
        mask: Any,
        image_ids: Any,
        images: Any,
        *,
        atlases: Any = None,
        labels: Any = None,
        session: Any = None,
        run: Any = None,
        stimuli: Any = None,
        units: str = "",
        name: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        axes: str | None = None,
        affine: Any = None,
        space: str = "native",
        without_image: str = "refuse",
    ) -> "EncodingData":
        """Betas of trials in volumes or on surfaces, with a mask, atlases and pictures.

        Betas are read some trials at a time and kept in single precision, voxels of the mask only.

        Parameters
        ----------
        betas : array, path, image, or a list of these, one per run
            Volumes: an array (X, Y, Z, n_trials), a NIfTI file or image, an HDF5 data set (also
            ``("file.h5", "betas")``), or ``.npy``; a file of three axes is one trial; axes in other
            orders are recognised by the mask's shape. Surfaces: ``{"lh": …, "rh": …}`` of GIFTI
            (``.func.gii``), MGH or arrays (n_vertices, n_trials), or of lists of runs; CIFTI
            (``.dscalar.nii``, ``.dtseries.nii``).
        mask : path, image or array (X, Y, Z)
            Above 0 is inside. Surfaces: a dict of hemispheres, or None for all vertices; CIFTI: a
            CIFTI map, "cortex", "subcortex" or None.
        image_ids : array, shape (n_trials,), or a list of such, one per run
            Name of the image that each trial showed, or its row in `images`, counted from 0.
        images : folder, dict of name to image, list of files, array, or None
            None: files that a column of `stimuli` names.
        atlases : dict of name to map, or paths, optional
            NIfTI, arrays; ``.annot`` and ``.label.gii`` of hemispheres; ``.dlabel.nii``.
        labels : dict of atlas to label table, or one table, optional
            Names of the codes: a dict, FreeSurfer's ``.ctab`` or ``.txt``, or a ``.tsv`` of BIDS.
            Codes of an atlas without a table are its labels: "12".
        session, run : value per trial or per run, optional
            Columns of the trial table. Several runs are numbered from 1 by default.
        stimuli : pandas.DataFrame, or path of a .tsv or .csv file, optional
            Table with a row per image; see `from_trials`.
        units, name : str
        image_size : int or (height, width), optional
            Size that image files are resized to.
        axes : str, optional
            Order of the axes of arrays where shapes leave several: "xyzt", "txyz" or "tzyx"; with
            "v" for the voxels of the mask, "vt" or "tv".
        affine : array, shape (4, 4), optional
            Of arrays, for maps in NIfTI files.
        space : str
            As of `brainenc.Volume`: "native" or "MNI152".
        without_image : "refuse" or "leave out"
            Trials whose id is missing or names no image.

        Returns
        -------
        EncodingData
            The voxel table has ``i, j, k`` (and `volume` the grid), or ``vertex`` and
            ``hemisphere``, in the order of ``grid[mask]``, and a column of ROI labels per atlas.

        Raises
        ------
        ValueError : a volume or map of another shape or affine than the mask (nothing is
            resampled), an empty mask or one of labels, trials without a picture, a label table
            that lacks codes or has a name twice.

        Warns
        -----
        UserWarning : pictures without a trial, atlases without label tables, trials or voxels
            without data.

        Examples
        --------
        >>> import numpy as np
        >>> betas = np.random.default_rng(0).standard_normal((4, 4, 4, 6))  # 6 trials
        >>> mask = np.zeros((4, 4, 4), dtype=bool)
        >>> mask[1:3, 1:3, 1:3] = True
        >>> codes = np.where(np.arange(4) < 2, 1, 2)[:, None, None] * mask
        >>> images = {name: np.zeros((16, 16, 3), np.uint8) for name in ("cat", "dog")}
        >>> data = EncodingData.from_volumes(
        ...     betas, mask, ["dog", "cat", "cat", "dog", "cat", "dog"], images,
        ...     atlases={"visual": codes}, labels={1: "V1", 2: "V2"}, affine=np.eye(4),
        ... )
        >>> data.betas.shape, list(data.rois()), data.stimuli["name"].tolist()
        ((2, 3, 8), ['V1', 'V2'], ['cat', 'dog'])
        """
        given: Any = {"atlases": atlases, "labels": labels, "session": session, "run": run}
        given |= {"stimuli": stimuli, "units": units, "name": name, "image_size": image_size}
        given |= {"axes": axes, "affine": affine, "space": space, "without_image": without_image}
        return cls(
            **from_volumes.load(from_volumes.make_plan(betas, mask, image_ids, images, **given))
        )

    def zscore_by_session(self) -> "EncodingData":
        """Each voxel z-scored within each session, over all its trials.

        Returns
        -------
        EncodingData
            Betas in units of the voxel's standard deviation (ddof 0) over the trials of the
            session. NaN where a voxel is constant within a session (a warning gives the number).

        Raises
        ------
        ValueError : the trial table has no session column, or trials without a session.
        """
        betas, mean, sd = zscore_by_session(self.betas, self.trials)
        if n_constant := int((np.isnan(sd) & ~np.isnan(mean)).sum()):
            warnings.warn(
                f"{n_constant} times a voxel was constant in a session; its z-score is NaN there",
                stacklevel=2,
            )
        truth = None if self.truth is None else self.truth.rescale(1 / sd, -mean / sd, self.trials)
        return self._with(betas=betas, truth=truth, units="z-scored within session")

    def average_repeats(self) -> "EncodingData":
        """One averaged response per image.

        Returns
        -------
        EncodingData
            n_repeats is 1. `n_averaged` has the number of trials in each average: per image, or
            per image and voxel if voxels lack different trials. If the voxel table has no ``ncsnr``
            and there are repeats, it gets the estimate from the repeats, since averages lose it.
            Data without repeats are returned as they are.
        """
        if self.n_repeats == 1:
            return self
        voxels = self.voxels
        if "ncsnr" not in voxels:
            voxels = voxels.assign(ncsnr=metrics.ncsnr_from_repeats(self.betas))
        n_averaged = counts_of_average(self.betas)
        return self._with(
            betas=average_repeats(self.betas)[:, None],
            voxels=voxels,
            trials=with_counts(averaged_trials(n_averaged), n_averaged),
            n_averaged=n_averaged,
        )

    def effective_trials(self, images: Any = None) -> np.ndarray:
        """Effective number of trials behind the averages of each voxel: 1 / mean(1 / n_i).

        Parameters
        ----------
        images : mask of shape (n_images,) or positions, optional
            Images that count; all by default.

        Returns
        -------
        array, shape (n_voxels,)
            Over the images for which the voxel has data; NaN if there are none.
        """
        if images is not None:
            images = check_index(images, self.n_images, "images")
        return effective_trials(self.betas, self.n_averaged, images)

    def noise_ceiling(
        self, images: Any = None, *, n_bootstraps: int = 0, random_state: int | None = 0
    ) -> "metrics.NoiseCeiling":
        """Noise ceiling for repeat-averaged betas, per voxel.

        Signal and noise are estimated from the repeats of all images or, without repeats, taken
        from the ``ncsnr`` of the voxel table; the number of trials averaged is counted per voxel.
        Without either, the ceiling is NaN. Synthetic trials do not count.

        Parameters
        ----------
        images : mask of shape (n_images,) or positions, optional
            Images whose averages are scored, such as a fixed test set, which often has more
            repeats than the others; all by default.
        n_bootstraps : int
            Resamples of images for the 95 % interval; none by default.
        random_state : int

        Returns
        -------
        NoiseCeiling, in space "r2"

        Warns
        -----
        UserWarning : the ceiling comes from ``ncsnr``, and it is not said whether betas are single
            trials or averages (`n_averaged`); they are taken for single trials.
        """
        if images is not None:
            images = check_index(images, self.n_images, "images")
        return ceiling_of_averages(
            self.betas,
            self.voxels.get("ncsnr"),
            self.n_averaged,
            images,
            self.trials,
            n_bootstraps=n_bootstraps,
            random_state=random_state,
        )

    def check(
        self, *, features: Any = None, n_images: int = 600, random_state: int | None = 0
    ) -> AlignmentCheck:
        """Check in seconds whether images and betas belong together, against permuted images.

        Parameters
        ----------
        features : array, shape (n_images, ...), optional
            Features to check for betas in them, by `brainenc.data.check_features`.
        n_images : int
            Number of images drawn at random for the check.
        random_state : int

        Returns
        -------
        AlignmentCheck

        Warns
        -----
        UserWarning : each of `AlignmentCheck.warnings`. Missing evidence gives none.
        """
        known: Any = {"trials": self.trials, "ncsnr": self.voxels.get("ncsnr")}
        counts = 1 if self.n_averaged is None else self.n_averaged
        known |= {"n_averaged": counts, "random_state": random_state}
        of_images: Any = {"rows": self.trials["image"].to_numpy(), "n_images": n_images}
        found = check_alignment(self.images, self.betas, name=self.name, **of_images, **known)
        if features is not None:
            about = check_features(features, self.betas, **known)
            found = dataclasses.replace(found, features=about)
        for message in found.warnings:
            warnings.warn(message, stacklevel=2)
        return found

    def similar_images(self) -> SimilarImages:
        """Near copies among the images: `brainenc.data.similar_images` of them.

        Returns
        -------
        SimilarImages
            ``pairs``, and ``groups`` for `GroupKFold` or `brainenc.benchmark`.
        """
        return similar_images(self.images)

    # ---------------------------------------------------------------- selection

    def select(
        self,
        *,
        images: Any = None,
        voxels: Any = None,
        roi: str | Sequence[str] | None = None,
        atlas: str | None = None,
    ) -> "EncodingData":
        """Data of some images and voxels.

        Parameters
        ----------
        images : mask of bool, shape (n_images,), or positions, each once, optional
        voxels : mask of shape (n_voxels,) or positions, each once, optional
        roi : label or several, optional
            Voxels of these ROIs; not together with `voxels`.
        atlas : str, optional
            The atlas that `roi` is in; by default the first, or the only one that has the ROI.

        Raises
        ------
        ValueError : nothing selected, positions out of range, no such ROI or atlas, or both
            `roi` and `voxels`.
        """
        if roi is not None:
            if voxels is not None:
                raise ValueError("give roi or voxels, not both")
            voxels = in_rois(self.voxels, roi, atlas)
        data = self
        if images is not None:
            data = data._take_images(check_index(images, self.n_images, "images"))
        if voxels is not None:
            data = data._take_voxels(check_index(voxels, self.n_voxels, "voxels"))
        return data

    def _take_images(self, index: np.ndarray) -> "EncodingData":
        return self._with(
            images=take_images(self.images, index),
            betas=self.betas[index],
            trials=trials_of_images(self.trials, index, self.n_images),
            n_averaged=None if self.n_averaged is None else self.n_averaged[index],
            stimuli=self.stimuli.iloc[index].reset_index(drop=True),
            truth=None if self.truth is None else self.truth.select(images=index),
        )

    def _take_voxels(self, index: np.ndarray) -> "EncodingData":
        trials, n_averaged = self.trials, self.n_averaged
        if n_averaged is not None and n_averaged.shape[1] > 1:
            n_averaged = compact(n_averaged[:, index])  # these voxels may share their numbers
            trials = with_counts(trials, n_averaged)
        return self._with(
            betas=np.take(self.betas, index, axis=2),
            trials=trials,
            n_averaged=n_averaged,
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
            A random share, or the test images (such as the shared images of NSD).
        random_state : int
            Seed of the random share.

        Returns
        -------
        train, test : EncodingData

        Raises
        ------
        ValueError : one side would be empty, `test` is an int, not a share, or a test image has a
            synthetic trial.
        """
        in_test = held_out_images(test, self.n_images, random_state=random_state)
        check_measured(self.trials, np.flatnonzero(in_test), "test")
        return self.select(images=~in_test), self.select(images=in_test)

    # ---------------------------------------------------------------- on disk

    def save(self, folder: str | os.PathLike, *, copy_images: bool = False) -> Path:
        """Write a ``.brain`` folder atomically; `truth` is not written.

        `brainenc.data.brain_folder` lists its files. A killed save leaves the old folder, and a
        hidden ``.*.tmp`` folder beside it.

        Parameters
        ----------
        folder : path
            An existing folder of that name is replaced once the new one is complete.
        copy_images : bool
            Copy images that are rows of an HDF5 file (as in NSD) into ``images.npy``. Otherwise the
            folder stores the file's path and the rows, and needs the file when images are read.

        Returns
        -------
        pathlib.Path : `folder`

        Raises
        ------
        PermissionError, OSError : the parent folder is read-only, or the disk is full.
        FileExistsError : `folder` is not a ``.brain`` folder, or contains the files of `images`.
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
            n_averaged=self.n_averaged,
            stimuli=self.stimuli,
            copy_images=copy_images,
        )
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike, *, verify: bool | None = None) -> "EncodingData":
        """Read a ``.brain`` folder; betas and images are memory-mapped and not read yet.

        Parameters
        ----------
        folder : path
        verify : bool, optional
            Compare sizes and tables with what was saved, and betas and images too if the folder
            has at most 256 MiB (by default) or always (True; reads them); or compare nothing
            (False; for tables changed by hand).

        Raises
        ------
        FileNotFoundError, ValueError : a file is missing, damaged, changed or of a newer version.
        """
        parts = brain_folder.read(Path(folder), verify=verify)
        check_same_length(images=parts["images"], betas=parts["betas"])
        check_voxels(parts["voxels"], parts["betas"].shape)
        # Folders of older versions may have atlases of codes.
        parts["voxels"] = with_codes_as_labels(parts["voxels"])
        check_trials(parts["trials"], parts["betas"].shape)
        parts["stimuli"] = as_stimuli(parts["stimuli"], len(parts["betas"]))
        counts = counts_of_table(parts["trials"], len(parts["betas"]))
        if parts["n_averaged"] is None and counts is not None:  # a folder of 0.1
            parts["n_averaged"] = compact(counts)
        return cls(**parts, checked=True)
