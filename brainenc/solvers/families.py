"""Kernels of images that differ in one number, computed from scalar products of their features."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("gaussian", "polynomial", "linear")
#: Widths (in units of the typical distance of two images) or degrees that "auto" tries.
AUTO: dict[str, tuple[float, ...]] = {
    "gaussian": (0.5, 0.7, 1.0, 1.4, 2.0, 4.0),
    "polynomial": (1, 2, 3),
    "linear": (1,),
}
#: Numbers in a sketch of an image, and how many of its directions are drawn at once.
SKETCH_COLUMNS, _AT_ONCE = 2048, 128


def check_kernel(kind: Any, candidates: Any) -> np.ndarray:
    """Widths or degrees to try, (n_candidates,) of float64.

    Parameters
    ----------
    kind : "gaussian", "polynomial" or "linear"
    candidates : "auto", number or array-like

    Raises
    ------
    ValueError : an unknown kernel, or candidates that it cannot have.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kernel={kind!r} must be one of {', '.join(map(repr, KINDS))}")
    if isinstance(candidates, str):
        if candidates != "auto":
            raise ValueError(f"candidates={candidates!r}: give 'auto' or numbers")
        return np.array(AUTO[kind], dtype=np.float64)
    if kind == "linear":
        raise ValueError(
            f"candidates={candidates!r}: the linear kernel has no width or degree; leave 'auto'"
        )
    try:
        found = np.atleast_1d(np.asarray(candidates, dtype=np.float64))
    except (TypeError, ValueError):
        found = np.empty(0)
    good = found.ndim == 1 and found.size > 0 and bool((np.isfinite(found) & (found > 0)).all())
    if kind == "gaussian" and not good:
        raise ValueError(f"candidates={candidates!r}: widths must be positive finite numbers")
    if kind == "polynomial" and not (good and (found == np.rint(found)).all()):
        raise ValueError(f"candidates={candidates!r}: degrees must be whole numbers from 1 on")
    return found


