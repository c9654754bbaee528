"""Rows of several data sets that share a source, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqkd.config.report import NamedPath
from seqkd.corpus.reader import Corpus
from seqkd.corpus.row_ids import row_ids
from seqkd.report.contents import Sample, SampleText

SHOWN = 6  # sources


def choose_shared(gold: Corpus, distilled: Sequence[tuple[str, Corpus]], shared: Sequence[NamedPath]) -> list[Sample]:
    """Choose sources that all data sets have, evenly spread, with their targets in all corpora.

    Args:
        gold: The gold text of the data set whose sources are shared.
        distilled: Its distilled corpora with their names.
        shared: The corpora of the other data sets.
    """
    if not shared:
        return []
    found = [_find_targets(corpus, "id") for _, corpus in distilled]
    found += [_find_targets(Corpus.open(named.path, "corpus"), "source_row") for named in shared]
    names = [*(name for name, _ in distilled), *(named.name for named in shared)]
    own = {
        row: (source, target)
        for table in gold.tables(["id", "source", "target"])
        for row, source, target in zip(*(column.to_pylist() for column in table.columns), strict=True)
    }
    ids = np.array(sorted(set(own).intersection(*found)), dtype=np.int64)
    chosen = ids[np.arange(min(SHOWN, len(ids))) * len(ids) // max(min(SHOWN, len(ids)), 1)].tolist()
    return [
        Sample(
            id=row,
            source=own[row][0],
            reference=own[row][1],
            targets=tuple(
                SampleText(name=name, words=((targets[row], False),))
                for name, targets in zip(names, found, strict=True)
            ),
        )
        for row in chosen
    ]


def _find_targets(corpus: Corpus, key: str) -> dict[int, str]:
    """Return the first target of each source, by the id of its row in the data set whose sources are shared."""
    found: dict[int, str] = {}
    for table in corpus.tables([key, "target"]):
        rows = table.column(key).to_pylist()
        rows = row_ids(np.array(rows)).tolist() if key == "id" else rows
        for row, target in zip(rows, table.column("target").to_pylist(), strict=True):
            if row is not None:
                found.setdefault(row, target)
    return found
