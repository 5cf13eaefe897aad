"""RidgeDecoder: ridge regression from voxels to embeddings."""

from typing import Any

import numpy as np

from brainenc.decoders.base import BaseDecoder
from brainenc.decoders.held_images import HeldImages
from brainenc.decoders.responses import VoxelScaling, averages_of, single_trials
from brainenc.decoders.rows import Rows, beside, fit_rows
from brainenc.model_selection import image_folds
from brainenc.numeric import as_doubles
from brainenc.repeats import average_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.search import choose_search
from brainenc.solvers.streamed import ScaledFeatures


class RidgeDecoder(BaseDecoder):
    """Ridge regression from voxels to targets, with penalties chosen by held-out images.

    Voxels are z-scored over the training images.

    Parameters
    ----------
    targets : "auto", None or transformer
        "auto" takes float arrays as targets and computes OpenCLIP ViT-B/32 features of images; None
        takes arrays only; a transformer such as `GaborPyramid()` is applied to images.
    alphas : "auto" or array-like
        Penalties tried. "auto" is 15 values from 1e-4 to 1e3 times the larger of the numbers of
        rows and voxels.
    alpha_per_target : "auto" or bool
        Choose alpha per dimension of the targets, or one for all. "auto" is one for all with fewer
        than 100 images.
    train_on : "trials" or "averages"
        Learn from each trial, or from the average of an image's repeats, which is faster. On the
        simulated subject trials are better (:doc:`/decoding`): the covariance of voxels that ridge
        divides by then has the noise of trials in it.
    n_test_repeats : int, optional
        Repeats that are averaged in the responses to be decoded: held-out averages of so many
        trials choose the penalty. By default all repeats that the training images have. An image
        with fewer counts with those it has.
    cv : int, splitter or iterable of (train, test)
        Folds over images for the choice of alpha; trials of an image stay together.
    form : "auto", "primal" or "kernel"
    search : "auto", "guided" or "exact"
        As for `brainenc.RidgeEncoder`.
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    random_state : int
        Seed of the shuffled folds.

    Attributes
    ----------
    regression_ : RidgeRegression
        The fitted map of z-scored voxels.
    alphas_ : array, shape (n_dimensions,)
        Chosen penalties.

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> targets = rng.standard_normal((200, 6))
    >>> signal = targets @ rng.standard_normal((6, 30))
    >>> betas = signal[:, None] + 3 * rng.standard_normal((200, 3, 30))  # 3 repeats, 30 voxels
    >>> decoder = brainenc.RidgeDecoder().fit(betas[:150], targets[:150])
    >>> decoder.score(betas[150:], targets[150:]) > 0.8
    True
    >>> similarity = decoder.similarity(betas[150:], targets[150:])
    >>> found = brainenc.metrics.retrieval(
    ...     similarity, query_ids=range(50), candidate_ids=range(50), pool_size=50, n_pools=1
    ... )
    >>> found.image_retrieval > 0.5, found.image.chance
    (True, 0.02)
    """

    saved_parts = (*BaseDecoder.saved_parts, RidgeRegression, ScaledFeatures)

    def __init__(
        self,
        targets: Any = "auto",
        *,
        alphas: Any = "auto",
        alpha_per_target: Any = "auto",
        train_on: str = "trials",
        n_test_repeats: int | None = None,
        cv: Any = 5,
        form: str = "auto",
        search: str = "auto",
        device: str = "auto",
        random_state: int | None = 0,
    ):
        self.targets = targets
        self.alphas = alphas
        self.alpha_per_target = alpha_per_target
        self.train_on = train_on
        self.n_test_repeats = n_test_repeats
        self.cv = cv
        self.form = form
        self.search = search
        self.device = device
        self.random_state = random_state

    @property
    def alphas_(self) -> np.ndarray:
        """Chosen penalties, of `regression_`."""
        return self.regression_.alphas

    def _check_parameters(self) -> None:
        if self.train_on not in ("averages", "trials"):
            raise ValueError(f"train_on={self.train_on!r} must be 'averages' or 'trials'")
        n = self.n_test_repeats
        if n is not None and (not isinstance(n, int | np.integer) or n < 1):
            raise ValueError(f"n_test_repeats={n!r} must be None or a whole number from 1")

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation: Any = None
    ) -> "RidgeDecoder":
        """Fit to betas and the targets of their images.

        Parameters
        ----------
        X, y : as for `BaseDecoder.fit`
        sample_weight : array, shape (n_images,), optional
            Weight of the squared errors of an image, in learning and in the choice of the penalty;
            0 leaves it out.
        validation : pair (betas, targets), optional
            Other images, on whose averages the penalty is chosen, in place of `cv`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError : as `BaseDecoder.fit`; weights that are negative or all 0.
        """
        self._fit_all(X, y, sample_weight=sample_weight, validation=validation)
        return self

    def _fit_checked(
        self, betas: np.ndarray, y: Any, sample_weight: Any = None, validation: Any = None
    ) -> np.ndarray:
        weights = None if sample_weight is None else _check_weight(sample_weight, len(betas))
        targets = self._targets_of(y, len(betas), reset=True)
        self.scaling_ = VoxelScaling.of(betas, weights)
        held = HeldImages.of(self, validation)
        return self._fit(self.scaling_.apply(betas), targets, weights, held)

    def _fit(
        self,
        betas: np.ndarray,
        targets: np.ndarray,
        sample_weight: np.ndarray | None = None,
        held: HeldImages | None = None,
    ) -> np.ndarray:
        if held is not None:
            return self._fit_validated(betas, targets, sample_weight, held)
        folds = image_folds(self.cv, len(betas), random_state=self.random_state)
        options: dict[str, Any] = {
            "form": self.form,
            "search": choose_search(self.search, len(betas), folds),
            "device": self.device,
            "random_state": self.random_state,
        }
        most = int(np.isfinite(betas).any(axis=2).sum(axis=1).max())
        n_test = most if self.n_test_repeats is None else min(self.n_test_repeats, most)
        averages = average_repeats(betas)
        if sample_weight is None and self.train_on == "averages" and n_test == most:
            self.regression_, held_out = RidgeRegression.fit(
                averages,
                targets,
                alphas=self.alphas,
                alpha_per_voxel=self.alpha_per_target,
                cv=folds,
                standardize=False,
                **options,
            )
            return held_out
        all_images = Rows(averages, np.arange(len(averages)))
        self.regression_, held_out = fit_rows(
            all_images if self.train_on == "averages" else Rows(*single_trials(betas)),
            all_images if n_test == most else Rows(*averages_of(betas, n_test)),
            targets,
            folds,
            weights=sample_weight,
            alphas=self.alphas,
            alpha_per_target=self.alpha_per_target,
            **options,
        )
        return held_out

    def _fit_validated(
        self,
        betas: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray | None,
        held: HeldImages,
    ) -> np.ndarray:
        """Fit with the penalty that is best for other images; no image is held out."""
        n = len(betas)
        averages = Rows(average_repeats(betas), np.arange(n))
        tested, both, folds = beside(n, held.averages, held.targets, targets)
        if weights is not None:
            weights = np.concatenate([weights, np.ones(len(held.targets))])
        self.regression_, _ = fit_rows(
            averages if self.train_on == "averages" else Rows(*single_trials(betas)),
            tested,
            both,
            folds,
            weights=weights,
            alphas=self.alphas,
            alpha_per_target=self.alpha_per_target,
            form=self.form,
            search=choose_search(self.search, n, folds),
            device=self.device,
            random_state=self.random_state,
        )
        return np.full(targets.shape, np.nan, np.float32)

    def _predict(self, responses: np.ndarray) -> np.ndarray:
        return self.regression_.predict(responses)


def _check_weight(sample_weight: Any, n_images: int) -> np.ndarray:
    weights = as_doubles(sample_weight, "sample_weight")
    if weights.shape != (n_images,):
        raise ValueError(
            f"sample_weight {weights.shape} must have one value for each of {n_images} images"
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight must be finite and not negative")
    if not weights.any():
        raise ValueError("sample_weight is zero for all images: there is nothing to fit")
    return weights
