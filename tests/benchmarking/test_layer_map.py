"""layer_map: planted layers are found, controls are at chance, other code as oracle, refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cross_decomposition import PLSRegression
from torch import nn

import brainenc
from brainenc import EncodingData, LayerMap, layer_map, network_layers
from brainenc.benchmarking.layer_hierarchy import hierarchy_score
from brainenc.features.network_layers import in_one_pass, share_a_pass
from brainenc.model_selection import image_folds

QUICK = {"n_bootstraps": 40, "verbose": False}
AREAS = ["A", "B", "C", "D"]


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def random_network(seed=0):
    """Four layers of random weights; the second ReLU works in place."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(),
        nn.Sequential(nn.Conv2d(12, 16, 3, stride=2), nn.ReLU(inplace=True)),
        nn.Flatten(), nn.Linear(16 * 6 * 6, 40), nn.Tanh(), nn.Linear(40, 30),
    )  # fmt: skip


LAYERS = ["0", "2.0", "4", "6"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def extractors(images):
    return network_layers(
        random_network(7), images, LAYERS, preprocess=to_tensor, pool="flatten", verbose=False
    )


def data_of_layers(images, features, *, noise=0.5, n_voxels=6, n_noise=0):
    """Voxels of area A follow random directions of the first layer, of B of the second …"""
    rng = np.random.default_rng(1)
    signals = []
    for X in features:
        X = (X - X.mean(0)) / (X.std(0) + 1e-9)
        # Of few principal directions, as signals of images are, so that 300 images suffice.
        U, _, _ = np.linalg.svd(X, full_matrices=False)
        z = U[:, :5] * np.sqrt(len(X))
        signals.append(z @ rng.standard_normal((5, n_voxels)) / np.sqrt(5))
    signals.append(np.zeros((len(images), n_noise)))
    signal = np.concatenate(signals, 1)
    betas = signal[:, None] + noise * rng.standard_normal((len(images), 2, signal.shape[1]))
    rois = [area for area in AREAS for _ in range(n_voxels)] + ["noise"] * n_noise
    return EncodingData(images, betas.astype(np.float32), pd.DataFrame({"roi": rois}))


@pytest.fixture(scope="module")
def found(images, extractors):
    features = [e.fit_transform(images) for e in extractors.values()]
    data = data_of_layers(images, features)
    return layer_map(data, extractors, order=AREAS, n_columns=None, cv=3, **QUICK)


def test_areas_made_from_a_layer_are_mapped_to_it(found):
    rois = found.rois.set_index("roi")
    assert list(rois.loc[AREAS, "layer"]) == LAYERS
    agree = found.voxels["layer"] == found.voxels["roi"].map(dict(zip(AREAS, LAYERS, strict=True)))
    assert agree.mean() >= 0.9
    assert found.hierarchy["trained"]["rho"] == 1
    assert found.hierarchy["trained"]["p"] == pytest.approx(1 / 24)


def test_permuted_images_are_at_chance(found):
    # 24 voxels of 300 images: the s.e. of the mean of r over voxels that share images is < .03.
    assert abs(found.rois.loc[0, "r_permuted"]) < 0.06
    assert found.rois.loc[0, "r"] > 0.6
    permuted = found.layers.query("control == 'permuted' and roi == 'all'")
    assert (permuted["r"].abs() < 0.06).all()


def test_random_weights_are_a_row_of_their_own(found):
    rois = found.rois.set_index("roi")
    # Areas of late layers follow these very weights; the first layer is a filter of pixels still.
    assert (rois.loc[["C", "D"], "r"] - rois.loc[["C", "D"], "r_untrained"]).min() > 0.1
    assert set(found.layers["control"]) == {"", "untrained", "permuted"}


def test_scores_are_those_of_the_benchmark(images, extractors, found):
    features = {name: e.fit_transform(images) for name, e in extractors.items()}
    data = data_of_layers(images, list(features.values()))
    result = brainenc.benchmark(
        data,
        {name: brainenc.RidgeEncoder(None) for name in features},
        features=features,
        cv=3, references=False, n_bootstraps=10, n_permutations=10, check=False, verbose=False,
        controls=[], n_draws=0,
    )  # fmt: skip
    expected = result.voxels.groupby("encoder")["r"].mean()
    ours = found.layers.query("control == '' and roi == 'all'").set_index("layer")["r"]
    for name in LAYERS:
        assert ours[name] == pytest.approx(expected[name], abs=1e-5)


def test_the_choice_does_not_see_test_images(images, extractors):
    """Noise voxels: the largest r of six layers is above 0, that of the chosen layer is not."""
    rng = np.random.default_rng(3)
    X = {f"{i}": rng.standard_normal((120, 20)) for i in range(6)}
    betas = rng.standard_normal((120, 1, 200)).astype(np.float32)
    data = EncodingData(images[:120], betas)
    found = layer_map(data, X, cv=3, controls=[], **QUICK)
    r = found.layers.query("roi == 'all'")["r"]
    # 200 independent voxels, three folds of 40 images: s.e. of the mean of r about .007.
    assert abs(found.rois.loc[0, "r"]) < 0.03
    assert r.abs().max() < 0.05


def test_pls_is_that_of_scikit_learn(images):
    rng = np.random.default_rng(0)
    X = {"one": rng.standard_normal((90, 30)), "two": rng.standard_normal((90, 30))}
    y = X["one"][:, :5] + 0.3 * rng.standard_normal((90, 5))
    data = EncodingData(images[:90], y[:, None].astype(np.float32))
    found = layer_map(data, X, score="pls", cv=3, controls=[], **QUICK)
    y = y.astype(np.float32)
    r = []
    for train, test in image_folds(3, 90, random_state=0):
        predicted = (
            PLSRegression(25, scale=False).fit(X["one"][train], y[train]).predict(X["one"][test])
        )
        r.append([np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, y[test].T, strict=True)])
    ours = found.layers.query("roi == 'all' and layer == 'one'")["r"].item()
    assert ours == pytest.approx(np.mean(r), abs=1e-5)
    assert set(found.voxels["layer"]) == {"one"}


