"""Which options leave no mark in fingerprints, and that those of all shipped pipelines stay as they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from seqkd.config.formats import ExportConfig, ImportConfig
from seqkd.config.models import ModelConfig, ObjectiveConfig
from seqkd.config.stages import (
    DistillConfig,
    EncodeConfig,
    EvaluateConfig,
    FurtherTestConfig,
    FurtherVocabularyConfig,
    MonolingualConfig,
    PrepareConfig,
    ReportConfig,
    SampleConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
)
from seqkd.config.toml import validate
from seqkd.config.written import Introduced, fill_in_neutral, find_neutral
from seqkd.corpus.fingerprints import Provenance
from seqkd.pipeline.file import FetchConfig
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from seqkd.report import stage as report
from seqkd.stages.distill import provenance as distill_provenance
from seqkd.stages.distill import soft_targets
from seqkd.stages.evaluate import provenance as evaluate_provenance
from seqkd.stages.prepare import further_test, further_vocabulary, monolingual, prepare, sample
from seqkd.stages.select import provenance as select_provenance
from seqkd.stages.train import train
from tests.unit.earlier_runs import FIXTURES

ROOT = Path(__file__).parents[3]
PIPELINES = sorted((ROOT / "pipelines").rglob("*.toml"))
FORMER = FIXTURES / "pipelines-0.1.0"  # of the pipelines whose settings have changed since version 0.1.0

# By the stage file's class: the stage's name in fingerprints, and its settings.
STAGES: dict[type, tuple[str, Any]] = {
    PrepareConfig: ("prepare", prepare.settings),
    MonolingualConfig: ("monolingual", monolingual.settings),
    FurtherVocabularyConfig: ("vocabulary", further_vocabulary.settings),
    SampleConfig: ("sample", sample.settings),
    FurtherTestConfig: ("test", further_test.settings),
    TrainConfig: ("train", train.settings),
    DistillConfig: ("distill", distill_provenance.settings),
    SoftTargetsConfig: ("soft_targets", soft_targets.settings),
    SelectConfig: ("select", select_provenance.settings),
    EvaluateConfig: ("evaluate", evaluate_provenance.settings),
    ReportConfig: ("report", report.settings),
}

# A script leaves no fingerprint. Formats make those of imports and exports. The settings of `encode` are its inputs.
WITHOUT = (FetchConfig, ImportConfig, ExportConfig, EncodeConfig)


def provenance(config: Any) -> Provenance:
    stage, settings = STAGES[type(config)]
    worked = {"precision": "float32", "device": "cpu"}  # what `auto` meant where the recorded ones were made
    return Provenance(stage=stage, settings=settings(config), inputs={}, neutral=find_neutral(config), worked=worked)


def shipped(files: Iterable[Path] = PIPELINES) -> Iterator[tuple[str, Provenance]]:
    """Every stage of every shipped pipeline by name."""
    for file in files:
        pipeline = read_pipeline(file)
        for stage in plan_stages(pipeline, Path("runs")):
            if not isinstance(stage.config, WITHOUT):
                yield f"{pipeline.name}/{stage.name}", provenance(stage.config)


def recorded(name: str) -> dict[str, Any]:
    """Settings in fingerprints, by the stage's name."""
    entries = json.loads((FIXTURES / name).read_text())
    return {stage: entry["settings"] for entry in entries for stage in entry["stages"]}


def test_version_0_1_0_made_the_shipped_pipelines_with_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    old = recorded("fingerprints-0.1.0.json")
    former = {file.name: file for file in FORMER.iterdir()}
    now = dict(shipped(former.get(file.name, file) for file in PIPELINES))
    assert now.keys() >= old.keys()
    for name, settings in old.items():
        found = {"stage": now[name].stage, "config": settings, "inputs": {}}
        assert now[name].differences("x", "x", found) == [], name


