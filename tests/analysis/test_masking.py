"""masking_curve: what is left, to the decoder and to one that is fitted anew; noise voxels."""

import numpy as np
import pytest

import brainenc


@pytest.fixture(scope="module")
def problem(subject):
    """300 images to learn from, and voxels of which the last 50 are noise alone."""
    rng = np.random.default_rng(0)
    train, test = (
        (np.concatenate([betas[:n], rng.standard_normal((n, 3, 50))], axis=2), tokens[:n, :4])
        for (betas, tokens), n in ((subject.train, 300), (subject.test, 200))
    )
    labels = tuple(subject.categories[rows] for rows in subject.rows)
    labels = labels[0][:300], labels[1][:200]
    return train, test, labels, brainenc.RidgeDecoder().fit(*train)


@pytest.fixture(scope="module")
def curve(problem):
    train, test, labels, decoder = problem
    return brainenc.masking_curve(
        decoder, train=train, test=test, shares=(0, 0.5, 0.9, 1), categories=labels, n_masks=2
    )


def test_less_is_read_from_fewer_voxels_and_fitting_anew_helps(curve):
    mean = curve.groupby(["refit", "share"])[
        ["image_retrieval", "brain_retrieval", "category_auc"]
    ].mean()
    for column in mean:
        assert mean[column][False, 0.9] < mean[column][False, 0.5] < mean[column][False, 0]
        assert mean[column][True, 0.9] < mean[column][True, 0]
    assert mean["image_retrieval"][True, 0.5] > mean["image_retrieval"][False, 0.5]


def test_without_masks_it_is_the_decoder_itself(curve, problem):
    _, (betas, targets), _, decoder = problem
    ids = np.arange(200)
    similarity = decoder.similarity(betas, targets)
    own = brainenc.metrics.retrieval(
        similarity, query_ids=ids, candidate_ids=ids, pool_size=200, n_pools=1
    )
    start = curve[curve["share"] == 0]
    assert (start["image_retrieval"] == own.image_retrieval).all()
    assert (start["brain_retrieval"] == own.brain_retrieval).all()
    assert (start["category_auc"] > 0.65).all()


def test_without_any_voxel_retrieval_is_undefined_and_auc_that_of_a_constant(curve):
    end = curve[curve["share"] == 1]
    assert (end["n_masked"] == 200).all()
    assert end[["image_retrieval", "brain_retrieval"]].isna().all(axis=None)
    assert (end["category_auc"] == 0.5).all()


def test_voxels_of_noise_can_be_masked_and_reliable_ones_cannot(problem):
    train, test, _, decoder = problem
    noise = np.arange(200) >= 150
    scores = {}
    for name, order in (("noise first", noise), ("noise last", ~noise), ("random", "random")):
        table = brainenc.masking_curve(
            decoder, train=train, test=test, shares=(0, 0.25), order=order, n_masks=2, refit=False
        )
        scores[name] = table.groupby("share")["brain_retrieval"].mean()
    full = scores["random"][0]
    # 200 images at about .5: an s.e. of .035 each; masking noise takes weights of noise away.
    assert scores["noise first"][0.25] > full - 0.05
    assert scores["noise last"][0.25] < full - 0.05
    assert scores["noise last"][0.25] < scores["random"][0.25] + 0.02


def test_an_order_without_ties_has_one_mask(problem):
    train, test, _, decoder = problem
    table = brainenc.masking_curve(
        decoder, train=train, test=test, shares=(0.5,), order=np.arange(200), refit=False, n_masks=7
    )
    assert table["mask"].tolist() == [0]
    # The largest numbers are masked first.
    betas = test[0].copy()
    betas[:, :, 100:] = np.nan
    ids = np.arange(200)
    own = brainenc.metrics.retrieval(
        decoder.similarity(betas, test[1]),
        query_ids=ids,
        candidate_ids=ids,
        pool_size=200,
        n_pools=1,
    )
    assert table["image_retrieval"].iloc[0] == own.image_retrieval


