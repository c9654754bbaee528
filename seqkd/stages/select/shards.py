"""One shard of `select`: its k-best lists and gold rows to distilled rows, and the list of what was rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqkd.config.stages import SelectConfig
from seqkd.corpus.manifest import ShardInfo, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.corpus.row_ids import ranked_ids, row_ids
from seqkd.corpus.schema import exchanged
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError, ModelError
from seqkd.extensions import resolve
from seqkd.metrics.tokenizers import choose_tokenizer
from seqkd.selection.choosing import DROPPED, GOLD, Choice, choose, keep, weigh
from seqkd.selection.filters import BARE, Codes, Filters
from seqkd.selection.lists import Floats, Integers, Lists, one_array, sizes
from seqkd.selection.rules import PIECES, Means
from seqkd.selection.sentence_bleu import SentenceBleu
from seqkd.text.languages import has_blanks
from seqkd.text.vocabularies import Vocabularies

# Rows are weighed in fixed pieces: memory grows neither with a shard nor with the workers' number, nor does it change
# which pairs of texts a model scores together.
PIECE_ROWS = 1024
NAMED_IDS = 10  # in an error message

BACK_TRANSLATION = "backtranslation"  # an origin
DROP, NEXT, REPLACED = "dropped", "next hypothesis", "gold target"


class ShardSelector:
    """Selects shard by shard: the hypothesis of the highest value by a rule, or all.

    Args:
        config: The stage's settings.
        filters: What is rejected; the percentile of scores is in it as a number.
        device: Where models are that a rule asks.
    """

    def __init__(self, config: SelectConfig, filters: Filters, device: str) -> None:
        self._kbest, self._gold = Corpus.open(config.kbest, "kbest"), Corpus.open(config.gold, "corpus")
        self._config = config
        self._tag = tag_id(config)
        self._filters = filters
        self._blanks = _blanks_in_targets(self._gold)
        self._means = Means(
            bleu=SentenceBleu(sentence_tokenizer(config, self._gold), config.smoothing),
            pieces=config.tokenizer == PIECES,
            seed=config.seed,
            judge=_judge(config, device),
            settings=config.settings,
        )

    def write(self, out: Path, index: int) -> ShardInfo:
        """Select one shard into `out`; what was rejected is listed first, so that a shard is never without its list.

        Raises:
            CorpusError: The rows of the two shards do not belong together.
            WorkError: The system refuses to write.
        """
        rows, lists = self._gold.read_shard(index), self._kbest.read_shard(index)
        lists = lists.take(pa.array(_join(rows, lists, self._kbest.path / self._kbest.shards[index].name)))
        everything = Lists.of_tables(rows, lists, blanks=self._blanks)
        table, rejected = self._all(rows, everything) if self._config.keeps_all else self._best(rows, everything)
        if self._config.reverse:
            table = _back_translated(table, self._config.tag, self._tag)
        atomic_write(rejects_path(out, index), rejected.encode())
        return write_shard(out, index, table)

    def _best(self, rows: pa.Table, lists: Lists) -> tuple[pa.Table, str]:
        """One hypothesis a row: the distilled rows and the list of what was rejected."""
        values, parts = resolve(str(self._config.record.values)), []
        for piece in lists.pieces(PIECE_ROWS):
            parts.append(choose(piece, values(piece, self._means), self._filters, self._config.rejected))
        choice = _joined(parts, lists)
        kept = np.flatnonzero(choice.picks != DROPPED)
        return _table(rows, lists, kept, choice.picks[kept], self._config.rule), _listed(lists, choice, self._filters)

    def _all(self, rows: pa.Table, lists: Lists) -> tuple[pa.Table, str]:
        """Every hypothesis that no filter rejects, a row each."""
        codes = np.concatenate(
            [np.zeros(0, np.uint8), *(keep(piece, self._filters) for piece in lists.pieces(PIECE_ROWS))]
        )
        picks = np.flatnonzero(codes == 0)
        left = np.bincount(lists.owners[picks], minlength=len(lists.counts))
        lost = np.flatnonzero(left == 0) if self._config.rejected == "gold" else np.zeros(0, dtype=np.int64)
        kept = np.concatenate([lists.owners[picks], lost])
        picks = np.concatenate([picks, np.full(len(lost), GOLD)])
        order = np.argsort(kept, kind="stable")
        kept, picks = kept[order], picks[order]
        table = _table(rows, lists, kept, picks, self._config.rule)
        ranks = np.where(picks == GOLD, 0, np.append(lists.ranks, 0)[picks])
        ids = pa.array(ranked_ids(lists.ids[kept], ranks))
        return weighted(table.set_column(0, "id", ids)), _listed_all(lists, codes, lost, self._filters)


def weighted(table: pa.Table) -> pa.Table:
    """Rows of rule "all" with the weights of what is left of each list; a gold target is all that is left of its."""
    scores = table.column("score").to_numpy().astype(np.float64)  # a gold target's is NaN
    weights = weigh(row_ids(table.column("id").to_numpy()), np.nan_to_num(scores, nan=0.0))
    table = table.drop_columns(["weight"]) if "weight" in table.column_names else table
    return table.append_column("weight", pa.array(weights.astype(np.float32)))


def candidate_ids(gold: pa.Table, kbest: pa.Table) -> Integers:
    """Ids of all that rule "all" may keep of a shard, in its order: every hypothesis, and a row whose list is empty."""
    ids, listed = gold.column("id").to_numpy(), kbest.column("id").to_numpy()
    order = np.argsort(listed)
    counts = np.maximum(sizes(one_array(kbest.column("hypotheses"))), 1)
    counts = counts[order[np.searchsorted(listed, ids, sorter=order)]]
    ranks = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranked_ids(np.repeat(ids, counts), ranks)


def sentence_tokenizer(config: SelectConfig, gold: Corpus) -> str:
    """The tokenizer of sentence BLEU.

    Raises:
        InputError: It is not installed.
    """
    if config.tokenizer == "pieces":
        return "none"
    if config.tokenizer == "auto" and "bleu" not in config.record.reads:
        return "13a"  # nobody asks for it: a rule without BLEU needs no further package
    return choose_tokenizer(config.tokenizer, gold.manifest.extra.get("target_language"))


def _blanks_in_targets(gold: Corpus) -> bool:
    """Whether targets put blanks between words, as far as their language is known."""
    language = gold.manifest.extra.get("target_language")
    return language is None or has_blanks(language)


def tag_id(config: SelectConfig) -> int | None:
    """The id of the piece that back-translated sources open with; None if they open with none.

    Raises:
        ModelError: The vocabulary has no such piece.
    """
    if not config.tag:
        return None
    vocabulary = Vocabularies.load(config.prepared).source
    found = vocabulary.id_of(config.tag)
    if found is None:
        raise ModelError(
            f"has no piece {config.tag!r}, which back-translated sources are to open with",
            where=str(vocabulary.path),
            hint="prepare with it among vocabulary.symbols, name a piece that is there, or leave `tag` out",
        )
    return found


def rejects_path(out: Path, index: int) -> Path:
    """Where a shard's rejected rows are listed until all shards are there: id, reason and what became of the row."""
    return out / f"rejected-{index:05d}.tsv"


