"""RidgeDecoder: ridge regression from voxels to embeddings."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from brainenc.arrays import is_large, is_mapped
from brainenc.decoders.base import BaseDecoder
from brainenc.decoders.held_images import HeldImages
from brainenc.decoders.responses import (
    VoxelScaling,
    averages_of,
    check_responses,
    single_trials,
)
from brainenc.decoders.rows import Rows, beside, fit_rows
from brainenc.model_selection import image_folds
from brainenc.numeric import as_doubles
from brainenc.process_state import own_settings
from brainenc.repeats import average_repeats, count_repeats
from brainenc.solvers.regression import RidgeRegression
from brainenc.solvers.search import choose_search
from brainenc.solvers.streamed import ScaledFeatures
from brainenc.solvers.streamed_targets import StreamedRegression


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

    Notes
    -----
    A memory map of targets of more than 1 GiB (as float32) is read in blocks of columns, in fitting
    and in predicting, with ``train_on="averages"`` and without `sample_weight` and `validation`:
    memory does not grow with the number of dimensions, and the file must stay as it was. Such a
    decoder has no `fit_held_out`. With other options the targets are loaded.

    Attributes
    ----------
    regression_ : RidgeRegression or StreamedRegression
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

    saved_parts = (*BaseDecoder.saved_parts, RidgeRegression, ScaledFeatures, StreamedRegression)

    regression_: RidgeRegression | StreamedRegression

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
        if validation is None and sample_weight is None and self._streams(betas, y):
            return self._fit_streamed(betas, y)
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

    def _streams(self, betas: np.ndarray, y: Any) -> bool:
        """Whether targets stay in their file."""
        if not (is_mapped(y) and y.ndim in (2, 3) and y.dtype.kind == "f" and is_large(y)):
            return False
        most = int(count_repeats(betas).max())
        all_repeats = self.n_test_repeats is None or self.n_test_repeats >= most
        return self.train_on == "averages" and all_repeats

    def _fit_streamed(self, betas: np.ndarray, y: np.ndarray) -> np.ndarray:
        if len(y) != len(betas):
            raise ValueError(
                f"targets {y.shape} must have one row for each of the {len(betas)} images"
            )
        self.scaling_ = VoxelScaling.of(betas)
        regression = StreamedRegression.fit(
            self.scaling_.apply(average_repeats(betas)),
            y,
            image_folds(self.cv, len(betas), random_state=self.random_state),
            alphas=self.alphas,
            alpha_per_target=self.alpha_per_target,
            search=self.search,
            device=self.device,
        )
        self.target_shape_ = list(y.shape[1:])
        self.regression_ = regression
        self.target_mean_ = regression.targets.mean.reshape(self.target_shape_)
        return np.empty(0)

    def fit_held_out(self, X: Any, y: Any) -> np.ndarray:
        """Fit, and return held-out predictions of the training images' targets.

        Parameters
        ----------
        X, y : as for `fit`

        Returns
        -------
        array, shape of the targets; NaN for images that no fit held out.

        Raises
        ------
        ValueError : targets that are read in blocks (see the notes of the class).
        """
        found = self._fit_all(X, y)
        if isinstance(self.regression_, StreamedRegression):
            raise ValueError(
                f"targets {np.shape(y)} are too large for held-out predictions of all images: the "
                "decoder is fitted; for predictions of some images, fit it to the others"
            )
        return found.reshape(len(found), *self.target_shape_)

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

    def similarity(self, X: Any, candidates: Any, *, center: bool = True) -> np.ndarray:
        """Cosine of predicted targets with those of candidate images.

        Parameters
        ----------
        X, candidates, center : as for `BaseDecoder.similarity`
            If the decoder reads its targets in blocks, so it does a memory map of candidates.

        Returns
        -------
        array, shape (n_responses, n_candidates)
        """
        check_is_fitted(self)
        if not isinstance(self.regression_, StreamedRegression):
            return super().similarity(X, candidates, center=center)
        betas = check_responses(self, X, reset=False)
        in_file = is_mapped(candidates) and list(candidates.shape[1:]) == self.target_shape_
        others = candidates if in_file else self._targets_of(candidates)
        with own_settings():
            responses = self.scaling_.apply(average_repeats(betas))
            known = np.isfinite(responses).all(axis=1)
            found = np.full((len(responses), len(others)), np.nan)
            if known.any():
                found[known] = self.regression_.cosines(responses[known], others, center=center)
        return found

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
