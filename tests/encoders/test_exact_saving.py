"""What is saved comes back bit by bit, or is refused with a way on: there is nothing between."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold, RepeatedKFold
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import brainenc
from brainenc import (
    EfficientNetLiteFeatures,
    GaborPyramid,
    PixelFeatures,
    RidgeEncoder,
    TorchFeatures,
)
from brainenc.encoders.saving import ARRAYS, checksum_of_format_2
from brainenc.features import FeatureExtractor

N = 30


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def betas(images):
    rng = np.random.default_rng(1)
    signal = images.reshape(N, -1)[:, ::500] / 255 @ rng.standard_normal((7, 4))
    return (signal[:, None] + rng.standard_normal((N, 2, 4))).astype(np.float32)


def assert_same(loaded, encoder, images, betas):
    """Predictions, draws and densities, bit by bit."""
    np.testing.assert_array_equal(loaded.predict(images), encoder.predict(images))
    ours, theirs = (e.sample(images[:7], n=3, random_state=2) for e in (loaded, encoder))
    np.testing.assert_array_equal(ours, theirs)
    densities = (e.log_density(images[:7], betas[:7]) for e in (loaded, encoder))
    np.testing.assert_array_equal(*densities)


def network(layer="layer2", **options):
    return TorchFeatures("test_resnet", layer, pretrained=False, verbose=False, **options)


EXTRACTORS = {
    "pixels": lambda: PixelFeatures(size=8, verbose=False),
    "pixels of a shape": lambda: PixelFeatures(size=(4, 8), color=False, verbose=False),
    "gabor": lambda: GaborPyramid(2, 4, pool=2, size=32, verbose=False),
    "network": network,
    "network from pip": lambda: EfficientNetLiteFeatures("block1", "avg", verbose=False),
    "pixels, scaled": lambda: make_pipeline(PixelFeatures(8, verbose=False), StandardScaler()),
    "network, components": lambda: make_pipeline(network(), StandardScaler(), PCA(6)),
    "two side by side": lambda: FeatureUnion(
        [("a", PixelFeatures(4, verbose=False)), ("b", make_pipeline(network(), PCA(3)))]
    ),
    "pixels, whitened": lambda: make_pipeline(
        PixelFeatures(8, verbose=False), PCA(5, whiten=True).set_output(transform="default")
    ),
}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_and_pipelines_of_them(name, images, betas, tmp_path):
    encoder = RidgeEncoder(EXTRACTORS[name]()).fit(images, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    assert_same(loaded, encoder, images, betas)
    # And once more: what was read is as good as what was fitted.
    again = brainenc.load(loaded.save(tmp_path / "again"))
    assert_same(again, encoder, images, betas)


def test_bands_of_extractors(images, betas, tmp_path):
    bands = {"pixels": EXTRACTORS["pixels"](), "net": EXTRACTORS["network, components"]()}
    encoder = brainenc.BandedRidgeEncoder(bands).fit(images, betas)
    assert_same(brainenc.load(encoder.save(tmp_path / "m")), encoder, images, betas)


def test_a_checkpoint_of_ones_own_given_as_a_path(images, betas, tmp_path):
    path = checkpoint(tmp_path / "weights.pth", seed=1)
    for pretrained in (path, str(path)):
        features = TorchFeatures("test_resnet", "layer2", pretrained=pretrained, verbose=False)
        encoder = RidgeEncoder(features).fit(images, betas)
        loaded = brainenc.load(encoder.save(tmp_path / "model"))
        assert loaded.features.pretrained == pretrained
        assert type(loaded.features.pretrained) is type(pretrained)
        assert_same(loaded, encoder, images, betas)


def checkpoint(path, seed):
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


# ------------------------------------------------------------------ weights that are referred to


def test_weights_that_were_replaced_are_an_error(images, betas, tmp_path):
    path = checkpoint(tmp_path / "weights.pth", seed=1)
    features = TorchFeatures("test_resnet", "layer2", pretrained=path, verbose=False)
    folder = RidgeEncoder(features).fit(images, betas).save(tmp_path / "model")
    checkpoint(path, seed=2)
    message = rf"{re.escape(str(path))}.* checksum is \w+, and it was \w+"
    with pytest.raises(ValueError, match=message) as error:
        brainenc.load(folder).predict(images)
    assert len(set(re.findall(r"\b[0-9a-f]{32}\b", str(error.value)))) == 2
    checkpoint(path, seed=1)
    brainenc.load(folder).predict(images)


def test_weights_are_those_in_memory_when_the_file_is_replaced_before_saving(
    images, betas, tmp_path
):
    path = checkpoint(tmp_path / "weights.pth", seed=1)
    features = TorchFeatures("test_resnet", "layer2", pretrained=path, verbose=False)
    encoder = RidgeEncoder(features).fit(images, betas)
    checkpoint(path, seed=2)
    with pytest.raises(TypeError, match="gives other features when it is made again"):
        encoder.save(tmp_path / "model")


def test_weights_of_open_clip(images, betas, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    vision = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "brainenc-tiny-saved.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "configs")
    path = tmp_path / "clip.pt"

    def write(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(open_clip.create_model("brainenc-tiny-saved").state_dict(), path)

    write(1)
    features = brainenc.OpenCLIPFeatures("brainenc-tiny-saved", path, verbose=False)
    encoder = RidgeEncoder(features).fit(images, betas)
    folder = encoder.save(tmp_path / "model")
    assert_same(brainenc.load(folder), encoder, images, betas)
    write(2)
    with pytest.raises(ValueError, match=r"clip\.pt, are not those .* checksum is"):
        brainenc.load(folder).predict(images)


def test_another_version_of_an_own_class_is_found(images, betas, tmp_path):
    class Power(FeatureExtractor):
        power = 1

        def __init__(self, *, batch_size=64, store=None, verbose=False):
            self.batch_size, self.store, self.verbose = batch_size, store, verbose

        def _extract(self, batch):
            return (batch.reshape(len(batch), -1)[:, ::100] / 255.0) ** self.power

    folder = RidgeEncoder(Power()).fit(images, betas).save(tmp_path / "model")
    brainenc.load(folder, classes=[Power]).predict(images)
    Power.power = 2
    with pytest.raises(ValueError, match="Power gives other features than the one that was saved"):
        brainenc.load(folder, classes=[Power]).predict(images)


def test_stored_features_do_not_hide_other_weights(images, betas, tmp_path):
    path = checkpoint(tmp_path / "weights.pth", seed=1)
    store = brainenc.FeatureStore(tmp_path / "store")
    features = TorchFeatures("test_resnet", "layer2", pretrained=path, store=store, verbose=False)
    encoder = RidgeEncoder(features).fit(images, betas)
    folder = encoder.save(tmp_path / "model")
    loaded = brainenc.load(folder)
    assert Path(loaded.features.store) == store.folder
    np.testing.assert_array_equal(loaded.predict(images), encoder.predict(images))
    checkpoint(path, seed=2)
    with pytest.raises(ValueError, match="are not those that the encoder was saved with"):
        brainenc.load(folder).predict(images)


# ------------------------------------------------------------------ what is refused


def small(image):
    return torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255


class Drawn(FeatureExtractor):
    """Random features without a seed."""

    def __init__(self, *, batch_size=64, store=None, verbose=False):
        self.batch_size, self.store, self.verbose = batch_size, store, verbose

    def _extract(self, batch):
        if not hasattr(self, "_drawn"):
            shape = (batch[0].size, 5)
            self.__dict__["_loaded"] = self._drawn = np.random.default_rng().standard_normal(shape)
        return batch.reshape(len(batch), -1) / 255 @ self._drawn

    def __getstate__(self):  # a cache, it thinks
        return {k: v for k, v in super().__getstate__().items() if k != "_drawn"}


class Noisy(Drawn):
    """Other features each time."""

    def _extract(self, batch):
        return np.random.default_rng().standard_normal((len(batch), 5))


class Through(Drawn):
    """A function among the parameters."""

    def __init__(self, function, *, batch_size=64, store=None, verbose=False):
        super().__init__(batch_size=batch_size, store=store, verbose=verbose)
        self.function = function

    def _extract(self, batch):
        return self.function(batch.reshape(len(batch), -1)[:, :50] / 255)


def convolution():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())


REFUSED = {
    "own preprocess": (lambda: network(preprocess=small), r"preprocess .* cannot be saved"),
    "a lambda": (lambda: Through(lambda x: x**2), r"function .* cannot be saved"),
    "a function of NumPy": (lambda: Through(np.sqrt), r"function .* cannot be saved"),
    "own module": (
        lambda: TorchFeatures(convolution(), "1", preprocess=small, verbose=False),
        r"module .* cannot be saved",
    ),
    "no seed": (Drawn, "gives other features when it is made again"),
    "noise": (Noisy, "gives other features when it is made again"),
    "a function within a pipeline": (
        lambda: make_pipeline(PixelFeatures(4, verbose=False), FunctionTransformer(np.sqrt)),
        r"func .* cannot be saved",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_come_back_is_refused_and_nothing_is_written(name, images, betas, tmp_path):
    make, message = REFUSED[name]
    encoder = RidgeEncoder(make()).fit(images, betas)
    with pytest.raises(TypeError, match=message) as error:
        encoder.save(tmp_path / "model")
    way_on = "fit the encoder to them .features=None|must be a parameter"
    assert re.search(way_on, str(error.value))
    assert list(tmp_path.iterdir()) == []


def test_the_ways_on_that_the_message_names(images, betas, tmp_path):
    features = network(preprocess=small)
    encoder = RidgeEncoder(features).fit(images, betas)
    X = features.transform(images)
    other = RidgeEncoder(features=None).fit(X, betas)
    loaded = brainenc.load(other.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(X), encoder.predict(images))

    class Small(FeatureExtractor):
        def __init__(self, layer="layer2", *, batch_size=64, store=None, verbose=False):
            self.layer, self.batch_size = layer, batch_size
            self.store, self.verbose = store, verbose

        def _extract(self, batch):
            return network(self.layer, preprocess=small)._extract(batch)

    encoder = RidgeEncoder(Small()).fit(images, betas)
    folder = encoder.save(tmp_path / "own")
    loaded = brainenc.load(folder, classes=[Small])
    np.testing.assert_array_equal(loaded.predict(images), encoder.predict(images))


def test_a_class_with_the_name_of_one_of_ours(images, betas, tmp_path):
    class PixelFeatures(brainenc.PixelFeatures):
        def _extract(self, batch):
            return 1 - super()._extract(batch)

    encoder = RidgeEncoder(PixelFeatures(4, verbose=False)).fit(images, betas)
    with pytest.raises(TypeError, match=r"would take the name for brainenc\.features\.pixels\.Pix"):
        encoder.save(tmp_path / "model")


def test_two_classes_of_one_name(images, betas, tmp_path):
    def make(factor):
        class Scaled(brainenc.PixelFeatures):
            def _extract(self, batch):
                return factor * super()._extract(batch)

        return Scaled(4, verbose=False)

    encoder = brainenc.BandedRidgeEncoder({"a": make(1), "b": make(-1)}).fit(images, betas)
    with pytest.raises(TypeError, match="two classes named Scaled"):
        encoder.save(tmp_path / "model")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ma.masked_array([1.0, 2.0], [False, True]), "would become a plain array"),
        (np.array([1 + 2j]), "arrays of complex128 have no exact form"),
        (np.array([1.0], dtype=np.longdouble), "no exact form"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "no exact form"),
        (np.array([object()]), "objects that are no text"),
        (pd.DataFrame({"a": [1, 2]}, index=[3, 5]), "index would be lost"),
        (pd.Series([1.0, 2.0]), "a Series would not come back"),
        ({1, 2}, "a set would not come back"),
        (b"bytes", "a bytes would not come back"),
        (np.random.default_rng(0), "a Generator would not come back"),
        (torch.zeros(2), "a Tensor would not come back"),
        (Path.exists, "a function would not come back"),
        (int, "a type would not come back"),
        (lambda: 3, "a function would not come back"),
    ],
)
def test_a_fitted_attribute_that_would_change_is_refused(betas, tmp_path, value, message):
    encoder = brainenc.MeanEncoder().fit(betas[:, 0], betas)
    encoder.extra_ = value
    with pytest.raises(TypeError, match=rf"extra_ .*cannot be saved: .*{message}"):
        encoder.save(tmp_path / "model")
    encoder.extra_ = [{"a": value}]
    with pytest.raises(TypeError, match=r"extra_\.0\.a .*cannot be saved"):
        encoder.save(tmp_path / "model")


def test_an_attribute_that_would_be_lost_is_refused(betas, tmp_path):
    encoder = brainenc.MeanEncoder().fit(betas[:, 0], betas)
    encoder.bias = 3.0
    with pytest.raises(TypeError, match=r"attribute bias, which is neither .* would be lost"):
        encoder.save(tmp_path / "model")


def test_attributes_of_an_own_encoder_come_back_whatever_their_names(betas, tmp_path):
    class Shifted(brainenc.MeanEncoder):
        def _fit(self, features, betas):
            self._shift, self.more = np.float32(0.1), {"a": [1, (2, 3)]}
            return super()._fit(features, betas)

        def _predict(self, features):
            return super()._predict(features) + self._shift * self.more["a"][1][1]

    encoder = Shifted().fit(betas[:, 0], betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"), classes=[Shifted])
    np.testing.assert_array_equal(loaded.predict(betas[:, 0]), encoder.predict(betas[:, 0]))
    assert loaded.more == {"a": [1, (2, 3)]}


def test_a_constructor_that_changes_its_arguments_is_refused(betas, tmp_path):
    class Doubled(brainenc.MeanEncoder):
        def __init__(self, factor=1):
            self.factor = 2 * factor

    encoder = Doubled(3).fit(betas[:, 0], betas)
    with pytest.raises(TypeError, match=r"comes back as another one\. A constructor must store"):
        encoder.save(tmp_path / "model")


@pytest.mark.parametrize("cv", [KFold(4), KFold(3, shuffle=True, random_state=1)])
def test_splitters_come_back(images, betas, tmp_path, cv):
    encoder = RidgeEncoder(EXTRACTORS["pixels"](), cv=cv).fit(images, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    assert vars(loaded.cv) == vars(cv)
    assert_same(loaded, encoder, images, betas)


def test_a_splitter_that_does_not_can_be_replaced(images, betas, tmp_path):
    cv = [(train, test) for train, test in KFold(3).split(images)]
    encoder = RidgeEncoder(EXTRACTORS["pixels"](), cv=cv).fit(images, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.cv[2][1], cv[2][1])
    encoder.set_params(cv=RepeatedKFold(n_splits=3))
    with pytest.raises(TypeError, match=r"cv .*cannot be saved: .*encoder\.set_params\(cv=5\)"):
        encoder.save(tmp_path / "other")
    encoder.set_params(cv=5).save(tmp_path / "other")


# ------------------------------------------------------------------ values, exactly


def test_types_and_layouts_of_values_come_back(betas, tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "columns_": np.asfortranarray(rng.standard_normal((7, 5))),
        "single_": np.float32(0.1),
        "double_": np.float64(0.1),
        "count_": np.int64(3),
        "yes_": np.bool_(True),
        "half_": rng.standard_normal(3).astype(np.float16),
        "big_": np.arange(4, dtype=">f8"),
        "none_": np.zeros((0, 3), np.float32),
        "scalar_": np.array(2.5),
        "labels_": np.array(["V1", "größer", ""]),
        "objects_": np.array(["V1", None, 1.5], dtype=object),
        "odd_": [float("nan"), float("inf"), -0.0, 1e-320, 2**80],
        "table_": pd.DataFrame({3: [1.5, np.nan], "b": ["x", "y"]}),
        "path_": Path("a/b"),
        "nested_": ({"a": (1, [2, None])}, True),
    }
    encoder = brainenc.MeanEncoder().fit(betas[:, 0], betas)
    vars(encoder).update(values)
    loaded = vars(brainenc.load(encoder.save(tmp_path / "model")))
    for name, value in values.items():
        found = loaded[name]
        assert type(found) is type(value), name
        if isinstance(value, np.ndarray):
            assert (found.dtype, found.shape) == (value.dtype.newbyteorder("="), value.shape)
            assert found.flags.f_contiguous == value.flags.f_contiguous
            assert found.tolist() == value.tolist()
        elif isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(found, value, check_dtype=False, check_column_type=False)
            assert list(found) == [3, "b"]
        else:
            assert repr(found) == repr(value)


def test_numbers_of_numpy_keep_their_type_since_sums_depend_on_it(betas, tmp_path):
    """A float of Python leaves float32 arrays as they are; one of NumPy makes them float64."""

    class Scaled(brainenc.MeanEncoder):
        def _predict(self, features):
            return (super()._predict(features) * self.factor_ - 1) * 1e6

    encoder = Scaled().fit(betas[:, 0], betas)
    encoder.factor_ = np.float64(1.1)
    loaded = brainenc.load(encoder.save(tmp_path / "model"), classes=[Scaled])
    np.testing.assert_array_equal(loaded.predict(betas[:, 0]), encoder.predict(betas[:, 0]))


def test_torchs_default_type_does_not_change_a_loaded_network(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((120, 6)).astype("f"), rng.standard_normal((120, 2, 3)).astype("f")
    encoder = brainenc.MindReaderEncoder(None, n_members=1, n_epochs=1).fit(X, y)
    folder = encoder.save(tmp_path / "model")
    torch.set_default_dtype(torch.float64)
    try:
        loaded = brainenc.load(folder)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(loaded.predict(X), encoder.predict(X))


# ------------------------------------------------------------------ voxels


def test_a_model_has_the_table_of_its_voxels(images, betas, tmp_path):
    voxels = pd.DataFrame(
        {
            "prf": ["V1", None, "NA", ""],
            "ncsnr": np.float32([0.1, np.nan, 0.3, 1 / 3]),
            "i": [3, 1, 2, 9],
            "area": pd.Categorical(["a", "b", None, "a"]),
        },
        index=[7, 8, 9, 10],
    )
    encoder = RidgeEncoder(EXTRACTORS["pixels"]()).fit(images, betas)
    loaded = brainenc.load(encoder.save(tmp_path / "model", voxels=voxels))
    table = loaded.voxels_
    assert table["prf"].tolist()[::2] == ["V1", "NA"]
    assert table["prf"].isna().tolist() == [False, True, False, False]
    assert table["area"].tolist()[:2] == ["a", "b"]
    np.testing.assert_array_equal(table["ncsnr"], voxels["ncsnr"])
    assert table["ncsnr"].dtype == np.float32
    assert table["i"].tolist() == [3, 1, 2, 9]
    # It stays with the model, and is gone after another fit.
    again = brainenc.load(loaded.save(tmp_path / "again"))
    pd.testing.assert_frame_equal(again.voxels_, table)
    assert not hasattr(loaded.fit(images, betas[:, :, :2]), "voxels_")
    assert not hasattr(brainenc.load(encoder.save(tmp_path / "model")), "voxels_")


@pytest.mark.parametrize("voxels", [pd.DataFrame({"i": [1, 2]}), [1, 2, 3, 4]])
def test_another_table_of_voxels_is_refused(images, betas, tmp_path, voxels):
    encoder = RidgeEncoder(EXTRACTORS["pixels"]()).fit(images, betas)
    with pytest.raises((ValueError, TypeError), match=r"voxels (has 2 rows|must be a Data)"):
        encoder.save(tmp_path / "model", voxels=voxels)


# ------------------------------------------------------------------ the former format


def test_a_model_of_format_2_is_read(betas, tmp_path):
    """Its JSON as it was: tables by name, one checksum, no order of arrays."""
    encoder = brainenc.MeanEncoder().fit(betas[:, 0], betas)
    folder = encoder.save(tmp_path / "model")
    structure = json.loads((folder / "model.json").read_text())
    former = {k: structure[k] for k in ("format", "brainenc_version", "encoder")}
    former["encoder"]["state"]["history_"] = {"$table": {"loss": {"$array": ".mean_"}}}
    former |= {
        "format_version": 2,
        "checksum": checksum_of_format_2(former["encoder"], load_file(folder / ARRAYS)),
    }
    (folder / "model.json").write_text(json.dumps(former))
    loaded = brainenc.load(folder)
    np.testing.assert_array_equal(loaded.predict(betas[:, 0]), encoder.predict(betas[:, 0]))
    assert loaded.history_["loss"].tolist() == encoder.mean_.tolist()
    former["encoder"]["state"]["n_voxels_"] = 3
    (folder / "model.json").write_text(json.dumps(former))
    with pytest.raises(ValueError, match="was changed after the encoder was saved"):
        brainenc.load(folder)


def test_a_dataclass_with_more_than_its_fields_is_refused(betas, tmp_path):
    @dataclasses.dataclass
    class Part:
        a: float

    class Own(brainenc.MeanEncoder):
        saved_parts = (*brainenc.MeanEncoder.saved_parts, Part)

    encoder = Own().fit(betas[:, 0], betas)
    encoder.part_ = Part(1.0)
    assert brainenc.load(encoder.save(tmp_path / "m"), classes=[Own]).part_ == Part(1.0)
    encoder.part_.more = 3
    with pytest.raises(TypeError, match=r"part_ .* its attribute more is no field"):
        encoder.save(tmp_path / "other")
