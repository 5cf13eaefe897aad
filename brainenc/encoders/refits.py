"""Refits of an encoder to halves of the images, which draws of the encoder come from."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.conversion import check_one_order
from brainenc.data.images import looks_like_images
from brainenc.encoders.function_draws import some_images
from brainenc.encoders.inputs import Inputs
from brainenc.noise.trials import TrialDistribution
from brainenc.validation import check_betas


def add_refits(
    encoder: Any, X: Any, y: Any, *, n_refits: int = 20, random_state: int | None = 0
) -> Any:
    """Give a fitted encoder copies that are fitted to random halves of its images.

    ``encoder.sample(noise="weights")`` then draws from these: a draw is the prediction plus a
    random combination of the refits' deviations from their mean, whose distribution is normal with
    the refits' covariance, and t with n_refits − 1 degrees of freedom because that covariance is
    estimated. Where repeats have measured the error of held-out predictions, the part of its
    variance that refits do not explain (features that are not enough, the bias of a penalty) is
    added for each image, as a function of its features.

    Halves, and not bootstrap samples, because an image that is drawn twice would be on both sides
    of the folds in which encoders choose penalties and stop training. The variance of fits to
    halves around their mean estimates that of the fit to all images (Politis & Romano 1994).

    This takes `n_refits` fits, and the memory and disk of as many models.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
        Its predictions and other draws stay the same. What it has learned of its features (a PCA)
        stays as it is in all refits.
    X, y : the images (or features) and betas that it was fitted to
    n_refits : int
        At least 2. With fewer than 10, draws have long tails.
    random_state : int or None
        Seed of the halves.

    Returns
    -------
    BaseEncoder
        The same object, with the attributes ``refits_`` and ``refit_variance_``, shape (n_voxels,):
        the variance of the refits at images that they were not fitted to. The next `fit` removes
        them.

    Raises
    ------
    ValueError : n_refits < 2, fewer than 4 images, or betas of other voxels than the encoder's.
    TypeError : images, for an encoder made of others or of several feature spaces: give features.

    References
    ----------
    Politis & Romano (1994), Annals of Statistics 22 (subsampling).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Lasso
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((80, 5))
    >>> betas = features[:, None, :3] + rng.standard_normal((80, 2, 3))
    >>> encoder = brainenc.SklearnEncoder(Lasso(0.1)).fit(features, betas)
    >>> encoder = brainenc.encoders.add_refits(encoder, features, betas, n_refits=5)
    >>> encoder.sample(features[:4], n=10, noise="weights").shape
    (10, 4, 3)
    """
    check_is_fitted(encoder)
    if n_refits < 2:
        raise ValueError(f"n_refits={n_refits!r} must be at least 2: their spread is drawn from")
    simple = type(encoder)._features_of is Inputs._features_of
    if not simple and looks_like_images(X):
        raise TypeError(
            f"{type(encoder).__name__} makes its features in a way of its own, so refits need "
            "features in place of images: compute them, fit the encoder to them, and pass them here"
        )
    features = encoder._features_of(X)
    check_one_order(X=X, y=y)
    betas = check_betas(y, n_images=len(features), n_voxels=encoder.n_voxels_)
    if len(features) < 4:
        raise ValueError(f"there are {len(features)} images; halves need at least 4")
    rng = np.random.default_rng(random_state)
    refits = []
    spread = _Spread(encoder, features)
    for _ in range(n_refits):
        half = np.sort(rng.permutation(len(features))[: (len(features) + 1) // 2])
        copy = clone(encoder)
        if simple:
            copy.set_params(features=None)
        if "checkpoint_dir" in copy.get_params(deep=False):
            copy.set_params(checkpoint_dir=None)
        copy.fit(features[half], betas[half])
        # They are not drawn from by themselves, and the trials for it take memory.
        copy.trials_ = TrialDistribution.unknown(encoder.n_voxels_)
        del copy.trials_later_
        refits.append(copy)
        spread.add(copy, half)
    encoder.refits_, encoder.refit_variance_ = refits, spread.variance()
    return encoder


class _Spread:
    """Variance of refits, each at the images that it was not fitted to.

    Parameters
    ----------
    encoder : BaseEncoder, fitted
        Sums are of deviations from its prediction.
    features : array
        Of its training images.
    """

    def __init__(self, encoder: Any, features: np.ndarray):
        self._rows = some_images(len(features))
        self._features = features[self._rows]
        self._expected = encoder._predict(self._features).astype(np.float64)
        self._n = np.zeros((len(self._rows), 1))
        self._sum, self._squares = np.zeros((2, *self._expected.shape))

    def add(self, refit: Any, half: np.ndarray) -> None:
        """Add a refit to the images `half`."""
        new = ~np.isin(self._rows, half)
        deviations = refit._predict(self._features[new]) - self._expected[new]
        self._n[new] += 1
        self._sum[new] += deviations
        self._squares[new] += np.square(deviations)

    def variance(self) -> np.ndarray:
        """Mean over images, (n_voxels,), float32; NaN if no image is new to two refits."""
        known = self._n[:, 0] > 1
        if not known.any():
            return np.full(self._sum.shape[1], np.nan, dtype=np.float32)
        n, total, squares = self._n[known], self._sum[known], self._squares[known]
        variance = (squares - np.square(total) / n) / (n - 1)
        return variance.mean(axis=0).astype(np.float32)
