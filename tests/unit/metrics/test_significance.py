from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest

from seqkd.errors import InputError
from seqkd.metrics.registry import METRICS, Outputs
from seqkd.metrics.sentence_statistics import (
    Floats,
    MetricScore,
    Statistics,
    bleu_scores,
    chrf_scores,
    mean_of,
    ter_scores,
)
from seqkd.metrics.significance import SEED, Test, compare_outputs, compare_statistics, list_comparable

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r")]
TESTS: tuple[Test, ...] = ("bootstrap", "randomization")
SACREBLEU: dict[str, Any] = {"bleu": BLEU, "chrf": CHRF, "ter": TER}
KINDS = {"bootstrap": "bs", "randomization": "ar"}


def sentences(count: int, rng: random.Random) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 20))) + "." for _ in range(count)]


def corrupted(texts: Sequence[str], rate: float, rng: random.Random) -> list[str]:
    """Words replaced at a rate."""
    return [" ".join(rng.choice(WORDS) if rng.random() < rate else word for word in text.split()) for text in texts]


def outputs(count: int, *, further: bool = False) -> tuple[Outputs, Outputs]:
    """Outputs of a worse system and of a better one."""
    rng = random.Random(7)
    references = sentences(count, rng)
    first = Outputs(
        hypotheses=corrupted(references, 0.30, rng),
        references=references,
        sources=references,
        further_references=[[text] for text in corrupted(references, 0.5, rng)] if further else (),
    )
    return first, replace(first, hypotheses=corrupted(references, 0.27, rng))


