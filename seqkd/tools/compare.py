"""The comparison of two runs, or of two models, that `seqkd compare` shows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqkd.corpus.manifest import MANIFEST, read_manifest
from seqkd.errors import InputError, ModelError
from seqkd.metrics.registry import METRICS, Metric, Outputs
from seqkd.metrics.results import DecodeResult, differ_in_vocabulary
from seqkd.metrics.significance import Significance, run_both_tests
from seqkd.progress import Progress
from seqkd.report.contents import CurvePoint
from seqkd.report.gather import read_history
from seqkd.report.twins import format_decode
from seqkd.tools.evaluations import Evaluation, Run, TestText, check_models, list_models, read_shared_text

ROWS = 20  # the most gains, and the most losses, that are shown
ROW_METRIC = "chrf"  # the metric that orders rows; BLEU of a short sentence is mostly 0

SPEEDS = ("sentences_per_second", "latency_ms", "speedup", "speedup_batch1")
FACTS = ("parameters", "perplexity", "perplexity_per_character", "mode_probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting that differs. It is None if it has its default value, or if the model does not have it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A number that was measured for both models.

    Attributes:
        test: The test set.
        decode: The decode of the outputs, in words; "" for numbers of the model.
        metric: The name of a metric or of a speed.
        seed: "" for models without further seeds; the number of the seed; or `mean` of all seeds that both have.
        a: The number of the first model.
        b: The number of the second model.
        difference: The second number minus the first; for `mean`, the mean of the differences by seed.
        deviation: Standard deviation of the differences by seed; None except for `mean`.
        significance: Tests of the difference; None for `mean`, and for a metric that cannot be tested.
    """

    test: str
    decode: str
    metric: str
    seed: str
    a: float | None
    b: float | None
    difference: float | None
    deviation: float | None = None
    significance: Significance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """A row of the test text, with the outputs of both models.

    Attributes:
        id: The id of the row.
        source: The text of the source.
        reference: The text of the reference.
        a: The first output.
        b: The second output.
        score_a: chrF of the first output, 0 to 100.
        score_b: chrF of the second output.
        difference: The second score minus the first.
    """

    id: int
    source: str
    reference: str
    a: str
    b: str
    score_a: float
    score_b: float
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The comparison of two models.

    Attributes:
        a: The name of the first model.
        b: The name of the second model.
        seeds: The numbers of the seeds that were compared, 1 for the model itself.
        settings: The settings that differ.
        measured: The numbers of both models, in the order of test sets and decodes.
        curves: The validations of the first and the second model.
        decode: The decode of `gains` and `losses`, in words.
        gains: Rows that the second model translates better, the largest difference first.
        losses: Rows that the first model translates better.
    """

    a: str
    b: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    measured: tuple[Measurement, ...]
    curves: tuple[tuple[CurvePoint, ...], tuple[CurvePoint, ...]]
    decode: str
    gains: tuple[RowChange, ...]
    losses: tuple[RowChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """The comparison of two runs, or of two models.

    Attributes:
        a: The folder of the first run.
        b: The folder of the second run.
        chosen: Whether two models were named; otherwise the pairs are the models that both runs have.
        pairs: The models that were compared.
        left: Models that only one run has, by run.
    """

    a: str
    b: str
    chosen: bool
    pairs: tuple[Pair, ...]
    left: dict[str, list[str]]

    def to_json(self) -> str:
        """Return the comparison as JSON text."""
        values = {"runs": [self.a, self.b], **asdict(self)}
        for key in ("a", "b", "chosen"):
            del values[key]
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def compare(
    first: str | Path, second: str | Path | None = None, models: tuple[str, str] | None = None
) -> RunComparison:
    """Compare two runs, or two models.

    Args:
        first: A run folder.
        second: Another run folder; None for the same one.
        models: A model of the first run and a model of the second; None for all models that both runs have.

    Raises:
        InputError: A model does not exist or was not evaluated, the test texts differ or have only one row, one model
            has test sets that the other lacks, or there is nothing to compare.
        CorpusError: A folder is not a run, or a file in it is missing or damaged.
    """
    if second is None and models is None:
        raise InputError(
            "one run was given, without models",
            where=str(first),
            expected="a second run folder, or two models of this run: --models A B",
        )
    a = Run(Path(first))
    b = a if second is None else Run(Path(second))
    if models is not None:
        check_models((a, b), models)
        names = [models]
    else:
        names = [(name, name) for name in a.models if b.has(name)]
        if not names:
            raise InputError(
                "the runs have no model with the same name",
                where=f"{a.path} and {b.path}",
                expected=f"a name that both have: {list_models(a, b)}",
                hint="--models A B compares models with different names",
            )
    found = [_read_evaluations(a, b, *pair) for pair in names]
    tests = sum(len(pair) for pairs in found for pair in pairs.values())
    with Progress("compare", tests, "evaluations") as progress:
        pairs = [
            _compare_models(*pair, evaluations, progress, rows=models is not None)
            for pair, evaluations in zip(names, found, strict=True)
        ]
    left = {} if models else {str(a.path): a.models_beside(b), str(b.path): b.models_beside(a)}
    return RunComparison(a=str(a.path), b=str(b.path), chosen=models is not None, pairs=tuple(pairs), left=left)


@dataclass(frozen=True, slots=True)
class _EvaluationPair:
    """Evaluations of two models on one test text."""

    a: Evaluation
    b: Evaluation
    text: TestText


def _read_evaluations(a: Run, b: Run, first: str, second: str) -> dict[int, list[_EvaluationPair]]:
    """Read the evaluations of both models on all test sets, by seed."""
    seeds, others = a.seeds(first), b.seeds(second)
    found: dict[int, list[_EvaluationPair]] = {}
    for seed in (seed for seed in seeds if seed in others):
        tests = [run.tests(name) for run, name in ((a, seeds[seed]), (b, others[seed]))]
        _check_tests(a, b, (seeds[seed], others[seed]), tests)
        found[seed] = []
        for test in tests[0]:
            one, other = a.evaluation(seeds[seed], test), b.evaluation(others[seed], test)
            found[seed].append(_EvaluationPair(one, other, read_shared_text(one, other)))
    return found


def _check_tests(a: Run, b: Run, models: tuple[str, str], tests: Sequence[list[str]]) -> None:
    for run, model, more in (
        (a, models[0], [test for test in tests[0] if test not in tests[1]]),
        (b, models[1], [test for test in tests[1] if test not in tests[0]]),
    ):
        if more:
            raise InputError(
                f"{model!r} was evaluated on test sets that the other model lacks: {', '.join(more)}",
                where=str(run.path),
                expected="the same test sets for both models",
                hint="evaluate the other model on them, or give both runs the same [data.tests]",
            )


def _compare_models(
    first: str, second: str, found: dict[int, list[_EvaluationPair]], progress: Progress, *, rows: bool
) -> Pair:
    lines: dict[tuple[str, str, str], list[Measurement]] = {}
    changed: tuple[str, list[RowChange]] = ("", [])
    for seed, tests in found.items():
        for number, both in enumerate(tests):
            shown = str(seed) if len(found) > 1 else ""
            want = rows and not number and seed == min(found)
            for line in _measure_models(both, shown) if not number else ():
                lines.setdefault((line.test, line.decode, line.metric), []).append(line)
            for names in _match_decodes(both):
                outputs = both.a.outputs(names[0], both.text), both.b.outputs(names[1], both.text)
                for line in _measure_decodes(both, names, outputs, shown):
                    lines.setdefault((line.test, line.decode, line.metric), []).append(line)
                if want:
                    changed = _format_label(both, names), _compare_rows(both.text, *outputs)
            progress.advance()
    one = found[min(found)][0]
    gains = sorted((row for row in changed[1] if row.difference > 0), key=lambda row: (-row.difference, row.id))
    losses = sorted((row for row in changed[1] if row.difference < 0), key=lambda row: (row.difference, row.id))
    return Pair(
        a=first,
        b=second,
        seeds=tuple(found),
        settings=tuple(_list_differences(one.a, one.b)),
        measured=tuple(line for same in lines.values() for line in _add_means(same)),
        curves=(read_history(one.a.config.model), read_history(one.b.config.model)),
        decode=changed[0],
        gains=tuple(gains[:ROWS]),
        losses=tuple(losses[:ROWS]),
    )


# --- numbers ------------------------------------------------------------------------------------------------------


def _match_decodes(both: _EvaluationPair) -> list[tuple[str, str]]:
    """Match the decodes to compare: those that both models have or, if none, the quick decode of each."""
    a, b = both.a.result, both.b.result
    same = [(name, name) for name in a.decodes if name in b.decodes and a.parallel == b.parallel]
    return same or [(a.quick, b.quick)]


def _format_label(both: _EvaluationPair, names: tuple[str, str]) -> str:
    a, b = (format_decode(side.result, name) for side, name in zip((both.a, both.b), names, strict=True))
    return a if a == b else f"{a} / {b}"


def _measure_decodes(
    both: _EvaluationPair, names: tuple[str, str], outputs: tuple[Outputs, Outputs], seed: str
) -> Iterator[Measurement]:
    a, b = both.a.result.decodes[names[0]], both.b.result.decodes[names[1]]
    for metric in METRICS.all():
        values = a.get_value(metric.name), b.get_value(metric.name)
        if values == (None, None):
            continue
        significance = None
        if metric.statistics is not None and all(map(metric.fits, outputs)):
            sides = [metric.compute_statistics(one) for one in outputs]
            values = sides[0].score.value, sides[1].score.value
            significance = run_both_tests(*sides)
        yield _make_measurement(both, _format_label(both, names), metric.name, seed, values, significance)
    for name in SPEEDS:
        speeds = _get_speed(a, name), _get_speed(b, name)
        if speeds != (None, None):
            yield _make_measurement(both, _format_label(both, names), name, seed, speeds)


def _get_speed(result: DecodeResult, name: str) -> float | None:
    found: float | None = getattr(result if name.startswith("speedup") else result.speed, name, None)
    return found


def _measure_models(both: _EvaluationPair, seed: str) -> Iterator[Measurement]:
    apart = differ_in_vocabulary((both.a.result, both.b.result))
    for name in FACTS:
        if name == "perplexity" and apart:
            continue  # numbers per token of different tokens
        values = getattr(both.a.result, name), getattr(both.b.result, name)
        if values != (None, None):
            yield _make_measurement(both, "", name, seed, values)


def _make_measurement(
    both: _EvaluationPair,
    decode: str,
    metric: str,
    seed: str,
    values: tuple[float | None, float | None],
    significance: Significance | None = None,
) -> Measurement:
    a, b = values
    return Measurement(
        test=both.a.test,
        decode=decode,
        metric=metric,
        seed=seed,
        a=a,
        b=b,
        difference=None if a is None or b is None else b - a,
        significance=significance,
    )


def _add_means(lines: Sequence[Measurement]) -> Iterator[Measurement]:
    """Add the mean before the numbers of each seed, if there are several."""
    whole = [line for line in lines if line.difference is not None]
    if len(lines) > 1 and len(whole) == len(lines):
        first = lines[0]
        differences = [line.difference for line in lines if line.difference is not None]
        yield Measurement(
            test=first.test,
            decode=first.decode,
            metric=first.metric,
            seed="mean",
            a=statistics.fmean(line.a for line in lines if line.a is not None),
            b=statistics.fmean(line.b for line in lines if line.b is not None),
            difference=statistics.fmean(differences),
            deviation=statistics.stdev(differences),
        )
    yield from lines


def _compare_rows(text: TestText, a: Outputs, b: Outputs) -> list[RowChange]:
    """Score both outputs of every row."""
    metric: Metric = METRICS.get(ROW_METRIC)
    scores = []
    for outputs in (a, b):
        found = metric.compute_statistics(outputs)
        scores.append(found.scores(found.rows).tolist())
    columns = zip(text.ids, text.sources, text.references, a.hypotheses, b.hypotheses, *scores, strict=True)
    return [
        RowChange(
            id=row,
            source=source,
            reference=reference,
            a=one,
            b=other,
            score_a=score,
            score_b=against,
            difference=against - score,
        )
        for row, source, reference, one, other, score, against in columns
    ]


# --- settings -----------------------------------------------------------------------------------------------------


def _list_differences(a: Evaluation, b: Evaluation) -> Iterator[Setting]:
    first, second = collect_settings(a), collect_settings(b)
    for name in dict.fromkeys((*first, *second)):
        if first.get(name) != second.get(name):
            yield Setting(name=name, a=first.get(name), b=second.get(name))


def collect_settings(evaluation: Evaluation) -> dict[str, Any]:
    """Collect the settings of a model and of its evaluation, by dotted name, without defaults.

    Raises:
        ModelError: The folder of the model is damaged.
    """
    folder, result = evaluation.config.model, evaluation.result
    found: dict[str, Any] = {"role": result.role, "trained on": result.trained_on}
    try:
        model = json.loads((folder / "config.json").read_bytes())
        found |= _flatten("model", {"arch": model["arch"], **model["settings"]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(folder / "config.json")) from None
    if (folder / MANIFEST).is_file():
        made_with = read_manifest(folder).fingerprint.get("config", {})
        found |= _flatten("", {name: value for name, value in made_with.items() if name not in ("model", "role")})
    told = ("name", "role", "trained_on")
    config = evaluation.made_with.get("config", {})
    return found | _flatten("evaluate", {name: value for name, value in config.items() if name not in told})


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [_flatten(f"{prefix}.{name}" if prefix else str(name), item) for name, item in value.items()]
        return {name: item for part in parts for name, item in part.items()}
    return {prefix: value}
