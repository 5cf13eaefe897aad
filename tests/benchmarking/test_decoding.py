"""The decoding benchmark: its rows, nulls, ids, refusals, and taking up a run."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc.benchmarking import decoding_rows as rows_of
from brainenc.benchmarking.decoding_inputs import AVERAGE, DecodingInputs, first_trials
from brainenc.benchmarking.decoding_permuted import ALL, permuted_scores, smoother, top_in_pools
from brainenc.benchmarking.decoding_pools import expected_top
from brainenc.benchmarking.decoding_scores import joined, places
from brainenc.metrics import cosine_similarity, retrieval

N = 120
STANDING = [
    "chance",
    "ridge decoder",
    "training images permuted",
    "mean of all voxels",
    "ROI means",
    "category known",
    "ridge encoder as decoder",
    "repeat against repeat",
]
QUICK = {"n_bootstraps": 50, "n_permutations": 40, "n_pools": 5, "check": False, "verbose": False}


@pytest.fixture(scope="module")
def problem():
    """Data with ROIs, categories and missing repeats, and targets (images, dimensions)."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((N, 8)) + 2
    labels = np.array(["cat", "dog", "cow"])[targets[:, :3].argmax(axis=1)]
    signal = targets @ rng.standard_normal((8, 24))
    betas = signal[:, None] + 2.5 * rng.standard_normal((N, 3, 24)) + 5
    betas[rng.random((N, 3)) < 0.1] = np.nan
    betas[np.isnan(betas).all(axis=(1, 2)), 0] = signal.mean()
    data = brainenc.EncodingData(
        rng.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8),
        betas.astype(np.float32),
        voxels=pd.DataFrame({"roi": ["V1"] * 10 + ["V2"] * 8 + [None] * 6}),
        stimuli=pd.DataFrame({"name": [f"picture {i}" for i in range(N)], "category": labels}),
    )
    return data, targets


@pytest.fixture(scope="module")
def result(problem, tmp_path_factory):
    data, targets = problem
    out = tmp_path_factory.mktemp("decoding") / "run"
    decoders = {"encoder": brainenc.LatentEncoder(n_members=0)}
    return brainenc.decoding_benchmark(data, decoders, targets=targets, cv=3, out=out, **QUICK), out


def row_of(result, decoder, responses=AVERAGE):
    table = result.decoders.set_index(["decoder", "responses"])
    return table.loc[(decoder, responses)]


# -------------------------------------------------------------------- rows and scores


def test_the_rows_that_are_always_there(result):
    found = result[0].decoders
    assert set(found["decoder"]) == {*STANDING, "encoder"}
    assert (found["error"] == "").all()
    for decoder in (rows_of.RIDGE, rows_of.PERMUTED, rows_of.WHOLE, rows_of.ENCODER, "encoder"):
        assert set(found.loc[found["decoder"] == decoder, "responses"]) == {AVERAGE, "one trial"}
    scores = result[0].scores
    ridge = scores[(scores["decoder"] == rows_of.RIDGE) & (scores["responses"] == AVERAGE)]
    assert set(zip(ridge["similarity"], ridge["pools"], strict=True)) == {
        ("centred", "random"),
        ("uncentred", "random"),
        ("CSLS (uses all test responses)", "random"),
        ("centred", "nearest"),
        ("centred", "same category"),
    }


def test_signal_is_decoded_and_nulls_are_not(result):
    result = result[0]
    chance = 1 / 40
    assert row_of(result, rows_of.RIDGE)["image_retrieval"] > 8 * chance
    assert row_of(result, rows_of.RIDGE)["relative_mse"] < 0.5
    assert row_of(result, rows_of.PERMUTED)["image_retrieval"] < 4 * chance
    assert row_of(result, rows_of.PERMUTED)["relative_mse"] > 0.9
    assert abs(row_of(result, rows_of.CATEGORY)["image_retrieval"] - 3 * chance) < chance
    one = row_of(result, rows_of.RIDGE, "one trial")
    assert one["image_retrieval"] < row_of(result, rows_of.RIDGE)["image_retrieval"]


