"""The ways in which `evaluate` decodes: beams of a left-to-right model, or decodes of one that writes all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqkd.config.stages import EvaluateConfig, ParallelConfig
from seqkd.errors import InputError
from seqkd.metrics.speed import Open
from seqkd.models.protocol import ParallelSettings
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.loading import SearchTeam, parallel_search
from seqkd.search.parallel import ParallelSearch
from seqkd.search.paths import engine_of


@dataclass(frozen=True, slots=True)
class Way:
    """One way to decode.

    Attributes:
        name: "5" for a beam of five, "nat" for a decode of that name.
        label: The same in words.
        file: Where its outputs go.
        open: Opens it for one decode.
        engine: The search engine that drives the model; see `engine_of`.
    """

    name: str
    label: str
    file: str
    open: Open
    engine: str


def ways_of(config: EvaluateConfig, team: SearchTeam, judge: SearchTeam | None) -> list[Way]:
    """All decodes of a model: its beams from small to large, or its parallel decodes as the file gives them.

    Args:
        config: The stage's settings.
        team: The model.
        judge: What chooses among candidates where a decode is to be rescored.

    Raises:
        InputError: `decode` is given for a model that goes left to right, or names a strategy that the model lacks.
    """
    if team.parallel:
        return [_parallel(way, team, judge) for way in config.decode or (ParallelConfig(),)]
    if config.decode:
        raise InputError(
            f"`decode` is for models that write all positions at once, and {team.loaded[0].arch!r} goes left to right",
            where=str(config.model),
            hint="leave `decode` out of this model's table: it is decoded with `beams`",
        )
    return [_beam(config, team, beam) for beam in sorted(set(config.beams))]


def baseline_of(config: EvaluateConfig, team: SearchTeam) -> Way:
    """How the model that speed-ups are over is decoded: at the largest beam."""
    return _parallel(ParallelConfig(), team, None) if team.parallel else _beam(config, team, max(config.beams))


def quick_of(config: EvaluateConfig, ways: Sequence[Way]) -> str:
    """The first decode that the stage file names."""
    beam = str(config.beams[0])
    return beam if beam in {way.name for way in ways} else ways[0].name


def _beam(config: EvaluateConfig, team: SearchTeam, beam: int) -> Way:
    settings = BeamSettings(**{**config.search.model_dump(), "beam": beam, "nbest": 1})
    return Way(
        name=str(beam),
        label=f"beam {beam}",
        file=f"hypotheses.beam{beam}.txt",
        open=lambda: BeamSearch(team.engines, settings, fallback=team.fallback),
        engine=engine_of(team),
    )


def _parallel(way: ParallelConfig, team: SearchTeam, judge: SearchTeam | None) -> Way:
    settings = ParallelSettings(
        iterations=way.iterations,
        candidates=way.candidates,
        strategy=way.strategy,
        drop_repeats=way.drop_repeats,
    )
    chosen = judge if way.rescore else None

    def opened() -> ParallelSearch:
        return parallel_search(team, settings, chosen)

    opened()  # a strategy that the model lacks is told before any work
    return Way(
        name=way.name,
        label=f"decode {way.name}",
        file=f"hypotheses.{way.name}.txt",
        open=opened,
        engine=engine_of(team),
    )
