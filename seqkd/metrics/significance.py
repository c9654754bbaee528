"""Tests of whether the difference between two outputs for one test text may be chance.

Two paired tests, which sacrebleu has under the same names, use the statistics of each row:

- *Paired bootstrap resampling* (Koehn 2004) draws test texts of the same size from the rows, with replacement. The
  p-value is the share of draws whose difference is further from the mean of all draws than the real one is from zero.
- *Paired approximate randomisation* (Riezler and Maxwell 2005) exchanges the two outputs of each row with probability
  1/2. The p-value is the share of such exchanges after which the difference is at least as large as the real one.

Both draw the same numbers as sacrebleu's `PairedTest` and give the same p-values, except that a draw that equals the
real difference counts as at least as large here. sacrebleu leaves such draws out, and so gives p = 1 / (samples + 1) to
two outputs that are equal or differ in one row.

sacrebleu's bootstrap compares absolute differences with their mean. Its p-value is therefore that of a one-sided test:
about 10 % of the differences between equally good systems have p < 0.05. With randomisation it is 5 %.
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
_MARKS: Mapping[Test, str] = {"bootstrap": "bs", "randomization": "ar"}  # as in sacrebleu's signatures
_CELLS = 1 << 20  # rows, over all samples, that are held at once
_ALIGNED = 32  # the number of samples drawn together is a multiple of it, so that no random bit is discarded
_ROUNDING = 1e-11  # scores with a smaller relative difference are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score, or the difference of two scores, with its confidence interval by bootstrap resampling.

    Attributes:
        score: The score of the whole test text.
        mean: The mean over all draws.
        low: The lower end of the 95 % confidence interval.
        high: The upper end.
    """

    score: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of two outputs for one test text by one metric.

    Attributes:
        baseline: The score of the first output.
        system: The score of the second output.
        difference: The second score minus the first.
        p_value: The probability of so large a difference, in either direction, by chance.
        test: The test that gives the p-value.
        samples: The number of draws or exchanges.
        seed: The seed of the random numbers.
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


def list_comparable() -> list[str]:
    """List the metrics whose differences can be tested."""
    return [record.name for record in METRICS.all() if record.statistics is not None]


