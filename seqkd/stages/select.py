"""`select`: k-best lists and the corpus they were decoded from, to a distilled corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.config import SelectConfig
from seqkd.corpus.manifest import Manifest, StageOutput, atomic_path, fingerprint, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import finished_shards, write_shard
from seqkd.errors import CorpusError
from seqkd.progress import Progress, say
from seqkd.selection import RULES, Candidate, Rule

EMPTY = "empty hypothesis"
REJECTED = "rejected.tsv"
NAMED_IDS = 10  # in an error message


def run(config: SelectConfig, out: Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Choose one hypothesis a row by `config.rule` and write the corpus that pairs it with its source.

    Rows are joined by id. A shard of the output depends on that shard of the inputs alone; an interrupted run goes on
    after the shards that are there. `device` is not used: selection is done on the CPU.

    Args:
        config: The stage's settings.
        out: Output folder.
        overwrite: Start anew where `out` was made with other settings.
        device: Not used.

    Raises:
        CorpusError: The k-best lists are not those of this corpus, or not in its vocabulary.
        ConflictError: `out` was made with other settings.
        WorkError: The system refuses to write.
    """
    kbest, gold = Corpus.open(config.kbest, "kbest"), Corpus.open(config.gold, "corpus")
    _check(kbest, gold, config)
    made_by = fingerprint(
        "select",
        {"rule": config.rule},
        {"kbest": kbest.manifest.digest(), "gold": gold.manifest.digest()},
    )
    with StageOutput.open(out, "corpus", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"select: {out} is up to date")
            return
        shards = finished_shards(out)
        done = sum(gold.shards[index].rows for index in shards)
        with Progress(f"select {config.rule}", gold.rows, "rows", done=done) as progress:
            for index in range(len(gold.shards)):
                if index not in shards:
                    shards[index] = write_shard(out, index, _select(kbest, gold, index, config.rule))
                    progress.advance(gold.shards[index].rows)
        written = [shards[index] for index in sorted(shards)]
        totals = _Totals()
        with atomic_path(out / REJECTED) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write("id\treason\n")
            for index in range(len(written)):
                for row in _account(totals, gold.read_shard(index), _table(out, written[index].name)):
                    file.write(f"{row}\t{EMPTY}\n")
        manifest = Manifest(
            kind="corpus",
            fingerprint=made_by,
            rows=totals.rows,
            source_tokens=totals.source_tokens,
            target_tokens=totals.target_tokens,
            shards=written,
            vocabulary=gold.manifest.vocabulary,
            counts={EMPTY: totals.rejected} if totals.rejected else {},
            extra={
                **{key: gold.manifest.extra[key] for key in ("source_vocabulary",) if key in gold.manifest.extra},
                "rule": config.rule,
                "equal_to_reference": totals.equal,
                "share_equal_to_reference": totals.equal / totals.rows if totals.rows else 0.0,
            },
        )
        output.commit(manifest)
    left = f"; {totals.rejected:,} left out ({EMPTY}), listed in {out / REJECTED}" if totals.rejected else ""
    same = totals.equal / max(totals.rows, 1)
    say(f"select: {totals.rows:,} rows by {config.rule} in {out}, {same:.1%} equal to the reference{left}")


@dataclass(slots=True)
class _Totals:
    rows: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    equal: int = 0
    rejected: int = 0


def _check(kbest: Corpus, gold: Corpus, config: SelectConfig) -> None:
    known = read_manifest(config.prepared).vocabulary
    for name, corpus in (("gold corpus", gold), ("k-best lists", kbest)):
        if corpus.manifest.vocabulary != known:
            raise CorpusError(
                f"the {name} have another vocabulary than {config.prepared}"
                if name.endswith("s")
                else f"the {name} has another vocabulary than {config.prepared}",
                where=str(corpus.path),
                expected=f"vocabulary {known[:12]}..., found {corpus.manifest.vocabulary[:12]}...",
                hint="decode this corpus with a teacher of this vocabulary",
            )
    if len(kbest.shards) != len(gold.shards):
        raise CorpusError(
            f"{len(kbest.shards)} shards of k-best lists for {len(gold.shards)} shards of {gold.path}",
            where=str(kbest.path),
            expected="k-best lists of this corpus, shard by shard",
            hint="distill this corpus again, or select from the corpus that was decoded",
        )


def _select(kbest: Corpus, gold: Corpus, index: int, rule: str) -> pa.Table:
    """The distilled rows of one shard, in gold's order."""
    rows, lists = gold.read_shard(index), kbest.read_shard(index)
    lists = lists.take(pa.array(_join(rows, lists, kbest.path / kbest.shards[index].name)))
    hypotheses = _array(lists.column("hypotheses"))
    counts = pc.list_value_length(hypotheses).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = hypotheses.flatten()
    chosen = _choose(flat, counts, rows.column("target").to_pylist(), RULES[rule])
    kept = chosen >= 0
    picked = flat.take(pa.array(chosen[kept]))
    rows = rows.select(["id", "source", "source_ids"]).filter(pa.array(kept))
    added = {
        "target": picked.field("text"),
        "target_ids": picked.field("ids"),
        "score": picked.field("score"),
        "rule": pa.array([rule] * rows.num_rows, pa.string()),
        "origin": pa.array(["teacher"] * rows.num_rows, pa.string()),
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows


def _choose(flat: Any, counts: np.ndarray[Any, np.dtype[np.int64]], references: list[str], rule: Rule) -> Any:
    """Index into the flat hypotheses for each row `[rows]`; -1 where the chosen one is empty or there is none."""
    texts = flat.field("text").to_pylist()
    scores = flat.field("score").to_pylist()
    lengths = pc.list_value_length(flat.field("ids")).to_numpy(zero_copy_only=False)
    starts = np.cumsum(counts) - counts
    chosen = np.full(len(counts), -1, dtype=np.int64)
    for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        if not count:
            continue
        candidates = [
            Candidate(text=text, score=score)
            for text, score in zip(texts[start : start + count], scores[start : start + count], strict=True)
        ]
        pick = start + rule(candidates, references[row])
        if lengths[pick] and texts[pick].strip():
            chosen[row] = pick
    return chosen


def _join(rows: pa.Table, lists: pa.Table, where: Path) -> Any:
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
    positions = first[np.searchsorted(unique, wanted)]
    sources = _array(lists.column("source_ids").take(pa.array(positions)))
    ours = _array(rows.column("source_ids"))
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


def _account(totals: _Totals, gold: pa.Table, distilled: pa.Table) -> Iterator[int]:
    """Add a shard to the totals and yield the ids that are missing from it.

    What was left out is told from the shards, not remembered while they are written: it is the same after a resume.
    """
    kept = np.isin(gold.column("id").to_numpy(), distilled.column("id").to_numpy())
    references = gold.column("target").filter(pa.array(kept))
    totals.rows += distilled.num_rows
    totals.source_tokens += _tokens(distilled, "source_ids")
    totals.target_tokens += _tokens(distilled, "target_ids")
    totals.equal += int(pc.sum(pc.equal(_array(references), _array(distilled.column("target")))).as_py() or 0)
    for row in gold.column("id").to_numpy()[~kept].tolist():
        totals.rejected += 1
        yield row


def _tokens(table: pa.Table, column: str) -> int:
    return int(pc.sum(pc.list_value_length(table.column(column))).as_py() or 0)


def _array(column: pa.ChunkedArray) -> Any:
    """A column's one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _table(folder: Path, name: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all()
