"""The time of each part of a step of the GPU engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqkd.models.transformer import Transformer
from seqkd.search import BeamSettings
from seqkd.search.candidates import RowCandidates, top_candidates
from seqkd.search.frontier import Frontier
from seqkd.search.gpu.buffers import Buffers
from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.gpu.graphs import ORDINARY_RUNS, GraphPool, Recorder
from seqkd.search.gpu.kernels import TRITON
from seqkd.search.gpu.operations import PLAIN, Operations
from seqkd.search.gpu.output import fused_output
from seqkd.search.gpu.shapes import Ladder

if TYPE_CHECKING:
    from tests.bench.gpu import Scale

Timer = Callable[[Callable[[], object], torch.device], float]

# Times that a part is done in one graph: the launch of a graph takes as long as the shortest parts.
IN_A_ROW = 20
# The last positions of a beam's hypotheses differ; before them, all go back to one.
APART = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is timed.

    Attributes:
        function: Does the part once.
        reset: Puts back what the part has changed; its time is taken off.
        graph: Whether the part can be captured.
    """

    function: Callable[[], object]
    reset: Callable[[], object] | None = None
    graph: bool = True


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """The time of one run, until the device has done all of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def parts(model: Transformer, scale: Scale, settings: BeamSettings, device: torch.device) -> dict[str, float]:
    """Microseconds of each part of one step, at half of an average target's length.

    A part is repeated with the same inputs, so they lie in the cache if they fit there.
    """
    beam, groups, dim = scale.beam, scale.groups, scale.dim
    rows, dtype = groups * beam, model.output_weight.dtype
    engine = GraphTransformer(model, ladder=Ladder(slots=groups))
    width = round(2.718 ** (scale.middle + 0.15))
    with torch.inference_mode():
        state = engine.new_state(groups, beam, width + 1, 2 * width + 2)
        buffers = state.buffers
        sources = torch.randint(4, scale.vocab, (groups, width), device=device)
        everyone = torch.arange(groups, device=device)
        engine.admit(state, everyone, sources)
        frontier = engine.frontier(state, settings)
        everywhere = torch.zeros(groups, dtype=torch.long, device=device)
        frontier.admit(everyone, minimums=everywhere, limits=everywhere + 2 * width, rows=range(groups))
        reset = half_way(buffers, frontier, width // 2)
        x = torch.randn(rows, dim, device=device, dtype=dtype)
        qkv = torch.randn(rows, 3 * dim, device=device, dtype=dtype)
        wide = torch.randn(rows, scale.ffn_dim, device=device, dtype=dtype)
        layer: Any = model.decoder[0]
        weight, count = engine.weight, 2 * beam + 2
        timed = {
            "whole step": Part(function=lambda: engine._advance(buffers, state.rows, frontier), reset=reset),
            "whole step without the search's": Part(
                function=lambda: engine._candidates(buffers, state.rows, count), reset=reset
            ),
            # It has a graph of its own, and work outside it.
            "encode and admit": Part(function=lambda: engine.admit(state, everyone, sources), graph=False),
            "product qkv (x layers)": Part(function=lambda: layer.attention.qkv(x)),
            "product dim x dim (x 3 layers)": Part(function=lambda: layer.attention.out(x)),
            "product ffn in (x layers)": Part(function=lambda: layer.ffn.inner(x)),
            "product ffn out (x layers)": Part(function=lambda: layer.ffn.out(wide)),
        }
        for name, do in (("kernel", TRITON), ("torch", PLAIN)):
            timed |= operation_parts(name, do, buffers, x, qkv, layer.ffn_norm, scale.heads, reset)
            timed[f"output, {name}"] = Part(function=partial(do.output, x, weight, None, scale.vocab, count, 2))
            timed[f"the search's step, {name}"] = Part(
                function=step_of(do, frontier, buffers, scale.vocab), reset=reset
            )
        timed["output, fused kernel"] = Part(function=lambda: fused_output(x, weight, None, scale.vocab, count, 2))
        return {name: microseconds(part, device) for name, part in timed.items()}


def half_way(buffers: Buffers, frontier: Frontier, position: int) -> Callable[[], None]:
    """Return a function that puts every slot at a position, where every hypothesis lives and none has ended."""
    # A hypothesis reads the last positions as they were written by any of the beam's, and all before by the first.
    latest = buffers.ancestors[..., max(0, position - APART) : position]
    buffers.ancestors.zero_()
    ancestors = torch.randint_like(latest, buffers.shape.beam)

    def reset() -> None:
        latest.copy_(ancestors)
        buffers.positions.fill_(position)
        frontier.clock.positions.fill_(position)
        frontier.live.fill_(-1.0)
        frontier.count.zero_()
        frontier.done.zero_()

    reset()
    return reset


def step_of(do: Operations, frontier: Frontier, buffers: Buffers, vocab: int) -> Callable[[], object]:
    """Ranking, finishing and continuing random candidates of every slot."""
    rows, device = frontier.live.shape, frontier.live.device
    found: RowCandidates = top_candidates(
        torch.randn(*rows, vocab, device=device), min(frontier.count_needed, vocab), frontier.eos_id
    )
    return lambda: do.advance(frontier, found, buffers.parents[: rows[0]])


def operation_parts(
    name: str,
    do: Operations,
    buffers: Buffers,
    x: Tensor,
    qkv: Tensor,
    norm: torch.nn.LayerNorm,
    heads: int,
    reset: Callable[[], None],
) -> dict[str, Part]:
    """Each operation on its own."""
    groups = len(x) // buffers.shape.beam
    places, parents = buffers.places[:groups], buffers.parents[:groups]
    positions, ancestors = buffers.positions, buffers.ancestors
    cache, cross, lengths = buffers.caches[0], buffers.cross[0], buffers.lengths
    return {
        f"follow, {name}": Part(function=lambda: do.follow(ancestors, parents, positions, places), reset=reset),
        f"self-attention, {name} (x layers)": Part(
            function=lambda: do.self_attention(qkv, cache, ancestors, positions, places, heads), reset=reset
        ),
        f"cross-attention, {name} (x layers)": Part(
            function=lambda: do.cross_attention(x, cross, lengths, places, heads)
        ),
        f"residual and norm, {name} (x 3 layers)": Part(function=lambda: do.add_norm(x, x, norm)),
    }


def microseconds(part: Part, device: torch.device, *, timer: Timer = seconds) -> float:
    """The median time of a part, of many in a row."""
    function, reset = part.function, part.reset
    if reset is None:
        return _in_a_row(function, device, timer, graph=part.graph)
    both = _in_a_row(lambda: (reset(), function()), device, timer, graph=part.graph)
    return both - _in_a_row(reset, device, timer, graph=part.graph)


def _in_a_row(function: Callable[[], object], device: torch.device, timer: Timer, *, graph: bool) -> float:
    times = IN_A_ROW if device.type == "cuda" else 1

    def several() -> None:
        for _ in range(times):
            function()

    recorder = Recorder(GraphPool(device, enabled=graph))
    runs = [timer(lambda: recorder.run("part", several), device) for _ in range(25 if device.type == "cuda" else 1)]
    return 1e6 * statistics.median(runs[ORDINARY_RUNS + 1 :] or runs) / times
