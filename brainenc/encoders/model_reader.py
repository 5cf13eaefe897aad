"""Reading the values of a saved encoder, each checked before anything is made of it."""

import dataclasses
import functools
import inspect
import reprlib
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from brainenc.documentation import see
from brainenc.encoders.known_classes import (
    is_encoder,
    is_extractor,
    is_of_scikit_learn,
    own_class,
    scikit_learn_class,
)
from brainenc.noise.trials import TrialDistribution
from brainenc.process_state import torch_seeded

#: Keys of a packed value besides the one that says its kind; `saving.save` writes no others.
_BESIDES: dict[str, list[set[str]]] = {
    **{kind: [set()] for kind in ("$dict", "$path", "$scalar", "$table", "$tuple")},
    "$array": [set(), {"order"}],
    "$strings": [set(), {"dtype"}],
    "$net": [{"sizes", "weights"}],
    "$class": [
        *({"fields"}, {"attributes"}),
        *({"parameters", "state"}, {"parameters", "state", "version"}),
    ],
}

#: A size of a net may be this large with any weights; a larger one needs as many weights.
_ANY_SIZE = 2**16

#: Attributes of every fitted encoder.
_OF_EVERY_FIT: dict[str, type] = {
    "trials_": TrialDistribution,
    "sample_kind_": str,
    "n_voxels_": int,
    "betas_ndim_": int,
}


