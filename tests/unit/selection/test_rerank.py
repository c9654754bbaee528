from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seqkd.search import score_pairs
from seqkd.selection.rerank import Reranker
from tests.unit.search.support import tiny_model
from tests.unit.selection.support import hypothesis, lists_of


@dataclass
class Letters:
    """A vocabulary whose pieces are letters."""

    shift: int

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[4 + (ord(letter) + self.shift) % 36 for letter in text] for text in texts]


def team(*seeds: int, shift: int = 0) -> Any:
    loaded = [
        SimpleNamespace(
            model=tiny_model(seed=seed),
            vocabularies=SimpleNamespace(source=Letters(shift + 1), target=Letters(shift)),
        )
        for seed in seeds
    ]
    return SimpleNamespace(loaded=loaded, scorers=[one.model for one in loaded], device=torch.device("cpu"))


def scored(found: Any, source: str, target: str) -> float:
    vocabularies = found.loaded[0].vocabularies
    pair = (vocabularies.source.encode([source])[0], vocabularies.target.encode([target])[0])
    score = score_pairs(found.scorers, [pair], batch_tokens=1)[0]
    return score.logprob / score.tokens


TEXTS = ("abc", "b", "some more")
LISTS = lists_of([([hypothesis(text, -2.0) for text in TEXTS], "x"), ([hypothesis("q", -3.0)], "y")], source="der hund")


def test_both_directions_with_vocabularies_of_their_own() -> None:
    forward, reverse = team(1, 2), team(3, shift=5)
    values = Reranker(forward=forward, reverse=reverse, channel_weight=0.25).values(LISTS)
    expected = [scored(forward, "der hund", text) + 0.25 * scored(reverse, text, "der hund") for text in (*TEXTS, "q")]
    assert values == pytest.approx(expected, abs=1e-5)


def test_the_teachers_own_probabilities_stand_in_for_a_forward_model() -> None:
    reverse = team(3)
    values = Reranker(forward=None, reverse=reverse).values(LISTS)
    own = [-2.0 / 2, -2.0 / 2, -2.0 / 3, -3.0 / 2]  # pieces are words here, and an end
    expected = [mine + scored(reverse, text, "der hund") for mine, text in zip(own, (*TEXTS, "q"), strict=True)]
    assert values == pytest.approx(expected, abs=1e-5)


def test_what_a_model_cannot_take_is_worst() -> None:
    forward = team(1)
    longest = forward.loaded[0].model.max_positions
    lists = lists_of([([hypothesis("a" * longest), hypothesis("a" * (longest - 1))], "x")])
    values = Reranker(forward=forward, reverse=None).values(lists)
    assert values[0] == -np.inf
    assert np.isfinite(values[1])
