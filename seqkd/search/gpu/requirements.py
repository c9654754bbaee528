"""What the GPU engine needs of a machine. Without it, models on CUDA devices decode in plain torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import torch

from seqkd.progress import say

# Triton supports NVIDIA's devices from this compute capability on.
CAPABILITY = (8, 0)
# The oldest version of Triton for which the kernels are written.
TRITON = (3, 2)


def misfit(capability: tuple[int, int], triton: str | None) -> str | None:
    """Return why the kernels do not run, or None if they do.

    Args:
        capability: The compute capability of the device.
        triton: The version of Triton, or None if it is not installed.
    """
    needed = ".".join(map(str, TRITON))
    if capability < CAPABILITY:
        least, found = (".".join(map(str, numbers)) for numbers in (CAPABILITY, capability))
        return f"the GPU kernels need a device of compute capability {least} or higher; this one has {found}"
    if triton is None:
        return f"the GPU kernels need Triton, which is not installed; install triton>={needed}"
    if tuple(map(int, re.findall(r"\d+", triton)[:2])) < TRITON:
        return f"the GPU kernels need Triton {needed} or newer; {triton} is installed; install triton>={needed}"
    return None


def misfit_on(device: torch.device) -> str | None:
    """Return why the kernels do not run on this CUDA device, or None if they do."""
    return misfit(torch.cuda.get_device_capability(device), triton_version())


def kernels_on(device: torch.device, *, misfit_on: Callable[[torch.device], str | None] = misfit_on) -> bool:
    """Whether the kernels run on this device. If a CUDA device lacks something, one line says so once a process."""
    if device.type != "cuda":
        return False
    why = misfit_on(device)
    if why is not None:
        _tell(why)
    return why is None


@cache
def triton_version() -> str | None:
    """Return the version of Triton, or None if it is not installed or cannot be imported."""
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


@cache
def _tell(why: str) -> None:
    say(f"search: {why}; decoding runs in plain torch, more slowly")
