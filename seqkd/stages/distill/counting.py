"""Counts of a shard's rows by reason, stored beside the shard so that a resumed run knows them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from seqkd.corpus.manifest import atomic_write

UNSCORED = "hypotheses without a score or a log-probability"


def note_counts(folder: Path, shard: int, counts: Mapping[str, int]) -> None:
    """Write the counts of a shard by reason. This happens before the shard is written, which never lacks them.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
    """
    if any(counts.values()):
        atomic_write(folder / f"counts-{shard:05}.json", (json.dumps(counts) + "\n").encode())


def read_counts(folder: Path) -> dict[str, int]:
    """Return the sums over all shards, without reasons that do not occur."""
    total: Counter[str] = Counter()
    for path in sorted(folder.glob("counts-*.json")):
        total.update(json.loads(path.read_text()))
    return {reason: count for reason, count in total.items() if count}
