"""The choice of one hypothesis for each row, or of all, and the treatment of rows whose choice is rejected."""

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
    """The target of each row.

    Attributes:
        picks: `[rows]`, the place of the chosen hypothesis, or DROPPED or GOLD.
        reasons: `[rows]`, the code of the reason why the rule's first choice was rejected, or 0; see `Filters.reasons`.
    """

    picks: Integers
    reasons: Codes


def choose(lists: Lists, values: Floats, filters: Filters, otherwise: Otherwise) -> Choice:
    """Choose the hypothesis with the highest value in each row.

    Args:
        lists: The rows.
        values: `[hypotheses]`, the values by the rule. Ties go to the better score, then to the better rank. A value of
            minus infinity is never chosen: the models of the rule cannot judge the hypothesis.
        filters: The filters that reject hypotheses.
        otherwise: The treatment of a row whose choice is rejected. drop: no target; next: the best hypothesis that no
            filter rejects, if there is one; gold: the gold target.
    """
    order, codes = _sort_and_judge(lists, values, filters)
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


def choose_several(
    lists: Lists, values: Floats, filters: Filters, otherwise: Otherwise, keep: int
) -> tuple[Booleans, Codes]:
    """Choose the hypotheses with the highest values in each row.

    Args:
        lists: The rows.
        values: `[hypotheses]`, as in `choose`.
        filters: The filters that reject hypotheses.
        otherwise: The treatment of rejected choices. next: the next best hypotheses that no filter rejects take their
            places. Otherwise a row keeps fewer hypotheses.
        keep: The number of hypotheses of a row.

    Returns:
        `[hypotheses]`, whether a hypothesis is chosen; and `[hypotheses]`, the code of the first reason to reject one
        of the `keep` best, or 0 for all others.
    """
    order, codes = _sort_and_judge(lists, values, filters)
    checked = np.zeros(len(codes), dtype=np.bool_)
    best = _take_first(lists, order, keep)
    _check_slow(lists, np.flatnonzero(best), filters, codes, checked)
    chosen = best & (codes == 0)
    while otherwise == "next":
        chosen = _take_first(lists, order[codes[order] == 0], keep)
        if not _check_slow(lists, np.flatnonzero(chosen), filters, codes, checked):
            break
    return chosen, np.where(best, codes, 0).astype(codes.dtype)


def _sort_and_judge(lists: Lists, values: Floats, filters: Filters) -> tuple[Integers, Codes]:
    """Sort the hypotheses by value, and judge them by the filters that are not slow.

    Returns:
        The places of the hypotheses, see `Lists.sort_by`; and `[hypotheses]`, the code of the first reason to reject a
        hypothesis, or 0.
    """
    codes = filters.judge(lists)
    codes[(codes == 0) & np.isneginf(values)] = UNJUDGED
    return lists.sort_by(values), codes


def _take_first(lists: Lists, order: Integers, count: int) -> Booleans:
    """Mark the first `count` hypotheses of each row in an order of some hypotheses, row by row `[hypotheses]`."""
    owners = lists.owners[order]
    places = np.arange(len(order)) - np.searchsorted(owners, owners)
    found = np.zeros(len(lists.owners), dtype=np.bool_)
    found[order[places < count]] = True
    return found


def judge_all(lists: Lists, filters: Filters) -> Codes:
    """Judge every hypothesis: return the code of the first reason to reject it, or 0; see `Filters.reasons`.

    Returns:
        `[hypotheses]`.
    """
    codes = filters.judge(lists)
    _check_slow(lists, np.arange(len(codes)), filters, codes, np.zeros(len(codes), dtype=np.bool_))
    return codes


def softmax_weights(rows: Integers, scores: Floats) -> Floats:
    """Compute the softmax of scores over the remaining hypotheses of each row.

    Args:
        rows: `[hypotheses]`, the row of each hypothesis, in any order.
        scores: `[hypotheses]`, the scores of the search, normalised by length.

    Returns:
        `[hypotheses]`, weights that sum to 1 over a row.
    """
    if not len(rows):
        return scores
    _, owners = np.unique(rows, return_inverse=True)
    best = np.full(int(owners.max()) + 1, -np.inf)
    np.maximum.at(best, owners, scores)
    mass: Floats = np.exp(scores - best[owners])
    return mass / np.bincount(owners, weights=mass)[owners]


def _check_slow(lists: Lists, picks: Integers, filters: Filters, codes: Codes, checked: Booleans) -> bool:
    """Apply slow filters to the picks that are not yet rejected, once each. Return True if any was rejected."""
    fresh = picks[picks >= 0]
    fresh = fresh[(codes[fresh] == 0) & ~checked[fresh]]
    checked[fresh] = True
    codes[fresh] = filters.look(lists, fresh)
    return bool(codes[fresh].any())
