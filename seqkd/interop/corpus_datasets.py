"""Export of a corpus as a folder that `datasets.load_dataset` opens (Lhoest et al. 2021)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqkd import __version__
from seqkd.corpus.files import atomic_path, atomic_write
from seqkd.corpus.manifest import Manifest
from seqkd.corpus.reader import Corpus
from seqkd.interop.corpus_settings import CorpusExport
from seqkd.interop.exports import TRAIN, digests, open_splits, write_export

CARD = "README.md"
_NAMES = {TRAIN: "train", "valid": "validation", "test": "test"}  # the names of splits in `datasets`
# The names of the hub for numbers of rows, up to 10, 100 ... thousands.
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_COLUMNS = {
    "id": "the id of the row, the same in all corpora that come from one folder of `seqkd prepare`",
    "source": "the source text",
    "target": "the target text",
    "score": "the score by which the teacher's hypotheses are sorted",
    "rule": "the rule that chose the target",
    "origin": "the origin of the target: `teacher`, `gold` or `backtranslation`",
    "weight": "the weight of the row in training",
    "further_references": "further references of a test set",
    "rival": "a worse hypothesis; the target itself if the row has no worse hypothesis",
    "rival_margin": "the sentence BLEU of the target, 0 to 1, minus that of the rival",
    "source_row": "the id of the first row with the same source, in text with several targets",
}


def export_dataset(corpus: Path, out: Path, settings: CorpusExport, *, overwrite: bool = False) -> None:
    """Write Parquet files by split, and a dataset card whose provenance comes from the manifests.

    Piece ids are left out, because they mean nothing without the vocabulary.

    Args:
        corpus: The corpus.
        out: The folder to make.
        settings: The folder whose validation and test text become the splits "validation" and "test".
        overwrite: Whether to replace a folder that was made from other inputs.

    Raises:
        CorpusError: A folder is not a finished corpus, or is damaged.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    splits = {_NAMES[name]: split for name, split in open_splits(corpus, settings.prepared).items()}
    write_export(out, "datasets", digests(splits), partial(_write, splits, out), overwrite=overwrite)


def _write(splits: Mapping[str, Corpus], out: Path) -> dict[str, int]:
    (out / "data").mkdir(exist_ok=True)
    for name, corpus in splits.items():
        columns = _text_columns(corpus.schema)
        # `datasets` cannot load a split without a file, so that a corpus without shards gets an empty one.
        tables = corpus.tables(columns) if corpus.shards else iter([corpus.schema.empty_table().select(columns)])
        for index, table in enumerate(tables):
            with atomic_path(out / "data" / f"{name}-{index:05d}.parquet") as temporary:
                pq.write_table(table, temporary, compression="zstd")
    atomic_write(out / CARD, make_card(splits).encode())
    return {}


def _text_columns(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if not name.endswith("_ids")]


def make_card(splits: Mapping[str, Corpus]) -> str:
    """Return the text of a dataset card.

    Args:
        splits: The corpora by the name of their split in `datasets`.
    """
    manifest = splits[TRAIN].manifest
    distilled = manifest.fingerprint["stage"] == "select"
    columns = list(dict.fromkeys(name for corpus in splits.values() for name in _text_columns(corpus.schema)))
    title = f"Distilled corpus, rule {manifest.extra['rule']}" if distilled else "Parallel corpus"
    lines = [
        *_header(splits, distilled),
        f"# {title}",
        "",
        "The targets were chosen from the translations of a teacher (sequence-level knowledge distillation, "
        "Kim and Rush 2016)."
        if distilled
        else "The corpus has the rows that `seqkd prepare` kept.",
        f"This folder was written by seqkd {__version__}.",
        "",
        "| split | rows | source pieces | target pieces |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {corpus.rows:,} | {corpus.manifest.source_tokens:,} | {corpus.manifest.target_tokens:,} |"
            for name, corpus in splits.items()
        ),
        "",
        "| column | content |",
        "|---|---|",
        *(f"| `{name}` | {_COLUMNS.get(name, '')} |" for name in columns),
        "",
        "## Provenance",
        "",
    ]
    for name, corpus in splits.items():
        lines += _provenance(name, corpus.manifest)
    return "\n".join(lines)


def _header(splits: Mapping[str, Corpus], distilled: bool) -> Iterator[str]:
    """Yield the metadata of the card, in YAML."""
    manifest = splits[TRAIN].manifest
    spoken = (manifest.extra.get(f"{side}_language") for side in ("source", "target"))
    languages = dict.fromkeys(language for language in spoken if language)
    rows = sum(corpus.rows for corpus in splits.values())
    size = _SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]
    yield "---"
    if languages:
        yield "language:"
        yield from (f"- {json.dumps(language)}" for language in languages)
    yield from ("task_categories:", "- translation", "size_categories:", f"- {size}")
    if distilled:
        yield from ("tags:", "- knowledge-distillation")
    yield from ("configs:", "- config_name: default", "  data_files:")
    for name in splits:
        yield from (f"  - split: {name}", f"    path: data/{name}-*.parquet")
    yield from ("---", "")


def _provenance(split: str, manifest: Manifest) -> Iterator[str]:
    """Yield the settings and inputs of a split, its rejected rows, and the facts in its manifest."""
    made_by: dict[str, Any] = manifest.fingerprint
    facts = {
        "stage": made_by["stage"],
        "settings": made_by["config"],
        "inputs": made_by["inputs"],
        "rejected": manifest.counts,
        "facts": manifest.extra,
        "vocabulary": manifest.vocabulary,
        "digest": manifest.digest(),
    }
    yield f"The split `{split}`, from the manifest of the corpus; digests are SHA-256:"
    yield from ("", "```json", json.dumps(facts, indent=2, ensure_ascii=False), "```", "")
