"""Seeded changes of arrays, archives and tables, and the choice of a change by a file's name."""

import gzip
import io
import struct
import zipfile
import zlib

from torture.mutate_bytes import (
    BYTES,
    CANARY,
    Mutator,
    Rng,
    flip_bits,
    header_number,
    malicious_pickle,
    truncate,
)
from torture.mutate_json import duplicate_key, edit_json, json_numbers, nest_json

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
        members[chosen] = (
            malicious_pickle(rng) if ".npy" not in chosen else npy_object(rng, b"", "")
        )
    else:
        compression = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA][rng.integers(3)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, value in members.items():
            # Without the time of day, so that a seed always gives the same bytes.
            archive.writestr(zipfile.ZipInfo(member), value, compression)
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
    return gzip.compress(inside, 1, mtime=0)


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
