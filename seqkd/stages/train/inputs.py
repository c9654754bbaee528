"""The inputs of training: corpora and vocabularies, checked against each other before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqkd.config.models import list_weighing_objectives
from seqkd.config.stages import TrainConfig
from seqkd.corpus.manifest import Manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, CorpusError
from seqkd.models.checkpoint import model_digest
from seqkd.stages.prepare.further_vocabulary import GROUPS, VALID, name_part
from seqkd.stages.prepare.prepare import read_prepared
from seqkd.stages.prepare.tags import SOURCE_TAG
from seqkd.stages.train.rejecting import corpus_key
from seqkd.stages.train.teaching import Teaching
from seqkd.text.languages import has_blanks, looks_blankless
from seqkd.text.noise import NoiseSettings, WordNoise
from seqkd.text.vocabularies import Vocabularies
from seqkd.training.data import RIVAL_IDS, WEIGHT
from seqkd.training.noise import word_noise

_TAGS = ("tag", SOURCE_TAG)  # in a manifest: the piece that sources open with, of back-translation or a data set
_SOME = 100  # rows whose text shows whether it has blanks


class Inputs:
    """The corpora and vocabularies, checked against each other.

    Args:
        config: The settings of the stage.

    Attributes:
        prepared: The manifest of the prepared folder.
        corpora: The training corpora in the direction of the model.
        mixed: Whether there are several corpora, or one with a weight or noise. A group changes nothing.
        valid: The validation corpora by group. The group of a single data set is "".
        languages: The target language of each group, or None if it is not known.
        vocabularies: The vocabularies of source and target.
        noises: The noise of the sources of each corpus, or None.
        init_from: Folder of the model from which training starts.
        teaching: The inputs that teachers provide.

    Raises:
        ConfigError: The objective cannot count rows by the weights of a corpus, or reads rivals that no corpus has; or
            the groups of the corpora are not those of the prepared folder; or sources that should get noise have no
            borders of words.
        CorpusError: A corpus is missing or damaged, was made with another vocabulary, or has no targets; or the soft
            targets belong to another corpus.
        ModelError: The teacher folder does not contain a model, or the teacher was trained with a different vocabulary.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.prepared = read_prepared(config.prepared)
        self.corpora = [_open_directed(part.path, config) for part in config.corpora]
        self.mixed = config.mixed
        for corpus in self.corpora:
            if WEIGHT in corpus.schema.names and not config.objective.weighs_rows:
                raise ConfigError(
                    f"is {config.objective.type!r}, which cannot count rows by the weights of {corpus.path}",
                    where="objective.type",
                    expected=f"one of: {', '.join(list_weighing_objectives())}; or a corpus without weights",
                    hint='select with another rule than "all", and with keep = 1',
                )
        self._rivals = config.objective.reads_rivals
        if self._rivals and not any(RIVAL_IDS in corpus.schema.names for corpus in self.corpora):
            raise ConfigError(
                f"is {config.objective.type!r}, which reads rivals, and {self.corpora[0].path} has none",
                where="objective.type",
                expected='a corpus of `seqkd select` with rule "pair"',
            )
        facts = _find_groups(self.prepared, config)
        self.valid = {group: _open_directed(config.prepared / name_part(VALID, group), config) for group in facts}
        side = "source_language" if config.reverse else "target_language"
        self.languages: dict[str, str | None] = {group: of.get(side) for group, of in facts.items()}
        own = Vocabularies.load(config.prepared)
        self.vocabularies = own.reversed() if config.reverse else own
        self.init_from = None if config.init_from is None else Path(config.init_from.model)
        for corpus in (*self.corpora, *self.valid.values()):
            corpus.check_vocabularies(
                self.vocabularies,
                f"that of {config.prepared}",
                hint="give the `prepared` folder that this corpus comes from",
            )
        self.noises = [
            self._make_noise(part.noise, corpus, facts[part.group or ""], config.reverse)
            for part, corpus in zip(config.corpora, self.corpora, strict=True)
        ]
        stored = {
            str(part.group): (config.soft_targets[str(part.group)], corpus)
            for part, corpus in zip(config.corpora, self.corpora, strict=True)
            if config.soft_targets
        }
        self.teaching = Teaching(config.objective, self.corpora[0], self.vocabularies, config.teachers, stored)

    def _make_noise(
        self, settings: NoiseSettings | None, corpus: Corpus, facts: Mapping[str, Any], reverse: bool
    ) -> WordNoise | None:
        """Make the noise of the sources of a corpus, if it has any, given the facts about the text of its data set."""
        if settings is None:
            return None
        language = facts.get("target_language" if reverse else "source_language")
        some = corpus.take(np.arange(min(corpus.rows, _SOME)), ["source"]).column("source").to_pylist()
        if not has_blanks(language) if language is not None else looks_blankless(some):
            raise ConfigError(
                f"changes words, but the sources of {corpus.path} have no blanks between words",
                where="corpus.noise",
                expected="a source language that puts blanks between words",
                hint="leave the noise out",
            )
        tags = [str(corpus.manifest.extra.get(name, "")) for name in _TAGS]
        return word_noise(settings, self.vocabularies.source, tags=tags, where=str(corpus.path))

    def check_ids(self) -> None:
        """Check that the corpora contain valid ids of their vocabularies only. This reads them completely.

        Raises:
            CorpusError: A corpus contains an invalid id or is damaged.
        """
        for corpus in (*self.corpora, *self.valid.values()):
            for side, vocabulary in self.vocabularies.sides():
                corpus.check_ids(f"{side}_ids", vocabulary.size)
            if self._rivals and RIVAL_IDS in corpus.schema.names:
                corpus.check_ids(RIVAL_IDS, self.vocabularies.target.size)

    def digests(self) -> dict[str, str]:
        """Return the digests of all inputs. The digests of the validation corpora cover the vocabularies."""
        digests = {name_part(VALID, group): corpus.manifest.digest() for group, corpus in self.valid.items()}
        for number, corpus in enumerate(self.corpora, start=1):
            digests[corpus_key(number, len(self.corpora))] = corpus.manifest.digest()
        if self.init_from is not None:
            digests["init_from"] = model_digest(self.init_from)
        return digests | self.teaching.digests()


def _find_groups(prepared: Manifest, config: TrainConfig) -> dict[str, Mapping[str, Any]]:
    """Find the facts about the text of each group that the corpora have."""
    known = prepared.extra.get(GROUPS)
    if known is None and not config.groups:
        return {"": prepared.extra}
    unknown = [group for group in config.groups if group not in (known or ())]
    if unknown or not config.groups:
        raise ConfigError(
            f"no data set {', '.join(unknown)} in {config.prepared}" if unknown else "missing",
            where="corpus.group",
            expected=f"one of: {', '.join(known)}" if known else "no group: the folder is of a single data set",
            hint="give each corpus the data set that it comes from, and learn the vocabulary from all of them",
        )
    assert known is not None
    return {group: known[group] for group in config.groups}


def _open_directed(path: Path, config: TrainConfig) -> Corpus:
    """Open a corpus in the direction of the model."""
    corpus = Corpus.open(path, "corpus")
    if corpus.manifest.extra.get("monolingual"):
        raise CorpusError(
            "is monolingual text, and has no targets to train on",
            where=str(path),
            hint="decode it with a model of the other direction, then `seqkd select` with reverse = true",
        )
    return corpus.reversed() if config.reverse else corpus