def test_permuted_training_images_are_at_chance_for_every_share(problem):
    train, test, labels, _ = problem
    order = np.random.default_rng(1).permutation(300)
    permuted = (train[0], train[1][order])
    table = brainenc.masking_curve(
        brainenc.RidgeDecoder().fit(*permuted),
        train=permuted,
        test=test,
        shares=(0, 0.5),
        categories=(labels[0][order], labels[1]),
        refit=False,
        n_masks=1,
    )
    chance = 1 / 200
    assert (table["image_retrieval"] < chance + 4 * np.sqrt(chance / 200)).all()
    assert (abs(table["category_auc"] - 0.5) < 0.1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": (50,)}, "between 0 and 1"),
        ({"order": "ncsnr"}, "'random' or an array"),
        ({"order": np.arange(199)}, "each of 200 voxels"),
        ({"order": np.full(200, np.nan)}, "finite number"),
        ({"n_masks": 0}, "at least 1"),
        ({"categories": np.zeros(300)}, "must be a pair"),
        ({"categories": (["a"] * 300, ["a"] * 3)}, "test have 3 rows"),
        ({"categories": (["a"] * 3, ["a"] * 200)}, "train have 3 rows"),
        ({"categories": (np.full((300, 2), 2), np.zeros((200, 2)))}, "or 0 or 1"),
    ],
)
def test_refused(problem, change, message):
    train, test, _, decoder = problem
    arguments = {"shares": (0.5,), "n_masks": 1, "refit": False, **change}
    with pytest.raises(ValueError, match=message):
        brainenc.masking_curve(decoder, train=train, test=test, **arguments)


def test_an_encoder_fitted_before_cannot_be_fitted_to_other_voxels(subject):
    decoder = brainenc.EncoderDecoder(subject.encoder, prefit=True).fit(*subject.train)
    pairs = {"train": subject.train, "test": subject.test}
    with pytest.raises(ValueError, match="refit=False"):
        brainenc.masking_curve(decoder, **pairs)
    table = brainenc.masking_curve(
        decoder, **pairs, shares=(0, 0.5, 1), n_masks=1, refit=False
    ).set_index("share")
    assert table["image_retrieval"][0] > table["image_retrieval"][0.5] > 0.1
    assert np.isnan(table["image_retrieval"][1])


def test_images_as_targets():
    data = brainenc.datasets.simulate_subject(90, 20, random_state=0)
    pixels = brainenc.PixelFeatures(8, verbose=False)
    train, test = ((data.betas[rows], data.images[rows]) for rows in (slice(60), slice(60, 90)))
    decoder = brainenc.RidgeDecoder(pixels).fit(*train)
    options = {"shares": (0.5,), "n_masks": 1, "categories": (np.arange(60) % 2, np.arange(30) % 2)}
    options["categories"] = tuple(part.astype(str) for part in options["categories"])
    found = brainenc.masking_curve(decoder, train=train, test=test, **options)
    arrays = tuple((betas, decoder.targets_.transform(images)) for betas, images in (train, test))
    plain = brainenc.RidgeDecoder(None).fit(*arrays[0])
    expected = brainenc.masking_curve(plain, train=arrays[0], test=arrays[1], **options)
    scores = ["image_retrieval", "brain_retrieval", "category_auc"]
    np.testing.assert_allclose(found[scores], expected[scores], atol=1e-12)
    areas = [
        brainenc.analysis.category_information(
            of, train=a, test=b, categories=options["categories"], n_bootstraps=3, n_permutations=3
        )["auc"]
        for of, a, b in ((decoder, train, test), (plain, *arrays))
    ]
    np.testing.assert_allclose(*areas, atol=1e-12)


def test_an_image_without_data_is_in_neither_score(problem):
    train, (betas, targets), labels, decoder = problem
    empty = betas.copy()
    empty[3] = np.nan  # no voxel
    order = np.arange(200)
    empty[8, :, order < 100] = np.nan  # those that half of the masks leave
    options = {"train": train, "order": order, "shares": (0, 0.5), "refit": False}
    found = brainenc.masking_curve(decoder, test=(empty, targets), categories=labels, **options)
    for row, missing in zip(found.itertuples(), ([3], [3, 8]), strict=True):
        some = np.delete(np.arange(200), missing)
        expected = brainenc.masking_curve(
            decoder,
            test=(empty[some], targets[some]),
            categories=(labels[0], labels[1][some]),
            **options,
        )
        one = expected[expected["share"] == row.share].iloc[0]
        assert row.category_auc == pytest.approx(one["category_auc"])
        assert 0.5 < row.category_auc < 1
