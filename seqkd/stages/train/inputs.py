"""What a model is trained on: corpora and vocabularies, checked against each other before training starts."""

from __future__ import annotations

from pathlib import Path

from seqkd.config.models import weighing
from seqkd.config.stages import TrainConfig
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, CorpusError
from seqkd.models.checkpoint import model_digest
from seqkd.stages.prepare.prepare import read_prepared
from seqkd.stages.train.rejecting import corpus_key
from seqkd.stages.train.teaching import Teaching
from seqkd.text.vocabularies import Vocabularies
from seqkd.training.data import WEIGHT


class Inputs:
    """The corpora and vocabularies, checked against each other.

    Args:
        config: The stage's settings.

    Attributes:
        prepared: What `prepare` made.
        corpora: What is trained on, in the model's direction.
        mixed: They are several, or count with a weight.
        valid: The validation text.
        vocabularies: Of source and target.
        init_from: Folder of the model that training starts from.
        teaching: What a teacher gives.

    Raises:
        ConfigError: The objective cannot count rows by the weights of a corpus.
        CorpusError: A corpus is missing or damaged, was made with another vocabulary, or has no targets; soft targets
            are of another corpus.
        ModelError: A teacher is none, or has another vocabulary.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.prepared = read_prepared(config.prepared)
        self.corpora = [_directed(part.path, config) for part in config.corpora]
        self.mixed = is_mixed(config)
        for corpus in self.corpora:
            if WEIGHT in corpus.schema.names and not config.objective.weighing:
                raise ConfigError(
                    f"is {config.objective.type!r}, which cannot count rows by the weights of {corpus.path}",
                    where="objective.type",
                    expected=f'one of: {", ".join(weighing())}; or a corpus of another rule than "all"',
                )
        self.valid = _directed(config.prepared / "valid", config)
        own = Vocabularies.load(config.prepared)
        self.vocabularies = own.reversed() if config.reverse else own
        self.init_from = None if config.init_from is None else Path(config.init_from.model)
        for corpus in (*self.corpora, self.valid):
            corpus.check_vocabularies(
                self.vocabularies,
                f"that of {config.prepared}",
                hint="give the `prepared` folder that this corpus comes from",
            )
        self.teaching = Teaching(config.objective, self.corpora[0], self.vocabularies)

    def check_ids(self) -> None:
        """See that the corpora hold ids of their vocabularies only; reads them whole.

        Raises:
            CorpusError: One holds others, or is damaged.
        """
        for corpus in (*self.corpora, self.valid):
            for side, vocabulary in self.vocabularies.sides():
                corpus.check_ids(f"{side}_ids", vocabulary.size)

    def digests(self) -> dict[str, str]:
        """What the model depends on. The validation corpus names the vocabularies."""
        digests = {"valid": self.valid.manifest.digest()}
        for number, corpus in enumerate(self.corpora, start=1):
            digests[corpus_key(number, len(self.corpora))] = corpus.manifest.digest()
        if self.init_from is not None:
            digests["init_from"] = model_digest(self.init_from)
        return digests | self.teaching.digests()


def is_mixed(config: TrainConfig) -> bool:
    """Whether the corpora are several, or count with a weight."""
    return len(config.corpora) > 1 or config.corpora[0].weight != 1.0


def _directed(path: Path, config: TrainConfig) -> Corpus:
    """A corpus in the direction of the model."""
    corpus = Corpus.open(path, "corpus")
    if corpus.manifest.extra.get("monolingual"):
        raise CorpusError(
            "is monolingual text, and has no targets to train on",
            where=str(path),
            hint="decode it with a model of the other direction, then `seqkd select` with reverse = true",
        )
    return corpus.reversed() if config.reverse else corpus
