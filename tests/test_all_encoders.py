"""The contract, run over every encoder in the registry, with networks that are trained."""

import copy
import json
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from tiny_encoders import TINY, tiny_encoder

import brainenc
from brainenc import encoders
from brainenc.encoders import ENCODERS, RidgeEncoder, make_encoder, network
from brainenc.encoders.trained import TrainedEncoder
from brainenc.features import PixelFeatures

NAMES = list(ENCODERS)

#: Where the fitted networks of an encoder are.
NETWORKS = {
    "latent": lambda encoder: encoder.members_,
    "synbrain": lambda encoder: [encoder.vae_, encoder.mapper_],
    "mindsimulator": lambda encoder: [encoder.autoencoder_, encoder.prior_],
    "stacked": lambda encoder: encoder.encoders_["mindreader"].members_,
    "mindreader": lambda encoder: encoder.members_,
    "roitransformer": lambda encoder: encoder.members_,
}

#: Parts of the contract that an encoder does not keep, and why. Tests say what it does instead.
EXCEPTIONS = {
    "mean": {"features": "it predicts the same for all images"},
    "pls": {"apart": "voxels share components: without one, those of the others differ"},
    "synbrain": {
        "holes": "the autoencoder reads whole trials: a voxel that lacks some of them is refused",
        "accuracy": "a few steps do not train it: tests/encoders/synbrain asks what it learns",
    },
    "mindsimulator": {
        "expected": "it predicts the mean of some draws, with the same noise for all images",
    },
}

#: MindSimulator is trained for long enough to predict, SynBrain for fewer steps.
HERE = {
    "mindsimulator": {"autoencoder_epochs": 20, "learning_rate": 5e-3, "n_draws": 40},
    "synbrain": {"batch_size": 64},
    # A blend with ridge may leave all to ridge, which is right where betas are linear in features.
    "stacked": {"blend": None},
}

#: Images to learn: 110 are left where a test has three folds of all.
N_TRAIN, N_IMAGES = 120, 170


def keeps(name, part):
    return part not in EXCEPTIONS.get(name, {})


def make(name, **parameters):
    return tiny_encoder(name, **{**HERE.get(name, {}), **parameters})


def name_of(encoder):
    """Short name; None for an encoder that is not in the registry."""
    kinds = {kind: name for name, kind in ENCODERS.items()}
    return kinds.get(type(encoder).__name__)


def becomes_ridge(name):
    """Whether the encoder, or a member of it, is ridge with few images."""
    return any(key.split("__")[-1] == "min_images" for key in make(name).get_params())


def few_images(name):
    """A context in which a fit to few images says that it is ridge, if it is."""
    if not becomes_ridge(name):
        return nullcontext()
    return pytest.warns(UserWarning, match="fewer than min_images=100.* is fitted as ridge")


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "LEAST_STEPS", 30)
        yield


# -------------------------------------------------------------------- scikit-learn's checks

#: scikit-learn checks that encoders fail on purpose.
EXPECTED_FAILURES = {
    "check_regressor_multioutput": "predictions are float32, as betas are on disk",
}

#: Where it depends on rounding whether SynBrain fails: the checks ask for 1e-7, relative.
ROUNDING = {
    "check_methods_sample_order_invariance": "convolutions of a batch round in float32",
    "check_methods_subset_invariance": (
        "the same; and torch does not normalise groups of one channel in a batch of one image "
        "where there is one voxel"
    ),
}

#: For scikit-learn's checks, which do not ask how well networks are trained: most have few images.
BRIEF = {
    "latent": {"n_members": 0},
    "synbrain": {"vae_epochs": 1, "mapper_steps": 2},
    "mindreader": {"n_members": 1},
    "roitransformer": {"n_members": 1},
    "stacked": {"encoders": [RidgeEncoder(), RidgeEncoder(alphas=[1.0])]},
    "calibrated": {"cv": ShuffleSplit(1, test_size=0.3, random_state=0)},
}


