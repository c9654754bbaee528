"""The report's tables: which columns, and every number with its digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqkd.metrics.results import EvaluationResult
from seqkd.stages.report_page.contents import CorpusEntry, DistillEntry
from seqkd.stages.report_page.plots import colour

NOTHING = "\N{EN DASH}"


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


def models_table(models: Sequence[EvaluationResult]) -> Table:
    """Models, their quality and their speed; columns that no model has are left out."""
    beams = sorted({beam for model in models for beam in model.beams})
    columns: list[tuple[Head, list[Cell]]] = [
        (
            Head(name="Model", number=False),
            [
                Cell(text=model.name, sort=model.name, series=colour(index), note=model.role)
                for index, model in enumerate(models)
            ],
        ),
        (Head(name="Trained on", number=False), [text(model.trained_on) for model in models]),
        (Head(name="Parameters", unit="millions"), [number(model.parameters / 1e6, 2) for model in models]),
    ]

    def per_beam(name: str, unit: str, value: Callable[[EvaluationResult, int], float | None], digits: int) -> None:
        for beam in beams:
            head = Head(name=name, unit=f"{unit}beam {beam}")
            found = [value(model, beam) if beam in model.beams else None for model in models]
            columns.append((head, highest(found, digits)))

    best = "largest beam"
    per_beam("BLEU", "", lambda model, beam: model.beams[beam].bleu, 2)
    per_beam("Valid outputs", "%, ", lambda model, beam: percent(model.beams[beam].valid), 1)
    slowest = min((result.sentences_per_second for model in models for result in model.beams.values()), default=0.0)
    digits = 1 if slowest < 100 else 0
    per_beam("Speed", "sentences/s, ", lambda model, beam: model.beams[beam].sentences_per_second, digits)
    columns += [
        (Head(name="Latency", unit="ms, one sentence, first beam"), [number(model.latency_ms, 1) for model in models]),
        (Head(name="chrF", unit=best), highest([model.beams[model.quality_beam].chrf for model in models], 2)),
        (Head(name="TER", unit=best), [number(model.beams[model.quality_beam].ter, 2) for model in models]),
        (Head(name="Perplexity", unit="per token"), [number(model.perplexity, 2) for model in models]),
        (Head(name="Mode", unit=f"probability, %, {best}"), [number(100 * m.mode_probability, 2) for m in models]),
    ]
    per_beam("BLEU, all accepted", "", lambda model, beam: model.beams[beam].bleu_accepted, 2)
    columns += [
        (Head(name="Architecture", number=False), [text(model.arch) for model in models]),
        (Head(name="Objective", number=False), [text(model.objective) for model in models]),
    ]
    return _table(columns)


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


def number(value: float | None, digits: int) -> Cell:
    """A number with thousands separators, or a dash."""
    if value is None:
        return Cell(text=NOTHING, sort="")
    return Cell(text=f"{value:,.{digits}f}", sort=repr(float(value)))


def highest(values: Sequence[float | None], digits: int) -> list[Cell]:
    """Numbers, of which the highest as it is shown stands out if there are several."""
    shown = [round(value, digits) for value in values if value is not None]
    cells = []
    for value in values:
        cell = number(value, digits)
        best = value is not None and len(shown) > 1 and round(value, digits) == max(shown)
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
