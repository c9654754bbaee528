"""`seqkd prepare --vocabulary`: a further vocabulary for models of a data set.

The output stands in place of the prepared folder of the data set for models that have this vocabulary: it holds the
vocabulary and the validation text. Training and test text are encoded by `seqkd prepare --encode`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqkd.config.stages import FurtherVocabularyConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import PARTIAL, Manifest, Provenance, StageOutput
from seqkd.corpus.reader import Corpus
from seqkd.errors import InputError
from seqkd.progress import say
from seqkd.stages.prepare.encode import encode_corpus
from seqkd.stages.prepare.encoding import LENGTHS
from seqkd.stages.prepare.learning import learn_vocabularies
from seqkd.stages.prepare.prepare import read_prepared
from seqkd.text.vocabularies import list_files

VALID = "valid"
_KEPT = ("source_language", "target_language", LENGTHS)  # facts about the text that do not depend on a vocabulary


def run(config: FurtherVocabularyConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Learn a vocabulary from the training text of a data set, and encode the validation text.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        CorpusError: `config.prepared` is not an output of `prepare`.
        InputError: The size does not fit the text.
        ConflictError: `out` was made with other settings or text.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    prepared = read_prepared(config.prepared)
    train, valid = (Corpus.open(config.prepared / part, "corpus") for part in ("train", VALID))
    inputs = {"train": train.manifest.digest(), VALID: valid.manifest.digest()}
    made_by = Provenance(stage="vocabulary", settings=settings(config), inputs=inputs, neutral=find_neutral(config))

    def read_pairs() -> Iterator[tuple[str, str]]:
        for table in train.tables(["source", "target"]):
            yield from zip(table.column("source").to_pylist(), table.column("target").to_pylist(), strict=True)

    with StageOutput.open(out, "prepared", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"prepare: {out} is up to date")
            return
        try:
            vocabularies = learn_vocabularies(config.vocabulary, out, read_pairs, seed=config.seed)
        except InputError:  # a corrected size must not conflict with the folder
            for name in (*list_files(out), PARTIAL):
                (out / name).unlink(missing_ok=True)
            raise
        digests = {"vocabulary": vocabularies.target.digest, "source_vocabulary": vocabularies.source.digest}
        part = Provenance(stage="encode", settings={}, inputs={"corpus": valid.manifest.digest(), **digests})
        with StageOutput.open(out / VALID, "corpus", part, overwrite=False) as below:
            if not below.complete:
                below.commit(encode_corpus(valid, below, vocabularies))
            assert below.manifest is not None
            encoded = below.manifest
        output.commit(
            Manifest(
                kind="prepared",
                fingerprint=made_by.fingerprint,
                rows=0,
                vocabulary=vocabularies.target.digest,
                extra={
                    "source_vocabulary": vocabularies.source.digest,
                    "pieces": vocabularies.target.size,
                    "source_pieces": vocabularies.source.size,
                    VALID: encoded.digest(),
                    "valid_rows": encoded.rows,
                    **{name: prepared.extra[name] for name in _KEPT if name in prepared.extra},
                },
            )
        )
    say(f"prepare: a vocabulary of {vocabularies.target.size:,} pieces in {out}")


def settings(config: FurtherVocabularyConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    return config.model_dump(mode="json", include={"vocabulary", "seed"})
