from __future__ import annotations

import os
import signal

import pytest
import torch

from seqkd.errors import InputError
from seqkd.stopping import StopRequest
from seqkd.training.runtime import choose_precision, keep_freed_memory


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) == "float32"
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", cpu) in ("float32", "bf16")
    with pytest.raises(InputError, match="needs a GPU"):
        choose_precision("fp16", cpu)


def test_stop_request_notes_once_and_restores() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.made
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.made
        assert signal.getsignal(signal.SIGTERM) == before  # the second one is not held back
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_keep_freed_memory_does_no_harm() -> None:
    keep_freed_memory()
    assert torch.ones(1 << 20).sum() == 1 << 20
