"""Communication between the host and a device such that neither waits for the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace at which the host asks the device for finished sentences.

    Attributes:
        steps: Number of steps in a group. The host asks once after each group.
        lag: Number of later groups that are already queued when the host reads an answer. A finished sentence no
            longer changes, so the lag does not change results.
    """

    steps: int
    lag: int


# The default pace for each type of device; other types use that of cuda. A GPU works on the next group while the host
# reads an answer. Longer groups give the host more time, but on average a finished sentence keeps its slot
# (steps - 1) / 2 + steps * lag steps longer.
PACES = {"cpu": Pace(steps=1, lag=0), "cuda": Pace(steps=2, lag=1)}


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to `device`, in order with the work that is queued there.

    The copy starts from pinned memory. Otherwise the host would wait for all of the queued work. A tensor that is on
    the device already is returned as it is.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Transfer:
    """A transfer of tensors to the host, which ends after the work that is queued on the device now.

    Args:
        tensors: Tensors on one device. They must not be changed afterwards.
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
        """Wait for the end of the transfer and return the tensors on the host."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.cpu() for tensor in self._there]
