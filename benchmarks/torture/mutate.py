"""Seeded changes of a file: of its bytes, of JSON, of headers, of archives, of tables.

A mutator takes a random generator, the bytes of the file and its name, and returns other bytes.
"""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

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
JSON_VALUES = (
    *NUMBERS,
    *(float("nan"), float("inf"), float("-inf"), True, False, None, "", "0", "NaN", "x" * 3000),
    *([], {}, [[]], [None], {"a": {}}, "../../../etc/passwd", "\u0000", "\ud800", "é–≥", [1e400]),
    *("builtins.eval", f"{CANARY}", {"$class": "Popen", "parameters": {}, "state": {}}),
)


# -------------------------------------------------------------------- bytes


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
    return content[: n - int(rng.integers(1, min(n, 40) + 1))] if near_end else content[: _at(rng, n)]


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
    return content[:a] + content[b : b + n] + content[a + n : b] + content[a : a + n] + content[b + n :]


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
        *(b"{}", b"null", b"PK\x05\x06" + bytes(18), gzip.compress(b"nothing"), b"\x93NUMPY"),
        *(malicious_pickle(rng), b"\x89HDF\r\n\x1a\n" + bytes(500), b"a,b\n1,2\n", b"\xff\xfe{\x00"),
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


# -------------------------------------------------------------------- JSON


def edit_json(rng: Rng, content: bytes, name: str) -> bytes:
    """One to three changes of structure or values; nothing if it is no JSON."""
    try:
        tree = json.loads(content)
    except ValueError:
        return flip_bits(rng, content, name)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        tree = _edit(rng, tree)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def nest_json(rng: Rng, content: bytes, name: str) -> bytes:
    """A value wrapped in very many brackets."""
    depth = int(rng.choice([50, 900, 5000, 100_000]))
    opening, closing = [(b"[", b"]"), (b'{"a":', b"}")][rng.integers(2)]
    value = opening * depth + b"1" + closing * depth
    numbers = [i for i, byte in enumerate(content) if byte in b"0123456789"]
    if not numbers:
        return value
    at = numbers[rng.integers(len(numbers))]
    return content[:at] + value + content[at + 1 :]


def duplicate_key(rng: Rng, content: bytes, name: str) -> bytes:
    """A key twice: the later one, with another value, is what Python takes."""
    try:
        tree = json.loads(content)
        keys = list(tree)
        key = keys[rng.integers(len(keys))]
    except (ValueError, KeyError, TypeError):
        return append(rng, content, name)
    other = json.dumps({key: _odd(rng)})[1:-1]
    return content.rstrip().removesuffix(b"}") + b"," + other.encode() + b"}\n"


def json_numbers(rng: Rng, content: bytes, name: str) -> bytes:
    """A number in the text written another way: huge, a float, with digits without end."""
    odd = [b"1e999", b"-1e999", b"NaN", b"Infinity", b"9" * 5000, b"1" + b"0" * 400, b"0.1", b"1.0"]
    starts = [
        i
        for i in range(1, len(content))
        if content[i] in b"0123456789" and content[i - 1] in b" [:,"
    ]
    if not starts:
        return truncate(rng, content, name)
    at = end = starts[rng.integers(len(starts))]
    while end < len(content) and content[end] in b"0123456789.eE+-":
        end += 1
    return content[:at] + odd[rng.integers(len(odd))] + content[end:]


def _edit(rng: Rng, tree: Any) -> Any:
    places = list(_places(tree))
    if not places:
        return _odd(rng)
    parent, key = places[rng.integers(len(places))]
    action = rng.choice(["replace", "replace", "kind", "delete", "copy", "rename", "grow", "swap"])
    other_parent, other = places[rng.integers(len(places))]
    if action == "delete":
        del parent[key]
    elif action == "kind":
        parent[key] = _of_another_kind(rng, parent[key])
    elif action == "copy":
        parent[key] = json.loads(json.dumps(other_parent[other]))
    elif action == "rename" and isinstance(parent, dict):
        parent[f"{key}{rng.choice(['_', ' ', '2', ''])}" if rng.random() < 0.7 else ""] = parent.pop(key)
    elif action == "grow" and isinstance(parent[key], list):
        parent[key] = parent[key] * int(rng.choice([2, 10, 1000]))
    elif action == "swap" and not _inside(parent[key], other_parent):
        # Copies, so that no value comes to hold itself.
        a, b = json.dumps(parent[key]), json.dumps(other_parent[other])
        parent[key], other_parent[other] = json.loads(b), json.loads(a)
    else:
        parent[key] = _odd(rng)
    return tree


