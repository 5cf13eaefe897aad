"""A prior is of one space of features: what is learned from images is fitted once, or refused."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.datasets import simulate_subjects
from brainenc.features.learned import takes_features


def pipeline(*steps):
    return make_pipeline(brainenc.PixelFeatures(size=6, verbose=False), *steps)


def pca():
    return pipeline(PCA(5, random_state=0))


@pytest.fixture(scope="module")
def subjects():
    return simulate_subjects(2, 130, 10, shared_images=0)


@pytest.fixture(scope="module")
def prior(subjects):
    source = brainenc.RidgeEncoder(pca()).fit(subjects[0].images, subjects[0].betas)
    return brainenc.WeightPrior.from_encoders([source]), source


ENCODERS = {
    "ridge": lambda features, prior: brainenc.RidgeEncoder(features, prior=prior),
    "banded": lambda features, prior: brainenc.BandedRidgeEncoder(features, prior=prior),
    "latent": lambda features, prior: brainenc.LatentEncoder(features, prior=prior, n_members=0),
    "incontext": lambda features, prior: brainenc.InContextEncoder(
        features, prior=prior, untrained="ridge"
    ),
}


@pytest.mark.parametrize("steps", [[PCA(5, random_state=0)], [StandardScaler()]])
@pytest.mark.parametrize("name", ENCODERS)
def test_features_fitted_to_the_new_subject_are_refused(subjects, name, steps):
    """Also those of a scaler, whose shape is that of the prior whatever it was fitted to."""
    first, new = subjects
    source = brainenc.RidgeEncoder(pipeline(*steps)).fit(first.images, first.betas)
    arrays = source.features_.transform(first.images)
    by_arrays = brainenc.RidgeEncoder().fit(arrays, first.betas)
    for encoder in (source, by_arrays):
        own = brainenc.WeightPrior.from_encoders([encoder])
        with pytest.raises(ValueError, match=r"was fitted to this subject's images.*FrozenEst"):
            ENCODERS[name](pipeline(*steps), own).fit(new.images, new.betas)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_way_out_that_the_message_names(subjects, prior, name, tmp_path):
    own, source = prior
    new = subjects[1]
    features = FrozenEstimator(source.features_)
    fitted = ENCODERS[name](features, own).fit(new.images, new.betas)
    X = source.features_.transform(new.images)
    by_hand = ENCODERS[name]("auto", own).fit(X, new.betas)
    np.testing.assert_allclose(fitted.predict(new.images), by_hand.predict(X), atol=1e-5)
    loaded = brainenc.load(own.save(tmp_path / "prior"))
    again = clone(fitted).set_params(prior=loaded).fit(new.images, new.betas)
    np.testing.assert_array_equal(again.predict(new.images), fitted.predict(new.images))
    # A source that was saved has the same features.
    source = brainenc.load(source.save(tmp_path / "source"))
    clone(fitted).set_params(features=FrozenEstimator(source.features_)).fit(new.images, new.betas)


def test_one_that_was_fitted_to_other_images_is_refused(subjects, prior):
    own, _ = prior
    new = subjects[1]
    other = FrozenEstimator(pca().fit(new.images))
    with pytest.raises(ValueError, match="the prior is of the features"):
        brainenc.RidgeEncoder(other, prior=own).fit(new.images, new.betas)
    encoders = [
        brainenc.RidgeEncoder(FrozenEstimator(pca().fit(d.images))).fit(d.images, d.betas)
        for d in subjects
    ]
    with pytest.raises(ValueError, match="a prior is of one kind of features"):
        brainenc.WeightPrior.from_encoders(encoders)


def test_frozen_features_are_those_of_several_sources(subjects):
    features = FrozenEstimator(pca().fit(subjects[0].images))
    encoders = [brainenc.RidgeEncoder(features).fit(d.images, d.betas) for d in subjects]
    found = brainenc.WeightPrior.from_encoders(encoders)
    by_data = brainenc.WeightPrior.fit(subjects, features)
    np.testing.assert_allclose(found.factors[0], by_data.factors[0], atol=1e-6)


def test_a_net_without_a_prior_refuses_them_too(subjects):
    first, new = subjects
    arrays = pca().fit_transform(first.images)
    small = {"sizes": "published", "n_steps": 1, "batch_size": 4, "device": "cpu"}
    pretrained = brainenc.InContextEncoder(**small).pretrain([(arrays, first.betas)]).pretrained
    encoder = brainenc.InContextEncoder(pca(), pretrained=pretrained, **small)
    with pytest.raises(ValueError, match="others than those of the net"):
        encoder.fit(new.images, new.betas)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "name",
    ["ridge", "banded", "kernelridge", "latent", "stacked", "calibrated"],
)
def test_adapting_keeps_learned_features(subjects, name, several, tmp_path):
    first, new = subjects
    features = pca()
    if several:
        if name not in ("banded", "latent"):
            pytest.skip("takes one space of features")
        features = {"pca": pca(), "pixels": brainenc.PixelFeatures(size=4, verbose=False)}
    encoder = tiny_encoder(name, device="cpu").set_params(features=features)
    encoder.fit(first.images, first.betas)
    adapted = encoder.adapt(new.images[:110], new.betas[:110])
    again = adapted.adapt(new.images[:110], new.betas[:110])
    loaded = brainenc.load(adapted.save(tmp_path / "adapted"))
    for other in (adapted, again, loaded):
        for own, theirs in zip(extractors(encoder), extractors(other), strict=True):
            X = new.images[:3]
            if takes_features(own):  # of a member, whose pixels are computed before
                X = brainenc.PixelFeatures(size=6, verbose=False).fit_transform(X)
            np.testing.assert_allclose(theirs.transform(X), own.transform(X), atol=1e-5)


def extractors(encoder):
    """All fitted extractors of an encoder and its members."""
    members = getattr(encoder, "encoders_", None) or {"": getattr(encoder, "encoder_", encoder)}
    found = []
    for member in members.values():
        own = getattr(member, "features_", None)
        found += list(own.values()) if isinstance(own, dict) else [own] if own is not None else []
    assert found
    return found