class ModelReader:
    """Values from their JSON form, as `saving.save` writes it.

    Makes objects of classes only, and of no others than those in `classes`, brainenc's encoders
    and feature extractors, and the `saved_parts` of the encoders it meets.

    Parameters
    ----------
    source : str
        The file, for messages.
    arrays : dict of str to array
    classes : iterable of type
        The user's own.
    device : str, optional
        Put in place of the parameter `device` of every estimator that has one.

    Raises
    ------
    TypeError : `classes` holds something else.
    """

    def __init__(
        self,
        source: str,
        arrays: Mapping[str, np.ndarray],
        classes: Iterable[type] = (),
        *,
        device: str | None = None,
    ):
        classes = list(classes)
        if wrong := [cls for cls in classes if not isinstance(cls, type)]:
            raise TypeError(f"classes must be classes, such as [MyEncoder], got {wrong[0]!r}")
        self.source, self.arrays, self.device = source, arrays, device
        self.classes = {cls.__name__: cls for cls in classes}

    def damaged(self, where: str, problem: str) -> ValueError:
        """The error to raise for a value that `save` does not write."""
        return ValueError(f"{self.source} is damaged: {where} {problem}")

    def encoder(self, packed: Any, where: str = "encoder") -> Any:
        """The encoder that everything else in the file belongs to.

        Parameters
        ----------
        packed : the JSON form
        where : str
            Its place in the file, for messages.

        Raises
        ------
        ValueError : damaged; names the place and what is wrong there. Or a class that is not known.
        """
        try:
            found = self.value(packed, where)
        except RecursionError:
            raise self.damaged(where, "is nested too deeply") from None
        if getattr(type(found), "saved_alone", False):
            return found
        if not is_encoder(type(found)):
            raise self.damaged(where, f"is a {type(found).__name__} and no encoder")
        try:
            check_is_fitted(found)
        except NotFittedError:
            raise self.damaged(where, "lacks the attributes of a fitted encoder") from None
        return found

    def value(self, packed: Any, where: str) -> Any:
        """Value of any kind; see `encoder`."""
        if isinstance(packed, list):
            return [self.value(item, f"{where}[{i}]") for i, item in enumerate(packed)]
        if not isinstance(packed, dict):
            return packed
        kind = next((key for key in packed if key in _BESIDES), None)
        if kind is None or packed.keys() - {kind} not in _BESIDES[kind]:
            raise self.damaged(where, f"has the keys {sorted(packed)}, which go with no value")
        return getattr(self, f"_read_{kind[1:]}")(packed, where)

    # One method per kind of value, called by its key.

    def _read_array(self, packed: dict, where: str) -> np.ndarray:
        key = packed["$array"]
        if not isinstance(key, str) or key not in self.arrays:
            raise self.damaged(where, f"is the array {key!r}, which is missing")
        # Stored by columns, as it was in memory: products then sum in the same order.
        return self.arrays[key].T if packed.get("order") == "F" else self.arrays[key]

    def _read_scalar(self, packed: dict, where: str) -> Any:
        array = self._read_array({"$array": packed["$scalar"]}, where)
        if array.ndim:
            raise self.damaged(where, f"is no number, but an array of shape {array.shape}")
        return array[()]

    def _read_path(self, packed: dict, where: str) -> Path:
        if not isinstance(packed["$path"], str):
            raise self.damaged(where, "is no path")
        return Path(packed["$path"])

    def _read_strings(self, packed: dict, where: str) -> np.ndarray:
        texts = packed["$strings"]
        if not isinstance(texts, list) or any(isinstance(text, dict) for text in texts):
            raise self.damaged(where, "is no list of strings")
        dtype = packed.get("dtype", "|O")
        found = np.array(texts, dtype=object)
        longest = max((len(text) for text in texts if isinstance(text, str)), default=1)
        if dtype == "|O":
            return found
        # "<U12", say; a dtype from elsewhere could ask for any memory.
        fits = isinstance(dtype, str) and dtype[:2] in ("<U", ">U") and dtype[2:].isdecimal()
        if not fits or int(dtype[2:]) > max(longest, 1) + 1000:
            raise self.damaged(where, f"has {_brief(dtype)} in place of a dtype of strings")
        return found.astype(dtype)

    def _read_dict(self, packed: dict, where: str) -> dict:
        pairs = packed["$dict"]
        if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
            raise self.damaged(where, "is no list of pairs of a key and a value")
        return {key: self.value(value, f"{where}[{key!r}]") for key, value in pairs}

    def _read_table(self, packed: dict, where: str) -> pd.DataFrame:
        pairs = packed["$table"]
        if isinstance(pairs, dict):  # of format 2
            pairs = [list(pair) for pair in pairs.items()]
        if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
            raise self.damaged(where, "is no list of pairs of a name and a column")
        columns = [self.value(column, f"{where}.{name}") for name, column in pairs]
        shapes = [np.shape(column) for column in columns]
        one_axis = all(isinstance(c, np.ndarray) and c.ndim == 1 for c in columns)
        if not one_axis or len(set(shapes)) > 1:
            raise self.damaged(where, f"is a table of columns of shapes {shapes}")
        table = pd.DataFrame(dict(enumerate(columns)))
        return table.set_axis([name for name, _ in pairs], axis=1)

    def _read_tuple(self, packed: dict, where: str) -> tuple:
        if not isinstance(packed["$tuple"], list):
            raise self.damaged(where, "is no list of the items of a tuple")
        return tuple(self.value(packed["$tuple"], where))

    def _read_net(self, packed: dict, where: str) -> Any:
        import torch

        found = self._class(packed["$net"], where)
        if not issubclass(found, torch.nn.Module):
            raise self.damaged(where, f"names {found.__name__}, which is no network")
        sizes = self._arguments(packed["sizes"], f"{where}.sizes")
        weights = self._arguments(packed["weights"], f"{where}.weights")
        if wrong := [name for name, array in weights.items() if not isinstance(array, np.ndarray)]:
            raise self.damaged(f"{where}.weights", f"has no array for {wrong[0]}")
        self._check_weights(found, sizes, weights, where)
        with torch_seeded(0):  # initial weights are drawn and replaced; others' draws stay the same
            net = self._made(found, sizes, where)
        try:
            # Assigned and not copied into: weights keep their type whatever torch's default is.
            copies = {name: torch.from_numpy(array).clone() for name, array in weights.items()}
            net.load_state_dict(copies, assign=True)
        except (RuntimeError, TypeError) as error:
            problem = " ".join(str(error).split())  # torch takes a line per weight
            raise self.damaged(f"{where}.weights", f"go with another net: {problem}") from error
        return net.eval()

    def _read_class(self, packed: dict, where: str) -> Any:
        found = self._class(packed["$class"], where)
        if "fields" in packed:
            if not dataclasses.is_dataclass(found):
                raise self.damaged(where, f"has fields, but {found.__name__} is no dataclass")
            return self._made(found, self._by_name(packed["fields"], f"{where}.fields"), where)
        if "attributes" in packed:
            if not is_of_scikit_learn(found) or issubclass(found, BaseEstimator):
                raise self.damaged(where, f"has attributes, but {found.__name__} is no splitter")
            splitter: Any = object.__new__(found)
            vars(splitter).update(self._by_name(packed["attributes"], f"{where}.attributes"))
            return splitter
        if "version" in packed and packed["version"] != sklearn.__version__:
            warnings.warn(
                f"{found.__name__} in {self.source} was fitted with scikit-learn "
                f"{packed['version']}, and this is {sklearn.__version__}: its output may differ",
                stacklevel=2,
            )
        if not issubclass(found, BaseEstimator):
            raise self.damaged(where, f"has parameters, but {found.__name__} is no estimator")
        outside = self.classes
        parts = getattr(found, "saved_parts", ())
        self.classes = outside | {part.__name__: part for part in parts}
        parameters = self._by_name(packed["parameters"], f"{where}.parameters")
        state = self._by_name(packed["state"], f"{where}.state")
        self.classes = outside
        own = own_class(found.__name__) is found
        if wrong := [name for name in state if not _may_be_fitted(found, name, own)]:
            raise self.damaged(
                f"{where}.state",
                f"sets {wrong[0]}, which is no fitted attribute of {found.__name__}",
            )
        if is_encoder(found) and "trials_" in state:
            self._check_fit(state, f"{where}.state")
        if self.device is not None and "device" in parameters:
            parameters["device"] = self.device
        estimator = self._made(found, parameters, where)
        vars(estimator).update(state)
        return estimator

    # What these need.

    def _check_fit(self, state: dict[str, Any], where: str) -> None:
        """Refuse a fit without the attributes that `BaseEncoder.fit` sets."""
        for name, kind in _OF_EVERY_FIT.items():
            if name not in state:
                raise self.damaged(where, f"lacks {name}")
            if not isinstance(state[name], kind):
                value = _brief(state[name])
                raise self.damaged(where, f"has {name}={value}, which is no {kind.__name__}")

    def _class(self, name: Any, where: str) -> type:
        """The class of that name."""
        if not isinstance(name, str):
            raise self.damaged(where, f"has {_brief(name)} in place of the name of a class")
        if name in self.classes:
            return self.classes[name]
        if (own := own_class(name)) is not None:
            alone = getattr(own, "saved_alone", False)
            if not (isinstance(own, type) and (alone or is_encoder(own) or is_extractor(own))):
                raise self.damaged(where, f"names {name}, which is no encoder or extractor")
            return own
        if (theirs := scikit_learn_class(name)) is not None:
            return theirs
        raise ValueError(
            f"the model uses the class {name}, which brainenc does not have; "
            f"pass it as load(folder, classes=[{name}])" + see("guide/encoders")
        )

    def _arguments(self, packed: Any, where: str) -> dict[str, Any]:
        found = self.value(packed, where)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise self.damaged(where, f"is {_brief(found)} in place of values by name")
        return found

    def _by_name(self, packed: Any, where: str) -> dict[str, Any]:
        if not isinstance(packed, dict):
            raise self.damaged(where, f"is {_brief(packed)} in place of values by name")
        return {name: self.value(value, f"{where}.{name}") for name, value in packed.items()}

    def _made(self, found: type, arguments: dict[str, Any], where: str) -> Any:
        try:
            return found(**arguments)
        except Exception as error:  # whatever a constructor says of arguments it cannot have had
            raise self.damaged(where, f"cannot be made a {found.__name__}: {error}") from error

    def _check_weights(
        self, net_class: type, sizes: dict, weights: dict[str, np.ndarray], where: str
    ) -> None:
        """Refuse sizes that do not go with the weights, before memory is taken for a net."""
        import torch

        largest = max(_ANY_SIZE, sum(array.size for array in weights.values()))
        for name, size in sizes.items():
            if not all(abs(number) <= largest for number in _integers(size)):
                raise self.damaged(f"{where}.sizes.{name}", f"is {_brief(size)}: too large")
        try:
            with torch.device("meta"), _few_parameters(2 * len(weights) + 100):
                expected = {k: tuple(v.shape) for k, v in net_class(**sizes).state_dict().items()}
        except _TooMany:
            raise self.damaged(
                f"{where}.sizes", f"give {net_class.__name__} more weights than are saved"
            ) from None
        except Exception:
            return  # a net that cannot be made without numbers, or that cannot be made at all
        saved = {name: array.shape for name, array in weights.items()}
        for name in [*expected, *saved]:
            if expected.get(name) != saved.get(name):
                raise self.damaged(
                    f"{where}.weights",
                    f"has {name} of shape {saved.get(name)}, and {net_class.__name__} of these "
                    f"sizes one of {expected.get(name)}",
                )


