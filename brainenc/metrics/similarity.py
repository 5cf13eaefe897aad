"""Similarity of predicted and true targets: cosine with and without a common mean, and CSLS."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainenc.metrics.sums import check_matrix
from brainenc.numeric import as_doubles, as_numbers

#: Labels of the similarities of `similarities`, in order.
CENTRED, UNCENTRED, CSLS = "centred", "uncentred", "CSLS (uses all test responses)"


def cosine_similarity(
    predictions: ArrayLike, candidates: ArrayLike, *, mean: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Cosine of every prediction with every candidate, after subtracting a mean from both.

    Parameters
    ----------
    predictions : array, shape (n_responses, ...)
        Token targets are flattened.
    candidates : array, shape (n_candidates, ...)
    mean : array, shape (...), optional
        Mean of the targets of the *training* images. Embeddings share a large mean, so that the
        uncentred cosine depends on how far predictions are shrunk towards it.

    Returns
    -------
    array, shape (n_responses, n_candidates), float64
        NaN where a prediction or candidate is the mean up to round-off (or 0, without one): it has
        no direction. NaN in a row gives NaN.

    Raises
    ------
    ValueError : another number of features.

    Examples
    --------
    >>> import numpy as np
    >>> cosine_similarity([[11.0, 10.0]], [[12.0, 10.0], [10.0, 12.0]], mean=[10.0, 10.0])
    array([[1., 0.]])
    """
    predictions, candidates = (
        check_matrix(_flat(values, name), name)
        for values, name in ((predictions, "predictions"), (candidates, "candidates"))
    )
    n_features = predictions.shape[1]
    if candidates.shape[1] != n_features:
        raise ValueError(
            f"predictions {predictions.shape} and candidates {candidates.shape} must have the same "
            "number of features"
        )
    centre = np.zeros(n_features) if mean is None else as_doubles(mean, "mean").reshape(-1)
    if centre.shape != (n_features,):
        raise ValueError(f"mean {centre.shape} must have one value for each of {n_features}")
    with np.errstate(invalid="ignore"):
        return _directions(predictions, centre) @ _directions(candidates, centre).T


def _flat(values: ArrayLike, name: str) -> np.ndarray:
    array = as_numbers(values, name)
    return array.reshape(len(array), -1) if array.ndim == 3 else array


def _directions(values: np.ndarray, mean: np.ndarray) -> NDArray[np.float64]:
    """Rows of length 1; NaN where the deviation from the mean is round-off."""
    round_off = 1e-6 if values.dtype == np.float32 else 1e-12  # of means, which are sums
    deviations = values.astype(np.float64) - mean
    length = np.linalg.norm(deviations, axis=1)
    size = np.linalg.norm(values, axis=1) + np.linalg.norm(mean)
    length[length <= round_off * size] = np.nan
    return deviations / length[:, None]


def csls(similarity: ArrayLike, k: int = 10) -> NDArray[np.float64]:
    """Cross-domain similarity local scaling: similarity relative to that of the nearest ones.

    Twice the similarity, minus the mean similarity of the response to its k nearest candidates, and
    of the candidate to its k nearest responses. Candidates that are similar to every response
    (hubs) are chosen less often. It is transductive: the value of one response depends on the other
    test responses. A table that has it must say so, and one without it beside.

    Parameters
    ----------
    similarity : array, shape (n_responses, n_candidates)
    k : int

    Returns
    -------
    array, shape (n_responses, n_candidates)
        NaN stays NaN, and does not count among the nearest.

    Raises
    ------
    ValueError : k not in 1 … the smaller side.

    References
    ----------
    Conneau et al. (2018), ICLR, "Word translation without parallel data".

    Examples
    --------
    >>> csls([[0.9, 0.8], [0.9, 0.1]], k=1)  # the first candidate is near to both
    array([[ 0. , -0.1],
           [ 0. , -1.5]])
    """
    values = check_matrix(similarity, "similarity").astype(np.float64)
    if not 1 <= k <= min(values.shape):
        raise ValueError(f"k={k} must be in 1 … {min(values.shape)}, similarity is {values.shape}")
    return 2 * values - _of_nearest(values, k)[:, None] - _of_nearest(values.T, k)


def _of_nearest(values: np.ndarray, k: int) -> np.ndarray:
    """Mean of the k largest finite entries of each row."""
    known = np.where(np.isnan(values), -np.inf, values)
    largest = np.partition(known, -k, axis=1)[:, -k:]
    counted = np.isfinite(largest)
    with np.errstate(invalid="ignore"):
        return np.where(counted, largest, 0).sum(axis=1) / counted.sum(axis=1)


def similarities(
    predictions: ArrayLike, candidates: ArrayLike, *, training_mean: ArrayLike, k: int = 10
) -> dict[str, NDArray[np.float64]]:
    """Similarities of predicted targets under the labels that tables of retrieval have.

    Parameters
    ----------
    predictions, candidates : as for `cosine_similarity`
    training_mean : array, shape of a target
        Mean of the targets of the training images.
    k : int
        Neighbours of `csls`; fewer where there are fewer images.

    Returns
    -------
    dict of label to array, shape (n_responses, n_candidates)
        "centred", "uncentred", and "CSLS (uses all test responses)", which is of the centred ones.

    Examples
    --------
    >>> found = similarities([[1.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]], training_mean=[1.5, 1.5])
    >>> list(found)
    ['centred', 'uncentred', 'CSLS (uses all test responses)']
    """
    centred = cosine_similarity(predictions, candidates, mean=training_mean)
    return {
        CENTRED: centred,
        UNCENTRED: cosine_similarity(predictions, candidates),
        CSLS: csls(centred, min(k, *centred.shape)),
    }
