"""Why a hypothesis must not become a target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.selection.lists import Booleans, Floats, Integers, Lists, sizes
from seqkd.selection.measures import ter
from seqkd.text.vocabulary import UNK_ID

BARE = "no hypothesis"  # of a row; its k-best folder's rejected.tsv says why
EMPTY = "empty hypothesis"
UNKNOWN = "unknown piece"
CUT = "cut at the longest length"
LENGTH_RATIO = "length ratio"
COPY = "copy of the source"
REPEATS = "repeats itself"
LOW_SCORE = "low score"
SCRIPT = "wrong script"
FAR = "far from the reference"
UNJUDGED = "longer than a reranking model's max_positions"
DUPLICATE = "duplicate pair"

# In the order in which a hypothesis is judged: the first reason counts. 0 is none.
REASONS = ("", BARE, EMPTY, UNKNOWN, CUT, LENGTH_RATIO, COPY, REPEATS, LOW_SCORE, SCRIPT, FAR, UNJUDGED)
CODES = {reason: code for code, reason in enumerate(REASONS)}
Codes = npt.NDArray[np.uint8]

LONGEST_REPEATED = 8  # subwords; longer loops have not come twice before the longest output is reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What is rejected besides empty hypotheses.

    Attributes:
        max_ratio: Largest ratio of the longer side's subwords to the shorter side's, ends of sentence counted.
        unknown: Reject what holds the unknown piece: no text stands for it.
        copies: Reject what equals its source.
        cut: Reject what the search ended at the longest allowed length.
        max_repeats: How often the same one to eight subwords may come in a row.
        min_score: Least score of the search.
        script: Name of a Unicode script; rejected is what has half of its letters or fewer in it.
        max_ter: Largest translation edit rate to the reference, in per cent.
        blanks: Whether the language puts blanks between words; TER counts characters if not.
    """

    max_ratio: float | None = None
    unknown: bool = False
    copies: bool = False
    cut: bool = False
    max_repeats: int | None = None
    min_score: float | None = None
    script: str | None = None
    max_ter: float | None = None
    blanks: bool = True

    def judge(self, lists: Lists) -> Codes:
        """The first reason against each hypothesis, as its place in `REASONS` `[hypotheses]`; TER is left to `far`."""
        found: list[tuple[str, Booleans]] = [(EMPTY, empty(lists))]
        if self.unknown:
            found.append((UNKNOWN, unknown(lists)))
        if self.cut:
            found.append((CUT, cut(lists)))
        if self.max_ratio is not None:
            found.append((LENGTH_RATIO, length_ratio(lists) > self.max_ratio))
        if self.copies:
            found.append((COPY, copies(lists)))
        if self.max_repeats is not None:
            found.append((REPEATS, repeats(lists) > self.max_repeats))
        if self.min_score is not None:
            found.append((LOW_SCORE, lists.scores < self.min_score))
        if self.script is not None:
            found.append((SCRIPT, share_in_script(lists, self.script) <= 0.5))
        codes = np.zeros(len(lists.owners), dtype=np.uint8)
        for reason, failed in reversed(found):
            codes[failed] = CODES[reason]
        return codes

    def far(self, lists: Lists, which: Integers) -> Booleans:
        """Which of these hypotheses are too far from their reference `[which]`; slow, so for likely choices alone."""
        if self.max_ter is None:
            return np.zeros(len(which), dtype=np.bool_)
        return ter(lists, which, blanks=self.blanks) > self.max_ter


def empty(lists: Lists) -> Booleans:
    """No subwords, or no text but blanks."""
    blank: Booleans = pc.equal(pc.utf8_trim_whitespace(lists.texts), "").to_numpy(zero_copy_only=False)
    found: Booleans = np.logical_or(blank, lists.lengths == 0)
    return found


def unknown(lists: Lists) -> Booleans:
    """Whether the unknown piece is among a hypothesis' ids."""
    found = np.zeros(len(lists.owners), dtype=np.bool_)
    ids = lists.token_ids
    held = pc.list_parent_indices(ids).filter(pc.equal(pc.list_flatten(ids), UNK_ID))
    found[held.to_numpy(zero_copy_only=False)] = True
    return found


