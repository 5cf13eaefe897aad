"""Parameters that are changed after a fit take effect at the next one: a fitted encoder stays."""

import numpy as np
import pytest
from sklearn.base import clone
from tiny_encoders import tiny_encoder

import brainenc
from brainenc.encoders import ENCODERS
from brainenc.features import GaborPyramid, PixelFeatures

PIXELS, GABOR = PixelFeatures(), GaborPyramid(n_scales=1, pool=2, size=16, verbose=False)

#: Where and how to compute; a loaded encoder may be moved.
PLACE = {"device", "precision", "verbose", "checkpoint_dir"}
#: Those that steer draws, and say so.
SAMPLING = {
    "mindsimulator": {"n_draws", "n_sampling_steps", "eta", "guidance", "noise_correlation"},
    "synbrain": {"noise_factor"},
}

#: A prior of other subjects, of any features.
OF_OTHERS = brainenc.WeightPrior.from_encoders(
    [
        brainenc.RidgeEncoder().fit(
            np.random.default_rng(3).standard_normal((20, 16)),
            np.random.default_rng(4).standard_normal((20, 3)),
        )
    ]
)
LINEAR = {"alphas": [7.0], "alpha_per_voxel": False, "cv": 3, "random_state": 5}
TRAINED = {"batch_size": 7, "learning_rate": 0.5, "weight_decay": 0.5, "random_state": 5}
NETWORK = {"sizes": "published", "blend": None, "min_images": 10_000, "n_members": 4, "n_epochs": 9}

#: Another legal value of every parameter.
OTHER = {
    "mean": {},
    "ridge": {
        "features": PIXELS,
        "form": "kernel",
        "standardize": False,
        "search": "guided",
        "prior": OF_OTHERS,
        "rois": ["FFA"],
        "selection": "evidence",
        **LINEAR,
    },
    "banded": {
        "features": {"a": PIXELS, "b": GABOR},
        "bands": {"a": 9},
        "n_iter": 3,
        "candidates": "chosen",
        "search": "guided",
        "prior": OF_OTHERS,
        "selection": "cross-validation",
        **LINEAR,
    },
    "kernelridge": {
        "features": PIXELS,
        "kernel": "polynomial",
        "candidates": [2],
        "standardize": False,
        "search": "guided",
        **LINEAR,
    },
    "pls": {
        "features": PIXELS,
        "n_components": [2, 3],
        "cv": 3,
        "standardize": False,
        "random_state": 5,
    },
    "latent": {
        "features": PIXELS,
        "bands": {"a": 9},
        "least_gain": 0.5,
        "n_latents": 3,
        "hidden": 12,
        "dropout": 0.6,
        "n_members": 0,
        "n_epochs": 9,
        "min_images": 10_000,
        "prior": OF_OTHERS,
        **TRAINED,
    },
    "synbrain": {
        "features": PIXELS,
        "sizes": "published",
        "vae_epochs": 9,
        "mapper_steps": 9,
        "relative_stop": 0.9,
        "ema_decay": 0.1,
        "architecture": "mlp",
        "variational": False,
        "contrastive": False,
        "s2n": False,
        "validation": 0.0,
        "standardize": False,
        "voxel_order": [5, 4, 3, 2, 1, 0],
        "average_targets": False,
        "fine_tuning_steps": 0,
        "read_out": False,
        "blend": None,
        "min_images": 10_000,
        **TRAINED,
    },
    "mindsimulator": {
        "features": PIXELS,
        "sizes": "published",
        "n_steps": 50,
        "gaussian_start": False,
        "condition_dropout": 0.9,
        "voxel_dropout": 0.9,
        "temperature": (0.4, 0.5),
        "autoencoder_epochs": 9,
        "prior_epochs": 9,
        "validation": 0.0,
        "blend": None,
        "min_images": 10_000,
        **TRAINED,
    },
    "mindreader": {
        "features": PIXELS,
        "clip": 0.1,
        "standardize": False,
        "mse_weight": 0.0,
        "cosine_weight": 9.0,
        **NETWORK,
        **TRAINED,
    },
    "roitransformer": {
        "features": PIXELS,
        "rois": ["V1", "V2"] * 3,
        "atlas": "roi",
        "hemispheres": False,
        "n_clusters": 5,
        **NETWORK,
        **TRAINED,
    },
    "stacked": {
        "encoders": [brainenc.MeanEncoder()],
        "features": PIXELS,
        "inputs": {"ridge": [0, 4], "mindreader": [4, 12]},
        "cv": "prefit",
        "pooling": 9000,
        "draws": "mixture",
        "random_state": 5,
    },
    "incontext": {
        "features": PIXELS,
        "prior": OF_OTHERS,
        "pretrained": None,  # tests/encoders/in_context changes one that is fitted with a net
        "untrained": "raise",
        "sizes": "published",
        "n_coordinates": 3,
        "n_steps": 9,
        "rois": ["FFA"],
        **{name: value for name, value in LINEAR.items() if name != "random_state"},
        **TRAINED,
    },
    "calibrated": {
        "encoder": brainenc.MeanEncoder(),
        "features": PIXELS,
        "groups": ["V1", "V2"] * 3,
        "cv": "prefit",
        "random_state": 5,
    },
}


