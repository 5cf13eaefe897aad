"""Whether the extractor of a loaded encoder gives the features of the fit.

A saved model names weights and does not hold them. So it has the checksum of the weights, and the
features of a test picture, which also show another version of a library or of a class.
"""

from typing import Any

import numpy as np

#: Values kept of the features of the test picture.
_MOST_VALUES = 4096
#: Largest relative difference between devices and precisions (bfloat16 has two to three digits).
_TOLERANCE = 0.05


def probe(extractor: Any) -> np.ndarray:
    """Features of a test picture of the size of the images of the fit, at most 4096 of them.

    Parameters
    ----------
    extractor : FeatureExtractor, fitted

    Returns
    -------
    array of float32, shape (at most 4096,)
    """
    features = extractor._of_test_picture().reshape(-1)
    if features.size <= _MOST_VALUES:
        return features
    return features[np.linspace(0, features.size - 1, _MOST_VALUES).astype(int)]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Size of the difference of two features, relative to how the first vary; inf for other shapes.

    Constant features differ by 0 if they are equal and by infinity otherwise.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    change = float(np.linalg.norm(ours - theirs))
    size = float(np.linalg.norm(ours - ours.mean()))
    return 0.0 if change == 0 else change / size if size else float("inf")


def check_as_saved(extractor: Any) -> None:
    """Check that a loaded extractor has the weights and gives the features that it was saved with.

    Raises
    ------
    ValueError : it does not; names the source of the weights and both checksums.
    """
    name = type(extractor).__name__
    saved = getattr(extractor, "weights_", None)
    if saved is not None:
        found = extractor.weights() or {"source": "no weights", "checksum": ""}
        if found["checksum"] != saved["checksum"]:
            raise ValueError(
                f"the weights of this {name}, {found['source']}, are not those that the encoder "
                f"was saved with ({saved['source']}): their checksum is {found['checksum']}, and "
                f"it was {saved['checksum']}. Put the former weights back, or fit the encoder again"
            )
    kept = getattr(extractor, "probe_", None)
    if kept is not None and (off := difference(kept, probe(extractor))) > _TOLERANCE:
        raise ValueError(
            f"this {name} gives other features than the one that was saved: those of a test "
            f"picture differ by {100 * off:.0f} % of their spread. Is it another version of its "
            "class or library? Use the former one, or fit the encoder again"
        )
