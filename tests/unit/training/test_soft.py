from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import SOFT_SCHEMA
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.training.soft import SoftTable

Position = dict[int, float]  # probabilities by id


def soft_row(row: int, positions: Sequence[Position]) -> dict[str, Any]:
    with np.errstate(divide="ignore"):
        logs = [np.log(np.array(list(position.values()))).astype(np.float16) for position in positions]
        tails = [np.log(1 - sum(position.values())).astype(np.float16) for position in positions]
    return {
        "id": row,
        "target_ids": list(range(4, 3 + len(positions))),
        "topk_ids": [list(position) for position in positions],
        "topk_logprobs": logs,
        "tail_logprob": tails,
    }


def table_of(folder: Path, *shards: Sequence[dict[str, Any]], **extra: Any) -> SoftTable:
    folder.mkdir()
    written = [
        write_shard(folder, number, pa.Table.from_pylist(list(rows), schema=SOFT_SCHEMA))
        for number, rows in enumerate(shards)
    ]
    made_by, total = build_fingerprint("soft_targets", {}, {}), sum(map(len, shards))
    write_manifest(folder, Manifest(kind="soft", fingerprint=made_by, rows=total, shards=written, extra=extra))
    return SoftTable(Corpus.open(folder, "soft"))


def test_rows_come_by_id_in_the_order_asked_for(tmp_path: Path) -> None:
    first = soft_row(9, [{5: 0.5, 6: 0.25}, {7: 0.5, 2: 0.125}])
    second = soft_row(3, [{8: 0.75, 4: 0.125}])
    third = soft_row(40, [{1: 0.5, 2: 0.5}] * 3)
    table = table_of(tmp_path / "soft", [first, second], [third])
    found = table.of(np.array([3, 9]))
    assert found.ids.tolist() == [[8, 4], [5, 6], [7, 2]]
    assert found.tail is not None
    wanted = torch.tensor([[0.75, 0.125, 0.125], [0.5, 0.25, 0.25], [0.5, 0.125, 0.375]])
    torch.testing.assert_close(torch.cat([found.logprobs, found.tail[:, None]], 1).exp(), wanted, rtol=2e-3, atol=0.0)
    torch.testing.assert_close(found.logprobs.exp().sum(-1) + found.tail.exp(), torch.ones(3))
    whole = table.of(np.array([40]))
    assert whole.tail is not None
    assert whole.tail.tolist() == [-np.inf] * 3
    assert table.of(np.array([], dtype=np.int64)).ids.shape[0] == 0
    table.check(np.array([40, 3]), np.array([2, 0]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([9, 4], "1 training rows have no soft targets: row 4"),
        ([100, 1], "2 training rows have no soft targets: row 100, 1"),
    ],
)
def test_missing_rows_are_named(tmp_path: Path, ids: list[int], message: str) -> None:
    table = table_of(tmp_path / "soft", [soft_row(9, [{5: 0.5}]), soft_row(3, [{5: 0.5}])])
    with pytest.raises(CorpusError, match=message):
        table.check(np.array(ids), np.zeros(len(ids), dtype=np.int64))


def test_missing_positions_are_named(tmp_path: Path) -> None:
    table = table_of(tmp_path / "soft", [soft_row(9, [{5: 0.5}]), soft_row(3, [{5: 0.5}])])
    with pytest.raises(CorpusError, match=r"1 rows differ from their targets in length: row 3"):
        table.check(np.array([9, 3]), np.array([0, 1]))


@pytest.mark.parametrize("samples", [1, 7, 100, 256])
def test_float16_tells_how_often_each_id_was_drawn(tmp_path: Path, samples: int) -> None:
    positions = [{5: count / samples, 6: 1 - count / samples} for count in range(1, samples)] + [{7: 1.0}]
    table = table_of(tmp_path / "soft", [soft_row(0, positions)], samples=samples)
    found = table.of(np.array([0]))
    assert found.tail is None
    counts = found.logprobs.double().exp() * samples
    torch.testing.assert_close(counts[:-1, 0], torch.arange(1, samples, dtype=torch.float64), rtol=0, atol=1e-4)
    assert found.ids[-1, 0] == 7
    torch.testing.assert_close(counts.sum(-1), torch.full((samples,), float(samples), dtype=torch.float64))
