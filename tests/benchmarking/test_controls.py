"""Null controls: right values by hand, chance where there is nothing, and what is said of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

import brainenc
from brainenc.benchmarking import BenchmarkResult
from brainenc.features.untrained import reinitialised, untrained
from brainenc.model_selection import image_folds

FEW = {"n_bootstraps": 50, "n_permutations": 9, "n_draws": 0, "check": False, "verbose": False}


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(150, 30, random_state=0)


def prepare(image):
    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255


def network(seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, 8), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten()
    )
    with torch.no_grad():
        net[0].weight *= 3  # so that it is not as it is drawn at first
    return net


def of_network(net, layer="3"):
    return brainenc.TorchFeatures(net, layer, preprocess=prepare, pool="flatten", verbose=False)


def r_by_hand(data, features, rows=None, encoder=None):
    """Mean r, centred within folds, of ridge on features; `rows` permutes them."""
    betas = np.asarray(data.betas)
    rows = np.arange(len(betas)) if rows is None else rows
    averages, predicted = np.nanmean(betas, axis=1), np.empty((len(betas), betas.shape[2]))
    for train, test in image_folds(3, len(betas)):
        fitted = clone(encoder or brainenc.RidgeEncoder(None)).fit(
            features[rows[train]], betas[train]
        )
        found = fitted.predict(features[rows[test]])
        predicted[test] = found - found.mean(axis=0)
        averages[test] -= averages[test].mean(axis=0)
    return np.mean([np.corrcoef(p, a)[0, 1] for p, a in zip(predicted.T, averages.T, strict=True)])


def run(data, encoders, **options):
    return brainenc.benchmark(data, encoders, cv=3, **(FEW | options))


def test_permuted_images_score_as_by_hand_and_at_chance(data):
    tokens = data.truth.tokens.reshape(150, -1)
    result = run(data, {"ridge": brainenc.RidgeEncoder()}, features=tokens)
    table = result.encoders.set_index("encoder")
    assert list(table.index) == ["mean", "ridge", "ridge, permuted images"]
    assert list(table["control"]) == ["", "", "permuted"]
    rows = np.random.default_rng([0, 0x9E37]).permutation(150)
    r = table["r"]
    assert r["ridge, permuted images"] == pytest.approx(r_by_hand(data, tokens, rows), abs=1e-5)
    assert r["ridge"] > 0.15
    # 150 images: the s.e. of a voxel's r is .08; voxels share images and features.
    assert abs(r["ridge, permuted images"]) < 0.06
    assert not [warning for warning in result.warnings if "credibly above" in warning]


def test_rows_of_encoders_are_the_same_with_and_without(data):
    encoders = {"ridge": brainenc.RidgeEncoder(), "mean": brainenc.MeanEncoder()}
    options = {"features": data.truth.tokens, "n_draws": 4}
    without = run(data, encoders, controls=False, **options)
    with_them = run(data, encoders, controls=True, **options)
    assert "control" not in without.encoders
    for name in ("encoders", "rois", "maps", "voxels", "draws"):
        more, fewer = getattr(with_them, name), getattr(without, name)
        if "encoder" in more:
            more = more[more["encoder"].isin(fewer["encoder"])]
        clock = ["control", "fit_seconds", "predict_images_per_second", "peak_memory_mb"]
        more, fewer = (t.drop(columns=clock, errors="ignore") for t in (more, fewer))
        # A row without draws makes single precision double.
        pd.testing.assert_frame_equal(
            more.reset_index(drop=True), fewer, check_exact=True, check_dtype=False
        )
    pairs = with_them.pairs
    of_controls = pairs["encoder_b"].str.contains("permuted")
    pd.testing.assert_frame_equal(
        pairs[~of_controls].reset_index(drop=True), without.pairs, check_exact=True
    )
    assert "ridge, permuted images" not in set(with_them.draws["encoder"])


def test_an_untrained_network_scores_as_by_hand(data):
    net = network()
    result = run(data, {"net": brainenc.RidgeEncoder(of_network(net))})
    r = result.encoders.set_index("encoder")["r"]
    assert list(r.index) == [
        *("mean", "net", "ridge, permuted images", "ridge, untrained Sequential"),
    ]
    torch.manual_seed(0)
    fresh = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, 8), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten()
    )
    by_hand = r_by_hand(data, of_network(fresh).fit_transform(data.images))
    assert r["ridge, untrained Sequential"] == pytest.approx(by_hand, abs=1e-5)
    assert r["net"] == pytest.approx(r_by_hand(data, of_network(net).fit_transform(data.images)))
    # Random weights times three are random weights: that is said.
    said = [w for w in result.warnings if w.startswith("net: r ") and "untrained Sequential" in w]
    assert len(said) == 1
    assert "no evidence for what the network has learned" in said[0]


def test_controls_of_features_that_learn(data):
    features = make_pipeline(of_network(network()), PCA(6, random_state=0))
    result = run(data, {"net": brainenc.RidgeEncoder(features)})
    r = result.encoders.set_index("encoder")["r"]
    untrained_features, _ = untrained(features, 0)
    shared = untrained_features[0].fit_transform(data.images)

    after = make_pipeline(PCA(6, random_state=0), brainenc.RidgeEncoder(None))
    by_hand = r_by_hand(data, shared, encoder=after)
    assert r["ridge, untrained Sequential"] == pytest.approx(by_hand, abs=1e-5)
    trained = of_network(network()).fit_transform(data.images)
    rows = np.random.default_rng([0, 0x9E37]).permutation(150)
    permuted = r_by_hand(data, trained, rows, after)
    assert r["ridge, permuted images"] == pytest.approx(permuted, abs=1e-5)


def test_each_set_of_features_has_one_of_each(data):
    pixels = brainenc.PixelFeatures(size=4, verbose=False)
    net = of_network(network())
    encoders = {
        "pixels": brainenc.RidgeEncoder(pixels),
        "net": brainenc.RidgeEncoder(net),
        "again": brainenc.RidgeEncoder(net, alphas=[1.0]),
        "both": brainenc.BandedRidgeEncoder({"pixels": pixels, "net": net}, n_iter=2),
        "stack": brainenc.StackedEncoder(
            [brainenc.RidgeEncoder(net), brainenc.RidgeEncoder(pixels)]
        ),
    }
    table = run(data, encoders).encoders
    counts = table["control"].value_counts()
    # The bands and the stack see the same columns in another order: sets of their own.
    assert counts["untrained"] == 1
    assert counts["permuted"] == 4
    assert not table["encoder"].duplicated().any()


@pytest.mark.parametrize(
    ("controls", "kinds"),
    [(True, 2), (False, 0), (["permuted"], 1), ("untrained", 1), ([], 0), (None, 2)],
)
def test_kinds_can_be_chosen(data, controls, kinds):
    encoders = {"net": brainenc.RidgeEncoder(of_network(network()))}
    table = run(data, encoders, controls=controls).encoders
    assert len(table) == 2 + kinds


def test_without_references_there_are_none_unless_asked_for(data):
    encoders = {"ridge": brainenc.RidgeEncoder()}
    options = {"features": data.truth.tokens, "references": False}
    assert len(run(data, encoders, **options).encoders) == 1
    assert len(run(data, encoders, controls=True, **options).encoders) == 2
    with pytest.raises(ValueError, match=r"controls='shuffled' has 'shuffled': give True, False"):
        run(data, encoders, controls="shuffled", **options)


def test_noise_that_looks_like_a_score_is_called_out():
    """Responses that follow the order of the images, not the images: permuted features tell."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (90, 8, 8), dtype=np.uint8)
    betas = rng.standard_normal((90, 2, 10))
    noise = brainenc.EncodingData(images, betas)
    features = rng.standard_normal((90, 5))
    result = run(noise, {"ridge": brainenc.RidgeEncoder()}, features=features)
    said = [w for w in result.warnings if w.startswith("ridge: r ")]
    assert len(said) == 1
    assert "is not credibly above that of ridge, permuted images" in said[0]


