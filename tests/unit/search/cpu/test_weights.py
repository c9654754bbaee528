"""Models that the kernels do not support are refused by the engine itself, not only by what chooses engines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqkd.models.nat.ctc import Ctc
from seqkd.models.registry import build
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.stack import NativeParallel
from seqkd.search.cpu.weights import usable

WIDTHS = {"dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}


def model(arch: str, **widths: int) -> Any:
    return build(arch, {**WIDTHS, **widths}, source_vocab=40, target_vocab=40)


@pytest.mark.parametrize(
    ("arch", "widths", "said"),
    [
        ("transformer", {"heads": 4, "ffn_dim": 32}, "dim 32 with heads 4"),
        ("transformer", {"dim": 112, "heads": 1, "ffn_dim": 32}, "dim 112 with heads 1"),
        ("transformer", {"heads": 2, "ffn_dim": 40}, "ffn_dim 40"),
        ("sru", {"heads": 4, "ffn_dim": 32}, "dim 32 with heads 4"),
        ("lstm", {"dim": 48}, "dim 48 of an LSTM"),
    ],
)
def test_an_engine_refuses_widths_that_its_kernels_do_not_fit(arch: str, widths: dict[str, int], said: str) -> None:
    unfit = model(arch, **widths)
    assert not usable(unfit)
    with pytest.raises(ValueError, match=f"the CPU kernels do not support {said}"):
        NativeModel(unfit, "float32")


def test_so_does_one_that_writes_all_positions_at_once() -> None:
    unfit = model("ctc", heads=4, ffn_dim=32)
    assert isinstance(unfit, Ctc)
    with pytest.raises(ValueError, match="the CPU kernels do not support dim 32 with heads 4"):
        NativeParallel(unfit, "float32")


def test_an_engine_refuses_a_model_that_is_elsewhere() -> None:
    elsewhere = model("transformer", heads=2, ffn_dim=32).to(torch.device("meta"))
    with pytest.raises(ValueError, match="cannot read a model on meta"):
        NativeModel(elsewhere, "float32")
