"""Several simulated subjects in one world: their own voxels, own images and shared images."""

import numbers

import numpy as np
import pandas as pd

from brainenc.data.encoding_data import EncodingData
from brainenc.datasets.simulated.subject import (
    check_arguments,
    check_shares,
    make_subject,
    token_side,
)


def simulate_subjects(
    n_subjects: int = 4,
    n_images: int = 600,
    n_voxels: int = 800,
    n_repeats: int = 3,
    *,
    shared_images: int = 100,
    alikeness: float = 1.0,
    image_size: int = 64,
    n_sessions: int = 4,
    session_drift: float = 0.15,
    missing: float = 0.02,
    n_tokens: int = 16,
    token_width: int = 64,
    concepts: float = 0.0,
    noise_voxels: float = 0.0,
    random_state: int | None = 0,
    verbose: bool = False,
    name: str = "simulated",
) -> list[EncodingData]:
    """Subjects as `simulate_subject` makes them, who see shared and own images.

    Each subject has voxels, receptive fields, noise, trials and drift of its own. ROIs have the
    same names in all subjects: they are the correspondence of voxels. Tokens of an image are the
    same for every subject.

    Parameters
    ----------
    n_subjects : int, >= 1
    n_images : int
        Images of a subject, the shared ones among them.
    shared_images : int
        The first images of every subject: the same for all. The others are the subject's own.
    alikeness : float in [0, 1]
        Share of the signal variance of every voxel that follows the law of selectivity which all
        subjects have (that of `simulate_subject`: receptive fields in early areas, categories in
        high-level areas). The rest follows a law of the subject's own: weights on the tokens from
        directions drawn for the subject and the area. At 0 other subjects' weights tell nothing of
        a subject's, so that a prior learned from them must neither help nor harm.
    n_voxels, n_repeats, image_size, n_sessions, session_drift, missing, n_tokens, token_width
        Of each subject, as for `simulate_subject`.
    concepts, noise_voxels : float in [0, 1]
        As for `simulate_subject`. The share is the same in all subjects; which voxels have a
        concept, which one, and which are of noise, is drawn for each. The law of `concepts` is part
        of that which all subjects have.
    random_state : int, optional
        Seed. With more subjects the first ones stay the same.
    verbose : bool
        Show progress bars.
    name : str
        Subjects are named ``"<name> 1, alikeness 0.5"``, …: results made with them say how alike
        they are.

    Returns
    -------
    list of EncodingData
        As of `simulate_subject`, with a table ``stimuli``: the ``name`` of each image, the same for
        a shared image in all subjects, and whether it is ``shared``. ``.truth.alikeness`` is the
        alikeness.

    Raises
    ------
    ValueError : a number is out of range.

    Examples
    --------
    >>> import brainenc
    >>> first, second = brainenc.datasets.simulate_subjects(2, 20, 10, shared_images=5)
    >>> bool((first.images[:5] == second.images[:5]).all()), first.name
    (True, 'simulated 1, alikeness 1')
    """
    check_arguments(
        n_images, n_voxels, n_repeats, image_size, n_sessions, session_drift, missing, token_width
    )
    check_shares(concepts=concepts, noise_voxels=noise_voxels)
    n_side = token_side(n_tokens)
    _check_count("n_subjects", n_subjects, 1, None)
    _check_count("shared_images", shared_images, 0, n_images)
    if not 0 <= alikeness <= 1:  # NaN too
        raise ValueError(f"alikeness={alikeness!r} must be between 0 and 1")
    world, *subjects = np.random.SeedSequence(random_state).spawn(1 + n_subjects)
    shared = [seed.spawn(shared_images) for seed in world.spawn(2)]
    found = []
    for number, subject in enumerate(subjects, start=1):
        scene_seed, token_seed, law_seed, *seeds, kind_seed = subject.spawn(8)
        n_own = n_images - shared_images
        data = make_subject(
            shared[0] + scene_seed.spawn(n_own),
            shared[1] + token_seed.spawn(n_own),
            seeds,
            n_voxels=n_voxels,
            n_repeats=n_repeats,
            image_size=image_size,
            n_sessions=n_sessions,
            session_drift=session_drift,
            missing=missing,
            n_side=n_side,
            token_width=token_width,
            verbose=verbose,
            name=f"{name} {number}, alikeness {alikeness:g}",
            alikeness=float(alikeness),
            law_seed=law_seed,
            concepts=concepts,
            noise_voxels=noise_voxels,
            kind_seed=kind_seed,
        )
        found.append(data._with(stimuli=_stimuli(number, shared_images, n_own)))
    return found


def _stimuli(subject: int, n_shared: int, n_own: int) -> pd.DataFrame:
    names = [f"shared {i + 1}" for i in range(n_shared)]
    names += [f"subject {subject} image {i + 1}" for i in range(n_own)]
    return pd.DataFrame({"name": names, "shared": np.arange(n_shared + n_own) < n_shared})


def _check_count(argument: str, value: int, least: int, most: int | None) -> None:
    if not isinstance(value, numbers.Integral) or value < least or (most or value) < value:
        upper = "" if most is None else f" and at most n_images={most}"
        raise ValueError(f"{argument}={value!r} must be an int of at least {least}{upper}")
