from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from seqkd.text.duplicates import DuplicateFinder

SIDE = st.sampled_from(["", "a", "b", "ab", "a b", "ä", "\t"])


def repeated(finder: DuplicateFinder) -> list[int]:
    return sorted(row for rows in finder.find_repeats() for row in rows.tolist())


@given(pairs=st.lists(st.tuples(SIDE, SIDE), max_size=60), bucket_rows=st.integers(1, 20), buffer=st.integers(1, 20))
def test_all_but_the_first_of_equal_pairs(pairs: list[tuple[str, str]], bucket_rows: int, buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        finder = DuplicateFinder(Path(folder), len(pairs), bucket_rows=bucket_rows, buffer_rows=buffer)
        for row, (source, target) in enumerate(pairs):
            finder.add(row, source, target)
        assert repeated(finder) == [row for row, pair in enumerate(pairs) if pair in pairs[:row]]


def test_sides_do_not_run_together(tmp_path: Path) -> None:
    finder = DuplicateFinder(tmp_path, 4)
    for row, pair in enumerate([("ab", "c"), ("a", "bc"), ("1:a", "b"), ("1", ":ab")]):
        finder.add(row, *pair)
    assert repeated(finder) == []


# In a process of its own: whatever else runs in that of the tests would be counted too.
MEASURE = """
import sys, tracemalloc
from pathlib import Path
from seqkd.text.duplicates import DuplicateFinder

rows = int(sys.argv[2])
tracemalloc.start()
finder = DuplicateFinder(Path(sys.argv[1]), rows, bucket_rows=500, buffer_rows=500)
for row in range(rows):
    finder.add(row, str(row % (rows - 10)), "x")
found = sum(len(part) for part in finder.find_repeats())
print(found, tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for rows in (2_000, 20_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        command = [sys.executable, "-c", MEASURE, str(folder), str(rows)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(shown[0]) == 10
        peaks.append(int(shown[1]))
    assert peaks[1] < 1.5 * peaks[0]
