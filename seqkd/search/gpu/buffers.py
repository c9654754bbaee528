"""The memory of the GPU engine: one storage for the caches of all shapes, and the graphs that work in it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from seqkd.models.transformer import Transformer
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.gpu.graphs import GraphPool, Recorder
from seqkd.search.gpu.operations import SelfCache
from seqkd.search.gpu.shapes import Shape, multiple
from seqkd.search.settings import BeamSettings

# Sets of buffers whose graphs are kept. A corpus with sources up to 1,000 tokens needs seven.
KEPT = 12
# Caches begin at multiples of this many elements, so that kernels compiled for aligned addresses fit all of them.
ALIGNMENT = 256


def _cache_sizes(shape: Shape, model: Transformer) -> Iterator[tuple[int, ...]]:
    """Sizes of all caches: for each layer keys and values over the targets, and both together over the source."""
    places = shape.slots + 1
    for _ in model.decoder:
        yield places, shape.max_target, shape.beam, model.dim
        yield places, shape.max_target, shape.beam, model.dim
        yield places, shape.max_source, 2 * model.dim


def elements(shape: Shape, model: Transformer) -> int:
    """Elements of a storage that holds the caches of this shape."""
    return sum(multiple(math.prod(size), ALIGNMENT) for size in _cache_sizes(shape, model))


class Buffers:
    """Caches and inputs of decodes of one shape, at addresses that never change, and the graphs that work on them.

    A *place* is where a slot's caches lie; there is one more than slots, for rows that only fill up a step.

    Attributes:
        places: `[rows]`: where the caches of each slot lie.
        hypotheses: Of the search, for `rows` slots.
        tokens: `[rows, beam]`, what the next step reads: the newest tokens of `hypotheses`.
        parents: `[rows, beam]`: what each hypothesis goes on from; each from itself once a step has used it.
        positions: `[slots + 1]`, of each place: tokens read so far.
        lengths: `[slots + 1]`, of each place: source tokens.
        busy: `[slots + 1]`, of each place: 1, or 0 where nothing is decoded; those stay at position 0.
        ancestors: `[slots + 1, beam, max_target]` uint8: which beam wrote position p of hypothesis k.
        caches: For each layer, over the targets; views of the memory that all shapes share.
        cross: For each layer `[slots + 1, max_source, 2 * dim]`, keys and values of the source; likewise.
        source: `[rows, max_source]`, what is to be encoded.
        into: `[rows]`, the places that it goes to.
        frontiers: Searches over the first rows of `hypotheses`, kept because graphs go on reading their constants.
    """

    def __init__(self, shape: Shape, rows: int, model: Transformer, memory: Tensor, recorder: Recorder) -> None:
        device, places = memory.device, shape.slots + 1

        def ids(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.long, device=device)

        self.shape = shape
        self.places, self.into = ids(rows), ids(rows)
        self.hypotheses = FrontierState.idle(rows, shape.beam, shape.max_target, device)
        self.tokens, self.parents = self.hypotheses.last, ids(rows, shape.beam)
        self.beams = torch.arange(shape.beam, device=device)
        self.positions, self.lengths, self.busy = ids(places), ids(places), ids(places)
        self.ancestors = torch.zeros(places, shape.beam, shape.max_target, dtype=torch.uint8, device=device)
        self.caches: list[SelfCache] = []
        self.cross: list[Tensor] = []
        views = self._views(memory, _cache_sizes(shape, model))
        for keys, values, cross in zip(views, views, views, strict=True):
            self.caches.append(SelfCache(keys=keys, values=values))
            self.cross.append(cross)
        self.source = ids(rows, shape.max_source)
        self.last = min(shape.max_target, model.max_positions) - 1
        self.recorder = recorder
        self.frontiers: dict[tuple[int, BeamSettings], Frontier] = {}

    @staticmethod
    def _views(memory: Tensor, sizes: Iterator[tuple[int, ...]]) -> Iterator[Tensor]:
        start = 0
        for size in sizes:
            count = math.prod(size)
            yield memory[start : start + count].view(size)
            start += multiple(count, ALIGNMENT)

    def lend(self, slots: int, rows: int) -> GraphState:
        """All slots idle. The caches keep what they hold: nothing is read that has not been written anew."""
        torch.arange(len(self.places), out=self.places)
        self.places[slots:] = self.shape.slots
        self.hypotheses.done.fill_(True)
        self.tokens.zero_()
        self.parents.copy_(self.beams)
        self.positions.zero_()
        self.lengths.fill_(1)
        self.busy.zero_()
        return GraphState(self, slots, min(rows, len(self.places)))


class GraphState:
    """One decode.

    Attributes:
        buffers: Lent to it until it is dropped.
        slots: Of the search, now.
        rows: Groups of rows a step works on: `slots` rounded up.
    """

    def __init__(self, buffers: Buffers, slots: int, rows: int) -> None:
        self.buffers, self.slots, self.rows = buffers, slots, rows

    def read(self, tokens: Tensor) -> None:
        """Take `[slots, beam]` into the next step, unless they are there already."""
        place = self.buffers.tokens[: self.slots]
        if tokens.data_ptr() != place.data_ptr():
            place.copy_(tokens)


class Storage:
    """The caches of all shapes, which share one piece of memory because one decode works in it at a time.

    Args:
        shape: Sizes for which there must be room.
        model: The model.
        graphs: Capture steps as CUDA graphs.
        recorder: Makes what runs the functions of a set of buffers.

    Attributes:
        sets: Buffers by `Shape.widths`, the latest used last.
    """

    def __init__(
        self, shape: Shape, model: Transformer, graphs: bool, *, recorder: Callable[[GraphPool], Recorder] = Recorder
    ) -> None:
        weight = model.output_weight
        self.memory = torch.zeros(elements(shape, model), dtype=weight.dtype, device=weight.device)
        self.sets: dict[tuple[int, int, int], Buffers] = {}
        self._model, self._recorder = model, recorder
        self._pool = GraphPool(weight.device, enabled=graphs)
        self._holder: weakref.ref[GraphState] | None = None

    def idle(self) -> bool:
        """Whether no state uses it any more."""
        return self._holder is None or self._holder() is None

    def holds(self, shape: Shape) -> bool:
        """Whether there is room for this shape."""
        return elements(shape, self._model) <= len(self.memory)

    def lend(self, shape: Shape, rows: int) -> GraphState:
        """Return a new state whose slots are idle and whose steps work on `rows` of them or more at first."""
        buffers = self.sets.pop(shape.widths, None)
        if buffers is None:
            full = self._filled(shape)
            recorder = self._recorder(self._pool)
            buffers = Buffers(full, max(full.slots, rows), self._model, self.memory, recorder)
        self.sets[shape.widths] = buffers
        if len(self.sets) > KEPT:
            del self.sets[next(iter(self.sets))]
        state = buffers.lend(shape.slots, rows)
        self._holder = weakref.ref(state)
        return state

    def _filled(self, shape: Shape) -> Shape:
        """The shape with as many slots as there is room for, so that no later batch needs more."""
        sizes = list(_cache_sizes(shape, self._model))
        places = (len(self.memory) - len(sizes) * ALIGNMENT) // sum(math.prod(size[1:]) for size in sizes)
        return replace(shape, slots=max(shape.slots, places - 1))
