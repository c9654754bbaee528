"""Metrics of outputs that have several references a row."""

from __future__ import annotations

from typing import Any

import pytest
import sacrebleu

from seqkd.metrics.registry import METRICS, Outputs

OUTPUTS = ["the dog is asleep on the mat", "a bird sings in the tree today", "it was red all over again"]
STREAMS = [
    ["the dog sleeps on the mat", "the bird sang in a tree today", "it was all red once more"],
    ["a dog is asleep on the mat", "today a bird sings in the tree", "it was red all over"],
]
SCORES: dict[str, Any] = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf, "ter": sacrebleu.corpus_ter}


@pytest.mark.parametrize("name", SCORES)
def test_they_are_scored_as_by_sacrebleu(name: str) -> None:
    further = [[text] for text in STREAMS[1]]
    outputs = Outputs(hypotheses=OUTPUTS, references=STREAMS[0], sources=OUTPUTS, further_references=further)
    found = METRICS.own[name].score(outputs)
    assert found.value == SCORES[name](OUTPUTS, STREAMS).score
    assert found.value != SCORES[name](OUTPUTS, STREAMS[:1]).score
    assert found.signature.startswith("nrefs:2|")


def test_a_metric_may_look_at_the_first_reference_alone() -> None:
    outputs = Outputs(hypotheses=["a"], references=["b"], sources=["c"], further_references=[["d", "e"]])
    assert list(outputs.references) == ["b"]
    assert outputs.all_references == [["b", "d", "e"]]
    assert Outputs(hypotheses=["a"], references=["b"], sources=["c"]).all_references == [["b"]]
