"""Revisions of results, kept by hand.

A number is raised by one when a change of the code makes equal settings give other results: other hypotheses, scores or
weights. Rounding counts, because an unfinished folder must not be continued with differently rounded sums. A change of
speed or memory does not count.

Files record neither revision 1 nor the revisions on which the results of a folder do not depend. A finished folder of
an earlier revision is used as it is, and one line reports it. An unfinished folder of an earlier revision is not
continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEARCH = 1  # beam search, sampling and non-autoregressive decoding
TRAINING = 1  # batches, losses, the optimiser
SOFT_TARGETS = 2  # the stored form of soft targets; 2: packed, see `seqkd.corpus.soft`
ALIGNMENT = 2  # complexity and faithfulness in the report; 2: one aligner is fitted on all corpora together
ARITHMETIC = {"float32": 1, "bf16x3": 1, "bf16": 1, "int8": 1, "fp16": 1}  # the matrix products of models, by precision

REVISIONS = "revisions"  # the key in a manifest's `extra`


def search_revisions(precision: str) -> dict[str, int]:
    """Return the revisions on which decoded texts depend."""
    return {"search": SEARCH, **scoring_revisions(precision)}


def scoring_revisions(precision: str) -> dict[str, int]:
    """Return the revisions on which probabilities of given texts depend."""
    return {precision: ARITHMETIC[precision]}


def soft_target_revisions(precision: str) -> dict[str, int]:
    """Return the revisions on which stored soft targets depend."""
    return {"soft targets": SOFT_TARGETS, **scoring_revisions(precision)}


def training_revisions(precision: str) -> dict[str, int]:
    """Return the revisions on which a trained model depends."""
    return {"training": TRAINING, **scoring_revisions(precision)}


def recorded_revisions(revisions: Mapping[str, int]) -> dict[str, Any]:
    """Return the entry of a file for these revisions, which contains those above 1."""
    above = {name: number for name, number in revisions.items() if number > 1}
    return {REVISIONS: above} if above else {}


def name_earlier_revisions(extra: Mapping[str, Any], revisions: Mapping[str, int]) -> str:
    """Describe the results of a folder that have an earlier revision than `revisions`; "" if there are none.

    Args:
        extra: The `extra` of the folder's manifest.
        revisions: The revisions of this version.
    """
    made = extra.get(REVISIONS, {})
    old = [
        f"{name} of revision {made.get(name, 1)}, now {number}"
        for name, number in revisions.items()
        if made.get(name, 1) < number
    ]
    return ", ".join(old)
