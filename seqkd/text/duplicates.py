"""Search for repeated pairs in a corpus of any size, with bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
BUCKET_ROWS = 250_000  # 6 MB a bucket
_MOST_BUCKETS = 4096  # enough for a billion rows; files are opened one at a time
BUFFER_ROWS = 65_536


class DuplicateFinder:
    """Finds rows whose pair occurred in an earlier row.

    Each pair's 128-bit hash is written to one of many files. The hash itself decides which, so equal pairs meet in one
    file, and each file fits in memory. The probability that two different pairs share a hash is below 1e-20 for a
    billion rows.

    Args:
        folder: An empty folder for the files. They are not deleted.
        rows: The approximate number of pairs.
        bucket_rows: Average number of pairs in a file.
        buffer_rows: Pairs that are buffered before they are written.
    """

    def __init__(
        self, folder: Path, rows: int, *, bucket_rows: int = BUCKET_ROWS, buffer_rows: int = BUFFER_ROWS
    ) -> None:
        self._folder = folder
        self._buffer_rows = buffer_rows
        self._buckets = min(_MOST_BUCKETS, 1 + rows // bucket_rows)
        self._hashes: list[bytes] = []
        self._rows: list[int] = []

    def add(self, row: int, source: str, target: str) -> None:
        """Add the pair of row `row`. Rows must be added in ascending order."""
        left, right = source.encode("utf-8"), target.encode("utf-8")
        # The length distinguishes ("a", "bc") from ("ab", "c"), whatever characters they contain.
        key = b"%d:" % len(left) + left + right
        self._hashes.append(hashlib.blake2b(key, digest_size=16).digest())
        self._rows.append(row)
        if len(self._rows) >= self._buffer_rows:
            self._flush()

    def find_repeats(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield, bucket by bucket, the ascending numbers of all rows whose pair occurs in an earlier row."""
        self._flush()
        for bucket in range(self._buckets):
            path = self._path(bucket)
            if not path.exists():
                continue
            records = np.fromfile(path, dtype=_RECORD)
            order = np.lexsort((records["row"], records["low"], records["high"]))
            records = records[order]
            same = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
            yield np.sort(records["row"][1:][same]).astype(np.int64)

    def _flush(self) -> None:
        if not self._rows:
            return
        records = np.empty(len(self._rows), dtype=_RECORD)
        words = np.frombuffer(b"".join(self._hashes), dtype="<u8").reshape(-1, 2)
        records["high"], records["low"], records["row"] = words[:, 0], words[:, 1], self._rows
        bucket = (records["high"] % np.uint64(self._buckets)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange(self._buckets + 1))
        for index in range(self._buckets):
            part = records[order[edges[index] : edges[index + 1]]]
            if len(part):
                with self._path(index).open("ab") as file:
                    file.write(part.tobytes())
        self._hashes, self._rows = [], []

    def _path(self, bucket: int) -> Path:
        return self._folder / f"bucket-{bucket:04d}.bin"
