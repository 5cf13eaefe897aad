"""The decoding benchmark: decoders, encoders as decoders, and the nulls beside them."""

import os
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

import brainenc
from brainenc.benchmarking.decoding_inputs import (
    AVERAGE,
    DecodingInputs,
    Fold,
    as_decoders,
    pool_size_for,
)
from brainenc.benchmarking.decoding_kept import (
    Kept,
    finished,
    read_arrays,
    read_unit,
    run_unit,
    write_kept,
)
from brainenc.benchmarking.decoding_permuted import permuted_scores
from brainenc.benchmarking.decoding_pictures import mark_shown, pictures_of
from brainenc.benchmarking.decoding_result import DecodingResult, check_decoding_folder
from brainenc.benchmarking.decoding_rows import (
    CHANCE,
    ENCODER,
    PERMUTED,
    RESERVED,
    RIDGE,
    Outcome,
    Unit,
    of_decoder,
    reference_units,
)
from brainenc.benchmarking.decoding_scores import (
    Protocol,
    Row,
    choice_table,
    decoder_row,
    pair_table,
    pool_size_table,
    roi_table,
    score_row,
    score_table,
)
from brainenc.benchmarking.fixed_test import DEFAULT_CV, fixed_split
from brainenc.benchmarking.folds import make_folds, near_copies
from brainenc.benchmarking.manifest import data_hash, make_manifest, split_hash
from brainenc.benchmarking.run_parts import run_folder
from brainenc.data.encoding_data import EncodingData
from brainenc.decoders import EncoderDecoder, RidgeDecoder
from brainenc.documentation import see
from brainenc.encoders import RidgeEncoder
from brainenc.encoders.describe import describe
from brainenc.metrics.retrieval_scores import DIRECTIONS
from brainenc.model_selection import Folds, permutation_p
from brainenc.progress import progress
from brainenc.storage import fingerprint


