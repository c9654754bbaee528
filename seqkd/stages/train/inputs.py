"""The inputs of training: corpora and vocabularies, checked against each other before training starts."""

from __future__ import annotations

from pathlib import Path

from seqkd.config.models import list_weighing_objectives
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
        config: The settings of the stage.

    Attributes:
        prepared: The manifest of the prepared folder.
        corpora: The training corpora in the direction of the model.
        mixed: Whether there are several corpora, or one with a weight.
        valid: The validation corpus.
        vocabularies: The vocabularies of source and target.
        init_from: Folder of the model from which training starts.
        teaching: The inputs that teachers provide.

    Raises:
        ConfigError: The objective cannot count rows by the weights of a corpus.
        CorpusError: A corpus is missing or damaged, was made with another vocabulary, or has no targets; or the soft
            targets belong to another corpus.
        ModelError: The teacher folder does not contain a model, or the teacher was trained with a different vocabulary.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.prepared = read_prepared(config.prepared)
        self.corpora = [_open_directed(part.path, config) for part in config.corpora]
        self.mixed = is_mixed(config)
        for corpus in self.corpora:
            if WEIGHT in corpus.schema.names and not config.objective.weighs_rows:
                raise ConfigError(
                    f"is {config.objective.type!r}, which cannot count rows by the weights of {corpus.path}",
                    where="objective.type",
                    expected=f"one of: {', '.join(list_weighing_objectives())}; or a corpus without weights",
                    hint='select with another rule than "all", and with keep = 1',
                )
        self.valid = _open_directed(config.prepared / "valid", config)
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
        """Check that the corpora contain valid ids of their vocabularies only. This reads them completely.

        Raises:
            CorpusError: A corpus contains an invalid id or is damaged.
        """
        for corpus in (*self.corpora, self.valid):
            for side, vocabulary in self.vocabularies.sides():
                corpus.check_ids(f"{side}_ids", vocabulary.size)

    def digests(self) -> dict[str, str]:
        """Return the digests of all inputs. The digest of the validation corpus covers the vocabularies."""
        digests = {"valid": self.valid.manifest.digest()}
        for number, corpus in enumerate(self.corpora, start=1):
            digests[corpus_key(number, len(self.corpora))] = corpus.manifest.digest()
        if self.init_from is not None:
            digests["init_from"] = model_digest(self.init_from)
        return digests | self.teaching.digests()


def is_mixed(config: TrainConfig) -> bool:
    """Whether there are several corpora, or one with a weight."""
    return len(config.corpora) > 1 or config.corpora[0].weight != 1.0


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
