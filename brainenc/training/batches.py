"""Training examples, their order, and the batches that a loss gets."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch

from brainenc.arrays import blocks, release
from brainenc.storage import fingerprint
from brainenc.validation import check_positions, check_same_length

#: Examples of at most this size are hashed whole, in a second or two; of more, at least so many.
_HASHED_BYTES, _FEWEST = 2**30, 4096

Key = TypeVar("Key")
Value = TypeVar("Value")


class Examples:
    """Training examples, read in batches from arrays that may be memory-mapped.

    Parameters
    ----------
    **fields : array, or tuple (array, index, ...)
        Parts of an example. With a bare array, example i is row i. With index arrays, each of shape
        (n_examples,), example i is ``array[index_1[i], index_2[i], ...]``. An array may be any
        object with ``shape``, ``dtype`` and such indexing.

    Raises
    ------
    ValueError : index arrays that differ in length or point outside their array.

    Examples
    --------
    Single trials, each with the features of its image:

    >>> image, repeat = np.nonzero(np.isfinite(betas).any(axis=2))  # doctest: +SKIP
    >>> Examples(tokens=(tokens, image), betas=(betas, image, repeat))  # doctest: +SKIP
    """

    def __init__(self, **fields: Any):
        if not fields:
            raise ValueError("examples need one field at least, such as betas=(betas, image)")
        self._fields = {name: _field(name, value) for name, value in fields.items()}
        self._n = check_same_length(**{name: index[0] for name, (_, index) in self._fields.items()})

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of these examples of each field; floats as float32."""
        batch = {
            name: _plain(array[tuple(part[rows] for part in index)])
            for name, (array, index) in self._fields.items()
        }
        for array, _ in self._fields.values():
            release(array)
        return batch

    def description(self) -> dict[str, Any]:
        """Number, shapes and dtypes, and a hash of the index arrays and of the examples.

        Of examples of more than a gigabyte, a few thousand spread over them are hashed.
        """
        bytes_each = sum(values.nbytes for values in self[np.array([0])].values())
        most = max(_FEWEST, _HASHED_BYTES // max(1, bytes_each))
        some = np.linspace(0, len(self) - 1, min(len(self), most)).astype(int)
        content: list[Any] = [part for _, index in self._fields.values() for part in index]
        at_once = min(2**24 // max(1, bytes_each), len(some) // 32)
        for block in blocks(len(some), at_once):
            content += [fingerprint(values) for values in self[some[block]].values()]
        shapes = {name: f"{array.dtype} {array.shape}" for name, (array, _) in self._fields.items()}
        return {
            "n_examples": len(self),
            **shapes,
            "content": fingerprint(*content),
        }


def _field(name: str, value: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    array, *index = value if isinstance(value, tuple) else (value,)
    array = array if hasattr(array, "shape") else np.asarray(array)
    if len(index or [0]) > len(array.shape):
        raise ValueError(f"{name} {array.shape} has too few axes for {len(index)} index arrays")
    if not index:
        index = [np.arange(len(array))]
    parts = tuple(
        check_positions(part, array.shape[axis], f"index {axis} of {name}")
        for axis, part in enumerate(index)
    )
    check_same_length(**{f"index {axis} of {name}": part for axis, part in enumerate(parts)})
    return array, parts


def _plain(values: Any) -> np.ndarray:
    values = np.asarray(values)
    return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values


class Batch:
    """One global batch, or this process's slice of it.

    ``batch["betas"]`` is a tensor of shape (len(batch), ...) on the device.

    Random numbers are drawn for the global batch, and this process gets the rows of its examples:
    draws depend on the seed and the step, not on the number of processes.

    Parameters
    ----------
    tensors : dict of tensors, each of shape (n, ...)
        The examples of this process.
    step, n_steps, epoch : int
        Position in the training; the first step and the first epoch are 0.
    generator : torch.Generator, optional
        On the device of the tensors.
    rank, world_size : int
        Index of this process, and number of processes, which have equally many examples.
    gather : function, optional
        See `gather`; None for one process.
    """

    # A plain class, since Fabric rounds float tensors in dicts and dataclasses to bf16.

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        *,
        step: int = 0,
        n_steps: int = 1,
        epoch: int = 0,
        generator: torch.Generator | None = None,
        rank: int = 0,
        world_size: int = 1,
        gather: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.step, self.n_steps, self.epoch = step, n_steps, epoch
        self._tensors, self._generator, self._gather = tensors, generator, gather
        self._rank, self._world_size = rank, world_size

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return next(iter(self._tensors.values())).device

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, in [0, 1)."""
        return self.step / self.n_steps

    def normal(self, *shape: int) -> torch.Tensor:
        r"""Standard normal numbers, (len(batch), \*shape)."""
        return self._drawn(torch.randn, shape)

    def uniform(self, *shape: int) -> torch.Tensor:
        r"""Numbers in [0, 1), (len(batch), \*shape)."""
        return self._drawn(torch.rand, shape)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        r"""Integers from 0 to `high` − 1, (len(batch), \*shape)."""
        return self._drawn(lambda size, **how: torch.randint(high, size, **how), shape)

    def _drawn(self, draw: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        size = (self._world_size, len(self), *shape)
        return draw(size, generator=self._generator, device=self.device)[self._rank]

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rows of the global batch, (n_global, ...), from rows of each process, (len(batch), ...).

        Gradients flow back to the processes that the rows came from. A loss that compares the
        examples of a batch, such as a contrastive one, gathers first and is then the same in
        every process; a mean over examples needs no gathering.
        """
        return tensor if self._gather is None else self._gather(tensor)


def derived_seed(random_state: int, purpose: str, index: int, *more: int) -> int:
    """Seed for one purpose and step (or epoch), independent of earlier random draws."""
    entropy = [random_state, *purpose.encode(), index, *more]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


class Order:
    """Examples of each batch, as a function of the step.

    Parameters
    ----------
    n_examples, batch_size, random_state : int
    rank, world_size : int
        Each process gets a slice of every batch.

    Raises
    ------
    ValueError : the batch size is not a multiple of the number of processes.
    """

    def __init__(
        self, n_examples: int, batch_size: int, random_state: int, rank: int, world_size: int
    ):
        self.batch_size = min(batch_size, n_examples)
        self.steps_per_epoch = n_examples // self.batch_size
        if self.batch_size % world_size:
            raise ValueError(
                f"a batch of {self.batch_size} examples cannot be shared equally by {world_size} "
                "processes: choose a batch_size that is a multiple of them"
            )
        share = self.batch_size // world_size
        self._mine = slice(rank * share, (rank + 1) * share)
        # Calls mostly repeat the epoch; the prefetch asks for the next one.
        self._permutation = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng(
                derived_seed(random_state, "order", epoch)
            ).permutation(n_examples)
        )

    def epoch(self, step: int) -> int:
        """Epoch of a step, both from 0."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> np.ndarray:
        """Examples of this process at a step."""
        start = step % self.steps_per_epoch * self.batch_size
        batch = self._permutation(self.epoch(step))[start : start + self.batch_size]
        return batch[self._mine]


def prefetched(load: Callable[[Key], Value], keys: Iterable[Key]) -> Generator[Value]:
    """``map(load, keys)``, with the next value loaded in a thread while one is in use."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    waiting: deque = deque()
    try:
        for key in keys:
            waiting.append(pool.submit(load, key))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
