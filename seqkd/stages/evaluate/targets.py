"""How hard targets are to learn: a model's log-probability of the targets of training corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from seqkd.config.report import NamedPath
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.search import score_pairs
from seqkd.search.loading import SearchTeam
from seqkd.selection.lists import Integers
from seqkd.stages.prepare.encode import encode_texts
from seqkd.text.vocabularies import TextVocabulary

Pairs = list[tuple[list[int], list[int]]]


@dataclass(frozen=True, slots=True)
class TargetCorpora:
    """Training corpora that hold other targets for the same sources.

    Attributes:
        corpora: The corpora by name.
        rows: The number of rows to measure.
    """

    corpora: dict[str, Corpus]
    rows: int

    @classmethod
    def open(cls, named: Sequence[NamedPath], rows: int) -> TargetCorpora:
        """Open the corpora.

        Raises:
            CorpusError: A corpus is missing or damaged.
        """
        return cls({each.name: Corpus.open(each.path, "corpus") for each in named}, rows)

    def digests(self) -> dict[str, str]:
        """Return the digest of each corpus by its role in fingerprints."""
        return {f"targets.{name}": corpus.manifest.digest() for name, corpus in self.corpora.items()}

    def find_pairs(self, team: SearchTeam) -> dict[str, Pairs]:
        """Find the rows to measure: the first ones that all corpora have and that fit the model's positions in each.

        If a row has several targets, the first one counts. Texts are encoded again for a model with another vocabulary.

        Returns:
            The pieces of source and target of each row, by the name of the corpus; {} for a model that writes all
            positions at once, which gives no log-probabilities.

        Raises:
            CorpusError: No row is in all corpora and fits the model.
        """
        if team.parallel or not self.corpora:
            return {}
        ids = self._shared_ids()[: self.rows]
        found = {name: self._encode(corpus, ids, team) for name, corpus in self.corpora.items()}
        fits = [
            all(len(side) < team.max_positions for pairs in found.values() for side in pairs[row])
            for row in range(len(ids))
        ]
        if not any(fits):
            raise CorpusError(
                "have no row in common that fits the model's positions",
                where=f"targets: {', '.join(self.corpora)}",
                expected="distilled corpora of one data set",
            )
        return {name: list(compress(pairs, fits)) for name, pairs in found.items()}

    def _shared_ids(self) -> Integers:
        first, *others = (corpus.lengths()[0] for corpus in self.corpora.values())
        for ids in others:
            first = first[np.isin(first, ids)]
        return first

    def _encode(self, corpus: Corpus, ids: Integers, team: SearchTeam) -> Pairs:
        """Return the pieces of source and target of the rows with these ids, in their order."""
        own = corpus.lengths()[0]
        order = np.argsort(own)
        table = corpus.take(order[np.searchsorted(own, ids, sorter=order)])
        vocabularies = team.loaded[0].vocabularies
        made_with = corpus.manifest.extra.get("source_vocabulary"), corpus.manifest.vocabulary
        sides = (("source", vocabularies.source, made_with[0]), ("target", vocabularies.target, made_with[1]))
        source, target = (self._side(table, *side, corpus=corpus) for side in sides)
        return list(zip(source, target, strict=True))

    @staticmethod
    def _side(table: Any, name: str, vocabulary: TextVocabulary, digest: str | None, *, corpus: Corpus) -> Any:
        if vocabulary.digest == digest or digest is None:
            return table.column(f"{name}_ids").to_pylist()
        tag = str(corpus.manifest.extra.get("tag", "")) if name == "source" else ""
        return encode_texts(table.column(name).to_pylist(), vocabulary, tag=tag)


def measure_targets(pairs: Mapping[str, Pairs], team: SearchTeam, batch_tokens: int) -> dict[str, float]:
    """Compute the mean log-probability of a target token, end of sentence included, in nats, for each corpus.

    Args:
        pairs: The result of `TargetCorpora.find_pairs`.
        team: The model.
        batch_tokens: Tokens that are scored together, including padding.
    """
    values = {}
    for name, rows in pairs.items():
        scores = score_pairs(
            team.scorers, rows, batch_tokens=batch_tokens, device=team.device, fallback=team.scorers_in_float32
        )
        values[name] = sum(score.logprob for score in scores) / sum(score.tokens for score in scores)
    return values