def _places(tree: Any) -> Any:
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            yield node, key
            if isinstance(node[key], (dict, list)):
                stack.append(node[key])


def _inside(tree: Any, node: Any) -> bool:
    return tree is node or any(parent[key] is node for parent, key in _places(tree))


def _of_another_kind(rng: Rng, value: Any) -> Any:
    wraps = [[value], {"a": value}, str(value)[:100], None, bool(value), [value, value]]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        wraps += [value + 1, -value, value * 1000, float(value) if abs(value) < 1e300 else 0.0]
    if isinstance(value, str):
        wraps += [value + "x", value.upper(), value[:-1], 1, value.encode().hex()]
    if isinstance(value, list):
        wraps += [value[:-1], value[::-1], value + [1], dict(enumerate(value))]
    return wraps[rng.integers(len(wraps))]


def _odd(rng: Rng) -> Any:
    return JSON_VALUES[rng.integers(len(JSON_VALUES))]


# -------------------------------------------------------------------- .npy


def npy_header(rng: Rng, content: bytes, name: str) -> bytes:
    """Another dtype, order or shape in the header of an array; its length stays right."""
    try:
        n = 10 if content[6] == 1 else 12
        header = content[n : n + _header_length(content)].decode("latin1")
    except (IndexError, struct.error):
        return truncate(rng, content, name)
    rest = content[n + len(header) :]
    shape = header[header.find("(") : header.find(")") + 1]
    kind = header.split("'descr': '")[-1].split("'")[0]
    dtypes = [">f4", "<f8", "<f2", "|O", "|V4", "<U9", "|b1", "<c16", "<M8[s]", "|u1", "<i8", "zzz"]
    shapes = [
        *("(1000000000000,)", "(-1,)", "()", "(0,)", "(2, 0, 3)", "(4294967296, 4294967296)"),
        *("(9223372036854775807, 2)", "(True, 2)", "(1,) * 99", shape[:-1] + " 1)", "(1.5,)"),
        *("(" + ", ".join(["1"] * 70) + ")", "(3, 4, 5)", "None", "(1000000, 1000000)"),
    ]
    edits = [
        lambda: header.replace(kind, dtypes[rng.integers(len(dtypes))], 1),
        lambda: header.replace(shape, shapes[rng.integers(len(shapes))], 1),
        lambda: header.replace(shape, shapes[rng.integers(len(shapes))], 1),
        lambda: header.replace("False", "True", 1),
        lambda: header.replace("'shape'", "'shap'", 1),
        lambda: header.replace("{", "{" * int(rng.choice([1, 100])), 1),
        lambda: header.replace("'descr'", f"__import__('os').system(': {CANARY}') or 'descr'", 1),
    ]
    edited = edits[rng.integers(len(edits))]().rstrip()
    text = edited.encode() + b" " * ((-len(edited) - 11) % 64) + b"\n"
    version = [b"\x01\x00", b"\x02\x00", b"\x03\x00"][rng.integers(3)]
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return content[:6] + version + length + text + rest


