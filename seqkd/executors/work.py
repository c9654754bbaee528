"""What an engine is given to do."""

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
    """What is to be done to shards. It goes to other processes: functions of modules and plain values only.

    Attributes:
        start: Called once in each worker; loads what it needs and gives the function that does a piece.
        pieces: Splits a shard, given as its number; several processes of one machine may share its pieces.
        finish: Writes a shard, given what its pieces came to, in their order.
    """

    start: Callable[[], Callable[[Piece], Done]]
    pieces: Callable[[int], list[Piece]]
    finish: Callable[[int, list[Done]], ShardInfo]


@dataclass(frozen=True, slots=True)
class Scale:
    """How a stage is spread over machines.

    Attributes:
        engine: Processes of this machine, or a Ray cluster.
        part: The shards that are this run's; other runs do the others. None for all.
    """

    engine: Literal["local", "ray"] = "local"
    part: Part | None = None


HERE = Scale()