def test_the_fingerprints_of_the_shipped_pipelines_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new option must have a neutral default. A default that changes needs `Introduced`; see CONTRIBUTING.md."""
    monkeypatch.chdir(ROOT)
    assert {name: made.fingerprint["config"] for name, made in shipped()} == recorded("fingerprints.json")


# --- what is neutral ----------------------------------------------------------------------------------------------


def test_every_option_of_a_stage_is_neutral_or_required() -> None:
    found = find_neutral(DistillConfig(models=(Path("m"),), corpus=Path("c")))
    assert found["search.beam"] == 5
    assert found["search"] == {}
    assert found["precision"] == "auto"
    assert "corpus" not in found


def test_batch_tokens_leave_the_mark_that_they_left_when_they_were_a_number() -> None:
    def written(**values: Any) -> dict[str, Any]:
        config = validate(DistillConfig, {"models": ["m"], "corpus": "c", **values}, "test")
        return provenance(config).fingerprint["config"]  # type: ignore[no-any-return]

    assert written() == written(batch_tokens=4000)
    assert "batch_tokens" not in written()
    assert written(batch_tokens=2000)["batch_tokens"] == 2000
    # As written, so that a folder made on a GPU is up to date on a CPU.
    assert written(batch_tokens="auto")["batch_tokens"] == "auto"
    assert fill_in_neutral(DistillConfig, {"models": ["m"], "corpus": "c"})["batch_tokens"] == 4000


def test_kinds_always_leave_a_mark_and_have_their_own_defaults() -> None:
    values = {"prepared": "p", "corpus": "c", "training": {"max_updates": 1}, "model": {"arch": "sru"}}
    config = validate(TrainConfig, values, "test")
    written = provenance(config).fingerprint["config"]
    assert written["model"] == {"arch": "sru"}
    assert written["objective"] == {"type": "nll"}
    assert written["training"] == {"max_updates": 1}
    assert find_neutral(config)["model.decoder_layers"] == 2


@pytest.mark.parametrize("given", [{}, {"arch": "lstm"}, {"arch": "nat", "dim": 128, "norm": "post"}])
def test_a_fingerprint_gives_back_the_settings_that_it_leaves_out(given: dict[str, Any]) -> None:
    full = fill_in_neutral(ModelConfig, given)
    assert full["dropout"] == (0.2 if given.get("arch") == "lstm" else 0.1)
    assert full.items() >= given.items()
    assert fill_in_neutral(ModelConfig, full) == full
    assert fill_in_neutral(ObjectiveConfig, {"type": "word_kd"})["alpha"] == 0.5


def test_settings_that_this_version_does_not_have_are_given_back_as_they_are() -> None:
    assert fill_in_neutral(ModelConfig, {"arch": "mamba", "dim": 8}) == {"arch": "mamba", "dim": 8}


@dataclass(frozen=True)
class _Table:
    kind: Literal["table"] = "table"
    depth: int = 3


@dataclass(frozen=True)
class _Settings:
    given: int
    beam: Annotated[int, Introduced(5)] = 4
    names: tuple[str, ...] = ()
    table: _Table = _Table()
    further: _Table | None = None
    tables: tuple[_Table, ...] = ()


def test_dataclasses_and_defaults_that_have_changed() -> None:
    assert find_neutral(_Settings(1)) == {
        "beam": 5, "names": [], "table.depth": 3, "table": {}, "further": None, "tables": [],
    }  # fmt: skip
    assert find_neutral(_Settings(1, further=_Table(), tables=(_Table(),))) == {
        "beam": 5, "names": [], "table.depth": 3, "table": {}, "further.depth": 3, "tables.0.depth": 3, "tables": [],
    }  # fmt: skip
    assert fill_in_neutral(_Settings, {"given": 1})["beam"] == 5
    assert fill_in_neutral(_Settings, {"given": 1, "beam": 4})["beam"] == 4


def test_terms_of_an_objective_have_neutral_options() -> None:
    terms = [{"type": "nll", "weight": 0.5}, {"type": "word_kd", "alpha": 0.3, "teachers": ["t"]}]
    values = {"prepared": "p", "corpus": "c", "training": {"max_updates": 1}, "objective": {"terms": terms}}
    written = provenance(validate(TrainConfig, values, "test")).fingerprint["config"]["objective"]
    assert written == {"terms": [{"type": "nll", "weight": 0.5}, {"type": "word_kd", "alpha": 0.3}]}
