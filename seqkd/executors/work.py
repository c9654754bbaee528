"""The work on shards that executors do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from seqkd.corpus.locks import Part
from seqkd.corpus.records import ShardInfo

Piece = TypeVar("Piece")
Done = TypeVar("Done")
Completion = Callable[[], Done]
"""Completes a piece: everything that needs no model, such as texts and tables."""


@dataclass(frozen=True, slots=True)
class ShardWork(Generic[Piece, Done]):
    """The work on shards. It is sent to other processes, so it contains module-level functions and plain values only.

    Attributes:
        start: Called once in each worker. It loads the worker's data and returns the function that does a piece. This
            function does the part that needs the models, always in one thread, and returns the function that completes
            the piece. Another thread may complete a piece while the next one is done, so the two share no state that
            either changes.
        pieces: Splits a shard, given its number. Several processes of one machine may share its pieces.
        finish: Writes a shard, given its completed pieces in order. It may run in the thread that completes pieces.
    """

    start: Callable[[], Callable[[Piece], Completion[Done]]]
    pieces: Callable[[int], list[Piece]]
    finish: Callable[[int, list[Done]], ShardInfo]


def whole_shards(start: Callable[[], Callable[[int], Completion[ShardInfo]]]) -> ShardWork[int, ShardInfo]:
    """Return work whose pieces are whole shards.

    Args:
        start: Called once in each worker. It returns the function that makes a shard, given its number, and returns the
            function that writes it.
    """
    return ShardWork(start=start, pieces=_whole, finish=_take_first)


def _whole(shard: int) -> list[int]:
    return [shard]


def _take_first(shard: int, written: list[ShardInfo]) -> ShardInfo:  # noqa: ARG001
    return written[0]


@dataclass(slots=True)
class Waits:
    """The time in which no piece was done because results were being completed or written.

    Attributes:
        seconds: The time so far, averaged over the processes; None if the executor does not measure it.
    """

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """The distribution of a stage over machines.

    Attributes:
        executor: local for processes of this machine, ray for a Ray cluster.
        part: The part of the shards that this run makes, while other runs make the others; None for all shards.
    """

    executor: Literal["local", "ray"] = "local"
    part: Part | None = None


HERE = Scale()
