"""Filters: reasons why a hypothesis must not become a target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from seqkd.extensions import resolve
from seqkd.selection.lists import Booleans, Floats, Integers, Lists, sizes
from seqkd.selection.measures import ter
from seqkd.selection.registry import FILTERS, Filter
from seqkd.text.identification import LanguageCheck
from seqkd.text.vocabulary import UNK_ID

# Reasons that do not come from a filter, in the order of their codes; those of filters follow. Code 0 means no reason.
BARE, EMPTY, UNJUDGED = 1, 2, 3
_REASONS = (
    "",
    "no hypothesis",  # the row has an empty list; rejected.tsv of the k-best folder gives the reason
    "empty hypothesis",
    "not judged by the scorer",  # too long for its models, or refused by its worker
)
Codes = npt.NDArray[np.uint8]

LONGEST_REPEATED = 8  # subwords; longer loops hardly repeat before the longest output is reached
_FIRST = ("unknown", "cut")  # these reasons have precedence over all others


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRatio:
    """See `reject_by_ratio`."""

    max_ratio: Annotated[
        float,
        Field(
            ge=1.0,
            description="largest ratio of the longer side to the shorter side in subwords, including end of sentence",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """See `reject_by_unknown`."""

    unknown: Annotated[bool, Field(description="reject hypotheses that contain the unknown piece")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """See `reject_by_copying`."""

    copies: Annotated[bool, Field(description="reject targets that equal their source")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """See `reject_by_cut`."""

    cut: Annotated[bool, Field(description="reject hypotheses that ended at the longest allowed length")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRepeats:
    """See `reject_by_repeats`."""

    max_repeats: Annotated[int, Field(ge=1, description="how often the same 1 to 8 subwords may occur in a row")]


@dataclass(frozen=True, slots=True, kw_only=True)
class MinScore:
    """See `reject_by_score`."""

    min_score: Annotated[float, Field(description="lowest score of the search")]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstPercent:
    """Settings of a filter that becomes a `MinScore` once all scores are known."""

    worst_percent: Annotated[
        float, Field(ge=0.0, lt=100.0, description="reject scores below this percentile of the best hypotheses' scores")
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """See `reject_by_script`."""

    script: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_]+$", description="a Unicode script that more than half of the letters must have"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """See `reject_by_language`."""

    language: Annotated[
        bool, Field(description="reject hypotheses that are surely not in the data set's `target_language`")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxTer:
    """See `reject_by_ter`."""

    max_ter: Annotated[float, Field(ge=0.0, description="highest translation edit rate to the reference, in per cent")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Settings of a filter that the stage applies to the whole corpus."""

    duplicates: Annotated[bool, Field(description="drop rows whose pair occurs in an earlier row")] = False


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters that apply besides the check for empty hypotheses.

    Attributes:
        chosen: Filters of single hypotheses, with their settings, in the order in which they are applied. The first
            reason counts.
    """

    chosen: tuple[tuple[Filter, Any], ...] = ()

    @classmethod
    def of(cls, settings: Sequence[Any]) -> Filters:
        """Build the filters with these settings, at most one of each kind, in the order of the registry."""
        found = []
        records = {record.name: record for record in FILTERS.all()}
        for record in [*(records.pop(name) for name in _FIRST), *records.values()]:
            kind = None if record.rejects is None else resolve(record.settings)
            found += [(record, values) for values in settings if kind is not None and type(values) is kind]
        return cls(tuple(found))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the reasons by code."""
        return (*_REASONS, *(record.reason for record, _ in self.chosen))

    def judge(self, lists: Lists) -> Codes:
        """Return the code of the first reason against each hypothesis `[hypotheses]`, without the slow filters."""
        everything = np.arange(len(lists.owners))
        codes = self._coded(lists, everything, slow=False)
        codes[is_empty(lists)] = EMPTY
        return codes

    def look(self, lists: Lists, which: Integers) -> Codes:
        """Return the code of the first slow filter that rejects each of these hypotheses `[which]`, or 0."""
        return self._coded(lists, which, slow=True)

    def _coded(self, lists: Lists, which: Integers, *, slow: bool) -> Codes:
        codes = np.zeros(len(which), dtype=np.uint8)
        for code, (record, settings) in reversed(list(enumerate(self.chosen, start=len(_REASONS)))):
            if record.slow is slow and record.rejects is not None:
                codes[resolve(record.rejects)(lists, which, settings)] = code
        return codes


def reject_by_ratio(lists: Lists, which: Integers, settings: MaxRatio) -> Booleans:
    """Reject hypotheses whose length in subwords does not fit their source `[which]`."""
    found: Booleans = length_ratio(lists)[which] > settings.max_ratio
    return found


def reject_by_unknown(lists: Lists, which: Integers, settings: Unknown) -> Booleans:  # noqa: ARG001 (as all filters)
    """Reject hypotheses with the unknown piece, which has no text `[which]`."""
    return has_unknown(lists)[which]


def reject_by_copying(lists: Lists, which: Integers, settings: Copies) -> Booleans:  # noqa: ARG001
    """Reject hypotheses that equal their source `[which]`."""
    return is_copy(lists)[which]


def reject_by_cut(lists: Lists, which: Integers, settings: Cut) -> Booleans:  # noqa: ARG001
    """Reject hypotheses that the search cut off at the longest allowed length `[which]`."""
    return is_cut(lists)[which]


def reject_by_repeats(lists: Lists, which: Integers, settings: MaxRepeats) -> Booleans:
    """Reject hypotheses in which the same one to eight subwords occur too often in a row `[which]`."""
    found: Booleans = count_repeats(lists)[which] > settings.max_repeats
    return found


