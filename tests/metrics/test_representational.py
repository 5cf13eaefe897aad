import numpy as np
import pytest
from references import hsic_unbiased, rdm_entries, resample
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from brainenc.metrics import linear_cka, rdm, rdm_correlation
from brainenc.metrics.representational import Geometry
from brainenc.numeric import average_ranks


def responses(n_images=15, n_voxels=40, *, seed=0):
    rng = np.random.default_rng(seed)
    a = 1 + rng.standard_normal((n_images, n_voxels))
    return a, a[:, : n_voxels // 2] + 2 * rng.standard_normal((n_images, n_voxels // 2))


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-11)])
def test_rdm_is_scipys(metric, dtype, tolerance):
    a = responses()[0].astype(dtype)
    # rdm computes in float64 and rounds to 12 decimals; float32 is what scipy is given here.
    wanted = squareform(pdist(a.astype(np.float64), metric))
    np.testing.assert_allclose(rdm(a, metric), wanted, rtol=tolerance, atol=1e-12)


def test_rdm_leaves_out_voxels_that_an_image_lacks_and_marks_constant_patterns():
    a, _ = responses()
    a[3, 7] = np.nan
    np.testing.assert_allclose(rdm(a), rdm(np.delete(a, 7, axis=1)), atol=1e-12)
    a[5] = 0.1
    undefined = np.isnan(rdm(a))
    assert undefined[5].all()
    assert undefined[:, 5].all()
    assert undefined.sum() == 2 * 15 - 1


def test_equal_patterns_are_at_distance_zero_and_correlate_with_nothing():
    # Their distances would be round-off, and its ranks would correlate with something.
    a, b = responses()
    same = np.broadcast_to(a[0], a.shape).astype(np.float32)
    assert (rdm(same) == 0).all()
    assert np.isnan(rdm_correlation(rdm(same), rdm(b)))


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("spearman", stats.spearmanr),
        ("pearson", stats.pearsonr),
        ("kendall", stats.kendalltau),
    ],
)
def test_rdm_correlation_is_scipys_above_the_diagonal(method, reference):
    a, b = (rdm(x) for x in responses())
    a = np.round(a, 1)  # ties
    above = np.triu_indices(15, k=1)
    found = rdm_correlation(a, b, method=method)
    assert found == pytest.approx(reference(a[above], b[above]).statistic, rel=1e-10)
    a[2] = a[:, 2] = np.nan
    kept = np.delete(np.arange(15), 2)
    smaller = rdm_correlation(a[np.ix_(kept, kept)], b[np.ix_(kept, kept)], method=method)
    assert rdm_correlation(a, b, method=method) == pytest.approx(smaller, rel=1e-10)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_an_image_drawn_twice_never_pairs_with_itself(method):
    a, b = (rdm(x) for x in responses())
    counts = np.random.default_rng(1).multinomial(15, np.full(15, 1 / 15), size=4)
    ranked = [np.zeros((15, 15)) for _ in range(2)]
    for ranks, values in zip(ranked, (a, b), strict=True):
        above = np.triu_indices(15, k=1)
        ranks[above] = stats.rankdata(values[above]) if method == "spearman" else values[above]
        ranks += ranks.T
    found = rdm_correlation(a, b, method=method, weights=counts)
    for r, row in zip(found, counts, strict=True):
        identity = resample(np.arange(15), row)
        wanted = stats.pearsonr(*(rdm_entries(ranks, identity) for ranks in ranked)).statistic
        assert r == pytest.approx(wanted, rel=1e-10)


def test_rdm_correlation_is_undefined_for_two_images():
    a, b = (rdm(x[:2]) for x in responses())
    assert np.isnan(rdm_correlation(a, b))
    assert np.isnan(rdm_correlation(a, b, method="kendall"))


def test_rdms_of_real_subjects_agree_between_sessions(real_data):
    # Human IT, two sessions of the same four subjects (Kriegeskorte et al. 2008): the RDMs of a
    # subject's two sessions must agree, and the average over subjects better than one subject.
    with np.load(real_data("kriegeskorte2008_92.npz")) as file:
        rdms = file["hIT_rdms"].astype(np.float64)
    single = [rdm_correlation(first, second) for first, second in rdms]
    together = rdm_correlation(rdms[:, 0].mean(0), rdms[:, 1].mean(0))
    above = np.triu_indices(92, k=1)
    wanted = [stats.spearmanr(a[above], b[above]).statistic for a, b in rdms]
    np.testing.assert_allclose(single, wanted, rtol=1e-10)
    assert together > np.mean(single) > 0.1


