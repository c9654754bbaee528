from __future__ import annotations

import dataclasses
import hashlib
import itertools
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.manifest import Manifest, ShardInfo, read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import SOFT_SCHEMA
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from tests.properties import examples
from tests.unit.corpus.corpora import MADE_BY, kbest_rows, make_corpus, rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", 10, 0, 7, 3)


def flip(path: Path, offset: int = -500) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_reads_what_was_written(folder: Path) -> None:
    corpus = Corpus.open(folder, "corpus")
    assert corpus.rows == 20
    assert [shard.rows for shard in corpus.shards] == [10, 0, 7, 3]
    assert pa.concat_tables(corpus.tables()).equals(rows(0, 20))
    assert corpus.read_shard(2, ["target", "id"]).equals(rows(10, 7).select(["target", "id"]))


def test_shards_are_memory_mapped(folder: Path) -> None:
    before = pa.total_allocated_bytes()
    table = Corpus.open(folder).read_shard(0)
    assert pa.total_allocated_bytes() == before
    assert table.num_rows == 10


def test_a_reversed_corpus_has_its_sides_exchanged(folder: Path) -> None:
    corpus = Corpus.open(folder)
    turned = corpus.reversed()
    back = {"source": "target", "target": "source", "source_ids": "target_ids", "target_ids": "source_ids"}
    for table, other in zip(corpus.tables(), turned.tables(), strict=True):
        assert other.schema == table.schema
        for name in table.column_names:
            assert other.column(name).equals(table.column(back.get(name, name)))
    ids, sources, targets = corpus.lengths()
    for found, wanted in zip(turned.lengths(), (ids, targets, sources), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert turned.manifest.digest() != corpus.manifest.digest()
    assert pickle.loads(pickle.dumps(turned)).take(np.arange(20)).equals(turned.take(np.arange(20)))
    assert pa.concat_tables(turned.reversed().tables()).equals(rows(0, 20))


def test_a_reversed_corpus_has_its_vocabularies_exchanged(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "manifest.json").unlink()
    extra = {"source_vocabulary": "s" * 64}
    own = dataclasses.replace(manifest, vocabulary="t" * 64, source_tokens=3, target_tokens=5, extra=extra)
    write_manifest(folder, own)
    turned = Corpus.open(folder).reversed().manifest
    assert (turned.vocabulary, turned.extra["source_vocabulary"]) == ("s" * 64, "t" * 64)
    assert (turned.source_tokens, turned.target_tokens) == (5, 3)


def test_lists_and_soft_targets_have_no_other_direction(tmp_path: Path) -> None:
    shard = write_shard(make_folder(tmp_path / "kbest"), 0, kbest_rows(0, 3))
    write_manifest(tmp_path / "kbest", Manifest(kind="kbest", fingerprint=MADE_BY, rows=3, shards=[shard]))
    with pytest.raises(ValueError, match="cannot be reversed"):
        Corpus.open(tmp_path / "kbest").reversed()


def soft_rows(first: int, count: int) -> pa.Table:
    values = [
        {
            "id": i,
            "target_ids": list(range(4, 4 + i % 3)),
            "sizes": [2] * (1 + i % 3),
            "entries": bytes([i % 256]) * (1 + i % 3),
            "spans": [1.0 + p for p in range(1 + i % 3)],
            "tail_logprob": [-float(p) for p in range(1 + i % 3)],
        }
        for i in range(first, first + count)
    ]
    return pa.Table.from_pylist(values, schema=SOFT_SCHEMA)


@pytest.mark.parametrize("held", [0, 1 << 29])
def test_soft_targets_give_any_rows_whether_or_not_they_are_held(tmp_path: Path, held: int) -> None:
    folder = make_folder(tmp_path / "soft")
    shards = [write_shard(folder, 0, soft_rows(0, 150)), write_shard(folder, 1, soft_rows(150, 70))]
    write_manifest(folder, Manifest(kind="soft", fingerprint=MADE_BY, rows=220, shards=shards))
    corpus, wanted = Corpus.open(folder, held_bytes=held), soft_rows(0, 220)
    assert pa.concat_tables(corpus.tables()).combine_chunks().equals(wanted)
    positions = np.random.default_rng(1).integers(0, 220, 90)
    assert corpus.take(positions).equals(wanted.take(pa.array(positions)).combine_chunks())
    assert corpus.take(positions[:1], ["id", "entries"]).column_names == ["id", "entries"]
    assert corpus.take(positions[:0]).num_rows == 0
    assert len(corpus._mapped) == (2 if held else 0)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_lists_are_read_whether_or_not_they_are_compressed_one_shard_at_a_time(
    tmp_path: Path, compression: str | None
) -> None:
    """Earlier versions wrote them uncompressed."""
    folder, shards = make_folder(tmp_path / "kbest"), []
    for number in range(3):
        path = folder / f"shard-{number:05d}.arrow"
        table = kbest_rows(50 * number, 50)
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        shards.append(ShardInfo(name=path.name, rows=50, sha256=digest, bytes=len(data)))
    write_manifest(folder, Manifest(kind="kbest", fingerprint=MADE_BY, rows=150, shards=shards))
    corpus = Corpus.open(folder, "kbest")
    assert pa.concat_tables(corpus.tables()).equals(kbest_rows(0, 150))
    assert len(corpus._mapped) == 1
    positions = np.array([149, 3, 70, 3])
    assert corpus.take(positions).equals(kbest_rows(0, 150).take(pa.array(positions)).combine_chunks())


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


@given(st.lists(st.integers(0, 19), max_size=40))
@examples(50)
def test_take_gives_the_rows_in_the_order_asked_for(
    tmp_path_factory: pytest.TempPathFactory, positions: list[int]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "taken"
    corpus = Corpus.open(folder if folder.exists() else make_corpus(folder, 10, 0, 7, 3))
    taken = corpus.take(np.array(positions, dtype=np.int64))
    assert taken.equals(rows(0, 20).take(pa.array(positions, pa.int64())))
    assert corpus.take(np.array(positions, dtype=np.int32), ["id"]).column("id").to_pylist() == positions


@pytest.mark.parametrize("position", [-1, 20])
def test_positions_outside_are_refused(folder: Path, position: int) -> None:
    with pytest.raises(IndexError, match="of 20 rows"):
        Corpus.open(folder).take(np.array([0, position]))


def test_only_so_many_shards_are_held_open(folder: Path) -> None:
    corpus = Corpus.open(folder, mapped_shards=2)
    for _ in range(2):
        assert corpus.take(np.arange(20), ["id"]).column("id").to_pylist() == list(range(20))
    assert len(corpus._mapped) == 2


def test_lengths(folder: Path) -> None:
    ids, sources, targets = Corpus.open(folder).lengths()
    assert [str(part.dtype) for part in (ids, sources, targets)] == ["int64", "int32", "int32"]
    assert ids.tolist() == list(range(20))
    assert sources.tolist() == [i % 5 for i in range(20)]
    assert targets.tolist() == [i % 7 for i in range(20)]


def test_ids_outside_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(folder)
    corpus.check_ids("target_ids", 10)
    with pytest.raises(CorpusError, match=r"shard-00000.arrow: target_ids contains ids from 4 to 9\n.*0 to 8"):
        corpus.check_ids("target_ids", 9)
    corpus.check_ids("target_ids", 9, [])
    with pytest.raises(CorpusError, match=r"shard-00002.arrow"):
        corpus.check_ids("target_ids", 1, [2])
    (tmp_path / "negative").mkdir()
    table = rows(0, 3).set_column(3, "source_ids", pa.array([[], [5, -1], [6]], pa.list_(pa.int32())))
    info = write_shard(tmp_path / "negative", 0, table)
    write_manifest(tmp_path / "negative", Manifest(kind="corpus", fingerprint=MADE_BY, rows=3, shards=[info]))
    with pytest.raises(CorpusError, match="from -1 to 6"):
        Corpus.open(tmp_path / "negative").check_ids("source_ids", 10)


@given(rows=st.lists(st.lists(st.integers(4, 6), max_size=6), max_size=12), cut=st.integers(0, 12))
@examples(40)
def test_repeats_are_counted_within_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], cut: int) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    shards = []
    for index, part in enumerate(part for part in (rows[:cut], rows[cut:]) if part):
        texts = ["x"] * len(part)
        lists = pa.array(part, pa.list_(pa.int32()))
        columns = {"id": range(len(part)), "source": texts, "target": texts, "source_ids": lists, "target_ids": lists}
        shards.append(write_shard(folder, index, pa.table(columns)))
    write_manifest(folder, Manifest(kind="corpus", fingerprint=MADE_BY, rows=len(rows), shards=shards))
    repeats = Corpus.open(folder).repeats("target_ids")
    assert repeats.dtype == np.int32
    assert repeats.tolist() == [sum(a == b for a, b in itertools.pairwise(row)) for row in rows]