def cut(lists: Lists) -> Booleans:
    """Not ended by the model."""
    found: Booleans = pc.equal(lists.hypotheses.field("ended"), "max_length").to_numpy(zero_copy_only=False)
    return found


def length_ratio(lists: Lists) -> Floats:
    """Longer side over shorter side in subwords, ends of sentence counted."""
    ours, theirs = lists.lengths + 1.0, sizes(lists.source_ids)[lists.owners] + 1.0
    ratio: Floats = np.maximum(ours, theirs) / np.minimum(ours, theirs)
    return ratio


def copies(lists: Lists) -> Booleans:
    """Equal to the source, blanks at the ends not counted."""
    sources = pc.utf8_trim_whitespace(lists.sources).take(lists.owners)
    same: Booleans = pc.equal(pc.utf8_trim_whitespace(lists.texts), sources).to_numpy(zero_copy_only=False)
    return same


def repeats(lists: Lists) -> Integers:
    """How often the same one to eight subwords come in a row at most `[hypotheses]`: 1 where nothing is repeated."""
    ids = lists.token_ids.flatten().to_numpy()
    owners = np.repeat(np.arange(len(lists.lengths)), lists.lengths)
    most = (lists.lengths > 0).astype(np.int64)
    for period in range(1, LONGEST_REPEATED + 1):
        if period >= len(ids):
            break
        same = (ids[period:] == ids[:-period]) & (owners[period:] == owners[:-period])
        # How many equalities have come in a row up to each place.
        places = np.arange(len(same))
        run = places - np.maximum.accumulate(np.where(same, -1, places))
        np.maximum.at(most, owners[period:], 1 + run // period)
    return most


def share_in_script(lists: Lists, script: str) -> Floats:
    """Share of letters that are of a Unicode script; 1 where there are no letters."""
    codes = np.frombuffer("".join(lists.texts.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
    owners = np.repeat(np.arange(len(lists.owners)), pc.utf8_length(lists.texts).to_numpy(zero_copy_only=False))
    # Each distinct character is looked up once: a regular expression over all texts is much slower.
    distinct = np.flatnonzero(np.bincount(codes))
    characters = pa.array(map(chr, distinct), pa.string())

    def like(pattern: str) -> Booleans:
        found: Booleans = pc.match_substring_regex(characters, pattern).to_numpy(zero_copy_only=False)
        return found.astype(np.bool_)

    def counted(which: Booleans) -> Floats:
        known = np.zeros(int(distinct[-1]) + 1 if len(distinct) else 0)
        known[distinct] = which
        return np.bincount(owners, weights=known[codes], minlength=len(lists.owners)).astype(np.float64)

    letters, own = counted(like(r"\p{L}")), counted(like(r"\p{L}") & like(rf"\p{{{script}}}"))
    return np.where(letters > 0, own / np.maximum(letters, 1.0), 1.0)


def percentile(scores: Callable[[], Iterable[npt.NDArray[np.float32]]], percent: float) -> float:
    """The score below which at most `percent` of all scores lie.

    Exact, in two passes with memory for a count of each half of a float's bits.

    Args:
        scores: Gives all scores, part by part; called twice.
        percent: 0 to 100.
    """
    high, total = np.zeros(1 << 16, dtype=np.int64), 0
    for part in scores():
        high += np.bincount(_ordered(part) >> 16, minlength=1 << 16)
        total += len(part)
    if not total:
        return -np.inf
    rank = min(int(total * percent / 100), total - 1)
    upper = int(np.searchsorted(np.cumsum(high), rank, side="right"))
    rank -= int(high[:upper].sum())
    low = np.zeros(1 << 16, dtype=np.int64)
    for part in scores():
        bits = _ordered(part)
        low += np.bincount(bits[bits >> 16 == upper] & 0xFFFF, minlength=1 << 16)
    lower = int(np.searchsorted(np.cumsum(low), rank, side="right"))
    ordered = upper << 16 | lower
    found = ordered & 0x7FFFFFFF if ordered >> 31 else ordered ^ 0xFFFFFFFF
    return float(np.uint32(found).view(np.float32))


def _ordered(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Bits that compare as the floats do."""
    bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000)).astype(np.uint32)
