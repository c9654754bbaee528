"""What a training process asks of the machine: device, precision, memory, signals."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from seqkd.errors import InputError, WorkError

Precision = Literal["float32", "bf16", "fp16"]

_FABRIC: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 << 20
_INT_MAX = (1 << 31) - 1

# How long a process waits for one that lives and does not answer; what has died is noticed at once. Long enough for the
# first one to decode the validation text while the others wait.
PATIENCE = timedelta(minutes=15)


def choose_precision(precision: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """`auto` is bf16 where the device multiplies it in hardware, float32 elsewhere.

    Weights, their gradients' sum and the optimiser stay in float32 in every case.

    Raises:
        InputError: fp16 on a CPU.
    """
    if device.type == "cpu" and precision == "fp16":
        raise InputError("training in fp16 needs a GPU", expected="precision auto, bf16 or float32 on a CPU")
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16(device) else "float32"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has products of bf16; elsewhere torch emulates them, many times slower than float32's."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def slow_precision(
    precision: Precision, device: torch.device, *, has_products: Callable[[torch.device], bool] = multiplies_bf16
) -> str | None:
    """Why training in this precision is slow on this device; None if it is not.

    Args:
        precision: As it was chosen.
        device: Where the model is trained.
        has_products: Whether a device has products of bf16.
    """
    if precision != "bf16" or has_products(device):
        return None
    return "this device has no products of bf16, and training in it is slow; precision auto takes float32 here"


def make_fabric(device: torch.device, precision: Precision) -> Fabric:
    """Fabric for this process: alone, or one of torchrun's, where it joins the others."""
    for name in ("lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not TorchElasticEnvironment.detect():
        devices: Any = [device.index or 0] if device.type == "cuda" else 1
        fabric = Fabric(accelerator=device.type, devices=devices, precision=_FABRIC[precision])
    else:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        fabric = Fabric(
            accelerator=device.type,
            devices=local,
            num_nodes=int(os.environ["WORLD_SIZE"]) // local,
            # Nothing in our models' buffers changes while training.
            strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True, timeout=PATIENCE),
            precision=_FABRIC[precision],
        )
    fabric.launch()
    return fabric


@contextmanager
def group_left() -> Iterator[None]:
    """Leave the process group, if the work has joined one, when the work is done.

    The C++ runtime may abort a process that ends while gloo's threads still run, and a finished run would be called
    failed. After an error the process just ends: leaving might wait for a process that does not answer.
    """
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def lost_processes_told() -> Iterator[None]:
    """Tell what a process sees of another one's death as what it is.

    Raises:
        WorkError: Another process of the run has ended, or has not answered for `PATIENCE`.
    """
    try:
        yield
    except RuntimeError as error:
        # NCCL's failures have a type of their own; gloo's are known by the name of the file they come from.
        if not isinstance(error, torch.distributed.DistError) and "/gloo/" not in str(error):
            raise
        raise WorkError(
            f"another process of this training run has ended or does not answer: {str(error).splitlines()[0]}",
            hint="look at what that process has said, then run the same command to go on after the last validation",
        ) from error


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back to the system.

    A training step frees and asks for the same large blocks again and again; each time the system would hand out fresh
    pages and zero them one fault at a time. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _INT_MAX)
        mallopt(_M_TOP_PAD, _TOP_PAD)
