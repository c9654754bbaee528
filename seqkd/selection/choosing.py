"""The choice of one hypothesis a row, or of all, and what becomes of rows whose choice is rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqkd.selection.filters import BARE, UNJUDGED, Codes, Filters
from seqkd.selection.lists import Booleans, Floats, Integers, Lists

Otherwise = Literal["drop", "next", "gold"]
DROPPED, GOLD = -1, -2  # in place of a hypothesis


@dataclass(frozen=True, slots=True)
class Choice:
    """What each row's target is.

    Attributes:
        picks: Place of the chosen hypothesis `[rows]`; DROPPED or GOLD where there is none.
        reasons: Code of the reason why the rule's own choice was rejected, 0 if it was not; see `Filters.reasons`
            `[rows]`.
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
    codes[(codes == 0) & np.isneginf(values)] = UNJUDGED
    filled = np.flatnonzero(lists.counts)
    firsts = np.full(len(lists.counts), DROPPED, dtype=np.int64)
    firsts[filled] = order[lists.firsts[filled]]
    checked = np.zeros(len(codes), dtype=np.bool_)
    _check_slow(lists, firsts, filters, codes, checked)
    reasons = np.full(len(firsts), BARE, dtype=np.uint8)
    reasons[filled] = codes[firsts[filled]]
    picks = np.where(reasons == 0, firsts, DROPPED)
    if otherwise == "gold":
        picks[reasons != 0] = GOLD
    while otherwise == "next":
        passing = order[codes[order] == 0]
        rows, first = np.unique(lists.owners[passing], return_index=True)
        picks = np.full(len(firsts), DROPPED, dtype=np.int64)
        picks[rows] = passing[first]
        if not _check_slow(lists, picks, filters, codes, checked):
            break
    return Choice(picks, reasons)


def keep(lists: Lists, filters: Filters) -> Codes:
    """Judge every hypothesis by itself: the code of the first reason against each; see `Filters.reasons`.

    Returns:
        `[hypotheses]`.
    """
    codes = filters.judge(lists)
    _check_slow(lists, np.arange(len(codes)), filters, codes, np.zeros(len(codes), dtype=np.bool_))
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


def _check_slow(lists: Lists, picks: Integers, filters: Filters, codes: Codes, checked: Booleans) -> bool:
    """Let slow filters judge those of `picks` that stand so far; each is judged once. True if any was rejected."""
    fresh = picks[picks >= 0]
    fresh = fresh[(codes[fresh] == 0) & ~checked[fresh]]
    checked[fresh] = True
    codes[fresh] = filters.look(lists, fresh)
    return bool(codes[fresh].any())
