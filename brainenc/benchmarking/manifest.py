"""Manifest of a run: data, split, seeds, versions and hardware."""

import datetime
import importlib.metadata
import os
import platform
from typing import Any

import numpy as np
import psutil

import brainenc
from brainenc.arrays import release
from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import image_batches
from brainenc.model_selection import Folds
from brainenc.storage import fingerprint

PACKAGES = ("numpy", "scipy", "scikit-learn", "himalaya", "torch", "pandas", "open_clip_torch")


def data_hash(data: EncodingData) -> str:
    """Fingerprint of images, betas and their counts: 32 hexadecimal digits."""
    images = []
    for batch in image_batches(data.images, 256):
        images.append(fingerprint(batch))
        release(batch)
    counts = [] if data.n_averaged is None else [np.asarray(data.n_averaged)]
    return fingerprint(np.asarray(data.betas), images, *counts)


def split_hash(folds: Folds) -> str:
    """Fingerprint of the train and test positions of every fold."""
    return fingerprint([[train.tolist(), test.tolist()] for train, test in folds])


def make_manifest(
    data: EncodingData, data_key: str, folds: Folds, settings: dict[str, Any]
) -> dict[str, Any]:
    """Description of a run as plain values.

    Parameters
    ----------
    data : EncodingData
    data_key : str
        Its `data_hash`.
    folds : list of (train, test)
    settings : dict
        Encoders, seeds and numbers of resamples, as plain values.

    Returns
    -------
    dict
    """
    return {
        "data": {
            "name": data.name,
            "hash": data_key,
            "n_images": data.n_images,
            "n_repeats": data.n_repeats,
            "n_trials": len(data.trials),
            "n_voxels": data.n_voxels,
            "volume": None if data.volume is None else data.volume.to_json(),
        },
        "split": {"n_folds": len(folds), "hash": split_hash(folds)},
        "settings": settings,
        "versions": versions(),
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Versions of Python, brainenc and the libraries it uses."""
    found = {"brainenc": brainenc.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """Platform, cores, memory in GiB, and the GPU if torch sees one."""
    import torch

    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
