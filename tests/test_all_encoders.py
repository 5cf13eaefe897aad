"""The contract, run over every encoder in the registry."""

import json
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import brainenc
from brainenc.encoders import ENCODERS, make_encoder
from brainenc.features import PixelFeatures

NAMES = list(ENCODERS)

#: scikit-learn checks that encoders fail on purpose.
EXPECTED_FAILURES = {
    "check_regressor_multioutput": "predictions are float32, as betas are on disk",
}

#: For scikit-learn's checks, which do not ask how well networks are trained.
BRIEF = {
    "synbrain": {"n_epochs": 2, "n_members": 2},
    "mindsimulator": {"autoencoder_epochs": 2, "prior_epochs": 2},
    "mindreader": {"n_epochs": 2, "n_members": 2},
    "roitransformer": {"n_epochs": 2, "n_members": 2},
}


def scikit_learn_checks():
    for name in NAMES:
        encoder = make_encoder(name, **BRIEF.get(name, {}))
        for estimator, check in estimator_checks_generator(encoder):
            function = getattr(check, "func", check).__name__
            reason = EXPECTED_FAILURES.get(function)
            marks = pytest.mark.xfail(reason=reason, strict=True) if reason else ()
            yield pytest.param(estimator, check, id=f"{name}-{function}", marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(scikit_learn_checks()))
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn feeds degenerate data on purpose
        check(estimator)


