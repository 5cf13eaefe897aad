"""Saved encoders that were damaged or made to do harm: a ValueError, and nothing is called."""

import copy
import json
import re
import shutil
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn

import brainenc
from brainenc import encoders, features
from brainenc.encoders import BaseEncoder, make_encoder
from brainenc.encoders.loading import load
from brainenc.encoders.saving import ARRAYS, FORMAT_VERSION, save, signed

N_MUTATIONS = 300
TINY = {
    "mindreader": {"n_members": 1, "n_epochs": 1},
    "roitransformer": {"n_members": 1, "n_epochs": 1, "n_clusters": 2},
    "mindsimulator": {"autoencoder_epochs": 1, "prior_epochs": 1},
}


@pytest.fixture(scope="module")
def problem():
    """Enough images for networks."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 12)).astype(np.float32)
    betas = (X @ rng.standard_normal((12, 7)))[:, None] + rng.standard_normal((120, 2, 7))
    return X, betas.astype(np.float32)


@pytest.fixture(scope="module")
def saved(problem, tmp_path_factory):
    """A folder for every kind of encoder that is asked for, and the encoder."""
    made = {}

    def of(name):
        if name not in made:
            encoder = make_encoder(name, **TINY.get(name, {})).fit(*problem)
            made[name] = save(encoder, tmp_path_factory.mktemp(name) / "model"), encoder
        return made[name]

    return of


@pytest.fixture
def ridge(saved, tmp_path):
    """Loads a ridge whose JSON a function has changed in place."""
    return lambda change: changed(saved("ridge")[0], tmp_path, change)


def changed(folder, tmp_path, change, **options):
    """`load` of a copy of a saved model, its JSON changed in place or replaced."""
    structure = json.loads((folder / "model.json").read_text())
    structure = change(structure) or structure
    if isinstance(structure, dict):
        # As who means harm would: the checksum is for damage by chance.
        structure = signed(structure, load_file(folder / ARRAYS))
    return load(
        written(tmp_path, structure, (folder / "arrays.safetensors").read_bytes()), **options
    )


def written(tmp_path, structure, arrays):
    (tmp_path / "model.json").write_text(json.dumps(structure))
    (tmp_path / "arrays.safetensors").write_bytes(arrays)
    return tmp_path


@pytest.fixture
def called(monkeypatch):
    """Names of functions of the public namespaces that were called."""
    names = []
    for module in (encoders, features):
        for name in ("load", "make_encoder", "calibrate", "make_features"):
            if name in module.__all__:
                monkeypatch.setattr(module, name, lambda *_, name=name, **__: names.append(name))
    return names


def noise_of(structure):
    """The first dataclass among the fitted attributes."""
    state = structure["encoder"]["state"]
    return next(value for value in state.values() if isinstance(value, dict) and "fields" in value)


# -------------------------------------------------------------------- files made by hand


@pytest.mark.parametrize("name", ["ridge", *TINY])
def test_it_comes_back_as_it_was(saved, problem, name):
    folder, encoder = saved(name)
    np.testing.assert_array_equal(load(folder).predict(problem[0]), encoder.predict(problem[0]))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("load", {"folder": "."}),
        ("make_encoder", {"name": "ridge"}),
        ("ENCODERS", {}),
        ("FEATURES", {}),
    ],
)
@pytest.mark.parametrize("place", ["top", "state", "parameters"])
def test_a_public_name_that_is_no_encoder_is_not_called(ridge, called, name, fields, place):
    packed = {"$class": name, "fields": fields}

    def change(structure):
        if place == "top":
            structure["encoder"] = packed
        else:
            structure["encoder"][place]["extra_"] = packed

    with pytest.raises(ValueError, match=rf"model.json is damaged: encoder.* names {name}"):
        ridge(change)
    assert called == []


def test_a_model_that_would_load_itself_is_not_followed(saved, tmp_path):
    def change(structure):
        structure["encoder"] = {"$class": "load", "fields": {"folder": str(tmp_path)}}

    with pytest.raises(ValueError, match="names load, which is no encoder or extractor"):
        changed(saved("ridge")[0], tmp_path, change)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("predict", "a method"),
        ("_private_", "private"),
        ("alphas", "a parameter"),
        ("__class__", "what makes it an encoder"),
        ("__dict__", "what makes it an encoder"),
    ],
)
def test_state_sets_fitted_attributes_only(ridge, name, why):
    with pytest.raises(ValueError, match=rf"state sets {name}, which is no fitted attribute"):
        ridge(lambda structure: structure["encoder"]["state"].update({name: 2}))


def test_state_sets_no_property_and_no_method_that_ends_like_a_fitted_attribute(saved, tmp_path):
    class Derived(encoders.RidgeEncoder):
        @property
        def total_(self):
            return self.coef_.sum()

        def redo_(self):
            """Nothing."""

    for name in ("total_", "redo_"):

        def change(structure, name=name):
            structure["encoder"]["$class"] = "Derived"
            structure["encoder"]["state"][name] = 2

        with pytest.raises(ValueError, match=f"sets {name}, which is no fitted attribute of Der"):
            changed(saved("ridge")[0], tmp_path, change, classes=[Derived])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(encoder=[1, 2]), " is a list and no encoder"),
        (lambda s: s.update(encoder=None), " is a NoneType and no encoder"),
        (lambda s: s.pop("encoder"), "no encoder"),
        (
            lambda s: s.update(encoder={"$class": "PixelFeatures", "parameters": {}, "state": {}}),
            " is a PixelFeatures and no encoder",
        ),
        (lambda s: s["encoder"].update(state={}), "lacks the attributes of a fitted encoder"),
        (lambda s: s["encoder"]["state"].pop("n_voxels_"), "state lacks n_voxels_"),
        (
            lambda s: s["encoder"]["state"].update(betas_ndim_="3"),
            "betas_ndim_='3', .* no int",
        ),
        (lambda s: s["encoder"]["state"].update(trials_=None), "trials_=None, which is no Trial"),
        (lambda s: s["encoder"].pop("state"), r"has the keys \['\$class', 'parameters'\]"),
        (lambda s: s["encoder"].update(state=[]), r"state is \[\] in place of"),
        (lambda s: s["encoder"].update({"$class": 3}), "has 3 in place of the name of a class"),
        (
            lambda s: s["encoder"].update({"$class": "BaseEncoder", "state": {}}),
            "cannot be made a BaseEncoder",
        ),
        (lambda s: s["encoder"]["parameters"].update(sigma=1), "unexpected keyword .*sigma"),
        (lambda s: noise_of(s)["fields"].update(more=1), "unexpected keyword .*more"),
        (lambda s: noise_of(s)["fields"].clear(), r"missing \d+ required .*argument"),
        (lambda s: noise_of(s).update({"$class": "RidgeEncoder"}), "RidgeEncoder is no dataclass"),
        (lambda s: s["encoder"]["state"].update(a_={"$array": "b"}), "array 'b', which is missing"),
        (
            lambda s: s["encoder"]["state"].update(a_={"$array": []}),
            r"array \[\], which is missing",
        ),
        (lambda s: s["encoder"]["state"].update(a_={"$strings": 1}), "no list of strings"),
        (lambda s: s["encoder"]["state"].update(a_={"$dict": [[1]]}), "no list of pairs"),
        (lambda s: s["encoder"]["state"].update(a_={"$dict": [[[], 1]]}), "no list of pairs"),
        (lambda s: s["encoder"]["state"].update(a_={"$tuple": "ab"}), "no list of the items"),
        (
            lambda s: s["encoder"]["state"].update(a_={"$table": [["b", 1]]}),
            "is a table of columns",
        ),
        (lambda s: s["encoder"]["state"].update(a_={"b": 1}), r"has the keys \['b'\]"),
    ],
)
def test_what_save_does_not_write_is_named_with_its_place(ridge, change, message):
    with pytest.raises(ValueError, match=rf"model.json is damaged: encoder.*{message}"):
        ridge(lambda structure: change(structure) and None)


@pytest.mark.parametrize("version", ["1", None, True, 1.5, 0, -3, [2]])
def test_a_format_version_that_is_none(ridge, version):
    with pytest.raises(ValueError, match=re.escape(f"damaged: format_version={version!r} is no")):
        ridge(lambda structure: structure.update(format_version=version))


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": "other"}'])
def test_a_file_of_another_kind(ridge, content):
    with pytest.raises(ValueError, match="holds no encoder"):
        ridge(lambda _: json.loads(content) or [0])


def test_nesting_without_end(saved, tmp_path):
    folder, _ = saved("ridge")
    written(tmp_path, {}, (folder / "arrays.safetensors").read_bytes())
    for depth in (900, 200_000):  # too deep for the reader of values, and for JSON's
        text = json.dumps({"format": "brainenc.encoder", "format_version": FORMAT_VERSION})
        deep = "[" * depth + "]" * depth
        (tmp_path / "model.json").write_text(text[:-1] + f', "encoder": {deep}}}')
        with pytest.raises(ValueError, match="damaged"):
            load(tmp_path)


def test_a_model_of_format_1_is_to_be_fitted_again(tmp_path):
    # As brainenc wrote it when the noise of trials was four attributes.
    packed = {"$class": "ResidualNoise", "fields": {"factors": {"$array": "f"}, "private_sd": 1.0}}
    structure = {
        "format": "brainenc.encoder",
        "format_version": 1,
        "brainenc_version": "0.1.0",
        "encoder": {"$class": "MeanEncoder", "parameters": {}, "state": {"noise_": packed}},
    }
    from safetensors.numpy import save as to_bytes

    written(tmp_path, structure, to_bytes({"f": np.zeros((0, 3), np.float32)}))
    with pytest.raises(ValueError, match=r"written in format 1, .* fit the encoder again"):
        load(tmp_path)


def test_a_class_that_is_not_known_comes_with_the_way_to_name_it(ridge):
    with pytest.raises(ValueError, match=r"load\(folder, classes=\[Other\]\)"):
        ridge(lambda structure: structure["encoder"].update({"$class": "Other"}))


def test_parts_of_one_encoder_are_not_known_to_another(ridge):
    # TokenAdapter is a part of the ROI transformer, and ridge has none.
    adapter = {"$class": "TokenAdapter", "fields": {"mean": 0.0, "scale": 1.0}}
    with pytest.raises(ValueError, match=r"classes=\[TokenAdapter\]"):
        ridge(lambda structure: structure["encoder"]["state"].update(adapter_=adapter))


def test_keys_of_dicts_come_back_or_are_refused_at_once(problem, tmp_path):
    encoder = encoders.MeanEncoder().fit(*problem)
    encoder.counts_ = {np.int64(3): 1, "a": 2, None: 3, 0.5: 4}
    assert load(save(encoder, tmp_path / "model")).counts_ == encoder.counts_
    encoder.counts_ = {(1, 2): 3}  # JSON has no tuples, and lists are no keys
    with pytest.raises(TypeError, match=r"counts_ has the key \(1, 2\), which cannot be saved"):
        save(encoder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# -------------------------------------------------------------------- networks


def net_of(structure):
    return structure["encoder"]["state"]["members_"][0]


def size(name, value):
    def change(structure):
        pairs = net_of(structure)["sizes"]["$dict"]
        next(pair for pair in pairs if pair[0] == name)[1] = value

    return change


def without_a_weight(structure):
    net_of(structure)["weights"]["$dict"].pop()


def weights_swapped(structure):
    pairs = net_of(structure)["weights"]["$dict"]
    pairs[0][1], pairs[-1][1] = pairs[-1][1], pairs[0][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_weight, r"weights has .* of shape None"),
        (weights_swapped, r"weights has .* of shape .*, and MindReaderNet of these sizes one of"),
        (size("n_voxels", 2**16), r"weights has read_out.weight of shape \(7, .* one of \(65536, "),
        (size("hidden", 10**9), r"sizes.hidden is 1000000000: too large"),
        (size("n_blocks", 10**9), r"sizes.n_blocks is 1000000000: too large"),
        (size("hidden", -1), "cannot be made a MindReaderNet"),
        (size("hidden", "many"), "cannot be made a MindReaderNet"),
        (lambda s: net_of(s).update({"$net": "RidgeEncoder"}), "RidgeEncoder, which is no network"),
        (lambda s: net_of(s).update(weights=None), "weights is None in place of values by name"),
        (lambda s: net_of(s)["weights"]["$dict"][0].__setitem__(1, 0.5), "weights has no array"),
    ],
)
def test_a_net_that_is_not_of_its_weights(saved, tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"damaged: encoder.state.members_\[0\].*{message}"):
        changed(saved("mindreader")[0], tmp_path, lambda s: change(s) and None)


def test_a_users_own_net_that_cannot_be_made_without_numbers(problem, tmp_path):
    class Own(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.sizes = {"width": width}
            self.linear = nn.Linear(width, width)
            self.total = self.linear.weight.sum().item()  # not known of a tensor on "meta"

    class OwnEncoder(encoders.MeanEncoder):
        saved_parts = (*encoders.MeanEncoder.saved_parts, Own)

    encoder = OwnEncoder().fit(*problem)
    encoder.net_ = Own(3)
    loaded = load(save(encoder, tmp_path / "model"), classes=[OwnEncoder])
    np.testing.assert_array_equal(
        loaded.net_.linear.weight.detach().numpy(), encoder.net_.linear.weight.detach().numpy()
    )

    def narrower(structure):
        structure["encoder"]["state"]["net_"]["sizes"] = {"$dict": [["width", 2]]}

    with pytest.raises(ValueError, match=r"net_.weights go with another net: .*size mismatch"):
        changed(tmp_path / "model", tmp_path, narrower, classes=[OwnEncoder])


# -------------------------------------------------------------------- at random


def places(value):
    """Every container in JSON with each of its keys."""
    keys = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in keys:
        yield value, key
        if isinstance(item, (dict, list)):
            yield from places(item)


NASTY = [
    *(None, True, -1, 0, 3, 10**18, -(10**400), 0.5, 1e300, float("nan"), "", "load", "text"),
    *([], {}, [1, 2], {"$array": "no"}, {"$tuple": 3}, {"$net": "RidgeEncoder"}, {"$dict": [[{}]]}),
    {"$class": "load", "fields": {"folder": "."}},
    {"$class": "make_encoder", "fields": {"name": "ridge"}},
    {"$class": "make_features", "fields": {"spec": "pixels"}},
    {"$class": "PixelFeatures", "parameters": {"size": 2}, "state": {}},
    {"$class": "MeanEncoder", "parameters": {}, "state": {}},
]
NAMES = ["predict", "n_voxels_", "_x_", "load", "$class", "$net", "$array", "$dict", "fields", "3"]


def mutate(structure, rng):
    """Change the JSON at one to three places, each in one of five ways."""
    for _ in range(rng.integers(1, 4)):
        found = list(places(structure))
        container, key = found[rng.integers(len(found))]
        way = rng.choice(["replace", "remove", "copy", "rename", "wrap"])
        if way == "replace":
            container[key] = copy.deepcopy(NASTY[rng.integers(len(NASTY))])
        elif way == "remove":
            del container[key]
        elif way == "copy":
            other, place = found[rng.integers(len(found))]
            container[key] = copy.deepcopy(other[place])
        elif way == "rename" and isinstance(container, dict):
            container[str(rng.choice(NAMES))] = container.pop(key)
        else:
            container[key] = [container[key]]


@pytest.mark.parametrize("name", ["ridge", "mindreader", "roitransformer"])
def test_random_changes_of_the_structure(saved, tmp_path, called, name):
    folder, _ = saved(name)
    structure = json.loads((folder / "model.json").read_text())
    arrays = (folder / "arrays.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    n_refused = 0
    for _ in range(N_MUTATIONS):
        mutant = copy.deepcopy(structure)
        mutate(mutant, rng)
        mutant = signed(mutant, load_file(folder / ARRAYS))  # as who means harm would
        written(tmp_path, mutant, arrays)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of layers without weights
                loaded = load(tmp_path)
        except ValueError as error:
            assert str(tmp_path) in str(error) or "classes=[" in str(error)  # noqa: PT017
            n_refused += 1
        else:
            assert isinstance(loaded, BaseEncoder)
        assert called == []
    # Values of parameters may be anything, and so may plain values of fitted attributes.
    assert 0.4 * N_MUTATIONS < n_refused < N_MUTATIONS


@pytest.mark.parametrize("name", ["ridge", "mindreader"])
def test_arrays_cut_short_or_with_bits_flipped(saved, tmp_path, name):
    folder, _ = saved(name)
    structure = json.loads((folder / "model.json").read_text())
    content = (folder / "arrays.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    for length in [*range(0, 9), header - 1, header, *rng.integers(header, len(content), 20)]:
        with pytest.raises(ValueError, match=r"arrays.safetensors is damaged"):
            load(written(tmp_path, structure, content[:length]))
    n_refused = 0
    for _ in range(N_MUTATIONS):
        damaged = bytearray(content)
        damaged[rng.integers(header)] ^= 1 << rng.integers(8)
        try:
            loaded = load(written(tmp_path, structure, bytes(damaged)))
        except ValueError as error:
            assert "damaged" in str(error)  # noqa: PT017
            n_refused += 1
        else:
            assert isinstance(loaded, BaseEncoder)
    assert n_refused > 0.5 * N_MUTATIONS


def test_a_device_is_set_for_every_estimator_and_checked(saved, problem, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    encoder = make_encoder("ridge", features=brainenc.GaborPyramid(verbose=False))
    folder = encoder.fit(images, problem[1][:30]).save(tmp_path / "model")
    loaded = load(folder, device="cpu")
    assert (loaded.device, loaded.features.device, loaded.features_.device) == ("cpu",) * 3
    with pytest.raises(ValueError, match="device='gpu'"):
        load(folder, device="gpu")


# -------------------------------------------------------------------- right in form, changed


@pytest.mark.parametrize("name", ["ridge", "mindreader"])
def test_a_changed_value_of_the_right_kind_is_found_by_the_checksum(saved, tmp_path, name):
    """Such a model would load, and predict something else or fail on the way."""
    folder = shutil.copytree(saved(name)[0], tmp_path / "model")
    structure = json.loads((folder / "model.json").read_text())
    structure["encoder"]["state"]["linear_" if name == "mindreader" else "regression_"] = None
    structure["encoder"]["state"]["feature_shape_"] = [1]
    (folder / "model.json").write_text(json.dumps(structure))
    with pytest.raises(ValueError, match=r"json is damaged: it was changed after the encoder was"):
        load(folder)


def test_a_flipped_bit_of_a_weight_is_found_and_its_array_named(saved, tmp_path):
    folder = shutil.copytree(saved("ridge")[0], tmp_path / "model")
    content = bytearray((folder / "arrays.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "arrays.safetensors").write_bytes(content)
    message = r"arrays.safetensors is damaged: \S+ was changed .* \(checksum .* when it was saved"
    with pytest.raises(ValueError, match=message):
        load(folder)
