"""Small samples of every kind of input, and how a user would read them.

A function that writes or reads takes the folder of the sample; one that reads returns the numbers
that count, as arrays in lists and dicts.
"""

import functools
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import brainenc
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageFiles, open_images

Image.init()  # else every worker imports the readers of all formats


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


def write_model(name: str, folder: Path) -> None:
    from tiny_encoders import tiny_encoder

    quiet = {"features": None, "random_state": 0, "verbose": False, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_encoder(name, **quiet).fit(*problem()).save(folder / "model")


def read_model(folder: Path) -> Any:
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


def write_brain(folder: Path) -> None:
    make_data().save(folder / "subject.brain")


def write_brain_files(folder: Path) -> None:
    import dataclasses

    data = make_data(4)
    (folder / "pictures").mkdir()
    for i, image in enumerate(data.images):
        Image.fromarray(image).save(folder / "pictures" / f"{i}.png")
    files = ImageFiles.from_folder(folder / "pictures")
    dataclasses.replace(data, images=files).save(folder / "subject.brain")
    shutil.rmtree(folder / "pictures")


def read_brain(folder: Path) -> Any:
    return numbers_of(brainenc.EncodingData.load(folder / "subject.brain"))


def write_npz(save: Callable, folder: Path) -> None:
    data = make_data()
    save(
        folder / "subject.npz",
        images=data.images,
        betas=data.betas,
        roi=data.voxels["visual"].fillna("").to_numpy(str),
        ncsnr=np.abs(data.voxels["ncsnr"].to_numpy()),
        session=np.arange(24).reshape(12, 2),
    )


def read_npz(folder: Path) -> Any:
    return numbers_of(brainenc.load_npz(folder / "subject.npz"))


# -------------------------------------------------------------------- images


def write_images(ending: str, folder: Path) -> None:
    (folder / "pictures").mkdir()
    y, x = np.mgrid[:12, :10]
    for i in range(2):
        pixels = np.stack([20 * x + i, 20 * y, 9 * (x + y)], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.{ending}")


def read_images(folder: Path) -> Any:
    return np.asarray(open_images(folder / "pictures"))


def write_images_npy(folder: Path) -> None:
    np.save(folder / "images.npy", make_data().images)


def read_images_npy(folder: Path) -> Any:
    return np.asarray(open_images(folder / "images.npy"))


def write_hdf5_images(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "images.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=make_data().images, compression="gzip")


def read_hdf5_images(folder: Path) -> Any:
    return np.asarray(HDF5Images(folder / "images.hdf5"))


# -------------------------------------------------------------------- official checkpoints


def write_checkpoint(which: str, folder: Path) -> None:
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


def read_checkpoint(which: str, folder: Path) -> Any:
    from brainenc.encoders.synbrain import read_s2n, read_vae

    path = folder / ("last.pth" if which == "vae" else "last.pt")
    net, sizes = (read_vae if which == "vae" else read_s2n)(path)
    return [{k: v.numpy() for k, v in net.state_dict().items()}, sizes]


# -------------------------------------------------------------------- training checkpoints


def train(folder: Path, *, resume: bool) -> Any:
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
        module,
        loss,
        examples,
        settings,
        device="cpu",
        checkpoint_dir=folder / "training",
        resume=resume,
        verbose=False,
    )
    history = result.history[["step", "loss"]]
    with torch.no_grad():
        return [{k: v.numpy() for k, v in module.state_dict().items()}, history]


# -------------------------------------------------------------------- feature store


def pixels(folder: Path) -> Any:
    images = make_data(6).images
    store = brainenc.FeatureStore(folder / "store")
    return brainenc.PixelFeatures(store=store, verbose=False).fit_transform(images)


# -------------------------------------------------------------------- masks and volumes


def mask() -> np.ndarray:
    mask = np.zeros((3, 4, 5), dtype=np.int16)
    mask[1:, 1:3, 2:] = 1
    return mask


def write_mask(ending: str, folder: Path) -> None:
    import nibabel as nib

    path = folder / f"mask.{ending}"
    if ending == "npy":
        np.save(path, mask())
    elif "mg" in ending:
        nib.save(nib.MGHImage(mask().astype(np.int32), np.eye(4)), path)
    else:
        nib.save(nib.Nifti1Image(mask(), np.eye(4)), path)


def read_mask_file(ending: str, folder: Path) -> Any:
    from brainenc.datasets.nsd.files import NSDVolumeFiles
    from brainenc.datasets.nsd.plan import _read_mask

    return _read_mask(NSDVolumeFiles(folder, 1), folder / f"mask.{ending}", 1)


def read_volume(ending: str, folder: Path) -> Any:
    voxels = pd.DataFrame(np.argwhere(mask()), columns=["i", "j", "k"])
    image = brainenc.brain.to_nifti(
        np.arange(len(voxels), dtype=float), voxels, mask=folder / f"mask.{ending}"
    )
    return [np.asarray(image.dataobj), image.affine]


# -------------------------------------------------------------------- results of a benchmark


def write_result(folder: Path) -> None:
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


def read_result(folder: Path) -> Any:
    result = brainenc.benchmarking.BenchmarkResult.load(folder / "run")
    return result_numbers(result)


def result_numbers(result: Any) -> Any:
    from brainenc.result_tables import DRAW_TABLES, TABLES

    tables = {name: getattr(result, name) for name in TABLES + DRAW_TABLES}
    return [tables, json.dumps(result.manifest, sort_keys=True), result.warnings]


def read_report(folder: Path) -> Any:
    from brainenc.report import render_report

    result = brainenc.benchmarking.BenchmarkResult.load(folder / "run")
    return render_report(result, surface="none")


# -------------------------------------------------------------------- data sets


def write_nsd(folder: Path, *, surface: bool = False) -> None:
    from nsd_tree import NSDTree

    NSDTree(folder, sessions=(1,), shape=(7, 6, 5)).write(hdf5=not surface, surface=surface)


def read_nsd(folder: Path, *, space: str = "func1pt8mm") -> Any:
    mask = "nsdgeneral" if space == "func1pt8mm" else "all"
    data = brainenc.datasets.load_nsd(
        folder, units="percent", space=space, mask=mask, sessions=[1], verbose=False
    )
    volume = None if data.volume is None else data.volume.to_json()
    return [np.asarray(data.betas), data.voxels, data.trials, volume]


def write_algonauts(folder: Path) -> None:
    from algonauts_tree import write_algonauts_tree

    write_algonauts_tree(folder)


def read_algonauts(folder: Path) -> Any:
    data = brainenc.datasets.load_algonauts2023(folder, 1)
    data = data[0] if isinstance(data, tuple) else data
    return [np.asarray(data.images), np.asarray(data.betas), data.voxels]
