"""Vocabularies, stage and pipeline files, and bitext."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from seqkd.config.stages import (
    DistillConfig,
    EvaluateConfig,
    PrepareConfig,
    ReportConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
)
from seqkd.config.toml import load_stage
from seqkd.interop.fairseq_dictionary import dictionary_text, schema, word_vocabulary
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.text.reading import check_bitext, read_bitext
from seqkd.text.vocabulary import Vocabulary

Reader = Callable[[bytes], None]

TEXT = ["der hund schläft heute nicht", "die katze jagt den hund ﬁ ①", "alle vögel singen \u3000 morgens laut"]
STAGES: dict[str, type[BaseModel]] = {
    "prepare": PrepareConfig,
    "teacher": TrainConfig,
    "student": TrainConfig,
    "distill": DistillConfig,
    "select": SelectConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "soft_targets": SoftTargetsConfig,
}


def sentencepiece(folder: Path) -> tuple[list[bytes], Reader]:
    """Unigram, BPE and whole words; with what they do to text."""
    files = [word_vocabulary(["der", "hund", "vögel"]).model]
    for name, kind, fallback in (("unigram", "unigram", True), ("bpe", "bpe", False)):
        path = folder / f"{name}.model"
        Vocabulary.train(
            iter(TEXT * 5),
            path,
            size=290 if fallback else 60,
            type="unigram" if kind == "unigram" else "bpe",
            byte_fallback=fallback,
            character_coverage=1.0,
            symbols=("<x>",),
            seed=1,
        )
        files.append(path.read_bytes())
    path = folder / "vocab.model"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        vocabulary = Vocabulary.load(path)
        for row in vocabulary.encode([*TEXT, "", "x" * 300, "\x00 \ufffd <x> <s>"]):
            assert all(0 <= piece < vocabulary.size for piece in row)
        vocabulary.decode([list(range(vocabulary.size)), []])
        vocabulary.pieces()
        dictionary_text(path)

    return files, read


def charsmap(folder: Path) -> tuple[list[bytes], Reader]:
    """The table by which SentencePiece normalises: a trie that C++ walks, in a model that is sound otherwise."""
    vocabularies, read_vocabulary = sentencepiece(folder)
    model = schema.ModelProto()
    model.ParseFromString(vocabularies[-1])

    def read(data: bytes) -> None:
        model.normalizer_spec.precompiled_charsmap = data
        read_vocabulary(model.SerializeToString())

    table = bytes(model.normalizer_spec.precompiled_charsmap)
    return [table], read


def toml(folder: Path) -> tuple[list[bytes], Reader]:
    """Pipelines, and the stage files that `plan` writes of them."""
    root = Path(__file__).parents[2]
    pipeline = root / "pipelines" / "toy.toml"
    write_plan(pipeline, folder)
    stages = {
        path: next(kind for name, kind in STAGES.items() if path.name.startswith(name)) for path in _files(folder)
    }
    files = {path.read_bytes(): kind for path, kind in stages.items()}
    kinds = list(dict.fromkeys(files.values()))
    whole = pipeline.read_bytes()

    def read(data: bytes) -> None:
        path = folder / "toy.toml"
        path.write_bytes(data)
        if data == whole or b"[data" in data:
            read_pipeline(path)
        else:
            load_stage(files.get(data, kinds[len(data) % len(kinds)]), path)

    return [whole, *files], read


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / "toy" / "config").glob("*.toml")) if path.stem != "fetch"]


def text(folder: Path) -> tuple[list[bytes], Reader]:
    """Two aligned files, or one with columns."""
    lines = "".join(f"{line}\n" for line in TEXT * 4).encode()
    table = "".join(f"{line}\t{line}\n" for line in TEXT * 4).encode()
    (folder / "other").write_bytes(lines)

    def read(data: bytes) -> None:
        path = folder / "text"
        path.write_bytes(data)
        for other in (folder / "other", None):
            if data in (lines, table) and (data == table) != (other is None):
                continue
            assert check_bitext(path, other).rows == sum(1 for _ in read_bitext(path, other))

    return [lines, table], read