def decoding_benchmark(
    data: EncodingData,
    decoders: Mapping[str, BaseEstimator],
    *,
    targets: Any,
    cv: Any = DEFAULT_CV,
    groups: Any = None,
    test: Any = None,
    category: Any = None,
    pool_size: int | None = None,
    n_pools: int = 30,
    n_bootstraps: int = 1000,
    n_permutations: int = 200,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
    check: bool = True,
    verbose: bool = True,
) -> DecodingResult:
    """Compare decoders on held-out images, beside nulls that cannot be left out.

    Every decoder is fitted to the training images of a fold, and chooses among its test images
    only. Always in the tables: chance; ridge with permuted training images; the mean of all voxels;
    ROI means; the true category, if it is known; the ridge decoder; the ridge encoder as a decoder;
    repeat against repeat; and, on simulated data, decoders on responses without noise. All are
    tested on one trial and on the average of an image's trials.

    Parameters
    ----------
    data : EncodingData
    decoders : dict of name to decoder, or to an encoder that is used as one
        Unfitted; copies are fitted. It may be empty. An encoder with an extractor of its own
        chooses images by its own features, and predicts no targets.
    targets : array (n_images, ...), or transformer
        What decoders predict. Extractors that learn are fitted to the training images of a fold.
    cv : int, "similar", splitter or iterable of (train, test)
        Folds over images, as for `brainenc.benchmark`; `brainenc.cluster_folds` holds out clusters
        of targets.
    groups, test
        As for `brainenc.benchmark`.
    category : str or array of shape (n_images,), optional
        Column of the table of stimuli, or labels. By default the column "category", if there is
        one, or the categories of a simulated subject. Every image needs a label.
    pool_size : int, optional
        Images in a pool; 300 by default, or all of the smallest test fold.
    n_pools : int
    n_bootstraps : int
        Resamples of images for intervals.
    n_permutations : int
        Permutations of training images for p-values.
    out : path, optional
        Folder for the tables and report. The same call continues an interrupted run.
    random_state : int
        Seed of folds, pools, bootstrap and permutations.
    check : bool
        First check in seconds whether images and betas belong together (`EncodingData.check`).
    verbose : bool

    Returns
    -------
    DecodingResult

    Warns
    -----
    RuntimeWarning : a decoder failed; the others finish.

    Raises
    ------
    TypeError : data or decoders of another type.
    ValueError : targets with another number of rows, NaN, or dimensions that are constant over
        images; a decoder named like a row that is always there, or like another one;
        missing labels of categories; a fold that tests images with synthetic trials; a fitted
        encoder (``prefit=True``); voxels without any data.
    FileExistsError : `out` holds something else.

    Examples
    --------
    >>> import brainenc
    >>> data = brainenc.datasets.simulate_subject(120, 20, random_state=0, verbose=False)
    >>> result = brainenc.decoding_benchmark(
    ...     data.zscore_by_session(),
    ...     {"latent": brainenc.LatentEncoder(n_members=0)},
    ...     targets=data.truth.tokens,
    ...     test=0.3,
    ...     n_permutations=20,
    ...     check=False,
    ...     verbose=False,
    ... )
    >>> result.table().loc["latent"].index.tolist()
    ['average', 'one trial', 'noise-free signal']
    """
    if not isinstance(data, EncodingData):
        raise TypeError(
            f"data must be an EncodingData, got {type(data).__name__}; make one with "
            "EncodingData(images, betas) or brainenc.load_npz(path)" + see("guide/data")
        )
    given = as_decoders(decoders, RESERVED)
    counts = {"n_pools": n_pools, "n_bootstraps": n_bootstraps, "n_permutations": n_permutations}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")
    if out is not None:
        check_decoding_folder(out)
    similar = cache(data.similar_images)
    if test is not None:
        cv = fixed_split(data, test, cv, random_state=random_state)
    folds = make_folds(data, cv, groups, random_state, similar)
    inputs = DecodingInputs(data, targets, category, verbose)
    size = pool_size_for(pool_size, [tested for _, tested in folds])
    notes = near_copies(similar(), folds)
    if check:
        notes[:0] = data.check(random_state=random_state).warnings
    units, ridge = _units(given, data, random_state)
    settings = {
        "decoders": {unit.name: unit.description for unit in units},
        "targets": inputs.description,
        "cv": cv if isinstance(cv, int | str) else repr(cv) if test is None else "fixed test set",
        "groups": groups if groups is None or isinstance(groups, str) else "given",
        "pool_size": size,
        **counts,
        "random_state": random_state,
    }
    data_key = data_hash(data)
    manifest = make_manifest(data, data_key, folds, settings)
    with run_folder(out) as folder:
        run = _Run(Path(folder).resolve() / "fits", f"{data_key}{split_hash(folds)}{inputs.key}")
        parts = run.all_folds(units, inputs, folds, ridge, size, n_permutations, random_state)
        kept, permuted, tested = _collected(parts, len(folds), len(units), verbose)
    protocol = Protocol(*tested, size, n_pools, n_bootstraps, random_state)
    result = _result(data, inputs, units, kept, permuted, protocol, manifest)
    result.warnings[:0] = notes + inputs.notes
    if out is not None:
        result.save(out)
        result.to_html(Path(out) / "decoding.html")
    return result


def _units(given: dict[str, Any], data: EncodingData, seed: int) -> tuple[list[Unit], str]:
    """Units of the references and of the given decoders, and the name of the ridge decoder.

    A given decoder that is a reference with its default parameters takes its place and gives it its
    name.
    """
    rois = data.rois() if data.atlases else {}
    rois = {str(roi): voxels for roi, voxels in rois.items()}
    plain_encoder = describe(EncoderDecoder(RidgeEncoder(features=None)))
    names: dict[str, str] = {}
    for name, decoder in given.items():
        if _is_plain_ridge(decoder):
            names.setdefault(RIDGE, name)
        elif _is_plain(decoder, plain_encoder):
            names.setdefault(ENCODER, name)
    ridge = names.get(RIDGE) or _free(RIDGE, given)
    encoder = None if ENCODER in names else _free(ENCODER, given)
    units = reference_units(rois, ridge, encoder, seed)
    units += [
        Unit(name, of_decoder(name, decoder), describe(decoder))
        for name, decoder in given.items()
        if name != names.get(RIDGE)
    ]
    return units, ridge


