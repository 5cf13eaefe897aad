"""The frame of a fit, of encoders and decoders: an error leaves the estimator as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def fit_anew(estimator: Any) -> Iterator[None]:
    """Check the parameters and forget the former fit; after an error, all is as it was before.

    Parameters
    ----------
    estimator : encoder or decoder
        With ``_check_parameters()``, which raises for parameters that are invalid for any data.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> estimator = SimpleNamespace(coef_=1, _check_parameters=lambda: None)
    >>> try:
    ...     with fit_anew(estimator):
    ...         hasattr(estimator, "coef_"), 1 / 0
    ... except ZeroDivisionError:
    ...     print(estimator.coef_)
    1
    """
    former = dict(vars(estimator))
    try:
        estimator._check_parameters()
        for name in former:
            if name.endswith("_"):  # the new fit may not set all of these
                delattr(estimator, name)
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(former)
        raise


def check_two_images(estimator: Any, n_images: int) -> None:
    """Raise ValueError for one image, which nothing can be fitted to."""
    if n_images < 2:
        raise ValueError(
            f"there is {n_images} image (n_samples={n_images}), and {type(estimator).__name__} "
            "takes at least 2 to fit"
        )