def test_long_computations_are_left_out_and_said(data, monkeypatch):
    from brainenc.benchmarking import controls

    monkeypatch.setattr(controls, "MAX_SECONDS", 0.0)
    encoders = {"net": brainenc.RidgeEncoder(of_network(network()))}
    result = run(data, encoders)
    assert "untrained" not in set(result.encoders["control"])
    assert any("ask for this control with controls=" in warning for warning in result.warnings)
    assert "untrained" in set(run(data, encoders, controls=["untrained"]).encoders["control"])


def test_weights_that_nobody_can_draw_are_said(data):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.ones(3, 4))

        def forward(self, x):
            return x.mean((2, 3)) @ self.weights

    net = torch.nn.Sequential(Own(), torch.nn.Identity())
    result = run(data, {"net": brainenc.RidgeEncoder(of_network(net, "1"))})
    assert any("Own at '0' has weights (weights) and no method" in w for w in result.warnings)
    fixed = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())
    result = run(data, {"net": brainenc.RidgeEncoder(of_network(fixed, "1"))})
    assert list(result.encoders["control"]) == ["", "", "permuted"]  # nothing is trained


def test_networks_of_packages_are_drawn_anew():
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0)
    with torch.no_grad():
        for weights in net.parameters():
            weights.fill_(7)
    one, same, other = (reinitialised(net, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any((value == 7).all() for value in one.values())
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all((value == 7).all() for value in net.state_dict().values())


def test_a_saved_result_and_its_report_show_controls(data, tmp_path):
    result = run(data, {"told": brainenc.RidgeEncoder()}, features=data.truth.tokens, n_draws=4)
    loaded = BenchmarkResult.load(result.save(tmp_path / "run"))
    assert list(loaded.encoders["control"]) == ["", "", "permuted"]
    page = loaded.to_html(tmp_path / "report.html").read_text()
    assert page.count('<tr class="control">') == 2  # voxels, and all together
    assert "2 encoders and 1 null control were fitted" in page
    assert "null controls: ridge on features of other images" in page


def test_a_stopped_run_is_continued_with_its_controls(data, tmp_path):
    encoders = {"ridge": brainenc.RidgeEncoder()}
    options = {"features": data.truth.tokens, "out": tmp_path / "run"}
    run(data, encoders, controls=False, **options)
    first = run(data, encoders, **options)
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("info.json")}
    again = run(data, encoders, **options)
    pd.testing.assert_frame_equal(first.maps, again.maps)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("info.json")} == made


def test_a_network_from_pip_has_an_untrained_control(data):
    few = data.select(images=range(60))
    features = brainenc.EfficientNetLiteFeatures("block2", "avg", device="cpu", verbose=False)
    result = run(few, {"ridge": brainenc.RidgeEncoder(features)}, controls=["untrained"])
    row = result.encoders.query("control == 'untrained'").iloc[0]
    random = clone(features).set_params(pretrained=False).transform(few.images)
    assert row["r"] == pytest.approx(r_by_hand(few, random), abs=1e-4)