def feature_form(x, y):
    """Linear CKA by the features, as in Kornblith et al. (2019), equation 5."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


def test_plain_cka_is_the_ratio_of_feature_norms_also_of_resamples():
    a, b = responses()
    assert linear_cka(a, b, debiased=False) == pytest.approx(feature_form(a, b), rel=1e-10)
    counts = np.random.default_rng(2).multinomial(15, np.full(15, 1 / 15), size=4)
    found = linear_cka(a, b, debiased=False, weights=counts)
    wanted = [feature_form(resample(a, row), resample(b, row)) for row in counts]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def closed_form(x, y):
    """Song et al. (2012), equation 5."""
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    return (
        np.trace(k @ m)
        + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ m @ one)
    ) / (n * (n - 3))


def test_debiased_cka_is_the_closed_form_of_song():
    a, b = responses()
    wanted = closed_form(a, b) / np.sqrt(closed_form(a, a) * closed_form(b, b))
    assert linear_cka(a, b) == pytest.approx(wanted, rel=1e-9)


def test_debiased_cka_of_resamples_is_the_mean_over_tuples_of_different_images():
    a, b = responses(6, 10)
    counts = np.array([[1, 1, 1, 1, 1, 1], [2, 1, 0, 1, 1, 1], [0, 3, 1, 1, 0, 1]])
    for cka, row in zip(linear_cka(a, b, weights=counts), counts, strict=True):
        identity = resample(np.arange(6), row)
        ab, aa, bb = (
            hsic_unbiased(x[identity], y[identity], identity) for x, y in ((a, b), (a, a), (b, b))
        )
        assert cka == pytest.approx(ab / np.sqrt(aa * bb), rel=1e-9)
    assert np.isnan(linear_cka(a, b, weights=[[2, 2, 2, 0, 0, 0]]))  # three different images


def test_cka_does_not_see_rotation_shift_and_gain():
    a, _ = responses()
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((40, 40)))[0]
    assert linear_cka(a, 3 * a @ rotation - 5) == pytest.approx(1, abs=1e-10)
    assert linear_cka(a, 3 * a @ rotation - 5, debiased=False) == pytest.approx(1, abs=1e-10)


def test_only_the_plain_estimate_finds_likeness_in_noise():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 40, 4000))
    assert linear_cka(a, b, debiased=False) > 0.95
    # HSIC₁ of unrelated Gram matrices of p = 4000 voxels: correlation of 780 unrelated entries.
    assert abs(linear_cka(a, b)) < 4 / np.sqrt(780)


def test_cka_of_responses_that_do_not_vary_is_undefined():
    a, b = responses()
    jitter = np.full(a.shape, 0.1, dtype=np.float32)
    jitter[::2] = np.nextafter(jitter[::2], 1)
    for constant in (np.full(a.shape, 0.1), jitter):
        assert np.isnan(linear_cka(constant, b))
        assert np.isnan(linear_cka(constant, b, debiased=False))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: rdm(a, "corelation"), "did you mean 'correlation'"),
        (lambda a, b: rdm_correlation(a, b), r"rdm_a \(15, 40\) and rdm_b \(15, 20\)"),
        (lambda a, b: rdm_correlation(rdm(a), rdm(b), method="spearmen"), "mean 'spearman'"),
        (
            lambda a, b: rdm_correlation(
                rdm(a), rdm(b), method="kendall", weights=np.ones((1, 15))
            ),
            "weights are not supported",
        ),
        (lambda a, b: linear_cka(a, b[:9]), r"responses_a \(15, 40\) and responses_b \(9, 20\)"),
        (lambda a, b: rdm(a * np.nan), "no voxel is finite for all images in responses"),
    ],
)
def test_errors_say_how_to_mend_it(call, message):
    with pytest.raises(ValueError, match=message):
        call(*responses())


@pytest.mark.parametrize("constant", [False, True])
def test_a_geometry_compared_with_several_gives_the_scores_of_each_pair(constant):
    rng = np.random.default_rng(0)
    measured, a, b = rng.standard_normal((3, 25, 12))
    if constant:  # of one image: its correlation distances are undefined
        a[3] = 1.0
    counts = rng.multinomial(25, np.full(25, 1 / 25), size=20)
    geometry = Geometry(measured, counts)
    for others in (a, b, np.ones((25, 12)) * rng.standard_normal(12)):
        plain, weighted = geometry.cka(others)
        np.testing.assert_array_equal(plain, linear_cka(others, measured))
        np.testing.assert_array_equal(weighted, linear_cka(others, measured, weights=counts))
        plain, weighted = geometry.rdm_correlation(others)
        rdms = rdm(others), rdm(measured)
        np.testing.assert_array_equal(plain, rdm_correlation(*rdms))
        np.testing.assert_array_equal(weighted, rdm_correlation(*rdms, weights=counts))


@pytest.mark.parametrize("n", [0, 1, 2, 50])
@pytest.mark.parametrize("values", [[0.5], [1.0, 1.0, 2.0, -0.0, 0.0], [np.inf, -np.inf, 3.0, 3.0]])
def test_ranks_are_those_of_scipy(n, values):
    some = np.random.default_rng(n).choice(values, size=n)
    np.testing.assert_array_equal(average_ranks(some), stats.rankdata(some))
