"""The runtime of a training process: Fabric, memory and process group."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from seqkd.errors import WorkError
from seqkd.training.precision import Precision

_FABRIC: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 << 20
_INT_MAX = (1 << 31) - 1

# How long a process waits for a living process that does not answer; the death of a process is noticed at once. It is
# long enough for the first process to decode the validation text while the others wait.
PATIENCE = timedelta(minutes=15)


def make_fabric(device: torch.device, precision: Precision) -> Fabric:
    """Make the Fabric of this process. A process that torchrun has started joins the others."""
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
            # The buffers of seqkd's models do not change during training.
            strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True, timeout=PATIENCE),
            precision=_FABRIC[precision],
        )
    fabric.launch()
    return fabric


@contextmanager
def group_left() -> Iterator[None]:
    """Leave the process group, if there is one, when the work is done.

    The C++ runtime may abort a process that ends while gloo's threads are still running, so that a finished run would
    seem to have failed. After an error the process ends without leaving, which might wait for a process that does not
    answer.
    """
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def lost_processes_told() -> Iterator[None]:
    """Turn the errors that the death of another process causes into a clear message.

    Raises:
        WorkError: Another process of the run has ended, or has not answered for `PATIENCE`.
    """
    try:
        yield
    except RuntimeError as error:
        # NCCL errors have a type of their own; gloo errors are recognised by the name of their source file.
        if not isinstance(error, torch.distributed.DistError) and "/gloo/" not in str(error):
            raise
        raise WorkError(
            f"another process of this training run has ended or does not answer: {str(error).splitlines()[0]}",
            hint="read the messages of that process, then run the same command to continue after the last validation",
        ) from error


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the system.

    A training step frees and requests the same large blocks repeatedly, and each time the system would provide fresh
    pages and zero them one page fault at a time. Other C libraries are not changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _INT_MAX)
        mallopt(_M_TOP_PAD, _TOP_PAD)
