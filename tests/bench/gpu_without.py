"""The GPU engine without techniques of the search's that are none of its operations."""

from __future__ import annotations

from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.pace import Pace


class Apart:
    """The engine without the search's step: the host launches that between two graphs, some forty operations."""

    def __init__(self, engine: GraphTransformer) -> None:
        self.target_vocab, self.max_positions, self.device = engine.target_vocab, engine.max_positions, engine.device
        self.pad_id, self.eos_id = engine.pad_id, engine.eos_id
        self.unk_id, self.start_id = engine.unk_id, engine.start_id
        self.new_state, self.admit, self.step = engine.new_state, engine.admit, engine.step
        self.step_candidates, self.cache_width = engine.step_candidates, engine.cache_width
        self.reorder, self.release, self.shrink = engine.reorder, engine.release, engine.shrink


# What the host does between groups of steps, beside the engine's own way.
OTHER_PACES = {
    "wait-each-step": ("engine, the host waiting for each step", Pace(steps=1, lag=0)),
    "wait-every-2-steps": ("engine, the host waiting for every two steps", Pace(steps=2, lag=0)),
    "wait-every-4-steps": ("engine, the host waiting for every four steps", Pace(steps=4, lag=0)),
    "1-step-behind": ("engine, the host one step behind", Pace(steps=1, lag=1)),
    "4-steps-behind": ("engine, the host four steps behind", Pace(steps=4, lag=1)),
}
