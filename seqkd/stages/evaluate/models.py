"""The models that `evaluate` needs together: loaded, checked, and asked which rows they have positions for."""

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


@dataclass(frozen=True, slots=True)
class Models:
    """The model, and those that stand beside it.

    Attributes:
        team: What is evaluated.
        judge: What rescores its candidates.
        over: What its speed is compared with.
    """

    team: SearchTeam
    judge: SearchTeam | None
    over: SearchTeam | None

    @classmethod
    def load(cls, config: EvaluateConfig, device: str) -> Models:
        """Load all of them.

        Raises:
            ModelError: A model folder is damaged.
            InputError: A precision that a model does not have.
        """

        def one(*paths: Path, parallel: bool) -> SearchTeam:
            # Each in the precision that suits it best, unless the stage file names one.
            return load_team(paths, device=device, precision=config.precision, parallel=parallel)

        team = one(config.model, *config.ensemble, parallel=True)
        judge = None if config.rescore_with is None else one(config.rescore_with, parallel=False)
        if config.speed_against is None:
            over = team if config.role == "teacher" else None
        elif config.speed_against == config.rescore_with:
            over = judge
        else:
            over = one(config.speed_against, parallel=True)
        return cls(team, judge, over)

    def fitting(self, sources: Sequence[list[int]], corpus: Corpus) -> list[list[int]]:
        """The sources that all timed models have positions for.

        Raises:
            CorpusError: There are none.
        """
        timed = [self.team] if self.over is None else [self.team, self.over]
        room = min(team.max_positions for team in timed)
        found = [source for source in sources if len(source) < room]
        if not found:
            raise CorpusError(
                f"has no row whose source fits {room:,} positions, end of sentence counted",
                where=str(corpus.path),
                expected="at least one row that the model, and the one that speed is compared with, can decode",
            )
        return found

    def check(self, corpus: Corpus, config: EvaluateConfig) -> None:
        """Refuse models of another vocabulary than the corpus's."""
        folders = (config.model, config.rescore_with, config.speed_against)
        for team, folder in zip((self.team, self.judge, self.over), folders, strict=True):
            if team is not None:
                corpus.check_vocabularies(
                    team.loaded[0].vocabularies,
                    f"the model's, {folder}",
                    hint="evaluate on a test corpus that was prepared with the model's vocabulary",
                )
        vocabularies = self.team.loaded[0].vocabularies
        corpus.check_ids("source_ids", vocabularies.source.size)
        corpus.check_ids("target_ids", vocabularies.target.size)


def recipe_of(model: Path) -> tuple[str, str]:
    """What the model's manifest says it was trained to minimise, and a digest of that and of its architecture.

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
        # Folders of teachers are no settings; no fingerprint holds them.
        recipe[key] = {name: value for name, value in full.items() if name not in ("teachers", "soft_targets")} or None
    recipe |= {key: config[key] for key in ("hooks", "init_from") if key in config}
    if "init_from" in made_by.get("inputs", {}):
        recipe["tuned"] = True  # it was trained for longer than one that began anew
    objective = recipe["objective"]
    if not isinstance(objective, dict):
        return "", ""
    name = " + ".join(
        str(term.get("type", "")) + "+glat" * (term.get("glancing") is not None)
        for term in objective.get("terms", [objective])
    )
    return name, hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
