"""Why a hypothesis must not become a target."""

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
from seqkd.text.vocabulary import UNK_ID

# Codes of the reasons that do not come from a filter; those of filters follow. 0 is no reason.
BARE, EMPTY, UNJUDGED = 1, 2, 3
_REASONS = (
    "",
    "no hypothesis",  # of a row; its k-best folder's rejected.tsv says why
    "empty hypothesis",
    "longer than a reranking model's max_positions",
)
Codes = npt.NDArray[np.uint8]

LONGEST_REPEATED = 8  # subwords; longer loops have not come twice before the longest output is reached
_FIRST = ("unknown", "cut")  # are the reasons, whatever else is wrong with a hypothesis


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRatio:
    """See `by_ratio`."""

    max_ratio: Annotated[
        float,
        Field(
            ge=1.0,
            description="most subwords of the longer side for each of the shorter side, ends of sentence counted",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """See `by_unknown`."""

    unknown: Annotated[bool, Field(description="reject hypotheses that hold the unknown piece")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """See `by_copying`."""

    copies: Annotated[bool, Field(description="reject targets that equal their source")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """See `by_cut`."""

    cut: Annotated[bool, Field(description="reject hypotheses that ended at the longest allowed length")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRepeats:
    """See `by_repeats`."""

    max_repeats: Annotated[int, Field(ge=1, description="how often the same 1 to 8 subwords may come in a row")]


@dataclass(frozen=True, slots=True, kw_only=True)
class MinScore:
    """See `by_score`."""

    min_score: Annotated[float, Field(description="least score of the search")]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstPercent:
    """Settings of a filter that becomes a `MinScore` once all scores are known."""

    worst_percent: Annotated[
        float, Field(ge=0.0, lt=100.0, description="reject scores below this percentile of the best hypotheses' scores")
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """See `by_script`."""

    script: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_]+$", description="a Unicode script that more than half of the letters must have"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxTer:
    """See `by_ter`."""

    max_ter: Annotated[float, Field(ge=0.0, description="highest translation edit rate to the reference, in per cent")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Settings of a filter that the stage applies to the whole corpus."""

    duplicates: Annotated[bool, Field(description="drop rows whose pair an earlier row has")] = False


@dataclass(frozen=True, slots=True)
class Filters:
    """What is rejected besides empty hypotheses.

    Attributes:
        chosen: Filters that look at single hypotheses, with their settings, in the order of judgement: the first
            reason counts.
    """

    chosen: tuple[tuple[Filter, Any], ...] = ()

    @classmethod
    def of(cls, settings: Sequence[Any]) -> Filters:
        """The filters that have these settings, one of each kind, in the registry's order."""
        found = []
        records = {record.name: record for record in FILTERS.all()}
        for record in [*(records.pop(name) for name in _FIRST), *records.values()]:
            kind = None if record.rejects is None else resolve(record.settings)
            found += [(record, values) for values in settings if kind is not None and type(values) is kind]
        return cls(tuple(found))

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons by code."""
        return (*_REASONS, *(record.reason for record, _ in self.chosen))

    def judge(self, lists: Lists) -> Codes:
        """The code of the first reason against each hypothesis `[hypotheses]`; slow filters are left to `look`."""
        everything = np.arange(len(lists.owners))
        codes = self._coded(lists, everything, slow=False)
        codes[empty(lists)] = EMPTY
        return codes

    def look(self, lists: Lists, which: Integers) -> Codes:
        """The code of the first slow filter that rejects each of these hypotheses, 0 if none does `[which]`."""
        return self._coded(lists, which, slow=True)

    def _coded(self, lists: Lists, which: Integers, *, slow: bool) -> Codes:
        codes = np.zeros(len(which), dtype=np.uint8)
        for code, (record, settings) in reversed(list(enumerate(self.chosen, start=len(_REASONS)))):
            if record.slow is slow and record.rejects is not None:
                codes[resolve(record.rejects)(lists, which, settings)] = code
        return codes


def by_ratio(lists: Lists, which: Integers, settings: MaxRatio) -> Booleans:
    """One side is too long for the other `[which]`; lengths are subwords."""
    found: Booleans = length_ratio(lists)[which] > settings.max_ratio
    return found


def by_unknown(lists: Lists, which: Integers, settings: Unknown) -> Booleans:  # noqa: ARG001 (as all filters)
    """The unknown piece is among the ids, and no text stands for it `[which]`."""
    return unknown(lists)[which]


def by_copying(lists: Lists, which: Integers, settings: Copies) -> Booleans:  # noqa: ARG001
    """The text equals its source `[which]`."""
    return copies(lists)[which]


def by_cut(lists: Lists, which: Integers, settings: Cut) -> Booleans:  # noqa: ARG001
    """The search ended the hypothesis at the longest allowed length `[which]`."""
    return cut(lists)[which]


def by_repeats(lists: Lists, which: Integers, settings: MaxRepeats) -> Booleans:
    """The same one to eight subwords come too often in a row `[which]`."""
    found: Booleans = repeats(lists)[which] > settings.max_repeats
    return found


def by_score(lists: Lists, which: Integers, settings: MinScore) -> Booleans:
    """The search gave too low a score `[which]`."""
    found: Booleans = lists.scores[which] < settings.min_score
    return found


def by_script(lists: Lists, which: Integers, settings: Script) -> Booleans:
    """Half of the letters or fewer are of the script `[which]`."""
    return share_in_script(lists, settings.script)[which] <= 0.5


def by_ter(lists: Lists, which: Integers, settings: MaxTer) -> Booleans:
    """Too many edits lie between the hypothesis and its reference `[which]`."""
    found: Booleans = ter(lists, which, blanks=lists.blanks) > settings.max_ter
    return found


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
