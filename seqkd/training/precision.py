"""The precision of training on a device. Distillation imports this module, which therefore does not import Fabric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from seqkd.errors import InputError

Precision = Literal["float32", "bf16", "fp16"]


def choose_precision(precision: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """Resolve `auto` to bf16 if the device multiplies bf16 in hardware, otherwise to float32.

    Weights, the sums of gradients and the optimiser always stay in float32.

    Raises:
        InputError: fp16 is requested on a CPU.
    """
    if device.type == "cpu" and precision == "fp16":
        raise InputError("training in fp16 needs a GPU", expected="precision auto, bf16 or float32 on a CPU")
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16(device) else "float32"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware. On other devices torch's emulation is far slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def slow_precision(
    precision: Precision, device: torch.device, *, has_products: Callable[[torch.device], bool] = multiplies_bf16
) -> str | None:
    """Explain why training in this precision is slow on this device, or return None if it is not.

    Args:
        precision: The chosen precision.
        device: The device of the model.
        has_products: Tells whether a device multiplies bf16 in hardware.
    """
    if precision != "bf16" or has_products(device):
        return None
    return "this device does not multiply bf16 in hardware, so training is slow; precision auto uses float32 here"
