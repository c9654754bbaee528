"""The ways in which `evaluate` decodes: beams of a left-to-right model, or decodes of a parallel model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqkd.config.stages import EvaluateConfig, ParallelConfig
from seqkd.errors import InputError
from seqkd.metrics.speed import DecoderFactory
from seqkd.models.protocol import ParallelSettings
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.loading import SearchTeam, parallel_search
from seqkd.search.parallel import ParallelSearch
from seqkd.search.paths import engine_of
from seqkd.stages.evaluate.comparing import name_outputs


@dataclass(frozen=True, slots=True)
class Way:
    """One way to decode.

    Attributes:
        name: "5" for a beam of five, "nat" for a decode of that name.
        label: The name in words.
        file: The file of the outputs.
        open: A function that opens the decoder for one decode.
        engine: The search engine that drives the model; see `engine_of`.
    """

    name: str
    label: str
    file: str
    open: DecoderFactory
    engine: str


def list_ways(config: EvaluateConfig, team: SearchTeam, judge: SearchTeam | None) -> list[Way]:
    """List all decodes of a model: its beams in ascending order, or its parallel decodes in the order of the file.

    Args:
        config: The settings of the stage.
        team: The model.
        judge: The model that chooses among candidates if a decode is rescored.

    Raises:
        InputError: `decode` is given for a left-to-right model, or names a strategy that the model lacks.
    """
    if team.parallel:
        return [_make_parallel_way(way, team, judge) for way in config.decode or (ParallelConfig(),)]
    if config.decode:
        raise InputError(
            f"`decode` is for models that write all positions at once, and {team.loaded[0].arch!r} goes left to right",
            where=str(config.model),
            hint="leave `decode` out of this model's table: it is decoded with `beams`",
        )
    return [_make_beam_way(config, team, beam) for beam in sorted(set(config.beams))]


def find_baseline_way(config: EvaluateConfig, team: SearchTeam) -> Way:
    """Return the way in which the baseline of speed-ups is decoded: at the largest beam."""
    return (
        _make_parallel_way(ParallelConfig(), team, None)
        if team.parallel
        else _make_beam_way(config, team, max(config.beams))
    )


def find_quick(config: EvaluateConfig, ways: Sequence[Way]) -> str:
    """Return the name of the first decode of the stage file."""
    beam = str(config.beams[0])
    return beam if beam in {way.name for way in ways} else ways[0].name


def _make_beam_way(config: EvaluateConfig, team: SearchTeam, beam: int) -> Way:
    settings = BeamSettings(**{**config.search.model_dump(), "beam": beam, "nbest": 1})
    return Way(
        name=str(beam),
        label=f"beam {beam}",
        file=name_outputs(str(beam), parallel=False),
        open=lambda: BeamSearch(team.engines, settings, fallback=team.fallback, prefix=team.prefix),
        engine=engine_of(team),
    )


def _make_parallel_way(way: ParallelConfig, team: SearchTeam, judge: SearchTeam | None) -> Way:
    settings = ParallelSettings(
        iterations=way.iterations,
        candidates=way.candidates,
        strategy=way.strategy,
        drop_repeats=way.drop_repeats,
    )
    chosen = judge if way.rescore else None

    def open_search() -> ParallelSearch:
        return parallel_search(team, settings, chosen)

    open_search()  # a strategy that the model lacks is reported before any work
    return Way(
        name=way.name,
        label=f"decode {way.name}",
        file=name_outputs(way.name, parallel=True),
        open=open_search,
        engine=engine_of(team),
    )