@pytest.fixture(scope="module")
def arrays():
    """130 images × 16 features as 4 tokens; 6 voxels, 2 repeats. Four folds of five are 104."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((130, 4, 4)).astype(np.float32)
    betas = X.reshape(130, 16) @ rng.standard_normal((16, 6)) / 2
    return X, (betas[:, None] + rng.standard_normal((130, 2, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def pictures():
    """60 images of 16 × 16 pixels; 6 voxels, 2 repeats."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16), dtype=np.uint8)
    betas = images[:, :6, 0].astype(np.float32)[:, None] / 50
    return images, betas + rng.standard_normal((60, 2, 6)).astype(np.float32)


def outputs(encoder, X, betas):
    """All that an encoder says of some images."""
    X, betas = X[:12], betas[:12]
    found = {"predict": encoder.predict(X), "log_density": encoder.log_density(X, betas)}
    for noise in ("auto", "full", "latent", "trial", "signal", None):
        try:
            found[f"sample {noise}"] = encoder.sample(X, 3, 0, noise=noise)
        except ValueError as error:
            found[f"sample {noise}"] = str(error)
    found["lower"], found["upper"] = encoder.predict_interval(X)
    return found


def assert_same(encoder, problem, expected, changed):
    for name, values in outputs(encoder, *problem).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=f"{name} after {changed}")


