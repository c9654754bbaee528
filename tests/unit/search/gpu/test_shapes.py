"""Which sizes the engine works with, how often it meets new ones, and what lies in the memory that they share."""

from __future__ import annotations

import dataclasses
import gc
import math
import random
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkd.models.settings import StackSettings
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.frontier import Frontier
from seqkd.search.gpu.buffers import KEPT, GraphState, Storage
from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.gpu.graphs import Recorder
from seqkd.search.gpu.operations import PLAIN
from seqkd.search.gpu.shapes import Ladder, Shape, rung
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.unit.search.gpu.support import DEVICE
from tests.unit.search.support import engine_model, padded

LONGEST = 250


class Replay:
    """The engine without arithmetic: the search chooses sentences and batches as ever, and outputs end at once.

    Outputs are 0.6 to 1 times as long as the longest that are allowed.

    Attributes:
        steps: How often each size of step was run, by the widths of its caches.
        storages: All that were allocated.
    """

    def __init__(self) -> None:
        size = StackSettings(dim=2, heads=1, ffn_dim=1, encoder_layers=1, decoder_layers=1, max_positions=1024)
        model = Transformer(size, source_vocab=64, target_vocab=64)
        self.storages: list[Storage] = []
        self.steps: Counter[tuple[tuple[int, int, int], int]] = Counter()
        engine = GraphTransformer(model, operations=PLAIN, storage=self._allocate)
        self.engine, self.device = engine, engine.device
        self.target_vocab, self.max_positions = engine.target_vocab, engine.max_positions
        self.pad_id, self.eos_id, self.unk_id, self.start_id = 1, 2, 3, 0
        self.cache_width, self.new_state, self.shrink = engine.cache_width, engine.new_state, engine.shrink
        self.step, self.step_candidates, self.reorder = engine.step, engine.step_candidates, engine.reorder
        self.release, self.frontier = engine.release, engine.frontier

    def _allocate(self, shape: Shape, model: Transformer, graphs: bool) -> Storage:
        class Idle(Recorder):
            def run(self, key: Hashable, function: Callable[[], Any]) -> Any:  # noqa: ARG002
                return None

        self.storages.append(Storage(shape, model, graphs, recorder=Idle))
        return self.storages[-1]

    def admit(self, state: GraphState, slots: Tensor, source: Tensor) -> None:
        self.engine.admit(state, slots, source)

    def advance(self, state: GraphState, frontier: Frontier) -> None:
        self.engine.advance(state, frontier)
        self.steps[state.buffers.shape.widths, state.rows] += 1
        clock = frontier.clock
        over = clock.positions >= clock.limits * (0.6 + 0.4 * (clock.limits * 37 % 16) / 16)
        frontier.count += over & ~frontier.done
        frontier.done |= over
        clock.positions.add_(1).clamp_(max=frontier.tokens.size(1) - 1)


def shard(seed: int, rows: int) -> list[tuple[int, list[int]]]:
    draw = random.Random(seed)
    lengths = [min(LONGEST, max(1, round(draw.lognormvariate(3.15, 0.7)))) for _ in range(rows)]
    return [(row, [4] * length) for row, length in enumerate(lengths)]


@pytest.mark.parametrize(("batch_tokens", "rows"), [(4_000, 1_000), (65_536, 6_000)])
def test_no_shape_is_new_from_the_second_shard_on(batch_tokens: int, rows: int) -> None:
    replay = Replay()
    search = BeamSearch([replay], BeamSettings(beam=1, max_length_ratio=1.5, max_length_extra=5))
    met: list[set[tuple[tuple[int, int, int], int]]] = []
    storages: list[int] = []
    for seed in range(3):
        replay.steps.clear()
        assert len(list(search.decode(shard(seed, rows), batch_tokens=batch_tokens))) == rows
        met.append(set(replay.steps))
        storages.append(len(replay.storages))
    assert {widths for widths, _ in met[1] | met[2]} <= {widths for widths, _ in met[0]}
    # At most the rare sizes of a batch that is nearly empty are new.
    assert len((met[1] | met[2]) - met[0]) <= 2
    assert storages == storages[:1] * 3
    assert len(replay.storages[-1].sets) <= KEPT == 12
    # Every width is a power of two, and each has one shape.
    assert sorted(widths[1] for widths in replay.storages[-1].sets) == [16, 32, 64, 128, 256]
    assert {size & (size - 1) for _, size in met[0]} == {0}
    assert min(size for _, size in met[0]) == 64