def test_scores_are_those_of_a_decoder_fitted_by_hand(problem, result):
    data, targets = problem
    hits, errors, null = [], [], []
    for train, test in brainenc.model_selection.image_folds(3, N):
        decoder = brainenc.RidgeDecoder().fit(data.betas[train], targets[train])
        predicted = decoder.predict(data.betas[test])
        mean = targets[train].mean(axis=0)
        similarity = cosine_similarity(predicted, targets[test], mean=mean)
        hits += (similarity.argmax(axis=1) == np.arange(len(test))).tolist()
        errors.append(np.square(predicted - targets[test]).sum())
        null.append(np.square(mean - targets[test]).sum())
    found = row_of(result[0], rows_of.RIDGE)
    assert found["pool_size"] == 40  # all of a fold
    assert found["image_retrieval"] == pytest.approx(np.mean(hits))
    assert found["relative_mse"] == pytest.approx(sum(errors) / sum(null), rel=1e-4)


def test_permuted_and_ridge_in_one_regression_are_two_fits(problem):
    data, targets = problem
    train, test = np.arange(110), np.arange(110, N)  # one penalty per dimension from 100
    fold = DecodingInputs(data, targets, None, False).fold(train, test)
    found = {(o.row, o.responses): o for o in rows_of.ridge_and_permuted("ridge", 0)(fold)}
    order = np.random.default_rng([0, int(train.sum())]).permutation(len(train))
    for row, Y in (("ridge", targets[train]), (rows_of.PERMUTED, targets[train][order])):
        alone = brainenc.RidgeDecoder().fit(data.betas[train], Y).predict(data.betas[test])
        mean = targets[train].mean(axis=0)
        expected = cosine_similarity(alone, targets[test], mean=mean)
        np.testing.assert_allclose(found[row, AVERAGE].similarities["centred"], expected, atol=2e-4)


def test_repeats_are_matched_without_the_one_that_is_looked_for(problem):
    data, targets = problem
    train, test = np.arange(60), np.arange(60, N)
    fold = DecodingInputs(data, targets, None, False).fold(train, test)
    (found,) = rows_of.of_repeats(fold)
    several = np.isfinite(data.betas[test][..., 0]).sum(axis=1) >= 2
    np.testing.assert_array_equal(found.images, test[several])
    # Each trial is independent of the others given the image: no perfect matches.
    better, _, _ = places(found.similarities["centred"])
    assert 0.1 < (better == 0).mean() < 0.98
    image = int(np.flatnonzero(several)[0])
    trials = data.betas[test][image]
    trials = trials[np.isfinite(trials[:, 0])]
    mean = np.nanmean(np.nanmean(data.betas[train], axis=1), axis=0)
    sd = np.nanstd(data.betas[train], axis=(0, 1))
    pair = [(trials[-1] - mean) / sd, (trials[:-1].mean(axis=0) - mean) / sd]
    assert found.similarities["centred"][0, 0] == pytest.approx(np.corrcoef(pair)[0, 1], abs=1e-4)


def test_first_trials_are_those_that_are_there(problem):
    betas = problem[0].betas
    found = first_trials(betas)
    for image in range(N):
        present = np.flatnonzero(np.isfinite(betas[image]).any(axis=1))
        np.testing.assert_array_equal(found[image, 0], betas[image, present[0]])


def test_the_signal_of_a_simulated_subject_is_in_the_units_of_its_betas():
    data = brainenc.datasets.simulate_subject(60, 12, random_state=0, verbose=False)
    for one in (data, data.zscore_by_session()):
        signal = DecodingInputs(one, data.truth.tokens, None, False).signal
        many = one.truth.sample(400, random_state=1).mean(axis=0)
        error = one.truth.sample(400, random_state=2).std(axis=0) / np.sqrt(400)
        assert (np.abs(many - signal) < 5 * error).all()


