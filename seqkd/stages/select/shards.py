"""Selection within one shard: the distilled rows, and the list of rejected hypotheses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqkd.config.stages import SelectConfig
from seqkd.corpus.manifest import ShardInfo, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.corpus.row_ids import ranked_ids, row_ids
from seqkd.corpus.schema import RIVALS, exchange_sides
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError, ModelError
from seqkd.executors.work import Completion
from seqkd.extensions import resolve
from seqkd.metrics.tokenizers import choose_tokenizer
from seqkd.selection.choosing import (
    DROPPED,
    GOLD,
    Choice,
    choose,
    choose_several,
    judge_all,
    softmax_weights,
)
from seqkd.selection.filters import BARE, Codes, Filters
from seqkd.selection.lists import Floats, Integers, Lists, one_array, sizes
from seqkd.selection.rules import PIECES, Means
from seqkd.selection.sentence_bleu import SentenceBleu
from seqkd.stages.asking import Notes, note_answers, take_notes
from seqkd.stages.prepare.shared_sources import SOURCE_ROW
from seqkd.text.languages import has_blanks
from seqkd.text.ranges import list_ranges
from seqkd.text.vocabularies import Vocabularies

# Rows are judged in fixed pieces. Memory then does not grow with the shard, and neither the shard nor the number of
# workers changes which pairs of texts a model scores together.
PIECE_ROWS = 1024
NAMED_IDS = 10  # in an error message

BACK_TRANSLATION = "backtranslation"  # an origin
DROP, NEXT, REPLACED = "dropped", "next hypothesis", "gold target"


class ShardSelector:
    """Selects shard by shard: for each row the hypothesis with the highest value by a rule, or all hypotheses.

    Args:
        config: The settings of the stage.
        filters: The filters, with the percentile of scores as a number.
        device: The device of the models that a rule uses.
    """

    def __init__(self, config: SelectConfig, filters: Filters, device: str) -> None:
        self._kbest, self._gold = Corpus.open(config.kbest, "kbest"), Corpus.open(config.gold, "corpus")
        self._config = config
        self._tag = tag_id(config)
        self._filters = filters
        self._language = str(self._gold.manifest.extra.get("target_language") or "")
        self._means = Means(
            bleu=SentenceBleu(sentence_tokenizer(config, self._gold), config.smoothing),
            pieces=config.tokenizer == PIECES,
            seed=config.seed,
            judge=_judge(config, device),
            settings=config.settings,
        )

    def make(self, out: Path, index: int) -> Completion[ShardInfo]:
        """Select one shard, and return the function that writes it into `out`.

        Raises:
            CorpusError: The rows of the two shards do not belong together.
        """
        rows, lists = self._gold.read_shard(index), self._kbest.read_shard(index)
        lists = lists.take(pa.array(_match_rows(rows, lists, self._kbest.path / self._kbest.shards[index].name)))
        everything = Lists.of_tables(
            rows, lists, blanks=not self._language or has_blanks(self._language), language=self._language
        )
        table, rejected = self._several(rows, everything) if self._config.weighs else self._best(rows, everything)
        if self._config.reverse:
            table = _swap_sides(table, self._config.tag, self._tag)
        return partial(_write, out, index, table, rejected, take_notes())

    def _best(self, rows: pa.Table, lists: Lists) -> tuple[pa.Table, str]:
        """Select one hypothesis for each row; return the distilled rows and the list of rejected ones."""
        record, parts, rivals = self._config.record, [], []
        values = resolve(str(record.values))
        for piece in lists.pieces(PIECE_ROWS):
            parts.append(choose(piece, values(piece, self._means), self._filters, self._config.rejected))
            if record.rivals is not None:
                found = resolve(record.rivals)(piece, self._means)
                rivals.append((choose(piece, found.values, self._filters, "next"), found.gains))
        choice = _join_choices(parts, lists)
        kept = np.flatnonzero(choice.picks != DROPPED)
        table = _table(rows, lists, kept, choice.picks[kept], self._config.rule)
        if record.rivals is not None:
            others = _join_choices([rival for rival, _ in rivals], lists).picks[kept]
            gains = np.concatenate([np.zeros(0), *(gain for _, gain in rivals)])
            table = _add_rivals(table, lists, choice.picks[kept], others, gains)
        return table, _list_rejected(lists, choice, self._filters)

    def _several(self, rows: pa.Table, lists: Lists) -> tuple[pa.Table, str]:
        """Select the best hypotheses of each row, or all that no filter rejects, each as its own row."""
        chosen, codes = [np.zeros(0, np.bool_)], [np.zeros(0, np.uint8)]
        for piece in lists.pieces(PIECE_ROWS):
            if self._config.record.values is None:
                codes.append(judge_all(piece, self._filters))
                chosen.append(codes[-1] == 0)
            else:
                values = resolve(self._config.record.values)(piece, self._means)
                several = choose_several(piece, values, self._filters, self._config.rejected, self._config.keep)
                chosen.append(several[0])
                codes.append(several[1])
        return self._rows_of_several(rows, lists, np.flatnonzero(np.concatenate(chosen)), np.concatenate(codes))

    def _rows_of_several(self, rows: pa.Table, lists: Lists, picks: Integers, codes: Codes) -> tuple[pa.Table, str]:
        """Make a row of each chosen hypothesis. Return the rows and the list of rejected hypotheses."""
        left = np.bincount(lists.owners[picks], minlength=len(lists.counts))
        lost = np.flatnonzero(left == 0) if self._config.rejected == "gold" else np.zeros(0, dtype=np.int64)
        kept = np.concatenate([lists.owners[picks], lost])
        picks = np.concatenate([picks, np.full(len(lost), GOLD)])
        order = np.argsort(kept, kind="stable")
        kept, picks = kept[order], picks[order]
        table = _table(rows, lists, kept, picks, self._config.rule)
        ranks = np.where(picks == GOLD, 0, np.append(lists.ranks, 0)[picks])
        ids = pa.array(ranked_ids(lists.ids[kept], ranks))
        return add_weights(table.set_column(0, "id", ids)), _list_all_rejected(lists, codes, lost, self._filters)


def _write(out: Path, index: int, table: pa.Table, rejected: str, notes: Notes) -> ShardInfo:
    """Write a shard. The list of rejected rows is written first, so a shard never lacks its list."""
    note_answers(out, index, [notes])
    atomic_write(rejects_path(out, index), rejected.encode())
    return write_shard(out, index, table)


def add_weights(table: pa.Table) -> pa.Table:
    """Add weights to rows: the remaining hypotheses of a list, or its gold target, share weight 1."""
    scores = table.column("score").to_numpy().astype(np.float64)  # a gold target's is NaN
    weights = softmax_weights(row_ids(table.column("id").to_numpy()), np.nan_to_num(scores, nan=0.0))
    table = table.drop_columns(["weight"]) if "weight" in table.column_names else table
    return table.append_column("weight", pa.array(weights.astype(np.float32)))


def candidate_ids(gold: pa.Table, kbest: pa.Table) -> Integers:
    """Return the ids that rule "all" may keep of a shard, in order: every hypothesis, and rows with an empty list."""
    ids, listed = gold.column("id").to_numpy(), kbest.column("id").to_numpy()
    order = np.argsort(listed)
    counts = np.maximum(sizes(one_array(kbest.column("hypotheses"))), 1)
    counts = counts[order[np.searchsorted(listed, ids, sorter=order)]]
    return ranked_ids(np.repeat(ids, counts), list_ranges(np.zeros_like(counts), counts))


def sentence_tokenizer(config: SelectConfig, gold: Corpus) -> str:
    """Return the tokenizer of sentence BLEU.

    Raises:
        InputError: The tokenizer is not installed.
    """
    if config.tokenizer == "pieces":
        return "none"
    if config.tokenizer == "auto" and "bleu" not in config.record.reads:
        return "13a"  # unused: a rule without BLEU needs no further package
    return choose_tokenizer(config.tokenizer, gold.manifest.extra.get("target_language"))


def tag_id(config: SelectConfig) -> int | None:
    """Return the id of the tag with which back-translated sources begin, or None if there is no tag.

    Raises:
        ModelError: The tag is not a piece of the vocabulary.
    """
    if not config.tag:
        return None
    vocabulary = Vocabularies.load(config.prepared).source
    found = vocabulary.id_of(config.tag)
    if found is None:
        raise ModelError(
            f"has no piece {config.tag!r}, which is the tag of back-translated sources",
            where=str(vocabulary.path),
            hint="add it to vocabulary.symbols and prepare again, name an existing piece, or leave `tag` out",
        )
    return found


def rejects_path(out: Path, index: int) -> Path:
    """Return the file that lists a shard's rejected rows until all shards exist: id, reason and replacement."""
    return out / f"rejected-{index:05d}.tsv"