def _is_plain_ridge(decoder: Any) -> bool:
    return type(decoder) is RidgeDecoder and describe(decoder) in (
        describe(RidgeDecoder()),
        describe(RidgeDecoder(targets=None)),
    )


def _is_plain(decoder: Any, plain: Any) -> bool:
    return type(decoder) is EncoderDecoder and describe(decoder) in (
        plain,
        describe(EncoderDecoder(RidgeEncoder())),
    )


def _free(label: str, taken: Mapping[str, Any]) -> str:
    while label in taken:
        label += " (reference)"
    return label


# -------------------------------------------------------------------- running


class _Run:
    """Fits units in folds, each in a folder of its own, and takes up those that are finished."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key

    def all_folds(
        self,
        units: list[Unit],
        inputs: DecodingInputs,
        folds: Folds,
        ridge: str,
        pool_size: int,
        n_permutations: int,
        seed: int,
    ) -> Any:
        """Yield fold, its number, and what was kept of a unit, or the arrays of permutations."""
        for number, (train, test) in enumerate(folds):
            fold = inputs.fold(train, test)
            yield "fold", number, fold
            for unit in units:
                folder, key = self._place(unit.name, [unit.description, seed], number)
                if not finished(folder, key):
                    run_unit(unit, fold, folder, key)
                yield unit.name, number, read_unit(folder)
            how = ["permutations", pool_size, n_permutations, seed]
            folder, key = self._place("permutations", how, number)
            if not finished(folder, key):
                scores = permuted_scores(fold, _penalty(fold), pool_size, n_permutations, seed)
                arrays = {"observed": scores.observed, **scores.null}
                write_kept(folder, {"key": key}, arrays)
            yield PERMUTED, number, read_arrays(folder)

    def _place(self, name: str, what: Any, fold: int) -> tuple[Path, str]:
        key = fingerprint(brainenc.__version__, name, what, self.key)
        readable = re.sub(r"[^\w+-]+", "_", name)[:40]
        return self.folder / f"{readable}-{key[:12]}" / f"fold{fold}", key


def _penalty(fold: Fold) -> float:
    """One penalty for all dimensions, chosen on held-out averages of trials."""
    fitted = RidgeDecoder(targets=None, alpha_per_target=False).fit(fold.betas, fold.targets)
    return float(fitted.alphas_[0])


def _collected(
    parts: Any, n_folds: int, n_units: int, verbose: bool
) -> tuple[dict[str, list[Kept]], list[dict[str, np.ndarray]], tuple[list, list]]:
    """What was kept of each unit, arrays of permutations, and targets and labels, by fold."""
    kept: dict[str, list[Kept]] = {}
    permuted, targets, categories = [], [], []
    bar = progress(total=n_folds * (n_units + 1), desc="decoding", unit="fit", verbose=verbose)
    with bar:
        for name, _, found in parts:
            if isinstance(found, Fold):
                targets.append(found.test_targets.reshape(len(found.test), -1))
                if found.test_categories is not None:
                    categories.append(found.test_categories)
                continue
            bar.update()
            if isinstance(found, Kept):
                kept.setdefault(name, []).append(found)
            else:
                permuted.append(found)
    return kept, permuted, (targets, categories)


# -------------------------------------------------------------------- tables


def _result(
    data: EncodingData,
    inputs: DecodingInputs,
    units: list[Unit],
    kept: Mapping[str, list[Kept]],
    permuted: list[dict[str, np.ndarray]],
    protocol: Protocol,
    manifest: dict[str, Any],
) -> DecodingResult:
    rows: list[Row] = []
    of_rois: list[tuple[str, Row]] = []
    table: list[dict[str, Any]] = []
    notes: list[str] = []
    for unit in units:
        of_folds = kept[unit.name]
        if errors := [part.error for part in of_folds if part.error]:
            message = f"{unit.name} failed: {errors[0]}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            notes.append(message)
            table.append({"decoder": unit.name, "kind": unit.kind, "error": errors[0]})
            continue
        seconds = float(np.mean([part.seconds for part in of_folds]))
        for outcomes in _same_rows(of_folds):
            if outcomes[0].roi:
                of_rois.append((outcomes[0].roi, score_row(outcomes, protocol, hard=False)))
                continue
            row = score_row(outcomes, protocol)
            rows.append(row)
            known = {"kind": unit.kind, "seconds": seconds, "error": ""}
            table.append({**decoder_row(row, protocol), **known})
    size = protocol.pool_size
    table.insert(0, _chance_row(size))
    choices = choice_table([row for row in rows if _is_chooser(row)], inputs.names)
    decoders = pd.DataFrame(table)
    texts = ["responses", "similarity"]  # a decoder that failed has none
    decoders[texts] = decoders[texts].fillna("")
    choices = mark_shown(choices, _best(decoders, choices), protocol.random_state)
    n_voxels = {str(roi): len(voxels) for roi, voxels in _rois(data).items()}
    return DecodingResult(
        decoders=decoders,
        scores=score_table(rows),
        pairs=pair_table(rows),
        pool_sizes=pool_size_table(rows),
        rois=roi_table(of_rois, n_voxels),
        permuted=_permuted_table(permuted, [len(part) for part in protocol.targets], size),
        choices=choices,
        pictures=pictures_of(data, choices),
        manifest=manifest,
        warnings=notes,
    )


def _rois(data: EncodingData) -> dict[str, np.ndarray]:
    return data.rois() if data.atlases else {}


def _same_rows(folds: list[Kept]) -> list[list[Outcome]]:
    """Outcomes of each row, responses and ROI that has one in every fold."""
    found: dict[tuple[str, str, str], list[Outcome]] = {}
    for kept in folds:
        for part in kept.outcomes:
            found.setdefault((part.row, part.responses, part.roi), []).append(part)
    return [parts for parts in found.values() if len(parts) == len(folds)]


def _chance_row(size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"decoder": CHANCE, "responses": "", "kind": "reference", "error": ""}
    for direction in DIRECTIONS:
        row[direction] = row[f"{direction}_chance"] = 1 / size
        row[f"{direction}_median_rank"] = (size + 1) / 2
    return {**row, "pool_size": size, "two_way_image": 0.5, "two_way_brain": 0.5}


def _is_chooser(row: Row) -> bool:
    """Whether the choices of a row are kept: decoders of average responses, no nulls."""
    return row.responses == AVERAGE and row.decoder != PERMUTED


def _best(decoders: pd.DataFrame, choices: pd.DataFrame) -> list[str]:
    """Decoders with choices, best first by the mean of both directions."""
    some = decoders[
        decoders["decoder"].isin(choices["decoder"]) & (decoders["responses"] == AVERAGE)
    ]
    score = some["image_retrieval"] + some["brain_retrieval"]
    return some.loc[score.sort_values(ascending=False).index, "decoder"].tolist()


def _permuted_table(
    folds: list[dict[str, np.ndarray]], sizes: list[int], pool_size: int
) -> pd.DataFrame:
    """Observed retrieval and that of permuted training images, over folds."""
    rows = []
    observed = np.average([fold["observed"] for fold in folds], axis=0, weights=sizes)
    for kind in [name for name in folds[0] if name != "observed"]:
        null = np.average([fold[kind] for fold in folds], axis=0, weights=sizes)
        at_least = (null >= observed).sum(axis=0)
        for i, direction in enumerate(DIRECTIONS):
            low, high = np.percentile(null[:, i], [2.5, 97.5])
            rows.append(
                {
                    "permuted": kind,
                    "direction": direction,
                    "observed": observed[i],
                    "mean": null[:, i].mean(),
                    "low": low,
                    "high": high,
                    "p": float(permutation_p(observed[i], at_least[i], len(null))),
                    "chance": 1 / pool_size,
                    "n_permutations": len(null),
                }
            )
    return pd.DataFrame(rows)
