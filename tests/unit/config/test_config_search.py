"""The search section of configuration files against the settings that it becomes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from seqkd.config.stages import DistillConfig, EvaluateConfig, ParallelConfig, SearchConfig
from seqkd.config.toml import validate
from seqkd.errors import ConfigError
from seqkd.models.protocol import ParallelSettings
from seqkd.pipeline.file import EvaluatePart
from seqkd.search import BeamSettings


def test_search_sections_and_settings_have_the_same_fields_and_defaults() -> None:
    assert list(SearchConfig.model_fields) == [field.name for field in fields(BeamSettings)]
    assert BeamSettings(**SearchConfig().model_dump()) == BeamSettings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"nbest": 6},
        {"min_length_ratio": -0.1},
        {"unk_penalty": -1.0},
        {"no_repeat_ngram_size": -1},
        {"temperature": 0.0},
        {"sampling": True, "top_p": 0.0},
        {"sampling": True, "top_k": -1},
        {"top_k": 3},
        {"top_p": 0.9},
        {"diverse_groups": 2},
        {"beam": 4, "diverse_groups": 2, "sampling": True},
        {"diverse_strength": -1.0},
    ],
    ids=str,
)
def test_what_the_settings_refuse_the_section_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        BeamSettings(**wrong)
    with pytest.raises(ValidationError):
        SearchConfig(**wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "big", "", None, [4000], float("inf")], ids=str)
def test_batch_tokens_are_a_number_or_auto(wrong: Any) -> None:
    given = {"models": ["m"], "corpus": "c"}
    for value, expected in (("auto", "auto"), (1, 1), (4000.0, 4000)):
        assert validate(DistillConfig, {**given, "batch_tokens": value}, "test").batch_tokens == expected
    with pytest.raises(ConfigError) as caught:
        validate(DistillConfig, {**given, "batch_tokens": wrong}, "test")
    assert f'batch_tokens: should be a whole number of at least 1, or "auto", got {wrong!r}' in str(caught.value)


def test_diverse_groups_must_divide_every_beam_of_an_evaluation() -> None:
    search = SearchConfig(beam=4, diverse_groups=2)
    with pytest.raises(ValidationError, match=r"diverse_groups 2 does not divide beams \[1, 5\]"):
        EvaluatePart(beams=(1, 4, 5), search=search)
    with pytest.raises(ValidationError, match="does not divide"):
        EvaluateConfig(name="a", model="m", role="student", corpus="c", beams=(3,), search=search)
    assert EvaluatePart(beams=(2, 4), search=search).search == search


def test_decodes_and_their_settings_have_the_same_defaults() -> None:
    defaults, config = ParallelSettings(), ParallelConfig()
    assert config.name == "nat"
    assert not config.rescore
    for name in ("iterations", "candidates", "strategy"):
        assert getattr(config, name) == getattr(defaults, name)


@pytest.mark.parametrize(
    ("decode", "problem"),
    [
        ([{"name": "5"}], "name '5' is a number; numbers are the names of beams"),
        ([{"rescore": True}], "set `candidates` to 2 or more"),
        ([{"name": "a"}, {"name": "a", "iterations": 4}], "two decodes have the name 'a'"),
        ([{"candidates": 2, "rescore": True}], "rescore = true needs `rescore_with`"),
        ([{"iterations": 0}], "iterations: Input should be greater"),
    ],
)
def test_decodes_that_do_not_fit_are_named(decode: list[dict[str, Any]], problem: str) -> None:
    values = {"name": "a", "model": "m", "role": "student", "corpus": "c", "decode": decode}
    with pytest.raises(ConfigError) as caught:
        validate(EvaluateConfig, values, "evaluate.toml")
    assert caught.value.what.startswith("1 problem:")
    assert problem in caught.value.what
