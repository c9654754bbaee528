"""The report's tables: which columns, and every number with its digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seqkd.corpus.cost import total
from seqkd.corpus.sensors import GPU, PACKAGES
from seqkd.metrics.registry import METRICS
from seqkd.metrics.results import EvaluationResult
from seqkd.report.contents import Contents, CorpusEntry, CostEntry, DistillEntry, RoundEntry, SyntheticEntry
from seqkd.report.findings import MINUS
from seqkd.report.plots import colour
from seqkd.report.pooling import Pooled
from seqkd.report.twins import decode_label, unit_of

NOTHING = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
SOURCES = {PACKAGES: "CPU packages", GPU: "GPU"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        text: As it is shown.
        sort: As it is sorted; "" goes last.
        best: Whether it stands out.
        series: CSS variable of a series' colour; "" for none.
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


def models_table(pooled: Pooled) -> Table:
    """A row for each decode of each model: its quality and its speed; columns that nothing fills are left out.

    A model of several seeds has the mean of its runs, and behind it the sample standard deviation.
    """
    models = pooled.contents.models
    rows = [(model, name, result) for model in models for name, result in model.decodes.items()]
    colours = {model.name: colour(index) for index, model in enumerate(models)}
    results = [result for _, _, result in rows]
    spreads = [pooled.deviations.get(model.name) for model, _, _ in rows]
    decode_spreads = [
        None if found is None else found.decodes[name] for found, (_, name, _) in zip(spreads, rows, strict=True)
    ]
    rates = [None if result.speed is None else result.speed.sentences_per_second for result in results]
    digits = 1 if min((rate for rate in rates if rate is not None), default=0.0) < 100 else 0
    over = _over(models)

    def outputs(name: str) -> tuple[Head, Sequence[Cell]]:
        column = metric_column(name, [result.measured(name) for result in results])
        return with_spreads(column, name, [None if one is None else one.measured(name) for one in decode_spreads])

    columns: list[tuple[Head, Sequence[Cell]]] = [
        (
            Head(name="Model", number=False),
            [
                Cell(text=m.name, sort=m.name, series=colours[m.name], note=role_of(m, pooled.runs.get(m.name, ())))
                for m, _, _ in rows
            ],
        ),
        (Head(name="Trained on", number=False), [text(model.trained_on) for model, _, _ in rows]),
        (Head(name="Decode", number=False), [text(decode_label(model, name)) for model, name, _ in rows]),
        outputs("bleu"),
        (
            Head(name="Gain", unit=f"{unit_of(models)}, over a student of gold text"),
            [_gain(pooled, m, name) for m, name, _ in rows],
        ),
        (Head(name="p", unit="of the gain"), [_p_value(pooled.contents, m, name) for m, name, _ in rows]),
        outputs("valid"),
        (Head(name="Speed-up", unit=f"one sentence, {over}"), highest([r.speedup_batch1 for r in results], 1)),
        (Head(name="Speed-up", unit=f"in batches, {over}"), highest([result.speedup for result in results], 1)),
        (
            Head(name="Latency", unit="ms, one sentence"),
            [number(None if result.speed is None else result.speed.latency_ms, 1) for result in results],
        ),
        (Head(name="Speed", unit="sentences/s, in batches"), [number(rate, digits) for rate in rates]),
        (Head(name="Parameters", unit="millions"), [number(model.parameters / 1e6, 2) for model, _, _ in rows]),
        outputs("chrf"),
        outputs("ter"),
        outputs("bleu_accepted"),
        *(outputs(name) for name in dict.fromkeys(name for r in results for name in r.further)),
        with_spreads(
            metric_column("perplexity", [model.perplexity for model, _, _ in rows]),
            "perplexity",
            [None if one is None else one.perplexity for one in spreads],
        ),
        metric_column("mode_probability", [m.mode_probability if name == m.quality else None for m, name, _ in rows]),
        (Head(name="Architecture", number=False), [text(model.arch) for model, _, _ in rows]),
        (Head(name="Objective", number=False), [text(model.objective) for model, _, _ in rows]),
    ]
    return _table(columns)


def role_of(model: EvaluationResult, runs: Sequence[str]) -> str:
    """The role of a model, and of how many seeds its numbers are the mean."""
    return f"{model.role}, mean of {len(runs)} seeds" if runs else model.role


def with_spreads(
    column: tuple[Head, Sequence[Cell]], metric: str, spreads: Sequence[float | None]
) -> tuple[Head, Sequence[Cell]]:
    """A metric's column with the standard deviation behind each number that is the mean of several seeds."""
    record = METRICS.find(metric)
    share, digits = (False, 2) if record is None else (record.percent, record.digits)
    head, cells = column
    notes = [percent(found) if share else found for found in spreads]
    return head, [
        cell if note is None else replace(cell, note=f"{PLUS_MINUS} {note:.{digits}f}")
        for cell, note in zip(cells, notes, strict=True)
    ]


