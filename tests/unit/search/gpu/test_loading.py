"""Which engine a model gets on which device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.models.checkpoint import LoadedModel
from seqkd.search import loading
from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.gpu.requirements import kernels_on, misfit, triton_version
from seqkd.search.paths import slow_path
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.unit.search.support import tiny_model


@pytest.mark.parametrize(
    ("capability", "triton", "why"),
    [
        ((8, 0), "3.2.0", None),
        ((10, 0), "3.10.1+gitabc", None),
        ((7, 5), "3.6.0", "the GPU kernels need a device of compute capability 8.0 or higher; this one has 7.5"),
        ((9, 0), None, "the GPU kernels need Triton, which is not installed; install triton>=3.2"),
        ((9, 0), "3.1.0", "the GPU kernels need Triton 3.2 or newer; 3.1.0 is installed; install triton>=3.2"),
        ((9, 0), "2.3", "the GPU kernels need Triton 3.2 or newer; 2.3 is installed; install triton>=3.2"),
    ],
)
def test_the_kernels_need_triton_and_a_device_it_supports(
    capability: tuple[int, int], triton: str | None, why: str | None
) -> None:
    assert misfit(capability, triton) == why


def test_a_device_without_the_kernels_is_told_once_and_decodes_in_plain_torch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def lacking(_: torch.device) -> str:
        return misfit((7, 0), "3.6.0") or ""

    device = torch.device("cuda")
    assert [kernels_on(device, misfit_on=lacking) for _ in range(2)] == [False, False]
    assert capfd.readouterr().err == (
        "search: the GPU kernels need a device of compute capability 8.0 or higher; this one has 7.0; "
        "decoding runs in plain torch, more slowly\n"
    )
    assert kernels_on(device, misfit_on=lambda _: None)
    assert not kernels_on(torch.device("cpu"), misfit_on=lacking)
    for arch, noted in (("transformer", f"plain torch: {lacking(device)}"), ("lstm", None)):
        config = {"format": 1, "arch": arch, "settings": {}, "vocabulary": "", "source_vocabulary": None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert slow_path([tmp_path], "bf16", device, misfit_on=lacking) == noted
        assert slow_path([tmp_path], "bf16", device, misfit_on=lambda _: None) is None


def test_the_version_of_triton_is_read() -> None:
    assert triton_version() == pytest.importorskip("triton").__version__


@pytest.mark.parametrize(("there", "kind"), [(True, GraphTransformer), (False, IncrementalTransformer)])
def test_the_engine_on_cuda(there: bool, kind: type) -> None:
    pytest.importorskip("triton")
    loaded: Any = LoadedModel.__new__(LoadedModel)
    object.__setattr__(loaded, "model", tiny_model())
    object.__setattr__(loaded, "arch", "transformer")
    assert type(loading.build_engine(loaded, "fp16", on_gpu=lambda _: there)) is kind
