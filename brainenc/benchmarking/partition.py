"""variance_partitioning: how much each band of features explains alone, and how much they share."""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

import brainenc
from brainenc.benchmarking.ceilings import ceiling_of_tested, trials_averaged
from brainenc.benchmarking.folds import make_folds, near_copies
from brainenc.benchmarking.manifest import data_hash, make_manifest
from brainenc.benchmarking.partition_bands import read_bands
from brainenc.benchmarking.partition_fits import (
    INNER_FOLDS,
    Settings,
    held_out_predictions,
    models_of,
)
from brainenc.benchmarking.partition_kept import Kept
from brainenc.benchmarking.partition_parts import Place, Scored, roi_tables, voxel_table
from brainenc.benchmarking.partition_result import (
    PAGE,
    VariancePartition,
    check_partition_folder,
)
from brainenc.benchmarking.run_parts import check_arguments
from brainenc.benchmarking.split import make_split
from brainenc.data.encoding_data import EncodingData
from brainenc.model_selection import bootstrap_weights
from brainenc.repeats import average_repeats
from brainenc.solvers.voxels import choose_alphas
from brainenc.storage import fingerprint


def variance_partitioning(
    data: EncodingData,
    bands: Mapping[str, Any] | None = None,
    *,
    features: Any = None,
    cv: Any = 5,
    groups: Any = None,
    alphas: Any = "auto",
    n_iter: int = 20,
    n_bootstraps: int = 1000,
    n_permutations: int = 1,
    min_ceiling: float = 0.2,
    out: str | os.PathLike | None = None,
    random_state: int = 0,
    device: str = "auto",
    verbose: bool = True,
) -> VariancePartition:
    """Divide the explained variance among bands of features: unique to each, and shared.

    Banded ridge is fitted to subsets of the bands on one set of folds, and its R² on held-out
    images taken apart: what band b explains uniquely is R²(all bands) − R²(all but b). Of two to
    four bands all subsets are fitted, which gives what each group of bands shares (commonality
    analysis); of more, all bands, all but one, and each alone.

    Parameters
    ----------
    data : EncodingData
    bands : dict of name to number of features, or to slice of columns
        Bands of `features`, in the order of the columns if numbers. They add up to the features and
        do not overlap. Not needed if `features` is a dict.
    features : array (n_images, …), transformer, dict of band to either, or None
        Of the images of `data`; by default those of OpenCLIP. A transformer that learns (a PCA) is
        fitted to the training images of each fold.
    cv, groups : as for `brainenc.benchmark`
        Within the training images of a fold, five more folds choose penalties and band weights.
    alphas : "auto" or array-like
        As for `BandedRidgeEncoder`.
    n_iter : int
        Number of random band weights tried in each model, beside each band alone.
    n_bootstraps : int
        Resamples of the tested images for intervals, the same for all models.
    n_permutations : int
        Permutations of the images, of which nulls are the mean. Each takes as many fits as the
        models themselves. With 20 or more, ``p_permuted`` can reach .05.
    min_ceiling : float
        Smallest noise ceiling of r for normalised values.
    out : path, optional
        Folder for tables and ``partition.html``. Predictions of finished fits are kept in its
        folder ``fits`` (as large as they are in memory): the same call continues a stopped run.
    random_state : int
        Seed of folds, band weights, resamples and permutations.
    device : str
    verbose : bool
        Show a progress bar over fits.

    Returns
    -------
    VariancePartition

    Raises
    ------
    TypeError : data, bands or features of a wrong type.
    ValueError : fewer than two bands, bands that overlap or do not add up to the features, features
        with another number of rows, no permutation, or folds as for `brainenc.benchmark`.
    FileExistsError : `out` holds something else.

    Notes
    -----
    Values are those of held-out images and are not clipped. A unique part below zero means that the
    band made held-out predictions worse; a shared part below zero means that the bands explain more
    together than the sum of what each explains alone (suppression), or noise. The null of each part
    is in the same tables: the band's images are permuted before folds are made, or for shared parts
    those of all bands together. It is near zero and usually below it, since features that explain
    nothing still cost a little.

    Memory is that of the held-out predictions of all models: 8 of two bands, 17 of three, 34 of
    four, each n_images × n_voxels × 4 bytes; of one permutation. Each further one adds 5, 10 or 19.

    References
    ----------
    Seibold & McPhee (1979), Human Communication Research 5 (commonality analysis); de Heer et al.
    (2017), Journal of Neuroscience 37 (variance partitioning of voxels).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> one, two = rng.standard_normal((2, 80, 4))
    >>> betas = one[:, None, :3] + 0.5 * rng.standard_normal((80, 2, 3))
    >>> images = rng.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    >>> found = brainenc.variance_partitioning(
    ...     brainenc.EncodingData(images, betas), features={"one": one, "two": two},
    ...     n_iter=4, n_bootstraps=20, verbose=False)
    >>> means = found.voxels[["unique_one", "unique_two", "shared", "total"]].mean()
    >>> bool(means["unique_one"] > 0.7), bool(abs(means["unique_two"]) < 0.1)
    (True, True)
    """
    check_arguments(data, {}, n_bootstraps, 1)
    if n_iter < 1:
        raise ValueError(f"n_iter={n_iter} must be 1 or more")
    if isinstance(n_permutations, bool) or not isinstance(n_permutations, int | np.integer):
        raise TypeError(f"n_permutations={n_permutations!r} must be an int")
    if n_permutations < 1:
        raise ValueError(f"n_permutations={n_permutations} must be 1 or more")
    choose_alphas(alphas, (1, 1))
    folder = None if out is None else check_partition_folder(out)
    given = read_bands(data, bands, features, verbose)
    similar = cache(data.similar_images)
    folds = make_folds(data, cv, groups, random_state, similar)
    split = make_split(data.betas, folds)
    averages = average_repeats(data.betas)
    # The seed of folds and resamples is the same number; permutations must not repeat theirs.
    shuffler = np.random.default_rng([random_state, 0x9E37])
    orders = [shuffler.permutation(data.n_images) for _ in range(n_permutations)]
    settings = Settings(alphas, n_iter, device, random_state)
    names = given.names
    hashed = data_hash(data)
    kept = None
    if folder is not None:
        choices = [np.asarray(alphas).tolist(), n_iter, random_state, INNER_FOLDS]
        kept = Kept(folder, fingerprint(brainenc.__version__, hashed, given.identity(), choices))
    models = models_of(names, n_permutations)
    predictions = held_out_predictions(
        given, models, averages, folds, orders, settings, verbose, kept
    )
    tested, image = np.unique(split.rows, return_inverse=True)
    weights = bootstrap_weights(len(tested), n_bootstraps, random_state=random_state)
    ceiling = ceiling_of_tested(data, split).to("r2")
    scored = Scored(
        names=names,
        n_permutations=n_permutations,
        predictions=predictions,
        targets=averages[split.rows],
        weights=weights[:, image],
        n_images=len(tested),
        ceiling=ceiling,
        n_trials=trials_averaged(data, split, ceiling),
        min_ceiling=min_ceiling,
    )
    rois, parts, encoders = roi_tables(scored, places_of(data))
    manifest = make_manifest(
        data,
        hashed,
        folds,
        {
            "bands": names,
            "features": given.description,
            "cv": cv if isinstance(cv, int | str) else repr(cv),
            "groups": groups if groups is None or isinstance(groups, str) else "given",
            "inner_folds": INNER_FOLDS,
            "alphas": alphas if isinstance(alphas, str) else np.asarray(alphas).tolist(),
            "n_iter": n_iter,
            "n_bootstraps": n_bootstraps,
            "n_permutations": int(n_permutations),
            "min_ceiling": min_ceiling,
            "random_state": random_state,
        },
    )
    result = VariancePartition(
        voxels=voxel_table(scored, data.voxels),
        rois=rois,
        parts=parts,
        encoders=encoders,
        manifest=manifest,
        warnings=near_copies(similar(), folds),
    )
    if folder is not None:
        result.save(folder)
        result.to_html(folder / PAGE)
    return result


def places_of(data: EncodingData) -> list[Place]:
    """All voxels, and the voxels of every ROI."""
    found: list[Place] = [("", "all", np.arange(data.n_voxels))]
    for atlas in data.atlases:
        found += [(atlas, roi, voxels) for roi, voxels in data.rois(atlas).items()]
    return found
