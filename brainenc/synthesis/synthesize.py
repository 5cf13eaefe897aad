"""synthesize: images that an objective prefers, judged by something else."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainenc.data.images import as_images
from brainenc.progress import progress
from brainenc.storage import atomic_path
from brainenc.synthesis.generators import Generator
from brainenc.synthesis.objective import Objective
from brainenc.synthesis.scene_search import SearchGenerator
from brainenc.synthesis.tensors import check_range
from brainenc.validation import check_whole

#: From pictures (n, H, W, 3), uint8, to numbers (n,).
Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class MadeImages:
    """Result of `synthesize`.

    Attributes
    ----------
    images : array, shape (n, H, W, 3), uint8
        In the order in which they were started: nothing was selected.
    scores : DataFrame, one row per image
        ``start`` and ``objective``: the value that was climbed, of the first and of the last image,
        which is large by construction. ``judge``: that of the judge. ``contrast``: r.m.s. deviation
        of the pixels from their mean, 0 … 1.
    natural : DataFrame or None
        The same of the natural images, for comparison.
    history : DataFrame
        ``step`` and the mean, smallest and largest ``objective``.
    latents : tensor or table
        Of the generator, for the images.
    """

    images: np.ndarray
    scores: pd.DataFrame
    natural: pd.DataFrame | None
    history: pd.DataFrame
    latents: Any

    def summary(self) -> pd.DataFrame:
        """Means over the made images, and mean and best of the natural ones.

        Returns
        -------
        DataFrame
            Rows "made", "started from", "natural, mean" and "natural, best", each natural column on
            its own: the best image by the judge need not be the best by the objective.
        """
        own = self.scores.drop(columns="start")
        start = pd.Series({"objective": self.scores["start"].mean()})
        rows = {"made": own.mean(), "started from": start}
        if self.natural is not None:
            rows |= {"natural, mean": self.natural.mean(), "natural, best": self.natural.max()}
        return pd.DataFrame(rows).T[list(own)].round(3)

    def to_html(self, path: str | os.PathLike, natural: Any = None) -> Path:
        """Write a page: the images as pictures with their values, beside the best natural ones.

        Parameters
        ----------
        path : path
        natural : images, optional
            The natural images of `synthesize`, of which the best are shown as pictures. Without
            them only their values are.

        Returns
        -------
        pathlib.Path : `path`

        Raises
        ------
        ValueError : another number of natural images than was scored.
        """
        from brainenc.report.made import render_made_images

        pictures = None if natural is None else _natural_pictures(natural)
        scored = 0 if self.natural is None else len(self.natural)
        if pictures is not None and len(pictures) != scored:
            raise ValueError(
                f"natural has {len(pictures)} images, but {scored} were scored: give the same to "
                "synthesize(..., natural=...) and to to_html"
            )
        with atomic_path(path) as temporary:
            page = render_made_images(self, pictures)
            temporary.write_bytes(page.encode("utf-8", errors="replace"))
        return Path(path)

    def __repr__(self) -> str:
        return f"MadeImages, {len(self.images)} images:\n{self.summary().to_string()}"


def synthesize(
    objective: Any,
    generator: Any,
    n: int = 16,
    *,
    n_steps: int = 100,
    judge: Any = None,
    natural: Any = None,
    random_state: int = 0,
    verbose: bool = False,
) -> MadeImages:
    """Make images for which an objective is large.

    Parameters
    ----------
    objective : Objective, or any Module from images (n, 3, H, W) to (n,)
        With a generator that searches without gradients also a function of pictures (n, H, W, 3) in
        uint8, such as ``lambda images: encoder.predict(images)[:, voxels].mean(axis=1)``.
    generator : `Generator` or `SearchGenerator`
        Such as `PCAImages` or `SceneSearch`.
    n : int
        Images, each from a start of its own.
    n_steps : int
        Steps of ascent, or rounds of the search.
    judge : Objective, or function of pictures (n, H, W, 3) in uint8, optional
        Judges the images that were made: an objective of an encoder that was fitted to other images
        and other features. It has no part in making or choosing them.
    natural : images, optional
        Pictures to compare with; they get the same scores.
    random_state : int
        Seed of the starts and of the search.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    MadeImages

    Raises
    ------
    TypeError : a generator without the methods of either protocol, or an objective without gradient
        for one that needs it.
    ValueError : n or n_steps below 1, images of a wrong shape, an objective that is not finite.

    Notes
    -----
    The value that was climbed says little: it is large for any objective, that of noise included,
    since gradients find what is wrong with an encoder as well as what is right. Compare the judge's
    value of the made images with that of natural ones.

    References
    ----------
    Bashivan, Kar & DiCarlo (2019), Science 364; Luo et al. (2023), NeurIPS (BrainDiVE).

    Examples
    --------
    >>> import brainenc
    >>> from brainenc.synthesis import PCAImages, objective, synthesize
    >>> data = brainenc.datasets.simulate_subject(60, 10, random_state=0)
    >>> features = brainenc.PixelFeatures(8, verbose=False)
    >>> encoder = brainenc.RidgeEncoder(features).fit(data.images, data.betas)
    >>> made = synthesize(objective(encoder), PCAImages(data.images, 20), n=2, n_steps=10)
    >>> made.images.shape, bool((made.scores["objective"] > made.scores["start"]).all())
    ((2, 64, 64, 3), True)
    """
    for name, value in (("n", n), ("n_steps", n_steps)):
        check_whole(name, value)
    by_search = isinstance(generator, SearchGenerator)
    if not by_search and not isinstance(generator, Generator):
        raise TypeError(
            f"generator is a {type(generator).__name__} and has neither start, decode and step nor "
            "start, decode, propose and choose: see brainenc.synthesis.Generator"
        )
    if not by_search and not isinstance(objective, torch.nn.Module):
        raise TypeError(
            f"objective is a {type(objective).__name__}: {type(generator).__name__} climbs "
            "gradients, which a Module has, such as brainenc.synthesis.objective(encoder, voxels)"
        )
    score, judged = (
        _score(objective, "objective"),
        None if judge is None else _score(judge, "judge"),
    )
    make = _search if by_search else _climb
    first, latents, history = make(objective, score, generator, n, n_steps, random_state, verbose)
    images = latents_as_pictures(generator, latents)
    scores = _scores(images, score, judged)
    scores.insert(0, "start", first)
    others = None
    if natural is not None:
        others = _scores(_natural_pictures(natural), score, judged)
    return MadeImages(images, scores, others, history, latents)


def _natural_pictures(natural: Any) -> np.ndarray:
    """Images given by the user as pictures (n, H, W, 3)."""
    pictures = np.asarray(as_images(natural))
    return np.repeat(pictures[..., None], 3, axis=-1) if pictures.ndim == 3 else pictures


def latents_as_pictures(generator: Any, z: Any) -> np.ndarray:
    """Pictures (n, H, W, 3), uint8, of latents."""
    if not isinstance(z, torch.Tensor):
        pictures = np.asarray(generator.decode(z))
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise ValueError(
                f"{type(generator).__name__}.decode gave images {pictures.shape} in "
                f"{pictures.dtype}, and must give (n, H, W, 3) in uint8"
            )
        return pictures
    with torch.no_grad():
        pixels = generator.decode(z).detach().cpu()
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(
            f"{type(generator).__name__}.decode gave images {pixels.shape}, and must give "
            "(n, 3, H, W), RGB from 0 to 1"
        )
    check_range(pixels, f"{type(generator).__name__}.decode gave images")
    return np.round(255 * np.clip(pixels.numpy(), 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1)


def _climb(
    module: Any, score: Score, generator: Any, n: int, n_steps: int, seed: int, verbose: bool
) -> tuple[np.ndarray, Any, pd.DataFrame]:
    z = generator.start(n, seed)
    first = score(latents_as_pictures(generator, z))
    rows = []
    for i in progress(range(n_steps), desc="images", unit="step", verbose=verbose):
        z = z.detach().requires_grad_(True)
        pixels = generator.decode(z)
        check_range(pixels, f"{type(generator).__name__}.decode gave images")
        values = module(pixels)
        if values.shape != (n,) or not torch.isfinite(values).all():
            raise ValueError(
                f"the objective gave {tuple(values.shape)} for {n} images, or numbers that are not "
                "finite: it must give one finite number per image"
            )
        (gradient,) = torch.autograd.grad(values.sum(), z)
        rows.append(_row(i, values.detach().cpu().numpy()))
        z = generator.step(z.detach(), torch.nan_to_num(gradient), i)
    return first, z.detach(), pd.DataFrame(rows)


def _search(
    _: Any, score: Score, generator: Any, n: int, n_steps: int, seed: int, verbose: bool
) -> tuple[np.ndarray, Any, pd.DataFrame]:
    z = generator.start(n, seed)
    first = values = score(latents_as_pictures(generator, z))
    rows = []
    for i in progress(range(n_steps), desc="images", unit="round", verbose=verbose):
        new = generator.propose(z, values, i)
        found = score(latents_as_pictures(generator, new))
        better = found > values
        z, values = generator.choose(z, new, better), np.where(better, found, values)
        rows.append(_row(i, values))
    return first, z, pd.DataFrame(rows)


def _row(i: int, values: np.ndarray) -> dict[str, float]:
    return {"step": i, "mean": values.mean(), "smallest": values.min(), "largest": values.max()}


def _score(given: Any, name: str) -> Score:
    """A Module or a function as a function of pictures, whose results are checked."""
    if isinstance(given, Objective):
        of_pictures: Score = given.score
    elif isinstance(given, torch.nn.Module):

        def of_pictures(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
                return np.asarray(given(pixels.float() / 255).cpu())

    elif callable(given):
        of_pictures = given
    else:
        raise TypeError(f"{name} is a {type(given).__name__}: give an objective or a function")

    def checked(images: np.ndarray) -> np.ndarray:
        values = np.asarray(of_pictures(images), dtype=np.float64)
        if values.shape != (len(images),) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} gave {values.shape} for {len(images)} images, or numbers that are not "
                "finite: it must give one finite number per image"
            )
        return values

    return checked


def _scores(images: np.ndarray, score: Score, judged: Score | None) -> pd.DataFrame:
    table = {"objective": score(images)}
    if judged is not None:
        table["judge"] = judged(images)
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255
    return pd.DataFrame({**table, "contrast": pixels.std(axis=1)})
