"""The report as a self-contained HTML page without network access, fonts or other files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seqkd.config.prepare import OWN_TEST
from seqkd.metrics.registry import METRICS
from seqkd.metrics.results import EvaluationResult
from seqkd.report import plots, tables
from seqkd.report.adaptation import adaptation_table, describe_tests, list_adapted, plot_adaptation
from seqkd.report.contents import Contents
from seqkd.report.explanation import explain
from seqkd.report.findings import conclude
from seqkd.report.graph import draw_graph
from seqkd.report.language_section import show_languages
from seqkd.report.pooling import PooledReport, pool
from seqkd.report.switches import switches_table
from seqkd.report.test_sets import tests_table
from seqkd.report.twins import choose_measure, find_twins, find_unit, format_decode

LENGTH_LEGEND = "triangles mark the means"


def render(contents: Contents) -> str:
    """Render the page. All text is escaped; equal contents give equal pages."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pooled = pool(contents)
    models, corpora, shown = contents.models, contents.corpora, pooled.contents
    gains, quality_plots = _plot_gains(pooled), _plot_quality(pooled)
    order = [model.name for model in shown.models]
    order += [name for name in shown.curves if name not in order]
    return environment.get_template("page.html").render(
        contents=contents,
        findings=conclude(shown.models),
        explanation=explain(shown.models, corpora),
        graph=draw_graph(contents.edges, contents.kinds),
        models=tables.models_table(pooled) if models else None,
        corpora=tables.corpora_table(corpora),
        tests=tests_table(pooled) if contents.tests else None,
        adaptation=_show_adaptation(shown),
        tests_rows=", ".join(f"{name} ({rows:,} rows)" for name, rows in _count_test_rows(contents).items()),
        targets=tables.targets_table(pooled) if any(model.target_logprobs for model in models) else None,
        target_rows=", ".join(sorted({f"{model.target_rows:,}" for model in models if model.target_logprobs})),
        rounds=_show_rounds(shown),
        languages=show_languages(contents.languages),
        synthetic=tables.synthetic_table(contents.synthetic) if contents.synthetic else None,
        distill=tables.distill_table(contents.distill) if contents.distill else None,
        switches=switches_table(contents.timelines) if contents.timelines else None,
        cost=tables.cost_table(contents.costs) if contents.costs else None,
        model_legend=[(name, plots.pick_colour(index)) for index, name in enumerate(order)],
        corpus_legend=[(corpus.name, plots.pick_colour(index)) for index, corpus in enumerate(corpora)],
        opening_plots=[gains, *quality_plots[:1]] if gains else [],
        quality_plots=quality_plots[1:] if gains else quality_plots,
        curve_plots=_plot_curves(pooled, order),
        lengths=plots.plot_lengths([corpus.lengths for corpus in corpora]),
        devices=sorted({f"{model.device}, {model.precision}" for model in models}),
        signatures=_list_signatures(contents),
        timed=_describe_timing(models),
        tested=any(contents.significance(model) for model in models),
        aligned_rows=f"{contents.aligned_rows:,}",
        test_rows=", ".join(f"{rows:,}" for rows in sorted({model.rows for model in models})),
        splits=", ".join(f"{rows:,} {name}" for name, rows in contents.splits.items()),
        cut=[
            (model.name, format_decode(model, name), result.cut)
            for model in models
            for name, result in model.decodes.items()
            if result.cut
        ],
        undecoded=[
            (entry.name, reason, f"{count:,}") for entry in contents.distill for reason, count in entry.rejected.items()
        ],
        too_long=[(model.name, f"{model.too_long:,}", f"{model.rows:,}") for model in models if model.too_long],
        unsettled=[
            (model.name, format_decode(model, name), f"{100.0 * result.speed.deviation:,.0f}", model.load)
            for model in models
            for name, result in model.decodes.items()
            if result.speed is not None and result.speed.deviation is not None and not result.speed.agreed
        ],
        unjudged=[
            (model.name, format_decode(model, name), f"{result.unjudged:,}")
            for model in models
            for name, result in model.decodes.items()
            if result.unjudged
        ],
    )


def _show_adaptation(contents: Contents) -> dict[str, object] | None:
    """Return the table and the plot of models that start from another one; None without such models."""
    adapted = list_adapted(contents)
    if not adapted:
        return None
    return {
        "table": adaptation_table(contents, adapted),
        "plot": plot_adaptation(contents, adapted),
        "tests": describe_tests(contents),
    }


def _count_test_rows(contents: Contents) -> dict[str, int]:
    """Count the rows of each test set."""
    sets = {OWN_TEST: {model.name: model for model in contents.models}, **contents.tests}
    return {name: next(iter(found.values())).rows for name, found in sets.items() if found}


