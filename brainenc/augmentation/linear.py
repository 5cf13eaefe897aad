"""Ridge decoder in closed form, with penalty and weight of added rows chosen on tuning images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Penalties tried, times the larger of the numbers of real rows and voxels.
PENALTIES = np.logspace(-3, 2, 16)
#: Weights of added rows; 0 leaves them out.
WEIGHTS = (0.0, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Pairs:
    """Responses (n, n_voxels) and targets (n, n_dimensions)."""

    X: np.ndarray
    Y: np.ndarray


@dataclass(frozen=True)
class Tuned:
    """Predictions of the decoder that was best on the tuning images.

    Attributes
    ----------
    predicted : array, shape (n_test, n_dimensions)
    weight, penalty : float
    error : float
        Mean squared error on the tuning images.
    """

    predicted: np.ndarray
    weight: float
    penalty: float
    error: float


def tuned_ridge(
    real: Pairs,
    added: Pairs | None,
    tuning: Pairs,
    test: np.ndarray,
    *,
    weights: Sequence[float] = WEIGHTS,
    penalties: np.ndarray = PENALTIES,
) -> Tuned:
    """Ridge from real rows of weight 1 and added rows, the best of all weights and penalties.

    Parameters
    ----------
    real, added, tuning : Pairs
        Without added rows only the penalty is chosen.
    test : array, shape (n_test, n_voxels)
    weights : sequence of float
    penalties : array
        Relative to the larger of the numbers of real rows and voxels.

    Returns
    -------
    Tuned
    """
    best: Tuned | None = None
    for weight in (0.0,) if added is None else weights:
        rows = [real] if added is None or weight == 0 else [real, added]
        mass = np.concatenate(
            [np.full(len(part.X), w) for part, w in zip(rows, (1.0, weight), strict=False)]
        )
        found = _best_penalty(
            np.concatenate([part.X for part in rows]),
            np.concatenate([part.Y for part in rows]),
            (mass, weight),
            tuning,
            (test, penalties * max(real.X.shape)),
        )
        if best is None or found.error < best.error:
            best = found
    assert best is not None
    return best


def _best_penalty(
    X: np.ndarray,
    Y: np.ndarray,
    mass: tuple[np.ndarray, float],
    tuning: Pairs,
    test: tuple[np.ndarray, np.ndarray],
) -> Tuned:
    each, weight = mass
    responses, penalties = test
    share = each / each.sum()
    mean_x, mean_y = share @ X, share @ Y
    root = np.sqrt(each)[:, None]
    Z, T = (X - mean_x) * root, (Y - mean_y) * root
    # By singular values of the rows: with the smaller of the two Gram matrices.
    if len(Z) <= Z.shape[1]:
        values, vectors = np.linalg.eigh(Z @ Z.T)
        project, of_targets = Z.T @ vectors, vectors.T @ T
    else:
        values, vectors = np.linalg.eigh(Z.T @ Z)
        project, of_targets = vectors, vectors.T @ (Z.T @ T)
    values = np.maximum(values, 0)
    seen = (tuning.X - mean_x) @ project
    errors = [
        np.square((seen / (values + a)) @ of_targets + mean_y - tuning.Y).mean() for a in penalties
    ]
    best = int(np.argmin(errors))
    predicted = ((responses - mean_x) @ project / (values + penalties[best])) @ of_targets + mean_y
    return Tuned(predicted, weight, float(penalties[best]), float(errors[best]))
