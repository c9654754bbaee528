"""The reader of the contents of the report from the folders of a pipeline."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.config.report import PseudoPath, SyntheticPath
from seqkd.config.stages import ReportConfig, TrainingConfig
from seqkd.config.written import fill_in_neutral
from seqkd.corpus.cost import read_cost
from seqkd.corpus.manifest import MANIFEST, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.row_ids import row_ids
from seqkd.corpus.unknowns import UNKNOWN_ROWS
from seqkd.errors import CorpusError
from seqkd.metrics.alignment import Ints, RaggedIds, align, count_cells
from seqkd.metrics.complexity import complexity, faithfulness
from seqkd.metrics.lengths import bin_width, length_histogram
from seqkd.metrics.results import read_result
from seqkd.report.agreement import add_agreement
from seqkd.report.contents import (
    Contents,
    CorpusEntry,
    CostEntry,
    CurvePoint,
    DistillEntry,
    RoundEntry,
    Sample,
    SampleText,
    SyntheticEntry,
)
from seqkd.report.languages import measure_texts
from seqkd.report.shared import choose_shared
from seqkd.report.timelines import read_timelines
from seqkd.stages.prepare.shared_sources import SOURCE_ROW
from seqkd.stages.prepare.targets import TARGETS
from seqkd.text.languages import word_spans
from seqkd.text.ranges import list_ranges

ALIGNED_ROWS = 20_000  # the most rows that are aligned for complexity and faithfulness
ALIGNED_CELLS = 6_000_000  # the most word combinations of a corpus that are aligned: about 300 MB
ALIGNED_CORPORA = 4  # the most corpora of this size that are aligned together: about 530 MB
SEARCHED_ROWS = 2_000  # the rows among which samples are chosen
SAMPLE_WORDS = 30  # longer samples are hard to compare
BINS = 40
GOLD = "gold"
HISTORY = "history.json"
SPEED = "speed.json"


@dataclass(frozen=True, slots=True)
class _Texts:
    """A training corpus, with the positions of its ids.

    Several rows may be hypotheses of one row. They share its id here, in the order of their ranks. If gold text has
    several targets for each source, all rows with one source have the id of the first of them.
    """

    name: str
    corpus: Corpus
    ids: Ints  # [rows], by position
    order: Ints  # positions by ascending id
    source_lengths: Ints
    target_lengths: Ints
    first_rows: tuple[Ints, Ints] | None = None  # of gold text with several targets: its ids, and the ids to use here

    def find_positions(self, ids: Ints) -> Ints:
        """Find the positions of ids that are all in the corpus; of several rows with an id, the first one."""
        found: Ints = self.order[np.searchsorted(self.ids, ids, sorter=self.order)]
        return found

    def find_all_positions(self, ids: Ints) -> Ints:
        """Find the positions of all rows with these ids."""
        first, last = (np.searchsorted(self.ids, ids, side, sorter=self.order) for side in ("left", "right"))
        found: Ints = self.order[list_ranges(first, last - first)]
        return found


def gather(config: ReportConfig, *, aligned_cells: int = ALIGNED_CELLS) -> Contents:
    """Read the folders.

    Args:
        config: The settings of the stage.
        aligned_cells: The most word combinations of a corpus that are aligned.

    Raises:
        CorpusError: A folder is missing, unfinished or damaged.
    """
    gold = _join_targets(_open_texts(GOLD, config.prepared / "train"))
    distilled = [_join_sources(_open_texts(named.name, named.path), gold) for named in config.corpora]
    shared = _find_shared_ids(gold, distilled)
    corpora, aligned_rows = _describe_corpora(gold, distilled, shared, aligned_cells)
    curves = {named.name: read_history(named.path) for named in config.models}
    models = add_agreement(config, [read_result(named.path) for named in config.evaluations])
    return Contents(
        pipeline=config.pipeline,
        title=config.title,
        corpora=corpora,
        distill=tuple(_describe_decode(named.name, named.path) for named in config.distill),
        models=models,
        agreement_with="" if config.agreement is None else config.agreement.name,
        rounds=tuple(
            RoundEntry(student=student.name, number=number, model=model, teacher=teacher)
            for student in config.rounds
            for number, (model, teacher) in enumerate(zip(student.evaluations, config.teachers, strict=True), start=1)
        ),
        synthetic=(
            *(_describe_synthetic(part, gold.corpus.rows) for part in config.backtranslation),
            *(_describe_synthetic(part, gold.corpus.rows) for part in config.selftraining),
        ),
        runs={part.name: part.evaluations for part in config.seeds},
        tests={part.name: {named.name: read_result(named.path) for named in part.evaluations} for part in config.tests},
        baselines=dict(config.baselines),
        timelines=tuple(line for named in config.models for line in read_timelines(named.name, named.path / HISTORY)),
        curves={name: points for name, points in curves.items() if points},
        languages=tuple(
            measure_texts(
                config.languages,
                [(texts.name, texts.corpus) for texts in (gold, *distilled)],
                config.evaluations,
                models,
            )
        ),
        samples=_choose_samples(gold, distilled, shared, config.samples),
        shared=tuple(choose_shared(gold.corpus, [(each.name, each.corpus) for each in distilled], config.shared)),
        starts={entry.name: entry for entry in config.starts},
        grids=config.grids,
        edges=config.edges,
        kinds=_list_kinds(config),
        aligned_rows=aligned_rows,
        splits=_count_splits(config.prepared),
        seeds=_list_seeds([named.path for named in config.models]),
        costs=tuple(_list_costs(config)),
    )


def _list_costs(config: ReportConfig) -> Iterator[CostEntry]:
    """List the cost of each folder. Folders without a record of their cost are left out."""
    folders = [(GOLD, config.prepared)]
    for part in config.backtranslation:
        folders += [(part.name, path) for path in (part.model, part.path)]
    folders += [(pseudo.name, pseudo.path) for pseudo in config.selftraining]
    for named in (*config.models, *config.distill, *config.soft_targets, *config.corpora, *config.evaluations):
        folders.append((named.name, named.path))
    for test in config.tests:
        folders.append((test.name, test.path))
        folders += [(f"{named.name}@{test.name}", named.path) for named in test.evaluations]
    for name, path in dict.fromkeys(folders):
        if (path / MANIFEST).is_file():
            manifest = read_manifest(path)
            cost = read_cost(path)
            if cost is not None:
                yield CostEntry(stage=str(manifest.fingerprint.get("stage", manifest.kind)), name=name, cost=cost)


def _list_kinds(config: ReportConfig) -> dict[str, str]:
    """Return the kind of each node of the graph. Nodes have kind and name, because two kinds may share a name."""
    kinds = {named.name: "model" for named in config.models}  # the graph has teachers by their names alone
    kinds |= {GOLD: "corpus", "teacher": "model"}
    kinds |= {f"corpus {named.name}": "corpus" for named in config.corpora}
    synthetic = (*config.backtranslation, *config.selftraining)
    kinds |= {f"k-best {named.name}": "kbest" for named in (*config.distill, *synthetic)}
    kinds |= {f"corpus {named.name}": "corpus" for named in synthetic}
    kinds |= {part.model.name: "model" for part in config.backtranslation}
    kinds |= {f"teacher {named.name}": "model" for named in config.models}
    return kinds | {f"student {named.name}": "model" for named in (*config.models, *config.evaluations)}


def _open_texts(name: str, path: Path) -> _Texts:
    corpus = Corpus.open(path, "corpus")
    ids, sources, targets = corpus.lengths()
    if "weight" in corpus.schema.names:
        ids = row_ids(ids)
    return _Texts(name, corpus, ids, np.argsort(ids, kind="stable"), sources.astype(np.int64), targets.astype(np.int64))


def _join_targets(gold: _Texts) -> _Texts:
    """Give all targets of one source the same id."""
    if TARGETS not in gold.corpus.manifest.extra:
        return gold
    tables = list(gold.corpus.tables([SOURCE_ROW]))
    firsts: Ints = np.concatenate([table.column(SOURCE_ROW).to_numpy() for table in tables])
    return replace(gold, ids=firsts, order=np.argsort(firsts, kind="stable"), first_rows=(gold.ids, firsts))


def _join_sources(texts: _Texts, gold: _Texts) -> _Texts:
    """Give the rows of a distilled corpus the ids that their sources have in gold text."""
    if gold.first_rows is None:
        return texts
    known, firsts = gold.first_rows  # ids of gold text ascend
    ids: Ints = firsts[np.searchsorted(known, texts.ids)]
    return replace(texts, ids=ids, order=np.argsort(ids, kind="stable"))


def _find_shared_ids(gold: _Texts, distilled: Sequence[_Texts]) -> Ints:
    """Find the ids that all corpora share, in ascending order."""
    shared: Ints = np.unique(gold.ids)
    for texts in distilled:
        shared = shared[np.isin(shared, texts.ids)]
    return shared


def _pick_evenly(ids: Ints, count: int) -> Ints:
    """Pick at most `count` of `ids`, evenly spread."""
    return ids if len(ids) <= count else ids[np.arange(count) * len(ids) // count]


def _describe_corpora(
    gold: _Texts, distilled: Sequence[_Texts], shared: Ints, aligned_cells: int
) -> tuple[tuple[CorpusEntry, ...], int]:
    everything = [gold, *distilled]
    sample = _pick_evenly(shared, ALIGNED_ROWS)
    places = [texts.find_all_positions(sample) for texts in everything]
    weights = [
        count_cells(t.source_lengths[at], t.target_lengths[at]) for t, at in zip(everything, places, strict=True)
    ]
    cells = [int(weight.sum()) for weight in weights]
    most = max(*cells, sum(cells) // ALIGNED_CORPORA, 0)
    if most > aligned_cells:
        sample = _pick_evenly(sample, max(1, len(sample) * aligned_cells // most))
    longest = max((int(np.quantile(t.target_lengths, 0.99)) for t in everything if len(t.ids)), default=0)
    width = bin_width(longest, bins=BINS)
    # One model for all corpora: otherwise they would differ by their models, and not only by their text.
    real, *others = align([_read_pieces(texts, sample) for texts in everything])
    entries = []
    for texts, aligned in zip(everything, (real, *others), strict=True):
        manifest = texts.corpus.manifest
        histogram = length_histogram(texts.target_lengths.astype(np.int32), width=width, bins=longest // width + 1)
        entries.append(
            CorpusEntry(
                name=texts.name,
                rule="reference" if texts is gold else str(manifest.extra.get("rule", "")),
                rows=texts.corpus.rows,
                target_tokens=int(texts.target_lengths.sum()),
                mean_length=histogram.mean,
                complexity=complexity(aligned) if len(sample) else None,
                faithfulness=faithfulness(real, aligned) if len(sample) else None,
                equal_reference=None if texts is gold else manifest.extra.get("share_equal_to_reference"),
                rejected=dict(manifest.counts),
                unknown_rows=manifest.extra.get(UNKNOWN_ROWS, {}).get("target", 0),
                lengths=histogram,
            )
        )
    return tuple(entries), len(sample)


def _read_pieces(texts: _Texts, ids: Ints) -> tuple[RaggedIds, RaggedIds]:
    """Read the sources and targets of rows."""
    table = texts.corpus.take(texts.find_all_positions(ids), ["source_ids", "target_ids"])
    return _to_ragged(table.column("source_ids")), _to_ragged(table.column("target_ids"))


def _to_ragged(column: pa.ChunkedArray) -> RaggedIds:
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    return RaggedIds(ids=pc.list_flatten(column).to_numpy().astype(np.int64), lengths=lengths)


def _choose_samples(gold: _Texts, distilled: Sequence[_Texts], shared: Ints, count: int) -> tuple[Sample, ...]:
    """Choose rows to show, preferring those on which the corpora differ most, and return them in the order of ids."""
    if not distilled or not count or not len(shared):
        return ()
    ids = _pick_evenly(shared, SEARCHED_ROWS)
    rows = gold.corpus.take(gold.find_positions(ids), ["source", "target"])
    sources, references = (rows.column(name).to_pylist() for name in ("source", "target"))
    columns = [
        texts.corpus.take(texts.find_positions(ids), ["target"]).column("target").to_pylist() for texts in distilled
    ]

    def rank(row: int) -> tuple[bool, int]:
        texts = [references[row], *(column[row] for column in columns)]
        return max(len(word_spans(text)) for text in (sources[row], *texts)) > SAMPLE_WORDS, -len(set(texts))

    ranks = [rank(row) for row in range(len(ids))]
    chosen: list[int] = []
    for wanted in sorted(set(ranks)):
        alike = np.array([row for row, found in enumerate(ranks) if found == wanted], dtype=np.int64)
        chosen += _pick_evenly(alike, count - len(chosen)).tolist()
        if len(chosen) >= count:
            break
    return tuple(
        Sample(
            id=int(ids[row]),
            source=sources[row],
            reference=references[row],
            targets=tuple(
                SampleText(name=texts.name, words=mark_differences(references[row], column[row]))
                for texts, column in zip(distilled, columns, strict=True)
            ),
        )
        for row in sorted(chosen)
    )


def mark_differences(reference: str, text: str) -> tuple[tuple[str, bool], ...]:
    """Split `text` into runs of words, each with whether it differs from the reference.

    In scripts that put no blanks between words, runs consist of characters. A run keeps the blank that follows it, so
    that the runs together are the text.
    """
    spans = word_spans(text)
    ours, theirs = ([one[start:end] for start, end in word_spans(one)] for one in (text, reference))
    blocks = difflib.SequenceMatcher(a=theirs, b=ours, autojunk=False).get_opcodes()
    starts = [*(start for start, _ in spans), len(text)]
    return tuple((text[starts[start] : starts[end]], tag != "equal") for tag, _, _, start, end in blocks if end > start)


def _describe_synthetic(part: SyntheticPath | PseudoPath, gold: int) -> SyntheticEntry:
    """Describe a corpus of monolingual text. Its rows are not gold, so that distilled corpora do not include it."""
    manifest, points = read_manifest(part.path), () if part.model is None else read_history(part.model)
    best = read_manifest(part.model).extra.get("best_update") if part.model is not None and points else None
    rows = max(manifest.rows, 1)
    return SyntheticEntry(
        name=part.name,
        written="source" if isinstance(part, SyntheticPath) else "target",
        rows=manifest.rows,
        ratio=manifest.rows / gold,
        tag=str(manifest.extra.get("tag", "")),
        rejected=dict(manifest.counts),
        source_length=manifest.source_tokens / rows,
        target_length=manifest.target_tokens / rows,
        bleu=next((point.valid_bleu for point in points if point.update == best), None),
    )


def _describe_decode(name: str, path: Path) -> DistillEntry:
    manifest = read_manifest(path)
    speed: dict[str, Any] = _read_json(path / SPEED, dict) or {}
    return DistillEntry(
        name=name,
        rows=manifest.rows,
        rejected=dict(manifest.counts),
        sentences_per_second=speed.get("sentences_per_second"),
        beam=manifest.extra.get("beam"),
        nbest=manifest.extra.get("nbest"),
        device=str(speed.get("device", manifest.extra.get("device", ""))),
        precision=str(manifest.extra.get("precision", "")),
    )


def read_history(path: Path) -> tuple[CurvePoint, ...]:
    """Read the validations of a training run; empty for a model that was brought along."""
    entries: list[dict[str, Any]] = _read_json(path / HISTORY, list) or []
    return tuple(
        CurvePoint(
            update=int(entry["update"]),
            train_loss=entry.get("train_loss"),
            valid_nll=entry.get("valid_nll"),
            valid_bleu=entry.get("valid_bleu"),
        )
        for entry in entries
    )


def _read_json(path: Path, kind: type[Any]) -> Any:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"cannot be read: {error}", where=str(path), hint="make the folder again with the stage that wrote it"
        ) from None
    if not isinstance(values, kind):
        raise CorpusError(
            "does not have the contents that seqkd writes", where=str(path), expected=f"a JSON {kind.__name__}"
        )
    return values


def _count_splits(prepared: Path) -> dict[str, int]:
    return {
        split: read_manifest(prepared / split).rows
        for split in ("train", "valid", "test")
        if (prepared / split / "manifest.json").is_file()
    }


def _list_seeds(models: Sequence[Path]) -> tuple[int, ...]:
    """List the seeds in the manifests of the models."""
    seeds = set()
    for path in models:
        if (path / "manifest.json").is_file():
            training = read_manifest(path).fingerprint.get("config", {}).get("training", {})
            seed = (
                fill_in_neutral(TrainingConfig, training).get("seed")
                if isinstance(training, dict) and training
                else None
            )
            if isinstance(seed, int):
                seeds.add(seed)
    return tuple(sorted(seeds))
