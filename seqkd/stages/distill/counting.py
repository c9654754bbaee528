"""What happened to a shard's rows, noted beside it, so that a resumed run still knows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from seqkd.corpus.manifest import atomic_write

UNSCORED = "hypotheses without a score or a log-probability"


def note_counts(folder: Path, shard: int, counts: Mapping[str, int]) -> None:
    """Write a shard's counts by reason; before the shard, which is never without them.

    Raises:
        WorkError: The system refuses: disk full, no permission.
    """
    if any(counts.values()):
        atomic_write(folder / f"counts-{shard:05}.json", (json.dumps(counts) + "\n").encode())


def noted_counts(folder: Path) -> dict[str, int]:
    """The sum over all shards, without the reasons that do not occur."""
    total: Counter[str] = Counter()
    for path in sorted(folder.glob("counts-*.json")):
        total.update(json.loads(path.read_text()))
    return {reason: count for reason, count in total.items() if count}