def reject_by_score(lists: Lists, which: Integers, settings: MinScore) -> Booleans:
    """Reject hypotheses with a low score `[which]`."""
    found: Booleans = lists.scores[which] < settings.min_score
    return found


def reject_by_script(lists: Lists, which: Integers, settings: Script) -> Booleans:
    """Reject hypotheses of whose letters at most half belong to the script `[which]`."""
    return share_in_script(lists, settings.script)[which] <= 0.5


def reject_by_language(lists: Lists, which: Integers, settings: Language) -> Booleans:  # noqa: ARG001
    """Reject hypotheses that are in another language than the targets, see `LanguageCheck` `[which]`."""
    check = LanguageCheck(lists.language, "filters.language")
    return np.array([check.is_foreign(text) for text in lists.texts.take(which).to_pylist()], dtype=np.bool_)


def reject_by_ter(lists: Lists, which: Integers, settings: MaxTer) -> Booleans:
    """Reject hypotheses with a high translation edit rate to their reference `[which]`."""
    found: Booleans = ter(lists, which, blanks=lists.blanks) > settings.max_ter
    return found


def is_empty(lists: Lists) -> Booleans:
    """Whether a hypothesis has no subwords, or no text other than blanks `[hypotheses]`."""
    blank: Booleans = pc.equal(pc.utf8_trim_whitespace(lists.texts), "").to_numpy(zero_copy_only=False)
    found: Booleans = np.logical_or(blank, lists.lengths == 0)
    return found


def has_unknown(lists: Lists) -> Booleans:
    """Whether the ids of a hypothesis contain the unknown piece `[hypotheses]`."""
    found = np.zeros(len(lists.owners), dtype=np.bool_)
    ids = lists.token_ids
    held = pc.list_parent_indices(ids).filter(pc.equal(pc.list_flatten(ids), UNK_ID))
    found[held.to_numpy(zero_copy_only=False)] = True
    return found


def is_cut(lists: Lists) -> Booleans:
    """Whether the search cut a hypothesis off at the longest allowed length `[hypotheses]`."""
    found: Booleans = pc.equal(lists.hypotheses.field("ended"), "max_length").to_numpy(zero_copy_only=False)
    return found


def length_ratio(lists: Lists) -> Floats:
    """Return the ratio of the longer side to the shorter side in subwords, including end of sentence `[hypotheses]`."""
    ours, theirs = lists.lengths + 1.0, sizes(lists.source_ids)[lists.owners] + 1.0
    ratio: Floats = np.maximum(ours, theirs) / np.minimum(ours, theirs)
    return ratio


def is_copy(lists: Lists) -> Booleans:
    """Whether a hypothesis equals its source, apart from blanks at the ends `[hypotheses]`."""
    sources = pc.utf8_trim_whitespace(lists.sources).take(lists.owners)
    same: Booleans = pc.equal(pc.utf8_trim_whitespace(lists.texts), sources).to_numpy(zero_copy_only=False)
    return same


def count_repeats(lists: Lists) -> Integers:
    """Count how often the same one to eight subwords occur in a row at most `[hypotheses]`; 1 without repeats."""
    ids = lists.token_ids.flatten().to_numpy()
    owners = np.repeat(np.arange(len(lists.lengths)), lists.lengths)
    most = (lists.lengths > 0).astype(np.int64)
    for period in range(1, LONGEST_REPEATED + 1):
        if period >= len(ids):
            break
        same = (ids[period:] == ids[:-period]) & (owners[period:] == owners[:-period])
        # The number of consecutive equalities up to each place.
        places = np.arange(len(same))
        run = places - np.maximum.accumulate(np.where(same, -1, places))
        np.maximum.at(most, owners[period:], 1 + run // period)
    return most


def share_in_script(lists: Lists, script: str) -> Floats:
    """Return the share of letters that belong to a Unicode script `[hypotheses]`; 1 if there are no letters."""
    codes = np.frombuffer("".join(lists.texts.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
    owners = np.repeat(np.arange(len(lists.owners)), pc.utf8_length(lists.texts).to_numpy(zero_copy_only=False))
    # Each distinct character is looked up once, because a regular expression over all texts is much slower.
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
    """Return the score below which at most `percent` per cent of all scores lie.

    The result is exact. It takes two passes, with memory for the counts of each half of a float's bits.

    Args:
        scores: Returns all scores, part by part. It is called twice.
        percent: A number from 0 to 100.
    """
    high, total = np.zeros(1 << 16, dtype=np.int64), 0
    for part in scores():
        high += np.bincount(_sortable_bits(part) >> 16, minlength=1 << 16)
        total += len(part)
    if not total:
        return -np.inf
    rank = min(int(total * percent / 100), total - 1)
    upper = int(np.searchsorted(np.cumsum(high), rank, side="right"))
    rank -= int(high[:upper].sum())
    low = np.zeros(1 << 16, dtype=np.int64)
    for part in scores():
        bits = _sortable_bits(part)
        low += np.bincount(bits[bits >> 16 == upper] & 0xFFFF, minlength=1 << 16)
    lower = int(np.searchsorted(np.cumsum(low), rank, side="right"))
    ordered = upper << 16 | lower
    found = ordered & 0x7FFFFFFF if ordered >> 31 else ordered ^ 0xFFFFFFFF
    return float(np.uint32(found).view(np.float32))


def _sortable_bits(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return integers that sort in the order of the floats."""
    bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000)).astype(np.uint32)
