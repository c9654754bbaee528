from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.fingerprints import Provenance, build_fingerprint, canonical_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)


def test_tuples_are_lists_as_they_will_be_when_read_again() -> None:
    assert build_fingerprint("train", {"betas": (0.9, 0.98)}, {})["config"] == {"betas": [0.9, 0.98]}


def test_paths_and_nan_are_refused() -> None:
    with pytest.raises(TypeError):
        build_fingerprint("train", {"corpus": Path("gold")}, {})
    with pytest.raises(ValueError, match="JSON"):
        build_fingerprint("train", {"rate": float("nan")}, {})


def provenance(settings: dict[str, Any], neutral: dict[str, Any] | None = None, **more: Any) -> Provenance:
    return Provenance(stage=more.pop("stage", "s"), settings=settings, inputs={}, neutral=neutral or {}, **more)


def differences(made_by: Provenance, found: dict[str, Any]) -> list[str]:
    return made_by.differences("corpus", "corpus", found)


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=4))
def test_equal_values_do_not_differ(values: dict[str, Any]) -> None:
    made_by = provenance(values)
    assert differences(made_by, made_by.fingerprint) == []
    assert canonical_json(made_by.fingerprint) == canonical_json(dict(reversed(made_by.fingerprint.items())))


def test_each_difference_is_named_with_its_dotted_key() -> None:
    old = build_fingerprint("distill", {"search": {"beam": 5, "nbest": 5}, "models": ["a"]}, {"corpus": "a" * 64})
    new = Provenance(
        stage="distill",
        settings={"search": {"beam": 4, "nbest": 5}, "models": ["a", "b"]},
        inputs={"corpus": "b" * 64},
    )
    assert new.differences("kbest", "corpus", old) == [
        'config.models: ["a"] -> ["a", "b"]',
        "config.search.beam: 5 -> 4",
        "inputs.corpus: aaaaaaaaaaaa... -> bbbbbbbbbbbb...",
        'kind: "corpus" -> "kbest"',
    ]


OPTIONS = {"beam": 5, "ratio": 2.0, "exact": False, "names": [], "table": {"size": 8, "kind": "bpe"}, "nothing": None}
NEUTRAL = {
    "beam": 5, "ratio": 2.0, "exact": False, "names": [], "table": {}, "table.size": 8, "table.kind": "bpe",
    "nothing": None,
}  # fmt: skip
settings = st.fixed_dictionaries(
    {
        "beam": st.sampled_from([5, 4]),
        "ratio": st.sampled_from([2.0, 3.0]),
        "exact": st.booleans(),
        "names": st.sampled_from([[], ["a"], ["a", "b"]]),
        "table": st.fixed_dictionaries({"size": st.sampled_from([8, 16]), "kind": st.sampled_from(["bpe", "word"])}),
        "nothing": st.sampled_from([None, 1]),
    }
)


@given(settings, settings)
def test_fingerprints_with_and_without_neutral_options_say_the_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    """A fingerprint of format 1 holds all options, one of format 2 those that are not neutral."""
    same = one == two
    new = provenance(one, NEUTRAL)
    assert (differences(new, provenance(two).fingerprint) == []) is same
    assert (differences(new, provenance(two, NEUTRAL).fingerprint) == []) is same
    assert (new.fingerprint == provenance(two, NEUTRAL).fingerprint) is same


@given(settings, st.sampled_from(["beam", "ratio", "exact", "names", "table", "nothing"]))
def test_a_neutral_option_that_is_new_changes_no_fingerprint(values: dict[str, Any], added: str) -> None:
    before = {name: value for name, value in values.items() if name != added}
    known = {name: value for name, value in NEUTRAL.items() if name.split(".")[0] != added}
    old = provenance(before, known).fingerprint
    unused = {**before, added: OPTIONS[added]}
    assert provenance(unused, NEUTRAL).fingerprint == old
    assert differences(provenance(unused, NEUTRAL), old) == []
    used = provenance({**before, added: values[added]}, NEUTRAL)
    assert (differences(used, old) == []) is (values[added] == OPTIONS[added])


def test_a_difference_from_an_option_left_out_names_its_neutral_value() -> None:
    old = provenance({"beam": 5}, NEUTRAL).fingerprint
    assert differences(provenance({"beam": 4}, NEUTRAL), old) == ["config.beam: 5 -> 4"]


def test_a_table_that_is_not_there_by_default_leaves_a_mark() -> None:
    made_by = provenance({"rerank": {"weight": 1.0}}, {"rerank.weight": 1.0})
    assert made_by.fingerprint["config"] == {"rerank": {}}
    assert differences(made_by, provenance({"rerank": None}, {"rerank": None}).fingerprint) != []


