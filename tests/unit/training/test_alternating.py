"""Corpora in turn, in blocks of updates."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from seqkd.training.alternating import AlternatingData
from seqkd.training.data import CorpusData
from tests.unit.training.test_mixing import corpus_of, epoch, mixed, part_of, rows_of


@pytest.fixture
def parts(tmp_path: Path) -> list[CorpusData]:
    """Equal ids, other words."""
    return [part_of(corpus_of(tmp_path / name, rows, first)) for name, rows, first in (("a", 40, 5), ("b", 60, 6))]


def test_blocks_follow_one_another_and_no_row_is_left_out(parts: list[CorpusData]) -> None:
    data = AlternatingData(parts, [3, 5], accumulate=2)
    own: dict[str, list[list[int]]] = {"a": [], "b": []}
    for number in range(6):
        batches = epoch(data, number)
        names = [{Path(origin).name for origin in batch.origins} for batch in batches if batch.origins is not None]
        assert names == [{"a"}] * 6 + [{"b"}] * 10
        for batch, (name,) in zip(batches, names, strict=True):
            own[name].append(batch.ids.tolist())
    for name, part in zip("ab", parts, strict=True):
        alone = [part.load(rows).ids.tolist() for number in range(20) for rows in part.plan(number)]
        assert own[name] == alone[: len(own[name])]
        assert len(own[name]) > 2 * len(part.plan(0))  # more than two epochs


def test_rows_of_several_data_sets_know_theirs(parts: list[CorpusData]) -> None:
    data = AlternatingData(parts, [1, 2], accumulate=1, groups=["de", "fr"])
    found = [batch.groups.tolist() for batch in epoch(data, 0) if batch.groups is not None]
    assert [set(groups) for groups in found] == [{"de"}, {"fr"}, {"fr"}]
    assert all(batch.groups is None for batch in epoch(AlternatingData(parts, [1, 1], accumulate=1), 0))


def test_a_resumed_run_has_the_same_rounds(parts: list[CorpusData]) -> None:
    data = AlternatingData(parts, [3, 5], accumulate=1)
    rounds = [[rows.tolist() for rows in data.plan(number)] for number in range(9)]
    for number in (8, 2, 3):
        again = AlternatingData(parts, [3, 5], accumulate=1)
        assert [rows.tolist() for rows in again.plan(number)] == rounds[number]
    assert [rows.tolist() for rows in data.plan(1)] == rounds[1]  # also after a later one
    assert len({str(each) for each in rounds}) == 9


def test_corpora_have_the_shares_of_a_mix(parts: list[CorpusData]) -> None:
    a, b = (part.rows for part in parts)
    blocks, mix = Counter[str](), Counter[str]()
    data, control = AlternatingData(parts, [2, 1], accumulate=1), mixed(parts, 2.0 * b / a, 1.0)
    for number in range(24):
        for found, one in ((blocks, data), (mix, control)):
            for (name, _), count in rows_of(epoch(one, number)).items():
                found[name] += count
    shares = [found["a"] / found.total() for found in (blocks, mix)]
    assert shares == pytest.approx([2 / 3, 2 / 3], abs=0.04)


def test_ranks_are_in_the_same_block_and_share_its_rows(tmp_path: Path) -> None:
    corpora = [corpus_of(tmp_path / name, rows, first) for name, rows, first in (("a", 40, 5), ("b", 60, 6))]
    ranks = []
    for rank in range(2):
        parts = [part_of(corpus, rank=rank, world=2) for corpus in corpora]
        ranks.append(AlternatingData(parts, [2, 3], accumulate=2))
    first, second = (Counter[tuple[str, int]](), Counter[tuple[str, int]]())
    for number in range(4):
        both = [epoch(data, number) for data in ranks]
        assert [len(batches) for batches in both] == [10, 10]
        names = [[Path(str(batch.origins[0])).name for batch in batches] for batches in both]  # type: ignore[index]
        assert names[0] == names[1]
        first, second = first + rows_of(both[0]), second + rows_of(both[1])
    alone = [part_of(corpus, rank=0, world=1) for corpus in corpora]
    for name, part in zip("ab", alone, strict=True):
        seen = {row: first[name, row] + second[name, row] for row in part.corpus.lengths()[0][part.positions].tolist()}
        assert max(seen.values()) - min(seen.values()) <= 1  # each row once in each epoch of its corpus


def test_blocks_and_corpora_have_equal_numbers(parts: list[CorpusData]) -> None:
    with pytest.raises(ValueError, match="zip"):
        AlternatingData(parts, [3], accumulate=1)
    assert all(
        a != b for a, b in pairwise(rows.tolist() for rows in AlternatingData(parts, [1, 1], accumulate=1).plan(0))
    )
