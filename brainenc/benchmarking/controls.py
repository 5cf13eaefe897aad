"""Null controls: rows that show how well ridge scores without what an encoder is credited with.

"permuted": ridge on features of other images, permuted before the folds are made; what it scores
above 0 has another source than the pictures. "untrained": ridge on features of the same network
with random weights; what an encoder scores above it is due to what the network has learned.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from brainenc.benchmarking.inputs import Entry, Inputs, for_ridge
from brainenc.data.images import take_images
from brainenc.encoders import RidgeEncoder
from brainenc.encoders.describe import describe
from brainenc.features.untrained import find_networks, untrained
from brainenc.result_tables import PERMUTED, UNTRAINED
from brainenc.storage import fingerprint

KINDS = (PERMUTED, UNTRAINED)
#: By default, features of an untrained network are computed if they take at most this many seconds.
MAX_SECONDS = 120.0
#: Images to see how long they take.
_N_TIMED = 16


def check_controls(controls: Any, references: bool) -> tuple[str, ...]:
    """Kinds of controls to add.

    Parameters
    ----------
    controls : bool, None, or sequence of kinds
        None: as `references`.
    references : bool

    Raises
    ------
    ValueError : an unknown kind.
    """
    if controls is None:
        controls = references
    if isinstance(controls, (bool, np.bool_)):
        return KINDS if controls else ()
    kinds = [controls] if isinstance(controls, str) else list(controls)
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(
            f"controls={controls!r} has {wrong[0]!r}: give True, False, or a list of {list(KINDS)}"
        )
    return tuple(kind for kind in KINDS if kind in kinds)


def make_controls(
    entries: Mapping[str, Entry],
    inputs: Inputs,
    kinds: Sequence[str],
    *,
    random_state: int,
    only_cheap: bool,
) -> tuple[dict[str, Entry], list[str]]:
    """Entries of controls by name, and sentences on those that cannot be made.

    Parameters
    ----------
    entries : dict of name to Entry
        Encoders and references.
    inputs : Inputs
    kinds : sequence of "permuted", "untrained"
    random_state : int
        Seed of the permutation and of random weights.
    only_cheap : bool
        Leave out networks whose features would take more than two minutes.
    """
    found: dict[str, Entry] = {}
    notes: list[str] = []

    def add(label: str, entry: Entry) -> None:
        while label in entries or label in found:
            label += " (control)"
        found[label] = entry

    if PERMUTED in kinds:
        for name, entry in _feature_sets(entries).items():
            label = "ridge, permuted images" + (f" (for {name})" if found else "")
            add(label, _permuted(entry, inputs, random_state))
    if UNTRAINED in kinds:
        for entry in list(entries.values()):
            for features in find_networks(entry.features):
                _add_untrained(features, inputs, random_state, only_cheap, add, notes, found)
    # Which encoders a control is of: all that see these features.
    return {label: _named(control, entries) for label, control in found.items()}, notes


def _feature_sets(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """An entry of each set of features, ridge where there is one."""
    sets: dict[str, tuple[str, Entry]] = {}
    for name, entry in entries.items():
        if entry.key == "images":
            continue
        if entry.key not in sets or isinstance(entry.encoder, RidgeEncoder):
            sets[entry.key] = sets.get(entry.key, (name, entry))[0], entry
    return {name: entry for name, entry in sets.values()}


def _permuted(entry: Entry, inputs: Inputs, random_state: int) -> Entry:
    """Ridge on rows of the features in another order."""
    if type(entry.encoder) is RidgeEncoder:
        encoder, X = clone(entry.encoder), entry.X
    elif entry.learned is not None:
        encoder, X = RidgeEncoder(entry.learned), entry.X
    else:
        encoder, X = RidgeEncoder(features=None), for_ridge(entry.X)
    # The seed of folds and resamples is the same number; the permutation must not repeat theirs.
    order = np.random.default_rng([random_state, 0x9E37]).permutation(len(inputs.images))
    return Entry(
        encoder,
        X,
        inputs.key(X),
        {**describe(encoder), "control": PERMUTED},
        learned=entry.learned,
        control=PERMUTED,
        rows=order,
        of=(entry.key,),
    )


def _add_untrained(
    features: Any,
    inputs: Inputs,
    random_state: int,
    only_cheap: bool,
    add: Any,
    notes: list[str],
    found: Mapping[str, Entry],
) -> None:
    try:
        trained = fingerprint(describe(features))
        if any(trained in control.of for control in found.values()):
            return
        copy, name = untrained(features, random_state)
    except (TypeError, ValueError, OSError) as error:  # OSError: there are no weights here
        note = f"There is no untrained control for features of {type(features).__name__}: {error}"
        if note not in notes:
            notes.append(note)
        return
    if copy is None:  # its weights are random already
        return
    if only_cheap and (seconds := _seconds(copy, inputs.images)) > MAX_SECONDS:
        notes.append(
            f"Features of untrained {name} would take about {seconds / 60:.0f} minutes and are "
            'left out: ask for this control with controls=["permuted", "untrained"].'
        )
        return
    encoder = RidgeEncoder(features=copy)
    entry = inputs.entry(encoder, None)
    prepared, X = entry.encoder, entry.X
    X = X if entry.learned is not None else for_ridge(X)
    add(
        f"ridge, untrained {name}",
        replace(
            entry,
            encoder=prepared,
            X=X,
            key=inputs.key(X) if entry.learned is None else entry.key,
            description={**describe(encoder), "control": UNTRAINED},
            control=UNTRAINED,
            of=(trained,),
        ),
    )


def _seconds(transformer: Any, images: Any) -> float:
    """Estimate of how long features of all images take."""
    few = take_images(images, np.arange(min(_N_TIMED, len(images))))
    transformer = clone(transformer)
    names = [k for k in transformer.get_params() if k.rpartition("__")[2] in ("verbose", "store")]
    off = {name: None if name.endswith("store") else False for name in names}
    transformer.set_params(**off)
    started = time.perf_counter()
    transformer.fit(few).transform(few)  # also makes the network, once
    first = time.perf_counter()
    transformer.transform(few)
    again = time.perf_counter() - first
    return first - started + again * len(images) / len(few)


def _named(control: Entry, entries: Mapping[str, Entry]) -> Entry:
    names = [
        name
        for name, entry in entries.items()
        if entry.key in control.of
        or any(fingerprint(describe(f)) in control.of for f in find_networks(entry.features))
    ]
    return replace(control, of=tuple(names))


def with_controls(encoders: pd.DataFrame, controls: Mapping[str, Entry]) -> pd.DataFrame:
    """The encoder table with a column ``control``: the kind, "" for encoders."""
    if not controls:
        return encoders
    kinds = {name: entry.control for name, entry in controls.items()}
    column = encoders["encoder"].map(lambda name: kinds.get(name, ""))
    return encoders.assign(control=column)


def control_warnings(
    encoders: pd.DataFrame, pairs: pd.DataFrame, controls: Mapping[str, Entry]
) -> list[str]:
    """Sentences on encoders that are not credibly better than their controls.

    Parameters
    ----------
    encoders, pairs : tables of `BenchmarkResult`
    controls : dict of name to Entry
    """
    if "r" not in encoders:  # all failed
        return []
    names, columns = list(encoders["encoder"]), encoders[["r", "r_low"]].to_numpy(dtype=float)
    scores = {name: (float(r), float(low)) for name, (r, low) in zip(names, columns, strict=True)}
    found: list[str] = []
    for control, entry in controls.items():
        r, low = scores[control]
        if not np.isfinite(r):
            continue
        if entry.control == PERMUTED and low > 0:
            found.append(
                f"{control}: r {r:.3f} is credibly above 0, although its features are those of "
                "other images: scores here have another source than the pictures, such as the "
                "order of trials or the centring of the betas."
            )
        for name in entry.of:
            difference = _difference(pairs, name, control)
            if difference is None or difference[1] > 0:
                continue
            what = {
                PERMUTED: "its features say nothing about these responses that shows",
                UNTRAINED: "its r is no evidence for what the network has learned",
            }[entry.control]
            found.append(
                f"{name}: r {scores[name][0]:.3f} is not credibly above that of {control} "
                f"({r:.3f}; difference {difference[0]:.3f}, 95 % interval {difference[1]:.3f} to "
                f"{difference[2]:.3f}): {what}."
            )
    return found


def _difference(pairs: pd.DataFrame, a: str, b: str) -> tuple[float, float, float] | None:
    """Difference of r, a − b, over all voxels, and its interval; None where undefined."""
    if pairs.empty:
        return None
    whole = pairs[(pairs["metric"] == "r") & (pairs["atlas"] == "all") & (pairs["roi"] == "all")]
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        row = whole[(whole["encoder_a"] == first) & (whole["encoder_b"] == second)]
        if len(row):
            values = sign * row[["difference", "low", "high"]].to_numpy(dtype=float)[0]
            if not np.isfinite(values).all():
                return None
            return float(values[0]), float(min(values[1:])), float(max(values[1:]))
    return None
