"""How the host keeps up with a device, without either waiting for the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pace:
    """When the host asks which sentences are done.

    Attributes:
        steps: Taken in a group, after which it asks.
        lag: Groups that are queued behind the one whose answer it reads. A sentence that is done does not change any
            more, so its results are the same.
    """

    steps: int
    lag: int


# By type of device; all others are as cuda. A GPU has the next group to do while the host reads an answer. Longer
# groups give the host more time, but a sentence that is done keeps its slot (steps - 1) / 2 + steps * lag steps longer.
PACES = {"cpu": Pace(steps=1, lag=0), "cuda": Pace(steps=2, lag=1)}


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on `device`, in turn with the work that is queued there.

    From memory that is not pinned, the host would wait for all of that work.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Transfer:
    """Tensors that will be on the host once the device has done what is queued now.

    Args:
        tensors: All on one device; nothing may change them afterwards.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._there = list(tensors)
        self._event: torch.cuda.Event | None = None
        device = tensors[0].device
        if device.type == "cuda":
            pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
            for place, tensor in zip(pinned, tensors, strict=True):
                place.copy_(tensor, non_blocking=True)
            self._there = pinned
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> list[Tensor]:
        """Those tensors, on the host."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.cpu() for tensor in self._there]
