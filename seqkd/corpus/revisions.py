"""Revisions of results, kept by hand.

A number goes up by one when a change of the code makes equal settings give other results: other hypotheses, other
scores, other weights. Rounding counts: a folder that is half-finished must not be continued by other sums. A change of
speed or of memory does not.

Revision 1 leaves no mark in files, and neither do names that a folder's results do not depend on. A finished folder of
an earlier revision is used as it is, and one line says so; an unfinished one is not continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEARCH = 1  # beam search, sampling and the decoding of models that write all positions at once
TRAINING = 1  # batches, losses, the optimiser
ARITHMETIC = {"float32": 1, "bf16x3": 1, "bf16": 1, "int8": 1, "fp16": 1}  # a model's products, by precision

REVISIONS = "revisions"  # in a manifest's `extra`


def of_search(precision: str) -> dict[str, int]:
    """The revisions that decoded texts depend on."""
    return {"search": SEARCH, **of_scoring(precision)}


def of_scoring(precision: str) -> dict[str, int]:
    """The revisions that probabilities of given texts depend on."""
    return {precision: ARITHMETIC[precision]}


def of_training(precision: str) -> dict[str, int]:
    """The revisions that a trained model depends on."""
    return {"training": TRAINING, **of_scoring(precision)}


def marks(revisions: Mapping[str, int]) -> dict[str, Any]:
    """What a file records of these revisions: those above 1."""
    above = {name: number for name, number in revisions.items() if number > 1}
    return {REVISIONS: above} if above else {}


def earlier(extra: Mapping[str, Any], revisions: Mapping[str, int]) -> str:
    """In words, the results of a folder that are of an earlier revision than `revisions`; "" if there are none.

    Args:
        extra: The `extra` of the folder's manifest.
        revisions: Those of this version.
    """
    made = extra.get(REVISIONS, {})
    old = [
        f"{name} of revision {made.get(name, 1)}, now {number}"
        for name, number in revisions.items()
        if made.get(name, 1) < number
    ]
    return ", ".join(old)
