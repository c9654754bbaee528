"""Drives a Transformer on a CUDA device: fixed shapes, everything in place, each step one CUDA graph.

A step waits for nothing and asks the device nothing; what differs between slots (position, source length, whether it
is idle) lies in device memory, where the kernels read it. So one graph serves every position, and the shapes that need
graphs of their own are few: a `Ladder` rounds slots and widths up. The caches of all shapes lie in one storage, which
is kept with their graphs for the next decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from seqkd.models.transformer import DecoderLayer, FeedForward, Transformer
from seqkd.search.candidates import RowCandidates, penalize
from seqkd.search.frontier import Frontier
from seqkd.search.gpu.buffers import Buffers, GraphState, Storage
from seqkd.search.gpu.operations import Operations, project
from seqkd.search.gpu.requirements import kernels_on
from seqkd.search.gpu.shapes import LADDER, Ladder, Shape, multiple, rung
from seqkd.search.intake import out_of_memory
from seqkd.search.pace import send
from seqkd.search.settings import BeamSettings

# Sources are encoded in widths of multiples of this, so that few graphs of the encoder are needed.
WIDTH = 8
# The rows of the output layer's weights are filled up to a multiple of this. Products with an odd number of columns are
# slower, and rows of logits would begin at addresses from which 16 bytes cannot be read at a time.
ALIGNED_ROWS = 64


def runs_here(model: nn.Module) -> bool:
    """Whether the kernels compute this model, and run on its device."""
    return isinstance(model, Transformer) and kernels_on(model.output_weight.device)


class GraphTransformer:
    """A `FusedSearchModel` and `SteppingModel` on CUDA; see `seqkd.search.protocol` for the meaning of the methods.

    What `step_candidates` returns is good until the next call.

    Args:
        model: A Transformer, in the type to decode in; on the CPU it runs without graphs, which serves tests.
        operations: The parts of a step; the Triton kernels if None.
        graphs: Capture steps as CUDA graphs.
        ladder: The sizes of batches and caches.
        storage: Allocates a storage with room for a shape.

    Attributes:
        weight: The weights of the output layer: the model's, or a copy with further rows of zeros.
        bias: The bias of the output layer, with as many further zeros; None if the model has no such bias.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        operations: Operations | None = None,
        graphs: bool = True,
        ladder: Ladder = LADDER,
        storage: Callable[[Shape, Transformer, bool], Storage] = Storage,
    ) -> None:
        if operations is None:
            from seqkd.search.gpu.kernels import TRITON

            operations = TRITON
        self.model = model.eval()
        self.operations = operations
        self.graphs = graphs
        self._ladder, self._new_storage = ladder, storage
        self.target_vocab = model.target_vocab
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = model.output_weight.device
        self.dtype = model.output_weight.dtype
        self._storages: list[Storage] = []
        self.weight = _aligned(model.output_weight)
        self.bias = None if model.output_bias is None else _aligned(model.output_bias)

    def cache_width(self, width: int) -> int:
        """See `RoundingModel.cache_width`."""
        return self._ladder.width_of(width, self.max_positions)

    @torch.inference_mode()
    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> GraphState:
        """See `SearchModel.new_state`."""
        if self.weight is not self.model.output_weight:  # which may have been trained in the meantime
            self.weight[: self.target_vocab] = self.model.output_weight
            if self.bias is not None and self.model.output_bias is not None:
                self.bias[: self.target_vocab] = self.model.output_bias
        shape = Shape(
            slots=slots,
            beam=beam,
            max_source=self.cache_width(max_source),
            max_target=max(max_target, min(multiple(max_target, 16), self.max_positions)),
        )
        with self._giving_way():
            return self._storage(shape).lend(shape, self._ladder.rows(slots))

    def _storage(self, shape: Shape) -> Storage:
        """Return an idle storage with room for the shape. It is the only idle one, and there is one for each state.

        Where there is no room, everything in the idle one is given up, and its memory is free before more is taken.
        """
        kept = next((storage for storage in self._storages if storage.idle() and storage.holds(shape)), None)
        self._storages = [storage for storage in self._storages if storage is kept or not storage.idle()]
        if kept is None:
            kept = self._new_storage(replace(shape, slots=rung(shape.slots, 1)), self.model, self.graphs)
            self._storages.append(kept)
        return kept

    @contextmanager
    def _giving_way(self) -> Iterator[None]:
        """Memory kept for later must not be why a smaller batch does not fit either."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                self._storages.clear()
            raise

    @torch.inference_mode()
    def admit(self, state: GraphState, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        buffers = state.buffers
        count, length = source.shape
        rows = min(rung(count, 4), len(buffers.into))
        width = min(multiple(length, WIDTH), buffers.shape.max_source)
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
            features = buffers.recorder.run(("step", rows), lambda: self._features(buffers, rows))
            # Outside the graph, which would hold the logits' memory for as long as it lives.
            logits = project(features, self.weight, self.bias)
        return logits.view(rows, *tokens.shape[1:], -1)[: state.slots, ..., : self.target_vocab]

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
        features = self._features(buffers, rows)
        return self.operations.output(features, self.weight, self.bias, self.target_vocab, count, self.eos_id)

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

        x = model.embed_target(buffers.tokens[:rows], positions[places][:, None]).flatten(0, 1)
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

        No cache moves: the list of places gets shorter. Steps go on with the next power of two of rows, so that a batch
        of a thousand needs graphs for five sizes until it is empty.
        """
        buffers, slots = state.buffers, send(slots, self.device)
        buffers.places[: len(slots)] = buffers.places[slots]
        # The first step after this one must follow parents in the new order; those in use were noted in the old one.
        buffers.parents[: len(slots)] = buffers.parents[slots]
        state.slots = len(slots)
        state.rows = min(self._ladder.rows(state.slots), state.rows)
        buffers.places[state.slots :] = buffers.shape.slots


def _aligned(parameter: Tensor) -> Tensor:
    """Return a parameter of the output layer, or zeros with room for it if its rows must be filled up."""
    rows, *columns = parameter.shape
    return parameter if rows % ALIGNED_ROWS == 0 else parameter.new_zeros(multiple(rows, ALIGNED_ROWS), *columns)


def _feed_forward(ffn: FeedForward, x: Tensor) -> Tensor:
    """`[rows, dim]` to the same; ReLU is done where the first product ends, which saves a pass over its result."""
    if ffn.activation != "relu":
        return ffn(x)  # type: ignore[no-any-return]
    hidden = torch._addmm_activation(ffn.inner.bias, x, ffn.inner.weight.t())
    return ffn.out(hidden)  # type: ignore[no-any-return]
