"""`adapt` of every encoder: what it keeps of the fitted subject, and what is of the new one."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.datasets import simulate_subjects
from brainenc.encoders import ENCODERS

#: Encoders without a part that subjects share: the mean, and dual weights of a subject's images.
NOTHING_SHARED = {"mean", "kernelridge"}
#: Encoders with weights as a prior, and those of which a member has it.
LINEAR = {"ridge", "banded", "stacked", "calibrated", "incontext"}
N, FEW = 130, 60


@pytest.fixture(scope="module")
def subjects():
    return simulate_subjects(2, 260, 40, shared_images=0, n_tokens=4, token_width=16)


@pytest.fixture(scope="module", params=ENCODERS)
def pair(request, subjects):
    """Name, encoder of the first subject, and it adapted to the second."""
    first, second = subjects
    encoder = tiny_encoder(request.param, device="cpu").fit(first.truth.tokens[:N], first.betas[:N])
    before = encoder.predict(first.truth.tokens)
    adapted = encoder.adapt(second.truth.tokens[:N], second.betas[:N, :, :30])
    np.testing.assert_array_equal(encoder.predict(first.truth.tokens), before)
    return request.param, encoder, adapted


def test_the_new_encoder_is_of_the_new_voxels_and_can_all_that_others_can(pair, subjects, tmp_path):
    _, encoder, adapted = pair
    X, y = subjects[1].truth.tokens, subjects[1].betas[:, :, :30]
    assert type(adapted) is type(encoder)
    assert adapted.n_voxels_ == 30
    assert np.isfinite(adapted.predict(X)).all()
    assert adapted.sample(X[:5], n=2, random_state=0).shape == (2, 5, 30)
    loaded = brainenc.load(adapted.save(tmp_path / "adapted"))
    np.testing.assert_array_equal(loaded.predict(X), adapted.predict(X))
    np.testing.assert_array_equal(
        loaded.sample(X[:5], n=2, random_state=0), adapted.sample(X[:5], n=2, random_state=0)
    )
    again = adapted.adapt(X[:N], y[:N])  # an adapted encoder can be adapted
    assert again.predict(X).shape == (260, 30)
    clone(adapted).fit(X[:N], y[:N])


def test_it_is_not_a_fit_from_scratch(pair, subjects):
    name, encoder, adapted = pair
    X, y = subjects[1].truth.tokens, subjects[1].betas[:, :, :30]
    scratch = clone(encoder).fit(X[:N], y[:N])
    same = np.array_equal(adapted.predict(X), scratch.predict(X))
    assert same == (name in NOTHING_SHARED)


def test_it_depends_on_the_subject_that_it_starts_from(pair, subjects):
    """An encoder fitted to responses in another order of images is another start."""
    name, encoder, adapted = pair
    if name in NOTHING_SHARED:
        return
    first, second = subjects
    order = np.random.default_rng(0).permutation(N)
    other = clone(encoder).fit(first.truth.tokens[:N], first.betas[:N][order])
    again = other.adapt(second.truth.tokens[:N], second.betas[:N, :, :30])
    X = second.truth.tokens
    assert not np.array_equal(again.predict(X), adapted.predict(X))


def test_the_same_subject_and_seed_give_the_same_encoder(pair, subjects):
    _, encoder, adapted = pair
    X, y = subjects[1].truth.tokens, subjects[1].betas[:, :, :30]
    again = encoder.adapt(X[:N], y[:N])
    np.testing.assert_array_equal(again.predict(X), adapted.predict(X))


def test_features_of_another_shape_are_refused_and_nothing_is_lost(pair, subjects):
    name, encoder, _ = pair
    X, y = subjects[1].truth.tokens, subjects[1].betas[:, :, :30]
    before = encoder.predict(X)
    if name not in NOTHING_SHARED:
        with pytest.raises(ValueError, match=r"shape|tokens"):
            encoder.adapt(X[:N, :3], y[:N])
    with pytest.raises(ValueError, match="130"):
        encoder.adapt(X[:N], y[: N - 1])
    np.testing.assert_array_equal(encoder.predict(X), before)


def test_networks_keep_their_trunk_with_few_images(pair, subjects):
    name, encoder, _ = pair
    if name not in ("mindreader", "roitransformer"):
        return
    X, y = subjects[1].truth.tokens, subjects[1].betas
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none that a ridge is fitted
        adapted = encoder.adapt(X[:FEW], y[:FEW])
    own = type(encoder).own_weights
    for new, old in zip(adapted.members_, encoder.members_, strict=True):
        ours, theirs = new.state_dict(), old.state_dict()
        for weight, value in ours.items():
            if not weight.startswith(own):
                np.testing.assert_array_equal(value, theirs[weight], err_msg=weight)
        assert not np.array_equal(ours["read_out.weight"], theirs["read_out.weight"])


def test_the_latent_keeps_its_maps(pair, subjects):
    name, encoder, adapted = pair
    if name != "latent":
        return
    assert adapted.kernel_ is encoder.kernel_
    assert adapted.members_ is encoder.members_
    assert adapted.read_out_.shape == (encoder.read_out_.shape[0], 30)


def test_a_latent_of_several_spaces_keeps_its_maps_and_its_weights_as_a_prior(subjects):
    first, second = subjects
    spaces = {"bands": {"left": 24, "right": 40}, "n_members": 0, "n_latents": 8}
    X, new = (s.truth.tokens.reshape(260, -1) for s in subjects)
    encoder = brainenc.LatentEncoder(None, **spaces).fit(X, first.betas)
    adapted = encoder.adapt(new[:N], second.betas[:N, :, :30])
    assert adapted.kernel_ is encoder.kernel_
    assert adapted.shares_ is encoder.shares_
    assert list(adapted.linear_.band_sizes_) == ["left", "right", "prior: all"]
    scratch = brainenc.LatentEncoder(None, **spaces).fit(new[:N], second.betas[:N, :, :30])
    signal = second.truth.signal[N:, :30]

    def r(fitted):
        return stats.pearsonr(fitted.predict(new[N:]), signal, axis=0).statistic.mean()

    assert r(adapted) > r(scratch) + 0.02  # subjects of one law: the prior is worth images
    assert adapted.sample(new[:5], n=2).shape == (2, 5, 30)


def test_queries_of_an_roi_start_from_those_of_its_name(subjects):
    first, second = subjects
    encoder = tiny_encoder("roitransformer", rois=first.voxels["roi"].tolist(), hemispheres=False)
    encoder.fit(first.truth.tokens[:N], first.betas[:N])
    X, y = second.truth.tokens, second.betas
    rois = second.voxels["roi"].tolist()
    adapted = encoder.set_params(learning_rate=1e-12).adapt(X[:N], y[:N], rois=rois[::-1])
    assert set(adapted.rois_) == set(encoder.rois_)
    order = [encoder.rois_.index(roi) for roi in adapted.rois_]
    for new, old in zip(adapted.members_, encoder.members_, strict=True):
        found, expected = new.queries.detach().numpy(), old.queries.detach().numpy()[order]
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["ridge", "banded"])
def test_adapting_is_worth_images(name, subjects):
    first, second = simulate_subjects(2, 500, 60, shared_images=0, random_state=2)
    encoder = brainenc.encoders.make_encoder(name).fit(first.truth.tokens, first.betas)
    X, y = second.truth.tokens[:60], second.betas[:60]

    def r(fitted):
        pairs = zip(
            fitted.predict(second.truth.tokens[200:]).T, second.truth.signal[200:].T, strict=True
        )
        return np.mean([stats.pearsonr(*pair)[0] for pair in pairs])

    assert r(encoder.adapt(X, y)) > r(clone(encoder).fit(X, y)) + 0.05


def test_bands_from_images_can_be_adapted(tmp_path):
    first, second = simulate_subjects(2, 60, 10, shared_images=0)
    bands = {
        "pixels": brainenc.PixelFeatures(size=4, verbose=False),
        "gabor": brainenc.GaborPyramid(n_scales=1, pool=2, size=16, verbose=False),
    }
    encoder = brainenc.BandedRidgeEncoder(bands, n_iter=3).fit(first.images, first.betas)
    adapted = encoder.adapt(second.images[:30], second.betas[:30])
    assert adapted.band_names_ == ["pixels", "gabor", "prior: all"]
    # The prior is of the sum of all bands: its predictions are those of its weights.
    own = adapted.linear_map().weights
    X = np.concatenate(
        [t.transform(second.images).reshape(60, -1) for t in adapted.features_.values()], 1
    )
    linear = X @ own
    found = adapted.predict(second.images)
    np.testing.assert_allclose(linear - linear.mean(0), found - found.mean(0), atol=1e-3)
    loaded = brainenc.load(adapted.save(tmp_path / "bands"))
    np.testing.assert_array_equal(loaded.predict(second.images), found)
