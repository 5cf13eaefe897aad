"""A GPU that is not there: tensors on the CPU that say, and are held to, that they are on cuda:0.

Every call of torch is looked at. What is moved to "cuda" or made there is marked, and so is what
is computed from it; what CUDA would refuse is refused: tensors of two devices in one operation,
NumPy arrays of what is on the GPU, generators of another device. The numbers are the CPU's. What
happens inside torch, with autograd and in other threads is not seen.
"""

import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)
CREATING = {"as_tensor", "asarray", "tensor"}
ACROSS = {"copy_", "_has_compatible_shallow_copy_type"}
JOINING = {"cat", "concat", "stack", "hstack", "vstack"}


@contextmanager
def emulated_gpu():
    """Within the block torch has one GPU, of the latest kind."""
    with pytest.MonkeyPatch.context() as patch, EmulatedGPU():
        generator = Generator("cuda")
        functions = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "device": lambda device: nullcontext(),
            "get_device_capability": lambda device=None: (9, 0),
            "get_device_name": lambda device=None: "none",
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_rng_state": lambda device="cuda": generator.get_state(),
            "set_rng_state": lambda state, device="cuda": generator.set_state(state),
            "default_generators": (generator,),
        }
        for name, function in functions.items():
            patch.setattr(torch.cuda, name, function)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "autocast", Autocast)
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            patch.setattr(torch.optim.Optimizer, name, lambda self: None, raising=False)
        try:
            yield
        finally:
            sys.modules.pop("himalaya.backend.torch_cuda", None)  # loads with a GPU alone


class Generator(torch._C.Generator):
    def __new__(cls, device="cpu"):
        self = super().__new__(cls)
        self.where = CUDA if torch.device(device).type == "cuda" else torch.device("cpu")
        return self

    device = property(lambda self: self.where)


class Autocast(torch.autocast):
    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def is_marked(tensor):
    return getattr(tensor, "is_on_emulated_gpu", False)


def mark(tensor, on_gpu):
    if isinstance(tensor, Tensor):
        tensor.is_on_emulated_gpu = on_gpu
    return tensor


class EmulatedGPU(TorchFunctionMode):
    """Looks at every call of torch within the block."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function.__name__
        first = args[0] if args else None
        if name in ("__get__", "__set__"):
            return self.attribute(function, *args)
        if isinstance(first, Tensor) and name in ("to", "cpu", "cuda"):
            return self.moved(first, name, *args[1:], **kwargs)
        if is_marked(first) and name == "numpy" and (args[1:] == (True,) or kwargs.get("force")):
            return first.detach().clone().numpy()
        if is_marked(first) and name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(map(is_marked, tensors))
        if kwargs.get("device") is not None:
            on_gpu = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = "cpu"
        elif name not in ACROSS:
            self.check_devices(name, args, tensors)
        generator = kwargs.get("generator")
        if generator is not None and (generator.device.type == "cuda") != on_gpu:
            raise RuntimeError(f"{name}: the generator is on {generator.device}")
        results = function(*args, **kwargs)
        if on_gpu and name in CREATING and not is_marked(first):
            results = results.clone()  # shares no memory with what it was made of
        for leaf in tree_leaves(results):
            mark(leaf, on_gpu)
        return results

    def attribute(self, function, tensor, *value):
        name = function.__self__.__name__
        result = function(tensor, *value)
        if value and name == "data":
            mark(tensor, is_marked(*value))
        if name in ("device", "is_cuda") and is_marked(tensor):
            return CUDA if name == "device" else True
        return mark(result, is_marked(tensor))

    def moved(self, tensor, name, *args, copy=False, **kwargs):
        on_gpu, options = name == "cuda", {"dtype": tensor.dtype}
        if name == "to":
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
            on_gpu = is_marked(tensor) if device is None else device.type == "cuda"
            if args and isinstance(args[0], Tensor):
                on_gpu = is_marked(args[0])
            options = {"dtype": dtype or tensor.dtype}
            options |= {} if layout is None else {"memory_format": layout}
        result = tensor.to(**options)
        if result is tensor and (copy or on_gpu != is_marked(tensor)):
            result = tensor.clone()
        return mark(result, on_gpu)

    def check_devices(self, name, args, tensors):
        """A CUDA tensor goes with numbers, and may be indexed, from the CPU; no more."""
        if not any(map(is_marked, tensors)) or all(map(is_marked, tensors)):
            return
        if name in ("__getitem__", "__setitem__") and is_marked(args[0]):
            return
        others = [tuple(each.shape) for each in tensors if not is_marked(each)]
        if any(others) or name in JOINING:
            raise RuntimeError(f"{name}: tensors of shapes {others} are on the CPU, others on cuda")