def _judge(config: SelectConfig, device: str) -> Callable[[Lists], Floats] | None:
    if config.rerank is None:
        return None
    build = resolve(config.rerank.record.build)  # torch is not loaded for rules that need no model
    judge: Callable[[Lists], Floats] = build(config.rerank.settings, device)
    return judge


def _joined(parts: list[Choice], lists: Lists) -> Choice:
    """The pieces' choices as one, with places in the whole shard."""
    if not parts:
        return Choice(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8))
    picks = np.concatenate([part.picks for part in parts])
    ends = np.cumsum([len(part.picks) for part in parts])
    first = lists.firsts[[0, *ends[:-1]]]
    shifts = np.repeat(first, np.diff([0, *ends]))
    return Choice(np.where(picks >= 0, picks + shifts, picks), np.concatenate([part.reasons for part in parts]))


def _listed(lists: Lists, choice: Choice, filters: Filters) -> str:
    lines = []
    for row in np.flatnonzero(choice.reasons).tolist():
        became = {DROPPED: DROP, GOLD: REPLACED}.get(int(choice.picks[row]), NEXT)
        lines.append(f"{lists.ids[row]}\t{filters.reasons[choice.reasons[row]]}\t{became}\n")
    return "".join(lines)


def _listed_all(lists: Lists, codes: Codes, lost: Integers, filters: Filters) -> str:
    """The same of rule "all", hypothesis by hypothesis; where a row gets its gold target, the best one becomes it."""
    replaced = np.zeros(len(lists.counts), dtype=np.bool_)
    replaced[lost] = True
    bare = np.flatnonzero(lists.counts == 0)
    wrong = np.flatnonzero(codes)
    owners, ranks = np.append(lists.owners[wrong], bare), np.append(lists.ranks[wrong], np.zeros(len(bare), np.int64))
    reasons = np.append(codes[wrong], np.full(len(bare), BARE, dtype=np.uint8))
    ids = ranked_ids(lists.ids[owners], ranks)
    lines = []
    for n in np.argsort(owners, kind="stable").tolist():
        became = REPLACED if replaced[owners[n]] and not ranks[n] else DROP
        lines.append(f"{ids[n]}\t{filters.reasons[reasons[n]]}\t{became}\n")
    return "".join(lines)


