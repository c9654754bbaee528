"""Timing, with a clock that the decoders themselves put forward."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest

from seqkd.metrics import speed
from seqkd.metrics.speed import DecoderFactory, measure
from seqkd.search import Hypothesis

SOURCES = [[5] * (row % 3 + 1) for row in range(200)]


@dataclass
class Clock:
    """Seconds, and who decoded how many sentences at which budget."""

    now: float = 0.0

    def __post_init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def read(self) -> float:
        return self.now


class Fake:
    """Takes time for each batch and for each sentence."""

    def __init__(self, clock: Clock, name: str, each: float, batch: Callable[[int], float]) -> None:
        self.clock, self.name, self.each, self.batch = clock, name, each, batch
        self.too_long: list[int] = []
        self.unjudged: list[int] = []
        self.retried: list[int] = []

    def decode(
        self, sources: Iterable[tuple[int, list[int]]], *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Nothing comes out, after a while."""
        rows = list(sources)
        self.clock.calls.append((self.name, len(rows), batch_tokens))
        batches = -(-sum(len(source) + 1 for _, source in rows) // batch_tokens)
        self.clock.now += self.each * len(rows) + batches * self.batch(batch_tokens)
        for row, _ in rows:
            yield row, [Hypothesis([], 0.0, 0.0, "eos")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fake(
    clock: Clock, name: str, each: float, batch: Callable[[int], float] = lambda _: 0.0
) -> dict[str, DecoderFactory]:
    return {name: lambda: Fake(clock, name, each, batch)}


def test_ratios_are_those_of_the_times(clock: Clock) -> None:
    found = measure(
        {**fake(clock, "slow", 0.01), **fake(clock, "fast", 0.002)}, SOURCES, batch_tokens=40, now=clock.read
    )
    assert found["slow"].sentences_per_second == pytest.approx(100)
    assert found["fast"].sentences_per_second == pytest.approx(500)
    assert found["slow"].latency_ms == pytest.approx(10)
    assert found["fast"].sentences_per_second_batch1 == pytest.approx(500)
    assert found["slow"].latency_sentences == found["fast"].latency_sentences == speed.LATENCY_SENTENCES


def test_a_slow_decode_takes_few_sentences_and_a_fast_one_all(clock: Clock) -> None:
    found = measure({**fake(clock, "slow", 2.0), **fake(clock, "fast", 1e-6)}, SOURCES, batch_tokens=40, now=clock.read)
    assert found["fast"].sentences == len(SOURCES)
    assert found["slow"].sentences == 1
    assert found["slow"].latency_sentences == speed.FEWEST
    assert clock.now < 40
    assert found["slow"].sentences_per_second == pytest.approx(0.5)


def test_the_best_of_the_budgets_is_taken_and_named(clock: Clock) -> None:
    large = measure(fake(clock, "a", 1e-4, lambda _: 0.001), SOURCES, batch_tokens=40, now=clock.read)["a"]
    small = measure(fake(clock, "a", 1e-4, lambda budget: budget**2 * 1e-5), SOURCES, batch_tokens=40, now=clock.read)[
        "a"
    ]
    assert (large.batch_tokens, small.batch_tokens) == (160, 10)


def test_budgets_beyond_the_sample_are_not_tried_twice(clock: Clock) -> None:
    measure(fake(clock, "a", 1e-4), SOURCES[:4], batch_tokens=400, now=clock.read)
    assert {budget for _, count, budget in clock.calls if count == 4} == {100, 400}  # 400 while the sample grows


def test_ways_take_turns_and_warm_up_first(clock: Clock) -> None:
    ways = {**fake(clock, "a", 0.5), **fake(clock, "b", 0.5)}
    found = measure(ways, SOURCES[:2], batch_tokens=40, passes=2, now=clock.read)
    alone = "".join(name for name, _, _ in clock.calls[-24:])
    assert alone == "aaabbb" * 2 * 2  # two medians of two sentences, each twice to warm up and once to be timed
    turns = "".join(name for name, _, _ in clock.calls[-24 - 36 : -24])
    assert turns == "aaabbb" * speed.TURNS * 2
    assert all(way.agreed and way.deviation == 0.0 for way in found.values())


class Shaken(Fake):
    """Other work makes it slower for some of its first decodes of all sentences."""

    slow: list[float]

    def decode(
        self, sources: Iterable[tuple[int, list[int]]], *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """See `Fake`."""
        rows = list(sources)
        factor = self.slow.pop(0) if len(rows) == len(SOURCES) and self.slow else 1.0
        self.clock.now += (factor - 1.0) * self.each * len(rows)
        return super().decode(rows, batch_tokens=batch_tokens)


def shaken(clock: Clock, slow: list[float]) -> dict[str, DecoderFactory]:
    def opened() -> Shaken:
        made = Shaken(clock, "a", 1e-3, lambda _: 0.0)
        made.slow = slow
        return made

    return {"a": opened}


def test_timings_are_repeated_until_two_medians_agree(clock: Clock) -> None:
    # One decode while the sample grows and three for the budgets come first.
    before = [1.0] * 4
    found = measure(shaken(clock, [*before, 2.0, 2.0, 2.0]), SOURCES, batch_tokens=40, now=clock.read)["a"]
    assert found.agreed
    assert found.deviation == pytest.approx(0.0)
    assert found.sentences_per_second == pytest.approx(1000.0)


def test_timings_that_never_agree_are_marked(clock: Clock) -> None:
    busy = ([1.0] * speed.TURNS + [1.5] * speed.TURNS) * speed.MOST_MEDIANS
    found = measure(shaken(clock, [*[1.0] * 4, *busy]), SOURCES, batch_tokens=40, now=clock.read)["a"]
    assert not found.agreed
    assert found.deviation == pytest.approx(0.5)
    assert len([count for _, count, _ in clock.calls if count == len(SOURCES)]) == 4 + speed.MOST_MEDIANS * speed.TURNS


def test_the_load_is_that_of_the_system() -> None:
    load = speed.read_load(3)
    assert (load.threads, load.cores) == (3, os.cpu_count())
    assert load.average is None or load.average >= 0.0
