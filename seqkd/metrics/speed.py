"""How fast models decode: one sentence at a time, and in batches, several ways in turn.

What is timed leads from source ids to target ids; reading text and writing it are not counted.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # a report reads results, and need not wait for torch
    from seqkd.search.parallel import Decoder

Open: TypeAlias = "Callable[[], Decoder]"
Clock: TypeAlias = Callable[[], float]

SECONDS = 0.3  # about how long one decode in batches takes
TURNS = 3  # decodes in batches of which a median is taken
MOST_MEDIANS = 5  # that are taken until two in succession agree
TOLERANCE = 0.05  # relative difference of medians that agree
BUDGETS = (0.25, 1.0, 4.0)  # times the given batch budget: what is tried for the best one
LATENCY_SENTENCES = 50
LATENCY_SECONDS = 2.0  # for each way and median; after so long no further sentence is decoded alone
FEWEST = 5  # sentences that are decoded alone however long they take
GROWTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one way to decode is.

    Attributes:
        sentences_per_second: In batches, at the best of a few batch budgets.
        batch_tokens: That budget, in source tokens.
        sentences: How many were decoded for it, spread over the corpus.
        latency_ms: Median time of a sentence that is decoded alone, milliseconds.
        sentences_per_second_batch1: Of the same sentences, their number over the sum of their times.
        latency_sentences: Their number.
        deviation: Relative difference of the last two medians, in batches or of single sentences, whichever is larger;
            None in results of earlier versions.
        agreed: Whether it is at most `TOLERANCE`. If not, something else kept the machine busy, and the figures are no
            measure of the model. None in results of earlier versions.
    """

    sentences_per_second: float
    batch_tokens: int
    sentences: int
    latency_ms: float
    sentences_per_second_batch1: float
    latency_sentences: int
    deviation: float | None = None
    agreed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What else the machine was doing.

    Attributes:
        average: Processes that were running or waiting, over the last minute, this one among them (the system's load
            average); None if the system does not say.
        cores: Processor cores of the machine.
        threads: That torch and the kernels may use in this process.
    """

    average: float | None
    cores: int
    threads: int

    def __str__(self) -> str:
        average = "an unknown load" if self.average is None else f"a load average of {self.average:.1f}"
        return f"{average} on {self.cores} cores"


def load_now(threads: int) -> Load:
    """The load of this moment; `threads` as in `Load`."""
    try:
        average: float | None = os.getloadavg()[0]
    except (AttributeError, OSError):  # not on every system
        average = None
    return Load(average=average, cores=os.cpu_count() or 1, threads=threads)


@dataclass(frozen=True, slots=True)
class _Sample:
    rows: list[tuple[int, list[int]]]
    batch_tokens: int


def measure(
    ways: Mapping[str, Open],
    sources: Sequence[list[int]],
    *,
    batch_tokens: int,
    passes: int = 0,
    now: Clock = time.perf_counter,
) -> dict[str, Speed]:
    """Time several ways to decode in one process, in turn, so that their ratios are of one run.

    Medians are taken until two in succession differ by at most `TOLERANCE` for every way, or `MOST_MEDIANS` times; what
    was measured for the last two is pooled. One median takes a few seconds a way at most: as many sentences are decoded
    as fit into that, but never more than there are.

    Args:
        ways: By name, what opens each for one decode.
        sources: Source ids without end of sentence.
        batch_tokens: The batch budget around which the best one is looked for.
        passes: Decodes of the same sentences before each one that is timed: kernels are compiled and graphs captured
            there.
        now: The clock, in seconds from any moment.

    Returns:
        For each of `ways` how fast it is.
    """
    samples = {name: _sample(way, sources, batch_tokens, passes, now) for name, way in ways.items()}

    def together() -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                times[name].append(_timed(way, samples[name], passes, now))
        return times

    rows = _spread(sources, LATENCY_SENTENCES)

    def alone() -> dict[str, list[float]]:
        times = _alone(ways, rows, passes, now)
        del rows[len(next(iter(times.values()))) :]  # the next median is of the same sentences
        return times

    batches, single = _until_agreed(together), _until_agreed(alone)
    return {
        name: Speed(
            sentences_per_second=len(sample.rows) / statistics.median(batches[name].seconds),
            batch_tokens=sample.batch_tokens,
            sentences=len(sample.rows),
            latency_ms=1000.0 * statistics.median(single[name].seconds),
            sentences_per_second_batch1=len(single[name].seconds) / sum(single[name].seconds),
            latency_sentences=len(rows),
            deviation=max(batches[name].deviation, single[name].deviation),
            agreed=max(batches[name].deviation, single[name].deviation) <= TOLERANCE,
        )
        for name, sample in samples.items()
    }


@dataclass(frozen=True, slots=True)
class _Repeated:
    """Seconds for the last two medians, and their relative difference."""

    seconds: list[float]
    deviation: float


def _until_agreed(once: Callable[[], dict[str, list[float]]]) -> dict[str, _Repeated]:
    """Measure until the medians of two measurements in succession agree for every way."""
    last = once()
    for _ in range(MOST_MEDIANS - 1):
        now = once()
        found = {name: _Repeated(last[name] + now[name], _deviation(last[name], now[name])) for name in now}
        if all(way.deviation <= TOLERANCE for way in found.values()):
            break
        last = now
    return found


def _deviation(one: Sequence[float], other: Sequence[float]) -> float:
    """Relative difference of their medians: the larger over the smaller, less one."""
    least, most = sorted((statistics.median(one), statistics.median(other)))
    return most / least - 1.0


def _sample(way: Open, sources: Sequence[list[int]], batch_tokens: int, passes: int, now: Clock) -> _Sample:
    """As many sentences as take about `SECONDS`, and the budget at which they take least."""
    count = 1
    _timed(way, _Sample(_spread(sources, count), batch_tokens), passes, now)  # the first decode loads and allocates
    while True:
        rows = _spread(sources, count)
        seconds = _timed(way, _Sample(rows, batch_tokens), passes, now)
        if count == len(sources) or seconds >= SECONDS / 2:
            break
        wanted = int(count * SECONDS / max(seconds, 1e-9))
        count = min(len(sources), max(2 * count, min(wanted, GROWTH * count)))
    best, least = batch_tokens, float("inf")
    for budget in _budgets(rows, batch_tokens):
        seconds = _timed(way, _Sample(rows, budget), passes, now)
        if seconds < least:
            best, least = budget, seconds
    return _Sample(rows, best)


def _budgets(rows: Sequence[tuple[int, list[int]]], batch_tokens: int) -> list[int]:
    """Budgets to try; of those that hold all rows at once only the least."""
    whole = len(rows) * (max(len(source) for _, source in rows) + 1)
    budgets = [max(1, round(batch_tokens * share)) for share in BUDGETS]
    enough = [budget for budget in budgets if budget >= whole][:1]
    return [budget for budget in budgets if budget < whole] + enough


def _alone(
    ways: Mapping[str, Open], rows: Sequence[tuple[int, list[int]]], passes: int, now: Clock
) -> dict[str, list[float]]:
    """Seconds of the first of these sentences, each decoded alone, the ways in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = now() + LATENCY_SECONDS * len(ways)
    for number, row in enumerate(rows):
        if number >= FEWEST and now() >= end:
            break
        for name, way in ways.items():
            times[name].append(_timed(way, _Sample([row], len(row[1]) + 1), passes, now))
    return times


def _timed(way: Open, sample: _Sample, passes: int, now: Clock) -> float:
    for _ in range(passes + 1):
        decoder = way()
        started = now()
        for _ in decoder.decode(sample.rows, batch_tokens=sample.batch_tokens):
            pass
        seconds = now() - started
    return seconds


def _spread(sources: Sequence[list[int]], count: int) -> list[tuple[int, list[int]]]:
    """At most `count` rows, evenly spread."""
    count = min(count, len(sources))
    return [(row, sources[row]) for row in (index * len(sources) // count for index in range(count))]
