"""Memory that fits take, estimated from shapes; ``benchmarks/memory_preflight.py`` measures it.

One table for all encoders: their largest arrays, counted, and constants that were measured.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from brainenc.arrays import LARGE_FEATURES
from brainenc.encoders import tokens
from brainenc.late_imports import if_imported
from brainenc.memory import Limit, free_memory, size
from brainenc.solvers.voxels import EXACT_IMAGES, SHARES

#: Estimates are right within this factor.
WITHIN = 1.5
#: Penalties that are tried by default.
_N_PENALTIES = 15
MIB = 2**20


class Need(NamedTuple):
    """Memory of a fit.

    Attributes
    ----------
    n_bytes : float
        Above that of the interpreter, the features and the betas.
    remedy : str
        What makes it less.
    """

    n_bytes: float
    remedy: str


class _Sizes(NamedTuple):
    """Bytes, in single precision."""

    n_images: int
    n_features: int
    n_voxels: int
    X: float
    averages: float
    betas: float
    #: Residuals and trial noise of single trials, around the prediction.
    noise: float


def fit_memory(encoder: Any, features: Sequence[int], betas: Sequence[int]) -> Need:
    """Estimate of the largest memory that a fit and its noise model take, within a factor of 1.5.

    Parameters
    ----------
    encoder : estimator, unfitted
    features : shape of the features or images, (n_images, …)
    betas : shape, (n_images, n_repeats, n_voxels)

    Returns
    -------
    Need
        On the CPU: the memory of a GPU is not counted. Networks are of the default sizes; the
        published ones take more.

    Examples
    --------
    >>> import brainenc
    >>> need = fit_memory(brainenc.RidgeEncoder(), (9000, 20_000), (9000, 3, 15_000))
    >>> bool(5 * 2**30 < need.n_bytes < 12 * 2**30)
    True
    """
    n_images, n_repeats, n_voxels = betas
    n_features = prod(features[1:])
    X, averages = 4.0 * n_images * n_features, 4.0 * n_images * n_voxels
    all_trials = averages * n_repeats
    # Trials are read in blocks: with many, the blocks are what counts.
    noise = 3.5 * averages + (min(2.1 * all_trials, 500 * MIB) if n_repeats > 1 else 0)
    sizes = _Sizes(n_images, n_features, n_voxels, X, averages, all_trials, noise)
    for kind in type(encoder).__mro__:
        if kind.__name__ in _TABLE:
            return _TABLE[kind.__name__](encoder, sizes)
    if isinstance(encoder, if_imported("sklearn.pipeline", "Pipeline")):
        return fit_memory(encoder.steps[-1][1], features, betas)
    return Need(100 * MIB + noise + 2 * X, "select fewer voxels")


def warn_of_memory(encoder: Any, features: Sequence[int], betas: Sequence[int]) -> None:
    """Warn before a fit that does not fit into the free memory, whatever the estimate's error."""
    if prod(betas) + prod(features) < _TOO_SMALL:  # no time for the system's limits
        return
    need, limit = fit_memory(encoder, features, betas), free_memory()
    if need.n_bytes / WITHIN > limit.n_bytes:
        warnings.warn(_text(type(encoder).__name__, need, limit), UserWarning, stacklevel=5)


#: Numbers in features and betas below which no fit is larger than a gigabyte or so.
_TOO_SMALL = 2**24


def _text(name: str, need: Need, limit: Limit) -> str:
    return (
        f"the fit of {name} takes about {size(need.n_bytes)} of memory, and there are "
        f"{size(limit.n_bytes)} ({limit.source}): {need.remedy}"
    )


# ---------------------------------------------------------------- one function per encoder


def _mean(encoder: Any, sizes: _Sizes) -> Need:
    return Need(50 * MIB + sizes.noise + sizes.averages, "select fewer voxels")


def _kernel(sizes: _Sizes) -> float:
    """A kernel, its eigenvectors and what computing them takes; inverses of the folds' parts."""
    n_bytes = 8.0 if sizes.n_images <= EXACT_IMAGES else 4.0
    return 6 * n_bytes * sizes.n_images**2


def _held_out(sizes: _Sizes) -> float:
    """Weights of images and held-out predictions, and those of a block of voxels."""
    in_block = min(sizes.n_images * sizes.n_voxels, 2**24)
    return 2 * 4.0 * sizes.n_images * sizes.n_voxels + 5 * 4.0 * in_block