class _TooMany(BaseException):
    """More parameters than expected; no Exception, so that no constructor catches it."""


@contextmanager
def _few_parameters(most: int) -> Iterator[None]:
    """Stop this thread when it has made more parameters of networks than that."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    thread, n = threading.get_ident(), 0

    def count(*_: Any) -> None:
        nonlocal n
        if threading.get_ident() == thread:  # the hook is that of all threads
            n += 1
            if n > most:
                raise _TooMany

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _may_be_fitted(estimator: type, name: str, own: bool) -> bool:
    """Whether a name is that of a fitted attribute, and not of a method or property.

    Fitted attributes of brainenc's `own` classes end in ``_``; others may have any.
    """
    if name.startswith("__") or not name.isidentifier():
        return False
    if own and (name.startswith("_") or not name.endswith("_")):
        return False
    known = inspect.getattr_static(estimator, name, None)
    if isinstance(known, functools.cached_property):  # kept under its name once it is known
        return True
    return not callable(known) and not hasattr(known, "__get__")


def _is_pair(packed: Any) -> bool:
    """Whether this is a key of a dict, as JSON has it, and a value."""
    return isinstance(packed, list) and len(packed) == 2 and not isinstance(packed[0], (list, dict))


def _integers(size: Any) -> Iterator[int]:
    """All integers in a size of a net, which may be a list or dict of them."""
    if isinstance(size, int):
        yield size
    elif isinstance(size, (list, tuple)):
        for item in size:
            yield from _integers(item)
    elif isinstance(size, dict):
        yield from _integers(list(size.values()))


def _brief(value: Any) -> str:
    return reprlib.repr(value)