def _plot_quality(pooled: PooledReport) -> list[tuple[str, object, str]]:
    """Plot quality by speed and by size; for each plot its title, SVG and caption."""
    models, deviations = pooled.contents.models, pooled.deviations
    if not models:
        return []
    marks = "Circles are left-to-right models, diamonds write all positions at once. "
    marks += "Hollow marks are trained on gold text."
    if any(len(model.decodes) > 1 for model in models):
        marks += " A line joins the decodes of a model."
    if deviations:
        marks += " Error bars are the standard deviation over seeds."
    drawn = [
        (
            "Quality and speed, one sentence at a time",
            plots.plot_quality_by_speedup(models, deviations, batch1=True),
            f"Test {find_unit(models)} over speed-up. {marks}",
        ),
        (
            "Quality and speed, in batches",
            plots.plot_quality_by_speedup(models, deviations, batch1=False),
            "The same in batches, each model with its best batch size.",
        ),
        (
            "Quality and size",
            plots.plot_quality_by_size(models, deviations),
            f"Test {find_unit(models)} over millions of parameters. "
            "Hollow marks are the smallest beam or first decode, full marks the largest or last.",
        ),
    ]
    return [plot for plot in drawn if plot[1]]


def _show_rounds(contents: Contents) -> dict[str, object] | None:
    """Return table, plot and legend of students that were made again in each round."""
    if not contents.rounds:
        return None
    models = {model.name: model for model in contents.models}
    teacher = models[contents.rounds[0].teacher]
    students: dict[str, list[EvaluationResult]] = {}
    for entry in contents.rounds:
        students.setdefault(entry.student, []).append(models[entry.model])
    return {
        "table": tables.rounds_table(contents),
        "plot": plots.plot_rounds(teacher, students),
        "unit": find_unit([teacher]),
        "legend": [(name, plots.pick_colour(index)) for index, name in enumerate([teacher.name, *students])],
    }


def _plot_gains(pooled: PooledReport) -> tuple[str, object, str] | None:
    """Plot the gains of distilled text for each kind of student; title, SVG and caption."""
    contents = pooled.contents
    twins = find_twins(contents.models)
    if not twins:
        return None
    measure = choose_measure(twins)
    bars = plots.plot_gold_and_distilled(
        twins, measure, [corpus.name for corpus in contents.corpora], pooled.deviations
    )
    what = "Share of outputs that are valid translations" if measure.valid else f"Test {measure.name}"
    ways = list(dict.fromkeys(format_decode(model, model.quick) for group in twins for model in group.members))
    caption = (
        f"{what}, each model at its first decode ({', '.join(ways)}). Models of a group "
        "differ only in their training text."
    )
    return "Students of gold and of distilled text", bars, caption


def _describe_timing(models: Sequence[EvaluationResult]) -> dict[str, str]:
    """Describe how many sentences were timed."""
    decodes = [result for model in models for result in model.decodes.values()]
    speeds = [result.speed for result in decodes if result.speed is not None]
    return {
        "alone": _format_range([speed.latency_sentences for speed in speeds]),
        "together": _format_range([speed.sentences for speed in speeds]),
        "budgets": _format_range([speed.batch_tokens for speed in speeds]),
    }


def _format_range(values: Sequence[int]) -> str:
    if not values:
        return ""
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _plot_curves(pooled: PooledReport, order: list[str]) -> list[tuple[str, object, str]]:
    curves = pooled.contents.curves
    apart = [name for name in _find_other_vocabularies(pooled.contents.models) if curves.get(name)]
    note = f" Left out, because their tokens are others: {', '.join(apart)}." if apart else ""
    drawn = [
        (
            "Validation loss",
            plots.plot_curves(
                {name: points for name, points in curves.items() if name not in apart},
                order,
                pooled.curves,
                what="nll",
            ),
            f"Negative log-likelihood of the gold validation references, in nats per token; lower is better.{note}",
        ),
        (
            "Validation BLEU",
            plots.plot_curves(curves, order, pooled.curves, what="bleu"),
            "BLEU of greedy outputs on the validation text.",
        ),
    ]
    return [plot for plot in drawn if plot[1]]


def _find_other_vocabularies(models: Sequence[EvaluationResult]) -> list[str]:
    """List the models whose vocabulary is not the one that most models have; of equally many, the first one."""
    counts = Counter(model.vocabulary for model in models if model.vocabulary)
    usual = counts.most_common(1)[0][0] if counts else ""
    return [model.name for model in models if model.vocabulary not in ("", usual)]


def _list_signatures(contents: Contents) -> list[tuple[str, list[str]]]:
    """List the signatures of each metric. Models evaluated with one version of sacrebleu share one."""
    found = []
    results = [*contents.models, *(result for found in contents.tests.values() for result in found.values())]
    for metric in METRICS.all():
        texts = sorted({result.signatures[metric.name] for result in results if metric.name in result.signatures})
        if texts:
            found.append((metric.label, texts))
    return found
