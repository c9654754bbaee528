"""seqkd's own search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.loading import Precision, load_team
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.bench.peers import harness
from tests.bench.settings import Settings


def load(work: Path, settings: Settings) -> harness.Decoder:
    """The model as `seqkd distill` loads it, or with `engine="torch"` on the plain path."""
    team = load_team([work / "model"], device=settings.device, precision=cast(Precision, settings.precision))
    engines = team.engines
    if settings.engine == "torch":
        engines = [IncrementalTransformer(cast(Transformer, member.model)) for member in team.loaded]
    beam = BeamSettings(
        beam=settings.beam, nbest=settings.nbest, max_length_ratio=0.0, max_length_extra=settings.max_length
    )
    if settings.unit != "tokens":
        raise SystemExit("seqkd's batches are counted in tokens")

    def decode(sources: Sequence[list[int]]) -> list[list[harness.Scored]]:
        search = BeamSearch(engines, beam, fallback=team.fallback)
        found = dict(search.decode(enumerate(sources), batch_tokens=settings.batch))
        return [[(hypothesis.ids, hypothesis.score) for hypothesis in found[row]] for row in range(len(sources))]

    return decode


if __name__ == "__main__":
    harness.main("seqkd_search")
