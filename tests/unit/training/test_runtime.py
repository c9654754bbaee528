from __future__ import annotations

import pytest
import torch

from seqkd.errors import InputError, WorkError
from seqkd.training.precision import choose_precision, slow_precision
from seqkd.training.runtime import keep_freed_memory, lost_processes_told


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) == "float32"
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", cpu) in ("float32", "bf16")
    with pytest.raises(InputError, match="needs a GPU"):
        choose_precision("fp16", cpu)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer\nmore"),
        torch.distributed.DistBackendError("NCCL error: remote process exited"),
    ],
)
def test_a_lost_process_is_told(error: Exception) -> None:
    with (
        pytest.raises(WorkError, match="another process of this training run has ended") as raised,
        lost_processes_told(),
    ):
        raise error
    assert "to continue after the last validation" in raised.value.hint
    assert "more" not in str(raised.value)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), lost_processes_told():
        raise RuntimeError("shapes do not match")


def test_keep_freed_memory_does_no_harm() -> None:
    keep_freed_memory()
    assert torch.ones(1 << 20).sum() == 1 << 20


@pytest.mark.parametrize("has_products", [True, False])
def test_bf16_is_slow_on_devices_without_its_products(has_products: bool) -> None:
    for precision in ("float32", "bf16"):
        slow = slow_precision(precision, torch.device("cpu"), has_products=lambda _: has_products)
        assert (slow is not None) == (precision == "bf16" and not has_products)
