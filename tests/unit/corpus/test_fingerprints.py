from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.fingerprints import canonical, differences, fingerprint

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)


def test_tuples_are_lists_as_they_will_be_when_read_again() -> None:
    assert fingerprint("train", {"betas": (0.9, 0.98)}, {})["config"] == {"betas": [0.9, 0.98]}


def test_paths_and_nan_are_refused() -> None:
    with pytest.raises(TypeError):
        fingerprint("train", {"corpus": Path("gold")}, {})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint("train", {"rate": float("nan")}, {})


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=4))
def test_equal_values_do_not_differ(values: dict[str, object]) -> None:
    made_by = fingerprint("s", values, {})
    assert differences(made_by, made_by) == []
    assert canonical(made_by) == canonical(dict(reversed(made_by.items())))


def test_each_difference_is_named_with_its_dotted_key() -> None:
    old = fingerprint("distill", {"search": {"beam": 5, "nbest": 5}, "models": ["a"]}, {"corpus": "a" * 64})
    new = fingerprint("distill", {"search": {"beam": 4, "nbest": 5}, "models": ["a", "b"]}, {"corpus": "b" * 64})
    assert differences(old, new) == [
        'config.models.1: (absent) -> "b"',
        "config.search.beam: 5 -> 4",
        "inputs.corpus: aaaaaaaaaaaa... -> bbbbbbbbbbbb...",
    ]


def test_an_emptied_list_is_a_difference() -> None:
    assert differences({"a": ["x"]}, {"a": []}) == ["a: (absent) -> (empty)", 'a.0: "x" -> (absent)']
