"""Models of seqkd as a source of k-best lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from seqkd.interop.sources import Answer, Candidate, Place, Row
from seqkd.models.checkpoint import model_digest
from seqkd.models.protocol import SOURCE_TOO_LONG
from seqkd.search import BeamSearch, BeamSettings, Hypothesis
from seqkd.search.loading import Precision, load_team

RETRIED = "retried in float32"  # rows whose numbers overflowed in a lower precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The models that decode and the settings of decoding. In files they are keys of the table of the decode itself.

    Attributes:
        models: Model folders. Several models decode as an ensemble.
        search: Settings of the search.
        batch_tokens: Source tokens that are decoded together, including padding.
        precision: Precision of the weights.
    """

    models: tuple[Path, ...]
    search: BeamSettings
    batch_tokens: int
    precision: Precision


class Search:
    """Decodes rows by beam search; see `Translate`.

    Args:
        settings: The models and the settings of decoding.
        place: The device and the threads.
    """

    def __init__(self, settings: ModelSettings, place: Place) -> None:
        if place.threads is not None:
            torch.set_num_threads(place.threads)
        self._settings = settings
        self._team = load_team(settings.models, device=place.device, precision=settings.precision)

    def __call__(self, rows: Sequence[Row]) -> Callable[[], Answer]:
        """Decode rows together, and return the function that makes the texts."""
        team = self._team
        search = BeamSearch(team.engines, self._settings.search, fallback=team.fallback, prefix=team.prefix)
        sources = [(row.id, list(row.ids)) for row in rows]
        found = dict(search.decode(sources, batch_tokens=self._settings.batch_tokens))
        counts = {SOURCE_TOO_LONG: len(search.too_long), RETRIED: len(search.retried)}
        return partial(self._answer, rows, found, counts)

    def _answer(
        self, rows: Sequence[Row], found: Mapping[int, Sequence[Hypothesis]], counts: Mapping[str, int]
    ) -> Answer:
        vocabulary = self._team.loaded[0].vocabularies.target
        # All texts of the group are decoded in one call, because a call costs as much as a short text.
        texts = iter(vocabulary.decode([hypothesis.ids for row in rows for hypothesis in found[row.id]]))
        lists = [
            [
                Candidate(text=next(texts), ids=h.ids, score=h.score, logprob=h.logprob, ended=h.ended)
                for h in found[row.id]
            ]
            for row in rows
        ]
        return Answer(lists=lists, counts=counts)


def digests(settings: ModelSettings) -> dict[str, str]:
    """Return the digest of each model folder under the names `model1`, `model2` and so on."""
    return {f"model{number}": model_digest(path) for number, path in enumerate(settings.models, start=1)}
