"""The report as one HTML page that needs nothing else: no network, no fonts, no other files."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seqkd.stages.report_page import plots, tables
from seqkd.stages.report_page.contents import Contents
from seqkd.stages.report_page.findings import find
from seqkd.stages.report_page.graph import draw_graph

LENGTH_LEGEND = "triangles mark the means"


def render(contents: Contents) -> str:
    """Set the page. All text is escaped; equal contents give equal pages."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    models, corpora = contents.models, contents.corpora
    order = [model.name for model in models]
    order += [name for name in contents.curves if name not in order]
    return environment.get_template("page.html").render(
        contents=contents,
        findings=find(models),
        graph=draw_graph(contents.edges, contents.kinds),
        models=tables.models_table(models) if models else None,
        corpora=tables.corpora_table(corpora),
        distill=tables.distill_table(contents.distill) if contents.distill else None,
        model_legend=[(name, plots.colour(index)) for index, name in enumerate(order)],
        corpus_legend=[(corpus.name, plots.colour(index)) for index, corpus in enumerate(corpora)],
        quality_plots=_quality_plots(contents),
        curve_plots=_curve_plots(contents, order),
        lengths=plots.lengths([corpus.lengths for corpus in corpora]),
        devices=sorted({f"{model.device}, {model.precision}" for model in models}),
        signatures=_signatures(contents),
        latencies=sorted({model.latency_sentences for model in models}),
        aligned_rows=f"{contents.aligned_rows:,}",
        test_rows=", ".join(f"{rows:,}" for rows in sorted({model.rows for model in models})),
        splits=", ".join(f"{rows:,} {name}" for name, rows in contents.splits.items()),
        cut=[
            (model.name, beam, result.cut)
            for model in models
            for beam, result in sorted(model.beams.items())
            if result.cut
        ],
    )


def _quality_plots(contents: Contents) -> list[tuple[str, object, str]]:
    """Title, SVG, caption."""
    if not contents.models:
        return []
    return [
        (
            "Quality and size",
            plots.quality_by_size(contents.models),
            "Test BLEU over millions of parameters. Hollow: smallest beam; full: largest beam.",
        ),
        (
            "Quality and speed",
            plots.quality_by_speed(contents.models),
            "Test BLEU over sentences per second (wall clock, one process). Hollow: smaller beams; full: largest beam.",
        ),
    ]


def _curve_plots(contents: Contents, order: list[str]) -> list[tuple[str, object, str]]:
    drawn = [
        (
            "Validation loss",
            plots.curves(contents.curves, order, what="nll"),
            "Negative log-likelihood of the gold validation references, in nats per token; lower is better.",
        ),
        (
            "Validation BLEU",
            plots.curves(contents.curves, order, what="bleu"),
            "BLEU of greedy outputs on the validation text.",
        ),
    ]
    return [plot for plot in drawn if plot[1]]


def _signatures(contents: Contents) -> list[tuple[str, list[str]]]:
    """Each metric's signatures; models evaluated with one version of sacrebleu share one."""
    names = {"bleu": "BLEU", "bleu_accepted": "BLEU, all accepted", "chrf": "chrF", "ter": "TER"}
    found = []
    for key, name in names.items():
        texts = sorted({model.signatures[key] for model in contents.models if key in model.signatures})
        if texts:
            found.append((name, texts))
    return found