def _ridge(encoder: Any, sizes: _Sizes) -> Need:
    if (prior := getattr(encoder, "prior", None)) is not None:
        return _with_prior(encoder, prior, sizes)
    form = getattr(encoder, "form", "auto")
    if form == "kernel" or (form == "auto" and sizes.n_features >= sizes.n_images):
        remedy = "select fewer voxels, or reduce the features (a pipeline with PCA)"
        # Large features stay where they are: blocks of them are copied.
        copies = 3 * sizes.X if sizes.X <= LARGE_FEATURES else 400 * MIB
        own = 130 * MIB + copies + _kernel(sizes) + _held_out(sizes)
    else:
        gram = 4.0 * sizes.n_features**2
        remedy = "select fewer voxels, or reduce the features (a pipeline with PCA)"
        if sizes.n_features > sizes.n_images:
            remedy = 'use form="kernel"'
        weights = 4.0 * sizes.n_features * sizes.n_voxels
        own = 80 * MIB + 3 * sizes.X + 20 * gram + weights
    return Need(own + sizes.noise, remedy)


def _with_prior(encoder: Any, prior: Any, sizes: _Sizes) -> Need:
    rank = sum(factor.shape[1] for factor in prior.factors)
    n_fits = 1 + len(SHARES) * len(prior.factors)
    if _by_folds(encoder):  # weights of images and held-out errors of every fit
        fits = n_fits * 2 * 4.0 * sizes.n_images * sizes.n_voxels
    else:  # kernels and axes of every fit, weights of images of each component, likelihoods
        n_bytes = 8.0 if sizes.n_images <= EXACT_IMAGES else 4.0
        fits = n_fits * 3 * n_bytes * sizes.n_images**2
        fits += len(prior.factors) * 4.0 * sizes.n_images * sizes.n_voxels
        fits += _likelihoods(n_fits, sizes)
    weights = 3 * 4.0 * sizes.n_features * sizes.n_voxels
    bands = 16.0 * (sizes.n_images + sizes.n_features) * (rank + sizes.n_features)
    own = 130 * MIB + 3 * sizes.X + bands + _kernel(sizes) + _held_out(sizes) + fits + weights
    remedy = "select fewer voxels, or a prior with fewer components"
    return Need(own + sizes.noise, remedy)


def _by_folds(encoder: Any) -> bool:
    """Whether penalties beside a prior are chosen by cross-validation."""
    selection, cv = getattr(encoder, "selection", "auto"), getattr(encoder, "cv", 5)
    return selection == "cross-validation" or (selection == "auto" and not isinstance(cv, int))


def _likelihoods(n_fits: int, sizes: _Sizes) -> float:
    """Those of every penalty and voxel, and what averaging them takes."""
    n_bytes = 8.0 if sizes.n_images <= EXACT_IMAGES else 4.0
    return 3 * n_fits * _N_PENALTIES * n_bytes * sizes.n_voxels


def _of_regressor(encoder: Any, sizes: _Sizes) -> Need:
    # Copies of a regressor; some keep the features or a kernel, others weights of every voxel.
    own = 100 * MIB + 4 * sizes.X + 3 * sizes.averages
    return Need(
        own + sizes.noise, "select fewer voxels, or reduce the features (PCA in a pipeline)"
    )


def _banded(encoder: Any, sizes: _Sizes) -> Need:
    n_bands = len(encoder.bands or encoder.features or [1]) if _is_mapping(encoder) else 2
    gram = 4.0 * sizes.n_images**2
    own = 100 * MIB + 3 * sizes.X + n_bands * gram + _kernel(sizes) + _held_out(sizes)
    if (prior := getattr(encoder, "prior", None)) is not None:
        # Features of its components beside the others, and the kernel of each.
        rank = sum(factor.shape[1] for factor in prior.factors)
        own += 3 * 4.0 * sizes.n_images * rank + 8.0 * sizes.n_features * rank
        own += len(prior.factors) * gram + _likelihoods(1, sizes)
    return Need(own + sizes.noise, "select fewer voxels, or reduce the features of each band")


def _kernel_ridge(encoder: Any, sizes: _Sizes) -> Need:
    # Scalar products of images stay beside the kernel that is tried.
    n_bytes = 8.0 if sizes.n_images <= EXACT_IMAGES else 4.0
    products = 2 * n_bytes * sizes.n_images**2
    own = 100 * MIB + 3 * sizes.X + products + _kernel(sizes) + _held_out(sizes)
    remedy = "select fewer voxels, or reduce the features (a pipeline with PCA)"
    return Need(own + sizes.noise, remedy)