def test_idle_rows_are_few_where_the_batch_is_a_power_of_two() -> None:
    replay = Replay()
    chosen = BeamSettings(beam=1, max_length_ratio=1.5, max_length_extra=5)
    list(BeamSearch([replay], chosen).decode(shard(0, 6_000), batch_tokens=16_384))
    # 16,384 tokens are 512 sentences of 17 to 32 tokens, and never more rows than that.
    assert max(size for (_, width, _), size in replay.steps if width == 32) == 512


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_rungs_are_few_and_waste_little(parts: int) -> None:
    for size in range(1, 3000):
        assert size <= rung(size, parts) <= size * (1 + 1 / parts) + 1
        assert rung(rung(size, parts), parts) == rung(size, parts)
    assert len({rung(size, parts) for size in range(513, 1025)}) == parts


def test_widths_are_powers_of_two_but_for_the_models_limit() -> None:
    ladder = Ladder()
    assert [ladder.width_of(tokens, 200) for tokens in (1, 16, 17, 128, 129, 200)] == [16, 16, 32, 128, 200, 200]
    assert ladder.width_of(9, 10) == 10
    assert [ladder.rows(slots) for slots in (1, 64, 65, 2000)] == [64, 64, 128, 2048]


def small(storage: Callable[[Shape, Transformer, bool], Storage] = Storage) -> GraphTransformer:
    model = engine_model(dim=32, ffn_dim=48, encoder_layers=1).to(DEVICE)
    return GraphTransformer(model, operations=PLAIN, ladder=Ladder(slots=1, width=8), storage=storage)


def test_all_shapes_lie_in_one_storage_and_a_second_one_lives_as_long_as_a_second_state() -> None:
    graph = small()
    first = graph.new_state(4, 2, 30, 40)
    (storage,) = graph._storages
    wide = first.buffers
    del first
    # Widths of about the same size, and fewer slots, share buffers, and so graphs.
    same = graph.new_state(3, 2, 29, 39)
    assert same.buffers is wide
    del same
    narrow = graph.new_state(5, 2, 9, 12)
    assert graph._storages == [storage]
    assert narrow.buffers.cross[0].data_ptr() >= storage.memory.data_ptr()
    assert narrow.buffers.caches[0].keys.data_ptr() == wide.caches[0].keys.data_ptr() == storage.memory.data_ptr()
    # As many slots as there is room for: a later batch needs no other buffers.
    assert narrow.buffers.shape.slots > 5
    other = graph.new_state(4, 2, 30, 40)
    assert len(graph._storages) == 2
    assert other.buffers is not wide
    del narrow
    third = graph.new_state(4, 2, 30, 40)
    assert third.buffers is wide
    del other, third
    last = graph.new_state(1, 2, 9, 12)
    assert graph._storages == [storage]
    assert list(storage.sets) == [(2, 32, 48), (2, 16, 16)]
    assert list(storage.sets.values())[-1] is last.buffers


@torch.inference_mode()
def test_caches_of_a_shape_do_not_overlap() -> None:
    graph = small()
    for slots, width in ((5, 9), (3, 17)):
        buffers = graph.new_state(slots, 2, width, 30).buffers
        caches = [*buffers.cross, *(x for cache in buffers.caches for x in (cache.keys, cache.values))]
        for number, cache in enumerate(caches):
            cache.fill_(number)
        for number, cache in enumerate(caches):
            assert cache.eq(number).all()
        assert all(cache.data_ptr() % 16 == 0 for cache in caches)