def _judge(config: SelectConfig, device: str) -> Callable[[Lists], Floats] | None:
    if config.judge is None:
        return None
    build = resolve(config.judge.record.build)  # torch is not loaded for rules that need no model
    judge: Callable[[Lists], Floats] = build(config.judge.settings, device)
    return judge


def _join_choices(parts: list[Choice], lists: Lists) -> Choice:
    """Join the choices of all pieces, with places in the whole shard."""
    if not parts:
        return Choice(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8))
    picks = np.concatenate([part.picks for part in parts])
    ends = np.cumsum([len(part.picks) for part in parts])
    first = lists.firsts[[0, *ends[:-1]]]
    shifts = np.repeat(first, np.diff([0, *ends]))
    return Choice(np.where(picks >= 0, picks + shifts, picks), np.concatenate([part.reasons for part in parts]))


def _list_rejected(lists: Lists, choice: Choice, filters: Filters) -> str:
    lines = []
    for row in np.flatnonzero(choice.reasons).tolist():
        became = {DROPPED: DROP, GOLD: REPLACED}.get(int(choice.picks[row]), NEXT)
        lines.append(f"{lists.ids[row]}\t{filters.reasons[choice.reasons[row]]}\t{became}\n")
    return "".join(lines)


def _list_all_rejected(lists: Lists, codes: Codes, lost: Integers, filters: Filters) -> str:
    """List the rejected hypotheses if a row may have several.

    A gold target replaces the rejected hypothesis of its row with the best rank, under the id of the row.
    """
    replaced = set(lost.tolist())
    bare = np.flatnonzero(lists.counts == 0)
    wrong = np.flatnonzero(codes)
    owners, ranks = np.append(lists.owners[wrong], bare), np.append(lists.ranks[wrong], np.zeros(len(bare), np.int64))
    reasons = np.append(codes[wrong], np.full(len(bare), BARE, dtype=np.uint8))
    lines = []
    for n in np.lexsort((ranks, owners)).tolist():
        owner = int(owners[n])
        became = REPLACED if owner in replaced else DROP
        replaced.discard(owner)
        row = lists.ids[owner] if became == REPLACED else ranked_ids(lists.ids[owner], ranks[n])
        lines.append(f"{row}\t{filters.reasons[reasons[n]]}\t{became}\n")
    return "".join(lines)


