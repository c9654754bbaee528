"""Which engine a model gets on which device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqkd.models.checkpoint import LoadedModel
from seqkd.search import loading
from seqkd.search.gpu import engine as gpu
from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.unit.search.support import tiny_model


class OnCuda:
    """A model's device, where there is none."""

    device = torch.device("cuda")


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
@pytest.mark.parametrize("triton", [True, False])
def test_the_kernels_need_triton_and_a_device_it_supports(
    monkeypatch: pytest.MonkeyPatch, triton: bool, capability: tuple[int, int]
) -> None:
    model = tiny_model()
    del model.output_weight
    monkeypatch.setattr(model, "output_weight", OnCuda(), raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object() if triton else None)
    assert gpu.runs_here(model) == (triton and capability >= (8, 0))


@pytest.mark.parametrize(("there", "kind"), [(True, GraphTransformer), (False, IncrementalTransformer)])
def test_the_engine_on_cuda(monkeypatch: pytest.MonkeyPatch, there: bool, kind: type) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(loading, "runs_here", lambda _: there)
    monkeypatch.setattr(loading, "usable", lambda _: False)
    loaded: Any = LoadedModel.__new__(LoadedModel)
    object.__setattr__(loaded, "model", tiny_model())
    object.__setattr__(loaded, "arch", "transformer")
    assert type(loading.engine(loaded, "fp16")) is kind
    assert loading.engine(loaded, "fp16").device.type == "cpu"