# -------------------------------------------------------------------- permutations and pools


def test_the_smoother_predicts_as_ridge_fitted_to_permuted_targets(problem):
    data, targets = problem
    train, test = np.arange(80), np.arange(80, N)
    fold = DecodingInputs(data, targets, None, False).fold(train, test)
    weights = smoother(fold, 30.0)
    mean = targets[train].mean(axis=0)
    order = np.random.default_rng(1).permutation(len(train))
    for Y in (targets[train], targets[train][order]):
        ridge = brainenc.RidgeDecoder(alphas=[30.0]).fit(data.betas[train], Y)
        expected = ridge.predict(data.betas[test]) - mean
        np.testing.assert_allclose(weights @ (Y - mean), expected, atol=1e-3)


@pytest.mark.parametrize("n_voxels", [24, 5])
def test_both_forms_of_the_smoother_agree(problem, n_voxels):
    data, targets = problem
    some = np.arange(7)  # fewer rows than voxels, or more
    kept = data.select(voxels=np.arange(n_voxels))
    fold = DecodingInputs(kept, targets, None, False).fold(some, np.arange(80, N))
    ridge = brainenc.RidgeDecoder(alphas=[3.0]).fit(kept.betas[some], targets[some])
    expected = ridge.predict(kept.betas[80:]) - targets[some].mean(axis=0)
    found = smoother(fold, 3.0) @ (targets[some] - targets[some].mean(axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_permuted_scores_are_at_chance_and_within_categories_at_that_of_the_category(problem):
    data, targets = problem
    fold = DecodingInputs(data, targets, None, False).fold(np.arange(80), np.arange(80, N))
    found = permuted_scores(fold, 30.0, 40, 200, seed=0)
    chance, spread = 1 / 40, found.null[ALL].std(axis=0)
    assert (found.observed > 10 * chance).all()
    assert (np.abs(found.null[ALL].mean(axis=0) - chance) < 4 * spread / np.sqrt(200)).all()
    assert (found.null["within category"].mean(axis=0) > 1.5 * chance).all()


def test_expected_top_is_the_mean_over_all_pools():
    from itertools import combinations

    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (7, 7)).astype(float)  # with ties
    better, ties, _ = places(values)
    for size in (2, 4, 7):
        for i in range(7):
            others = [j for j in range(7) if j != i]
            scores = []
            for pool in combinations(others, size - 1):
                rivals = values[i, list(pool)]
                above, equal = (rivals > values[i, i]).any(), (rivals == values[i, i]).sum()
                scores.append(0.0 if above else 1 / (1 + equal))
            assert expected_top(better[[i]], ties[[i]], 7, [size]) == pytest.approx(np.mean(scores))


def test_retrieval_in_pools_is_near_its_expectation(problem):
    similarity = np.random.default_rng(0).standard_normal((60, 60)) + 2 * np.eye(60)
    ids = np.arange(60)
    found = retrieval(similarity, query_ids=ids, candidate_ids=ids, pool_size=20, n_pools=2000)
    expected = top_in_pools(similarity, 20)
    assert found.image_retrieval == pytest.approx(expected[0], abs=0.01)
    assert found.brain_retrieval == pytest.approx(expected[1], abs=0.01)


def test_joined_folds_count_each_image_once():
    rng = np.random.default_rng(0)
    parts, hits = [], {}
    for ids in (np.arange(12), np.arange(8, 20)):  # images 8 … 11 are tested twice
        values = rng.standard_normal((12, 12)) + np.eye(12)
        one = retrieval(values, query_ids=ids, candidate_ids=ids, pool_size=12, n_pools=1)
        parts.append(one)
        for image, right in zip(ids, values.argmax(axis=1) == np.arange(12), strict=True):
            hits.setdefault(image, []).append(right)
    found = joined(parts)
    assert found.ids.tolist() == list(range(20))
    np.testing.assert_allclose(found.image.scores, [np.mean(hits[i]) for i in range(20)])
    assert found.image_retrieval == pytest.approx(np.mean(np.concatenate(list(hits.values()))))
    assert found.image.chance == pytest.approx(1 / 12)


def test_choices_name_the_images_of_the_data(problem, result):
    data, targets = problem
    choices = result[0].choices
    of_ridge = choices[
        (choices["decoder"] == rows_of.RIDGE) & (choices["direction"] == "image_retrieval")
    ]
    assert set(of_ridge["image"]) == set(range(N))
    assert (of_ridge["name"] == [f"picture {i}" for i in of_ridge["image"]]).all()
    assert (of_ridge["image"] != of_ridge["wrong_image"]).all()
    train, test = brainenc.model_selection.image_folds(3, N)[1]
    decoder = brainenc.RidgeDecoder().fit(data.betas[train], targets[train])
    similarity = decoder.similarity(data.betas[test], targets[test])
    np.fill_diagonal(similarity, -np.inf)
    first = of_ridge[of_ridge["place"] == 1].set_index("image")["wrong_image"]
    assert (first.loc[test] == test[similarity.argmax(axis=1)]).mean() > 0.97  # round-off
    assert set(choices.loc[choices["shown"], "image"]) <= set(result[0].pictures["image"])


def test_differences_are_paired_and_signed(result):
    pairs = result[0].pairs
    one = pairs[
        (pairs["decoder_a"] == rows_of.RIDGE)
        & (pairs["decoder_b"] == rows_of.PERMUTED)
        & (pairs["responses"] == AVERAGE)
        & (pairs["similarity"] == "main")
    ].set_index("direction")
    a, b = row_of(result[0], rows_of.RIDGE), row_of(result[0], rows_of.PERMUTED)
    for direction in ("image_retrieval", "brain_retrieval"):
        assert one.loc[direction, "difference"] == pytest.approx(a[direction] - b[direction])
        assert one.loc[direction, "low"] > 0


# -------------------------------------------------------------------- files


def test_a_saved_result_comes_back_and_its_page_shows_pictures(result):
    found, out = result
    loaded = brainenc.DecodingResult.load(out)
    for name in ("decoders", "scores", "pairs", "pool_sizes", "rois", "permuted", "choices"):
        pd.testing.assert_frame_equal(
            getattr(loaded, name), getattr(found, name), check_dtype=False
        )
    page = (out / "decoding.html").read_text()
    for text in ("ridge encoder as decoder", "given a response", "Retrieval against pool size"):
        assert text in page
    assert page.count("data:image/png;base64,") > 20
    assert "picture 1" in page


def test_a_run_is_taken_up_and_a_damaged_fit_is_fitted_again(problem, result):
    data, targets = problem
    found, out = result
    before = {path: path.stat().st_mtime_ns for path in out.glob("fits/*/*/arrays.npz")}
    damaged = next(path for path in before if "mean_of_all" in str(path))
    damaged.write_bytes(b"nothing")
    decoders = {"encoder": brainenc.LatentEncoder(n_members=0)}
    again = brainenc.decoding_benchmark(data, decoders, targets=targets, cv=3, out=out, **QUICK)
    after = {path: path.stat().st_mtime_ns for path in out.glob("fits/*/*/arrays.npz")}
    assert {path for path in before if after[path] != before[path]} == {damaged}
    pd.testing.assert_frame_equal(again.scores, found.scores, check_exact=False, rtol=1e-9)
    other = brainenc.decoding_benchmark(
        data, decoders, targets=targets + np.arange(N)[:, None] / N, cv=3, out=out, **QUICK
    )
    assert row_of(other, rows_of.RIDGE)["r"] != row_of(found, rows_of.RIDGE)["r"]


def test_fits_of_other_rois_are_not_taken_up(problem, tmp_path):
    data, targets = problem
    other = brainenc.EncodingData(
        data.images,
        data.betas,
        voxels=pd.DataFrame({"roi": [None] * 6 + ["V1"] * 10 + ["V2"] * 8}),  # the same names
        stimuli=data.stimuli,
    )
    options = {**QUICK, "targets": targets, "cv": 2}
    before = brainenc.decoding_benchmark(data, {}, out=tmp_path / "run", **options)
    found = brainenc.decoding_benchmark(other, {}, out=tmp_path / "run", **options)
    expected = brainenc.decoding_benchmark(other, {}, **options)
    pd.testing.assert_frame_equal(found.rois, expected.rois)
    assert not np.allclose(found.rois["image_retrieval"], before.rois["image_retrieval"])
    means = [one.scores[one.scores["decoder"] == rows_of.ROIS] for one in (found, expected)]
    pd.testing.assert_frame_equal(*means)


def test_fits_without_the_true_signal_are_not_those_with_it(tmp_path):
    data = brainenc.datasets.simulate_subject(60, 12, random_state=0, verbose=False)
    plain = brainenc.EncodingData(data.images, data.betas, data.voxels, data.trials)
    labels = data.truth.category
    options = {**QUICK, "targets": data.truth.tokens, "cv": 2, "out": tmp_path / "run"}
    brainenc.decoding_benchmark(plain, {}, category=labels, **options)
    found = brainenc.decoding_benchmark(data, {}, category=labels, **options)
    of_ridge = found.decoders[found.decoders["decoder"] == rows_of.RIDGE]
    assert "noise-free signal" in set(of_ridge["responses"])


def test_a_folder_of_something_else_is_refused(problem, tmp_path):
    data, targets = problem
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(FileExistsError, match="a run of one subject"):
        brainenc.decoding_benchmark(data, {}, targets=targets, out=tmp_path, **QUICK)


# -------------------------------------------------------------------- inputs


def test_a_decoder_that_fails_is_reported_and_the_others_finish(problem):
    data, targets = problem
    bad = brainenc.RidgeDecoder(train_on="nothing")
    with pytest.warns(RuntimeWarning, match="bad failed: ValueError: train_on"):
        found = brainenc.decoding_benchmark(data, {"bad": bad}, targets=targets, cv=2, **QUICK)
    table = found.decoders.set_index("decoder")
    assert "train_on" in table.loc["bad", "error"]
    assert np.isfinite(row_of(found, rows_of.RIDGE)["image_retrieval"])


def test_a_given_ridge_decoder_takes_the_place_of_the_reference(problem):
    data, targets = problem
    decoders = {"mine": brainenc.RidgeDecoder(), "enc": brainenc.RidgeEncoder()}
    found = brainenc.decoding_benchmark(data, decoders, targets=targets, cv=2, **QUICK)
    names = set(found.decoders["decoder"])
    assert {"mine", "enc"} <= names
    assert not {rows_of.RIDGE, rows_of.ENCODER} & names


def test_extractors_that_learn_are_fitted_to_the_training_images(problem):
    data, _ = problem
    learned = make_pipeline(brainenc.PixelFeatures(8, verbose=False), PCA(4))
    inputs = DecodingInputs(data, learned, None, False)
    train, test = np.arange(60), np.arange(60, N)
    pixels = brainenc.PixelFeatures(8, verbose=False).fit_transform(data.images)
    expected = PCA(4).fit(pixels[train]).transform(pixels[test])
    fold = inputs.fold(train, test)
    np.testing.assert_allclose(np.abs(fold.test_targets), np.abs(expected), rtol=1e-2, atol=1e-3)


def test_dimensions_constant_in_training_are_left_out_with_a_note(problem):
    data, targets = problem
    rare = np.zeros((N, 1))
    rare[100] = 1
    inputs = DecodingInputs(data, np.hstack([targets, rare]), None, False)
    fold = inputs.fold(np.arange(80), np.arange(80, N))
    assert fold.targets.shape == (80, 8)
    assert fold.test_targets.shape == (40, 8)
    assert "1 of 9 dimensions" in inputs.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:-1], "a row for each of 120 images"),
        (lambda t: np.where(np.arange(N)[:, None] == 3, np.nan, t), "NaN or infinity for 1 images"),
        (lambda t: np.hstack([t, np.ones((N, 2))]), "constant over images in 2 dimensions"),
    ],
)
def test_targets_that_do_not_fit_are_refused(problem, change, message):
    data, targets = problem
    with pytest.raises(ValueError, match=message):
        brainenc.decoding_benchmark(data, {}, targets=change(targets), **QUICK)


