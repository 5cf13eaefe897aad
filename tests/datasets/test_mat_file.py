"""MATLAB files: against SciPy where it reads them, and by hand where it ends the process."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from brainenc.datasets.mat_file import read_numbers, read_variables

RNG = np.random.default_rng(0)
ARRAYS = {
    "doubles": RNG.standard_normal((3, 4)),
    "singles": RNG.standard_normal((1, 5)).astype(np.float32),
    "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "whole": np.arange(1, 30_001, dtype=float)[None],
    "small": np.array([[7]], dtype=np.int16),
    "negative": np.array([[-1, 2**40]], dtype=np.int64),
    "deep": RNG.integers(0, 100, (2, 3, 4)).astype(np.int32),
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_those_that_scipy_reads(tmp_path, compressed):
    path = tmp_path / "a.mat"
    others = {"text": "a", "cells": np.array(["a", 1], dtype=object), "fields": {"doubles": 1.0}}
    others |= {"complex": np.array([[1j]])}
    savemat(path, {**others, **ARRAYS}, do_compression=compressed)
    found, expected = read_numbers(path, [*ARRAYS, *others, "none"]), loadmat(path)
    assert list(found) == list(ARRAYS)
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert list(read_numbers(path, ["small"])) == ["small"]


def element(order, kind, content):
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def by_hand(order, *, values=(1, 2, 3, 4, 5, 6), shape=(2, 3), name=b"x", kind=4):
    """A file with one array of doubles whose values are stored as 16-bit integers."""
    parts = [
        element(order, 6, struct.pack(f"{order}II", 6, 0)),
        element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape)),
        element(order, 1, name),
        element(order, kind, struct.pack(f"{order}{len(values)}H", *values)),
    ]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x100)
    header += {"<": b"IM", ">": b"MI"}[order]
    return header + element(order, 14, b"".join(parts))


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes(tmp_path, order):
    path = tmp_path / "a.mat"
    path.write_bytes(by_hand(order))
    (found,) = read_numbers(path, ["x"]).values()
    np.testing.assert_array_equal(found, [[1.0, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(found, loadmat(path)["x"])


DAMAGED = {
    "empty": b"",
    "text": b"nothing of the kind" * 20,
    "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400),
    "ends early": by_hand("<")[:-9],
    "a shape of more": by_hand("<", shape=(2, 300)),
    "a shape beyond all memory": by_hand("<", shape=(2**31 - 1, 2**31 - 1)),
    "a negative shape": by_hand("<", shape=(-2, -3)),
    "an unknown type": by_hand("<", kind=77),
    "zeros": by_hand("<")[:128] + bytes(64),
    "a bomb": by_hand("<")[:128]
    + struct.pack("<II", 15, len(bomb := zlib.compress(bytes(2**28 + 10)))) + bomb,
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "damaged.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.mat"):
        read_numbers(path, ["x"])


@pytest.mark.parametrize("compressed", [False, True])
def test_no_damage_ends_in_another_error(tmp_path, compressed):
    path = tmp_path / "a.mat"
    savemat(path, {name: ARRAYS[name] for name in ("small", "bytes")}, do_compression=compressed)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        changed = bytearray(content)
        for at in rng.integers(len(content), size=rng.integers(1, 4)):
            changed[at] = rng.choice([0, 1, 255, rng.integers(256)])
        path.write_bytes(changed[: rng.choice([len(changed), rng.integers(len(changed))])])
        with contextlib.suppress(ValueError):
            assert read_numbers(path, list(ARRAYS)).keys() <= {"small", "bytes"}


# ------------------------------------------------------------------ text, cells, structures


def cells(rows):
    found = np.empty((len(rows), len(rows[0])), dtype=object)
    for i, row in enumerate(rows):
        found[i] = row
    return found


@pytest.mark.parametrize("compressed", [False, True])
def test_text_cells_and_structures(tmp_path, compressed):
    path = tmp_path / "a.mat"
    inner = cells([["a", 2.0], ["größer", np.empty((0, 0))]])
    content = {
        "text": "größer",
        "rows": np.array(["ab", "cde"]),
        "empty": "",
        "cells": cells([[1.0, "x", inner], [3j, True, "y"]]),
        "fields": {"key": cells([["k1", "k2"]]), "value": np.arange(6.0).reshape(2, 3)},
        "several": np.array([(1.0, "a"), (2.0, "b")], dtype=[("n", object), ("t", object)]),
        "nothing": {},
    }
    savemat(path, content, do_compression=compressed)
    found = read_variables(path, list(content))
    assert found["text"] == "größer"
    assert found["rows"] == ["ab ", "cde"]
    assert found["empty"] == ""
    assert found["cells"].shape == (2, 3)
    assert found["cells"][0, 0].tolist() == [[1.0]]
    assert found["cells"][0, 1] == "x"
    assert found["cells"][0, 2][1, 0] == "größer"
    assert found["cells"][0, 2][1, 1].size == 0
    assert found["cells"][1, 0] is None  # complex
    assert found["cells"][1, 1].tolist() == [[1]]
    assert found["fields"]["key"].tolist() == [["k1", "k2"]]
    np.testing.assert_array_equal(found["fields"]["value"], content["fields"]["value"])
    assert [row["t"] for row in found["several"].ravel()] == ["a", "b"]
    assert set(read_variables(path, ["text"])) == {"text"}


def test_damage_anywhere_in_cells_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "a.mat"
    content = {"fields": {"key": cells([["k1", "k2"]]), "value": np.arange(4.0)}}
    savemat(path, content, do_compression=False)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[rng.integers(128, len(whole))] = rng.integers(256)
        path.write_bytes(bytes(damaged[: rng.integers(130, len(whole) + 1)]))
        with contextlib.suppress(ValueError):  # every other error fails the test
            read_variables(path, ["fields"])


def test_cells_too_deep_are_refused(tmp_path):
    path, deep = tmp_path / "a.mat", cells([["x"]])
    for _ in range(25):
        deep = cells([[deep]])
    savemat(path, {"deep": deep})
    with pytest.raises(ValueError, match=r"a\.mat cannot be read .* more than 20 deep"):
        read_variables(path, ["deep"])
