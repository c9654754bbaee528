from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field

from seqkd.config.select import FilterConfig, SelectSettings
from seqkd.config.stages import SelectConfig
from seqkd.config.toml import validate
from seqkd.errors import ConfigError
from seqkd.selection.registry import FILTERS, RULES, SCORERS, Filter, Rule, Scorer

PLAIN = {"kbest": "k", "gold": "g", "prepared": "p"}
HERE = "tests.unit.config.test_config_select"


@dataclass(frozen=True, kw_only=True)
class Mine:
    """Settings of a rule, a filter or a scorer from outside."""

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    most: int = 3


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more record of each kind."""
    settings, code = f"{HERE}:Mine", f"{HERE}:mine"
    rule = Rule(name="mine", help="x", settings=settings, values=code, reads=frozenset({"references", "scorer"}))
    monkeypatch.setitem(RULES.own, "mine", rule)
    monkeypatch.setitem(SCORERS.own, "mine", Scorer(name="mine", help="x", settings=settings, build=code))
    judge = Filter(name="mine", help="x", reason="mine", settings=settings, rejects=code)
    monkeypatch.setitem(FILTERS.own, "mine", judge)


def read(**values: Any) -> SelectConfig:
    return validate(SelectConfig, {**PLAIN, **values}, "file")


def test_settings_of_a_rule_stand_in_its_table() -> None:
    scorer = {"type": "mine", "most": 4}
    config = read(rule="mine", weight=0.5, seed=7, rerank=scorer, filters={"mine": {"most": 9}, "cut": True})
    assert config.settings == Mine(weight=0.5)
    assert config.rerank is not None
    assert (config.rerank.settings, config.rerank.models) == (Mine(most=4), {})
    assert config.filters["mine"] == Mine(most=9)
    assert [record.name for record in config.filters.active] == ["unknown", "cut", "mine"]
    written = config.model_dump(mode="json", exclude_none=True)
    assert list(written)[:4] == ["rule", "weight", "most", "tokenizer"]
    assert written["rerank"] == {"type": "mine", "weight": 1.0, "most": 4}
    assert written["filters"] == {
        "unknown": True,
        "copies": False,
        "cut": True,
        "worst_percent": 0.0,
        "language": False,
        "duplicates": False,
        "mine": {"weight": 1.0, "most": 9},
    }
    assert validate(SelectConfig, written, "file") == config
    assert config.model_dump(mode="json", exclude_defaults=True)["filters"] == {"cut": True, "mine": {"most": 9}}


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read(
            rule="mine",
            weight=-1.0,
            wait=1,
            seed=-1,
            filters={"max_ratio": 0.5, "worst": 1, "mine": {"least": 1}, "max_ter": "far"},
        )
    for line in (
        "weight: Input should be greater than or equal to 0",
        "wait: unknown key",
        "seed: Input should be greater than or equal to 0",
        "filters.max_ratio: Input should be greater than or equal to 1",
        "filters.worst: unknown key",
        "filters.mine.least: unknown key",
        "filters.max_ter: Input should be a valid number",
        "7 problems",
    ):
        assert line in str(caught.value)


def test_an_unknown_rule_or_scorer_is_told_with_those_that_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"rule: unknown rule 'best', expected one of: seqkd, .*, all, mine"
    ) as caught:
        read(rule="best")
    assert str(caught.value).count("'best'") == 1
    with pytest.raises(ConfigError, match="rerank: unknown scorer 'judge', expected one of: models, worker, mine"):
        read(rule="rerank", rerank={"type": "judge"})


def test_settings_that_have_no_place_are_unknown_keys() -> None:
    for key in ("weight", "settings"):
        with pytest.raises(ConfigError, match=f"{key}: unknown key"):
            read(rule="seqkd", **{key: {}})


@pytest.mark.parametrize("values", [{"rule": "ter"}, {"rule": "seqkd", "filters": {"max_ter": 9.0}}])
def test_monolingual_text_has_no_references_to_look_at(values: dict[str, Any]) -> None:
    assert read(**values).reads_references
    with pytest.raises(
        ConfigError, match="reverse: the rule or a filter reads references, and monolingual text has none"
    ):
        read(reverse=True, **values)


def test_filters_are_off_unless_a_file_or_a_default_names_them() -> None:
    assert [record.name for record in FilterConfig().active] == ["unknown"]
    assert SelectSettings(rule="seqkd").filters == FilterConfig.model_validate({"cut": False})
    given = FilterConfig.model_validate({"min_score": 0.0, "unknown": False})
    assert [record.name for record in given.active] == ["min_score"]
