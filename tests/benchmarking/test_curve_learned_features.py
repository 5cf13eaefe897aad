"""Features that are learned from images, in methods that start from other subjects."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc import Transfer, learning_curve
from brainenc.datasets import simulate_subjects

QUICK = {"n_bootstraps": 20, "n_draws": 1, "verbose": False, "sizes": [30], "references": False}
N_PIXELS = 6


def pixels():
    return brainenc.PixelFeatures(size=N_PIXELS, verbose=False)


def pipeline():
    return make_pipeline(pixels(), PCA(5, random_state=0))


@pytest.fixture(scope="module")
def subjects():
    new, first, second = simulate_subjects(3, 100, 15, shared_images=40)
    own = [d.select(images=np.arange(40, n)) for d, n in ((first, 90), (second, 100))]
    return new, own


def by_hand(subjects, fitted_to):
    """Features of each subject, of one PCA that is fitted to the images of some sources."""
    new, sources = subjects
    pixels_of = {d.name: pixels().fit_transform(d.images) for d in (new, *sources)}
    pca = PCA(5, random_state=0).fit(np.concatenate([pixels_of[d.name] for d in fitted_to]))
    return {name: pca.transform(X) for name, X in pixels_of.items()}


@pytest.mark.parametrize("as_parameter", [True, False])
@pytest.mark.parametrize("how", ["prior", "adapt", "pretrain", "group-mean"])
def test_all_subjects_have_one_pca_of_the_sources(subjects, how, as_parameter):
    new, sources = subjects
    if how == "pretrain":
        few = {"n_coordinates": 3, "n_steps": 2, "batch_size": 8, "device": "cpu"}
        encoder = brainenc.InContextEncoder(**few)
    else:
        encoder = brainenc.RidgeEncoder()
    arrays = by_hand(subjects, sources[1:] if how == "adapt" else sources)  # of the larger one
    expected = learning_curve(
        new, {"a": Transfer(encoder, how)}, sources=sources, features=arrays, **QUICK
    )
    if as_parameter:
        encoder = encoder.set_params(features=pipeline())
    found = learning_curve(
        new,
        {"a": Transfer(encoder, how)},
        sources=sources,
        features=None if as_parameter else pipeline(),
        **QUICK,
    )
    assert not found.scores["error"].any()
    np.testing.assert_allclose(found.scores["r"], expected.scores["r"], atol=1e-5)


@pytest.mark.parametrize("how", ["prior", "adapt"])
def test_bands_of_which_one_is_learned(subjects, how):
    new, sources = subjects
    gabor = {"n_scales": 1, "pool": 2, "size": 16, "verbose": False}
    bands = {"pca": pipeline(), "gabor": brainenc.GaborPyramid(**gabor)}
    encoder = brainenc.BandedRidgeEncoder(bands, n_iter=4)
    found = learning_curve(new, {"a": Transfer(encoder, how)}, sources=sources, **QUICK)
    assert not found.scores["error"].any()
    arrays = by_hand(subjects, sources[1:] if how == "adapt" else sources)
    for d in (new, *sources):
        X = brainenc.GaborPyramid(**gabor).fit_transform(d.images).reshape(d.n_images, -1)
        arrays[d.name] = np.concatenate([arrays[d.name], X], axis=1)
    sizes = {"pca": 5, "gabor": X.shape[1]}
    by_arrays = brainenc.BandedRidgeEncoder(bands=sizes, n_iter=4)
    expected = learning_curve(
        new, {"a": Transfer(by_arrays, how)}, sources=sources, features=arrays, **QUICK
    )
    np.testing.assert_allclose(found.scores["r"], expected.scores["r"], atol=1e-4)


def test_the_references_have_the_learned_features_too(subjects):
    new, sources = subjects
    encoder = brainenc.RidgeEncoder(pipeline())
    given = QUICK | {"references": True}
    found = learning_curve(new, {"a": Transfer(encoder, "prior")}, sources=sources, **given)
    r = found.scores.query("roi == 'all'").set_index("encoder")["r"]
    assert r["a"] == pytest.approx(r["ridge, prior"], abs=1e-6)
