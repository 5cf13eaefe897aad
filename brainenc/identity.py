"""Identity of values by their content, for cache keys and manifests.

Printed text does not tell one value from another: ``repr`` shortens arrays, tensors and tables, and
holds addresses. Here a value becomes plain JSON-able values with hashes of what it holds, equal in
every process: no addresses, no order of sets, no random hashes of strings.
"""

import enum
import functools
import os
import sys
import sysconfig
import types
import uuid
import weakref
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from brainenc.storage import fingerprint

#: Arrays of at most this many numbers are written out, so that manifests can be read.
_WRITTEN_OUT = 64
#: Deeper values are not followed.
_DEEPEST = 40

#: What a class or a module of torch has besides its own code and content.
_NOT_CODE = frozenset(
    {"__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__annotations__"}
    | {"__abstractmethods__", "_abc_impl", "__slots__", "__parameters__", "__orig_bases__"}
    | {"__firstlineno__", "__static_attributes__", "_sklearn_auto_wrap_output_keys"}
)
_OF_EVERY_MODULE = frozenset(
    {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
    | {"_is_full_backward_hook", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks"}
    | {"_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"}
)

#: Global variables of these kinds enter a class as first seen: methods may count calls in them.
_LISTS = (list, set)
#: Code and attributes of classes as first seen: counters among these may change during a run.
_CLASSES: "weakref.WeakKeyDictionary[type, Any]" = weakref.WeakKeyDictionary()


def identity(value: Any) -> Any:
    """A value as JSON-able values that are equal only for values of equal content.

    Numbers, text, None and containers of these stay as they are (a tuple becomes a list). Arrays,
    tensors, tables and networks enter with dtype, shape and a hash of their content. Functions
    enter by name and, unless they belong to an installed package, by code, default values,
    enclosed variables and the global variables they read; classes likewise. Estimators enter by
    class and parameters, and other objects by class and attributes.

    Parameters
    ----------
    value : any

    Returns
    -------
    JSON-able value
        Something whose content cannot be read (a lock, an open file) is
        ``{"unidentified": class, "token": …}`` with another token each time: it is equal to
        nothing, not even to itself. `unidentified` finds it.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.zeros(1000)
    >>> identity(weights) == identity(weights.copy())
    True
    >>> weights[500] = 1e-9  # not seen in repr(weights)
    >>> identity(weights) == identity(np.zeros(1000))
    False
    """
    return _Walk().of(value)


def fitted_identity(value: Any) -> Any:
    """As `identity`, with the fitted attributes of estimators besides their parameters."""
    return _Walk(fitted=True).of(value)


def unidentified(described: Any) -> list[str]:
    """Classes of the values in a result of `identity` whose content could not be read.

    Examples
    --------
    >>> import threading
    >>> unidentified(identity({"lock": threading.Lock(), "size": 3}))
    ['_thread.lock']
    """
    if isinstance(described, Mapping):
        own = [described["unidentified"]] if {"unidentified", "token"} <= set(described) else []
        parts = list(described.values())
    elif isinstance(described, list):
        own, parts = [], described
    else:
        return []
    return [str(name) for name in own] + [name for part in parts for name in unidentified(part)]


def _is_library(module: str | None) -> bool:
    """Whether code is that of an installed package, which its name identifies."""
    return _is_installed((module or "").partition(".")[0])


@functools.cache
def _is_installed(top: str) -> bool:
    if top == "__main__":  # though its file may be that of an installed program
        return False
    if top in ("brainenc", "builtins") or top in sys.stdlib_module_names:
        return True
    found = sys.modules.get(top)
    places = getattr(found, "__path__", None) or [getattr(found, "__file__", None) or ""]
    installed = [sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")]
    return any(str(place).startswith(tuple(installed)) for place in places)


def _functions(member: Any) -> list[types.FunctionType]:
    """Functions behind a member of a class: a method of any kind, a property."""
    if isinstance(member, property):
        parts = [member.fget, member.fset, member.fdel]
    elif isinstance(member, functools.cached_property):
        parts = [member.func]
    else:
        parts = [getattr(member, "__func__", member)]
    return [part for part in parts if isinstance(part, types.FunctionType)]


class _Walk:
    """One walk through a value and all that it holds."""

    def __init__(self, fitted: bool = False):
        self.fitted = fitted
        self.open: list[int] = []
        self.alive: list[Any] = []  # ids are unique only while the objects live

    def of(self, value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return {"enum": f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, os.PathLike):
            return {"path": os.fspath(value)}
        if id(value) in self.open:  # it holds itself
            if isinstance(value, type):
                return {"class": f"{value.__module__}.{value.__qualname__}"}
            return {"levels above": len(self.open) - self.open.index(id(value))}
        if len(self.open) > _DEEPEST:
            return self.unknown(value)
        self.open.append(id(value))
        self.alive.append(value)
        try:
            return self.content(value)
        finally:
            self.open.pop()

    def content(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            return self.scalar(value)
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return {"bytes": fingerprint(np.frombuffer(value, np.uint8))}
        if isinstance(value, type):
            return self.class_(value)
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, types.MethodType):
            return {"method": self.of(value.__func__), "of": self.of(value.__self__)}
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if isinstance(value, np.ufunc):  # those of a package have a name there
            made_by_user = getattr(np, value.__name__, None) is not value
            return self.unknown(value) if made_by_user else {"function": f"numpy.{value.__name__}"}
        for special in (self.torch_value, self.pandas_value):
            if (found := special(value)) is not None:
                return found
        if callable(getattr(value, "key", None)) and hasattr(value, "get_params"):
            return self.of(value.key())  # an extractor, whose key has its weights
        if hasattr(value, "get_params") and not isinstance(value, type):
            return self.estimator(value)
        if isinstance(value, Mapping):
            if all(isinstance(key, str) for key in value):
                return {key: self.of(item) for key, item in value.items()}
            pairs = [[self.of(key), self.of(item)] for key, item in value.items()]
            return {"mapping": sorted(pairs, key=lambda pair: fingerprint(pair[0]))}
        if isinstance(value, Set):
            return {"set": sorted((self.of(item) for item in value), key=fingerprint)}
        if type(value) in (list, tuple):
            return [self.of(item) for item in value]
        return self.object(value)

    def unknown(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        return {"unidentified": name, "token": uuid.uuid4().hex}

    # ---------------------------------------------------------------- numbers and tables

    def scalar(self, value: np.generic) -> Any:
        plain = value.item()
        if type(plain) in (bool, int, float, str):
            return plain
        return {"scalar": self.array(np.asarray(value))}

    def array(self, array: np.ndarray) -> dict[str, Any]:
        if isinstance(array, np.ma.MaskedArray):
            return {"masked": self.array(array.filled(0)), "mask": self.of(np.asarray(array.mask))}
        array = np.asarray(array)  # a memory map, a matrix
        head = {"array": str(array.dtype), "shape": list(array.shape)}
        if array.dtype.hasobject:
            return head | {"items": [self.of(item) for item in array.ravel().tolist()]}
        if array.size <= _WRITTEN_OUT and array.dtype.kind in "biuf" and array.dtype.itemsize <= 8:
            return head | {"values": array.tolist()}
        if array.dtype.char in "gG":  # extended precision: its bytes hold padding
            rounded = array.astype("d" if array.dtype.char == "g" else "D")
            return head | {
                "rounded": self.array(rounded),
                "rest": self.array((array - rounded).astype(rounded.dtype)),
            }
        return head | {"hash": fingerprint(np.ascontiguousarray(array).view(np.uint8).ravel())}

    def torch_value(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        if isinstance(value, torch.nn.Module):
            return self.network(value)
        if not isinstance(value, torch.Tensor):
            return None
        if value.is_quantized or value.is_meta:
            return self.object(value)
        if value.layout is not torch.strided:
            dense = value.detach().cpu().to_sparse_coo().coalesce()
            parts = [self.of(part) for part in (dense.indices(), dense.values())]
            return {"tensor": str(value.layout), "shape": list(value.shape), "parts": parts}
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        content = fingerprint(plain.view(torch.uint8).numpy())
        return {"tensor": str(value.dtype), "shape": list(value.shape), "hash": content}

    def network(self, module: Any) -> dict[str, Any]:
        """Layers with their settings, shown by ``repr`` or not, and all weights and buffers."""
        layers = []
        for name, layer in module.named_modules():
            library = _is_library(type(layer).__module__)
            attributes: dict[str, Any] = {}
            for key, item in sorted(vars(layer).items()):
                if key in _OF_EVERY_MODULE or ("_hooks" in key and not item):
                    continue
                found = self.of(item)
                # A layer of torch or timm may hold locks and handles; its own numbers are read.
                attributes[key] = type(item).__name__ if library and unidentified(found) else found
            layers.append([name, self.of(type(layer)), attributes, getattr(layer, "code", None)])
        tensors = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        return {
            "network": kind,
            **self.hashed("layers", layers),
            "weights": fingerprint({name: self.of(tensor) for name, tensor in tensors.items()}),
        }

    def pandas_value(self, value: Any) -> Any:
        pandas = sys.modules.get("pandas")
        if pandas is None or not isinstance(value, (pandas.DataFrame, pandas.Series, pandas.Index)):
            return None
        kind = type(value).__name__
        if isinstance(value, pandas.MultiIndex):
            return {kind: self.of(list(value)), "names": self.of(list(value.names))}
        if isinstance(value, pandas.Index):
            return {kind: self.column(value), "name": self.of(value.name)}
        if isinstance(value, pandas.Series):
            return {kind: self.column(value), "index": self.of(value.index)}
        columns = [self.column(value.iloc[:, i]) for i in range(value.shape[1])]
        return {kind: columns, "columns": self.of(value.columns), "index": self.of(value.index)}

    def column(self, values: Any) -> dict[str, Any]:
        content = [self.of(values.to_numpy())]
        if hasattr(values.dtype, "categories"):
            content += [self.of(list(values.dtype.categories)), bool(values.dtype.ordered)]
        # Items of an array of objects one by one, but as one hash: tables may be long.
        return {"dtype": str(values.dtype), **self.hashed("values", content)}

    # ---------------------------------------------------------------- code

    def hashed(self, name: str, content: Any) -> dict[str, Any]:
        """A hash in place of long content, with whatever in it could not be identified."""
        unknown = unidentified(content)
        found: dict[str, Any] = {name: fingerprint(content)}
        if unknown:
            found |= {"unidentified": unknown[0], "token": uuid.uuid4().hex}
        return found

    def function(self, function: types.FunctionType) -> dict[str, Any]:
        name = {"function": f"{function.__module__}.{function.__qualname__}"}
        given = self.given(function)  # what a function of a library encloses may be the caller's
        if _is_library(function.__module__):
            return name | (self.hashed("given", given) if any(given) else {})
        return name | self.hashed(
            "code", [self.code(function.__code__), given, self.read(function)]
        )

    def given(self, function: types.FunctionType) -> list[Any]:
        """Enclosed variables and default values."""
        cells = [self.cell(cell) for cell in function.__closure__ or ()]
        return [cells, self.of(function.__defaults__), self.of(function.__kwdefaults__)]

    def cell(self, cell: Any) -> Any:
        try:
            return self.of(cell.cell_contents)
        except ValueError:
            return "empty"

    def code(self, code: types.CodeType) -> list[Any]:
        """Instructions and constants; no file names and lines."""
        constants = [
            self.code(constant)
            if isinstance(constant, types.CodeType)
            else [type(constant).__name__, self.of(constant)]
            for constant in code.co_consts
        ]
        return [code.co_code.hex(), constants, list(code.co_names), code.co_argcount]

    def read(self, function: types.FunctionType, left_out: tuple[type, ...] = ()) -> dict[str, Any]:
        """Global variables that a function reads, and those of the names of attributes it reads."""
        names, waiting = set(), [function.__code__]
        while waiting:
            code = waiting.pop()
            names |= set(code.co_names)
            waiting += [part for part in code.co_consts if isinstance(part, types.CodeType)]
        known = function.__globals__
        return {
            name: self.of(known[name])
            for name in sorted(names)
            if name in known and not isinstance(known[name], left_out)
        }

    def class_(self, kind: type) -> Any:
        name = {"class": f"{kind.__module__}.{kind.__qualname__}"}
        if _is_library(kind.__module__):
            return name
        own = {key: item for key, item in sorted(vars(kind).items()) if key not in _NOT_CODE}
        if kind not in _CLASSES:
            inner = _Walk()  # the same, wherever the class is first met
            inner.open.append(id(kind))
            members = {key: inner.member(item) for key, item in own.items()}
            _CLASSES[kind] = fingerprint(members)
        methods = [part for item in own.values() for part in _functions(item)]
        read = {method.__qualname__: self.read(method, _LISTS) for method in methods}
        bases = [self.of(base) for base in kind.__bases__]
        return name | self.hashed("code", [_CLASSES[kind], read, bases])

    def member(self, item: Any) -> Any:
        """Code of a method or value of an attribute; what cannot be identified is left out."""
        if functions := _functions(item):
            return [
                [self.code(part.__code__), self.given(part), self.read(part)] for part in functions
            ]
        found = None if hasattr(type(item), "__get__") else self.of(item)
        return None if unidentified(found) else found

    # ---------------------------------------------------------------- objects

    def estimator(self, estimator: Any) -> dict[str, Any]:
        """Class and parameters, and what scikit-learn's `clone` keeps besides them."""
        kind = type(estimator)
        parameters = estimator.get_params(deep=False)
        found: dict[str, Any] = {"class": kind.__name__, "module": kind.__module__}
        if not _is_library(kind.__module__):
            found["code"] = self.of(kind)
        # A FrozenEstimator, for example, stays fitted when it is cloned.
        clones = getattr(kind, "__sklearn_clone__", None)
        keeps = getattr(clones, "__module__", "sklearn.base") != "sklearn.base"
        inner = _Walk(fitted=True) if keeps else self
        found["parameters"] = {name: inner.of(value) for name, value in parameters.items()}
        if keeps or self.fitted:
            rest = {k: v for k, v in vars(estimator).items() if k not in parameters}
            found |= inner.hashed("fitted", {name: inner.of(v) for name, v in rest.items()})
        return found

    def object(self, value: Any) -> dict[str, Any]:
        """Whatever pickle would write, but by content and in an order of its own."""
        kind = self.of(type(value))
        try:
            parts = value.__reduce_ex__(4)
        except Exception:  # whatever an object says that cannot be pickled
            return self.unknown(value)
        if isinstance(parts, str):  # a name in its module
            return {"object": kind, "name": f"{getattr(value, '__module__', None)}.{parts}"}
        if not isinstance(parts, tuple):
            return self.unknown(value)
        made, arguments, state, items, pairs = (*parts, *[None] * 5)[:5]
        if made is iter or hasattr(value, "__next__"):
            return self.unknown(value)  # used up by reading it
        content = [
            self.of(made),
            self.of(list(arguments)),
            self.of(state),
            None if items is None else self.of(list(items)),
            None if pairs is None else self.of([list(pair) for pair in pairs]),
        ]
        return {"object": kind, **self.hashed("content", content)}
