"""Drives a Transformer on a CUDA device: fixed shapes, everything in place, each step one CUDA graph.

A step waits for nothing and asks the device nothing; what differs between slots (position, source length, whether it
is idle) lies in device memory, where the kernels read it. So one graph serves every position, and the shapes that need
graphs of their own are few: `rung` rounds slots and widths up, and buffers with their graphs are kept for the next
decode.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.transformer import DecoderLayer, FeedForward, Transformer
from seqkd.search.candidates import RowCandidates, penalize
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.gpu.graphs import Recorder
from seqkd.search.gpu.operations import Operations, SelfCache, project
from seqkd.search.gpu.requirements import kernels_on
from seqkd.search.intake import out_of_memory
from seqkd.search.pace import send
from seqkd.search.settings import BeamSettings

# Idle sets of buffers that are kept, with their graphs, for a decode of the same shape.
KEPT = 4
# Sources are encoded in widths of multiples of this, so that few graphs of the encoder are needed.
WIDTH = 8


def runs_here(model: nn.Module) -> bool:
    """Whether the kernels run where this model is."""
    return isinstance(model, Transformer) and kernels_on(model.output_weight.device)


def rung(size: int, parts: int) -> int:
    """`size` rounded up, to one of `parts` evenly spaced sizes between each power of two and the next."""
    unit = 1
    while size > 2 * parts * unit:
        unit *= 2
    return -(-size // unit) * unit


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a set of buffers."""

    slots: int
    beam: int
    max_source: int
    max_target: int


class Buffers:
    """Caches and inputs of one decode, at addresses that never change, and the graphs that work on them.

    A *place* is where a slot's caches lie; there is one more than slots, for rows that only fill up a shape.

    Attributes:
        places: `[slots]`: where the caches of each slot lie.
        hypotheses: Of the search.
        tokens: `[slots, beam]`, what the next step reads: the newest tokens of `hypotheses`.
        parents: `[slots, beam]`: what each hypothesis goes on from; each from itself once a step has used it.
        positions: `[slots + 1]`, of each place: tokens read so far.
        lengths: `[slots + 1]`, of each place: source tokens.
        busy: `[slots + 1]`, of each place: 1, or 0 where nothing is decoded; those stay at position 0.
        ancestors: `[slots + 1, beam, max_target]` uint8: which beam wrote position p of hypothesis k.
        caches: For each layer, over the targets.
        cross: For each layer `[slots + 1, max_source, 2 * dim]`, keys and values of the source.
        source: `[slots, max_source]`, what is to be encoded.
        into: `[slots]`, the places that it goes to.
        frontiers: Searches over the first rows of `hypotheses`, kept because graphs go on reading their constants.
        holder: The state that uses these buffers.
    """

    def __init__(self, shape: Shape, model: Transformer, graphs: bool) -> None:
        device, dtype = model.output_weight.device, model.output_weight.dtype
        places = shape.slots + 1

        def ids(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.long, device=device)

        def floats(*size: int) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.shape = shape
        self.places, self.into = ids(shape.slots), ids(shape.slots)
        self.hypotheses = FrontierState.idle(shape.slots, shape.beam, shape.max_target, device)
        self.tokens, self.parents = self.hypotheses.last, ids(shape.slots, shape.beam)
        self.beams = torch.arange(shape.beam, device=device)
        self.positions, self.lengths, self.busy = ids(places), ids(places), ids(places)
        self.ancestors = torch.zeros(places, shape.beam, shape.max_target, dtype=torch.uint8, device=device)
        size = (places, shape.max_target, shape.beam, model.dim)
        self.caches = [SelfCache(keys=floats(*size), values=floats(*size)) for _ in model.decoder]
        self.cross = [floats(places, shape.max_source, 2 * model.dim) for _ in model.decoder]
        self.source = ids(shape.slots, shape.max_source)
        self.last = min(shape.max_target, model.max_positions) - 1
        self.recorder = Recorder(device, enabled=graphs)
        self.frontiers: dict[tuple[int, BeamSettings], Frontier] = {}
        self.holder: weakref.ref[GraphState] | None = None

    def idle(self) -> bool:
        """Whether no state uses these any more."""
        return self.holder is None or self.holder() is None

    def lend(self, slots: int) -> GraphState:
        """All slots idle. The caches keep what they hold: nothing is read that has not been written anew."""
        state = GraphState(self, slots)
        self.holder = weakref.ref(state)
        torch.arange(len(self.places), out=self.places)
        self.places[slots:] = self.shape.slots
        self.hypotheses.done.fill_(True)
        self.tokens.zero_()
        self.parents.copy_(self.beams)
        self.positions.zero_()
        self.lengths.fill_(1)
        self.busy.zero_()
        return state