def _table(rows: pa.Table, lists: Lists, kept: Integers, picks: Integers, rule: str) -> pa.Table:
    """Build the distilled rows: the rows at the ascending places `kept`, each with a hypothesis or GOLD."""
    taught = picks != GOLD
    # Hypotheses and after them the gold rows.
    places = pa.array(np.where(taught, picks, len(lists.owners) + kept))
    scores = pa.concat_arrays([lists.hypotheses.field("score"), pa.nulls(len(lists.counts), pa.float32())])
    added = {
        "target": pa.concat_arrays([lists.texts, lists.references]).take(places),
        "target_ids": pa.concat_arrays([lists.token_ids, lists.reference_ids]).take(places),
        "score": scores.take(places),
        "rule": pa.array([rule] * len(kept), pa.string()),
        "origin": pa.array(np.where(taught, "teacher", "gold").tolist(), pa.string()),
    }
    joined = [SOURCE_ROW] if SOURCE_ROW in rows.column_names else []
    table = rows.select(["id", "source", "source_ids", *joined]).take(pa.array(kept))
    for name, column in added.items():
        table = table.append_column(name, column)
    return table


def _add_rivals(table: pa.Table, lists: Lists, picks: Integers, rivals: Integers, gains: Floats) -> pa.Table:
    """Add the rivals of targets to distilled rows.

    If the target of a row is the gold text, or filters reject all hypotheses, the target is its own rival.

    Args:
        table: The rows.
        lists: The k-best lists of the shard.
        picks: `[rows]`, the hypothesis of each row, or GOLD.
        rivals: `[rows]`, its rival, or a negative number if there is none.
        gains: `[hypotheses]`; a margin is the gain of the target minus that of the rival.
    """
    paired = (picks >= 0) & (rivals >= 0)
    places = pa.array(np.where(paired, rivals, len(lists.owners) + np.arange(len(picks))))
    ours, theirs = (gains[which[paired]] for which in (picks, rivals))
    margins = np.zeros(len(picks), dtype=np.float32)
    margins[paired] = ours - theirs
    texts = pa.concat_arrays([lists.texts, one_array(table.column("target"))])
    ids = pa.concat_arrays([lists.token_ids, one_array(table.column("target_ids"))])
    columns = (texts.take(places), ids.take(places), pa.array(margins))
    for name, column in zip(RIVALS, columns, strict=True):
        table = table.append_column(name, column)
    return table


