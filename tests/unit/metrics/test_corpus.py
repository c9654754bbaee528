from __future__ import annotations

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import InputError
from seqkd.metrics.corpus import corpus_bleu, corpus_chrf, corpus_ter, share_valid

HYPOTHESES = ["the cat sat on the mat .", "a dog barked at me .", "nobody knows why ."]
REFERENCES = ["the cat sat on a mat .", "a dog barked at us .", "no one knows why ."]


def test_scores_are_sacrebleus() -> None:
    rows = [[text] for text in REFERENCES]
    assert corpus_bleu(HYPOTHESES, rows).value == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert corpus_chrf(HYPOTHESES, rows).value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert corpus_ter(HYPOTHESES, rows).value == sacrebleu.corpus_ter(HYPOTHESES, [REFERENCES]).score


def test_signatures_say_what_was_computed() -> None:
    rows = [[text] for text in REFERENCES]
    assert corpus_bleu(HYPOTHESES, rows).signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert corpus_chrf(HYPOTHESES, rows).signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert "tok:tercom" in corpus_ter(HYPOTHESES, rows).signature


def test_a_further_reference_counts_even_when_only_some_rows_have_one() -> None:
    single = corpus_bleu(HYPOTHESES, [[text] for text in REFERENCES])
    several = corpus_bleu(HYPOTHESES, [[REFERENCES[0], HYPOTHESES[0]], [REFERENCES[1]], [REFERENCES[2]]])
    assert several.value > single.value
    assert several.signature.startswith("nrefs:var|")


@pytest.mark.parametrize(
    ("hypotheses", "references"), [([], []), (["a"], []), (["a"], [[]]), (["a", "b"], [["a"], []])]
)
def test_rows_without_references_are_refused(hypotheses: list[str], references: list[list[str]]) -> None:
    with pytest.raises(InputError):
        corpus_bleu(hypotheses, references)


def test_share_valid_counts_rows_and_ignores_spacing() -> None:
    accepted = [["the  cat", "a cat"], ["a dog"], ["why"], ["who"]]
    assert share_valid([" a cat ", "the dog", "why", "Who"], accepted) == 0.5


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_a_reference_is_valid_and_scores_no_edits(texts: list[str]) -> None:
    assert share_valid(texts, [[text] for text in texts]) == 1.0