def test_other_inputs_that_are_refused(problem):
    data, targets = problem
    fitted = brainenc.RidgeEncoder().fit(targets, data.betas)
    prefit = brainenc.EncoderDecoder(fitted, prefit=True)
    for decoders, error, message in (
        ({"a": prefit}, ValueError, "prefit=True"),
        ({"a": brainenc.RidgeDecoder(brainenc.PixelFeatures())}, ValueError, "targets="),
        ({"a": PCA()}, TypeError, "must be a decoder"),
        ([brainenc.RidgeDecoder()], TypeError, "must be a dict"),
        ({" ": brainenc.RidgeDecoder()}, ValueError, "is empty"),
        *(
            ({name: brainenc.RidgeDecoder()}, ValueError, f"'{name}' is that of a row")
            for name in set(STANDING) - {rows_of.RIDGE, rows_of.ENCODER}
        ),
        (dict.fromkeys((1, "1"), brainenc.RidgeDecoder()), ValueError, "'1' twice, as text"),
    ):
        with pytest.raises(error, match=message):
            brainenc.decoding_benchmark(data, decoders, targets=targets, **QUICK)
    for options, message in (
        ({"pool_size": 25, "cv": 5}, "smallest fold, 24"),
        ({"category": "kind"}, "no column of the table of stimuli"),
        ({"category": ["a"] * 5}, "5 labels"),
        ({"n_pools": 0}, "n_pools=0"),
    ):
        with pytest.raises(ValueError, match=message):
            brainenc.decoding_benchmark(data, {}, targets=targets, **{**QUICK, **options})
    with pytest.raises(TypeError, match="targets=None"):
        brainenc.decoding_benchmark(data, {}, targets=None, **QUICK)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", " "])