@pytest.fixture(scope="module")
def problem():
    """Features, betas (images, repeats, voxels) and their noiseless part; a few repeats missing."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 12)).astype(np.float32)
    signal = X @ rng.standard_normal((12, 7)) + 4
    betas = signal[:, None] + 2 * rng.standard_normal((90, 3, 7))
    betas[rng.random((90, 3)) < 0.1] = np.nan
    return X, betas.astype(np.float32), signal


@pytest.fixture(params=NAMES)
def encoder(request):
    return make_encoder(request.param)


def test_predictions_come_in_the_units_of_the_betas(encoder, problem):
    X, betas, _ = problem
    prediction = encoder.fit(X, betas).predict(X)
    assert prediction.shape == (90, 7)
    assert prediction.dtype == np.float32
    # Every encoder knows at least the mean response: s.e. of the difference of means is
    # about sqrt(12 + 4/3) / sqrt(90) = .38 for a fresh sample, and in sample nearly 0.
    np.testing.assert_allclose(prediction.mean(0), np.nanmean(betas, axis=(0, 1)), atol=0.4)


def test_score_is_the_mean_voxelwise_r_against_averages(problem):
    X, betas, _ = problem
    for name in NAMES:
        encoder = make_encoder(name).fit(X[:60], betas[:60])
        average = np.nanmean(betas[60:], axis=1)
        prediction = encoder.predict(X[60:])
        if name == "mean":
            with pytest.warns(UserWarning, match="undefined for every voxel"):
                assert np.isnan(encoder.score(X[60:], betas[60:]))
            continue
        r = [np.corrcoef(prediction[:, v], average[:, v])[0, 1] for v in range(7)]
        assert encoder.score(X[60:], betas[60:]) == pytest.approx(np.mean(r), abs=1e-5)
        assert encoder.score(X[60:], betas[60:]) > 0.5


def test_draws_scatter_around_the_prediction_as_held_out_trials_do(encoder, problem):
    X, betas, _ = problem
    encoder.fit(X, betas)
    draws = encoder.sample(X, n=800, random_state=0)
    assert draws.shape == (800, 90, 7)
    assert draws.dtype == np.float32
    spread = np.sqrt(encoder.noise_.variance)
    error = np.abs(draws.mean(0) - encoder.predict(X)) / spread
    assert error.max() < 5 / np.sqrt(800)  # five standard errors
    # 72 000 draws per voxel: the s.e. of a s.d. is .3 %.
    np.testing.assert_allclose(
        (draws - draws.mean(0)).std(axis=(0, 1)), spread * np.sqrt(799 / 800), rtol=0.02
    )
    assert encoder.sample_kind_ == encoder.sample_kind


def test_residual_variance_is_that_of_new_trials(encoder, problem):
    X, _, signal = problem
    rng = np.random.default_rng(8)
    betas = signal[:, None] + 2 * rng.standard_normal((90, 3, 7))
    encoder.fit(X[:60], betas[:60])
    residuals = betas[60:] - encoder.predict(X[60:])[:, None]
    # In-sample residuals would be too small. 30 new images: s.e. of the ratio is about
    # sqrt(2/30) = .26 per voxel where the model errs, and .1 over 7 voxels; allow three.
    ratio = np.mean(residuals**2, axis=(0, 1)) / encoder.noise_.variance
    assert ratio.mean() == pytest.approx(1, abs=0.3)


def test_fit_and_sample_repeat_for_a_seed(encoder, problem):
    X, betas, _ = problem
    first, second = clone(encoder).fit(X, betas), clone(encoder).fit(X, betas)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    np.testing.assert_array_equal(first.sample(X, 3, 1), second.sample(X, 3, 1))
    assert (first.sample(X, 3, 1) != first.sample(X, 3, 2)).all()


def test_a_second_fit_forgets_the_first(encoder):
    # From enough images for networks to too few for them, other voxels, and no repeats.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 12)).astype(np.float32)
    betas = (X @ rng.standard_normal((12, 7)))[:, None] + rng.standard_normal((120, 2, 7))
    few = X[:60], betas[:60, :1, :5]
    fresh = clone(encoder).fit(*few)
    again = encoder.fit(X, betas).fit(*few)
    np.testing.assert_array_equal(again.predict(X), fresh.predict(X))
    np.testing.assert_array_equal(again.sample(X, 3, 0), fresh.sample(X, 3, 0))
    fitted = [{name for name in vars(each) if name.endswith("_")} for each in (again, fresh)]
    assert fitted[0] == fitted[1]


def test_data_that_do_not_fit_leave_an_earlier_fit_alone(encoder, problem):
    X, betas, _ = problem
    expected = encoder.fit(X[:30], betas[:30]).predict(X)
    with pytest.raises(ValueError, match=r"betas|rows|images"):
        encoder.fit(X[:20, :5], betas[:30])  # other features, whose number is seen first
    np.testing.assert_array_equal(encoder.predict(X), expected)
    np.testing.assert_array_equal(encoder.sample(X, 2, 0).mean(0).shape, expected.shape)


def test_save_and_load_give_the_same_encoder(encoder, problem, tmp_path):
    X, betas, _ = problem
    encoder.fit(X, betas)
    folder = encoder.save(tmp_path / "model")
    loaded = brainenc.load(folder)
    assert type(loaded) is type(encoder)
    np.testing.assert_array_equal(loaded.predict(X), encoder.predict(X))
    np.testing.assert_array_equal(loaded.sample(X, 2, 0), encoder.sample(X, 2, 0))
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    parameters = {k: v for k, v in loaded.get_params().items() if k != "features"}
    assert parameters == {k: v for k, v in encoder.get_params().items() if k != "features"}


def test_a_voxel_without_data_is_nan_and_harms_no_other(encoder, problem):
    X, betas, _ = problem
    whole = clone(encoder).fit(X, betas).predict(X)
    holed = betas.copy()
    holed[:, :, 3] = np.nan
    prediction = encoder.fit(X, holed).predict(X)
    assert np.isnan(prediction[:, 3]).all()
    assert np.isnan(encoder.sample(X, 2, 0)[..., 3]).all()
    others = np.arange(7) != 3
    np.testing.assert_allclose(prediction[:, others], whole[:, others], rtol=1e-4, atol=1e-4)


def test_an_image_that_a_voxel_lacks_is_left_out_for_that_voxel(encoder, problem):
    X, betas, _ = problem
    holed = betas.copy()
    holed[:30, :, 2] = np.nan
    prediction = encoder.fit(X, holed).predict(X)
    alone = clone(encoder).fit(X[30:], betas[30:, :, [2]]).predict(X)
    # Features are scaled over all images here and over 60 there, which moves the shrinkage a
    # little; counting the missing images as responses of 0 would move predictions by about 1.
    np.testing.assert_allclose(prediction[:, 2], alone[:, 0], atol=0.1)


def test_token_features(encoder, problem):
    X, betas, _ = problem
    tokens = X.reshape(90, 3, 4)
    prediction = encoder.fit(tokens, betas).predict(tokens)
    np.testing.assert_allclose(prediction, clone(encoder).fit(X, betas).predict(X), atol=1e-3)
    if encoder.__class__.__name__ != "MeanEncoder":
        with pytest.raises(ValueError, match=r"features .* do not fit"):
            encoder.predict(X.reshape(90, 3, 2, 2)[:, :, 0])


def test_images_through_a_transformer(problem):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 4, 4), dtype=np.uint8)
    betas = images.reshape(40, -1)[:, None, :5] / 50 + 0.1 * rng.standard_normal((40, 2, 5))
    for name in NAMES[1:]:
        encoder = make_encoder(name, features=PixelFeatures()).fit(images, betas)
        flat = make_encoder(name, features=None).fit(PixelFeatures().transform(images), betas)
        np.testing.assert_allclose(
            encoder.predict(images), flat.predict(PixelFeatures().transform(images)), atol=1e-5
        )
    mean = make_encoder("mean").fit(images, betas)
    np.testing.assert_allclose(mean.predict(images)[0], betas.mean((0, 1)), rtol=1e-5)


def test_scikit_learn_tools_take_three_axes_of_betas(encoder, problem):
    X, betas, _ = problem
    pipeline = make_pipeline(StandardScaler(), encoder)
    scoring = "neg_mean_squared_error" if encoder.__class__.__name__ == "MeanEncoder" else None
    complete = np.nan_to_num(betas, nan=4)
    target = complete[:, 0] if scoring else complete
    scores = cross_val_score(pipeline, X, target, cv=3, scoring=scoring)
    assert np.isfinite(scores).all()
    if scoring is None:
        assert scores.mean() > 0.5


@pytest.mark.parametrize("name", ["ridge", "banded"])
def test_grid_search_finds_the_useful_parameter(name, problem):
    X, betas, _ = problem
    search = GridSearchCV(
        make_encoder(name, features=None), {"alphas": [[1e6], [1.0]]}, cv=3, error_score="raise"
    ).fit(X, betas)
    assert search.best_params_ == {"alphas": [1.0]}


def test_adapt_makes_a_new_encoder_and_leaves_the_old(encoder, problem):
    X, betas, _ = problem
    before = encoder.fit(X, betas).predict(X)
    other = encoder.adapt(X[:40], betas[:40, :, :3])
    assert other.predict(X).shape == (90, 3)
    np.testing.assert_array_equal(encoder.predict(X), before)


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, b: (X[:-1], b), "90 rows, but there are 89 images"),
        (lambda X, b: (X[:1], b[:1]), "1 image"),
        (lambda X, b: (np.where(X > 2, np.nan, X), b), "NaN"),
        (lambda X, b: (np.where(X > 2, np.inf, X), b), "infinity"),
        (lambda X, b: (X, np.where(b > 9, np.inf, b)), "infinite"),
        (lambda X, b: (X, np.full_like(b, np.nan)), "nothing but NaN"),
        (lambda X, b: (X, b[..., None]), "must be"),
        (lambda X, b: (X[:, None, None, None], b), "features .* must be"),
    ],
)
def test_bad_input_is_named(encoder, problem, change, message):
    X, betas, _ = problem
    with pytest.raises(ValueError, match=message):
        encoder.fit(*change(X, betas))


def test_images_without_features_are_refused_with_the_way_on(problem):
    images = np.zeros((10, 8, 8, 3), dtype=np.uint8)
    for name in NAMES[1:]:
        with pytest.raises(TypeError, match="GaborPyramid"):
            make_encoder(name, features=None).fit(images, np.ones((10, 2)))


def test_features_where_a_transformer_wants_images(problem):
    X, betas, _ = problem
    for name in NAMES[1:]:
        with pytest.raises((TypeError, ValueError), match="images"):
            make_encoder(name, features=PixelFeatures()).fit(X, betas)


def test_unfitted_and_bad_counts(encoder, problem):
    X, betas, _ = problem
    for call in (encoder.predict, encoder.sample):
        with pytest.raises(NotFittedError):
            call(X)
    with pytest.raises(NotFittedError):
        encoder.save("nowhere")
    with pytest.raises(ValueError, match="n=0"):
        encoder.fit(X, betas).sample(X, n=0)


@pytest.mark.parametrize("name", NAMES[1:])
def test_fewer_images_than_folds(name, problem):
    X, betas, _ = problem
    with pytest.raises(ValueError, match="5 folds need at least 5 images, but there are 4"):
        make_encoder(name).fit(X[:4], betas[:4])


# -------------------------------------------------------------------- saved models


def test_a_model_from_a_newer_version_is_refused(encoder, problem, tmp_path):
    X, betas, _ = problem
    folder = encoder.fit(X, betas).save(tmp_path / "model")
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


def test_a_parameter_that_cannot_be_saved_does_not_cost_the_model(problem, tmp_path):
    from sklearn.model_selection import KFold

    X, betas, _ = problem
    encoder = make_encoder("ridge", cv=KFold(4)).fit(X, betas)
    with pytest.warns(UserWarning, match=r"cv=KFold.*cannot be saved"):
        folder = encoder.save(tmp_path / "model")
    np.testing.assert_array_equal(brainenc.load(folder).predict(X), encoder.predict(X))


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
