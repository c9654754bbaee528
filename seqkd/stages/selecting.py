"""One shard of `select`: its k-best lists and gold rows to distilled rows, and the list of what was rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqkd.config import SelectConfig
from seqkd.corpus.manifest import ShardInfo, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.selection import DROPPED, GOLD, RULES, Choice, Filters, Lists, Means, choose
from seqkd.selection.filters import REASONS
from seqkd.selection.lists import Floats, Integers, one_array
from seqkd.selection.rules import PIECES
from seqkd.selection.sentence_bleu import SentenceBleu

# Rows are weighed in fixed pieces: memory grows neither with a shard nor with the workers' number, nor does it change
# which pairs of texts a model scores together.
PIECE_ROWS = 1024
NAMED_IDS = 10  # in an error message

DROP, NEXT, REPLACED = "dropped", "next hypothesis", "gold target"


class ShardSelector:
    """Selects shard by shard.

    Args:
        config: The stage's settings.
        filters: What is rejected; the percentile of scores is in it as a number.
        device: Where models are that a rule asks.
    """

    def __init__(self, config: SelectConfig, filters: Filters, device: str) -> None:
        self._kbest, self._gold = Corpus.open(config.kbest, "kbest"), Corpus.open(config.gold, "corpus")
        self._config = config
        self._filters = filters
        self._rule = RULES[config.rule]
        tokenizer = "none" if config.tokenizer == PIECES else config.tokenizer
        self._means = Means(
            bleu=SentenceBleu(tokenizer, config.smoothing),
            pieces=config.tokenizer == PIECES,
            seed=config.seed,
            judge=_judge(config, device),
        )

    def write(self, out: Path, index: int) -> ShardInfo:
        """Select one shard into `out`; what was rejected is listed first, so that a shard is never without its list.

        Raises:
            CorpusError: The rows of the two shards do not belong together.
            WorkError: The system refuses to write.
        """
        rows, lists = self._gold.read_shard(index), self._kbest.read_shard(index)
        lists = lists.take(pa.array(_join(rows, lists, self._kbest.path / self._kbest.shards[index].name)))
        everything = Lists.of_tables(rows, lists)
        parts = []
        for piece in everything.pieces(PIECE_ROWS):
            parts.append(choose(piece, self._rule(piece, self._means), self._filters, self._config.rejected))
        choice = _joined(parts, everything)
        atomic_write(rejects_path(out, index), _listed(everything, choice).encode())
        return write_shard(out, index, _table(rows, everything, choice, self._config.rule))


def rejects_path(out: Path, index: int) -> Path:
    """Where a shard's rejected rows are listed until all shards are there: id, reason and what became of the row."""
    return out / f"rejected-{index:05d}.tsv"


def _judge(config: SelectConfig, device: str) -> Callable[[Lists], Floats] | None:
    if config.rerank is None:
        return None
    from seqkd.search.loading import load_team  # torch is not loaded for rules that need no model
    from seqkd.selection.rerank import Reranker

    def team(path: Path | None) -> Any:
        return None if path is None else load_team([path], device=device, precision="float32")

    reranker = Reranker(
        forward=team(config.rerank.forward),
        reverse=team(config.rerank.reverse),
        channel_weight=config.rerank.channel_weight,
        batch_tokens=config.rerank.batch_tokens,
    )
    return reranker.values


def _joined(parts: list[Choice], lists: Lists) -> Choice:
    """The pieces' choices as one, with places in the whole shard."""
    if not parts:
        return Choice(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8))
    picks = np.concatenate([part.picks for part in parts])
    ends = np.cumsum([len(part.picks) for part in parts])
    first = lists.firsts[[0, *ends[:-1]]]
    shifts = np.repeat(first, np.diff([0, *ends]))
    return Choice(np.where(picks >= 0, picks + shifts, picks), np.concatenate([part.reasons for part in parts]))


def _listed(lists: Lists, choice: Choice) -> str:
    lines = []
    for row in np.flatnonzero(choice.reasons).tolist():
        became = {DROPPED: DROP, GOLD: REPLACED}.get(int(choice.picks[row]), NEXT)
        lines.append(f"{lists.ids[row]}\t{REASONS[choice.reasons[row]]}\t{became}\n")
    return "".join(lines)


def _table(rows: pa.Table, lists: Lists, choice: Choice, rule: str) -> pa.Table:
    """The distilled rows, in gold's order."""
    kept = np.flatnonzero(choice.picks != DROPPED)
    picks, hypotheses = choice.picks[kept], len(lists.owners)
    taught = picks != GOLD
    # Hypotheses and after them the gold rows.
    places = pa.array(np.where(taught, picks, hypotheses + kept))
    scores = pa.concat_arrays([lists.hypotheses.field("score"), pa.nulls(len(choice.picks), pa.float32())])
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
