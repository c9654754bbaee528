"""Fields of a pipeline file that name one part or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag

from seqkd.config.search import Name, Strict
from seqkd.config.stages import Noise, Updates, Weight, check_temperature, one_or_several, put_in_list


class WeightedName(Strict):
    """A corpus among several."""

    name: Name
    weight: Weight = Field(1.0, description="how often an epoch repeats each row, on average")
    noise: Noise = None


CorpusNames = Annotated[
    Annotated[Name, Tag("one")] | Annotated[tuple[WeightedName, ...], Field(min_length=1), Tag("several")],
    Discriminator(one_or_several),
    BeforeValidator(put_in_list),
]


class BlockName(Strict):
    """A corpus on which a student is trained for a block of updates, in turn with others."""

    corpus: Name
    updates: Updates


def list_corpora(corpus: CorpusNames | None) -> tuple[WeightedName, ...]:
    """List the corpora that a part names; empty if it names none."""
    if corpus is None:
        return ()
    return (WeightedName(name=corpus),) if isinstance(corpus, str) else corpus


def _one_or_table(value: Any) -> str:
    return "table" if isinstance(value, dict) else "one"


TeacherNames = Annotated[
    Annotated[Name, Tag("one")] | Annotated[dict[Name, Name], Field(min_length=1), Tag("table")],
    Discriminator(_one_or_table),
]


def check_mixing(corpora: Sequence[WeightedName], temperature: float | None) -> None:
    """Raise ValueError if corpora have both weights and a temperature."""
    weighted = any(part.weight != 1.0 for part in corpora)
    check_temperature(temperature, weighted=weighted, several=len(corpora) > 1)


DataNames = Annotated[
    Annotated[Name, Tag("one")] | Annotated[tuple[Name, ...], Field(min_length=1), Tag("several")],
    Discriminator(one_or_several),
]
