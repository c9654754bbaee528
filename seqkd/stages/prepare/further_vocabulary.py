"""`seqkd prepare --vocabulary`: a further vocabulary for models of one or several data sets.

The output stands in place of the prepared folder of a data set for models that have this vocabulary: it holds the
vocabulary and the validation text. Training and test text are encoded by `seqkd prepare --encode`.

With several data sets, the validation text of each one is in `valid@GROUP`. The group is the name of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from seqkd.stages.prepare.tags import SOURCE_TAG, check_tag, read_tag, remove_tag
from seqkd.text.vocabularies import Vocabularies, list_files

VALID = "valid"
GROUPS = "groups"  # in the manifest, with several data sets: the facts about each one, by group
_KEPT = ("source_language", "target_language", LENGTHS, SOURCE_TAG)  # facts that do not depend on a vocabulary


@dataclass(frozen=True, slots=True)
class _DataSet:
    """A data set from which the vocabulary is learnt.

    Attributes:
        group: Its name; "" if it is the only one.
        prepared: The manifest of its prepared folder.
        train: Its training text.
        valid: Its validation text.
    """

    group: str
    prepared: Manifest
    train: Corpus
    valid: Corpus

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about its text for manifests."""
        return {name: self.prepared.extra[name] for name in _KEPT if name in self.prepared.extra}

    def find_role(self, part: str) -> str:
        """Return the name of a part of its text among the inputs of a fingerprint."""
        return name_part(part, self.group)

    def read_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the training text without the tag, which is a piece in any case."""
        tag = read_tag(self.train.manifest)
        for table in self.train.tables(["source", "target"]):
            sources, targets = (table.column(side).to_pylist() for side in ("source", "target"))
            yield from zip((remove_tag(source, tag) for source in sources), targets, strict=True)


def name_part(part: str, group: str) -> str:
    """Return the name of a part of a prepared folder of several data sets; the group is "" if there is only one."""
    return f"{part}@{group}" if group else part


def run(config: FurtherVocabularyConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Learn a vocabulary from the training text of data sets, and encode their validation text.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        CorpusError: A folder in `config.prepared` is not an output of `prepare`.
        InputError: The size does not fit the text.
        ModelError: The tag of a data set is not among the symbols of the vocabulary.
        ConflictError: `out` was made with other settings or text.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    sets = _open_data_sets(config)
    inputs = {data.find_role(part): corpus.manifest.digest() for data in sets for part, corpus in _list_texts(data)}
    made_by = Provenance(stage="vocabulary", settings=settings(config), inputs=inputs, neutral=find_neutral(config))

    def read_pairs() -> Iterator[tuple[str, str]]:
        for data in sets:
            yield from data.read_pairs()

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
        encoded = {data.group: _encode_valid(data, out, vocabularies) for data in sets}
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
                    **_describe_sets(sets, encoded),
                },
            )
        )
    say(f"prepare: a vocabulary of {vocabularies.target.size:,} pieces in {out}")


def settings(config: FurtherVocabularyConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    return config.model_dump(mode="json", include={"vocabulary", "seed"})


def _open_data_sets(config: FurtherVocabularyConfig) -> list[_DataSet]:
    given = config.prepared
    named = [("", given)] if isinstance(given, Path) else [(part.group, part.path) for part in given]
    return [
        _DataSet(
            group,
            read_prepared(path),
            Corpus.open(path / "train", "corpus"),
            Corpus.open(path / VALID, "corpus"),
        )
        for group, path in named
    ]


def _list_texts(data: _DataSet) -> tuple[tuple[str, Corpus], ...]:
    return ("train", data.train), (VALID, data.valid)


def _encode_valid(data: _DataSet, out: Path, vocabularies: Vocabularies) -> Manifest:
    """Encode the validation text of a data set, or take it from an earlier run."""
    check_tag(read_tag(data.valid.manifest), vocabularies)
    digests = {"vocabulary": vocabularies.target.digest, "source_vocabulary": vocabularies.source.digest}
    part = Provenance(stage="encode", settings={}, inputs={"corpus": data.valid.manifest.digest(), **digests})
    with StageOutput.open(out / name_part(VALID, data.group), "corpus", part, overwrite=False) as below:
        if not below.complete:
            below.commit(encode_corpus(data.valid, below, vocabularies))
        assert below.manifest is not None
        return below.manifest


def _describe_sets(sets: list[_DataSet], encoded: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the digests of the validation texts, and the facts about a single data set or about each group."""
    digests = {name_part(VALID, group): manifest.digest() for group, manifest in encoded.items()}
    facts = {data.group: {"valid_rows": encoded[data.group].rows, **data.facts} for data in sets}
    return digests | facts.get("", {GROUPS: facts})
