"""Truth of a simulated subject: responses without noise, noise, drift of sessions."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from brainenc.data.images import as_images
from brainenc.datasets.simulated.captions import colour_of, make_captions
from brainenc.datasets.simulated.cortex import Law
from brainenc.datasets.simulated.energy import GRID, gabor_energy
from brainenc.datasets.simulated.given_scenes import check_objects
from brainenc.datasets.simulated.joint import JointEmbeddings, embed_images
from brainenc.datasets.simulated.noise import add_noise
from brainenc.datasets.simulated.scenes import CATEGORIES
from brainenc.metrics import gaussian_log_density
from brainenc.validation import check_index


@dataclass(frozen=True)
class SessionDrift:
    """Effect of a session on trials, per voxel: gain · trial + offset.

    Parameters
    ----------
    gain, offset : arrays, shape (n_sessions, n_voxels), float32
    share : array, shape (n_sessions,)
        Share of the trials; sums to 1.
    session : array, shape (n_sessions,)
        Numbers of the sessions in the trial table.
    """

    gain: np.ndarray
    offset: np.ndarray
    share: np.ndarray
    session: np.ndarray

    def apply(self, trials: np.ndarray, rng: np.random.Generator) -> None:
        """Put every trial (..., n_voxels) into a session drawn at random, in place."""
        session = rng.choice(len(self.share), size=trials.shape[:-1], p=self.share)
        for s, (gain, offset) in enumerate(zip(self.gain, self.offset, strict=True)):
            trials[session == s] = gain * trials[session == s] + offset


@dataclass(frozen=True)
class SimulatedTruth:
    """Known truth of a simulated subject.

    A single trial of image i is ``signal[i]`` plus a draw from N(0, Σ), Σ = FᵀF + diag(p), with F
    the `noise_factors` and p the `noise_private_variance`; the session of the trial then applies
    its gain and offset, `drift`. All values except `drift` and draws of `sample` are in the units
    of the betas before drift and z-scoring.

    Parameters
    ----------
    signal : array, shape (n_images, n_voxels), float32
        Expected response, with the voxel's mean.
    ncsnr : array, shape (n_voxels,)
        Signal s.d. over the images simulated / single-trial noise s.d.
    noise_factors : scipy.sparse.csr_array, shape (n_factors, n_voxels)
        Shared fluctuations (low rank), then patches of neighbouring voxels.
    noise_private_variance : array, shape (n_voxels,)
    drift : SessionDrift
        From betas without drift to those of the data.
    tokens : array, shape (n_images, n_tokens, token_width), float32
        Noisy nonlinear features of image content on a grid, row by row from the top left, as from a
        vision transformer. The network is the same for every subject.
    category : array of str, shape (n_images,)
        Category of the image's main object.
    objects : pandas.DataFrame
        All objects, as `brainenc.datasets.simulated.scenes.make_scenes` describes them.
    prfs : pandas.DataFrame, n_voxels rows
        Population receptive fields: ``x``, ``y`` (degrees right and up of fixation; the image
        spans 8.4), ``size`` (s.d.).
    alikeness : float
        Share of the signal variance that follows the law of selectivity of all simulated subjects;
        the rest follows a law of the subject's own (`simulate_subjects`).
    law : Law, optional
        What voxels respond to, by which `respond` answers new images.
    """

    signal: np.ndarray
    ncsnr: np.ndarray
    noise_factors: sparse.csr_array
    noise_private_variance: np.ndarray
    drift: SessionDrift
    tokens: np.ndarray
    category: np.ndarray
    objects: pd.DataFrame
    prfs: pd.DataFrame
    alikeness: float = 1.0
    law: Law | None = None

    @property
    def noise_sd(self) -> np.ndarray:
        """Single-trial noise s.d., shape (n_voxels,)."""
        common = self.noise_factors.astype(np.float64).power(2).sum(axis=0)
        return np.sqrt(common + self.noise_private_variance)

    def noise_covariance(self, voxels: np.ndarray | None = None) -> np.ndarray:
        """Covariance of single-trial noise between voxels.

        Parameters
        ----------
        voxels : mask of shape (n_voxels,) or positions, optional
            All by default, which takes 8 · n_voxels² bytes.

        Returns
        -------
        array, shape (n_selected, n_selected), float64, in squared units of the betas.
        """
        n_voxels = self.signal.shape[1]
        index = np.arange(n_voxels) if voxels is None else check_index(voxels, n_voxels, "voxels")
        factors = self.noise_factors[:, index].astype(np.float64)
        # The private part is on the diagonal.
        same = index[:, None] == index
        return (factors.T @ factors).toarray() + same * self.noise_private_variance[index]

    def sample(
        self, n: int = 1, random_state: int | np.random.Generator | None = None
    ) -> np.ndarray:
        """Single trials from the true distribution, in the units of the data's betas.

        Each trial has a random session, since images do not determine the session: no encoder can
        exceed this distribution in expectation.

        Parameters
        ----------
        n : int
            Trials per image.
        random_state : int or numpy.random.Generator, optional

        Returns
        -------
        array, shape (n, n_images, n_voxels), float32

        Raises
        ------
        ValueError : n < 1.
        """
        if n < 1:
            raise ValueError(f"n={n} draws cannot be made; give n >= 1")
        draws = np.repeat(self.signal[None], n, axis=0)
        flat = draws.reshape(-1, draws.shape[2])
        rng = np.random.default_rng(random_state)
        add_noise(flat, self.noise_factors, self.noise_private_variance, rng)
        self.drift.apply(draws, rng)
        return draws

    def log_density(self, betas: np.ndarray, voxels: np.ndarray | None = None) -> np.ndarray:
        """Log density of single trials under the true distribution, as drawn by `sample`.

        It is a mixture over sessions, since the session of a trial is unknown.

        Parameters
        ----------
        betas : array, shape (n_images, n_repeats, n_voxels)
            Trials of these images, in the units of the data's betas.
        voxels : mask of shape (n_voxels,) or positions, optional
            Voxels of the joint density; all by default, which inverts a matrix of n_voxels².

        Returns
        -------
        array, shape (n_images, n_repeats), float64
            Natural logarithm; NaN where a voxel of the trial is missing.

        Raises
        ------
        ValueError : betas and truth differ in images or voxels.

        Examples
        --------
        >>> from brainenc.datasets import simulate_subject
        >>> data = simulate_subject(20, 10, 2, random_state=0)
        >>> data.truth.log_density(data.betas, voxels=[0, 1]).shape
        (20, 2)
        """
        n_images, n_voxels = self.signal.shape
        if betas.ndim != 3 or (len(betas), betas.shape[2]) != (n_images, n_voxels):
            raise ValueError(
                f"betas {np.shape(betas)} must be (n_images, n_repeats, n_voxels) with the "
                f"{n_images} images and {n_voxels} voxels of the truth; take some with select()"
            )
        index = np.arange(n_voxels) if voxels is None else check_index(voxels, n_voxels, "voxels")
        factors = self.noise_factors[:, index].toarray()
        private_sd = np.sqrt(self.noise_private_variance[index])
        gain = self.drift.gain[:, None, None, index]  # one for each session
        offset = self.drift.offset[:, None, None, index]
        before_drift = (betas[..., index] - offset) / gain
        residuals = before_drift - self.signal[:, None, index]
        in_session = gaussian_log_density(residuals, factors, private_sd)
        in_session -= np.log(gain).sum(axis=-1)
        with np.errstate(invalid="ignore"):  # missing trials stay NaN
            return np.logaddexp.reduce(in_session + np.log(self.drift.share)[:, None, None])

    def respond(self, images: Any, objects: pd.DataFrame | None = None) -> np.ndarray:
        """True noise-free responses to new images.

        Parameters
        ----------
        images : array, shape (n_images, size, size, 3) or (n_images, size, size), uint8
            Any pictures; `size` is a multiple of 16. They span the same 8.4 degrees.
        objects : pandas.DataFrame, optional
            What the images show, as `brainenc.datasets.draw_scenes` takes it. Images without a row
            show no object. Voxels of high-level areas respond to objects, which the simulator does
            not recognise in pixels.

        Returns
        -------
        array, shape (n_images, n_voxels), float32
            In the units of `signal`, which it equals for the images simulated. Without `objects`
            NaN in voxels of high-level areas (FFA, PPA, EBA).

        Raises
        ------
        ValueError : images of another shape, a table that does not describe objects, or a subject
            with an `alikeness` below 1, whose own law is of tokens and not of images.

        Examples
        --------
        >>> import numpy as np
        >>> from brainenc.datasets import simulate_subject
        >>> data = simulate_subject(20, 10, 2, random_state=0)
        >>> found = data.truth.respond(data.images, data.truth.objects)
        >>> bool(np.allclose(found, data.truth.signal, atol=1e-4))
        True
        """
        if self.law is None or self.alikeness < 1:
            raise ValueError(
                f"truth of alikeness={self.alikeness:g} cannot respond to new images: the part by "
                "the subject's own law is one of tokens; simulate a subject with alikeness=1"
            )
        pixels = np.asarray(as_images(images))
        if pixels.ndim == 3:
            pixels = np.repeat(pixels[..., None], 3, axis=-1)
        height, width = pixels.shape[1:3]
        if height != width or height % GRID:
            raise ValueError(
                f"images {pixels.shape} must be square, with a multiple of {GRID} pixels a side"
            )
        if objects is not None:
            objects = check_objects(objects, len(pixels))
        return self.law.respond(gabor_energy(pixels), objects, self.prfs)

    @property
    def selectivity(self) -> pd.DataFrame:
        """What each voxel responds to, one row per voxel.

        Columns: ``concept``, the category that the voxel prefers ("face"), with its colour if it
        has one ("red vehicle"), empty for voxels of early areas and of noise; ``category`` and
        ``colour``, its parts; ``noise``, whether the voxel responds to nothing; and a column per
        category with its weight. Below an `alikeness` of 1 it is that of the shared law.

        Examples
        --------
        >>> from brainenc.datasets import simulate_subject
        >>> truth = simulate_subject(20, 60, 2, concepts=0.5).truth
        >>> sorted(truth.selectivity.columns)[:3], len(truth.selectivity)
        (['body', 'category', 'colour'], 60)
        """
        if self.law is None:
            raise ValueError("truth has no law of responses: simulate the subject again")
        noise = self.law.signal_sd == 0
        content = (self.law.content_share > 0) & ~noise
        best = np.array(CATEGORIES)[self.law.selectivity.argmax(axis=1)]
        colour = np.where(self.law.hue_sharpness > 0, colour_of(self.law.hue), "")
        table = pd.DataFrame(
            {"category": np.where(content, best, ""), "colour": np.where(content, colour, "")}
        )
        table.insert(0, "concept", (table["colour"] + " " + table["category"]).str.strip())
        table["noise"] = noise
        weights = np.where(content[:, None], self.law.selectivity, 0)
        return table.join(pd.DataFrame(weights, columns=list(CATEGORIES)))

    def captions(self) -> list[str]:
        """A sentence for each image, made from the table of its objects.

        Examples
        --------
        >>> from brainenc.datasets import simulate_subject
        >>> simulate_subject(20, 10, 2).truth.captions()[0]
        'a large purple face and a green body on the left in a cyan place'
        """
        return make_captions(self.objects, len(self.signal))

    def joint(
        self, modality_gap: float = 1.0, noise: float = 0.3, random_state: int = 0
    ) -> JointEmbeddings:
        """Embeddings of the images, and of text in the same space, as CLIP has them.

        Images and texts of the same content share a direction; all images share another one, and
        all texts a third: the modality gap.

        Parameters
        ----------
        modality_gap : float, >= 0
            Length of what images share, and of what texts share, relative to the content.
        noise : float, >= 0
            Likewise, of noise in the embeddings of images.
        random_state : int
            Seed of the noise.

        Returns
        -------
        JointEmbeddings

        Raises
        ------
        ValueError : a number is negative.

        Examples
        --------
        >>> from brainenc.datasets import simulate_subject
        >>> joint = simulate_subject(20, 10, 2).truth.joint()
        >>> joint.images.shape, joint.encode_text(["a face"]).shape
        ((20, 64), (1, 64))
        """
        n_images = len(self.signal)
        return embed_images(self.objects, n_images, modality_gap, noise, random_state)

    def rescale(
        self, scale: np.ndarray, shift: np.ndarray, trials: pd.DataFrame
    ) -> "SimulatedTruth":
        """Truth of betas that were scaled and shifted in each session, as by z-scoring.

        Parameters
        ----------
        scale, shift : arrays, shape (n_sessions, n_voxels)
            New betas are ``scale · betas + shift``.
        trials : pandas.DataFrame
            With the column ``session``; rows of `scale` are its sessions in order.
        """
        share = trials["session"].value_counts(normalize=True).sort_index()
        rows = np.searchsorted(self.drift.session, share.index)
        gain = (scale * self.drift.gain[rows]).astype(np.float32)
        offset = (scale * self.drift.offset[rows] + shift).astype(np.float32)
        drift = SessionDrift(gain, offset, share.to_numpy(), share.index.to_numpy())
        return replace(self, drift=drift)

    def select(
        self, images: np.ndarray | None = None, voxels: np.ndarray | None = None
    ) -> "SimulatedTruth":
        """Truth of some of the images and voxels; `ncsnr` stays that over all images simulated.

        Parameters
        ----------
        images : mask of shape (n_images,) or positions, optional
        voxels : mask of shape (n_voxels,) or positions, optional
        """
        truth = self
        if images is not None:
            truth = truth._take_images(check_index(images, len(self.signal), "images"))
        if voxels is not None:
            truth = truth._take_voxels(check_index(voxels, self.signal.shape[1], "voxels"))
        return truth

    def _take_images(self, index: np.ndarray) -> "SimulatedTruth":
        by_image = self.objects.groupby("image").indices
        rows = [by_image[i] for i in index]
        new_number = np.repeat(np.arange(len(index)), [len(r) for r in rows])
        objects = self.objects.iloc[np.concatenate(rows)].assign(image=new_number)
        return replace(
            self,
            signal=self.signal[index],
            tokens=self.tokens[index],
            category=self.category[index],
            objects=objects.reset_index(drop=True),
        )

    def _take_voxels(self, index: np.ndarray) -> "SimulatedTruth":
        return replace(
            self,
            signal=self.signal[:, index],
            ncsnr=self.ncsnr[index],
            noise_factors=self.noise_factors[:, index],
            noise_private_variance=self.noise_private_variance[index],
            drift=replace(
                self.drift, gain=self.drift.gain[:, index], offset=self.drift.offset[:, index]
            ),
            prfs=self.prfs.iloc[index].reset_index(drop=True),
            law=None if self.law is None else self.law.select(index),
        )
