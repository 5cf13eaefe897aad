"""Seeded changes of a file's bytes, whatever they mean.

A mutator takes a random generator, the bytes of the file and its name, and returns other bytes.
"""

import gzip
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
Mutator = Callable[[Rng, bytes, str], bytes]

#: Name that occurs in every malicious payload, and in nothing else.
CANARY = "torture_canary"

#: Numbers that stand for sizes, indices and versions gone wrong.
NUMBERS = (
    *(0, -1, 1, 2, 3, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32, 10**9, 10**12),
    *(2**62, 2**63 - 1, 2**63, 10**30, -(2**31), -(2**63), 0.5, 1e-300, 1e300, -0.0),
)


def flip_bits(rng: Rng, content: bytes, name: str) -> bytes:
    changed = bytearray(content)
    for position in rng.integers(len(changed), size=_few(rng)):
        changed[position] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def set_bytes(rng: Rng, content: bytes, name: str) -> bytes:
    changed = bytearray(content)
    for position in rng.integers(len(changed), size=_few(rng)):
        changed[position] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
    return bytes(changed)


def truncate(rng: Rng, content: bytes, name: str) -> bytes:
    near_end = rng.random() < 0.3
    n = len(content)
    return (
        content[: n - int(rng.integers(1, min(n, 40) + 1))] if near_end else content[: _at(rng, n)]
    )


def insert(rng: Rng, content: bytes, name: str) -> bytes:
    at = _at(rng, len(content))
    return content[:at] + rng.bytes(int(rng.choice([1, 2, 7, 64, 4096]))) + content[at:]


def append(rng: Rng, content: bytes, name: str) -> bytes:
    more = [b"\0", b"\n", b"PK\x03\x04", rng.bytes(100), content]
    return content + more[rng.integers(len(more))]


def remove(rng: Rng, content: bytes, name: str) -> bytes:
    at = _at(rng, len(content))
    return content[:at] + content[at + int(rng.choice([1, 2, 4, 16, 512])) :]


def zero_run(rng: Rng, content: bytes, name: str) -> bytes:
    at, n = _at(rng, len(content)), int(rng.choice([1, 4, 16, 512, 4096]))
    return content[:at] + bytes(min(n, len(content) - at)) + content[at + n :]


def duplicate_block(rng: Rng, content: bytes, name: str) -> bytes:
    a, b = sorted((_at(rng, len(content)), _at(rng, len(content))))
    return content[:b] + content[a:b] + content[b:]


def swap_blocks(rng: Rng, content: bytes, name: str) -> bytes:
    a, b = sorted((_at(rng, len(content)), _at(rng, len(content))))
    n = min(int(rng.choice([4, 64, 512])), b - a, len(content) - b)
    return (
        content[:a]
        + content[b : b + n]
        + content[a + n : b]
        + content[a : a + n]
        + content[b + n :]
    )


def header_number(rng: Rng, content: bytes, name: str) -> bytes:
    """A number of two, four or eight bytes among the first 400, replaced by an odd one."""
    changed = bytearray(content)
    size = int(rng.choice([2, 4, 8]))
    if len(changed) <= size:
        return content[:-1]
    at = int(rng.integers(min(400, len(changed) - size)))
    number = int(NUMBERS[rng.integers(len(NUMBERS))])
    order = ["little", "big"][rng.integers(2)]
    changed[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
    return bytes(changed)


def empty(rng: Rng, content: bytes, name: str) -> bytes:
    return b""


def foreign(rng: Rng, content: bytes, name: str) -> bytes:
    """Content of another kind under the name."""
    kinds = [
        *(b"\0" * 4096, b"\x89PNG\r\n\x1a\n" + rng.bytes(64), b"<html><body>404</body></html>\n"),
        *(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", rng.bytes(2000)),
        *(
            b"{}",
            b"null",
            b"PK\x05\x06" + bytes(18),
            gzip.compress(b"nothing", mtime=0),
            b"\x93NUMPY",
        ),
        *(
            malicious_pickle(rng),
            b"\x89HDF\r\n\x1a\n" + bytes(500),
            b"a,b\n1,2\n",
            b"\xff\xfe{\x00",
        ),
    ]
    return kinds[rng.integers(len(kinds))]


def malicious_pickle(rng: Rng) -> bytes:
    """A pickle that runs a command when something unpickles it."""
    calls = [
        f"cposix\nsystem\n(V: {CANARY}\ntR.",
        f"cbuiltins\nexec\n(V{CANARY} = 1\ntR.",
        f"cbuiltins\neval\n(V'{CANARY}'\ntR.",
        f"csubprocess\nPopen\n(Vtrue {CANARY}\ntR.",
        f"cnumpy\nload\n(V{CANARY}\ntR.",
    ]
    return calls[rng.integers(len(calls))].encode()


BYTES: tuple[Mutator, ...] = (
    *(flip_bits, flip_bits, set_bytes, truncate, truncate, insert, append, remove, zero_run),
    *(duplicate_block, swap_blocks, header_number, header_number, empty, foreign),
)


def _few(rng: Rng) -> int:
    return int(rng.choice([1, 1, 1, 2, 8, 64]))


def _at(rng: Rng, n: int) -> int:
    """A position; half of the time among the first bytes, where headers are."""
    return int(rng.integers(max(1, min(n, 256) if rng.random() < 0.5 else n)))