def check(encoder, problem, others, folder):
    expected = outputs(encoder, *problem)
    for name, value in others.items():
        former = encoder.get_params(deep=False)[name]
        assert_same(encoder.set_params(**{name: value}), problem, expected, name)
        encoder.set_params(**{name: former})
    encoder.set_params(**others)
    assert_same(encoder, problem, expected, "all of them")
    loaded = brainenc.load(encoder.save(folder / "model"))
    assert_same(loaded, problem, expected, "all of them, saved and loaded")


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_has_another_value_here(name):
    known = set(tiny_encoder(name).get_params(deep=False))
    assert OTHER[name].keys() == known - PLACE - SAMPLING.get(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_no_parameter_moves_a_fitted_encoder(name, arrays, tmp_path):
    check(tiny_encoder(name).fit(*arrays), arrays, OTHER[name], tmp_path)


def of_images():
    """Encoders that make features of images, and parameters that would make others."""
    ridge = brainenc.RidgeEncoder(PIXELS)
    bands = brainenc.BandedRidgeEncoder({"pixels": PIXELS, "gabor": GABOR}, n_iter=2)
    members = [("a", ridge), ("b", brainenc.RidgeEncoder(GABOR)), ("c", brainenc.MeanEncoder())]
    mean, one = brainenc.MeanEncoder(), [("a", brainenc.MeanEncoder())]
    stack, calibrated = brainenc.StackedEncoder, brainenc.CalibratedEncoder
    other_stack = {"encoders": one, "features": None, "inputs": {"a": [0, 4]}, "cv": "prefit"}
    other_encoder = {"encoder": mean, "features": None, "cv": "prefit"}
    return {
        "ridge": (ridge, {"features": None}),
        "ridge of other features": (ridge, {"features": GABOR}),
        "banded": (bands, {"features": None, "bands": {"a": 3}}),
        "stacked": (stack(members), other_stack),
        "stacked, of one kind": (
            stack(members, features=PIXELS),
            {**other_stack, "features": "auto"},
        ),
        "calibrated": (calibrated(ridge, cv=2), other_encoder),
        "calibrated stack": (calibrated(stack(members), cv=2), other_encoder),
        "calibrated, of one kind": (
            calibrated(ridge, features=GABOR, cv=2),
            {**other_encoder, "features": "auto"},
        ),
    }


@pytest.mark.parametrize("case", of_images())
def test_features_of_images_stay_those_of_the_fit(case, pictures, tmp_path):
    encoder, others = of_images()[case]
    check(clone(encoder).fit(*pictures), pictures, others, tmp_path)


@pytest.mark.parametrize("name", ["stacked", "calibrated"])
def test_members_that_were_fitted_before_stay(name, arrays, tmp_path):
    X, betas = arrays
    ridge = brainenc.RidgeEncoder(None).fit(X[:60], betas[:60])
    given = {"encoder": ridge} if name == "calibrated" else {"encoders": {"ridge": ridge}}
    encoder = tiny_encoder(name, cv="prefit", **given).fit(X[60:], betas[60:])
    check(encoder, arrays, OTHER[name] | {"cv": 3}, tmp_path)


def test_the_users_own_members_are_not_those_of_the_fit(pictures):
    images, betas = pictures
    for make in (
        lambda ridge: brainenc.StackedEncoder({"a": ridge, "b": brainenc.MeanEncoder()}),
        lambda ridge: brainenc.CalibratedEncoder(ridge, cv=2),
    ):
        ridge = brainenc.RidgeEncoder(PIXELS)
        encoder = make(ridge).fit(images, betas)
        expected = encoder.predict(images)
        ridge.set_params(features=GABOR)
        np.testing.assert_array_equal(encoder.predict(images), expected)


def test_a_mixture_stays_one(arrays, tmp_path):
    encoder = tiny_encoder("stacked", draws="mixture").fit(*arrays)
    check(encoder, arrays, {"draws": "residual"}, tmp_path)


def test_a_stack_fitted_to_images_names_features_that_do_not_fit(pictures):
    images, betas = pictures
    for encoder in (
        brainenc.StackedEncoder([brainenc.MeanEncoder()]),
        brainenc.CalibratedEncoder(brainenc.MeanEncoder(), cv=2),
    ):
        encoder.fit(images, betas)
        with pytest.raises(ValueError, match="features"):
            encoder.predict(np.zeros((3, 5), dtype=np.float32))


def test_sampling_is_checked_when_it_samples_and_nothing_else_is(arrays):
    X, betas = arrays
    encoder = tiny_encoder("mindsimulator").fit(X, betas)
    expected = encoder.predict(X)
    np.testing.assert_array_equal(encoder.set_params(n_steps=0).predict(X), expected)
    for name, value in {"n_draws": 0, "n_sampling_steps": 0, "guidance": -1, "eta": 2}.items():
        changed = clone(encoder).set_params(n_steps=6, **{name: value})
        with pytest.raises(ValueError, match=f"{name}={value}"):
            changed.fit(X, betas)
        former = encoder.get_params()[name]
        with pytest.raises(ValueError, match=f"{name}={value}"):
            encoder.set_params(**{name: value}).sample(X)
        encoder.set_params(**{name: former})
    with pytest.raises(ValueError, match=r"sizes has \['widths'\]; there are \['n_latents'"):
        tiny_encoder("mindsimulator", sizes={"widths": 3}).fit(X, betas)


@pytest.fixture(scope="module")
def samplers(arrays):
    return {name: tiny_encoder(name).fit(*arrays) for name in ("mindsimulator", "synbrain")}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("mindsimulator", each) for each in ("n_draws", "eta", "guidance", "noise_correlation")]
    + [("synbrain", "noise_factor")],
)
@pytest.mark.parametrize("value", ["x", None, -1])
def test_a_wrong_parameter_of_the_sampling_is_named_when_it_draws(
    samplers, arrays, name, wrong, value
):
    encoder = samplers[name]
    former = getattr(encoder, wrong)
    try:
        with pytest.raises((TypeError, ValueError), match=f"{wrong}={value!r} must be"):
            encoder.set_params(**{wrong: value}).sample(arrays[0][:3], 2, 0, noise="latent")
    finally:
        encoder.set_params(**{wrong: former})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("latent", "n_latents"),
        ("synbrain", "vae_epochs"),
        ("mindsimulator", "prior_epochs"),
        ("mindreader", "n_members"),
        ("roitransformer", "batch_size"),
    ],
)
def test_a_count_that_is_no_whole_number_is_named(arrays, name, wrong):
    with pytest.raises(TypeError, match=f"{wrong}=2.5 must be an int"):
        tiny_encoder(name).set_params(**{wrong: 2.5}).fit(*arrays)