@dataclass(frozen=True)
class KernelFamily:
    """Kernels of images by their features x of mean square 1.

    With the scalar product x·y of two images, divided by the number of features, the linear
    kernel is x·y, the polynomial one (1 + x·y)^degree, and the Gaussian one
    exp(−d² / (width² m)), with d the distance of the images and m the mean of d² over pairs of
    fitted ones. Each is divided by a scale, such that fitted images have, once they are centred, a
    mean product of 1 with themselves: penalties then mean the same for all.

    Attributes
    ----------
    kind : "gaussian", "polynomial" or "linear"
    candidates : array, shape (n_candidates,)
        Widths or degrees.
    typical : float
        Mean squared distance of fitted images, divided by the number of features.
    scales : array, shape (n_candidates,)

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 10)) / np.sqrt(10)
    >>> family = KernelFamily.fit("gaussian", np.array([1.0]), X)
    >>> K = family.kernel(0, X, X)
    >>> bool(np.isclose(np.trace(K) / 50 - K.mean(), 1))
    True
    """

    kind: str
    candidates: np.ndarray
    typical: float
    scales: np.ndarray

    @classmethod
    def fit(cls, kind: str, candidates: np.ndarray, X: np.ndarray) -> "KernelFamily":
        """Scales of the kernels, from the images to learn.

        Parameters
        ----------
        kind, candidates : as `check_kernel` gives them
        X : array, shape (n_images, n_features)
            z-scored features, divided by the square root of their number.

        Raises
        ------
        ValueError : a kernel that is not finite.
        """
        products, norms = products_of(X, X), squares_of(X)
        n = len(X)
        # Σ |x − y|² over pairs, without the matrix of distances.
        total = 2 * n * float(norms.sum(dtype=np.float64)) - 2 * float(
            products.sum(dtype=np.float64)
        )
        typical = total / (n * (n - 1)) if n > 1 and total > 0 else 1.0
        found = cls(kind, candidates, typical, np.ones(len(candidates)))
        scales = []
        for i in range(len(candidates)):
            K = found.of_products(i, products, norms, norms)
            if not np.isfinite(K).all():
                raise ValueError(
                    f"the {kind} kernel of candidate {candidates[i]:g} is not finite: images are "
                    f"as much as {np.sqrt(norms.max()):.3g} from the mean, where 1 is typical; "
                    "give a smaller degree"
                )
            scale = float(np.trace(K, dtype=np.float64)) / n - float(K.mean(dtype=np.float64))
            # Features that are the same for all images have a kernel without variance.
            scales.append(scale if scale > n * np.finfo(K.dtype).eps else 1.0)
        return cls(kind, candidates, typical, np.array(scales))

    def kernel(self, i: int, new: np.ndarray, fitted: np.ndarray) -> np.ndarray:
        """Kernel (n_new, n_fitted) of images with features (n, n_features), scaled as for `fit`."""
        return self.of_products(i, products_of(new, fitted), squares_of(new), squares_of(fitted))

    def of_products(
        self, i: int, products: np.ndarray, new: np.ndarray, fitted: np.ndarray
    ) -> np.ndarray:
        """Kernel from scalar products (n_new, n_fitted), and those of images with themselves."""
        number, scale = float(self.candidates[i]), float(self.scales[i])
        if self.kind == "linear":
            return products / scale
        if self.kind == "polynomial":
            with np.errstate(over="ignore"):  # `fit` refuses what overflows
                return (1 + products) ** int(number) / scale
        squared = products * -2
        squared += new[:, None]
        squared += fitted
        np.maximum(squared, 0, out=squared)  # round-off
        squared /= -(number**2) * self.typical
        np.exp(squared, out=squared)
        squared /= scale
        return squared

    def diagonal(self, i: int, X: np.ndarray) -> np.ndarray:
        """Kernel of images with themselves, (n_images,)."""
        norms = squares_of(X)
        scale = float(self.scales[i])
        if self.kind == "linear":
            return norms / scale
        if self.kind == "polynomial":
            return (1 + norms) ** int(self.candidates[i]) / scale
        return np.full_like(norms, 1 / scale)

    def sketch(self, i: int, X: np.ndarray, random_state: int = 0) -> np.ndarray:
        """Short vectors (n_images, n_columns), float32, with about the kernel for products.

        The vector of an image depends on the image and on `random_state` alone. Products are
        unbiased; their s.d. is about the root of 2 / n_columns, relative to images with themselves.
        The linear kernel has the features themselves.

        References
        ----------
        Rahimi & Recht (2007), NeurIPS 20 (random Fourier features); Kar & Karnick (2012), AISTATS
        15 (random features of polynomial kernels).
        """
        scale = math.sqrt(self.scales[i])
        if self.kind == "linear":
            return (X / scale).astype(np.float32, copy=False)
        seeds = np.random.SeedSequence([random_state, i]).spawn(SKETCH_COLUMNS // _AT_ONCE)
        make = self._waves if self.kind == "gaussian" else self._powers
        parts = [make(i, X, np.random.default_rng(seed)) for seed in seeds]
        return np.concatenate(parts, axis=1) / np.float32(scale * math.sqrt(SKETCH_COLUMNS))

    def _waves(self, i: int, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        directions = rng.standard_normal((X.shape[1], _AT_ONCE // 2), dtype=np.float32)
        phases = X @ (directions * math.sqrt(2 / self.typical) / self.candidates[i]).astype(X.dtype)
        waves = math.sqrt(2) * np.concatenate([np.cos(phases), np.sin(phases)], axis=1)
        return waves.astype(np.float32)

    def _powers(self, i: int, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        found = np.ones((len(X), _AT_ONCE), dtype=np.float32)
        for _ in range(int(self.candidates[i])):
            signs = rng.choice(np.array([-1, 1], X.dtype), (X.shape[1] + 1, _AT_ONCE))
            found *= X @ signs[:-1] + signs[-1]
        return found


def products_of(new: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Scalar products (n_new, n_fitted) of features."""
    return new @ fitted.T


def squares_of(X: np.ndarray) -> np.ndarray:
    """Scalar products of images with themselves, (n_images,)."""
    return np.einsum("ij,ij->i", X, X)