def test_missing_labels_are_no_category(problem, missing):
    data, targets = problem
    labels = np.array(data.stimuli["category"], dtype=object)
    labels[[7, 30]] = missing
    stimuli = data.stimuli.assign(category=labels)
    marked = brainenc.EncodingData(data.images, data.betas, data.voxels, stimuli=stimuli)
    message = r"no label for 2 of 120 images \(first: row 7\)"
    for category in (None, "category", labels):
        with pytest.raises(ValueError, match=message):
            brainenc.decoding_benchmark(marked, {}, targets=targets, category=category, **QUICK)
    codes = np.where(np.arange(N) == 5, np.nan, 1.0)
    with pytest.raises(ValueError, match=r"no label for 1 of 120 images \(first: row 5\)"):
        brainenc.decoding_benchmark(data, {}, targets=targets, category=codes, **QUICK)


def test_synthetic_trials_enter_no_test_fold(problem):
    data, targets = problem
    trials = data.trials.assign(synthetic=data.trials["image"] >= 90)
    marked = brainenc.EncodingData(data.images, data.betas, data.voxels, trials)
    with pytest.raises(ValueError, match=r"test fold 0: \d+ images have synthetic trials"):
        brainenc.decoding_benchmark(marked, {}, targets=targets, **QUICK)
    measured = [(np.arange(60, N), np.arange(60))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        brainenc.decoding_benchmark(marked, {}, targets=targets, cv=measured, **QUICK)


def test_an_image_on_both_sides_of_a_split_is_refused(problem):
    data, targets = problem
    leak = [(np.arange(70), np.arange(60, N))]
    with pytest.raises(ValueError, match="both train and test"):
        brainenc.decoding_benchmark(data, {}, targets=targets, cv=leak, **QUICK)


def test_without_rois_labels_and_repeats_the_other_rows_are_there(problem):
    data, targets = problem
    plain = brainenc.EncodingData(data.images, np.nanmean(data.betas, axis=1))
    found = brainenc.decoding_benchmark(plain, {}, targets=targets, cv=2, **QUICK)
    names = set(found.decoders["decoder"])
    assert not {rows_of.ROIS, rows_of.CATEGORY, rows_of.REPEATS} & names
    assert {rows_of.RIDGE, rows_of.WHOLE, rows_of.ENCODER, rows_of.PERMUTED} <= names
    assert found.rois.empty
    assert "no ROIs" in brainenc.report.decoding.render_decoding(found)


# -------------------------------------------------------------------- clusters


def test_cluster_folds_hold_out_whole_clusters():
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((4, 80))
    cluster = rng.permutation(np.repeat([0, 1, 2, 3], [30, 20, 10, 5]))
    targets = (centres[cluster] + rng.standard_normal((65, 80))).reshape(65, 8, 10)
    folds = brainenc.cluster_folds(targets, 4)
    assert [len(test) for _, test in folds] == [30, 20, 10, 5]
    for train, test in folds:
        assert len(set(cluster[test])) == 1
        assert not set(cluster[test]) & set(cluster[train])
        assert sorted([*train, *test]) == list(range(65))
    with pytest.raises(ValueError, match="k=1"):
        brainenc.cluster_folds(targets, 1)
    with pytest.raises(ValueError, match="NaN"):
        brainenc.cluster_folds(np.full((10, 3), np.nan), 2)
    alone = np.vstack([np.zeros((9, 2)) + rng.random((9, 2)), [[99.0, 99.0]]])
    with pytest.raises(ValueError, match="cluster of 1 image"):
        brainenc.cluster_folds(alone, 2)


def test_clusters_are_harder_than_random_folds(problem):
    data, _ = problem
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(4), N // 4)
    targets = 4 * rng.standard_normal((4, 8))[cluster] + rng.standard_normal((N, 8))
    signal = targets @ rng.standard_normal((8, 24))
    betas = signal[:, None] + 3 * rng.standard_normal((N, 2, 24))
    other = brainenc.EncodingData(data.images, betas.astype(np.float32))
    options = {**QUICK, "pool_size": 20}
    random = brainenc.decoding_benchmark(other, {}, targets=targets, cv=4, **options)
    held = brainenc.decoding_benchmark(
        other, {}, targets=targets, cv=brainenc.cluster_folds(targets, 4), **options
    )
    # Two-way identification of images of one cluster is not that of clusters.
    scores = [row_of(one, rows_of.RIDGE)["two_way_image"] for one in (random, held)]
    assert scores[1] < scores[0]


def test_an_encoder_with_an_extractor_of_its_own_chooses_images_by_its_features(problem):
    data, targets = problem
    pixels = brainenc.PixelFeatures(4, verbose=False)
    features = pixels.fit_transform(data.images)
    weights = np.random.default_rng(2).standard_normal((features.shape[1], 24))
    signal = (features - features.mean(axis=0)) @ weights
    betas = (signal / signal.std())[:, None] + 0.5 * np.random.default_rng(3).standard_normal(
        (N, 2, 24)
    )
    seen = brainenc.EncodingData(data.images, betas.astype(np.float32))
    decoders = {"own": brainenc.RidgeEncoder(pixels), "given": brainenc.RidgeEncoder(None)}
    found = brainenc.decoding_benchmark(seen, decoders, targets=targets, cv=2, **QUICK)
    own, given = row_of(found, "own"), row_of(found, "given")
    assert own["error"] == given["error"] == ""
    assert own["image_retrieval"] > 0.2 > given["image_retrieval"]  # the targets are other ones
    assert np.isnan(own["r"])
    assert np.isnan(own["relative_mse"])
    assert np.isfinite(given["relative_mse"])