def test_tables_in_a_list_are_counted() -> None:
    neutral = {"decode": [], "decode.0.passes": 10, "decode.1.passes": 10}
    one, two = ({"decode": [{"passes": 10}] * number} for number in (1, 2))
    assert provenance(two, neutral).fingerprint["config"] == {"decode": [{}, {}]}
    assert differences(provenance(two, neutral), provenance(one, neutral).fingerprint) != []
    assert differences(provenance(two, neutral), provenance(two).fingerprint) == []


@pytest.mark.parametrize("stage", ["distill", "soft_targets", "evaluate"])
@pytest.mark.parametrize(
    ("written", "works", "found", "same"),
    [
        ("auto", "float32", "bf16", True),  # another machine resolved it
        ("auto", "float32", "float32", True),
        ("float32", "float32", "float32", True),
        ("bf16x3", "float32", "float32", True),  # no kernels of it for this model
        ("float32", "float32", "bf16", False),
    ],
)
def test_what_format_1_had_resolved(stage: str, written: str, works: str, found: str, same: bool) -> None:
    old = build_fingerprint(stage, {"precision": found, "device": "cuda"}, {})
    new = provenance({"precision": written}, {"precision": "auto"}, stage=stage, worked={"precision": works})
    assert (differences(new, old) == []) is same


def test_the_machine_is_compared_for_unfinished_folders() -> None:
    new = provenance({}, worked={"device": "cpu", "precision": "float32", "engine": "cpu"})
    assert new.machine_differences({}, new.extra) == []
    assert new.machine_differences({}, {**new.extra, "engine": "plain"}) == ["engine: plain -> cpu"]
    assert new.machine_differences({}, {}) == []  # nothing is known
    assert replace(new, resumes=False).machine_differences({}, {"engine": "plain"}) == []
    old = build_fingerprint("distill", {"device": "cuda", "precision": "float32"}, {})
    assert new.machine_differences(old, {}) == ["device: cuda -> cpu"]


def test_revision_1_leaves_no_mark() -> None:
    first, second = (provenance({}, revisions={"search": number, "int8": 1}) for number in (1, 2))
    assert first.extra == {}
    assert second.extra == {"revisions": {"search": 2}}
    assert first.fingerprint == second.fingerprint
    assert (
        first.describe_outdated(first.extra)
        == second.describe_outdated(second.extra)
        == first.describe_outdated(second.extra)
        == ""
    )
    assert second.describe_outdated(first.extra) == "search of revision 1, now 2"
    assert second.machine_differences({}, first.extra) == ["revision of search: 1 -> 2"]
    assert first.machine_differences({}, second.extra) == ["revision of search: 2 -> 1"]


def test_an_earlier_folder_is_compared_by_the_whole_that_it_recorded() -> None:
    new = Provenance(
        stage="s",
        settings={},
        inputs={"valid": "a" * 64, "corpus": "b" * 64},
        formerly={"prepared": ("valid", "c" * 64)},
    )
    old = build_fingerprint("s", {}, {"prepared": "c" * 64, "corpus": "b" * 64})
    assert new.fingerprint["inputs"].keys() == {"valid", "corpus"}
    assert new.differences("k", "k", old) == []
    changed = build_fingerprint("s", {}, {"prepared": "d" * 64, "corpus": "b" * 64})
    assert new.differences("k", "k", changed) == ["inputs.prepared: dddddddddddd... -> cccccccccccc..."]
    assert new.differences("k", "k", new.fingerprint) == []


def test_a_setting_that_is_no_longer_used_is_not_compared() -> None:
    new = Provenance(stage="s", settings={"size": 3}, inputs={}, unused=("seed",))
    assert new.differences("k", "k", build_fingerprint("s", {"size": 3, "seed": 7}, {})) == []
    assert new.differences("k", "k", build_fingerprint("s", {"size": 4, "seed": 7}, {})) == ["config.size: 4 -> 3"]


def test_an_input_that_a_folder_need_not_hold_is_compared_if_it_holds_it() -> None:
    new = Provenance(stage="s", settings={}, inputs={"corpus": "a" * 64, "rival": "b" * 64}, optional=("rival",))
    assert new.fingerprint["inputs"].keys() == {"corpus", "rival"}
    assert new.differences("k", "k", build_fingerprint("s", {}, {"corpus": "a" * 64})) == []
    assert new.differences("k", "k", new.fingerprint) == []
    changed = build_fingerprint("s", {}, {"corpus": "a" * 64, "rival": "c" * 64})
    assert new.differences("k", "k", changed) == ["inputs.rival: cccccccccccc... -> bbbbbbbbbbbb..."]
    without = Provenance(stage="s", settings={}, inputs={"corpus": "a" * 64}, optional=("rival",))
    assert without.differences("k", "k", new.fingerprint) == ["inputs.rival: bbbbbbbbbbbb... -> (absent)"]