def _gain(pooled: Pooled, model: EvaluationResult, decode: str) -> Cell:
    """With its sign, and over whom; of several seeds with its standard deviation and the number of pairs."""
    gain = pooled.gains[model.name].get(decode)
    if gain is None:
        return number(None, 2)
    over = pooled.overs[model.name]
    if model.name not in pooled.runs:
        return _signed(gain.mean, note=over)
    deviation = "" if gain.deviation is None else f"{PLUS_MINUS} {gain.deviation:.2f}, "
    return _signed(gain.mean, note=f"{deviation}{over}, n = {gain.n}")


def _p_value(contents: Contents, model: EvaluationResult, decode: str) -> Cell:
    """How probable the gain is by chance."""
    tested = model.decodes[decode].significance.get(model.decodes[decode].main)
    if tested is None or decode not in contents.significance(model):
        return number(None, 3)
    cell = number(tested.p_value, 3)
    return cell if tested.p_value >= 0.001 else replace(cell, text="<0.001")


def _signed(value: float, *, note: str = "") -> Cell:
    shown = f"{round(value, 2) + 0.0:+.2f}".replace("-", MINUS)  # no -0.0
    return Cell(text=shown, sort=repr(value), note=note)


def _over(models: Sequence[EvaluationResult]) -> str:
    over = {model.baseline.decode for model in models if model.baseline is not None}
    return "over the teacher" + (f" at beam {min(over)}" if len(over) == 1 and min(over).isdecimal() else "")


def rounds_table(contents: Contents) -> Table:
    """A row for each student and round, after the first teacher's; gains are over the student's first round."""
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
            return number(None, 2)
        return _signed(model.decodes[model.quality].score - first.decodes[first.quality].score)

    named = [
        Cell(text=entry.student, sort=entry.student, series=colour(1 + students.index(entry.student)))
        for entry in contents.rounds
    ]
    return _table(
        [
            (
                Head(name="Student", number=False),
                [Cell(text=teacher.name, sort=teacher.name, series=colour(0), note="teacher"), *named],
            ),
            (Head(name="Round"), [number(0, 0), *(number(entry.number, 0) for entry in contents.rounds)]),
            (Head(name="Taught by", number=False), [text(""), *(text(entry.teacher) for entry in contents.rounds)]),
            (Head(name="Trained on", number=False), [text(model.trained_on) for model in all_models]),
            metric_column(
                main, [model.decodes[model.quick].measured(main) for model in all_models], unit="first decode"
            ),
            metric_column(
                main,
                [model.decodes[model.quality].measured(main) for model in all_models],
                unit="largest beam or last decode",
            ),
            (
                Head(name="Gain", unit=f"{unit_of(all_models)}, over round 1"),
                [number(None, 2), *map(gain, contents.rounds)],
            ),
            metric_column("valid", [model.decodes[model.quick].valid for model in all_models], unit="%, first decode"),
            metric_column("perplexity", [model.perplexity for model in all_models]),
            metric_column("mode_probability", [model.mode_probability for model in all_models]),
        ]
    )


def synthetic_table(entries: Sequence[SyntheticEntry]) -> Table:
    """Back-translations."""
    return _table(
        [
            (Head(name="Corpus", number=False), [text(entry.name) for entry in entries]),
            (Head(name="Rows"), [number(entry.rows, 0) for entry in entries]),
            (Head(name="Ratio", unit="rows for each gold row"), [number(entry.ratio, 2) for entry in entries]),
            (Head(name="Left out", unit="rows"), [number(sum(entry.rejected.values()), 0) for entry in entries]),
            (Head(name="Tag", number=False), [text(entry.tag) for entry in entries]),
            (Head(name="Source length", unit="subwords"), [number(entry.source_length, 2) for entry in entries]),
            (Head(name="Target length", unit="subwords"), [number(entry.target_length, 2) for entry in entries]),
            (Head(name="Reverse model", unit="validation BLEU"), [number(entry.bleu, 2) for entry in entries]),
        ]
    )


def corpora_table(corpora: Sequence[CorpusEntry]) -> Table:
    """Training corpora."""
    return _table(
        [
            (
                Head(name="Corpus", number=False),
                [
                    Cell(text=corpus.name, sort=corpus.name, series=colour(index), note=_rule(corpus))
                    for index, corpus in enumerate(corpora)
                ],
            ),
            (Head(name="Rows"), [number(corpus.rows, 0) for corpus in corpora]),
            (Head(name="Left out", unit="rows"), [number(sum(corpus.rejected.values()), 0) for corpus in corpora]),
            (Head(name="Unknown", unit="rows with unknown pieces"), [number(c.unknown_rows, 0) for c in corpora]),
            (Head(name="Target tokens", unit="subwords"), [number(corpus.target_tokens, 0) for corpus in corpora]),
            (Head(name="Mean length", unit="subwords"), [number(corpus.mean_length, 2) for corpus in corpora]),
            (Head(name="Complexity", unit="C(d), nats"), [number(corpus.complexity, 3) for corpus in corpora]),
            (Head(name="Faithfulness", unit="F(d), nats"), [number(corpus.faithfulness, 3) for corpus in corpora]),
            (
                Head(name="Same as reference", unit="% of rows"),
                [number(percent(c.equal_reference), 1) for c in corpora],
            ),
        ]
    )


