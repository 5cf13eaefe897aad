"""A simulated subject, split by image, and its ridge decoder and encoder."""

from types import SimpleNamespace

import numpy as np
import pytest

import brainenc


@pytest.fixture(scope="session")
def subject():
    """800 images to learn from and 200 to test, of 150 voxels, z-scored by session."""
    data = brainenc.datasets.simulate_subject(1000, 150, random_state=1)
    order = np.random.default_rng(0).permutation(data.n_images)
    train, test = np.sort(order[:800]), np.sort(order[800:])
    betas, tokens = data.zscore_by_session().betas, data.truth.tokens
    return SimpleNamespace(
        data=data,
        betas=betas,
        tokens=tokens,
        train=(betas[train], tokens[train]),
        test=(betas[test], tokens[test]),
        rows=(train, test),
        categories=data.truth.category,
        decoder=brainenc.RidgeDecoder().fit(betas[train], tokens[train]),
        encoder=brainenc.RidgeEncoder().fit(tokens[train], betas[train]),
    )
