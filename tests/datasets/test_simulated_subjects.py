import numpy as np
import pytest

from brainenc.datasets import simulate_subject, simulate_subjects

SMALL = {"n_images": 120, "n_voxels": 60, "n_repeats": 2}


def weights_of(data):
    """Ridge weights of the true responses on the tokens, (n_features, n_voxels), and ROIs."""
    X = data.truth.tokens.reshape(data.n_images, -1).astype(float)
    X = (X - X.mean(0)) / X.std(0)
    Y = data.truth.signal - data.truth.signal.mean(0)
    Y = Y / Y.std(0)
    K = X @ X.T
    return X.T @ np.linalg.solve(K + 0.01 * np.trace(K) / len(K) * np.eye(len(K)), Y)


def test_shared_images_are_the_same_and_the_others_are_not():
    first, second = simulate_subjects(2, **SMALL, shared_images=30, random_state=1)
    np.testing.assert_array_equal(first.images[:30], second.images[:30])
    np.testing.assert_array_equal(first.truth.tokens[:30], second.truth.tokens[:30])
    assert not (first.images[30:] == second.images[30:]).all(axis=(1, 2, 3)).any()
    assert first.stimuli["shared"].tolist() == [True] * 30 + [False] * 90
    common = set(first.stimuli["name"]) & set(second.stimuli["name"])
    assert common == set(first.stimuli["name"][:30])


def test_subjects_have_voxels_noise_and_trials_of_their_own():
    first, second = simulate_subjects(2, **SMALL, shared_images=120, missing=0, session_drift=0)
    assert first.voxels["roi"].equals(second.voxels["roi"])  # the correspondence
    assert np.abs(first.truth.prfs - second.truth.prfs).to_numpy().min() > 0
    noise = [(d.betas - d.truth.signal[:, None]).reshape(-1) for d in (first, second)]
    # Noise correlated between voxels and of 14 400 values: s.e. well below .1.
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.1
    assert not first.trials["session"].equals(second.trials["session"])


def test_the_seed_and_not_the_number_of_subjects_makes_a_subject():
    two, three = (simulate_subjects(n, **SMALL, random_state=3) for n in (2, 3))
    np.testing.assert_array_equal(two[1].betas, three[1].betas)
    other = simulate_subjects(2, **SMALL, random_state=4)
    assert not np.array_equal(two[1].images[0], other[1].images[0])


def test_alikeness_is_the_share_of_variance_by_the_common_law():
    laws = {a: simulate_subjects(1, **SMALL, alikeness=a)[0].truth for a in (1.0, 0.5, 0.0)}

    def r(a, b):
        return np.array(
            [np.corrcoef(x, y)[0, 1] for x, y in zip(a.signal.T, b.signal.T, strict=True)]
        )

    # The two laws are independent: mixtures correlate √½ with each, up to chance in 60 voxels.
    assert abs(np.median(r(laws[1.0], laws[0.5])) - np.sqrt(0.5)) < 0.1
    assert abs(np.median(r(laws[0.0], laws[0.5])) - np.sqrt(0.5)) < 0.1
    for alikeness, truth in laws.items():
        assert truth.alikeness == alikeness
        np.testing.assert_allclose(truth.signal.std(0), truth.ncsnr * truth.noise_sd, rtol=1e-4)


def test_weights_of_one_subject_explain_another_only_if_they_are_alike():
    def overlap(alikeness):
        first, second = (weights_of(d) for d in simulate_subjects(2, **SMALL, alikeness=alikeness))
        axes = np.linalg.svd(first, full_matrices=False)[0][:, :10]
        axes_of_noise = np.linalg.qr(np.random.default_rng(0).standard_normal(axes.shape))[0]
        second = second / np.linalg.norm(second, axis=0)
        return [np.square(a.T @ second).sum(0).mean() for a in (axes, axes_of_noise)]

    alike, chance = overlap(1.0)
    assert alike > 0.3 > 10 * chance
    apart, _ = overlap(0.0)
    assert apart < alike / 2  # what is left are directions that images vary along


def test_results_are_named_after_the_alikeness(tmp_path):
    data = simulate_subjects(2, **SMALL, alikeness=0.25, name="toy")[1]
    assert data.name == "toy 2, alikeness 0.25"
    assert type(data).load(data.save(tmp_path / "two.brain")).name == data.name
    assert simulate_subject(20, 10).truth.alikeness == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alikeness": 1.2}, r"alikeness=1\.2"),
        ({"alikeness": np.nan}, "alikeness=nan"),
        ({"shared_images": 121}, r"shared_images=121 .* at most n_images=120"),
        ({"shared_images": -1}, "shared_images=-1"),
        ({"n_subjects": 0}, "n_subjects=0"),
        ({"n_voxels": 3}, "n_voxels=3"),
        ({"n_tokens": 5}, "n_tokens=5"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        simulate_subjects(**{**SMALL, **wrong})


def test_concepts_and_noise_voxels_are_of_each_subject():
    how = {"n_images": 120, "n_voxels": 100, "n_repeats": 2, "random_state": 3}
    first, second = simulate_subjects(2, **how, concepts=0.5, noise_voxels=0.25)
    kinds = [data.truth.selectivity for data in (first, second)]
    for data, kind in zip((first, second), kinds, strict=True):
        noise = kind["noise"].to_numpy()
        assert noise.sum() == 25
        assert (data.truth.ncsnr[noise] == 0).all()
        assert np.ptp(data.truth.signal[:, noise], axis=0).max() == 0
        high = data.voxels["roi"].isin(["FFA", "PPA", "EBA"]).to_numpy()
        assert 0.2 < (kind["colour"][high & ~noise] != "").mean() < 0.8
    assert not kinds[0]["noise"].equals(kinds[1]["noise"])  # drawn for each
    # Without them, and whatever they are, everything else is as it was.
    plain = simulate_subjects(1, **how)[0]
    np.testing.assert_array_equal(first.images, plain.images)
    same = ~kinds[0]["noise"].to_numpy() & (kinds[0]["colour"] == "").to_numpy()
    np.testing.assert_array_equal(first.truth.signal[:, same], plain.truth.signal[:, same])
    assert not plain.truth.selectivity["noise"].any()
    with pytest.raises(ValueError, match=r"noise_voxels=1\.5"):
        simulate_subjects(1, **how, noise_voxels=1.5)