def npy_object(rng: Rng, content: bytes, name: str) -> bytes:
    """An array of Python objects whose pickle runs a command."""
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    text += b" " * ((-len(text) - 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + malicious_pickle(rng)


def _header_length(content: bytes) -> int:
    form, end = ("<H", 10) if content[6] == 1 else ("<I", 12)
    return struct.unpack(form, content[8:end])[0]


# -------------------------------------------------------------------- archives


def zip_member(rng: Rng, content: bytes, name: str) -> bytes:
    """A member changed, lost, doubled or renamed; checksums of the archive are right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except Exception:
        return flip_bits(rng, content, name)
    names = list(members)
    chosen = names[rng.integers(len(names))]
    action = rng.choice(["bytes", "bytes", "drop", "rename", "swap", "bomb", "pickle", "compress"])
    compression = zipfile.ZIP_STORED
    if action == "bytes":
        members[chosen] = mutated(rng, members[chosen], chosen)[0] if members[chosen] else b"x"
    elif action == "drop":
        del members[chosen]
    elif action == "rename":
        new = rng.choice(["../../evil", "/tmp/evil", chosen + "x", "images.npy", " ", "a/" * 300])
        members[str(new)] = members.pop(chosen)
    elif action == "swap":
        other = names[rng.integers(len(names))]
        members[chosen], members[other] = members[other], members[chosen]
    elif action == "bomb":
        members[chosen] = bomb_array(rng)
        compression = zipfile.ZIP_DEFLATED
    elif action == "pickle":
        members[chosen] = malicious_pickle(rng) if ".npy" not in chosen else npy_object(rng, b"", "")
    else:
        compression = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA][rng.integers(3)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for member, value in members.items():
            archive.writestr(member, value)
    return out.getvalue()


_BOMBS: dict[int, bytes] = {}


def bomb_array(rng: Rng) -> bytes:
    """An array of zeros of some megabytes that says it has terabytes, or is as large as it says."""
    shape = [(2**40,), (10**6, 10**6), (30_000, 1000, 1), (2**25,)][rng.integers(4)]
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * ((-len(text) - 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(2**25)


def gzip_inside(rng: Rng, content: bytes, name: str) -> bytes:
    """What is compressed changed, and compressed again; or a bomb in its place."""
    try:
        inside = gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return flip_bits(rng, content, name)
    action = rng.choice(["inside", "inside", "header", "twice", "bomb"])
    if action == "inside":
        inside = BYTES[rng.integers(len(BYTES))](rng, inside, name)
    elif action == "header":
        inside = header_number(rng, inside, name)
    elif action == "twice":
        return content + content
    else:
        if 0 not in _BOMBS:
            _BOMBS[0] = bytes(2**26)
        inside += _BOMBS[0]
    return gzip.compress(inside, 1)


# -------------------------------------------------------------------- tables


def edit_csv(rng: Rng, content: bytes, name: str) -> bytes:
    """A cell, a row or a column of a table changed."""
    lines = content.decode("utf-8", "replace").splitlines()
    rows = [line.split(",") for line in lines]
    if len(rows) < 2:
        return flip_bits(rng, content, name)
    i = int(rng.integers(len(rows)))
    j = int(rng.integers(max(1, len(rows[i]))))
    odd = [
        *("", "nan", "inf", "-1", "1e400", "99999999999999999999", "0.5", "x", '"', '"a""b"', "NA"),
        *("=1+1", "<script>", "1,2", "é", "\x00", "True", "None", "-", " ", "x" * 200_000),
    ]
    action = rng.choice(["cell", "cell", "cell", "row", "drop", "column", "name", "swap", "order"])
    if action == "cell":
        rows[i][j : j + 1] = [odd[rng.integers(len(odd))]]
    elif action == "row":
        rows.insert(i, list(rows[i]))
    elif action == "drop":
        del rows[i]
    elif action == "column":
        for row in rows:
            del row[j : j + 1]
    elif action == "name":
        rows[0][min(j, len(rows[0]) - 1)] = odd[rng.integers(len(odd))]
    elif action == "order":
        rows[1:] = [rows[1 + k] for k in rng.permutation(len(rows) - 1)]
    else:
        other = int(rng.integers(len(rows)))
        rows[i], rows[other] = rows[other], rows[i]
    ending = ["\n", "\n", "\n", "\r\n", "\r"][rng.integers(5)]
    return (ending.join(map(",".join, rows)) + ending).encode()


#: Mutators besides those of bytes, by how the name of a file ends.
STRUCTURED: dict[str, tuple[Mutator, ...]] = {
    ".json": (edit_json, edit_json, edit_json, nest_json, duplicate_key, json_numbers),
    ".npy": (npy_header, npy_header, npy_object),
    ".npz": (zip_member, zip_member),
    ".pth": (zip_member, zip_member),
    ".pt": (zip_member, zip_member),
    ".gz": (gzip_inside, gzip_inside),
    ".mgz": (gzip_inside, gzip_inside),
    ".csv": (edit_csv, edit_csv),
    ".ctab": (edit_csv,),
}


def mutated(rng: Rng, content: bytes, name: str) -> tuple[bytes, str]:
    """Other content for a file of that name, and the mutator that made it."""
    special = next((m for end, m in STRUCTURED.items() if name.endswith(end)), ())
    choices = special if special and rng.random() < 0.55 else BYTES
    for _ in range(20):
        mutator = choices[rng.integers(len(choices))]
        changed = mutator(rng, content, name)
        if changed != content:
            return changed, mutator.__name__
        choices = BYTES
    return content + b"\0", "append"


def _few(rng: Rng) -> int:
    return int(rng.choice([1, 1, 1, 2, 8, 64]))


def _at(rng: Rng, n: int) -> int:
    """A position; half of the time among the first bytes, where headers are."""
    return int(rng.integers(max(1, min(n, 256) if rng.random() < 0.5 else n)))
