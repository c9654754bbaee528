"""The GPU engine against plain torch: the same logits, candidates and k-best lists.

Without a GPU its kernels run in Triton's interpreter and its steps are not captured, but are otherwise the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkd.errors import WorkError
from seqkd.interop.huggingface_weights import NEVER_WRITTEN
from seqkd.models.settings import Activation, Norm
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings, FusedSearchModel, SteppingModel
from seqkd.search.candidates import RowCandidates
from seqkd.search.gpu.buffers import Storage
from seqkd.search.gpu.engine import GraphTransformer, runs_here
from seqkd.search.gpu.graphs import Recorder
from seqkd.search.gpu.operations import PLAIN, Operations
from seqkd.search.gpu.shapes import Ladder, Shape
from seqkd.search.plain.transformer import IncrementalTransformer
from seqkd.search.protocol import RoundingModel
from tests.unit.search import support
from tests.unit.search.gpu.support import DEVICE
from tests.unit.search.support import BART, EOS, MARIAN, MEMORY_ERRORS, engine_model, sentences

pytest.importorskip("triton")

from seqkd.search.gpu.kernels import TRITON

VOCAB = 77
# The interpreter takes its time for each row.
SMALL = Ladder(slots=1, width=8)


def model(**options: Any) -> Transformer:
    return engine_model(dim=32, ffn_dim=48, encoder_layers=1, vocab=VOCAB, **options).to(DEVICE)


def padded(lengths: list[int], seed: int) -> Tensor:
    return support.padded(lengths, seed, vocab=VOCAB).to(DEVICE)


def through_a_decode(
    plain: Transformer, operations: Operations, *, slots: int, beam: int, keep: list[int], steps: int
) -> None:
    """Logits of every step equal those of torch, through reorder, release, refill and shrink."""
    engines = (IncrementalTransformer(plain), GraphTransformer(plain, operations=operations, ladder=SMALL))
    states = [engine.new_state(slots, beam, 40, 12) for engine in engines]
    draw = torch.Generator().manual_seed(1)

    def both(name: str, *arguments: Tensor) -> list[Tensor]:
        return [getattr(e, name)(s, *arguments) for e, s in zip(engines, states, strict=True)]

    both("admit", torch.arange(slots), padded([3, 40, 17, 1, 33, *range(2, 14)][:slots], 2))
    idle: set[int] = set()
    for step in range(steps):
        tokens = torch.randint(4, VOCAB, (slots, beam), generator=draw).to(DEVICE)
        expected, found = both("step", tokens)
        busy = [slot for slot in range(slots) if slot not in idle]
        torch.testing.assert_close(found[busy], expected[busy], atol=2e-5, rtol=0)
        both("reorder", torch.randint(0, beam, (slots, beam), generator=draw).to(DEVICE))
        if step == 1:
            both("release", torch.tensor([1, 2]))
            idle = {1, 2}
        if step == 2:
            both("admit", torch.tensor([2]), padded([9], 3))
            idle = {1}
        if step == 3:
            # the reorder before this one has not been followed yet; and the slots come in another order
            both("shrink", torch.tensor(keep))
            slots, idle = len(keep), set()
        if step == 4:
            both("release", torch.tensor([1, 3]))
            both("admit", torch.tensor([3, 1]), padded([5, 30], 4))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_logits_equal_those_of_torch(norm: Norm) -> None:
    # five slots are rounded up to eight rows
    through_a_decode(model(norm=norm), TRITON, slots=7, beam=2, keep=[4, 2, 6, 0, 5], steps=7)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_logits_equal_those_of_torch_with_plain_operations(norm: Norm, activation: Activation) -> None:
    through_a_decode(model(norm=norm, activation=activation), PLAIN, slots=17, beam=3, keep=[4, 2, 0, 16, 9], steps=12)


@pytest.mark.parametrize("options", [MARIAN, BART], ids=["marian", "bart"])
def test_logits_equal_those_of_torch_with_the_options_of_other_toolkits(options: dict[str, Any]) -> None:
    plain = model(**options)
    assert plain.output_bias is not None
    assert plain.output_bias.abs().max() > 0.1
    through_a_decode(plain, PLAIN, slots=5, beam=2, keep=[4, 2, 0, 3], steps=6)


@pytest.mark.parametrize(("count", "output_bias"), [(12, False), (VOCAB, False), (12, True)])
def test_candidates_are_those_of_the_logits(count: int, output_bias: bool) -> None:
    graph = GraphTransformer(model(output_bias=output_bias), ladder=SMALL)
    states = []
    for _ in range(2):
        state = graph.new_state(2, 3, 9, 5)
        graph.admit(state, torch.arange(2, device=DEVICE), padded([9, 4], 2))
        graph.step(state, torch.full((2, 3), EOS, device=DEVICE))
        graph.reorder(state, torch.zeros(2, 3, dtype=torch.long, device=DEVICE))
        states.append(state)
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]], device=DEVICE)
    logits = graph.step(states[0], tokens)
    lse, values, ids, eos = graph.step_candidates(states[1], tokens, count)
    expected, expected_ids = logits.sort(dim=-1, descending=True, stable=True)
    torch.testing.assert_close(lse, logits.logsumexp(dim=-1))
    torch.testing.assert_close(values, expected[..., :count])
    assert torch.equal(ids, expected_ids[..., :count])
    torch.testing.assert_close(eos, logits[..., EOS])


def same_lists(plain: Transformer, operations: Operations, chosen: BeamSettings, *, count: int, budget: int) -> None:
    rows = sentences(count, vocab=VOCAB, longest=9)
    graph = GraphTransformer(plain, operations=operations, ladder=SMALL)
    assert isinstance(graph, FusedSearchModel)
    assert isinstance(graph, RoundingModel)
    assert isinstance(graph, SteppingModel)
    expected = dict(BeamSearch([IncrementalTransformer(plain)], chosen).decode(rows, batch_tokens=120))
    found = dict(BeamSearch([graph], chosen).decode(rows, batch_tokens=budget))
    assert found.keys() == expected.keys()
    for row, hypotheses in expected.items():
        for one, other in itertools.zip_longest(hypotheses, found[row]):
            assert one.ids == other.ids
            assert one.ended == other.ended
            assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.slow
def test_k_best_lists_equal_those_of_torch() -> None:
    chosen = BeamSettings(beam=2, nbest=2, length_penalty=0.8, max_length_ratio=0.4, max_length_extra=2)
    same_lists(model(), TRITON, chosen, count=6, budget=48)


@pytest.mark.parametrize(("norm", "budget"), [("pre", 64), ("post", 300)])
def test_k_best_lists_equal_those_of_torch_with_plain_operations(norm: Norm, budget: int) -> None:
    # The lengths bring refills and, at the end, smaller batches.
    same_lists(model(norm=norm), PLAIN, BeamSettings(beam=5, nbest=5), count=50, budget=budget)


@pytest.mark.parametrize(
    "options",
    [
        {"stopping": "exact", "length_penalty": 0.6, "normalization": "gnmt", "min_length": 2},
        {"unk_penalty": 0.7, "min_length_ratio": 0.5},
    ],
    ids=str,
)
def test_k_best_lists_equal_those_of_torch_with_the_kernel_of_the_searchs_step(options: dict[str, Any]) -> None:
    chosen = BeamSettings(beam=3, nbest=3, max_length_ratio=0.5, max_length_extra=2, **options)
    operations = dataclasses.replace(PLAIN, advance=TRITON.advance)
    same_lists(model(), operations, chosen, count=9, budget=48)


def test_k_best_lists_equal_those_of_torch_with_the_kernel_of_a_biased_output_layer() -> None:
    plain = model(**MARIAN)
    assert plain.output_bias is not None
    with torch.no_grad():
        plain.output_bias[4 : VOCAB // 2] = NEVER_WRITTEN
    chosen = BeamSettings(beam=3, nbest=3, max_length_ratio=0.5, max_length_extra=2)
    same_lists(plain, dataclasses.replace(PLAIN, output=TRITON.output), chosen, count=4, budget=48)


@pytest.mark.parametrize("prefix", [[], [9, 8]])
def test_the_whole_step_is_one_run_at_fixed_addresses(prefix: list[int]) -> None:
    addresses: dict[Recorder, set[tuple[int, ...]]] = {}
    ways: list[str] = []
    storages: list[Storage] = []

    class Watched(Recorder):
        """Remembers what it ran, and where the buffers were."""

        def run(self, key: Hashable, function: Callable[[], Any]) -> Any:
            buffers = list(storages[-1].sets.values())[-1]
            tensors = [*buffers.hypotheses.fields(), buffers.tokens, buffers.parents, buffers.caches[-1].values]
            addresses.setdefault(self, set()).add(tuple(tensor.data_ptr() for tensor in tensors))
            assert isinstance(key, tuple)
            ways.append(key[0])
            return super().run(key, function)

    def allocate(shape: Shape, plain: Transformer, graphs: bool) -> Storage:
        storages.append(Storage(shape, plain, graphs, recorder=Watched))
        return storages[-1]

    graph = GraphTransformer(model(), operations=PLAIN, ladder=SMALL, storage=allocate)
    rows = sentences(50, vocab=VOCAB, longest=9)
    search = BeamSearch([graph], BeamSettings(beam=3))
    # Refills, and smaller batches at the end; and again in the same buffers.
    for _ in range(2):
        assert len(list(search.decode(rows, batch_tokens=200, prefix=prefix))) == 50
    assert all(len(found) == 1 for found in addresses.values())
    assert len(storages[-1].sets) <= len(addresses) <= 2 * len(storages[-1].sets)
    assert set(ways) == ({"admit", "advance", "step"} if prefix else {"admit", "advance"})
    # One search for each size of batch, whatever the number of decodes.
    for buffers in storages[-1].sets.values():
        assert len(buffers.frontiers) == len({rows for rows, _ in buffers.frontiers})
    assert max(len(buffers.frontiers) for buffers in storages[-1].sets.values()) > 1


def test_an_ensemble_of_two_engines() -> None:
    members = [model(norm="pre"), model(norm="post")]
    rows = sentences(3, vocab=VOCAB, longest=5)
    chosen = BeamSettings(beam=2, nbest=2, max_length_ratio=1.0, max_length_extra=1)
    expected = dict(BeamSearch([IncrementalTransformer(m) for m in members], chosen).decode(rows, batch_tokens=60))
    found = dict(
        BeamSearch([GraphTransformer(m, operations=PLAIN, ladder=SMALL) for m in members], chosen).decode(
            rows, batch_tokens=60
        )
    )
    assert {r: [h.ids for h in k] for r, k in found.items()} == {r: [h.ids for h in k] for r, k in expected.items()}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_weights_are_found(value: float) -> None:
    plain = model()
    with torch.no_grad():
        plain.output_weight[50] = value
    chosen = BeamSettings(beam=2, max_length_extra=1, max_length_ratio=0.0)
    with pytest.raises(WorkError, match="NaN or infinite for 2 sentences"):
        list(BeamSearch([GraphTransformer(plain, ladder=SMALL)], chosen).decode(sentences(2), batch_tokens=90))


def test_a_state_starts_anew_in_used_buffers() -> None:
    graph = GraphTransformer(model(), operations=PLAIN)
    tokens = torch.tensor([[5, 6], [7, 8]], device=DEVICE)
    results = []
    for _ in range(2):
        state = graph.new_state(2, 2, 9, 12)
        graph.admit(state, torch.arange(2, device=DEVICE), padded([9, 4], 2))
        logits = [graph.step(state, tokens + step).clone() for step in range(3)]
        graph.shrink(state, torch.tensor([1], device=DEVICE))
        results.append(torch.stack(logits))
        del state
    assert torch.equal(*results)


def test_memory_that_runs_out_in_a_step_frees_what_is_kept() -> None:
    def fail(*_: object) -> RowCandidates:
        raise torch.OutOfMemoryError("no room for the logits")

    graph = GraphTransformer(model(), operations=dataclasses.replace(PLAIN, output=fail))
    graph.new_state(3, 2, 9, 12)
    state = graph.new_state(5, 2, 9, 12)
    with pytest.raises(torch.OutOfMemoryError):
        graph.step_candidates(state, torch.full((5, 2), EOS, device=DEVICE), 6)
    assert graph._storages == []
    with pytest.raises(torch.OutOfMemoryError):
        graph.advance(state, graph.frontier(state, BeamSettings(beam=2)))


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=str)
def test_the_search_goes_on_with_smaller_batches_when_memory_is_short(error: Exception) -> None:
    plain = model()
    rows = sentences(8, vocab=VOCAB, longest=5)
    chosen = BeamSettings(beam=2, max_length_ratio=1.0, max_length_extra=1)
    expected = dict(BeamSearch([IncrementalTransformer(plain)], chosen).decode(rows, batch_tokens=60))

    def small_only(ancestors: Tensor, parents: Tensor, positions: Tensor, places: Tensor) -> None:
        if len(places) > 2:
            raise type(error)(*error.args)
        PLAIN.follow(ancestors, parents, positions, places)

    def allocate(shape: Shape, plain: Transformer, graphs: bool) -> Storage:
        # Nothing of a batch that has failed is left when the next one begins.
        assert all(storage() is None for storage in failing)
        storage = Storage(shape, plain, graphs)
        if shape.slots > 2:
            failing.append(weakref.ref(storage))
        return storage

    failing: list[weakref.ref[Storage]] = []
    operations = dataclasses.replace(PLAIN, follow=small_only)
    graph = GraphTransformer(plain, operations=operations, ladder=SMALL, storage=allocate)
    found = dict(BeamSearch([graph], chosen).decode(rows, batch_tokens=60))
    assert len(failing) > 1
    assert {r: [h.ids for h in k] for r, k in found.items()} == {r: [h.ids for h in k] for r, k in expected.items()}


def test_only_models_on_a_gpu_are_meant() -> None:
    assert runs_here(model()) == (DEVICE.type == "cuda")
    assert not runs_here(torch.nn.Linear(2, 2))
