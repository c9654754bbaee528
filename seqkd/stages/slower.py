"""The note in a manifest that a slower path was taken because the kernels were missing or did not support a model."""

from __future__ import annotations

from seqkd.corpus.records import SLOW_PATH


def slow_path_note(*reasons: str | None) -> dict[str, str]:
    """Return the entry for a manifest's `extra`, with each reason once; empty if there are no reasons."""
    given = dict.fromkeys(reason for reason in reasons if reason is not None)
    return {SLOW_PATH: "; ".join(given)} if given else {}
