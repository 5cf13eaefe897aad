"""What is mutated: for each kind of input a small sample, and the reading whose numbers count.

`checked` kinds carry checksums, so that a file that loads with other numbers is a fault. In the other
kinds a change of the data is another valid file, and nobody could notice it.
"""

import functools
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import brainenc
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageFiles, open_images


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
    valid: tuple[str, ...] = ()


def digest(value: Any) -> str:
    """Hash of arrays, tables and plain values."""
    state = hashlib.blake2b(digest_size=12)
    _feed(state, value)
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, pd.DataFrame):
        for column in value:
            _feed(state, [str(column), value[column].to_numpy()])
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "OUT":
            state.update(repr([str(item) for item in value.ravel()]).encode("utf-8", "replace"))
        else:
            state.update(f"{value.dtype.str}{value.shape}".encode())
            state.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            _feed(state, [str(key), value[key]])
    elif isinstance(value, (list, tuple)):
        state.update(f"[{len(value)}]".encode())
        for item in value:
            _feed(state, item)
    else:
        state.update(repr(value).encode("utf-8", "replace"))


# -------------------------------------------------------------------- models


@functools.cache
def problem() -> tuple[np.ndarray, np.ndarray]:
    """110 images of four tokens, 8 voxels, 2 trials."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((110, 4, 6)).astype(np.float32)
    signal = tokens.mean(axis=1) @ rng.standard_normal((6, 8))
    betas = signal[:, None] + rng.standard_normal((110, 2, 8))
    return tokens, betas.astype(np.float32)


def _write_model(name: str, folder: Path) -> None:
    from tiny_encoders import tiny_encoder

    quiet = {"features": None, "random_state": 0, "verbose": False, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_encoder(name, **quiet).fit(*problem()).save(folder / "model")


def _read_model(folder: Path) -> Any:
    encoder = brainenc.load(folder / "model")
    tokens = problem()[0][:3]
    return [encoder.predict(tokens), encoder.sample(tokens, n=1, random_state=0)]


# -------------------------------------------------------------------- data


def make_data(n_images: int = 12, size: int = 6) -> brainenc.EncodingData:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_images, size, size, 3), dtype=np.uint8)
    betas = rng.standard_normal((n_images, 2, 6)).astype(np.float32)
    betas[3, 1] = np.nan
    position = np.argwhere(np.ones((1, 2, 3)))
    voxels = pd.DataFrame(position, columns=["i", "j", "k"]).assign(
        visual=["V1", "V1", "V2", "V2", None, "NA"], ncsnr=np.float32([1, 2, 0.5, np.nan, 0, 1])
    )
    trials = pd.DataFrame(np.argwhere(np.isfinite(betas[:, :, 0])), columns=["image", "repeat"])
    trials["session"] = np.arange(len(trials)) % 3
    volume = brainenc.brain.Volume((1, 2, 3), np.diag([2.0, 2, 2, 1]))
    return brainenc.EncodingData(
        images, betas, voxels, trials, "subject 1", volume=volume, units="percent"
    )


def numbers_of(data: brainenc.EncodingData) -> Any:
    """All that a fit or a report takes from data; the name is not among it."""
    volume = None if data.volume is None else data.volume.to_json()
    rois = {name: mask for name, mask in data.rois().items()}
    return [
        *(np.asarray(data.images[:]), np.asarray(data.betas), data.voxels, data.trials),
        *(volume, data.units, rois, data.noise_ceiling(n_bootstraps=0).values),
    ]


def _write_brain(folder: Path) -> None:
    make_data().save(folder / "subject.brain")


def _write_brain_files(folder: Path) -> None:
    import dataclasses

    from PIL import Image

    data = make_data(4)
    (folder / "pictures").mkdir()
    for i, image in enumerate(data.images):
        Image.fromarray(image).save(folder / "pictures" / f"{i}.png")
    files = ImageFiles.from_folder(folder / "pictures")
    dataclasses.replace(data, images=files).save(folder / "subject.brain")
    shutil.rmtree(folder / "pictures")


def _read_brain(folder: Path) -> Any:
    return numbers_of(brainenc.EncodingData.load(folder / "subject.brain"))


def _write_npz(folder: Path, save: Callable = np.savez) -> None:
    data = make_data()
    save(
        folder / "subject.npz",
        images=data.images,
        betas=data.betas,
        roi=data.voxels["visual"].fillna("").to_numpy(str),
        ncsnr=np.abs(data.voxels["ncsnr"].to_numpy()),
        session=np.arange(24).reshape(12, 2),
    )


def _read_npz(folder: Path) -> Any:
    return numbers_of(brainenc.load_npz(folder / "subject.npz"))


# -------------------------------------------------------------------- images


def _write_images(ending: str, folder: Path) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    y, x = np.mgrid[:12, :10]
    for i in range(2):
        pixels = np.stack([20 * x + i, 20 * y, 9 * (x + y)], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.{ending}")


def _read_images(folder: Path) -> Any:
    return np.asarray(open_images(folder / "pictures"))


def _write_images_npy(folder: Path) -> None:
    np.save(folder / "images.npy", make_data().images)


def _read_images_npy(folder: Path) -> Any:
    return np.asarray(open_images(folder / "images.npy"))


def _write_hdf5_images(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "images.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=make_data().images, compression="gzip")


def _read_hdf5_images(folder: Path) -> Any:
    return np.asarray(HDF5Images(folder / "images.hdf5"))


# -------------------------------------------------------------------- official checkpoints


def _write_checkpoint(which: str, folder: Path) -> None:
    import torch

    from brainenc.encoders.synbrain import write_s2n, write_vae
    from brainenc.nets import S2N, BrainVAE

    torch.manual_seed(0)
    if which == "vae":
        sizes = {"n_tokens": 2, "token_width": 4, "pooled_length": 8, "n_halvings": 1}
        sizes |= {"n_channels": 4, "channel_multipliers": (1, 2), "n_blocks": 1}
        write_vae(folder / "last.pth", BrainVAE(**sizes, projector_width=4))
    else:
        sizes = {"n_tokens": 3, "width": 8, "depth": 1, "n_heads": 2, "n_time_features": 4}
        write_s2n(folder / "last.pt", S2N(**sizes, mlp_ratio=2.0))


def _read_checkpoint(which: str, folder: Path) -> Any:
    from brainenc.encoders.synbrain import read_s2n, read_vae

    path = folder / ("last.pth" if which == "vae" else "last.pt")
    net, sizes = (read_vae if which == "vae" else read_s2n)(path)
    return [{k: v.numpy() for k, v in net.state_dict().items()}, sizes]


# -------------------------------------------------------------------- training checkpoints


def _train(folder: Path, *, resume: bool) -> Any:
    import torch
    from torch import nn

    from brainenc.process_state import torch_seeded
    from brainenc.training import Examples, TrainingSettings, train

    tokens, betas = problem()
    examples = Examples(tokens=tokens[:16, 0], betas=betas[:16, 0])
    with torch_seeded(0):
        module = nn.Linear(6, 8)
    settings = TrainingSettings(
        n_steps=4, batch_size=8, learning_rate=1e-2, report_every=1, random_state=0, ema_decay=0.9
    )

    def loss(module: Any, batch: Any) -> Any:
        return {"loss": ((module(batch["tokens"]) - batch["betas"]) ** 2).mean()}

    result = train(
        module, loss, examples, settings, device="cpu", checkpoint_dir=folder / "training",
        resume=resume, verbose=False,
    )  # fmt: skip
    history = result.history[["step", "loss"]]
    with torch.no_grad():
        return [{k: v.numpy() for k, v in module.state_dict().items()}, history]


# -------------------------------------------------------------------- feature store


def _pixels(folder: Path) -> Any:
    images = make_data(6).images
    store = brainenc.FeatureStore(folder / "store")
    return brainenc.PixelFeatures(store=store, verbose=False).fit_transform(images)


# -------------------------------------------------------------------- masks and volumes


def _mask() -> np.ndarray:
    mask = np.zeros((3, 4, 5), dtype=np.int16)
    mask[1:, 1:3, 2:] = 1
    return mask


def _write_mask(ending: str, folder: Path) -> None:
    import nibabel as nib

    path = folder / f"mask.{ending}"
    if ending == "npy":
        np.save(path, _mask())
    elif "mg" in ending:
        nib.save(nib.MGHImage(_mask().astype(np.int32), np.eye(4)), path)
    else:
        nib.save(nib.Nifti1Image(_mask(), np.eye(4)), path)


def _read_mask(ending: str, folder: Path) -> Any:
    from brainenc.datasets.nsd.files import NSDVolumeFiles
    from brainenc.datasets.nsd.plan import _read_mask

    return _read_mask(NSDVolumeFiles(folder, 1), folder / f"mask.{ending}", 1)


def _read_volume(ending: str, folder: Path) -> Any:
    voxels = pd.DataFrame(np.argwhere(_mask()), columns=["i", "j", "k"])
    image = brainenc.brain.to_nifti(
        np.arange(len(voxels), dtype=float), voxels, mask=folder / f"mask.{ending}"
    )
    return [np.asarray(image.dataobj), image.affine]


# -------------------------------------------------------------------- results of a benchmark


def _write_result(folder: Path) -> None:
    small_benchmark(folder / "run")
    shutil.rmtree(folder / "run" / "pairs", ignore_errors=True)


def small_benchmark(out: Path, encoders: Any = None, **changes: Any) -> Any:
    """A benchmark of a second, with every table."""
    data = brainenc.datasets.simulate_subject(30, 12, random_state=0, verbose=False)
    pixels = brainenc.PixelFeatures(4, verbose=False)
    encoders = encoders or {"ridge": brainenc.RidgeEncoder(pixels)}
    settings = {"cv": 2, "n_bootstraps": 10, "n_permutations": 10, "n_draws": 10, "check": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return brainenc.benchmark(
            data, encoders, out=out, **{**settings, "verbose": False, **changes}
        )


def _read_result(folder: Path) -> Any:
    result = brainenc.benchmarking.BenchmarkResult.load(folder / "run")
    return result_numbers(result)


def result_numbers(result: Any) -> Any:
    from brainenc.result_tables import DRAW_TABLES, TABLES

    tables = {name: getattr(result, name) for name in TABLES + DRAW_TABLES}
    return [tables, json.dumps(result.manifest, sort_keys=True), result.warnings]


def _read_report(folder: Path) -> Any:
    from brainenc.report import render_report

    result = brainenc.benchmarking.BenchmarkResult.load(folder / "run")
    return render_report(result, surface="none")


# -------------------------------------------------------------------- data sets


def _write_nsd(folder: Path, *, surface: bool = False) -> None:
    from nsd_tree import NSDTree

    NSDTree(folder, sessions=(1,), shape=(7, 6, 5)).write(hdf5=not surface, surface=surface)


def _read_nsd(folder: Path, *, space: str = "func1pt8mm") -> Any:
    mask = "nsdgeneral" if space == "func1pt8mm" else "all"
    data = brainenc.datasets.load_nsd(
        folder, units="percent", space=space, mask=mask, sessions=[1], verbose=False
    )
    volume = None if data.volume is None else data.volume.to_json()
    return [np.asarray(data.betas), data.voxels, data.trials, volume]


def _write_algonauts(folder: Path) -> None:
    from algonauts_tree import write_algonauts_tree

    write_algonauts_tree(folder)


def _read_algonauts(folder: Path) -> Any:
    data = brainenc.datasets.load_algonauts2023(folder, 1)
    data = data[0] if isinstance(data, tuple) else data
    return [np.asarray(data.images), np.asarray(data.betas), data.voxels]


def subjects() -> dict[str, Subject]:
    """All kinds of input by name."""
    from brainenc.encoders.registry import ENCODERS

    partial = functools.partial
    checkpoint, images = "official checkpoint", "image files"
    archive = ("zip_member",)
    mask, nsd = "NIfTI, MGH, npy masks", "NSD trees"
    found = [
        *(
            Subject("saved encoders", f"model-{name}", partial(_write_model, name), _read_model)
            for name in ENCODERS
        ),
        Subject(".brain folders", "brain", _write_brain, _read_brain, share=3),
        Subject(".brain folders", "brain-files", _write_brain_files, _read_brain, share=2),
        Subject(".npz", "npz", _write_npz, _read_npz, share=2, valid=archive),
        Subject(
            ".npz", "npz-compressed", partial(_write_npz, save=np.savez_compressed), _read_npz,
            valid=archive,
        ),  # fmt: skip
        *(
            Subject(
                checkpoint, f"official-{which}", partial(_write_checkpoint, which),
                partial(_read_checkpoint, which), share=2, valid=archive,
            )  # fmt: skip
            for which in ("vae", "s2n")
        ),
        Subject(
            "training checkpoints", "training", partial(_train, resume=False),
            partial(_train, resume=True), share=2,
        ),  # fmt: skip
        Subject("feature store", "store", _pixels, _pixels, share=3),
        *(
            Subject(
                images, f"images-{ending}", partial(_write_images, ending), _read_images,
                checked=ending == "png", valid=("delete", "swap"),
            )  # fmt: skip
            for ending in ("png", "jpg", "bmp", "tif", "webp")
        ),
        Subject(images, "images-npy", _write_images_npy, _read_images_npy, checked=False),
        Subject(images, "images-hdf5", _write_hdf5_images, _read_hdf5_images, checked=False),
        *(
            Subject(
                mask, f"mask-{ending}", partial(_write_mask, ending), partial(_read_mask, ending),
                checked="z" in ending, words=("mask",), valid=("gzip_inside",),
            )  # fmt: skip
            for ending in ("nii", "nii.gz", "mgh", "mgz", "npy")
        ),
        *(
            Subject(
                mask, f"volume-{ending}", partial(_write_mask, ending),
                partial(_read_volume, ending), checked="z" in ending, words=("mask",),
                valid=("gzip_inside",),
            )  # fmt: skip
            for ending in ("nii", "nii.gz", "mgh")
        ),
        Subject("result folders", "result", _write_result, _read_result, share=3),
        Subject("result folders", "report", _write_result, _read_report, share=0.03),
        Subject(nsd, "nsd", _write_nsd, _read_nsd, checked=False, share=0.5, words=("mask",)),
        Subject(
            nsd, "nsd-surface", partial(_write_nsd, surface=True),
            partial(_read_nsd, space="fsaverage"), checked=False, share=0.3, words=("mask",),
        ),  # fmt: skip
        Subject("Algonauts trees", "algonauts", _write_algonauts, _read_algonauts, checked=False),
    ]
    return {subject.name: subject for subject in found}
