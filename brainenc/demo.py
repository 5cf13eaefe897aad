"""The demo: every encoder that takes one subject, on a simulated one, in minutes on two cores."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import brainenc
from brainenc.benchmarking import (
    BenchmarkResult,
    DecodingResult,
    benchmark,
    decoding_benchmark,
)
from brainenc.benchmarking.draw_plan import N_DRAWS
from brainenc.data import EncodingData
from brainenc.encoders import BaseEncoder, make_encoder
from brainenc.encoders.composed import joined_features

#: Arguments of the benchmark. Fewer folds and resamples than by default, and two fits at once.
SETTINGS: dict[str, Any] = {
    "cv": 3,
    "n_bootstraps": 200,
    "n_permutations": 200,
    "n_draws": 50,
    "n_jobs": 2,
}


@dataclass(frozen=True)
class Row:
    """A row of the table of scores.

    Attributes
    ----------
    encoder : str
        Short name, a key of `brainenc.encoders.ENCODERS`.
    label : str
        Its name in the table, without the features.
    features : str
        What it sees of the images: one of "pixels", "Gabor", "tokens" and `NETWORK`, or two of them
        with a plus between, for an encoder of several sets of features; nothing for the mean.
    options : dict
        Parameters that differ from the encoder's defaults, to save time.
    """

    encoder: str
    label: str
    features: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Label and features."""
        return f"{self.label} ({self.features})" if self.features else self.label


#: A small autoencoder learns more in the time there is than a larger one in fewer epochs.
SYNBRAIN: dict[str, Any] = {
    "sizes": {"vae": {"pooled_length": 64, "n_channels": 8}},
    "vae_epochs": 3,
    "mapper_steps": 400,
}

#: Every encoder, and ridge on every set of features. A new encoder adds its row here.
ROWS = (
    Row("mean", "mean"),
    Row("ridge", "ridge", "pixels"),
    Row("ridge", "ridge", "Gabor"),
    Row("ridge", "ridge", "tokens"),
    Row("calibrated", "calibrated ridge", "tokens", {"cv": 3}),
    Row("kernelridge", "kernel ridge", "tokens"),
    Row("pls", "PLS", "tokens"),
    Row("banded", "banded", "Gabor + tokens", {"n_iter": 10}),
    Row("latent", "LatentEncoder", "tokens", {"n_members": 2}),
    Row("synbrain", "SynBrain", "tokens", SYNBRAIN),
    Row("mindsimulator", "MindSimulator", "tokens"),
    Row("mindreader", "Mind Reader", "tokens", {"n_members": 2}),
    Row("roitransformer", "ROI transformer", "tokens", {"n_members": 1}),
    Row("stacked", "stacked", "Gabor + tokens"),
)

#: Features of a trained network, if its weights are installed. An early layer takes less time, and
#: gives fewer features to fit.
LAYER = "block4"
NETWORK = f"EfficientNet-Lite0 {LAYER}"


def rows() -> tuple[Row, ...]:
    """`ROWS`, and ridge on features of a trained network if ``brainenc[pretrained]`` is installed.

    Examples
    --------
    >>> [row.name for row in rows()][:2]
    ['mean', 'ridge (pixels)']
    """
    from brainenc.features.efficientnet_lite import weights_path  # imports torch

    try:
        weights_path()
    except ImportError:
        return ROWS
    first = next(i for i, row in enumerate(ROWS) if row.features == "tokens")
    return (*ROWS[:first], Row("ridge", "ridge", NETWORK), *ROWS[first:])


def make_rows(data: EncodingData) -> tuple[dict[str, BaseEncoder], dict[str, np.ndarray]]:
    """Encoders of all rows, and the features of those that do not compute their own.

    Parameters
    ----------
    data : EncodingData
        As `simulate_subject` gives it: the tokens are those that its responses are made of.

    Returns
    -------
    encoders : dict of name to unfitted encoder
    features : dict of name to array, (n_images, n_features) or (n_images, n_tokens, width)
        What `brainenc.benchmark` takes for its argument of that name.
    """
    extractors: dict[str, Any] = {
        "pixels": brainenc.PixelFeatures(size=16),
        "Gabor": brainenc.GaborPyramid(verbose=False),
        NETWORK: brainenc.EfficientNetLiteFeatures(LAYER),
    }
    truth: Any = data.truth  # of a simulated subject
    tokens = truth.tokens
    encoders: dict[str, BaseEncoder] = {}
    features: dict[str, np.ndarray] = {}

    @cache
    def array_of(name: str) -> np.ndarray:
        return tokens if name == "tokens" else extractors[name].fit_transform(data.images)

    for row in rows():
        seen, options = row.features.split(" + "), dict(row.options)
        if len(seen) > 1:  # arrays side by side
            arrays = {name: array_of(name) for name in seen}
            features[row.name], inputs = joined_features(arrays)
            if row.encoder == "stacked":  # a ridge for each
                options["encoders"] = {name: brainenc.RidgeEncoder() for name in seen}
                options["inputs"] = inputs
            else:
                options["bands"] = {name: list(part.shape[1:]) for name, part in arrays.items()}
        elif row.features == "tokens":
            features[row.name] = tokens
        elif row.features:
            options["features"] = extractors[row.features]
        encoders[row.name] = make_encoder(row.encoder, **options)
    return encoders, features


def compare(data: EncodingData, out: str | os.PathLike, *, verbose: bool = True) -> BenchmarkResult:
    """Fit and score every encoder.

    Parameters
    ----------
    data : EncodingData
        As for `make_rows`.
    out : path
        Folder for tables and predictions; a run that was stopped is taken up again there.
    verbose : bool
        Show progress bars.
    """
    encoders, features = make_rows(data)
    # Matrices are small here. Threads that wait for each other's parts of a product cost more than
    # they save: twice the processor time, and far more where other programs want the cores too.
    with threadpool_limits(1):
        return benchmark(
            data,
            encoders,
            features=features,
            references=False,
            out=out,
            verbose=verbose,
            **SETTINGS,
        )


#: Arguments of the decoding benchmark: one split, and fewer resamples than by default.
DECODING: dict[str, Any] = {"test": 0.4, "n_bootstraps": 200, "n_permutations": 50}


def decode(data: EncodingData, out: str | os.PathLike, *, verbose: bool = True) -> DecodingResult:
    """The decoding benchmark: an encoder as a decoder, beside the rows that are always there.

    Parameters
    ----------
    data, out, verbose : as for `compare`; `out` is a folder of its own
    """
    truth: Any = data.truth
    decoders = {"LatentEncoder as decoder": brainenc.LatentEncoder(n_members=0)}
    with threadpool_limits(1):
        return decoding_benchmark(
            data.zscore_by_session(),
            decoders,
            targets=truth.tokens,
            out=out,
            check=False,
            verbose=verbose,
            **DECODING,
        )


def reductions() -> str:
    """What the demo has less of than by default, in words."""
    parts = [_differences(benchmark, SETTINGS)]
    parts += [
        f"{row.name}: {_differences(type(make_encoder(row.encoder)), row.options)}"
        for row in rows()
        if row.options
    ]
    return f"Reduced to be quick (defaults in brackets): {'; '.join(parts)}."


def _differences(function: Callable, arguments: Mapping[str, Any]) -> str:
    defaults = inspect.signature(function).parameters
    return ", ".join(
        f"{name}={value} ({N_DRAWS if name == 'n_draws' else defaults[name].default})"
        for name, value in arguments.items()
        if name != "n_jobs"  # makes nothing less
    )
