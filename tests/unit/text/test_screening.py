from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.text import screening
from seqkd.text.cleaning import Cleaner, Units
from seqkd.text.duplicates import DuplicateFinder
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import RawPair

ROWS = [
    RawPair(1, "one  word", "ein Wort", None),
    RawPair(2, None, None, "invalid UTF-8"),
    RawPair(3, " ", "leer", None),
    RawPair(4, "ONE word", "ein Wort", None),
    RawPair(5, "one word", "ein\u00a0Wort ", None),  # the first pair once both are normalised
    RawPair(6, "same", "same", None),
    RawPair(7, "same", "same", None),
    RawPair(8, None, None, "not two columns"),
    RawPair(9, "a a a a a a a", "b b b b b b b", None),
    RawPair(10, "a a a a", "b", None),
    RawPair(11, "last", "letztes", None),
]


@pytest.fixture(params=[1, 3, 4096])
def verdicts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    advanced: list[int] = []
    (tmp_path / "buckets").mkdir()
    screening.screen(
        ROWS,
        tmp_path / "verdicts",
        normalizers=(Normalizer(), Normalizer()),
        cleaner=Cleaner(max_length=6, max_ratio=3.0, drop_identical=True, units=Units()),
        duplicates=DuplicateFinder(tmp_path / "buckets", len(ROWS)),
        advance=advanced.append,
        batch_rows=request.param,
    )
    assert sum(advanced) == len(ROWS)
    return tmp_path / "verdicts"


def test_each_row_that_goes_has_its_reason(verdicts: Path) -> None:
    assert list(screening.read_rejected(verdicts)) == [
        (2, "invalid UTF-8"),
        (3, "empty side"),
        (5, "duplicate pair"),
        (6, "identical sides"),
        (7, "identical sides"),
        (8, "not two columns"),
        (9, "too long"),
        (10, "length ratio"),
    ]


def test_what_stays_is_as_it_was_read(verdicts: Path) -> None:
    kept = list(screening.read_kept(ROWS, verdicts))
    assert kept == [("one  word", "ein Wort"), ("ONE word", "ein Wort"), ("last", "letztes")]


def test_counts_add_up(verdicts: Path) -> None:
    rows, counts = screening.count_verdicts(verdicts)
    assert (rows, counts["identical sides"], counts["duplicate pair"]) == (3, 2, 1)
    assert rows + sum(counts.values()) == len(ROWS)
    assert list(counts) == list(screening.REASONS[:-3])  # a NUL byte and languages only if there are any


def test_duplicates_may_stay(tmp_path: Path) -> None:
    screening.screen(
        ROWS,
        tmp_path / "verdicts",
        normalizers=(Normalizer(), Normalizer()),
        cleaner=Cleaner(max_length=6, max_ratio=3.0, drop_identical=False, units=Units()),
        duplicates=None,
        advance=lambda _: None,
    )
    assert [line for line, _ in screening.read_rejected(tmp_path / "verdicts")] == [2, 3, 8, 9, 10]


def test_text_that_changed_its_length_is_noticed(verdicts: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        list(screening.read_kept(ROWS[:-1], verdicts))
