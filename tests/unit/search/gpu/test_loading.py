"""Which engine a model gets on which device."""

from __future__ import annotations

from typing import Any

import pytest

from seqkd.models.checkpoint import LoadedModel
from seqkd.search import loading
from seqkd.search.gpu.engine import GraphTransformer, supports
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.unit.search.support import tiny_model


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
@pytest.mark.parametrize("triton", [True, False])
def test_the_kernels_need_triton_and_a_device_it_supports(triton: bool, capability: tuple[int, int]) -> None:
    assert supports(capability, triton=triton) == (triton and capability >= (8, 0))


@pytest.mark.parametrize(("there", "kind"), [(True, GraphTransformer), (False, IncrementalTransformer)])
def test_the_engine_on_cuda(there: bool, kind: type) -> None:
    pytest.importorskip("triton")
    loaded: Any = LoadedModel.__new__(LoadedModel)
    object.__setattr__(loaded, "model", tiny_model())
    object.__setattr__(loaded, "arch", "transformer")
    assert type(loading.build_engine(loaded, "fp16", on_gpu=lambda _: there)) is kind
