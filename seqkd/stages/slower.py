"""The note in a manifest that the kernels were not to be had, or did not fit, and a slower path was taken."""

from __future__ import annotations

from seqkd.corpus.records import SLOW_PATH


def slower(*reasons: str | None) -> dict[str, str]:
    """The entry of a manifest's `extra`: each reason once; empty without any."""
    given = dict.fromkeys(reason for reason in reasons if reason is not None)
    return {SLOW_PATH: "; ".join(given)} if given else {}
