"""The models that `evaluate` needs together, with the checks that they fit the test corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.config.models import ModelConfig, ObjectiveConfig
from seqkd.config.stages import EvaluateConfig
from seqkd.config.written import fill_in_neutral
from seqkd.corpus.manifest import MANIFEST, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.search.loading import SearchTeam, load_team
from seqkd.stages.evaluate.recoding import Recoded, recode_sources
from seqkd.stages.prepare.encode import encode_texts


@dataclass(frozen=True, slots=True)
class Models:
    """The evaluated model, and the models that it needs.

    Attributes:
        team: The evaluated model or ensemble.
        judge: The model that rescores its candidates.
        over: The model that its speed is compared with.
    """

    team: SearchTeam
    judge: SearchTeam | None
    over: SearchTeam | None

    @classmethod
    def load(cls, config: EvaluateConfig, device: str) -> Models:
        """Load all models.

        Raises:
            ModelError: A model folder is damaged.
            InputError: A model does not support the precision.
        """

        def load(*paths: Path, parallel: bool) -> SearchTeam:
            # Each model has the precision that suits it best, unless the stage file names one.
            return load_team(paths, device=device, precision=config.precision, parallel=parallel)

        team = load(config.model, *config.ensemble, parallel=True)
        judge = None if config.rescore_with is None else load(config.rescore_with, parallel=False)
        if config.speed_against is None:
            over = team if config.role == "teacher" else None
        elif config.speed_against == config.rescore_with:
            over = judge
        else:
            over = load(config.speed_against, parallel=True)
        return cls(team, judge, over)

    def recode(self, sources: Sequence[list[int]], texts: Sequence[str]) -> Recoded | None:
        """Encode the sources for the model that speed is compared with; None if it has the vocabulary of the corpus."""
        if self.over is None or self.over is self.team:
            return None
        own, other = (team.loaded[0].vocabularies.source for team in (self.team, self.over))
        if own.digest == other.digest:
            return None
        return recode_sources(sources, texts, lambda texts: encode_texts(texts, other))

    def select_fitting(self, sources: Sequence[list[int]], corpus: Corpus, recoded: Recoded | None) -> list[list[int]]:
        """Select the sources that all timed models have positions for.

        Args:
            sources: The sources.
            corpus: The corpus, for the message.
            recoded: The sources for the model that speed is compared with, if it has another vocabulary.

        Raises:
            CorpusError: There are no such sources.
        """
        room = self.team.max_positions
        theirs = room if self.over is None else self.over.max_positions
        found = [
            source
            for source in sources
            if len(source) < room and len(source if recoded is None else recoded[tuple(source)]) < theirs
        ]
        if not found:
            raise CorpusError(
                f"has no row whose source fits {min(room, theirs):,} positions, end of sentence counted",
                where=str(corpus.path),
                expected="at least one row that the model, and the one that speed is compared with, can decode",
            )
        return found

    def check(self, corpus: Corpus, config: EvaluateConfig) -> None:
        """Refuse a model whose vocabulary differs from that of the corpus. Models beside it may have another one."""
        corpus.check_vocabularies(
            self.team.loaded[0].vocabularies,
            f"the model's, {config.model}",
            hint="encode the test corpus with the model's vocabulary (`seqkd prepare --encode`)",
        )
        vocabularies = self.team.loaded[0].vocabularies
        corpus.check_ids("source_ids", vocabularies.source.size)
        corpus.check_ids("target_ids", vocabularies.target.size)


def find_recipe(model: Path) -> tuple[str, str]:
    """Return the training objective of a model from its manifest, and a digest of its objective and architecture.

    Both are "" for a model that was brought along.
    """
    if not (model / MANIFEST).is_file():
        return "", ""
    made_by = read_manifest(model).fingerprint
    config = made_by.get("config", {})
    recipe: dict[str, Any] = {}
    for key, kind in (("model", ModelConfig), ("objective", ObjectiveConfig)):
        written = config.get(key)
        full = fill_in_neutral(kind, written) if isinstance(written, dict) else {}
        # Folders of teachers are not settings, and fingerprints do not hold them.
        recipe[key] = {name: value for name, value in full.items() if name not in ("teachers", "soft_targets")} or None
    recipe |= {key: config[key] for key in ("hooks", "init_from") if key in config}
    if "init_from" in made_by.get("inputs", {}):
        recipe["tuned"] = True  # the model was trained for longer than one with random initial weights
    objective = recipe["objective"]
    if not isinstance(objective, dict):
        return "", ""
    name = " + ".join(
        str(term.get("type", "")) + "+glat" * (term.get("glancing") is not None)
        for term in objective.get("terms", [objective])
    )
    return name, hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