def _swap_sides(table: pa.Table, tag: str, piece: int | None) -> pa.Table:
    """Make the hypotheses sources, with a tag (Caswell et al. 2019), and the text that was decoded targets."""
    table = exchange_sides(table)
    if piece is not None:
        texts = pa.array([f"{tag} {text}" for text in table.column("source").to_pylist()], pa.string())
        ids = pa.array([[piece, *row] for row in table.column("source_ids").to_pylist()], pa.list_(pa.int32()))
        for name, column in (("source", texts), ("source_ids", ids)):
            table = table.set_column(table.schema.get_field_index(name), name, column)
    origins = pa.array([BACK_TRANSLATION] * table.num_rows, pa.string())
    return table.set_column(table.schema.get_field_index("origin"), "origin", origins)


def _match_rows(rows: pa.Table, lists: pa.Table, where: Path) -> Integers:
    """Return the position in `lists` of each row, by id. The sources must agree, too, as dense ids always match."""
    wanted, found = rows.column("id").to_numpy(), lists.column("id").to_numpy()
    unique, first, times = np.unique(found, return_index=True, return_counts=True)
    problems = {
        "more than one k-best list": unique[times > 1],
        "no k-best list": np.setdiff1d(wanted, unique),
        "a k-best list, but no row in the corpus": np.setdiff1d(unique, wanted),
    }
    for what, ids in problems.items():
        if len(ids):
            raise _mismatch(f"{len(ids)} ids with {what}: {_name_ids(ids)}", where)
    positions: Integers = first[np.searchsorted(unique, wanted)]
    sources = one_array(lists.column("source_ids").take(pa.array(positions)))
    ours = one_array(rows.column("source_ids"))
    if not sources.equals(ours):
        pairs = zip(wanted.tolist(), sources.to_pylist(), ours.to_pylist(), strict=True)
        ids = np.array([row for row, theirs, mine in pairs if theirs != mine])
        raise _mismatch(f"{len(ids)} ids were decoded from other sources: {_name_ids(ids)}", where)
    return positions


def _mismatch(what: str, where: Path) -> CorpusError:
    return CorpusError(
        what,
        where=str(where),
        expected="k-best lists of this corpus, one for each id",
        hint="distill this corpus again, or select from the corpus that was decoded",
    )


def _name_ids(ids: Any) -> str:
    return ", ".join(str(row) for row in ids[:NAMED_IDS]) + (", ..." if len(ids) > NAMED_IDS else "")
