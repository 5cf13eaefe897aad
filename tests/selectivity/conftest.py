"""A subject with concepts and voxels of noise, and ridge fitted to half of the images."""

from types import SimpleNamespace

import numpy as np
import pytest

import brainenc


@pytest.fixture(scope="package")
def planted():
    data = brainenc.datasets.simulate_subject(
        1800, 240, 3, concepts=0.4, noise_voxels=0.25, random_state=3
    )
    truth = data.truth
    fit, new = np.arange(1000), np.arange(1000, 1800)
    betas = data.zscore_by_session().betas
    captions = truth.captions()
    return SimpleNamespace(
        data=data,
        truth=truth,
        selectivity=truth.selectivity,
        noise=truth.selectivity["noise"].to_numpy(),
        high=(truth.selectivity["concept"] != "").to_numpy(),
        images=truth.tokens[new],
        pictures=data.images[new],
        captions=[captions[i] for i in new],
        category=truth.category[new],
        betas=betas[new],
        training=(truth.tokens[fit], betas[fit]),
        encoder=brainenc.RidgeEncoder(features=None).fit(truth.tokens[fit], betas[fit]),
        fit=fit,
        new=new,
    )


@pytest.fixture(scope="package")
def described(planted):
    return brainenc.describe(
        planted.encoder,
        planted.images,
        planted.captions,
        betas=planted.betas,
        training=planted.training,
        voxels=planted.data.voxels,
        min_images=20,
        n_permutations=400,
    )