def test_the_latest_sets_of_graphs_are_kept() -> None:
    graph = small()
    graph.new_state(1, 50, 64, 64)
    for beam in (*range(3, 3 + KEPT), 3):
        graph.new_state(1, beam, 8, 8)
    (storage,) = graph._storages
    assert [beam for beam, _, _ in storage.sets] == [*range(4, 3 + KEPT), 3]


def test_a_storage_that_must_grow_is_free_before_the_larger_one_is_allocated() -> None:
    made: list[weakref.ref[Storage]] = []

    def allocate(shape: Shape, model: Transformer, graphs: bool) -> Storage:
        gc.collect()
        assert all(storage() is None for storage in made)
        storage = Storage(shape, model, graphs)
        made.append(weakref.ref(storage))
        return storage

    graph = small(allocate)
    for slots in (3, 4, 5, 8, 9):  # room is made for 4, 8 and 16
        graph.new_state(slots, 2, 9, 12)
    assert len(made) == 3


def test_memory_that_runs_out_at_the_start_frees_what_is_kept() -> None:
    def allocate(shape: Shape, model: Transformer, graphs: bool) -> Storage:
        if shape.slots > 4:
            raise torch.OutOfMemoryError("no room")
        return Storage(shape, model, graphs)

    graph = small(allocate)
    graph.new_state(3, 2, 9, 12)
    with pytest.raises(torch.OutOfMemoryError):
        graph.new_state(5, 2, 9, 12)
    assert graph._storages == []
    assert graph.new_state(2, 2, 9, 12).slots == 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # rows that only fill up a step do read it
def test_nothing_is_read_that_another_shape_has_left() -> None:
    pytest.importorskip("triton")
    from seqkd.search.gpu.kernels import TRITON

    plain = engine_model(dim=32, ffn_dim=48, encoder_layers=1).to(DEVICE)
    operations = dataclasses.replace(
        PLAIN, self_attention=TRITON.self_attention, cross_attention=TRITON.cross_attention
    )
    graph = GraphTransformer(plain, operations=operations, ladder=Ladder(slots=1, width=4))
    chosen = BeamSettings(beam=2, nbest=2, max_length_ratio=0.1, max_length_extra=2)
    # The last eight of 32 source tokens are never written.
    for lengths in ((22, 20), (6, 3), (21, 17)):
        rows = [(row, list(range(5 + row, 5 + row + length))) for row, length in enumerate(lengths)]
        expected = dict(BeamSearch([IncrementalTransformer(plain)], chosen).decode(rows, batch_tokens=64))
        found = dict(BeamSearch([graph], chosen).decode(rows, batch_tokens=64))
        assert {r: [h.ids for h in k] for r, k in found.items()} == {r: [h.ids for h in k] for r, k in expected.items()}
        (storage,) = graph._storages
        with torch.inference_mode():
            storage.memory.fill_(math.nan)
    assert len(storage.sets) == 3


def test_weights_that_change_in_place_are_those_of_the_next_decode() -> None:
    biased = engine_model(dim=32, ffn_dim=48, encoder_layers=1, output_bias=True).to(DEVICE)
    graph = GraphTransformer(biased, operations=PLAIN, ladder=Ladder(slots=1, width=8))
    assert graph.weight.shape == (128, 32)  # 77 pieces
    assert graph.bias is not None
    assert biased.output_bias is not None
    tokens = torch.tensor([[5, 6]], device=DEVICE)
    source = padded([5], 1).to(DEVICE)

    def logits() -> Tensor:
        state = graph.new_state(1, 2, 9, 12)
        graph.admit(state, torch.tensor([0], device=DEVICE), source)
        found = graph.step(state, tokens)
        assert found.shape == (1, 2, 77)
        return found.clone()

    before = logits()
    with torch.no_grad():
        biased.output_weight.mul_(2)
    after = logits()
    assert not torch.allclose(after, before)
    with torch.no_grad():
        biased.output_bias[9] += 5
    before, after = after, logits()
    raised = torch.zeros(77, device=DEVICE)
    raised[9] = 5
    torch.testing.assert_close(after - before, raised.expand_as(after), atol=1e-4, rtol=0)
    graph = GraphTransformer(graph.model, operations=PLAIN)
    torch.testing.assert_close(after, logits())