def distill_table(entries: Sequence[DistillEntry]) -> Table:
    """Decodes of the training corpus."""
    return _table(
        [
            (Head(name="Decode", number=False), [text(entry.name) for entry in entries]),
            (Head(name="Rows"), [number(entry.rows, 0) for entry in entries]),
            (Head(name="Beam"), [number(entry.beam, 0) for entry in entries]),
            (Head(name="Kept", unit="best of each row"), [number(entry.nbest, 0) for entry in entries]),
            (Head(name="Speed", unit="sentences/s"), [number(entry.sentences_per_second, 1) for entry in entries]),
            (Head(name="Precision", number=False), [text(entry.precision) for entry in entries]),
            (Head(name="Device", number=False), [text(entry.device) for entry in entries]),
        ]
    )


def cost_table(entries: Sequence[CostEntry]) -> Table:
    """The cost of each stage, and at the end the sum."""
    everything = total(entry.cost for entry in entries)
    costs = [*(entry.cost for entry in entries), everything]
    names = [Cell(text=entry.stage, sort=entry.stage, note=entry.name) for entry in entries]
    joules = [
        (
            Head(name="Energy", unit=f"joules, {SOURCES.get(source, source)}"),
            [number(cost.joules.get(source), 0) for cost in costs],
        )
        for source in dict.fromkeys(source for cost in costs for source in cost.joules)
    ]
    return _table(
        [
            (Head(name="Stage", number=False), [*names, Cell(text="all", sort="", best=True)]),
            (Head(name="Wall-clock", unit="seconds"), [number(cost.seconds, 1) for cost in costs]),
            (Head(name="CPU", unit="seconds"), [number(cost.cpu_seconds, 1) for cost in costs]),
            (
                Head(name="Peak memory", unit="MB, one process"),
                [number(cost.peak_memory_bytes / 1e6 or None, 0) for cost in costs],
            ),
            *joules,
            (Head(name="Attempts"), [number(cost.begun, 0) for cost in costs]),
            (Head(name="Killed", unit="attempts"), [number(cost.cut or None, 0) for cost in costs]),
            (Head(name="Not counted", number=False), [text(cost.uncounted) for cost in costs]),
        ]
    )


def metric_column(name: str, values: Sequence[float | None], *, unit: str | None = None) -> tuple[Head, Sequence[Cell]]:
    """A metric's column. The highest value stands out if higher is better.

    Args:
        name: The metric's; one whose package has been uninstalled since is shown by its name.
        values: One for each row of the table.
        unit: In place of the metric's own.
    """
    metric = METRICS.find(name)
    if metric is None:
        return Head(name=name, unit=unit or ""), [number(value, 2) for value in values]
    shown = [percent(value) for value in values] if metric.percent else values
    head = Head(name=metric.label, unit=metric.unit if unit is None else unit)
    if metric.direction == "higher":
        return head, highest(shown, metric.digits)
    return head, [number(value, metric.digits) for value in shown]


def number(value: float | None, digits: int) -> Cell:
    """A number with thousands separators, or a dash."""
    if value is None:
        return Cell(text=NOTHING, sort="")
    return Cell(text=f"{value:,.{digits}f}", sort=repr(float(value)))


def highest(values: Sequence[float | None], digits: int) -> list[Cell]:
    """Numbers, of which the highest as it is shown stands out if not all are the same."""
    shown = [round(value, digits) for value in values if value is not None]
    cells = []
    for value in values:
        cell = number(value, digits)
        best = value is not None and len(set(shown)) > 1 and round(value, digits) == max(shown)
        cells.append(Cell(text=cell.text, sort=cell.sort, best=best))
    return cells


def text(value: str) -> Cell:
    """Words, or a dash."""
    return Cell(text=value or NOTHING, sort=value)


def percent(share: float | None) -> float | None:
    """A share of 0 to 1 in percent."""
    return None if share is None else 100.0 * share


def _rule(corpus: CorpusEntry) -> str:
    """The rule, unless the corpus is called by it."""
    return corpus.rule if corpus.rule != corpus.name else ""


def _table(columns: Sequence[tuple[Head, Sequence[Cell]]]) -> Table:
    """Columns to rows, without columns that hold nothing."""
    used = [(head, cells) for head, cells in columns if any(cell.text != NOTHING for cell in cells)]
    rows = tuple(zip(*(cells for _, cells in used), strict=True))
    return Table(heads=tuple(head for head, _ in used), rows=rows)