def test_lengths_hold_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    long = rows(0, 200).set_column(1, "source", pa.array(["x" * 50_000] * 200))
    info = write_shard(folder, 0, long)
    assert info.bytes > 10_000_000
    write_manifest(folder, Manifest(kind="corpus", fingerprint=MADE_BY, rows=200, shards=[info]))
    corpus, before = Corpus.open(folder), pa.default_memory_pool().bytes_allocated()
    tracemalloc.start()
    corpus.lengths()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert pa.default_memory_pool().bytes_allocated() - before < 100_000


def test_kinds(tmp_path: Path, folder: Path) -> None:
    kbest = tmp_path / "kbest"
    kbest.mkdir()
    info = write_shard(kbest, 0, kbest_rows(0, 5))
    write_manifest(kbest, Manifest(kind="kbest", fingerprint=MADE_BY, rows=5, shards=[info]))
    assert Corpus.open(kbest).read_shard(0).equals(kbest_rows(0, 5))
    with pytest.raises(CorpusError, match=r"is of kind 'kbest'(.|\n)*expected: kind corpus"):
        Corpus.open(kbest, "corpus")
    with pytest.raises(CorpusError, match="has no column target_ids"):
        Corpus.open(kbest).lengths()
    with pytest.raises(CorpusError, match=r"has no column score(.|\n)*source_ids"):
        Corpus.open(folder).read_shard(0, ["id", "score"])


