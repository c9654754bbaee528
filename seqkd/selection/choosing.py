"""The choice of one hypothesis a row, or of all, and what becomes of rows whose choice is rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqkd.selection.filters import BARE, CODES, FAR, UNJUDGED, Codes, Filters
from seqkd.selection.lists import Booleans, Floats, Integers, Lists

Otherwise = Literal["drop", "next", "gold"]
DROPPED, GOLD = -1, -2  # in place of a hypothesis


@dataclass(frozen=True, slots=True)
class Choice:
    """What each row's target is.

    Attributes:
        picks: Place of the chosen hypothesis `[rows]`; DROPPED or GOLD where there is none.
        reasons: Why the rule's own choice was rejected, as a place in `filters.REASONS`; 0 where it stands `[rows]`.
    """

    picks: Integers
    reasons: Codes


def choose(lists: Lists, values: Floats, filters: Filters, otherwise: Otherwise) -> Choice:
    """Take the hypothesis of the highest value in each row.

    Args:
        lists: The rows.
        values: The rule's `[hypotheses]`. Equal ones go to the better score, then to the better rank. A hypothesis of
            minus infinity is not taken: the models that the rule asks cannot judge it.
        filters: What may not be taken.
        otherwise: What a row gets whose choice is rejected: nothing, the best one that no filter rejects (nothing if
            there is none), or its gold target.
    """
    order = np.lexsort((lists.ranks, -lists.scores, -values, lists.owners))
    codes = filters.judge(lists)
    codes[(codes == 0) & np.isneginf(values)] = CODES[UNJUDGED]
    filled = np.flatnonzero(lists.counts)
    firsts = np.full(len(lists.counts), DROPPED, dtype=np.int64)
    firsts[filled] = order[lists.firsts[filled]]
    checked = np.zeros(len(codes), dtype=np.bool_)
    _check_far(lists, firsts, filters, codes, checked)
    reasons = np.full(len(firsts), CODES[BARE], dtype=np.uint8)
    reasons[filled] = codes[firsts[filled]]
    picks = np.where(reasons == 0, firsts, DROPPED)
    if otherwise == "gold":
        picks[reasons != 0] = GOLD
    while otherwise == "next":
        passing = order[codes[order] == 0]
        rows, first = np.unique(lists.owners[passing], return_index=True)
        picks = np.full(len(firsts), DROPPED, dtype=np.int64)
        picks[rows] = passing[first]
        if not _check_far(lists, picks, filters, codes, checked):
            break
    return Choice(picks, reasons)


def keep(lists: Lists, filters: Filters) -> Codes:
    """Judge every hypothesis by itself: the first reason against each, as its place in `filters.REASONS`; 0: none.

    Returns:
        `[hypotheses]`.
    """
    codes = filters.judge(lists)
    _check_far(lists, np.arange(len(codes)), filters, codes, np.zeros(len(codes), dtype=np.bool_))
    return codes


def weigh(rows: Integers, scores: Floats) -> Floats:
    """Softmax of scores over what is left of each row's list.

    Args:
        rows: Which row each hypothesis is of, in any order `[hypotheses]`.
        scores: The search's, normalised by length `[hypotheses]`.

    Returns:
        `[hypotheses]`: they sum to 1 over a row.
    """
    if not len(rows):
        return scores
    _, owners = np.unique(rows, return_inverse=True)
    best = np.full(int(owners.max()) + 1, -np.inf)
    np.maximum.at(best, owners, scores)
    mass: Floats = np.exp(scores - best[owners])
    return mass / np.bincount(owners, weights=mass)[owners]


def _check_far(lists: Lists, picks: Integers, filters: Filters, codes: Codes, checked: Booleans) -> bool:
    """Reject those of `picks` that are too far from the reference; each is looked at once. True if there were any."""
    fresh = picks[picks >= 0]
    fresh = fresh[(codes[fresh] == 0) & ~checked[fresh]]
    checked[fresh] = True
    far = fresh[filters.far(lists, fresh)]
    codes[far] = CODES[FAR]
    return len(far) > 0
