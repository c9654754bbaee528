"""The totals of a distilled corpus, and the list of rejected rows over all shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.corpus.manifest import atomic_write
from seqkd.corpus.row_ids import row_ids
from seqkd.corpus.unknowns import count_unknown
from seqkd.selection.lists import Integers, one_array
from seqkd.selection.registry import FILTERS
from seqkd.stages.select.shards import DROP, rejects_path

DUPLICATE = FILTERS.own["duplicates"].reason


@dataclass(slots=True)
class Totals:
    """What the shards of a distilled corpus hold together."""

    rows: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    equal: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    replaced: dict[str, Counter[str]] = field(default_factory=dict)  # by what a row became
    unknown: Counter[str] = field(default_factory=Counter)  # rows with the unknown piece, by side
    used: set[int] = field(default_factory=set)  # ids of the vocabulary in targets
    used_gold: set[int] = field(default_factory=set)
    chosen: Counter[str] = field(default_factory=Counter)  # rows by what the choice is, for rules that weigh gains


def account_shard(
    totals: Totals, out: Path, index: int, gold: pa.Table, ids: Integers, distilled: pa.Table
) -> Iterable[str]:
    """Add a shard to the totals and yield its lines of the list of rejected rows, in the order of `ids`.

    Duplicates are recognised from the shards: a row that is missing and in no list was a duplicate.

    Args:
        totals: The totals of all shards so far.
        out: The output folder.
        index: The number of the shard.
        gold: The gold rows of the shard.
        ids: The ids that the distilled shard may contain, in the order of the gold rows.
        distilled: The distilled rows of the shard.
    """
    found = distilled.column("id").to_numpy()
    kept = np.isin(ids, found)
    owners = row_ids(found) if "weight" in distilled.column_names else found
    own = gold.column("id").to_numpy()
    order = np.argsort(own)
    places = order[np.searchsorted(own, owners, sorter=order)]
    references = one_array(gold.column("target").take(pa.array(places)))
    totals.rows += distilled.num_rows
    totals.source_tokens += _tokens(distilled, "source_ids")
    totals.target_tokens += _tokens(distilled, "target_ids")
    totals.equal += int(pc.sum(pc.equal(references, one_array(distilled.column("target")))).as_py() or 0)
    totals.unknown.update(count_unknown([distilled]))
    for table, used in ((distilled, totals.used), (gold, totals.used_gold)):
        used.update(pc.unique(one_array(table.column("target_ids")).flatten()).to_pylist())
    listed: dict[int, tuple[str, str]] = {}
    for line in rejects_path(out, index).read_text(encoding="utf-8").splitlines():
        row, reason, became = line.split("\t")
        listed[int(row)] = (reason, became)
    missing = set(ids[~kept].tolist())
    lines = []
    for row in ids.tolist():
        reason, became = listed.get(row, (DUPLICATE, DROP))
        if row in missing and became != DROP:  # replaced by what an earlier row has
            reason, became = DUPLICATE, DROP
        if row in missing:
            totals.dropped[reason] += 1
        elif row in listed:
            totals.replaced.setdefault(became, Counter())[reason] += 1
        else:
            continue
        lines.append(f"{row}\t{reason}\t{became}\n")
    return lines


def note_duplicates(out: Path, index: int, ids: Integers) -> None:
    """Add duplicates to a shard's list of rejected rows, before the shard loses them.

    With several targets of a row, the shard alone does not show which of its hypotheses had been chosen.
    """
    path = rejects_path(out, index)
    known = path.read_text(encoding="utf-8")
    listed = {int(line.split("\t")[0]) for line in known.splitlines()}
    new = [f"{row}\t{DUPLICATE}\t{DROP}\n" for row in ids.tolist() if row not in listed]
    atomic_write(path, (known + "".join(new)).encode())


def chosen_ids(out: Path, index: int, distilled: pa.Table) -> Integers:
    """Return the ids that a shard has or has rejected, row by row, best rank first."""
    lines = rejects_path(out, index).read_text(encoding="utf-8").splitlines()
    ids = np.union1d(
        distilled.column("id").to_numpy(), np.array([int(line.split("\t")[0]) for line in lines], np.int64)
    )
    return ids[np.lexsort((ids, row_ids(ids)))]


def _tokens(table: pa.Table, column: str) -> int:
    return int(pc.sum(pc.list_value_length(table.column(column))).as_py() or 0)
