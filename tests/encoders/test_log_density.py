"""Densities of single trials: they integrate to 1, and say where draws lie."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import brainenc
from brainenc.encoders import CalibratedEncoder

N_VOXELS = 6


@pytest.fixture(scope="module")
def problem():
    """150 images × 3 trials; skewed noise, shared in part, and larger where X[:, 0] is."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 4)).astype(np.float32)
    noise = stats.gamma(2).ppf(rng.random((150, 3, N_VOXELS + 1))) - 2
    noise = (noise[..., :1] + noise[..., 1:]) * np.exp(0.4 * X[:, 0])[:, None, None]
    return X, ((X @ np.ones((4, N_VOXELS)))[:, None] + noise).astype(np.float32)


class Overconfident(brainenc.RidgeEncoder):
    """Ridge whose draws have half the s.d. they should."""

    def fit(self, X, y):
        super().fit(X, y)
        self.trials_ = replace(self.trials_, noise=self.noise_.times(0.5))
        return self


ENCODERS = {
    "ridge": brainenc.RidgeEncoder(None),
    "latent": brainenc.LatentEncoder(None),
    "calibrated": CalibratedEncoder(Overconfident(None)),
    "calibrated latent": CalibratedEncoder(brainenc.LatentEncoder(None), cv=2),
}


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request, problem):
    if request.param != "calibrated latent":
        return ENCODERS[request.param].fit(*problem)
    with pytest.warns(UserWarning, match="fitted as ridge"):  # a fold has 75 images
        return ENCODERS[request.param].fit(*problem)


def test_density_is_that_of_draws(encoder, problem):
    X, _ = problem
    image, voxels = X[[int(X[:, 0].argmax())]], np.array([4, 1])
    draws = encoder.sample(image, 20_000, 0)[:, 0][:, voxels]
    mean, sd = draws.mean(0), draws.std(0)
    steps = np.linspace(-8, 12, 801)
    grid = np.stack(np.meshgrid(*(mean[:, None] + sd[:, None] * steps), indexing="ij"), axis=-1)
    trials = np.zeros((1, 801**2, N_VOXELS))
    trials[0][:, voxels] = grid.reshape(-1, 2)
    density = np.exp(encoder.log_density(image, trials, voxels=voxels))[0]
    weight = density * np.prod(sd) * (steps[1] - steps[0]) ** 2
    # Shapes have kinks, and a step of .025 s.d. rounds them: .3 % at most.
    assert weight.sum() == pytest.approx(1, abs=0.005)
    for shift in ((0, 0), (1, 1), (1, -0.5)):
        corner = mean + sd * shift
        inside = (trials[0][:, voxels] > corner).all(axis=1)
        # 20 000 draws: s.e. of a share below .0035; allow four, and the step.
        share = (draws > corner).all(axis=1).mean()
        assert weight[inside].sum() == pytest.approx(share, abs=0.02)


def test_it_is_joint_and_missing_voxels_make_it_nan(problem):
    X, betas = problem
    encoder = ENCODERS["ridge"].fit(X, betas)
    assert encoder.residual_shape_ is not None  # skewed: else the density would be a normal one
    holed = betas.copy()
    holed[3, 1, 2] = np.nan
    found = encoder.log_density(X, holed)
    assert found.shape == (150, 3)
    assert np.isnan(found[3, 1])
    assert np.isfinite(found).sum() == 449
    apart = sum(encoder.log_density(X, betas, voxels=[v]) for v in range(N_VOXELS))
    # Half of the noise is shared: trials are likelier together than voxel by voxel.
    assert (found[np.isfinite(found)].mean() - apart.mean()) > 0.5


def test_samplers_have_no_density(problem):
    X, betas = problem
    stack = brainenc.StackedEncoder([brainenc.MeanEncoder(), ENCODERS["ridge"]], draws="mixture")
    assert np.isnan(stack.fit(X, betas).log_density(X, betas)).all()
    encoder = brainenc.RidgeEncoder(None).fit(X, betas)
    encoder.trials_ = replace(encoder.trials_, noise=encoder.noise_.shared())
    assert np.isnan(encoder.log_density(X, betas)).all()
