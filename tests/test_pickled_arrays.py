"""Pickled dicts of arrays are read as NumPy reads them, and nothing in them is run."""

import os
import pickle

import numpy as np
import pytest

from brainenc.pickled_arrays import read_dict

RNG = np.random.default_rng(0)
LARGE = RNG.standard_normal((30, 20, 300))  # above the size from which on arrays stay on disk

CONTENT = {
    "large": LARGE,
    "columns": np.asfortranarray(LARGE),
    "float32": LARGE.astype(np.float32),
    "small": np.arange(6, dtype=np.int16).reshape(2, 3),
    "big_endian": np.arange(4, dtype=">i4"),
    "bool": np.array([True, False]),
    "text": np.array(["a", "bb"]),
    "bytes": np.array([b"a", b"bb"]),
    "empty": np.zeros((0, 3)),
    "number": np.float32(3.5),
    "objects": np.array([np.arange(2), "x", None], dtype=object),
    "list": [np.ones((2, 2)), 3, "name", None, {"inside": np.arange(3)}],
    "int": 3,
    "none": None,
}


def save(path, content, protocol):
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(np.array(content, dtype=object), file, protocol=protocol)
    return path


def same(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list) or getattr(expected, "dtype", "") == "O":
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_gives_what_numpy_reads(tmp_path, protocol):
    path = save(tmp_path / "a.npy", CONTENT, protocol)
    same(np.load(path, allow_pickle=True).item(), CONTENT)
    same(read_dict(path), CONTENT)


def test_large_arrays_stay_on_disk(tmp_path):
    np.save(tmp_path / "a.npy", CONTENT)
    found = read_dict(tmp_path / "a.npy")
    for key in ("large", "columns"):
        assert isinstance(found[key], np.memmap), key
        assert not found[key].flags.writeable
    assert not isinstance(found["small"], np.memmap)


class Runs:
    """What a hostile file holds."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch ran",), "system"),
        (eval, ("open('ran', 'w')",), "eval"),
        (open, ("ran", "w"), "open"),
        (np.load, ("x",), "load"),
        (np.fromfile, ("x",), "fromfile"),
        (getattr, ("x", "upper"), "getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_code_of_a_file_is_run(tmp_path, monkeypatch, function, arguments, name, protocol):
    monkeypatch.chdir(tmp_path)
    for content in (
        {"a": Runs(function, *arguments)},
        {"a": [{"b": Runs(function, *arguments)}]},
        {"a": np.array([Runs(function, *arguments)], dtype=object)},
    ):
        path = save(tmp_path / "a.npy", content, protocol)
        with pytest.raises(ValueError, match=rf"a\.npy.*{name}.*may run code"):
            read_dict(path)
    assert not (tmp_path / "ran").exists()


def test_objects_of_classes_are_refused(tmp_path):
    class_of = {"a": pytest.approx}
    path = save(tmp_path / "a.npy", class_of, 4)
    with pytest.raises(ValueError, match="holds the Python object"):
        read_dict(path)
    np.save(tmp_path / "b.npy", {"a": np.zeros(2, dtype=[("x", int)])})
    with pytest.raises(ValueError, match=r"b\.npy"):
        read_dict(tmp_path / "b.npy")


def test_other_files_are_said_to_be_others(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"a\.npy.*holds an array \(3,\) of int64, and no dict"):
        read_dict(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([1, "x"], dtype=object))
    with pytest.raises(ValueError, match=r"\(2,\) of object, and no dict"):
        read_dict(tmp_path / "b.npy")
    save(tmp_path / "c.npy", [1, 2], 4)
    with pytest.raises(ValueError, match=r"c\.npy"):
        read_dict(tmp_path / "c.npy")
    with pytest.raises(FileNotFoundError):
        read_dict(tmp_path / "absent.npy")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_damage_gives_a_value_error_that_names_the_file(tmp_path, protocol):
    whole = save(tmp_path / "a.npy", CONTENT, protocol).read_bytes()
    rng = np.random.default_rng(protocol)
    cuts = [*rng.integers(10, len(whole) - 1, 30), 3, 60, 130, 140, len(whole) - 1]
    for cut in cuts:
        (tmp_path / "a.npy").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a\.npy"):
            read_dict(tmp_path / "a.npy")
    heads = np.r_[0:2000, len(whole) - 500 : len(whole)]
    for position in rng.choice(heads, 80):
        changed = bytearray(whole)
        changed[position] ^= int(rng.integers(1, 256))
        (tmp_path / "a.npy").write_bytes(bytes(changed))
        try:
            read_dict(tmp_path / "a.npy")
        except ValueError as error:
            assert "a.npy" in str(error)  # noqa: PT017
