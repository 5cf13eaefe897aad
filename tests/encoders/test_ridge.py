"""RidgeEncoder against scikit-learn, and its choices for few images and many features."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from brainenc import PixelFeatures, RidgeEncoder, load_npz


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 30)) * rng.uniform(0.1, 10, 30) + 5
    betas = (X / X.std(0)) @ rng.standard_normal((30, 4)) / 3
    return X, betas[:, None] + rng.standard_normal((150, 3, 4))


@pytest.mark.parametrize("form", ["primal", "kernel"])
def test_predictions_are_those_of_a_scaler_and_ridge(problem, form):
    X, betas = problem
    encoder = RidgeEncoder(alphas=[20.0], form=form).fit(X[:100], betas[:100])
    scaler = StandardScaler().fit(X[:100])
    model = Ridge(alpha=20.0).fit(scaler.transform(X[:100]), betas[:100].mean(axis=1))
    expected = model.predict(scaler.transform(X[100:]))
    # Double precision up to the float32 of the result: 1e-6 of values up to about 5.
    np.testing.assert_allclose(encoder.predict(X[100:]), expected, atol=1e-5)


def test_forms_agree_in_single_precision(problem):
    X, betas = problem
    X, betas = X.astype(np.float32), betas.astype(np.float32)
    primal, kernel = (RidgeEncoder(form=form).fit(X, betas) for form in ("primal", "kernel"))
    assert (primal.form_, kernel.form_) == ("primal", "kernel")
    np.testing.assert_allclose(kernel.predict(X), primal.predict(X), atol=1e-3)
    wide = np.tile(X, (1, 6))
    assert RidgeEncoder().fit(wide, betas).form_ == "kernel"
    assert RidgeEncoder().fit(X, betas).form_ == "primal"


def test_centring_alone(problem):
    X, betas = problem
    encoder = RidgeEncoder(alphas=[20.0], standardize=False).fit(X, betas)
    model = Ridge(alpha=20.0).fit(X, betas.mean(axis=1))
    np.testing.assert_allclose(encoder.predict(X), model.predict(X), atol=1e-5)


def test_a_voxel_with_more_noise_gets_a_larger_alpha():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((300, 20))
    signal = X @ rng.standard_normal((20, 40))
    noise = np.repeat([0.5, 20.0], 20)
    encoder = RidgeEncoder().fit(X, signal + noise * rng.standard_normal(signal.shape))
    assert np.median(encoder.alphas_[20:]) > 3 * np.median(encoder.alphas_[:20])


def test_few_images_share_one_alpha_unless_told_otherwise(problem):
    X, betas = problem
    assert len(set(RidgeEncoder().fit(X[:99], betas[:99]).alphas_)) == 1
    own = RidgeEncoder(alpha_per_voxel=True).fit(X[:99], betas[:99]).alphas_
    shared = RidgeEncoder(alpha_per_voxel=False).fit(X, betas).alphas_
    assert len(set(own)) > 1
    assert len(set(shared)) == 1
    with pytest.raises(ValueError, match="alpha_per_voxel='some'"):
        RidgeEncoder(alpha_per_voxel="some").fit(X, betas)


def test_a_shared_alpha_lowers_the_error_on_sixteen_images_of_miyawaki(real_data):
    data = load_npz(real_data("miyawaki2008_s1_v1.npz"))
    error = {True: [], False: []}
    for seed in range(6):
        train, test = data.train_test(0.2, random_state=seed)
        measured = test.average_repeats().betas[:, 0]
        for per_voxel, errors in error.items():
            encoder = RidgeEncoder(PixelFeatures(verbose=False), alpha_per_voxel=per_voxel)
            prediction = encoder.fit(train.images, train.betas).predict(test.images)
            errors.append(np.mean(np.square(prediction - measured)))
    assert np.mean(error[False]) < np.mean(error[True])
    assert np.sum(np.less(error[False], error[True])) >= 5


def test_a_voxel_with_too_few_images_is_left_out_and_said(problem):
    X, betas = problem
    holed = betas.copy()
    holed[3:, :, 1] = np.nan
    with pytest.warns(UserWarning, match="1 voxels have data for fewer than 5 images"):
        encoder = RidgeEncoder().fit(X, holed)
    assert np.isnan(encoder.predict(X)[:, 1]).all()
    assert np.isnan(encoder.alphas_[1])


def test_refitting_forgets_the_former_form(problem):
    X, betas = problem
    encoder = RidgeEncoder(form="kernel").fit(X, betas)
    primal = encoder.set_params(form="primal").fit(X, betas).predict(X)
    np.testing.assert_array_equal(primal, RidgeEncoder(form="primal").fit(X, betas).predict(X))
    with pytest.raises(ValueError, match="form='dual'"):
        encoder.set_params(form="dual").fit(X, betas)


def test_memory_mapped_betas_and_features(problem, tmp_path):
    X, betas = problem
    for name, array in (("X", X), ("betas", betas)):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "betas")]
    np.testing.assert_array_equal(
        RidgeEncoder().fit(*mapped).predict(mapped[0]), RidgeEncoder().fit(X, betas).predict(X)
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_fit_lets_go_of_mapped_betas(tmp_path):
    def mapped():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) * 1024

    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 10), dtype=np.float32)
    betas = rng.standard_normal((500, 3, 10_000), dtype=np.float32)
    RidgeEncoder().fit(X[:20], betas[:20])  # libraries are mapped files too
    np.save(tmp_path / "betas.npy", betas)
    betas = np.load(tmp_path / "betas.npy", mmap_mode="r")
    before = mapped()
    RidgeEncoder().fit(X, betas)
    # Of 60 MB a few blocks of 4 MB, and what the system reads around them.
    assert mapped() - before < 20 * 2**20
