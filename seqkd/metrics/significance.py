"""Whether the difference between two outputs for one test text may be chance.

Two paired tests, which sacrebleu has under the same names, work on the statistics of each row:

- *Paired bootstrap resampling* (Koehn 2004) draws test texts of the same size from the rows, with replacement. The
  p-value is the share of draws whose difference is further from the mean of all draws than the real one is from zero.
- *Paired approximate randomisation* (Riezler and Maxwell 2005) exchanges the two outputs of each row with probability
  1/2. The p-value is the share of such exchanges after which the difference is at least as large as the real one.

Both draw the same numbers as sacrebleu's `PairedTest` and give the same p-values, except that a draw that equals the
real difference counts as at least as large here. sacrebleu leaves such draws out, and so gives p = 1 / (samples + 1) to
two outputs that are equal or differ in one row.

sacrebleu's bootstrap compares absolute differences with their mean. Its p-value is therefore that of a one-sided test:
about 10 % of the differences between equally good systems have p < 0.05. Randomisation has 5 % of them there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqkd.errors import InputError
from seqkd.metrics.registry import METRICS, Metric, Outputs
from seqkd.metrics.sentence_statistics import Floats, Statistics

Test = Literal["bootstrap", "randomization"]
SAMPLES: Mapping[Test, int] = {"bootstrap": 1000, "randomization": 10_000}  # sacrebleu's defaults
SEED = 12345  # sacrebleu's default; the environment variable SACREBLEU_SEED is not read
LEVEL = 0.05  # a p-value below it is called significant
TESTS: Mapping[Test, str] = {
    "bootstrap": "paired bootstrap resampling",
    "randomization": "paired approximate randomisation",
}
_MARKS: Mapping[Test, str] = {"bootstrap": "bs", "randomization": "ar"}  # as sacrebleu's signatures have them
_CELLS = 1 << 20  # rows of all samples that are held at once
_ALIGNED = 32  # samples that are drawn together are a multiple of it, so that no random bit is thrown away
_ROUNDING = 1e-11  # scores that differ by less, in proportion, are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score, or the difference of two, with what bootstrap resampling says about it.

    Attributes:
        score: Of the whole test text.
        mean: Mean over all draws.
        low: Lower end of the 95 % confidence interval.
        high: Upper end.
    """

    score: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two outputs for one test text, compared by one metric.

    Attributes:
        baseline: The score of the first output.
        system: The score of the second output.
        difference: The second score minus the first.
        p_value: How probable so large a difference, in either direction, is by chance.
        test: The test that gives the p-value.
        samples: How many draws or exchanges it looked at.
        seed: Of the random numbers.
        signature: The metric's signature with the test, the samples and the seed; "" if the metric has none.
    """

    baseline: Estimate
    system: Estimate
    difference: Estimate
    p_value: float
    test: Test
    samples: int
    seed: int
    signature: str

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 0.05."""
        return self.p_value < LEVEL


def comparable() -> list[str]:
    """Names of the metrics whose differences can be tested."""
    return [record.name for record in METRICS.all() if record.statistics is not None]


