"""What an executor is given to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from seqkd.corpus.locks import Part
from seqkd.corpus.records import ShardInfo

Piece = TypeVar("Piece")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class ShardWork(Generic[Piece, Done]):
    """What is to be done to shards. It is sent to other processes, so it holds functions of modules and plain values.

    Attributes:
        start: Called once in each worker; loads what the worker needs and returns the function that does a piece.
        pieces: Splits a shard, given as its number; several processes of one machine may share its pieces.
        finish: Writes a shard, given the results of its pieces in their order.
    """

    start: Callable[[], Callable[[Piece], Done]]
    pieces: Callable[[int], list[Piece]]
    finish: Callable[[int, list[Done]], ShardInfo]


def whole_shards(start: Callable[[], Callable[[int], ShardInfo]]) -> ShardWork[int, ShardInfo]:
    """Return the work whose pieces are whole shards.

    Args:
        start: Called once in each worker; returns the function that makes and writes the shard of a number.
    """
    return ShardWork(start=start, pieces=_whole, finish=_written)


def _whole(shard: int) -> list[int]:
    return [shard]


def _written(shard: int, written: list[ShardInfo]) -> ShardInfo:  # noqa: ARG001
    return written[0]


@dataclass(frozen=True, slots=True)
class Scale:
    """How a stage is spread over machines.

    Attributes:
        executor: Processes of this machine, or a Ray cluster.
        part: The shards that are this run's; other runs do the others. None for all.
    """

    executor: Literal["local", "ray"] = "local"
    part: Part | None = None


HERE = Scale()
