"""Measurement of the speed of decoding, one sentence at a time and in batches, several ways in turn.

Times are from source ids to target ids. Reading and writing text is not counted.
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

DecoderFactory: TypeAlias = "Callable[[], Decoder]"
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
    """The speed of one way to decode.

    Attributes:
        sentences_per_second: Sentences per second in batches, at the best of a few batch budgets.
        batch_tokens: The best budget, in source tokens.
        sentences: The number of sentences that were decoded in batches, spread over the corpus.
        latency_ms: Median time of a sentence that is decoded alone, in milliseconds.
        sentences_per_second_batch1: The number of sentences decoded alone over the sum of their times.
        latency_sentences: The number of sentences decoded alone.
        deviation: Relative difference of the last two medians, in batches or of single sentences, whichever is larger;
            None in results of earlier versions.
        agreed: Whether the deviation is at most `TOLERANCE`. If not, the machine was busy otherwise, and the figures
            are not reliable. None in results of earlier versions.
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
    """The load of the machine.

    Attributes:
        average: The system's load average: processes that were running or waiting over the last minute, including this
            one; None if the system does not report it.
        cores: Processor cores of the machine.
        threads: Threads that torch and the kernels may use in this process.
    """

    average: float | None
    cores: int
    threads: int

    def __str__(self) -> str:
        average = "an unknown load" if self.average is None else f"a load average of {self.average:.1f}"
        return f"{average} on {self.cores} cores"


def read_load(threads: int) -> Load:
    """Read the current load. `threads` is that of `Load`."""
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
    ways: Mapping[str, DecoderFactory],
    sources: Sequence[list[int]],
    *,
    batch_tokens: int,
    passes: int = 0,
    now: Clock = time.perf_counter,
) -> dict[str, Speed]:
    """Time several ways to decode in turn in one process, so that their ratios come from one run.

    Medians are taken until two in succession differ by at most `TOLERANCE` for every way, or `MOST_MEDIANS` times. The
    measurements of the last two are pooled. One median takes at most a few seconds per way, which limits the number of
    sentences.

    Args:
        ways: By name, a function that opens the decoder for one decode.
        sources: Source ids without end of sentence.
        batch_tokens: The batch budget around which the best one is looked for.
        passes: Decodes of the same sentences before each one that is timed: kernels are compiled and graphs captured
            there.
        now: The clock, in seconds from any moment.

    Returns:
        For each of `ways` how fast it is.
    """
    samples = {name: _choose_sample(way, sources, batch_tokens, passes, now) for name, way in ways.items()}

    def time_batches() -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                times[name].append(_time(way, samples[name], passes, now))
        return times

    rows = _pick_evenly(sources, LATENCY_SENTENCES)

    def alone() -> dict[str, list[float]]:
        times = _time_alone(ways, rows, passes, now)
        del rows[len(next(iter(times.values()))) :]  # the next median is of the same sentences
        return times

    batches, single = _repeat_until_agreed(time_batches), _repeat_until_agreed(alone)
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
class _Repetition:
    """Seconds for the last two medians, and their relative difference."""

    seconds: list[float]
    deviation: float


def _repeat_until_agreed(once: Callable[[], dict[str, list[float]]]) -> dict[str, _Repetition]:
    """Measure until the medians of two measurements in succession agree for every way."""
    last = once()
    for _ in range(MOST_MEDIANS - 1):
        now = once()
        found = {name: _Repetition(last[name] + now[name], _deviation(last[name], now[name])) for name in now}
        if all(way.deviation <= TOLERANCE for way in found.values()):
            break
        last = now
    return found


def _deviation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the relative difference of two medians: the larger over the smaller, minus one."""
    least, most = sorted((statistics.median(one), statistics.median(other)))
    return most / least - 1.0


def _choose_sample(
    way: DecoderFactory, sources: Sequence[list[int]], batch_tokens: int, passes: int, now: Clock
) -> _Sample:
    """Choose as many sentences as take about `SECONDS`, and the budget at which they take least."""
    count = 1
    _time(way, _Sample(_pick_evenly(sources, count), batch_tokens), passes, now)  # the first decode loads and allocates
    while True:
        rows = _pick_evenly(sources, count)
        seconds = _time(way, _Sample(rows, batch_tokens), passes, now)
        if count == len(sources) or seconds >= SECONDS / 2:
            break
        wanted = int(count * SECONDS / max(seconds, 1e-9))
        count = min(len(sources), max(2 * count, min(wanted, GROWTH * count)))
    best, least = batch_tokens, float("inf")
    for budget in _budgets(rows, batch_tokens):
        seconds = _time(way, _Sample(rows, budget), passes, now)
        if seconds < least:
            best, least = budget, seconds
    return _Sample(rows, best)


def _budgets(rows: Sequence[tuple[int, list[int]]], batch_tokens: int) -> list[int]:
    """List the budgets to try, with only the smallest one that holds all rows at once."""
    whole = len(rows) * (max(len(source) for _, source in rows) + 1)
    budgets = [max(1, round(batch_tokens * share)) for share in BUDGETS]
    enough = [budget for budget in budgets if budget >= whole][:1]
    return [budget for budget in budgets if budget < whole] + enough


def _time_alone(
    ways: Mapping[str, DecoderFactory], rows: Sequence[tuple[int, list[int]]], passes: int, now: Clock
) -> dict[str, list[float]]:
    """Time the first of these sentences, each decoded alone, with the ways in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = now() + LATENCY_SECONDS * len(ways)
    for number, row in enumerate(rows):
        if number >= FEWEST and now() >= end:
            break
        for name, way in ways.items():
            times[name].append(_time(way, _Sample([row], len(row[1]) + 1), passes, now))
    return times


def _time(way: DecoderFactory, sample: _Sample, passes: int, now: Clock) -> float:
    for _ in range(passes + 1):
        decoder = way()
        started = now()
        for _ in decoder.decode(sample.rows, batch_tokens=sample.batch_tokens):
            pass
        seconds = now() - started
    return seconds


def _pick_evenly(sources: Sequence[list[int]], count: int) -> list[tuple[int, list[int]]]:
    """Pick at most `count` rows, evenly spread."""
    count = min(count, len(sources))
    return [(row, sources[row]) for row in (index * len(sources) // count for index in range(count))]