def test_a_model_is_no_corpus(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(kind="model", fingerprint=MADE_BY))
    with pytest.raises(CorpusError, match="is of kind 'model'"):
        Corpus.open(tmp_path)


def test_a_corpus_of_no_rows(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(kind="corpus", fingerprint=MADE_BY))
    corpus = Corpus.open(tmp_path)
    assert list(corpus.tables()) == []
    assert [len(part) for part in corpus.lengths()] == [0, 0, 0]
    assert corpus.take(np.array([], dtype=np.int64), ["id"]).num_rows == 0


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_shard_is_named_on_opening(folder: Path, keep: int) -> None:
    path = folder / "shard-00002.arrow"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorpusError, match="truncated") as caught:
        Corpus.open(folder)
    assert caught.value.where == str(path)


def test_a_shard_truncated_later_is_no_crash(folder: Path) -> None:
    corpus = Corpus.open(folder)
    path = folder / "shard-00002.arrow"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorpusError, match="truncated"):
        corpus.take(np.array([12]))


def test_a_missing_shard_is_named_on_opening(folder: Path) -> None:
    (folder / "shard-00003.arrow").unlink()
    with pytest.raises(CorpusError, match="missing") as caught:
        Corpus.open(folder)
    assert caught.value.where == str(folder / "shard-00003.arrow")


def test_an_additional_shard_is_named_on_opening(folder: Path) -> None:
    (folder / "shard-00009.arrow").touch()
    with pytest.raises(CorpusError, match=r"shard-00009.arrow: not in the manifest"):
        Corpus.open(folder)


