"""StackedEncoder: several encoders, blended with weights per voxel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from brainenc.encoders.base import BaseEncoder
from brainenc.encoders.blended import cross_blend
from brainenc.encoders.composed import (
    NOT_PREFIT,
    cross_predictions,
    extraction,
    fit_member,
    fitted_on_arrays,
    for_arrays,
    inputs_of,
    joined_features,
    named_encoders,
    prepare,
    view,
    with_extractor,
    with_features,
)
from brainenc.encoders.describe import describe
from brainenc.encoders.latent.encoder import LatentEncoder
from brainenc.encoders.mean import MeanEncoder
from brainenc.encoders.ridge import RidgeEncoder
from brainenc.features.learned import Columns, LearnedFeatures, SideBySide, Within, learns
from brainenc.model_selection import image_folds
from brainenc.repeats import average_repeats
from brainenc.solvers.simplex import blend
from brainenc.storage import fingerprint
from brainenc.validation import check_feature_shape, check_features

#: Members are cross-fitted if fewer images have held-out predictions of all members.
MIN_COMMON = 50


class StackedEncoder(BaseEncoder):
    """Blend of several encoders, with separate weights for every voxel.

    A voxel's weights are >= 0, sum to 1, and minimise the squared error on images held out from the
    members. Linear encoders hold out every image during their fit and are fitted once. Networks
    hold out only some images: weights are chosen on the images that all members held out if there
    are at least 50; otherwise the networks are also fitted once per fold.

    Parameters
    ----------
    encoders : list of encoders, list of (name, encoder), or dict of name to encoder, optional
        The members; they are cloned. Names default to the class ("ridge", or "ridge-1" and
        "ridge-2"); parameters of members are ``ridge__alphas`` and so on. None is ridge and
        `LatentEncoder`.
    features : "auto", None or transformer
        "auto": each member uses its own `features` for images (equal ones are computed once) and
        takes float arrays as features. None (arrays are features) or a transformer overrides them
        for all members. Members that learn features from images (a pipeline with PCA) are fitted
        once per fold, features included.
    inputs : dict of name to (first column, followed by the shape of an image's features), optional
        Position of each member's features in a joined feature matrix; `precompute` makes it. By
        default members get all features.
    cv : "auto", "prefit", int, splitter or iterable of (train, test)
        "auto" is described above. Otherwise folds over images for the held-out predictions of all
        members. "prefit": the members are already fitted and are used as they are, with their own
        features; weights are chosen on the images given to `fit`, **which no member may have been
        fitted on**.
    pooling : float, >= 0
        Number of additional images, with the errors of the average voxel, that enter the choice of
        each voxel's weights. It matters with few images, where a voxel's own errors are noisy. 0
        uses the voxel's own images alone.
    draws : "residual" or "mixture"
        Distribution of `sample`. "residual": the prediction plus residuals of held-out single
        trials of the stack. "mixture": each draw is a draw of one member, chosen with the voxel's
        weights as probabilities; see Notes.
    random_state : int
        Seed of the shuffled folds. Members have their own.

    Attributes
    ----------
    weights_ : array, shape (n_members, n_voxels)
        NaN for a voxel without data.
    encoders_ : dict of name to fitted encoder
    given_ : dict of name to unfitted encoder, or None
        Members as given, where each makes features of images of its own.
    prefit_ : bool
        Whether members were fitted before.
    held_out_images_ : array, shape (n_voxels,)
        Number of images that each voxel's weights were chosen on.
    history_ : DataFrame
        Histories of the members, with a column `encoder`.

    Notes
    -----
    Let members have weights w and predictions p, and let y be a single trial. Then Σ w (y − p)² =
    (y − Σ w p)² + Σ w (p − Σ w p)²: the squared error of the stack is smaller than the average one
    of its members by A = Σ w (p − Σ w p)². A mixture of calibrated draws of the members has the
    mean of the prediction, but their average variance *plus* A, 2 A more than single trials have
    around the stack: it is too wide where members disagree. Voxels with different weights also draw
    from different members, which loses shared noise, although one random number per draw chooses
    the member for all voxels. "residual" is therefore the default: its variance and correlations
    are those of held-out trials around the stack. "mixture" keeps properties of the members' draws,
    such as a variance that depends on the image.

    Held-out predictions of the stack, from which `noise_` is estimated, are blended with weights
    chosen on other images. Those of members may be slightly too good, since penalties and epochs
    are chosen on them.

    References
    ----------
    Wolpert (1992), Neural Networks 5; Breiman (1996), Machine Learning 24 (convex stacking);
    Lin et al. (2024), NeuroImage 298 (stacking of encoding models).

    Examples
    --------
    >>> import numpy as np
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8))
    >>> betas = features[:, None, :5] + rng.standard_normal((120, 2, 5))  # 2 repeats, 5 voxels
    >>> members = {"ridge": brainenc.RidgeEncoder(), "mean": brainenc.MeanEncoder()}
    >>> encoder = brainenc.StackedEncoder(members).fit(features, betas)
    >>> encoder.weights_.shape
    (2, 5)
    >>> encoder.weights_.sum(axis=0).round(3)
    array([1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        encoders: Any = None,
        *,
        features: Any = "auto",
        inputs: dict[str, Sequence[int]] | None = None,
        cv: Any = "auto",
        pooling: float = 50,
        draws: str = "residual",
        random_state: int | None = 0,
    ):
        self.encoders = encoders
        self.features = features
        self.inputs = inputs
        self.cv = cv
        self.pooling = pooling
        self.draws = draws
        self.random_state = random_state

    @property
    def sample_kind(self) -> str:  # type: ignore[override]
        """As `draws`."""
        return self.draws

    # ---------------------------------------------------------------- parameters of members

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters, with those of the members as ``name__parameter`` if `deep`."""
        found = super().get_params(deep)
        if deep:
            for name, member in self._given().items():
                found[name] = member
                found |= {f"{name}__{key}": value for key, value in member.get_params().items()}
        return found

    def set_params(self, **params: Any) -> "StackedEncoder":
        """Set parameters; ``name=encoder`` replaces a member, ``name__parameter`` changes one."""
        if "encoders" in params:
            self.encoders = params.pop("encoders")
        members = self._given()
        replaced = {name: params.pop(name) for name in members if name in params}
        if replaced or any("__" in name for name in params):  # also of members made encoders here
            members |= replaced
            is_dict = isinstance(self.encoders, Mapping)
            self.encoders = members if is_dict else list(members.items())
        return super().set_params(**params)

    def _given(self) -> dict[str, BaseEncoder]:
        try:
            return named_encoders(self.encoders)
        except (TypeError, ValueError):  # None, or invalid: `fit` raises
            return {}

    def with_voxels(self, voxels: pd.DataFrame) -> BaseEncoder:
        """Copy of the stack whose members have the voxel table."""
        members = self._members()
        told = {name: member.with_voxels(voxels) for name, member in members.items()}
        if all(told[name] is members[name] for name in members):
            return self
        return clone(self).set_params(encoders=list(told.items()))

    def _members(self) -> dict[str, BaseEncoder]:
        if self.encoders is None:
            return {"ridge": RidgeEncoder(), "latent": LatentEncoder()}
        members = named_encoders(self.encoders)
        taken = set(super().get_params(deep=False))
        if wrong := [name for name in members if name in taken or "__" in name or not name]:
            raise ValueError(
                f"encoders cannot be named {wrong}: parameters of the stack have these names, or "
                "they contain '__', which separates names of members from those of their parameters"
            )
        return members

    def adapt(self, X: Any, y: Any) -> "StackedEncoder":
        """Fit to a new subject, each member by its own `adapt`; this encoder is unchanged.

        Members share what their `adapt` shares, in the fits to folds too. Only the weights of the
        members are chosen anew; of ``cv="prefit"`` with 5 folds.

        Parameters
        ----------
        X, y : as for `fit`, of the new subject; the number of voxels may differ

        Returns
        -------
        StackedEncoder
        """
        return self.adapt_held_out(X, y)[0]

    def adapt_held_out(self, X: Any, y: Any) -> tuple["StackedEncoder", np.ndarray]:
        """As `BaseEncoder.adapt_held_out`."""
        new, held_out = super().adapt_held_out(X, y)
        if self.prefit_:  # a clone of it is to be fitted, not taken as it is
            new.set_params(cv=5, encoders=[(n, clone(m)) for n, m in new.encoders_.items()])
        return new, held_out

    def _adapting(self) -> tuple[BaseEncoder, dict[str, Any]]:
        new = clone(self)
        if self.prefit_:
            new.set_params(cv="prefit", encoders=list(self.encoders_.items()))
        return new, {"source": self}

    # ---------------------------------------------------------------- features

    def precompute(
        self, images: Any, transform: Callable[[Any], np.ndarray]
    ) -> tuple[BaseEncoder, Any]:
        """As `BaseEncoder.precompute`; features of several kinds are joined to one matrix."""
        if not self._each_its_own or self._prefit:
            return super().precompute(images, transform)
        members, X, inputs = _join(self._with_own(), images, transform)
        given = {"encoders": list(members.items()), "features": None, "inputs": inputs}
        return clone(self).set_params(**given), X

    def learned_features(self) -> Any:
        """As `BaseEncoder.learned_features`: those of all members, side by side."""
        members = self._given()
        if not any(member.learned_features() for member in members.values()):
            return None
        parts = {}
        for name, member in members.items():
            if isinstance(member, MeanEncoder):
                continue
            start, *shape = (self.inputs or {}).get(name, [None])
            own = member.learned_features() or Columns()
            part = Within(Columns(start, shape), own)
            parts[fingerprint(describe(part))] = part
        return LearnedFeatures(SideBySide(list(parts.values())))

    @property
    def _each_its_own(self) -> bool:
        """Whether members make their features; those they learn, from each fold's images."""
        if self.inputs is not None or self.features is None:
            return False
        return self.features == "auto" if isinstance(self.features, str) else learns(self.features)

    def _with_own(self) -> dict[str, BaseEncoder]:
        """The members, with `features` in place of their own if they are to learn these."""
        members = self._members()
        if isinstance(self.features, str):
            return members
        return {name: with_features(member, self.features) for name, member in members.items()}

    @property
    def _prefit(self) -> bool:
        return isinstance(self.cv, str) and self.cv == "prefit"

    def _features_of(self, X: Any, *, reset: bool = False) -> np.ndarray:
        if reset:
            self.encoders_ = self._prepared_members()
            self.inputs_: Any = self.inputs
            # Parameters may be changed after the fit, and members are the user's own objects.
            self.prefit_, self.given_ = self._prefit, None
            if self._each_its_own and not self._prefit:
                self.given_ = {name: clone(m) for name, m in self._with_own().items()}
                self.features_: Any = {}
        if self.prefit_:
            arrays = {name: member._features_of(X) for name, member in self.encoders_.items()}
            features, inputs = joined_features(arrays)
        elif self.given_ is not None:
            members, features, inputs = _join(self.given_, X, extraction(X, self.features_))
            if reset:
                self.encoders_ = members
        else:
            return super()._features_of(X, reset=reset)
        if features is X:
            if reset:
                self.given_ = None  # they take arrays, whatever features of images they would want
                return super()._features_of(X, reset=True)
            return check_features(self, X, reset=False)
        if reset:
            self.inputs_ = inputs
        check_feature_shape(self, features, reset=reset)
        return features

    def _prepared_members(self) -> dict[str, BaseEncoder]:
        """Unfitted members that take features from the stack, or fitted members unchanged."""
        members = self._members()
        if self._prefit:
            for member in members.values():
                check_is_fitted(member, msg=NOT_PREFIT)
            return members
        return {name: for_arrays(member) for name, member in members.items()}

    def _views(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Each member's part of the features."""
        if self.inputs_ is None:
            return dict.fromkeys(self.encoders_, features)
        if missing := [name for name in self.encoders_ if name not in self.inputs_]:
            raise ValueError(f"inputs names {list(self.inputs_)}, but not the members {missing}")
        return {name: view(features, *self.inputs_[name]) for name in self.encoders_}

    # ---------------------------------------------------------------- fitting

    def _fit(self, features: np.ndarray, betas: np.ndarray, *, source: Any = None) -> np.ndarray:
        averages = average_repeats(betas)
        held_out = self._fit_members(self._views(features), betas, source)
        folds = image_folds(min(5, len(betas)), len(betas), random_state=self.random_state)
        self.weights_, blended, self.held_out_images_ = cross_blend(
            held_out, averages, folds, self.pooling
        )
        self.history_ = self._member_histories()
        return blended

    def _check_parameters(self) -> None:
        self._members()  # raises for members that are not encoders
        if self.draws not in ("residual", "mixture"):
            raise ValueError(f"draws={self.draws!r} must be 'residual' or 'mixture'")
        if not 0 <= self.pooling < np.inf:
            raise ValueError(f"pooling={self.pooling!r} must be a number of images, 0 or more")
        if isinstance(self.cv, str) and self.cv not in ("auto", "prefit"):
            raise ValueError(f"cv={self.cv!r} must be 'auto', 'prefit', an int or a splitter")

    def _fit_members(
        self, views: dict[str, np.ndarray], betas: np.ndarray, source: Any = None
    ) -> list[np.ndarray]:
        """Fit the members, or adapt those of a fitted stack; return their held-out predictions."""
        if self._prefit and source is None:
            return self._predictions(views, n_voxels=betas.shape[2])
        starts: dict[str, BaseEncoder | None] = dict.fromkeys(self.encoders_)
        if source is not None:
            of_source = source.encoders_.items()
            # Members that a stack fits take arrays; those that it was given have extractors.
            starts = {n: fitted_on_arrays(m) if source.prefit_ else m for n, m in of_source}
        found = {n: fit_member(m, views[n], betas, starts[n]) for n, m in self.encoders_.items()}
        held_out = {name: predicted for name, (_, predicted) in found.items()}
        given, self.encoders_ = self.encoders_, {name: m for name, (m, _) in found.items()}
        if self._prefit:
            self.encoders_ = {n: with_extractor(m, given[n]) for n, m in self.encoders_.items()}
        own = isinstance(self.cv, str)
        folds_wanted = _incomplete(held_out, betas) if own else list(held_out)
        # A fit of its own holds out images from the solver alone: learned features have seen them.
        learning = [name for name, m in self.encoders_.items() if m.learned_features() is not None]
        folds_wanted = [name for name in held_out if name in {*folds_wanted, *learning}]
        if folds_wanted:
            cv = 5 if own else self.cv
            folds = image_folds(cv, len(betas), random_state=self.random_state)
            for name in folds_wanted:
                of_member = (self.encoders_[name], views[name], betas, folds, starts[name])
                held_out[name] = cross_predictions(*of_member)
        return list(held_out.values())

    def _member_histories(self) -> pd.DataFrame:
        found = [
            member.history_.assign(encoder=name)
            for name, member in self.encoders_.items()
            if len(getattr(member, "history_", ()))
        ]
        if not found:
            return pd.DataFrame({"encoder": np.array([], dtype=object)})
        history = pd.concat(found, ignore_index=True)
        return history[["encoder", *history.columns.drop("encoder")]]

    # ---------------------------------------------------------------- predicting

    def _predict(self, features: np.ndarray) -> np.ndarray:
        return blend(self.weights_, self._predictions(self._views(features), self.n_voxels_))

    def _seen(self, member: BaseEncoder, view: np.ndarray) -> np.ndarray:
        """Features for a member's own methods: what it has learned from them, if it learns."""
        return view if self.prefit_ else inputs_of(member, view)

    def _predictions(self, views: dict[str, np.ndarray], n_voxels: int) -> list[np.ndarray]:
        found = [
            member._predict(self._seen(member, views[name]))
            for name, member in self.encoders_.items()
        ]
        for name, prediction in zip(self.encoders_, found, strict=True):
            if prediction.shape[1] != n_voxels:
                raise ValueError(
                    f"encoder {name!r} predicts {prediction.shape[1]} voxels, but betas has "
                    f"{n_voxels}: was it fitted to another subject?"
                )
        return found

    def _draw(
        self, features: np.ndarray, n: int, rng: np.random.Generator, part: str
    ) -> np.ndarray:
        if not self._draws_itself:
            return super()._draw(features, n, rng, part)
        views = self._views(features)
        # One number for all voxels of a draw: voxels with equal weights take the same member.
        number = rng.random((n, len(features), 1))
        upper = np.cumsum(self.weights_, axis=0)
        draws = np.full((n, len(features), self.n_voxels_), np.nan, dtype=np.float32)
        picked = np.isnan(upper[-1]) | np.zeros(draws.shape, dtype=bool)
        upper[-1] = 1
        for (name, member), edge in zip(self.encoders_.items(), upper, strict=True):
            now = (number < edge) & ~picked
            of_member = member._draw(self._seen(member, views[name]), n, rng, member._parts[0])
            np.copyto(draws, of_member, where=now, casting="same_kind")
            picked |= now
        return draws


def _join(
    members: Mapping[str, BaseEncoder], X: Any, transform: Callable[[Any], np.ndarray]
) -> tuple[dict[str, BaseEncoder], Any, dict[str, list[int]] | None]:
    """Members that take features, their features in one array, and the columns of each."""
    prepared, arrays = {}, {}
    for name, member in members.items():
        prepared[name], arrays[name] = prepare(member, X, transform)
    if all(array is X for array in arrays.values()):
        return prepared, X, None
    return prepared, *joined_features(arrays)


def _incomplete(held_out: Mapping[str, np.ndarray], betas: np.ndarray) -> list[str]:
    """Members without enough held-out predictions, if too few images have those of all."""
    known = {name: np.isfinite(values).any(axis=1) for name, values in held_out.items()}
    wanted = np.isfinite(betas).any(axis=(1, 2))
    n_common = np.logical_and.reduce(list(known.values())).sum()
    if n_common >= min(MIN_COMMON, wanted.sum()):
        return []
    return [name for name, has in known.items() if not has[wanted].all()]