def _pls(encoder: Any, sizes: _Sizes) -> Need:
    # In double precision: features and responses, and those of a fold as they are deflated.
    weights = 2 * 4.0 * sizes.n_features * sizes.n_voxels
    own = 100 * MIB + 8 * sizes.X + 8 * sizes.averages + weights
    return Need(
        own + sizes.noise, "select fewer voxels, or reduce the features (PCA in a pipeline)"
    )


def _is_mapping(encoder: Any) -> bool:
    return isinstance(encoder.bands, Mapping) or isinstance(encoder.features, Mapping)


def _network(constant: float, per_voxel: int, *, linear: bool = False) -> Callable[..., Need]:
    """Networks that end in weights of every voxel; `linear` ones fit ridge or a kernel too."""

    def need(encoder: Any, sizes: _Sizes) -> Need:
        if sizes.n_images < (getattr(encoder, "min_images", 0) or 0):
            return _ridge(None, sizes)
        # Larger tokens are standardised batch by batch, and averaged for linear maps.
        inputs = sizes.X if sizes.X <= tokens.TOKENS_IN_MEMORY else 0
        own = constant * MIB + 2 * inputs
        if linear:
            own += 8.0 * sizes.n_images * min(sizes.n_features, tokens.MAX_LINEAR)
            own += 12.0 * sizes.n_images**2
        # Weights, gradients, two moments, and the best ones so far.
        own += 5 * 4.0 * per_voxel * sizes.n_voxels
        if getattr(encoder, "blend", None) is not None:
            # Ridge follows the network; both leave held-out predictions, which are blended.
            of_ridge = _ridge(None, sizes).n_bytes - sizes.noise
            own = max(own, of_ridge) + 3 * sizes.averages
        return Need(own + sizes.noise, "select fewer voxels, or smaller sizes= and batch_size=")

    return need


def _latent(encoder: Any, sizes: _Sizes) -> Need:
    need = _network(250, 64, linear=True)(encoder, sizes)
    if (prior := getattr(encoder, "prior", None)) is not None:
        need = max(need, _with_prior(None, prior, sizes))  # of all features, whose weights it holds
    # Of several feature spaces, ridge is banded ridge.
    return max(need, _banded(encoder, sizes)) if _is_mapping(encoder) else need


def _stacked(encoder: Any, sizes: _Sizes) -> Need:
    members = encoder.encoders or []
    members = list(members.values()) if isinstance(members, Mapping) else list(members)
    members = [member[1] if isinstance(member, tuple) else member for member in members]
    shapes = _shapes(sizes)
    needs = [fit_memory(member, *shapes) for member in members] or [_ridge(None, sizes)]
    # Fitted one after the other; each leaves its held-out predictions, what it has fitted, and the
    # trials that its distribution of trials is fitted to when it is needed.
    kept = len(needs) * (2 * sizes.averages + _kept_trials(sizes))
    largest = max(needs, key=lambda need: need.n_bytes)
    return Need(largest.n_bytes + kept + sizes.noise / 2, largest.remedy)


def _kept_trials(sizes: _Sizes) -> float:
    """Trials kept by `TrialDistribution.later`: 2000, and 1500 others."""
    return min(sizes.betas, 3500 * sizes.averages / sizes.n_images)


def _calibrated(encoder: Any, sizes: _Sizes) -> Need:
    member = encoder.encoder
    inner = _ridge(None, sizes) if member is None else fit_memory(member, *_shapes(sizes))
    # Distances of all trials, and those of a fold.
    return Need(inner.n_bytes + sizes.X + 3 * sizes.betas + 2 * sizes.averages, inner.remedy)


def _shapes(sizes: _Sizes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    n_repeats = round(sizes.betas / max(1.0, sizes.averages))
    return (sizes.n_images, sizes.n_features), (sizes.n_images, n_repeats, sizes.n_voxels)


#: Largest memory by class. A subclass has that of the nearest class here.
_TABLE: dict[str, Callable[[Any, _Sizes], Need]] = {
    "MeanEncoder": _mean,
    "RidgeEncoder": _ridge,
    "InContextEncoder": _ridge,  # the net reads few tokens at a time
    "SklearnEncoder": _of_regressor,
    "BandedRidgeEncoder": _banded,
    "KernelRidgeEncoder": _kernel_ridge,
    "PLSEncoder": _pls,
    "LatentEncoder": _latent,
    "MindReaderEncoder": _network(165, 256),
    "ROITransformerEncoder": _network(150, 128),
    "MindSimulatorEncoder": _network(210, 650, linear=True),
    "SynBrainEncoder": _network(325, 390),
    "StackedEncoder": _stacked,
    "CalibratedEncoder": _calibrated,
}
