"""The paragraph below the report's headline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from seqkd.metrics.lengths import LengthHistogram
from seqkd.metrics.results import EvaluationResult
from seqkd.report.contents import CorpusEntry
from seqkd.report.explanation import MOST_WORDS, explain
from seqkd.report.gather import gather
from seqkd.report.page import render
from tests.unit.report.report_folders import FAMILIES, MODELS, evaluation, full, parallel, write_root


def corpus(name: str, complexity: float | None) -> CorpusEntry:
    return CorpusEntry(
        name=name,
        rule="",
        rows=1,
        target_tokens=1,
        mean_length=1.0,
        complexity=complexity,
        faithfulness=None,
        equal_reference=None,
        rejected={},
        unknown_rows=0,
        lengths=LengthHistogram(edges=(0, 1), shares=(1.0,), mean=1.0),
    )


CORPORA = (corpus("gold", 1.5), corpus("seqkd", 0.5))


def valid(model: EvaluationResult, share: float | None) -> EvaluationResult:
    decodes = {name: dataclasses.replace(found, valid=share) for name, found in model.decodes.items()}
    return dataclasses.replace(model, decodes=decodes)


def family(shares: list[tuple[float, float]], *, nat: tuple[float, float] | None = None) -> list[EvaluationResult]:
    """A teacher, and twins of several sizes with these shares of valid outputs on gold and on distilled text."""
    models = [valid(evaluation("teacher", role="teacher"), 0.99)]
    for size, (gold, distilled) in enumerate(shares):
        models.append(valid(evaluation(f"{size}-gold", parameters=size), gold))
        models.append(valid(evaluation(f"{size}-seqkd", parameters=size, trained_on="seqkd"), distilled))
    if nat is not None:
        models.append(valid(parallel("nat-gold", 5.0), nat[0]))
        models.append(valid(parallel("nat-seqkd", 9.0, trained_on="seqkd"), nat[1]))
    return models


def test_mixed_translations_and_the_gain_in_valid_outputs_are_told() -> None:
    assert explain(family([(0.1, 0.3), (0.2, 0.75)], nat=(0.0, 0.4)), CORPORA) == (
        "A sentence has several valid translations, and gold text holds one of them. Small students of gold text mix "
        "them into invalid sentences, most of all those that write all words at once. The teacher prefers some, so its "
        "text is more regular. Distilled text adds 20.0 to 55.0 points of valid outputs."
    )


def test_without_accepted_translations_the_gain_is_that_of_bleu() -> None:
    told = explain(FAMILIES, CORPORA)
    assert "valid" not in told
    assert told.endswith("Distilled text adds 3.2 to 12.3 BLEU.")


def test_students_that_write_all_words_at_once_are_named_only_if_they_have_the_lowest_number_on_gold_text() -> None:
    assert "at once" in explain(family([(0.1, 0.3)], nat=(0.0, 0.4)), CORPORA)
    assert "at once" not in explain(family([(0.1, 0.3)], nat=(0.2, 0.4)), CORPORA)
    assert "at once" not in explain(family([], nat=(0.0, 0.4)), CORPORA)


def test_distilled_text_is_called_more_regular_only_if_that_was_measured() -> None:
    models = family([(0.1, 0.3)])
    assert "more regular" in explain(models, CORPORA)
    for complexity in (None, 1.5, 2.0):
        assert "more regular" not in explain(models, [CORPORA[0], corpus("seqkd", complexity)])
    assert "more regular" not in explain(models, CORPORA[:1])


def test_the_kinds_of_student_that_gain_are_counted() -> None:
    assert explain(family([(0.1, 0.3), (0.5, 0.4)]), CORPORA).endswith(
        "adds 20.0 points of valid outputs for 1 of 2 kinds of student."
    )
    none = explain(family([(0.3, 0.3), (0.5, 0.4)]), CORPORA)
    assert "did not help here" in none
    assert "mix" not in none


def test_without_a_twin_the_run_shows_nothing() -> None:
    assert explain(MODELS[:1], CORPORA) == ""
    assert "does not show whether distillation helped" in explain([MODELS[0], MODELS[2]], CORPORA)


SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(
    st.lists(SHARES, max_size=12),
    st.none() | SHARES,
    st.none() | st.floats(0, 9),
    st.booleans(),
)
def test_it_has_at_most_sixty_words(
    shares: list[tuple[float, float]], nat: tuple[float, float] | None, complexity: float | None, accepted: bool
) -> None:
    models = family(shares, nat=nat)
    if not accepted:
        models = [valid(model, None) for model in models]
    told = explain(models, [CORPORA[0], corpus("seqkd", complexity)])
    assert bool(told) == (len(models) > 1)
    assert len(told.split()) <= MOST_WORDS == 60


def test_it_is_the_paragraph_below_the_headline(tmp_path: Path) -> None:
    contents = dataclasses.replace(gather(full(write_root(tmp_path))), models=FAMILIES)
    below = render(contents).partition("</h1>")[2].strip()
    assert below.startswith(f'<p class="lead">{explain(FAMILIES, contents.corpora)}</p>')
    assert 'class="lead"' not in render(dataclasses.replace(contents, models=MODELS[:1]))