def test_a_flipped_byte_is_found_when_the_shard_is_read(folder: Path) -> None:
    flip(folder / "shard-00002.arrow", (folder / "shard-00002.arrow").stat().st_size // 2)
    corpus = Corpus.open(folder)
    corpus.read_shard(1)
    for _ in range(2):
        with pytest.raises(CorpusError, match=r"shard-00002.arrow: its SHA-256 is .*, in the manifest"):
            corpus.read_shard(2)


def test_a_shard_is_hashed_once(folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(folder, mapped_shards=1)
    corpus.take(np.arange(20))
    # A file of the same size takes the shard's place. It is opened again, but not compared with the manifest again.
    path, changed = folder / "shard-00000.arrow", tmp_path / "changed"
    changed.write_bytes(path.read_bytes().replace(b"quelle 3", b"quelle 8"))
    changed.replace(path)
    assert corpus.take(np.array([3]), ["source"]).column("source").to_pylist() == ["quelle 8 ä\u2028"]
    with pytest.raises(CorpusError, match="SHA-256"):
        Corpus.open(folder).take(np.array([3]))


def replace_shard(folder: Path, index: int, data: bytes) -> None:
    """Put `data` in a shard's place, with a manifest that fits."""
    manifest = read_manifest(folder)
    old = manifest.shards[index]
    (folder / old.name).write_bytes(data)
    manifest.shards[index] = type(old)(
        name=old.name, rows=old.rows, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)
    )
    write_manifest(folder, manifest)


def test_a_file_that_is_not_arrow(folder: Path) -> None:
    replace_shard(folder, 2, b"not arrow" * 50)
    with pytest.raises(CorpusError, match=r"shard-00002.arrow: is not a readable Arrow file"):
        Corpus.open(folder).read_shard(2)


def test_a_hostile_shard_with_a_fitting_manifest(folder: Path) -> None:
    """Offsets that point anywhere: Arrow would follow them."""
    data = (folder / "shard-00002.arrow").read_bytes()
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    offsets = table.column("source_ids").chunk(0).offsets.buffers()[1].to_pybytes()
    bad = np.frombuffer(offsets, np.int32).copy()
    bad[1] = 2**30
    assert data.count(offsets[: 4 * 8]) == 1
    replace_shard(folder, 2, data.replace(offsets[: 4 * 8], bad.tobytes()[: 4 * 8]))
    with pytest.raises(CorpusError, match=r"shard-00002.arrow: is not a readable Arrow file"):
        Corpus.open(folder).read_shard(2)


def test_nulls_within_lists(folder: Path) -> None:
    table = rows(10, 7).set_column(3, "source_ids", pa.array([[4, None]] * 7, pa.list_(pa.int32())))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    replace_shard(folder, 2, sink.getvalue().to_pybytes())
    with pytest.raises(CorpusError, match=r"shard-00002.arrow: contains nulls in source_ids"):
        Corpus.open(folder).read_shard(2)


@pytest.mark.parametrize("index", [0, 2])
def test_a_shard_with_other_columns_or_rows(folder: Path, tmp_path: Path, index: int) -> None:
    size = read_manifest(folder).shards[index].rows
    info = write_shard(tmp_path, 0, kbest_rows(0, size))
    replace_shard(folder, index, (tmp_path / info.name).read_bytes())
    with pytest.raises(CorpusError, match="has the columns id, source_ids, hypotheses"):
        Corpus.open(folder).read_shard(index)
    info = write_shard(tmp_path, 0, rows(0, size + 1))
    replace_shard(folder, index, (tmp_path / info.name).read_bytes())
    with pytest.raises(CorpusError, match=f"{size + 1} rows, {size} in the manifest"):
        Corpus.open(folder).read_shard(index)


def test_another_process_gets_the_path_not_the_rows(folder: Path) -> None:
    corpus = Corpus.open(folder)
    corpus.take(np.arange(20))
    sent = pickle.dumps(corpus)
    assert len(sent) < 1000
    assert pickle.loads(sent).take(np.arange(20)).equals(rows(0, 20))


def test_pyarrow_dataset_opens_it(folder: Path) -> None:
    opened = pyarrow.dataset.dataset(str(folder), format="ipc", exclude_invalid_files=True)
    assert opened.to_table().equals(rows(0, 20))
    assert pyarrow.dataset.dataset(Corpus.open(folder).paths, format="ipc").to_table().equals(rows(0, 20))


def test_pyarrow_dataset_takes_the_manifest_for_a_shard_unless_told(folder: Path) -> None:
    """Why `exclude_invalid_files` or `paths` is in our documentation; when this fails, it can go."""
    with pytest.raises(pa.ArrowInvalid, match=r"manifest\.json"):
        pyarrow.dataset.dataset(str(folder), format="ipc")


def test_hugging_face_datasets_opens_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "arrow", data_files=str(folder / "shard-*.arrow"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.num_rows == 20
    assert [loaded[i] for i in range(20)] == rows(0, 20).to_pylist()