def scikit_learn_checks():
    for name in NAMES:
        encoder = make(name, **BRIEF.get(name, {}))
        for estimator, check in estimator_checks_generator(encoder):
            function = getattr(check, "func", check).__name__
            reason = EXPECTED_FAILURES.get(function)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            if name == "synbrain" and function in ROUNDING:
                marks.append(pytest.mark.xfail(reason=ROUNDING[function], strict=False))
            yield pytest.param(estimator, check, id=f"{name}-{function}", marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(scikit_learn_checks()))
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn feeds degenerate data on purpose
        check(estimator)


# -------------------------------------------------------------------- the contract


@pytest.fixture(scope="module")
def problem():
    """Features, betas (images, repeats, voxels) and their noiseless part; a few repeats missing."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_IMAGES, 12)).astype(np.float32)
    signal = X @ rng.standard_normal((12, 7)) + 4
    betas = signal[:, None] + 2 * rng.standard_normal((N_IMAGES, 3, 7))
    betas[rng.random((N_IMAGES, 3)) < 0.1] = np.nan
    return X, betas.astype(np.float32), signal


@pytest.fixture(scope="module")
def learnt(problem):
    """Features and betas of the images to learn."""
    X, betas, _ = problem
    return X[:N_TRAIN], betas[:N_TRAIN]


@pytest.fixture(params=NAMES)
def encoder(request):
    return make(request.param)


@pytest.fixture(scope="module", params=NAMES)
def fitted(request, learnt):
    """Shared by tests, which leave it as it is."""
    return make(request.param).fit(*learnt)


def test_networks_are_trained(fitted, learnt):
    """Elsewhere in this file too: that an encoder became ridge is a warning, and so an error."""
    name = name_of(fitted)
    trained = {
        k for k, kind in ENCODERS.items() if issubclass(getattr(encoders, kind), TrainedEncoder)
    }
    assert NETWORKS.keys() == trained | {"stacked"}
    assert TINY.keys() == trained
    if name not in NETWORKS:
        return
    nets = NETWORKS[name](fitted)
    assert len(nets) > 0
    assert None not in nets
    assert len(fitted.history_) > 0
    assert fitted.history_["loss"].notna().any()
    X, betas = learnt
    prediction, ridge = fitted.predict(X), RidgeEncoder().fit(X, betas).predict(X)
    # The stack may give the network little weight; rounding of float32 is a thousandth of this.
    assert np.sqrt(np.mean((prediction - ridge) ** 2)) > 1e-3 * ridge.std(axis=0).mean()


OWN_LIMIT = [name for name in NAMES if "min_images" in make_encoder(name).get_params(deep=False)]


@pytest.mark.parametrize("name", OWN_LIMIT)
def test_few_images_are_fitted_with_ridge_and_a_warning(name, problem):
    assert OWN_LIMIT == ["latent", "synbrain", "mindsimulator", "mindreader", "roitransformer"]
    X, betas = problem[0][:99], problem[1][:99]
    message = (
        f"99 images, fewer than min_images=100: {ENCODERS[name]} is fitted as ridge, "
        "without a network"
    )
    with pytest.warns(UserWarning, match="fewer than min_images") as caught:
        encoder = make(name).fit(X, betas)
    assert [str(warning.message) for warning in caught] == [message]
    assert caught[0].filename == __file__  # it is the caller's to mend
    ridge = RidgeEncoder().fit(X, betas)
    np.testing.assert_array_equal(encoder.predict(X), ridge.predict(X))
    np.testing.assert_array_equal(encoder.sample(X, 2, 0), ridge.sample(X, 2, 0))
    assert len(encoder.history_) == 0
    with pytest.warns(UserWarning, match="fewer than min_images=100"):
        encoder.fit_held_out(X, betas)
    # No warning, which would be an error here, from min_images on.
    encoder = make(name, min_images=99, blend=None).fit(X, betas)
    assert len(encoder.history_) > 0
    assert (encoder.predict(X) != ridge.predict(X)).any()


def test_predictions_come_in_the_units_of_the_betas(fitted, learnt):
    X, betas = learnt
    prediction = fitted.predict(X)
    assert prediction.shape == (N_TRAIN, 7)
    assert prediction.dtype == np.float32
    if not keeps(name_of(fitted), "accuracy"):
        return
    # Every encoder knows at least the mean response: s.e. of the difference of means is
    # about sqrt(12 + 4/3) / sqrt(120) = .33 for a fresh sample, and in sample nearly 0. Means of
    # 40 draws are off by twice the noise of the draws, whose s.d. is at most the signal's, 3.5.
    atol = 0.4 if keeps(name_of(fitted), "expected") else 2 * 3.5 / np.sqrt(40)
    np.testing.assert_allclose(prediction.mean(0), np.nanmean(betas, axis=(0, 1)), atol=atol)


def test_score_is_the_mean_voxelwise_r_against_averages(fitted, problem):
    X, betas = problem[0][N_TRAIN:], problem[1][N_TRAIN:]
    if not keeps(name_of(fitted), "features"):
        with pytest.warns(UserWarning, match="undefined for every voxel"):
            assert np.isnan(fitted.score(X, betas))
        return
    average, prediction = np.nanmean(betas, axis=1), fitted.predict(X)
    r = [np.corrcoef(prediction[:, v], average[:, v])[0, 1] for v in range(7)]
    assert fitted.score(X, betas) == pytest.approx(np.mean(r), abs=1e-5)
    if keeps(name_of(fitted), "accuracy"):
        assert fitted.score(X, betas) > 0.5


def test_draws_scatter_around_the_prediction_as_held_out_trials_do(fitted, learnt):
    X, rtol = learnt[0][:40], 0.02
    assert fitted.sample_kind_ == fitted.sample_kind
    if not keeps(name_of(fitted), "noise"):
        assert np.isnan(fitted.noise_.variance).all()
        draws = fitted.sample(X, n=20, random_state=0)
        assert np.isfinite(draws).all()
        assert (draws.std(axis=0) > 0).all()
        np.testing.assert_array_equal(fitted.sample(X, 2, noise=None)[1], fitted.predict(X))
        return
    draws = fitted.sample(X, n=800, random_state=0)
    assert draws.shape == (800, 40, 7)
    assert draws.dtype == np.float32
    spread = np.sqrt(fitted.noise_.variance)
    error = np.abs(draws.mean(0) - fitted.predict(X)) / spread
    if keeps(name_of(fitted), "expected"):
        assert error.max() < 5 / np.sqrt(800)  # five standard errors
    else:
        latent = fitted.sample(X, n=800, random_state=0, noise="latent").std(axis=0) / spread
        assert (error < 5 * (latent / np.sqrt(fitted.n_draws) + 1 / np.sqrt(800))).all()
        rtol = 0.05  # how draws of the latent scatter is known from 8 draws of 18 images
    # 32 000 draws per voxel: the s.e. of a s.d. is .4 %.
    np.testing.assert_allclose(
        (draws - draws.mean(0)).std(axis=(0, 1)), spread * np.sqrt(799 / 800), rtol=rtol
    )


def test_residual_variance_is_that_of_new_trials(fitted, problem):
    X, betas = problem[0][N_TRAIN:], problem[1][N_TRAIN:]
    residuals = betas - fitted.predict(X)[:, None]
    # In-sample residuals would be too small. 50 new images: s.e. of the ratio is about
    # sqrt(2/50) = .2 per voxel where the model errs, and .08 over 7 voxels; allow three, and as
    # much for the few images that noise is estimated from.
    ratio = np.nanmean(residuals**2, axis=(0, 1)) / fitted.noise_.variance
    if keeps(name_of(fitted), "noise"):
        assert ratio.mean() == pytest.approx(1, abs=0.3)
    else:
        assert np.isnan(ratio).all()


def test_fit_and_sample_repeat_for_a_seed(fitted, learnt):
    X = learnt[0][:20]
    again = clone(fitted).fit(*learnt)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(again.sample(X, 3, 1), fitted.sample(X, 3, 1))
    assert (again.sample(X, 3, 1) != again.sample(X, 3, 2)).all()


def test_a_second_fit_forgets_the_first(fitted, learnt):
    # From enough images for networks to too few for them, other voxels, and no repeats.
    few = learnt[0][:60], np.nan_to_num(learnt[1][:60, :1, :5], nan=4)
    X = few[0][:20]
    with few_images(name_of(fitted)):
        fresh = clone(fitted).fit(*few)
    with few_images(name_of(fitted)):
        again = copy.deepcopy(fitted).fit(*few)
    np.testing.assert_array_equal(again.predict(X), fresh.predict(X))
    np.testing.assert_array_equal(again.sample(X, 3, 0), fresh.sample(X, 3, 0))
    attributes = [{name for name in vars(each) if name.endswith("_")} for each in (again, fresh)]
    assert attributes[0] == attributes[1]


def test_data_that_do_not_fit_leave_an_earlier_fit_alone(fitted, learnt):
    X, betas = learnt
    encoder = copy.deepcopy(fitted)
    with pytest.raises(ValueError, match=r"betas|rows|images"):
        encoder.fit(X[:20, :5], betas[:30])  # other features, whose number is seen first
    np.testing.assert_array_equal(encoder.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(encoder.sample(X[:20], 2, 0), fitted.sample(X[:20], 2, 0))


def test_save_and_load_give_the_same_encoder(fitted, learnt, tmp_path):
    X = learnt[0][:20]
    folder = fitted.save(tmp_path / "model")
    loaded = brainenc.load(folder)
    assert type(loaded) is type(fitted)
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(loaded.sample(X, 2, 0), fitted.sample(X, 2, 0))
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    left_out = ("features", "encoder", "encoders")  # compared by their predictions
    ours, theirs = (
        {k: v for k, v in each.get_params(deep=False).items() if k not in left_out}
        for each in (loaded, fitted)
    )
    assert ours == theirs


def test_a_voxel_without_data_is_nan_and_harms_no_other(fitted, problem, learnt):
    X, _, signal = problem
    others = np.arange(7) != 3
    holed = np.where(others, learnt[1], np.nan)
    encoder = clone(fitted).fit(learnt[0], holed)
    prediction, whole = encoder.predict(X), fitted.predict(X)
    assert np.isnan(prediction[:, 3]).all()
    assert np.isnan(encoder.sample(X[:9], 2, 0)[..., 3]).all()
    prediction, whole, signal = (part[:, others] for part in (prediction, whole, signal))
    if not keeps(name_of(fitted), "apart"):
        whole = clone(fitted).fit(learnt[0], learnt[1][..., others]).predict(X)
    if name_of(fitted) not in NETWORKS:
        np.testing.assert_allclose(prediction, whole, rtol=1e-4, atol=1e-4)
        return
    # Networks are trained by the mean loss of all voxels, and come to other weights that predict
    # about as well; a voxel of zeros, or one that makes losses NaN, would be learnt in their place.
    assert np.isfinite(prediction).all()
    errors = [np.mean((each - signal) ** 2) for each in (prediction, whole)]
    assert errors[0] < 1.3 * errors[1]


def test_an_image_that_a_voxel_lacks_is_left_out_for_that_voxel(fitted, problem, learnt):
    X = problem[0]
    holed = learnt[1].copy()
    holed[:30, :, 2] = np.nan
    encoder = clone(fitted)
    if not keeps(name_of(fitted), "holes"):
        with pytest.raises(ValueError, match="1 voxels lack some of the trials"):
            encoder.fit(learnt[0], holed)
        return
    prediction = encoder.fit(learnt[0], holed).predict(X)
    if name_of(fitted) not in NETWORKS:
        alone = clone(fitted).fit(learnt[0][30:], learnt[1][30:, :, [2]]).predict(X)
        # Features are scaled over all images here and over 90 there, which moves the shrinkage a
        # little; counting the missing images as responses of 0 would move predictions by about 1.
        np.testing.assert_allclose(prediction[:, 2], alone[:, 0], atol=0.1)
        return
    # Networks predict all voxels together. A response of 0 in a quarter of the images would lower
    # the mean, which is 4, by 1.
    assert np.isfinite(prediction).all()
    lowered = fitted.predict(X)[:, 2].mean() - prediction[:, 2].mean()
    assert abs(lowered) < 0.5


def test_token_features(fitted, learnt):
    X, betas = learnt
    tokens = X.reshape(N_TRAIN, 3, 4)
    encoder = clone(fitted).fit(tokens, betas)
    prediction, of_features = encoder.predict(tokens), fitted.predict(X)
    if name_of(fitted) not in NETWORKS:
        np.testing.assert_allclose(prediction, of_features, atol=1e-3)
    else:  # what features of tokens are is no secret to a network
        assert np.isfinite(prediction).all()
        assert np.abs(prediction - of_features).max() > 1e-3
    if keeps(name_of(fitted), "features"):
        with pytest.raises(ValueError, match=r"features .* do not fit"):
            encoder.predict(X.reshape(N_TRAIN, 3, 2, 2)[:, :, 0])


@pytest.mark.parametrize("name", NAMES)
def test_images_through_a_transformer(name):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N_TRAIN, 4, 4), dtype=np.uint8)
    signal = images.reshape(N_TRAIN, -1)[:, None, :5] / 50
    betas = signal + 0.1 * rng.standard_normal((N_TRAIN, 2, 5))
    if not keeps(name, "features"):
        mean = make(name).fit(images, betas)
        np.testing.assert_allclose(mean.predict(images)[0], betas.mean((0, 1)), rtol=1e-5)
        return
    pixels = PixelFeatures().transform(images)
    encoder = make(name, features=PixelFeatures()).fit(images, betas)
    flat = make(name, features=None).fit(pixels, betas)
    np.testing.assert_allclose(encoder.predict(images), flat.predict(pixels), atol=1e-5)


def test_scikit_learn_tools_take_three_axes_of_betas(encoder, problem):
    X, betas, _ = problem
    pipeline = make_pipeline(StandardScaler(), encoder)
    name = name_of(encoder)
    scoring = None if keeps(name, "features") else "neg_mean_squared_error"
    complete = np.nan_to_num(betas, nan=4)
    target = complete[:, 0] if scoring else complete
    scores = cross_val_score(pipeline, X, target, cv=3, scoring=scoring)  # 113 images to learn
    assert np.isfinite(scores).all()
    if scoring is None and keeps(name, "accuracy"):
        assert scores.mean() > 0.5


@pytest.mark.parametrize("name", ["ridge", "banded", "kernelridge"])
def test_grid_search_finds_the_useful_parameter(name, problem):
    X, betas, _ = problem
    search = GridSearchCV(
        make_encoder(name, features=None), {"alphas": [[1e6], [1.0]]}, cv=3, error_score="raise"
    ).fit(X, betas)
    assert search.best_params_ == {"alphas": [1.0]}


def test_adapt_makes_a_new_encoder_and_leaves_the_old(fitted, learnt):
    X, betas = learnt
    before = fitted.predict(X)
    other = fitted.adapt(X[:110], betas[:110, :, :3])
    assert type(other) is type(fitted)
    assert other.predict(X).shape == (N_TRAIN, 3)
    np.testing.assert_array_equal(fitted.predict(X), before)


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, b: (X[:-1], b), "120 rows, but there are 119 images"),
        (lambda X, b: (X[:1], b[:1]), "1 image"),
        (lambda X, b: (np.where(X > 2, np.nan, X), b), "NaN"),
        (lambda X, b: (np.where(X > 2, np.inf, X), b), "infinity"),
        (lambda X, b: (X, np.where(b > 9, np.inf, b)), "infinite"),
        (lambda X, b: (X, np.full_like(b, np.nan)), "nothing but NaN"),
        (lambda X, b: (X, b[..., None]), "must be"),
        (lambda X, b: (X[:, None, None, None], b), "features .* must be"),
    ],
)
def test_bad_input_is_named(encoder, learnt, change, message):
    with pytest.raises(ValueError, match=message):
        encoder.fit(*change(*learnt))


def test_betas_of_other_voxels_are_named(fitted, learnt):
    X, betas = learnt
    for call in (fitted.score, fitted.log_density):
        with pytest.raises(ValueError, match=r"has 3 voxels, but the encoder was fitted to \d+"):
            call(X, betas[..., :3])


def test_images_without_features_are_refused_with_the_way_on(problem):
    images = np.zeros((10, 8, 8, 3), dtype=np.uint8)
    for name in NAMES[1:]:
        with pytest.raises(TypeError, match="GaborPyramid"):
            make(name, features=None).fit(images, np.ones((10, 2)))


def test_features_where_a_transformer_wants_images(problem):
    X, betas, _ = problem
    for name in NAMES[1:]:
        with pytest.raises((TypeError, ValueError), match="images"):
            make(name, features=PixelFeatures()).fit(X, betas)


def test_unfitted_and_bad_counts(fitted, learnt):
    X, unfitted = learnt[0], clone(fitted)
    for call in (unfitted.predict, unfitted.sample):
        with pytest.raises(NotFittedError):
            call(X)
    with pytest.raises(NotFittedError):
        unfitted.save("nowhere")
    with pytest.raises(ValueError, match="n=0"):
        fitted.sample(X, n=0)


@pytest.mark.parametrize("name", NAMES[1:])
def test_fewer_images_than_folds(name, problem):
    X, betas = problem[0][:4], problem[1][:4]
    if not keeps(name, "folds"):
        assert np.isfinite(make(name).fit(X, betas).predict(X)).all()
        return
    error = pytest.raises(ValueError, match="5 folds need at least 5 images, but there are 4")
    # The stack makes its folds before it fits a member.
    with error, nullcontext() if name == "stacked" else few_images(name):
        make(name).fit(X, betas)


# -------------------------------------------------------------------- saved models


def test_a_model_from_a_newer_version_is_refused(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    structure = json.loads((folder / "model.json").read_text())
    structure["format_version"] = 99
    (folder / "model.json").write_text(json.dumps(structure))
    with pytest.raises(ValueError, match=r"format 99.*upgrade"):
        brainenc.load(folder)


@pytest.mark.parametrize("file", ["model.json", "arrays.safetensors"])
def test_a_damaged_model_is_refused(problem, tmp_path, file):
    X, betas, _ = problem
    folder = make_encoder("ridge").fit(X, betas).save(tmp_path / "model")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=file):
        brainenc.load(folder)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        brainenc.load(folder)


def test_a_folder_that_is_no_model_is_not_overwritten(problem, tmp_path):
    X, betas, _ = problem
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no model"):
        make_encoder("mean").fit(X, betas).save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_splitter_comes_back(problem, tmp_path):
    from sklearn.model_selection import KFold

    X, betas, _ = problem
    encoder = make_encoder("ridge", cv=KFold(4, shuffle=True, random_state=3)).fit(X, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(X), encoder.predict(X))
    assert vars(loaded.cv) == vars(encoder.cv)
    assert [a.tolist() for a, _ in loaded.cv.split(X)] == [
        a.tolist() for a, _ in encoder.cv.split(X)
    ]


def test_a_users_own_transformer_is_saved_and_must_be_named_to_load(problem, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    betas = images.reshape(30, -1)[:, :3].astype(np.float32)

    class Inverted(PixelFeatures):
        def _extract(self, batch):
            return super()._extract(255 - batch)

    encoder = make_encoder("ridge", features=Inverted()).fit(images, betas)
    folder = encoder.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"classes=\[Inverted\]"):
        brainenc.load(folder)
    with pytest.raises(TypeError, match=r"classes must be classes.*got 'Inverted'"):
        brainenc.load(folder, classes=["Inverted"])
    loaded = brainenc.load(folder, classes=[Inverted])
    np.testing.assert_array_equal(loaded.predict(images), encoder.predict(images))
