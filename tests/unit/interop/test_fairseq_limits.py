"""fairseq's longest outputs, in numbers of ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seqkd.interop.fairseq_limits import length_limits, limits_note
from seqkd.search import BeamSettings


@given(
    st.one_of(st.integers(0, 4).map(float), st.floats(0.0, 4.0).map(lambda a: round(a, 2))),
    st.integers(1, 200),
    st.integers(1, 200),
)
def test_the_limit_is_fairseqs_for_a_source_without_padding(a: float, b: int, tokens: int) -> None:
    ratio, extra = length_limits(a, b)
    ours = BeamSettings(max_length_ratio=ratio, max_length_extra=extra).max_length(tokens, 10_000)
    theirs = int(a * (tokens + 1) + b)  # sequence_generator.py: src_len counts the end of sentence
    assert theirs <= ours <= theirs + (not a.is_integer())


def test_the_note_can_be_copied_into_a_file() -> None:
    note = limits_note(1.2, 10)
    assert "search = { max_length_ratio = 1.2, max_length_extra = 12 }" in note