def compare_outputs(
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
        metric: The name of a metric that has statistics of rows; see `list_comparable`.
        baseline: The first outputs, with one or several references for each row.
        system: The second outputs, with the same references.
        test: The test of significance; see the top of this module.
        samples: The number of draws or exchanges; None for that of sacrebleu, 1,000 or 10,000.
        seed: The seed of the random numbers.

    Raises:
        InputError: The metric cannot be tested or needs accepted translations, the outputs belong to different test
            texts, or there are fewer than two rows.
    """
    record = METRICS.find(metric)
    if record is None or record.statistics is None:
        raise InputError(
            f"differences of {metric!r} cannot be tested for significance",
            expected=f"one of: {', '.join(list_comparable())}",
        )
    _check(record, baseline, system)
    return compare_statistics(
        record.compute_statistics(baseline), record.compute_statistics(system), test=test, samples=samples, seed=seed
    )


def _check(metric: Metric, baseline: Outputs, system: Outputs) -> None:
    def text(outputs: Outputs) -> list[list[str]]:
        several = [*outputs.further_references, *(outputs.accepted or ())]
        return [list(outputs.references), *map(list, several)]

    if text(baseline) != text(system):
        raise InputError("the two outputs have different references", expected="outputs for one test text")
    if not metric.fits(system):
        raise InputError(f"{metric.name} needs accepted translations, and the test text has none")


def compare_statistics(
    baseline: Statistics,
    system: Statistics,
    *,
    test: Test = "bootstrap",
    samples: int | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare two outputs by their statistics of rows. Arguments are those of `compare_outputs`.

    Raises:
        InputError: There are fewer than two rows, or not as many of one output as of the other.
    """
    _check_rows(baseline, system)
    count = SAMPLES[test] if samples is None else samples
    drawn = _bootstrap(baseline, system, min(count, SAMPLES["bootstrap"]) if test != "bootstrap" else count, seed)
    return _judge(baseline, system, drawn, test=test, count=count, seed=seed)


def _check_rows(baseline: Statistics, system: Statistics) -> None:
    rows = len(system.rows)
    if len(baseline.rows) != rows:
        raise InputError(f"outputs of {len(baseline.rows):,} and {rows:,} rows", expected="outputs for one test text")
    if rows < 2:
        raise InputError(f"significance cannot be tested on {rows} row", expected="at least two rows")


def _judge(
    baseline: Statistics, system: Statistics, drawn: tuple[Floats, Floats], *, test: Test, count: int, seed: int
) -> Comparison:
    """Compare two outputs; `drawn` are their scores on rows drawn with replacement."""
    gaps = drawn[1] - drawn[0]
    if test == "bootstrap":
        found = np.abs(gaps) - np.abs(gaps).mean()
    else:
        exchanged = _exchange(baseline, system, count, seed)
        found = np.abs(exchanged[1] - exchanged[0])
    return Comparison(
        baseline=_make_estimate(baseline.score.value, drawn[0]),
        system=_make_estimate(system.score.value, drawn[1]),
        difference=_make_estimate(system.score.value - baseline.score.value, gaps),
        p_value=_compute_p_value(found, baseline, system),
        test=test,
        samples=count,
        seed=seed,
        signature=_extend_signature(system.score.signature, test, count, seed),
    )


def _compute_p_value(found: Floats, baseline: Statistics, system: Statistics) -> float:
    """Return the share of `[samples]` differences that are at least as large as that of all rows, which counts too."""
    # Computed like the scores of samples, so that equal sums give equal differences.
    first, second = (side.scores(side.rows.sum(axis=0)) for side in (baseline, system))
    least = abs(second - first) - _ROUNDING * max(abs(first), abs(second))
    return float((int((found >= least).sum()) + 1) / (len(found) + 1))


def _bootstrap(baseline: Statistics, system: Statistics, samples: int, seed: int) -> tuple[Floats, Floats]:
    """Score both outputs, `[samples]`, on rows drawn with replacement, the same rows for both."""
    rows = len(system.rows)

    def draw(rng: np.random.Generator, count: int) -> Floats:
        drawn = rng.choice(rows, size=(count, rows), replace=True) + rows * np.arange(count)[:, None]
        times: NDArray[np.int64] = np.bincount(drawn.ravel(), minlength=count * rows)
        return times.reshape(count, rows).astype(np.float64)

    first, second = [], []
    for times in _draw_samples(draw, rows, samples, seed):
        first.append(baseline.scores(times @ baseline.rows))
        second.append(system.scores(times @ system.rows))
    return np.concatenate(first), np.concatenate(second)


def _exchange(baseline: Statistics, system: Statistics, samples: int, seed: int) -> tuple[Floats, Floats]:
    """Score both outputs, `[samples]`, after exchanging the outputs of each row with probability 1/2."""
    rows = len(system.rows)

    def draw(rng: np.random.Generator, count: int) -> Floats:
        return rng.integers(2, size=(count, rows), dtype=bool).astype(np.float64)

    first, second = [], []
    gap = system.rows - baseline.rows
    for stays in _draw_samples(draw, rows, samples, seed):
        moved = stays @ gap
        first.append(system.scores(system.rows.sum(axis=0) - moved))
        second.append(system.scores(baseline.rows.sum(axis=0) + moved))
    return np.concatenate(first), np.concatenate(second)


def _draw_samples(
    draw: Callable[[np.random.Generator, int], Floats], rows: int, samples: int, seed: int
) -> Iterator[Floats]:
    """Draw how often each row occurs in each sample, `[some samples, rows]` at a time."""
    rng = np.random.default_rng(seed)
    most = max(_CELLS // rows // _ALIGNED, 1) * _ALIGNED
    for start in range(0, samples, most):
        yield draw(rng, min(most, samples - start))


def _make_estimate(score: float, drawn: Floats) -> Estimate:
    """Make an estimate. Its interval leaves out a fortieth of the draws at each end, as in sacrebleu."""
    ordered = np.sort(drawn)
    outside = len(ordered) // 40
    return Estimate(
        score=score, mean=float(drawn.mean()), low=float(ordered[outside]), high=float(ordered[-1 - outside])
    )


def _extend_signature(signature: str, test: Test, samples: int, seed: int) -> str:
    """Add the test and the seed to a signature after the number of references, like sacrebleu."""
    if not signature:
        return ""
    references, *others = signature.split("|")
    return "|".join([references, f"{_MARKS[test]}:{samples}", f"seed:{seed}", *others])


# --- results of evaluations ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Significance:
    """The difference of a model's value of a metric from its baseline's, by both tests.

    Attributes:
        difference: The model's value minus the baseline's.
        low: The lower end of the 95 % confidence interval of the difference, by bootstrap resampling.
        high: The upper end.
        p_values: The p-values by test.
        samples: The number of draws or exchanges, by test.
        seed: The seed of the random numbers.
    """

    difference: float
    low: float
    high: float
    p_values: dict[Test, float]
    samples: dict[Test, int]
    seed: int

    @property
    def p_value(self) -> float:
        """The p-value of randomisation, by which at most 5 % of differences by chance are significant."""
        return self.p_values["randomization"]

    @property
    def significant(self) -> bool:
        """Whether that p-value is below 0.05."""
        return self.p_value < LEVEL


def run_both_tests(baseline: Statistics, system: Statistics) -> Significance:
    """Compare two outputs by both tests. Errors are those of `compare_statistics`."""
    _check_rows(baseline, system)
    drawn = _bootstrap(baseline, system, SAMPLES["bootstrap"], SEED)  # both tests need it
    found = {
        test: _judge(baseline, system, drawn, test=test, count=count, seed=SEED) for test, count in SAMPLES.items()
    }
    difference = found["bootstrap"].difference
    return Significance(
        difference=difference.score,
        low=difference.low,
        high=difference.high,
        p_values={test: result.p_value for test, result in found.items()},
        samples={test: result.samples for test, result in found.items()},
        seed=SEED,
    )
