"""State that a process has once, not once per thread, and the locks under which it is changed.

A fit in one thread must not change what a fit in another computes. These are set for the whole
process, so the code that sets them holds `state_lock` from the change until they are put back:

- torch's default random generators, which initial weights and dropout draw from: `torch_seeded`,
  `brainenc.training.train`;
- the environment, the level of Fabric's logger and torch's number of threads: `train`;
- torch's number of threads for threads that start later: `GaborPyramid`;
- the precision of matrix products: `brainenc.devices.full_precision`,
  of convolutions: `brainenc.devices.float32_convolutions`;
- networks that several feature extractors share, with their hooks and their mode:
  `OpenCLIPFeatures`, `TorchFeatures`, `EfficientNetLiteFeatures`.

The warnings that are recorded and the memory that is measured are those of the whole process too:
a benchmark holds `pair_lock` for each pair of encoder and fold.

So fits in threads of one process take turns, and the same seed gives the same fit as without
threads. For speed use processes. What other code does to this state in a thread of its own cannot
be guarded: random numbers that it draws from torch's default generator during a fit change the fit.

What users set for their own code (torch's default dtype and device, autocast, inference mode,
gradients; NumPy's reaction to overflow) must not change what is computed here: `own_settings`.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np


class _Locks:
    def __init__(self) -> None:
        self.make()

    def make(self) -> None:
        self.state, self.pair = threading.RLock(), threading.RLock()
        self.dtype, self.n_with_float32 = threading.Lock(), 0
        self.former_dtype: Any = None


_locks = _Locks()
if hasattr(os, "register_at_fork"):
    # A thread that holds a lock does not exist in a forked child, and could never release it.
    os.register_at_fork(after_in_child=_locks.make)


# The lock itself is returned and not a context manager around it: `with` on a lock leaves no
# moment at which Ctrl-C could arrive with the lock taken and nobody to release it.


def state_lock() -> "threading.RLock":
    """Lock to hold while state of the process is changed, or must stay as it is.

    Re-entrant. A thread that holds it must not wait for another thread that needs it.
    """
    return _locks.state


def pair_lock() -> "threading.RLock":
    """Lock to hold while a pair of encoder and fold is fitted, drawn from and measured.

    A lock of its own, taken before `state_lock`: an encoder may fit others in threads that it
    starts and waits for, as ``GridSearchCV(encoder, n_jobs=2)`` does in joblib's processes.
    """
    return _locks.pair


_keeps_interrupted = ContextVar("keeps_interrupted", default=True)


@contextmanager
def interruption_ends_fit() -> Iterator[None]:
    """Let Ctrl-C during a training in this block end the block.

    Otherwise it ends the training early, and the encoder is fitted with the network as it then is:
    for a result that is kept to be compared, that would be another encoder under the same name.
    """
    token = _keeps_interrupted.set(False)
    try:
        yield
    finally:
        _keeps_interrupted.reset(token)


def keeps_interrupted_training() -> bool:
    """Whether a training that Ctrl-C interrupts keeps its network; see `interruption_ends_fit`."""
    return _keeps_interrupted.get()


@contextmanager
def torch_seeded(random_state: int) -> Iterator[None]:
    """Seed torch's generator of the CPU for a block; afterwards it is as it was before.

    The generators of GPUs are left alone.
    """
    import torch  # takes a second, which those who need a lock alone are spared

    with state_lock(), torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds the generators of all GPUs too, and for good.
        torch.random.default_generator.manual_seed(random_state)
        yield


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute as documented, whatever the user has set for torch and NumPy; restored on exit.

    - torch's default dtype is float32 and its default device the CPU: networks that are made have
      these, and move to the device that was asked for.
    - Autocast, inference mode and ``no_grad`` of the caller end here; precision and gradients are
      those of our own code.
    - NumPy warns of overflow and invalid values instead of raising, ``np.seterr`` notwithstanding.

    Extractors of users run outside of it, with the users' settings. Settings that choose among
    algorithms, such as ``torch.use_deterministic_algorithms``, are left alone.
    """
    with ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        # Who has not imported torch has set nothing, and is spared the second that it takes.
        if hasattr(torch := sys.modules.get("torch"), "get_default_device"):
            _enter_own_torch(torch, stack)
        yield


def _enter_own_torch(torch: Any, stack: ExitStack) -> None:
    stack.enter_context(_float32_by_default(torch))
    if torch.get_default_device().type != "cpu":
        # Not torch.device("cpu"), with which attention takes another path, of other last digits.
        stack.enter_context(torch._C.DisableTorchFunction())
    for kind in ("cpu", "cuda", "mps"):
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    if torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(False))
    if not torch.is_grad_enabled():
        stack.enter_context(torch.enable_grad())


@contextmanager
def _float32_by_default(torch: Any) -> Iterator[None]:
    """Torch's default dtype is float32 for as long as a thread needs it.

    The dtype is that of the process. It is counted who needs it, because a lock that is held
    during a fit would stop encoders that fit others in threads.
    """
    locks = _locks
    with locks.dtype:
        if locks.n_with_float32 == 0:
            locks.former_dtype = torch.get_default_dtype()
        locks.n_with_float32 += 1
        if torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with locks.dtype:
            locks.n_with_float32 -= 1
            if locks.n_with_float32 == 0 and torch.get_default_dtype() != locks.former_dtype:
                torch.set_default_dtype(locks.former_dtype)
