"""Exports of corpora, loaded by fairseq's and Hugging Face's own classes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqkd.cli.main import main
from seqkd.corpus.manifest import Manifest, build_fingerprint, read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import CORPUS_SCHEMA
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.interop.corpus_datasets import export_dataset
from seqkd.interop.corpus_settings import CorpusExport, EncodedExport
from seqkd.interop.corpus_text import export_text
from seqkd.interop.fairseq_data import export_data
from seqkd.interop.fairseq_dictionary import word_vocabulary
from seqkd.text.vocabularies import VOCABULARY
from seqkd.text.vocabulary import EOS_ID, Vocabulary

WORDS = [f"w{number}" for number in range(20)]
TRAIN = [("w1 w2", "w3"), ("w4", ""), ("w5 w6 w7", "w8 w9\tw10"), ("w19", "w0 w0 w0 w0")]


def corpus(folder: Path, vocabulary: Vocabulary, rows: list[tuple[str, str]], **columns: Any) -> Path:
    """A finished corpus with two rows a shard."""
    folder.mkdir(parents=True)
    values = [
        {"id": 3 * index, "source": source, "target": target, **columns} for index, (source, target) in enumerate(rows)
    ]
    for value in values:
        value["source_ids"], value["target_ids"] = vocabulary.encode(
            [value["source"], value["target"].replace("\t", " ")]  # as normalised before
        )
    names = ["id", "source", "target", "source_ids", "target_ids", *columns]
    table = pa.Table.from_pylist(values, schema=pa.schema([CORPUS_SCHEMA.field(name) for name in names]))
    shards = [write_shard(folder, index, table.slice(2 * index, 2)) for index in range((len(rows) + 1) // 2)]
    stage = "select" if columns else "prepare"
    made_by = build_fingerprint(stage, {"rule": "seqkd", "keep": 2}, {"gold": "a" * 64})
    digest = vocabulary.digest
    extra = {"source_vocabulary": digest, "rule": "seqkd", "target_language": "de"}
    manifest = Manifest(
        kind="corpus", fingerprint=made_by, rows=len(rows), shards=shards, vocabulary=digest, extra=extra
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A prepared folder with a vocabulary of words."""
    folder = tmp_path / "gold"
    folder.mkdir()
    (folder / VOCABULARY).write_bytes(word_vocabulary(WORDS).model)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    for name in ("train", "valid", "test"):
        corpus(folder / name, vocabulary, [(f"w1 {name}", f"w2 {name}")])
    write_manifest(folder, Manifest(kind="prepared", fingerprint=build_fingerprint("prepare", {}, {})))
    return folder


@pytest.fixture
def distilled(tmp_path: Path, prepared: Path) -> Path:
    return corpus(tmp_path / "seqkd", Vocabulary.load(prepared / VOCABULARY), TRAIN, score=-0.25, rule="seqkd")


def lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def test_text_is_aligned_by_line_and_the_table_has_ids(
    tmp_path: Path, prepared: Path, distilled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    export_text(distilled, out, CorpusExport(prepared=prepared))
    assert lines(out / "train.source.gz") == ["w1 w2", "w4", "w5 w6 w7", "w19"]
    assert lines(out / "train.target.gz") == ["w3", "", "w8 w9 w10", "w0 w0 w0 w0"]
    assert lines(out / "train.tsv.gz") == [
        "id\tsource\ttarget\tscore\trule",
        "0\tw1 w2\tw3\t-0.25\tseqkd",
        "3\tw4\t\t-0.25\tseqkd",
        "6\tw5 w6 w7\tw8 w9 w10\t-0.25\tseqkd",
        "9\tw19\tw0 w0 w0 w0\t-0.25\tseqkd",
    ]
    assert lines(out / "test.tsv.gz") == ["id\tsource\ttarget", "0\tw1 test\tw2 test"]
    assert "1 rows with a tab or a line break" in capsys.readouterr().err
    assert sum(read_manifest(out).counts.values()) == 1


@pytest.mark.slow
def test_fairseq_reads_the_data(tmp_path: Path, prepared: Path, distilled: Path) -> None:
    from fairseq.data import Dictionary, data_utils
    from fairseq.tasks.translation import load_langpair_dataset

    out = tmp_path / "out"
    export_data(distilled, out, EncodedExport(prepared=prepared))
    dictionaries = [Dictionary.load(str(out / f"dict.{language}.txt")) for language in ("src", "tgt")]
    assert [dictionaries[0][index] for index in (2, 4, 23)] == ["</s>", "w0", "w19"]
    pairs = load_langpair_dataset(
        str(out),
        "train",
        "src",
        dictionaries[0],
        "tgt",
        dictionaries[1],
        combine=False,
        dataset_impl=None,  # fairseq looks for the kind
        upsample_primary=1,
        left_pad_source=True,
        left_pad_target=False,
        max_source_positions=64,
        max_target_positions=64,
    )
    found = [
        tuple(part.string(pairs[index][side]) for side, part in zip(("source", "target"), dictionaries, strict=True))
        for index in range(len(pairs))
    ]
    assert found == [(source, target.replace("\t", " ")) for source, target in TRAIN]
    assert pairs[1]["target"].tolist() == [EOS_ID]
    assert pairs.src_sizes.tolist() == [3, 2, 4, 2]
    valid = data_utils.load_indexed_dataset(str(out / "valid.src-tgt.tgt"), dictionaries[1], None)
    assert [row.tolist() for row in valid] == [[6, 3, EOS_ID]]


def test_data_of_another_vocabulary_is_refused(tmp_path: Path, prepared: Path, distilled: Path) -> None:
    (prepared / VOCABULARY).write_bytes(word_vocabulary([*WORDS, "more"]).model)
    with pytest.raises(CorpusError, match="made with a target vocabulary other than that of"):
        export_data(distilled, tmp_path / "out", EncodedExport(prepared=prepared))
    with pytest.raises(CorpusError, match="is of kind 'corpus'"):
        export_data(distilled, tmp_path / "out", EncodedExport(prepared=distilled))
    assert not (tmp_path / "out").exists()


def test_datasets_opens_the_folder_with_its_card(tmp_path: Path, prepared: Path, distilled: Path) -> None:
    import datasets

    out = tmp_path / "out"
    export_dataset(distilled, out, CorpusExport(prepared=prepared))
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "validation", "test"}
    assert loaded["train"].column_names == ["id", "source", "target", "score", "rule"]
    assert [(row["source"], row["target"]) for row in loaded["train"]] == TRAIN
    assert loaded["train"]["id"][:] == [0, 3, 6, 9]
    assert loaded["validation"]["target"][:] == ["w2 valid"]
    card = (out / "README.md").read_text()
    for part in ('- "de"', "- n<1K", "Distilled corpus, rule seqkd", '"keep": 2', "a" * 64, "| train | 4 |"):
        assert part in card
    assert Corpus.open(distilled).manifest.digest() in card


def test_a_folder_of_another_kind_is_refused(
    tmp_path: Path, prepared: Path, distilled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["export", "text", str(prepared), *out]) == 2
    message = capsys.readouterr().err
    assert "is of kind 'prepared'" in message
    assert f"give a corpus in it, such as {prepared / 'train'}" in message
    assert main(["export", "huggingface", str(distilled), *out]) == 2
    message = capsys.readouterr().err
    assert "is of kind 'corpus'" in message
    assert "for a corpus there are: text, fairseq-data, datasets" in message
    assert main(["export", "fairseq-data", str(distilled), *out]) == 2  # without --prepared
    assert not (tmp_path / "out").exists()
    assert main(["export", "datasets", str(distilled), *out]) == 0
    assert main(["export", "text", str(distilled), *out]) == 2
    assert "config.to" in capsys.readouterr().err
