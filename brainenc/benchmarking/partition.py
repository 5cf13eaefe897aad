"""variance_partitioning: how much each band of features explains alone, and how much they share."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

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
from brainenc.benchmarking.partition_parts import Place, Scored, roi_tables, voxel_table
from brainenc.benchmarking.partition_result import VariancePartition
from brainenc.benchmarking.run_parts import check_arguments
from brainenc.benchmarking.split import make_split
from brainenc.data.encoding_data import EncodingData
from brainenc.model_selection import bootstrap_weights
from brainenc.repeats import average_repeats
from brainenc.solvers.voxels import choose_alphas


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
    min_ceiling: float = 0.2,
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
    min_ceiling : float
        Smallest noise ceiling of r for normalised values.
    random_state : int
        Seed of folds, band weights, resamples and the permutation.
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
        with another number of rows, or folds as for `brainenc.benchmark`.

    Notes
    -----
    Values are those of held-out images and are not clipped. A unique part below zero means that the
    band made held-out predictions worse; a shared part below zero means that the bands explain more
    together than the sum of what each explains alone (suppression), or noise. The null of each part
    is in the same tables: the band's images are permuted before folds are made, or for shared parts
    those of all bands together. It is near zero and usually below it, since features that explain
    nothing still cost a little.

    Memory is that of the held-out predictions of all models: 8 of two bands, 17 of three, 34 of
    four, each n_images × n_voxels × 4 bytes.

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
    choose_alphas(alphas, (1, 1))
    given = read_bands(data, bands, features, verbose)
    similar = cache(data.similar_images)
    folds = make_folds(data, cv, groups, random_state, similar)
    split = make_split(data.betas, folds)
    averages = average_repeats(data.betas)
    # The seed of folds and resamples is the same number; the permutation must not repeat theirs.
    order = np.random.default_rng([random_state, 0x9E37]).permutation(data.n_images)
    settings = Settings(alphas, n_iter, device, random_state)
    names = given.names
    predictions = held_out_predictions(
        given, models_of(names), averages, folds, order, settings, verbose
    )
    tested, image = np.unique(split.rows, return_inverse=True)
    weights = bootstrap_weights(len(tested), n_bootstraps, random_state=random_state)
    ceiling = ceiling_of_tested(data, split).to("r2")
    scored = Scored(
        names=names,
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
        data_hash(data),
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
            "min_ceiling": min_ceiling,
            "random_state": random_state,
        },
    )
    return VariancePartition(
        voxels=voxel_table(scored, data.voxels),
        rois=rois,
        parts=parts,
        encoders=encoders,
        manifest=manifest,
        warnings=near_copies(similar(), folds),
    )


def places_of(data: EncodingData) -> list[Place]:
    """All voxels, and the voxels of every ROI."""
    found: list[Place] = [("", "all", np.arange(data.n_voxels))]
    for atlas in data.atlases:
        found += [(atlas, roi, voxels) for roi, voxels in data.rois(atlas).items()]
    return found
