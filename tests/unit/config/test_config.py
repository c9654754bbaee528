"""Pipeline and stage files: all problems of a file in one message."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.config.models import default_model
from seqkd.config.stages import DistillConfig, EvaluateConfig, SearchConfig, TrainConfig, VocabularyConfig
from seqkd.config.toml import load_stage, read_toml, validate
from seqkd.errors import ConfigError
from seqkd.extensions import resolve
from seqkd.models.registry import ARCHITECTURES
from seqkd.objectives.registry import OBJECTIVES
from seqkd.pipeline.file import TeacherPart


def refused(kind: Any, values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(kind, values, "stage.toml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text('prepared = "gold"\n', encoding="utf-8-sig")
    assert read_toml(path) == {"prepared": "gold"}


def test_all_problems_of_a_file_are_in_one_message() -> None:
    message = refused(
        TrainConfig,
        {
            "prepared": "gold",
            "model": {"dim": "wide", "layers": 3},
            "training": {"max_updates": 0, "schedule": "linear"},
        },
    )
    assert message.startswith("stage.toml: 5 problems:")
    for part in (
        "corpus: missing",
        "model.dim: ",
        "model.layers: unknown key",
        "training.max_updates: ",
        "training.schedule: ",
    ):
        assert part in message
    assert "got 'wide'" in message


def test_a_problem_between_keys_names_them_and_not_the_whole_table() -> None:
    assert "search: nbest 6 is larger than beam 5" in refused(
        DistillConfig, {"models": ["m"], "corpus": "c", "search": {"nbest": 6}}
    )
    assert "model: dim 100 is not a multiple of heads 3" in refused(
        TeacherPart, {"model": {"dim": 100, "heads": 3}, "training": {"max_updates": 1}}
    )


def test_a_teacher_is_either_trained_or_brought() -> None:
    assert "either `path`" in refused(TeacherPart, {})
    assert "either `path`" in refused(TeacherPart, {"path": "t", "training": {"max_updates": 1}})
    assert TeacherPart.model_validate({"path": "t"}).path == Path("t")


@pytest.mark.parametrize("beams", [[], [0], [65]])
def test_beams_that_search_would_refuse_are_refused_here(beams: list[int]) -> None:
    values = {"name": "a", "model": "m", "role": "student", "corpus": "c", "beams": beams}
    assert "beams" in refused(EvaluateConfig, values)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_learning_rate_is_a_positive_number(rate: float) -> None:
    values = {"prepared": "p", "corpus": "c", "training": {"max_updates": 1, "learning_rate": rate}}
    assert "training.learning_rate" in refused(TrainConfig, values)


@given(st.integers(1, 64), st.integers(1, 64))
def test_nbest_fits_the_beam(beam: int, nbest: int) -> None:
    if nbest <= beam:
        assert SearchConfig(beam=beam, nbest=nbest).nbest == nbest
    else:
        assert "nbest" in refused(SearchConfig, {"beam": beam, "nbest": nbest})


def test_values_do_not_change_once_read() -> None:
    config = default_model()
    with pytest.raises(ValueError, match="frozen"):
        config.arch = "lstm"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        config.settings.dim = 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"name = ", "not valid TOML"),
        (b"name = '\xff'", "cannot be read"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_toml(path)
    assert caught.value.where == str(path)


def test_load_stage_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "search.toml"
    path.write_text("beam = 4\nnbest = 2\n")
    assert load_stage(SearchConfig, path) == SearchConfig(beam=4, nbest=2)
    path.write_text("beams = 4\n")
    with pytest.raises(ConfigError, match=r"search\.toml: 1 problem:\n    beams: unknown key"):
        load_stage(SearchConfig, path)


# --- architectures and objectives ---------------------------------------------------------------------------------


def train_config(**values: object) -> TrainConfig:
    return validate(
        TrainConfig, {"prepared": "p", "corpus": "c", "training": {"max_updates": 1}, **values}, "train.toml"
    )


@pytest.mark.parametrize("name", ARCHITECTURES.own)
def test_an_architecture_brings_its_own_objective(name: str) -> None:
    record = ARCHITECTURES.own[name]
    config = train_config(model={"arch": f"{name}lstm" if name.endswith(":") else name})
    assert config.model.record is record
    assert type(config.model.settings) is resolve(record.settings)
    (term,) = config.objective.terms
    assert term.record is OBJECTIVES.own[record.objective]
    assert type(term.settings) is resolve(term.record.settings)


def test_settings_are_written_in_the_order_that_finished_runs_have() -> None:
    stack = "dim heads ffn_dim encoder_layers decoder_layers dropout norm positions activation embeddings max_positions"
    later = "position_offset norm_epsilon"
    own = "start output_bias embedding_norm scale_embeddings compatible_with"
    orders = {
        "transformer": f"{stack} arch {later} {own}",
        "lstm": "arch dim encoder_layers decoder_layers dropout embeddings max_positions",
        "sru": f"{stack} arch cell {later} start value_bias compatible_with",
        "nat": f"{stack} arch copy_from {later}",
        "ctc": f"{stack} arch upsample {later}",
        "fairseq:lstm": "arch settings max_positions",
    }
    for arch, order in orders.items():
        assert list(train_config(model={"arch": arch}).model_dump(mode="json")["model"]) == order.split()
    word_kd = {"type": "word_kd", "soft_targets": "s"}
    written = train_config(objective=word_kd).objective.model_dump(mode="json", exclude={"teachers", "soft_targets"})
    order = "type temperature alpha top_k direction label_smoothing precision renormalise"
    assert list(written) == order.split()


def test_settings_of_every_kind_are_read_as_they_were_written() -> None:
    for name, record in ARCHITECTURES.own.items():
        for each in (each for each in OBJECTIVES.own.values() if each.fits(record)):
            more = {"teachers": ["a", "b"]} if each.needs.teacher else {}
            objective: dict[str, Any] = {"type": each.name, **more}
            if each.needs.rivals:  # it stands beside another term
                objective = {"terms": [{"type": "nll"}, objective]}
            arch = f"{name}lstm" if name.endswith(":") else name
            config = train_config(model={"arch": arch}, objective=objective)
            assert validate(TrainConfig, config.model_dump(mode="json", exclude_none=True), "again") == config


def test_an_objective_without_its_name_is_the_architectures() -> None:
    config = train_config(model={"arch": "ctc"}, objective={"glancing": [0.5, 0.3]})
    assert (config.objective.type, config.objective.terms[0].settings.glancing) == ("ctc", (0.5, 0.3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model": {"arch": "rnn"}},
            "model: unknown architecture 'rnn', expected one of: transformer, .*, fairseq:NAME",
        ),
        ({"objective": {"type": "mse"}}, "objective: unknown objective 'mse', expected one of: nll, word_kd, nat"),
        ({"model": {"arch": "ctc"}, "objective": {"type": "nll"}}, "'nll' does not fit model.arch 'ctc', which takes"),
        ({"model": {"arch": "lstm", "heads": 4}}, r"    model.heads: unknown key"),
        ({"model": {"arch": "dag", "upsample": 0}}, r"    model.upsample: Input should be greater"),
        ({"objective": {"label_smoothing": 2}}, r"    objective.label_smoothing: Input should be less"),
    ],
)
def test_mistakes_are_named_where_the_file_has_them(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a." * 5000 + "b = 1", "dots"),
        ("[" + "a." * 5000 + "b]", "dots"),
        ("a = " + "[" * 50_000, "not valid TOML"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ('a = "x\\u0000"', "null character"),
        ("#" * 2_000_000, "characters"),
    ],
)
def test_files_that_nobody_writes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_toml(tmp_path / "x.toml")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"character_coverage": 0.95}, "greater than or equal to 0.98"),
        ({"symbols": ["\u00bd"]}, "never occurs in text: normalization 'nmt_nfkc' makes it"),
        ({"symbols": ["<0x41>"]}, "one of the pieces of byte_fallback"),
        ({"symbols": ["a b"]}, "contains a space"),
        (
            {"size": 262, "symbols": ["<a>", "<b>"]},
            "leaves no room for text: special pieces, symbols and bytes take 262",
        ),
        ({"max_sentence_length": 9}, "greater than or equal to 10"),
        ({"normalization": "nfd"}, "nmt_nfkc"),
    ],
)
def test_vocabularies_that_cannot_be_trained_are_refused_with_the_file(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        validate(VocabularyConfig, settings, "file")


def test_a_symbol_that_another_normalisation_keeps_is_one() -> None:
    assert VocabularyConfig(symbols=("\u00bd",), normalization="nfc").symbols == ("\u00bd",)
    assert VocabularyConfig(symbols=("<0x41>",), byte_fallback=False).symbols == ("<0x41>",)