def test_one_pass_gives_what_each_layer_alone_gives(images, extractors):
    assert share_a_pass(extractors)
    together = in_one_pass(extractors, images[:40], verbose=False)
    for name, extractor in extractors.items():
        alone = extractor.fit_transform(images[:40])
        np.testing.assert_allclose(together[name], alone, atol=1e-5)
    calls = []
    network = extractors["0"].module
    handle = network[0].register_forward_hook(lambda *_: calls.append(1))
    in_one_pass(extractors, images[:64], verbose=False)
    handle.remove()
    probes = len(calls)
    calls.clear()
    handle = network[0].register_forward_hook(lambda *_: calls.append(1))
    in_one_pass(extractors, images[:128], verbose=False)
    handle.remove()
    assert len(calls) - probes == 2  # two batches more, whatever the number of layers


def test_layers_are_found_in_the_order_in_which_they_run(images):
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(8, 4)
            self.blocks = nn.ModuleList([nn.Conv2d(3, 8, 5), nn.ReLU()])
            self.unused = nn.Linear(3, 3)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.last(x.mean((2, 3)))

    found = network_layers(Backwards(), images, preprocess=to_tensor)
    assert list(found) == ["blocks.0", "blocks.1", "last"]
    assert found["last"].fit_transform(images[:3]).shape == (3, 4)


def test_wide_layers_are_projected(images, extractors):
    features = [e.fit_transform(images) for e in extractors.values()]
    data = data_of_layers(images, features)
    narrow = layer_map(data, extractors, n_columns=400, cv=3, controls=[], **QUICK)
    # Scalar products are kept to sqrt(2 / 400) of the lengths: areas stay where they are.
    rois = narrow.rois.set_index("roi")
    assert list(rois.loc[AREAS, "layer"]) == LAYERS


