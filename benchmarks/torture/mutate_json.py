"""Seeded changes of JSON: of its structure, its values, and how numbers are written."""

import json
from typing import Any

from torture.mutate_bytes import CANARY, NUMBERS, Rng, append, flip_bits, truncate

JSON_VALUES = (
    *NUMBERS,
    *(float("nan"), float("inf"), float("-inf"), True, False, None, "", "0", "NaN", "x" * 3000),
    *([], {}, [[]], [None], {"a": {}}, "../../../etc/passwd", "\u0000", "\ud800", "é–≥", [1e400]),
    *("builtins.eval", f"{CANARY}", {"$class": "Popen", "parameters": {}, "state": {}}),
)


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
        parent[f"{key}{rng.choice(['_', ' ', '2', ''])}" if rng.random() < 0.7 else ""] = (
            parent.pop(key)
        )
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
        keys = (
            node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        )
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
        wraps += [value[:-1], value[::-1], [*value, 1], dict(enumerate(value))]
    return wraps[rng.integers(len(wraps))]


def _odd(rng: Rng) -> Any:
    return JSON_VALUES[rng.integers(len(JSON_VALUES))]
