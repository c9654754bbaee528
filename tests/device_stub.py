"""A device that answers only when it is asked: tensors that compute as on a CPU, and notes of what makes a host wait.

On a CUDA device a host waits for all queued work when it reads a value, when the shape of a result depends on values
(an index of booleans), and when a tensor or a scalar of the host is copied to the device out of ordinary memory. Here
torch calls the device `meta`, so that no such copy happens unseen; the values are held beside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
# Operations whose result has a shape that depends on values, or that is a value of the host.
WAITING = {"nonzero", "masked_select", "unique", "_unique2", "unique_dim", "unique_consecutive", "equal", "item"}
WAITING |= {"_local_scalar_dense", "is_nonzero"}
READING = ("tolist", "numpy", "cpu", "item", "__bool__", "__int__", "__float__", "__index__", "__contains__")


class DeviceTensor(Tensor):
    """A tensor of the device. Its values lie in `held`."""

    held: Tensor
    waits: list[str]

    @staticmethod
    def __new__(cls, held: Tensor, waits: list[str]) -> DeviceTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor, waits: list[str]) -> None:
        self.held, self.waits = held, waits

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        every = tree_flatten((args, kwargs))[0]
        waits = next(value.waits for value in every if isinstance(value, cls))
        name = func.overloadpacket.__name__
        foreign = [value for value in every if isinstance(value, Tensor) and not isinstance(value, cls)]
        if name in WAITING:
            waits.append(name)
        if name in ("index", "index_put", "index_put_"):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                waits.append(f"{name} by a mask")
        if any(value.dim() or name.startswith("index") for value in foreign):
            waits.append(f"{name} with a tensor of the host")
        if "device" in kwargs and kwargs["device"] is not None and kwargs["device"].type == "cpu":
            waits.append(f"{name} to the host")
            return func(*tree_map(_values, args), **tree_map(_values, kwargs))
        kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        return tree_map(lambda value: cls(value, waits) if type(value) is Tensor else value, found)


def _values(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


class Device(TorchFunctionMode):
    """Makes tensors on the device while it is active.

    Attributes:
        waits: Why a host would have waited, one entry for each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def put(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the host to the device."""
        return DeviceTensor(tensor.detach().clone(), self.waits)

    def move(self, module: nn.Module) -> nn.Module:
        """Move the parameters and buffers of a module to the device."""
        for part in module.modules():
            for name, parameter in list(part._parameters.items()):
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(self.put(parameter), requires_grad=False)
            for name, buffer in list(part._buffers.items()):
                if buffer is not None:
                    part._buffers[name] = self.put(buffer)
        return module

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        there = any(isinstance(value, DeviceTensor) for value in tree_flatten((args, kwargs))[0])
        if there and isinstance(args[0], DeviceTensor) and name in READING:
            self.waits.append(name)
            return func(args[0].held, *args[1:], **kwargs)
        if there and name == "__setitem__" and not isinstance(args[2], Tensor):
            return self._fill(*args)
        if name == "to" and not there and DEVICE in args:
            return self.put(args[0])  # by `seqkd.search.pace.send`, which does not wait
        if not there and kwargs.get("device") == DEVICE:
            if name in ("tensor", "as_tensor"):
                self.waits.append(f"{name} of values of the host")
            return self.put(func(*args, **{**kwargs, "device": torch.device("cpu")}))
        return func(*args, **kwargs)

    def _fill(self, tensor: DeviceTensor, index: Any, value: float) -> None:
        """Assign a scalar. It goes with the launch of a kernel unless it is assigned through a tensor or a list."""
        parts = index if isinstance(index, tuple) else (index,)
        index = tree_map(_values, index)
        if any(isinstance(part, Tensor | list) for part in parts) or not tensor.held[index].dim():
            self.waits.append("a scalar assigned through an index, or to one element")
        tensor.held[index] = value


def values(tensor: Tensor) -> Tensor:
    """Return the values of a tensor, wherever it is."""
    found: Tensor = _values(tensor)
    return found
