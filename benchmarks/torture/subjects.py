"""What is mutated: for each kind of input a small sample, and the reading whose numbers count.

`checked` kinds carry checksums, so that a file that loads with other numbers is a fault. In the
other kinds a change of the data is another valid file, and nobody could notice it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from brainenc.encoders.registry import ENCODERS
from torture import samples


@dataclass(frozen=True)
class Subject:
    """A kind of input.

    Attributes
    ----------
    kind : str
        Row of the table.
    name : str
    write : function of a folder
        Writes the sample.
    read : function of a folder
        Reads it as a user would; returns the numbers, as arrays in lists and dicts.
    checked : bool
        Whether its format has checksums of all that matters.
    words : tuple of str
        What a clear error may name besides a file: arguments.
    share : float
        Inputs of this subject, relative to others.
    errors : tuple of str
        Names of errors of brainenc's own that say what is wrong with an input.
    valid : tuple of str
        Mutators that make another valid input, checksums included: nobody could notice it.
    """

    kind: str
    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    checked: bool = True
    words: tuple[str, ...] = ()
    share: float = 1.0
    errors: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()


def subjects() -> dict[str, Subject]:
    """All kinds of input by name."""
    kinds = (_ours(), _archives(), _images(), _volumes(), _data_sets())
    return {subject.name: subject for kind in kinds for subject in kind}


def _ours() -> Iterator[Subject]:
    """What brainenc writes, with checksums."""
    for name in ENCODERS:
        write = partial(samples.write_model, name)
        yield Subject("saved encoders", f"model-{name}", write, samples.read_model)
    for name, write in {
        "brain": samples.write_brain,
        "brain-files": samples.write_brain_files,
    }.items():
        yield Subject(".brain folders", name, write, samples.read_brain, share=2.5)
    yield Subject(
        "training checkpoints", "training", partial(samples.train, resume=False),
        partial(samples.train, resume=True), share=2, valid=("zip_member",),
        errors=("TrainingError",),
    )  # fmt: skip
    yield Subject("feature store", "store", samples.pixels, samples.pixels, share=3)
    result = "result folders"
    yield Subject(result, "result", samples.write_result, samples.read_result, share=3)
    yield Subject(result, "report", samples.write_result, samples.read_report, share=0.03)


def _archives() -> Iterator[Subject]:
    """Zip archives: their checksums are of single members."""
    for name, save in {"npz": np.savez, "npz-compressed": np.savez_compressed}.items():
        write = partial(samples.write_npz, save)
        yield Subject(
            ".npz", name, write, samples.read_npz, share=1.5, valid=("zip_member",),
            words=("images", "betas", "roi", "ncsnr", "session"),
        )  # fmt: skip
    for which in ("vae", "s2n"):
        write, read = (
            partial(f, which) for f in (samples.write_checkpoint, samples.read_checkpoint)
        )
        yield Subject(
            "official checkpoints", f"official-{which}", write, read, share=2, valid=("zip_member",)
        )


def _images() -> Iterator[Subject]:
    kind, other = "image files", ("delete", "swap")
    for ending in ("png", "jpg", "bmp", "tif", "webp"):
        write = partial(samples.write_images, ending)
        png = ending == "png"  # the only one with checksums
        yield Subject(kind, f"images-{ending}", write, samples.read_images, png, valid=other)
    write, read = samples.write_images_npy, samples.read_images_npy
    yield Subject(kind, "images-npy", write, read, checked=False, words=("images",))
    write, read = samples.write_hdf5_images, samples.read_hdf5_images
    yield Subject(kind, "images-hdf5", write, read, checked=False)


def _volumes() -> Iterator[Subject]:
    """Masks of voxels; those that are compressed have checksums."""
    doors = {"mask": samples.read_mask_file, "volume": samples.read_volume}
    for door, read in doors.items():
        for ending in ("nii", "nii.gz", "mgh", "mgz", "npy"):
            if (door, ending) == ("volume", "npy"):
                continue
            yield Subject(
                "NIfTI, MGH, npy masks", f"{door}-{ending}", partial(samples.write_mask, ending),
                partial(read, ending), checked="z" in ending, words=("mask",),
                valid=("gzip_inside",),
            )  # fmt: skip


def _data_sets() -> Iterator[Subject]:
    nsd = {"checked": False, "words": ("mask",)}
    yield Subject("NSD trees", "nsd", samples.write_nsd, samples.read_nsd, share=0.5, **nsd)
    yield Subject(
        "NSD trees", "nsd-surface", partial(samples.write_nsd, surface=True),
        partial(samples.read_nsd, space="fsaverage"), share=0.3, **nsd,
    )  # fmt: skip
    write, read = samples.write_algonauts, samples.read_algonauts
    yield Subject("Algonauts trees", "algonauts", write, read, checked=False)