def paired(
    metric: str,
    baseline: Outputs,
    system: Outputs,
    *,
    test: Test = "bootstrap",
    samples: int | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare two outputs for one test text. Equal arguments give equal results on every machine.

    Args:
        metric: The name of a metric that has statistics of rows; see `comparable`.
        baseline: The first outputs, with one or several references for each row.
        system: The second outputs, with the same references.
        test: See the top of this module.
        samples: Draws or exchanges; None: as many as sacrebleu, 1,000 or 10,000.
        seed: Of the random numbers.

    Raises:
        InputError: The metric cannot be tested, lacks accepted translations, the outputs are of two test texts, or
            there are fewer than two rows.
    """
    record = METRICS.find(metric)
    if record is None or record.statistics is None:
        raise InputError(
            f"differences of {metric!r} cannot be tested for significance",
            expected=f"one of: {', '.join(comparable())}",
        )
    _check(record, baseline, system)
    return compare(record.statistics_of(baseline), record.statistics_of(system), test=test, samples=samples, seed=seed)


def _check(metric: Metric, baseline: Outputs, system: Outputs) -> None:
    def text(outputs: Outputs) -> list[list[str]]:
        several = [*outputs.further_references, *(outputs.accepted or ())]
        return [list(outputs.references), *map(list, several)]

    if text(baseline) != text(system):
        raise InputError("the two outputs have different references", expected="outputs for one test text")
    if not metric.fits(system):
        raise InputError(f"{metric.name} needs accepted translations, and the test text has none")


def compare(
    baseline: Statistics,
    system: Statistics,
    *,
    test: Test = "bootstrap",
    samples: int | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare two outputs by their statistics of rows; arguments as in `paired`.

    Raises:
        InputError: There are fewer than two rows, or not as many of one output as of the other.
    """
    rows = len(system.rows)
    if len(baseline.rows) != rows:
        raise InputError(f"outputs of {len(baseline.rows):,} and {rows:,} rows", expected="outputs for one test text")
    if rows < 2:
        raise InputError(f"significance cannot be tested on {rows} row", expected="at least two rows")
    count = SAMPLES[test] if samples is None else samples
    drawn = _bootstrap(baseline, system, min(count, SAMPLES["bootstrap"]) if test != "bootstrap" else count, seed)
    gaps = drawn[1] - drawn[0]
    if test == "bootstrap":
        found = np.abs(gaps) - np.abs(gaps).mean()
    else:
        exchanged = _exchange(baseline, system, count, seed)
        found = np.abs(exchanged[1] - exchanged[0])
    return Comparison(
        baseline=_estimate(baseline.score.value, drawn[0]),
        system=_estimate(system.score.value, drawn[1]),
        difference=_estimate(system.score.value - baseline.score.value, gaps),
        p_value=_p_value(found, baseline, system),
        test=test,
        samples=count,
        seed=seed,
        signature=_signature(system.score.signature, test, count, seed),
    )


def _p_value(found: Floats, baseline: Statistics, system: Statistics) -> float:
    """The share of `[samples]` differences that are at least as large as that of all rows, which counts as one more."""
    # Computed as the samples' scores are, so that equal sums give equal differences.
    first, second = (side.scores(side.rows.sum(axis=0)) for side in (baseline, system))
    least = abs(second - first) - _ROUNDING * max(abs(first), abs(second))
    return float((int((found >= least).sum()) + 1) / (len(found) + 1))


def _bootstrap(baseline: Statistics, system: Statistics, samples: int, seed: int) -> tuple[Floats, Floats]:
    """Scores `[samples]` of both outputs for rows drawn with replacement, the same rows for both."""
    rows = len(system.rows)

    def draw(rng: np.random.Generator, count: int) -> Floats:
        drawn = rng.choice(rows, size=(count, rows), replace=True) + rows * np.arange(count)[:, None]
        times: NDArray[np.int64] = np.bincount(drawn.ravel(), minlength=count * rows)
        return times.reshape(count, rows).astype(np.float64)

    first, second = [], []
    for times in _chosen(draw, rows, samples, seed):
        first.append(baseline.scores(times @ baseline.rows))
        second.append(system.scores(times @ system.rows))
    return np.concatenate(first), np.concatenate(second)


def _exchange(baseline: Statistics, system: Statistics, samples: int, seed: int) -> tuple[Floats, Floats]:
    """Scores `[samples]` of both outputs after each row's outputs were exchanged with probability 1/2."""
    rows = len(system.rows)

    def draw(rng: np.random.Generator, count: int) -> Floats:
        return rng.integers(2, size=(count, rows), dtype=bool).astype(np.float64)

    first, second = [], []
    gap = system.rows - baseline.rows
    for stays in _chosen(draw, rows, samples, seed):
        moved = stays @ gap
        first.append(system.scores(system.rows.sum(axis=0) - moved))
        second.append(system.scores(baseline.rows.sum(axis=0) + moved))
    return np.concatenate(first), np.concatenate(second)


def _chosen(draw: Callable[[np.random.Generator, int], Floats], rows: int, samples: int, seed: int) -> Iterator[Floats]:
    """Draw how often each row is in each sample, `[some samples, rows]` at a time."""
    rng = np.random.default_rng(seed)
    most = max(_CELLS // rows // _ALIGNED, 1) * _ALIGNED
    for start in range(0, samples, most):
        yield draw(rng, min(most, samples - start))


def _estimate(score: float, drawn: Floats) -> Estimate:
    """The interval leaves out a fortieth of the draws at each end, as sacrebleu's does."""
    ordered = np.sort(drawn)
    outside = len(ordered) // 40
    return Estimate(
        score=score, mean=float(drawn.mean()), low=float(ordered[outside]), high=float(ordered[-1 - outside])
    )


def _signature(signature: str, test: Test, samples: int, seed: int) -> str:
    """As sacrebleu writes it: the test and the seed stand behind the number of references."""
    if not signature:
        return ""
    references, *others = signature.split("|")
    return "|".join([references, f"{_MARKS[test]}:{samples}", f"seed:{seed}", *others])


# --- what evaluations record --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Significance:
    """How a model's value of a metric differs from its baseline's, by both tests.

    Attributes:
        difference: The model's value minus the baseline's.
        low: Lower end of the 95 % confidence interval of the difference, by bootstrap resampling.
        high: Upper end.
        p_values: By test.
        samples: Draws or exchanges, by test.
        seed: Of the random numbers.
    """

    difference: float
    low: float
    high: float
    p_values: dict[Test, float]
    samples: dict[Test, int]
    seed: int

    @property
    def p_value(self) -> float:
        """That of randomisation, which calls no more than 5 % of the differences by chance significant."""
        return self.p_values["randomization"]

    @property
    def significant(self) -> bool:
        """Whether that p-value is below 0.05."""
        return self.p_value < LEVEL


def by_both_tests(baseline: Statistics, system: Statistics) -> Significance:
    """Compare two outputs; arguments and errors as in `compare`."""
    found = {test: compare(baseline, system, test=test) for test in SAMPLES}
    difference = found["bootstrap"].difference
    return Significance(
        difference=difference.score,
        low=difference.low,
        high=difference.high,
        p_values={test: result.p_value for test, result in found.items()},
        samples={test: result.samples for test, result in found.items()},
        seed=SEED,
    )
