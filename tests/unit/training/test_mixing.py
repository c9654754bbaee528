from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.models.protocol import too_long
from seqkd.objectives.base import Batch, SoftTargets
from seqkd.training.data import CorpusData, TrainingData, name_rows
from seqkd.training.mixing import MixedData, draw
from seqkd.training.soft import SoftTable
from seqkd.training.translation import collate
from tests.properties import examples
from tests.unit.training.support import SPECIAL

LIMIT = 12  # tokens of a side that fit, end of sentence counted


def corpus_of(
    folder: Path, rows: int, first: int, weight: float | None = None, *, rival: list[int] | None = None
) -> Corpus:
    """Row `n`: id 100 + n, targets of `first` alone, of 1 to 15 pieces; in two shards."""
    folder.mkdir()
    shards = []
    for shard, ids in enumerate((range(rows // 2), range(rows // 2, rows))):
        lists = [[first] * (1 + n % 15) for n in ids]
        columns = {"id": [100 + n for n in ids], "source": ["x"] * len(lists), "target": ["y"] * len(lists)}
        table = pa.table({**columns, "source_ids": lists, "target_ids": lists})
        if weight is not None:
            table = table.append_column("weight", pa.array([weight] * len(lists), pa.float32()))
        if rival is not None:
            names = ("rival", "rival_ids", "rival_margin")
            values: tuple[list[Any], ...] = (["z"] * len(lists), [rival] * len(lists), [0.5] * len(lists))
            for name, column in zip(names, values, strict=True):
                table = table.append_column(name, pa.array(column))
        shards.append(write_shard(folder, shard, table))
    made_by = build_fingerprint("prepare", {}, {})
    write_manifest(folder, Manifest(kind="corpus", fingerprint=made_by, rows=rows, shards=shards))
    return Corpus.open(folder)


def part_of(
    corpus: Corpus,
    *,
    batch_tokens: int = 40,
    rivals: bool = False,
    soft: SoftTable | None = None,
    rank: int = 0,
    world: int = 1,
) -> CorpusData:
    return CorpusData(
        corpus,
        SPECIAL,
        unusable=partial(too_long, max_positions=LIMIT),
        batch_tokens=batch_tokens,
        window=1000,
        seed=3,
        rivals=rivals,
        soft=soft,
        rank=rank,
        world=world,
    )


@pytest.fixture
def parts(tmp_path: Path) -> list[CorpusData]:
    """Equal ids, other words."""
    return [part_of(corpus_of(tmp_path / name, rows, first)) for name, rows, first in (("a", 40, 5), ("b", 60, 6))]


def mixed(parts: list[CorpusData], *weights: float, rank: int = 0, world: int = 1) -> MixedData:
    return MixedData(parts, weights, batch_tokens=40, window=1000, seed=3, rank=rank, world=world)


def rows_of(batches: list[Batch]) -> Counter[tuple[str, int]]:
    """How often each row is in an epoch, by its folder and id."""
    found: Counter[tuple[str, int]] = Counter()
    for batch in batches:
        assert batch.origins is not None
        found.update((Path(origin).name, int(row)) for origin, row in zip(batch.origins, batch.ids, strict=True))
    return found


def epoch(data: TrainingData, number: int) -> list[Batch]:
    return [data.load(rows) for rows in data.plan(number)]


def test_rows_without_weights_count_one_beside_rows_with_them(tmp_path: Path) -> None:
    kinds = [("a", 40, 5, None), ("b", 60, 6, 0.25)]
    data = mixed([part_of(corpus_of(tmp_path / name, *rest)) for name, *rest in kinds], 1.0, 1.0)  # type: ignore[arg-type]
    both = 0
    for batch in epoch(data, 0):
        assert batch.origins is not None
        weighted = np.array([Path(origin).name == "b" for origin in batch.origins])
        if batch.weights is None:
            assert not weighted.any()
        else:
            assert batch.weights.rows.tolist() == np.where(weighted, 0.25, 1.0).tolist()
        both += bool(weighted.any() and not weighted.all())
    assert both


class Stored(SoftTable):
    """Soft targets of which each position tells its row, its place in the row, and the corpus."""

    def __init__(self, corpus: Corpus, mark: int) -> None:
        self._targets = {int(row): 1 + int(row - 100) % 15 for row in corpus.lengths()[0]}
        self._mark = mark

    def check(self, ids: Any, targets: Any) -> None:
        pass

    def of(self, ids: Any) -> SoftTargets:
        places = [(row, place) for row in ids.tolist() for place in range(self._targets[row] + 1)]
        found = torch.tensor([[row, place, self._mark] for row, place in places])
        return SoftTargets(found, found.float(), found[:, 0].float())


def test_soft_targets_of_several_corpora_are_those_of_the_rows(tmp_path: Path) -> None:
    parts = []
    for number, (name, rows, first) in enumerate((("a", 40, 5), ("b", 60, 6))):
        corpus = corpus_of(tmp_path / name, rows, first)
        parts.append(part_of(corpus, soft=Stored(corpus, number)))
    both = 0
    for batch in epoch(mixed(parts, 1.0, 1.0), 0):
        assert batch.soft is not None
        assert batch.soft.tail is not None
        assert batch.origins is not None
        marks = [int(Path(origin).name == "b") for origin in batch.origins]
        lengths = [(row != 1).sum().item() for row in batch.target_out]
        wanted = [
            [row, place, mark]
            for row, mark, length in zip(batch.ids.tolist(), marks, lengths, strict=True)
            for place in range(length)
        ]
        assert batch.soft.ids.tolist() == wanted
        assert batch.soft.tail.tolist() == [row for row, _, _ in wanted]
        assert len(wanted) == batch.tokens
        both += len(set(marks)) == 2
    assert both


def test_each_row_knows_its_group(parts: list[CorpusData]) -> None:
    data = MixedData(parts, (1.0, 1.0), batch_tokens=40, window=1000, seed=3, groups=("de", "fr"))
    for batch in epoch(data, 0):
        assert batch.groups is not None
        assert batch.origins is not None
        names = ["de" if Path(origin).name == "a" else "fr" for origin in batch.origins]
        assert batch.groups.tolist() == names
    assert mixed(parts, 1.0, 1.0).load(data.plan(0)[0]).groups is None


def test_rows_without_rivals_are_their_own_beside_rows_with_them(tmp_path: Path) -> None:
    parts = [part_of(corpus_of(tmp_path / "a", 40, 5))]
    parts.append(part_of(corpus_of(tmp_path / "b", 60, 6, rival=[7, 7]), rivals=True))
    both = 0
    for batch in epoch(mixed(parts, 1.0, 1.0), 0):
        assert batch.origins is not None
        paired = np.array([Path(origin).name == "b" for origin in batch.origins])
        if batch.rivals is None:
            assert not paired.any()
            continue
        assert batch.rivals.differ.tolist() == paired.tolist()
        assert batch.rivals.margins.tolist() == np.where(paired, 0.5, 0.0).tolist()
        for own, rival, pair in zip(batch.target_out, batch.rivals.target_out, paired, strict=True):
            assert rival[rival > 3].tolist() == ([7, 7] if pair else own[own > 3].tolist())
        both += bool(paired.any() and not paired.all())
    assert both


@given(st.integers(1, 50), st.floats(0.01, 5), st.integers(0, 99))
@examples(100)
def test_a_draw_has_each_row_as_often_as_the_weight_says_or_once_more(rows: int, weight: float, seed: int) -> None:
    counts = np.bincount(draw(rows, weight, np.random.default_rng(seed)), minlength=rows)
    assert counts.sum() == max(1, round(weight * rows))
    assert counts.max() - counts.min() <= 1


def test_in_the_mean_of_many_epochs_rows_come_weight_times() -> None:
    counts = np.zeros(20)
    for number in range(400):
        counts += np.bincount(draw(20, 1.25, np.random.default_rng([1, number])), minlength=20)
    np.testing.assert_allclose(counts / 400, 1.25, atol=0.12)


def test_an_epoch_has_both_corpora_by_their_weights(parts: list[CorpusData]) -> None:
    data = mixed(parts, 0.5, 2.0)
    found = [rows_of(epoch(data, number)) for number in (0, 1)]
    for counts in found:
        rows = {name: {row: count for (corpus, row), count in counts.items() if corpus == name} for name in "ab"}
        assert len(rows["a"]) == sum(rows["a"].values()) == round(parts[0].rows / 2)
        assert set(rows["b"].values()) == {2}
        assert len(rows["b"]) == parts[1].rows
    assert {row for row in found[0] if row[0] == "a"} != {row for row in found[1] if row[0] == "a"}
    assert not any((row - 100) % 15 + 1 >= LIMIT for counts in found for _, row in counts)


def test_rows_with_equal_ids_keep_their_own_words(parts: list[CorpusData]) -> None:
    words = {"a": 5, "b": 6}
    both = 0
    for batch in epoch(mixed(parts, 1.0, 1.0), 0):
        assert batch.origins is not None
        assert batch.source.numel() <= 40
        for origin, row, target in zip(batch.origins, batch.ids.tolist(), batch.target_out.tolist(), strict=True):
            length = 1 + (row - 100) % 15
            assert target[: length + 1] == [words[Path(origin).name]] * length + [SPECIAL.eos]
        both += len(set(batch.origins.tolist())) == 2
    assert both  # batches are by length, whatever the corpus


def test_one_corpus_of_weight_one_is_that_corpus(parts: list[CorpusData]) -> None:
    for number in (0, 4):
        ours, plain = mixed(parts[:1], 1.0).plan(number), parts[0].plan(number)
        assert [rows.tolist() for rows in ours] == [rows.tolist() for rows in plain]


def test_ranks_share_an_epoch_and_it_is_the_same_each_time(parts: list[CorpusData]) -> None:
    alone = rows_of(epoch(mixed(parts, 0.3, 1.5), 2))
    ranks = [mixed(parts, 0.3, 1.5, rank=rank, world=3) for rank in range(3)]
    assert len({len(data.plan(2)) for data in ranks}) == 1
    assert sum((rows_of(epoch(data, 2)) for data in ranks), Counter()) == alone


def test_a_rank_without_rows_still_takes_part(parts: list[CorpusData]) -> None:
    batch = mixed(parts, 1.0, 1.0).load(np.empty(0, dtype=np.int64))
    assert (batch.tokens, len(batch.ids)) == (0, 0)


def test_rows_are_named_with_their_corpora() -> None:
    empty = collate(pa.table({"id": pa.array([], pa.int64())}), SPECIAL)
    plain = empty._replace(ids=np.arange(25))
    assert name_rows([plain]).endswith("18, 19 and 5 more")
    origins = np.array(["gold", "kd", "gold"])
    assert name_rows([empty._replace(ids=np.array([1, 1, 7]), origins=origins)]) == "1, 7 of gold; 1 of kd"