# --- sacrebleu's own results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize(("rows", "samples", "further"), [(60, 1000, False), (60, 1000, True), (1100, 1300, False)])
def test_results_are_sacrebleus(
    test: Test, rows: int, samples: int, further: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", str(SEED))
    first, second = outputs(rows, further=further)
    streams = [first.references, *(list(stream) for stream in zip(*first.further_references, strict=True))]
    names = ("bleu", "chrf", "ter") if rows < 100 else ("bleu",)
    metrics = {name: SACREBLEU[name]() for name in names}
    systems = [("first", first.hypotheses), ("second", second.hypotheses)]
    signatures, scores = PairedTest(systems, metrics, streams, test_type=KINDS[test], n_samples=samples)()
    for name, shown in zip(names, ("BLEU", "chrF2", "TER"), strict=False):
        found = compare_outputs(name, first, second, test=test, samples=samples)
        theirs: Any = scores[shown]
        assert (found.baseline.score, found.system.score) == (theirs[0].score, theirs[1].score)
        if (name, test) == ("ter", "randomization"):
            assert found.p_value >= theirs[1].p_value  # exchanges that give the same number of edits count here
        else:
            assert found.p_value == theirs[1].p_value
        assert found.signature == str(signatures[shown])
        if test == "bootstrap":
            for own, other in zip((found.baseline, found.system), theirs, strict=True):
                assert own.mean == pytest.approx(other.mean, rel=1e-5)
                assert (own.high - own.low) / 2 == pytest.approx(other.ci, rel=1e-4)


def test_scores_of_sums_are_sacrebleus() -> None:
    rng = np.random.default_rng(5)
    bleu, chrf, ter = (rng.integers(0, 4, size=(500, columns)).astype(np.float64) for columns in (10, 18, 2))
    bleu[1:, 0] += 1  # outputs without words have no matches
    bleu[0] = 0
    for metric, scores, sums in ((BLEU(), bleu_scores, bleu), (CHRF(), chrf_scores, chrf), (TER(), ter_scores, ter)):
        expected = [metric._compute_score_from_stats(row.tolist()).score for row in sums]
        assert scores(sums) == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert len(set(expected)) > 5


# --- planted differences ------------------------------------------------------------------------------------------

DRAWS = 200
TEST_ROWS = 300
SAMPLES = 399


@pytest.fixture(scope="module")
def pool() -> tuple[Statistics, Statistics, Statistics]:
    """BLEU's statistics of three systems: the second one is as good as the first, the third one 2 BLEU better.

    The second and the third write a tenth of their words without regard to the first.
    """
    rng = random.Random(11)
    references = sentences(2000, rng)
    first = corrupted(references, 0.25, rng)

    def similar(rate: float) -> list[str]:
        """The first system's outputs with a tenth of the words written anew, with mistakes at a rate."""
        pairs = zip(first, corrupted(references, rate, rng), strict=True)
        words = [zip(old.split(), new.split(), strict=True) for old, new in pairs]
        return [" ".join(new if rng.random() < 0.1 else old for old, new in row) for row in words]

    full = Outputs(hypotheses=first, references=references, sources=references)
    bleu = METRICS.get("bleu")
    systems = [first, similar(0.25), similar(0.12)]
    return tuple(bleu.compute_statistics(replace(full, hypotheses=texts)) for texts in systems)  # type: ignore[return-value]


def drawn(system: Statistics, rows: Floats) -> Statistics:
    score = MetricScore(value=float(system.scores(rows.sum(axis=0))), signature="")
    return replace(system, rows=rows, score=score)


@pytest.mark.parametrize("test", TESTS)
def test_two_bleu_are_significant(test: Test, pool: tuple[Statistics, Statistics, Statistics]) -> None:
    first, _, second = pool
    assert second.score.value - first.score.value == pytest.approx(2.0, abs=0.2)
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(DRAWS):
        chosen = rng.integers(len(first.rows), size=TEST_ROWS)
        result = compare_statistics(
            drawn(first, first.rows[chosen]), drawn(second, second.rows[chosen]), test=test, samples=SAMPLES
        )
        found += result.significant and result.difference.score > 0
    assert found >= 0.9 * DRAWS


@pytest.mark.parametrize(
    ("test", "fewest", "most"),
    # 99.9 % of binomial draws: of 200 at 10 % for the bootstrap, at 5 % for the randomisation
    [("bootstrap", 8, 35), ("randomization", 2, 22)],
)
def test_equally_good_systems_are_rarely_significant(
    test: Test, fewest: int, most: int, pool: tuple[Statistics, Statistics, Statistics]
) -> None:
    first, second, _ = pool
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(DRAWS):
        chosen = rng.integers(len(first.rows), size=TEST_ROWS)
        swapped = rng.integers(2, size=(TEST_ROWS, 1), dtype=bool)  # the pool's own difference is chance, too
        one, other = first.rows[chosen], second.rows[chosen]
        result = compare_statistics(
            drawn(first, np.where(swapped, other, one)),
            drawn(second, np.where(swapped, one, other)),
            test=test,
            samples=SAMPLES,
        )
        found += result.significant
    assert fewest <= found <= most


# --- behaviour ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_equal_outputs_do_not_differ(metric: str, test: Test) -> None:
    first, _ = outputs(20)
    found = compare_outputs(metric, first, first, test=test, samples=99)
    assert (found.p_value, found.difference.score, found.difference.low, found.significant) == (1.0, 0.0, 0.0, False)


@pytest.mark.parametrize("test", TESTS)
def test_one_row_is_no_evidence(test: Test) -> None:
    first, second = outputs(200)
    almost = replace(first, hypotheses=[second.references[0], *first.hypotheses[1:]])
    assert not compare_outputs("bleu", first, almost, test=test, samples=999).significant


def test_shares_of_right_outputs_are_tested_as_mcnemars_exact_test_does() -> None:
    # 8 rows that only the second system has right: by chance all go one way in 2 of 2 ** 8 cases
    right = ["a"] * 40
    first = Outputs(
        hypotheses=["b"] * 8 + right[8:], references=right, sources=right, accepted=[["a", "c"]] * len(right)
    )
    found = compare_outputs("valid", first, replace(first, hypotheses=right), test="randomization")
    assert found.p_value == pytest.approx(2 / 2**8, rel=0.3)
    assert (found.baseline.score, found.system.score, found.signature) == (0.8, 1.0, "")
    assert found.difference.score == pytest.approx(0.2)


@pytest.mark.parametrize("test", TESTS)
def test_results_depend_on_the_seed_alone(test: Test, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = outputs(40)
    monkeypatch.setenv("SACREBLEU_SEED", "1")
    found = compare_outputs("bleu", first, second, test=test, samples=200)
    monkeypatch.setenv("SACREBLEU_SEED", "none")
    assert compare_outputs("bleu", first, second, test=test, samples=200) == found
    other = compare_outputs("bleu", first, second, test=test, samples=200, seed=SEED + 1)
    assert other.difference.score == found.difference.score
    assert other.difference.mean != found.difference.mean


def test_a_difference_lies_in_its_interval_and_has_the_sign_of_the_change() -> None:
    first, second = outputs(300)
    for metric, sign in (("bleu", 1), ("ter", -1)):
        gap = compare_outputs(metric, first, second).difference
        assert gap.low < gap.score < gap.high
        assert gap.low < gap.mean < gap.high
        assert gap.score * sign > 0


def test_any_metric_that_is_a_mean_of_rows_can_be_tested() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=100)
    better = mean_of((scores + rng.normal(0.5, 0.1, size=100)).tolist(), signature="comet")
    found = compare_statistics(mean_of(scores.tolist(), signature="comet"), better, samples=99)
    assert found.significant
    assert found.difference.score == pytest.approx(0.5, abs=0.05)
    assert found.signature == f"comet|bs:99|seed:{SEED}"


def test_metrics_without_statistics_of_rows_are_refused() -> None:
    assert list_comparable()[:5] == ["bleu", "bleu_accepted", "chrf", "ter", "valid"]
    first, second = outputs(5)
    for name in ("perplexity", "comet"):
        with pytest.raises(InputError, match=rf"differences of '{name}' cannot be tested (?s:.*)one of: bleu, "):
            compare_outputs(name, first, second)


def test_texts_that_cannot_be_compared_are_refused() -> None:
    first, second = outputs(5)
    with pytest.raises(InputError, match="different references\n  expected: outputs for one test text"):
        compare_outputs("bleu", first, replace(second, references=second.references[::-1]))
    with pytest.raises(InputError, match="valid needs accepted translations"):
        compare_outputs("valid", first, second)
    alone = Outputs(hypotheses=["a b"], references=["a c"], sources=["x"])
    with pytest.raises(InputError, match="cannot be tested on 1 row\n  expected: at least two rows"):
        compare_outputs("bleu", alone, alone)
    with pytest.raises(InputError, match="outputs of 2 and 3 rows"):
        compare_statistics(mean_of([0, 1]), mean_of([0, 1, 1]))
