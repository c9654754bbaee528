"""The GPU engine without techniques of the search's that are none of its operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.pace import PACES, Pace


class Apart:
    """The engine without the search's step: the host launches that between two graphs, some forty operations."""

    def __init__(self, engine: GraphTransformer) -> None:
        self.target_vocab, self.max_positions, self.device = engine.target_vocab, engine.max_positions, engine.device
        self.pad_id, self.eos_id = engine.pad_id, engine.eos_id
        self.unk_id, self.start_id = engine.unk_id, engine.start_id
        self.new_state, self.admit, self.step = engine.new_state, engine.admit, engine.step
        self.step_candidates = engine.step_candidates
        self.reorder, self.release, self.shrink = engine.reorder, engine.release, engine.shrink


# What the host does between groups of steps, beside the engine's own way.
OTHER_PACES = {
    "engine, the host waiting for each step": Pace(steps=1, lag=0),
    "engine, the host waiting for every two steps": Pace(steps=2, lag=0),
    "engine, the host waiting for every four steps": Pace(steps=4, lag=0),
    "engine, the host one step behind": Pace(steps=1, lag=1),
    "engine, the host four steps behind": Pace(steps=4, lag=1),
}


@contextmanager
def paced(chosen: Pace) -> Iterator[None]:
    """Searches within keep to this pace, on all devices."""
    before = dict(PACES)
    PACES.update(dict.fromkeys(PACES, chosen))
    try:
        yield
    finally:
        PACES.update(before)
