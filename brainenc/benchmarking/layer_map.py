"""layer_map: which layer of a network predicts which voxels and areas."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from sklearn.random_projection import SparseRandomProjection

from brainenc.benchmarking.ceilings import ceiling_of_tested
from brainenc.benchmarking.folds import make_folds, near_copies
from brainenc.benchmarking.inputs import Inputs, describe_features
from brainenc.benchmarking.layer_fits import LayerScores, LayerSettings, fit_steps, score_layers
from brainenc.benchmarking.layer_hierarchy import hierarchy_score
from brainenc.benchmarking.layer_result import LayerMap
from brainenc.benchmarking.layer_tables import (
    Scored,
    area_depths,
    layer_table,
    roi_table,
    voxel_table,
)
from brainenc.benchmarking.manifest import data_hash, make_manifest
from brainenc.benchmarking.partition import places_of
from brainenc.benchmarking.partition_bands import Source, source_of
from brainenc.benchmarking.run_parts import check_arguments
from brainenc.benchmarking.split import make_split
from brainenc.data.encoding_data import EncodingData
from brainenc.documentation import see
from brainenc.features.untrained import find_networks
from brainenc.repeats import average_repeats
from brainenc.solvers.voxels import choose_alphas, flatten_tokens

SCORES = ("r", "pls")


def layer_map(
    data: EncodingData,
    layers: Mapping[str, Any],
    *,
    order: Sequence[str] | None = None,
    atlas: str | None = None,
    score: str = "r",
    cv: Any = 5,
    groups: Any = None,
    alphas: Any = "auto",
    n_columns: int | None = 5000,
    controls: Sequence[str] = ("untrained", "permuted"),
    n_images: int | None = None,
    n_voxels: int | None = None,
    n_bootstraps: int = 1000,
    min_ceiling: float = 0.2,
    random_state: int = 0,
    device: str = "auto",
    verbose: bool = True,
) -> LayerMap:
    """Fit every layer on the same folds, and choose the best one per voxel within training images.

    Parameters
    ----------
    data : EncodingData
    layers : dict of name to array (n_images, …) or transformer, from the first to the last
        Such as `brainenc.network_layers` gives them. Layers of one network are computed in one
        forward pass. A transformer that learns (a PCA) is fitted to the training images of each
        fold.
    order : sequence of str, optional
        ROIs from low to high, for the hierarchy score.
    atlas : str, optional
        Atlas of the ROIs in `order`; by default the first that has them all.
    score : "r" or "pls"
        Ridge, or partial least squares with 25 components, each scored by Pearson's r.
    cv, groups : as for `brainenc.benchmark`
        Within the training images of a fold, five more folds choose penalties and layers.
    alphas : "auto" or array-like
        As for `RidgeEncoder`.
    n_columns : int or None
        Layers of a network with more features are reduced to so many by a sparse random
        projection, which does not depend on the images, batch by batch. None: all are kept.
    controls : sequence of "untrained", "permuted"
        The same layers with random weights; all layers with the images permuted, the chance level.
    n_images, n_voxels : int, optional
        Map so many images or voxels, drawn at random: to see how stable the map is.
    n_bootstraps : int
        Resamples of the test images for intervals.
    min_ceiling : float
        Smallest noise ceiling of r of voxels that count for the depth of an area.
    random_state : int
        Seed of folds, projections, random weights, permutations and resamples.
    device : str
    verbose : bool
        Show progress bars.

    Returns
    -------
    LayerMap

    Raises
    ------
    TypeError : data or layers of a wrong type.
    ValueError : fewer than two layers, an ROI in `order` that the data do not have, betas with gaps
        and score="pls", or folds as for `brainenc.benchmark`.

    Notes
    -----
    The layer with the largest score on the images that are shown would be biased: the largest of
    several noisy numbers is too large. Here it is chosen on other images.

    References
    ----------
    Güçlü & van Gerven (2015), Journal of Neuroscience 35 (best layer per voxel); Schrimpf et al.
    (2018), bioRxiv 407007 (partial least squares with 25 components).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> one, two = rng.standard_normal((2, 80, 4))
    >>> betas = one[:, None, :3] + 0.5 * rng.standard_normal((80, 2, 3))
    >>> images = rng.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    >>> found = brainenc.layer_map(
    ...     brainenc.EncodingData(images, betas), {"one": one, "two": two},
    ...     n_bootstraps=20, verbose=False)
    >>> list(found.voxels["layer"])
    ['one', 'one', 'one']
    """
    check_arguments(data, {}, n_bootstraps, 1)
    choose_alphas(alphas, (1, 1))
    layers = _checked_layers(layers)
    _check_choices(score, controls, n_columns)
    data = _part_of(data, n_images, n_voxels, random_state)
    places = places_of(data)
    ordered = _atlas_of(order, atlas, data)
    similar = cache(data.similar_images)
    folds = make_folds(data, cv, groups, random_state, similar)
    split = make_split(data.betas, folds)
    averages = average_repeats(data.betas)
    if score == "pls" and not np.isfinite(averages).all():
        raise ValueError(
            "betas have voxels without data for some images, which partial least squares cannot "
            'have: use score="r", or select the voxels with data for all images'
        )
    sources = layer_sources(data, layers, n_columns, random_state, verbose)
    versions, notes = {"": sources}, []
    if "untrained" in controls:
        other, note = _untrained(data, layers, n_columns, random_state, verbose)
        versions |= {} if other is None else {"untrained": other}
        notes += [] if note is None else [note]
    if "permuted" in controls:
        versions["permuted"] = sources
    settings = LayerSettings(score, alphas, device, n_bootstraps, random_state)
    step = fit_steps(len(folds) * len(layers) * len(versions), verbose)
    # The seed of folds and resamples is the same number; the permutation must not repeat theirs.
    permuted = np.random.default_rng([random_state, 0x9E37]).permutation(data.n_images)
    scores: dict[str, LayerScores] = {
        control: score_layers(
            some,
            averages,
            folds,
            [voxels for _, _, voxels in places],
            settings,
            order=permuted if control == "permuted" else None,
            steps=step,
        )
        for control, some in versions.items()
    }
    step()
    scored = Scored(list(layers), scores, ceiling_of_tested(data, split).values, min_ceiling)
    hierarchy = {}
    if order is not None:
        for control in scores:
            depths = area_depths(scored, places, control)[ordered]
            hierarchy[control or "trained"] = hierarchy_score(
                depths, order, random_state=random_state
            )
    manifest = make_manifest(
        data,
        data_hash(data),
        folds,
        {
            "layers": list(layers),
            "features": describe_features(layers),
            "order": None if order is None else list(order),
            "atlas": ordered or None,
            "score": score,
            "cv": cv if isinstance(cv, int | str) else repr(cv),
            "groups": groups if groups is None or isinstance(groups, str) else "given",
            "alphas": alphas if isinstance(alphas, str) else np.asarray(alphas).tolist(),
            "n_columns": n_columns,
            "controls": [control for control in scores if control],
            "n_images": n_images,
            "n_voxels": n_voxels,
            "n_bootstraps": n_bootstraps,
            "min_ceiling": min_ceiling,
            "random_state": random_state,
        },
    )
    return LayerMap(
        voxels=voxel_table(scored, data.voxels),
        layers=layer_table(scored, places),
        rois=roi_table(scored, places),
        manifest=manifest | {"hierarchy": hierarchy},
        warnings=[*near_copies(similar(), folds), *notes],
    )


def _checked_layers(layers: Any) -> dict[str, Any]:
    if not isinstance(layers, Mapping):
        raise TypeError(
            f"layers must be a dict of name to features, such as brainenc.network_layers(module, "
            f"images) gives, got {type(layers).__name__}" + see("layer_map")
        )
    if len(layers) < 2:
        raise ValueError(f"layers {list(layers)} must be at least two" + see("layer_map"))
    names = [str(name) for name in layers]
    for name in names:
        if not name.strip() or not name.isprintable():
            raise ValueError(f"the layer name {name!r} is empty or has control characters")
    if len(set(names)) < len(names):
        raise ValueError(f"layers {names} have a name twice, as text")
    return dict(zip(names, layers.values(), strict=True))


def _check_choices(score: str, controls: Sequence[str], n_columns: int | None) -> None:
    if score not in SCORES:
        raise ValueError(f"score={score!r} must be one of {', '.join(map(repr, SCORES))}")
    if unknown := [control for control in controls if control not in ("untrained", "permuted")]:
        raise ValueError(f"controls has {unknown[0]!r}, which is not 'untrained' or 'permuted'")
    if n_columns is not None and n_columns < 1:
        raise ValueError(f"n_columns={n_columns} must be 1 or more, or None")


def _part_of(
    data: EncodingData, n_images: int | None, n_voxels: int | None, random_state: int
) -> EncodingData:
    """Some images and voxels, drawn at random."""
    generator = np.random.default_rng([random_state, 0x5A5A])
    for name, n, total in (
        ("n_images", n_images, data.n_images),
        ("n_voxels", n_voxels, data.n_voxels),
    ):
        if n is not None and not 1 <= n <= total:
            raise ValueError(f"{name}={n} must be between 1 and {total}, those of the data")
    if n_images is not None:
        data = data.select(images=np.sort(generator.choice(data.n_images, n_images, False)))
    if n_voxels is not None:
        data = data.select(voxels=np.sort(generator.choice(data.n_voxels, n_voxels, False)))
    return data


def _atlas_of(order: Sequence[str] | None, atlas: str | None, data: EncodingData) -> str:
    """The atlas that has the ROIs of `order`."""
    if order is None:
        return ""
    if isinstance(order, str) or len(order) < 3 or len(set(order)) < len(order):
        raise ValueError(f"order={order!r} must be three or more ROIs, each once, from low to high")
    known = {name: list(data.rois(name)) for name in data.atlases}
    if atlas is not None and atlas not in known:
        raise ValueError(f"atlas={atlas!r} is not an atlas of the data, which have {list(known)}")
    if not known:
        raise ValueError(
            "order names ROIs, but the voxel table has no column of ROI labels: add one, such as "
            "voxels['roi']"
        )
    tried = list(known) if atlas is None else [atlas]
    for name in tried:
        if set(order) <= set(known[name]):
            return name
    missing = {name: [roi for roi in order if roi not in known[name]] for name in tried}
    raise ValueError(
        f"order names ROIs that the data do not have: {missing}; ROIs are "
        f"{ {name: known[name] for name in tried} }"
    )


def layer_sources(
    data: EncodingData,
    layers: Mapping[str, Any],
    n_columns: int | None,
    random_state: int,
    verbose: bool,
) -> dict[str, Source]:
    """Features of every layer; those of one network from one forward pass."""
    from brainenc.features.network_layers import in_one_pass, share_a_pass

    narrow = _Narrow(n_columns, random_state)
    if share_a_pass(layers) and next(iter(layers.values())).store is None:
        arrays = in_one_pass(layers, data.images, narrow, verbose=verbose)
        return {name: Source(X, None) for name, X in arrays.items()}
    inputs = Inputs(data, verbose)
    found = {name: source_of(inputs, given, name) for name, given in layers.items()}
    networks = {name for name, given in layers.items() if any(True for _ in find_networks([given]))}
    return {
        name: Source(narrow(name, source.X), None)
        if name in networks and source.learned is None
        else source
        for name, source in found.items()
    }


class _Narrow:
    """Sparse random projections of wide layers, a batch at a time."""

    def __init__(self, n_columns: int | None, random_state: int):
        self.n_columns, self.random_state = n_columns, random_state
        self.projections: dict[str, SparseRandomProjection] = {}

    def __call__(self, name: str, features: np.ndarray) -> np.ndarray:
        flat = flatten_tokens(features)
        if self.n_columns is None or flat.shape[1] <= self.n_columns:
            return flat
        if name not in self.projections:
            made = SparseRandomProjection(self.n_columns, random_state=self.random_state)
            self.projections[name] = made.fit(flat[:1])
        return np.asarray(self.projections[name].transform(flat), np.float32)


def _untrained(
    data: EncodingData,
    layers: Mapping[str, Any],
    n_columns: int | None,
    random_state: int,
    verbose: bool,
) -> tuple[dict[str, Source] | None, str | None]:
    """The same layers with random weights, or why there are none."""
    from brainenc.features.network_layers import untrained_layers

    if not any(True for _ in find_networks(layers.values())):
        return None, None
    try:
        other = untrained_layers(layers, random_state)
    except ValueError as error:
        return None, f"There is no untrained control: {error}"
    if other is None:
        return None, (
            "There is no untrained control: not every layer is of a network whose weights are "
            "trained."
        )
    return layer_sources(data, other, n_columns, random_state, verbose), None