def test_maps_are_saved_and_loaded(found, tmp_path):
    found.save(tmp_path / "map")
    again = LayerMap.load(tmp_path / "map")
    for name in ("voxels", "layers", "rois"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    assert again.hierarchy == found.hierarchy
    html = found.to_html(tmp_path / "layers.html").read_text()
    assert "Which layer predicts which area" in html
    assert "<svg" in html


def test_hierarchy_p_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    order = [f"r{i}" for i in range(6)]
    p = [
        hierarchy_score(dict(zip(order, rng.random(6), strict=True)), order)["p"]
        for _ in range(1000)
    ]
    # p has a few dozen values; at each of them its share is that value. Bound: 4 binomial s.e.
    for level in (min(p, key=lambda each: abs(each - wanted)) for wanted in (0.05, 0.2, 0.5)):
        share = np.mean(np.array(p) <= level + 1e-9)
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / len(p))
    # Ten areas: permutations are drawn.
    many = {f"r{i}": float(i) for i in range(10)}
    assert hierarchy_score(many, list(many))["p"] < 1e-3


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"layers": {"one": np.zeros((300, 3))}}, ValueError, "at least two"),
        ({"layers": [1, 2]}, TypeError, "dict of name to features"),
        ({"order": ["A", "B", "X"]}, ValueError, "do not have"),
        ({"order": ["A", "B"]}, ValueError, "three or more"),
        ({"score": "rho"}, ValueError, "score='rho'"),
        ({"controls": ["mean"]}, ValueError, "controls has 'mean'"),
        ({"n_images": 1000}, ValueError, "n_images=1000"),
        ({"n_columns": 0}, ValueError, "n_columns=0"),
    ],
)
def test_refusals_say_what_is_wrong(images, change, error, text):
    X = np.random.default_rng(0).standard_normal((300, 5))
    data = data_of_layers(images, [X] * 4)
    arguments = {"layers": {"one": X, "two": X + 1}} | change
    with pytest.raises(error, match=text):
        layer_map(data, **arguments, **QUICK)


def test_layers_that_do_not_exist_are_named(images):
    with pytest.raises(ValueError, match=r"layer='9' is not in"):
        network_layers(random_network(), images, ["9"], preprocess=to_tensor)


@pytest.mark.parametrize("score", ["r", "pls"])
def test_a_layer_that_is_constant_or_of_low_rank_has_a_defined_answer(images, score):
    rng = np.random.default_rng(0)
    good = rng.standard_normal((90, 5))
    layers = {
        "constant": np.zeros((90, 4)),
        "low rank": rng.standard_normal((90, 2)) @ rng.standard_normal((2, 30)),
        "good": good,
    }
    y = good + 0.3 * rng.standard_normal((90, 5))
    data = EncodingData(images[:90], y[:, None].astype(np.float32))
    found = layer_map(data, layers, score=score, cv=3, controls=[], **QUICK)
    assert set(found.voxels["layer"]) == {"good"}
    r = found.layers.query("roi == 'all'").set_index("layer")["r"]
    assert np.isnan(r["constant"])
    assert abs(r["low rank"]) < 0.3


def test_an_order_without_an_atlas_is_refused(images):
    X = np.random.default_rng(0).standard_normal((60, 5))
    data = EncodingData(images[:60], X[:, None].astype(np.float32))
    with pytest.raises(ValueError, match="no column of ROI labels"):
        layer_map(data, {"one": X, "two": X + 1}, order=AREAS, **QUICK)


def test_a_store_changes_no_width(images, extractors, tmp_path):
    stored = {
        name: brainenc.TorchFeatures(
            e.module, e.layer, preprocess=to_tensor, pool="flatten", store=tmp_path, verbose=False
        )
        for name, e in extractors.items()
    }
    data = data_of_layers(images, [e.fit_transform(images) for e in extractors.values()])
    one = layer_map(data, extractors, n_columns=30, cv=3, controls=["untrained"], **QUICK)
    two = layer_map(data, stored, n_columns=30, cv=3, controls=["untrained"], **QUICK)
    # The same features, in batches of another size: round-off.
    np.testing.assert_allclose(one.layers["r"], two.layers["r"], atol=1e-4)


def test_columns_with_the_name_of_a_result_are_kept(images):
    rng = np.random.default_rng(0)
    X = {"one": rng.standard_normal((60, 5)), "two": rng.standard_normal((60, 5))}
    voxels = pd.DataFrame({"layer": ["IV", "II", "IV"], "roi": ["V1", "V1", "V2"]})
    betas = rng.standard_normal((60, 1, 3)).astype(np.float32)
    data = EncodingData(images[:60], betas, voxels)
    found = layer_map(data, X, cv=3, controls=[], **QUICK).voxels
    assert found["layer_of_voxel"].tolist() == ["IV", "II", "IV"]
    assert set(found["layer"]) <= {"one", "two"}
