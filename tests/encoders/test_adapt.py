"""`adapt` of every encoder: what it keeps of the fitted subject, and what is of the new one."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.datasets import simulate_subjects
from brainenc.encoders import ENCODERS

#: Encoders without a part that subjects share.
NOTHING_SHARED = {"mean"}
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


def _r(fitted, X, signal):
    return np.nanmean(stats.pearsonr(fitted.predict(X), signal, axis=0).statistic)


@pytest.mark.parametrize("several", [False, True])
def test_the_latent_takes_a_prior_for_its_ridge(several, subjects, tmp_path):
    """With few images the encoder is its ridge, so it predicts as ridge with that prior does."""
    first, second = subjects
    X, new = first.truth.tokens, second.truth.tokens
    how = {"n_members": 0, "n_latents": 8}
    linear = brainenc.RidgeEncoder(None)
    if several:
        X, new = X.reshape(260, -1), new.reshape(260, -1)
        how["bands"] = {"left": 24, "right": 40}
        linear = brainenc.BandedRidgeEncoder(None, bands=how["bands"])
    prior = brainenc.WeightPrior.from_encoders([clone(linear).fit(X, first.betas)])
    encoder = brainenc.LatentEncoder(None, prior=prior, **how)
    with pytest.warns(UserWarning, match="ridge"):
        few = clone(encoder).fit(new[:FEW], second.betas[:FEW])
    ridge = clone(linear).set_params(prior=prior).fit(new[:FEW], second.betas[:FEW])
    np.testing.assert_allclose(few.predict(new), ridge.predict(new), atol=2e-4)
    many = encoder.fit(new[:N], second.betas[:N])
    scratch = brainenc.LatentEncoder(None, **how).fit(new[:N], second.betas[:N])
    signal = second.truth.signal[N:]
    assert _r(many, new[N:], signal) > _r(scratch, new[N:], signal)
    ridge.fit(new[:N], second.betas[:N])
    own = many.linear_._predict if several else many.linear_.predict
    np.testing.assert_allclose(own(new), ridge.predict(new), atol=2e-4)
    assert many.sample(new[:5], n=2).shape == (2, 5, 40)
    loaded = brainenc.load(many.save(tmp_path / "prior"))
    np.testing.assert_array_equal(loaded.predict(new), many.predict(new))
    np.testing.assert_array_equal(
        loaded.sample(new[:5], 2, random_state=0), many.sample(new[:5], 2, random_state=0)
    )
    again = many.adapt(X[:N], first.betas[:N])  # an encoder with a prior can be adapted
    assert again.kernel_ is many.kernel_
    with pytest.raises(ValueError, match=r"shape|features"):
        encoder.fit(new[:N, :3], second.betas[:N])
    with pytest.raises(TypeError, match="WeightPrior"):
        brainenc.LatentEncoder(None, prior="other").fit(new[:N], second.betas[:N])


def test_the_prior_of_a_latent_is_of_all_features_where_ridge_averages_tokens():
    """With very many features ridge from scratch sees averages over tokens; a prior is of all."""
    from brainenc.encoders import tokens

    rng = np.random.default_rng(0)
    shape = (2, tokens.MAX_LINEAR)  # twice as many as linear maps take
    X, W = rng.standard_normal((60, *shape)).astype(np.float32), rng.standard_normal(5)
    betas = X[:, 0, :5] * W + 0.1 * rng.standard_normal((60, 5))
    prior = brainenc.WeightPrior.from_encoders([brainenc.RidgeEncoder(None).fit(X, betas)])
    encoder = brainenc.LatentEncoder(None, n_members=0, n_latents=2, min_images=20, prior=prior)
    encoder.fit(X[:40], betas[:40])
    assert encoder.linear_.coef.shape[0] == X[0].size
    assert encoder.sample(X[:3], n=2).shape == (2, 3, 5)


def test_a_latent_with_few_images_has_its_ridge_as_a_prior():
    first, second = simulate_subjects(2, 120, 60, shared_images=0, random_state=2)
    X, new = first.truth.tokens, second.truth.tokens
    with pytest.warns(UserWarning, match="ridge"):
        encoder = brainenc.LatentEncoder(None).fit(X[:90], first.betas[:90])
    adapted = encoder.adapt(new[:FEW], second.betas[:FEW])
    ridge = brainenc.RidgeEncoder(None).fit(X[:90], first.betas[:90])
    scratch = clone(ridge).fit(new[:FEW], second.betas[:FEW]).predict(new)
    ridge = ridge.adapt(new[:FEW], second.betas[:FEW]).predict(new)
    found = adapted.predict(new)
    # Voxels of the prior are weighted by their s.d., those of ridge's by that of their noise.
    assert np.abs(found - ridge).mean() < 0.1 * np.abs(found - scratch).mean()


def test_members_of_a_stack_are_adapted_by_their_own_adapt(subjects):
    """The networks of a stack are those that the member adapts to alone, not trained anew."""
    first, second = subjects
    X, new, y = first.truth.tokens[:N], second.truth.tokens[:FEW], second.betas[:FEW]
    members = {"ridge": brainenc.RidgeEncoder(), "net": tiny_encoder("mindreader", device="cpu")}
    stack = brainenc.StackedEncoder(members).fit(X, first.betas[:N])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none that a ridge is fitted in place of the network
        adapted = stack.adapt(new, y)
    for name, member in stack.encoders_.items():
        alone = member.adapt(new, y)
        np.testing.assert_array_equal(adapted.encoders_[name].predict(new), alone.predict(new))
    scratch = clone(stack.encoders_["net"]).set_params(min_images=2).fit(new, y)
    trunk, start, other = (
        fitted.members_[0].state_dict()
        for fitted in (adapted.encoders_["net"], stack.encoders_["net"], scratch)
    )
    shared = [n for n in trunk if not n.startswith(type(stack.encoders_["net"]).own_weights)]
    assert all(np.array_equal(trunk[n], start[n]) for n in shared)
    assert not all(np.array_equal(other[n], start[n]) for n in shared)


@pytest.mark.parametrize("kind", ["stacked", "calibrated"])
def test_fitted_members_are_adapted_with_their_extractors(kind, tmp_path):
    """Of ``cv="prefit"``: members have features of their own, several spaces among them."""
    first, second = simulate_subjects(2, 70, 10, shared_images=0)
    pixels = brainenc.PixelFeatures(size=4, verbose=False)
    gabor = brainenc.GaborPyramid(n_scales=1, pool=2, size=16, verbose=False)
    bands = brainenc.BandedRidgeEncoder({"pixels": pixels, "gabor": gabor}, n_iter=3)
    ridge = brainenc.RidgeEncoder(make_pipeline(pixels, PCA(3, random_state=0)))
    ridge, bands = (e.fit(first.images[:40], first.betas[:40]) for e in (ridge, bands))
    if kind == "stacked":
        encoder = brainenc.StackedEncoder({"ridge": ridge, "bands": bands}, cv="prefit")
    else:
        encoder = brainenc.CalibratedEncoder(bands, cv="prefit")
    encoder.fit(first.images[40:], first.betas[40:])
    before = encoder.predict(first.images)
    adapted = encoder.adapt(second.images[:50], second.betas[:50, :, :7])
    np.testing.assert_array_equal(encoder.predict(first.images), before)
    found = adapted.encoders_["bands"] if kind == "stacked" else adapted.encoder_
    alone = bands.adapt(second.images[:50], second.betas[:50, :, :7])
    np.testing.assert_allclose(found.predict(second.images), alone.predict(second.images), 1e-5)
    assert adapted.predict(second.images).shape == (70, 7)
    loaded = brainenc.load(adapted.save(tmp_path / "adapted"))
    np.testing.assert_array_equal(loaded.predict(second.images), adapted.predict(second.images))
    clone(adapted).fit(second.images[:50], second.betas[:50])
    assert adapted.adapt(first.images, first.betas).predict(first.images).shape == (70, 10)


def test_a_users_adapt_is_used_in_a_stack(subjects):
    class Shifted(brainenc.MeanEncoder):
        """Half way from the mean of the fitted subject."""

        def adapt(self, X, y):
            new = clone(self).fit(X, y)
            new.mean_ = (new.mean_ + self.mean_[: len(new.mean_)]) / 2
            return new

    first, second = subjects
    stack = brainenc.StackedEncoder({"mine": Shifted(), "ridge": brainenc.RidgeEncoder()})
    stack.fit(first.truth.tokens, first.betas + 1)
    X, y = second.truth.tokens, second.betas
    own = stack.adapt(X, y).encoders_["mine"]
    wanted = (np.nanmean(y, (0, 1)) + np.nanmean(first.betas + 1, (0, 1))) / 2
    np.testing.assert_allclose(own.mean_, wanted, atol=0.02)


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


@pytest.mark.parametrize("name", ["ridge", "banded", "kernelridge", "pls"])
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mindreader", "roitransformer", "mindsimulator"])
def test_networks_of_unalike_subjects_do_no_harm_with_few_images(name):
    """The blend leaves out a trunk that has nothing to say of the new subject."""
    first, second = simulate_subjects(
        2, 400, 40, shared_images=0, alikeness=0.0, n_tokens=4, token_width=16, random_state=3
    )
    encoder = tiny_encoder(name, device="cpu").fit(first.truth.tokens, first.betas)
    X, y = second.truth.tokens[:FEW], second.betas[:FEW]
    adapted = encoder.adapt(X, y)
    assert adapted.net_share_.shape == (40,)

    def r(fitted):
        pairs = zip(
            fitted.predict(second.truth.tokens[200:]).T, second.truth.signal[200:].T, strict=True
        )
        return np.mean([stats.pearsonr(*pair)[0] for pair in pairs])

    # Weights of the blend are chosen on as few as nine images: that costs a little.
    assert r(adapted) > r(brainenc.RidgeEncoder().fit(X, y)) - 0.03


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
