"""Arrays with a checksum at the end of their file."""

import numpy as np
import pytest

from brainenc.arrays import write_array
from brainenc.sealed import read_sealed, save_sealed, seal


@pytest.fixture(params=["saved", "sealed"])
def path(request, tmp_path):
    path = tmp_path / "a.npy"
    if request.param == "saved":
        save_sealed(path, array(), "image 3")
    else:
        write_array(path, array())
        seal(path, "image 3")
    return path


def array():
    return np.arange(40, dtype=np.float32).reshape(10, 4)


def read(path, identity="image 3", **options):
    return [
        read_sealed(path, identity, dtype=np.float32, mapped=mapped, **options)
        for mapped in (False, True)
    ]


def test_numpy_reads_it_as_any_other(path):
    for found in (*read(path), np.load(path), np.load(path, mmap_mode="r")):
        np.testing.assert_array_equal(found, array())


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("unsealed", [False, True])
def test_every_flipped_bit_is_found(path, mapped, unsealed):
    whole = path.read_bytes()
    for place in range(0, len(whole) * 8, 5):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(path)):
            read_sealed(path, "image 3", dtype=np.float32, mapped=mapped, unsealed=unsealed)


@pytest.mark.parametrize("mapped", [False, True])
def test_every_length_is_found(path, mapped):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=str(path)):
            read_sealed(path, "image 3", dtype=np.float32, mapped=mapped)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=str(path)):
        read_sealed(path, "image 3", dtype=np.float32, mapped=mapped, unsealed=True)


def test_a_file_in_the_place_of_another_is_found(path):
    with pytest.raises(ValueError, match="checksum is wrong"):
        read(path, "image 4")


def test_files_without_a_checksum(tmp_path):
    np.save(tmp_path / "a.npy", array())
    for found in read(tmp_path / "a.npy", unsealed=True):
        np.testing.assert_array_equal(found, array())
    with pytest.raises(ValueError, match="no checksum at its end"):
        read(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", array().astype(float))
    with pytest.raises(ValueError, match="holds float64, and float32 is wanted"):
        read(tmp_path / "a.npy", unsealed=True)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.npy")
