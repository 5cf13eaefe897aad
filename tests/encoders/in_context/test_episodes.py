"""Episodes that a net learns from: images of the voxel's subject, none of them twice."""

import numpy as np
import pytest
import torch

from brainenc.encoders.in_context.episodes import Episodes, inferred, predicted, ridge_weights
from brainenc.nets import InContextNet


@pytest.fixture(scope="module")
def problem():
    """Two subjects; the response of voxel v to image i of subject s is 1000 s + 100 v + i."""
    inputs = [np.arange(n)[:, None] + np.array([0, 1000 * s]) for s, n in ((0, 40), (1, 30))]
    averages = [
        1000.0 * s + 100 * np.arange(v) + np.arange(n)[:, None]
        for s, n, v in ((0, 40, 3), (1, 30, 2))
    ]
    averages[1][:5, 1] = np.nan
    return inputs, averages


def test_every_voxel_has_images_of_its_own_subject_and_its_own_responses(problem):
    episodes = Episodes(*problem, scaled=False, most_queries=10)
    assert (episodes.n_images, episodes.n_queries, episodes.longest) == (25, 10, 15)
    found = episodes.draw(np.arange(5), 8, np.random.default_rng(0))
    assert found.images.shape == (5, 8, 2)
    assert found.new_images.shape == (5, 10, 2)
    X = torch.cat([found.images, found.new_images], dim=1).numpy()
    y = torch.cat([found.responses, found.new_responses], dim=1).numpy()
    for v, (subject, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        image = X[v, :, 0]
        assert len(set(image)) == 18  # no image twice, in the context or in what is predicted
        np.testing.assert_array_equal(X[v, :, 1], image + 1000 * subject)
        np.testing.assert_array_equal(y[v], 1000 * subject + 100 * column + image)
    assert X[4, :, 0].min() >= 5  # the voxel lacks the first five
    again = episodes.draw(np.arange(5), 8, np.random.default_rng(0))
    assert torch.equal(again.images, found.images)


def test_responses_are_scaled_by_the_context_alone(problem):
    plain, scaled = (Episodes(*problem, scaled=s, most_queries=10) for s in (False, True))
    a, b = (e.draw(np.array([3]), 9, np.random.default_rng(1)) for e in (plain, scaled))
    mean, sd = a.responses.mean(), a.responses.std()
    torch.testing.assert_close(b.responses, (a.responses - mean) / sd, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(b.new_responses, (a.new_responses - mean) / sd, rtol=1e-4, atol=1e-4)


def test_mixed_voxels_are_of_one_subject_and_synthetic_ones_of_none():
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((60, 4)), rng.standard_normal((4, 3))
    episodes = Episodes([X], [X @ W], scaled=False, most_queries=20)
    kinds = {
        kind: episodes.draw(np.zeros(200, int), 20, np.random.default_rng(2), kind)
        for kind in ("real", "mixed", "synthetic")
    }
    weights = {
        kind: ridge_weights(e.images, e.responses, 1e-4).numpy()[:, :-1]
        for kind, e in kinds.items()
    }
    np.testing.assert_allclose(weights["real"], np.tile(W[:, 0], (200, 1)), atol=1e-3)
    # The voxel itself, and .5 times a standard normal number of one of the three.
    added = weights["mixed"] - W[:, 0]
    factors = np.linalg.lstsq(W, added.T, rcond=None)[0]
    np.testing.assert_allclose(W @ factors, added.T, atol=1e-3)
    assert (np.sum(np.abs(factors) > 1e-2, axis=0) <= 1).all()
    assert np.sqrt(np.mean(np.sum(factors, axis=0) ** 2)) == pytest.approx(0.5, abs=0.08)
    # Between 2 and 60 % of the variance of a synthetic response is of the image.
    e = kinds["synthetic"]
    y = torch.cat([e.responses, e.new_responses], dim=1)
    assert y.var(dim=1).mean() == pytest.approx(1, abs=0.1)
    fits = predicted(e.new_images, ridge_weights(e.images, e.responses, 1.0))
    r = np.corrcoef(fits.flatten(), e.new_responses.flatten())[0, 1]
    assert 0.2 < r < 0.7


def test_an_untrained_net_leaves_ridge_as_it_is():
    rng = np.random.default_rng(0)
    X, y = torch.tensor(rng.standard_normal((3, 9, 4))).float(), torch.randn(3, 9)
    net = InContextNet(4, width=8, depth=1, n_heads=2, hidden=8, corrects=True).eval()
    with torch.no_grad():
        found = inferred(net, X, y, 7.0)
    torch.testing.assert_close(found, ridge_weights(X, y, 7.0), rtol=1e-6, atol=1e-6)
