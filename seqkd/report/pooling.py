"""Means, standard deviations and paired gains of models that were trained with several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from seqkd.metrics.results import DecodeResult, EvaluationResult
from seqkd.metrics.speed import Speed
from seqkd.report.contents import Contents, CurvePoint, evaluation_json

_NOT_POOLED = ("load",)  # tables of `report.json` that describe one run


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean and deviation of a number over several runs.

    Attributes:
        mean: The mean.
        deviation: The sample standard deviation (n - 1 in the denominator); None for one run.
        n: The number of runs.
    """

    mean: float
    deviation: float | None
    n: int


def compute_spread(values: Sequence[float]) -> Spread:
    """Compute mean and sample standard deviation of at least one number."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True, slots=True)
class PooledReport:
    """A report with one entry in place of several runs that differ only in their seed.

    Attributes:
        contents: The report with the means of such models and without their runs.
        runs: The names of the runs of each such model, in order.
        deviations: For each such model an evaluation that holds standard deviations in place of values.
        tests: The same by further test set.
        curves: The standard deviations of the validations of each such model.
        gains: The gains of every student over its baseline, by decode.
        overs: For every student with gains, the first seed of its baseline.
    """

    contents: Contents
    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    deviations: Mapping[str, EvaluationResult] = field(default_factory=dict)
    tests: Mapping[str, Mapping[str, EvaluationResult]] = field(default_factory=dict)
    curves: Mapping[str, tuple[CurvePoint, ...]] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, Spread]] = field(default_factory=dict)
    overs: Mapping[str, str] = field(default_factory=dict)


def pool(contents: Contents) -> PooledReport:
    """Replace models with several seeds by their means. Without such models the report is unchanged."""
    first_of = {name: first for first, runs in contents.runs.items() for name in runs}
    shown = [model for model in contents.models if first_of.get(model.name, model.name) == model.name]
    gains = {model.name: compute_gains(contents, model.name) for model in shown}
    overs = {
        model.name: first_of.get(over, over)
        for model in shown
        for run in contents.runs.get(model.name, (model.name,))
        if (over := contents.baselines.get(run)) is not None
    }
    if not contents.runs:
        return PooledReport(contents, gains=gains, overs=overs)
    models, deviations = _pool_evaluations({model.name: model for model in contents.models}, contents.runs)
    tests = {name: _pool_evaluations(found, contents.runs) for name, found in contents.tests.items()}
    curves = {
        name: _pool_curves([contents.curves.get(run, ()) for run in runs]) for name, runs in contents.runs.items()
    }
    kept = {name: points for name, points in contents.curves.items() if first_of.get(name, name) == name}
    return PooledReport(
        replace(
            contents,
            models=tuple(models.values()),
            tests={name: means for name, (means, _) in tests.items()},
            curves=kept | {name: means for name, (means, _) in curves.items() if means},
        ),
        runs=contents.runs,
        deviations=deviations,
        tests={name: found for name, (_, found) in tests.items()},
        curves={name: found for name, (_, found) in curves.items()},
        gains=gains,
        overs=overs,
    )


def compute_gains(contents: Contents, name: str) -> dict[str, Spread]:
    """Compute the gains of a model over its baseline by decode, from the differences of equal seeds."""
    models = {model.name: model for model in contents.models}
    found = [contents.gains(models[run]) for run in contents.runs.get(name, (name,))]
    pairs = [gains for gains in found if gains]
    return {decode: compute_spread([gains[decode] for gains in pairs]) for decode in (pairs[0] if pairs else ())}


def write_pooled(contents: Contents) -> list[dict[str, Any]]:
    """Return the list `pooled` of report.json. `mean` and `spread` have the keys of the numbers of a model."""
    found = []
    by_name = {model.name: model for model in contents.models}
    for name, runs in contents.runs.items():
        models = [by_name[run] for run in runs]
        values = [
            evaluation_json(model) | {"tests": {test: evaluation_json(one) for test, one in results.items()}}
            for model in models
            if (results := contents.results(model))
        ]
        gains = compute_gains(contents, name)
        over = next((contents.baselines[run] for run in runs if run in contents.baselines), None)
        found.append(
            {
                "name": name,
                "models": list(runs),
                "n": len(models),
                "mean": _combine_leaves(values, statistics.fmean),
                "spread": _combine_leaves(values, statistics.stdev),
                "baseline": over,
                "gain": {
                    "mean": {decode: gain.mean for decode, gain in gains.items()},
                    "spread": {decode: gain.deviation for decode, gain in gains.items()},
                    "n": max((gain.n for gain in gains.values()), default=0),
                },
            }
        )
    return found


def _combine_leaves(values: Sequence[Mapping[str, Any]], function: Any) -> dict[str, Any]:
    """Apply a function to the numbers at the same place of several tables; null if a table has no number there."""
    found: dict[str, Any] = {}
    for key, first in values[0].items():
        several = [value.get(key) for value in values]
        if isinstance(first, Mapping) and key not in _NOT_POOLED:
            found[key] = _combine_leaves([value for value in several if isinstance(value, Mapping)], function)
        elif first is None or (isinstance(first, (int, float)) and not isinstance(first, bool)):
            numbers = [value for value in several if isinstance(value, (int, float))]
            found[key] = function(numbers) if len(numbers) == len(values) else None
    return found


# --- evaluations and curves ---------------------------------------------------------------------------------------


def _pool_evaluations(
    models: Mapping[str, EvaluationResult], pools: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, EvaluationResult], dict[str, EvaluationResult]]:
    """Replace runs by an evaluation with their means, and return the standard deviations, too."""
    first_of = {name: first for first, runs in pools.items() for name in runs}
    means, deviations = {}, {}
    for name, model in models.items():
        if first_of.get(name, name) != name:
            continue
        runs = [models[run] for run in pools.get(name, ()) if run in models]
        means[name] = _combine(runs, statistics.fmean) if len(runs) > 1 else model
        if len(runs) > 1:
            deviations[name] = _combine(runs, statistics.stdev)
    return means, deviations


def _combine(runs: Sequence[EvaluationResult], function: Any) -> EvaluationResult:
    first = runs[0]
    decodes = {
        name: _combine_decodes([run.decodes[name] for run in runs if name in run.decodes], function)
        for name in first.decodes
    }
    return replace(
        first,
        decodes=decodes,
        perplexity=_combine_values([run.perplexity for run in runs], function),
        perplexity_per_character=_combine_values([run.perplexity_per_character for run in runs], function),
        mode_probability=_combine_values([run.mode_probability for run in runs], function),
        target_logprobs={
            name: _combine_values([run.target_logprobs.get(name) for run in runs], function)
            for name in first.target_logprobs
        },
    )


def _combine_decodes(runs: Sequence[DecodeResult], function: Any) -> DecodeResult:
    numbers = ("bleu", "chrf", "ter", "bleu_accepted", "valid", "length_ratio", "speedup", "speedup_batch1")
    changed = {name: _combine_values([getattr(run, name) for run in runs], function) for name in numbers}
    further = {name: _combine_values([run.further.get(name) for run in runs], function) for name in runs[0].further}
    # A test of significance refers to one run.
    return replace(
        runs[0],
        **changed,
        further=further,
        significance={},
        speed=_combine_speeds([run.speed for run in runs], function),
    )


def _combine_speeds(runs: Sequence[Speed | None], function: Any) -> Speed | None:
    timed = [run for run in runs if run is not None]
    if len(timed) < len(runs):
        return None
    numbers = ("sentences_per_second", "latency_ms", "sentences_per_second_batch1")
    return replace(
        timed[0], **{name: _combine_values([getattr(run, name) for run in timed], function) for name in numbers}
    )


def _combine_values(values: Sequence[float | None], function: Any) -> Any:
    """Apply a function to numbers; None if one is missing."""
    numbers = [value for value in values if value is not None]
    return function(numbers) if len(numbers) == len(values) and len(numbers) > 1 else None


def _pool_curves(curves: Sequence[Sequence[CurvePoint]]) -> tuple[tuple[CurvePoint, ...], tuple[CurvePoint, ...]]:
    """Compute means and standard deviations of validations at the updates that all runs share."""
    by_update = [{point.update: point for point in points} for points in curves]
    means, deviations = list[CurvePoint](), list[CurvePoint]()
    for update in sorted(set(by_update[0]).intersection(*by_update[1:])):
        points = [found[update] for found in by_update]
        for function, found in ((statistics.fmean, means), (statistics.stdev, deviations)):
            values = {
                name: _combine_values([getattr(point, name) for point in points], function)
                for name in ("train_loss", "valid_nll", "valid_bleu")
            }
            found.append(CurvePoint(update=update, **values))
    return tuple(means), tuple(deviations)
