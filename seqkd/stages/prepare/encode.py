"""`seqkd prepare --encode`: the rows of a corpus, with its text encoded by another vocabulary.

Models with different vocabularies meet through text. A corpus that a model reads or learns from is encoded with the
model's own vocabulary by this stage. Rows, ids, shards and all other columns stay the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seqkd.config.stages import EncodeConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.files import atomic_write
from seqkd.corpus.manifest import Manifest, Provenance, ShardInfo, StageOutput
from seqkd.corpus.reader import Corpus
from seqkd.corpus.unknowns import UNKNOWN_ROWS, count_unknown
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError, ModelError
from seqkd.executors.work import Completion, whole_shards
from seqkd.progress import say
from seqkd.stages.prepare.references import ACCEPTED, accepted_file
from seqkd.stages.prepare.tags import check_tag, read_tag
from seqkd.stages.shards import ShardJob, make_shards
from seqkd.text.vocabularies import TextVocabulary, Vocabularies

STAGE = "encode"
_OF_PIECES = "vocabulary_"  # facts that `select` counts in pieces begin with it


def run(config: EncodeConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Encode a corpus with the vocabularies of a folder.

    Args:
        config: The settings of the stage.
        out: The output folder, a corpus.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        CorpusError: The corpus is missing or damaged, or is monolingual text.
        ModelError: The folder has no vocabulary, or the vocabulary lacks the tag of the data set or that of
            back-translated sources.
        ConflictError: `out` was made from another corpus or with another vocabulary.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    corpus, vocabularies = Corpus.open(config.corpus, "corpus"), Vocabularies.load(config.vocabulary)
    if corpus.manifest.extra.get("monolingual"):
        raise CorpusError(
            "is monolingual text, which only the reverse model reads",
            where=str(config.corpus),
            expected="a corpus with both sides",
        )
    check_tag(read_tag(corpus.manifest), vocabularies)
    accepted = accepted_file(config.corpus)
    inputs = {"accepted": hashlib.sha256(accepted.read_bytes()).hexdigest()} if accepted.is_file() else {}
    inputs |= {"corpus": corpus.manifest.digest()}
    inputs |= {"vocabulary": vocabularies.target.digest, "source_vocabulary": vocabularies.source.digest}
    made_by = Provenance(stage=STAGE, settings={}, inputs=inputs, neutral=find_neutral(config))
    if not StageOutput.up_to_date(out, "corpus", made_by, overwrite=overwrite):
        corpus.check_rows()
    with StageOutput.open(out, "corpus", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"prepare: {out} is up to date")
            return
        if accepted.is_file():
            atomic_write(out / ACCEPTED, accepted.read_bytes())
        manifest = encode_corpus(corpus, output, vocabularies)
        output.commit(manifest)
    say(f"prepare: {manifest.rows:,} rows of {config.corpus} with the vocabulary of {config.vocabulary} in {out}")


def encode_corpus(corpus: Corpus, output: StageOutput, vocabularies: Vocabularies) -> Manifest:
    """Write the shards of a corpus with other ids, and return the manifest.

    Raises:
        ModelError: The vocabulary lacks the tag of back-translated sources.
        WorkError: The files cannot be written, or the run was stopped.
    """
    rows = [shard.rows for shard in corpus.shards]
    work = whole_shards(lambda: partial(_encode_shard, corpus, output.path, vocabularies))
    made = make_shards(output, ShardJob(label=f"prepare: {output.path.name}", unit="rows", rows=rows, work=work))
    assert made is not None  # there is one process
    tokens, unknown = Counter[str](), Counter[str]()
    for shard in made.shards:
        with pa.memory_map(str(output.path / shard.name)) as file:
            table = pa.ipc.open_file(file).read_all()
            for column in ("source_ids", "target_ids"):
                tokens[column] += pc.sum(pc.list_value_length(table[column])).as_py() or 0
            unknown.update(count_unknown([table]))
            del table
    known = corpus.manifest
    extra: dict[str, Any] = {
        name: value for name, value in known.extra.items() if not name.startswith(_OF_PIECES) and name != UNKNOWN_ROWS
    }
    extra |= {"source_vocabulary": vocabularies.source.digest}
    extra |= {UNKNOWN_ROWS: dict(unknown)} if unknown else {}
    return Manifest(
        kind="corpus",
        fingerprint=output.fingerprint,
        rows=known.rows,
        source_tokens=tokens["source_ids"],
        target_tokens=tokens["target_ids"],
        shards=made.shards,
        vocabulary=vocabularies.target.digest,
        counts=known.counts,
        extra=extra,
    )


def encode_texts(texts: list[str], vocabulary: TextVocabulary, *, tag: str = "") -> list[list[int]]:
    """Encode texts that another vocabulary has encoded before.

    Args:
        texts: The texts, normalised or not.
        vocabulary: The vocabulary.
        tag: The tag of back-translated sources, which is a piece of its own before the text; "" if there is none.

    Raises:
        ModelError: The vocabulary lacks the tag.
    """
    mark = f"{tag} "
    tagged = [bool(tag) and text.startswith(mark) for text in texts]
    piece = vocabulary.id_of(tag) if any(tagged) else None
    if any(tagged) and piece is None:
        raise ModelError(
            f"has no piece {tag!r}, which is the tag of back-translated sources",
            where=str(vocabulary.path),
            hint="add it to the tags of this vocabulary, or make back-translations without a tag",
        )
    bare = [text[len(mark) :] if own else text for text, own in zip(texts, tagged, strict=True)]
    ids = vocabulary.encode(vocabulary.normalize(bare))
    return [[piece, *row] if own and piece is not None else row for row, own in zip(ids, tagged, strict=True)]


def find_text(manifest: Manifest) -> str:
    """Return a digest that corpora with the same rows and text share, whatever encoded them."""
    made_by = manifest.fingerprint
    return str(made_by["inputs"]["corpus"]) if made_by.get("stage") == STAGE else manifest.digest()


def _encode_shard(corpus: Corpus, out: Path, vocabularies: Vocabularies, index: int) -> Completion[ShardInfo]:
    """Encode a shard, and return the function that writes it."""
    table = corpus.read_shard(index)
    for name, vocabulary in vocabularies.sides():
        tag = str(corpus.manifest.extra.get("tag", "")) if name == "source" else ""
        for column in (name, *(("rival",) if name == "target" and "rival" in table.column_names else ())):
            ids = encode_texts(table.column(column).to_pylist(), vocabulary, tag=tag)
            place = table.schema.get_field_index(f"{column}_ids")
            table = table.set_column(place, f"{column}_ids", pa.array(ids, pa.list_(pa.int32())))
    return partial(write_shard, out, index, table)
