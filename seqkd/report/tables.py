"""The tables of the report, with their columns and the format of every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seqkd.corpus.cost import total
from seqkd.corpus.sensors import GPU, PACKAGES
from seqkd.metrics.registry import METRICS
from seqkd.metrics.results import EvaluationResult, differ_in_vocabulary
from seqkd.report.agreement import AGREEMENT
from seqkd.report.contents import Contents, CorpusEntry, CostEntry, DistillEntry, RoundEntry, SyntheticEntry
from seqkd.report.findings import MINUS
from seqkd.report.plots import pick_colour
from seqkd.report.pooling import PooledReport
from seqkd.report.twins import find_unit, format_decode

NOTHING = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
SOURCES = {PACKAGES: "CPU packages", GPU: "GPU"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        text: The text that is shown.
        sort: The key by which it is sorted; "" is last.
        best: Whether it is bold.
        series: The CSS variable of the colour of a series; "" for none.
        note: Small print after the text.
    """

    text: str
    sort: str
    best: bool = False
    series: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A column's name, its unit, and whether it holds numbers."""

    name: str
    unit: str = ""
    number: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Heads and rows of equal length."""

    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]


def models_table(pooled: PooledReport) -> Table:
    """Make a table with a row for each decode of each model: quality and speed. Empty columns are left out.

    A model with several seeds has the mean of its runs, followed by the sample standard deviation.
    """
    models = pooled.contents.models
    rows = [(model, name, result) for model in models for name, result in model.decodes.items()]
    colours = {model.name: pick_colour(index) for index, model in enumerate(models)}
    results = [result for _, _, result in rows]
    spreads = [pooled.deviations.get(model.name) for model, _, _ in rows]
    decode_spreads = [
        None if found is None else found.decodes[name] for found, (_, name, _) in zip(spreads, rows, strict=True)
    ]
    rates = [None if result.speed is None else result.speed.sentences_per_second for result in results]
    digits = 1 if min((rate for rate in rates if rate is not None), default=0.0) < 100 else 0
    over = _describe_baseline(models)
    several = differ_in_vocabulary(models)

    def outputs(name: str, unit: str | None = None) -> tuple[Head, Sequence[Cell]]:
        column = metric_column(name, [result.get_value(name) for result in results], unit=unit)
        return add_spreads(column, name, [None if one is None else one.get_value(name) for one in decode_spreads])

    columns: list[tuple[Head, Sequence[Cell]]] = [
        (
            Head(name="Model", number=False),
            [
                Cell(
                    text=m.name, sort=m.name, series=colours[m.name], note=describe_role(m, pooled.runs.get(m.name, ()))
                )
                for m, _, _ in rows
            ],
        ),
        (Head(name="Trained on", number=False), [format_text(model.trained_on) for model, _, _ in rows]),
        (Head(name="Decode", number=False), [format_text(format_decode(model, name)) for model, name, _ in rows]),
        outputs("bleu"),
        (
            Head(name="Gain", unit=f"{find_unit(models)}, over a student of gold text"),
            [_format_gain(pooled, m, name) for m, name, _ in rows],
        ),
        (Head(name="p", unit="of the gain"), [_format_p_value(pooled.contents, m, name) for m, name, _ in rows]),
        outputs("valid"),
        (Head(name="Speed-up", unit=f"one sentence, {over}"), mark_highest([r.speedup_batch1 for r in results], 1)),
        (Head(name="Speed-up", unit=f"in batches, {over}"), mark_highest([result.speedup for result in results], 1)),
        (
            Head(name="Latency", unit="ms, one sentence"),
            [format_number(None if result.speed is None else result.speed.latency_ms, 1) for result in results],
        ),
        (Head(name="Speed", unit="sentences/s, in batches"), [format_number(rate, digits) for rate in rates]),
        (Head(name="Parameters", unit="millions"), [format_number(model.parameters / 1e6, 2) for model, _, _ in rows]),
        (
            Head(name="Pieces", unit="of the target vocabulary"),
            [format_number(model.pieces or None if several else None, 0) for model, _, _ in rows],
        ),
        outputs("chrf"),
        outputs("ter"),
        outputs("bleu_accepted"),
        *(
            outputs(name, _find_unit(pooled, name))
            for name in dict.fromkeys(name for r in results for name in r.further)
        ),
        *(
            add_spreads(
                metric_column(name, [getattr(model, name) for model, _, _ in rows]),
                name,
                [None if one is None else getattr(one, name) for one in spreads],
            )
            for name in list_perplexities(models)
        ),
        metric_column("mode_probability", [m.mode_probability if name == m.quality else None for m, name, _ in rows]),
        (Head(name="Architecture", number=False), [format_text(model.arch) for model, _, _ in rows]),
        (Head(name="Objective", number=False), [format_text(model.objective) for model, _, _ in rows]),
    ]
    return make_table(columns)


def _find_unit(pooled: PooledReport, metric: str) -> str | None:
    return f"BLEU to the outputs of {pooled.contents.agreement_with}" if metric == AGREEMENT else None


def targets_table(pooled: PooledReport) -> Table:
    """Make a table with a row for each model, and a column for the targets of each corpus that were measured."""
    models = [model for model in pooled.contents.models if model.target_logprobs]
    names = dict.fromkeys(name for model in models for name in model.target_logprobs)
    colours = {model.name: pick_colour(index) for index, model in enumerate(pooled.contents.models)}
    columns: list[tuple[Head, Sequence[Cell]]] = [
        (
            Head(name="Model", number=False),
            [
                Cell(
                    text=m.name, sort=m.name, series=colours[m.name], note=describe_role(m, pooled.runs.get(m.name, ()))
                )
                for m in models
            ],
        ),
        (Head(name="Trained on", number=False), [format_text(model.trained_on) for model in models]),
    ]
    for name in names:
        spreads = [pooled.deviations.get(model.name) for model in models]
        values = [model.target_logprobs.get(name) for model in models]
        found = Head(name=name, unit="nats per token"), [format_number(value, 3) for value in values]
        deviations = [None if spread is None else spread.target_logprobs.get(name) for spread in spreads]
        columns.append(add_spreads(found, name, deviations))
    return make_table(columns)


def list_perplexities(models: Sequence[EvaluationResult]) -> tuple[str, ...]:
    """List the perplexities that a table of models shows: none per token if their vocabularies differ."""
    each = ("perplexity",) if not differ_in_vocabulary(models) else ()
    return (*each, "perplexity_per_character")


def describe_role(model: EvaluationResult, runs: Sequence[str]) -> str:
    """Describe the role of a model, and the number of seeds that its numbers are the mean of."""
    return f"{model.role}, mean of {len(runs)} seeds" if runs else model.role


def add_spreads(
    column: tuple[Head, Sequence[Cell]], metric: str, spreads: Sequence[float | None]
) -> tuple[Head, Sequence[Cell]]:
    """Add the standard deviation after each number of a column that is the mean of several seeds."""
    record = METRICS.find(metric)
    share, digits = (False, 2) if record is None else (record.percent, record.digits)
    head, cells = column
    notes = [to_percent(found) if share else found for found in spreads]
    return head, [
        cell if note is None else replace(cell, note=f"{PLUS_MINUS} {note:.{digits}f}")
        for cell, note in zip(cells, notes, strict=True)
    ]


def _format_gain(pooled: PooledReport, model: EvaluationResult, decode: str) -> Cell:
    """Format a gain with its sign and baseline and, for several seeds, its standard deviation and number of pairs."""
    gain = pooled.gains[model.name].get(decode)
    if gain is None:
        return format_number(None, 2)
    over = pooled.overs[model.name]
    if model.name not in pooled.runs:
        return _format_signed(gain.mean, note=over)
    deviation = "" if gain.deviation is None else f"{PLUS_MINUS} {gain.deviation:.2f}, "
    return _format_signed(gain.mean, note=f"{deviation}{over}, n = {gain.n}")


def _format_p_value(contents: Contents, model: EvaluationResult, decode: str) -> Cell:
    """Format the probability of the gain by chance."""
    tested = model.decodes[decode].significance.get(model.decodes[decode].main)
    if tested is None or decode not in contents.significance(model):
        return format_number(None, 3)
    cell = format_number(tested.p_value, 3)
    return cell if tested.p_value >= 0.001 else replace(cell, text="<0.001")


def _format_signed(value: float, *, note: str = "") -> Cell:
    shown = f"{round(value, 2) + 0.0:+.2f}".replace("-", MINUS)  # no -0.0
    return Cell(text=shown, sort=repr(value), note=note)


def _describe_baseline(models: Sequence[EvaluationResult]) -> str:
    over = {model.baseline.decode for model in models if model.baseline is not None}
    return "over the teacher" + (f" at beam {min(over)}" if len(over) == 1 and min(over).isdecimal() else "")


def rounds_table(contents: Contents) -> Table:
    """Make a table with a row for the first teacher, and for each student and round. Gains are over the first round."""
    models = {model.name: model for model in contents.models}
    teacher = models[contents.rounds[0].teacher]
    found = [models[entry.model] for entry in contents.rounds]
    firsts = {entry.student: models[entry.model] for entry in contents.rounds if entry.number == 1}
    all_models = [teacher, *found]
    students = list(firsts)
    main = teacher.decodes[teacher.quality].main

    def gain(entry: RoundEntry) -> Cell:
        first, model = firsts[entry.student], models[entry.model]
        if entry.number == 1:
            return format_number(None, 2)
        return _format_signed(model.decodes[model.quality].score - first.decodes[first.quality].score)

    named = [
        Cell(text=entry.student, sort=entry.student, series=pick_colour(1 + students.index(entry.student)))
        for entry in contents.rounds
    ]
    return make_table(
        [
            (
                Head(name="Student", number=False),
                [Cell(text=teacher.name, sort=teacher.name, series=pick_colour(0), note="teacher"), *named],
            ),
            (Head(name="Round"), [format_number(0, 0), *(format_number(entry.number, 0) for entry in contents.rounds)]),
            (
                Head(name="Taught by", number=False),
                [format_text(""), *(format_text(entry.teacher) for entry in contents.rounds)],
            ),
            (Head(name="Trained on", number=False), [format_text(model.trained_on) for model in all_models]),
            metric_column(
                main, [model.decodes[model.quick].get_value(main) for model in all_models], unit="first decode"
            ),
            metric_column(
                main,
                [model.decodes[model.quality].get_value(main) for model in all_models],
                unit="largest beam or last decode",
            ),
            (
                Head(name="Gain", unit=f"{find_unit(all_models)}, over round 1"),
                [format_number(None, 2), *map(gain, contents.rounds)],
            ),
            metric_column("valid", [model.decodes[model.quick].valid for model in all_models], unit="%, first decode"),
            *(
                metric_column(name, [getattr(model, name) for model in all_models])
                for name in list_perplexities(all_models)
            ),
            metric_column("mode_probability", [model.mode_probability for model in all_models]),
        ]
    )


def synthetic_table(entries: Sequence[SyntheticEntry]) -> Table:
    """Make the table of corpora of back-translation and self-training."""
    return make_table(
        [
            (Head(name="Corpus", number=False), [format_text(entry.name) for entry in entries]),
            (Head(name="Rows"), [format_number(entry.rows, 0) for entry in entries]),
            (Head(name="Ratio", unit="rows for each gold row"), [format_number(entry.ratio, 2) for entry in entries]),
            (Head(name="Left out", unit="rows"), [format_number(sum(entry.rejected.values()), 0) for entry in entries]),
            (Head(name="Written", unit="by a model", number=False), [format_text(f"{e.written}s") for e in entries]),
            (Head(name="Tag", number=False), [format_text(entry.tag) for entry in entries]),
            (Head(name="Source length", unit="subwords"), [format_number(entry.source_length, 2) for entry in entries]),
            (Head(name="Target length", unit="subwords"), [format_number(entry.target_length, 2) for entry in entries]),
            (Head(name="Model", unit="validation BLEU"), [format_number(entry.bleu, 2) for entry in entries]),
        ]
    )


def corpora_table(corpora: Sequence[CorpusEntry]) -> Table:
    """Make the table of training corpora."""
    return make_table(
        [
            (
                Head(name="Corpus", number=False),
                [
                    Cell(text=corpus.name, sort=corpus.name, series=pick_colour(index), note=_describe_rule(corpus))
                    for index, corpus in enumerate(corpora)
                ],
            ),
            (Head(name="Rows"), [format_number(corpus.rows, 0) for corpus in corpora]),
            (
                Head(name="Left out", unit="rows"),
                [format_number(sum(corpus.rejected.values()), 0) for corpus in corpora],
            ),
            (
                Head(name="Unknown", unit="rows with unknown pieces"),
                [format_number(c.unknown_rows, 0) for c in corpora],
            ),
            (
                Head(name="Target tokens", unit="subwords"),
                [format_number(corpus.target_tokens, 0) for corpus in corpora],
            ),
            (Head(name="Mean length", unit="subwords"), [format_number(corpus.mean_length, 2) for corpus in corpora]),
            (Head(name="Complexity", unit="C(d), nats"), [format_number(corpus.complexity, 3) for corpus in corpora]),
            (
                Head(name="Faithfulness", unit="F(d), nats"),
                [format_number(corpus.faithfulness, 3) for corpus in corpora],
            ),
            (
                Head(name="Same as reference", unit="% of rows"),
                [format_number(to_percent(c.equal_reference), 1) for c in corpora],
            ),
        ]
    )


def distill_table(entries: Sequence[DistillEntry]) -> Table:
    """Make the table of decodes of the training corpus."""
    return make_table(
        [
            (Head(name="Decode", number=False), [format_text(entry.name) for entry in entries]),
            (Head(name="Rows"), [format_number(entry.rows, 0) for entry in entries]),
            (Head(name="Beam"), [format_number(entry.beam, 0) for entry in entries]),
            (Head(name="Kept", unit="best of each row"), [format_number(entry.nbest, 0) for entry in entries]),
            (
                Head(name="Speed", unit="sentences/s"),
                [format_number(entry.sentences_per_second, 1) for entry in entries],
            ),
            (Head(name="Precision", number=False), [format_text(entry.precision) for entry in entries]),
            (Head(name="Device", number=False), [format_text(entry.device) for entry in entries]),
        ]
    )


def cost_table(entries: Sequence[CostEntry]) -> Table:
    """Make the table of the costs of stages, with their sum in the last row."""
    everything = total(entry.cost for entry in entries)
    costs = [*(entry.cost for entry in entries), everything]
    names = [Cell(text=entry.stage, sort=entry.stage, note=entry.name) for entry in entries]
    joules = [
        (
            Head(name="Energy", unit=f"joules, {SOURCES.get(source, source)}"),
            [format_number(cost.joules.get(source), 0) for cost in costs],
        )
        for source in dict.fromkeys(source for cost in costs for source in cost.joules)
    ]
    return make_table(
        [
            (Head(name="Stage", number=False), [*names, Cell(text="all", sort="", best=True)]),
            (Head(name="Wall-clock", unit="seconds"), [format_number(cost.seconds, 1) for cost in costs]),
            (Head(name="CPU", unit="seconds"), [format_number(cost.cpu_seconds, 1) for cost in costs]),
            (
                Head(name="Peak memory", unit="MB, one process"),
                [format_number(cost.peak_memory_bytes / 1e6 or None, 0) for cost in costs],
            ),
            *joules,
            (Head(name="Attempts"), [format_number(cost.begun, 0) for cost in costs]),
            (Head(name="Killed", unit="attempts"), [format_number(cost.cut or None, 0) for cost in costs]),
            (Head(name="Not counted", number=False), [format_text(cost.uncounted) for cost in costs]),
        ]
    )


def metric_column(name: str, values: Sequence[float | None], *, unit: str | None = None) -> tuple[Head, Sequence[Cell]]:
    """Make the column of a metric. The highest value is bold if higher is better.

    Args:
        name: The name of the metric. A metric whose package is no longer installed is shown by its name.
        values: The values, one for each row of the table.
        unit: The unit, if it differs from that of the metric.
    """
    metric = METRICS.find(name)
    if metric is None:
        return Head(name=name, unit=unit or ""), [format_number(value, 2) for value in values]
    shown = [to_percent(value) for value in values] if metric.percent else values
    head = Head(name=metric.label, unit=metric.unit if unit is None else unit)
    if metric.direction == "higher":
        return head, mark_highest(shown, metric.digits)
    return head, [format_number(value, metric.digits) for value in shown]


def format_number(value: float | None, digits: int) -> Cell:
    """Format a number with thousands separators, or a dash."""
    if value is None:
        return Cell(text=NOTHING, sort="")
    return Cell(text=f"{value:,.{digits}f}", sort=repr(float(value)))


def mark_highest(values: Sequence[float | None], digits: int) -> list[Cell]:
    """Format numbers, and mark the highest ones, as they are shown, unless all are equal."""
    shown = [round(value, digits) for value in values if value is not None]
    cells = []
    for value in values:
        cell = format_number(value, digits)
        best = value is not None and len(set(shown)) > 1 and round(value, digits) == max(shown)
        cells.append(Cell(text=cell.text, sort=cell.sort, best=best))
    return cells


def format_text(value: str) -> Cell:
    """Format a text, or a dash."""
    return Cell(text=value or NOTHING, sort=value)


def to_percent(share: float | None) -> float | None:
    """Convert a share of 0 to 1 to per cent."""
    return None if share is None else 100.0 * share


def _describe_rule(corpus: CorpusEntry) -> str:
    """Return the rule, unless it is also the name of the corpus."""
    return corpus.rule if corpus.rule != corpus.name else ""


def make_table(columns: Sequence[tuple[Head, Sequence[Cell]]]) -> Table:
    """Make a table of columns, without empty ones."""
    used = [(head, cells) for head, cells in columns if any(cell.text != NOTHING for cell in cells)]
    rows = tuple(zip(*(cells for _, cells in used), strict=True))
    return Table(heads=tuple(head for head, _ in used), rows=rows)