def _table(rows: pa.Table, lists: Lists, kept: Integers, picks: Integers, rule: str) -> pa.Table:
    """The distilled rows: places `kept` among the rows, rising, with a hypothesis or GOLD each."""
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
    table = rows.select(["id", "source", "source_ids"]).take(pa.array(kept))
    for name, column in added.items():
        table = table.append_column(name, column)
    return table


def _back_translated(table: pa.Table, tag: str, piece: int | None) -> pa.Table:
    """Hypotheses as sources, tagged (Caswell et al. 2019), and as targets the text that they were made of."""
    table = exchanged(table)
    if piece is not None:
        texts = pa.array([f"{tag} {text}" for text in table.column("source").to_pylist()], pa.string())
        ids = pa.array([[piece, *row] for row in table.column("source_ids").to_pylist()], pa.list_(pa.int32()))
        for name, column in (("source", texts), ("source_ids", ids)):
            table = table.set_column(table.schema.get_field_index(name), name, column)
    origins = pa.array([BACK_TRANSLATION] * table.num_rows, pa.string())
    return table.set_column(table.schema.get_field_index("origin"), "origin", origins)


def _join(rows: pa.Table, lists: pa.Table, where: Path) -> Integers:
    """Position in `lists` of each of `rows`, by id; the sources must agree too, as dense ids always match some row."""
    wanted, found = rows.column("id").to_numpy(), lists.column("id").to_numpy()
    unique, first, times = np.unique(found, return_index=True, return_counts=True)
    problems = {
        "more than one k-best list": unique[times > 1],
        "no k-best list": np.setdiff1d(wanted, unique),
        "a k-best list, but no row in the corpus": np.setdiff1d(unique, wanted),
    }
    for what, ids in problems.items():
        if len(ids):
            raise _mismatch(f"{len(ids)} ids with {what}: {_named(ids)}", where)
    positions: Integers = first[np.searchsorted(unique, wanted)]
    sources = one_array(lists.column("source_ids").take(pa.array(positions)))
    ours = one_array(rows.column("source_ids"))
    if not sources.equals(ours):
        pairs = zip(wanted.tolist(), sources.to_pylist(), ours.to_pylist(), strict=True)
        ids = np.array([row for row, theirs, mine in pairs if theirs != mine])
        raise _mismatch(f"{len(ids)} ids were decoded from another source: {_named(ids)}", where)
    return positions


def _mismatch(what: str, where: Path) -> CorpusError:
    return CorpusError(
        what,
        where=str(where),
        expected="k-best lists of this corpus, one for each id",
        hint="distill this corpus again, or select from the corpus that was decoded",
    )


def _named(ids: Any) -> str:
    return ", ".join(str(row) for row in ids[:NAMED_IDS]) + (", ..." if len(ids) > NAMED_IDS else "")