class GraphState:
    """One decode.

    Attributes:
        buffers: Lent to it until it is dropped.
        slots: Of the search, now.
        rows: Groups of rows a step works on: `slots` rounded up.
    """

    def __init__(self, buffers: Buffers, slots: int) -> None:
        self.buffers, self.slots, self.rows = buffers, slots, buffers.shape.slots

    def read(self, tokens: Tensor) -> None:
        """Take `[slots, beam]` into the next step, unless they are there already."""
        place = self.buffers.tokens[: self.slots]
        if tokens.data_ptr() != place.data_ptr():
            place.copy_(tokens)


class GraphTransformer:
    """A `FusedSearchModel` and `SteppingModel` on CUDA; see `seqkd.search.protocol` for the meaning of the methods.

    What `step` and `step_candidates` return is good until the next call.

    Args:
        model: A Transformer, in the type to decode in; on the CPU it runs without graphs, which serves tests.
        operations: The parts of a step; the Triton kernels if None.
        graphs: Capture steps as CUDA graphs.
        buffers: Allocates a set of buffers.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        operations: Operations | None = None,
        graphs: bool = True,
        buffers: Callable[[Shape, Transformer, bool], Buffers] = Buffers,
    ) -> None:
        if operations is None:
            from seqkd.search.gpu.kernels import TRITON

            operations = TRITON
        self.model = model.eval()
        self.operations = operations
        self.graphs = graphs
        self._new_buffers = buffers
        self.target_vocab = model.target_vocab
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = model.output_weight.device
        self.dtype = model.output_weight.dtype
        self._buffers: list[Buffers] = []

    @torch.inference_mode()
    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> GraphState:
        """See `SearchModel.new_state`."""
        shape = Shape(
            slots=rung(slots, 8),
            beam=beam,
            max_source=max(max_source, min(rung(max_source, 8), self.max_positions)),
            max_target=max(max_target, min(rung(max_target, 8), self.max_positions)),
        )
        for buffers in self._buffers:
            if buffers.shape == shape and buffers.idle():
                self._buffers.remove(buffers)
                break
        else:
            buffers = self._allocate(shape)
        state = buffers.lend(slots)
        self._buffers.append(buffers)
        idle = [held for held in self._buffers if held.idle()]
        for held in idle[: max(0, len(idle) - KEPT)]:
            self._buffers.remove(held)
        return state

    def _allocate(self, shape: Shape) -> Buffers:
        try:
            return self._new_buffers(shape, self.model, self.graphs)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or not self._buffers:
                raise
            self._buffers.clear()
        return self._new_buffers(shape, self.model, self.graphs)

    @contextmanager
    def _giving_way(self) -> Iterator[None]:
        """Buffers kept for later must not be why a smaller batch does not fit either."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                self._buffers.clear()
            raise

    @torch.inference_mode()
    def admit(self, state: GraphState, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        buffers = state.buffers
        count, length = source.shape
        rows = min(rung(count, 4), buffers.shape.slots)
        width = min(-(-length // WIDTH) * WIDTH, buffers.shape.max_source)
        padded = buffers.source[:rows, :width]
        padded.fill_(self.pad_id)
        padded[:count, :length] = source
        # Rows that fill up the shape read one token, so that their attention is over something.
        padded[count:, 0] = self.eos_id
        buffers.into[:count] = buffers.places[send(slots, self.device)]
        buffers.into[count:rows] = buffers.shape.slots
        with self._giving_way():
            buffers.recorder.run(("admit", rows, width), lambda: self._admit(buffers, rows, width))

    def _admit(self, buffers: Buffers, rows: int, width: int) -> None:
        source, into = buffers.source[:rows, :width], buffers.into[:rows]
        memory = self.model.encode(source)
        for cache, layer in zip(buffers.cross, self._layers(), strict=True):
            cache[into, :width] = layer.cross.key_value(memory)
        buffers.lengths[into] = source.ne(self.pad_id).sum(dim=1)
        # index_fill_ takes its number along with the launch; an assignment would copy it to the device.
        buffers.positions.index_fill_(0, into, 0)
        buffers.busy.index_fill_(0, into, 1)
        buffers.busy[-1:].zero_()

    @torch.inference_mode()
    def step(self, state: GraphState, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`."""
        buffers, rows = state.buffers, state.rows
        state.read(tokens)
        with self._giving_way():
            logits = buffers.recorder.run(
                ("step", rows), lambda: project(self._features(buffers, rows), self.model.output_weight)
            )
        return logits.view(rows, *tokens.shape[1:], self.target_vocab)[: state.slots]

    @torch.inference_mode()
    def step_candidates(
        self,
        state: GraphState,
        tokens: Tensor,
        count: int,
        live: Tensor | None = None,  # noqa: ARG002
        closing: Tensor | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `FusedSearchModel.step_candidates`; nothing is left out."""
        buffers, rows = state.buffers, state.rows
        state.read(tokens)
        with self._giving_way():
            found = buffers.recorder.run(("candidates", rows, count), lambda: self._candidates(buffers, rows, count))
        fields = (found.lse, found.values, found.ids, found.eos)
        lse, values, ids, eos = (x.view(rows, -1, *x.shape[1:])[: state.slots] for x in fields)
        return lse, values, ids, eos

    def frontier(self, state: GraphState, settings: BeamSettings) -> Frontier:
        """See `SteppingModel.frontier`."""
        return self._frontier(state.buffers, state.slots, settings)

    def _frontier(self, buffers: Buffers, rows: int, settings: BeamSettings) -> Frontier:
        held = buffers.hypotheses.first(rows)
        return Frontier(settings, held, start_id=self.start_id, eos_id=self.eos_id, pad_id=self.pad_id)

    @torch.inference_mode()
    def advance(self, state: GraphState, frontier: Frontier) -> None:
        """See `SteppingModel.advance`."""
        buffers, rows = state.buffers, state.rows
        key = rows, frontier.settings
        if key not in buffers.frontiers:
            buffers.frontiers[key] = self._frontier(buffers, rows, frontier.settings)
        wide = buffers.frontiers[key]
        with self._giving_way():
            buffers.recorder.run(("advance", *key), lambda: self._advance(buffers, rows, wide))

    def _advance(self, buffers: Buffers, rows: int, frontier: Frontier) -> None:
        found = self._candidates(buffers, rows, min(frontier.count_needed, self.target_vocab))
        fields = (found.lse, found.values, found.ids, found.eos)
        found = RowCandidates(*(x.view(rows, -1, *x.shape[1:]) for x in fields))
        if frontier.settings.unk_penalty:
            found = penalize(found, self.unk_id, frontier.settings.unk_penalty)
        self.operations.advance(frontier, found, buffers.parents[:rows])

    def _candidates(self, buffers: Buffers, rows: int, count: int) -> RowCandidates:
        return self.operations.output(self._features(buffers, rows), self.model.output_weight, count, self.eos_id)

    def _layers(self) -> Iterator[DecoderLayer]:
        for layer in self.model.decoder:
            assert isinstance(layer, DecoderLayer)
            yield layer

    def _features(self, buffers: Buffers, rows: int) -> Tensor:
        """Read `tokens` of the first `rows` slots, write the caches and move on.

        Returns:
            `[rows * beam, dim]`.
        """
        model, do = self.model, self.operations
        places, parents = buffers.places[:rows], buffers.parents[:rows]
        positions, ancestors = buffers.positions, buffers.ancestors
        do.follow(ancestors, parents, positions, places)
        parents.copy_(buffers.beams)

        x = functional.embedding(buffers.tokens[:rows], model.target_embedding) * model.scale
        x = (x + model.target_positions[positions[places]][:, None].to(x.dtype)).flatten(0, 1)
        pre = model.norm == "pre"
        layers = list(self._layers())
        read = layers[0].attention_norm(x) if pre else x
        for number, layer in enumerate(layers):
            qkv = layer.attention.qkv(read)
            attended = do.self_attention(qkv, buffers.caches[number], ancestors, positions, places, model.heads)
            x, read = self._join(x, layer.attention.out(attended), layer.cross_norm if pre else layer.attention_norm)
            query = layer.cross.query(read)
            attended = do.cross_attention(query, buffers.cross[number], buffers.lengths, places, model.heads)
            x, read = self._join(x, layer.cross.out(attended), layer.ffn_norm if pre else layer.cross_norm)
            after = layers[number + 1].attention_norm if number + 1 < len(layers) else model.decoder_norm
            x, read = self._join(x, _feed_forward(layer.ffn, read), after if pre else layer.ffn_norm)
        # An idle slot stays where it is; one that is done and not yet harvested must not run off its cache.
        positions.add_(buffers.busy).clamp_(max=buffers.last)
        return read if pre else model.decoder_norm(read)

    def _join(self, x: Tensor, y: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """The residual stream, and what the next block reads of it."""
        assert isinstance(norm, nn.LayerNorm)
        total, normed = self.operations.add_norm(x, y, norm)
        return (total if self.model.norm == "pre" else normed), normed

    @torch.inference_mode()
    def reorder(self, state: GraphState, parents: Tensor) -> None:
        """See `SearchModel.reorder`: noted here, followed at the start of the next step, in its graph."""
        state.buffers.parents[: state.slots] = parents

    @torch.inference_mode()
    def release(self, state: GraphState, slots: Tensor) -> None:
        """See `SearchModel.release`: an idle slot costs its rows of the products, and no attention."""
        buffers = state.buffers
        places = buffers.places[send(slots, self.device)]
        buffers.busy.index_fill_(0, places, 0)
        buffers.positions.index_fill_(0, places, 0)
        buffers.lengths.index_fill_(0, places, 1)

    @torch.inference_mode()
    def shrink(self, state: GraphState, slots: Tensor) -> None:
        """See `SearchModel.shrink`.

        No cache moves: the list of places gets shorter. Steps go on with the next power of two of rows, or the middle
        between two of them, so that a batch of a thousand needs graphs for some fifteen sizes until it is empty.
        """
        buffers, slots = state.buffers, send(slots, self.device)
        buffers.places[: len(slots)] = buffers.places[slots]
        # The first step after this one must follow parents in the new order; those in use were noted in the old one.
        buffers.parents[: len(slots)] = buffers.parents[slots]
        state.slots = len(slots)
        state.rows = min(rung(state.slots, 2), buffers.shape.slots)
        buffers.places[state.slots :] = buffers.shape.slots


def _feed_forward(ffn: FeedForward, x: Tensor) -> Tensor:
    """`[rows, dim]` to the same; ReLU is done where the first product ends, which saves a pass over its result."""
    if ffn.activation != "relu":
        return ffn(x)  # type: ignore[no-any-return]
    hidden = torch._addmm_activation(ffn.inner.bias, x, ffn.inner.weight.t())
    return ffn.out(hidden)  # type: ignore[no-any-return]
